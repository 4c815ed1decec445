"""What a client knows of the nodes that it may ask: how long they take, which one is dead, what hedges cost,
whether direct answers come, by which way reads go first.

No I/O and no clock. A node is dead when its port is closed, or when SILENT_TRIES tries in a row had no
answer; then it is left out, and asked again beside another request after 1, 2, 4, ... seconds.
"""

from collections import defaultdict
from random import Random

from kdht.client._datagram import Sent
from kdht.wire._shared import Op

START_LATE = 0.03
START_RTO = 0.25
MIN_LATE = 0.001
MIN_RTO = 0.02
MAX_RTO = 2.0
ENOUGH_SAMPLES = 8
MEDIANS = 5
MEDIAN_STEP = 1.1
"""The factor by which each answer moves the median that is kept, up or down (Robbins and Monro, "A Stochastic
Approximation Method", 1951)."""

SILENT_TRIES = 3
FIRST_PROBE = 1.0
LAST_PROBE = 30.0
"""The shortest and the longest time after which a dead node is asked again, seconds."""

DIRECT_MISSES = 3
DIRECT_PAUSE = 60.0
"""Seconds."""
MAX_MISSED = 256

MAX_WAYS = 3
"""By so many ways the reads of a client that spreads them go: the replicas that a cluster has by default."""

NOBODY: frozenset[int] = frozenset()

HEDGE_SHARE = 0.1
"""What every request adds to the hedges that may be sent."""
HEDGE_BURST = 64.0


class RoundTrip:
    """How long one kind of request takes, seconds, from measured round trips (RFC 6298, section 2).

    `late`: the usual latency is passed, another try may help. `rto`, twice that, for what is only slow should
    seldom be done twice: it is time to take it for lost. It is at most `MEDIANS` times the median: where some of the
    answers wait for somebody dead, the others still say how long one takes, and the variation says nothing.
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
        self.rto = min(max(MIN_RTO, min(2 * usual, MEDIANS * self._median)), MAX_RTO)


class Entry:
    """One node: its round trips by op, and whether it lives as far as is known."""

    __slots__ = ("answered_at", "dead", "missed_at", "misses", "probe_at", "probe_wait", "round_trips")

    def __init__(self) -> None:
        self.round_trips: defaultdict[Op, RoundTrip] = defaultdict(RoundTrip)
        self.misses = 0
        """Tries without an answer since the last one with, each sent after the one before was missed:
        of requests under way together those behind one dead node are missed together."""
        self.missed_at = float("-inf")
        self.answered_at = float("-inf")
        self.dead = False
        self.probe_at = 0.0
        self.probe_wait = FIRST_PROBE


class Entries:
    """All of them, the `given` ones first, then those that were learnt; `current` is the one that the next request asks first."""

    def __init__(self, given: int) -> None:
        self.given = given
        self.all = [Entry() for _ in range(given)]
        self.current = 0
        self._usual: defaultdict[Op, RoundTrip] = defaultdict(RoundTrip)
        """At all of them: what is expected of one that was not asked before."""

    def __getitem__(self, node: int) -> Entry:
        return self.all[node]

    def learn(self, node: int) -> None:
        """Another node has this index now, the next free one or that of one that was learnt before."""
        self.all[node : node + 1] = [Entry()]

    def after(self, node: int, but: frozenset[int] = NOBODY) -> int:
        """The next living node in the round, which may be the same; the next one if none lives.

        One that was learnt has its turn where none of the given ones lives; one of `but` where nobody else is left.
        """
        count = len(self.all)
        ring = sorted(range(count), key=lambda each: (each >= self.given, (each - node - 1) % count))
        left = [each for each in ring if each not in but] or ring
        return next((each for each in left if not self.all[each].dead), left[0])

    def round_trip(self, node: int, op: Op) -> RoundTrip:
        """How long that takes there, or as long as little is known, at all of them.

        A node that is only asked where others failed is asked for what takes long.
        """
        own = self.all[node].round_trips[op]
        return own if own.samples >= ENOUGH_SAMPLES else self._usual[op]

    def answered(self, node: int, op: Op, rtt: float | None, now: float) -> None:
        """A reply came; `rtt` None where it tells nothing of the usual time."""
        entry = self.all[node]
        if rtt is not None:
            entry.round_trips[op].sample(rtt)
            self._usual[op].sample(rtt)
        entry.misses = 0
        entry.answered_at = now
        if entry.dead:
            entry.dead, entry.probe_wait = False, FIRST_PROBE
            if node < self.given <= self.current:
                self.current = node

    def missed(self, node: int, sent: float, now: float) -> None:
        """A try, of the time `sent`, had no answer in time: the node's fault, or that of one behind it."""
        entry = self.all[node]
        if sent < entry.missed_at:
            return
        entry.misses += 1
        entry.missed_at = now
        if entry.misses >= SILENT_TRIES:
            self.died(node, now)

    def died(self, node: int, now: float) -> None:
        """It is dead, as far as can be seen."""
        entry = self.all[node]
        if not entry.dead:
            entry.dead, entry.probe_at = True, now + entry.probe_wait
        if node == self.current:
            self.current = self.after(node)

    def to_probe(self, now: float) -> int | None:
        """A dead node that it is time to ask again; each is named once in its time."""
        for node, entry in enumerate(self.all):
            if entry.dead and now >= entry.probe_at:
                entry.probe_wait = min(entry.probe_wait * 2, LAST_PROBE)
                entry.probe_at = now + entry.probe_wait
                return node
        return None


