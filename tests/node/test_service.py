"""The answers of one node, from real verdicts: every request goes through its core first.

The node is its keys' only replica; test_replicas.py has several.
"""

import math
import random
import threading
from dataclasses import replace
from functools import partial

import pytest
from records import MICROS, NOW
from scripted_repair import ScriptedRepair

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import StorageDamaged, StorageError
from kdht.lab.standalone import standalone
from kdht.storage import GroupWriter, LevelStore, MemoryStore, StoredRecord, Write
from kdht.storage._cache import RecordCache
from kdht.wire import (
    NOWHERE,
    OFFSET,
    Address,
    Contact,
    Message,
    Record,
    make_cookie,
    parse,
    parse_contacts,
    verify,
)
from kdht.wire._shared import HOP_LIMIT, MAX_BODY, MAX_VALUE, Flag, Op, Reason, RecordFlag, Status, Verdict
from kdht.wire.keys import derive

SECONDS = int(NOW)
PORT = 5348
HOME = Address.of("10.0.0.1", PORT)
ANYCAST = Address.of("10.9.9.9", PORT)
CLIENT = Address.of("192.0.2.7", 40000)
OTHER_ENTRY = Address.of("10.0.0.2", PORT)
KEY = derive(3, b"a secret of the cluster")
KEY_ID = bytes(range(20))


def core_at(address: Address, *, self_id: bytes = bytes(20), cookies: bool = False) -> Core:
    core = Core()
    core.configure(
        self_id=self_id,
        port=PORT,
        own=[address.ip, ANYCAST.ip],
        source4=address.ip,
        source6=None,
        keys=[(KEY.epoch, KEY.tag)],
        cookie_key=KEY.cookie,
        cookies=cookies,
    )
    return core


class Node:
    """A service behind its core, and everything that it sent."""

    def __init__(self, store=None, open_writer=None, cookies=False, cache=None) -> None:
        self.cookies = cookies
        self.store = store or MemoryStore()
        self.core = core_at(HOME, cookies=cookies)
        self.contact = Contact(bytes(20), *HOME)
        self.batches: list[list[Outgoing]] = []
        self.repair = ScriptedRepair()
        parts = standalone(
            core=self.core,
            contact=self.contact,
            store=self.store,
            send=self.batches.append,
            clock=lambda: NOW,
            cache=cache,
            repair=self.repair,
            open_writer=open_writer,
        )
        self.service, self.writer = parts.service, parts.writer

    def local(self, data: bytearray, source: Address, target: Address = HOME, reason=None) -> Datagram:
        outcome = self.core.decide_message(bytearray(data), source, target, SECONDS)
        assert outcome.verdict is Verdict.LOCAL, outcome
        return Datagram(bytes(data), source, target, reason or outcome.reason, outcome.max_reply)

    def ask(self, *datagrams: Datagram, now: float = NOW) -> list[Outgoing]:
        self.batches.clear()
        self.service.handle(list(datagrams), now)
        return [outgoing for batch in self.batches for outgoing in batch]

    def ask_own(self, message: Message, now: float = NOW, **local) -> Message:
        """The answer to a client that asked this node itself."""
        (sent,) = self.ask(self.local(message.pack(), CLIENT, **local), now=now)
        assert (sent.target, sent.source) == (CLIENT, local.get("target", HOME))
        return parse(sent.data)


def request(op: Op, body: bytes = b"", **fields) -> Message:
    return Message(op=op, key=KEY_ID, request_id=0xABCDEF, body=body, **fields)


def put(value: bytes = b"value", ttl: int = 0) -> Message:
    return request(Op.PUT, Record(ttl=ttl, value=value).pack())


def write(value: bytes, key: bytes = KEY_ID) -> Write:
    return Write(key, StoredRecord(MICROS, 0, 0, value))


