"""Clients whose nodes are gone, whose event loop is held up, or whose process has forked."""

import asyncio
import os
import socket
import threading
import time
from contextlib import ExitStack, aclosing, closing

import pytest
from both_clients import BOTH
from scripted_node import ScriptedNode, answer, drop, reply_to, value_reply

from kdht import AsyncClient, Client
from kdht.client import _nodes
from kdht.errors import PortClosed, RequestError, RequestTimeout
from kdht.lab.wait import wait_until
from kdht.wire import Message, Record, hash_key
from kdht.wire._shared import TRY_BITS, Op


@pytest.fixture(params=BOTH.values(), ids=BOTH)
def ask(request):
    return request.param


def closed_ports(count: int) -> list[str]:
    """Where nobody listens, as far as can be known."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{sock.getsockname()[1]}" for sock in socks]


# --- Closed ports


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    ("method", "args"), [("get", []), ("put", [b""]), ("delete", []), ("put_large", [b"x"])]
)
def test_closed_ports_are_reported_at_once(ask, nodes, method, args):
    """Not after the time-out, which is an hour here."""
    names = closed_ports(nodes)
    with pytest.raises(PortClosed, match=r"nobody listens at 127\.0\.0\.1:") as caught:
        ask(names, method, "k", *args, client_options={"timeout": 3600.0})
    assert all(name in str(caught.value) for name in names)
    assert caught.value.exit_code == 6


def test_many_requests_at_a_closed_port_end_at_once(ask):
    (name,) = closed_ports(1)
    with pytest.raises(PortClosed):
        ask(name, "get_many", [str(n) for n in range(5000)], window=5000, client_options={"timeout": 3600.0})


def test_a_closed_port_is_reported_to_each_of_many_requests():
    async def run(name):
        async with AsyncClient(name, timeout=3600.0) as client:
            return await asyncio.gather(*(client.get(str(n)) for n in range(2000)), return_exceptions=True)

    (name,) = closed_ports(1)
    assert {type(error) for error in asyncio.run(run(name))} == {PortClosed}


def test_one_closed_port_among_others_costs_one_datagram(ask):
    with ScriptedNode(lambda _, request: [value_reply(request, b"")]) as node:
        names = [*closed_ports(3), node.name]
        values = {str(number): b"" for number in range(300)}
        assert len(ask(names, "put_many", values, client_options={"timeout": 60.0})) == 300
    assert len(requests(node)) == 300


def test_a_watch_of_closed_ports_ends_with_an_error(monkeypatch):
    """It asks now and then until its time-out, and says so."""
    names = closed_ports(2)
    sent: list[float] = []
    send = socket.socket.send
    monkeypatch.setattr(
        "kdht.client._sockets.send", lambda sock, data, target=None: _counted(sent, sock, data, send)
    )

    async def in_a_loop():
        async with AsyncClient(names, timeout=0.5) as client, aclosing(client.watch("k")) as events:
            await anext(events)

    def blocking():
        with Client(names, timeout=0.5) as client, closing(client.watch("k")) as events:
            next(events)

    for run in (blocking, lambda: asyncio.run(in_a_loop())):
        sent.clear()
        with pytest.raises(RequestTimeout, match="watch 'k'"):
            run()
        assert len(sent) < 20


def _counted(sent, sock, data, send):
    sent.append(time.monotonic())
    try:
        send(sock, data)
    except ConnectionRefusedError:
        return False
    return True


def test_a_watch_whose_nodes_went_away_ends(monkeypatch):
    """Both had answered before."""
    monkeypatch.setattr(_nodes, "START_RTO", 0.05)
    with ScriptedNode(lambda _, request: [reply_to(request, body=Record(1).pack())]) as node:
        client = Client([node.name, *closed_ports(1)], timeout=0.3)
        events = client.watch("k", lease=1)
        assert next(events).version == 1
    with closing(client), pytest.raises(RequestTimeout):
        next(events)


# --- Held up


def late(request: Message) -> list[bytes]:
    return [value_reply(request, request.key)]


def test_a_blocked_loop_reads_waiting_answers_before_it_times_out():
    """All were answered while the loop stood still, for longer than the time-out; there are more than are read at once."""

    async def run(name):
        async with AsyncClient(name, timeout=0.3) as client:
            await client.get("first")
            names = [str(number) for number in range(150)]  # more than are read at once
            asked = [asyncio.ensure_future(client.get(name)) for name in names]
            await asyncio.sleep(0)
            while len(requests(node)) < 151:
                time.sleep(0.01)  # noqa: ASYNC251 - the loop stands still
            time.sleep(0.4)  # noqa: ASYNC251
            return await asyncio.gather(*asked) == [hash_key(name) for name in names]

    with ScriptedNode(lambda _, request: late(request)) as node:
        assert asyncio.run(run(node.name))


def answered_when(go: threading.Event, name: str):
    """A node that answers for that key once it may."""

    def react(_node, request):
        if request.key == hash_key(name):
            go.wait(5)
        return late(request)

    return react


def test_an_overdue_timer_reads_waiting_answers_first():
    """The loop is held up between the choice of what is due and the timer's turn."""
    go = threading.Event()

    def hold_up():
        go.set()
        time.sleep(0.4)

    async def run(name):
        async with AsyncClient(name, timeout=0.2, attempts=1) as client:
            await client.get("first")
            asked = asyncio.ensure_future(client.get("k"))
            await asyncio.sleep(0)
            due = client._driver._timer.when()
            asyncio.get_running_loop().call_at(due - 1e-6, hold_up)
            return await asked

    with ScriptedNode(answered_when(go, "k")) as node:
        assert asyncio.run(run(node.name)) == hash_key("k")


