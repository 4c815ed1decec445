"""The XDP program by itself, in the kernel's test-run call: its size, its counters, its limits."""

import random
import struct
import subprocess
from collections import Counter
from pathlib import Path

import builders
import pytest
import xdp
from builders import NOW, Node
from xdp import XDP_DROP, XDP_TX, Program, link_header

from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf import program as xdp_program
from kdht.datapath.rates import ClientRates
from kdht.errors import DatapathError
from kdht.lab.netns import XDP_PASS
from kdht.replay import oracle_packets
from kdht.wire import Address, Contact
from kdht.wire import _shared as shared
from kdht.wire._shared import CROWD_FACTOR, Op, Reason

pytestmark = pytest.mark.root

MOST_INSTRUCTIONS = 80_000
"""Verified instructions; the kernel's limit is a million."""
CLIENT, OWN = Address.of("10.0.0.99", 40000), Address.of("10.0.0.1", shared.PORT)
CLIENT6, OWN6 = Address.of("fd00::99", 40000), Address.of("fd00::1", shared.PORT)
HOP, HOP6 = Address.of("10.0.0.7", shared.PORT), Address.of("fd00::7", shared.PORT)
KEY = b"\xff" * shared.ID_LEN
CLIENTS = {
    4: (CLIENT, Address.of("10.0.0.98", 40000)),
    6: (CLIENT6, Address.of("fd00:0:0:1::98", 40000)),
}


@pytest.fixture(scope="module")
def program() -> Program:
    return Program()


def node_with(hop: Address, **settings: object) -> Node:
    return builders.make_node(builders.usual_settings(**settings), [Contact(KEY, *hop)])


def request(
    version: int = 4, checksum: str = "right", source: Address | None = None, **fields: object
) -> bytes:
    """A client's GET for the contact's key, as an IP packet."""
    client, own = (CLIENT, OWN) if version == 4 else (CLIENT6, OWN6)
    return bytes(builders.packet(bytes(builders.request(**fields)), source or client, own, checksum=checksum))


def test_the_verifiers_work_is_bounded(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    info = program.object.info()
    with capsys.disabled():
        print(f"\nverified instructions: {info['verified_insns']:,}, JIT: {info['jited_bytes']:,} bytes")
    assert info["verified_insns"] <= MOST_INSTRUCTIONS


REFUSED = """
__attribute__((section("xdp"), used)) int kdht_xdp(const unsigned *ctx) { return *(int *)(unsigned long)ctx[0]; }
char terms[] __attribute__((section("license"), used)) = "GPL";
"""


def test_a_refusal_has_the_verifiers_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, made = tmp_path / "refused.c", tmp_path / "refused.o"
    source.write_text(REFUSED)
    subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", source, "-o", made], check=True)
    monkeypatch.setattr(xdp_program, "OBJECT", made)
    with pytest.raises(DatapathError, match=r"refuses the XDP program: Permission denied \(.*packet"):
        xdp_program.try_load()


def test_a_kernel_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xdp_program, "OBJECT", tmp_path / "none")
    monkeypatch.setattr(xdp_program.platform, "release", lambda: "5.10.0-30-amd64")
    with pytest.raises(
        DatapathError, match=r"5\.10\.0-30-amd64 is too old for the XDP program, which needs 5\.18"
    ):
        xdp_program.try_load()


def test_each_verdict_is_counted_by_its_reason(program: Program) -> None:
    node = node_with(HOP)
    program.publish(node)
    before = program.counters()
    frames = {
        request(): Reason.ENTERED,
        request(key=bytes(shared.ID_LEN)): Reason.OWNER,
        request(attempt=3): Reason.ATTEMPT_ENDS,
        request(version=6): Reason.FAMILY,
        request(op=0x77): Reason.BAD_OP,
        request()[:-1]: Reason.BAD_IP,
        request(status=1): Reason.FORGED_ORIGIN,
    }
    for packet, reason in frames.items():
        version = packet[0] >> 4
        assert program.run(link_header(version) + packet).reason == reason
    grown = {reason: count - before[reason] for reason, count in program.counters().items()}
    assert {reason for reason, count in grown.items() if count} == set(frames.values())
    assert Counter(frames.values()) == {reason: count for reason, count in grown.items() if count}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vlan", [None, 0, 5, 0xFFFF], ids=["untagged", "priority tag", "VLAN 5", "all bits"])
