"""From the transport's thread to the parts of a node and to the loop: sorted, in order, bounded."""

import asyncio
import threading

import pytest

from kdht.daemon.node_queue import Line, NodeQueue
from kdht.daemon.process.housekeeping import StateLogger
from kdht.datapath.base import Datagram
from kdht.node.dispatch import Dispatcher
from kdht.node.observer import Unobserved
from kdht.wire import NOWHERE, OFFSET
from kdht.wire._shared import HEADER_LEN, Op, Reason


def datagram(number: int, reason: Reason, op: Op = Op.PING) -> Datagram:
    data = bytearray(HEADER_LEN)
    data[0], data[OFFSET["op"]] = number, op
    return Datagram(bytes(data), NOWHERE, NOWHERE, reason, 0)


class Recorder:
    """Service, coordinator and driver: notes what is called, with what, and on which thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object, threading.Thread]] = []
        self.heard = asyncio.Event()

    def note(self, name: str, what: object) -> None:
        self.calls.append((name, what, threading.current_thread()))

    def numbers(self, name: str) -> list[tuple[int, threading.Thread]]:
        return [
            (each.data[0], thread) for call, batch, thread in self.calls if call == name for each in batch
        ]

    def handle(self, batch, now):
        self.note("handle", batch)
        return len(batch)

    def receive(self, batch, now=None):
        self.note("coordinator" if now is not None else "driver", batch)
        if now is None:
            self.heard.set()

    def unreachable(self, what, request_id=None, now=None):
        self.note("unreachable", what if request_id is None else (what, request_id))
        if now is None:
            self.heard.set()

    def silent(self, addresses):
        self.note("silent", addresses)
        self.heard.set()


def dispatcher_to(recorder: Recorder) -> Dispatcher:
    queue = NodeQueue(asyncio.get_running_loop(), recorder)
    return Dispatcher(
        service=recorder,
        coordinator=recorder,
        reflector=recorder,
        node=queue,
        observer=Unobserved(),
        clock=lambda: 7.0,
    )


def test_only_control_messages_go_to_the_event_loop():
    async def run():
        recorder = Recorder()
        dispatcher = dispatcher_to(recorder)
        mixed = [datagram(n, Reason.CONTROL if n % 2 else Reason.OWNER) for n in range(6)]
        mixed += [datagram(6, Reason.CONTROL, Op.STORE), datagram(7, Reason.CONTROL, Op.FETCH)]
        thread = threading.Thread(target=dispatcher.receive, args=(mixed,))
        thread.start()
        await recorder.heard.wait()
        thread.join()
        return recorder, thread

    recorder, thread = asyncio.run(run())
    main = threading.main_thread()
    assert recorder.numbers("coordinator") == [(6, thread), (7, thread)]
    assert recorder.numbers("handle") == [(n, thread) for n in (0, 2, 4)]
    assert recorder.numbers("driver") == [(n, main) for n in (1, 3, 5)]


@pytest.mark.parametrize(
    ("request_id", "at_once", "in_the_loop"),
    [(7, [("unreachable", (NOWHERE, 7))], "unreachable"), (None, [], "silent")],
    ids=["proven", "hint"],
)
def test_an_icmp_error_reaches_coordinator_and_node(request_id, at_once, in_the_loop):
    async def run():
        recorder = Recorder()
        thread = threading.Thread(target=dispatcher_to(recorder).unreachable, args=(NOWHERE, request_id))
        thread.start()
        async with asyncio.timeout(10):
            await recorder.heard.wait()
        thread.join()
        return recorder.calls, thread

    calls, thread = asyncio.run(run())
    assert calls == [
        *((name, what, thread) for name, what in at_once),
        (in_the_loop, [NOWHERE], threading.main_thread()),
    ]


def test_an_overfull_inbox_drops_and_counts():
    async def run():
        taken = []
        line = Line(asyncio.get_running_loop(), taken.extend, 5)
        for n in range(4):
            line.put([n, n])
        before = line.overflowed
        await asyncio.sleep(0)
        line.put([9])
        await asyncio.sleep(0)
        return taken, before, line.overflowed

    assert asyncio.run(run()) == ([0, 0, 1, 1, 2, 9], 3, 3)


def test_a_taker_that_raises_loses_its_batch_only(caplog):
    async def run():
        taken = []

        def take(batch):
            if batch == [1]:
                raise RuntimeError("a bug")
            taken.extend(batch)

        line = Line(asyncio.get_running_loop(), take, 5)
        for n in (1, 2):
            line.put([n])
            await asyncio.sleep(0)
        return taken

    with caplog.at_level("ERROR", logger="kdht"):
        assert asyncio.run(run()) == [2]


def test_a_closed_loop_gets_no_calls():
    async def run():
        return Line(asyncio.get_running_loop(), lambda batch: None, 5)

    asyncio.run(run()).put([1])


class FakeDatapath:
    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "up"

    def status(self):
        return {"state": self.state, "why": "unplugged"}


def test_only_a_dead_transport_ends_the_daemon():
    transport, nfqueue, deaf = FakeDatapath("socket"), FakeDatapath("nfqueue"), []
    logger = StateLogger(lambda: [transport, nfqueue], deaf.append)
    nfqueue.state = "down"
    asyncio.run(logger.look())
    assert deaf == []
    transport.state = "down"
    asyncio.run(logger.look())
    asyncio.run(logger.look())
    assert deaf == ["unplugged"]
