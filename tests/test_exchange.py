"""One request's tries, deadlines and replies, on a clock that the tests turn."""

import random

import pytest
from scripted_node import refusal, value_reply

from kdht import wire
from kdht._shared import Op, Status
from kdht.client import _calls as calls
from kdht.client._exchange import (
    JITTER,
    MAX_ATTEMPTS,
    MAX_RTO,
    MAX_SENT,
    MIN_RTO,
    START_RTO,
    Exchange,
    RoundTrip,
    Send,
    Session,
)
from kdht.errors import NotFound, RequestError, RequestTimeout, ValueTooLarge

GET = calls.get("hello")


def new_session(nodes: int = 1, timeout: float = 60.0, attempts: int = 8) -> Session:
    return Session(nodes, timeout=timeout, attempts=attempts, rng=random.Random(5348))


def opened(session: Session, call: calls.Call = GET, now: float = 0.0) -> tuple[Exchange, Send]:
    exchange = session.open(call, now)
    return exchange, exchange.start(now)


def all_tries(exchange: Exchange, first: Send) -> list[Send]:
    """Let every deadline pass until the exchange fails."""
    sends = [first]
    while not exchange.done:
        send = exchange.timed_out(exchange.deadline)
        if send is not None:
            sends.append(send)
    return sends


def test_attempts_rise_on_every_second_try_from_the_third_on():
    exchange, first = opened(new_session())
    sends = all_tries(exchange, first)
    assert [wire.parse(send.data).attempt for send in sends] == [0, 0, 1, 0, 2, 0, 3, 0]
    assert len({wire.parse(send.data).request_id for send in sends}) == 8


def test_a_trace_never_leaves_the_best_way():
    exchange, first = opened(new_session(), calls.trace("hello", 3))
    requests = [wire.parse(send.data) for send in all_tries(exchange, first)]
    assert {(request.op, request.hops, request.attempt) for request in requests} == {(Op.TRACE, 3, 0)}


def test_tries_go_round_the_nodes():
    session = new_session(nodes=3)
    exchange, first = opened(session)
    assert [send.node for send in all_tries(exchange, first)] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_the_next_request_starts_where_the_last_was_not_left_alone():
    session = new_session(nodes=3)
    exchange, _ = opened(session)
    second = exchange.timed_out(exchange.deadline)
    assert second.node == 1
    session.receive(1, value_reply(wire.parse(second.data)), exchange.deadline)
    assert exchange.done
    assert opened(session)[1].node == 1
    session.silent(1)
    assert opened(session)[1].node == 2
    session.silent(0)
    assert opened(session)[1].node == 2


def test_each_try_waits_longer_up_to_a_limit():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, _ = opened(session)
    waits, now = [], 0.0
    while not exchange.done:
        waits.append(exchange.deadline - now)
        now = exchange.deadline
        exchange.timed_out(now)
    assert waits[0] == START_RTO
    for number, wait in enumerate(waits[1:-1], 1):
        least = min(START_RTO * 2**number, MAX_RTO)
        assert least <= wait <= least * (1 + JITTER)
    assert now == pytest.approx(60.0)


def test_the_time_out_is_for_the_whole_request():
    exchange, first = opened(new_session(timeout=0.6), now=100.0)
    assert len(all_tries(exchange, first)) == 2
    assert exchange.deadline == 100.6
    with pytest.raises(RequestTimeout, match=r"get 'hello': no answer within 0\.6 s and 2 tries"):
        exchange.result()


def test_the_last_try_waits_to_the_end():
    session = new_session(timeout=5.0, attempts=1)
    exchange, first = opened(session)
    assert exchange.deadline == 5.0
    session.receive(0, value_reply(wire.parse(first.data)), 4.9)
    assert calls.record(exchange.result()).value == b"world"


