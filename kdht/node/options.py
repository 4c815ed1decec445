"""What can be tuned in a node: every number that is no part of the protocol, with its bounds."""

from dataclasses import dataclass

from kdht._shared import K


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
    max_lookups: int = 4
    """Lookups that run at the same time; others wait, in order."""

    # Answers that do not come
    first_timeout: float = 1.0
    """Before the round-trip time is known."""
    min_timeout: float = 0.2
    max_timeout: float = 5.0
    tries: int = 2
    """Transmissions of a request before it counts as unanswered."""
    probe_tries: int = 3
    """The same when a contact is under suspicion."""
    max_misses: int = 6
    """Answers missed in a row, each to a later request, after which a contact is out."""

    # What is done without being asked
    neighbours: int = 8
    """How many of the closest contacts are probed often."""
    neighbour_interval: float = 12.0
    contact_interval: float = 300.0
    """Between probes of each other contact."""
    quiet: float = 60.0
    """A full bucket's oldest contact is pinged for a newcomer if it was not heard for so long."""
    refresh_interval: float = 3600.0
    """After which a bucket without a lookup gets one."""
    repair_delay: float = 10.0
    """Before a bucket that lost a contact, and has no replacement, is refreshed."""
    rejoin_first: float = 1.0
    """Before the second try to join; doubles up to `rejoin_last`."""
    rejoin_last: float = 60.0
    reunion_interval: float = 60.0
    """Between pings of an address that left the table or never came in, against split clusters."""
    jitter: float = 0.25
    """Intervals are varied by this fraction either way, so that nodes do not act in step."""

    # Bounds
    max_pending: int = 256
    """Requests that wait for an answer, or to be sent."""
    max_verifying: int = 256
    """Newcomers that wait to be pinged."""
    parallel_verifying: int = 8
    """Newcomers that are being pinged."""
    refusal_time: float = 60.0
    """How long an address that did not answer is left alone, whoever recommends it."""
    request_rate: float = 200.0
    reply_rate: float = 1000.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= K:
            raise ValueError(f"a bucket holds 1 to {K} contacts, not {self.k}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"the jitter is a fraction below 1, not {self.jitter}")
        low = [name for name in _POSITIVE if getattr(self, name) <= 0]
        if low:
            raise ValueError(f"{', '.join(low)}: must be above zero")


_POSITIVE = tuple(name for name in Options.__slots__ if name not in ("jitter", "replacements", "quiet"))
