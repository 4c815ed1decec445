"""Tags and cookies: SipHash-2-4 against its published vectors, tags against a slow program, what tags protect."""

import pytest
import slow_tags
from hypothesis import given
from hypothesis import strategies as st
from vectors import CLUSTER_KEY, COOKIES, SIPHASH, TAGS, VECTORS, name_of

from kdht import wire
from kdht._routing import Core
from kdht.core import _tags
from kdht.errors import BadPacket
from kdht.replay import oracle
from kdht.wire import FIELD, OFFSET, Address, Message, keys
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason, siphash

SEALED = [vector for vector in VECTORS if vector["sealed"]]
OTHER_EPOCH = keys.derive(4, b"another secret of 16 or more bytes")
SAME_EPOCH = keys.derive(CLUSTER_KEY.epoch, b"another secret of 16 or more bytes")
NOW = 1_800_000_000


@pytest.fixture
def core() -> Core:
    """The routing core under the vectors' cluster key."""
    here = Address.of("10.0.0.1", 5348)
    core = Core()
    core.configure(self_id=bytes(20), port=here.port, own=[here.ip], source4=here.ip, source6=None,
                   keys=[(CLUSTER_KEY.epoch, CLUSTER_KEY.tag)], cookie_key=CLUSTER_KEY.cookie)  # fmt: skip
    return core


def sealed(**changes) -> bytearray:
    """A sealed PUT between two nodes, with some body."""
    fields = {"op": Op.PUT, "key": wire.hash_key("hello"), "request_id": 5, "hops": 9, "body": b"a body"}
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
    assert slow_tags.siphash(key, data) == published


def test_the_published_outputs_are_the_papers():
    assert len(SIPHASH["outputs"]) == 64
    assert SIPHASH["outputs"][0] == "726fdb47dd0e0e31"
    assert SIPHASH["outputs"][15] == "a129ca6149be45e5"  # the paper's appendix A


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=300))
def test_siphash_is_the_papers_for_any_input(key, data):
    assert siphash(key, data) == slow_tags.siphash(key, data)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_siphash_key_has_16_bytes(length):
    with pytest.raises(ValueError, match="16 bytes"):
        siphash(bytes(length), b"")


@pytest.mark.parametrize("way", _tags.WAYS)
@given(body=st.binary(max_size=shared.MAX_BODY), request_id=st.integers(0, 2**64 - 1))
def test_all_ways_of_this_processor_make_the_same_tags(way, body, request_id):
    message = bytes(sealed(body=body, request_id=request_id))
    fixed = wire.header_tag(message, CLUSTER_KEY), wire.body_tag(message, CLUSTER_KEY)
    assert _tags.tags_by(way, CLUSTER_KEY.tag, message) == fixed


@pytest.mark.parametrize("way", _tags.WAYS)
def test_all_ways_make_the_same_tag_of_a_body_of_each_length(way):
    for length in range(shared.MAX_BODY + 1):
        message = bytes(sealed(body=bytes(i * 7 & 0xFF for i in range(length))))
        assert _tags.tags_by(way, CLUSTER_KEY.tag, message)[1] == wire.body_tag(message, CLUSTER_KEY), length


def test_a_tag_is_made_only_in_ways_of_this_processor():
    with pytest.raises(ValueError, match="no such way"):
        _tags.tags_by(len(_tags.WAYS), CLUSTER_KEY.tag, bytes(sealed()))


@pytest.mark.parametrize("vector", TAGS["messages"], ids=name_of)
def test_tags_have_their_fixed_values(vector):
    secret, message = TAGS["secret"].encode(), tagged_message(vector)
    fixed = int(vector["header_tag"], 16), int(vector["body_tag"], 16)
    assert (slow_tags.header_tag(secret, message), slow_tags.body_tag(secret, message)) == fixed
    key, header = keys.derive(1, secret), oracle.read_header(message)
    assert (wire.header_tag(message, key), wire.body_tag(message, key)) == fixed
    assert oracle.header_tag(key.tag, header) == fixed[0]
    assert oracle.body_tag(key.tag, header, message[shared.HEADER_LEN :]) == fixed[1]


def tagged_message(vector) -> bytes:
    """A fixed message: its header is of one byte, or counts up."""
    message = bytearray(
        range(shared.HEADER_LEN) if vector["fill"] is None else [vector["fill"]] * shared.HEADER_LEN
    )
    message += bytes(at % 256 for at in range(vector["length"]))
    message[:8] = b"KDHT\x01" + bytes([vector["op"], vector["flags"], 9])
    message[FIELD["body_len"]] = vector["length"].to_bytes(2, "big")
    message[FIELD["body_tag"]] = bytes.fromhex(vector["body_tag"])
    return bytes(message)


@given(
    st.binary(min_size=16, max_size=40),
    st.binary(min_size=105, max_size=105),
    st.binary(max_size=shared.MAX_BODY),
)
def test_all_implementations_give_the_same_tags(secret, header, body):
    message = b"KDHT\x01" + header[:33] + len(body).to_bytes(2, "big") + header[33:] + body
    assert len(message) == shared.HEADER_LEN + len(body)
    key, read = keys.derive(1, secret), oracle.read_header(message)
    header_tags = {wire.header_tag(message, key), slow_tags.header_tag(secret, message)}
    body_tags = {wire.body_tag(message, key), slow_tags.body_tag(secret, message)}
    assert header_tags == {oracle.header_tag(key.tag, read)}
    assert body_tags == {oracle.body_tag(key.tag, read, body)}


