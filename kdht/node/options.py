"""The options of a node: every number that is not part of the protocol, with its bounds."""

from dataclasses import dataclass

from kdht.wire._shared import K


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are seconds, rates datagrams per second. Raises ValueError for what cannot work."""

    # The table and the lookups
    k: int = K
    """Contacts in a bucket, and in the result of a lookup: 1 to 20."""
    alpha: int = 3
    """Queries of one lookup that are under way at the same time."""
    replacements: int = 8
    """Contacts of a full bucket that wait for a place."""
    replicas: int = 3
    """Nodes that keep a key. While fewer others live, the dead are remembered."""
    max_lookups: int = 4
    """Lookups that run at the same time; others wait, in order."""

    # Missing answers
    first_timeout: float = 1.0
    """Time-out while the round-trip time is unknown."""
    min_timeout: float = 0.2
    max_timeout: float = 5.0
    tries: int = 2
    """Transmissions of a request before it counts as unanswered."""

    # Whether a contact still lives
    # A death is noticed within this time and the 0.75 s until its contact is removed. Together that is less
    # than the two seconds that docs/design/failures.md promises.
    probe_interval: float = 0.8
    """Between probes of the next node in the ring. So each node is probed once in this time."""
    probe_jitter: float = 0.1
    """Probes have a `jitter` of their own, because the time until a death is seen depends on it."""
    discovery_interval: float = 6.0
    """Between questions to the nodes of the ring, in turn, for nodes close to this one."""
    # A ring of two or three nodes could miss a newcomer that only farther nodes know.
    neighbours: int = 8
    """At least so many of the closest contacts are asked, even if the ring is smaller."""
    contact_interval: float = 300.0
    """A contact that did not answer for so long is probed."""
    probe_timeout: float = 0.05
    """The first time-out of a probe is at least this, however fast the network is."""
    probe_spacing: float = 0.1
    """Between a probe's further pings, unless the round-trip time asks for more."""
    # At 5 % loss in each direction 9.8 % of pings have no answer. With eight misses a live contact is removed
    # once in 10^8 probes, with four it is demoted for a tenth of a second once in 10^4.
    announced_misses: int = 3
    """Answers missed in a row, each to a later ping, until other nodes are told,"""
    demoted_misses: int = 4
    """until the contact is demoted,"""
    max_misses: int = 8
    """and until it is removed;"""
    # Fewer than without an ICMP error, because two signs speak for a death.
    unreachable_misses: int = 4
    """until it is removed, if an ICMP error came."""
    unreachable_grace: float = 5.0
    """ICMP errors for a contact that answered in spite of one are ignored for so long."""
    just_answered: float = 0.1
    """A contact that answered within this time is not probed because others say that it is dead."""
    sweep_interval: float = 2.0
    """At least so long between two probes of the whole ring. A death leads to one."""
    unhurried: float = 0.6
    """Nodes spread their notices and probes because of a closed port over this time, at random."""
    told_enough: int = 2
    """A node that was told so often of a closed port before its own turn stays silent (RFC 6206, section 4.2)."""
    # As many as a wide bucket holds: all nodes that may share a key with the dead one.
    told: int = 40
    """The contacts closest to a dead one that are told of it."""
    gossip: int = 4
    """Contacts that a node tells after it was told itself."""

    # Regular work
    quiet: float = 60.0
    """If a full bucket has a candidate, its oldest contact is pinged unless it was heard within this time."""
    refresh_interval: float = 3600.0
    """A bucket without a lookup for so long gets one."""
    repair_delay: float = 10.0
    """Until a bucket that lost a contact, and has no replacement, is refreshed."""
    # Soon at first: nodes of a new cluster start within seconds of each other.
    rejoin_first: float = 1.0
    """Until the second try to join; doubles up to `rejoin_last`."""
    rejoin_last: float = 60.0
    reunion_interval: float = 60.0
    """Between pings of an address that left the table or never entered it, against split clusters."""
    revival_first: float = 1.0
    """Until a contact that fell silent is asked again; doubles."""
    revivals: int = 6
    """How often it is asked again."""
    warm_time: float = 10.0
    """After so long a table counts as warm, even if lookups are still under way."""
    # After a restart of all nodes the first one back must not take itself for the whole cluster.
    lonely_time: float = 20.0
    """A node that had contacts and finds none for so long takes itself for the only one left."""
    jitter: float = 0.25
    """Intervals are varied by this fraction either way, so that nodes do not act in step."""

    # Members that cannot be reached
    doubt_interval: float = 0.5
    """Between questions whether an unreachable member still lives."""
    doubt_expiry: float = 30.0
    """A doubt ends after so long, unless the member was named again."""
    stranger_patience: float = 4.0
    """Until a newcomer stands aside that reaches at most half of its neighbours,"""
    newcomer_patience: float = 6.0
    """until another newcomer does,"""
    # Longer than a newcomer's patience: one with wrong addresses goes before the members stop serving.
    member_bar: float = 8.0
    """until a node that was ready takes no more writes,"""
    member_patience: float = 12.0
    """and until it stands aside. Newcomers do so long before."""
    aside_interval: float = 10.0
    """Between questions of a node that stands aside."""
    aside_time: float = 30.0
    """A node stands aside for at least so long."""
    met_time: float = 300.0
    """A member that wrote to this node counts as reachable for so long."""

    # Bounds
    max_pending: int = 256
    """Requests that wait for an answer, or to be sent."""
    max_verifying: int = 256
    """Candidates that wait to be pinged."""
    parallel_verifying: int = 8
    """Candidates that are being pinged."""
    first_refusal: float = 1.0
    """A candidate's address that did not answer is left alone for so long, even if others name it. Twice as long each time,"""
    refusal_time: float = 60.0
    """and at most so long. That of a member that fell silent or left is left alone for all of it at once."""
    # Each kind of message has a rate of its own. A flood of lookups must not make live contacts look dead.
    probe_rate: float = 200.0
    """Rate of probes. It is their own, so that no other traffic makes live contacts look dead."""
    request_rate: float = 200.0
    """Rate of all other requests: lookups, refreshes, candidates."""
    notice_rate: float = 300.0
    """Rate of messages without an answer: SUSPECT, MEET and LEAVE."""
    suspect_rate: float = 50.0
    """Rate of probes that SUSPECT of other nodes leads to."""
    reply_rate: float = 1000.0
    """Rate of answers."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= K:
            raise ValueError(f"a bucket holds 1 to {K} contacts, not {self.k}")
        for jitter in (self.jitter, self.probe_jitter):
            if not 0 <= jitter < 1:
                raise ValueError(f"the jitter is a fraction below 1, not {jitter}")
        low = [name for name in _POSITIVE if getattr(self, name) <= 0]
        if low:
            raise ValueError(f"{', '.join(low)}: must be above zero")


_MAY_BE_ZERO = (
    "jitter",
    "probe_jitter",
    "replacements",
    "quiet",
    "just_answered",
    "gossip",
    "revivals",
    "unreachable_grace",
)
_POSITIVE = tuple(name for name in Options.__slots__ if name not in _MAY_BE_ZERO)
