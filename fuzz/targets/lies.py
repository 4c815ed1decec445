"""A member lies: sealed messages with hostile numbers, to whole nodes in memory.

Invariant: no exception escapes a handler (`faults` stay 0), and once the liar is silent, honest clients write and read.

An input is a line of steps. Each says what the liar does: it sends a message of its own, chooses how it answers, or lets time
pass. Numbers are drawn from those that break programs: 0, 1, the greatest, and some around the present time.
"""

from collections.abc import Callable, Iterator

from fuzz.targets.events import Reader
from kdht.datapath.base import Datagram, Handlers, Outgoing
from kdht.datapath.memory import MemoryTransport
from kdht.lab.virtual.cluster import VirtualCluster, id_of
from kdht.lab.virtual.member import Member
from kdht.node.messages import CONTROL_HOPS
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.node.replicas.calls import answer, seal_as_sender
from kdht.wire import FIELD, OFFSET, Address, Message, Record, pack_request, parse
from kdht.wire._shared import MAX_BODY, Flag, Op, Status
from kdht.wire.sets import PLACE_LEN

OPS = (
    Op.PING, Op.FIND_NODE, Op.STORE, Op.FETCH, Op.DIGEST, Op.OFFER, Op.SUSPECT, Op.LEAVE, Op.PROMISE, Op.FORGET, Op.MEET,
    Op.LIST,
)  # fmt: skip
ROUTED = (
    Op.GET, Op.PUT, Op.DELETE, Op.TRACE, Op.QUORUM_GET, Op.WATCH, Op.ANNOUNCE, Op.WITHDRAW, Op.MEMBERS,
)  # fmt: skip
STATUSES = tuple(Status)
HONEST = 3
MAX_STEPS = 24
WARM = 12.0
"""Virtual seconds until the nodes are ready."""
PATIENCE = 180.0
"""Virtual seconds in which an honest write must succeed afterwards: more than the greatest lead of a version."""
SEND, ANSWER, PASS, ASK = range(4)
CLIENT = Address.of("192.0.2.7", 40000)

Number = Callable[[int, int], int]
NUMBERS: tuple[Number, ...] = (
    lambda bits, now: 0,
    lambda bits, now: 1,
    lambda bits, now: (1 << bits) - 1,
    lambda bits, now: (1 << bits) - 2,
    lambda bits, now: 1 << (bits - 1),
    lambda bits, now: (1 << (bits - 1)) - 1,
    lambda bits, now: now % (1 << bits),
    lambda bits, now: (now + 100_000_000) % (1 << bits),
    lambda bits, now: (now + 130_000_000) % (1 << bits),
    lambda bits, now: now // 1_000_000 % (1 << bits),
    lambda bits, now: 16 % (1 << bits),
    lambda bits, now: 255 % (1 << bits),
)
"""By width in bits and the present version."""


