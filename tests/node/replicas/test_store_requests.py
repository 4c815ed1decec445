"""STOREs at a replica: what is taken, what is given back, and the bytes of the answers."""

import threading
from collections import Counter

import pytest
from chain import CLUSTER, IDS, configure
from hypothesis import given
from hypothesis import strategies as st

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket, StorageError
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas import calls
from kdht.node.replicas._clock import HybridClock
from kdht.node.replicas._recent import Recent
from kdht.node.replicas._store_requests import StoreRequests
from kdht.node.replicas.quorum_reads import untrusted_store
from kdht.storage import InlineWriter, MemoryStore, StoredRecord, Write
from kdht.wire import FIELD, OFFSET, RECORD, Address, pack_request, verify
from kdht.wire._shared import HEADER_LEN, Flag, Op, Reason, RecordFlag, Status

NOW = 1_800_000_000.5
OWN = [Address.of("10.0.0.1", 5348), Address.of("fd00::1", 5348)]
SENDER = Address.of("10.0.0.2", 5348)
VALUE = RECORD.pack(7, 0, 0) + b"value"
TOMBSTONE = RECORD.pack(8, 2_000_000_000, RecordFlag.TOMBSTONE)


class Replica:
    """StoreRequests with its surroundings; `submit` may be exchanged."""

    def __init__(self) -> None:
        self.core = Core()
        configure(self.core, IDS[0], *OWN)
        self.store = MemoryStore()
        self.jobs: list[list[Write]] = []
        self.sent: list[list[Outgoing]] = []
        self.counters: Counter[str] = Counter()
        self.clock = HybridClock()
        self.recent = Recent()
        self.submit = InlineWriter(self.store, lambda key, record: None).submit
        self.behind: set[bytes] = set()
        self.stores = StoreRequests(
            self.core,
            frozenset(OWN),
            self._submit,
            self.sent.append,
            self.clock,
            self.counters,
            self.recent.deletion,
            lambda key: key not in self.behind,
        )

    def _submit(self, writes, now, done):
        self.jobs.append(list(writes))
        return self.submit(writes, now, done)


def store(body: bytes = VALUE, key: bytes = IDS[1], target: Address = OWN[0], **wrong: object) -> Datagram:
    """As it comes from another node; `wrong`: its own idea of its address, its op, its flags."""
    message = pack_request(wrong.get("op", Op.STORE), key, 77, body, hops=CONTROL_HOPS)
    core = Core()
    configure(core, IDS[1], SENDER)
    calls.seal_as_sender(core, message, wrong.get("client", SENDER), NOW)
    message[OFFSET["flags"]] |= wrong.get("flags", 0)
    return Datagram(bytes(message), SENDER, target, Reason.CONTROL, 0)


def test_an_impossible_version_is_refused_and_moves_no_clock():
    replica = Replica()
    batch = [store(RECORD.pack(version, 0, 0) + b"lie") for version in (2**52, 2**63 - 1)]
    good = int(NOW * 1_000_000) + 7
    batch.append(store(RECORD.pack(good, 0, 0) + b"honest", key=IDS[2]))
    assert replica.stores.take(batch, NOW) == []
    statuses = [
        (each.data[OFFSET["status"]], RECORD.unpack_from(each.data, HEADER_LEN)[0])
        for each in replica.sent[0]
    ]
    assert statuses == [(Status.BAD_VERSION, int(NOW * 1_000_000))] * 2 + [(Status.OK, good)]
    assert replica.counters == {
        "stores_full": 0,
        "stores_taken": 1,
        "stores_ahead": 2,
        "stores_older": 0,
        "stores_below_promise": 0,
    }
    assert replica.store.get(IDS[1], NOW) is None
    assert replica.clock.next(NOW) == good + 1


@given(st.binary(max_size=40) | st.builds(
    lambda version, ttl, flags, value: RECORD.pack(version, ttl, flags) + value,
    st.sampled_from([0, 1, 2**64 - 1]), st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 3, 4, 6, 0x40, 0x42, 0x44, 1 << 31]), st.binary(max_size=12),
))  # fmt: skip
def test_only_valid_records_are_stored(body):
    replica, request = Replica(), store(body)
    try:
        write = untrusted_store(IDS[1], body)
    except BadPacket:
        assert replica.stores.take([request], NOW) == [request]
        assert (replica.jobs, replica.sent) == ([], [])
    else:
        assert replica.stores.take([request], NOW) == []
        assert replica.jobs == [[write]]
        assert type(replica.jobs[0][0]) is Write
        assert type(replica.jobs[0][0].record) is StoredRecord


@pytest.mark.parametrize("target", OWN)
@pytest.mark.parametrize("body", [VALUE, TOMBSTONE])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("status", [Status.OK, Status.CONFLICT, Status.BUSY, Status.STORAGE_FAILED])
def test_an_answer_has_the_bytes_of_the_python_encoder(status, behind, body, target):
    replica, request = Replica(), store(body, target=target)
    flags = RecordFlag.BEHIND if behind else 0
    replica.behind = {IDS[1]} if behind else set()
    told = RECORD.pack(untrusted_store(IDS[1], body).record.version, 0, flags)
    if status is Status.CONFLICT:
        replica.store.apply([Write(IDS[1], StoredRecord(9, 0, 0, b"newer"))], NOW)
        told = RECORD.pack(9, 0, flags)
    elif status is Status.BUSY:
        replica.submit, told = lambda writes, now, done: False, b""
    elif status is Status.STORAGE_FAILED:
        replica.submit, told = lambda writes, now, done: done(StorageError("the disk")) or True, b""
    assert replica.stores.take([request], NOW) == []
    assert replica.sent == [[calls.answer(replica.core, request, status, told, NOW)]]
    verify(replica.sent[0][0].data, [CLUSTER], int(NOW))
    taken = {Status.OK: {"stores_taken": 1}, Status.CONFLICT: {"stores_older": 1}}.get(status, {})
    assert +replica.counters == taken


def test_a_batch_is_one_write_job_and_one_send():
    replica = Replica()
    fetch = store(b"", op=Op.FETCH)
    reply = store(flags=Flag.REPLY)
    batch = [fetch, *(store(key=bytes([n]) * 20) for n in range(5)), reply, store(RECORD.pack(3, 0, 0))]
    assert replica.stores.take(batch, NOW) == [fetch, reply]
    assert [len(job) for job in replica.jobs] == [6]
    assert [len(answers) for answers in replica.sent] == [6]
    assert [each.data[FIELD["key"]] for each in replica.sent[0]] == [write.key for write in replica.jobs[0]]
    assert replica.clock.next(0.0) == 8, "above all versions that it has seen"


@pytest.mark.parametrize(
    "request_",
    [
        store(target=Address.of("10.0.0.9", 5348)),
        store(target=Address.of("10.0.0.1", 5349)),
        store(client=Address.of("10.0.0.3", 5348)),
        store(client=Address.of("10.0.0.2", 5349)),
        store()._replace(data=store().data[: HEADER_LEN + 15]),
    ],
    ids=["another address", "another port", "another's address", "another's port", "cut"],
)
def test_an_unverified_store_is_left_to_the_loop(request_):
    replica = Replica()
    assert replica.stores.take([request_], NOW) == [request_]
    assert (replica.jobs, replica.sent) == ([], [])


def test_threads_never_draw_the_same_version():
    clock = HybridClock()
    given_out: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int]) -> None:
        for number in range(5000):
            mine.append(clock.next(0.0))
            clock.seen(number, 0.0)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in given_out]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({version for mine in given_out for version in mine}) == 20_000
