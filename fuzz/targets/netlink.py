"""The nfqueue datapath's reading of what the kernel sends, on a socket pair in place of netlink.

Invariant: whatever the messages hold, each that has a packet with an ID gets one verdict, in the
order and of the kind that this module works out for itself; the loop ends, and its counters agree.

    | node | kind | length, 16 bits | message ... | kind | length | ...

A message of kind 1 gets its netlink header made right, of kind 2 the lengths of its attributes too.
"""

import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from fuzz.targets.message import SOURCES, messages
from fuzz.targets.packet import frame, mended
from fuzz.targets.scene import HOME4, HOME6, NODES, Fix, make_core, tag
from kdht._routing import Core
from kdht.datapath.nfqueue._nfqueue import COUNTERS, LANE_BYTES, QueueLoop
from kdht.wire import OFFSET
from kdht.wire._shared import Verdict

LANE, ORACLE_LANE = 8, 0
QUEUE, MARK = 5, 0x6B
MAX_MESSAGES = 8  # what a socket pair holds without waiting: net.unix.max_dgram_qlen
SLOT = 2048
ANY_TIME = 2**32 - 1  # a replay window: the loop reads the clock

# linux/netlink.h, linux/netfilter/nfnetlink_queue.h
HEADER = struct.Struct("=IHHII4s")
ATTRIBUTE = struct.Struct("=HH")
PACKET, VERDICT, CONFIG, BATCH = 0x300, 0x301, 0x302, 0x303
ERROR = 2
NFQA_PACKET_HDR, NFQA_VERDICT_HDR, NFQA_MARK, NFQA_PAYLOAD, NFQA_CAP_LEN = 1, 2, 3, 10, 13
NF_DROP, NF_ACCEPT = 0, 1
REQUEST = 1
FLAGS_SEQ = 0x6B646874
TYPE_MASK = 0x3FFF


class Answer(NamedTuple):
    """One verdict message: its type, the verdict, the packet's ID and, if it was rewritten, its bytes."""

    kind: int
    verdict: int
    id: int
    payload: bytes | None = None


_cores: list[Core] = []


def cores() -> list[Core]:
    if not _cores:
        _cores.extend(make_core(number, window=ANY_TIME) for number in range(NODES))
    return _cores


def one(data: bytes) -> None:
    if not data:
        return
    core, sent = cores()[data[0] % NODES], list(untrusted_messages(data[1:]))
    earliest = int(time.time()) - 1
    counters, received = run(core, sent)
    answers = [answer for datagram in received[1:] for answer in parse_answers(datagram)]
    for now in range(int(time.time()), earliest - 1, -1):  # the loop read the clock itself
        wanted, counted = expected(core, sent, now)
        if (answers, counters) == (wanted, counted):
            return
    raise AssertionError(f"{answers}, {counters} instead of {wanted}, {counted}")


def untrusted_messages(data: bytes) -> Iterator[bytes]:
    for _ in range(MAX_MESSAGES):
        if len(data) < 3:
            return
        kind, length = data[0], int.from_bytes(data[1:3], "big")
        message, data = bytearray(data[3 : 3 + length]), data[3 + length :]
        if kind & 3 and len(message) >= HEADER.size:
            struct.pack_into("=IH", message, 0, len(message), PACKET)
        if kind & 2:
            _mend_attributes(message)
        yield bytes(message)


def _mend_attributes(message: bytearray) -> None:
    """Cut the lengths of attributes so that each ends within the message."""
    at = HEADER.size
    while at + ATTRIBUTE.size <= len(message):
        (length,) = struct.unpack_from("=H", message, at)
        length = min(max(length, ATTRIBUTE.size), len(message) - at)
        struct.pack_into("=H", message, at, length)
        at += (length + 3) & ~3


def run(core: Core, sent: list[bytes]) -> tuple[dict[str, int], list[bytes]]:
    """What the loop counts of these messages, and the datagrams that it sends."""
    kernel, queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, queue:
        kernel.setblocking(False)
        queue.setblocking(False)
        for message in sent:
            kernel.send(message)
        counters = bytearray(LANE_BYTES)
        loop = QueueLoop(core, LANE, queue.fileno(), QUEUE, MARK, counters)
        loop.stop()
        loop.run()
        received = []
        while True:
            try:
                received.append(kernel.recv(1 << 20))
            except BlockingIOError:
                break
    values = struct.unpack_from(f"={len(COUNTERS)}Q", counters)
    return dict(zip(COUNTERS, values, strict=True)), received


# --- What should come of it, worked out again ----------------------------------------------------


class Queued(NamedTuple):
    """A packet with its ID; `data` is None if not all of it was copied."""

    id: int
    data: bytes | None


def queued(message: bytes) -> Queued | None:
    """The packet in a message, if it has an ID; of attributes that come twice, the last one."""
    whole, message = len(message) <= SLOT, message[:SLOT]
    if len(message) < HEADER.size:
        return None
    length, kind = struct.unpack_from("=IH", message)
    if kind != PACKET:
        return None
    packet_id, data, at, end = None, None, HEADER.size, min(length, len(message))
    while at + ATTRIBUTE.size <= end:
        size, attribute = ATTRIBUTE.unpack_from(message, at)
        if not ATTRIBUTE.size <= size <= end - at:
            break
        value = message[at + ATTRIBUTE.size : at + size]
        if attribute & TYPE_MASK == NFQA_PACKET_HDR and len(value) >= 4:
            packet_id = int.from_bytes(value[:4], "big")
        elif attribute & TYPE_MASK == NFQA_PAYLOAD:
            data = value
        elif attribute & TYPE_MASK == NFQA_CAP_LEN:
            whole = False
        at += (size + 3) & ~3
    return None if packet_id is None else Queued(packet_id, data if whole else None)


