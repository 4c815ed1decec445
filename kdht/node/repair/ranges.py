"""Which keys a node keeps, as ranges of keys, and with whom.

The r nodes closest to a key by XOR distance keep it (Maymounkov and Mazieres, "Kademlia", 2002).
Under a prefix P of the ID trie these are the same for all keys as long as the order of nodes
does not hang on the keys' further bits: nodes under P come first, then those under P's
sibling, then those under its parent's sibling, and so on. `responsibility` splits P until the
r-th place falls on the end of such a group. All nodes that know the same neighbours get the same ranges.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from kdht.node.repair._key_sets import KeySet
from kdht.wire._shared import ID_BITS, ID_LEN

MAX_FREE_BITS = 5
"""Where the last groups on the way down are alike in more bits than this, one prefix would fall into 2^bits
ranges that take turns between the same nodes. There the whole group keeps the range: some keys in a hundred,
at three replicas, have one replica more. All such bits of the way count, for the ranges multiply: six IDs whose
count began again behind each parting made 12,482 ranges."""

# Each entry is small. Other nodes name ranges, so without a bound a liar could fill the memory.
MAX_KEPT = 4096
"""Ranges whose replicas a view remembers."""

SPACE = 1 << ID_BITS
_LENGTH = [1 << (ID_BITS - bits) for bits in range(ID_BITS + 1)]
"""The number of keys in a range, by its bits."""


class Range(NamedTuple):
    """All keys whose first `bits` bits are those of `start`, a number whose other bits are zero."""

    start: int
    bits: int

    @property
    def stop(self) -> int:
        """The number after the last key."""
        return self.start + _LENGTH[self.bits]

    def split(self, bits: int) -> list["Range"]:
        """The ranges of that many `bits` that make up this one."""
        step = _LENGTH[bits]
        return [Range(start, bits) for start in range(self.start, self.stop, step)]


class KeptRange(NamedTuple):
    """A range, and the IDs of all nodes that keep it."""

    range: Range
    replicas: frozenset[bytes]


class View:
    """The kept ranges of one node, as it sees the cluster. Immutable."""

    def __init__(self, self_id: bytes, others: Collection[bytes], replicas: int) -> None:
        self.self_id = self_id
        self.others = frozenset(others)
        self.kept = responsibility(self_id, others, replicas)
        self.replicas = replicas
        # As numbers: the trie is descended bit by bit.
        self._ids = {number(id): id for id in (self_id, *others)}
        self._keepers: dict[Range, frozenset[bytes]] = {}
        self._last: KeptRange | None = None
        self._order: dict[Range, list[bytes]] = {}
        self._starts = [kept.range.start for kept in self.kept]
        self.keys = KeySet((kept.range.start, kept.range.stop) for kept in self.kept)
        """All keys of the kept ranges."""

    def kept_range(self, key: int) -> KeptRange | None:
        """The kept range that a key is in; None: other nodes keep it."""
        # The ranges do not overlap and are sorted, so the last that begins before the key is the only
        # candidate.
        at = bisect_right(self._starts, key) - 1
        return self.kept[at] if at >= 0 and key < self.kept[at].range.stop else None

    def shared_with(self, other: bytes) -> list[Range]:
        """The ranges that both nodes keep, in key order."""
        return [kept.range for kept in self.kept if other in kept.replicas]

    def parts(self, range: Range) -> list[tuple[Range, KeptRange | None]]:
        """The range in parts, each in one kept range or in none."""
        kept = self.kept_range(range.start)
        if kept is not None and kept.range.stop >= range.stop:
            return [(range, kept)]
        if kept is None and not self._touches(range):
            return [(range, None)]
        return [part for half in range.split(range.bits + 1) for part in self.parts(half)]

    def elsewhere(self, range: Range) -> list[Range]:
        """The parts of a range that only others keep, each with the same replicas throughout."""
        found: dict[Range, None] = {}
        for part, own in self.parts(range):
            for kept in self._kept_touching(part.start, part.stop) if own is None else ():
                found[max(part, kept.range, key=lambda each: each.bits)] = None
        return list(found)

    def _touches(self, range: Range) -> bool:
        """Whether a kept range begins in the range."""
        at = bisect_left(self._starts, range.start)
        return at < len(self._starts) and self._starts[at] < range.stop

    def closest(self, key: int) -> list[bytes]:
        """The IDs of the r nodes closest to a key, this node included."""
        nodes = (self.self_id, *self.others)
        return sorted(nodes, key=lambda id: int.from_bytes(id, "big") ^ key)[: self.replicas]

    def keepers(self, range: Range) -> frozenset[bytes]:
        """The IDs of all nodes that keep any key of a range, also where this one does not."""
        if range not in self._keepers:
            # Other nodes choose the ranges that are asked for, so the memory is bounded.
            _bound(self._keepers)
            kept = self.kept_range(range.start)
            if kept is not None and range.stop <= kept.range.stop:
                return self._keepers.setdefault(range, kept.replicas)
            kept_ranges = self._kept_touching(range.start, range.stop)
            self._keepers[range] = frozenset().union(*(kept.replicas for kept in kept_ranges))
        return self._keepers[range]

    def replicas_of(self, key: int) -> frozenset[bytes]:
        """The IDs of all nodes that keep a key."""
        # Repair walks keys in order, so the next key mostly lies in the range of the last.
        kept = self.kept_range(key) or self._last_kept(key)
        if kept is None:
            (kept,) = self._kept_touching(key, key + 1)
            self._last = kept
        return kept.replicas

    def _last_kept(self, key: int) -> KeptRange | None:
        """The range of the last key, which often has the next key too."""
        last = self._last
        return last if last is not None and last.range.start <= key < last.range.stop else None

    def _kept_touching(self, start: int, stop: int) -> list[KeptRange]:
        """The ranges with any of these keys and their replicas, whether this node keeps them or not."""
        kept_ranges: list[KeptRange] = []

        def found(here: Range, groups: list[list[int]]) -> None:
            kept_ranges.append(
                KeptRange(here, frozenset(self._ids[node] for group in groups for node in group))
            )

        def wanted(here: Range, nearest: list[list[int]]) -> bool:
            return here.start < stop and start < here.stop

        _descend(Range(0, 0), [list(self._ids)], 0, wanted, self.replicas, found)
        return kept_ranges

    def order(self, range: Range) -> list[bytes]:
        """All other nodes, the closest to the first key of a range first."""
        if range not in self._order:
            _bound(self._order)
            self._order[range] = sorted(self.others, key=lambda id: number(id) ^ range.start)
        return self._order[range]

    @property
    def peers(self) -> frozenset[bytes]:
        """All nodes that share a range with this one."""
        return frozenset().union(*(kept.replicas for kept in self.kept)) - {self.self_id}


def _bound(kept: dict[Range, Any]) -> None:
    """Bound a dictionary by range: other nodes choose the ranges, so it might grow without end."""
    if len(kept) >= MAX_KEPT:
        kept.clear()


def responsibility(self_id: bytes, others: Iterable[bytes], replicas: int) -> list[KeptRange]:
    """The ranges that `self_id` keeps, in key order, each with all its replicas."""
    ids = {int.from_bytes(id, "big"): id for id in (self_id, *others)}
    kept_ranges: list[KeptRange] = []
    me = int.from_bytes(self_id, "big")

    def found(range: Range, groups: list[list[int]]) -> None:
        kept_ranges.append(KeptRange(range, frozenset(ids[node] for group in groups for node in group)))

    def wanted(here: Range, nearest: list[list[int]]) -> bool:
        return any(me in group for group in nearest)

    _descend(Range(0, 0), [list(ids)], 0, wanted, replicas, found)
    return kept_ranges


def _descend(
    here: Range,
    groups: list[list[int]],
    free: int,
    wanted: Callable[[Range, list[list[int]]], bool],
    replicas: int,
    found: Callable[[Range, list[list[int]]], None],
) -> None:
    """`groups`: nodes that no key under `here` orders, nearest group first; `free`: bits so far (MAX_FREE_BITS).

    Where `wanted` is False nothing is looked for.
    """
    nearest, count = [], 0
    for group in groups:
        if count < replicas and group:
            nearest.append(group)
            count += len(group)
    if not wanted(here, nearest):
        return
    # No key below orders these nodes any further, or going on would make too many ranges.
    if count <= replicas or free > MAX_FREE_BITS:
        found(here, nearest)
        return
    below = ID_BITS - 1 - here.bits
    ones = sum(node >> below & 1 for node in nearest[-1])
    # Then this bit tells none of them apart, and both halves have the same nodes in another order.
    alike = ones in (0, len(nearest[-1]))
    for bit, half in enumerate(here.split(here.bits + 1)):
        parted = [
            [node for node in group if (node >> below & 1 == bit) is same]
            for group in nearest
            for same in (True, False)
        ]
        _descend(half, parted, free + alike, wanted, replicas, found)


def number(key: bytes) -> int:
    return int.from_bytes(key, "big")


def key_bytes(key: int) -> bytes:
    return key.to_bytes(ID_LEN, "big")
