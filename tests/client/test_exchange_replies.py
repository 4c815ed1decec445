"""What a request makes of replies: which it believes, which refusals start another try, and cookies."""

import re

import pytest
from exchanges import GET, PUT, attempts_of, new_session, opened, passes, received, sent
from scripted_node import refusal, value_reply

from kdht import wire
from kdht.client import _calls as calls
from kdht.client._datagram import MAX_ATTEMPTS, MAX_SENT
from kdht.client._nodes import MAX_RTO
from kdht.client._retries import JITTER, MAX_BOUNCES, MAX_PAUSE
from kdht.errors import (
    Conflict,
    NotFound,
    RequestError,
    Unconfirmed,
    ValueTooLarge,
)
from kdht.wire._shared import Flag, Op, Status

QUORUM = calls.get("hello", quorum=True)
WATCH = calls.watch("hello", 60)
TRACE = calls.trace("hello", 1)


def test_a_late_reply_to_an_earlier_try_is_an_answer():
    session = new_session(nodes=2)
    exchange, first = opened(session)
    passes(session, exchange)
    passes(session, exchange)
    session.receive(0, value_reply(wire.parse(first.data)), exchange.deadline)
    assert exchange.result().status is Status.OK
    assert session.ignored == 0


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": 1},
        {"op": Op.PUT},
        {"key": bytes(20)},
        {"flags": Flag.REPLY},
        {"flags": Flag.FORWARDED},
        {"flags": wire.NO_FLAGS},
    ],
    ids=str,
)
def test_only_a_reply_that_matches_the_request_is_believed(change):
    session = new_session()
    exchange, first = opened(session)
    request = wire.parse(first.data)
    session.receive(0, value_reply(request, b"forged", **change), 0.01)
    assert (exchange.done, session.ignored) == (False, 1)
    session.receive(0, value_reply(request), 0.02)
    assert calls.record(exchange.result()).value == b"world"


def test_a_node_can_answer_only_its_own_tries():
    session = new_session(nodes=2)
    exchange, first = opened(session)
    second = passes(session, exchange)
    session.receive(1, value_reply(wire.parse(first.data)), 1.0)
    session.receive(0, value_reply(wire.parse(second.data)), 1.0)
    unsent = wire.parse(second.data).request_id + 1
    session.receive(1, value_reply(wire.parse(second.data), request_id=unsent), 1.0)
    assert (exchange.done, session.ignored) == (False, 3)
    session.receive(1, value_reply(wire.parse(second.data)), 1.0)
    assert exchange.done


def test_malformed_datagrams_are_ignored():
    session = new_session()
    exchange, first = opened(session)
    good = value_reply(wire.parse(first.data))
    unknown_status = good[:37] + b"\xee" + good[38:]
    for bad in [b"", b"KDHT", good[:-1], good + b"\0", b"X" + good[1:], unknown_status]:
        session.receive(0, bad, 0.01)
    assert (exchange.done, session.ignored) == (False, 6)


def test_replies_to_a_forgotten_exchange_are_ignored():
    session = new_session()
    exchange, first = opened(session)
    session.forget(exchange)
    session.receive(0, value_reply(wire.parse(first.data)), 0.01)
    session.wake(60.0)
    assert session.outbox == []
    with pytest.raises(RequestError, match="closed"):
        exchange.result()


def test_not_responsible_leads_to_the_best_route_at_once():
    session = new_session()
    exchange, _ = opened(session)
    second = passes(session, exchange)
    third = received(session, 0, refusal(wire.parse(second.data), Status.NOT_RESPONSIBLE), 0.04)
    assert attempts_of([second, third]) == [1, 0]
    assert received(session, 0, refusal(wire.parse(second.data), Status.NOT_RESPONSIBLE), 0.05) is None
    assert not exchange.done


def test_not_responsible_everywhere_is_tried_again_and_then_an_error():
    session = new_session()
    exchange, send = opened(session)
    sends, at_once = [send], 0
    while not exchange.done:
        request = wire.parse(sends[-1].data)
        send = received(session, 0, refusal(request, Status.NOT_RESPONSIBLE), exchange.deadline - 0.01)
        at_once += send is not None
        if send is None and not exchange.done:
            send = passes(session, exchange)
        if send is not None:
            sends.append(send)
    assert attempts_of(sends) == [0, 1] * 4
    assert at_once == 5
    with pytest.raises(RequestError, match="no responsible node") as caught:
        exchange.result()
    assert caught.value.status == "NOT_RESPONSIBLE"


