"""Which entry node a request goes to: closed ports, silent nodes, and nodes that answer others."""

import pytest
from exchanges import GET, PUT, attempts_of, new_session, opened, passes, received, sent
from scripted_node import value_reply

from kdht import wire
from kdht.client._datagram import MAX_ATTEMPTS
from kdht.client._nodes import FIRST_PROBE, SILENT_TRIES, START_RTO
from kdht.client._reads import Read
from kdht.client._retries import MAX_TRIES_THROUGH_ONE
from kdht.errors import (
    PortClosed,
    RequestTimeout,
)
from kdht.wire._shared import Status


def test_a_closed_port_leads_to_another_node_at_once():
    session = new_session(nodes=3)
    exchange, first = opened(session)
    session.refused(first.node, 0.001)
    second = sent(session)
    assert (second.node, attempts_of([second])) == (1, [0])
    session.refused(0, 0.002)  # of the same datagram, late
    assert sent(session) is None
    received(session, 1, value_reply(wire.parse(second.data)), 0.003)
    assert exchange.done
    assert opened(session, now=0.01)[1].node == 1


@pytest.mark.parametrize("call", [GET, PUT], ids=str)
def test_all_ports_closed_is_an_error_at_once(call):
    session = new_session(nodes=3)
    exchange, send = opened(session, call)
    for node in range(3):
        assert (send.node, exchange.done) == (node, False)
        session.refused(node, 0.001)
        send = sent(session)
    assert send is None
    with pytest.raises(PortClosed, match="nobody listens at node 0, node 1, node 2: is kdhtd running there"):
        exchange.result()
    assert isinstance(exchange.error, RequestTimeout)


def test_a_node_that_listens_again_is_asked_by_the_next_request():
    session = new_session()
    opened(session)
    session.refused(0, 0.001)
    exchange, first = opened(session, now=0.5)
    session.receive(0, value_reply(wire.parse(first.data)), 0.51)
    assert exchange.result().status is Status.OK
    assert not session.state.nodes[0].dead


def test_a_closed_port_costs_one_step_for_each_request():
    """Many requests at one closed port: the first refusal moves them all, the others find nothing to do."""
    session = new_session(nodes=2)
    count = 500
    exchanges = [session.start(GET, 0.0) for _ in range(count)]
    looked_at: list[int] = []
    for exchange in exchanges:
        exchange.__class__ = type("Counted", (type(exchange),), {
            "__slots__": (),
            "refused_by": lambda self, node, now: (looked_at.append(node), Read.refused_by(self, node, now))[1],
        })  # fmt: skip
    for _ in range(count):
        session.refused(0, 0.001)
    assert looked_at == [0] * count
    assert sum(send.node == 1 for send in session.outbox) == count


def test_ended_requests_are_forgotten_by_each_node():
    session = new_session()
    for _ in range(5000):
        exchange, first = opened(session)
        session.receive(0, value_reply(wire.parse(first.data)), 0.001)
        assert exchange.done
    assert len(session.state.outgoing.asked[0]) < 200


def test_a_silent_node_is_left_out_and_probed_beside_a_read():
    session = new_session(nodes=2)
    now = 0.0
    for number in range(SILENT_TRIES):
        exchange, first = opened(session, now=now)
        assert first.node == 0, number
        second = passes(session, exchange)
        now = exchange.deadline
        received(session, second.node, value_reply(wire.parse(second.data)), now)
    assert opened(session, now=now)[1].node == 1
    now += FIRST_PROBE
    session.start(PUT, now)
    assert sent(session).node == 1, "a write is no question"
    session.start(GET, now)
    probe, first = session.outbox
    session.outbox.clear()
    assert (probe.node, first.node) == (0, 1)
    assert opened(session, now=now)[1].node == 1, "one question is enough"
    received(session, 0, value_reply(wire.parse(probe.data)), now)
    assert not session.state.nodes[0].dead


def test_requests_missed_together_count_as_one_miss_of_a_node():
    session = new_session(nodes=2)
    exchanges = [opened(session)[0] for _ in range(3 * SILENT_TRIES)]
    session.wake(exchanges[0].deadline)
    assert {each.node for each in session.outbox} == {1}
    assert session.state.nodes[0].misses == 1


@pytest.mark.parametrize("call", [GET, PUT], ids=str)
def test_a_node_that_still_answers_is_kept_and_its_routes_change(call):
    """The next tries take other ways from the same node, none later than usual, before they go elsewhere."""
    session = new_session(nodes=2, attempts=MAX_ATTEMPTS)
    exchange, first = opened(session, call)
    tries, now = [(first.node, wire.parse(first.data).attempt)], 0.0
    for _ in range(MAX_TRIES_THROUGH_ONE):
        other, asked = opened(session, GET, now=now)
        received(session, 0, value_reply(wire.parse(asked.data)), now + 0.001)
        assert other.done
        begun, now = now, exchange.deadline
        assert now - begun <= START_RTO
        again = passes(session, exchange)
        tries.append((again.node, wire.parse(again.data).attempt))
    assert tries == [(0, attempt) for attempt in range(MAX_TRIES_THROUGH_ONE + 1)]
    assert not session.state.nodes[0].dead
    assert passes(session, exchange).node == 1, "nobody answered meanwhile"


def test_a_lost_datagram_does_not_mark_a_node_dead():
    session = new_session(nodes=2)
    for _ in range(10):
        exchange, first = opened(session)
        passes(session, exchange)
        received(session, 0, value_reply(wire.parse(first.data)), exchange.deadline)
    assert opened(session)[1].node == 0
