"""Many clients, one key, three replicas, and a network that loses, doubles and delays: no client says a wrong word.

The replicas are simple: each carries a write out alone, at once, and brings it to the others a while later or never. What
is checked is the client's part: what it says of each write, and that its reads do not go back in time.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest
from exchanges import NOW_US
from scripted_node import reply_to

from kdht import wire
from kdht.client import _calls as calls
from kdht.client._session import Session
from kdht.errors import RequestError, RequestTimeout, Unconfirmed
from kdht.wire import Message, Record, parse_write
from kdht.wire._shared import TRY_BITS, Op, Status

REPLICAS = 3
CLIENTS = 3
WRITES = {Op.PUT, Op.DELETE}
LATEST = 0.2
"""Seconds that a datagram may be under way."""


class World:
    """Everything that happens, in the order of its time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.carried_out: dict[int, set[int]] = {}
        """The versions under which each request was done, by its number."""
        self.stands = Record()
        """The newest record, a tombstone has no value."""
        self.replicas = [Record() for _ in range(REPLICAS)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def carry(self, what: Callable[[], None]) -> None:
        """A datagram: lost, late, or doubled."""
        for _ in range(self.rng.choice([0, 1, 1, 1, 1, 1, 2])):
            self.after(self.rng.choice([0.001, 0.005, LATEST]) * self.rng.random(), what)

    def answer(self, request: Message) -> bytes:
        if request.attempt >= REPLICAS:
            return reply_to(request, status=Status.NOT_RESPONSIBLE)
        if random.Random(request.request_id).random() < 0.05:
            return reply_to(request, status=Status.BUSY)  # both copies of a doubled datagram
        if request.op not in WRITES:
            return self._read(request)
        reply = self._write(request)
        return reply_to(request, status=Status.UNCONFIRMED) if self.rng.random() < 0.1 else reply

    def _read(self, request: Message) -> bytes:
        record = self.replicas[request.attempt]
        if request.op == Op.QUORUM_GET:
            record = self.stands
        if record.flags or not record.version:
            return reply_to(request, status=Status.NOT_FOUND, body=record.pack() if record.version else b"")
        return reply_to(request, body=record.pack())

    def _write(self, request: Message) -> bytes:
        """As the cluster does it: one order of all writes, and replicas that follow."""
        asked, condition = parse_write(request.body)
        visible = 0 if self.stands.flags else self.stands.version
        done = self.carried_out.setdefault(request.request_id >> TRY_BITS, set())
        if asked.version in done or (self.stands.version, self.stands.value) == (asked.version, asked.value):
            done.add(asked.version)  # known again
            return reply_to(request, body=Record(asked.version).pack())
        if condition is not None and condition != visible:
            return reply_to(request, status=Status.CONFLICT, body=Record(visible).pack())
        if asked.version <= self.stands.version:
            return reply_to(request, status=Status.BAD_VERSION, body=Record(self.stands.version).pack())
        self.stands = Record(asked.version, 0, 2 if request.op == Op.DELETE else 0, asked.value)
        done.add(asked.version)
        for replica in range(REPLICAS):
            self._bring(replica, self.stands)
        return reply_to(request, body=Record(asked.version).pack())

    def _bring(self, replica: int, record: Record) -> None:
        def taken() -> None:
            if record.version > self.replicas[replica].version:
                self.replicas[replica] = record

        self.after(self.rng.random() * 0.02, taken)


class Writer:
    """A client that reads and writes the key, one request after the other, and notes what it was told."""

    def __init__(self, world: World, number: int, requests: int) -> None:
        self.world = world
        self.number = number
        self.left = requests
        self.told: list[tuple[int, str]] = []
        """Of each write: its number, and done, refused or open."""
        self.seen: list[int] = []
        self.known = 0
        self.armed = math.inf
        off_us = world.rng.choice([-50_000, 0, 50_000])
        self.session = Session(
            2,
            timeout=5.0,
            attempts=16,
            rng=random.Random(world.rng.random()),
            unix_us=lambda: NOW_US + off_us + int(world.now * 1_000_000),
        )
        self.next()

    def next(self) -> None:
        self.left -= 1
        if self.left < 0:
            return
        rng = self.world.rng
        value = f"{self.number}/{self.left}".encode()
        condition = rng.choice([None, self.known])
        call = rng.choice(
            [
                calls.get("k"),
                calls.get("k", quorum=True),
                calls.put("k", value, None, condition),
                calls.put("k", value, None, condition),
                calls.delete("k", condition or None),
            ]
        )
        self.session.start(call, self.world.now, self._ended)
        self.go_on()

    def _ended(self, exchange, now: float) -> None:
        try:
            answer = exchange.result()
        except (RequestTimeout, Unconfirmed):
            how, answer = "open", None
        except RequestError as error:
            how, answer = "refused", None
            if exchange.call.op not in WRITES and error.status == "NOT_FOUND":
                self.known = 0
        else:
            how = "done"
            if exchange.call.op not in WRITES:
                self.known = calls.record(answer).version
                self.seen.append(self.known)
        if exchange.call.op in WRITES:
            self.told.append((exchange.number, how))
        self.world.after(0.001, self.next)

    def go_on(self) -> None:
        session, world = self.session, self.world
        for send in session.outbox:
            request = wire.parse(send.data)
            world.carry(lambda node=send.node, request=request: self._arrived(node, request))
        session.outbox.clear()
        wake = session.next_wake()
        if wake is not None and wake < self.armed:
            self.armed = wake
            world.after(max(wake - world.now, 0.0), lambda: self._wake(wake))

    def _arrived(self, node: int, request: Message) -> None:
        reply = self.world.answer(request)
        self.world.carry(lambda: self._received(node, reply))

    def _received(self, node: int, reply: bytes) -> None:
        self.session.receive(node, reply, self.world.now)
        self.go_on()

    def _wake(self, due: float) -> None:
        if due == self.armed:
            self.armed = math.inf
            self.session.wake(self.world.now)
            self.go_on()


@pytest.mark.parametrize("seed", range(60))
def test_no_outcome_is_wrong(seed):
    world = World(seed)
    writers = [Writer(world, number, 60) for number in range(CLIENTS)]
    world.run()
    told = [each for writer in writers for each in writer.told]
    assert len(told) > 60
    for number, how in told:
        done = world.carried_out.get(number, set())
        assert len(done) <= 1, "a write is done once"
        assert done or how != "done", "a write that was told to be done"
        assert not done or how != "refused", "a write that was told to be refused"
    for writer in writers:
        assert writer.seen == sorted(writer.seen), "no read goes back in time"


def test_most_outcomes_are_certain():
    """With 14 % of all datagrams lost, in each direction, and a tenth of the answers UNCONFIRMED."""
    outcomes: list[str] = []
    for seed in range(10):
        world = World(seed)
        writers = [Writer(world, number, 60) for number in range(CLIENTS)]
        world.run()
        outcomes += [how for writer in writers for _, how in writer.told]
    assert outcomes.count("open") < len(outcomes) / 3
    assert outcomes.count("done") > outcomes.count("open")
    assert outcomes.count("refused") > 0
