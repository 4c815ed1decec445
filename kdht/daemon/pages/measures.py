"""The metrics of /metrics: each with its meaning and the source of its samples.

Contract: no bookkeeping of its own. Samples come from the control socket's answers to `status`, `stats`, `table` and
`latency`, so Prometheus and kdhtctl cannot disagree. A test compares docs/metrics.md with METRICS.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from kdht.program.answers import (
    Counters,
    DatapathState,
    Latency,
    NodeStats,
    NodeStatus,
    RepairState,
    RoutingTable,
    StorageCounters,
)
from kdht.wire._shared import VERDICT_OF, Reason

Data = Mapping[str, Any]


class Metric(NamedTuple):
    kind: str
    """counter, gauge or histogram."""
    meaning: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """`value` of a histogram is Durations."""

    name: str
    labels: tuple[str, ...]
    value: Any


class RunningAnswers(NamedTuple):
    """Answers of a running node only."""

    stats: NodeStats
    table: RoutingTable
    latency: Latency


class NodeAnswers(NamedTuple):
    """The node's answers; `running` is None while it does not run."""

    status: NodeStatus
    running: RunningAnswers | None


METRICS = {
    # The node
    "kdht_node_info": Metric(
        "gauge", "1; the labels are the node's identity.", ("node_id", "address", "version")
    ),
    "kdht_running": Metric("gauge", "1 while the node runs, 0 while the daemon starts or stops."),
    "kdht_joined": Metric("gauge", "1 once the node knows its place in the cluster."),
    "kdht_ready": Metric("gauge", "1 while clients should be sent here, as /readyz says."),
    "kdht_writable": Metric("gauge", "1 while a write can be confirmed here, as /readyz?writes says."),
    "kdht_gone": Metric("gauge", "Dead nodes that may return, and count in the confirmations of a write."),
    "kdht_unreachable_members": Metric(
        "gauge",
        "Members with an IP version that this node lacks. It does not serve while there are any.",
    ),
    "kdht_twins": Metric(
        "gauge",
        "Pairs of nodes with one ID, seen in the last ten minutes. The younger of two does not serve.",
    ),
    "kdht_uptime_seconds": Metric("gauge", "Seconds since the daemon's start."),
    "kdht_log_lines_lost_total": Metric(
        "counter", "Log lines lost, because nobody read standard error fast enough."
    ),
    "kdht_contacts": Metric("gauge", "Contacts in the routing table."),
    "kdht_buckets": Metric("gauge", "K-buckets with contacts."),
    "kdht_replacements": Metric("gauge", "Contacts waiting for a place in a full bucket."),
    "kdht_suspects": Metric("gauge", "Contacts whose last reply was missed."),
    "kdht_contact_rtt_seconds": Metric(
        "gauge",
        "Smoothed round-trip times to the contacts: the shortest, the middle one, the longest.",
        ("of",),
    ),
    "kdht_rpc_seconds": Metric(
        "histogram",
        "Round trips to other nodes, by the asking part and by op. STORE waits for the other's disk.",
        ("part", "op"),
    ),
    "kdht_control_total": Metric(
        "counter", "Control messages sent, received and refused, by kind.", ("event",)
    ),
    # Packets
    "kdht_packets_total": Metric(
        "counter",
        "Verdicts of each datapath, by reason; the verdict follows from the reason.",
        ("datapath", "verdict", "reason"),
    ),
    "kdht_datapath_checks_total": Metric(
        "counter",
        "Checks that a fast path forwards: good, lost, or unknown because the neighbour did not answer.",
        ("datapath", "result"),
    ),
    "kdht_datapath_state": Metric(
        "gauge", "1 for the state of each datapath that runs, 0 for its other states.", ("datapath", "state")
    ),
    "kdht_socket_datagrams_total": Metric(
        "counter", "Datagrams received and sent by the socket datapath.", ("direction",)
    ),
    "kdht_socket_dropped_total": Metric(
        "counter",
        "Datagrams lost by the socket datapath: the kernel's receive buffer was full "
        "(kernel), too many messages for this node waited (crowded_out), the same message came "
        "too often (replayed), sent to a group address (not_unicast), no socket of that IP "
        "version (unroutable).",
        ("reason",),
    ),
    "kdht_socket_late_total": Metric(
        "counter",
        "Requests dropped after more than a second in this node's socket: clients' writes, "
        "reads, and other nodes' requests for promises.",
        ("kind",),
    ),
    "kdht_socket_away_total": Metric(
        "counter",
        "How often this node was away: its socket's thread did not run for half a second or "
        "more, because the process was stopped, the host suspended or overloaded. Its records "
        "count again once they are compared with other replicas.",
    ),
    "kdht_socket_errors_total": Metric(
        "counter", "Failed receives and failed sends, by errno.", ("direction", "errno")
    ),
    "kdht_socket_unreachable_total": Metric("counter", "Datagrams that did not arrive, by ICMP."),
    "kdht_socket_bounced_total": Metric(
        "counter", "Clients' requests sent on to a closed port, and answered UNREACHABLE."
    ),
    "kdht_socket_hints_ignored_total": Metric(
        "counter", "ICMP errors that quote no message of this node, beyond the few that cause a ping."
    ),
    "kdht_socket_refused_misses_total": Metric(
        "counter",
        "GETs of absent keys answered BUSY: one client sent too many while other requests waited.",
    ),
    "kdht_cache_answers_total": Metric(
        "counter", "GETs answered from the cache; they are in no other count of requests."
    ),
    "kdht_queue_waiting": Metric("gauge", "Packets in an NFQUEUE, waiting for the worker.", ("queue",)),
    "kdht_queue_missed_total": Metric(
        "counter",
        "Packets that missed the worker and went to the socket: its queue was full, or the "
        "kernel could not hand them over (failed).",
        ("queue", "reason"),
    ),
    "kdht_queue_packets_total": Metric(
        "counter", "Packets handled by the worker, by outcome.", ("queue", "outcome")
    ),
    "kdht_queue_batches_total": Metric("counter", "Batches of packets taken by the worker.", ("queue",)),
    "kdht_queue_troubles_total": Metric(
        "counter",
        "Packets too long to be copied (unread), times without room in the kernel (overruns), "
        "errors answered by the kernel (netlink_errors).",
        ("queue", "kind"),
    ),
    "kdht_queue_workers_total": Metric("counter", "Worker processes started. More than one: some died."),
    # Requests
    "kdht_requests_total": Metric(
        "counter", "Clients' requests answered by this node, by op and status.", ("op", "status")
    ),
    "kdht_request_seconds": Metric(
        "histogram",
        "From a request's arrival at the service to its answer, by op. A write ends with the "
        "confirmation by the replicas.",
        ("op",),
    ),
    "kdht_denied_total": Metric(
        "counter",
        "Requests refused because their sender may not do this: PUT, DELETE, ANNOUNCE and WITHDRAW (writes), GET, "
        "QUORUM_GET, WATCH and MEMBERS (reads). See docs/access.md.",
        ("kind", "reason"),
    ),
    "kdht_would_deny_total": Metric(
        "counter",
        "The same requests, let through because access.writes or access.reads is `count`.",
        ("kind", "reason"),
    ),
    "kdht_watchers": Metric("gauge", "Leases of clients that watch keys."),
    # Storage
    "kdht_storage_records": Metric("gauge", "Records stored, expired ones included until they are swept."),
    "kdht_storage_tombstones": Metric("gauge", "Deletions remembered."),
    "kdht_storage_value_bytes": Metric("gauge", "Bytes of all values."),
    "kdht_storage_disk_bytes": Metric("gauge", "Bytes of the database's files."),
    "kdht_storage_free_bytes": Metric("gauge", "Free bytes of the disk."),
    "kdht_storage_pressure": Metric(
        "gauge",
        "Writes without room: 0 none, 1 clients' values, 2 other nodes' values too, 3 deletions too.",
    ),
    "kdht_storage_full_total": Metric("counter", "Writes refused for want of room (FULL)."),
    "kdht_storage_failed": Metric("gauge", "1 while the disk takes no writes, because one failed."),
    "kdht_storage_set_aside_total": Metric(
        "counter", "Records set aside, because their versions were beyond the clock."
    ),
    "kdht_storage_writes_waiting": Metric("gauge", "Writes waiting for the disk."),
    "kdht_storage_writes_total": Metric(
        "counter",
        "Writes to the own store: written, refused because too many waited, failed. After one "
        "failed write the store refuses all, until its disk takes writes again.",
        ("outcome",),
    ),
    "kdht_storage_group_seconds": Metric(
        "histogram", "Writing one group: reading the current records, then syncing all."
    ),
    "kdht_storage_groups_total": Metric("counter", "Groups of writes synced."),
    # Replication
    "kdht_replication_total": Metric(
        "counter", "Work of this node as coordinator and as replica, by kind.", ("event",)
    ),
    "kdht_repair_total": Metric(
        "counter", "Comparisons with other replicas and records given to them, by kind.", ("event",)
    ),
    "kdht_repair_ranges": Metric(
        "gauge", "Ranges of keys kept by this node, each with the same other nodes."
    ),
    "kdht_repair_behind": Metric("gauge", "Of those, ranges that it has not caught up on yet."),
    "kdht_repair_neighbours": Metric("gauge", "Other nodes that share keys with this node."),
    "kdht_repair_held": Metric("gauge", "Ranges kept by other nodes now, not all of which have caught up."),
    "kdht_repair_missing_records": Metric(
        "gauge", "Records of others that this node still lacks, as far as is known."
    ),
    "kdht_repair_seconds_left": Metric(
        "gauge", "Seconds until it has them, at the recent speed; 0 if unknown."
    ),
    "kdht_repair_replicas": Metric(
        "gauge",
        "Nodes that keep each record: as configured here, or more if another node's configuration says more.",
    ),
    "kdht_set_aside_records": Metric(
        "gauge",
        "Records in files set aside after an absence longer than deletions are remembered.",
    ),
    "kdht_repair_draining": Metric("gauge", "1 while the node gives its records away to leave."),
}

