"""Sets of keys of 20 bytes against the same sets with numbers, and what a changed record leads to."""

from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest

from kdht.node.repair._changed import KeptDigest, KeptDigests, RecordChanged
from kdht.node.repair._key_sets import AnswerableKeys, KeySet
from kdht.node.repair.bodies import Digest
from kdht.node.repair.intervals import Intervals
from kdht.node.repair.ranges import SPACE, Range, View, key_bytes
from kdht.wire._shared import ID_BITS, ID_LEN


@pytest.mark.parametrize("seed", range(10))
def test_a_key_set_has_the_keys_of_its_intervals(seed):
    draw = Random(seed)
    edges = sorted({draw.choice((0, SPACE, draw.randrange(SPACE), draw.randrange(1000))) for _ in range(12)})
    intervals = Intervals(zip(edges[::2], edges[1::2], strict=False))
    keys = KeySet(intervals)
    for number in [*edges, *(edge - 1 for edge in edges), *(draw.randrange(SPACE) for _ in range(50))]:
        if 0 <= number < SPACE:
            assert (key_bytes(number) in keys) == intervals.covers((number, number + 1))


def test_the_whole_space_and_nothing():
    for key in (bytes(ID_LEN), bytes([255]) * ID_LEN):
        assert key in KeySet([(0, SPACE)])
        assert key not in KeySet()


@pytest.mark.parametrize("key", [b"", bytes(ID_LEN - 1), bytes(ID_LEN + 1)], ids=len)
def test_a_key_has_20_bytes(key):
    with pytest.raises(ValueError, match="a key has 20 bytes"):
        assert key in KeySet([(0, SPACE)])


def test_keys_that_are_withheld_are_answered_by_nobody():
    keys, low, high = AnswerableKeys(), bytes(ID_LEN), bytes([255]) * ID_LEN
    keys.caught_up, keys.held = KeySet([(0, SPACE // 2)]), KeySet([(SPACE // 2, SPACE)])
    assert [keys.is_caught_up(low), keys.is_caught_up(high)] == [True, False]
    assert [keys.holds(low), keys.holds(high)] == [True, True]
    keys.withheld = True
    assert not any((keys.is_caught_up(low), keys.holds(low), keys.holds(high)))


@pytest.mark.parametrize("seed", range(5))
def test_a_record_that_others_keep_has_repair_look_for_strays(seed):
    draw = Random(seed)
    ids = [draw.randbytes(ID_LEN) for _ in range(9)]
    view = View(ids[0], ids[1:], 3)
    for _ in range(100):
        key = draw.randbytes(ID_LEN)
        for seen in (view, None):
            foreign = SimpleNamespace(stray=False)
            RecordChanged(KeptDigests(_NoLock()), SimpleNamespace(view=seen), foreign).changed(key)
            kept = view.kept_range(int.from_bytes(key, "big"))
            assert foreign.stray == (seen is not None and kept is None)


@pytest.mark.parametrize("seed", range(5))
def test_a_changed_key_marks_the_digests_of_all_ranges_with_it_and_no_others(seed):
    draw = Random(seed)
    kept = KeptDigests(_NoLock())
    ranges: dict[Range, KeptDigest] = {}
    for _ in range(200):
        bits = draw.choice((0, 1, 4, 7, 8, 9, 12, 156, ID_BITS))
        start = draw.getrandbits(bits) << (ID_BITS - bits) if bits else 0
        digest = ranges.setdefault(Range(start, bits), KeptDigest(Digest(1, 1)))
        digest.until = 1
        kept.set(key_bytes(start), bits, digest)
    assert len(kept) == len(ranges)
    marked: Counter[Range] = Counter()
    for start in [draw.getrandbits(ID_BITS), *(each.start for each in [*ranges][:50])]:
        kept.changed(key_bytes(start))
        marked.update(each for each in ranges if each.start <= start < each.stop)
    for each, digest in ranges.items():
        assert kept.get(key_bytes(each.start), each.bits) is digest
        assert (digest.stamp, digest.until) == (marked[each], 0 if marked[each] else 1)
    kept.clear()
    assert len(kept) == 0


class _NoLock:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
