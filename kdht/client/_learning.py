"""Addresses of other nodes, learnt from the cluster: the client asks them if none of the given nodes answers.

A client asks for contacts near a random key FIRST_AFTER seconds after its first answer, and then every AGAIN_AFTER
seconds while it is used. It sends a TRACE of one hop, padded so that the answer is not longer than the request. It
keeps at most MAX_LEARNT nodes. A new one takes the place of a dead one, or of one that was never asked.
"""

from collections.abc import Callable
from ipaddress import ip_address
from math import inf
from random import Random

from kdht.client._calls import Answer, Call
from kdht.client._nodes import KnownNodes
from kdht.errors import BadPacket
from kdht.wire import Address, parse_contacts
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

# They are a last resort. More would mean more sockets, and a larger answer than a request may ask for without a
# cookie.
MAX_LEARNT = 16
FIRST_AFTER = 1.0
"""Seconds after the first answer: a command that ends at once does not ask."""
# Nodes come and go in minutes. A request a minute is nothing beside the client's own.
AGAIN_AFTER = 60.0
"""Seconds."""

Learnt = Callable[[int, Address], bool]
"""Is told a node's index and address before anything is sent there. Returns whether this host can send there."""

_ACCEPTS = frozenset({Status.HOPS_ENDED})


def neighbours(rng: Random) -> Call:
    """A request for the entry node's contact, and for as many others as the padding has room for."""
    key = rng.randbytes(shared.ID_LEN)
    # Without a cookie an answer is never longer than its request.
    padding = bytes(shared.CONTACT_LEN * (MAX_LEARNT + 1))
    return Call(Op.TRACE, key, key, padding, hops=1, accepts=_ACCEPTS, walks_around=False)


class Learner:
    """Of one client. With `on_learnt` None it learns nothing."""

    def __init__(self, nodes: KnownNodes, on_learnt: Learnt | None) -> None:
        self._nodes = nodes
        self._on_learnt = on_learnt
        self._known: dict[int, Address] = {}
        self.due_at = inf
        """When to ask, on the caller's clock, seconds."""

    def answered(self, now: float) -> None:
        """The client got its first answer."""
        if self._on_learnt is not None:
            self.due_at = now + FIRST_AFTER

    def begin(self, now: float) -> None:
        """A node is being asked now."""
        self.due_at = now + AGAIN_AFTER

    def learn(self, answer: Answer) -> None:
        """Take the contacts from an untrusted answer. No-op if it cannot be parsed."""
        try:
            contacts = parse_contacts(answer.body)
        except BadPacket:
            return
        for contact in contacts[: MAX_LEARNT + 1]:
            # The answer is untrusted: any address in it would get datagrams from this host.
            if contact.address not in self._known.values() and _is_somebody(contact.address):
                self._place(contact.address)

    def _place(self, address: Address) -> None:
        """Give it a free index, or the index of a dead or unused node."""
        nodes, first = self._nodes, self._nodes.given
        used = range(first, len(nodes.all))
        node: int | None = len(nodes.all)
        # A node that has answered is worth more than a new name.
        if len(used) >= MAX_LEARNT:
            node = next((each for each in used if nodes[each].dead or not nodes[each].round_trips), None)
        if node is not None and self._on_learnt is not None and self._on_learnt(node, address):
            nodes.learn(node)
            self._known[node] = address


def _is_somebody(address: Address) -> bool:
    """Whether another host could send there. A link-local address means nothing without its link."""
    ip = ip_address(address.host)
    return bool(address.port) and not (ip.is_unspecified or ip.is_multicast or ip.is_link_local)
