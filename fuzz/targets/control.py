"""A node's control plane behind its core: PING, FIND_NODE, their answers, SUSPECT, LEAVE, newcomers, and time.

Invariant: an answer, a count, never an exception. Who comes into the routing table is the sender
of a message that has the cluster's seal and answers a request which this node sent to that very
address, and which then was not answered yet; no other message changes the table at all, but a
sealed LEAVE, which takes its sender out. What the
node sends is sealed, of right form, and bounded.

An input is a line of events: a byte that says which, and what that event takes.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fuzz.targets.events import Reader
from fuzz.targets.scene import FIXES, KEYS, NOW, Fix, mend
from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.node.messages import CLAIM, UNKNOWN_ID
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.wire import Address, Contact, Message, pack_contacts, parse, verify
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, K, Op, Reason

SELF = Contact(bytes(19) + b"\x01", *Address.of("10.0.0.1", shared.PORT))
PEERS = [
    Contact(bytes([n * 17]) * shared.ID_LEN, *Address.of(f"10.1.0.{n}", shared.PORT)) for n in range(1, 16)
]
PEERS[5] = PEERS[5]._replace(ip=PEERS[4].ip)  # two IDs at one address
STRANGE = [
    SELF,
    *(Contact(b"\x77" * 20, *Address.of(host, shared.PORT)) for host in ("0.0.0.0", "224.0.0.1", "fd00::7")),
    Contact(bytes(20), *PEERS[0].address),
    Contact(b"\x78" * 20, PEERS[1].ip, 0),
]  # fmt: skip
EVERYBODY = PEERS + STRANGE
OPTIONS = Options(
    k=3, replacements=2, max_pending=12, max_verifying=6, parallel_verifying=3, max_lookups=2, request_rate=40.0,
    probe_rate=40.0, notice_rate=30.0, reply_rate=20.0, refresh_interval=600.0, quiet=5.0,
)  # fmt: skip
MAX_EVENTS = 32
MAX_SENT_AT_ONCE = 40 + 40 + 30 + 20
"""What every rate allows in one second."""
MAX_WAKES = 3000


class World:
    """One node, and all datagrams that it sent and received."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.core = Core()
        self.core.configure(
            self_id=SELF.id,
            port=SELF.port,
            own=[SELF.ip],
            source4=SELF.ip,
            source6=None,
            keys=[(key.epoch, key.tag) for key in KEYS],
            cookie_key=KEYS[0].cookie,
        )
        self.buckets: dict[int, list[Contact]] = {}
        self.asked: dict[int, Message] = {}
        self.asked_at: dict[int, Address] = {}
        self.node = Node(SELF, KEYS, self._publish, random.Random(5), OPTIONS)
        self.node.join([PEERS[0].address, PEERS[1].address], self.now)
        self.collect()

    def _publish(self, index: int, contacts: list[Contact]) -> None:
        self.core.set_bucket(index, contacts)
        self.buckets[index] = contacts

    @property
    def published(self) -> set[Contact]:
        return {contact for bucket in self.buckets.values() for contact in bucket}

    def collect(self) -> list[Outgoing]:
        """Check each datagram that the node sends. Keep the requests."""
        sent = self.node.datagrams_to_send()
        assert len(sent) <= MAX_SENT_AT_ONCE
        for out in sent:
            verify(out.data, KEYS[:1], int(self.now), 0)
            message = parse(out.data)
            assert message.op in (Op.PING, Op.FIND_NODE, Op.SUSPECT, Op.FORGET, Op.MEET)
            assert message.client == out.source == SELF.address
            if not message.flags & Flag.REPLY:
                assert out.target.is_ipv4
                assert out.target.port
                assert out.target != SELF.address
                if message.op not in (Op.SUSPECT, Op.MEET):
                    self.asked[message.request_id] = message
                    self.asked_at[message.request_id] = out.target
        return sent

    # --- Events

    def receive(self, data: bytes, source: Address) -> None:
        """Pass a datagram to the node as a daemon does."""
        before, counted = self.published, self.node.counters.total()
        outcome = self.core.decide_message(bytearray(data), source, SELF.address, int(self.now))
        answered = self._answered(data, source)
        if outcome.reason is Reason.CONTROL:
            self.node.receive(Datagram(data, source, SELF.address, outcome.reason, 0), self.now)
            assert self.node.counters.total() > counted, "neither answered nor counted"
        sent = self.collect()
        replies = [out for out in sent if parse(out.data).flags & Flag.REPLY]
        assert len(replies) <= 1
        assert all(out.target == source for out in replies)
        if answered is None:
            gone = self._leaving(data, source)
            assert before - gone <= self.published <= before, (
                "a message that answers nothing changed the table"
            )
            return
        assert outcome.reason is Reason.CONTROL
        assert self.published - before <= {answered}

    def _answered(self, data: bytes, source: Address) -> Contact | None:
        """The sender, if this is a sealed answer from the target of a request."""
        try:
            verify(data, KEYS, int(self.now))
            message = parse(data)
        except BadPacket:
            return None
        asked = self.asked.get(message.request_id)
        if asked is None or not message.flags & Flag.REPLY or self.asked_at[message.request_id] != source:
            return None
        if (message.op, message.key, message.client) != (asked.op, asked.key, source):
            return None
        if len(message.body) < shared.ID_LEN:
            return None
        return Contact(message.body[: shared.ID_LEN], *source)

    def _leaving(self, data: bytes, source: Address) -> set[Contact]:
        """The sender of a sealed LEAVE for itself, or nobody."""
        try:
            verify(data, KEYS, int(self.now))
            message = parse(data)
        except BadPacket:
            return set()
        if message.op is not Op.LEAVE or message.client != source:
            return set()
        return {Contact(message.body[: shared.ID_LEN], *source)}

    def advance(self, seconds: float) -> None:
        """Let time pass. No contact may enter the table by that alone."""
        end = self.now + seconds
        for _ in range(MAX_WAKES):
            wake = self.node.next_wake()
            if wake is None or wake > end:
                break
            self.now = max(self.now, wake)
            before = self.published
            self.node.tick(self.now)
            assert self.published <= before
            self.collect()
        else:
            raise AssertionError("the timers do not come to rest")
        self.now = end

    def check(self) -> None:
        """At the end: the table, the published buckets and the core's buckets are the same."""
        assert self.published == {entry.contact for entry in self.node.table if not entry.demoted}
        held = {contact for index in self.buckets for contact in self.core.bucket(index)}
        assert held == self.published
        assert len({contact.address for contact in held}) == len(held), "one address, two IDs"
        self.node.status(self.now)
        self.node.events()


