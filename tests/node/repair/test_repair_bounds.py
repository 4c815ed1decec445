"""What a member says in DIGESTs takes a bounded memory, whatever IDs and ranges it names, and costs its neighbours nothing."""

from random import Random

from test_repair_rule import CAUGHT_UP, FRESH, ME, Scene, ids

from kdht.node.repair import caught_up, factor
from kdht.node.repair.factor import Factor
from kdht.node.repair.ranges import Range, View


def test_words_of_many_ids_are_forgotten_and_those_of_neighbours_are_not() -> None:
    scene = Scene(ids(8))
    for number, id in enumerate(scene.order):
        for stranger in ids(1000, seed=100 + number):
            scene.says(stranger, CAUGHT_UP)
        scene.says(id, CAUGHT_UP)
    assert scene.done
    assert len(scene.caught_up._peers) <= len(scene.order) + caught_up.MAX_STRANGERS


def test_a_newcomers_word_counts_once_the_view_has_it() -> None:
    scene = Scene(ids(8))
    (newcomer,) = ids(1, seed=7)
    scene.says(newcomer, CAUGHT_UP)
    scene.caught_up.view_changed(View(ME, [*ids(8), newcomer], 3))
    for stranger in ids(1000, seed=8):
        scene.says(stranger, CAUGHT_UP)
    assert newcomer in scene.caught_up._peers


def test_words_on_many_pieces_are_forgotten() -> None:
    scene, rng = Scene(ids(8)), Random(5)
    (liar, *_) = scene.order
    for _ in range(2 * caught_up.MAX_PARTS):
        piece = Range(rng.getrandbits(160), 160)
        for says in (CAUGHT_UP, FRESH) if rng.random() < 0.1 else (CAUGHT_UP,):
            scene.caught_up.heard(liar, piece, says, agrees=True, epoch=scene.caught_up.epoch)
        scene.caught_up.compared(liar, [piece], [piece], epoch=scene.caught_up.epoch)
        peer = scene.caught_up._peers[liar]
    assert max(each.count for each in (peer.caught_up, peer.fresh, peer.sees, peer.equal, peer.sound)) <= (
        caught_up.MAX_PARTS
    )
    # What it says of a whole range later counts as ever.
    scene.says(liar, CAUGHT_UP)
    assert scene.caught_up._peers[liar].caught_up.covers((scene.kept.range.start, scene.kept.range.stop))


def test_numbers_of_replicas_of_many_ids_are_forgotten_and_those_of_contacts_are_not() -> None:
    numbers = Factor(3)
    contacts = ids(5)
    numbers.renew(contacts)
    assert numbers.heard(contacts[0], 5)
    for stranger in ids(1000, seed=9):
        numbers.heard(stranger, 4)
    assert len(numbers._others) <= len(contacts) + factor.MAX_STRANGERS
    assert numbers.renew(contacts)
    assert numbers.value == 5


def test_a_strangers_number_of_replicas_counts_until_the_next_look() -> None:
    numbers = Factor(3)
    (stranger,) = ids(1, seed=9)
    assert numbers.heard(stranger, 5)
    assert numbers.renew([stranger])
    assert numbers.value == 5
