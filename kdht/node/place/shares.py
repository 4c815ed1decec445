"""Which part of the key space each node owns and keeps, exactly, from the IDs of all nodes.

Two nodes that are neighbours in the binary trie of all IDs share the keys above them evenly. A key goes to the half of its
next bit. If that half is empty, the remaining bits decide in the other one. So a node owns 2^-d of all keys if its path
branches d times. The shares are a binary tree whose leaves add up to 1 (Kraft, 1949). So the greatest share of n nodes is
at least 2^-floor(log2 n).

IDs are whole numbers here, each once, ascending.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import log2

from kdht.wire._shared import ID_BITS


def owned(ids: Sequence[int]) -> list[float]:
    """The part of all keys that each is closest to."""
    return kept(ids, 1)


def kept(ids: Sequence[int], replicas: int) -> list[float]:
    """The part of all keys that each is among the `replicas` closest to."""
    found = [0.0] * len(ids)
    _give(ids, 0, len(ids), replicas, 1.0, found)
    return found


def least_greatest(nodes: int) -> float:
    """The greatest owner's share, as a multiple of the mean, where IDs are spread as evenly as can be."""
    return float(nodes / (1 << (nodes.bit_length() - 1)))


def halves(ids: Sequence[int], first: int, last: int) -> tuple[int, int]:
    """The bit in which `ids[first:last]`, two or more, first differ (from the top), and where those with a one begin."""
    low = (ids[first] ^ ids[last - 1]).bit_length() - 1
    return ID_BITS - 1 - low, bisect_left(ids, ids[last - 1] >> low << low, first, last)


def _give(ids: Sequence[int], first: int, last: int, replicas: int, part: float, found: list[float]) -> None:
    """Hand `part` of all keys to the `replicas` closest of `ids[first:last]`, wherever below them the keys lie."""
    if last - first <= replicas:
        for index in range(first, last):
            found[index] += part
        return
    # Each side has half of the keys below. If it has too few nodes, the rest comes from the other side.
    _, middle = halves(ids, first, last)
    for here, there in (((first, middle), (middle, last)), ((middle, last), (first, middle))):
        near = min(replicas, here[1] - here[0])
        _give(ids, *here, near, part / 2, found)
        if near < replicas:
            _give(ids, *there, replicas - near, part / 2, found)


def depths(ids: Sequence[int]) -> list[int]:
    """How often the path of each branches: it owns 2^-depth of all keys."""
    return [round(-log2(part)) for part in owned(ids)]


def move_that_helps(ids: Sequence[int]) -> tuple[int, int] | None:
    """Who should move, and whose share it should halve, by their places in `ids`; None if all is even.

    Even is what no move betters: the paths of all branch equally often, or once more. Who has least moves, for
    it leaves least to its neighbours.
    """
    if len(ids) < 3:
        return None
    found = depths(ids)
    least, most = max(found), min(found)
    # With a difference of one, a move would only swap two shares.
    return (found.index(least), found.index(most)) if least >= most + 2 else None
