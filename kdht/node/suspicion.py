"""What speaks against a contact, and what follows. Apart from LEAVE, this is the only way out of the table.

    answers missed in a row:   1            3              4                    8
                               probed --> others told --> demoted ----------> removed
                                 ^  (SUSPECT)     (the datapaths leave it out)
                                 '-- an answer ends all of it, at any time

Only unanswered pings of this node remove a contact. A missed answer to any request starts a probe. So do an ICMP error,
another node's SUSPECT, and a silence that another part of this node noticed.

An ICMP error demotes at once, because no packet should go to a dead node. ICMP can be forged, so a contact that answered
in spite of an error is safe from the next one for a while.

SUSPECT is SWIM's dissemination (Das, Gupta and Motivala, 2002). The first node to notice tells others. Nodes that find it
confirmed pass it on to a few.
"""

from collections.abc import Callable

from kdht.node._timers import TokenBucket
from kdht.node.context import NodeContext
from kdht.node.notice import Notices
from kdht.node.probe import Prober
from kdht.node.probe_schedule import ProbeSchedule
from kdht.node.rpc import Rpc
from kdht.node.table_contact import TableContact
from kdht.times import SteadyTime
from kdht.wire import Address, Contact


class Suspicion:
    """The suspects of one node. `remove(entry, now)` takes a contact out of the table."""

    def __init__(
        self,
        context: NodeContext,
        prober: Prober,
        schedule: ProbeSchedule,
        notices: Notices,
        remove: Callable[[TableContact, SteadyTime], None],
    ) -> None:
        self._context = context
        self._prober = prober
        self._schedule = schedule
        self._notices = notices
        self._remove = remove
        # One liar could else have this node ping all its contacts without end.
        self._hearsay = TokenBucket(context.options.suspect_rate)

    def missed(self, rpc: Rpc, now: SteadyTime) -> None:
        """A transmission of this node had no answer in time."""
        table = self._context.table
        entry = table.at(rpc.address)
        # The request was meant for another node, which had this address before.
        if entry is None or rpc.id not in (None, entry.contact.id):
            return
        # By the last transmission: earlier ones of the same request were counted when they timed out.
        if table.missed(entry, rpc.sent[-1], now):
            self._count(entry, now)
        # The count above may have removed it.
        if table.get(entry.contact.id) is entry:
            self._prober.probe(entry, now)

    def unreachable(self, address: Address, now: SteadyTime) -> None:
        """An ICMP error came for this address. Anybody can forge one."""
        entry = self._context.table.at(address)
        if entry is None or entry.unreachable:
            return
        # ICMP can be forged: a forger must not keep a living contact out of the buckets for good.
        if now - entry.refuted < self._context.options.unreachable_grace:
            # A ping all the same: the process may really be gone this time.
            self._context.counters["unreachable_ignored"] += 1
            self._ask(entry, now)
            return
        self._context.counters["unreachable"] += 1
        entry.unreachable = True
        if not entry.demoted:
            # The misses so far followed slow time-outs; the pings after an ICMP error are counted anew.
            entry.misses = 0
            self._context.table.demote(entry)
        # Four quick pings: the port is closed, so an answer, if there is one, is fast.
        self._prober.hurry(entry, now)

    def silent(self, address: Address, now: SteadyTime) -> None:
        """Another part of this node waited in vain for an answer from there."""
        entry = self._context.table.at(address)
        if entry is not None:
            self._ask(entry, now)

    def told(self, contact: Contact, now: SteadyTime) -> None:
        """Another node has no answer from this contact. That says nothing of our own way to it."""
        entry = self._context.table.get(contact.id)
        if entry is None or entry.contact != contact:
            self._context.counters["suspect_unknown"] += 1
        # It is being asked already. The word of others counts for what is passed on, not for the verdict.
        elif entry in self._prober:
            entry.told += 1
        # Hearsay causes a ping at most, and few of them: else a liar could remove contacts.
        elif now - entry.answered >= self._context.options.just_answered:
            if self._hearsay.take(now):
                entry.told += 1
                self._prober.probe(entry, now)
            else:
                self._context.counters["suspect_rate"] += 1

    def _ask(self, entry: TableContact, now: SteadyTime) -> None:
        if now - entry.answered >= self._context.options.just_answered:
            self._prober.probe(entry, now)

    def _count(self, entry: TableContact, now: SteadyTime) -> None:
        """One more miss in a row."""
        options = self._context.options
        # One lost packet is no death, so silence is passed on only after several misses.
        if entry.misses >= (1 if entry.unreachable else options.announced_misses) and not entry.passed:
            entry.passed = True
            self._pass(entry, now)
        if entry.misses >= options.demoted_misses and not entry.demoted:
            self._context.counters["demoted"] += 1
            self._context.table.demote(entry)
        if entry.misses >= (options.unreachable_misses if entry.unreachable else options.max_misses):
            self._remove(entry, now)

    def _pass(self, entry: TableContact, now: SteadyTime) -> None:
        """Say it to those whom it concerns, or to a few if somebody else was first: messages may be lost.

        A closed port all find out at once who use it, and who does not has time. So each waits for a turn of its own, and is
        silent if enough others came before it.
        """
        # Silence is noticed by one node at a time, by chance. So it is told at once, and nobody has to wait for
        # a turn.
        if not entry.unreachable:
            self._say(entry, 0.0, now)
            return
        spread = self._context.options.unhurried
        # All senders to a closed port notice at once. Messages from all of them at once delayed reads.
        # At random and not by ID: tables differ, so no order is the same at all nodes.
        when = now + self._context.rng.uniform(0, spread)

        def say(now: SteadyTime) -> None:
            if entry.misses:  # it has not answered meanwhile
                self._say(entry, spread, now)

        self._context.timers.at(when, say)

    def _say(self, entry: TableContact, spread: float, now: SteadyTime) -> None:
        contact = entry.contact
        # Enough others have said it: suppression as in Trickle (RFC 6206, section 4.2).
        if spread and entry.told >= self._context.options.told_enough:
            self._context.counters["gossip_spared"] += 1
            return
        # Messages are lost and tables differ, so a confirmed suspicion goes to a few more nodes.
        if entry.told:
            self._gossip(contact, now)
            return
        # Those share buckets and keys with the dead node, so they send to it most.
        closest = self._context.table.closest(contact.id, self._context.options.told, without=contact.id)
        self._notices.suspect(contact, closest, now)
        # Failures come together: after one death the whole ring is asked.
        self._schedule.sweep(now, spread)

    def _gossip(self, contact: Contact, now: SteadyTime) -> None:
        options = self._context.options
        others = self._context.table.closest(contact.id, options.told, without=contact.id)
        # At random, so that several nodes with the same table do not all tell the same four.
        some = self._context.rng.sample(others, min(options.gossip, len(others)))
        self._notices.suspect(contact, some, now)
