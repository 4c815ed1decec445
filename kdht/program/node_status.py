"""`kdhtctl status`: the state of one node, and in words why it is not ready.

The rules for fields are those of answers.py, which has the other answers.
"""

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


class TwinPair(msgspec.Struct, frozen=True):
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
    twins: list[TwinPair] = []
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