def tick(world: World, reader: Reader) -> None:
    world.advance(reader.byte() / 8)


def wait(world: World, reader: Reader) -> None:
    world.advance(reader.byte() % 16 * 4.0)


def lookup(world: World, reader: Reader) -> None:
    world.node.lookup(reader.choice(EVERYBODY).id, world.now)
    world.collect()


def unreachable(world: World, reader: Reader) -> None:
    world.node.unreachable(reader.choice(EVERYBODY).address, world.now)
    world.collect()


def restore(world: World, reader: Reader) -> None:
    world.node.restore([reader.choice(EVERYBODY)], world.now)
    world.collect()


OPS = (Op.PING, Op.FIND_NODE, Op.SUSPECT, Op.LEAVE, Op.FORGET, Op.MEET)


def request(world: World, reader: Reader) -> None:
    """A peer's request, valid except perhaps in its length."""
    sender, op = reader.choice(EVERYBODY), reader.choice(OPS)
    about, request_id, length = reader.choice(EVERYBODY), reader.byte(), reader.byte()
    key, usual = about.id, shared.ID_LEN
    body = sender.id + bytes(WHOLE)
    if op in (Op.SUSPECT, Op.MEET):
        body = sender.id + pack_contacts([about])
        usual = len(body)
    body = body[: length or usual]
    asked = Message(op=op, key=key, request_id=request_id, hops=1, body=body, client=sender.address)
    _deliver(world, asked, sender.address)


def newcomer(world: World, reader: Reader) -> None:
    """A node without an ID asks, or claims one. It gets an answer, but no place in the table."""
    source, id = reader.choice(EVERYBODY).address, reader.choice(EVERYBODY).id
    low, rest, request_id = reader.byte(), reader.byte(), reader.byte()
    key = (SELF.id if rest & 2 else id)[:-1] + bytes([low])
    body = UNKNOWN_ID + (CLAIM if rest & 1 else b"") + bytes(rest >> 4)
    asked = Message(op=Op.FIND_NODE, key=key, request_id=request_id, hops=1, body=body, client=source)
    _deliver(world, asked, source)


def answer(world: World, reader: Reader) -> None:
    """An answer to one of the latest requests, from its target, with contacts, some of them false."""
    latest = list(world.asked)[-16:]
    request_id, lies = latest[-1 - reader.byte() % len(latest)], reader.byte()
    asked, source = world.asked[request_id], world.asked_at[request_id]
    sender = next((peer for peer in EVERYBODY if peer.address == source), PEERS[0])
    named = [reader.choice(EVERYBODY) for _ in range(reader.byte() % (K + 2))]
    if lies & ELSEWHERE:
        source = reader.choice(EVERYBODY).address
    if lies & SOMEBODY:
        sender = reader.choice(EVERYBODY)
    body = sender.id + (pack_contacts(named) if asked.op is Op.FIND_NODE else b"")
    reply = replace(asked, flags=Flag.REPLY, body=body, client=source)
    for lie, change in LIES.items():
        if lies & lie:
            reply = replace(reply, **change(reply, reader.byte()))
    _deliver(world, reply, source)


