"""The answers to FETCHes in Cython are those of the plain Python, byte for byte, from the store and from the cache."""

import pytest
from replica_cluster import Cluster, key_of

from kdht.datapath.base import Datagram
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas._fetch_requests import FetchRequests
from kdht.node.replicas.calls import seal_as_sender
from kdht.storage import LevelStore, StoredRecord, Write
from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.storage.record import TOMBSTONE
from kdht.wire import pack_request
from kdht.wire._shared import MAX_VALUE, Op, Reason

NOW = 1_700_000_000.5
MICROS = int(NOW * 1e6)
RECORDS = {
    "none": None,
    "a value": StoredRecord(MICROS, 0, 0, b"value"),
    "an empty value": StoredRecord(1, 0, 0, b""),
    "the longest value": StoredRecord(MICROS, int(NOW) + 9, 0, bytes(MAX_VALUE)),
    "expired": StoredRecord(MICROS, int(NOW), 0, b"value"),
    "a tombstone": StoredRecord(MICROS, int(NOW) + 9, TOMBSTONE, b""),
}


class Site:
    """A replica whose store is LevelDB's, and another node, which asks it."""

    def __init__(self, directory):
        cluster = Cluster(2, plain=True)
        self.asker, self.replica = cluster.members
        self.coordinator = self.replica.coordinator
        self.store = self.coordinator._store = LevelStore(directory)
        self.cache = RecordCache(1 << 20)
        self.caught_up = True
        self.holds = True
        self.coordinator._repair.holding = lambda key: self.holds
        reader = self.store.reader(self.cache, lambda key: self.caught_up)
        self.counters = {"fetches": 0}
        self.fetches = FetchRequests(
            self.replica.core,
            frozenset([self.replica.contact.address]),
            reader,
            lambda key: self.caught_up,
            lambda key: self.holds,
            self.counters,
        )

    def asked(self, name: str, op: Op = Op.FETCH) -> Datagram:
        own, other = self.asker.contact.address, self.replica.contact.address
        message = pack_request(op, key_of(name), 7, b"", hops=CONTROL_HOPS)
        seal_as_sender(self.asker.core, message, own, NOW)
        return Datagram(bytes(message), own, other, Reason.CONTROL, 0)

    def same(self, name: str) -> None:
        request = self.asked(name)
        answers = []
        assert self.fetches.take([request], NOW, answers) == []
        assert answers == self.coordinator._read_here(request, NOW)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "db")
    yield made
    made.store.close()


@pytest.mark.parametrize("caught_up", [True, False])
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("what", RECORDS)
def test_an_answer_is_the_plain_python_s(what, holds, caught_up, site):
    site.holds, site.caught_up = holds, caught_up
    if record := RECORDS[what]:
        site.store.apply([Write(key_of(what), record)], NOW - 5)
    for _ in range(2):
        site.same(what)
    assert site.counters["fetches"] == 2


def test_only_what_this_node_answers_for_goes_into_the_cache(site):
    for what in ("a value", "a tombstone"):
        site.store.apply([Write(key_of(what), RECORDS[what])], NOW - 5)
    site.caught_up = False
    site.same("a value")
    assert site.cache.get_stored(key_of("a value"), NOW) is None
    site.caught_up = True
    site.same("a value")
    site.same("a tombstone")
    assert site.cache.get_stored(key_of("a value"), NOW) is not None
    assert site.cache.get_stored(key_of("a tombstone"), NOW) is None


def test_a_changed_record_is_told(site):
    site.store.apply([Write(key_of("key"), StoredRecord(1, 0, 0, b"old"))], NOW)
    site.same("key")
    site.store.apply([Write(key_of("key"), StoredRecord(2, 0, 0, b"new"))], NOW)
    site.cache.invalidate(key_of("key"))
    site.same("key")


def test_what_is_no_sound_fetch_is_left(site):
    sound = site.asked("key")
    others = [
        site.asked("key", Op.LIST),
        sound._replace(source=site.replica.contact.address),
        sound._replace(target=site.asker.contact.address),
    ]
    answers = []
    assert site.fetches.take(others, NOW, answers) == others
    assert answers == []


def test_a_damaged_record_is_left(site):
    damaged = StoreReader(lambda key: b"too short", None, lambda key: True)
    own = frozenset([site.replica.contact.address])
    fetches = FetchRequests(
        site.replica.core, own, damaged, lambda key: True, lambda key: True, site.counters
    )
    request = site.asked("key")
    answers = []
    assert fetches.take([request], NOW, answers) == [request]
    assert (answers, site.counters["fetches"]) == ([], 0)
