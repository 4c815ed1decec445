"""An exception in a handler: its own message is lost and counted, and everything else goes on."""

from collections import Counter

import plyvel
import pytest
from records import NOW, put
from records import key_of as record_key
from replica_cluster import Cluster, key_of

from kdht.datapath.base import Datagram
from kdht.errors import StorageError
from kdht.faults import MAX_KINDS, Faults
from kdht.lab.virtual.cluster import VirtualCluster
from kdht.node._timers import Timers
from kdht.node.repair.work import Work
from kdht.storage import GroupWriter, LevelStore, Result, layout
from kdht.wire import Address, Record, pack_request
from kdht.wire._shared import Op, Reason

pytestmark = pytest.mark.faults


def explode(*_: object, **__: object) -> None:
    raise OverflowError("int too big to convert")


def test_a_fault_is_logged_ever_less_often(caplog):
    counters: Counter[str] = Counter()
    faults = Faults(counters)
    for number in range(1000):
        try:
            explode()
        except OverflowError:
            faults.note("a STORE" if number < 990 else f"kind {number}")
    assert counters == {"faults": 1000}
    assert sum(record.lost == "a STORE" for record in caplog.records) == 10
    assert "test_faults.py" in caplog.records[0].at
    assert not any("\n" in record.getMessage() for record in caplog.records)
    assert len(faults._kinds) <= MAX_KINDS + 1


def test_a_guard_notes_errors_and_lets_the_end_of_the_process_pass():
    counters: Counter[str] = Counter()
    guard = Faults(counters).guard("a STORE")
    for error in (OverflowError, StorageError):
        with guard:
            raise error("as from a handler")
    with pytest.raises(KeyboardInterrupt), guard:
        raise KeyboardInterrupt
    assert counters == {"faults": 2}


def test_an_alarm_that_raises_takes_no_other_with_it():
    counters: Counter[str] = Counter()
    timers, rung = Timers(Faults(counters)), []
    timers.at(1.0, explode)
    timers.at(1.0, rung.append)
    timers.at(1.0, lambda now: timers.at(now, rung.append))
    timers.run(1.0)
    timers.run(1.5)
    assert (rung, counters) == ([1.0, 1.5], {"faults": 1})


def test_a_job_of_repair_that_raises_ends_and_the_next_one_runs():
    counters: Counter[str] = Counter()
    faults = Faults(counters)
    work, ended = Work(Timers(faults), pytest.fail, faults, lambda: False), []

    def steps(fails: bool):
        yield 1
        if fails:
            explode()
        return "result"

    work.start(steps(True), lambda result, now: ended.append(result), 0.0)
    work.start(steps(False), lambda result, now: ended.append(result), 0.0)
    work.start(steps(False), explode, 0.0)
    work.start(steps(False), lambda result, now: ended.append(result), 0.0)
    assert (ended, len(work), counters) == ([None, "result", "result"], 0, {"faults": 2})


@pytest.mark.parametrize("op", [Op.PUT, Op.DELETE, Op.QUORUM_GET, Op.TRACE])
def test_a_request_that_raises_loses_only_itself(op, monkeypatch):
    cluster = Cluster(4, plain=True)
    owner = cluster.replicas("a")[0]
    bad = {key_of("bad")}
    put, read, contacts = owner.coordinator.put, owner.coordinator.read, owner.service._contacts
    monkeypatch.setattr(
        owner.coordinator,
        "put",
        lambda turn, key, *a, **k: (explode if key in bad else put)(turn, key, *a, **k),
    )
    monkeypatch.setattr(
        owner.coordinator,
        "read",
        lambda turn, key, *a, **k: (explode if key in bad else read)(turn, key, *a, **k),
    )
    monkeypatch.setattr(
        owner.service, "_contacts", lambda r: (explode if r.data[16:36] in bad else contacts)(r)
    )
    client = Address.of("192.0.2.7", 40000)

    def request(name: str, number: int) -> Datagram:
        body = Record(value=b"x").pack() if op is Op.PUT else b""
        data = bytes(pack_request(op, key_of(name), number, body, hops=9))
        return Datagram(data, client, owner.contact.address, Reason.OWNER, 1120)

    sent = []
    monkeypatch.setattr(owner.service._replies, "_send", sent.extend)
    batch = [request("bad", 1), request("a", 2), request("bad", 3)]
    owner.service.handle(batch, owner.now)
    cluster.network.run(cluster.network.now + 1)
    assert owner.coordinator.counters["faults"] == 2
    if op is Op.TRACE:
        assert len(sent) == 1
    elif op is Op.PUT:
        assert owner.has("a") is not None


def test_a_control_message_that_raises_loses_only_itself(monkeypatch):
    cluster = VirtualCluster(1)
    cluster.grow(3)
    cluster.run(5)
    member = cluster.members[0]
    learn, raised = member.node._members.learn, []

    def learn_or_raise(contact, *rest, **named):
        if not raised:
            raised.append(contact)
            explode()
        learn(contact, *rest, **named)

    monkeypatch.setattr(member.node._members, "learn", learn_or_raise)
    cluster.run(30)
    assert raised
    assert member.node.counters["faults"] == 1
    assert len(member.node.table) == 2


def test_a_store_that_raises_ends_no_writer(tmp_path):
    store = LevelStore(tmp_path / "db")
    outcomes: list[object] = []
    writer = GroupWriter(store, lambda key, record: None)
    apply, store.apply = store.apply, explode
    writer.submit([put(1)], NOW, outcomes.append)
    while not outcomes:
        pass
    store.apply = apply
    writer.submit([put(1)], NOW, outcomes.append)
    writer.close()
    store.close()
    assert "int too big" in str(outcomes[0])
    assert outcomes[1] == [Result(True, False, 1)]


def test_an_unreadable_record_fails_only_its_own_write_of_a_job(tmp_path):
    path = tmp_path / "db"
    LevelStore(path).close()
    raw = plyvel.DB(str(path))
    raw.put(layout.RECORD + record_key(2), b"damaged")
    raw.close()
    store, outcomes = LevelStore(path), []
    writer = GroupWriter(store, lambda key, record: None)
    writer.submit([put(1), put(2), put(3)], NOW, outcomes.append)
    writer.close()
    store.close()
    (each,) = outcomes
    assert each[0] == each[2] == Result(True, False, 1)
    assert isinstance(each[1], StorageError)
