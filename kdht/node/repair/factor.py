"""How many replicas a record has, while nodes disagree: as many as any node nearby wants.

An operator changes `replicas` node by node. Who asks or answers a DIGEST says what its own configuration has; until all say
the same, each keeps, writes and reads by the greatest number heard. So whoever keeps a record under any of the
numbers is among those that are asked.
"""

from collections.abc import Collection


class Factor:
    """One node's number, and what others say."""

    def __init__(self, own: int) -> None:
        self.own = own
        self.value = own
        """What counts."""
        self._others: dict[bytes, int] = {}

    def heard(self, id: bytes, replicas: int) -> bool:
        """What another node has; whether that changes what counts."""
        self._others[id] = replicas
        return replicas > self.value or (replicas < self.value and self._greatest() < self.value)

    def renew(self, contacts: Collection[bytes]) -> bool:
        """Take what was heard of these, who live; the others are forgotten. Whether another number counts now."""
        self._others = {id: replicas for id, replicas in self._others.items() if id in contacts}
        before, self.value = self.value, self._greatest()
        return before != self.value

    @property
    def others(self) -> list[int]:
        """What others have that is not this node's own number."""
        return sorted(set(self._others.values()) - {self.own})

    def _greatest(self) -> int:
        return max(self.own, *self._others.values()) if self._others else self.own
