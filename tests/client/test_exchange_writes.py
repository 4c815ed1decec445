"""A write's one version, and what is said of it when answers are lost, late, or refusals."""

import random

import pytest
from exchanges import GET, NOW_US, PUT, all_tries, attempts_of, new_session, opened, passes, received
from scripted_node import refusal, reply_to, value_reply

from kdht import wire
from kdht.client import _calls as calls
from kdht.client._clock import SPREAD, SPREAD_AHEAD, WriteClock
from kdht.client._datagram import Send
from kdht.client._writes import MAX_DOUBTS, MAX_OUTBID
from kdht.errors import Conflict, RequestError, RequestTimeout, Unconfirmed
from kdht.wire import Record, parse_write
from kdht.wire._shared import Status
from kdht.wire.limits import MAX_CLOCK_ERROR

DELETE = calls.delete("hello")
CONDITIONAL = calls.put("hello", b"mine", None, 7)
WRITES = pytest.mark.parametrize("call", [PUT, DELETE, CONDITIONAL], ids=["PUT", "DELETE", "if_version"])


def version_of(send: Send) -> int:
    return parse_write(wire.parse(send.data).body)[0].version


def told(send: Send, status: Status, version: int) -> bytes:
    return refusal(wire.parse(send.data), status, body=Record(version).pack())


# --- Its version


@WRITES
def test_all_tries_of_a_write_have_one_version(call):
    session = new_session()
    exchange, first = opened(session, call)
    sends = all_tries(session, exchange, first)
    assert len(sends) == 8
    assert len({version_of(send) for send in sends}) == 1
    assert NOW_US - SPREAD <= version_of(first) <= NOW_US
    assert len({wire.parse(send.data).request_id >> 6 for send in sends}) == 1
    assert {wire.parse(send.data).body for send in sends} == {wire.parse(first.data).body}


def test_no_two_writes_have_the_same_version():
    session = new_session()
    versions = [version_of(opened(session, call)[1]) for call in (PUT, DELETE, CONDITIONAL) * 3]
    assert versions == sorted(set(versions))


def test_a_write_gets_a_version_above_the_known_one():
    session = new_session()
    _, read = opened(session, GET)
    far = NOW_US + 30_000_000
    received(session, 0, reply_to(wire.parse(read.data), body=Record(far).pack()), 0.01)
    first, second = (version_of(opened(session, call)[1]) for call in (PUT, calls.put("other", b"", None)))
    assert far < first < far + SPREAD_AHEAD
    assert second == first + 1


def test_a_late_try_delays_no_later_write():
    """Were it carried out after it, it would change nothing: its version is older."""
    session = new_session()
    exchange, first = opened(session, PUT)
    late = passes(session, exchange)
    session.receive(0, value_reply(wire.parse(first.data)), 0.3)
    _, following = opened(session, PUT, now=0.31)
    assert version_of(late) == version_of(first) < version_of(following)


@WRITES
def test_a_refused_version_is_replaced_by_a_newer_one_at_once(call):
    session = new_session(nodes=2)
    exchange, first = opened(session, call)
    second = received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 500), 0.01)
    assert (second.node, attempts_of([second])) == (0, [0])
    assert 0 <= version_of(second) - NOW_US - 501 <= SPREAD_AHEAD
    assert received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 90000), 0.02) is None, (
        "a doubled answer"
    )
    body = Record(version_of(second)).pack()
    received(session, 0, refusal(wire.parse(second.data), Status.OK, body=body), 0.03)
    assert exchange.result().status is Status.OK
    assert session.state.versions.known(call.key) == version_of(second)


@pytest.mark.parametrize("stands", [7, NOW_US - 10, NOW_US + 5])
def test_two_clients_give_conditional_writes_different_versions(stands):
    """Both know what stands, and have the same clock, which may be behind it."""
    call = calls.put("hello", b"the same value", None, stands)
    versions = []
    for seed in range(200):
        session = new_session()
        session.state.clock = WriteClock(lambda: NOW_US, random.Random(seed))
        versions.append(version_of(opened(session, call)[1]))
    assert min(versions) > stands
    assert max(versions) <= max(stands, NOW_US) + SPREAD_AHEAD + 1
    assert len(set(versions)) > 190


