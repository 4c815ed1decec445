"""What a node that keeps records is made with. A node without it only routes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdht.node.cluster import ClusterState
from kdht.node.repair.options import RepairOptions
from kdht.storage import Store

Dropped = Callable[[Sequence[tuple[bytes, int]]], object]
Drop = Callable[[Sequence[tuple[bytes, int]], Dropped], object]
"""Does what Store.drop does to these keys and versions, now or later, on any thread; then passes them to the other
function. A failure is reported to nobody: the records are handed off again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """All of it is required: each default would be unsafe for somebody."""

    store: Store
    options: RepairOptions
    cluster: ClusterState
    """Shared with the coordinator."""
    drop: Drop
    on_fell_behind: Callable[[], None]
    """Called when this node has not caught up any more on some keys: what was read of them before counts no more. Any
    thread."""


def dropping_at_once(store: Store) -> Drop:
    """For a store that does not block, and has no cache."""

    def drop(records: Sequence[tuple[bytes, int]], dropped: Dropped) -> None:
        store.drop(records)
        dropped(records)

    return drop
