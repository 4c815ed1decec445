"""Reads an input as a sequence of events: small numbers, choices and byte strings."""

from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")


class Reader:
    """Takes an input apart. Past its end every number is 0 and every string empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return self.bytes(1)[0] if self else 0

    def bytes(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def sized(self) -> bytes:
        """Bytes with their number, 16 bits, before them."""
        return self.bytes(int.from_bytes(self.bytes(2), "big"))

    def choice(self, choices: Sequence[Choice]) -> Choice:
        return choices[self.byte() % len(choices)]
