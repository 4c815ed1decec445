"""Tags and cookies: SipHash-2-4 against its published vectors, and what tags protect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import CLUSTER_KEY, COOKIES, SIPHASH, VECTORS, name_of

from kdht import wire
from kdht._routing import Core
from kdht.errors import BadPacket
from kdht.wire import Address, Message, keys
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason, siphash

SEALED = [vector for vector in VECTORS if vector["sealed"]]
OTHER_EPOCH = keys.derive(4, b"another secret of 16 or more bytes")
SAME_EPOCH = keys.derive(CLUSTER_KEY.epoch, b"another secret of 16 or more bytes")
NOW = 1_800_000_000
WORD = 2**64 - 1


@pytest.fixture
def core() -> Core:
    """The routing core under the vectors' cluster key."""
    here = Address.of("10.0.0.1", 5348)
    core = Core()
    core.configure(self_id=bytes(20), port=here.port, own=[here.ip], source4=here.ip, source6=None,
                   keys=[(CLUSTER_KEY.epoch, CLUSTER_KEY.tag)], cookie_key=CLUSTER_KEY.cookie)  # fmt: skip
    return core


def slow_siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 as the paper's section 2 writes it down, with Python's integers."""
    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    initial = int.from_bytes(b"somepseudorandomlygeneratedbytes", "big").to_bytes(32, "big")
    v = [
        int.from_bytes(initial[i : i + 8], "big") ^ k
        for i, k in zip((0, 8, 16, 24), (k0, k1) * 2, strict=True)
    ]
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    sip_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sip_rounds(v: list[int], count: int) -> None:
    """`count` SipRounds: half-rounds that add one word to another and rotate it against the sum."""
    for _ in range(count):
        half_round(v, 0, 1, 13)
        half_round(v, 2, 3, 16)
        v[0] = rotated(v[0], 32)
        half_round(v, 0, 3, 21)
        half_round(v, 2, 1, 17)
        v[2] = rotated(v[2], 32)


def half_round(v: list[int], a: int, b: int, bits: int) -> None:
    v[a] = (v[a] + v[b]) & WORD
    v[b] = rotated(v[b], bits) ^ v[a]


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & WORD


def sealed(**changes) -> bytearray:
    """A sealed GET between two nodes, with some body."""
    fields = {"op": Op.GET, "key": wire.hash_key("hello"), "request_id": 5, "hops": 9, "body": b"a body"}
    message = Message(**{**fields, **changes}).pack()
    wire.seal(message, CLUSTER_KEY, NOW)
    return message


def reason_of(data: bytes, keyring=(CLUSTER_KEY,), now: int = NOW) -> str:
    with pytest.raises(BadPacket) as caught:
        wire.verify(data, keyring, now, 60)
    assert caught.value.reason in Reason.__members__
    return caught.value.reason


@pytest.mark.parametrize("length", range(64))
def test_siphash_gives_the_published_output(length):
    key, data = bytes.fromhex(SIPHASH["key"]), bytes(range(length))
    published = int(SIPHASH["outputs"][length], 16)
    assert siphash(key, data) == published
    assert slow_siphash(key, data) == published


def test_the_published_outputs_are_the_papers():
    assert len(SIPHASH["outputs"]) == 64
    assert SIPHASH["outputs"][0] == "726fdb47dd0e0e31"
    assert SIPHASH["outputs"][15] == "a129ca6149be45e5"  # the paper's appendix A


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=300))
def test_siphash_is_the_papers_for_any_input(key, data):
    assert siphash(key, data) == slow_siphash(key, data)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_siphash_key_has_16_bytes(length):
    with pytest.raises(ValueError, match="16 bytes"):
        siphash(bytes(length), b"")


@pytest.mark.parametrize("vector", SEALED, ids=name_of)
def test_sealing_gives_the_fixed_tags(vector, core):
    expected = bytearray.fromhex(vector["hex"])
    message = bytearray(expected)
    for field, offset, size in shared.LAYOUT:
        if field in ("epoch", "time", "body_tag", "header_tag"):
            message[offset : offset + size] = bytes(size)
    message[wire.OFFSET["flags"]] &= ~Flag.FORWARDED
    by_core = bytearray(message)
    wire.seal(message, CLUSTER_KEY, vector["fields"]["time"])
    assert message == expected
    core.seal(by_core, vector["fields"]["time"])
    assert by_core == expected


@pytest.mark.parametrize("vector", SEALED, ids=name_of)
def test_the_fixed_tags_are_right(vector):
    wire.verify(bytes.fromhex(vector["hex"]), [CLUSTER_KEY], vector["fields"]["time"], 60)


def test_any_bit_of_the_tagged_header_breaks_its_tag():
    message = sealed()
    for bit in range(8 * shared.TAGGED_LEN):
        at = bit // 8
        if at == wire.OFFSET["hops"]:
            continue
        message[at] ^= 1 << bit % 8
        assert reason_of(bytes(message)) != "HOP_LIMIT", bit
        message[at] ^= 1 << bit % 8
    wire.verify(message, [CLUSTER_KEY], NOW, 60)


def test_hops_may_change_on_the_way():
    message = sealed()
    for hops in range(1, 256):
        message[wire.OFFSET["hops"]] = hops
        wire.verify(message, [CLUSTER_KEY], NOW, 60)
    message[wire.OFFSET["hops"]] = 0
    assert reason_of(bytes(message)) == "HOP_LIMIT"


def test_any_bit_of_the_body_breaks_its_tag():
    message = sealed()
    for bit in range(8 * shared.HEADER_LEN, 8 * len(message)):
        message[bit // 8] ^= 1 << bit % 8
        assert reason_of(bytes(message)) == "BAD_BODY_TAG"
        message[bit // 8] ^= 1 << bit % 8


def test_both_epochs_are_accepted_during_a_rotation():
    message = sealed()
    wire.verify(message, [OTHER_EPOCH, CLUSTER_KEY], NOW, 60)
    wire.verify(message, [CLUSTER_KEY, OTHER_EPOCH], NOW, 60)
    assert reason_of(bytes(message), [OTHER_EPOCH]) == "BAD_EPOCH"
    assert reason_of(bytes(message), []) == "BAD_EPOCH"
    assert reason_of(bytes(message), [SAME_EPOCH]) == "BAD_TAG"


@pytest.mark.parametrize("skew", [-60, -1, 0, 1, 60])
def test_inside_the_replay_window(skew):
    wire.verify(sealed(), [CLUSTER_KEY], NOW + skew, 60)


@pytest.mark.parametrize("skew", [-(2**31), -61, 61, 3600, 2**31])
def test_outside_the_replay_window(skew):
    assert reason_of(bytes(sealed()), now=NOW + skew) == "STALE"


def test_time_may_pass_2106():
    message = Message(op=Op.GET, key=bytes(20), request_id=5, hops=1).pack()
    wire.seal(message, CLUSTER_KEY, 2**32 - 10)
    wire.verify(message, [CLUSTER_KEY], 2**32 + 10, 60)
    assert reason_of(bytes(message), now=2**32 + 51) == "STALE"


def test_a_message_without_a_seal_is_refused():
    assert reason_of(bytes(Message(op=Op.GET, key=bytes(20), request_id=1, hops=1).pack())) == "BAD_FLAGS"


@given(st.binary(max_size=shared.MAX_DATAGRAM + 8))
def test_any_bytes_are_refused(data):
    assert reason_of(data)


@pytest.mark.parametrize("vector", COOKIES, ids=lambda vector: f"{vector['client']} at {vector['now']}")
def test_a_cookie_has_its_fixed_value(vector, core):
    client = Address.of(vector["client"], 0).ip
    cookie = wire.make_cookie(CLUSTER_KEY.cookie, client, vector["now"])
    assert f"{cookie:016x}" == vector["cookie"]
    assert core.cookie(client, vector["now"]) == cookie


def test_a_cookie_is_good_in_its_slot_and_in_those_beside_it():
    client, slot = Address.of("10.0.0.99", 0).ip, 1 << shared.COOKIE_SLOT_BITS
    start = NOW // slot * slot
    cookie = wire.make_cookie(CLUSTER_KEY.cookie, client, start)
    good = [
        now - start
        for now in (
            start - slot - 1,
            start - slot,
            start,
            start + slot - 1,
            start + 2 * slot - 1,
            start + 2 * slot,
        )
        if wire.valid_cookie(cookie, CLUSTER_KEY.cookie, client, now)
    ]
    assert good == [-slot, 0, slot - 1, 2 * slot - 1]


def test_a_cookie_is_good_for_one_address_and_one_key():
    client = Address.of("10.0.0.99", 0).ip
    cookie = wire.make_cookie(CLUSTER_KEY.cookie, client, NOW)
    assert cookie != 0
    assert not wire.valid_cookie(cookie, CLUSTER_KEY.cookie, Address.of("10.0.0.98", 0).ip, NOW)
    assert not wire.valid_cookie(cookie, OTHER_EPOCH.cookie, client, NOW)
    assert not wire.valid_cookie(cookie ^ 1, CLUSTER_KEY.cookie, client, NOW)
    assert not wire.valid_cookie(0, CLUSTER_KEY.cookie, client, NOW)
