"""What can be seen of a packet that went through a live node, and whether it contradicts a verdict.

A live node shows what came out of it, what it received, and what its datapath counted. The
kernel's stack stands before the datapath: what it refuses by itself (a wrong IP or UDP
checksum, a source that no host can have) no datapath sees, and what it does by itself
(reassemble, drop options) the socket cannot see. There, nothing is compared.
"""

from typing import Literal, NamedTuple

from kdht._shared import VERDICT_OF, Reason, Verdict
from kdht.replay._engine import Judgement
from kdht.replay.packets import take_apart
from kdht.wire import Address

What = Literal["sent on", "passed up", "nothing", "not comparable"]

HIDDEN_FROM_SOCKET = frozenset({Reason.FRAGMENT, Reason.IP_OPTIONS, Reason.EXT_HEADER, Reason.BAD_IP})
"""The kernel's stack treats them before a socket sees anything."""
LOCAL_ENDS = frozenset({Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.CONTROL})


class Seen(NamedTuple):
    """One packet's traces."""

    what: What
    """A message came out, reached the node's receiver, neither; or the stack stands in between."""
    reason: Reason | None
    """What the datapath counted; None: it counted nothing."""
    message: bytes = b""
    """That came out, or was received."""
    source: Address | None = None
    target: Address | None = None


def contradiction(packet: bytes, expected: Judgement, seen: Seen) -> str | None:
    """How what was seen contradicts a verdict, in words; None if it does not."""
    reason = expected.reason
    if reason is None or seen.what == "not comparable":
        return None
    if seen.reason is not None and seen.reason != reason:
        return f"{reason.name} expected, {seen.reason.name} counted"
    verdict = VERDICT_OF[reason]
    if verdict in (Verdict.FORWARD, Verdict.RELAY):
        return _sent_on(expected, seen)
    if reason in LOCAL_ENDS:
        return None if seen.what == "passed up" else f"{reason.name} expected, but {_told(seen)}"
    if reason is Reason.FAMILY:
        return None if seen.what == "sent on" else f"the socket should send it on, but {_told(seen)}"
    return None if seen.what == "nothing" else f"{reason.name} expected, but {_told(seen)}"


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
