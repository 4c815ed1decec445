"""The core and its oracle, over random nodes and random traffic: the same verdicts, the same bytes.

KDHT_COMPARE_PACKETS says how many packets (20,000 if it is not set), KDHT_COMPARE_SEED
which ones. A failure names the node's seed and the packet.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from builders import NOW, Node
from comparison import ELSEWHERE, MESSAGES_ONLY, PER_NODE, SEED, change_table
from packet_traffic import random_packet
from traffic import random_datagram, random_node

from kdht._routing import Outcome
from kdht.replay import oracle_packets
from kdht.replay.oracle import OracleResult
from kdht.wire._shared import Reason, Verdict

PACKETS = int(os.environ.get("KDHT_COMPARE_PACKETS", "20000"))
pytestmark = pytest.mark.timeout(300 + PACKETS // 500)

PACKETS_ONLY = {Reason.BAD_CHECKSUM, Reason.NOT_OURS, Reason.FAMILY, Reason.BAD_IP, Reason.FRAGMENT, Reason.IP_OPTIONS,
                Reason.EXT_HEADER, Reason.NO_CHECKSUM}  # fmt: skip
ENDS_HERE = {Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.CONTROL}


def nodes(count: int) -> Iterator[tuple[int, random.Random, Node]]:
    """Random nodes, each with the generator for its traffic."""
    for number in range(count):
        seed = SEED + number
        rng = random.Random(seed)
        yield seed, rng, random_node(rng)


def assert_same(outcome: Outcome, data: bytes, expected: OracleResult, what: str) -> None:
    assert outcome.reason == expected.reason, f"{what}: {outcome.reason!r}, oracle {expected.reason!r}"
    assert outcome.verdict == expected.verdict, what
    assert bytes(data) == expected.data, f"{what}, {outcome.reason!r}: other bytes"
    if expected.verdict in (Verdict.FORWARD, Verdict.RELAY):
        assert outcome[2:5] == (expected.source, expected.target, expected.next_id), what
    elif expected.reason in ENDS_HERE:
        assert outcome.max_reply == expected.max_reply, what


def assert_all_seen(tally: Counter[Reason], expected: set[Reason]) -> None:
    """A comparison that never met a reason says nothing about it."""
    assert set(tally) == expected
    if PACKETS >= 20_000:
        rare = {reason.name: count for reason, count in tally.items() if count < PACKETS // 4000}
        assert not rare


def test_whole_packets_get_the_oracles_verdict():
    tally: Counter[Reason] = Counter()
    for seed, rng, node in nodes(PACKETS // PER_NODE):
        here: Counter[Reason] = Counter()
        for number in range(PER_NODE):
            if rng.random() < 0.05:
                change_table(rng, node)
            packet = random_packet(rng, node)
            what = f"node {seed}, packet {number}: {packet.hex()}"
            expected = oracle_packets.decide_packet(node.slow, packet, NOW)
            outcome = node.core.decide_packet(packet, NOW)
            assert_same(outcome, packet, expected, what)
            here[outcome.reason] += 1
        assert node.core.counters() == {reason.name: here[reason] for reason in Reason}
        tally += here
    assert_all_seen(tally, set(Reason) - ELSEWHERE - MESSAGES_ONLY)


def test_messages_from_a_socket_get_the_oracles_verdict():
    tally: Counter[Reason] = Counter()
    for seed, rng, node in nodes(PACKETS // PER_NODE):
        for number in range(PER_NODE):
            payload, source, target = random_datagram(rng, node)
            what = f"node {seed}, message {number} from {source} to {target}: {payload.hex()}"
            inside = rng.random() < 0.3
            expected = node.slow.decide_message(payload, source, target, NOW, inside=inside)
            outcome = node.core.decide_message(payload, source, target, NOW, inside=inside)
            assert_same(outcome, payload, expected, what)
            tally[outcome.reason] += 1
    assert_all_seen(tally, set(Reason) - ELSEWHERE - PACKETS_ONLY)