def test_writers_that_overtake_each_other_take_turns():
    session = new_session()
    exchange, send = opened(session, PUT)
    send = received(session, 0, told(send, Status.BAD_VERSION, NOW_US + 500), 0.01)
    assert received(session, 0, told(send, Status.BAD_VERSION, NOW_US + 5000), 0.02) is None
    assert exchange.deadline > 0.03
    assert NOW_US + 5000 < version_of(passes(session, exchange)) <= NOW_US + 5000 + SPREAD_AHEAD


def test_a_key_under_constant_writes_is_given_up():
    session = new_session()
    exchange, send = opened(session, PUT)
    while not exchange.done:
        again = received(
            session, 0, told(send, Status.BAD_VERSION, version_of(send) + 5), exchange.deadline - 0.001
        )
        send = again or (None if exchange.done else passes(session, exchange))
    with pytest.raises(RequestError, match="the key has a newer version") as caught:
        exchange.result()
    assert caught.value.status == "BAD_VERSION"


@pytest.mark.parametrize("off_s", [-3600, 3600, 61, -61])
def test_a_wrong_clock_is_corrected(off_s):
    """The node says what time it is; the next write has the right one at once."""
    session = new_session()
    node_us = NOW_US + off_s * 1_000_000
    _, first = opened(session, PUT)
    second = received(session, 0, told(first, Status.BAD_VERSION, node_us), 0.01)
    assert 0 < version_of(second) - node_us <= SPREAD_AHEAD
    received(
        session, 0, refusal(wire.parse(second.data), Status.OK, body=Record(version_of(second)).pack()), 0.02
    )
    assert abs(version_of(opened(session, calls.put("other", b"", None))[1]) - node_us) <= SPREAD_AHEAD + 10


def test_a_version_slightly_ahead_does_not_move_the_clock():
    clock = WriteClock(lambda: NOW_US, random.Random(1))
    first = clock.next(0)
    clock.refused(first, NOW_US + MAX_CLOCK_ERROR)
    assert clock.next(0) == first + 1


def test_two_clocks_behind_one_version_choose_different_ones():
    """They go beyond it by a little, each by another, and follow it from then on."""
    ahead = NOW_US + 5_000_000
    clocks = [WriteClock(lambda: NOW_US, random.Random(seed)) for seed in range(4)]
    chosen = {clock.next(ahead + 1) for clock in clocks}
    assert len(chosen) == 4
    assert all(ahead < version <= ahead + SPREAD_AHEAD for version in chosen)
    assert all(clock.next(0) > ahead for clock in clocks)


def test_a_far_version_is_exceeded_without_moving_the_clock():
    clock = WriteClock(lambda: NOW_US, random.Random(1))
    assert clock.next(NOW_US + 2 * MAX_CLOCK_ERROR) >= NOW_US + 2 * MAX_CLOCK_ERROR
    assert clock.next(0) > NOW_US + 2 * MAX_CLOCK_ERROR
    other = WriteClock(lambda: NOW_US, random.Random(1))
    other.next(NOW_US + 2 * MAX_CLOCK_ERROR)
    other.refused(NOW_US + 2 * MAX_CLOCK_ERROR + 5000, NOW_US)
    assert abs(other.next(0) - NOW_US) < 10


# --- In doubt


def test_a_conflict_on_the_only_try_is_anothers_write():
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    received(session, 0, told(first, Status.CONFLICT, version_of(first)), 0.01)
    with pytest.raises(Conflict):
        exchange.result()


def test_a_conflict_of_the_only_try_is_certain():
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    received(session, 0, told(first, Status.CONFLICT, 9), 0.01)
    with pytest.raises(Conflict, match="the key has version 9") as caught:
        exchange.result()
    assert caught.value.version == 9


