"""What a node says of itself: bytes and back; anything else is no summary."""

import random

import pytest

from kdht.node.summary import REQUIREMENTS, Summary

GOOD = Summary(("table", "disk"), 12, 3, 1_800_000_000, 5_000_000_000, 1 << 40, "0.1.0")


@pytest.mark.parametrize(
    "summary",
    [GOOD, GOOD._replace(waits_for=()), GOOD._replace(waits_for=REQUIREMENTS), GOOD._replace(version="")],
)
def test_a_summary_round_trips(summary: Summary) -> None:
    assert Summary.untrusted(summary.pack()) == summary


def test_the_bytes_are_those_of_the_document() -> None:
    assert (
        GOOD.pack()
        == bytes.fromhex("01 12 000c 00000003 6b49d200 000000012a05f200 0000010000000000") + b"0.1.0"
    )


@pytest.mark.parametrize("body", [b"", b"\x01", GOOD.pack()[:27], b"\x02" + GOOD.pack()[1:]])
def test_an_earlier_or_later_version_says_nothing(body: bytes) -> None:
    assert Summary.untrusted(body) is None


def test_any_bytes_are_a_summary_or_none_and_its_version_is_short_and_printable() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        found = Summary.untrusted(b"\x01" + rng.randbytes(rng.randrange(200)))
        if found is not None:
            assert len(found.version) <= 32
            assert found.version.isprintable()