def entered(
    message: Message, entry: Address = OTHER_ENTRY, asked: Address | None = None, cookies=False
) -> bytearray:
    """A client's request as the entry node sends it on."""
    core = core_at(entry, self_id=b"\xff" * 20, cookies=cookies)
    core.set_bucket(0, [Contact(bytes(20), *HOME)])
    data = message.pack()
    outcome = core.decide_message(data, CLIENT, asked or entry, SECONDS)
    assert (outcome.verdict, outcome.target) == (Verdict.FORWARD, HOME)
    return data


@pytest.fixture
def node():
    return Node()


# --- Each op -------------------------------------------------------------------------------


def test_put_then_get_then_delete(node):
    stored = node.ask_own(put(b"hello", ttl=60))
    assert (stored.status, Record.parse(stored.body)) == (Status.OK, Record(MICROS, 60, 0, b""))
    found = node.ask_own(request(Op.GET))
    assert (found.status, Record.parse(found.body)) == (Status.OK, Record(MICROS, 60, 0, b"hello"))
    assert node.store.get(KEY_ID, NOW) == StoredRecord(MICROS, math.ceil(NOW) + 60, 0, b"hello")
    assert node.ask_own(request(Op.DELETE)).status is Status.OK
    assert node.ask_own(request(Op.DELETE)).status is Status.NOT_FOUND
    gone = node.ask_own(request(Op.GET))
    assert gone.status is Status.NOT_FOUND
    assert Record.parse(gone.body)[1:] == (0, RecordFlag.TOMBSTONE, b"")


def test_not_found_says_which_version_was_deleted(node):
    """A client that has written a newer one knows then that this replica lags behind."""
    assert node.ask_own(request(Op.GET)).body == b"", "there never was one"
    node.store.apply([Write(KEY_ID, StoredRecord(MICROS, SECONDS + 60, int(RecordFlag.TOMBSTONE), b""))], NOW)
    for op in (Op.GET, Op.QUORUM_GET):
        gone = node.ask_own(request(op))
        assert (gone.status, Record.parse(gone.body).version) == (Status.NOT_FOUND, MICROS)
    node.cookies = True
    without_cookie = Datagram(bytes(request(Op.GET).pack()), CLIENT, HOME, Reason.OWNER, 0)
    assert parse(node.ask(without_cookie)[0].data).body == b"", "no more than it sent"


def test_a_written_record_is_cached_and_never_stale():
    cache = RecordCache(1 << 20)
    node = Node(cache=cache)

    def at_hand() -> Record | None:
        body = cache.get(KEY_ID, NOW)
        return None if body is None else Record.parse(body)

    assert at_hand() is None
    node.ask_own(put(b"one", ttl=60))
    assert at_hand() == Record(MICROS, 60, 0, b"one")
    node.ask_own(put(b"two"))
    assert at_hand() == Record(MICROS + 1, 0, 0, b"two")
    write_here = Write(KEY_ID, StoredRecord(MICROS + 7, 0, 0, b"of another coordinator"))
    node.writer.submit([write_here], NOW, lambda outcome: None)
    assert at_hand() is None
    assert node.ask_own(put(b"three")).status is Status.OK
    assert at_hand() == Record(MICROS + 8, 0, 0, b"three")
    node.ask_own(request(Op.DELETE))
    assert at_hand() is None
    node.repair.caught_up = lambda key: False
    node.ask_own(put(b"where others may know more"))
    assert at_hand() is None


def test_an_answer_repeats_the_requests_fields(node):
    asked = request(Op.GET, attempt=5, hops=7)
    answer = node.ask_own(asked)
    cookie = make_cookie(KEY.cookie, CLIENT.ip, SECONDS)
    assert answer == replace(asked, flags=Flag.REPLY | Flag.FORWARDED, status=Status.NOT_FOUND, cookie=cookie)


@pytest.mark.parametrize(
    ("hops", "answered"), [(0, HOP_LIMIT), (1, 1), (HOP_LIMIT, HOP_LIMIT), (200, HOP_LIMIT)]
)
def test_an_answer_has_the_hops_that_are_left(node, hops, answered):
    assert node.ask_own(request(Op.GET, hops=hops)).hops == answered