def test_a_lap_of_silent_replicas_doubles_the_wait_once():
    """Not once for each of them: the node beyond them has answered, so the cluster lives."""
    session = new_session(nodes=8)
    exchange, _ = opened(session, PUT)
    for _ in range(3):
        now = exchange.deadline + 0.1
        last = passes(session, exchange)
    assert received(session, last.node, refusal(wire.parse(last.data), Status.NOT_RESPONSIBLE), now)
    rto = session.state.nodes.round_trip(0, Op.PUT).rto
    assert 2 * rto <= exchange.deadline - now <= 2 * rto * (1 + JITTER)


@pytest.mark.parametrize(("status", "kind"), [(Status.BUSY, RequestError), (Status.UNCONFIRMED, Unconfirmed)])
def test_busy_and_unconfirmed_are_tried_again_after_a_wait(status, kind):
    session = new_session()
    exchange, send = opened(session, PUT)
    assert received(session, 0, refusal(wire.parse(send.data), status), 0.01) is None
    assert exchange.deadline > 0.01
    second = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(second.data)), 1.0)
    assert exchange.result().status is Status.OK
    exchange, send = opened(session, PUT)
    while send is not None:
        session.receive(0, refusal(wire.parse(send.data), status), exchange.deadline - 0.001)
        send = sent(session) or (None if exchange.done else passes(session, exchange))
    with pytest.raises(kind) as caught:
        exchange.result()
    assert caught.value.status == status.name


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNCONFIRMED])
def test_waits_after_refusals_double_up_to_the_longest_pause(status):
    """A node that starts refuses for a second or two, on a network of a millisecond: the usual tries last 5 s."""
    session = new_session(timeout=5.0, attempts=16)
    exchange, send = opened(session, GET)
    now, waits = 0.0, []
    while not exchange.done and send is not None:
        now += 0.001
        session.receive(0, refusal(wire.parse(send.data), status), now)
        waits.append(exchange.deadline - now)
        now = exchange.deadline
        send = passes(session, exchange)
    assert now == 5.0
    *pauses, _ = waits  # the last one ends with the request's time
    assert pauses[0] < pauses[1]
    assert all(pause <= MAX_PAUSE * (1 + JITTER) for pause in pauses)
    assert all(pause >= MAX_PAUSE for pause in pauses[6:])


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNCONFIRMED])
def test_refused_tries_last_for_all_of_a_long_time_out(status):
    session = new_session(timeout=20.0, attempts=16)
    exchange, send = opened(session, GET)
    now, waits = 0.0, []
    while not exchange.done and send is not None:
        now += 0.001
        session.receive(0, refusal(wire.parse(send.data), status), now)
        waits.append(exchange.deadline - now)
        send = passes(session, exchange)
        now = exchange.deadline if send is None else now + waits[-1]
    assert now == pytest.approx(20.0, abs=0.1)
    assert max(waits) <= MAX_RTO * (1 + JITTER)


def test_a_closed_port_on_the_route_leads_to_the_next_route_at_once():
    session = new_session(nodes=2, attempts=16)
    exchange, send = opened(session, GET)
    tries = [send]
    for _ in range(MAX_BOUNCES):
        send = received(session, send.node, refusal(wire.parse(send.data), Status.UNREACHABLE), 0.01)
        assert send is not None
        tries.append(send)
    assert attempts_of(tries) == list(range(MAX_BOUNCES + 1))
    assert {send.node for send in tries} == {0}  # the entry node lives
    assert received(session, 0, refusal(wire.parse(send.data), Status.UNREACHABLE), 0.01) is None
    assert exchange.deadline > 0.02  # who is surrounded by the dead waits until they are known
    send = passes(session, exchange)
    session.receive(send.node, value_reply(wire.parse(send.data)), 1.0)
    assert exchange.result().status is Status.OK


def test_unreachable_for_an_earlier_try_starts_no_other():
    session = new_session()
    exchange, first = opened(session, GET)
    second = passes(session, exchange)
    assert received(session, 0, refusal(wire.parse(first.data), Status.UNREACHABLE), 1.0) is None
    session.receive(0, value_reply(wire.parse(second.data)), 1.0)
    assert exchange.result().status is Status.OK


def test_a_failed_disk_leads_to_another_replica():
    session = new_session()
    exchange, first = opened(session)
    second = received(session, 0, refusal(wire.parse(first.data), Status.STORAGE_FAILED), 0.01)
    assert attempts_of([second]) == [1]
    received(session, 0, value_reply(wire.parse(second.data)), 0.02)
    assert exchange.result().status is Status.OK


