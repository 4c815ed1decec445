"""Which known node answers the keys of a range: where a client's next read of it enters. No I/O and no clock.

A direct answer comes from the node that owns the key. A read that enters there has its answer after one round trip. This is a
hint only: at another node the read goes on to the owner, as from any entry node.
"""

from kdht.client._nodes import KnownNodes

# Far more ranges than nodes that a client knows: a range has mostly one owner.
RANGE_BITS = 12
"""Keys with the same first bits are one range."""


class Owners:
    """Of one client: the node of each range, by index, where it is not the one that is asked first anyway."""

    def __init__(self, nodes: KnownNodes) -> None:
        self._nodes = nodes
        self._owners: dict[int, int] = {}

    def entry(self, key: bytes) -> int:
        """The node for a read: the range's owner if it is known and lives, or else the node that is asked first."""
        owner = self._owners.get(_range_of(key))
        # The index of a dead node may belong to another one by now: that one leads to the owner, too.
        return self._nodes.current if owner is None or self._nodes[owner].dead else owner

    def learn(self, key: bytes, node: int) -> None:
        """A direct answer came from that node; negative: from one that this client does not know."""
        if node < 0 or node == self._nodes.current:
            self._owners.pop(_range_of(key), None)
        else:
            self._owners[_range_of(key)] = node

    def forget(self, key: bytes, node: int) -> bool:
        """That node was silent: the next read of the range enters elsewhere. Returns whether it was the owner."""
        is_owner = self._owners.get(_range_of(key)) == node
        if is_owner:
            del self._owners[_range_of(key)]
        return is_owner


def _range_of(key: bytes) -> int:
    return int.from_bytes(key[:2], "big") >> (16 - RANGE_BITS)
