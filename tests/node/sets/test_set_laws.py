"""Sets at several replicas: whatever order, loss and repetition of STOREs, the same members everywhere.

Three stores, as replicas have them, take the same writes of members in orders of their own. Some writes are lost on the
way and come later, as repair brings them; some come twice.
"""

from hypothesis import given
from hypothesis import strategies as st

from kdht.node.replicas.member_reads import joined
from kdht.node.sets.index import SetIndex, page_of_members
from kdht.storage import MemoryStore, StoredRecord, Write, newer
from kdht.storage.record import TOMBSTONE
from kdht.times import UnixTime
from kdht.wire import hash_key
from kdht.wire._shared import MAX_BODY
from kdht.wire.sets import (
    END,
    ENTRY_LEN,
    FIRST,
    PLACE_LEN,
    SHARED_LEN,
    id_of,
    member_key,
    member_value,
)

NOW = UnixTime(1_800_000_000.0)
SET = hash_key("web")
KEYS = [member_key(SET, bytes(8), b"member-%d" % number) for number in range(4)]


def member(key: bytes, version: int, ttl: int, payload: int | None) -> Write:
    """A member's record; None is a withdrawal."""
    expiry = int(NOW) + ttl
    if payload is None:
        return Write(key, StoredRecord(version, expiry, TOMBSTONE, b""))
    return Write(key, StoredRecord(version, expiry, 0, member_value(SET, b"%d" % payload)))


def writes(least_ttl: int) -> st.SearchStrategy[Write]:
    return st.builds(
        member,
        st.sampled_from(KEYS),
        st.integers(1, 4),
        st.integers(least_ttl, 3),
        st.none() | st.integers(0, 2),
    )


def model(stored: list[Write]) -> dict[bytes, StoredRecord]:
    """By the definition: of each key the greatest record in the order that all nodes share."""
    found: dict[bytes, StoredRecord] = {}
    for key, record, *_ in stored:
        if key not in found or newer(record, found[key]):
            found[key] = record
    return found


class Replica:
    """A store and its index, which is asked first before anything, in the middle, or at the end."""

    def __init__(self, first_asked: int) -> None:
        self.store = MemoryStore()
        self.index = SetIndex(self.store)
        self._left = first_asked

    def take(self, write: Write) -> None:
        if self._left == 0:
            self.members()
        self._left -= 1
        self.store.apply([write], NOW, self.index.changed)

    def members(self) -> dict[int, bytes]:
        part = self.index.part(SET, FIRST, ENTRY_LEN, MAX_BODY, NOW, 0)
        page = page_of_members(self.index.living(SET, part.start, MAX_BODY, NOW), part, MAX_BODY)
        assert page.next == END
        assert page.total == len(page.members)
        return {each.id: each.payload for each in page.members}


def living(records: dict[bytes, StoredRecord]) -> dict[int, bytes]:
    return {
        id_of(key[SHARED_LEN:]): record.value[PLACE_LEN:]
        for key, record in records.items()
        if not record.deleted and record.expiry > NOW
    }


@given(st.data(), st.lists(writes(-1), max_size=12))
def test_any_order_loss_and_repetition_of_stores_ends_in_the_same_members(data, stored):
    expected = model(stored)
    for _ in range(3):
        replica = Replica(data.draw(st.integers(0, 12)))
        lost = data.draw(st.lists(st.sampled_from(stored), max_size=6)) if stored else []
        twice = data.draw(st.lists(st.sampled_from(stored), max_size=6)) if stored else []
        early = [write for write in data.draw(st.permutations(stored)) if write not in lost]
        for write in [*early, *twice, *data.draw(st.permutations(stored))]:
            replica.take(write)
        assert dict(replica.store.scan(NOW)) == {
            key: record for key, record in expected.items() if record.expiry > NOW
        }
        assert replica.members() == living(expected)


@given(st.data(), st.lists(writes(1), max_size=12))
def test_the_union_of_a_majority_has_all_that_a_majority_took(data, stored):
    """A write that was acknowledged is at two of three; the third may have lost it."""
    replicas = [Replica(0) for _ in range(3)]
    for write in stored:
        missing = data.draw(st.none() | st.sampled_from(replicas))
        for replica in replicas:
            if replica is not missing:
                replica.take(write)
    heard = data.draw(st.permutations(replicas))[:2]
    page = joined([replica.index.listing(SET, FIRST, NOW).page for replica in heard], NOW)
    shown = {id_of(each.place): each.payload for each in page.listed if not each.flags & TOMBSTONE}
    assert shown == living(model(stored))
