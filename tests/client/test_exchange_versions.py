"""Replicas that lag, and records left over at others: a client's reads do not go back in time."""

import itertools
import random
from collections.abc import Callable

import pytest
from exchanges import GET, NOW_US, PUT, attempts_of, new_session, opened, passes, received, sent, unix_us
from scripted_node import VERSION, refusal, reply_to, value_reply

from kdht import wire
from kdht.client import _calls as calls
from kdht.client import _versions
from kdht.client._datagram import Send
from kdht.client._exchange import Exchange
from kdht.client._nodes import MIN_RTO
from kdht.client._routes import MAX_READ_ROUTES
from kdht.client._session import Session
from kdht.errors import NotFound, Unconfirmed
from kdht.wire import Record
from kdht.wire._shared import Status

QUORUM = calls.get("hello", quorum=True)
DELETE = calls.delete("hello")


def written(session: Session, call: calls.Call = PUT, now: float = 0.0, ttl: int = 0) -> None:
    """A write is answered; its version is NOW_US or a little more."""
    _, first = opened(session, call, now)
    request = wire.parse(first.data)
    version = Record.parse(request.body).version
    body = b"" if call is DELETE else Record(version, ttl).pack()
    session.receive(0, reply_to(request, body=body), now + 0.01)


def old_reply(send: Send, version: int = NOW_US - 1) -> bytes:
    return reply_to(wire.parse(send.data), body=Record(version, 0, 0, b"old").pack())


def new_reply(send: Send) -> bytes:
    return reply_to(wire.parse(send.data), body=Record(NOW_US, 0, 0, b"new").pack())


def gone(send: Send, version: int = 0) -> bytes:
    """There is no record; `version`: that of the tombstone."""
    return refusal(wire.parse(send.data), Status.NOT_FOUND, body=Record(version).pack() if version else b"")


def beside(send: Send, version: int = 0) -> bytes:
    """None of the replicas; `version`: that of the record that it has all the same."""
    body = Record(version, 0, 0, b"left over").pack() if version else b""
    return refusal(wire.parse(send.data), Status.NOT_RESPONSIBLE, body=body)


@pytest.mark.parametrize("call", [GET, QUORUM], ids=["GET", "QUORUM_GET"])
def test_an_old_answer_leads_to_the_next_replica_at_once(call):
    session = new_session()
    written(session)
    exchange, first = opened(session, call)
    second = received(session, 0, old_reply(first), 0.02)
    assert attempts_of([first, second]) == [0, 1]
    session.receive(0, new_reply(second), 0.03)
    assert calls.record(exchange.result()).value == b"new"


@pytest.mark.parametrize("call", [GET, QUORUM], ids=["GET", "QUORUM_GET"])
def test_further_old_answers_start_no_further_try(call):
    """One try in the time that an answer usually takes, however quickly old answers come."""
    session = new_session(attempts=16)
    written(session)
    exchange, send = opened(session, call)
    times = [0.0]
    while len(times) < 12:
        answered = times[-1] + 0.001
        following = received(session, 0, old_reply(send), answered)
        times.append(answered if following else exchange.deadline)
        send = following or passes(session, exchange)
    first, *others = [late - early for early, late in itertools.pairwise(times)]
    assert first == pytest.approx(0.001)
    assert min(others) >= MIN_RTO


def test_an_older_deletion_does_not_hide_an_own_put():
    """NOT_FOUND says what was deleted: an older tombstone than what was written since is a lagging replica's."""
    session = new_session()
    written(session)
    exchange, first = opened(session)
    second = received(session, 0, gone(first, NOW_US - 1), 0.02)
    assert attempts_of([second]) == [1]
    session.receive(0, new_reply(second), 0.03)
    assert calls.record(exchange.result()).value == b"new"


@pytest.mark.parametrize("version", [NOW_US + 1, NOW_US + 10**9])
def test_a_newer_deletion_is_believed_and_remembered(version):
    session = new_session()
    written(session)
    exchange, first = opened(session)
    session.receive(0, gone(first, version), 0.02)
    with pytest.raises(NotFound):
        exchange.result()
    exchange, first = opened(session)
    assert received(session, 0, new_reply(first), 0.03) is not None, "the deletion was seen"


