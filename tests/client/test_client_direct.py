"""Clients that take answers from any node: when they ask for it, whom they believe, and when they stop."""

import random

import pytest
from both_clients import BOTH
from exchanges import GET, PUT, opened, passes, received, unix_us
from scripted_node import ScriptedNode, drop, refusal, reply_to, value_reply

from kdht import AsyncClient, Client
from kdht.client import _calls as calls
from kdht.client._datagram import ANY_NODE
from kdht.client._direct import DIRECT_MISSES, DIRECT_PAUSE
from kdht.client._nodes import SILENT_TRIES
from kdht.client._session import Session
from kdht.wire import NO_FLAGS, Message, parse
from kdht.wire._shared import Flag, Status


def new_session(nodes: int = 1) -> Session:
    return Session(nodes, timeout=60.0, attempts=8, rng=random.Random(5348), unix_us=unix_us, direct=True)


def flags(send: object) -> Flag:
    return parse(send.data).flags


@pytest.mark.parametrize("call", [GET, calls.get("hello", quorum=True)], ids=["GET", "QUORUM_GET"])
def test_only_the_first_try_of_a_read_asks_for_a_direct_answer(call):
    session = new_session()
    exchange, first = opened(session, call)
    second = passes(session, exchange)
    assert (flags(first), first.direct) == (Flag.DIRECT, True)
    assert (flags(second), second.direct) == (NO_FLAGS, False)


@pytest.mark.parametrize(
    "call", [PUT, calls.delete("hello"), calls.trace("hello", 3)], ids=["PUT", "DELETE", "TRACE"]
)
def test_other_requests_ask_for_no_direct_answer(call):
    _, first = opened(new_session(), call)
    assert (flags(first), first.direct) == (NO_FLAGS, False)


def test_a_client_without_direct_asks_for_no_direct_answer():
    session = Session(1, timeout=60.0, attempts=8, rng=random.Random(1), unix_us=unix_us)
    assert flags(opened(session)[1]) == NO_FLAGS


def test_only_direct_answers_are_believed_from_any_node():
    session = new_session(2)
    exchange, first = opened(session)
    second = passes(session, exchange)
    received(session, first.node, value_reply(parse(first.data)), 0.1)
    received(session, ANY_NODE, value_reply(parse(second.data)), 0.1, direct=True)
    received(session, second.node, value_reply(parse(second.data)), 0.1, direct=True)
    assert (session.ignored, exchange.done) == (3, False)
    received(session, ANY_NODE, value_reply(parse(first.data)), 0.1, direct=True)
    assert exchange.answer is not None


def test_a_direct_answer_needs_the_request_id_op_and_key():
    session = new_session()
    exchange, first = opened(session)
    asked = parse(first.data)
    for wrong in ({"request_id": asked.request_id ^ 1 << 60}, {"key": bytes(20)}, {"op": 5}):
        received(session, ANY_NODE, reply_to(asked, **wrong), 0.1, direct=True)
    assert (session.ignored, exchange.done) == (3, False)


def test_the_repetition_with_a_cookie_is_direct_too():
    session = new_session()
    _, first = opened(session)
    second = received(
        session, ANY_NODE, refusal(parse(first.data), Status.COOKIE_NEEDED, cookie=99), 0.1, direct=True
    )
    assert (flags(second), second.direct, parse(second.data).cookie) == (Flag.DIRECT, True, 99)


def relayed(session: Session, now: float) -> Flag:
    """A request whose direct answer does not come, but that by way of the entry node; what it asked for."""
    exchange = session.start(GET, now)
    first = session.outbox[-1]  # perhaps after the question whether a dead node lives again
    session.outbox.clear()
    answered = passes(session, exchange) if first.direct else first
    received(session, answered.node, value_reply(parse(answered.data)), exchange.deadline)
    assert exchange.answer is not None
    return flags(first)


def test_missing_direct_answers_pause_direct_requests():
    session = new_session(2)
    asked = [relayed(session, now=float(number)) for number in range(DIRECT_MISSES + 2)]
    assert asked == [Flag.DIRECT] * DIRECT_MISSES + [NO_FLAGS] * 2
    assert relayed(session, now=DIRECT_PAUSE + DIRECT_MISSES + 1) == Flag.DIRECT


def test_with_direct_a_dead_entry_node_is_left_out_too():
    session = new_session(2)
    for number in range(SILENT_TRIES):
        assert relayed(session, now=float(number)) == Flag.DIRECT
    assert (session.state.nodes[0].dead, session.state.nodes[1].dead, session.state.nodes.current) == (
        True,
        False,
        1,
    )


def test_one_direct_answer_resets_the_count_of_missing_ones():
    session = new_session()
    for number in range(3 * DIRECT_MISSES):
        if number % DIRECT_MISSES:
            assert relayed(session, now=float(number)) == Flag.DIRECT
        else:
            _, first = opened(session, now=float(number))
            received(session, ANY_NODE, value_reply(parse(first.data)), number + 0.001, direct=True)


def test_an_answer_by_the_entry_node_itself_does_not_reset_the_count():
    session = new_session()
    asked = []
    for number in range(DIRECT_MISSES + 1):
        asked.append(relayed(session, now=float(number)))
        _, first = opened(session, now=number + 0.5)
        received(session, first.node, value_reply(parse(first.data)), number + 0.501, direct=first.direct)
    assert asked == [Flag.DIRECT] * DIRECT_MISSES + [NO_FLAGS]