def test_a_stopped_process_reads_waiting_answers_before_it_times_out():
    """Stopped after it had looked for datagrams and before it looked at the clock."""
    go = threading.Event()

    class Stopped:
        def __init__(self, selector):
            self._selector = selector

        def select(self, timeout):
            if go.is_set():
                return self._selector.select(timeout)
            go.set()
            time.sleep(0.4)
            return []

        def __getattr__(self, name):
            return getattr(self._selector, name)

    with ScriptedNode(answered_when(go, "other")) as node, Client(node.name, timeout=0.2) as client:
        assert client.get("k") == hash_key("k")
        client._selector = Stopped(client._selector)
        assert client.get("other") == hash_key("other")


# --- Forks


def requests(node: ScriptedNode) -> set[int]:
    """What was asked, however often."""
    return {request.request_id >> TRY_BITS for request in node.seen}


def in_a_child(work) -> str:
    """What `work` raises in a forked process."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                work()
                said = "nothing"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writable, said.encode())
        finally:
            os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    with open(readable) as said:
        return said.read()


def test_a_client_belongs_to_the_process_that_made_it():
    with ScriptedNode(answer) as node, Client(node.name) as client:
        assert client.get("k") == b"world"
        for work in (
            lambda: client.get("k"),
            lambda: client.put_many({"k": b""}),
            lambda: client.put_large("k", b""),
            lambda: next(client.watch("k")),
        ):
            said = in_a_child(work)
            assert said.startswith("RequestError: ")
            assert f"belongs to process {os.getpid()}" in said
            assert "make a new client after a fork" in said
        assert in_a_child(client.close) == "nothing"
        assert client.get("k") == b"world"
    assert len(requests(node)) == 2


def test_an_asyncio_client_belongs_to_the_process_that_made_it():
    async def run(name):
        async with AsyncClient(name) as client, aclosing(client.watch("k")) as events:
            await anext(events)

            def elsewhere(work):
                return lambda: asyncio.new_event_loop().run_until_complete(work())

            async def next_event():
                await anext(client.watch("k"))

            for work in (lambda: client.get("k"), lambda: client.put_many({"k": b""}), next_event):
                assert "make a new client after a fork" in in_a_child(elsewhere(work))
            assert in_a_child(elsewhere(client.close)) == "nothing"
            assert in_a_child(elsewhere(events.aclose)) == "nothing"
            assert await client.get("k") == b"world"
        assert len(requests(node)) == 2, "the child asked for nothing"

    def ends():
        return [request.body for request in node.seen].count(bytes(4))

    with ScriptedNode(answer) as node:
        asyncio.run(run(node.name))
        wait_until(lambda: ends() > 0, "the watch's end has come")
        assert ends() == 1, "the child ended no watch"


def test_an_unused_client_belongs_to_the_process_that_made_it():
    client = AsyncClient("127.0.0.1:1")

    def use():
        asyncio.new_event_loop().run_until_complete(client.get("k"))

    assert "after a fork" in in_a_child(use)


def test_silence_is_still_a_time_out(ask):
    with ScriptedNode(drop) as node, pytest.raises(RequestTimeout, match="no answer within") as caught:
        ask(node.name, "get", "k", client_options={"attempts": 1})
    assert not isinstance(caught.value, PortClosed)
    assert isinstance(caught.value, RequestError)
    assert node.seen[0].op == Op.GET
