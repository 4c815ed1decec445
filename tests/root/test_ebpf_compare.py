"""The XDP program, the core and the oracle: the same verdicts and the same bytes, packet by packet.

Random nodes and random traffic as in test_routing_compare.py, put into Ethernet frames, one
in four with a VLAN tag. The program runs in the kernel's test-run call. What it passes up
although the core would treat it is allowed for the reasons in PASSES_UP only, and counted.
KDHT_COMPARE_EBPF says how many packets (20,000 if it is not set), KDHT_COMPARE_SEED which ones.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from builders import NOW, Node
from comparison import ELSEWHERE, MESSAGES_ONLY, PER_NODE, SEED, change_table
from packet_traffic import random_packet
from traffic import random_node
from xdp import ETHERNET, MAC, VLANS, WHOLE, Program, action_of, link_header

from kdht.replay import oracle_packets
from kdht.replay.oracle import OracleResult
from kdht.wire import _shared as shared
from kdht.wire._shared import Reason

pytestmark = pytest.mark.root

PACKETS = int(os.environ.get("KDHT_COMPARE_EBPF", "20000"))


class Framing(NamedTuple):
    """What stands before the IP packet, and why the program would leave it to others: "" if it would not."""

    header: bytes
    passes_up: str


def untagged(rng: random.Random, version: int) -> Framing:
    return Framing(link_header(version), "")


def tagged(rng: random.Random, version: int) -> Framing:
    tag = rng.choice((b"\x81\x00", b"\x88\xa8"))
    return Framing(link_header(version, rng.randrange(16) << 12 | rng.choice(VLANS), tag), "")


def in_another_vlan(rng: random.Random, version: int) -> Framing:
    return Framing(link_header(version, rng.randrange(16) << 12 | 77), "another VLAN")


def to_another_host(rng: random.Random, version: int) -> Framing:
    """By a bridge that floods, to a group, or to all."""
    other = rng.choice((MAC[:5] + b"\x09", b"\x03" + MAC[1:], b"\x33\x33" + MAC[2:], b"\xff" * 6))
    return Framing(other + link_header(version)[6:], "another host's address")


def tagged_twice(rng: random.Random, version: int) -> Framing:
    inner = b"\x81\x00" + rng.randbytes(2) + link_header(version)[-2:]
    return Framing(ETHERNET + b"\x88\xa8" + rng.randbytes(2) + inner, "two VLAN tags")


def of_the_other_type(rng: random.Random, version: int) -> Framing:
    return Framing(link_header(4 if version == 6 else 6), "an Ethernet type that is not the packet's")


def of_no_ip_type(rng: random.Random, version: int) -> Framing:
    return Framing(ETHERNET + rng.choice((b"\x08\x06", b"\x88\x64", b"\0\0")), "no IP in Ethernet")


FRAMINGS: list[tuple[int, Callable[[random.Random, int], Framing]]] = [
    (66, untagged), (24, tagged), (2, tagged_twice), (2, of_the_other_type), (2, of_no_ip_type),
    (2, in_another_vlan), (2, to_another_host),
]  # fmt: skip
MAX_PACKET = 3400
PASSES_UP = {
    "two VLAN tags",
    "an Ethernet type that is not the packet's",
    "no IP in Ethernet",
    "another VLAN",
    "another host's address",
    "a wide bucket",
}
ROUTED = {
    Reason.ENTERED, Reason.NEXT_HOP, Reason.FAMILY, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS, Reason.HOP_LIMIT,
    Reason.BAD_BODY_TAG,
}  # fmt: skip
"""What is said once a bucket was looked into."""


def has_wide_bucket(node: Node) -> bool:
    """Whether some bucket has more contacts than the program ranks: it leaves retries that meet one to the socket."""
    return any(len(node.slow.table.bucket(index)) > shared.K for index in range(shared.ID_BITS))


def framed(rng: random.Random, packet: bytes) -> Framing:
    """A frame for the packet; what has no IP version travels as IPv4."""
    version = 6 if packet and packet[0] >> 4 == 6 else 4
    make = rng.choices([make for _, make in FRAMINGS], [weight for weight, _ in FRAMINGS])[0]
    return make(rng, version)


def short_packet(rng: random.Random, node: Node) -> bytearray:
    """XDP runs on frames in one page: the kernel refuses it where an interface's MTU is larger."""
    while len(packet := random_packet(rng, node)) > MAX_PACKET:
        pass
    return packet


