"""What a socket's errors mean: nobody is there, or a datagram is lost."""

import errno

import pytest

from kdht.client import _sockets as sockets

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


@pytest.mark.parametrize("code", NOBODY + LOST, ids=errno.errorcode.get)
def test_sending(code):
    assert sockets.send(FailingSocket(code), b"x") is (code in LOST)


def test_a_datagram_that_only_reported_an_earlier_one_is_sent():
    sock = FailingSocket(errno.ECONNREFUSED)
    sockets.send(sock, b"x")
    assert sock.sent == [b"x"]


@pytest.mark.parametrize("code", NOBODY + LOST, ids=errno.errorcode.get)
def test_receiving(code):
    sock = FailingSocket(code)
    assert sockets.receive(sock) == (None if code in LOST else b"")
    assert sockets.receive(sock) == b"data"
