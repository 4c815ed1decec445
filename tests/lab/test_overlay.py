"""The static overlay: tables are what Kademlia says, and the core's rule is all that routes."""

from itertools import pairwise
from random import Random

import pytest

from kdht._routing import Core, common_bits
from kdht.lab._overlay import KEY, Overlay
from kdht.wire._shared import ID_BITS, ID_LEN, PORT, K

SEED = 5


def ids_of(count: int, seed: int = SEED) -> list[bytes]:
    rng = Random(seed)
    return sorted(rng.randbytes(ID_LEN) for _ in range(count))


def overlay_of(count: int, k: int = K) -> Overlay:
    return Overlay(b"".join(ids_of(count)), SEED, k)


def distance(a: bytes, b: bytes) -> int:
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def keys(count: int) -> list[bytes]:
    rng = Random("keys")
    return [rng.randbytes(ID_LEN) for _ in range(count)]


@pytest.mark.parametrize("k", [1, 3, K])
@pytest.mark.parametrize("count", [1, 2, 50, 400])
def test_each_bucket_has_k_nodes_of_its_range(count: int, k: int) -> None:
    ids = ids_of(count)
    overlay = Overlay(b"".join(ids), SEED, k)
    for node in range(0, count, 29):
        overlay.visit(node)
        for index in range(ID_BITS):
            in_range = {each for each in ids if common_bits(ids[node], each) == index}
            held = [contact.id for contact in overlay.core.bucket(index)]
            assert len(held) == len(set(held)) == min(k, len(in_range))
            assert set(held) <= in_range
            assert bool(overlay.core.occupancy() >> (ID_BITS - 1 - index) & 1) == bool(in_range)


def test_a_seed_decides_a_table() -> None:
    overlay = overlay_of(500)
    tables = []
    for node in (3, 450, 3):
        overlay.visit(node)
        tables.append([overlay.core.bucket(index) for index in range(12)])
    assert tables[0] == tables[2] != tables[1]
    other = Overlay(b"".join(ids_of(500)), SEED + 1)
    other.visit(3)
    assert [other.core.bucket(index) for index in range(12)] != tables[0]


def test_a_table_file_publishes_the_same_state_as_calls() -> None:
    overlay = overlay_of(300)
    for node in (7, 299):
        overlay.visit(node)
        core = Core()
        core.configure(
            self_id=overlay.id(node),
            port=PORT,
            own=[node.to_bytes(16, "big").replace(b"\0", b"\xfd", 1)],
            source4=None,
            source6=node.to_bytes(16, "big").replace(b"\0", b"\xfd", 1),
            keys=[(KEY.epoch, KEY.tag)],
            cookie_key=KEY.cookie,
            cookies=False,
        )
        for index in range(ID_BITS):
            core.set_bucket(index, overlay.core.bucket(index))
        assert core.raw_config() == overlay.core.raw_config()


def test_each_hop_is_closer_and_the_last_is_the_owner() -> None:
    ids = ids_of(400)
    overlay = overlay_of(400, k=2)
    for number, key in enumerate(keys(200)):
        path = overlay.route(key, number)
        for here, there in pairwise(path):
            overlay.visit(here)
            hop = overlay.core.next_hop(key)
            assert hop is not None
            assert hop.id == ids[there]
            assert distance(ids[there], key) < distance(ids[here], key)
        assert path[0] == number
        assert ids[path[-1]] == min(ids, key=lambda each: distance(each, key)) == ids[overlay.owner(key)]


def test_sent_datagrams_are_counted() -> None:
    overlay = overlay_of(100)
    overlay.send(1000)
    overlay.send(500)
    assert overlay.astray == 0
    assert sum(overlay.hops) == sum(overlay.ended) == 1500
    assert sum(hops * number for hops, number in enumerate(overlay.hops)) == sum(overlay.forwarded)


def test_shares_are_the_parts_of_all_keys_that_nodes_own() -> None:
    """IDs that differ in their first byte: so does who owns a key, and all first bytes can be tried."""
    firsts = Random(SEED).sample(range(256), 20)
    ids = [bytes([first]) + bytes(ID_LEN - 1) for first in sorted(firsts)]
    overlay = Overlay(b"".join(ids), SEED)
    owned = [0] * len(ids)
    for first in range(256):
        owned[overlay.owner(bytes([first]) + bytes(ID_LEN - 1))] += 1
    assert list(overlay.shares()) == [number / 256 for number in owned]


@pytest.mark.parametrize(
    ("ids", "k"),
    [
        (b"", K),
        (bytes(ID_LEN + 1), K),
        (bytes(2 * ID_LEN), K),
        (b"".join(reversed(ids_of(2))), K),
        (bytes(ID_LEN), 0),
        (bytes(ID_LEN), K + 1),
    ],
)
def test_an_invalid_overlay_is_refused(ids: bytes, k: int) -> None:
    with pytest.raises(ValueError, match=r"ID|bucket"):
        Overlay(ids, SEED, k)


def test_unknown_nodes_and_bad_keys_are_refused() -> None:
    overlay = overlay_of(3)
    for call in (overlay.id, overlay.visit, lambda node: overlay.route(bytes(ID_LEN), node)):
        with pytest.raises(IndexError):
            call(3)
    with pytest.raises(ValueError, match="a key"):
        overlay.owner(b"short")
