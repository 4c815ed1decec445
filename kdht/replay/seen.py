"""Observations of a packet at a live node, and whether they contradict a verdict.

A live node shows what came out of it, what it received, and what its datapath counted. The
kernel's stack comes before the datapath. It refuses some packets itself (a wrong IP or UDP
checksum, an impossible source), and changes others unseen by the socket (reassembly, dropped
options). Those are not compared.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kdht.replay._engine import Judgement
from kdht.replay.packets import ip_is_right, take_apart
from kdht.wire import Address
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

HIDDEN_FROM_SOCKET = frozenset({Reason.FRAGMENT, Reason.IP_OPTIONS, Reason.EXT_HEADER, Reason.NO_CHECKSUM})
"""The kernel's stack treats them before a socket sees anything."""
LOCAL_ENDS = frozenset({Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.CONTROL})
_GOES_ON = (Verdict.FORWARD, Verdict.RELAY)


class Seen(NamedTuple):
    """One packet's traces."""

    what: Literal["sent on", "passed up", "nothing", "too large"]
    """A message came out, or reached the node's receiver, or neither; or the wire takes no such packet."""
    kind: str
    """The datapath: socket, nfqueue or ebpf."""
    reason: Reason | None = None
    """Counts of the datapath above the socket."""
    by_socket: Reason | None = None
    """Counts of the socket."""
    message: bytes = b""
    """That came out, or was received."""
    source: Address | None = None
    target: Address | None = None

    @property
    def counted(self) -> Reason | None:
        """Counts of the compared datapath."""
        return self.by_socket if self.kind == "socket" else self.reason


def is_ordinary(address: Address) -> bool:
    """Whether a host behind the wire can have the address: global or private, unicast."""
    ip = address.ip
    if address.is_ipv4:
        return 1 <= ip[12] <= 223 and ip[12] != 127 and ip[12:14] != b"\xa9\xfe"
    return ip[0] >> 5 == 1 or ip[0] >> 1 == 0xFC >> 1


def is_comparable(own: Sequence[bytes], packet: bytes, expected: Judgement, seen: Seen) -> bool:
    """Whether the kernel's stack lets the datapath decide about such a packet alone."""
    reason = expected.reason
    if seen.what == "too large" or reason in (None, Reason.NOT_OURS, Reason.BAD_IP):
        return False
    if seen.kind == "socket" and reason in HIDDEN_FROM_SOCKET:
        return False
    datagram = take_apart(packet)
    if datagram is None:
        return reason in HIDDEN_FROM_SOCKET
    if not is_ordinary(datagram.source) or datagram.source.ip in own or not ip_is_right(packet):
        return False
    ends_in_socket = seen.kind == "socket" or reason in LOCAL_ENDS or reason is Reason.FAMILY
    if ends_in_socket and datagram.checksum == "wrong":
        return False
    if VERDICT_OF[reason] in _GOES_ON:
        target = take_apart(expected.data)
        return target is not None and is_ordinary(target.target) and target.target.ip not in own
    return True


def contradiction(expected: Judgement, seen: Seen) -> str | None:
    """The contradiction between a comparable packet's observations and a verdict, in words, or None."""
    reason = expected.reason
    assert reason is not None
    if seen.counted is None:
        who = f", but the socket treated it: {seen.by_socket.name}" if seen.by_socket is not None else ""
        return f"{reason.name} expected, but the {seen.kind} datapath never counted it{who}"
    if seen.counted is not reason and not (seen.kind == "socket" and reason is Reason.FAMILY):
        return f"{reason.name} expected, {seen.counted.name} counted"
    if VERDICT_OF[reason] in _GOES_ON:
        return _sent_on(expected, seen)
    wanted = "passed up" if reason in LOCAL_ENDS else "sent on" if reason is Reason.FAMILY else "nothing"
    return None if seen.what == wanted else f"{reason.name} expected, but {_told(seen)}"


def _sent_on(expected: Judgement, seen: Seen) -> str | None:
    """TTL, IP checksum and identification are the kernel's: addresses and message are compared."""
    wanted = take_apart(expected.data)
    if seen.what != "sent on":
        return f"{wanted.target if wanted else 'a next hop'} should get it, but {_told(seen)}"
    if wanted is None:
        return "what should go on is no packet of ours"
    if (seen.source, seen.target) != (wanted.source, wanted.target):
        return f"sent from {seen.source} to {seen.target}, not from {wanted.source} to {wanted.target}"
    return None if seen.message == wanted.message else "another message"


def _told(seen: Seen) -> str:
    if seen.what == "sent on":
        return f"a message went to {seen.target}"
    return "the node received it" if seen.what == "passed up" else "nothing came out"
