"""Replicas that lag: a client's reads do not go back in time."""

from exchanges import GET, PUT, attempts_of, new_session, opened, passes, received
from scripted_node import VERSION, refusal, reply_to, value_reply

from kdht import wire
from kdht._shared import Status
from kdht.client import _calls as calls
from kdht.client import _versions
from kdht.client._datagram import Send
from kdht.client._exchange import Exchange
from kdht.client._session import Session
from kdht.wire import Record


def test_a_lagging_replicas_answer_leads_to_the_next():
    session = new_session()
    _, first = opened(session, PUT)
    session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    exchange, _ = opened(session)
    second = passes(session, exchange)
    third = received(session, 0, old_reply(second), exchange.deadline - 0.01)
    assert attempts_of([second, third]) == [1, 2]
    session.receive(0, value_reply(wire.parse(third.data)), exchange.deadline - 0.01)
    assert calls.record(exchange.result()).version == VERSION


def old_reply(send: Send) -> bytes:
    return reply_to(wire.parse(send.data), body=Record(VERSION - 1, 0, 0, b"old").pack())


def test_a_deleted_records_version_is_old():
    session = new_session()
    for call in (GET, calls.delete("hello")):
        _, first = opened(session, call)
        session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    exchange, _ = opened(session)
    second = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(second.data)), exchange.deadline - 0.01)
    assert not exchange.done


def test_the_owner_may_lag_behind_too():
    session = new_session()
    _, first = opened(session, PUT)
    session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    exchange, first = opened(session)
    second = received(session, 0, old_reply(first), 0.02)
    assert attempts_of([first, second]) == [0, 1]
    session.receive(0, value_reply(wire.parse(second.data)), 0.03)
    assert calls.record(exchange.result()).version == VERSION


def all_old(session: Session, call: calls.Call) -> tuple[Exchange, Send]:
    """A read of a record of which both replicas have an older version than was written."""
    _, first = opened(session, PUT)
    session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    exchange, first = opened(session, call)
    second = received(session, 0, old_reply(first), 0.02)
    third = received(session, 0, old_reply(second), 0.03)
    return exchange, third


def test_an_old_record_is_better_than_none():
    session = new_session()
    exchange, third = all_old(session, GET)
    session.receive(0, refusal(wire.parse(third.data), Status.NOT_RESPONSIBLE), 0.04)
    assert calls.record(exchange.result()).value == b"old"
    exchange, first = opened(session)
    session.receive(0, old_reply(first), 0.05)
    assert calls.record(exchange.result()).value == b"old", "asked around every time"


def test_an_old_record_is_not_enough_for_a_quorum():
    session = new_session()
    exchange, third = all_old(session, calls.get("hello", quorum=True))
    fourth = received(session, 0, refusal(wire.parse(third.data), Status.NOT_RESPONSIBLE), 0.04)
    assert attempts_of([fourth]) == [0]
    session.receive(0, value_reply(wire.parse(fourth.data)), 0.05)
    assert calls.record(exchange.result()).version == VERSION


def test_versions_are_remembered_of_so_many_keys(monkeypatch):
    monkeypatch.setattr(_versions, "REMEMBERED", 3)
    session = new_session()
    for name in "abcda":
        _, first = opened(session, calls.put(name, b"", None))
        session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    assert list(session.versions._known) == [wire.hash_key(name) for name in "cda"]
