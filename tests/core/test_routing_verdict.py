"""Verdicts on whole packets that must not go on: each with its reason, counted once, unchanged.

One node with the ID 0 and one contact that is closer to every key whose first bit is set,
so each packet here would be forwarded if nothing were wrong with it.
"""

import struct

import pytest
from builders import (
    NOW,
    Node,
    forwarded,
    ipv6,
    make_node,
    packed,
    packet,
    request,
    scapy_packet,
    set_field,
    udp,
    usual_settings,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Raw

from kdht._routing import Core
from kdht.wire import Address, Contact, keys
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason, Verdict

VERSIONS = (4, 6)
HERE = {4: Address.of("10.0.0.1", shared.PORT), 6: Address.of("fd00::1", shared.PORT)}
CLIENT = {4: Address.of("10.0.0.99", 40000), 6: Address.of("fd00::99", 40000)}
NEXT = {4: Address.of("10.0.0.2", shared.PORT), 6: Address.of("fd00::2", shared.PORT)}
NEXT_ID = b"\x80" + bytes(19)
SIGNER, OLDER = usual_settings().keys
PROVEN_TRACE = {"op": Op.TRACE, "hops": 1, "flags": Flag.FORWARDED | Flag.PROVEN}


def node_for(version: int, **changes: object) -> Node:
    return make_node(usual_settings(**changes), [Contact(NEXT_ID, *NEXT[version])])


def from_client(version: int, message: bytes, **options: object) -> bytearray:
    return packet(message, CLIENT[version], HERE[version], **options)


def assert_verdict(core: Core, data: bytes, reason: Reason, now: int = NOW) -> None:
    """The reason, counted once and alone; the packet is as it came unless it goes on."""
    before, after = core.counters(), bytearray(data)
    outcome = core.decide_packet(after, now)
    assert outcome.reason is reason
    assert outcome.verdict is shared.VERDICT_OF[reason]
    if outcome.verdict not in (Verdict.FORWARD, Verdict.RELAY):
        assert after == bytes(data)
    assert core.counters() == {**before, reason.name: before[reason.name] + 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_good_packets_are_forwarded(version):
    """Else the tests below would prove nothing."""
    node = node_for(version)
    assert_verdict(node.core, from_client(version, request()), Reason.ENTERED)
    assert_verdict(node.core, from_client(version, forwarded(SIGNER)), Reason.NEXT_HOP)
    assert_verdict(node.core, from_client(version, forwarded(OLDER)), Reason.NEXT_HOP)


# --- Messages that are dropped, in IPv4 and IPv6 ---------------------------------------------

LONG_BODY = bytes(shared.MAX_BODY + 1)
DROPPED = {
    "a wrong version": (request(version=2), Reason.BAD_VERSION),
    "version 0": (request(version=0), Reason.BAD_VERSION),
    "a body length that promises too much": (request(body=b"abc", body_len=4), Reason.BAD_LENGTH),
    "a body length that hides something": (request(body=b"abc", body_len=2), Reason.BAD_LENGTH),
    "a body length beyond any datagram": (request(body_len=0xFFFF), Reason.TOO_LONG),
    "a body one byte too long": (request(op=Op.PUT, body=LONG_BODY), Reason.TOO_LONG),
    "a value of 1.5 KiB": (request(op=Op.PUT, body=bytes(shared.RECORD_LEN + 1536)), Reason.TOO_LONG),
    "a long datagram that says it is short": (request(body=LONG_BODY, body_len=0), Reason.TOO_LONG),
    "an unknown flag": (request(flags=0x10), Reason.BAD_FLAGS),
    "a reply that takes a direct answer": (request(flags=Flag.DIRECT | Flag.REPLY), Reason.BAD_FLAGS),
    "a reply with a proof": (request(flags=Flag.PROVEN | Flag.REPLY), Reason.BAD_FLAGS),
    "a member's reply that takes one": (forwarded(SIGNER, flags=7), Reason.BAD_FLAGS),
    "a control message that takes one": (forwarded(SIGNER, flags=6, op=Op.PING), Reason.BAD_FLAGS),
    "all flags": (forwarded(SIGNER, flags=0xFF), Reason.BAD_FLAGS),
    "op 0": (request(op=0), Reason.BAD_OP),
    "the op after the last routed one": (request(op=shared.LAST_ROUTED_OP + 1), Reason.BAD_OP),
    "the op after the last control one": (forwarded(SIGNER, op=shared.LAST_CONTROL_OP + 1), Reason.BAD_OP),
    "a reply from a client": (request(flags=Flag.REPLY), Reason.BAD_FLAGS),
    "a control message from a client": (request(op=Op.PING), Reason.BAD_FLAGS),
    "a FORWARDED flag from a client": (request(flags=Flag.FORWARDED), Reason.BAD_EPOCH),
    "a FORWARDED flag and epoch from a client": (request(flags=Flag.FORWARDED, epoch=2), Reason.BAD_TAG),
    "a control message without a tag": (request(op=Op.FIND_NODE, flags=2, epoch=2), Reason.BAD_TAG),
    "a forged reply": (request(flags=Flag.REPLY | Flag.FORWARDED, epoch=2), Reason.BAD_TAG),
    "an epoch that is not accepted": (forwarded((3, SIGNER[1])), Reason.BAD_EPOCH),
    "another cluster's tag": (forwarded((2, keys.derive(2, b"of other clusters").tag)), Reason.BAD_TAG),
    "the tag of the other epoch's key": (forwarded((1, SIGNER[1])), Reason.BAD_TAG),
    "no tag": (forwarded(SIGNER, header_tag=0), Reason.BAD_TAG),
    "a first reserved field": (forwarded(SIGNER, reserved1=1), Reason.BAD_FLAGS),
    "a second reserved field": (forwarded(SIGNER, reserved2=1), Reason.BAD_FLAGS),
    "a time too old": (forwarded(SIGNER, time=NOW - 61), Reason.STALE),
    "a time too early": (forwarded(SIGNER, time=NOW + 61), Reason.STALE),
    "a time half an age away": (forwarded(SIGNER, time=NOW + (1 << 31)), Reason.STALE),
    "time 0": (forwarded(SIGNER, time=0), Reason.STALE),
    "a hop limit of 0": (forwarded(SIGNER, hops=0), Reason.HOP_LIMIT),
    "a hop limit that ends before the next": (forwarded(SIGNER, hops=1), Reason.HOP_LIMIT),
    "a client's hop limit that ends before the next": (request(hops=1), Reason.HOP_LIMIT),
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", DROPPED)
def test_bad_packets_are_dropped_with_their_reason(what, version):
    message, reason = DROPPED[what]
    assert_verdict(node_for(version).core, from_client(version, message), reason)


ORIGINS = {"status": 1, "time": NOW, "epoch": 2, "reserved1": 1, "client_port": 1, "client_ip": packed("10.9.9.9"),
           "entry_ip": packed("10.0.0.1"), "entry_port": 1, "reserved2": 1, "body_tag": 1, "header_tag": 1}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ORIGINS)
def test_a_client_that_fills_in_the_entry_nodes_fields(name, version):
    message = request(**{name: ORIGINS[name]})
    assert_verdict(node_for(version).core, from_client(version, message), Reason.FORGED_ORIGIN)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "fields", [{"op": Op.PUT, "key": bytes(20)}, {"op": Op.PING}, PROVEN_TRACE, {"flags": 3}]
)
def test_a_wrong_body_with_a_right_header_is_dropped_at_its_end(fields, version):
    at_home = {"entry_ip": HERE[version].ip, "client_ip": CLIENT[version].ip}
    message = forwarded(SIGNER, **at_home, **fields, body=b"the right body")
    message[-1] ^= 1
    assert_verdict(node_for(version).core, from_client(version, message), Reason.BAD_BODY_TAG)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET, Op.TRACE])
