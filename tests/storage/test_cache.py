"""The records at hand: exact whatever the order of reads and writes, bounded, and what the socket gives out."""

import mmap
import random
import socket
import threading
import time
from dataclasses import replace as changed_by
from pathlib import Path

import pytest

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers
from kdht.datapath.socket.transport import SocketTransport
from kdht.lab.wait import wait_until
from kdht.storage._cache import RecordCache
from kdht.wire import Address, Message, Record, parse
from kdht.wire._shared import ID_LEN, MAX_VALUE, TAG_KEY_LEN, Flag, Op, Status

NOW = 1_700_000_000.25


def key(number: int) -> bytes:
    return number.to_bytes(ID_LEN, "little")


def filled(cache: RecordCache, number: int, version: int, value: bytes = b"v", expiry: int = 0) -> bool:
    (begun,) = cache.begin([key(number)])
    return cache.fill(key(number), begun, version, expiry, 0, value)


@pytest.fixture
def cache():
    return RecordCache(1 << 20)


def test_the_cache_returns_filled_records(cache):
    assert cache.get(key(1), NOW) is None
    assert filled(cache, 1, 7, bytes(MAX_VALUE))
    assert Record.parse(cache.get(key(1), NOW)) == Record(7, 0, 0, bytes(MAX_VALUE))
    assert cache.get(key(2), NOW) is None


def test_a_ttl_counts_down_and_ends(cache):
    filled(cache, 1, 7, expiry=int(NOW) + 10)
    assert Record.parse(cache.get(key(1), NOW)).ttl == 9
    assert Record.parse(cache.get(key(1), NOW + 9.5)).ttl == 1
    assert cache.get(key(1), NOW + 10) is None


def test_a_change_ends_it_and_refuses_older_readers(cache):
    filled(cache, 1, 7)
    (before,) = cache.begin([key(1)])
    cache.invalidate(key(1))
    assert cache.get(key(1), NOW) is None
    assert not cache.fill(key(1), before, 7, 0, 0, b"old")
    assert cache.get(key(1), NOW) is None
    assert filled(cache, 1, 8)


def test_a_clear_ends_all_and_refuses_older_readers(cache):
    filled(cache, 1, 7)
    (before,) = cache.begin([key(2)])
    cache.clear()
    assert cache.get(key(1), NOW) is None
    assert not cache.fill(key(2), before, 7, 0, 0, b"old")
    assert filled(cache, 2, 7)


@pytest.mark.parametrize("wrong", [b"", bytes(19), bytes(21)])
def test_a_key_of_a_wrong_length_is_refused(cache, wrong):
    for call in (
        lambda: cache.begin([wrong]),
        lambda: cache.invalidate(wrong),
        lambda: cache.get(wrong, NOW),
    ):
        with pytest.raises(ValueError, match="a key has 20 bytes"):
            call()


def test_too_long_a_value_and_too_little_room(cache):
    (begun,) = cache.begin([key(1)])
    assert not cache.fill(key(1), begun, 1, 0, 0, bytes(MAX_VALUE + 1))
    with pytest.raises(ValueError, match="one record takes"):
        RecordCache(100)


def test_it_never_gives_out_what_was_replaced():
    """Against a store that changes: a seeded run of everything, in every order."""
    rng = random.Random(5)
    cache = RecordCache(4096 * 2)  # two slots or so: keys push each other out
    store = dict.fromkeys(range(8), 0)
    reads: list[tuple[int, int, int]] = []
    for version in range(1, 20_000):
        number = rng.randrange(8)
        what = rng.random()
        if what < 0.2:
            store[number] = version
            cache.invalidate(key(number))
        elif what < 0.4:
            reads.append((number, cache.begin([key(number)])[0], store[number]))
        elif what < 0.6 and reads:
            read, begun, seen = reads.pop(rng.randrange(len(reads)))
            cache.fill(key(read), begun, seen, 0, 0, b"v")
        elif what < 0.61:
            cache.clear()
        else:
            body = cache.get(key(number), NOW)
            assert body is None or Record.parse(body).version == store[number]
        del reads[:-5]


def alone(core: Core, address: Address) -> None:
    """The one node of a cluster, which owns every key."""
    core.configure(
        self_id=bytes(ID_LEN),
        port=address.port,
        own=[address.ip],
        source4=address.ip,
        source6=None,
        keys=[(0, bytes(TAG_KEY_LEN))],
        cookie_key=bytes(16),
        cookies=False,
    )