def test_not_found_below_a_known_version_asks_all_replicas():
    session = new_session()
    written(session)
    exchange, first = opened(session)
    second = received(session, 0, gone(first), 0.02)
    session.receive(0, gone(second), 0.03)
    asks_around(session, exchange, passes(session, exchange), gone)
    with pytest.raises(Unconfirmed, match="may be lost"):
        exchange.result()
    exchange, first = opened(session)
    session.receive(0, gone(first), 0.02)
    assert exchange.done, "asked around once"


def asks_around(session: Session, exchange: Exchange, send: Send, reply: Callable[[Send], bytes]) -> None:
    """Two replicas give that reply, again and again; nobody else has anything."""
    asked = []
    while not exchange.done:
        attempt = wire.parse(send.data).attempt
        asked.append(attempt)
        now = exchange.deadline - 0.001
        answer = reply(send) if attempt < 2 else beside(send)
        send = received(session, 0, answer, now) or (None if exchange.done else passes(session, exchange))
    assert asked == [2, 0, 1, 2], "all of them, twice"


def test_an_expired_record_is_not_searched_at_all_replicas():
    session = new_session()
    written(session, ttl=60)
    exchange, first = opened(session, now=59.0)
    assert received(session, 0, gone(first), 59.01) is not None
    exchange, first = opened(session, now=61.0)
    session.receive(0, gone(first), 61.01)
    assert exchange.done


def test_an_own_deletion_is_remembered():
    session = new_session()
    written(session)
    written(session, DELETE)
    exchange, first = opened(session)
    second = received(session, 0, new_reply(first), 0.02)
    session.receive(0, gone(second, NOW_US + 1), 0.03)
    with pytest.raises(NotFound):
        exchange.result()
    exchange, first = opened(session)
    session.receive(0, gone(first), 0.02)
    assert exchange.done, "a tombstone that was swept is no wonder"


def test_a_deletion_of_nothing_is_remembered():
    session = new_session()
    _, first = opened(session, DELETE)
    session.receive(0, refusal(wire.parse(first.data), Status.NOT_FOUND), 0.01)
    _, first = opened(session)
    assert received(session, 0, old_reply(first), 0.02) is not None


def all_old(session: Session, call: calls.Call) -> tuple[Exchange, Send]:
    """A read of a record of which both replicas have an older version than was written."""
    written(session)
    exchange, first = opened(session, call)
    second = received(session, 0, old_reply(first), 0.02)
    received(session, 0, old_reply(second), 0.03)
    return exchange, passes(session, exchange)


def test_an_old_record_is_returned_once_its_age_is_known():
    session = new_session()
    exchange, third = all_old(session, GET)
    asks_around(session, exchange, third, old_reply)
    with pytest.raises(Unconfirmed, match="may be lost"):
        exchange.result()
    exchange, first = opened(session)
    session.receive(0, old_reply(first), 0.05)
    assert calls.record(exchange.result()).value == b"old", "asked around once"


def test_an_old_record_needs_confirmation_while_a_replica_is_silent():
    session = new_session()
    written(session)
    exchange, first = opened(session)
    second = passes(session, exchange)  # the first replica is slow
    third = received(session, 0, old_reply(second), 0.1)
    fourth = received(session, 0, beside(third), 0.11)
    assert (exchange.done, attempts_of([fourth])) == (False, [0])
    session.receive(0, new_reply(first), 0.2)
    assert calls.record(exchange.result()).value == b"new"


def test_an_old_record_is_not_enough_for_a_quorum():
    session = new_session()
    exchange, third = all_old(session, QUORUM)
    fourth = received(session, 0, beside(third), exchange.deadline)
    assert attempts_of([fourth]) == [0]
    session.receive(0, new_reply(fourth), exchange.deadline)
    assert calls.record(exchange.result()).version == NOW_US


