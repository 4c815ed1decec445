"""The queue's loop without a kernel: crafted netlink messages go in, its verdicts come out."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from chain import IDS, configure, request

from kdht._routing import Core
from kdht.datapath.nfqueue import _nfqueue
from kdht.datapath.nfqueue._nfqueue import COPY_RANGE, COUNTERS, LANE_BYTES, QueueLoop
from kdht.lab.wait import wait_until
from kdht.wire import Address, Contact
from kdht.wire._shared import PORT

QUEUE, MARK, LANE = 7, 0x30D4, 8
PACKET, VERDICT, CONFIG, VERDICT_BATCH = 0x300, 0x301, 0x302, 0x303
PACKET_HDR, VERDICT_HDR, MARK_AT, PAYLOAD, CAP_LEN = 1, 2, 3, 10, 13
DROP, ACCEPT = 0, 1
HEAD = struct.Struct("=IHHIIBB")
CLIENT, NODE, NEXT = "10.0.0.9", "10.0.0.1", "10.0.0.2"


class Verdict(NamedTuple):
    """One verdict as the kernel would read it."""

    kind: int
    verdict: int
    id: int
    mark: int | None = None
    payload: bytes | None = None


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return HEAD.pack(20 + len(body), kind, 0, 0, 0, 0, 0) + struct.pack("!H", QUEUE) + body


def packet(number: int, data: bytes, *more: bytes) -> bytes:
    header = struct.pack("!IHB", number, 0x0800, 0)
    return message(PACKET, attribute(PACKET_HDR, header) + b"".join(more) + attribute(PAYLOAD, data))


def ip(data: bytes, port: int = PORT) -> bytes:
    """An IPv4 packet from the client to the node; its UDP has no checksum."""
    addresses = socket.inet_aton(CLIENT) + socket.inet_aton(NODE)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    udp = struct.pack("!HHHH", 4000, port, 8 + len(data), 0)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + udp + data


def verdicts(data: bytes) -> list[Verdict]:
    """The messages of one answer."""
    found = []
    while data:
        length, kind = HEAD.unpack_from(data)[:2]
        at, values = 20, {}
        while at < length:
            size, name = struct.unpack_from("=HH", data, at)
            values[name] = data[at + 4 : at + size]
            at += (size + 3) & ~3
        verdict, number = struct.unpack("!II", values[VERDICT_HDR])
        mark = int.from_bytes(values[MARK_AT], "big") if MARK_AT in values else None
        found.append(Verdict(kind, verdict, number, mark, values.get(PAYLOAD)))
        data = data[(length + 3) & ~3 :]
    return found


class Bench:
    """A loop on one end of a socket pair; this is the kernel's end."""

    def __init__(self) -> None:
        self.core = Core()
        configure(self.core, IDS[0], Address.of(NODE, PORT))
        self.core.set_bucket(0, [Contact(IDS[1], *Address.of(NEXT, PORT))])
        self.here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.here.settimeout(10)
        self.memory = bytearray(LANE_BYTES)
        self.loop = QueueLoop(self.core, LANE, self.there.fileno(), QUEUE, MARK, self.memory)
        self.thread = threading.Thread(target=self.loop.run)

    def __enter__(self) -> "Bench":
        return self

    def start(self) -> bytes:
        """Run the loop; the first that it sends is its wish for queues that fail open."""
        self.thread.start()
        return self.here.recv(1 << 17)

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        if self.thread.ident:
            self.thread.join()
        self.here.close()
        self.there.close()

    def answers(self, messages: list[bytes]) -> list[Verdict]:
        """What all these, read in one batch, are answered with."""
        for each in messages:
            self.here.send(each)
        self.start()
        return verdicts(self.here.recv(1 << 17))

    def counters(self) -> dict[str, int]:
        return dict(zip(COUNTERS, struct.unpack_from(f"={len(COUNTERS)}Q", self.memory), strict=True))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


def test_it_asks_for_queues_that_fail_open(bench: Bench) -> None:
    asked = bench.start()
    length, kind, flags, sequence = HEAD.unpack_from(asked)[:4]
    assert (length, kind, flags) == (len(asked), CONFIG, 1 | 4)
    assert struct.unpack("!H", asked[18:20]) == (QUEUE,)
    assert asked[20:] == attribute(5, b"\0\0\0\1") + attribute(4, b"\0\0\0\1")
    bench.here.send(HEAD.pack(36, 2, 0, sequence, 0, 0, 0)[:16] + struct.pack("=i", 0) + asked[:16])
    wait_until(lambda: bench.counters()["fail_open"] == 1, "the acknowledgement to be counted")


