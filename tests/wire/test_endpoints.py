"""Endpoints as payloads: fixed bytes both ways, and any bytes at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdht.errors import BadPacket
from kdht.wire.addresses import Address
from kdht.wire.endpoints import Endpoint, parse_endpoint, read_endpoint
from kdht.wire.sets import MAX_PAYLOAD

CASES = [
    (Endpoint.of("10.0.0.7:80"), "01 01 0050 0a000007 00 01"),
    (Endpoint.of("[fd00::7]:443"), "01 02 01bb fd000000000000000000000000000007 00 01"),
    (Endpoint(Address.of("10.0.0.7", 0), 3, 250, b"v=2"), "01 01 0000 0a000007 03 fa 763d32"),
]


@pytest.mark.parametrize(("endpoint", "packed"), CASES)
def test_endpoints_have_these_bytes(endpoint, packed):
    assert endpoint.pack() == bytes.fromhex(packed)
    assert parse_endpoint(bytes.fromhex(packed)) == read_endpoint(bytes.fromhex(packed)) == endpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.7:80", "10.0.0.7", 80),
        ("10.0.0.7", "10.0.0.7", 0),
        ("[fd00::7]:80", "fd00::7", 80),
        ("fd00::7", "fd00::7", 0),
    ],
)
def test_an_endpoint_may_be_text(text, host, port):
    assert read_endpoint(text.encode()) == Endpoint.of(text) == Endpoint(Address.of(host, port))


@pytest.mark.parametrize(
    "payload",
    [b"", b"web-1", b"example.org:80", b"10.0.0.7:http", b"10.0.0.7:0", b"fe80::1%eth0", b"\xff" * 30],
)
def test_other_payloads_are_no_endpoints(payload):
    assert read_endpoint(payload) is None


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("01 01 00", "TRUNCATED"),
        ("01 01 0050 0a000007 00", "TRUNCATED"),
        ("01 02 0050 0a000007 00 01", "TRUNCATED"),
        ("01 03 0050 0a000007 00 01", "FAMILY"),
        ("02 01 0050 0a000007 00 01", "FAMILY"),
        ("01 02 0050 00000000000000000000ffff0a000007 00 01", "FAMILY"),
    ],
)
def test_damaged_endpoints_are_refused(packed, reason):
    with pytest.raises(BadPacket) as bad:
        parse_endpoint(bytes.fromhex(packed))
    assert bad.value.reason == reason


@pytest.mark.parametrize("wrong", [{"priority": 256}, {"weight": -1}, {"text": bytes(MAX_PAYLOAD - 9)}])
def test_what_does_not_fit_is_not_packed(wrong):
    with pytest.raises(ValueError, match="endpoint"):
        Endpoint.of("10.0.0.7:80")._replace(**wrong).pack()


@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda rest: b"\1\1" + rest)
    | st.binary(max_size=60).map(lambda rest: b"\1\2" + rest)
)
def test_any_bytes_are_an_endpoint_or_bad(data):
    try:
        endpoint = parse_endpoint(data)
    except BadPacket:
        read_endpoint(data)
    else:
        assert endpoint.pack() == data
