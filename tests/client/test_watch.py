"""A watch on a clock that the tests turn, and both clients' watches over real sockets."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, closing

import pytest
from exchanges import unix_us
from scripted_node import ScriptedNode, refusal, reply_to

from kdht import AsyncClient, Client, wire
from kdht.client import _calls as calls
from kdht.client._session import Session
from kdht.client._watch import MAX_EVENTS, RENEWALS, WatchExchange
from kdht.errors import RequestError, RequestTimeout
from kdht.wire import Message, Record
from kdht.wire._shared import Op, Status

LEASE = 30


def new_session(nodes: int = 1) -> Session:
    return Session(nodes, timeout=5.0, attempts=8, rng=random.Random(5348), unix_us=unix_us)


def begun(session: Session, on_event: Callable[[], None] = lambda: None) -> tuple[WatchExchange, Message]:
    watching = session.watch(calls.watch("k", LEASE), LEASE, 0.0, on_event)
    return watching, asked(session)


def asked(session: Session, node: int = 0) -> Message:
    (send,) = session.outbox
    session.outbox.clear()
    assert send.node == node
    return wire.parse(send.data)


def told(request: Message, version: int, value: bytes = b"v") -> bytes:
    return reply_to(request, body=Record(version, 0, 0, value).pack())


def gone(request: Message, version: int = 0) -> bytes:
    """A deletion under that version; 0: the node has neither a record nor a tombstone."""
    return refusal(request, Status.NOT_FOUND, body=Record(version).pack() if version else b"")


def versions(watching: WatchExchange) -> list[int | None]:
    found = [event and event.version for event in watching.events]
    watching.events.clear()
    return found


def test_a_watch_tells_the_present_record_and_its_changes():
    session = new_session()
    watching, request = begun(session)
    assert (request.op, request.body) == (Op.WATCH, LEASE.to_bytes(4, "big"))
    for data in (told(request, 5), told(request, 6), gone(request, 7), told(request, 8)):
        session.receive(0, data, 0.01)
    assert versions(watching) == [5, 6, None, 8]


def test_events_and_errors_are_told():
    heard: list[object] = []
    session = new_session()
    watching, request = begun(session, lambda: heard.append(watching.error or watching.events[-1].version))
    for data in (told(request, 5), told(request, 5), told(request, 6)):
        session.receive(0, data, 0.01)
    session.receive(0, reply_to(request, body=b"no record"), 0.02)
    assert heard == [5, 6, watching.error]


def test_no_record_is_an_event_once():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, gone(request), 0.01)
    session.receive(0, gone(request), 0.02)
    assert versions(watching) == [None]


def test_doubled_and_old_states_are_no_events():
    session = new_session()
    watching, request = begun(session)
    for version in (5, 7, 7, 6, 5):
        session.receive(0, told(request, version), 0.01)
    assert versions(watching) == [5, 7]


def test_a_late_first_answer_is_no_event_after_a_change():
    """Nothing was there when the watch began; under loss or delay this answer comes after the first change."""
    session = new_session()
    watching, request = begun(session)
    for data in (told(request, 5), gone(request), gone(request)):
        session.receive(0, data, 0.01)
    assert versions(watching) == [5]


def test_a_watch_reports_a_lost_record_at_its_second_renewal():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    assert versions(watching) == [5]
    for expected in ([], [None], []):
        now = watching.deadline
        session.wake(now)
        session.receive(0, gone(asked(session)), now + 0.01)
        assert versions(watching) == expected


def test_an_expired_record_is_gone_without_a_tombstone():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, reply_to(request, body=Record(5, 2, 0, b"v").pack()), 0.01)
    session.receive(0, gone(request), 1.9)
    assert versions(watching) == [5]
    session.receive(0, gone(request), 2.1)
    assert versions(watching) == [None]


def test_a_watch_ignores_older_deletions_and_records():
    session = new_session()
    watching, request = begun(session)

    def deleted(version: int) -> bytes:
        return refusal(request, Status.NOT_FOUND, body=Record(version).pack())

    for data in (told(request, 5), deleted(4), deleted(8), told(request, 7), told(request, 9)):
        session.receive(0, data, 0.01)
    assert versions(watching) == [5, None, 9]


def test_a_read_is_not_older_than_a_watch_told():
    session = new_session()
    _, request = begun(session)
    session.receive(0, told(request, 9), 0.01)
    exchange = session.start(calls.get("k"), 0.02)
    session.receive(0, told(asked(session), 8), 0.03)
    assert not exchange.done


def test_renewals_find_missed_changes():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    assert watching.deadline == pytest.approx(0.01 + LEASE / RENEWALS)
    session.wake(watching.deadline)
    renewal = asked(session)
    assert renewal == request, "the same request, with the same request ID"
    session.receive(0, told(renewal, 9), 10.1)
    assert versions(watching) == [5, 9]


def test_a_lost_renewal_is_retried_by_other_routes():
    session = new_session(nodes=2)
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    session.wake(watching.deadline)
    assert asked(session).attempt == 0
    session.wake(watching.deadline)
    second = asked(session, node=1)
    assert (second.attempt, second.request_id) == (1, request.request_id)
    session.receive(1, refusal(second, Status.NOT_RESPONSIBLE), 10.5)
    session.wake(watching.deadline)
    third = asked(session, node=0)
    assert third.attempt == 0
    session.receive(0, told(third, 6), 11.0)
    assert versions(watching) == [5, 6]
    assert watching.deadline == pytest.approx(11.0 + LEASE / RENEWALS)


def test_a_closed_port_moves_the_watch_at_once():
    session = new_session(nodes=2)
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    session.refused(0, 3.0)
    again = asked(session, node=1)
    session.receive(1, told(again, 6), 3.01)
    assert versions(watching) == [5, 6]


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_closed_ports_end_a_watch_after_its_time_out_and_few_tries(nodes):
    session = new_session(nodes)
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    sent, now = 0, 3.0
    session.refused(watching._node, now)
    while not watching.done:
        for send in session.outbox:  # it may grow on the way
            sent += 1
            assert sent < 30
            session.refused(send.node, now)
        session.outbox.clear()
        now = watching.deadline
        session.wake(now)
    assert now == pytest.approx(3.0 + 5.0)
    assert isinstance(watching.error, RequestTimeout)


def test_silence_ends_a_watch():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    while not watching.done:
        session.wake(watching.deadline)
    assert watching.deadline == pytest.approx(0.01 + LEASE / RENEWALS + 5.0)
    assert isinstance(watching.error, RequestTimeout)
    assert session._pending == {}


def test_a_watch_shows_its_cookie():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, refusal(request, Status.COOKIE_NEEDED, cookie=7), 0.01)
    second = asked(session)
    assert (second.cookie, second.request_id) == (7, request.request_id)
    session.receive(0, told(second, 5), 0.02)
    assert versions(watching) == [5]


def test_a_cookie_that_is_refused_ends_a_watch():
    session = new_session()
    watching, request = begun(session)
    for _ in range(2):
        session.receive(0, refusal(request, Status.COOKIE_NEEDED, cookie=7), 0.01)
        session.outbox.clear()
    assert watching.error.status == "COOKIE_NEEDED"


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNCONFIRMED, Status.STORAGE_FAILED])
def test_a_watch_waits_after_busy_and_similar_refusals(status):
    session = new_session()
    watching, request = begun(session)
    session.receive(0, refusal(request, status), 0.01)
    assert session.outbox == []
    session.wake(watching.deadline)
    session.receive(0, told(asked(session), 5), 0.5)
    assert versions(watching) == [5]


def test_an_unreadable_answer_ends_a_watch():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, reply_to(request, body=b"short"), 0.01)
    assert isinstance(watching.error, RequestError)


def test_the_last_events_are_kept_if_nobody_fetches_them():
    session = new_session()
    watching, request = begun(session)
    for version in range(1, 2 * MAX_EVENTS + 1):
        session.receive(0, told(request, version), 0.01)
    assert versions(watching) == list(range(MAX_EVENTS + 1, 2 * MAX_EVENTS + 1))


def test_closing_a_watch_ends_its_lease():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    watching.end(0.02)
    last = asked(session)
    assert (last.request_id, last.body) == (request.request_id, bytes(4))


def test_a_forged_notification_is_no_event():
    session = new_session()
    watching, request = begun(session)
    session.receive(0, told(request, 5), 0.01)
    for change in ({"request_id": request.request_id + 1}, {"key": bytes(20)}, {"op": Op.GET}):
        session.receive(0, reply_to(request, body=Record(9).pack(), **change), 0.02)
    assert versions(watching) == [5]


# --- Over sockets


def three_changes(_node: ScriptedNode, request: Message) -> list[bytes]:
    if request.body == bytes(4):
        return []
    return [told(request, 1, b"a"), told(request, 2, b"b"), gone(request, 3)]


EVENTS = [Record(1, 0, 0, b"a"), Record(2, 0, 0, b"b"), None]


def test_the_blocking_client_watches():
    with ScriptedNode(three_changes) as node, Client(node.name) as client:
        with closing(client.watch("k")) as events:
            assert [next(events) for _ in range(3)] == EVENTS
        with pytest.raises(ValueError, match="lease"):
            client.watch("k", lease=61)
        client.close()
        with pytest.raises(RequestError, match="closed"):
            next(client.watch("k"))
    assert [int.from_bytes(request.body, "big") for request in node.seen] == [30, 0]


def test_the_asyncio_client_watches():
    async def run(name):
        async with AsyncClient(name) as client, aclosing(client.watch("k", lease=5)) as events:
            return [await anext(events) for _ in range(3)]

    with ScriptedNode(three_changes) as node:
        assert asyncio.run(run(node.name)) == EVENTS
    assert [int.from_bytes(request.body, "big") for request in node.seen] == [5, 0]


def test_a_closed_client_ends_its_watches():
    async def run(name):
        client = AsyncClient(name)
        events = client.watch("k")
        assert await anext(events) == EVENTS[0]
        assert [await anext(events), await anext(events)] == EVENTS[1:]
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(RequestError, match="closed"):
            await waiting

    with ScriptedNode(three_changes) as node:
        asyncio.run(run(node.name))
