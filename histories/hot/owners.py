"""Which node owns each hot key, and since when that is sure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from histories.record import now_ns
from kdht.wire import hash_key


class Span(NamedTuple):
    """A time in which one node owned the key, lived and had caught up; nanoseconds of CLOCK_MONOTONIC."""

    begin: int
    end: int
    owner: str


class Owners:
    """The spans of each key. `ids`: of the nodes that are there."""

    def __init__(self, ids: Mapping[str, bytes], names: Sequence[str]) -> None:
        self._keys = [int.from_bytes(hash_key(name), "big") for name in names]
        self.spans: list[list[Span]] = [[] for _ in names]
        self.owners: list[str] = []
        self._open: dict[int, tuple[int, str]] = {}
        self.know(ids)
        self.begin()

    def know(self, ids: Mapping[str, bytes]) -> None:
        """These nodes are there now: the nearest one owns a key. One with a new disk has another ID than before."""
        self.owners = [
            min(ids, key=lambda name: int.from_bytes(ids[name], "big") ^ number) for number in self._keys
        ]

    def begin(self) -> None:
        """All nodes have heard of the owners: all keys have a sure one again."""
        for key, owner in enumerate(self.owners):
            self._open.setdefault(key, (now_ns(), owner))

    def end(self, names: Iterable[str]) -> None:
        """Something is about to happen to these nodes: their keys have no sure owner."""
        for key, (begin, owner) in list(self._open.items()):
            if owner in names:
                self.spans[key].append(Span(begin, now_ns(), owner))
                del self._open[key]

    def end_all(self) -> None:
        """A node is about to come, with an ID that it chooses; or the history ends."""
        self.end(set(self.owners))