def test_failed_disks_everywhere_are_an_error():
    session = new_session()
    exchange, send = opened(session, PUT)
    while send is not None:
        send = received(session, 0, refusal(wire.parse(send.data), Status.STORAGE_FAILED), 0.01)
    with pytest.raises(RequestError, match="disk") as caught:
        exchange.result()
    assert caught.value.status == "STORAGE_FAILED"


def test_a_cookie_is_shown_once_and_remembered():
    session = new_session()
    exchange, first = opened(session)
    assert wire.parse(first.data).cookie == 0
    second = received(session, 0, refusal(wire.parse(first.data), Status.COOKIE_NEEDED, cookie=99), 0.01)
    assert (wire.parse(second.data).cookie, wire.parse(second.data).attempt) == (99, 0)
    session.receive(0, value_reply(wire.parse(second.data), cookie=99), 0.02)
    assert exchange.result().status is Status.OK
    assert wire.parse(opened(session)[1].data).cookie == 99


def test_a_cookie_that_is_refused_is_an_error():
    session = new_session()
    exchange, first = opened(session)
    second = received(session, 0, refusal(wire.parse(first.data), Status.COOKIE_NEEDED, cookie=99), 0.01)
    session.receive(0, refusal(wire.parse(second.data), Status.COOKIE_NEEDED, cookie=99), 0.02)
    with pytest.raises(RequestError, match="cookie") as caught:
        exchange.result()
    assert caught.value.status == "COOKIE_NEEDED"


def test_two_late_demands_for_one_cookie_lead_to_one_repetition():
    session = new_session()
    exchange, first = opened(session)
    second = passes(session, exchange)
    for send, expected in ((first, 3), (second, None)):
        demand = refusal(wire.parse(send.data), Status.COOKIE_NEEDED, cookie=99)
        repeated = received(session, 0, demand, 0.05)
        assert (repeated and len(exchange._sent)) == expected


def test_endless_cookie_demands_end():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, send = opened(session)
    count = 0
    while send is not None:
        count += 1
        demand = refusal(wire.parse(send.data), Status.COOKIE_NEEDED, cookie=1000 + count)
        send = received(session, 0, demand, 0.01)
    assert count <= MAX_SENT
    with pytest.raises(RequestError, match="cookie"):
        exchange.result()


def test_any_reply_can_carry_a_newer_cookie():
    session = new_session()
    _, first = opened(session)
    session.receive(0, value_reply(wire.parse(first.data), cookie=5), 0.01)
    _, first = opened(session)
    session.receive(0, value_reply(wire.parse(first.data), cookie=0), 0.01)
    assert session.state.cookie == 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.NOT_FOUND, NotFound),
        (Status.TOO_LARGE, ValueTooLarge),
        (Status.BAD_REQUEST, RequestError),
        (Status.HOPS_ENDED, RequestError),
        (Status.CONFLICT, Conflict),
    ],
)
def test_each_refusal_has_its_exception(status, kind):
    session = new_session()
    exchange, first = opened(session)
    session.receive(0, refusal(wire.parse(first.data), status), 0.01)
    with pytest.raises(kind, match="get 'hello': ") as caught:
        exchange.result()
    assert (type(caught.value), caught.value.status) == (kind, status.name)


def test_every_status_but_ok_has_a_text():
    assert set(calls.REASONS) == set(Status) - {Status.OK}


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.OK, Status.COOKIE_NEEDED)])
@pytest.mark.parametrize("call", [GET, QUORUM, WATCH, TRACE], ids=lambda call: call.op.name)
def test_a_read_never_speaks_of_what_a_write_may_have_done(call, status):
    said = str(calls.refused(call, calls.Answer(status)))
    assert said.startswith(str(call))
    assert not re.search("done|changed|confirm|newer version", said)


@pytest.mark.parametrize("call", [PUT, calls.delete("hello")], ids=lambda call: call.op.name)
@pytest.mark.parametrize("status", [Status.STORAGE_FAILED, Status.DENIED, Status.FULL, Status.TOO_FEW])
def test_a_refused_write_says_that_nothing_was_changed(call, status):
    assert str(calls.refused(call, calls.Answer(status))).startswith(f"{call}: nothing was changed: ")


@pytest.mark.parametrize("call", [GET, QUORUM], ids=lambda call: call.op.name)
def test_an_unconfirmed_read_says_to_read_again(call):
    session = new_session(attempts=1)
    exchange, first = opened(session, call)
    received(session, 0, refusal(wire.parse(first.data), Status.UNCONFIRMED), 0.01)
    with pytest.raises(
        Unconfirmed,
        match=r"too few replicas answered to be sure of the value, or that there is none: read again$",
    ):
        exchange.result()
