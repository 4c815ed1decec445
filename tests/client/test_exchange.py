"""One request's tries: their ways, how long each waits, and hedges; on a clock that the tests turn."""

import random

import pytest
from exchanges import GET, PUT, all_tries, attempts_of, new_session, opened, passes, received
from scripted_node import refusal, value_reply

from kdht import wire
from kdht.client import _calls as calls
from kdht.client import _hedging as hedging
from kdht.client._datagram import MAX_ATTEMPTS
from kdht.client._nodes import ENOUGH_SAMPLES, MAX_RTO, SILENT_TRIES, START_LATE, START_RTO
from kdht.client._retries import JITTER, MAX_HEDGES
from kdht.errors import (
    RequestTimeout,
)
from kdht.wire._shared import Op, Status


@pytest.fixture
def no_hedges(monkeypatch):
    monkeypatch.setattr(hedging, "HEDGE_BURST", 0.0)


@pytest.mark.parametrize("call", [GET, PUT, calls.delete("hello")], ids=str)
def test_each_try_takes_the_next_route(call):
    session = new_session()
    exchange, first = opened(session, call)
    sends = all_tries(session, exchange, first)
    assert attempts_of(sends) == list(range(8))
    assert len({wire.parse(send.data).request_id for send in sends}) == 8


def test_a_trace_keeps_the_best_route():
    session = new_session()
    exchange, first = opened(session, calls.trace("hello", 3))
    requests = [wire.parse(send.data) for send in all_tries(session, exchange, first)]
    assert {(request.op, request.hops, request.attempt) for request in requests} == {(Op.TRACE, 3, 0)}


def test_tries_go_round_the_nodes():
    session = new_session(nodes=3, attempts=4)
    exchange, first = opened(session)
    assert [send.node for send in all_tries(session, exchange, first)] == [0, 1, 2, 0]


def test_a_read_is_hedged_before_it_is_lost():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, _ = opened(session)
    assert exchange.deadline == START_LATE
    for number in range(1, MAX_HEDGES + 1):
        assert passes(session, exchange)
        wait = exchange.deadline - number * START_LATE
        assert wait == pytest.approx(START_LATE if number < MAX_HEDGES else START_RTO)
    assert session.state.nodes[0].dead, "hedges beside a dead node cost nothing"
    assert session.state.budget.tokens == pytest.approx(hedging.HEDGE_BURST - SILENT_TRIES)


@pytest.mark.parametrize("call", [PUT, calls.delete("hello"), calls.trace("hello", 1)], ids=str)
def test_other_requests_wait_until_they_are_lost(call):
    session = new_session()
    exchange, _ = opened(session, call)
    assert exchange.deadline == START_RTO


@pytest.mark.usefixtures("no_hedges")
def test_without_budget_a_read_waits_until_it_is_lost():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, _ = opened(session)
    assert passes(session, exchange) is None
    assert exchange.deadline == START_RTO
    last, number = 0.0, 0
    while exchange.deadline < 60.0:
        least = min(START_RTO * 2**number, MAX_RTO)
        assert least <= exchange.deadline - last <= least * (1 + JITTER)
        last, number = exchange.deadline, number + 1
        assert passes(session, exchange)
    assert number > MAX_HEDGES


def test_hedges_are_a_bounded_share_of_requests():
    """An overloaded cluster answers late but answers: then the first try has the answer, nothing is paid back."""
    session = new_session()
    count, hedges = 3000, 0
    for _ in range(count):
        session.state.nodes[0].round_trips.clear()  # or the client would learn to wait
        exchange, first = opened(session)
        hedges += passes(session, exchange) is not None
        session.receive(0, value_reply(wire.parse(first.data)), 0.2)
        assert exchange.done
    assert hedging.HEDGE_SHARE * count < hedges <= hedging.HEDGE_SHARE * count + hedging.HEDGE_BURST


def test_a_successful_hedge_costs_no_budget():
    session = new_session()
    tokens = session.state.budget.tokens
    exchange, _ = opened(session)
    passes(session, exchange)
    second = passes(session, exchange)
    assert session.state.budget.tokens == tokens - 2
    received(session, 0, value_reply(wire.parse(second.data)), exchange.deadline)
    assert exchange.done
    assert session.state.budget.tokens == tokens


def test_a_dead_entry_node_costs_no_budget():
    session = new_session(nodes=2)
    session.state.nodes.died(0, 0.0)
    exchange, first = opened(session)
    assert first.node == 1
    session.state.nodes.died(1, 0.0)
    tokens = session.state.budget.tokens
    assert passes(session, exchange).node == 0
    assert session.state.budget.tokens == tokens


def test_the_time_out_is_for_the_whole_request():
    session = new_session(timeout=0.6)
    exchange, first = opened(session, PUT, now=100.0)
    assert len(all_tries(session, exchange, first)) == 2
    assert exchange.deadline == 100.6
    with pytest.raises(RequestTimeout, match=r"put 'hello': no answer within 0\.6 s and 2 tries"):
        exchange.result()


def test_the_last_try_waits_to_the_end():
    session = new_session(timeout=5.0, attempts=1)
    exchange, first = opened(session)
    assert exchange.deadline == 5.0
    session.receive(0, value_reply(wire.parse(first.data)), 4.9)
    assert calls.record(exchange.result()).value == b"world"


def test_waits_after_losses_double():
    session = new_session(attempts=MAX_ATTEMPTS)
    exchange, _ = opened(session, PUT)
    last = 0.0
    for number in range(8):
        least = min(START_RTO * 2**number, MAX_RTO)
        assert least <= exchange.deadline - last <= least * (1 + JITTER)
        last = exchange.deadline
        assert passes(session, exchange)


def test_each_op_of_each_node_has_its_own_usual_latency():
    """Without Karn's problem: the reply shows which try it answers."""
    session = new_session(nodes=2)
    exchange, first = opened(session)
    passes(session, exchange)
    session.receive(0, value_reply(wire.parse(first.data)), 0.6)
    exchange, _ = opened(session, now=10.0)
    assert exchange.deadline - 10.0 == pytest.approx(0.6 + 4 * 0.3)
    exchange, _ = opened(session, PUT, now=10.0)
    assert exchange.deadline - 10.0 == START_RTO
    session.state.nodes.died(0, 10.0)
    exchange, elsewhere = opened(session, now=10.0)
    assert exchange.deadline - 10.0 == pytest.approx(0.6 + 4 * 0.3), (
        "what the others take, until more is known"
    )
    session.receive(1, value_reply(wire.parse(elsewhere.data)), 10.2)
    for _ in range(ENOUGH_SAMPLES - 1):
        session.state.nodes.answered(1, Op.GET, 0.2, 10.0)
    exchange, _ = opened(session, now=10.0)
    assert exchange.deadline - 10.0 == pytest.approx(0.2 + 4 * 0.1 * 0.75 ** (ENOUGH_SAMPLES - 1))


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
            following = None
            if send is not None and rng.random() > 0.3:
                request = wire.parse(send.data)
                reply = refusal(request, Status.NOT_RESPONSIBLE) if request.attempt else value_reply(request)
                following = received(session, send.node, reply, exchange.deadline - 0.01)
            send = following or (None if exchange.done else passes(session, exchange))
        assert calls.record(exchange.result()).value == b"world"
    assert tries > 390
