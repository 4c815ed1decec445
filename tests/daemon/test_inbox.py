"""From the transport's thread to the loop: sorted, in order, bounded."""

import asyncio
import threading

from kdht.daemon.inbox import Inbox, Line
from kdht.daemon.process.housekeeping import Watcher
from kdht.datapath.base import Datagram
from kdht.wire import NOWHERE, OFFSET
from kdht.wire._shared import HEADER_LEN, Op, Reason


def datagram(number: int, reason: Reason, op: Op = Op.PING) -> Datagram:
    data = bytearray(HEADER_LEN)
    data[0], data[OFFSET["op"]] = number, op
    return Datagram(bytes(data), NOWHERE, NOWHERE, reason, 0)


def test_requests_and_replicas_stay_on_the_thread_and_control_messages_go_to_the_loop():
    async def run():
        loop = asyncio.get_running_loop()
        routed, replicas, control, done = [], [], [], asyncio.Event()

        def take(batch):
            control.append((batch, threading.current_thread()))
            done.set()

        inbox = Inbox()
        inbox.connect(
            lambda batch: routed.append((batch, threading.current_thread())),
            lambda batch: replicas.append((batch, threading.current_thread())),
            lambda address: None,
            Line(loop, take, 10),
            Line(loop, control.append, 10),
            Line(loop, control.append, 10),
        )
        mixed = [datagram(n, Reason.CONTROL if n % 2 else Reason.OWNER) for n in range(6)]
        mixed += [datagram(6, Reason.CONTROL, Op.STORE), datagram(7, Reason.CONTROL, Op.FETCH)]
        thread = threading.Thread(target=inbox.receive, args=(mixed,))
        thread.start()
        await done.wait()
        thread.join()
        return routed, replicas, control, thread

    routed, replicas, control, thread = asyncio.run(run())
    assert [(d.data[0], where) for batch, where in replicas for d in batch] == [(6, thread), (7, thread)]
    assert [(d.data[0], where) for batch, where in routed for d in batch] == [(n, thread) for n in (0, 2, 4)]
    assert [(d.data[0], where) for batch, where in control for d in batch] == [
        (n, threading.main_thread()) for n in (1, 3, 5)
    ]


def test_what_does_not_fit_is_dropped_and_counted():
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


def test_after_the_loops_end_nothing_happens():
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
    watcher = Watcher(lambda: [transport, nfqueue], deaf.append)
    nfqueue.state = "down"
    asyncio.run(watcher.look())
    assert deaf == []
    transport.state = "down"
    asyncio.run(watcher.look())
    asyncio.run(watcher.look())
    assert deaf == ["unplugged"]
