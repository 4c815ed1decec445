"""IDs for clusters in tests: what they promise of every key's replicas."""

import random

import pytest

from kdht.lab.ids import MOST, spread
from kdht.node.repair.ranges import SPACE, View


def test_they_repeat_and_differ():
    assert spread(16) == spread(16)
    assert spread(16) != spread(16, seed=1)
    assert len(set(spread(MOST))) == MOST
    with pytest.raises(ValueError, match="64 IDs"):
        spread(MOST + 1)


@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_every_key_has_exactly_its_replicas_whoever_is_gone(replicas):
    rng = random.Random(replicas)
    for size in (8, 12, 16, 32):
        for gone in range(0, size // 2, 3):
            ids = set(rng.sample(spread(size), size - gone))
            kept = sum(
                s.range.stop - s.range.start for id in ids for s in View(id, ids - {id}, replicas).kept
            )
            assert kept == min(replicas, len(ids)) * SPACE
