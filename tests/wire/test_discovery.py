"""Questions and answers of nodes that look for each other on a link."""

import random

import pytest

from kdht.errors import BadPacket
from kdht.wire import Address
from kdht.wire import _shared as shared
from kdht.wire.discovery import LENGTH, Discovery, Kind, pack, parse
from kdht.wire.keys import derive

NOW = 1_700_000_000
KEY = derive(3, b"the secret of this cluster")
OTHER = derive(3, b"the secret of another one")
ANSWER = Discovery(Kind.ANSWER, b"question", Address.of("10.0.0.1", 5348))


@pytest.mark.parametrize("message", [ANSWER, Discovery(Kind.QUESTION, bytes(8))])
def test_a_message_is_read_as_it_was_made(message: Discovery) -> None:
    packed = pack(message, KEY, NOW)
    assert len(packed) == LENGTH
    assert parse(packed, [derive(2, b"an earlier secret"), KEY], NOW) == message


def test_question_and_answer_have_one_length() -> None:
    assert len(pack(Discovery(Kind.QUESTION, bytes(8)), KEY, NOW)) == len(pack(ANSWER, KEY, NOW))


def refused(data: bytes, now: int = NOW) -> str:
    with pytest.raises(BadPacket) as caught:
        parse(data, [KEY], now)
    return caught.value.reason


def test_each_fault_has_its_reason() -> None:
    packed = pack(ANSWER, KEY, NOW)
    assert refused(packed[:-1]) == "BAD_LENGTH"
    assert refused(packed + b"x") == "BAD_LENGTH"
    assert refused(bytes(LENGTH)) == "BAD_MAGIC"
    assert refused(packed[:4] + b"\xff" + packed[5:]) == "BAD_VERSION"
    assert refused(pack(ANSWER, derive(4, b"a secret of later"), NOW)) == "BAD_EPOCH"
    assert refused(pack(ANSWER, OTHER, NOW)) == "BAD_TAG"
    assert refused(packed, NOW + shared.REPLAY_WINDOW + 1) == "STALE"
    assert refused(packed, NOW - shared.REPLAY_WINDOW - 1) == "STALE"
    assert refused(pack(ANSWER._replace(kind=7), KEY, NOW)) == "BAD_OP"  # type: ignore[arg-type]


def test_every_changed_byte_is_noticed() -> None:
    packed = pack(ANSWER, KEY, NOW)
    for at in range(LENGTH):
        changed = bytearray(packed)
        changed[at] ^= 1
        assert refused(bytes(changed))


def test_any_bytes_give_a_value_or_a_reason() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        data = chance.randbytes(chance.choice((0, 1, LENGTH, LENGTH, 2000)))
        assert refused(data) in shared.Reason.__members__


def test_no_tag_is_good_for_another_message() -> None:
    """The keys differ: what an outsider hears on the link opens nothing else."""
    assert KEY.discovery not in (KEY.cookie, KEY.tag[:16], KEY.tag[16:32])