def expected(core: Core, sent: list[bytes], now: int) -> tuple[list[Answer], dict[str, int]]:
    """The answers to these messages at one time, and the counters."""
    answers: list[Answer] = []
    counters = dict.fromkeys(COUNTERS, 0)
    for message in sent:
        packet = queued(message)
        if packet is None:
            _count_notice(counters, message)
            continue
        counters["packets"] += 1
        _judge(core, packet, now, answers, counters)
    counters["batches"] = int(bool(answers))
    return answers, counters


NAMES = {
    Verdict.PASS: "passed", Verdict.LOCAL: "local", Verdict.FORWARD: "forwarded",
    Verdict.RELAY: "relayed", Verdict.DROP: "dropped",
}  # fmt: skip


def _judge(core: Core, packet: Queued, now: int, answers: list[Answer], counters: dict[str, int]) -> None:
    verdict = NF_ACCEPT
    if packet.data is None:
        counters["unread"] += 1
    else:
        data = bytearray(packet.data)
        outcome = core.decide_packet(data, now, ORACLE_LANE)
        counters[NAMES[outcome.verdict]] += 1
        if outcome.verdict in (Verdict.FORWARD, Verdict.RELAY):
            answers.append(Answer(VERDICT, NF_ACCEPT, packet.id, bytes(data)))
            return
        verdict = NF_DROP if outcome.verdict is Verdict.DROP else NF_ACCEPT
    if answers and answers[-1].payload is None and answers[-1].verdict == verdict:
        answers[-1] = Answer(BATCH, verdict, packet.id)
    else:
        answers.append(Answer(VERDICT, verdict, packet.id))


def _count_notice(counters: dict[str, int], message: bytes) -> None:
    """struct nlmsgerr: the error, then the header of what it answers."""
    message = message[:SLOT]
    if len(message) < 36 or struct.unpack_from("=H", message, 4)[0] != ERROR:
        return
    error, sequence = struct.unpack_from("=i", message, 16)[0], struct.unpack_from("=I", message, 28)[0]
    if error:
        counters["netlink_errors"] += 1
    elif sequence == FLAGS_SEQ:
        counters["fail_open"] = 1


def parse_answers(datagram: bytes) -> Iterator[Answer]:
    """The verdicts in what the loop sent, every field checked."""
    at = 0
    while at < len(datagram):
        length, kind, flags, _, _, generic = HEADER.unpack_from(datagram, at)
        assert (flags, generic) == (REQUEST, struct.pack(">BBH", 0, 0, QUEUE))
        size, attribute, verdict, packet_id = struct.unpack_from(">HHII", datagram, at + HEADER.size)
        assert (size, attribute) == struct.unpack(">HH", ATTRIBUTE.pack(12, NFQA_VERDICT_HDR))
        payload = None
        if length > HEADER.size + 12:
            assert kind == VERDICT
            payload = _payload(datagram[at + HEADER.size + 12 : at + length])
        yield Answer(kind, verdict, packet_id, payload)
        at += (length + 3) & ~3
    assert at == len(datagram)


def _payload(attributes: bytes) -> bytes:
    assert attributes[:8] == ATTRIBUTE.pack(8, NFQA_MARK) + struct.pack(">I", MARK)
    assert attributes[8:12] == ATTRIBUTE.pack(len(attributes) - 8, NFQA_PAYLOAD)
    return attributes[12:]


# --- Where fuzzing starts ----------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def message_of(*attributes: bytes, kind: int = PACKET) -> bytes:
    body = b"".join(attributes)
    return HEADER.pack(HEADER.size + len(body), kind, 0, 0, 0, bytes(4)) + body


def chunk(message: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + len(message).to_bytes(2, "big") + message


def seeds() -> Iterator[tuple[str, bytes]]:
    frames = {}
    for name, message in messages():
        data = bytearray(message)
        if data[OFFSET["flags"]]:
            tag(data)
        for version, source, home in ((4, SOURCES[0], HOME4), (6, SOURCES[1], HOME6)):
            frames[f"{name}-v{version}"] = bytes(mended(bytes([Fix.CHECKSUMS]) + frame(data, source, home)))
    packets = [
        message_of(
            attribute(NFQA_PACKET_HDR, struct.pack(">IHBB", number, 0x800, 0, 0)), attribute(10, packet)
        )
        for number, packet in enumerate(frames.values(), 1)
    ]
    for name, packet in zip(frames, packets, strict=True):
        yield name, b"\x01" + chunk(packet)
        yield f"{name}-mended", b"\x01" + chunk(packet, 2)
    yield "many", b"\x01" + b"".join(map(chunk, packets[::6]))
    plain = message_of(
        attribute(NFQA_PACKET_HDR, struct.pack(">IHBB", 1, 0x800, 0, 0)), attribute(10, bytes(28))
    )
    yield "plain", b"\x00" + chunk(plain) * 3
    cut = message_of(
        attribute(NFQA_PACKET_HDR, bytes(7)), attribute(NFQA_CAP_LEN, bytes(4)), attribute(10, b"E")
    )
    yield "cut", b"\x00" + chunk(cut)
    done = struct.pack("=iIHHII", 0, 32, CONFIG, 5, FLAGS_SEQ, 0)
    yield "notice", b"\x00" + chunk(struct.pack("=IHHII", 36, ERROR, 0, 0, 0) + done)
    yield "refused", b"\x00" + chunk(struct.pack("=IHHII", 36, ERROR, 0, 0, 0) + b"\xff" + done[1:])
