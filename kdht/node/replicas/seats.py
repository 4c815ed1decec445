"""The seats of a key: the closest nodes, of which a majority must have a record.

A node leaves its seat to the next closest in two cases: its port is closed, or it took the record before it has caught
up on the key. A joiner of the second kind will have the record when it catches up, but earlier replicas may be asked without
it. A joiner that has not taken the record keeps its seat: it may catch up by a comparison made before the record came. So
a majority of the seats is a majority of the replicas, whichever joiners have caught up when a reader asks.
"""

from collections.abc import Sequence

from kdht.wire import Address

Where = Address | None
"""The address of a node; None is this node."""


class Seats:
    """The seats of one key. `order`: the known nodes, the closest first. `extend` replaces it by a longer one."""

    __slots__ = ("count", "first", "left", "order", "taken")

    def __init__(self, order: Sequence[Where], count: int) -> None:
        self.order = order
        self.count = count
        self.left: set[Where] = set()
        self.first = self.taken = frozenset(order[:count])
        """The nodes with a seat at first, and those with one now."""

    def leave(self, where: Where) -> None:
        """Give the seat of this node to the next closest."""
        self.left.add(where)
        self.taken = frozenset([each for each in self.order if each not in self.left][: self.count])

    def extend(self, order: Sequence[Where]) -> None:
        """Take a longer order."""
        self.order = order
        self.taken = frozenset([each for each in order if each not in self.left][: self.count])
