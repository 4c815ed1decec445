"""How a node finds its cluster, and finds it again.

Contract: until it has joined, the bootstrap addresses and former contacts are pinged, with a
growing delay; the first contact in the table starts a lookup of the own ID, and when that
found anybody the node has joined and refreshes the farther buckets (Kademlia, section 2.3).
A node without bootstrap addresses, whose former contacts are silent, is the first of its cluster. An emptied table begins all anew.
Addresses that should be members and are not are asked now and then, so a cluster that was
cut in two finds together again.
"""

from collections.abc import Sequence

from kdht._shared import Op
from kdht.node.context import Context
from kdht.node.events import Isolated, Joined
from kdht.node.messages import Reply
from kdht.node.refresh import Refresher
from kdht.node.rpc import Rpc
from kdht.node.search import Searches
from kdht.node.timers import Alarm
from kdht.wire import Address, Contact

MAX_FORMER = 32
"""Addresses of former contacts that are remembered."""


class Joiner:
    """The way into the cluster."""

    def __init__(self, context: Context, searches: Searches, refresher: Refresher) -> None:
        self.joined = False
        self._context = context
        self._searches = searches
        self._refresher = refresher
        self._bootstrap: tuple[Address, ...] = ()
        self._former: dict[Address, None] = {}
        self._delay = 0.0
        self._retry: Alarm | None = None
        self._reunion: Alarm | None = None
        self._searching = False
        self._tried = False

    def start(self, bootstrap: Sequence[Address], now: float) -> None:
        """Join through these addresses; again, if they are others now."""
        context = self._context
        wanted = dict.fromkeys(bootstrap)
        self._bootstrap = tuple(a for a in wanted if a not in context.own and context.source(a) is not None)
        if self._bootstrap and not len(context.table):
            self.joined = False  # it took itself for the first of its cluster
        self._delay = context.options.rejoin_first
        self._cancel_retry()
        self._try(now)
        if self._reunion is None:
            self._reunite_later(now)

    def remember(self, address: Address) -> None:
        """Someone who was, or may be, a member."""
        self._former.pop(address, None)
        self._former[address] = None
        if len(self._former) > MAX_FORMER:
            del self._former[next(iter(self._former))]

    def added(self, contact: Contact, now: float) -> None:
        """A contact came into the table."""
        self._former.pop(contact.address, None)
        if not self.joined:
            self._look_around(now)

    def removed(self, now: float) -> None:
        """A contact left the table."""
        if len(self._context.table) or not self.joined or not (self._bootstrap or self._former):
            return
        self.joined = self._tried = False
        self._context.events.append(Isolated())
        self._delay = self._context.options.rejoin_first
        self._try_later(now)

    def _try(self, now: float) -> None:
        """Ping all that may know the cluster, or look around if somebody is there already."""
        self._retry = None
        if self.joined:
            return
        if len(self._context.table):
            self._look_around(now)
        elif self._bootstrap or (self._former and not self._tried):
            for address in {**dict.fromkeys(self._bootstrap), **self._former}:
                self._context.ping(address, None, _leave_to_table, now)
            self._tried = True
        else:
            self._be_joined()
            return
        self._try_later(now)

    def _try_later(self, now: float) -> None:
        options = self._context.options
        self._cancel_retry()
        self._retry = self._context.timers.at(now + self._context.jittered(self._delay), self._try)
        self._delay = min(2 * self._delay, options.rejoin_last)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._context.timers.cancel(self._retry)
            self._retry = None

    def _look_around(self, now: float) -> None:
        if not self._searching:
            self._searching = True
            self._searching = (
                self._searches.start(self._context.id, self._looked_around, now) and self._searching
            )

    def _looked_around(self, closest: list[Contact], now: float) -> None:
        self._searching = False
        if closest and not self.joined:
            self._be_joined()
            self._refresher.farther(now)

    def _be_joined(self) -> None:
        self.joined = True
        self._context.events.append(Joined(len(self._context.table)))

    def _reunite(self, now: float) -> None:
        """Ask one of the missing for whoever is close to this node."""
        context = self._context
        known = (*self._bootstrap, *self._former)
        missing = [address for address in known if context.table.at(address) is None]
        if missing and self.joined:
            address = context.rng.choice(missing)
            context.ask(Op.FIND_NODE, context.id, address, None, _leave_to_table, now, tries=1)
        self._reunite_later(now)

    def _reunite_later(self, now: float) -> None:
        when = now + self._context.jittered(self._context.options.reunion_interval)
        self._reunion = self._context.timers.at(when, self._reunite)


def _leave_to_table(rpc: Rpc, reply: Reply | None, now: float) -> None:
    """Every matched reply goes to the table; nothing is to be done beside."""