class World:
    """Three honest nodes that know each other and the liar, and a client."""

    def __init__(self) -> None:
        self.cluster = VirtualCluster(7, policy=Policy(), repair=RepairOptions(interval=5.0))
        self.cluster.grow(HONEST + 1)
        self.cluster.run(WARM)
        self.honest, self.liar = self.cluster.members[:HONEST], self.cluster.members[HONEST]
        self.own = self.liar.contact.address
        self.answers: dict[int, tuple[Status, bytes]] = {}
        self.liar.stop()
        self._transport = MemoryTransport(self.network, self.liar.core, [self.own])
        self._transport.start(Handlers.without_records(self._receive))
        self.client = self.network.client(CLIENT)
        self._requests = 1 << 32

    @property
    def network(self):  # type: ignore[no-untyped-def]
        return self.cluster.network

    @property
    def version(self) -> int:
        """The present time as a version."""
        return int(self.network.now * 1_000_000)

    def send(self, op: Op, key: bytes, body: bytes, to: Member, *, change: int = 0, value: int = 0) -> None:
        """A sealed message of the liar's. `change`: a number of the header that is not as it should be."""
        self._requests += 1
        message = pack_request(op, key, self._requests, body[:MAX_BODY], hops=CONTROL_HOPS)
        name = ("", "attempt", "status", "max_reply", "cookie", "request_id", "entry_port")[change]
        if name:
            field = FIELD[name]
            message[field] = (value % (1 << 8 * (field.stop - field.start))).to_bytes(
                field.stop - field.start, "big"
            )
        if change == 2:
            message[OFFSET["flags"]] |= Flag.REPLY
        seal_as_sender(self.liar.core, message, self.own, self.liar.clock())
        self._transport.send([Outgoing(bytes(message), to.contact.address, self.own)])

    def ask(
        self, op: Op, name: bytes, body: bytes, request_id: int, *, attempt: int = 0, via: int = 0
    ) -> None:
        """An honest client's request."""
        message = Message(op=op, key=name, request_id=request_id, body=body, attempt=attempt)
        self.client.send(message.pack(), self.honest[via % HONEST].contact.address)

    def faults(self) -> int:
        """Exceptions so far."""
        found = 0
        for member in self.honest:
            assert member.records is not None
            found += member.records.coordinator.counters["faults"] + member.node.counters["faults"]
        return found

    def silence(self) -> None:
        """From now on the liar says nothing."""
        self._transport.stop()

    def succeeds(self, op: Op, name: bytes, body: bytes) -> Message | None:
        """The good answer to a client that tries for PATIENCE; None: there was none."""
        end, number = self.network.now + PATIENCE, 0
        self.client.take()
        while self.network.now < end:
            number += 1
            self.ask(op, name, body, (self._requests << 8) + number, attempt=number % HONEST, via=number)
            self.cluster.run(1.0)
            for each in self.client.take():
                reply = parse(each.data)
                if reply.key == name and reply.op is op and reply.status in (Status.OK, Status.NOT_FOUND):
                    return reply
        return None

    def _receive(self, batch: list[Datagram]) -> None:
        for asked in batch:
            said = self.answers.get(asked.data[OFFSET["op"]])
            if said is not None and not asked.data[OFFSET["flags"]] & Flag.REPLY:
                status, body = said
                self._transport.send(
                    [answer(self.liar.core, asked, status, body[:MAX_BODY], self.liar.clock())]
                )


