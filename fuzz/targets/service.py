"""The answers to GET, PUT, DELETE and TRACE, and the bodies that requests and replies have.

Invariant: each request gets one answer, of right form and no larger than its client may be sent,
with what a dictionary would say; any body parses or is BadPacket, and what parses packs to the
same bytes.

An input is a byte that says whether cookies are asked for, then a line of requests: op, key,
choices, seconds since the last one, attempt, hops, the TTL, what the client takes, and the body.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from fuzz.targets.events import Reader
from fuzz.targets.scene import HOME4, KEYS, NOW
from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket, Uncertified
from kdht.lab.standalone import standalone
from kdht.storage import MemoryStore
from kdht.wire import (
    PROMISE,
    Address,
    Contact,
    Message,
    Record,
    make_cookie,
    pack_contacts,
    pack_decided,
    pack_promise,
    pack_write,
    parse,
    parse_contacts,
    parse_promise,
    parse_store,
    parse_write,
    promised_record,
    verify,
)
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason, RecordFlag, Status, Verdict
from kdht.wire.certified import CERTIFIED, IMMUTABLE, KINDS, check_certified

HOME = Contact(bytes(20), *HOME4)
ENTRY = Contact(b"\xff" * 20, *Address.of("10.0.0.2", shared.PORT))
CLIENT = Address.of("10.0.0.99", 40000)
ASKED = (
    bytes(19) + b"\x01",
    b"\x01" * 20,
    b"\x80" * 20,
    b"\x7f" * 20,
)  # the third is nearer to the entry node
OPS = (Op.GET, Op.PUT, Op.DELETE, Op.TRACE)
MAX_REQUESTS = 24

# Choices of a request: it comes through the entry node; with a right cookie; its body gets a record's
# head; it waits for the next one, to be treated in one batch.
BY_ENTRY, PROVEN, RECORD, HELD = 1, 2, 4, 8


Body = TypeVar("Body")


class Asked(NamedTuple):
    """One request: as its client sent it, and as it arrived here."""

    message: Message
    datagram: Datagram
    choices: int


class Held(NamedTuple):
    """The record of a key, with the version that was reported."""

    value: bytes
    end: float
    version: int


def make_core(contact: Contact, other: Contact, cookies: bool) -> Core:
    core = Core()
    core.configure(
        self_id=contact.id,
        port=shared.PORT,
        own=[contact.ip],
        source4=contact.ip,
        source6=None,
        keys=[(key.epoch, key.tag) for key in KEYS],
        cookie_key=KEYS[0].cookie,
        cookies=cookies,
    )
    core.set_bucket(0, [other])
    return core


_cores: dict[bool, tuple[Core, Core]] = {}


def choices_of(message: Message) -> tuple[bool, bool]:
    """Whether this write has a condition, and whether its client gave it a version."""
    try:
        record, condition = parse_write(message.body)
    except BadPacket:
        return False, False
    is_write = message.op in (Op.PUT, Op.DELETE)
    return is_write and condition is not None, is_write and record.version != 0


class World:
    """A service behind its core, an entry node, and the records that the store should hold."""

    def __init__(self, cookies: bool) -> None:
        self.now = float(NOW)
        self.cookies = cookies
        if cookies not in _cores:
            _cores[cookies] = make_core(HOME, ENTRY, cookies), make_core(ENTRY, HOME, cookies)
        self.home, self.entry = _cores[cookies]
        self.sent: list[Outgoing] = []
        self.held: list[Asked] = []
        self.versioned: set[bytes] = set()
        """Keys that were written with a version from the client."""
        self.used: set[tuple[bytes, int]] = set()
        """Those keys and versions."""
        self.values: dict[bytes, Held] = {}
        store = self.store = MemoryStore()
        self.service = standalone(
            core=self.home, contact=HOME, store=store, send=self.sent.extend, clock=lambda: self.now
        ).service

    def ask(self, message: Message, choices: int) -> None:
        """Send a request its way; where that ends at this node, it is answered now or in a batch."""
        data, source = message.pack(), CLIENT
        if choices & BY_ENTRY:
            outcome = self.entry.decide_message(data, CLIENT, ENTRY.address, int(self.now))
            if outcome.verdict is not Verdict.FORWARD:
                return
            source = ENTRY.address
        outcome = self.home.decide_message(data, source, HOME.address, int(self.now))
        if outcome.verdict is not Verdict.LOCAL:
            return
        datagram = Datagram(bytes(data), source, HOME.address, outcome.reason, outcome.max_reply)
        alone = self._goes_alone(message)
        if alone and self.held:
            self.answer()
        self.held.append(Asked(message, datagram, choices))
        if alone or not choices & HELD:
            self.answer()

    def _goes_alone(self, message: Message) -> bool:
        """Whether the other writes of its batch may be done before or after it.

        A condition is decided by promises, and a version that stands may have a write without one begin again. A write with
        its own version is checked by what the store has right after it.
        """
        conditional, versioned = choices_of(message)
        if versioned:
            self.versioned.add(message.key)
        return conditional or message.key in self.versioned

    def answer(self) -> None:
        """Have the batch answered: reads first, then writes in their order."""
        batch, self.held = self.held, []
        self.sent.clear()
        self.service.handle([asked.datagram for asked in batch], self.now)
        answers = {parse(out.data).request_id: out for out in self.sent}
        assert len(self.sent) == len(answers) == len(batch), "not one answer to each request"
        for asked in sorted(batch, key=lambda asked: asked.message.op is not Op.GET):
            reply = self._at_client(asked, answers[asked.message.request_id])
            self._check(asked, reply)

    def _at_client(self, asked: Asked, out: Outgoing) -> Message:
        """The answer as its client gets it: by the entry node, or straight."""
        data = bytearray(out.data)
        if asked.choices & BY_ENTRY:
            assert out.target == ENTRY.address
            verify(out.data, KEYS[:1], int(self.now), 0)
            outcome = self.entry.decide_message(data, HOME.address, ENTRY.address, int(self.now))
            assert (outcome.reason, outcome.target) == (Reason.RELAYED, CLIENT)
        else:
            assert (out.target, out.source) == (CLIENT, HOME.address)
        reply, request = parse(data), asked.message
        same = ("op", "key", "request_id", "attempt")
        assert all(getattr(reply, name) == getattr(request, name) for name in same)
        assert reply.flags == Flag.REPLY | Flag.FORWARDED
        assert not reply.time
        assert not reply.header_tag
        assert not reply.body_tag
        assert not any(reply.client.ip + reply.entry.ip)
        return reply

    def _check(self, asked: Asked, reply: Message) -> None:
        request, reason = asked.message, asked.datagram.reason
        takes = min(request.max_reply or shared.MAX_BODY, shared.MAX_BODY)
        allowed = takes if asked.choices & PROVEN or not self.cookies else min(takes, len(request.body))
        assert len(reply.body) <= allowed, "more than the client may be sent"
        status, body = self._expected(request, reason, allowed)
        if len(body) > allowed:
            assert reply.status in (Status.TOO_LARGE, Status.COOKIE_NEEDED), reply
            assert self.cookies or reply.status is Status.TOO_LARGE
            assert reply.body == b""
            return
        if status is Status.BAD_VERSION:
            self._check_versioned(request, reply)
            return
        assert reply.status is status, f"{reply.status!r} instead of {status!r}"
        if status is Status.OK and request.op in (Op.GET, Op.PUT):
            record = Record.parse(reply.body)
            assert record.value == body[shared.RECORD_LEN :]
            held = self.values[request.key]
            assert request.op is Op.PUT or record.version == held.version
            self.values[request.key] = held._replace(version=record.version)
        elif request.op is Op.GET and reply.body:
            self._check_told(request, reply)
        elif request.op is Op.TRACE:
            # Padding asks for other nodes: the answer is no longer than the question.
            assert reply.body.startswith(body)
            assert len(reply.body) <= max(len(body), len(request.body))
        else:
            assert reply.body == body

    def _check_told(self, request: Message, reply: Message) -> None:
        """What a GET without a value tells: the version that was deleted, or what is left over beside the replicas."""
        told = Record.parse(reply.body)
        if reply.status is Status.NOT_FOUND:
            assert told.version
            assert (told.flags, told.value) == (RecordFlag.TOMBSTONE, b"")
        else:
            assert reply.status is Status.NOT_RESPONSIBLE
            assert told.value == self.values[request.key].value

    def _check_versioned(self, request: Message, reply: Message) -> None:
        """A write with its own version: it stands, or something that is not older does, or its time is wrong."""
        record, condition = parse_write(request.body)
        stands = self.store.get(request.key, self.now)
        if reply.status in (Status.OK, Status.NOT_FOUND):
            # A version that was used before names that write, and it may have expired.
            assert stands is not None or record.ttl or (request.key, record.version) in self.used
            assert stands is None or stands.version >= record.version
        elif reply.status is Status.CONFLICT:
            assert condition is not None
            assert Record.parse(reply.body).version != condition
        else:
            assert reply.status is Status.BAD_VERSION
            told, time = Record.parse(reply.body).version, int(self.now * 1_000_000)
            assert told >= record.version or (told == time and record.version > time)
        self.used.add((request.key, record.version))
        self.values.pop(request.key, None)
        if stands is not None and not stands.deleted:
            self.values[request.key] = Held(stands.value, stands.expiry or float("inf"), stands.version)

    # --- What a dictionary would say

    def _expected(self, request: Message, reason: Reason, allowed: int) -> tuple[Status, bytes]:
        if request.op is Op.TRACE:
            ends = {Reason.TRACE_ENDS: Status.HOPS_ENDED, Reason.ATTEMPT_ENDS: Status.NOT_RESPONSIBLE}
            return ends.get(reason, Status.OK), pack_contacts([HOME])
        if request.op is Op.GET:
            held = self._held(request.key)
            if held is not None:
                return Status.OK, bytes(shared.RECORD_LEN) + held.value
            return (Status.NOT_FOUND if reason is Reason.OWNER else Status.NOT_RESPONSIBLE), b""
        if reason is not Reason.OWNER:
            return Status.NOT_RESPONSIBLE, b""
        try:
            is_empty = request.op is Op.DELETE and not request.body
            record, condition = (Record(), None) if is_empty else parse_write(request.body)
        except BadPacket:
            return Status.BAD_REQUEST, b""
        if record.flags & KINDS:
            return _refused_record(request, record), b""
        if record.flags:
            return Status.BAD_REQUEST, b""
        return self._written(request, record, condition, allowed)

    def _written(
        self, request: Message, record: Record, condition: int | None, allowed: int
    ) -> tuple[Status, bytes]:
        """The answer to a write that can be read."""
        if (request.body or request.op is Op.PUT) and allowed < shared.RECORD_LEN:
            return Status.OK, bytes(shared.RECORD_LEN)  # too much to say: it is refused for that
        if request.op is Op.DELETE and (record.value or record.ttl):
            return Status.BAD_REQUEST, b""
        if record.version >= CERTIFIED:
            return Status.DENIED, b""
        if record.version:
            return Status.BAD_VERSION, b""  # `_check_versioned` says what it may be
        was = self._held(request.key)
        if condition is not None and condition != (was.version if was else 0):
            return Status.CONFLICT, Record(was.version if was else 0).pack()
        if request.op is Op.DELETE:
            self.values.pop(request.key, None)
            return (Status.NOT_FOUND if was is None else Status.OK), b""
        end = min(-(-self.now // 1) + record.ttl, 2**32 - 1) if record.ttl else float("inf")
        self.values[request.key] = Held(record.value, end, 0)
        return Status.OK, bytes(shared.RECORD_LEN)

    def _held(self, key: bytes) -> "Held | None":
        held = self.values.get(key)
        return held if held is not None and held.end > self.now else None


def check_body(body: bytes) -> None:
    """Any body that fits a message is a value that packs to the same bytes, or BadPacket."""
    record = _parsed(Record.parse, body)
    assert (record is None) == (len(body) < shared.RECORD_LEN)
    assert record is None or record.pack() == body
    for parse_body, pack in ((parse_write, pack_write), (parse_store, pack_decided)):
        written = _parsed(parse_body, body)
        if written is not None:
            plain, extra = written
            if parse_body is parse_write and plain.flags & KINDS:
                assert _packed_certified(plain, extra) == body
            else:
                assert (plain.pack() if extra is None else pack(plain, extra)) == body
    promise = _parsed(parse_promise, body)
    certified = promised_record(body) if len(body) >= PROMISE.size + 4 else None
    assert (
        promise is None
        or pack_promise(promise[0], promise[1], given_back=promise[2], certified=certified) == body
    )
    contacts = _parsed(parse_contacts, body)
    assert (contacts is None) == bool(len(body) % shared.CONTACT_LEN)
    assert contacts is None or pack_contacts(contacts) == body


def _packed_certified(record: Record, condition: int | None) -> bytes:
    """The body of a self-certified record's PUT, from its parts."""
    version, ttl, flags, value = record
    if flags & IMMUTABLE:
        return Record(0, ttl, flags, value).pack()
    head = Record(condition or 0, ttl, flags | (RecordFlag.IF_VERSION if condition is not None else 0))
    return head.pack() + (version - CERTIFIED).to_bytes(8, "big") + value


