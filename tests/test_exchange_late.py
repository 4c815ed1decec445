"""Tries of a write that may still be carried out: the next write of the key waits for them."""

import pytest
from exchanges import GET, PUT, new_session, opened, passes, received
from scripted_node import refusal, value_reply

from kdht import wire
from kdht._shared import Op, Status
from kdht.client import _calls as calls
from kdht.client._datagram import Send
from kdht.client._entries import START_RTO
from kdht.client._session import Session


def needless_retry(session: Session) -> tuple[Send, float]:
    """A write whose first try is answered after all; the second may still be carried out."""
    exchange, first = opened(session, PUT)
    second = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(first.data)), START_RTO + 0.01)
    assert exchange.done
    return second, START_RTO + 0.02


def is_at_rest(session: Session) -> bool:
    return not (session._settling or session._held or session._pending)


@pytest.mark.parametrize("call", [PUT, calls.delete("hello"), calls.put("hello", b"", None, 7)], ids=str)
def test_the_next_write_of_the_key_waits_for_a_late_try(call):
    session = new_session()
    late, now = needless_retry(session)
    exchange, nothing = opened(session, call, now)
    assert nothing is None
    send = received(session, 0, value_reply(wire.parse(late.data)), now + 0.01)
    assert wire.parse(send.data).op == call.op
    session.receive(0, refusal(wire.parse(send.data), Status.OK), now + 0.02)
    assert exchange.done
    assert is_at_rest(session)


def test_a_lost_try_is_not_waited_for_longer_than_usual():
    session = new_session()
    _, now = needless_retry(session)
    exchange, nothing = opened(session, PUT, now)
    assert nothing is None
    usual = session.entries[0].round_trips[Op.PUT].rto
    assert exchange.deadline == pytest.approx(START_RTO + usual)
    send = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(send.data)), exchange.deadline - 0.01)
    assert is_at_rest(session)


def test_a_try_that_was_lost_long_ago_is_not_waited_for():
    session = new_session()
    exchange, _ = opened(session, PUT)
    second = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(second.data)), START_RTO + 0.01)
    assert is_at_rest(session)


def test_reads_and_other_keys_do_not_wait():
    session = new_session()
    _, now = needless_retry(session)
    assert opened(session, GET, now)[1] is not None
    assert opened(session, calls.put("other", b"", None), now)[1] is not None


def test_a_write_that_waits_can_be_forgotten():
    session = new_session()
    late, now = needless_retry(session)
    exchange, _ = opened(session, PUT, now)
    session.forget(exchange)
    session.receive(0, value_reply(wire.parse(late.data)), now + 0.01)
    session.wake(60.0)
    assert session.outbox == []
    assert is_at_rest(session)