def missed(session: Session, now: float) -> Message:
    """A request whose direct answer does not come in time."""
    exchange, first = opened(session, now=now)
    second = passes(session, exchange)
    received(session, second.node, value_reply(parse(second.data)), exchange.deadline)
    return parse(first.data)


@pytest.mark.parametrize("node", [ANY_NODE, 0], ids=["of the owner", "of the asked node, which is the owner"])
def test_late_direct_answers_end_the_pause(node):
    session = new_session()
    firsts = [missed(session, float(number)) for number in range(DIRECT_MISSES)]
    stranger = value_reply(firsts[-1], request_id=firsts[-1].request_id ^ 1 << 60)
    for answer, asked in ((stranger, NO_FLAGS), (value_reply(firsts[-1]), Flag.DIRECT)):
        session.receive(node, answer, 5.0, direct=True)
        _, first = opened(session, now=5.0)
        assert flags(first) == asked


def test_slow_answers_of_an_asked_node_that_owns_the_key_lead_to_no_pause():
    """On a busy machine a hedge is sent first. Nothing was lost, however often."""
    session = new_session(2)
    for number in range(3 * DIRECT_MISSES):
        exchange, first = opened(session, now=float(number))
        assert flags(first) == Flag.DIRECT
        passes(session, exchange)
        received(session, first.node, value_reply(parse(first.data)), exchange.deadline, direct=True)
        session.state.owners.forget(GET.key, first.node)


def test_requests_missed_together_count_as_one_missing_direct_answer():
    """What kept one back, as the look-up of the client's link address does, kept all back."""
    session = new_session()
    together = [opened(session)[0] for _ in range(2 * DIRECT_MISSES)]
    for exchange in together:
        session.wake(exchange.deadline)
    session.outbox.clear()
    assert flags(opened(session, now=1.0)[1]) == Flag.DIRECT


# --- Owners ------------------------------------------------------------------------------


def owned(session: Session, owner: int, call: calls.Call = GET, now: float = 0.0) -> int:
    """A read that `owner` answers directly; the node where it entered."""
    _, first = opened(session, call, now)
    received(session, owner, value_reply(parse(first.data)), now + 0.001, direct=True)
    return first.node


def test_the_next_read_of_a_range_enters_at_its_owner():
    session = new_session(3)
    other = calls.get("another range")
    assert [owned(session, 2) for _ in range(3)] == [0, 2, 2]
    assert [owned(session, 1, other) for _ in range(2)] == [0, 1]
    assert [owned(session, owner) for owner in (1, ANY_NODE, ANY_NODE)] == [2, 1, 0]
    assert opened(session, PUT)[1].node == 0


def test_a_silent_owner_is_left_at_once_and_proves_no_nat():
    session = new_session(3)
    for number in range(2 * DIRECT_MISSES):
        now = float(number)
        assert owned(session, 2, now=now) == 0
        exchange, first = opened(session, now=now + 0.1)
        assert (first.node, first.direct) == (2, True)
        second = passes(session, exchange)
        assert second.node != 2
        received(session, second.node, value_reply(parse(second.data)), exchange.deadline)
        session.state.nodes[2].misses = 0
    assert opened(session, now=100.0)[1].node == 0


def test_a_dead_owner_is_not_asked():
    session = new_session(3)
    owned(session, 2)
    session.state.nodes.died(2, now=0.5)
    assert opened(session, now=0.6)[1].node == 0


def test_spread_reads_enter_at_the_owner_by_the_best_route_only():
    session = Session(
        3, timeout=60.0, attempts=8, rng=random.Random(1), unix_us=unix_us, direct=True, spread=True
    )
    entered = set()
    for _ in range(20):
        _, first = opened(session)
        attempt = parse(first.data).attempt
        received(session, 1 if attempt else 2, value_reply(parse(first.data)), 0.001, direct=True)
        entered.add((min(attempt, 1), first.node))
    assert entered == {(0, 0), (0, 2), (1, 0)}


# --- Real sockets --------------------------------------------------------------------------


def from_elsewhere(node: ScriptedNode, request: object) -> list[bytes]:
    node.send_from_elsewhere(value_reply(request))
    return []


@pytest.fixture(params=[Client, AsyncClient], ids=["Client", "AsyncClient"])
def ask(request):
    return lambda name, *args: BOTH[request.param.__name__](name, *args, client_options={"direct": True})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_value_comes_from_another_address(ask, host):
    with ScriptedNode(from_elsewhere, host=host) as node:
        assert ask(node.name, "get", "hello") == b"world"
    assert [seen.flags for seen in node.seen] == [Flag.DIRECT]


def test_behind_a_nat_the_entry_node_answers(ask):
    with ScriptedNode(drop, lambda node, request: [value_reply(request)]) as node:
        assert ask(node.name, "get", "hello") == b"world"
    assert [seen.flags for seen in node.seen] == [Flag.DIRECT, NO_FLAGS]


def test_the_entry_node_may_answer_directly(ask):
    with ScriptedNode(lambda node, request: [value_reply(request)]) as node:
        assert ask(node.name, "get", "hello") == b"world"


def test_all_bits_of_a_direct_requests_id_are_unguessable():
    """The low bits too, which number the datagrams: only the ID tells a direct answer from a forged one."""
    session = new_session()
    lows = {parse(opened(session)[1].data).request_id % 64 for _ in range(1000)}
    assert len(lows) == 64
