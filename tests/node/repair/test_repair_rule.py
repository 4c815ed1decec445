"""When a range counts as caught up: the rule on its own, without a network."""

from random import Random

import pytest
from answers import repair_state

from kdht.cli import report
from kdht.node.repair.bodies import Digest, Report, Says, short
from kdht.node.repair.caught_up import CaughtUp, Doubt
from kdht.node.repair.factor import Factor
from kdht.node.repair.ranges import KeptRange, Range, View, number
from kdht.node.repair.sight import STABLE_SECONDS, Sight
from kdht.node.replicas import Policy

CAUGHT_UP = Says.CAUGHT_UP | Says.SEES_YOU | Says.KEEPS
FRESH = Says.SEES_YOU | Says.KEEPS
ME = bytes(20)
WHOLE = Range(0, 0)


def ids(count: int, seed: int = 1) -> list[bytes]:
    rng = Random(seed)
    return [rng.randbytes(20) for _ in range(count)]


class Scene:
    """A node that keeps ranges with others, who say what the test wants."""

    def __init__(self, others: list[bytes], *, warm: bool = True) -> None:
        self.view = View(ME, others, 3)
        self.caught_up = CaughtUp(ME, lambda: None, lambda: None, lambda: warm)
        self.caught_up.view_changed(self.view)
        self.kept: KeptRange = self.view.kept[0]
        self.order = self.view.order(self.kept.range)

    def says(self, id: bytes, says: Says, *, equal: bool = True, agrees: bool = True) -> None:
        part, epoch = self.kept.range, self.caught_up.epoch
        self.caught_up.heard(id, part, says, agrees=agrees, epoch=epoch)
        if equal:
            sound = [part] if agrees and says & Says.CAUGHT_UP else []
            self.caught_up.compared(id, [part], sound, epoch=epoch)

    @property
    def done(self) -> bool:
        return self.caught_up.covers(self.kept.range)


def test_replicas_as_new_as_this_node_do_not_count() -> None:
    scene = Scene(ids(8))
    partners = [id for id in scene.order if id in scene.kept.replicas]
    for id in partners:
        scene.says(id, FRESH)
    assert not scene.done
    assert set(scene.caught_up.waits_for(scene.kept)) >= set(scene.order[:6]) - set(partners)


def test_any_majority_of_caught_up_replicas_counts() -> None:
    scene = Scene(ids(8))
    for id in scene.order:
        scene.says(id, CAUGHT_UP if id in scene.order[3:5] else FRESH)
    assert scene.done


def test_one_caught_up_replica_is_not_a_majority() -> None:
    scene = Scene(ids(8))
    for id in scene.order[:6]:
        scene.says(id, CAUGHT_UP if id == scene.order[2] else FRESH)
    assert not scene.done
    assert scene.caught_up.waits_for(scene.kept) == scene.order[6:]


def test_all_reachable_replicas_count_if_none_has_caught_up() -> None:
    scene = Scene(ids(8))
    for id in scene.order:
        assert not scene.done
        scene.says(id, FRESH)
    assert scene.done


def test_a_cold_table_never_stands_for_the_whole_cluster() -> None:
    scene = Scene(ids(4), warm=False)
    for id in scene.order:
        scene.says(id, FRESH)
    assert not scene.done
    assert scene.caught_up.waits_for(scene.kept) == []


def test_catching_up_waits_for_nodes_that_do_not_see_us() -> None:
    scene = Scene(ids(8))
    for id in scene.order:
        scene.says(id, CAUGHT_UP, agrees=id != scene.order[0])
    assert not scene.done
    scene.says(scene.order[0], CAUGHT_UP)
    assert scene.done


def test_silent_nodes_are_still_waited_for() -> None:
    scene = Scene(ids(4))
    for id in scene.order:
        scene.caught_up.silent(id)
    assert not scene.done
    for id in scene.order[:1]:
        scene.says(id, CAUGHT_UP)
    assert scene.done


def test_a_reset_discards_earlier_answers() -> None:
    scene = Scene(ids(4))
    part, epoch = scene.kept.range, scene.caught_up.epoch
    scene.caught_up.reset()
    for id in scene.order:
        scene.caught_up.heard(id, part, CAUGHT_UP, agrees=True, epoch=epoch)
        scene.caught_up.compared(id, [part], [part], epoch=epoch)
    assert not scene.done


