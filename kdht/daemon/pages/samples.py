"""The samples of /metrics: where the figures of METRICS come from.

Contract: no bookkeeping of its own. Samples come from the control socket's answers to `status`, `stats`, `table` and
`latency`, so Prometheus and kdhtctl cannot disagree.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from kdht.node.replicas.leases import MAX_LEASES
from kdht.program.answers import Latency, NodeStats, RoutingTable, StorageCounters
from kdht.program.node_status import Counters, DatapathState, FaceState, NodeStatus, RepairState
from kdht.wire._shared import VERDICT_OF, Reason

Data = Mapping[str, Any]


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


STATES = ("up", "degraded", "down")
SPREAD: dict[str, Callable[[Iterable[float]], float]] = {"min": min, "median": median, "max": max}


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
    yield from _faces(status.faces)
    yield from _counted("kdht_discovery_total", status.discovery)
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


def _faces(faces: Sequence[FaceState]) -> Iterator[Sample]:
    for face in faces:
        yield Sample("kdht_face_up", (face.name,), int(face.up))
        yield Sample("kdht_face_starts_total", (face.name,), face.starts)
        for event, count in face.counters.items():
            yield Sample("kdht_face_events_total", (face.name, event), count)


def _table(table: RoutingTable) -> Iterator[Sample]:
    contacts = table.contacts
    yield Sample("kdht_contacts", (), len(contacts))
    yield Sample("kdht_buckets", (), sum(bool(bucket.contacts) for bucket in table.buckets))
    yield Sample("kdht_replacements", (), sum(bucket.replacements for bucket in table.buckets))
    yield Sample("kdht_suspects", (), sum(contact.failures > 0 for contact in contacts))
    trips = [contact.rtt_ms / 1000 for contact in contacts if contact.rtt_ms is not None]
    yield from _spread("kdht_contact_rtt_seconds", trips)
    clocks = [contact.clock for contact in contacts if contact.clock is not None]
    yield from _spread("kdht_contact_clock_seconds", clocks)


def _spread(metric: str, values: list[float]) -> Iterator[Sample]:
    """The least, the middle and the greatest. Not one series for each contact: labels would grow with the cluster."""
    if values:
        for name, of in SPREAD.items():
            yield Sample(metric, (name,), of(values))


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
    yield Sample("kdht_storage_syncs_total", (), storage.syncs)
    for outcome in ("written", "refused", "failed"):
        yield Sample("kdht_storage_writes_total", (outcome,), getattr(storage, outcome))


def _replication(replication: Counters) -> Iterator[Sample]:
    yield Sample("kdht_watchers", (), replication["watchers"])
    yield Sample("kdht_watchers_limit", (), MAX_LEASES)
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