class Liar:
    """Makes the bodies of one input."""

    def __init__(self, world: World, reader: Reader) -> None:
        self._world = world
        self._reader = reader

    def number(self, bits: int) -> bytes:
        value = self._reader.choice(NUMBERS)(bits, self._world.version)
        return value.to_bytes(bits // 8, "big")

    def key(self) -> bytes:
        """Of a record, of a node, or any."""
        choice = self._reader.byte() % 12
        if choice < 4:
            return id_of(1000 + choice)
        if choice < 8:
            return [*self._world.honest, self._world.liar][choice - 4].contact.id
        return (
            bytes(20),
            b"\xff" * 20,
            self._world.liar.contact.id[:19] + b"\0",
            self._reader.bytes(20).ljust(20, b"\0"),
        )[choice - 8]

    def value(self) -> bytes:
        return self._reader.bytes(self._reader.byte() % 40)

    def contact(self) -> bytes:
        # IPv4 alone: a node that hears of members with another IP version leaves its cluster (`node.reach`), as it should.
        mapped = self._world.own.ip[:12]
        others = [mapped + bytes([n]) * 4 for n in (0, 127, 255)]
        return (
            self.key()
            + self._reader.choice([self._world.own.ip, self._world.honest[0].contact.ip, *others])
            + self.number(16)
        )

    def many(self, make: Callable[[], bytes], most: int = 40) -> bytes:
        return b"".join(make() for _ in range(self._reader.byte() % most))

    def record(self) -> bytes:
        return self.number(64) + self.number(32) + self.number(32) + self.value()

    def report(self) -> bytes:
        keepers = self._reader.byte() % 34
        named = keepers if self._reader.byte() & 1 else self._reader.byte()
        return (
            self.number(8)
            + self.number(32)
            + self.number(64)
            + bytes([named])
            + b"".join(self.number(32) for _ in range(keepers))
        )

    def range(self) -> bytes:
        return self.key() + self.number(8) + self.report()

    def request(self, op: Op) -> bytes:
        """The body of a request, with the sender's ID where it belongs."""
        own = self._world.liar.contact.id if self._reader.byte() % 8 else self.key()
        if op is Op.STORE:
            return self.record()
        if op is Op.PROMISE:
            return self.number(64) + self.number(64) + self.value()[:1]
        if op is Op.DIGEST:
            return own + self.number(8) + self.many(self.range)
        if op is Op.OFFER:
            return (
                own
                + self.key()
                + self.key()
                + self.many(lambda: self.key() + self.number(64) + self.number(32))
            )
        if op in (Op.SUSPECT, Op.MEET, Op.FIND_NODE):
            return own + self.many(self.contact, 3)
        if op is Op.LIST:
            return self.number(64)
        return own + self.value()

    def reply(self, op: Op) -> bytes:
        own = self._world.liar.contact.id
        if op in (Op.STORE, Op.FETCH, Op.PROMISE):
            return self.record()
        if op is Op.DIGEST:
            return own + self.number(8) + self.many(self.report)
        if op is Op.LIST:
            return self.number(32) + self.number(32) + self.number(64) + self.many(self.listed)
        if op is Op.OFFER:
            return own + self.value() + self.many(lambda: self.key() + self.number(64))
        return own + self.many(self.contact)

    def listed(self) -> bytes:
        return self.key()[:PLACE_LEN] + self.number(64) + self.number(32) + self.number(16) + self.number(16)

    def of_client(self, op: Op) -> bytes:
        if op in (Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW):
            return self.record()
        if op is Op.MEMBERS:
            return self.number(64) + self.number(32)
        return self.number(32) if op is Op.WATCH else self.value()


def _step(world: World, reader: Reader, number: int) -> None:
    liar = Liar(world, reader)
    kind = reader.byte() % 4
    if kind == SEND:
        op, to, change = reader.choice(OPS), reader.choice(world.honest), max(reader.byte() % 12 - 5, 0)
        value = int.from_bytes(liar.number(64), "big")
        world.send(op, liar.key(), liar.request(op), to, change=change, value=value)
    elif kind == ANSWER:
        op = reader.choice(OPS)
        world.answers[op] = reader.choice(STATUSES), liar.reply(op)
    elif kind == PASS:
        world.cluster.run((0.01, 0.3, 2.0, 7.0)[reader.byte() % 4])
    else:
        op = reader.choice(ROUTED)
        world.ask(
            op, liar.key(), liar.of_client(op), number + 1, attempt=reader.byte() % 4, via=reader.byte()
        )


def one(data: bytes) -> None:
    reader, world = Reader(data), World()
    for number in range(MAX_STEPS):
        if not reader:
            break
        _step(world, reader, number)
    world.cluster.run(1.0)
    world.silence()
    assert world.faults() == 0, "an exception escaped"
    for op, body in ((Op.PUT, Record(value=b"honest").pack()), (Op.QUORUM_GET, bytes(MAX_BODY))):
        reply = world.succeeds(op, id_of(2000), body)
        assert reply is not None, f"{op!r} of an honest client fails"
    assert Record.parse(reply.body).value == b"honest"
    assert world.faults() == 0, "an exception escaped later"


# --- Where fuzzing starts ----------------------------------------------------------------------


def _send(op: Op, *rest: int) -> bytes:
    return bytes([SEND, OPS.index(op), 0, 0, 0, *rest])


def seeds() -> Iterator[tuple[str, bytes]]:
    for number in range(len(NUMBERS)):
        line = b"".join(_send(op, 0, 1, number, number, number, 4, 1, 2, 3, 4) for op in OPS)
        yield f"numbers-{number}", line + bytes([PASS, 2])
        line = b"".join(
            bytes([ANSWER, OPS.index(op), status, number, number, number, 1, number, number, number])
            for op in OPS
            for status in (0,)
        )
        asks = b"".join(
            bytes([ASK, n, 0, number, number, number, 3, 1, 2, 3, 0, 0]) for n in range(len(ROUTED))
        )
        yield f"answers-{number}", line[: MAX_STEPS * 6] + asks + bytes([PASS, 3])
