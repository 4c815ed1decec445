"""Which nodes a client may ask beside those that it was given: learnt from the cluster, for when the given ones fail.

A node is asked for contacts near a key that is drawn anew (a TRACE of one hop, padded so that its answer is no longer), from a
second after the first answer on and once a minute while the client is used. At most MAX_LEARNT are kept; one that is asked already keeps its place.
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

MAX_LEARNT = 16
FIRST_AFTER = 1.0
"""Seconds from the first answer: a command that ends at once does not ask."""
AGAIN_AFTER = 60.0

Learnt = Callable[[int, Address], bool]
"""Hears of a node and of its index, before anything is sent there; whether this host can send there at all."""

_ACCEPTS = frozenset({Status.HOPS_ENDED})


def neighbours(rng: Random) -> Call:
    """Asks the entry node for itself, and for as many contacts as the padding has room for."""
    key = rng.randbytes(shared.ID_LEN)
    padding = bytes(shared.CONTACT_LEN * (MAX_LEARNT + 1))
    return Call(Op.TRACE, key, key, padding, hops=1, accepts=_ACCEPTS, walks_around=False)


class Learner:
    """Of one client; `on_learnt` None: it learns nothing."""

    def __init__(self, nodes: KnownNodes, on_learnt: Learnt | None) -> None:
        self._nodes = nodes
        self._on_learnt = on_learnt
        self._known: dict[int, Address] = {}
        self.due_at = inf
        """When to ask."""

    def answered(self, now: float) -> None:
        """A node has answered something, for the first time."""
        if self._on_learnt is not None:
            self.due_at = now + FIRST_AFTER

    def begin(self, now: float) -> None:
        """A node is asked now."""
        self.due_at = now + AGAIN_AFTER

    def learn(self, answer: Answer) -> None:
        """Take the contacts of an untrusted answer; one that cannot be read teaches nothing."""
        try:
            contacts = parse_contacts(answer.body)
        except BadPacket:
            return
        for contact in contacts[: MAX_LEARNT + 1]:
            if contact.address not in self._known.values() and _is_somebody(contact.address):
                self._place(contact.address)

    def _place(self, address: Address) -> None:
        """Give it a free index, or that of one that is dead or was never asked."""
        nodes, first = self._nodes, self._nodes.given
        used = range(first, len(nodes.all))
        node: int | None = len(nodes.all)
        if len(used) >= MAX_LEARNT:
            node = next((each for each in used if nodes[each].dead or not nodes[each].round_trips), None)
        if node is not None and self._on_learnt is not None and self._on_learnt(node, address):
            nodes.learn(node)
            self._known[node] = address


def _is_somebody(address: Address) -> bool:
    """Whether a datagram from another host can be sent there: a link-local address means nothing without its link."""
    ip = ip_address(address.host)
    return bool(address.port) and not (ip.is_unspecified or ip.is_multicast or ip.is_link_local)
