"""Which node keeps which keys: against the plain sort, and intervals against sets."""

from random import Random

import pytest

from kdht.node.repair._key_sets import KeySet
from kdht.node.repair.intervals import Intervals
from kdht.node.repair.ranges import MAX_FREE_BITS, SPACE, Range, View, key_bytes, number, responsibility

SIZES = (1, 2, 4, 5, 8, 32)


def ids(count: int, seed: int) -> list[bytes]:
    rng = Random(f"{count}/{seed}")
    return [rng.randbytes(20) for _ in range(count)]


def closest(nodes: list[bytes], key: int, replicas: int) -> set[bytes]:
    return set(sorted(nodes, key=lambda id: int.from_bytes(id, "big") ^ key)[:replicas])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_ranges_give_the_replicas_of_a_full_sort(size: int, replicas: int) -> None:
    rng = Random(size)
    for seed in range(2):
        nodes = ids(size, seed)
        views = {id: View(id, [other for other in nodes if other != id], replicas) for id in nodes}
        for _ in range(50):
            key = rng.getrandbits(160)
            wanted = closest(nodes, key, replicas)
            for id, view in views.items():
                share = view.kept_range(key)
                if id in wanted:
                    assert share is not None
                if share is not None:
                    assert wanted <= share.replicas
                    assert id in share.replicas
                assert set(view.closest(key)) == wanted


def test_a_range_is_split_at_the_other_views_borders() -> None:
    """What was several shares, and partly others', is one after some nodes have gone."""
    merged = 0
    for seed in range(8):
        nodes = ids(16, seed)
        for id in nodes[2:]:
            old = View(id, set(nodes) - {id}, 3)
            for share in View(id, set(nodes[2:]) - {id}, 3).kept:
                parts = old.parts(share.range)
                assert Intervals((part.start, part.stop) for part, _ in parts).covers(
                    (share.range.start, share.range.stop)
                )
                for part, before in parts:
                    assert before == old.kept_range(part.start) == old.kept_range(part.stop - 1)
                merged += len(parts) > 1
    assert merged


def test_few_keys_have_an_extra_replica() -> None:
    extra = total = 0
    for seed in range(10):
        nodes = ids(32, seed)
        total += 3 * SPACE
        for id in nodes:
            extra += sum(s.range.stop - s.range.start for s in View(id, set(nodes) - {id}, 3).kept)
        extra -= 3 * SPACE
    assert 0 <= extra < total * 0.02


def test_nodes_with_the_same_neighbours_agree_on_every_range() -> None:
    for seed in range(4):
        nodes = ids(24, seed)
        of_range: dict[Range, frozenset[bytes]] = {}
        for id in nodes:
            for share in responsibility(id, [other for other in nodes if other != id], 3):
                assert of_range.setdefault(share.range, share.replicas) == share.replicas
        for part, replicas in of_range.items():
            for id in replicas:
                assert part in [s.range for s in View(id, set(nodes) - {id}, 3).kept]


def test_ids_with_long_common_prefixes_make_few_ranges() -> None:
    base = Random(5).getrandbits(160)
    nodes = [(base ^ n).to_bytes(20, "big") for n in (0, 1, 2, 1 << 100, 1 << 140)]
    for id in nodes:
        shares = responsibility(id, [other for other in nodes if other != id], 2)
        assert len(shares) <= 160 * 2 ** (MAX_FREE_BITS + 1)
        assert all(id in share.replicas for share in shares)


def test_bits_that_order_nobody_count_along_the_whole_way() -> None:
    """These IDs made 12,385 ranges, as long as the count began again behind each parting."""
    nodes = [
        bytes.fromhex(begin).ljust(20, b"\0")
        for begin in ("4370f3", "fa1d92", "faa082", "fa1c67", "b63acf", "ddb27e")
    ]
    for id in nodes:
        assert len(responsibility(id, [other for other in nodes if other != id], 3)) < 500


@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_ids_that_part_at_any_bit_make_few_ranges(replicas: int) -> None:
    """A member may choose its ID. Some of these sets made four million ranges."""
    rng = Random(replicas)
    for count in (4, 6, 12, 24):
        nodes = [rng.randbytes(20)]
        while len(nodes) < count:
            low = (1 << rng.randrange(1, 160)) - 1
            near = number(rng.choice(nodes)) & ~low | rng.getrandbits(160) & low
            nodes.append(near.to_bytes(20, "big"))
        for id in nodes[:3]:
            shares = responsibility(id, [other for other in nodes if other != id], replicas)
            assert len(shares) < 1000
            assert all(id in share.replicas for share in shares)


def test_a_node_alone_keeps_everything() -> None:
    assert [share.range for share in responsibility(bytes(20), [], 3)] == [Range(0, 0)]
    assert responsibility(bytes(20), [bytes([255] * 20)], 0) == []


def test_a_range_equals_the_union_of_its_parts() -> None:
    whole = Range(0b1010 << 156, 4)
    assert whole.stop == 0b1011 << 156
    assert whole.split(6) == [Range((0b101000 + n) << 154, 6) for n in range(4)]


def test_intervals_behave_like_sets() -> None:
    rng = Random(3)

    def some() -> list[tuple[int, int]]:
        return [(a, a + rng.randrange(12)) for a in (rng.randrange(80) for _ in range(rng.randrange(6)))]

    def as_set(intervals: list[tuple[int, int]]) -> set[int]:
        return {key for start, stop in intervals for key in range(start, stop)}

    for _ in range(500):
        one, other = some(), some()
        mine, theirs = Intervals(one), Intervals(other)
        assert as_set(list(mine)) == as_set(one)
        assert as_set(list(mine.union(other))) == as_set(one) | as_set(other)
        assert list(mine.union(other)) == list(Intervals([*one, *other]))
        assert as_set(list(mine.minus(other))) == as_set(one) - as_set(other)
        assert list(mine.minus(other).minus(other)) == list(mine.minus(other))
        assert as_set(list(mine.within(theirs))) == as_set(one) & as_set(other)
        probe = (rng.randrange(80), rng.randrange(80, 95))
        assert mine.touches(probe) == bool(as_set(one) & as_set([probe]))
        assert mine.covers(probe) == (as_set([probe]) <= as_set(one))
        keys = KeySet(mine)
        assert all((key_bytes(key) in keys) == (key in as_set(one)) for key in range(100))
        gaps = Intervals(mine.complement())
        assert not list(gaps.within(mine))
        assert list(gaps.union(mine)) == [(0, SPACE)]
