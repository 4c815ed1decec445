"""Bencoding: the encoder, the decoder and the check in C know one language."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdht.errors import BadPacket
from kdht.wire._bencode import is_bencoded
from kdht.wire.bencode import MAX_DEPTH, decode, encode

VALUES = st.recursive(
    st.binary(max_size=20) | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=4), inner, max_size=4),
    max_leaves=12,
)
GOOD = {
    b"4:spam": b"spam",
    b"0:": b"",
    b"i0e": 0,
    b"i-3e": -3,
    b"le": [],
    b"l4:spami42ee": [b"spam", 42],
    b"de": {},
    b"d3:cow3:moo4:spaml1:a1:bee": {b"cow": b"moo", b"spam": [b"a", b"b"]},
    b"d1:ai1e2:aai2ee": {b"a": 1, b"aa": 2},
    b"l" * MAX_DEPTH + b"e" * MAX_DEPTH: None,
}
BAD = [
    b"", b"e", b"i", b"ie", b"i-e", b"i-0e", b"i00e", b"i01e", b"i1", b"i1.5e", b"i+1e", b"i--1e", b"1", b":", b"1:", b"01:a",
    b"00:", b"-1:a", b"2:a", b"99999999999:", b"l", b"d", b"li1e", b"lee", b"i1ee", b"4:spame", b"di1ei2ee", b"d1:a", b"d1:ae",
    b"d1:ai1e1:ai2ee", b"d1:bi1e1:ai2ee", b"d2:aai1e1:ai2ee", b"d0:i1e0:i1ee", b"dlei1ee", b"x", b" 1:a", b"1 :a",
    b"l" * (MAX_DEPTH + 1) + b"e" * (MAX_DEPTH + 1), b"i" + b"1" * 2000 + b"e",
]  # fmt: skip


@pytest.mark.parametrize("data", GOOD)
def test_a_canonical_value_is_read(data):
    assert is_bencoded(data)
    value = decode(data)
    assert GOOD[data] is None or value == GOOD[data]
    assert encode(value) == data


@pytest.mark.parametrize("data", BAD)
def test_other_bytes_are_refused(data):
    assert not is_bencoded(data)
    with pytest.raises(BadPacket):
        decode(data)


@given(VALUES)
def test_decode_inverts_encode(value):
    data = encode(value)
    assert is_bencoded(data)
    assert decode(data) == value


@given(
    st.lists(st.sampled_from([b"d", b"l", b"e", b"i1e", b"i-0e", b"1:a", b"1:b", b"2:ab", b"0:", b"i", b"9"]))
)
@example([b"d", b"1:a", b"e"])
def test_both_readers_say_the_same(parts):
    data = b"".join(parts)
    try:
        value = decode(data)
    except BadPacket:
        assert not is_bencoded(data)
    else:
        assert is_bencoded(data)
        assert encode(value) == data


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_bad_packet(data):
    try:
        decode(data)
    except BadPacket:
        assert not is_bencoded(data)
    else:
        assert is_bencoded(data)


@pytest.mark.parametrize("value", [1.5, None, True, {1: 2}, [object()]])
def test_a_value_without_bencoding_is_a_type_error(value):
    with pytest.raises(TypeError):
        encode(value)


def test_text_is_utf_8_and_keys_are_sorted_by_their_bytes():
    assert encode({"é": 1, "z": [("a",)]}) == b"d1:zll1:aee2:\xc3\xa9i1ee"


@pytest.mark.parametrize("value", [{"a": 1, b"a": 2}])
def test_one_key_twice_is_a_value_error(value):
    with pytest.raises(ValueError, match="twice"):
        encode(value)


def test_too_deep_a_value_is_a_value_error():
    value: list[object] = []
    for _ in range(MAX_DEPTH):
        value = [value]
    with pytest.raises(ValueError, match="at most 32"):
        encode(value)
