"""Of whom a majority has to have a record: the closest nodes to its key, a seat for each.

A node leaves its seat to the next closest one where its port is closed; or where it has the record and has not
caught up on the key. Such a joiner has it when it catches up, but who kept the key before may be asked without it. One that has
not said that it has the record keeps its seat: it may catch up by what it compared before the record came. So a majority of the seats is
a majority of the replicas whichever of the joiners have caught up when somebody asks.
"""

from collections.abc import Sequence

from kdht.wire import Address

Where = Address | None
"""A node; None is this one."""


class Seats:
    """Of one key. `order`: whom it knows, the closest first; it may be replaced by a longer one."""

    __slots__ = ("count", "first", "left", "order", "taken")

    def __init__(self, order: Sequence[Where], count: int) -> None:
        self.order = order
        self.count = count
        self.left: set[Where] = set()
        self.first = self.taken = frozenset(order[:count])
        """Who would sit, and who does."""

    def leave(self, where: Where) -> None:
        """This node's seat is for the next closest."""
        self.left.add(where)
        self.taken = frozenset([each for each in self.order if each not in self.left][: self.count])

    def extend(self, order: Sequence[Where]) -> None:
        """More nodes are known."""
        self.order = order
        self.taken = frozenset([each for each in order if each not in self.left][: self.count])
