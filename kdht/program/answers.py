"""What a daemon answers over its control socket: one struct for each answer, for the daemon that makes it and who asks.

The order of the fields is their order in JSON. A field may be added at the end of a struct with a default, so that an
older daemon's answer can still be read. IDs are 40 hexadecimal digits, addresses have their ports, durations are seconds.

Plain on purpose: counters (the part that counts names them), and what a datapath says of itself, which differs from
one datapath to the next.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from kdht.program.node_status import Counters, DatapathState, NodeAt

# --- table -------------------------------------------------------------------------------


class ContactState(msgspec.Struct, kw_only=True):
    """One contact in the routing table."""

    id: str
    address: str
    age: float
    """Since it came into the table."""
    seen: float
    """Since it was last heard."""
    rtt_ms: float | None
    clock: float | None
    """Seconds that its clock is ahead; None before its first reply."""
    failures: int
    """Replies missed, since the last one that came."""
    demoted: bool


class BucketState(msgspec.Struct):
    """A k-bucket, its contacts least recently seen first."""

    index: int
    contacts: list[ContactState]
    replacements: int
    """Contacts that wait for a place."""


class RoutingTable(msgspec.Struct):
    """`table`: the buckets that are not empty."""

    node_id: str
    buckets: list[BucketState]

    @property
    def contacts(self) -> list[ContactState]:
        return [contact for bucket in self.buckets for contact in bucket.contacts]


# --- stats, latency, datapath ------------------------------------------------------------


class StorageCounters(msgspec.Struct):
    """What is stored, and what became of the writes since the start."""

    records: int
    tombstones: int
    value_bytes: int
    disk_bytes: int
    waiting: int
    groups: int
    written: int
    refused: int
    failed: int
    free_bytes: int = 0
    """Of its disk."""
    pressure: int = 0
    """What has no room: 0: nothing, 1: clients' values, 2: other nodes' too, 3: deletions too."""
    full: int = 0
    """Writes refused for want of room."""
    disk_failed: bool = False
    """Whether a write failed, and the disk takes no more for now."""
    set_aside: int = 0
    """Records with versions beyond the clock that gave their places away."""
    syncs: int = 0
    """Batches that the disk confirmed. A group of soft announcements needs none."""


class NodeStats(msgspec.Struct):
    """`stats`: all counters."""

    packets: dict[str, Counters]
    """Verdicts by reason, of: socket, nfqueue, ebpf, all."""
    requests: Counters
    """Answers by op and status, as "GET OK"."""
    denied: Counters
    """Refused for want of a right, as "writes mac"."""
    would_deny: Counters
    """The same, let through because the mode is `count`."""
    replication: Counters
    storage: StorageCounters
    repair: Counters
    node: Counters
    datapaths: dict[str, DatapathState]
    """By name, which is not in the state itself."""
    strangers: dict[str, float] = {}
    """The last senders of messages with a wrong tag, as far as socket and queues saw them, and how many seconds ago."""


class Durations(msgspec.Struct):
    """A histogram of seconds: `counts` has one number more than `bounds`; `total` is the sum of all durations."""

    bounds: Sequence[float]
    counts: list[int]
    total: float


class Latency(msgspec.Struct):
    """`latency`: how long things took."""

    requests: dict[str, Durations]
    """By op."""
    round_trips: dict[str, dict[str, Durations]]
    """By the part that asked and by op."""
    group: Durations
    """Groups of writes."""


class DatapathChoice(msgspec.Struct):
    """`datapath` and `switch`: what runs, and what there is to switch to."""

    kind: str
    kinds: list[str]
    datapaths: list[DatapathState]


# --- What changes the node ---------------------------------------------------------------


class DrainState(msgspec.Struct):
    """`drain`: how far it is."""

    left: int
    """Records."""
    drained: bool


class MoveBegun(msgspec.Struct):
    """`move`: the ID that is given up, and the records that are given away."""

    node_id: str
    records: int


class DrainCancelled(msgspec.Struct):
    """`stay`: the records that were left."""

    records: int


class ReloadAnswer(msgspec.Struct):
    """`reload`: the epochs that count now, and the fields whose change waits for a restart."""

    key_epochs: list[int]
    waiting: list[str]


class Stopping(msgspec.Struct):
    """`stop`."""

    pid: int
    address: str


# --- The cluster -------------------------------------------------------------------------


class Closest(msgspec.Struct):
    """`lookup`: the nodes closest to a key, nearest first; `node_id` is the one that was asked."""

    node_id: str
    nodes: list[NodeAt]


class Replica(msgspec.Struct, kw_only=True):
    """What one of the nodes closest to a key holds of it. `version` 0: no record; a tombstone has a version."""

    id: str
    address: str
    answered: bool
    version: int
    deleted: bool
    expiry: int
    """Unix seconds, 0: none."""
    bytes: int


class Replicas(msgspec.Struct):
    """`replicas`: what the nodes that should hold a key hold."""

    wanted: int
    replicas: list[Replica]


class Joining(msgspec.Struct):
    """`join`: the addresses that are asked."""

    addresses: list[str]


class Forgotten(msgspec.Struct):
    """`forget`: addresses of those that forgot the node, did not know it, and did not answer."""

    id: str
    forgot: list[str]
    unknown: list[str]
    silent: list[str]


class Share(msgspec.Struct):
    """A node's parts of all keys: as owner, and as one of the replicas."""

    id: str
    address: str
    owns: float
    keeps: float


class Move(msgspec.Struct):
    """The move that makes shares more even: whose, what it owns, beside whom, and what it would own there."""

    address: str
    owns: float
    beside: str
    would_own: float


class Shares(msgspec.Struct, kw_only=True):
    """`shares`: each node's share, and how even they are. The greatest are multiples of the mean."""

    complete: bool
    """All nodes were found."""
    replicas: int
    nodes: list[Share]
    greatest_owner: float
    greatest_keeper: float
    least_possible: float
    """The greatest owner where that many nodes are as even as IDs allow."""
    move: Move | None


# --- The records -------------------------------------------------------------------------


class StoreFigures(msgspec.Struct):
    """What a database holds. `detail` is its own words."""

    records: int
    tombstones: int
    value_bytes: int
    disk_bytes: int
    detail: str


class StorageFigures(StoreFigures):
    """`storage`: the same of a running node's, and what became of the writes since the start."""

    waiting: int
    groups: int
    written: int
    refused: int
    failed: int


class Compacted(msgspec.Struct):
    """`compact`: bytes on disk."""

    before: int
    after: int


class ExportPage(msgspec.Struct):
    """`export`: records as the file has them, and the key that the next page begins with; None at the end."""

    records: list[dict[str, Any]]
    next: str | None
