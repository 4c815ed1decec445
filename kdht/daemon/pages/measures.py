"""The metrics of /metrics: the kind, meaning and labels of each.

Contract: data alone. `samples` in samples.py has the sources. A test compares docs/metrics.md with METRICS.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    kind: str
    """counter, gauge or histogram."""
    meaning: str
    labels: tuple[str, ...] = ()


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
    "kdht_contact_clock_seconds": Metric(
        "gauge",
        "Seconds that the contacts' clocks are ahead of this node's: the least, the middle one, the greatest. If the "
        "middle one is far from 0, this node's clock is wrong.",
        ("of",),
    ),
    "kdht_rpc_seconds": Metric(
        "histogram",
        "Round trips to other nodes, by the asking part and by op. STORE waits for the other's disk.",
        ("part", "op"),
    ),
    "kdht_discovery_total": Metric(
        "counter",
        "Questions by multicast of nodes that look for others: answered, or dropped by reason.",
        ("event",),
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
        "Checks that a fast path forwards: good, lost, or unknown because the neighbour did not answer. "
        "Also re-addressed packets that are missing among those that left this host.",
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
        "counter", "GETs and MEMBERS answered from the cache; they are in no other count of requests."
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
    "kdht_watchers_limit": Metric("gauge", "How many there may be."),
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
    "kdht_storage_groups_total": Metric("counter", "Groups of writes, each one batch of the database."),
    "kdht_storage_syncs_total": Metric(
        "counter", "Groups that the disk confirmed. A group of soft announcements needs none."
    ),
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
    # Faces
    "kdht_face_up": Metric("gauge", "1 while a face (dns, http, tracker) serves. docs/faces.md.", ("face",)),
    "kdht_face_starts_total": Metric(
        "counter",
        "How often the process of the faces was started; more than 1: it ended by itself.",
        ("face",),
    ),
    "kdht_face_events_total": Metric(
        "counter",
        "Requests of a face by kind and refusals by reason, since the start of its process.",
        ("face", "event"),
    ),
}
