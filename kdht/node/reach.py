"""Whether this node can talk to all members that others name. A node with IPv4 only cannot talk to one with IPv6 only.

Two groups that cannot talk, joined by nodes with both versions, would each take itself for all replicas of a key. Writes
that one group acknowledges would be unknown to the other. So a node that hears of an unreachable member does not serve.

    no doubts --named--> doubts --patience is over--> aside --named no more--> starts anew
        ^                  |
        +--met, named no more, or the only namer is shunned--+

A doubt ends at once if the member writes to this node. It may have both versions, and be known to others by the other
one only. So this node asks the namer to introduce them (MEET). A doubt ends also if the namer no longer names the member,
which this node asks every half second. So old news never counts.

A newcomer stands aside sooner the fewer nodes it reaches, and long before the members lose patience. So one node with
the wrong addresses does not stop a cluster.

One member must not stop others by naming nodes that do not exist. So others who would know an unreachable member are
asked as well. If one member alone names it, this node does not stand aside: it cuts the namer off, and goes on as if that
one were dead. A newcomer does so only if another node denies what the first one says, for it may know one member only. If
a newcomer with both versions joins two clusters, all cut it off, and they stay two.

Contract: a node that stands aside has left. It is in no table, answers no requests, and only asks whether the doubts last.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice

from kdht.node.context import NodeContext
from kdht.node.events import Admitted, Barred, LeftCluster, Resumes, Shunned
from kdht.node.messages import Reply
from kdht.node.notice import Notices
from kdht.node.readiness import REACH
from kdht.node.rpc import Mismatch, Rpc
from kdht.node.timers import Alarm
from kdht.times import SteadyTime
from kdht.wire import Address, Contact
from kdht.wire._shared import Op

# A liar may name any number of nodes. More doubts change nothing: one is enough to stand aside, or to cut the liar off.
MAX_DOUBTS = 32
# More members than one cluster has of one IP version beside this node.
MAX_MET = 512
# A liar may have many addresses. The oldest ones are heard again first.
MAX_SHUNNED = 256
# As many as settle who is right, and few enough to ask each of them within the shortest patience.
MAX_WITNESSES = 5


class UnreachableMember:
    """A member that this node cannot reach, as `namer` says, the last of `namers`.

    `denied`: whether a node that would know it named others instead, when asked last.
    """

    __slots__ = ("contact", "denied", "named", "namer", "namers", "since")

    def __init__(self, contact: Contact, namer: Contact, now: SteadyTime) -> None:
        self.contact = contact
        self.namer = namer
        self.namers = {namer.id: now}
        self.denied = False
        self.since = now
        self.named = now

    def is_named_by(self, namer: Contact, now: SteadyTime) -> None:
        """It is named again, perhaps by another one."""
        self.namer, self.named, self.namers[namer.id] = namer, now, now


class Reach:
    """The doubts of one node.

    `bar(barred)` closes it for writes or opens it; `withdraw(now)` takes it out of the cluster; `lose(contact, now)` takes
    another node out of its table.
    """

    def __init__(
        self,
        context: NodeContext,
        notices: Notices,
        bar: Callable[[bool], None],
        withdraw: Callable[[SteadyTime], None],
        lose: Callable[[Contact, SteadyTime], None],
    ) -> None:
        self.aside = False
        self._context = context
        self._notices = notices
        self._bar = bar
        self._withdraw = withdraw
        self._lose = lose
        self._barred = False
        self._was_ready = False
        self._doubts: dict[bytes, UnreachableMember] = {}
        self._met: dict[bytes, float] = {}
        """Members that wrote to this node although their known address is unreachable, and until when that counts."""
        self._shunned: dict[Address, float] = {}
        """Members that nobody listens to here, and until when."""
        self._turn = 0
        self._resumes_at = 0.0
        self._alarm: Alarm | None = None

    @property
    def unreachable(self) -> list[Contact]:
        """Members that this node cannot reach."""
        return [doubt.contact for doubt in self._doubts.values()]

    def named(self, contact: Contact, namer: Contact, now: SteadyTime) -> None:
        """A member names another one with an address of an IP version that this node lacks."""
        context = self._context
        # It answers by another address, or wrote to this node: it can be reached.
        # Named again and again by nodes that know only its other address. That is no news.
        if context.table.get(contact.id) is not None or self._met.get(contact.id, now) > now:
            return
        doubt = self._doubts.get(contact.id)
        if doubt is not None:
            doubt.is_named_by(namer, now)
            return
        if len(self._doubts) >= MAX_DOUBTS or context.leaving:
            return
        # Noted at the first doubt: being barred makes the node not ready, and it would then take itself for a
        # newcomer.
        self._was_ready = self._was_ready or context.readiness.ready
        self._doubts[contact.id] = UnreachableMember(contact, namer, now)
        # A newcomer takes no writes at once. A node that serves waits, so a stranger cannot stop it.
        if not self._was_ready:
            self._be_barred()
        self._introduce(self._doubts[contact.id], now)
        if self._alarm is None:
            self._later(now)

    def heard(self, id: bytes, now: SteadyTime) -> None:
        """A message came from this member, so it can be reached."""
        # A message came, so there is a way: the member may have both IP versions.
        if id in self._doubts and not self.aside:
            del self._doubts[id]
            self._met[id] = now + self._context.options.met_time
            if len(self._met) > MAX_MET:
                del self._met[next(iter(self._met))]
            self._unbar_without_doubts()

    def untrusted_admit(self, source: Address, now: SteadyTime) -> None:
        """Raises Mismatch if nothing counts that this member says."""
        if self._shunned.get(source, now) > now:
            raise Mismatch("shunned")

    # Inside

    def _later(self, now: SteadyTime) -> None:
        options = self._context.options
        interval = options.aside_interval if self.aside else options.doubt_interval
        self._alarm = self._context.timers.at(now + self._context.jittered(interval), self._look)

    def _look(self, now: SteadyTime) -> None:
        """Ask again. Stand aside or come back if it is time."""
        self._alarm = None
        options = self._context.options
        # A member that is named no more is gone. Old hearsay must not count.
        oldest = now - options.doubt_expiry
        self._doubts = {id: doubt for id, doubt in self._doubts.items() if doubt.named > oldest}
        self._unbar_without_doubts()
        if not self._doubts and not self.aside:
            return
        for doubt in list(self._doubts.values()):
            self._introduce(doubt, now)
            self._ask_another(doubt, now)
        self._shun_liars(now)
        # The oldest doubt counts.
        age = max((self._age(doubt, now) for doubt in self._doubts.values()), default=0.0)
        if self._doubts and age >= options.member_bar:
            self._be_barred()
        if not self.aside and self._doubts and age >= self._patience():
            self._stand_aside(now)
        elif self.aside and not self._doubts and now >= self._resumes_at:
            self._context.events.append(Resumes())
            return
        self._later(now)

    def _introduce(self, doubt: UnreachableMember, now: SteadyTime) -> None:
        """Ask the namer whether it still knows the member, and to introduce this node to it."""
        ask = self._context.ask
        done = partial(self._answered, doubt, now)
        ask(Op.FIND_NODE, doubt.contact.id, doubt.namer.address, doubt.namer.id, done, now, tries=1)
        # A node that stands aside has left, so nobody may introduce it.
        if not self.aside:
            self._notices.meet(doubt.contact.id, None, doubt.namer, now)

    def _answered(
        self, doubt: UnreachableMember, asked: float, rpc: Rpc, reply: Reply | None, now: SteadyTime
    ) -> None:
        if reply is not None and doubt.named < now and self._doubts.get(doubt.contact.id) is doubt:
            del self._doubts[doubt.contact.id]
            self._unbar_without_doubts()

    def _ask_another(self, doubt: UnreachableMember, now: SteadyTime) -> None:
        """Ask one of the nodes nearest to the member, in turn, whether it knows it."""
        near = self._context.table.closest(doubt.contact.id, MAX_WITNESSES)
        witnesses = [contact for contact in near if contact.id not in doubt.namers]
        if witnesses:
            self._turn += 1
            witness = witnesses[self._turn % len(witnesses)]
            done = partial(self._testified, doubt)
            self._context.ask(Op.FIND_NODE, doubt.contact.id, witness.address, witness.id, done, now, tries=1)

    def _testified(self, doubt: UnreachableMember, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        if reply is not None:
            doubt.denied = reply.id not in doubt.namers

    def _shun_liars(self, now: SteadyTime) -> None:
        """Do not stand aside for what one member says alone."""
        patience = self._context.options.member_bar if self._was_ready else self._patience()
        wrong = {
            doubt.namer
            for doubt in self._doubts.values()
            if self._age(doubt, now) >= patience and self._is_alone(doubt, now)
        }
        for namer in () if self.aside else wrong:
            self._context.events.append(Shunned(namer))
            self._shunned[namer.address] = now + self._context.options.shun_time
            if len(self._shunned) > MAX_SHUNNED:
                del self._shunned[next(iter(self._shunned))]
            self._doubts = {id: doubt for id, doubt in self._doubts.items() if doubt.namer != namer}
            self._lose(namer, now)
        if wrong:
            self._unbar_without_doubts()

    def _is_alone(self, doubt: UnreachableMember, now: SteadyTime) -> bool:
        """Whether one member names it and the others do not."""
        oldest = now - self._context.options.doubt_expiry
        return sum(at > oldest for at in doubt.namers.values()) == 1 and (self._was_ready or doubt.denied)

    def _age(self, doubt: UnreachableMember, now: SteadyTime) -> float:
        """For how long it has been named, if it was named again just now: what was said once may have passed."""
        is_fresh = now - doubt.named <= 4 * self._context.options.doubt_interval
        return now - doubt.since if is_fresh else 0.0

    def _patience(self) -> float:
        options = self._context.options
        # Members wait longest, so a newcomer with wrong addresses gives way before they notice.
        if self._was_ready:
            return options.member_patience
        return options.stranger_patience if self._is_outnumbered() else options.newcomer_patience

    def _is_outnumbered(self) -> bool:
        """Whether, of the nodes closest to this one, it reaches no more than it does not."""
        own = int.from_bytes(self._context.id, "big")
        ids = [*(entry.contact.id for entry in self._context.table), *self._doubts]
        closest = sorted(ids, key=lambda id: int.from_bytes(id, "big") ^ own)
        nearby = list(islice(closest, self._context.options.k))
        # Of its neighbours, because those share keys with it. Far nodes of the other version never meet it in a
        # write.
        return 2 * sum(id in self._doubts for id in nearby) >= len(nearby)

    def _stand_aside(self, now: SteadyTime) -> None:
        self._be_barred()
        # Before `withdraw`, which empties the table: the event names whom the node could not reach.
        self._context.events.append(LeftCluster(self.unreachable))
        self.aside = True
        self._withdraw(now)
        # At random: of two clusters that met, the nodes that return first stay.
        self._resumes_at = now + self._context.jittered(self._context.options.aside_time)

    def _be_barred(self) -> None:
        if not self._barred:
            self._barred = True
            self._context.readiness.require(REACH)
            self._context.events.append(Barred())
            self._bar(True)

    def _unbar_without_doubts(self) -> None:
        """Without doubts the node serves again. One that stands aside first starts anew as a newcomer."""
        if self._barred and not self._doubts and not self.aside:
            self._barred = False
            self._bar(False)
            self._context.events.append(Admitted())
            self._context.readiness.reached(REACH)
