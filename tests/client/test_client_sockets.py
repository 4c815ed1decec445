"""What a socket's errors mean: nobody is there, or a datagram is lost."""

import errno
from itertools import islice

import pytest
from scripted_node import ScriptedNode, value_reply

from kdht import Client
from kdht.client import _sockets as sockets
from kdht.client._datagram import ANY_NODE

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
def test_send_is_false_only_if_nobody_is_there(code):
    assert sockets.send(FailingSocket(code), b"x") is (code in LOST)


def test_a_datagram_is_sent_again_after_the_error_of_an_earlier_one():
    sock = FailingSocket(errno.ECONNREFUSED)
    sockets.send(sock, b"x")
    assert sock.sent == [b"x"]


@pytest.fixture
def opened():
    with ScriptedNode() as node:
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