def _refused_record(request: Message, record: Record) -> Status:
    """How a self-certified record is refused: none of the keys asked for is a hash of anything."""
    if request.op is Op.DELETE:
        return Status.BAD_REQUEST
    try:
        check_certified(request.key, record.version, record.flags, record.value)
    except Uncertified:
        return Status.DENIED
    except BadPacket:
        return Status.BAD_REQUEST
    raise AssertionError("a certificate for a key that is no hash")


def _parsed(parse_body: Callable[[bytes], Body], body: bytes) -> Body | None:
    try:
        return parse_body(body)
    except BadPacket:
        return None


def one(data: bytes) -> None:
    reader = Reader(data)
    world = World(cookies=bool(reader.byte() & 1))
    for number in range(MAX_REQUESTS):
        if not reader:
            break
        _request(world, reader, number)
    if world.held:
        world.answer()


def _request(world: World, reader: Reader, number: int) -> None:
    op, key, choices = reader.choice(OPS), reader.choice(ASKED), reader.byte()
    seconds, attempt, hops, ttl = reader.bytes(4).ljust(4, b"\0")
    takes = int.from_bytes(reader.bytes(2), "big")
    body = reader.sized()[: shared.MAX_BODY]
    check_body(body)
    if choices & RECORD:
        body = (Record(ttl=ttl).pack() + body)[: shared.MAX_BODY]
    if seconds and world.held:
        world.answer()
    world.now += seconds / 2
    cookie = make_cookie(KEYS[0].cookie, CLIENT.ip, int(world.now)) if choices & PROVEN else 0
    message = Message(
        op=op, key=key, request_id=number + 1, attempt=attempt, hops=hops, max_reply=takes, cookie=cookie, body=body
    )  # fmt: skip
    world.ask(message, choices)