def test_the_largest_value_fits(node):
    value = random.Random(2).randbytes(MAX_VALUE)
    assert node.ask_own(put(value)).status is Status.OK
    assert Record.parse(node.ask_own(request(Op.GET)).body).value == value


@pytest.mark.parametrize("ttl", [1, 2, 60, 2**31])
def test_a_ttl_counts_down_and_ends(node, ttl):
    node.ask_own(put(ttl=ttl))

    def left(now: float) -> int:
        return Record.parse(node.ask_own(request(Op.GET), now=now).body).ttl

    assert left(NOW) == ttl
    assert left(NOW + ttl - 0.5) == left(NOW + ttl + 0.5) == 1
    assert left(NOW + ttl / 2) in (ttl - ttl // 2, max(ttl - ttl // 2 - 1, 1))
    assert left(NOW - 3600) in (ttl + 3600, 2**32 - 1)
    assert node.ask_own(request(Op.GET), now=NOW + ttl + 1).status is Status.NOT_FOUND


def test_without_a_ttl_there_is_no_end(node):
    node.ask_own(put())
    assert Record.parse(node.ask_own(request(Op.GET), now=NOW * 2).body).ttl == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(15),
        Record(flags=RecordFlag.TOMBSTONE).pack(),
        Record(flags=0x80, value=b"x").pack(),
        Record(flags=RecordFlag.DECIDED, value=bytes(8)).pack(),
        Record(flags=RecordFlag.IF_VERSION, value=bytes(7)).pack(),
    ],
)
def test_an_invalid_put_body_is_refused(node, body):
    assert node.ask_own(request(Op.PUT, body)).status is Status.BAD_REQUEST
    assert node.store.stats().records == 0


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.OWNER, Status.OK),
        (Reason.TRACE_ENDS, Status.HOPS_ENDED),
        (Reason.ATTEMPT_ENDS, Status.NOT_RESPONSIBLE),
    ],
)
def test_trace_tells_who_answers(node, reason, status):
    answer = node.ask_own(request(Op.TRACE), reason=reason)
    assert (answer.status, parse_contacts(answer.body)) == (status, [node.contact])