def test_a_reader_without_the_gil_sees_whole_records():
    """The socket's loop answers while another thread replaces the record, each of one letter."""
    home = Address.of("127.0.0.1", 0)
    core, cache, passed = Core(), RecordCache(1 << 20), []

    def receive(batch: list[Datagram]) -> None:
        passed.extend(batch)

    transport = SocketTransport(core, [home], cache=cache)
    transport.start(Handlers.without_records(receive))
    address = transport.addresses[0]
    alone(core, address)
    replies: list[Message] = []
    end = threading.Event()

    def replace() -> None:
        version = 0
        while not end.is_set():
            version += 1
            cache.invalidate(key(1))
            filled(cache, 1, version, bytes([version % 251]) * (version % MAX_VALUE))
            time.sleep(0.0001)  # lets the GIL go; the loop needs none

    changer = threading.Thread(target=replace)
    changer.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.005)  # a GET that finds the record out is not answered here
            sock.connect((address.host, address.port))
            for number in range(20_000):
                sock.send(Message(op=Op.GET, key=key(1), request_id=number).pack())
                try:
                    replies.append(parse(sock.recv(2048)))
                except TimeoutError:
                    continue
                if len(replies) > 5000:
                    break
    finally:
        end.set()
        changer.join()
        wait_until(lambda: transport.status()["received"], "the loop's counters")
        answered = transport.status()["cache_answers"]
        transport.stop()
    assert answered >= len(replies) > 100  # one that comes too late answers a GET before
    assert {reply.status for reply in replies} == {Status.OK}
    assert {reply.flags for reply in replies} == {Flag.REPLY | Flag.FORWARDED}
    for reply in replies:
        record = Record.parse(reply.body)
        assert record.value == bytes([record.version % 251]) * (record.version % MAX_VALUE)


def test_keys_of_one_set_have_slots_of_their_own_until_it_is_full():
    cache = RecordCache(4096 * 2)  # one set of four slots
    for number in range(5):
        assert filled(cache, number, 7)
    there = [cache.get(key(number), NOW) is not None for number in range(5)]
    assert there.count(True) == 4
    assert there[4]
    cache.invalidate(key(4))
    assert cache.get(key(4), NOW) is None
    assert [cache.get(key(number), NOW) is not None for number in range(4)] == there[:4]


@pytest.fixture
def asked():
    """A socket of a node whose reader has one record, of 200 bytes; what came to reader and receiver."""
    core, seen, passed = Core(), [], []

    def read(keys, rooms, now):
        assert abs(now - time.time()) < 5
        seen.append((list(keys), list(rooms)))
        if key(9) in keys:
            raise RuntimeError("a fault of the reader")
        return [
            (7, 0, 0, b"v" * 200) if k == key(1) and room >= 200 else None
            for k, room in zip(keys, rooms, strict=True)
        ]

    transport = SocketTransport(core, [Address.of("127.0.0.1", 0)])
    transport.start(changed_by(Handlers.without_records(passed.extend), read=read))
    address = transport.addresses[0]
    alone(core, address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((address.host, address.port))
        yield sock, seen, passed
    transport.stop()


def test_a_get_that_the_reader_has_is_answered_in_the_loop(asked):
    sock, seen, passed = asked
    sock.send(Message(op=Op.GET, key=key(1), request_id=5, max_reply=300).pack())
    reply = parse(sock.recv(2048))
    assert (reply.request_id, reply.status, reply.flags) == (5, Status.OK, Flag.REPLY | Flag.FORWARDED)
    assert Record.parse(reply.body) == Record(7, 0, 0, b"v" * 200)
    assert seen == [([key(1)], [300 - 16])]
    assert passed == []


def test_reads_that_the_reader_cannot_answer_go_to_the_receiver(asked):
    sock, seen, passed = asked
    for number, (op, which, room) in enumerate(
        [(Op.GET, 2, 0), (Op.QUORUM_GET, 1, 0), (Op.GET, 1, 100), (Op.GET, 1, 9), (Op.GET, 9, 0)]
    ):
        sock.send(Message(op=op, key=key(which), request_id=number, max_reply=room).pack())
        wait_until(lambda number=number: len(passed) == number + 1, "the request to come up")
    assert [parse(datagram.data).request_id for datagram in passed] == [0, 1, 2, 3, 4]
    assert [keys for keys, _ in seen] == [[key(2)], [key(1)], [key(9)]]


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_changes_of_uncached_keys_take_no_memory() -> None:
    """A node that is written to much holds no more for it."""
    size = 64 << 20
    cache = RecordCache(size)
    rng = random.Random(1)
    keys = [rng.randbytes(ID_LEN) for _ in range(20_000)]
    before = resident()
    for key in keys:
        cache.invalidate(key)
        assert cache.get(key, 0.0) is None
    assert resident() - before < size / 16
