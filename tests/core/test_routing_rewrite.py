"""What goes on: golden packets, checksums held against scapy's, and a message's whole way.

tests/vectors/packets.json was made with scapy from the fields of each packet, before and
after; neither the core nor its oracle had a hand in it.
"""

import random

import pytest
from builders import (
    CHECKSUMS,
    NOW,
    Node,
    checksums_by_scapy,
    forwarded,
    get_field,
    make_node,
    packed,
    packet,
    random_ip,
    request,
    scapy_packet,
    set_field,
    udp,
    usual_settings,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from vectors import PACKETS, name_of

from kdht.replay import oracle_packets
from kdht.wire import Address, Contact, parse
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason, Status

VERSIONS = (4, 6)
HERE = {4: Address.of("10.0.0.1", shared.PORT), 6: Address.of("fd00::1", shared.PORT)}
CLIENT = {4: Address.of("10.0.0.99", 40000), 6: Address.of("fd00::99", 40000)}
NEXT = {4: Address.of("10.0.0.2", shared.PORT), 6: Address.of("fd00::2", shared.PORT)}
NEXT_ID = b"\x80" + bytes(19)
SIGNER = usual_settings().keys[0]
CHECKSUM_AT = {4: 26, 6: 46}


def node_for(version: int, **changes: object) -> Node:
    return make_node(usual_settings(**changes), [Contact(NEXT_ID, *NEXT[version])])


def sent_on(node: Node, before: bytes, reason: Reason, now: int = NOW) -> bytearray:
    """The packet after a verdict that lets it go on."""
    after = bytearray(before)
    assert node.core.decide_packet(after, now).reason is reason
    return after


# --- Golden packets ----------------------------------------------------------------------------


@pytest.mark.parametrize("vector", PACKETS, ids=name_of)
def test_a_golden_packet_gets_its_verdict_and_its_bytes(vector):
    node = node_for(vector["ip"], **vector["settings"])
    before, after = (bytes.fromhex(vector[when]) for when in ("before", "after"))
    reason = Reason[vector["reason"]]
    assert sent_on(node, before, reason, vector["now"]).hex() == after.hex()
    assert oracle_packets.decide_packet(node.slow, before, vector["now"])[:2] == (reason, after)


def test_golden_packets_cover_all_verdicts_in_both_ip_versions():
    shown = {(vector["reason"], vector["ip"]) for vector in PACKETS}
    assert shown == {(reason, ip) for reason in ("ENTERED", "NEXT_HOP", "RELAYED") for ip in VERSIONS}


# --- Checksums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("checksum", ["right", "partial"])
def test_checksums_after_rewriting_are_those_that_scapy_computes(version, checksum):
    rng = random.Random(version)
    for _ in range(100):
        node = make_node(
            usual_settings(), [Contact(NEXT_ID, random_ip(rng, version), rng.randrange(1, 65536))]
        )
        body = rng.randbytes(rng.choice((0, 1, 2, 3, 100, 101, shared.MAX_BODY - 1, shared.MAX_BODY)))
        source = Address(random_ip(rng, version), rng.randrange(1, 65536))
        for message in (request(body=body), forwarded(SIGNER, body=body)):
            after = bytearray(packet(message, source, HERE[version], checksum))
            assert node.core.decide_packet(after, NOW).verdict == shared.Verdict.FORWARD
            assert checksums_by_scapy(after) == bytes(after)


@pytest.mark.parametrize("message", [request(), forwarded(SIGNER)])
def test_no_udp_checksum_stays_none_in_ipv4(message):
    after = bytearray(packet(message, CLIENT[4], HERE[4], "zero"))
    assert node_for(4).core.decide_packet(after, NOW).verdict == shared.Verdict.FORWARD
    assert after[26:28] == b"\0\0"
    assert IP(checksums_by_scapy(after)).chksum == IP(bytes(after)).chksum


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_udp_checksum_stays_wrong_by_as_much(version):
    """Damage on the way before us must not get a right checksum from us."""
    right, wrong = (
        sent_on(node_for(version), packet(request(), CLIENT[version], HERE[version], kind), Reason.ENTERED)
        for kind in ("right", "wrong")
    )
    at = CHECKSUM_AT[version]
    assert right[:at] + right[at + 2 :] == wrong[:at] + wrong[at + 2 :]
    assert right[at : at + 2] != wrong[at : at + 2]
    damaged = packet(request(body=b"a body"), CLIENT[version], HERE[version])
    damaged[-1] ^= 1
    after = sent_on(node_for(version), damaged, Reason.ENTERED)
    assert checksums_by_scapy(after) != bytes(after)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("checksum", ["right", "partial"])
def test_a_udp_checksum_that_comes_out_as_zero_is_sent_as_ffff(version, checksum):
    """Adding a datagram's own checksum to its words makes the next one zero (RFC 768)."""
    node, at = node_for(version, untagged=True), CHECKSUM_AT[version]
    message = forwarded(SIGNER, request_id=0)
    first = sent_on(node, packet(message, CLIENT[version], HERE[version]), Reason.NEXT_HOP)
    set_field(message, "request_id", int.from_bytes(first[at : at + 2], "big"))
    after = sent_on(node, packet(message, CLIENT[version], HERE[version], checksum), Reason.NEXT_HOP)
    assert after[at : at + 2] == b"\xff\xff"
    assert checksums_by_scapy(after) == bytes(after)


def test_hand_made_packets_equal_scapys():
    """What the tests are built with."""
    rng = random.Random(1)
    for _ in range(100):
        version = rng.choice(VERSIONS)
        ends = [Address(random_ip(rng, version), rng.randrange(65536)) for _ in range(2)]
        payload = rng.randbytes(rng.randrange(200))
        assert bytes(scapy_packet(payload, *ends)) == packet(payload, *ends)


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_the_kinds_of_checksums_are_what_they_say(kind):
    datagram = udp(b"odd", CLIENT[4], HERE[4], kind)
    made = packet(b"odd", CLIENT[4], HERE[4], kind)
    assert made[20:] == datagram
    assert (checksums_by_scapy(made) == bytes(made)) == (kind == "right")
    assert (datagram[6:8] == b"\0\0") == (kind == "zero")


# --- What is changed, and what is not ------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_only_addresses_ports_ttl_checksums_and_the_header_change(version):
    body = b"the value" * 11
    ip_fields = {"tos": 0xB9, "id": 4711, "flags": "DF"} if version == 4 else {"tc": 0xB9, "fl": 0x12345}
    before = bytes(scapy_packet(request(body=body), CLIENT[version], HERE[version], **ip_fields))
    after = (IP if version == 4 else IPv6)(bytes(sent_on(node_for(version), before, Reason.ENTERED)))
    for name, value in ip_fields.items():
        assert getattr(after, name) == value
    assert (after.ttl if version == 4 else after.hlim) == 64
    assert (after.src, after[UDP].sport) == (HERE[version].host, HERE[version].port)
    assert (after.dst, after[UDP].dport) == (NEXT[version].host, NEXT[version].port)
    assert bytes(after[UDP].payload)[shared.HEADER_LEN :] == body
    assert len(after) == len(before)


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_behind_the_packet_stay(version):
    """A short Ethernet frame is padded."""
    before = packet(request(), CLIENT[version], HERE[version])
    after = sent_on(node_for(version), before, Reason.ENTERED)
    padded = sent_on(node_for(version), before + b"padding", Reason.ENTERED)
    assert padded == after + b"padding"


@pytest.mark.parametrize(("hops", "left"), [(0, 6), (1, None), (2, 1), (7, 6), (8, 6), (255, 6)])
def test_a_clients_hops_are_limited_by_the_entry_node(hops, left):
    node = node_for(4, hop_limit=7)
    before = packet(request(hops=hops), CLIENT[4], HERE[4])
    if left is None:
        assert node.core.decide_packet(before, NOW).reason is Reason.HOP_LIMIT
    else:
        assert get_field(sent_on(node, before, Reason.ENTERED)[28:], "hops") == left


def test_the_first_key_signs():
    message = sent_on(node_for(4), packet(request(), CLIENT[4], HERE[4]), Reason.ENTERED)[28:]
    assert get_field(message, "epoch") == SIGNER[0]
    expected = forwarded(SIGNER, hops=15, entry_ip=HERE[4].ip, client_ip=CLIENT[4].ip)
    assert message == expected


def test_a_batch_is_rewritten_packet_by_packet():
    node = node_for(4)
    packets = [packet(request(request_id=n, body=bytes(n)), CLIENT[4], HERE[4]) for n in range(64)]
    expected = [sent_on(node, one, Reason.ENTERED) for one in packets]
    assert {node.core.decide_packet(packet, NOW).reason for packet in packets} == {Reason.ENTERED}
    assert packets == expected


# --- The whole way: client, entry A, B, owner C, entry A, client -----------------------------------

IDS = [bytes(20), b"\x80" + bytes(19), b"\xc0" + bytes(19)]
HOSTS = {4: ["10.0.0.1", "10.0.0.2", "10.0.0.3"], 6: ["fd00::1", "fd00::2", "fd00::3"]}


def chain(version: int, anycast: Address) -> list[Node]:
    """A knows B, B knows C, and all three have the anycast address, too."""
    nodes = []
    for number, host in enumerate(HOSTS[version]):
        settings = usual_settings(
            self_id=IDS[number],
            own=[packed(host), anycast.ip],
            source4=packed(host) if version == 4 else None,
            source6=packed(host) if version == 6 else None,
            cookies=True,
        )
        after = (
            [Contact(IDS[number + 1], packed(HOSTS[version][number + 1]), shared.PORT)] if number < 2 else []
        )
        nodes.append(make_node(settings, after))
    return nodes


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_finds_its_owner_and_the_reply_its_client(version):
    anycast = Address.of({4: "192.0.2.53", 6: "2001:db8::53"}[version], shared.PORT)
    a, b, c = chain(version, anycast)
    ends = slice(28 if version == 4 else 48, None)
    asked = request(op=Op.GET, request_id=77, body=bytes(40))
    at_b = sent_on(a, packet(asked, CLIENT[version], anycast), Reason.ENTERED)
    at_c = sent_on(b, at_b, Reason.NEXT_HOP)
    local = c.core.decide_packet(at_c, NOW)
    assert (local.reason, local.max_reply) == (Reason.OWNER, 40)

    seen = parse(bytes(at_c[ends]))
    assert (seen.client, seen.entry, seen.hops) == (CLIENT[version], anycast, 14)
    answer = forwarded(
        SIGNER, flags=Flag.REPLY | Flag.FORWARDED, request_id=77, status=Status.OK, body=b"value", hops=14,
        client_ip=seen.client.ip, client_port=seen.client.port, entry_ip=seen.entry.ip, entry_port=seen.entry.port,
    )  # fmt: skip
    owner = Address(packed(HOSTS[version][2]), shared.PORT)
    at_client = sent_on(a, packet(answer, owner, anycast), Reason.RELAYED)

    got = parse(bytes(at_client[ends]))
    cookie = a.core.cookie(CLIENT[version].ip, NOW)
    assert (got.request_id, got.body, got.cookie) == (77, b"value", cookie)
    assert (got.time, got.epoch, got.body_tag, got.header_tag, got.max_reply) == (0, 0, 0, 0, 0)
    assert got.client.ip == got.entry.ip == bytes(16)
    outer = (IP if version == 4 else IPv6)(bytes(at_client))
    assert (outer.src, outer[UDP].sport) == (anycast.host, anycast.port)
    assert (outer.dst, outer[UDP].dport) == (CLIENT[version].host, CLIENT[version].port)
    assert checksums_by_scapy(at_client) == bytes(at_client)
