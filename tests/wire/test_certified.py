"""Self-certified records: BEP 44's vectors, other people's signatures, and what proves nothing."""

import hashlib
import json
import subprocess
import sys

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from signing import KEY, OTHER_SEED, PLAIN, SEED, forgeries, signed, stored

from kdht.errors import BadPacket, MissingLibrary, Uncertified
from kdht.wire import (
    Record,
    pack_immutable_write,
    pack_promise,
    pack_signed_write,
    parse_promise,
    parse_write,
    promised_record,
)
from kdht.wire import _shared as shared
from kdht.wire.bencode import encode
from kdht.wire.certified import (
    CERTIFIED,
    IMMUTABLE,
    MAX_SEQ,
    SIGNED,
    SignedValue,
    check_certified,
    immutable_key,
    is_certified,
    sign,
    signed_bytes,
    signed_key,
)

VECTORS = json.loads((ROOT / "tests/vectors/signed.json").read_text())


def check(record, key=KEY):
    check_certified(key, record.version, record.flags, record.value)


# --- Other people's items


def item(vector) -> SignedValue:
    return SignedValue(
        bytes.fromhex(vector["public_key"]),
        bytes.fromhex(vector["signature"]),
        bytes.fromhex(vector["salt"]),
        vector["seq"],
        bytes.fromhex(vector["v"]),
    )


@pytest.mark.parametrize("vector", VECTORS["items"], ids=lambda vector: vector["by"])
def test_an_item_signed_by_another_library_is_valid(vector):
    made = item(vector)
    assert made.key.hex() == vector["target"]
    check(stored(made), made.key)
    if "signed" in vector:
        assert signed_bytes(made.salt, made.seq, made.v) == vector["signed"].encode()


def test_bep_44s_value_without_a_key_is_encoded_as_it_says():
    assert encode("Hello World!") == b"12:Hello World!"
    assert hashlib.sha1(encode("Hello World!")).hexdigest() == "e5f96f6f38320f0f33959cb4d3d656452117aadb"


@given(
    st.binary(max_size=shared.MAX_SALT),
    st.integers(0, MAX_SEQ),
    st.binary(max_size=900),
    st.binary(min_size=32, max_size=32),
)
def test_pynacl_and_kdht_read_each_others_signatures(salt, seq, value, seed):
    key, v = nacl.signing.SigningKey(seed), encode(value)
    ours = sign(seed, salt, seq, v)
    assert ours.public_key == bytes(key.verify_key)
    key.verify_key.verify(signed_bytes(salt, seq, v), ours.signature)
    theirs = ours._replace(signature=key.sign(signed_bytes(salt, seq, v)).signature)
    check(stored(theirs), theirs.key)


# --- Certificates


@pytest.mark.parametrize("salt", [b"", b"s", bytes(shared.MAX_SALT)])
@pytest.mark.parametrize("seq", [0, 1, MAX_SEQ])
def test_a_signed_value_proves_itself(seq, salt):
    good = signed(seq, salt=salt)
    check(stored(good), good.key)
    assert SignedValue.parse(good.version, good.flags, good.value) == good


def test_a_signed_value_fills_a_message():
    good = sign(SEED, b"", 1, encode(bytes(996)))
    assert len(good.v) == shared.MAX_SIGNED
    assert len(pack_signed_write(good)) == shared.MAX_BODY
    check(stored(good), good.key)


@pytest.mark.parametrize(("salt", "length"), [(b"", 997), (b"salt", 993)])
def test_a_longer_signed_value_is_refused(salt, length):
    with pytest.raises(BadPacket, match="TOO_LONG"):
        check(stored(sign(SEED, salt, 1, encode(bytes(length)))))


@pytest.mark.parametrize("what", forgeries())
def test_a_forgery_proves_nothing(what):
    with pytest.raises(BadPacket):
        check(forgeries()[what])


def test_every_bit_of_a_signed_value_counts():
    good = signed()
    for bit in range(len(good.value) * 8):
        altered = bytearray(good.value)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadPacket):
            check(stored(good)._replace(value=bytes(altered)))


def test_a_second_form_of_a_signature_is_refused():
    """S + L verifies by the plain equation too: then anybody could make another record of the same version."""
    good = signed()
    order = 2**252 + 27742317777372353535851937790883648493
    number = int.from_bytes(good.signature[32:], "little") + order
    other = good._replace(signature=good.signature[:32] + number.to_bytes(32, "little"))
    with pytest.raises(Uncertified, match="signature is wrong"):
        check(stored(other))


