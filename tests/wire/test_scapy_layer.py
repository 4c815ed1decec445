"""The scapy layer: golden vectors both ways, over both IPs, and what it shows."""

import ast
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from vectors import VECTORS, message_of, name_of

from kdht.wire import CONTACT, HEADER, RECORD, Address, Message, parse_contacts
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op
from kdht.wire.scapy_layer import KDHT, KDHTContact, KDHTContacts, KDHTControl, KDHTProof, KDHTRecord


@pytest.fixture(autouse=True)
def no_swallowed_errors(monkeypatch):
    """Otherwise scapy turns what it cannot dissect into Raw."""
    monkeypatch.setattr(conf, "debug_dissector", True)


def packet_of(message: Message) -> KDHT:
    """The layer with a message's fields, its body left to `/`."""
    return KDHT(
        op=message.op.name,
        flags=int(message.flags),
        hops=message.hops,
        request_id=message.request_id,
        key=message.key,
        attempt=message.attempt,
        status=message.status.name,
        sealed_at=message.time,
        epoch=message.epoch,
        client_ip=message.client.host,
        client_port=message.client.port,
        entry_ip=message.entry.host,
        entry_port=message.entry.port,
        max_reply=message.max_reply,
        cookie=message.cookie,
        body_tag=message.body_tag,
        header_tag=message.header_tag,
    )


def ip6(address: Address) -> str:
    """As scapy writes it: IPv4 addresses are mapped."""
    return f"::ffff:{address.host}" if address.is_ipv4 else address.host


def test_a_proof_is_a_layer_of_its_own():
    vector = next(each for each in VECTORS if "proof" in each["name"])
    raw = bytes.fromhex(vector["hex"])
    packet = KDHT(raw)
    proof = packet[KDHTProof]
    assert (str(proof.rights), proof.holder, proof.seq) == (
        "READ+WRITE+DELETE",
        0x0102030405060708,
        18 * 10**14,
    )
    assert (packet[KDHTRecord].ttl, bytes(packet[Raw].load)) == (3600, b"10.0.0.7:5432")
    assert bytes(packet) == raw
    built = KDHT(op="PUT", flags="PROVEN", request_id=packet.request_id, key=packet.key)
    assert bytes(built / KDHTRecord(ttl=3600) / Raw(b"10.0.0.7:5432") / KDHTProof(bytes(proof))) == raw


def test_a_delete_may_be_a_proof_alone():
    packet = KDHT(
        bytes(Message(op=Op.DELETE, key=bytes(20), request_id=1, flags=Flag.PROVEN, body=bytes(64)).pack())
    )
    assert isinstance(packet.payload, KDHTProof)


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_fixed_bytes_dissect_to_these_fields(vector):
    message, packet = message_of(vector), KDHT(bytes.fromhex(vector["hex"]))
    for name in ("op", "hops", "request_id", "key", "attempt", "status", "epoch", "max_reply",
                 "cookie", "body_tag", "header_tag"):  # fmt: skip
        assert getattr(packet, name) == getattr(message, name), name
    assert (int(packet.flags), packet.sealed_at) == (message.flags, message.time)
    assert (packet.client_ip, packet.client_port) == (ip6(message.client), message.client.port)
    assert (packet.entry_ip, packet.entry_port) == (ip6(message.entry), message.entry.port)
    assert (packet.magic, packet.version, packet.body_len) == (
        shared.MAGIC,
        shared.VERSION,
        len(message.body),
    )
    assert bytes(packet.payload) == message.body


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_a_dissected_message_builds_its_bytes_again(vector):
    packet = KDHT(bytes.fromhex(vector["hex"]))
    packet.clear_cache()
    packet.body_len = None
    assert bytes(packet).hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_these_fields_build_the_fixed_bytes(vector):
    message = message_of(vector)
    packet = packet_of(message)
    built = packet / Raw(message.body) if message.body else packet
    assert bytes(built).hex() == vector["hex"]


def test_every_field_stands_where_the_shared_header_has_it():
    at = 0
    layout = []
    for field in KDHT.fields_desc:
        layout.append((field.name, at, int(field.sz)))
        at += int(field.sz)
    layout = [("time" if name == "sealed_at" else name, offset, size) for name, offset, size in layout]
    assert tuple(layout) == shared.LAYOUT


@pytest.mark.parametrize(
    ("layer", "size"), [(KDHT, HEADER.size), (KDHTRecord, RECORD.size), (KDHTContact, CONTACT.size)]
)
def test_an_empty_layer_has_its_structs_size(layer, size):
    assert len(bytes(layer())) == size


