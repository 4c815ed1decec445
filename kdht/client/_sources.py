"""Where a large value comes from and where it goes: bytes, or a binary file, a piece at a time."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from io import SEEK_END, UnsupportedOperation
from typing import Any, BinaryIO, Protocol, TypeAlias

from kdht.client._arguments import data_of
from kdht.client._chunks import PIECE_CHUNKS, too_large
from kdht.client._manifest import MAX_LARGE
from kdht.wire import Buffer

Source: TypeAlias = Buffer | BinaryIO
"""Bytes, or a file to read them from."""


class Given:
    """A value to write, for chunks of that size. Of a file the first piece is read at once, so that a wrong one is refused
    before anything is sent.

    Raises ValueTooLarge if it is known to be, TypeError for what is no source, what the file raises.
    """

    def __init__(self, source: Source, chunk_size: int) -> None:
        self._piece_size = PIECE_CHUNKS * chunk_size
        self._read: Callable[[int], Any] | None = getattr(source, "read", None)
        self._data = b"" if self._read else data_of(source, "a large value")  # type: ignore[arg-type]
        self.size = len(self._data) if self._read is None else _left_in(source)
        """In bytes. Of a file: what it says before it is read; None if it does not say."""
        self.is_sure = self._read is None
        """Whether it has exactly so many."""
        if (self.size or 0) > MAX_LARGE:
            raise too_large()
        self._first = b"" if self._read is None else _piece(self._read, self._piece_size)

    def pieces(self) -> Iterator[Buffer]:
        """The bytes, once, in pieces of whole chunks; only the last one may be shorter."""
        size = self._piece_size
        if self._read is None:
            view = memoryview(self._data)
            for begin in range(0, len(view), size):
                yield view[begin : begin + size]
            return
        piece, self._first = self._first, b""
        while piece:
            yield piece
            piece = _piece(self._read, size)


def _piece(read: Callable[[int], Any], size: int) -> bytearray:
    """So many bytes; fewer only at the end. An unbuffered file gives less than it is asked for."""
    piece = bytearray()
    while len(piece) < size:
        part = read(size - len(piece))
        if isinstance(part, str):
            raise TypeError('a large value is read from a binary file: open it with "rb"')
        if part is None:
            raise BlockingIOError("the file has nothing to read now: open it in blocking mode")
        if not part:
            break
        piece += data_of(part, "what a file gives")
    return piece


def _left_in(file: Any) -> int | None:
    """The bytes from a file's position to its end; None if it cannot say."""
    with suppress(AttributeError, OSError, UnsupportedOperation, ValueError, TypeError):
        if file.seekable():
            here = file.tell()
            end = file.seek(0, SEEK_END)
            file.seek(here)
            return max(int(end) - int(here), 0)
    return None


class Target(Protocol):
    """Where a value that is read goes."""

    def write(self, data: Buffer) -> None: ...
    def restart(self) -> bool:
        """Forget what was written. False if that cannot be done."""


class InMemory:
    """A Target that keeps it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Buffer) -> None:
        self.data += data

    def restart(self) -> bool:
        self.data.clear()
        return True


class IntoFile:
    """A Target that writes to a binary file, from its position on. Raises TypeError for what is no file."""

    def __init__(self, file: BinaryIO) -> None:
        if not callable(getattr(file, "write", None)):
            raise TypeError(f"a large value is read into a binary file, not into {type(file).__name__}")
        self._file = file
        self._written = 0
        self._begin: int | None = None
        with suppress(AttributeError, OSError, UnsupportedOperation, ValueError):
            if file.seekable():
                self._begin = file.tell()

    def write(self, data: Buffer) -> None:
        left = memoryview(data)
        while left:
            # An unbuffered file may take less than it is given.
            count = self._file.write(left)
            if count is None:
                raise BlockingIOError("the file takes nothing now: open it in blocking mode")
            self._written += count
            left = left[count:]

    def restart(self) -> bool:
        if self._written and self._begin is None:
            return False
        if self._begin is not None:
            # What stood behind the value before stays.
            is_end = self._file.seek(0, SEEK_END) == self._begin + self._written
            self._file.seek(self._begin)
            if is_end:
                self._file.truncate()
        self._written = 0
        return True
