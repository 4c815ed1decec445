"""The typed surface of the static overlay; the contract is at the top of _overlay.pyx."""

from array import array

from kdht._routing import Core
from kdht.wire.keys import ClusterSecret

KEY: ClusterSecret
MAX_HOPS: int

class Overlay:
    """All nodes of an overlay, and the messages through it."""

    core: Core
    count: int
    k: int
    forwarded: array[int]
    ended: array[int]
    hops: array[int]
    astray: int

    def __init__(self, ids: bytes, seed: int, k: int = ...) -> None: ...
    def id(self, node: int) -> bytes: ...
    def visit(self, node: int) -> None: ...
    def owner(self, key: bytes) -> int: ...
    def route(self, key: bytes, entry: int) -> list[int]: ...
    def send(self, messages: int) -> None: ...
    def shares(self) -> array[float]: ...