@pytest.mark.parametrize(
    "status",
    [Status.BUSY, Status.NOT_RESPONSIBLE, Status.STORAGE_FAILED, Status.UNREACHABLE, Status.BAD_VERSION],
    ids=lambda status: status.name,
)
def test_a_refused_try_leaves_no_doubt(status):
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    body = Record(NOW_US + 5).pack() if status is Status.BAD_VERSION else b""
    reply = refusal(wire.parse(first.data), status, body=body)
    second = received(session, 0, reply, 0.01) or passes(session, exchange)
    received(session, 0, told(second, Status.CONFLICT, 9), 1.0)
    with pytest.raises(Conflict):
        exchange.result()


@pytest.mark.parametrize("stands", [0, 9, NOW_US + 1])
def test_a_conflict_after_an_unconfirmed_try_is_not_certain(stands):
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    received(session, 0, refusal(wire.parse(first.data), Status.UNCONFIRMED), 0.01)
    received(session, 0, told(passes(session, exchange), Status.CONFLICT, stands), 1.0)
    with pytest.raises(Unconfirmed, match="may have been done or not"):
        exchange.result()


def test_a_conflict_waits_for_a_late_answer():
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    second = passes(session, exchange)
    received(session, 0, told(second, Status.CONFLICT, 9), 1.0)
    assert (exchange.done, exchange.deadline > 1.0) == (False, True)
    received(session, 0, value_reply(wire.parse(first.data)), 1.01)
    assert exchange.result().status is Status.OK


def test_a_late_answer_may_make_a_conflict_certain():
    session = new_session()
    exchange, first = opened(session, CONDITIONAL)
    received(session, 0, told(passes(session, exchange), Status.CONFLICT, 9), 1.0)
    received(session, 0, refusal(wire.parse(first.data), Status.BUSY), 1.01)
    with pytest.raises(Conflict):
        exchange.result()


def test_a_conflict_does_not_wait_for_ever():
    session = new_session()
    exchange, _ = opened(session, CONDITIONAL)
    received(session, 0, told(passes(session, exchange), Status.CONFLICT, 9), 1.0)
    assert passes(session, exchange) is None
    assert isinstance(exchange.error, Unconfirmed)


@WRITES
def test_a_write_in_doubt_gets_no_new_version(call):
    """It may have been overwritten since: a newer version of it would undo that. Whoever confirmed it may still say so."""
    session = new_session()
    exchange, first = opened(session, call)
    sends = [passes(session, exchange)]
    for _ in range(MAX_DOUBTS - 1):
        sends.append(received(session, 0, told(sends[-1], Status.BAD_VERSION, NOW_US + 5), 1.0))
    assert received(session, 0, told(sends[-1], Status.BAD_VERSION, NOW_US + 5), 1.0) is None
    assert {version_of(send) for send in sends} == {version_of(first)}
    assert attempts_of(sends) == [1, 2, 3]
    assert passes(session, exchange) is None
    with pytest.raises(Unconfirmed, match="the key has a newer version"):
        exchange.result()


def test_a_coordinator_confirms_an_overwritten_write_it_remembers():
    session = new_session()
    exchange, _ = opened(session, PUT)
    second = passes(session, exchange)
    third = received(session, 0, told(second, Status.BAD_VERSION, NOW_US + 5), 1.0)
    received(session, 0, refusal(wire.parse(third.data), Status.OK, body=Record(NOW_US).pack()), 1.01)
    assert calls.record(exchange.result()).version == NOW_US


@pytest.mark.parametrize("status", [Status.BUSY, Status.STORAGE_FAILED], ids=lambda status: status.name)
def test_the_last_refusal_does_not_hide_a_lost_try(status):
    session = new_session(attempts=4)
    exchange, _ = opened(session, PUT)
    send = passes(session, exchange)
    while not exchange.done:
        if send is None:
            send = passes(session, exchange)
        else:
            send = received(session, 0, refusal(wire.parse(send.data), status), exchange.deadline - 0.001)
    with pytest.raises(Unconfirmed, match="may have been done or not") as caught:
        exchange.result()
    assert caught.value.status == "UNCONFIRMED"