WHOLE = 255
ELSEWHERE, SOMEBODY = 1, 2
LIES: dict[int, Callable[[Message, int], dict[str, Any]]] = {
    4: lambda reply, n: {"client": EVERYBODY[n % len(EVERYBODY)].address},
    8: lambda reply, n: {"body": reply.body[:n]},
    16: lambda reply, n: {"key": EVERYBODY[n % len(EVERYBODY)].id},
    32: lambda reply, n: {"attempt": n},
    64: lambda reply, n: {"op": Op.PING if reply.op is Op.FIND_NODE else Op.FIND_NODE},
    128: lambda reply, n: {"request_id": reply.request_id ^ n},
}
"""Other errors in an answer: the bit to choose one, and the change by a byte of the input."""


def message(world: World, reader: Reader) -> None:
    """Any bytes. The choices may seal them, or give them the number of a pending request."""
    fixes, source = reader.byte(), reader.choice(EVERYBODY).address
    data = bytearray(reader.sized())
    if fixes & 1 and len(data) >= shared.HEADER_LEN:
        request_id = list(world.asked)[-1 - fixes % len(world.asked)]
        data[8:16] = request_id.to_bytes(8, "big")
        data[16:36] = world.asked[request_id].key
    if fixes & 2:
        data[46:64] = source.port.to_bytes(2, "big") + source.ip
    mend(data, fixes & FIXES & ~Fix.HOME, source.ip, int(world.now))
    world.receive(bytes(data), source)


def _deliver(world: World, message: Message, source: Address) -> None:
    data = replace(message, flags=message.flags | Flag.FORWARDED, epoch=KEYS[0].epoch).pack()
    mend(data, Fix.TIME | Fix.TAGS, source.ip, int(world.now))
    world.receive(bytes(data), source)


EVENTS: tuple[Callable[[World, Reader], None], ...] = (
    tick, wait, lookup, unreachable, restore, request, answer, message, newcomer,
)  # fmt: skip


def one(data: bytes) -> None:
    world, reader = World(), Reader(data)
    for _ in range(MAX_EVENTS):
        if not reader:
            break
        reader.choice(EVENTS)(world, reader)
    world.check()


# --- Where fuzzing starts ----------------------------------------------------------------------


def event(which: Callable[[World, Reader], None], *arguments: int, data: bytes = b"") -> bytes:
    return bytes([EVENTS.index(which), *arguments]) + data


def seeds() -> Iterator[tuple[str, bytes]]:
    joining = event(answer, 0, 0, 4, 2, 3, 4, 5) + event(answer, 1, 0, 3, 6, 7, 8)
    yield "join", joining + b"".join(event(answer, n, 0, 2, n + 3, n + 4) for n in range(6)) + event(tick, 20)
    asked = b"".join(event(request, n, n % 2, n, n, 0) + event(answer, 0, 0, 0) for n in range(12))
    yield "asked", asked + event(lookup, 3) + event(answer, 0, 0, 2, 1, 2)
    yield "silence", joining + event(wait, 30) + event(unreachable, 1) + event(wait, 15)
    yield "strange", joining + event(answer, 0, 0, 6, *range(15, 21)) + event(answer, 0, SOMEBODY, 0, 3)
    yield "restored", event(restore, 9) + event(restore, 5) + event(answer, 0, 0, 1, 3) + event(tick, 9)
    yield (
        "short",
        event(request, 2, 0, 2, 7, 19) + event(request, 2, 1, 2, 7, 1) + event(request, 2, 0, 2, 7, 60),
    )
    claims = b"".join(event(newcomer, n, n, n, n, n) for n in range(8))
    yield "newcomers", joining + claims + event(wait, 2) + claims
    for lie in (ELSEWHERE, SOMEBODY, *LIES):
        yield f"lie-{lie}", event(answer, 0, lie, 1, 5, 3) + joining + event(answer, 0, lie, 0, 7)
    data = Message(
        op=Op.PING, key=SELF.id, request_id=7, hops=1, epoch=2, flags=Flag(2), body=PEERS[2].id
    ).pack()
    fixes = 2 | Fix.FORM | Fix.TIME | Fix.TAGS
    sized = len(data).to_bytes(2, "big") + bytes(data)
    yield "message", event(message, fixes, 2, data=sized) + event(message, 0, 2, data=sized)
    data[5:7] = bytes([Op.FIND_NODE, 3])
    yield "reply", event(message, fixes | 1, 0, data=sized[:2] + bytes(data)) + event(answer, 0, 0, 1, 5)