@given(st.binary(max_size=shared.MAX_BODY), st.sampled_from(Op), st.integers(0, 2**64 - 1))
def test_tags_of_one_kind_are_of_no_other(content, op, request_id):
    """The same bytes as a body, as the tagged part of a header and under a cookie's key."""
    as_body = bytearray(
        Message(op=op, key=bytes(20), request_id=request_id, flags=Flag.REPLY, body=content).pack()
    )
    as_header = content.ljust(shared.HEADER_LEN, b"\0")[: shared.HEADER_LEN]
    body_tag, header_tag = wire.body_tag(as_body, CLUSTER_KEY), wire.header_tag(as_header, CLUSTER_KEY)
    cookie = siphash(CLUSTER_KEY.cookie, content)
    assert len({body_tag, header_tag, cookie}) == 3
    as_header = bytearray(as_header)
    as_header[FIELD["header_tag"]] = body_tag.to_bytes(8, "big")
    assert wire.header_tag(as_header, CLUSTER_KEY) != body_tag


def test_parts_of_a_tag_key_are_apart_and_of_one_epoch():
    parts = oracle.parts_of(CLUSTER_KEY.tag)
    others = oracle.parts_of(OTHER_EPOCH.tag)
    pieces = [part[at : at + 16] for part in (*parts, *others) for at in range(0, len(part) - 15, 16)]
    pieces += [CLUSTER_KEY.cookie, OTHER_EPOCH.cookie]
    assert len(pieces) == len(set(pieces))
    assert sum(map(len, parts)) == shared.TAG_KEY_LEN


@pytest.mark.parametrize("length", [0, 16, shared.TAG_KEY_LEN - 1, shared.TAG_KEY_LEN + 1])
def test_a_tag_key_has_its_length(length):
    for tag in (shared.header_tag, shared.body_tag):
        with pytest.raises(ValueError, match="1288 bytes"):
            tag(bytes(length), bytes(shared.HEADER_LEN))


def test_less_than_a_header_has_no_tags():
    for tag in (shared.header_tag, shared.body_tag):
        with pytest.raises(ValueError, match="header"):
            tag(CLUSTER_KEY.tag, bytes(shared.HEADER_LEN - 1))


@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET, Op.TRACE])
def test_padding_is_untagged_but_its_length_is_tagged(op):
    message = sealed(op=op, body=bytes(40))
    assert message[FIELD["body_tag"]] == bytes(8)
    message[-1] ^= 1
    wire.verify(message, [CLUSTER_KEY], NOW, 60)
    shorter = message[:-1]
    shorter[FIELD["body_len"]] = (39).to_bytes(2, "big")
    assert reason_of(bytes(shorter)) == "BAD_TAG"


@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET, Op.TRACE])
def test_padding_with_a_tag_is_refused(op):
    message = sealed(op=op)
    message[FIELD["body_tag"]] = (1).to_bytes(8, "big")
    message[FIELD["header_tag"]] = wire.header_tag(message, CLUSTER_KEY).to_bytes(8, "big")
    assert reason_of(bytes(message)) == "BAD_BODY_TAG"


@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET, Op.TRACE])
def test_proofs_are_under_the_body_tag(op):
    message = sealed(op=op, body=bytes(64), flags=Flag.PROVEN)
    message[-1] ^= 1
    assert reason_of(bytes(message)) == "BAD_BODY_TAG"
    message[-1] ^= 1
    message[OFFSET["flags"]] &= ~Flag.PROVEN
    assert reason_of(bytes(message)) == "BAD_TAG"


def test_a_body_is_bound_to_its_request():
    one, other = sealed(request_id=1), sealed(request_id=2)
    assert one[FIELD["body_tag"]] != other[FIELD["body_tag"]]


@pytest.mark.parametrize("vector", SEALED, ids=name_of)
def test_sealing_gives_the_fixed_tags(vector, core):
    expected = bytearray.fromhex(vector["hex"])
    message = bytearray(expected)
    for field, offset, size in shared.LAYOUT:
        if field in ("epoch", "time", "body_tag", "header_tag"):
            message[offset : offset + size] = bytes(size)
    message[OFFSET["flags"]] &= ~Flag.FORWARDED
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
        if at == OFFSET["hops"]:
            continue
        message[at] ^= 1 << bit % 8
        assert reason_of(bytes(message)) != "HOP_LIMIT", bit
        message[at] ^= 1 << bit % 8
    wire.verify(message, [CLUSTER_KEY], NOW, 60)


def test_hops_may_change_on_the_way():
    message = sealed()
    for hops in range(1, 256):
        message[OFFSET["hops"]] = hops
        wire.verify(message, [CLUSTER_KEY], NOW, 60)
    message[OFFSET["hops"]] = 0
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


def test_a_body_longer_than_a_message_may_have_is_not_sealed(core):
    """The key of its tag has no words for it: the core would read behind them."""
    longest = Message(op=Op.STORE, key=bytes(20), request_id=1, hops=1, body=bytes(shared.MAX_BODY)).pack()
    core.seal(bytearray(longest), 0)
    longer = bytearray(longest) + bytes(40)
    longer[FIELD["body_len"]] = (shared.MAX_BODY + 40).to_bytes(2, "big")
    with pytest.raises(ValueError, match="at most"):
        core.seal(longer, 0)


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
