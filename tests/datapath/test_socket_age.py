"""The age of datagrams, and a loop that was away: a receiver that holds it up stands for a process that was stopped."""

import threading
import time

import pytest
from chain import CLUSTER
from sockets import LOOPBACK, Client, lonely, wait_for

from kdht.datapath.base import Datagram
from kdht.storage._cache import RecordCache
from kdht.wire import GIVEN_BACK, NO_FLAGS, Message, seal
from kdht.wire._shared import Flag, Op

HELD_UP = 1.2
NOW_KEYS = [bytes([number]) * 20 for number in range(9)]


class Slow:
    """A receiver that takes HELD_UP seconds over its first batch; `log` has what happened, in order."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.holds = threading.Event()

    def receive(self, batch: list[Datagram]) -> None:
        self.log += [Op(datagram.data[5]) for datagram in batch]
        if not self.holds.is_set():
            self.holds.set()
            time.sleep(HELD_UP)  # the fault

    def away(self) -> None:
        self.log.append("away")


def request(op: Op, key: bytes = NOW_KEYS[0]) -> bytes:
    return bytes(Message(op=op, key=key, request_id=7, body=bytes(16)).pack())


def of_a_member(op: Op, flags: Flag = NO_FLAGS, body: bytes = bytes(16)) -> bytes:
    message = Message(op=op, key=NOW_KEYS[0], request_id=7, body=body, hops=1, flags=flags).pack()
    seal(message, CLUSTER, int(time.time()))
    return bytes(message)


@pytest.mark.parametrize("version", [4, 6])
def test_old_datagrams_are_dropped_and_counted(start, version):
    slow = Slow()
    _, transport, _ = lonely(start, LOOPBACK[version], receiver=slow.receive, away=slow.away)
    client = Client(LOOPBACK[version])
    client.send(request(Op.TRACE), transport.addresses[0])
    assert slow.holds.wait(10)
    for op in (Op.PUT, Op.DELETE, Op.GET, Op.QUORUM_GET, Op.WATCH, Op.TRACE):
        client.send(request(op), transport.addresses[0])
    for op in (Op.PROMISE, Op.FETCH, Op.STORE, Op.PING):
        client.send(of_a_member(op), transport.addresses[0])
    client.send(of_a_member(Op.PROMISE, Flag.REPLY), transport.addresses[0])
    client.send(of_a_member(Op.PROMISE, body=bytes(16) + GIVEN_BACK), transport.addresses[0])
    wait_for(lambda: len(slow.log) == 7)
    # What members sent comes before what a client sent earlier.
    assert slow.log == [Op.TRACE, "away", Op.STORE, Op.PING, Op.PROMISE, Op.PROMISE, Op.TRACE]
    counted = transport.status()
    assert (counted["late_writes"], counted["late_reads"], counted["late_promises"]) == (2, 4, 1)
    assert counted["away"] == 1
    for op in (Op.PUT, Op.GET):
        client.send(request(op), transport.addresses[0])
    wait_for(lambda: len(slow.log) == 9)
    assert slow.log[-2:] == [Op.PUT, Op.GET]


def test_a_paused_loop_reports_before_it_answers_from_the_cache(start):
    slow, cache = Slow(), RecordCache(1 << 20)
    _, transport, _ = lonely(
        start, receiver=slow.receive, away=lambda: (slow.away(), cache.clear()), cache=cache
    )
    key = NOW_KEYS[1]
    (begun,) = cache.begin([key])
    assert cache.fill(key, begun, 7, 0, 0, b"old")
    client = Client()
    client.send(request(Op.GET, key), transport.addresses[0])
    client.receive()
    client.send(request(Op.TRACE), transport.addresses[0])
    assert slow.holds.wait(10)
    time.sleep(HELD_UP / 2)  # so that it is not too old
    client.send(request(Op.GET, key), transport.addresses[0])
    wait_for(lambda: len(slow.log) == 3)
    assert slow.log == [Op.TRACE, "away", Op.GET]
    assert transport.status()["cache_answers"] == 1


def test_a_loop_that_nobody_writes_to_is_not_away(start):
    away = threading.Event()
    _, transport, _ = lonely(start, away=away.set)
    assert not away.wait(1.5)
    assert transport.status()["away"] == 0


def test_an_absence_whose_listener_raises_stops_nothing(start):
    slow = Slow()

    def broken() -> None:
        raise LookupError("in the listener")

    _, transport, _ = lonely(start, receiver=slow.receive, away=broken)
    client = Client()
    client.send(request(Op.TRACE), transport.addresses[0])
    assert slow.holds.wait(10)
    client.send(request(Op.TRACE), transport.addresses[0])
    wait_for(lambda: len(slow.log) == 2)
    assert transport.status()["raised"] == 1
