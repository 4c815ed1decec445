"""What a daemon answers over its control socket: one struct for each answer, for the daemon that makes it and who asks.

The order of the fields is their order in JSON. A field may be added at the end of a struct with a default, so that an
older daemon's answer can still be read. IDs are 40 hexadecimal digits, addresses have their ports, durations are seconds.

Plain on purpose: counters (the part that counts names them), and what a datapath says of itself, which differs from
one datapath to the next.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

MOST_NAMED = 3
"""Nodes in a sentence."""
Counters: TypeAlias = dict[str, int]
"""Events since the start, by name."""
DatapathState: TypeAlias = dict[str, Any]
"""`name`, `state` (up, degraded or down) and `why`, then what that datapath has to say."""


class NodeAt(msgspec.Struct):
    """A node by its ID and address."""

    id: str
    address: str


# --- status ------------------------------------------------------------------------------


class RepairState(msgspec.Struct, kw_only=True):
    """How far a node and its neighbours agree."""

    caught_up: bool
    """It has caught up on all that it keeps."""
    ranges: int
    """Ranges of keys that it keeps with the same other nodes."""
    behind: int
    """Of those, the ones that it has not caught up on."""
    replicas: int
    """Nodes that keep each record."""
    others_replicas: list[int]
    """Other numbers of replicas that nodes nearby are configured with."""
    waits_for: dict[str, list[str]]
    """Addresses by what is missed of them: unheard, unseen, unequal."""
    held: int
    """Ranges that others keep now, and not all of them have caught up on."""
    missing: int
    """Records that others have and this node does not, as far as is known."""
    seconds_left: float | None
    """Until it has them; None while that is not known."""
    neighbours: int
    draining: bool
    drained: bool
    pushing: int
    """Records on their way to others."""
    running: int
    """Comparisons under way."""
    planned: int
    """Comparisons that wait."""


class AccessState(msgspec.Struct, frozen=True):
    """Who may read and write: `open`, `count` or `token`."""

    writes: str
    reads: str
    epochs: tuple[int, ...]
    """Of the access secrets whose tokens are accepted."""


class Twins(msgspec.Struct, frozen=True):
    """Two nodes with one ID."""

    id: str
    addresses: tuple[str, str]


class FaceState(msgspec.Struct):
    """A server of another protocol, in the process of the faces."""

    name: str
    listen: list[str]
    up: bool
    why: str = ""
    """Why it does not serve; empty if it does."""
    pid: int | None = None
    starts: int = 0
    """How often the process of the faces was started."""
    counters: Counters = {}


class GoneNode(NodeAt):
    """A dead node, and for how many seconds it has been silent: at most since the start."""

    silent: float = 0.0


class NodeStatus(msgspec.Struct, kw_only=True):
    """`status`: the same fields in every state, so that a caller can wait for a node to be ready."""

    state: str
    """running, or starting, moving, stopping: what comes after `warnings` tells of a running node only."""
    moving: bool
    version: str
    pid: int
    uptime: float
    address: str
    own: list[str]
    data_dir: str
    key_epochs: list[int]
    """The first one signs."""
    capabilities: dict[str, str]
    """What is left of root's rights, and what for."""
    cookies: bool
    log_lines_lost: int
    warnings: list[str]
    access: AccessState = AccessState("open", "open", ())
    node_id: str | None = None
    contacts: int = 0
    joined: bool = False
    ready: bool = False
    waiting_for: list[str] = []
    writable: bool = False
    not_writable: str = "the node does not run: kdhtctl status shows its state"
    """Why no write can be confirmed; empty if one can."""
    gone: list[GoneNode] = []
    """Nodes that died, and count in what a write needs."""
    unreachable: list[str] = []
    """Members of an IP version that this node has no address of."""
    why_unreachable: str = ""
    twins: list[Twins] = []
    """Nodes with one ID that were seen not long ago."""
    yields_to_twin: bool = False
    """Whether this node serves nothing, because an older one has its ID."""
    repair: dict[str, Any] = {}
    """A RepairState, or nothing: see `repair_state`."""
    records: int = 0
    set_aside: int = 0
    """Records in files that were set aside after a long absence."""
    datapaths: list[DatapathState] = []
    faces: list[FaceState] = []
    discovery: dict[str, int] = {}
    """Questions of nodes that look for others by multicast, by what became of them."""
    config: str = ""
    """The file of its configuration; empty: it has none."""
    asked: list[str] = []
    """Addresses that are asked in vain while the node has not joined."""

    @property
    def why_not_ready(self) -> str:
        """What is waited for, and of others who they are and what to do; empty if the node is ready."""
        if not self.waiting_for:
            return ""
        parts = [f"waiting for: {', '.join(self.waiting_for)}", self.why_unreachable]
        if not self.joined and self.asked:
            parts.append(f"no answer from {', '.join(self.asked[:MOST_NAMED])}: another secret, a firewall?")
        if "replicas" in self.waiting_for:
            lost = [
                f"{node.id} at {node.address}, silent for {node.silent:.0f} s"
                for node in self.gone[:MOST_NAMED]
            ]
            parts.append(
                f"no other node lives: start {' and '.join(lost)}, or kdhtctl forget those that are gone for good"
            )
        return "; ".join(part for part in parts if part)

    @property
    def repair_state(self) -> RepairState | None:
        """None while the node does not run. Raises msgspec.ValidationError for an answer of another version."""
        return msgspec.convert(self.repair, RepairState) if self.repair else None


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