class DirectAnswers:
    """Whether to ask for answers from any node's address, if that is `allowed` at all.

    Through a NAT or a stateful firewall they do not come: after DIRECT_MISSES tries in a row without one, each sent after the
    one before was missed, none is asked for during DIRECT_PAUSE, unless one of them comes after all: then all is only slow.
    """

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._misses = 0
        self._missed_at = float("-inf")
        self._again_at = float("-inf")
        self._asked: dict[int, int] = {}
        """The node that was asked, by the number of the request, of the last tries that were missed."""

    def wanted(self, now: float) -> bool:
        return self._allowed and now >= self._again_at

    def answered(self) -> None:
        """One came from another node than was asked: what that one has itself says nothing."""
        self._misses = 0
        self._again_at = float("-inf")
        self._asked.clear()

    def came_late(self, number: int, node: int) -> None:
        """A datagram for a request that has ended, if it is one of those missed."""
        if self._asked.get(number, node) != node:
            self.answered()

    def missed(self, number: int, sent: Sent, now: float) -> None:
        """A try of the request of that number had no answer in time."""
        if len(self._asked) == MAX_MISSED:
            del self._asked[next(iter(self._asked))]
        self._asked[number] = sent.node
        if sent.at < self._missed_at:
            return
        self._misses, self._missed_at = self._misses + 1, now
        if self._misses >= DIRECT_MISSES:
            self._misses, self._again_at = 0, now + DIRECT_PAUSE


class HedgeBudget:
    """A token bucket: hedges are at most HEDGE_SHARE of the requests, beyond a burst.

    A hedge that brought the answer is paid back: it did what a retry would have done, only earlier.
    So dead nodes do not use the budget up, and an overloaded cluster, whose answers come late, does.
    """

    def __init__(self) -> None:
        self.tokens = HEDGE_BURST

    def request(self) -> None:
        self.tokens = min(self.tokens + HEDGE_SHARE, HEDGE_BURST)

    def take(self) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def pay_back(self, count: int) -> None:
        self.tokens = min(self.tokens + count, HEDGE_BURST)


class ReadWays:
    """By which way the first try of a read goes: the best one, or where they are `spread` any that leads to a replica."""

    def __init__(self, spread: bool) -> None:
        self._count = MAX_WAYS if spread else 1

    def draw(self, rng: Random) -> int:
        return rng.randrange(self._count) if self._count > 1 else 0

    def ended_at(self, way: int) -> None:
        """That way leads to none: the key has fewer replicas."""
        self._count = max(min(self._count, way), 1)