STATES = ("up", "degraded", "down")


def samples(told: NodeAnswers) -> Iterator[Sample]:
    """All samples; those of `status` alone while the node does not run."""
    status, running = told
    yield Sample("kdht_running", (), int(status.state == "running"))
    yield Sample("kdht_joined", (), int(status.joined))
    yield Sample("kdht_ready", (), int(status.ready))
    yield Sample("kdht_writable", (), int(status.writable))
    yield Sample("kdht_gone", (), len(status.gone))
    yield Sample("kdht_unreachable_members", (), len(status.unreachable))
    yield Sample("kdht_twins", (), len(status.twins))
    yield Sample("kdht_uptime_seconds", (), status.uptime)
    yield Sample("kdht_log_lines_lost_total", (), status.log_lines_lost)
    # Missing and not 0: a graph then has a gap, and no alert for a counter that falls.
    if running is None:
        return
    yield from _repair(status.repair_state)
    yield Sample("kdht_set_aside_records", (), status.set_aside)
    # As labels of one metric, so that the others' series go on after an upgrade.
    info = (str(status.node_id), status.address, status.version)
    yield Sample("kdht_node_info", info, 1)
    yield from _table(running.table)
    stats = running.stats
    yield from _packets(stats.packets)
    yield from _datapaths(stats.datapaths)
    yield from _counted("kdht_control_total", stats.node)
    yield from _counted("kdht_repair_total", stats.repair)
    yield from _requests(stats.requests)
    yield from _denials("kdht_denied_total", stats.denied)
    yield from _denials("kdht_would_deny_total", stats.would_deny)
    yield from _storage(stats.storage)
    yield from _replication(stats.replication)
    yield from _latency(running.latency)