def test_a_quorum_of_old_records_is_unconfirmed():
    session = new_session(attempts=3)
    written(session)
    exchange, send = opened(session, QUORUM)
    for _ in range(3):
        now = exchange.deadline - 0.001
        send = received(session, 0, old_reply(send), now) or (exchange.done or passes(session, exchange))
    with pytest.raises(Unconfirmed, match="only an older record than this client has seen: read again"):
        exchange.result()


def test_a_leftover_record_needs_confirmation_while_replicas_are_silent():
    """It may be years old; the replicas are slow, or are restarted."""
    session = new_session()
    exchange, first = opened(session)
    second = passes(session, exchange)
    third = received(session, 0, beside(second, 5), 0.1)
    assert (exchange.done, attempts_of([third])) == (False, [0])
    session.receive(0, value_reply(wire.parse(first.data)), 0.2)
    assert calls.record(exchange.result()).version == VERSION


def test_a_left_over_record_is_returned_if_nothing_else_is():
    """All replicas are dead: asked twice, and silent."""
    session = new_session()
    exchange, _ = opened(session)
    for lap in range(2):
        beyond = passes(session, exchange)
        while wire.parse(beyond.data).attempt != 1:
            beyond = passes(session, exchange)
        assert not exchange.done, lap
        received(session, 0, beside(beyond, 5), exchange.deadline - 0.001)
    assert calls.record(exchange.result()).value == b"left over"


def test_versions_are_remembered_for_a_bounded_number_of_keys(monkeypatch):
    monkeypatch.setattr(_versions, "REMEMBERED", 3)
    session = new_session()
    for name in "abcda":
        written(session, calls.put(name, b"", None))
    assert list(session.state.versions._known) == [wire.hash_key(name) for name in "cda"]


# --- Reads of a hot key, spread over its replicas


def spreading(attempts: int = 8) -> Session:
    return Session(1, timeout=60.0, attempts=attempts, rng=random.Random(5348), unix_us=unix_us, spread=True)


def test_spread_reads_begin_at_any_replica():
    session = spreading()
    ways = []
    for _ in range(300):
        _, first = opened(session)
        ways += attempts_of([first])
        session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    assert set(ways) == set(range(MAX_READ_ROUTES))
    assert min(ways.count(way) for way in range(MAX_READ_ROUTES)) > 70


def begun_at(session: Session, way: int) -> tuple[Exchange, Send]:
    while True:
        exchange, first = opened(session)
        if wire.parse(first.data).attempt == way:
            return exchange, first
        session.forget(exchange)


def test_a_spread_read_continues_on_the_best_route():
    session = spreading()
    exchange, _ = begun_at(session, 2)
    following = [passes(session, exchange) for _ in range(3)]
    assert attempts_of(following) == [0, 1, 2]


def test_a_spread_read_does_not_go_back_in_time():
    session = spreading()
    written(session)
    exchange, first = begun_at(session, 2)
    second = received(session, 0, old_reply(first), 0.02)
    assert attempts_of([second]) == [0]
    session.receive(0, new_reply(second), 0.03)
    assert calls.record(exchange.result()).value == b"new"


def test_reads_are_spread_over_fewer_replicas_if_there_are_fewer():
    session = spreading()
    exchange, first = begun_at(session, 2)
    second = received(session, 0, beside(first), 0.01)
    assert attempts_of([second]) == [0]
    session.receive(0, value_reply(wire.parse(second.data)), 0.02)
    assert exchange.done
    ways = {wire.parse(opened(session)[1].data).attempt for _ in range(100)}
    assert ways == {0, 1}


@pytest.mark.parametrize("call", [PUT, DELETE, calls.trace("hello", 1)], ids=["PUT", "DELETE", "TRACE"])
def test_only_reads_are_spread(call):
    session = spreading()
    assert {wire.parse(opened(session, call)[1].data).attempt for _ in range(30)} == {0}


def test_without_spread_reads_go_to_the_owner():
    session = new_session()
    assert {wire.parse(opened(session)[1].data).attempt for _ in range(30)} == {0}
    assert sent(session) is None