def test_a_final_refusal_does_not_hide_a_lost_try():
    session = new_session()
    exchange, _ = opened(session, PUT)
    received(session, 0, refusal(wire.parse(passes(session, exchange).data), Status.BAD_REQUEST), 1.0)
    passes(session, exchange)
    assert isinstance(exchange.error, Unconfirmed)


def test_a_write_without_any_answer_is_a_time_out():
    session = new_session(attempts=2, timeout=1.0)
    exchange, first = opened(session, PUT)
    all_tries(session, exchange, first)
    with pytest.raises(RequestTimeout):
        exchange.result()


# --- Datagrams that the network doubles: each copy may be answered by another node


@WRITES
def test_an_unconfirmed_copy_is_not_forgotten_for_a_refused_one(call):
    """The unconfirmed copy may have been read by others, and overwritten."""
    session = new_session()
    _, first = opened(session, call)
    session.receive(0, refusal(wire.parse(first.data), Status.UNCONFIRMED), 0.01)
    second = received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 5), 0.02)
    assert version_of(second) == version_of(first)
    third = received(session, 0, told(second, Status.BAD_VERSION, NOW_US + 5), 0.03)
    assert version_of(third) == version_of(first)


@WRITES
def test_an_unconfirmed_copy_of_an_older_version_leaves_a_doubt(call):
    session = new_session(attempts=3)
    exchange, first = opened(session, call)
    second = received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 5), 0.01)
    received(session, 0, refusal(wire.parse(first.data), Status.UNCONFIRMED), 0.02)
    third = received(session, 0, told(second, Status.BAD_VERSION, NOW_US + 900), 0.03)
    assert version_of(third) == version_of(second) > version_of(first)
    received(session, 0, told(third, Status.BAD_VERSION, NOW_US + 900), 0.04)
    with pytest.raises(Unconfirmed, match="may have been done or not"):
        exchange.result()


@WRITES
def test_a_copy_of_an_older_version_does_not_end_a_write(call):
    """The greater version is on its way. If this were the end, it would take effect after it."""
    session = new_session()
    exchange, first = opened(session, call)
    second = received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 5), 0.01)
    received(session, 0, told(first, Status.OK, version_of(first)), 0.02)
    assert not exchange.done
    session.receive(0, told(second, Status.OK, version_of(second)), 0.03)
    assert exchange.result().status is Status.OK
    assert session.state.versions.known(call.key) == version_of(second)


@WRITES
def test_a_copy_of_an_older_version_ends_a_write_that_is_not_yet_sent_again(call):
    session = new_session()
    exchange, first = opened(session, call)
    second = received(session, 0, told(first, Status.BAD_VERSION, NOW_US + 5), 0.01)
    assert received(session, 0, told(second, Status.BAD_VERSION, NOW_US + 900), 0.02) is None, "a pause"
    session.receive(0, told(second, Status.OK, version_of(second)), 0.03)
    assert exchange.result().status is Status.OK


# --- Promises


@WRITES
def test_a_promise_in_the_way_is_waited_for(call):
    session = new_session()
    exchange, first = opened(session, call)
    sends = [first]
    for _ in range(MAX_OUTBID - 1):
        assert (
            received(session, 0, told(sends[-1], Status.BUSY, NOW_US + 5), exchange.deadline - 0.001) is None
        )
        sends.append(passes(session, exchange))
    assert {version_of(send) for send in sends} == {version_of(first)}
    beyond = received(session, 0, told(sends[-1], Status.BUSY, NOW_US + 5), exchange.deadline - 0.001)
    assert version_of(beyond) > NOW_US + 5


def test_a_promise_in_the_way_of_a_write_in_doubt_gives_it_no_new_version():
    session = new_session()
    exchange, first = opened(session, PUT)
    send = passes(session, exchange)
    while not exchange.done:
        assert version_of(send) == version_of(first)
        received(session, 0, told(send, Status.BUSY, NOW_US + 5), exchange.deadline - 0.001)
        send = passes(session, exchange)
    assert isinstance(exchange.error, Unconfirmed)