def test_a_vlan_tag_stays_as_it_came(program: Program, version: int, vlan: int | None) -> None:
    node = node_with(HOP if version == 4 else HOP6)
    program.publish(node)
    header, packet = link_header(version, vlan), request(version)
    run = program.run(header + packet)
    expected = oracle_packets.decide_packet(node.slow, packet, NOW)
    assert (run.reason, run.action) == (Reason.ENTERED, XDP_TX)
    assert run.data == header + expected.data


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("checksum", ["right", "partial"])
def test_a_checksum_is_right_afterwards(program: Program, version: int, checksum: str) -> None:
    """A partial one, which the sender's device was to complete, is completed."""
    program.publish(node_with(HOP if version == 4 else HOP6))
    for body in (b"", b"x", bytes(range(256)), bytes(shared.MAX_BODY)):
        run = program.run(link_header(version) + request(version, checksum, body=body))
        assert run.reason == Reason.ENTERED
        sent = run.data[14:]
        assert builders.checksums_by_scapy(sent) == sent


def test_an_ipv4_packet_without_a_checksum_keeps_none(program: Program) -> None:
    program.publish(node_with(HOP))
    run = program.run(link_header(4) + request(checksum="zero"))
    assert run.reason == Reason.ENTERED
    assert run.data[14 + 26 : 14 + 28] == b"\0\0"


@pytest.mark.parametrize("key", [KEY, bytes(shared.ID_LEN)], ids=["goes on", "ends here"])
@pytest.mark.parametrize(("op", "rate"), [(Op.GET, 16), (Op.PUT, 24), (Op.DELETE, 24), (Op.QUORUM_GET, 2)])
@pytest.mark.parametrize("version", [4, 6])
def test_a_client_has_its_rate(version: int, op: Op, rate: int, key: bytes) -> None:
    """A second's worth at once, then no more, wherever it ends; other senders have theirs, and members have no limit."""
    program = Program()
    program.settings["prices"] = ClientRates(16, 24).prices()
    node = node_with(HOP if version == 4 else HOP6)
    program.publish(node)
    one, other = (
        link_header(version)
        + request(version, op=op, key=key, body=bytes(16), source=CLIENTS[version][which])
        for which in (0, 1)
    )
    runs = [program.run(one) for _ in range(rate + 3)]
    assert [run.reason == Reason.RATE_LIMITED for run in runs] == [False] * rate + [True] * 3
    assert {run.action for run in runs[rate:]} == {XDP_DROP}
    assert program.run(other).reason != Reason.RATE_LIMITED
    member = frame_from(node, "member", CLIENT)
    assert all(program.run(member).reason != Reason.RATE_LIMITED for _ in range(rate * 3))


@pytest.mark.parametrize("version", [4, 6])
def test_new_addresses_share_the_rate_of_the_crowd(version: int) -> None:
    """A forger with a new source for each request gets no more than that through; a known client goes on."""
    program = Program()
    program.settings["prices"] = ClientRates(10, 10).prices()
    program.publish(node_with(HOP if version == 4 else HOP6))
    known = link_header(version) + request(version)
    assert program.run(known).action == XDP_TX
    passed = 0
    for number in range(1000):
        host = f"10.77.{number // 250}.{number % 250 + 1}" if version == 4 else f"2001:db8:77:{number:x}::1"
        frame = link_header(version) + request(version, source=Address.of(host, 4000))
        passed += program.run(frame).action == XDP_TX
    assert 10 * CROWD_FACTOR - 1 <= passed < 2 * 10 * CROWD_FACTOR
    assert program.run(known).action == XDP_TX


def test_an_ipv6_sender_is_its_network() -> None:
    program = Program()
    program.settings["prices"] = ClientRates(3).prices()
    program.publish(node_with(HOP6))
    hosts = [Address.of(f"2001:db8::{number:x}", 4000) for number in range(1, 5)]
    payload = bytes(builders.request())
    runs = [program.run(link_header(6) + bytes(builders.packet(payload, host, OWN6))) for host in hosts]
    assert [run.action for run in runs] == [XDP_TX] * 3 + [XDP_DROP]


