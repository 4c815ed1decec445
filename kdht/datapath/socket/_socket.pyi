"""The typed surface of the socket datapath's loop; the contract is at the top of _socket.pyx."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from kdht._routing import Core
from kdht.storage._cache import RecordCache
from kdht.datapath.socket._direct import Direct
from kdht.datapath.base import MayRead, Outgoing, Reader, Receiver
from kdht.wire import Address

MAX_ENDPOINTS: int

class Counters(TypedDict):
    received: int
    """Datagrams."""
    sent: int
    """Datagrams, forwarded, relayed or by `send`."""
    not_unicast: int
    """Dropped: sent to a broadcast or multicast address."""
    unroutable: int
    """Not sent: no socket of the target's IP version."""
    unreachable: int
    """Datagrams that ICMP said did not arrive."""
    cache_answers: int
    """GETs answered from the cache."""
    away: int
    """How often the loop did not look at its sockets for half a second or more."""
    late_reads: int
    """Dropped: they had waited in a socket for more than a second."""
    late_writes: int
    """Of clients, dropped for the same reason."""
    late_promises: int
    """Asked for by other nodes, dropped for the same reason."""
    crowded_out: int
    """Dropped: too many messages for this node waited."""
    refused_misses: int
    """Told BUSY: reads of absent keys, too many of one client while others waited."""
    replayed: int
    """Dropped: the same message came too often."""
    hints_ignored: int
    """ICMP errors that quote no message of this node, beyond the few that cause a ping."""
    receive_errors: dict[str, int]
    """By errno's name."""
    send_errors: dict[str, int]
    """Datagrams that were not sent, by errno's name; EAGAIN: the send buffer stayed full."""

class Engine:
    checks_reads: bool
    """Whether `may_read` is asked before a GET is answered here. Any thread may set it."""
    def __init__(
        self,
        core: Core,
        lane: int,
        sockets: Sequence[tuple[int, Address]],
        wake_fd: int,
        cache: RecordCache | None = None,
        prices: tuple[int, int, int] = ...,
    ) -> None: ...
    def run(
        self,
        receiver: Receiver,
        on_unreachable: Callable[[list[tuple[Address, int | None]]], None],
        on_away: Callable[[], None],
        reader: Reader | None = None,
        on_time: Callable[[], float | None] | None = None,
        may_read: MayRead | None = None,
        direct: Direct | None = None,
    ) -> None: ...
    def call_in(self, seconds: float) -> None: ...
    def end(self) -> None: ...
    def is_here(self) -> bool: ...
    def send(self, batch: list[Outgoing]) -> int: ...
    def counters(self) -> Counters: ...
