"""The number of replicas of a record while nodes disagree: the greatest that any node nearby has configured.

An operator changes `replicas` node by node. Each DIGEST and its reply carry the configured number. Until all agree, each
node keeps, writes and reads by the greatest number heard. So nodes that keep a record under any of the numbers are asked.
"""

from collections.abc import Collection

MAX_STRANGERS = 64
"""Nodes outside of the routing table whose numbers are remembered."""


class Factor:
    """The number of one node, and those of others."""

    def __init__(self, own: int) -> None:
        self.own = own
        self.value = own
        """The number in use."""
        self._others: dict[bytes, int] = {}
        self._strangers: dict[bytes, None] = {}
        """Those of them that the routing table did not have at the last `renew`."""
        self._contacts: frozenset[bytes] = frozenset()

    def heard(self, id: bytes, replicas: int) -> bool:
        """Note the number of another node. Returns whether another number has to be used."""
        self._others[id] = replicas
        if id not in self._contacts:
            self._note_stranger(id)
        # A greater number counts at once, so a write and a read of different numbers have a common node.
        return replicas > self.value or (replicas < self.value and self._greatest() < self.value)

    def renew(self, contacts: Collection[bytes]) -> bool:
        """Forget the numbers of all nodes but these. Returns whether the number in use has changed."""
        # A node that is gone has no say, or a number once configured would count for ever.
        self._contacts, self._strangers = frozenset(contacts), {}
        self._others = {id: replicas for id, replicas in self._others.items() if id in self._contacts}
        before, self.value = self.value, self._greatest()
        return before != self.value

    @property
    def others(self) -> list[int]:
        """The numbers of others that differ from this node's own."""
        return sorted(set(self._others.values()) - {self.own})

    def _note_stranger(self, id: bytes) -> None:
        self._strangers[id] = None
        # A member can name any number of IDs. A newcomer that is forgotten here says its number again within a round.
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            del self._others[oldest]

    def _greatest(self) -> int:
        return max(self.own, *self._others.values()) if self._others else self.own
