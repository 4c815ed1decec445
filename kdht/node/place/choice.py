"""How a node that is no member yet chooses its ID. Datagrams and the time go in, datagrams and the ID come out.

                 a member answers          no questions left         the gap's owner says OK
    [knocking] ---------------------> [asking] ----------------> [claiming] -----------------> an ID
        |                                ^                            |
        | none does, for a while         |   all others are let in    |  for too long
        v                                +----------------------------+-----------------> an ID
    a random ID                              first: wait a little         in the best gap known

The node asks with FIND_NODE and the unknown ID, so no other takes it for a member. It answers nothing. The choice always
ends: a node that cannot find the best place takes another.

Contract: no I/O, no clock. As with a Node, after each call take `datagrams_to_send` and call `tick` at `next_wake`, until
`found` is set.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import NamedTuple

from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.node.context import NodeContext
from kdht.node.control_outbox import ControlOutbox
from kdht.node.messages import CLAIM, UNKNOWN_ID, Reply, untrusted_contacts, untrusted_id
from kdht.node.options import Options
from kdht.node.place.survey import Gap, Survey, SurveyQuestion
from kdht.node.rpc import Done, Mismatch, Rpc
from kdht.node.table import Table
from kdht.times import SteadyTime
from kdht.wire import Address, Contact, Message, parse
from kdht.wire._shared import ID_LEN, Op, Reason, Status
from kdht.wire.keys import ClusterSecret

TIMES = Options(first_timeout=0.25, tries=2)
KNOCK_SECONDS = (1.5, 3.0)
"""Seconds to wait for a first answer, at random between these. So of nodes that start a cluster together, one is first."""
# Bootstrap nodes of a new cluster start within seconds of each other.
KNOCK_AGAIN = 0.3
# An even place is worth some seconds, and not an outage: a liar may claim every gap.
PATIENCE = 12.0
"""Seconds after which the node joins without being let in."""
WAIT = 0.12
"""Seconds before all nodes are asked again. Others were let in, and will soon have joined."""
# The survey takes some hundred round trips at most. One at a time it would take seconds between sites.
PARALLEL = 8
"""Questions at the same time."""
MAX_CLAIMS = 8
"""Gaps that are claimed before all nodes are asked again."""


class ChosenId(NamedTuple):
    """The chosen ID, and why it was chosen."""

    id: bytes
    why: str
    asked: bool = False
    """Whether other nodes were asked."""


class Chooser:
    """One choice. `own`: this node's addresses. `start` takes addresses that may be members."""

    def __init__(self, own: Sequence[Address], keys: Sequence[ClusterSecret], rng: Random) -> None:
        # An empty table that stays empty: a newcomer without an ID routes nothing.
        nobody = Table(UNKNOWN_ID, lambda index, contacts: None, k=1, replacements=0)
        self._context = context = NodeContext(
            Contact(UNKNOWN_ID, *own[0]),
            own,
            nobody,
            TIMES,
            rng,
            transmit=lambda rpc, now: self._outbox.request(rpc, now),
            missed=lambda rpc, now: None,
        )
        self._outbox = ControlOutbox(context, keys[0])
        self._rng = rng
        self._silent: set[Contact] = set()
        self._survey = Survey(rng, self._askable)
        self._seeds: dict[Address, None] = {}
        self._waiting = 0
        self._claims = 0
        """Gaps claimed since the last survey. While it is 0, the survey goes on."""
        self._depth = 0
        self.found: ChosenId | None = None

    # What the daemon calls

    def start(self, seeds: Sequence[Address], now: SteadyTime) -> None:
        """Begin. Without seeds this is the first node, and takes a random ID."""
        context = self._context
        context.timers.now = now
        self._seeds = dict.fromkeys(
            a for a in seeds if a not in context.own and context.source(a) is not None
        )
        # The first node of a cluster. Any place is as good as another.
        if not self._seeds:
            self._by_chance("there is nobody to ask")
            return
        # At random: of several nodes that start a cluster together, one is first and answers the others.
        context.timers.at(now + self._rng.uniform(*KNOCK_SECONDS), self._give_up_knocking)
        context.timers.at(now + PATIENCE, self._give_up)
        self._knock(now)

    def receive(self, datagram: Datagram, now: SteadyTime) -> None:
        """Take a control message. Anything but an answer to a question of this choice is ignored."""
        # Strangers can send anything. The choice goes on with what the others answer.
        with suppress(BadPacket, Mismatch):
            self._receive_untrusted(datagram, now)

    def tick(self, now: SteadyTime) -> None:
        """Run the alarms that are due."""
        self._context.timers.run(now)

    def datagrams_to_send(self) -> list[Outgoing]:
        """The datagrams to send. Each is returned once."""
        return self._outbox.take()

    def next_wake(self) -> float | None:
        """When to call `tick` next, None if never."""
        return self._context.timers.next()

    def set_unix_offset(self, seconds: float) -> None:
        """Steady time plus these seconds is Unix time."""
        self._context.unix_offset = seconds

    # Knocking

    def _knock(self, now: SteadyTime) -> None:
        if self.found or len(self._survey):
            return
        for address in self._seeds:
            target = self._rng.randbytes(ID_LEN)
            self._ask(target, address, None, b"", self._knocked, now, tries=1)
        self._context.timers.at(now + KNOCK_AGAIN, self._knock)

    def _knocked(self, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        if reply is not None:
            # By the address that was asked, not by what the reply claims.
            self._survey.learn([Contact(reply.id, *rpc.address), *self._known(reply.contacts)])
            self._go_on(now)

    def _give_up_knocking(self, now: SteadyTime) -> None:
        if not len(self._survey):
            self._by_chance("nobody answered")

    # Asking

    def _go_on(self, now: SteadyTime) -> None:
        """Ask the open questions. If there are none, claim a gap."""
        if self.found or self._claims:
            return
        for question in self._survey.questions(PARALLEL - self._waiting):
            contact = question.contact
            done = partial(self._asked, question)
            if self._ask(question.target, contact.address, contact.id, b"", done, now):
                self._waiting += 1
            else:
                self._survey.failed(question)
        if not self._waiting:
            self._claim(now)

    def _asked(self, question: SurveyQuestion, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        self._waiting -= 1
        if reply is None:
            self._silent.add(question.contact)
            self._survey.failed(question)
        else:
            self._survey.answered(question, self._known(reply.contacts))
        self._go_on(now)

    def _again(self, now: SteadyTime) -> None:
        """Other nodes joined meanwhile: start a new survey from the known nodes."""
        if self.found:
            return
        known = self._survey.contacts()
        self._survey = Survey(self._rng, self._askable)
        self._survey.learn(known)
        self._claims = 0
        self._go_on(now)

    # Claiming

    def _claim(self, now: SteadyTime) -> None:
        """Claim the middle of the best gap from its owner, as long as gaps are as wide as the first one."""
        gap = next(iter(self._survey.gaps()), None)
        # The width is set by the first claim, so that a newcomer does not fall back to a narrower gap at once.
        if self._claims == 0 and gap is not None:
            self._depth = gap.depth
        self._claims += 1
        # Narrower gaps only: the newcomers let in now will split wider ones soon.
        if gap is None or gap.depth > self._depth or self._claims > MAX_CLAIMS:
            self._context.timers.at(now + self._context.jittered(WAIT, 0.5), self._again)
            return
        done = partial(self._claimed, gap)
        if not self._ask(gap.middle(self._rng), gap.owner.address, gap.owner.id, CLAIM, done, now):
            self._survey.is_taken(gap)
            self._claim(now)

    def _claimed(self, gap: Gap, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        if self.found:
            return
        if reply is not None and reply.status is Status.OK:
            nodes = len(self._survey)
            self.found = ChosenId(
                rpc.key, f"half of what {gap.owner.address} owned, one of {nodes} nodes known", True
            )
            return
        if reply is None:
            # A dead owner's gap cannot be claimed. Another newcomer would wait for it just as long.
            self._silent.add(gap.owner)
        else:
            self._survey.learn(self._known(reply.contacts))
        self._survey.is_taken(gap)
        self._claim(now)

    # The end

    def _give_up(self, now: SteadyTime) -> None:
        """Waited long enough for other newcomers and owners: join anyway."""
        if self.found:
            return
        gaps = self._survey.gaps()
        if gaps:
            self.found = ChosenId(
                gaps[0].middle(self._rng), f"half of what {gaps[0].owner.address} owned, not asked for", True
            )
        else:
            self._by_chance("nobody said enough")

    def _by_chance(self, why: str) -> None:
        if not self.found:
            self.found = ChosenId(self._rng.randbytes(ID_LEN), f"by chance: {why}", bool(self._seeds))

    # Messages

    def _ask(
        self,
        key: bytes,
        address: Address,
        id: bytes | None,
        body: bytes,
        done: Done,
        now: SteadyTime,
        tries: int = 2,
    ) -> bool:
        rpc = Rpc(
            Op.FIND_NODE, key, address, id, done, tries=tries,
            timeout=TIMES.first_timeout, longest=TIMES.max_timeout, body=body,
        )  # fmt: skip
        return self._context.rpcs.start(rpc, now)

    def _receive_untrusted(self, datagram: Datagram, now: SteadyTime) -> None:
        message: Message = parse(datagram.data)
        if datagram.reason is not Reason.CONTROL or message.op is not Op.FIND_NODE or not message.is_reply:
            raise Mismatch("not_control")
        if datagram.target not in self._context.own or message.client != datagram.source:
            raise Mismatch("wrong_client")
        contacts = untrusted_contacts(message)
        rpc, rtt = self._context.rpcs.match(message, datagram.source, untrusted_id(message), now)
        rpc.done(rpc, Reply(untrusted_id(message), contacts, rtt, message.status), now)

    def _known(self, contacts: Sequence[Contact]) -> list[Contact]:
        """The contacts without earlier IDs of this node."""
        # A node that moves has an old ID at its own address, which others still name.
        return [contact for contact in contacts if contact.address not in self._context.own]

    def _askable(self, contact: Contact) -> bool:
        return contact not in self._silent and self._context.usable(contact)
