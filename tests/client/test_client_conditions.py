"""Conditional writes through both clients, and what becomes of them when answers are lost."""

import pytest
from scripted_node import drop, refuse
from scripted_store import ScriptedStore

from kdht.errors import Conflict, RequestError, RequestTimeout, Unconfirmed
from kdht.wire import Record, hash_key
from kdht.wire._shared import Op, Status

KEY = hash_key("k")


def losing_an_answer(op: Op) -> ScriptedStore:
    """A store that carries the first such write out and says nothing of it."""
    lost = []

    def before(request):
        if request.op == op and not lost:
            lost.append(store.carry_out(request))
            return drop(None, request)
        return None

    store = ScriptedStore(before)
    return store


def test_a_put_with_the_keys_version_is_done(ask):
    store = ScriptedStore()
    with store.node() as node:
        first = ask(node.name, "put", "k", b"1", if_version=0)
        second = ask(node.name, "put", "k", b"2", ttl=60, if_version=first)
    assert second > first
    assert store.records[KEY] == Record(second, 60, 0, b"2")


def test_a_put_with_another_version_is_a_conflict(ask):
    store = ScriptedStore()
    with store.node() as node:
        with pytest.raises(Conflict, match="the key has no record") as caught:
            ask(node.name, "put", "k", b"1", if_version=5)
        assert caught.value.version == 0
        version = ask(node.name, "put", "k", b"1")
        for wrong in (0, version + 1):
            with pytest.raises(Conflict, match=f"the key has version {version}") as caught:
                ask(node.name, "put", "k", b"2", if_version=wrong)
            assert (caught.value.version, caught.value.status) == (version, "CONFLICT")
    assert store.value("k") == b"1"
    assert isinstance(caught.value, RequestError)
    assert Op.QUORUM_GET not in store.asked


def test_a_delete_with_the_keys_version_is_done(ask):
    store = ScriptedStore()
    with store.node() as node:
        version = ask(node.name, "put", "k", b"1")
        with pytest.raises(Conflict):
            ask(node.name, "delete", "k", if_version=version + 1)
        assert ask(node.name, "delete", "k", if_version=version) is True
        with pytest.raises(Conflict):
            ask(node.name, "delete", "k", if_version=version)


@pytest.mark.parametrize(
    ("method", "wrong"), [("put", -1), ("put", 2**64), ("put", "7"), ("delete", 0), ("delete", 2**64)]
)
def test_impossible_versions_are_refused_before_sending(ask, method, wrong):
    store = ScriptedStore()
    args = ["k", b""] if method == "put" else ["k"]
    with store.node() as node, pytest.raises(ValueError, match="if_version"):
        ask(node.name, method, *args, if_version=wrong)
    assert not store.asked


@pytest.mark.usefixtures("short_waits")
def test_a_put_whose_answer_was_lost_is_done_once(ask):
    for condition in (None, 0):
        store = losing_an_answer(Op.PUT)
        with store.node() as node:
            version = ask(node.name, "put", "k", b"mine", if_version=condition)
        assert store.records[KEY] == Record(version, 0, 0, b"mine")
        assert store.asked == {Op.PUT: 2}


@pytest.mark.usefixtures("short_waits")
def test_a_delete_whose_answer_was_lost_is_done_once(ask):
    for conditional in (False, True):
        store = losing_an_answer(Op.DELETE)
        with store.node() as node:
            version = ask(node.name, "put", "k", b"1")
            assert ask(node.name, "delete", "k", if_version=version if conditional else None) is True
        assert store.records == {}


@pytest.mark.usefixtures("short_waits")
def test_a_conflict_after_a_lost_answer_is_unconfirmed(ask):
    """The first try may have been done, and overwritten since."""
    store = losing_an_answer(Op.PUT)

    def overwrite(request):
        if store.asked[Op.PUT] == 2:
            store.records[KEY] = Record(store.records[KEY].version + 5, 0, 0, b"another's")

    before = store.before
    store.before = lambda request: overwrite(request) or before(request)
    with store.node() as node, pytest.raises(Unconfirmed, match="another version"):
        ask(node.name, "put", "k", b"mine", if_version=0)
    assert store.value("k") == b"another's"


@pytest.mark.usefixtures("short_waits")
def test_an_overwritten_write_is_not_repeated(ask):
    store = losing_an_answer(Op.PUT)

    def overwrite(request):
        if store.asked[Op.PUT] == 2:
            store.records[KEY] = Record(store.records[KEY].version + 5, 0, 0, b"another's")

    before = store.before
    store.before = lambda request: overwrite(request) or before(request)
    with store.node() as node, pytest.raises(Unconfirmed, match="the key has a newer version"):
        ask(node.name, "put", "k", b"mine")
    assert store.value("k") == b"another's"


@pytest.mark.usefixtures("short_waits")
def test_busy_after_a_lost_answer_is_unconfirmed(ask):
    store = losing_an_answer(Op.PUT)
    before = store.before

    def busy(request):
        return before(request) if store.asked[Op.PUT] == 1 else refuse(Status.BUSY)(None, request)

    store.before = busy
    with (
        store.node() as node,
        pytest.raises(Unconfirmed, match=r"may have been done or not.*is busy") as caught,
    ):
        ask(node.name, "put", "k", b"mine")
    assert caught.value.status == "UNCONFIRMED"
    assert store.value("k") == b"mine"


@pytest.mark.usefixtures("short_waits")
def test_a_write_that_stays_unconfirmed_raises_unconfirmed(ask):
    """Of a write, that it may have been done; a read does nothing."""
    store = ScriptedStore()
    store.before = lambda request: refuse(Status.UNCONFIRMED)(None, request)
    with store.node() as node:
        for method, *args in (("put", "k", b""), ("delete", "k")):
            with pytest.raises(Unconfirmed, match="may have been done or not"):
                ask(node.name, method, *args)
        with pytest.raises(Unconfirmed, match=r"get 'k': too few replicas answered .*: read again$"):
            ask(node.name, "get", "k")
    assert set(store.asked) == {Op.PUT, Op.DELETE, Op.GET}


@pytest.mark.usefixtures("short_waits")
def test_a_conditional_write_without_any_answer_is_a_time_out(ask):
    store = ScriptedStore(lambda request: drop(None, request))
    with store.node() as node, pytest.raises(RequestTimeout):
        ask(node.name, "put", "k", b"", if_version=0)


def test_quorum_true_sends_a_quorum_get(ask):
    store = ScriptedStore()
    with store.node() as node:
        version = ask(node.name, "put", "k", b"1")
        assert ask(node.name, "get", "k", quorum=True) == b"1"
        assert ask(node.name, "get_record", "k", quorum=True).version == version
    assert (store.asked[Op.QUORUM_GET], store.asked[Op.GET]) == (2, 0)