def _table(table: RoutingTable) -> Iterator[Sample]:
    contacts = table.contacts
    yield Sample("kdht_contacts", (), len(contacts))
    yield Sample("kdht_buckets", (), sum(bool(bucket.contacts) for bucket in table.buckets))
    yield Sample("kdht_replacements", (), sum(bucket.replacements for bucket in table.buckets))
    yield Sample("kdht_suspects", (), sum(contact.failures > 0 for contact in contacts))
    trips = [contact.rtt_ms / 1000 for contact in contacts if contact.rtt_ms is not None]
    # Not one series for each contact: labels would grow with the cluster.
    for name, of in (("min", min), ("median", median), ("max", max)):
        if trips:
            yield Sample("kdht_contact_rtt_seconds", (name,), of(trips))


def _packets(packets: Mapping[str, Counters]) -> Iterator[Sample]:
    for datapath in ("socket", "nfqueue", "ebpf"):
        for reason, count in packets[datapath].items():
            verdict = VERDICT_OF[Reason[reason]].name
            yield Sample("kdht_packets_total", (datapath, verdict, reason), count)


def _datapaths(paths: Mapping[str, DatapathState]) -> Iterator[Sample]:
    for name, path in paths.items():
        # All three, so that an alert can ask for one without knowing which others there are.
        for state in STATES:
            yield Sample("kdht_datapath_state", (name, state), int(path["state"] == state))
        for result, count in path.get("checks", {}).items():
            yield Sample("kdht_datapath_checks_total", (name, result), count)
    yield from _socket(paths["socket"])
    queues = paths.get("nfqueue", {})
    for queue in queues.get("queues", []):
        yield from _queue(str(queue["number"]), queue)
    if "workers_started" in queues:
        yield Sample("kdht_queue_workers_total", (), queues["workers_started"])


