"""Tokens and proofs: their bytes, and texts and bytes that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from paths import ROOT

from kdht.errors import BadPacket, BadToken
from kdht.wire import Record, hash_key
from kdht.wire._shared import GRANT_LEN, MAX_BODY, MAX_PROVEN_VALUE, PROOF_LEN, RECORD_LEN, Op
from kdht.wire.keys import derive_access
from kdht.wire.rights import (
    ALL_RIGHTS,
    GRANT,
    NOBODY,
    OPEN_KEY,
    PROOF,
    Grant,
    Right,
    Token,
    hash_in,
    holder_of,
    is_mac_right,
    make_token,
    open_token,
    prove,
    scope_of,
    scoped_key,
    split_proof,
)

VECTOR = json.loads((ROOT / "tests/vectors/tokens.json").read_text())
ACCESS_KEY = derive_access(VECTOR["epoch"], VECTOR["access_secret"].encode()).key
GRANTED = Grant(
    Right(VECTOR["rights"]),
    VECTOR["epoch"],
    VECTOR["expiry"],
    int(VECTOR["holder"], 16),
    scope_of(VECTOR["scope_name"]),
)
BODY = Record(ttl=VECTOR["ttl"], value=VECTOR["value"].encode()).pack()
KEY = bytes.fromhex(VECTOR["key"])


def test_keys_scopes_grants_and_tokens_match_the_vectors():
    assert ACCESS_KEY.hex() == VECTOR["access_key"]
    assert f"{GRANTED.scope:016x}" == VECTOR["scope"]
    assert GRANTED.pack().hex() == VECTOR["grant"]
    made = make_token(GRANTED, ACCESS_KEY)
    assert (made.key.hex(), made.text) == (VECTOR["holder_key"], VECTOR["token"])
    assert hash_key(VECTOR["name"]).hex() == VECTOR["inner"]
    assert hash_in(GRANTED.scope, VECTOR["name"]) == KEY


def test_a_proven_put_is_that_of_the_vectors():
    made = make_token(GRANTED, ACCESS_KEY)
    inner = hash_key(VECTOR["name"])
    proof = prove(made.key, made.grant.pack(), Op.PUT, inner, KEY, VECTOR["seq"], BODY)
    assert (BODY + proof).hex() == VECTOR["put_body"]
    body, found = split_proof(BODY + proof)
    assert (body, found.inner, found.seq) == (BODY, inner, VECTOR["seq"])
    assert is_mac_right(found, made.key, Op.PUT, KEY, body)


def test_lengths_fit_a_datagram():
    assert (GRANT.size, PROOF.size) == (GRANT_LEN, PROOF_LEN)
    assert RECORD_LEN + MAX_PROVEN_VALUE + PROOF_LEN == MAX_BODY


numbers = some.integers(0, 2**64 - 1)
rights = some.integers(0, int(ALL_RIGHTS)).map(Right)
grants = some.builds(Grant, rights, some.integers(0, 255), some.integers(0, 2**32 - 1), numbers, numbers)


@given(grants, some.binary(min_size=16, max_size=16))
def test_a_token_is_read_back_from_its_text(granted, key):
    made = Token(granted, key)
    assert Token.parse(made.text) == made
    assert Token.parse(f" {made.text}\n") == made
    assert len(made.text) == 57
    assert made.key.hex() not in repr(made)


@given(some.text(max_size=80) | some.text("kdht1.AZaz09-_=", max_size=80).map("kdht1.".__add__))
def test_a_bad_token_error_does_not_quote_it(text):
    said = ""
    try:
        made = Token.parse(text)
    except BadToken as error:
        said = str(error)
    else:
        assert Token.parse(made.text) == made
    assert "\n" not in said
    assert len(text) < 12 or text not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "begins with"),
        (lambda text: text[6:], "begins with"),
        (lambda text: text.replace("kdht1", "kdht2"), "begins with"),
        (lambda text: text[:-1], "damaged or cut off"),
        (lambda text: text + "A", "damaged or cut off"),
        (lambda text: text[:-1] + "!", "damaged or cut off"),
        (lambda text: text[:30] + "é" + text[31:], "damaged or cut off"),
        (lambda text: "kdht1." + "_" + text[7:], "does not know"),
    ],
)
def test_a_damaged_token_says_what_to_do(change, words):
    with pytest.raises(BadToken, match=words):
        Token.parse(change(VECTOR["token"]))


def test_every_other_last_character_is_another_token_or_none():
    """The last character has two bits that no byte has: one token has one text."""
    text = VECTOR["token"]
    same = 0
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        try:
            same += Token.parse(text[:-1] + letter).text == text
        except BadToken:
            continue
    assert same == 1


@given(some.binary(max_size=GRANT_LEN + 1))
def test_bytes_are_a_grant_or_a_bad_packet(data):
    try:
        assert Grant.parse(data).pack() == data
    except BadPacket:
        assert len(data) != GRANT_LEN or data[0] != 1 or data[3] or data[1] & ~int(ALL_RIGHTS)


@given(some.binary(max_size=3 * PROOF_LEN))
def test_bytes_are_a_body_and_a_proof_or_a_bad_packet(data):
    try:
        body, proof = split_proof(data)
    except BadPacket:
        assert len(data) < PROOF_LEN
    else:
        assert body + PROOF.pack(*proof) == data


def test_names_of_scopes_and_holders_are_numbers_that_differ():
    assert scope_of("") == 0
    assert scope_of("ci") != holder_of("ci")
    assert holder_of("0102030405060708") == 0x0102030405060708
    assert holder_of("010203040506070") != 0x010203040506070


def test_a_scope_has_keys_of_its_own():
    plain = hash_key("a")
    assert scoped_key(plain, 0) == plain
    assert len({plain, scoped_key(plain, scope_of("x")), scoped_key(plain, scope_of("y"))}) == 3


def test_an_open_scopes_token_needs_no_secret():
    made = open_token("scratch")
    assert (made.grant.holder, made.key) == (NOBODY, OPEN_KEY)
    assert make_token(made.grant, ACCESS_KEY) == made
