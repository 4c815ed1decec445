"""The typed surface of _key_sets.pyx."""

from collections.abc import Iterable

class KeySet:
    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None: ...
    def __contains__(self, key: bytes) -> bool: ...

class AnswerableKeys:
    caught_up: KeySet
    held: KeySet
    withheld: bool
    def is_caught_up(self, key: bytes, /) -> bool: ...
    def holds(self, key: bytes, /) -> bool: ...
