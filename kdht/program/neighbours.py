"""What a daemon answers to `neighbours`: how each of its contacts is, as that one says."""

import msgspec


class NeighbourSummary(msgspec.Struct, kw_only=True):
    """What a node says of itself."""

    ready: bool
    waiting_for: list[str]
    version: str
    uptime: float
    """Seconds, by this node's clock."""
    contacts: int
    behind: int
    """Ranges of keys that it has not caught up on."""
    records: int
    value_bytes: int


class Neighbour(msgspec.Struct, kw_only=True):
    """One contact. `said` is None if it did not answer, or is of a version without summaries."""

    id: str
    address: str
    rtt_ms: float | None
    """Of this answer; None if there was none."""
    said: NeighbourSummary | None


class Neighbours(msgspec.Struct):
    """`neighbours`: the nearest contacts. `left_out`: how many more there are, who were not asked."""

    nodes: list[Neighbour]
    left_out: int