@pytest.mark.parametrize("v", [b"", b"x", b"5:four", b"i1ei2e", b"d1:bi1e1:ai1ee"])
def test_a_signed_value_is_bencoded(v):
    made = sign(SEED, b"salt", 1, v)
    with pytest.raises(BadPacket):
        check(stored(made))


def test_an_immutable_value_has_one_key():
    key = immutable_key(PLAIN)
    assert key.hex() == hashlib.blake2b(PLAIN, digest_size=20, person=b"kdht-immutable").hexdigest()
    check_certified(key, CERTIFIED, IMMUTABLE, PLAIN)
    for wrong in [(KEY, CERTIFIED, IMMUTABLE, PLAIN), (key, CERTIFIED + 1, IMMUTABLE, PLAIN),
                  (key, CERTIFIED, IMMUTABLE, PLAIN + b"!"), (key, 7, IMMUTABLE, PLAIN),
                  (key, CERTIFIED, IMMUTABLE | SIGNED, PLAIN), (key, CERTIFIED, IMMUTABLE | 0x100, PLAIN)]:  # fmt: skip
        with pytest.raises(Uncertified):
            check_certified(*wrong)


def test_ordinary_records_claim_no_certificate():
    assert not is_certified(CERTIFIED - 1, 0)
    assert not is_certified(7, 2)
    assert is_certified(CERTIFIED, 0)
    assert is_certified(7, SIGNED)


def test_two_key_pairs_have_two_keys():
    assert (
        len(
            {
                signed_key(signed(seed=seed).public_key, salt)
                for seed in (SEED, OTHER_SEED)
                for salt in (b"", b"s")
            }
        )
        == 4
    )


# --- Bodies


def test_a_signed_put_is_read_as_it_will_be_stored():
    good = signed(9)
    record = Record(good.version, 60, good.flags, good.value)
    assert parse_write(pack_signed_write(good, 60)) == (record, None)
    assert parse_write(pack_signed_write(good, 60, CERTIFIED + 8)) == (record, CERTIFIED + 8)
    assert parse_write(pack_signed_write(good, 60, 0)) == (record, 0)


def test_an_immutable_put_is_read_as_it_will_be_stored():
    assert parse_write(pack_immutable_write(PLAIN, 60)) == (Record(CERTIFIED, 60, IMMUTABLE, PLAIN), None)


@pytest.mark.parametrize("body", [
    Record(1, 0, IMMUTABLE, PLAIN).pack(),
    Record(0, 0, IMMUTABLE | 1, bytes(8) + PLAIN).pack(),
    Record(0, 0, IMMUTABLE | SIGNED, PLAIN).pack(),
    Record(0, 0, SIGNED, bytes(7)).pack(),
    Record(1, 0, SIGNED, pack_signed_write(signed())[16:]).pack(),
    Record(0, 0, SIGNED, b"\xff" * 200).pack(),
])  # fmt: skip
def test_a_malformed_certified_put_is_a_bad_packet(body):
    with pytest.raises(BadPacket):
        parse_write(body)


def test_a_promise_of_a_certified_version_has_the_record():
    good = signed(9)
    body = pack_promise(good.version, 7, certified=(good.flags, good.value))
    assert parse_promise(body) == (good.version, 7, False)
    assert promised_record(body) == (good.flags, good.value)
    assert (
        promised_record(pack_promise(good.version, 7))
        == promised_record(pack_promise(8, 7, given_back=True))
        == (0, b"")
    )
    with pytest.raises(BadPacket):
        parse_promise(pack_promise(8, 7, certified=(good.flags, good.value)))


# --- The library


def test_nothing_loads_libsodium_before_the_first_signature():
    code = (
        "import sys, kdht.client, kdht.node.assembly, kdht.wire.certified as c\n"
        "c.check_certified(c.immutable_key(b'v'), c.CERTIFIED, c.IMMUTABLE, b'v')\n"
        "assert not any('sodium' in line for line in open('/proc/self/maps'))\n"
        "c.library()\n"
        "assert any('sodium' in line for line in open('/proc/self/maps'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_build_without_libsodium_says_what_to_install(monkeypatch):
    good = stored(signed())
    monkeypatch.delattr("kdht.wire._sodium")
    monkeypatch.setitem(sys.modules, "kdht.wire._sodium", None)
    with pytest.raises(MissingLibrary, match="apt-get install libsodium-dev"):
        check(good)
    check_certified(immutable_key(PLAIN), CERTIFIED, IMMUTABLE, PLAIN)
