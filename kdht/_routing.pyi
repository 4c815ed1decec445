"""The typed surface of the routing core; the contract is at the top of _routing.pyx."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kdht.wire._shared import Reason, Verdict
from kdht.wire import Address, Contact

LANES: int
"""How many threads or processes may give verdicts at once, each with counters of its own."""

class Outcome(NamedTuple):
    verdict: Verdict
    reason: Reason
    source: Address | None
    """FORWARD, RELAY: the new sender."""
    target: Address | None
    """FORWARD, RELAY: the new receiver."""
    next_id: bytes | None
    """FORWARD: the next hop's ID."""
    max_reply: int
    """LOCAL request: the largest reply body, bytes, that may leave for its client."""

class LocalRequest(Protocol):
    """What `reply` looks at; base.Datagram is one."""

    @property
    def data(self) -> bytes: ...
    @property
    def source(self) -> Address: ...
    @property
    def target(self) -> Address: ...
    @property
    def max_reply(self) -> int: ...

def common_bits(a: bytes, b: bytes) -> int: ...

class Core:
    """The routing state in one shared mapping, and the verdicts made from it."""

    def __init__(self, fd: int | None = None) -> None: ...
    @property
    def fd(self) -> int: ...
    def configure(
        self,
        *,
        self_id: bytes,
        port: int,
        own: Sequence[bytes],
        source4: bytes | None,
        source6: bytes | None,
        keys: Sequence[tuple[int, bytes]],
        cookie_key: bytes,
        cookies: bool = True,
        window: int = ...,
        hop_limit: int = ...,
        untagged: bool = False,
        write_cookie: bool = False,
        prefixes: Sequence[tuple[bytes, int, int]] | None = None,
    ) -> None: ...
    def set_bucket(self, index: int, contacts: Sequence[Contact]) -> None: ...
    def raw_config(self) -> bytes: ...
    def prefixes(self) -> list[tuple[bytes, int, int]]: ...
    def raw_bucket(self, index: int) -> bytes: ...
    def bucket(self, index: int) -> list[Contact]: ...
    def occupancy(self) -> int: ...
    def next_hop(self, key: bytes, attempt: int = 0) -> Contact | None: ...
    def closest(self, key: bytes, count: int = ...) -> list[Contact]: ...
    def rank(self, key: bytes, limit: int = ...) -> int: ...
    def decide_message(
        self,
        message: bytearray,
        source: Address,
        target: Address,
        now: int,
        lane: int = 0,
        *,
        inside: bool = False,
    ) -> Outcome: ...
    def decide_packet(self, packet: bytearray, now: int, lane: int = 0) -> Outcome: ...
    def seal(self, message: bytearray, now: int) -> None: ...
    def reply(
        self, request: LocalRequest, status: int, body: bytes, now: int
    ) -> tuple[bytes, Address, Address | None]: ...
    def bounce(self, quoted: bytes, now: int) -> tuple[bytes, Address, Address | None] | None: ...
    def cookie(self, client_ip: bytes, now: int) -> int: ...
    def counters(self, lane: int | None = None) -> dict[str, int]: ...
    def strangers(self) -> dict[Address, int]:
        """The last senders of messages with a wrong tag, 8 of a lane, and the Unix second of each one's last message."""

