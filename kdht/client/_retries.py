"""When one request is tried again, by which route and through which node. No I/O and no clock.

**Routes.** Each try carries an `attempt`: 0, 1, 2, ... Every node leaves out so many of the closest next hops. If all
nodes know each other, the routes lead to the owner, the second replica, the third. A try that ends beside the replicas
(NOT_RESPONSIBLE) shows that they are used up: a lap is over, and the best route is next.

**Nodes.** Each try goes through the next living node. If the last node has answered others since, it lives, and a
dead node lies behind it: up to MAX_TRIES_THROUGH_ONE tries take other routes through the same node.

**Waits.** A request waits for an answer until it must be taken for lost (`rto`), and twice as long after each loss.
A hedged one waits only for the usual time (`late`) as long as the hedge budget pays for the next try. After
a refusal the wait is MAX_PAUSE at most, if the tries last. The last try waits until the request's time is over.
"""

from random import Random

from kdht.client._calls import Call
from kdht.client._datagram import MAX_ATTEMPTS, Sent
from kdht.client._hedging import HedgeBudget
from kdht.client._nodes import MAX_RTO, KnownNodes

# As many as lead past two dead replicas and two dead nodes on the way, before the first try counts as lost.
MAX_HEDGES = 5
"""Of one request."""
# More would make a node that answers others, but loses this request, hold it for its whole time.
MAX_TRIES_THROUGH_ONE = 5
"""Tries of one request through one living node. They follow as soon as the first: each takes another route."""
# Each bounce shows another closed port and costs one round trip only. The bound is for a cluster whose tables
# are all wrong at once.
MAX_BOUNCES = 5
"""Tries of one request that end UNREACHABLE and are followed at once by another."""
MAX_PAUSE = 0.5
"""Seconds after a refusal until the next try, at most, unless the tries would not last until the request's time is
over: nothing was lost, and a joining node may be ready by then."""
JITTER = 0.5
"""The longest random addition to a wait, as a part of it."""


class RetryPolicy:
    """Of one request. All times are on the caller's clock, seconds; a deadline is such a time.

    A method that returns a deadline also decides whether a hedge or a retry follows at it (`hedges_next`).
    """

    __slots__ = (
        "_bounces", "_budget", "_call", "_hedges_left", "_losses", "_max_tries", "_nodes", "_rng", "attempt",
        "gives_up", "hedges_next", "laps", "tries",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        nodes: KnownNodes,
        budget: HedgeBudget,
        rng: Random,
        *,
        max_tries: int,
        gives_up: float,
    ) -> None:
        self.attempt = 0
        """The next try's."""
        self.tries = 0
        self.laps = 0
        """How often all replicas were asked."""
        self.hedges_next = False
        """Whether the try after the deadline comes before the last one is lost."""
        self.gives_up = gives_up
        """When the request's time is over."""
        self._call = call
        self._nodes = nodes
        self._budget = budget
        self._rng = rng
        self._max_tries = max_tries
        # Writes are not hedged: if the first try is only slow, each replica pays for another STORE.
        self._hedges_left = MAX_HEDGES if call.hedged else 0
        self._losses = self._bounces = 0

    @property
    def is_used_up(self) -> bool:
        """Whether there may be no more tries."""
        return self.tries >= self._max_tries

    def next_attempt(self) -> int:
        """Count one more try; returns its `attempt`."""
        # A TRACE shows one route, so it does not leave it.
        attempt = self.attempt if self._call.walks_around else 0
        # The field of a message has one byte. No cluster has so many closer nodes that a larger number would
        # lead farther.
        self.attempt = min(self.attempt + 1, MAX_ATTEMPTS)
        self.tries += 1
        return attempt

    # --- When

    def wait(self, start: float, node: int) -> float:
        """The deadline of a try sent to that node at the time `start`."""
        trip = self._nodes.round_trip(node, self._call.op)
        if self.tries >= self._max_tries:
            return self.wait_to_the_end()
        self.hedges_next = self._hedges_left > 0
        # Doubled as TCP does (RFC 6298, 5.5): if the network is full, more of the same makes it worse. A hedge
        # waits less, because its budget bounds the load.
        wait = trip.late if self.hedges_next else min(trip.rto * 2**self._losses, MAX_RTO)
        # Clients that lost packets together must not try again together.
        if self._losses:
            wait *= self._jitter()
        return min(start + wait, self.gives_up)

    def wait_without_hedge(self, start: float, node: int) -> float:
        """The same without a hedge, and there is none any more in this request."""
        self._hedges_left = 0
        return self.wait(start, node)

    def pause(self, now: float, node: int) -> float:
        """The deadline after a refusal, when nothing is under way: as after a loss, but mostly MAX_PAUSE at most."""
        deadline = self.wait_without_hedge(now, node)
        if self.is_used_up:
            return deadline
        # With a long time-out, spread the remaining tries over all of it.
        longest = max(MAX_PAUSE, (self.gives_up - now) / (self._max_tries - self.tries))
        return min(deadline, now + longest * self._jitter())

    def wait_for_the_others(self, now: float, node: int) -> float:
        """How long to wait for answers to tries under way, if no other try is to follow."""
        self._hedges_left, self.hedges_next = 0, False
        return min(now + self._nodes.round_trip(node, self._call.op).rto, self.gives_up)

    def wait_to_the_end(self) -> float:
        self.hedges_next = False
        return self.gives_up

    def _jitter(self) -> float:
        return 1 + self._rng.random() * JITTER

    # --- Whether, and through which node

    def take_hedge(self, node: int) -> bool:
        """Pay for a hedge of a try through that node: those beside a dead node are free. False if there is no budget."""
        # A hedge around a node that is known to be dead replaces a retry, and so costs the cluster nothing
        # more.
        if not (self._nodes[node].dead or self._budget.take()):
            return False
        self._hedges_left -= 1
        return True

    def after_silence(self, last: Sent, *, answered: bool) -> int:
        """The node for the next try, once the deadline has passed; `answered`: the last try has had a reply."""
        lives = (
            not answered
            and self._nodes[last.node].answered_at > last.at
            and self.tries <= MAX_TRIES_THROUGH_ONE
        )
        # The node lives, so a dead one lies behind it: another route helps, and a longer wait does not.
        self._losses += not (self.hedges_next or lives)
        return last.node if lives else self._nodes.after(last.node)

    def pauses_beyond_replicas(self, attempt: int) -> bool:
        """A try with that `attempt` ended NOT_RESPONSIBLE: the best route is next, at once in the first lap.

        The cluster answers, so what was lost in this lap lies behind a dead node: waits grow by laps, not by tries.
        """
        self.attempt = 1 if attempt == 0 else 0
        self.laps += self.attempt == 0
        # What was lost in this lap lies behind a dead node, so the doublings of single tries say nothing about
        # the network.
        self._losses = self.laps
        return self.laps > 1 and self.attempt == 0

    def pauses_after_bounce(self) -> bool:
        """A try ended UNREACHABLE: the first MAX_BOUNCES are followed at once."""
        self._bounces += 1
        return self._bounces > MAX_BOUNCES
