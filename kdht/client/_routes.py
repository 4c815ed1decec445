"""The route of a read's first try, that is its `attempt`. No I/O and no clock."""

from random import Random

MAX_READ_ROUTES = 3
"""Routes of spread reads: as many as a key has replicas by default."""


class ReadRoutes:
    """Of one client: always the best route or, if reads are `spread`, any to a replica."""

    def __init__(self, spread: bool) -> None:
        self._count = MAX_READ_ROUTES if spread else 1

    def draw(self, rng: Random) -> int:
        # By chance and not in turn: clients that start together would all ask the same replica next.
        return rng.randrange(self._count) if self._count > 1 else 0

    def ended_at(self, route: int) -> None:
        """That route leads to no replica: the key has fewer of them."""
        # Learnt from refusals, because a client is told of no `replicas` setting, and it differs by cluster.
        self._count = max(min(self._count, route), 1)