def test_bodies_are_layers_of_their_own():
    by_name = {name_of(vector): KDHT(bytes.fromhex(vector["hex"])) for vector in VECTORS}
    record = by_name["a GET's reply to its client"][KDHTRecord]
    assert (record.version, record.ttl, record.payload.load) == (7, 3600, b"world")
    found = by_name["a FIND_NODE's reply with two contacts"][KDHTControl]
    body = bytes(by_name["a FIND_NODE's reply with two contacts"].payload)
    assert found.sender == body[:20]
    assert [(c.id, c.ip, c.port) for c in found.contacts] == [
        (c.id, ip6(c.address), c.port) for c in parse_contacts(body[20:])
    ]
    assert by_name["a PING"][KDHTControl].contacts == []
    assert [c.ip for c in by_name["a TRACE's reply on the way"][KDHTContacts].contacts] == ["::ffff:10.0.0.7"]
    padded = by_name["a client's padded GET with a hop limit, a retry and a cookie"]
    assert padded.payload.__class__ is Raw


def test_bodies_build_from_layers():
    contact = KDHTContact(id=bytes(range(20)), ip="10.0.0.7", port=5348)
    reply = KDHT(op="FIND_NODE", flags="REPLY+FORWARDED") / KDHTControl(
        sender=bytes(20), contacts=[contact] * 3
    )
    again = KDHT(bytes(reply))
    assert again.body_len == 20 + 3 * 38
    assert [bytes(c) for c in again[KDHTControl].contacts] == [bytes(contact)] * 3


@pytest.mark.parametrize("network", [IP(dst="127.0.0.1"), IPv6(dst="::1")], ids=["IPv4", "IPv6"])
def test_the_port_means_kdht_on_both_sides(network):
    packet = network / UDP() / KDHT(op="TRACE", hops=3)
    assert (packet[UDP].sport, packet[UDP].dport) == (shared.PORT, shared.PORT)
    assert network.__class__(bytes(packet))[KDHT].hops == 3
    for ports in ({"sport": 40000, "dport": shared.PORT}, {"sport": shared.PORT, "dport": 40000}):
        packet = network / UDP(**ports) / KDHT(op="TRACE", hops=3)
        assert network.__class__(bytes(packet))[KDHT].op == shared.Op.TRACE
    packet = network / UDP(sport=40000, dport=40001) / KDHT()
    assert KDHT not in network.__class__(bytes(packet))


def test_a_reply_answers_its_request_only():
    request = KDHT(op="GET", request_id=7, key=bytes(20))
    reply = KDHT(op="GET", request_id=7, key=bytes(20), flags="REPLY+FORWARDED")
    assert reply.answers(request)
    assert reply.hashret() == request.hashret()
    others = [{"op": "PUT"}, {"request_id": 8}, {"key": bytes(19) + b"\1"}, {"flags": 0}]
    for change in others:
        other = reply.copy()
        for name, value in change.items():
            setattr(other, name, value)
        assert not other.answers(request), change
    assert not reply.answers(reply)


def test_a_lying_body_length_is_kept_and_shown():
    packet = KDHT(bytes(KDHT(op="PUT", body_len=3) / Raw(b"abcdef")))
    assert (packet.body_len, packet.payload.load) == (3, b"abcdef"[:3])
    assert bytes(KDHT(body_len=900))[38:40] == (900).to_bytes(2, "big")


def test_it_shows_names_and_not_numbers():
    vector = next(v for v in VECTORS if name_of(v) == "a TRACE's reply on the way")
    shown = KDHT(bytes.fromhex(vector["hex"])).show(dump=True)
    for text in ("op        = TRACE", "REPLY+FORWARDED", "HOPS_ENDED", "::ffff:10.0.0.7"):
        assert text in shown
    assert KDHT(bytes.fromhex(vector["hex"])).summary().startswith("KDHT TRACE HOPS_ENDED b5531c")


@given(st.sampled_from(VECTORS), st.data())
def test_nearly_right_bytes_are_dissected(vector, data):
    whole = bytearray.fromhex(vector["hex"])
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    packet = KDHT(bytes(whole))
    assert packet.magic == int.from_bytes(whole[:4], "big")
    packet.show(dump=True)


def test_it_imports_on_its_own():
    """With nothing of kdht before it, and pulling in no layer above the wire."""
    code = (
        "import sys; from kdht.wire.scapy_layer import KDHT; KDHT();"
        "print(sorted(name for name in sys.modules if name.startswith('kdht.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert {name for name in loaded if not name.startswith("kdht.wire")} == {"kdht.errors"}


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_a_packet_cut_anywhere_is_no_error(vector):
    """A capture with a short snapshot length has such packets."""
    data = bytes.fromhex(vector["hex"])
    for length in range(len(data) + 1):
        for packet in (
            KDHT(data[:length]),
            IP(bytes(IP() / UDP(sport=shared.PORT, dport=shared.PORT) / data[:length])),
        ):
            packet.summary()
            bytes(packet)
        assert isinstance(KDHT(data[:length]), KDHT if not length or length >= shared.HEADER_LEN else Raw)


@given(st.binary(max_size=120), st.sampled_from([KDHTContact, KDHTContacts, KDHTControl, KDHTRecord]))
def test_a_body_of_any_bytes_is_no_error(data, kind):
    bytes(kind(data))
