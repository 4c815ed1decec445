"""The core and its oracle, over random nodes and random traffic: the same verdicts, the same bytes.

KDHT_COMPARE_PACKETS says how many packets (20,000 if it is not set), KDHT_COMPARE_SEED
which ones. A failure names the node's seed and the packet.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator

import builders
import pytest
from builders import NOW, Node
from packet_traffic import random_packet
from traffic import random_datagram, random_node

from kdht._routing import Outcome
from kdht.replay import oracle_packets
from kdht.replay.oracle import Result
from kdht.wire import _shared as shared
from kdht.wire._shared import Reason, Verdict

PACKETS = int(os.environ.get("KDHT_COMPARE_PACKETS", "20000"))
SEED = int(os.environ.get("KDHT_COMPARE_SEED", "0"))
PER_NODE = 100
pytestmark = pytest.mark.timeout(300 + PACKETS // 500)

ELSEWHERE = {Reason.NOT_READY, Reason.NO_NEIGHBOUR, Reason.NO_ROUTE, Reason.RATE_LIMITED}
"""Not published, or the eBPF datapath's: no traffic gives these here."""
PACKETS_ONLY = {Reason.NOT_OURS, Reason.FAMILY, Reason.BAD_IP, Reason.FRAGMENT, Reason.IP_OPTIONS,
                Reason.EXT_HEADER, Reason.NO_CHECKSUM}  # fmt: skip
MESSAGES_ONLY = {Reason.BAD_MAGIC}
ENDS_HERE = {Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.CONTROL}


def nodes(count: int) -> Iterator[tuple[int, random.Random, Node]]:
    """Random nodes, each with the generator for its traffic."""
    for number in range(count):
        seed = SEED + number
        rng = random.Random(seed)
        yield seed, rng, random_node(rng)


def change_table(rng: random.Random, node: Node) -> None:
    """Publish another content for one bucket, as the control plane does meanwhile."""
    index = rng.randrange(rng.choice((4, shared.ID_BITS)))
    self_id = node.settings.self_id
    ids = {builders.id_sharing(rng, self_id, index) for _ in range(rng.randint(0, shared.ROOM))}
    node.set_bucket(index, [builders.random_contact(rng, contact_id) for contact_id in sorted(ids)])


def assert_same(outcome: Outcome, data: bytes, expected: Result, what: str) -> None:
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
            expected = node.slow.decide_message(payload, source, target, NOW)
            outcome = node.core.decide_message(payload, source, target, NOW)
            assert_same(outcome, payload, expected, what)
            tally[outcome.reason] += 1
    assert_all_seen(tally, set(Reason) - ELSEWHERE - PACKETS_ONLY)


def test_a_batch_gets_the_verdicts_of_its_packets():
    for _, rng, node in nodes(10):
        packets = [random_packet(rng, node) for _ in range(PER_NODE)]
        one_by_one = [bytearray(packet) for packet in packets]
        expected = [node.core.decide_packet(packet, NOW) for packet in one_by_one]
        assert node.core.verdict_batch(packets, NOW, 3) == expected
        assert packets == one_by_one
        assert node.core.counters(0) == node.core.counters(3)