def test_padding_has_no_tag_and_means_nothing(op, version):
    node, hops = node_for(version), {"hops": 1} if op == Op.TRACE else {}
    ends = Reason.TRACE_ENDS if op == Op.TRACE else Reason.OWNER
    key = NEXT_ID if op == Op.TRACE else bytes(20)
    message = forwarded(SIGNER, op=op, key=key, **hops, body=b"some padding")
    message[-1] ^= 1
    assert_verdict(node.core, from_client(version, message), ends)
    assert node.slow.decide_message(message, CLIENT[version], HERE[version], NOW).reason is ends
    tagged = forwarded(SIGNER, op=op, key=key, **hops, body_tag=1)
    set_field(tagged, "header_tag", shared.header_tag(SIGNER[1], tagged))
    assert_verdict(node.core, from_client(version, tagged), Reason.BAD_BODY_TAG)
    assert node.slow.decide_message(tagged, CLIENT[version], HERE[version], NOW).reason is Reason.BAD_BODY_TAG


@pytest.mark.parametrize("version", VERSIONS)
def test_any_changed_bit_of_a_members_header_stops_it(version):
    node, message = node_for(version), forwarded(SIGNER)
    hops = 7
    for bit in range(8 * shared.HEADER_LEN):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        outcome = node.core.decide_packet(from_client(version, changed), NOW)
        if bit // 8 != hops:
            assert outcome.verdict in (Verdict.DROP, Verdict.PASS), bit


