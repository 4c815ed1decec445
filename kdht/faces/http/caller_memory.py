"""Memory for what waits to be sent or stored: bounded over all connections together."""

from collections.abc import Iterator
from contextlib import contextmanager

from kdht.faces.http.answers import SOON, refused

# Of values under way, for all connections together. It bounds the memory of the process.
MAX_BYTES = 128 << 20


class CallerMemory:
    """`most` bytes in all."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._left = most

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """So many are in use in the block. Raises Refused if there are not so many left."""
        if size_bytes > self._left:
            raise refused(503, "no_room", "too many long transfers are under way: try again later", (SOON,))
        self._left -= size_bytes
        try:
            yield
        finally:
            self._left += size_bytes