def test_a_forwarded_packet_equals_the_cores(bench: Bench) -> None:
    data = ip(request(body=b"odd"))
    (answer,) = bench.answers([packet(3, data)])
    wanted = bytearray(data)
    bench.core.decide_packet(wanted, int(time.time()))
    assert answer[:4] == (VERDICT, ACCEPT, 3, MARK)
    assert len(answer.payload) == len(data)
    assert answer.payload[:28] == wanted[:28]
    assert socket.inet_ntoa(answer.payload[16:20]) == NEXT


def test_runs_of_plain_verdicts_share_one_message(bench: Bench) -> None:
    foreign, bad, good = ip(b"not ours"), ip(request()[:-1]), ip(request())
    kinds = [foreign, foreign, bad, bad, bad, good, foreign, good, bad]
    answers = bench.answers([packet(number, data) for number, data in enumerate(kinds, 10)])
    assert [answer[:3] for answer in answers] == [
        (VERDICT_BATCH, ACCEPT, 11),
        (VERDICT_BATCH, DROP, 14),
        (VERDICT, ACCEPT, 15),
        (VERDICT, ACCEPT, 16),
        (VERDICT, ACCEPT, 17),
        (VERDICT, DROP, 18),
    ]
    assert [answer.payload is not None for answer in answers] == [False, False, True, False, True, False]
    counted = bench.counters()
    assert (counted["packets"], counted["passed"], counted["dropped"], counted["forwarded"]) == (9, 3, 4, 2)


def test_a_packet_that_is_not_whole_is_accepted_unread(bench: Bench) -> None:
    cut = packet(5, ip(request())[:100], attribute(CAP_LEN, struct.pack("!I", 4000)))
    assert bench.answers([cut]) == [Verdict(VERDICT, ACCEPT, 5)]
    assert bench.counters()["unread"] == 1


def test_a_message_longer_than_the_slot_is_accepted_unread(bench: Bench) -> None:
    assert bench.answers([packet(5, bytes(4000))]) == [Verdict(VERDICT, ACCEPT, 5)]
    assert bench.counters()["unread"] == 1


def test_long_batches_are_answered_in_parts(bench: Bench) -> None:
    data = ip(request(body=bytes(1100)))
    for number in range(40):
        bench.here.send(packet(number, data))
    bench.start()
    found: list[Verdict] = []
    while len(found) < 40:
        answer = bench.here.recv(1 << 17)
        assert len(answer) < 30000 + COPY_RANGE
        found += verdicts(answer)
    assert [verdict.id for verdict in found] == list(range(40))
    wait_until(lambda: bench.counters()["batches"] == 2, "both answers to be counted")


def test_errors_of_the_kernel_are_counted(bench: Bench) -> None:
    bench.start()
    refused = HEAD.pack(36, 2, 0, 99, 0, 0, 0)[:16] + struct.pack("=i", -2) + bytes(16)
    bench.here.send(refused)
    wait_until(lambda: bench.counters()["netlink_errors"] == 1, "the error to be counted")


def test_damaged_messages_end_in_a_verdict_or_in_nothing(bench: Bench) -> None:
    """Cut at every length and with any byte changed: the loop lives on, and never re-addresses half a packet."""
    chance = random.Random(5)
    whole = packet(77, ip(request()))
    damaged = [whole[:length] for length in range(1, len(whole))]
    for _ in range(2000):
        at = chance.randrange(40)
        damaged.append(whole[:at] + chance.randbytes(1) + whole[at + 1 :])
    bench.start()
    for each in damaged:
        bench.here.send(each)
        bench.here.send(packet(1000, ip(b"not ours")))
        got: list[Verdict] = []
        while not got or got[-1].id != 1000:
            got += verdicts(bench.here.recv(1 << 17))
        assert got[-1].verdict == ACCEPT
        assert len(got) <= 2
        assert all(
            len(verdict.payload) == len(ip(request())) for verdict in got if verdict.payload is not None
        )
    counted = bench.counters()
    assert counted["passed"] >= len(damaged)
    assert counted["netlink_errors"] == 0


def test_a_loop_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="counters take"):
        _nfqueue.QueueLoop(Core(), LANE, 0, QUEUE, MARK, bytearray(8))
    with open("/dev/null") as none, pytest.raises(OSError, match="no socket"):
        _nfqueue.QueueLoop(Core(), LANE, none.fileno(), QUEUE, MARK, bytearray(LANE_BYTES))
