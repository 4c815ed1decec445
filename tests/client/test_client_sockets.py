"""What a socket's errors mean: nobody is there, or a datagram is lost."""

import asyncio
import errno
import socket
import threading
from itertools import islice

import pytest
from scripted_node import ScriptedNode, value_reply

from kdht import AsyncClient, Client
from kdht.client import _sockets as sockets
from kdht.client._datagram import ANY_NODE, Send
from kdht.errors import RequestError
from kdht.wire import Address, hash_key, pack_request, parse
from kdht.wire._shared import Op

NOBODY = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN]
LOST = [errno.EAGAIN, errno.ENOBUFS, errno.EPERM, errno.EMSGSIZE]


class FailingSocket:
    """Fails once with an error, then works."""

    def __init__(self, code: int) -> None:
        self._errors = [OSError(code, "told by the kernel")]
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        if self._errors:
            raise self._errors.pop()
        self.sent.append(data)

    def recv(self, _limit: int) -> bytes:
        if self._errors:
            raise self._errors.pop()
        return b"data"

    def recvfrom(self, limit: int) -> tuple[bytes, tuple[str, int]]:
        return self.recv(limit), ("192.0.2.1", 5348)


@pytest.mark.parametrize("code", NOBODY + LOST, ids=errno.errorcode.get)
def test_send_fails_only_without_a_receiver(code):
    assert sockets.send(FailingSocket(code), b"x") is (code in LOST)


def test_a_datagram_is_sent_again_after_the_error_of_an_earlier_one():
    sock = FailingSocket(errno.ECONNREFUSED)
    sockets.send(sock, b"x")
    assert sock.sent == [b"x"]


@pytest.fixture
def opened():
    with ScriptedNode(lambda node, request: []) as node:
        opened = sockets.Sockets(
            sockets.resolve(sockets.node_list(node.name)),
            direct=False,
            on_open=lambda node, sock: None,
            on_close=lambda sock: None,
        )
        yield opened
        opened.close()


@pytest.mark.parametrize("code", NOBODY, ids=errno.errorcode.get)
def test_a_closed_port_is_reported_between_datagrams(opened, code):
    arrived = opened.arrived(0, FailingSocket(code))
    assert list(islice(arrived, 3)) == [(0, None), (0, b"data"), (0, b"data")]


@pytest.mark.parametrize("code", LOST, ids=errno.errorcode.get)
def test_an_empty_socket_gives_nothing(opened, code):
    sock = FailingSocket(code)
    assert list(opened.arrived(0, sock)) == []
    assert list(opened.arrived(0, sock)) == [(0, b"data")] * sockets.BURST


def test_an_error_of_the_unconnected_socket_marks_no_node_dead(opened):
    sock = FailingSocket(errno.ECONNREFUSED)
    assert list(opened.arrived(ANY_NODE, sock)) == []
    assert list(islice(opened.arrived(ANY_NODE, sock), 1)) == [(ANY_NODE, b"data")]


def test_an_empty_datagram_marks_no_node_dead():
    with (
        ScriptedNode(lambda node, request: [b"", value_reply(request)]) as node,
        Client(node.name, timeout=1.0) as client,
    ):
        assert client.get("hello") == b"world"
        assert not client._session.state.nodes[0].dead
        assert client._session.ignored == 1


# --- Another source port after losses ----------------------------------------------------


REQUEST = bytes(pack_request(Op.GET, hash_key("k"), 1))


class OneWayIsDead:
    """A node behind routers with several ways to it: what comes from the ports in `dead` is lost.

    `most`: how many ports of a client are dead, its first ones.
    """

    def __init__(self, most: int) -> None:
        self.ports: list[int] = []
        """In the order in which they were seen."""
        self._most = most
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ender:
            ender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(65536)
            if not data:
                return
            if client[1] not in self.ports:
                self.ports.append(client[1])
            if self.ports.index(client[1]) >= self._most:
                self._socket.sendto(value_reply(parse(data)), client)


@pytest.fixture(params=[0, 1, 2])
def way(request):
    way = OneWayIsDead(request.param)
    yield way
    way.close()


def test_two_losses_change_the_source_port(way):
    with Client(way.name, timeout=10) as client:
        for _ in range(20):
            assert client.get("k") == b"world"
    assert len(way.ports) == way._most + 1, "a port that works is kept"


def test_two_losses_change_the_source_port_in_a_loop(way):
    async def run() -> None:
        async with AsyncClient(way.name, timeout=10) as client:
            for _ in range(20):
                assert await client.get("k") == b"world"

    asyncio.run(run())
    assert len(way.ports) == way._most + 1


def test_a_late_answer_to_the_former_port_still_counts(opened):
    before = opened._connected[0]
    opened.send(Send(0, REQUEST, port=1))
    after = opened._connected[0]
    assert before.getsockname() != after.getsockname()
    assert {sock for _, sock in opened} == {before, after}
    opened.send(Send(0, REQUEST, port=1))
    assert opened._connected[0] is after
    opened.send(Send(0, REQUEST, port=2))
    assert before.fileno() == -1, "only one former port is kept"
    assert after.fileno() >= 0


def without_descriptors(monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sockets, "_udp_socket", refuse)


def test_without_a_descriptor_for_another_port_the_old_one_goes_on(opened, monkeypatch):
    before = opened._connected[0]
    without_descriptors(monkeypatch)
    assert opened.send(Send(0, REQUEST, port=1))
    assert opened._connected[0] is before


def test_without_a_descriptor_for_a_learnt_node_another_one_is_asked(opened, monkeypatch):
    node = 5
    assert opened.place(node, Address.of("127.0.0.77", 5348))
    without_descriptors(monkeypatch)
    assert not opened.send(Send(node, REQUEST))


def test_without_descriptors_a_client_says_so(monkeypatch):
    without_descriptors(monkeypatch)
    with pytest.raises(RequestError, match="Too many open files"):
        Client("127.0.0.1", timeout=1).get("k")
