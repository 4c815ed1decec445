"""GETs of hot records: oracle, core and XDP program give the same answers, byte by byte.

Random nodes, records and GETs in the kernel's test-run call, through the fast path and the whole program. The
program may leave an answer to the socket for the reasons in LEFT only, and counts it then like any GET.
"""

import os
import random
from collections import Counter

import pytest
import slow_answers
from builders import NOW, Node, checksums_by_scapy, tag
from builders import packet as packet_of
from comparison import SEED
from hot import Hot
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from traffic import client_request, member_request, random_host, random_node, random_port
from xdp import WHOLE, XDP_PASS, XDP_TX, Program, Run, link_header

from kdht.datapath.base import Datagram
from kdht.replay.oracle import is_unicast, read_header, version_of
from kdht.wire import OFFSET, Address
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason

pytestmark = pytest.mark.root

PACKETS = int(os.environ.get("KDHT_COMPARE_HOT", "10000"))
PER_NODE = 100
ENDS = (Reason.OWNER, Reason.ATTEMPT_ENDS)
LEFT = {"the other IP version", "nobody can be there", "too long", "ends soon", "not hot"}


def random_records(rng: random.Random, node: Node) -> dict[bytes, tuple[int, int, int, bytes]]:
    """Records of keys near the node, so that GETs of them end there."""
    keys = [bytearray(node.settings.self_id) for _ in range(8)]
    for key in keys[1:]:
        key[-1] ^= rng.randrange(256)
        key[8:16] = rng.randbytes(8)  # other sets of the table, too
    return {bytes(key): random_record(rng) for key in keys}


def random_record(rng: random.Random) -> tuple[int, int, int, bytes]:
    size = rng.choice((0, 1, 7, 8, 100, 101, 512, rng.randrange(shared.MAX_VALUE), shared.MAX_VALUE))
    expiry = rng.choice((0, 0, NOW - 1, NOW, NOW + 1, NOW + 2, NOW + 3600, NOW + (1 << 33)))
    return rng.getrandbits(64), expiry, rng.choice((0, 0x20, 0x10)), rng.randbytes(size)


def random_get(
    rng: random.Random, node: Node, keys: list[bytes], version: int
) -> tuple[bytes, Address, Address]:
    own = [ip for ip in node.settings.own if version_of(ip) == version]
    target = Address(rng.choice(own), node.settings.port)
    while True:
        source = Address(random_host(rng, version), random_port(rng))
        data = rng.choice((client_request, member_request))(rng, node, source)
        if data[OFFSET["op"]] == Op.GET:
            break
    data[OFFSET["key"] : OFFSET["key"] + shared.ID_LEN] = rng.choice(keys)
    if data[OFFSET["flags"]] & Flag.FORWARDED:
        epoch, key = rng.choice(node.settings.keys)
        data[OFFSET["epoch"]] = epoch
        tag(data, key)
    return bytes(data), source, target


def left_to_the_socket(
    node: Node, request: bytes, answer: slow_answers.Answer, version: int, expiry: int
) -> str:
    """Why the program leaves this answer to the socket; "": it does not."""
    if expiry and expiry <= NOW + 1:
        return "ends soon"
    if version_of(answer.target.ip) != version or (answer.source and version_of(answer.source.ip) != version):
        return "the other IP version"
    header = read_header(request)
    is_direct = header.flags & Flag.FORWARDED and header.flags & Flag.DIRECT
    if is_direct and answer.source is None and version_of(header.client_ip) != version:
        return "the other IP version"
    if not answer.target.port or not is_unicast(answer.target.ip):
        return "nobody can be there"
    return ""


def assert_answer(run: Run, answer: slow_answers.Answer, node: Node, version: int, what: str) -> None:
    """The frame is the answer, with the right addresses and checksums."""
    packet = run.data[14:]
    assert run.data[:14] == link_header(version), what
    parsed = (IP if version == 4 else IPv6)(packet)
    usual = node.settings.source4 if version == 4 else node.settings.source6
    source = answer.source or Address(usual or b"", node.settings.port)
    assert Address.of(parsed.src, parsed[UDP].sport) == source, what
    assert Address.of(parsed.dst, parsed[UDP].dport) == answer.target, what
    assert bytes(parsed[UDP].payload) == answer.data, f"{what}: other bytes"
    assert checksums_by_scapy(packet) == packet, f"{what}: wrong checksums"
    assert (parsed.ttl if version == 4 else parsed.hlim) == shared.NEW_TTL


def compare(program: Program, hot: Hot, node: Node, records, get, rng: random.Random, what: str) -> str:
    data, source, target = get
    version = version_of(target.ip)
    packet = packet_of(data, source, target, rng.choice(("right", "right", "partial")))
    frame = link_header(version) + bytes(packet)
    runs = [program.run(frame, each) for each in ("", WHOLE)]
    assert runs[0] == runs[1], f"{what}: the fast path and the whole program differ"
    outcome = node.core.decide_packet(bytearray(packet), NOW)
    key = data[OFFSET["key"] : OFFSET["key"] + shared.ID_LEN]
    record, body = records.get(key), hot.cache.get(key, NOW)
    if outcome.reason not in ENDS:
        assert runs[0].reason in (outcome.reason, Reason.NOT_READY), what
        return outcome.reason.name
    is_hot = body is not None and hot.table.holds(key)
    why = "not hot" if not is_hot else "too long" if len(body) > outcome.max_reply else ""
    if not why:
        assert record is not None
        assert slow_answers.body_of(*record, NOW) == body
        request = Datagram(data, source, target, outcome.reason, outcome.max_reply)
        expected = slow_answers.answer(node.slow, data, source, target, body, NOW)
        assert node.core.reply(request, 0, body, NOW) == tuple(expected), f"{what}: core and oracle differ"
        why = left_to_the_socket(node, data, expected, version, record[1])
    if why:
        assert (runs[0].reason, runs[0].action, runs[0].data) == (outcome.reason, XDP_PASS, frame), (
            f"{what}: {why}"
        )
        return why
    assert (runs[0].reason, runs[0].action) == (Reason.ANSWERED, XDP_TX), what
    assert_answer(runs[0], expected, node, version, what)
    return "answered"


@pytest.mark.timeout(300 + PACKETS // 100)
def test_all_three_answer_alike(capsys: pytest.CaptureFixture[str]) -> None:
    program, tally = Program(), Counter[str]()
    hot = Hot(program)
    for number in range(max(PACKETS // PER_NODE, 1)):
        rng = random.Random(SEED + number)
        node = random_node(rng)
        program.publish(node)
        hot.cache.clear()
        records = random_records(rng, node)
        for key, record in records.items():
            hot.put(key, *record)
            if not hot.table.holds(key):  # keys of earlier nodes are as hot; now they make room
                hot.cache.heat([key])
        keys = [*records, bytes(node.settings.self_id[:-1]) + b"\x01"]
        versions = sorted({version_of(ip) for ip in node.settings.own})
        for index in range(PER_NODE):
            get = random_get(rng, node, keys, rng.choice(versions))
            what = f"node {SEED + number}, GET {index}"
            tally[compare(program, hot, node, records, get, rng, what)] += 1
    hot.close()
    with capsys.disabled():
        print(f"\n{sum(tally.values()):,} GETs: {dict(tally.most_common())}")
    assert tally["answered"] > sum(tally.values()) / 10
    assert {why for why in LEFT if not tally[why]} == set()