def test_a_late_reply_to_an_earlier_try_is_an_answer():
    session = new_session(nodes=2)
    exchange, first = opened(session)
    exchange.timed_out(exchange.deadline)
    exchange.timed_out(exchange.deadline)
    session.receive(0, value_reply(wire.parse(first.data)), exchange.deadline)
    assert exchange.result().status is Status.OK
    assert session.ignored == 0


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": 1},
        {"op": Op.PUT},
        {"key": bytes(20)},
        {"flags": wire.Flag.REPLY},
        {"flags": wire.Flag.FORWARDED},
        {"flags": wire.NO_FLAGS},
    ],
    ids=str,
)
def test_only_the_reply_to_the_request_is_believed(change):
    session = new_session()
    exchange, first = opened(session)
    request = wire.parse(first.data)
    assert session.receive(0, value_reply(request, b"forged", **change), 0.01) is None
    assert (exchange.done, session.ignored) == (False, 1)
    session.receive(0, value_reply(request), 0.02)
    assert calls.record(exchange.result()).value == b"world"


def test_a_node_is_believed_for_its_own_tries_only():
    session = new_session(nodes=2)
    exchange, first = opened(session)
    second = exchange.timed_out(exchange.deadline)
    assert session.receive(1, value_reply(wire.parse(first.data)), 1.0) is None
    assert session.receive(0, value_reply(wire.parse(second.data)), 1.0) is None
    unsent = wire.parse(second.data).request_id + 1
    assert session.receive(1, value_reply(wire.parse(second.data), request_id=unsent), 1.0) is None
    assert not exchange.done
    session.receive(1, value_reply(wire.parse(second.data)), 1.0)
    assert exchange.done


def test_bytes_that_are_no_message_are_ignored():
    session = new_session()
    exchange, first = opened(session)
    good = value_reply(wire.parse(first.data))
    unknown_status = good[:37] + b"\xee" + good[38:]
    for bad in [b"", b"KDHT", good[:-1], good + b"\0", b"X" + good[1:], unknown_status]:
        assert session.receive(0, bad, 0.01) is None
    assert (exchange.done, session.ignored) == (False, 6)


def test_a_closed_exchange_hears_nothing():
    session = new_session()
    exchange, first = opened(session)
    session.close(exchange)
    assert session.receive(0, value_reply(wire.parse(first.data)), 0.01) is None
    with pytest.raises(RequestError, match="closed"):
        exchange.result()


def test_not_responsible_leads_to_the_next_try_at_once():
    session = new_session()
    exchange, _ = opened(session)
    exchange.timed_out(exchange.deadline)
    third = wire.parse(exchange.timed_out(exchange.deadline).data)
    assert third.attempt == 1
    _, fourth = session.receive(0, refusal(third, Status.NOT_RESPONSIBLE), 1.0)
    assert wire.parse(fourth.data).attempt == 0
    assert session.receive(0, refusal(third, Status.NOT_RESPONSIBLE), 1.1) == (exchange, None)
    assert not exchange.done


def test_not_responsible_everywhere_is_a_time_out():
    session = new_session()
    exchange, send = opened(session)
    sends = []
    while send is not None:
        sends.append(send)
        _, send = session.receive(0, refusal(wire.parse(send.data), Status.NOT_RESPONSIBLE), 0.01)
    assert len(sends) == 8
    assert exchange.deadline == 60.0
    assert exchange.timed_out(60.0) is None
    with pytest.raises(RequestTimeout):
        exchange.result()


def test_busy_is_tried_again_after_the_wait():
    session = new_session()
    exchange, first = opened(session)
    assert session.receive(0, refusal(wire.parse(first.data), Status.BUSY), 0.01) == (exchange, None)
    assert not exchange.done
    second = exchange.timed_out(exchange.deadline)
    session.receive(0, value_reply(wire.parse(second.data)), 1.0)
    assert exchange.result().status is Status.OK


def test_busy_to_the_end_is_said():
    session = new_session()
    exchange, first = opened(session)
    session.receive(0, refusal(wire.parse(first.data), Status.BUSY), 0.01)
    all_tries(exchange, first)
    with pytest.raises(RequestError, match="busy") as caught:
        exchange.result()
    assert caught.value.status == "BUSY"


def test_a_cookie_is_shown_once_and_remembered():
    session = new_session()
    exchange, first = opened(session)
    assert wire.parse(first.data).cookie == 0
    _, second = session.receive(0, refusal(wire.parse(first.data), Status.COOKIE_NEEDED, cookie=99), 0.01)
    assert (wire.parse(second.data).cookie, wire.parse(second.data).attempt) == (99, 0)
    session.receive(0, value_reply(wire.parse(second.data), cookie=99), 0.02)
    assert exchange.result().status is Status.OK
    assert wire.parse(opened(session)[1].data).cookie == 99


