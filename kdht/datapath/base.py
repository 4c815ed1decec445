"""The seam between the node and whatever moves its packets.

A Transport carries datagrams to and from this node: it is always there (`socket`, or
`memory` in tests). A Datapath takes routed messages off the Transport's hands, nearer to
the wire (`nfqueue`, `ebpf`): what it does not treat it passes up unchanged, so it may be
absent, partial, switched or killed, and the Transport still treats everything correctly.
All of them make their verdicts from the same `kdht._routing.Core`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

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

Reader = Callable[[list[bytes], list[int], float], Sequence[tuple[int, int, int, bytes] | None]]
"""Takes the keys of a batch's GETs, how many bytes of value each client may be sent, and Unix seconds; gives the records
(version, expiry, flags, value) that may be answered at once, None for the other keys, which then come to the
Receiver. Runs on the transport's own thread."""


class Datapath(Protocol):
    """What starts, stops and tells how it is. `start` and `stop` may be called again."""

    name: str

    def start(self) -> None:
        """Begin to treat packets. Raises DatapathError, having undone what was half done."""

    def stop(self) -> None:
        """Stop and undo everything that `start` did. Never raises for what is gone already."""

    def status(self) -> Mapping[str, object]:
        """Plain data for `kdhtctl status`: at least `state` ("up", "degraded", "down") and `why`."""


class Transport(Datapath, Protocol):
    """A datapath that also carries datagrams from and to this node."""

    def send(self, batch: Iterable[Outgoing]) -> int:
        """Send all; the number sent. What the network refuses is counted and dropped. Thread-safe."""
