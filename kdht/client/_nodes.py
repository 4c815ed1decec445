"""The nodes of a client: how fast each one answers, and which ones are dead. No I/O and no clock.

A node is dead if its port is closed, or if SILENT_TRIES tries in a row got no answer. New requests then go to
other nodes. A read also asks a dead node again after 1, 2, 4, ... seconds: an answer brings it back to life.
"""

from collections import defaultdict

from kdht.wire._shared import Op

# Seconds, before anything was measured: above the round trips of a site, below what a person notices.
START_LATE = 0.03
# Seconds, before anything was measured: above most round trips between continents.
START_RTO = 0.25
# Seconds. On one machine the scheduler alone delays answers by so much.
MIN_LATE = 0.001
# Seconds. Below, a busy node's pauses would look like losses.
MIN_RTO = 0.02
MAX_RTO = 2.0
"""These five are seconds. START_... hold until the first answer."""
# With fewer the variation of RFC 6298 still depends on its first guess.
ENOUGH_SAMPLES = 8
"""Answers of one node until its own round trips count, instead of those of all nodes."""
# After deaths the variation grew so much that writes waited for up to 0.8 s before they avoided a dead replica.
# A bound by the median does not grow with a few slow answers, and if all get slow it follows.
MEDIANS = 5
MEDIAN_STEP = 1.1
"""Each answer moves the median up or down by this factor (Robbins and Monro, "A Stochastic
Approximation Method", 1951)."""

# At 5 % loss each way about one request in ten has no answer. Three in a row are one in a thousand.
SILENT_TRIES = 3
PORT_TRIES = 2
"""Tries in a row without an answer until the source port is changed. Routers with several ways to an address (ECMP) choose
one by the ports, so another port leads around a dead way, or to another node of an anycast address."""
# A restarted daemon is back within a second or two. A host that is gone must not cost a datagram a second for
# ever.
FIRST_PROBE = 1.0
LAST_PROBE = 30.0
"""The shortest and the longest time until a dead node is asked again, seconds."""

NOBODY: frozenset[int] = frozenset()


class RequestLatency:
    """How long one kind of request takes, seconds, from measured round trips (RFC 6298, section 2).

    `late`: longer than usual, so another try may help. `rto`: taken for lost. It is twice `late`, because a slow request
    should seldom be done twice. It is also at most MEDIANS times the median: if some answers
    wait for a dead node, the variation grows and says nothing, but the median still says how long an answer takes.
    """

    __slots__ = ("_median", "_smoothed", "_variation", "late", "rto", "samples")

    def __init__(self) -> None:
        self.late = START_LATE
        self.rto = START_RTO
        self.samples = 0
        self._smoothed = self._variation = self._median = 0.0

    def sample(self, rtt: float) -> None:
        """Take in one measured round trip, seconds."""
        self.samples += 1
        if self.samples > 1:
            self._variation += (abs(self._smoothed - rtt) - self._variation) / 4
            self._smoothed += (rtt - self._smoothed) / 8
            self._median *= MEDIAN_STEP if rtt > self._median else 1 / MEDIAN_STEP
        else:
            self._smoothed = self._median = rtt
            self._variation = rtt / 2
        usual = self._smoothed + 4 * self._variation
        self.late = min(max(MIN_LATE, usual), MAX_RTO)
        # Writes that wait for a dead replica blow up the variation. The median is not misled by them.
        self.rto = min(max(MIN_RTO, min(2 * usual, MEDIANS * self._median)), MAX_RTO)


class KnownNode:
    """One node: its round trips by op, and whether it seems to live. Times are on the caller's clock, seconds."""

    __slots__ = (
        "answered_at",
        "dead",
        "missed_at",
        "misses",
        "port",
        "probe_at",
        "probe_wait",
        "round_trips",
    )

    def __init__(self) -> None:
        self.round_trips: defaultdict[Op, RequestLatency] = defaultdict(RequestLatency)
        self.misses = 0
        """Tries without an answer since the last answer. Each was sent after the one before was missed: many
        requests that are under way together, behind one dead node, count as one miss."""
        self.missed_at = float("-inf")
        self.answered_at = float("-inf")
        self.dead = False
        self.port = 0
        """How often its source port was changed."""
        self.probe_at = 0.0
        self.probe_wait = FIRST_PROBE


class KnownNodes:
    """All nodes by index: first the `given` ones, then the learnt ones. `current` is asked first."""

    def __init__(self, given: int) -> None:
        self.given = given
        self.all = [KnownNode() for _ in range(given)]
        self.current = 0
        self._usual: defaultdict[Op, RequestLatency] = defaultdict(RequestLatency)
        """Round trips over all nodes: the expectation for a new node."""

    def __getitem__(self, node: int) -> KnownNode:
        return self.all[node]

    def learn(self, node: int) -> None:
        """Give this index to another node: the next free index, or that of an older learnt node."""
        self.all[node : node + 1] = [KnownNode()]

    def after(self, node: int, but: frozenset[int] = NOBODY) -> int:
        """The next living node in the round, perhaps the same one; the next one at all if none lives.

        Learnt nodes come after all given ones. A node in `but` is returned only if no other is left.
        """
        count = len(self.all)
        ring = sorted(range(count), key=lambda each: (each >= self.given, (each - node - 1) % count))
        # With all nodes excluded there is still somebody to ask: the caller decides whether that makes sense.
        left = [each for each in ring if each not in but] or ring
        return next((each for each in left if not self.all[each].dead), left[0])

    def round_trip(self, node: int, op: Op) -> RequestLatency:
        """How long that op takes at that node, or at all nodes until the node has ENOUGH_SAMPLES.

        A node that is only asked after others failed gets the slow requests: its few samples mislead.
        """
        own = self.all[node].round_trips[op]
        return own if own.samples >= ENOUGH_SAMPLES else self._usual[op]

    def answered(self, node: int, op: Op, rtt: float | None, now: float) -> None:
        """A reply came. `rtt` is None if it says nothing about the usual time."""
        known = self.all[node]
        if rtt is not None:
            known.round_trips[op].sample(rtt)
            self._usual[op].sample(rtt)
        known.misses = 0
        known.answered_at = now
        if known.dead:
            # It lives, so its next death is a new one: the long pauses of the last one would keep it out for no
            # reason.
            known.dead, known.probe_wait = False, FIRST_PROBE
            # Given nodes come first: learnt ones are only a last resort.
            if node < self.given <= self.current:
                self.current = node

    def missed(self, node: int, sent: float, now: float) -> None:
        """A try, sent at the time `sent`, got no answer in time: this node is silent, or one behind it."""
        known = self.all[node]
        # Tries under way together, behind one dead node, count once.
        if sent < known.missed_at:
            return
        known.misses += 1
        known.missed_at = now
        if known.misses % PORT_TRIES == 0:
            known.port += 1
        # One lost packet is no death.
        if known.misses >= SILENT_TRIES:
            self.died(node, now)

    def died(self, node: int, now: float) -> None:
        """Count the node as dead."""
        known = self.all[node]
        if not known.dead:
            known.dead, known.probe_at = True, now + known.probe_wait
        # Only new requests follow `current`. Those under way have routes and waits of their own.
        if node == self.current:
            self.current = self.after(node)

    def to_probe(self, now: float) -> int | None:
        """A dead node that is due to be asked again, if there is one; sets when it is due next."""
        for node, known in enumerate(self.all):
            if known.dead and now >= known.probe_at:
                known.probe_wait = min(known.probe_wait * 2, LAST_PROBE)
                known.probe_at = now + known.probe_wait
                return node
        return None