def frame_from(node: Node, kind: str, source: Address) -> bytes:
    payload = builders.request() if kind == "client" else builders.forwarded(node.settings.keys[0])
    return link_header(4) + bytes(builders.packet(bytes(payload), source, OWN))


def test_the_clock_is_the_published_one(program: Program) -> None:
    """Without a fixed time the wall clock counts, which is years after NOW."""
    program.publish(node_with(HOP))
    frame = frame_from(node_with(HOP), "member", CLIENT)
    assert program.run(frame).reason == Reason.NEXT_HOP
    program.settings["now"] += shared.REPLAY_WINDOW + 1
    program.publish(node_with(HOP))
    try:
        assert program.run(frame).reason == Reason.STALE
    finally:
        program.settings["now"] = NOW


def test_an_empty_bucket_is_passed_over(program: Program) -> None:
    """As between two publications: the next bucket with a contact that is closer counts."""
    near = Contact(KEY, *HOP)
    farther = Contact(b"\x7f" + b"\xff" * 19, *Address.of("10.0.0.8", shared.PORT))
    node = builders.make_node(builders.usual_settings(), [near, farther])
    program.publish(node)
    assert program.run(link_header(4) + request()).data[14 + 16 : 14 + 20] == near.ip[12:]
    program.object.write_bucket(0, bytes(len(node.core.raw_bucket(0))))
    assert program.run(link_header(4) + request()).data[14 + 16 : 14 + 20] == farther.ip[12:]


def test_a_retry_that_meets_a_wide_bucket_goes_to_the_socket(
    program: Program,
) -> None:
    places = [Address.of(f"10.0.1.{each}", shared.PORT) for each in range(shared.K + 1)]
    contacts = [Contact(KEY[:-1] + bytes([each]), *place) for each, place in enumerate(places)]
    node = builders.make_node(builders.usual_settings())
    node.set_bucket(0, contacts)
    program.publish(node)
    before = program.counters()
    key = KEY[:-1] + b"\x09"
    assert program.run(link_header(4) + request(key=key)).data[14 + 16 : 14 + 20] == places[9].ip[12:]
    frame = link_header(4) + request(key=key, attempt=1)
    assert program.run(frame).data == frame
    assert program.counters()[Reason.NOT_READY] - before[Reason.NOT_READY] == 1


@pytest.mark.parametrize("index", [0, 6, 54, 55, 56, 62, 63, 64, 118, 119, 127, 140, 150, 151, 152, 155])
@pytest.mark.parametrize("count", [1, 3, shared.K, shared.ROOM])
def test_the_table_of_nearest_contacts_holds_at_every_depth(program: Program, index: int, count: int) -> None:
    """Beside keys with any bits those that are contacts' IDs, which share more bits with one of them."""
    rng = random.Random(index * 100 + count)
    node = builders.make_node(builders.usual_settings())
    own = node.settings.self_id
    ids = {builders.id_sharing(rng, own, index) for _ in range(count)}
    places = {each: Address.of(f"10.0.2.{at}", shared.PORT) for at, each in enumerate(ids, 1)}
    node.set_bucket(index, [Contact(each, *place) for each, place in places.items()])
    program.publish(node)
    for key in [*ids, *(builders.id_sharing(rng, own, index) for _ in range(20))]:
        nearest = min(ids, key=lambda each: int.from_bytes(each) ^ int.from_bytes(key))
        run = program.run(link_header(4) + request(key=key))
        assert run.reason == Reason.ENTERED
        assert run.data[14 + 16 : 14 + 20] == places[nearest].ip[12:]


def test_the_fast_path_treats_what_is_usual_alone(program: Program) -> None:
    """With no whole program behind it, all else passes up."""
    alone, passing = Program(), _ebpf.Object(str(XDP_PASS), "xdp_pass")
    alone.object.update("kdht_programs", bytes(4), struct.pack("=I", passing.program_fd))
    node = node_with(HOP)
    program.publish(node)
    alone.publish(node)
    for packet in (request(), request(version=6), request(key=bytes(shared.ID_LEN)), request(status=1)):
        frame = link_header(packet[0] >> 4) + packet
        assert alone.run(frame) == program.run(frame)
    frame = link_header(4, 5) + request()
    assert program.run(frame).action == XDP_TX
    assert alone.object.test_run(frame)[:2] == (xdp.XDP_PASS, frame)