def _queue(number: str, queue: Data) -> Iterator[Sample]:
    """The worker's own counters, and the kernel's while the worker has the queue bound."""
    for outcome in ("passed", "local", "forwarded", "relayed", "dropped"):
        yield Sample("kdht_queue_packets_total", (number, outcome), queue[outcome])
    yield Sample("kdht_queue_batches_total", (number,), queue["batches"])
    for kind in ("unread", "overruns", "netlink_errors"):
        yield Sample("kdht_queue_troubles_total", (number, kind), queue[kind])
    if "waiting" in queue:
        yield Sample("kdht_queue_waiting", (number,), queue["waiting"])
        for reason in ("full", "failed"):
            yield Sample("kdht_queue_missed_total", (number, reason), queue[reason])


def _socket(path: DatapathState) -> Iterator[Sample]:
    for direction in ("received", "sent"):
        yield Sample("kdht_socket_datagrams_total", (direction,), path[direction])
    for reason in ("kernel", "crowded_out", "replayed", "not_unicast", "unroutable"):
        count = path["kernel_drops" if reason == "kernel" else reason]
        yield Sample("kdht_socket_dropped_total", (reason,), count)
    for kind in ("writes", "reads", "promises"):
        yield Sample("kdht_socket_late_total", (kind,), path[f"late_{kind}"])
    yield Sample("kdht_socket_away_total", (), path["away"])
    for direction in ("receive", "send"):
        for name, count in path[f"{direction}_errors"].items():
            yield Sample("kdht_socket_errors_total", (direction, name), count)
    yield Sample("kdht_socket_unreachable_total", (), path["unreachable"])
    yield Sample("kdht_socket_bounced_total", (), path["bounced"])
    yield Sample("kdht_socket_hints_ignored_total", (), path["hints_ignored"])
    yield Sample("kdht_socket_refused_misses_total", (), path["refused_misses"])
    yield Sample("kdht_cache_answers_total", (), path["cache_answers"])


def _requests(requests: Counters) -> Iterator[Sample]:
    for name, count in requests.items():
        op, _, status = name.partition(" ")
        yield Sample("kdht_requests_total", (op, status), count)


def _denials(metric: str, counters: Counters) -> Iterator[Sample]:
    for name, count in counters.items():
        kind, _, reason = name.partition(" ")
        yield Sample(metric, (kind, reason), count)


def _storage(storage: StorageCounters) -> Iterator[Sample]:
    for name in ("records", "tombstones", "value_bytes", "disk_bytes"):
        yield Sample(f"kdht_storage_{name}", (), getattr(storage, name))
    for name in ("free_bytes", "pressure"):
        yield Sample(f"kdht_storage_{name}", (), getattr(storage, name))
    yield Sample("kdht_storage_full_total", (), storage.full)
    yield Sample("kdht_storage_failed", (), int(storage.disk_failed))
    yield Sample("kdht_storage_set_aside_total", (), storage.set_aside)
    yield Sample("kdht_storage_writes_waiting", (), storage.waiting)
    yield Sample("kdht_storage_groups_total", (), storage.groups)
    for outcome in ("written", "refused", "failed"):
        yield Sample("kdht_storage_writes_total", (outcome,), getattr(storage, outcome))


def _replication(replication: Counters) -> Iterator[Sample]:
    yield Sample("kdht_watchers", (), replication["watchers"])
    counters = {name: count for name, count in replication.items() if name != "watchers"}
    yield from _counted("kdht_replication_total", counters)


def _repair(repair: RepairState | None) -> Iterator[Sample]:
    if repair is None:
        return
    for name in ("ranges", "behind", "held", "replicas", "neighbours", "draining"):
        yield Sample(f"kdht_repair_{name}", (), int(getattr(repair, name)))
    yield Sample("kdht_repair_missing_records", (), repair.missing)
    yield Sample("kdht_repair_seconds_left", (), repair.seconds_left or 0)


def _counted(metric: str, counters: Counters) -> Iterator[Sample]:
    for name, count in counters.items():
        yield Sample(metric, (name,), count)


def _latency(latency: Latency) -> Iterator[Sample]:
    for op, snapshot in latency.requests.items():
        yield Sample("kdht_request_seconds", (op,), snapshot)
    for part, by_op in latency.round_trips.items():
        for op, snapshot in by_op.items():
            yield Sample("kdht_rpc_seconds", (part, op), snapshot)
    yield Sample("kdht_storage_group_seconds", (), latency.group)
