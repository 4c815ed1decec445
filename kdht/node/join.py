"""How a node finds its cluster, and finds it again.

    alone --- a bootstrap address or former contact answers ---> looks up its own ID ---> joined ---> refreshes far buckets
      ^                                                                                     |
      '------------------------------- the table is empty again ----------------------------'

Until it has joined, a node pings the bootstrap addresses and former contacts, with growing delays. Once a lookup of its
own ID has found others, it has joined, and refreshes the farther buckets (Kademlia, section 2.3). A node without
bootstrap addresses whose former contacts are silent is the first of its cluster.

Addresses that should be members and are not are pinged now and then. So a cluster that was cut in two finds together.

The table is warm once those lookups have ended, or after a while. An empty table is warm if the node never knew any
other. Otherwise the node may be the first one back after a restart of the cluster, and waits longer.
"""

from collections.abc import Sequence

from kdht.node._timers import Alarm
from kdht.node.cluster import ClusterState
from kdht.node.context import NodeContext, leave_to_table
from kdht.node.events import Isolated, Joined
from kdht.node.readiness import JOINED, TABLE
from kdht.node.refresh import Refresher
from kdht.node.search import Searches
from kdht.times import SteadyTime
from kdht.wire import Address, Contact
from kdht.wire._shared import Op

# Enough to find a cluster of which most nodes are gone. Each is pinged at every try.
MAX_FORMER = 32
"""Addresses of former contacts that are remembered."""


class Joiner:
    """The way into the cluster."""

    def __init__(
        self, context: NodeContext, searches: Searches, refresher: Refresher, cluster: ClusterState
    ) -> None:
        self.joined = False
        self._context = context
        self._cluster = cluster
        self._searches = searches
        self._refresher = refresher
        self._bootstrap: tuple[Address, ...] = ()
        self._former: dict[Address, None] = {}
        self._delay = 0.0
        self._retry: Alarm | None = None
        self._reunion: Alarm | None = None
        self._searching = False
        self._tried = False
        self._suspended = False
        self._warmth: Alarm | None = None
        context.readiness.require(JOINED)
        context.readiness.require(TABLE)

    def start(self, bootstrap: Sequence[Address], now: SteadyTime) -> None:
        """Join through these addresses; again, if they are others now. Who has joined asks those it lacks."""
        context = self._context
        wanted = dict.fromkeys(bootstrap)
        self._bootstrap = tuple(a for a in wanted if a not in context.own and context.source(a) is not None)
        if self._bootstrap and not len(context.table):
            self._is_apart()  # it took itself for the first of its cluster
        self._delay = context.options.rejoin_first
        self._cancel_retry()
        if self.joined:
            for address in self._missing(self._bootstrap):
                self._ask_for_neighbours(address, now)
        self._try(now)
        if self._reunion is None:
            self._reunite_later(now)

    def remember(self, address: Address) -> None:
        """Someone who was, or may be, a member."""
        self._former.pop(address, None)
        self._former[address] = None
        if len(self._former) > MAX_FORMER:
            del self._former[next(iter(self._former))]

    def suspend(self) -> None:
        """This node has left, and is to be started anew before it joins again."""
        self._suspended = True
        self._is_apart()
        self._cancel_retry()

    @property
    def asked(self) -> list[Address]:
        """Whom a node asks that has not joined."""
        return [] if self.joined else list({**dict.fromkeys(self._bootstrap), **self._former})

    def added(self, contact: Contact, now: SteadyTime) -> None:
        """A contact came into the table."""
        self._former.pop(contact.address, None)
        # A new contact may know nodes closer to this one, which the last lookup missed.
        # Later the refreshes find such nodes.
        if TABLE in self._context.readiness.missing:
            self._look_around(now)

    def removed(self, now: SteadyTime) -> None:
        """A contact left the table."""
        # Without any address to ask, this node is its cluster.
        if len(self._context.table) or not self.joined or not (self._bootstrap or self._former):
            return
        self._tried = False
        self._is_apart()
        self._context.events.append(Isolated())
        self._delay = self._context.options.rejoin_first
        self._try_later(now)

    def _try(self, now: SteadyTime) -> None:
        """Ping all that may know the cluster, or look around if somebody is there already."""
        self._retry = None
        if self.joined or self._suspended:
            return
        if len(self._context.table):
            self._look_around(now)
        elif self._bootstrap or (self._former and not self._tried):
            for address in {**dict.fromkeys(self._bootstrap), **self._former}:
                self._context.ping(address, None, leave_to_table, now)
            self._tried = True
        else:
            self._be_joined()
            # Silent former contacts may be starting too: wait before this is a cluster of its own.
            self._warm_after(self._context.options.lonely_time if self._former else 0.0, now)
            return
        self._try_later(now)

    def _try_later(self, now: SteadyTime) -> None:
        options = self._context.options
        self._cancel_retry()
        self._retry = self._context.timers.at(now + self._context.jittered(self._delay), self._try)
        self._delay = min(2 * self._delay, options.rejoin_last)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._context.timers.cancel(self._retry)
            self._retry = None

    def _look_around(self, now: SteadyTime) -> None:
        if not self._searching:
            self._searching = True
            self._searching = (
                # A lookup in an empty table ends before `start` returns. Then it is over, and not under way.
                self._searches.start(self._context.id, self._looked_around, now) and self._searching
            )

    def _looked_around(self, closest: list[Contact], now: SteadyTime) -> None:
        self._searching = False
        # Nobody answered: this is no join. The retry goes on.
        if not closest or self._suspended:
            return
        if not self.joined:
            self._be_joined()
        # At the latest then: slow lookups must not keep a node out of service for ever.
        self._warm_after(self._context.options.warm_time, now)
        self._refresher.farther(now, self._be_warm)

    def _be_joined(self) -> None:
        self.joined = True
        self._cluster.found()
        self._context.events.append(Joined(len(self._context.table)))
        self._context.readiness.reached(JOINED)

    def _is_apart(self) -> None:
        self.joined = False
        self._context.readiness.require(JOINED)
        self._context.readiness.require(TABLE)

    def _warm_after(self, seconds: float, now: SteadyTime) -> None:
        """The table is warm then at the latest."""
        if self._warmth is not None:
            self._context.timers.cancel(self._warmth)
        if seconds:
            self._warmth = self._context.timers.at(now + seconds, self._be_warm)
        else:
            self._be_warm(now)

    def _be_warm(self, now: SteadyTime) -> None:
        if self.joined:
            # Only a warm table has wide buckets: before that, any bucket might seem to lack closer nodes.
            self._context.table.warm = True
            self._refresher.widen(now)
            self._context.readiness.reached(TABLE)

    def _reunite(self, now: SteadyTime) -> None:
        """Ask one of the missing for whoever is close to this node."""
        # Kademlia leaves a divided cluster divided. One address of the other half joins them again.
        missing = self._missing((*self._bootstrap, *self._former))
        if missing and self.joined:
            self._ask_for_neighbours(self._context.rng.choice(missing), now)
        self._reunite_later(now)

    def _missing(self, addresses: Sequence[Address]) -> list[Address]:
        return [address for address in addresses if self._context.table.at(address) is None]

    def _ask_for_neighbours(self, address: Address, now: SteadyTime) -> None:
        context = self._context
        context.ask(Op.FIND_NODE, context.id, address, None, leave_to_table, now, tries=1)

    def _reunite_later(self, now: SteadyTime) -> None:
        when = now + self._context.jittered(self._context.options.reunion_interval)
        self._reunion = self._context.timers.at(when, self._reunite)