def test_a_cookie_that_is_refused_is_an_error():
    session = new_session()
    exchange, first = opened(session)
    _, second = session.receive(0, refusal(wire.parse(first.data), Status.COOKIE_NEEDED, cookie=99), 0.01)
    session.receive(0, refusal(wire.parse(second.data), Status.COOKIE_NEEDED, cookie=99), 0.02)
    with pytest.raises(RequestError, match="cookie") as caught:
        exchange.result()
    assert caught.value.status == "COOKIE_NEEDED"


def test_two_late_demands_for_one_cookie_lead_to_one_repetition():
    session = new_session()
    exchange, first = opened(session)
    second = exchange.timed_out(exchange.deadline)
    for send, expected in ((first, 3), (second, None)):
        demand = refusal(wire.parse(send.data), Status.COOKIE_NEEDED, cookie=99)
        _, repeated = session.receive(0, demand, 0.5)
        assert (repeated and len(exchange._sent)) == expected


def test_cookies_that_change_for_ever_end():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, send = opened(session)
    count = 0
    while send is not None:
        count += 1
        demand = refusal(wire.parse(send.data), Status.COOKIE_NEEDED, cookie=1000 + count)
        _, send = session.receive(0, demand, 0.01)
    assert count <= MAX_SENT
    with pytest.raises(RequestError, match="cookie"):
        exchange.result()


def test_any_reply_may_bring_a_newer_cookie():
    session = new_session()
    _, first = opened(session)
    session.receive(0, value_reply(wire.parse(first.data), cookie=5), 0.01)
    _, first = opened(session)
    session.receive(0, value_reply(wire.parse(first.data), cookie=0), 0.01)
    assert session.cookie == 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.NOT_FOUND, NotFound),
        (Status.TOO_LARGE, ValueTooLarge),
        (Status.BAD_REQUEST, RequestError),
        (Status.STORAGE_FAILED, RequestError),
        (Status.HOPS_ENDED, RequestError),
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
    assert set(calls.REFUSALS) == set(Status) - {Status.OK}


def test_round_trips_are_smoothed_as_rfc_6298_says():
    node = RoundTrip()
    assert node.rto == START_RTO
    node.sample(0.1)
    assert node.rto == pytest.approx(0.1 + 4 * 0.05)
    node.sample(0.2)
    assert node.rto == pytest.approx((0.1 * 7 / 8 + 0.2 / 8) + 4 * (0.05 * 3 / 4 + 0.1 / 4))
    for _ in range(100):
        node.sample(0.001)
    assert node.rto == MIN_RTO
    for _ in range(100):
        node.sample(30.0)
    assert node.rto == MAX_RTO


def test_a_slow_node_is_waited_for_from_the_second_request_on():
    """Without Karn's problem: the reply shows which try it answers."""
    session = new_session()
    exchange, first = opened(session)
    exchange.timed_out(exchange.deadline)
    session.receive(0, value_reply(wire.parse(first.data)), 0.6)
    exchange, _ = opened(session, now=10.0)
    assert exchange.deadline - 10.0 == pytest.approx(0.6 + 4 * 0.3)


def test_request_ids_are_drawn_anew():
    session = new_session()
    ids = {wire.parse(opened(session)[1].data).request_id for _ in range(1000)}
    assert len(ids) == 1000
    assert max(ids).bit_length() == 64


def test_a_lossy_network_loses_no_request():
    """3 in 10 datagrams lost, retries beside the owner refused: the seeded run ends in answers."""
    rng = random.Random(1)
    session = new_session(nodes=3, timeout=60.0, attempts=MAX_ATTEMPTS)
    tries = 0
    for number in range(300):
        exchange, send = opened(session, calls.get(str(number)))
        while not exchange.done:
            tries += send is not None
            step = None
            if send is not None and rng.random() > 0.3:
                request = wire.parse(send.data)
                reply = refusal(request, Status.NOT_RESPONSIBLE) if request.attempt else value_reply(request)
                step = session.receive(send.node, reply, exchange.deadline - 0.01)
            send = step[1] if step else exchange.timed_out(exchange.deadline)
        assert calls.record(exchange.result()).value == b"world"
        session.close(exchange)
    assert tries > 390
