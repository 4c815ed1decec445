"""Whether this node can talk to all members that others name. A node with IPv4 only cannot talk to one with IPv6 only.

Two groups that cannot talk, joined by nodes with both versions, would each take itself for all replicas of a key. Writes
that one group acknowledges would be unknown to the other. So a node that hears of an unreachable member does not serve.

    no doubts --named--> doubts --patience is over--> aside --named no more--> starts anew
        ^                  |
        +--met, or named no more--+

A doubt ends at once if the member writes to this node. It may have both versions, and be known to others by the other
one only. So this node asks the namer to introduce them (MEET). A doubt ends also if the namer no longer names the member,
which this node asks every half second. So old news never counts.

A newcomer stands aside sooner the fewer nodes it reaches, and long before the members lose patience. So one node with
the wrong addresses does not stop a cluster. If a newcomer with both versions joins two clusters, both stand aside, and
the one whose nodes come back first goes on.

Contract: a node that stands aside has left. It is in no table, answers no requests, and only asks whether the doubts last.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice

from kdht.node._timers import Alarm
from kdht.node.context import NodeContext
from kdht.node.events import Admitted, Barred, LeftCluster, Resumes
from kdht.node.messages import Reply
from kdht.node.notice import Notices
from kdht.node.readiness import REACH
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import Op

MAX_DOUBTS = 32
MAX_MET = 512


class UnreachableMember:
    """A member that this node cannot reach, as `namer` says."""

    __slots__ = ("contact", "named", "namer", "since")

    def __init__(self, contact: Contact, namer: Contact, now: SteadyTime) -> None:
        self.contact = contact
        self.namer = namer
        self.since = now
        self.named = now


class Reach:
    """The doubts of one node. `bar(barred)` closes it for writes or opens it; `withdraw(now)` takes it out of the cluster."""

    def __init__(
        self,
        context: NodeContext,
        notices: Notices,
        bar: Callable[[bool], None],
        withdraw: Callable[[SteadyTime], None],
    ) -> None:
        self.aside = False
        self._context = context
        self._notices = notices
        self._bar = bar
        self._withdraw = withdraw
        self._barred = False
        self._was_ready = False
        self._doubts: dict[bytes, UnreachableMember] = {}
        self._met: dict[bytes, float] = {}
        """Members that wrote to this node although their known address is unreachable, and until when that counts."""
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
        if context.table.get(contact.id) is not None or self._met.get(contact.id, now) > now:
            return
        doubt = self._doubts.get(contact.id)
        if doubt is not None:
            doubt.named, doubt.namer = now, namer
            return
        if len(self._doubts) >= MAX_DOUBTS or context.leaving:
            return
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
        age = max(
            (now - doubt.since for doubt in self._doubts.values() if self._is_fresh(doubt, now)), default=0.0
        )
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

    def _is_fresh(self, doubt: UnreachableMember, now: SteadyTime) -> bool:
        """Whether it was named again just now: what was said once may have passed."""
        return now - doubt.named <= 4 * self._context.options.doubt_interval

    def _patience(self) -> float:
        options = self._context.options
        # Members wait longest, so a newcomer with wrong addresses gives way before they notice.
        if self._was_ready:
            return options.member_patience
        return options.stranger_patience if self._is_outnumbered() else options.newcomer_patience

    def _is_outnumbered(self) -> bool:
        """Whether, of the nodes closest to this one, it reaches fewer than it does not. Of equal sides one gives way."""
        own = int.from_bytes(self._context.id, "big")
        ids = [*(entry.contact.id for entry in self._context.table), *self._doubts]
        closest = sorted(ids, key=lambda id: int.from_bytes(id, "big") ^ own)
        nearby = list(islice(closest, self._context.options.k))
        excess = 2 * sum(id in self._doubts for id in nearby) - len(nearby)
        return excess > 0 or (excess == 0 and not self._has_lowest_id())

    def _has_lowest_id(self) -> bool:
        """Whether the lowest ID is on this node's side. Both sides find the same one, so only one of them gives way soon."""
        # Who names members of the other side is reached by both.
        both = {doubt.namer.id for doubt in self._doubts.values()}
        side = {entry.contact.id for entry in self._context.table} - both
        return min({self._context.id} | side) < min(self._doubts)

    def _stand_aside(self, now: SteadyTime) -> None:
        self._be_barred()
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