@pytest.mark.parametrize("padding", [0, 37, 75, 76, 100, 38 * 17, MAX_BODY])
def test_a_padded_trace_names_replicas_within_its_size(node, padding):
    others = [
        Contact(bytes([128 + number]) * 20, *Address.of(f"10.0.1.{number}", PORT)) for number in range(20)
    ]
    node.core.set_bucket(0, others)
    asked = request(Op.TRACE, bytes(padding), hops=1)
    contacts = parse_contacts(node.ask_own(asked, reason=Reason.TRACE_ENDS).body)
    assert contacts[0] == node.contact
    assert len(contacts) == len(set(contacts)) == max(1, min(padding // 38, 21))
    assert set(contacts) <= {node.contact, *others}
    short = node.ask_own(request(Op.TRACE, bytes(padding), hops=1, max_reply=80), reason=Reason.TRACE_ENDS)
    assert len(parse_contacts(short.body)) == max(1, min(padding // 38, 2)), "no more than its client takes"


def test_a_non_replica_returns_its_record_as_not_responsible(node):
    """It may have been left over long ago: the client believes it when no replica answers."""
    node.core.set_bucket(15, [Contact(KEY_ID, *OTHER_ENTRY)])
    node.repair.caught_up = lambda key: False
    again = {"attempt": 1}
    node.store.apply([write(b"left over")], NOW)
    heard = node.ask_own(request(Op.GET, **again))
    assert heard.status is Status.NOT_RESPONSIBLE
    assert Record.parse(heard.body) == Record(MICROS, 0, 0, b"left over")
    short = node.ask_own(request(Op.GET, max_reply=20, **again))
    assert (short.status, short.body) == (Status.NOT_RESPONSIBLE, b"")
    node.store.apply(
        [Write(KEY_ID, StoredRecord(MICROS + 1, SECONDS + 60, int(RecordFlag.TOMBSTONE), b""))], NOW
    )
    heard = node.ask_own(request(Op.GET, **again))
    assert (heard.status, heard.body) == (Status.NOT_RESPONSIBLE, b"")


def test_a_retry_at_a_non_replica_only_reads(node):
    node.core.set_bucket(15, [Contact(KEY_ID, *OTHER_ENTRY)])
    again = {"attempt": 1}
    assert node.ask_own(replace(put(), **again)).status is Status.NOT_RESPONSIBLE
    assert node.ask_own(request(Op.GET, **again)).status is Status.NOT_RESPONSIBLE
    node.store.apply([write(b"mine")], NOW)
    assert Record.parse(node.ask_own(request(Op.GET, **again)).body).value == b"mine"
    assert node.ask_own(request(Op.DELETE, **again)).status is Status.NOT_RESPONSIBLE
    assert node.ask_own(replace(put(b"new"), **again)).status is Status.NOT_RESPONSIBLE
    assert node.store.get(KEY_ID, NOW).value == b"mine"


# --- Where the answer goes --------------------------------------------------------------------


def test_a_forwarded_request_is_answered_through_its_entry(node):
    node.ask_own(put(b"hello"))
    (sent,) = node.ask(node.local(entered(request(Op.GET, hops=9)), OTHER_ENTRY))
    assert (sent.target, sent.source) == (OTHER_ENTRY, None)
    verify(sent.data, [KEY], SECONDS)
    reply = parse(sent.data)
    assert reply.flags == Flag.REPLY | Flag.FORWARDED
    assert (reply.client, reply.entry, reply.hops, reply.cookie) == (CLIENT, OTHER_ENTRY, 8, 0)
    assert Record.parse(reply.body).value == b"hello"


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("op", [Op.GET, Op.PUT, Op.DELETE, Op.TRACE])
def test_a_straight_answer_equals_a_relayed_one(op, cookies):
    node = Node(cookies=cookies)
    asked = request(op, Record(value=b"x" * 40).pack())
    (straight,) = node.ask(node.local(asked.pack(), CLIENT))
    node = Node(cookies=cookies)
    (sealed,) = node.ask(node.local(entered(replace(asked, hops=HOP_LIMIT)), OTHER_ENTRY))
    data = bytearray(sealed.data)
    outcome = core_at(OTHER_ENTRY, cookies=cookies).decide_message(data, HOME, OTHER_ENTRY, SECONDS)
    assert (outcome.verdict, outcome.source, outcome.target) == (Verdict.RELAY, OTHER_ENTRY, CLIENT)
    data[OFFSET["hops"]] += 1  # the forwarded one came a hop farther
    assert bytes(data) == straight.data


@pytest.mark.parametrize("asked", [ANYCAST, HOME])
def test_an_entry_address_of_our_own_is_answered_straight(asked):
    """By anycast the owner has the entry address too; or the request went round and came back."""
    node = Node(cookies=True)
    data = entered(request(Op.GET), entry=OTHER_ENTRY, asked=asked)
    (sent,) = node.ask(node.local(data, OTHER_ENTRY))
    assert (sent.target, sent.source) == (CLIENT, asked)
    answer = parse(sent.data)
    assert (answer.client, answer.entry, answer.time, answer.body_tag, answer.header_tag) == (
        NOWHERE,
        NOWHERE,
        0,
        0,
        0,
    )
    assert answer.cookie == make_cookie(KEY.cookie, CLIENT.ip, SECONDS)


def test_an_own_address_with_another_port_is_another_entry(node):
    data = entered(request(Op.GET), asked=Address(HOME.ip, PORT + 1))
    (sent,) = node.ask(node.local(data, OTHER_ENTRY))
    assert (sent.target, sent.source) == (Address(HOME.ip, PORT + 1), None)


def test_a_client_is_answered_from_the_address_it_asked(node):
    node.ask_own(request(Op.GET), target=ANYCAST)


# --- How much an answer may hold ----------------------------------------------------------------


@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.parametrize(
    ("fields", "padding", "status"),
    [
        ({}, 0, Status.COOKIE_NEEDED),
        ({}, 115, Status.COOKIE_NEEDED),
        ({}, 116, Status.OK),
        ({"cookie": "valid"}, 0, Status.OK),
        ({"cookie": "valid", "max_reply": 116}, 0, Status.OK),
        ({"cookie": "valid", "max_reply": 115}, 0, Status.TOO_LARGE),
        ({"cookie": "stale"}, 0, Status.COOKIE_NEEDED),
        ({"max_reply": 50}, 60, Status.TOO_LARGE),
        ({"max_reply": 200}, 60, Status.COOKIE_NEEDED),
        ({"max_reply": 116}, 60, Status.COOKIE_NEEDED),
    ],
)
def test_large_answers_need_a_cookie(fields, padding, status, forwarded):
    node = Node(cookies=True)
    node.store.apply([write(b"v" * 100)], NOW)
    shown = {"valid": SECONDS, "stale": SECONDS - 1000}.get(fields.get("cookie"))
    cookie = make_cookie(KEY.cookie, CLIENT.ip, shown) if shown else 0
    asked = request(Op.GET, bytes(padding), **{**fields, "cookie": cookie})
    if forwarded:
        (sent,) = node.ask(node.local(entered(asked, cookies=True), OTHER_ENTRY))
        answer = parse(sent.data)
    else:
        answer = node.ask_own(asked)
        assert answer.cookie == make_cookie(KEY.cookie, CLIENT.ip, SECONDS)
    assert answer.status is status
    assert len(answer.body) == (116 if status is Status.OK else 0)


@pytest.mark.parametrize("forwarded", [False, True])
def test_without_cookies_max_reply_alone_limits_an_answer(forwarded):
    node = Node(cookies=False)
    node.store.apply([write(b"v" * 100)], NOW)
    asked = request(Op.GET, bytes(50), max_reply=50)
    datagram = node.local(entered(asked), OTHER_ENTRY) if forwarded else node.local(asked.pack(), CLIENT)
    (sent,) = node.ask(datagram)
    answer = parse(sent.data)
    assert (answer.status, answer.body) == (Status.TOO_LARGE, b"")


def test_a_put_whose_answer_cannot_be_sent_is_not_made(node):
    assert node.ask_own(replace(put(), max_reply=15)).status is Status.TOO_LARGE
    assert node.store.stats().records == 0
    assert node.ask_own(replace(put(), max_reply=16)).status is Status.OK


def test_an_answer_without_a_cookie_is_no_longer_than_its_request():
    node = Node(cookies=True)
    node.store.apply([write(b"v" * MAX_VALUE)], NOW)
    rng = random.Random(8)
    for _ in range(300):
        op = rng.choice([Op.GET, Op.PUT, Op.TRACE, Op.DELETE, Op.GET])
        asked = request(op, bytes(rng.randrange(MAX_BODY + 1)), max_reply=rng.choice((0, 1, 40, 1120, 65535)))
        (sent,) = node.ask(node.local(asked.pack(), CLIENT))
        assert len(sent.data) <= len(asked.pack())


# --- Batches, failures, threads -----------------------------------------------------------------


def numbered(node: Node, op: Op, number: int, body: bytes = b"") -> Datagram:
    message = Message(op=op, key=bytes([number] * 20), request_id=number, body=body)
    return node.local(message.pack(), CLIENT)


def test_a_batch_is_answered_in_one_send_for_each_kind(node):
    node.store.apply([write(b"v", bytes([n] * 20)) for n in (1, 2)], NOW)
    ops = [Op.TRACE, Op.GET, Op.GET, Op.PUT, Op.PUT, Op.DELETE, Op.GET, Op.GET]
    bodies = {Op.PUT: Record(value=b"x").pack()}
    answers = node.ask(*[numbered(node, op, n, bodies.get(op, b"")) for n, op in enumerate(ops)])
    assert sorted(parse(sent.data).request_id for sent in answers) == list(range(8))
    found, missed, written = 3, 2, 3
    assert sorted(len(batch) for batch in node.batches) == sorted([found, missed, written])


def test_writes_of_a_batch_keep_their_order(node):
    answers = node.ask(
        numbered(node, Op.DELETE, 1),
        numbered(node, Op.PUT, 1, Record(value=b"a").pack()),
        numbered(node, Op.DELETE, 1),
    )
    assert [parse(sent.data).status for sent in answers] == [Status.NOT_FOUND, Status.OK, Status.OK]


def test_only_routed_requests_are_answered(node):
    data = bytearray(request(Op.GET).pack())
    data[OFFSET["op"]] = Op.PING
    assert node.ask(Datagram(bytes(data), CLIENT, HOME, Reason.CONTROL, 0)) == []
    assert node.ask() == []


class BrokenStore(MemoryStore):
    def __init__(self, bad: set[bytes], error: StorageError) -> None:
        super().__init__()
        self.bad = bad
        self.error = error

    def get(self, key, now):
        if key in self.bad:
            raise self.error
        return super().get(key, now)

    def apply(self, writes, now, on_change=None):
        if any(write.key in self.bad for write in writes):
            raise self.error
        return super().apply(writes, now, on_change)


def test_one_damaged_record_fails_alone():
    node = Node(BrokenStore({bytes([2] * 20)}, StorageDamaged("unreadable")))
    node.store.apply([write(b"v", bytes([n] * 20)) for n in (1, 3)], NOW)
    answers = node.ask(*[numbered(node, Op.GET, n) for n in (1, 2, 3)])
    assert [parse(sent.data).status for sent in answers] == [Status.OK, Status.STORAGE_FAILED, Status.OK]


def test_a_disk_failure_is_reported():
    node = Node(BrokenStore({bytes([2] * 20)}, StorageError("disk full")))
    for op in (Op.PUT, Op.DELETE):
        (sent,) = node.ask(numbered(node, op, 2, Record().pack()))
        assert parse(sent.data).status is Status.STORAGE_FAILED


def test_a_full_queue_is_busy():
    class Full:
        def submit(self, writes, now, done):
            return False

    node = Node(open_writer=lambda on_change: Full())
    assert node.ask_own(put()).status is Status.BUSY
    assert node.service.counters() == {"PUT BUSY": 1}


def test_answers_are_counted_by_op_and_status(node):
    node.ask_own(put())
    for _ in range(3):
        node.ask_own(request(Op.GET))
    node.ask_own(request(Op.PUT))
    assert node.service.counters() == {"GET OK": 3, "PUT OK": 1, "PUT BAD_REQUEST": 1}


def test_threads_over_leveldb_lose_no_answer(tmp_path):
    """Several datapath threads, the writer's thread, and the disk: every request has one answer."""
    store = LevelStore(tmp_path / "db")
    node = Node(store, partial(GroupWriter, store))
    record = Record(value=b"x" * 20).pack()
    datagrams = {
        thread: [numbered(node, Op.PUT if n % 2 else Op.GET, 50 * thread + n, record) for n in range(50)]
        for thread in range(4)
    }

    def drive(thread: int) -> None:
        for start in range(0, 50, 10):
            node.service.handle(datagrams[thread][start : start + 10], NOW)

    threads = [threading.Thread(target=drive, args=(thread,)) for thread in datagrams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    node.writer.close()
    answers = [parse(sent.data) for batch in node.batches for sent in batch]
    assert sorted(answer.request_id for answer in answers) == list(range(200))
    assert node.service.counters() == {"GET NOT_FOUND": 100, "PUT OK": 100}
    assert store.stats().records == 100
    store.close()
