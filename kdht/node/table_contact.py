"""One contact in the routing table, and what is known of it."""

from math import inf

from kdht.node.roundtrip import RoundTrip
from kdht.times import SteadyTime
from kdht.wire import Address, Contact


class TableContact(RoundTrip):
    """A contact in the table, and what is known of it. Times are the node's `now`."""

    __slots__ = (
        "added",
        "answered",
        "clock",
        "contact",
        "demoted",
        "index",
        "missed",
        "misses",
        "number",
        "passed",
        "refuted",
        "seen",
        "told",
        "unreachable",
    )

    def __init__(self, contact: Contact, number: int, index: int, now: SteadyTime) -> None:
        super().__init__()
        self.contact = contact
        self.number = number
        self.index = index
        self.added = now
        self.seen = now
        """The last sign of life, a request of its own included."""
        self.answered = now
        """The last matched reply."""
        self.missed = now
        """When the last missed reply was counted."""
        self.clock: float | None = None
        """Seconds that its clock is ahead of ours, by its last reply; right to a second."""
        self.refuted = -inf
        """When it last answered although ICMP had said that nobody is there."""
        self.misses = 0
        """Replies missed since the last matched one; with it begin anew, too:"""
        self.demoted = False
        """whether it is left out of what is published,"""
        self.unreachable = False
        """whether ICMP said that nobody is there,"""
        self.told = 0
        """how often other nodes said that it does not answer,"""
        self.passed = False
        """and whether this one did."""

    def status(self, now: SteadyTime) -> dict[str, object]:
        """Plain data; ages in seconds."""
        contact = self.contact
        return {
            "id": contact.id.hex(),
            "address": str(Address(contact.ip, contact.port)),
            "age": now - self.added,
            "seen": now - self.seen,
            "rtt_ms": None if self.rtt is None else self.rtt * 1000,
            "clock": self.clock,
            "failures": self.misses,
            "demoted": self.demoted,
        }