# --- Replies --------------------------------------------------------------------------------

REPLY = Flag.REPLY | Flag.FORWARDED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, Reason.RELAYED),
        ({"entry_ip": packed("10.0.0.3")}, Reason.NOT_ENTRY),
        ({"entry_port": shared.PORT + 1}, Reason.NOT_ENTRY),
        ({"client_port": 0}, Reason.BAD_ADDRESS),
        ({"client_ip": packed("224.0.0.1")}, Reason.BAD_ADDRESS),
        ({"client_ip": packed("ff02::1")}, Reason.BAD_ADDRESS),
        ({"client_ip": bytes(16)}, Reason.BAD_ADDRESS),
        ({"client_ip": packed("2001:db8::9")}, Reason.FAMILY),
        ({"entry_ip": packed("fd00::1")}, Reason.FAMILY),
    ],
)
def test_replies(fields, reason):
    assert_verdict(node_for(4).core, from_client(4, forwarded(SIGNER, flags=REPLY, **fields)), reason)


# --- Addresses, where the client's reply would go ------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "ff02::1", "ff0e::1"],
)
def test_a_client_that_no_reply_may_go_to(host):
    source = Address.of(host, 40000)
    version = 4 if source.is_ipv4 else 6
    assert_verdict(node_for(version).core, packet(request(), source, HERE[version]), Reason.MARTIAN)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("made", [request(), forwarded(SIGNER)], ids=["client", "member"])
@pytest.mark.parametrize("loopback", [False, True], ids=["own", "loopback"])
def test_an_own_source_is_from_inside_or_forged(version, made, loopback):
    core = node_for(version).core
    source = HERE[version]._replace(port=40000)
    if loopback:
        source = Address.of("127.0.0.1" if version == 4 else "::1", 40000)
    assert_verdict(core, packet(made, source, HERE[version]), Reason.MARTIAN)
    assert core.decide_message(made[:], source, HERE[version], NOW).reason is Reason.MARTIAN
    inside = core.decide_message(made[:], source, HERE[version], NOW, inside=True)
    assert inside.verdict is Verdict.FORWARD


def test_a_wrong_checksum_of_the_ip_header():
    spoilt = from_client(4, request())
    spoilt[11] ^= 1
    assert_verdict(node_for(4).core, spoilt, Reason.BAD_CHECKSUM)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_with_port_0(version):
    sent = packet(request(), CLIENT[version]._replace(port=0), HERE[version])
    assert_verdict(node_for(version).core, sent, Reason.BAD_ADDRESS)


def test_an_ipv6_packet_from_an_ipv4_mapped_client():
    """It would make the node send to an IPv4 host over which IPv4's own filters have no say."""
    sent = ipv6(udp(request(), CLIENT[4], HERE[4]), CLIENT[4], HERE[6])
    assert_verdict(node_for(6).core, sent, Reason.BAD_ADDRESS)


# --- IP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_packet_cut_at_every_length(version):
    core = node_for(version).core
    whole = from_client(version, request(body=b"some body"))
    assert_verdict(core, whole, Reason.ENTERED)
    assert_verdict(core, b"", Reason.NOT_OURS)
    for length in range(1, len(whole)):
        assert_verdict(core, whole[:length], Reason.BAD_IP)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_cut_at_every_length_in_a_right_packet(version):
    core, message = node_for(version).core, request(body=b"some body")
    for length in range(len(message)):
        expected = Reason.BAD_LENGTH if length >= shared.HEADER_LEN else Reason.TRUNCATED
        if length < 4:
            expected = Reason.NOT_OURS
        assert_verdict(core, from_client(version, message[:length]), expected)


