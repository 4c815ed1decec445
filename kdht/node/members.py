"""How contacts enter and leave the table, and which parts of the node hear of it.

Contract: a matched reply brings a contact in. Silence or its own LEAVE takes it out. Every part that keeps something for
each contact is told of both. A contact that others name, or that only writes, is verified first.
"""

from collections.abc import Callable

from kdht.node.census import Census
from kdht.node.context import NodeContext
from kdht.node.events import ContactAdded, ContactDrained, ContactRemoved
from kdht.node.join import Joiner
from kdht.node.probe import Prober
from kdht.node.probe_schedule import ProbeSchedule
from kdht.node.refresh import Refresher
from kdht.node.revive import Reviver
from kdht.node.table import Standing
from kdht.node.table_contact import TableContact
from kdht.node.twins import Twins
from kdht.node.verify import Verifier
from kdht.times import SteadyTime
from kdht.wire import Contact

# Each waits for one message: the word that it has given its records away.
MAX_LEFT = 256
"""The number of remembered contacts that left."""


class Members:
    """The comings and goings of one table. `on_change` is called, with `now`, after each."""

    def __init__(
        self,
        context: NodeContext,
        *,
        census: Census,
        prober: Prober,
        schedule: ProbeSchedule,
        verifier: Verifier,
        refresher: Refresher,
        joiner: Joiner,
        twins: Twins,
        on_change: Callable[[SteadyTime], None],
    ) -> None:
        self._context = context
        self._table = context.table
        self._census = census
        self._prober = prober
        self._schedule = schedule
        self._verifier = verifier
        self._refresher = refresher
        self._joiner = joiner
        self._twins = twins
        self._reviver = Reviver(context)
        self._left: dict[Contact, None] = {}
        self._on_change = on_change
        self._standings: dict[Standing, Callable[[Contact, SteadyTime], None]] = {
            Standing.KNOWN: lambda contact, now: None,
            Standing.ADDED: self._added,
            Standing.FULL: self._has_no_place,
            Standing.ELSEWHERE: self._is_elsewhere,
        }

    def learn(self, contact: Contact, now: SteadyTime, *, heard: bool) -> bool:
        """Somebody, the contact itself if `heard`, says that it exists. Whether that is possible."""
        entry = self._table.get(contact.id)
        # Nothing new, and the most frequent case by far.
        if entry is not None and entry.contact == contact:
            if heard:
                self._table.heard(entry, now)
            return True
        if not self._context.usable(contact):
            self._context.counters["unusable_contact"] += 1
            return False
        if heard and entry is not None:
            self._twins.heard(contact, entry.contact, now)
        self._verifier.offer(contact, now, heard=heard)
        return True

    def answered(self, contact: Contact, rtt: float, now: SteadyTime) -> None:
        """A matched reply came from this contact: its address has no other ID any more."""
        former = self._table.at(contact.address)
        if former is not None and former.contact.id == contact.id:
            former = None
        if former is not None:
            self._table.remove(former)
        standing = self._table.answered(contact, rtt, now)
        self._standings[standing](contact, now)
        if standing is not Standing.ELSEWHERE:
            self._twins.confirmed(contact, now - rtt, now)
        if former is not None:
            self._removed(former, now)

    def fell_silent(self, entry: TableContact, now: SteadyTime) -> None:
        """A member does not answer: it is out, and asked again later."""
        contact = entry.contact
        self._table.remove(entry)
        self._verifier.refuse(contact.address, now)
        self._joiner.remember(contact.address)
        self._reviver.lost(contact, now)
        self._removed(entry, now)

    def left(self, contact: Contact, now: SteadyTime, *, drained: bool) -> None:
        """It says itself that it goes: it is asked no more, unless it writes again as a newcomer.

        It says so again, `drained`, once its records are at others.
        """
        entry = self._table.at(contact.address)
        if entry is not None:
            self._left[contact] = None
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
        if drained and contact in self._left:
            del self._left[contact]
            self._context.events.append(ContactDrained(contact))
        self._verifier.refuse(contact.address, now)
        self._reviver.forget(contact)
        if entry is not None:
            self._table.remove(entry)
            self._removed(entry, now)
        if drained:
            self._census.forget(contact.id)
        # Last: each end of a request may ask the next contact, and this one has to be out of the table by then.
        self._context.rpcs.abandon(now, contact.address)

    def clear(self, now: SteadyTime) -> None:
        """This node has left: nobody is in its table any more, and nobody comes in."""
        self._verifier.clear()
        for entry in list(self._table):
            self._table.remove(entry)
            self._census.lost(entry.contact, now)
            self._context.events.append(ContactRemoved(entry.contact))
            self._prober.forget(entry)
            self._schedule.forget(entry)
        self._on_change(now)

    def _added(self, contact: Contact, now: SteadyTime) -> None:
        entry = self._table.get(contact.id)
        assert entry is not None
        # First, so that all others see the right number of nodes.
        self._census.added(contact)
        self._context.events.append(ContactAdded(contact))
        self._reviver.forget(contact)
        self._left.pop(contact, None)
        self._schedule.add(entry, now)
        self._joiner.added(contact, now)
        self._on_change(now)

    def _has_no_place(self, contact: Contact, now: SteadyTime) -> None:
        self._prober.question_oldest(self._table.index(contact.id), now)

    def _is_elsewhere(self, contact: Contact, now: SteadyTime) -> None:
        entry = self._table.get(contact.id)
        assert entry is not None
        self._prober.question(entry, self._context.options.first_timeout, now)

    def _removed(self, entry: TableContact, now: SteadyTime) -> None:
        self._census.lost(entry.contact, now)
        self._context.events.append(ContactRemoved(entry.contact))
        self._prober.forget(entry)
        self._schedule.forget(entry)
        if not self._verifier.refill(entry.index, now):
            self._refresher.repair(entry.index, now)
        # A death brings farther nodes nearer: another bucket may hold replicas now.
        self._refresher.widen(now)
        self._joiner.removed(now)
        self._on_change(now)