# --- Where fuzzing starts ----------------------------------------------------------------------


def request(
    op: Op, key: int = 0, choices: int = 0, *, seconds: int = 0, attempt: int = 0, hops: int = 0, ttl: int = 0,
    takes: int = 0, body: bytes = b"",
) -> bytes:  # fmt: skip
    numbers = bytes([OPS.index(op), key, choices, seconds, attempt, hops, ttl])
    return numbers + takes.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def seeds() -> Iterator[tuple[str, bytes]]:
    for cookies in (0, 1):
        for by in (0, BY_ENTRY):
            line = request(Op.PUT, 0, by | RECORD, ttl=5, body=b"some value")
            line += request(Op.GET, 0, by) + request(Op.GET, 0, by | PROVEN)
            line += request(Op.GET, 0, by, seconds=4, body=bytes(200)) + request(Op.GET, 0, by, seconds=12)
            yield f"life-{cookies}-{by}", bytes([cookies]) + line
            line = request(Op.PUT, 1, by | RECORD | HELD, body=b"1") + request(Op.DELETE, 1, by | HELD)
            line += (
                request(Op.GET, 1, by | HELD) + request(Op.TRACE, 1, by | PROVEN) + request(Op.DELETE, 1, by)
            )
            yield f"batch-{cookies}-{by}", bytes([cookies]) + line
    line = b"".join(request(op, 2, PROVEN, attempt=1, hops=1) for op in OPS)
    yield "not-responsible", b"\1" + line + request(Op.TRACE, 2, PROVEN, hops=1)
    line = request(Op.PUT, 0, RECORD, takes=15) + request(Op.PUT, 0, RECORD, body=bytes(1104))
    yield "sizes", b"\0" + line + request(Op.GET, takes=100) + request(Op.PUT, body=bytes(15))
    condition = pack_write(Record(value=b"x"), 0)
    line = (
        request(Op.PUT, body=condition)
        + request(Op.PUT, body=condition)
        + request(Op.DELETE, body=condition[:24])
    )
    times = [
        pack_write(Record(int((NOW + second) * 1e6), value=b"x"), end)
        for second in (0, 1, 1, 99)
        for end in (None, 0)
    ]
    yield (
        "versions",
        b"\0" + b"".join(request(Op.PUT, body=body) + request(Op.DELETE, body=body[:16]) for body in times),
    )
    own = Record(int(NOW * 1e6), value=b"x").pack()
    yield "versioned-in-a-batch", b"\0" + request(Op.PUT, 0, HELD, body=own) + request(Op.DELETE)
    yield "conditions", b"\0" + line + request(Op.DELETE) + request(Op.PUT, body=condition)
    record = Record(version=1, value=b"x").pack()
    yield (
        "not-a-client's",
        b"\0" + request(Op.PUT, body=record) + request(Op.TRACE, body=pack_contacts([HOME])),
    )