def test_a_message_from_a_socket_cut_at_every_length():
    core, message = node_for(4).core, request(body=b"some body")
    for length in range(len(message)):
        expected = Reason.BAD_LENGTH if length >= shared.HEADER_LEN else Reason.TRUNCATED
        assert core.decide_message(message[:length], CLIENT[4], HERE[4], NOW).reason is expected
    assert (
        core.decide_message(bytearray(b"kdht") + message[4:], CLIENT[4], HERE[4], NOW).reason
        is Reason.BAD_MAGIC
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("length", [0, 7, 8, 119, 121, 0xFFFF])
def test_a_wrong_udp_length_is_dropped(length, version):
    sent = from_client(version, request())
    struct.pack_into(">H", sent, len(sent) - 120 + 4, length)
    assert_verdict(node_for(version).core, sent, Reason.BAD_IP)


def test_an_ipv4_header_too_short_to_be_one():
    sent = from_client(4, request())
    for words in range(5):
        sent[0] = 0x40 | words
        assert_verdict(node_for(4).core, sent, Reason.BAD_IP)


@pytest.mark.parametrize("options", [b"\x01\x01\x01\x00", b"\x83\x07\x04\x0a\x00\x00\x09\x00", bytes(40)])
def test_ip_options(options):
    assert_verdict(node_for(4).core, from_client(4, request(), options=options), Reason.IP_OPTIONS)


def test_the_first_fragment():
    sent = scapy_packet(request(), CLIENT[4], HERE[4], flags="MF")
    assert_verdict(node_for(4).core, bytes(sent), Reason.FRAGMENT)


EXTENSIONS = {
    "hop by hop": (IPv6ExtHdrHopByHop(), Reason.EXT_HEADER),
    "destination options": (IPv6ExtHdrDestOpt(), Reason.EXT_HEADER),
    "routing": (IPv6ExtHdrRouting(), Reason.EXT_HEADER),
    "an atomic fragment": (IPv6ExtHdrFragment(offset=0, m=0), Reason.FRAGMENT),
    "a first fragment": (IPv6ExtHdrFragment(offset=0, m=1), Reason.FRAGMENT),
    "hop by hop and a fragment": (IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1), Reason.FRAGMENT),
    "a fragment and options": (IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(), Reason.FRAGMENT),
    "a later fragment": (IPv6ExtHdrFragment(offset=9, m=0), Reason.NOT_OURS),
}


@pytest.mark.parametrize("what", EXTENSIONS)
def test_an_ipv6_extension_header(what):
    headers, reason = EXTENSIONS[what]
    content = headers.copy() / UDP(sport=40000, dport=shared.PORT) / Raw(bytes(request()))
    sent = bytes(IPv6(src="fd00::99", dst="fd00::1") / content)
    assert_verdict(node_for(6).core, sent, reason)


@pytest.mark.parametrize(("count", "reason"), [(6, Reason.EXT_HEADER), (7, Reason.NOT_OURS)])
def test_a_chain_of_extension_headers_is_followed_for_six(count, reason):
    options = b"".join(struct.pack(">BB6x", 60 if i < count - 1 else 17, 0) for i in range(count))
    sent = ipv6(options + udp(request(), CLIENT[6], HERE[6]), CLIENT[6], HERE[6], 60)
    assert_verdict(node_for(6).core, sent, reason)


def test_ipv6_without_a_udp_checksum():
    assert_verdict(node_for(6).core, from_client(6, request(), checksum="zero"), Reason.NO_CHECKSUM)


# --- Others' packets pass, whatever is wrong with them ---------------------------------------------

OTHERS = {
    "another host's": packet(request(), CLIENT[4], NEXT[4]),
    "another IPv6 host's": packet(request(), CLIENT[6], NEXT[6]),
    "another port's": packet(request(), CLIENT[4], HERE[4]._replace(port=53)),
    "another IPv6 port's": packet(request(), CLIENT[6], HERE[6]._replace(port=53)),
    "without the magic": packet(b"kdht" + request()[4:], CLIENT[4], HERE[4]),
    "IPv6 without the magic": packet(b"kdht" + request()[4:], CLIENT[6], HERE[6]),
    "an empty datagram": packet(b"", CLIENT[4], HERE[4]),
    "an ICMP echo": bytes(IP(src="10.0.0.99", dst="10.0.0.1") / ICMP()),
    "an ICMPv6 echo": bytes(IPv6(src="fd00::99", dst="fd00::1") / ICMPv6EchoRequest()),
    "TCP to our port": bytes(IP(src="10.0.0.99", dst="10.0.0.1") / TCP(dport=shared.PORT) / Raw(bytes(request()))),
    "TCP over IPv6": bytes(IPv6(src="fd00::99", dst="fd00::1") / TCP(dport=shared.PORT)),
    "a later fragment": bytes(scapy_packet(request(), CLIENT[4], HERE[4], frag=5)),
    "a short last fragment": bytes(IP(src="10.0.0.99", dst="10.0.0.1", proto=17, frag=9) / Raw(b"end")),
    "IP version 5": b"\x55" + from_client(4, request())[1:],
    "an ARP request": bytes.fromhex("0001080006040001") + bytes(20),
    "IPv6 to a mapped address": ipv6(udp(request(), CLIENT[4], HERE[4]), CLIENT[6], HERE[4]),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_foreign_packets_pass_untouched(what):
    core = make_node(usual_settings(), [Contact(NEXT_ID, *NEXT[4])]).core
    assert_verdict(core, OTHERS[what], Reason.NOT_OURS)


# --- What stays here -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (request(key=bytes(20)), Reason.OWNER),
        (forwarded(SIGNER, key=bytes(20), hops=1), Reason.OWNER),
        (request(attempt=1), Reason.ATTEMPT_ENDS),
        (request(op=Op.TRACE, hops=1), Reason.TRACE_ENDS),
        (forwarded(SIGNER, op=Op.TRACE, hops=1), Reason.TRACE_ENDS),
        (forwarded(SIGNER, op=Op.PING, hops=1), Reason.CONTROL),
        (forwarded(SIGNER, op=Op.FIND_NODE, flags=REPLY), Reason.CONTROL),
    ],
)
def test_local(message, reason, version):
    assert_verdict(node_for(version).core, from_client(version, message), reason)


