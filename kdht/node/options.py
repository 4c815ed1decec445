"""What can be tuned in a node: every number that is no part of the protocol, with its bounds."""

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
    """Nodes that keep a key: while fewer others live, the dead are remembered."""
    max_lookups: int = 4
    """Lookups that run at the same time; others wait, in order."""

    # Answers that do not come
    first_timeout: float = 1.0
    """Before the round-trip time is known."""
    min_timeout: float = 0.2
    max_timeout: float = 5.0
    tries: int = 2
    """Transmissions of a request before it counts as unanswered."""

    # Whether a contact still lives
    probe_interval: float = 0.8
    """Between probes of the next in the ring: so often is each node asked by somebody."""
    probe_jitter: float = 0.1
    """Probes have a `jitter` of their own: the time until a death is seen hangs on it."""
    discovery_interval: float = 6.0
    """Between questions to one of the ring, in turn, for whoever is close to this node."""
    neighbours: int = 8
    """So many of the closest contacts are asked that at least, also where the ring is smaller."""
    contact_interval: float = 300.0
    """After which any contact that did not answer meanwhile is probed."""
    probe_timeout: float = 0.05
    """A probe's first time-out is at least this, on however fast a network."""
    probe_spacing: float = 0.1
    """Between a probe's further pings, unless the round-trip time asks for more."""
    announced_misses: int = 3
    """Answers missed in a row, each to a later ping, after which other nodes are told."""
    demoted_misses: int = 4
    """The same, after which the datapaths are told."""
    max_misses: int = 8
    """The same, after which the contact is out."""
    unreachable_misses: int = 4
    """The same if ICMP said that nobody is there."""
    unreachable_grace: float = 5.0
    """How long ICMP is not believed about a contact that answered in spite of it."""
    just_answered: float = 0.1
    """Who answered so short a while ago is not asked again because somebody says that it is dead."""
    sweep_interval: float = 2.0
    """At least so long between two probes of the whole ring at once, which a death leads to."""
    unhurried: float = 0.6
    """Seconds over which nodes spread, at random, what they tell others of a closed port and ask because of it."""
    told_enough: int = 2
    """Who was told so often of a closed port before its own turn says nothing (RFC 6206, section 4.2)."""
    told: int = 40
    """Contacts, those closest to a dead one, that are told of it."""
    gossip: int = 4
    """Contacts that are told by one who was told."""

    # What is done without being asked
    quiet: float = 60.0
    """A full bucket's oldest contact is pinged for a candidate if it was not heard for so long."""
    refresh_interval: float = 3600.0
    """After which a bucket without a lookup gets one."""
    repair_delay: float = 10.0
    """Before a bucket that lost a contact, and has no replacement, is refreshed."""
    rejoin_first: float = 1.0
    """Before the second try to join; doubles up to `rejoin_last`."""
    rejoin_last: float = 60.0
    reunion_interval: float = 60.0
    """Between pings of an address that left the table or never came in, against split clusters."""
    revival_first: float = 1.0
    """Before a contact that fell silent is asked again; doubles."""
    revivals: int = 6
    """How often it is."""
    warm_time: float = 10.0
    """After so long a table counts as warm, whatever lookups are still under way."""
    lonely_time: float = 20.0
    """After so long a node that had contacts and finds none is taken for the only one left."""
    jitter: float = 0.25
    """Intervals are varied by this fraction either way, so that nodes do not act in step."""

    # Members that cannot be reached
    doubt_interval: float = 0.5
    """Between questions whether a member that this node cannot reach is still there."""
    doubt_expiry: float = 30.0
    """After which it counts no more, unless it was named again."""
    stranger_patience: float = 4.0
    """Before a newcomer that reaches no more of its neighbours than it does not stands aside,"""
    newcomer_patience: float = 6.0
    """before another newcomer does,"""
    member_bar: float = 8.0
    """before a node that was ready takes no more writes,"""
    member_patience: float = 12.0
    """and before it stands aside: newcomers do so long before."""
    aside_interval: float = 10.0
    """Between questions of one that stands aside."""
    aside_time: float = 30.0
    """At least so long it does."""
    met_time: float = 300.0
    """How long a node that wrote to us counts as one that can be reached."""

    # Bounds
    max_pending: int = 256
    """Requests that wait for an answer, or to be sent."""
    max_verifying: int = 256
    """Candidates that wait to be pinged."""
    parallel_verifying: int = 8
    """Candidates that are being pinged."""
    refusal_time: float = 60.0
    """How long an address that did not answer is left alone, whoever recommends it."""
    probe_rate: float = 200.0
    """Probes have a rate of their own, so that nothing else can make live contacts look dead;"""
    request_rate: float = 200.0
    """all other requests: lookups, refreshes, candidates;"""
    notice_rate: float = 300.0
    """what has no answer: SUSPECT and LEAVE;"""
    suspect_rate: float = 50.0
    """probes that other nodes' SUSPECT leads to;"""
    reply_rate: float = 1000.0
    """answers."""

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
