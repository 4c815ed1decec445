"""One contact in the routing table."""

from math import inf

from kdht.node._roundtrip import RoundTrip
from kdht.times import SteadyTime
from kdht.wire import Address, Contact


class TableContact(RoundTrip):
    """A contact in the table, and what is known of it. All times are steady times."""

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
        """The time of the last message from it, its own requests included."""
        self.answered = now
        """The time of the last matched reply."""
        self.missed = now
        """When the last missed reply was counted."""
        self.clock: float | None = None
        """Seconds that its clock is ahead of this node's, by its last reply, right to a second."""
        self.refuted = -inf
        """The time of its last answer in spite of an ICMP error."""
        self.misses = 0
        """Replies missed since the last matched one. That one resets these fields too:"""
        self.demoted = False
        """whether its bucket is published without it,"""
        self.unreachable = False
        """whether an ICMP error came for it,"""
        self.told = 0
        """the number of SUSPECT messages about it,"""
        self.passed = False
        """and whether this node passed one on."""

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