@pytest.mark.parametrize(("says", "doubt"), [(CAUGHT_UP, Doubt.CONFIRMED), (FRESH, Doubt.ALONE)])
def test_doubt_ends_once_others_have_caught_up(says: Says, doubt: Doubt) -> None:
    scene = Scene(ids(2))
    scene.caught_up.doubt = Doubt.OPEN
    for id in scene.order:
        scene.says(id, says)
    assert scene.caught_up.doubt is doubt
    assert scene.done == (doubt is Doubt.CONFIRMED)
    scene.caught_up.doubt = Doubt.NONE
    scene.caught_up.renew()
    assert scene.done


def test_two_views_agree_if_they_know_the_same_nodes() -> None:
    others = ids(6)
    sight = Sight(ME)
    sight.look(View(ME, others, 3), 0.0)
    assert sight.view is not None
    part = sight.view.kept[0].range
    keepers = sorted(sight.view.keepers(part), key=lambda id: number(id) ^ part.start)
    named = tuple(map(short, keepers))
    assert sight.agrees(part, Report(Digest(0, 0), FRESH, named))
    assert not sight.agrees(part, Report(Digest(0, 0), Says.KEEPS, named))
    assert sight.agrees(part, Report(Digest(0, 0), Says.CAUGHT_UP, named))  # it writes nothing there
    stranger = (part.start >> 128) ^ 1  # closer than most, and unknown here
    assert not sight.agrees(part, Report(Digest(0, 0), FRESH, (stranger, *named[:2])))
    farther = (part.start >> 128) ^ 0xFFFFFFFF
    assert sight.agrees(part, Report(Digest(0, 0), FRESH, (*named[:2], farther)))


def test_a_newcomer_counts_once_older_comparisons_have_ended() -> None:
    old, newcomer = ids(2), ids(3)[2]
    sight = Sight(ME)
    sight.look(View(ME, old, 3), 0.0)
    sight.look(View(ME, [*old, newcomer], 4), 10.0)
    said = [
        sight.word(WHOLE, newcomer, when, caught_up=True).says
        for when in (10.0, 10.0 + STABLE_SECONDS - 0.1, 10.0 + STABLE_SECONDS)
    ]
    assert [bool(each & Says.SEES_YOU) for each in said] == [False, False, True]


def test_a_foreign_range_has_the_keepers_its_keepers_see() -> None:
    nodes = ids(12)
    views = {id: View(id, set(nodes) - {id}, 3) for id in nodes}
    for id, view in views.items():
        for share in view.kept:
            for other in views.values():
                assert other.keepers(share.range) == share.replicas, id


def test_the_largest_claimed_replica_count_applies() -> None:
    factor = Factor(2)
    one, other = ids(2)
    assert not factor.heard(one, 2)
    assert factor.heard(other, 3)
    assert factor.renew([one, other])
    assert (factor.value, factor.others) == (3, [3])
    assert factor.heard(other, 2)
    assert factor.renew([one, other])
    assert (factor.value, factor.others) == (2, [])


@pytest.mark.parametrize(
    ("policy", "replicas", "acks"),
    [((3, 2), 5, 3), ((3, 3), 5, 5), ((3, 1), 5, 1), ((2, 2), 3, 2), ((1, 1), 3, 2)],
)
def test_acks_grow_with_the_number_of_replicas(policy: tuple[int, int], replicas: int, acks: int) -> None:
    wider = Policy(replicas=policy[0], acks=policy[1]).of(replicas)
    assert (wider.replicas, wider.acks) == (replicas, acks)


def test_status_names_the_nodes_and_records_waited_for() -> None:
    data = repair_state(
        behind=2,
        ranges=5,
        neighbours=4,
        missing=12000,
        seconds_left=8.0,
        others_replicas=[2],
        waits_for={"unheard": [], "unseen": ["10.0.0.2:5348"], "unequal": ["10.0.0.3:5348"] * 5},
    )
    assert report._repair(data) == (
        "2 of 5 key ranges to compare with 4 neighbours, 12,000 records to come, about 8 s; waits for to be counted "
        "among the replicas by 10.0.0.2:5348 and the records of 10.0.0.3:5348, 10.0.0.3:5348, 10.0.0.3:5348 and 2 more; "
        "others nearby have replicas = 2, so 3 are kept until all say the same"
    )


def test_a_recent_keeper_of_a_range_still_claims_it() -> None:
    others = ids(6)
    far = Range(number(others[0]), 160)
    sight = Sight(ME)
    sight.look(View(ME, [], 1), 0.0)
    sight.look(View(ME, others, 1), 10.0)
    assert sight.word(far, others[1], 10.1, caught_up=True).says & Says.KEEPS
    assert not sight.word(far, others[1], 10.1 + STABLE_SECONDS, caught_up=True).says & Says.KEEPS