def test_a_next_hop_of_the_other_ip_version_is_left_to_the_socket():
    assert_verdict(node_for(6).core, from_client(4, request()), Reason.FAMILY)
    assert_verdict(node_for(4).core, from_client(6, request()), Reason.FAMILY)
    assert_verdict(node_for(4, source4=None).core, from_client(4, request()), Reason.FAMILY)


def test_without_a_configuration_everything_is_local():
    core = Core()
    for data in (b"", b"\x45", from_client(4, request()), from_client(6, forwarded(SIGNER))):
        assert_verdict(core, data, Reason.NOT_READY)


@pytest.mark.parametrize("skew", [-60, 0, 60])
def test_the_edges_of_the_replay_window(skew):
    assert_verdict(node_for(4).core, from_client(4, forwarded(SIGNER)), Reason.NEXT_HOP, NOW + skew)


def test_the_replay_window_over_the_end_of_the_32_bit_seconds():
    message = forwarded(SIGNER, time=2**32 - 10)
    core = node_for(4).core
    assert_verdict(core, from_client(4, message), Reason.NEXT_HOP, 50)
    assert_verdict(core, from_client(4, message), Reason.STALE, 51)


# --- How large a reply may be ------------------------------------------------------------------------


def max_reply(node: Node, now: int = NOW, **fields: object) -> int:
    sent = from_client(4, request(key=bytes(20), **fields))
    return node.core.decide_packet(sent, now).max_reply


def test_only_a_client_with_a_cookie_gets_more_than_it_sent():
    node = node_for(4, cookies=True)
    good = node.core.cookie(CLIENT[4].ip, NOW)
    slot = 1 << shared.COOKIE_SLOT_BITS
    assert max_reply(node) == 0
    assert max_reply(node, body=bytes(300)) == 300
    assert max_reply(node, body=bytes(300), max_reply=200) == 200
    assert max_reply(node, cookie=good) == shared.MAX_BODY
    assert max_reply(node, cookie=good, max_reply=200) == 200
    assert max_reply(node, cookie=good, max_reply=0xFFFF) == shared.MAX_BODY
    assert max_reply(node, now=NOW + slot, cookie=good) == shared.MAX_BODY
    assert max_reply(node, now=NOW + 2 * slot, cookie=good) == 0
    assert max_reply(node, now=NOW - slot, cookie=good) == shared.MAX_BODY
    assert max_reply(node, now=NOW - 2 * slot, cookie=good) == 0
    assert max_reply(node, cookie=node.core.cookie(packed("10.0.0.98"), NOW)) == 0
    assert max_reply(node, cookie=good ^ 1) == 0
    assert max_reply(node_for(4)) == shared.MAX_BODY


def test_the_owner_obeys_the_entry_nodes_max_reply():
    core = node_for(4, cookies=True).core
    for allowed in (0, 1, shared.MAX_BODY):
        sent = from_client(4, forwarded(SIGNER, key=bytes(20), max_reply=allowed))
        assert core.decide_packet(sent, NOW).max_reply == allowed
    control = forwarded(SIGNER, op=Op.PING, max_reply=9)
    set_field(control, "hops", 1)
    assert core.decide_packet(from_client(4, control), NOW).max_reply == 0
