"""The seam between the node and whatever moves its packets.

A Transport carries datagrams to and from this node: it is always there (`socket`, or
`memory` in tests). A Datapath takes routed messages off the Transport's hands, nearer to
the wire (`nfqueue`, `ebpf`): what it does not treat it passes up unchanged, so it may be
absent, partial, switched or killed, and the Transport still treats everything correctly.
All of them make their verdicts from the same `kdht._routing.Core`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kdht.datapath.departures import Departed
from kdht.datapath.socket._direct import Direct
from kdht.times import UnixTime
from kdht.wire import Address
from kdht.wire._shared import Reason


class Datagram(NamedTuple):
    """A message whose verdict is LOCAL. Its header was checked; its tags too, if it has any."""

    data: bytes
    source: Address
    """Who sent the datagram: the client, or the node before."""
    target: Address
    """The own address that it was sent to; the answer leaves from there."""
    reason: Reason
    """Why it is local: OWNER, ATTEMPT_ENDS, TRACE_ENDS or CONTROL."""
    max_reply: int
    """Of a request: the largest reply body, bytes, that its client may be sent."""


class Outgoing(NamedTuple):
    """A datagram to send. `source` is one of the own addresses, or None for the usual one."""

    data: bytes
    target: Address
    source: Address | None = None


Receiver = Callable[[list[Datagram]], None]
"""Takes a batch of local messages, on the transport's own thread; must not raise."""

Reader = Callable[[list[bytes], list[int], UnixTime], Sequence[tuple[int, int, int, bytes] | None]]
"""Takes the keys of a batch's GETs, how many bytes of value each client may be sent, and Unix seconds; gives the records
(version, expiry, flags, value) that may be answered at once, None for the other keys, which then come to the
Receiver. Runs on the transport's own thread."""


MayRead = Callable[[bytes, UnixTime], bool]
"""Whether a GET's sender may read its key. Runs on the transport's own thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """The node's functions that a transport calls, all on the transport's own thread. None of them may block."""

    receive: Receiver
    unreachable: Callable[[Address, int | None], None]
    """ICMP said that this address cannot be reached. It quotes a message that this node sent there, of this request ID,
    and each message only once. Without a request ID it is a hint: anybody can forge it."""
    away: Callable[[], None]
    """The thread did not run for half a second or more. Called before anything is answered after that: what other
    nodes did meanwhile is not known here."""
    time: Callable[[], float | None]
    """An alarm set by `Transport.call_in` is due. Returns the seconds to the next alarm, or None."""
    read: Reader | None
    """None: every GET that is not in the cache goes to `receive`."""
    may_read: MayRead
    """Asked before the transport answers a GET itself, while `Transport.check_reads` says so. A GET that it refuses goes
    to `receive`."""
    direct: Direct | None
    """Takes messages before `receive` and `read`, from a transport that can give them to it. None: `receive` gets all."""

    @classmethod
    def without_records(cls, receive: Receiver) -> "Handlers":
        """For a node that keeps no records: it only receives."""
        return cls(
            receive=receive,
            unreachable=_ignore_address,
            away=_ignore,
            time=_no_alarm,
            read=None,
            may_read=_nobody,
            direct=None,
        )


def _ignore_address(address: Address, request_id: int | None) -> None:
    """No request waits for an answer from there."""


def _ignore() -> None:
    """Nothing is answered from a store."""


def _no_alarm() -> None:
    """No alarm is ever set."""


def _nobody(data: bytes, now: UnixTime) -> bool:
    """Nothing is answered from a store."""
    return False


class Datapath(Protocol):
    """What treats packets, stops, and tells how it is. `stop` may be called again."""

    name: str

    def stop(self) -> None:
        """Stop and undo everything that `start` did. Never raises for what is gone already."""

    def status(self) -> Mapping[str, object]:
        """Plain data for `kdhtctl status`: at least `state` ("up", "degraded", "down") and `why`."""


class FastPath(Datapath, Protocol):
    """A datapath beside the transport: it takes routed messages off the transport's hands."""

    def start(self) -> None:
        """Begin to treat packets; may be called again. Raises DatapathError, having undone what was half done."""

    def taken(self) -> int:
        """How many messages it has seen so far. Raises DatapathError if it does not run."""

    def departed(self) -> Departed:
        """How many packets it has re-addressed so far, and how many of them were seen to leave. Raises DatapathError."""

    def host_changes(self) -> int:
        """How often somebody changed the host so far, as the kernel announces it."""

    def suspect(self, is_so: bool) -> None:
        """Whether re-addressed packets seem to get lost: then begin to find out why. Raises DatapathError."""

    def passed_by(self, is_so: bool) -> None:
        """Whether messages for it take the socket, for a reason that it does not know."""

    def step_aside(self, marker: int) -> None:
        """Leave all messages to the socket but those whose request IDs begin with these 32 bits, for packets get lost.

        Called again and again while that lasts, so that it finds out why. Raises DatapathError.
        """

    def step_back(self) -> None:
        """Take all messages again. May be called again. Raises DatapathError."""


class Transport(Datapath, Protocol):
    """The datapath that carries datagrams from and to this node."""

    def start(self, handlers: Handlers) -> None:
        """Begin to treat packets; may be called again. Raises DatapathError, having undone what was half done."""

    def call_in(self, seconds: float) -> None:
        """Have `Handlers.time` called in so many seconds, unless it is due earlier. Thread-safe. No-op while stopped."""

    def check_reads(self, wanted: bool) -> None:
        """From now on ask `Handlers.may_read` before a GET is answered here, or ask no more. Thread-safe."""

    def send(self, batch: Iterable[Outgoing]) -> int:
        """Send all; the number sent. What the network refuses is counted and dropped. Thread-safe."""