def compare(
    program: Program, node: Node, packet: bytearray, framing: Framing, what: str
) -> tuple[Reason, str]:
    """All three on one packet: the core's reason, and why the program passed it up where it did."""
    frame = framing.header + bytes(packet)
    run = program.run(frame)
    assert program.run(frame, WHOLE) == run, f"{what}: the fast path and the whole program differ"
    expected = oracle_packets.decide_packet(node.slow, packet, NOW)
    outcome = node.core.decide_packet(packet, NOW)
    assert_core(outcome, packet, expected, what)
    assert run.action == action_of(run.reason), what
    if framing.passes_up:
        assert (run.reason, run.data) == (Reason.NOT_OURS, frame), f"{what}: {run.reason!r}"
        return outcome.reason, framing.passes_up if outcome.reason != Reason.NOT_OURS else ""
    if run.reason == Reason.NOT_READY and expected.reason in ROUTED and has_wide_bucket(node):
        assert run.data == frame, f"{what}: changed and passed up"
        return outcome.reason, "a wide bucket"
    assert run.reason == expected.reason, f"{what}: {run.reason!r}, oracle {expected.reason!r}"
    assert run.data == framing.header + expected.data, f"{what}, {run.reason!r}: other bytes"
    return outcome.reason, ""


def assert_core(outcome, data: bytes, expected: OracleResult, what: str) -> None:
    assert outcome.reason == expected.reason, f"{what}: core {outcome.reason!r}, oracle {expected.reason!r}"
    assert bytes(data) == expected.data, f"{what}, {outcome.reason!r}: other bytes from the core"


@pytest.mark.timeout(300 + PACKETS // 100)
def test_all_three_agree(capsys: pytest.CaptureFixture[str]) -> None:
    program, tally, passed_up = Program(), Counter[Reason](), Counter[str]()
    counted = 0
    for number in range(max(PACKETS // PER_NODE, 1)):
        rng = random.Random(SEED + number)
        node = random_node(rng)
        program.publish(node)
        for index in range(PER_NODE):
            if rng.random() < 0.05:
                change_table(rng, node)
                program.publish(node)
            packet = short_packet(rng, node)
            framing = framed(rng, packet)
            what = f"node {SEED + number}, packet {index}: {framing.header.hex()} {packet.hex()}"
            reason, why = compare(program, node, packet, framing, what)
            tally[reason] += 1
            passed_up[why] += bool(why)
            counted += 1
    with capsys.disabled():
        print(f"\n{counted:,} packets: {', '.join(f'{r.name} {n}' for r, n in tally.most_common())}")
        print(f"passed up: {dict(+passed_up)}")
    assert sum(program.counters().values()) == 2 * counted  # the fast path's way, and the whole program's
    assert set(+passed_up) <= PASSES_UP
    if counted >= 20_000:
        assert set(tally) == set(Reason) - ELSEWHERE - MESSAGES_ONLY


def test_an_unpublished_node_passes_everything_up() -> None:
    program = Program()
    rng = random.Random(SEED)
    node = random_node(rng)
    for _ in range(PER_NODE):
        frame = link_header(4) + bytes(random_packet(rng, node))
        run = program.run(frame)
        assert (run.reason, run.data) == (Reason.NOT_READY, frame)
    program.publish(node)
    assert program.run(link_header(4) + bytes(shared.MAX_DATAGRAM)).reason == Reason.NOT_OURS
