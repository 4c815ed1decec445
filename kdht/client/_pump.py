"""Moves datagrams between a session and its sockets, for both clients. No waiting."""

import socket
from collections.abc import Callable

from kdht.client import _sockets as sockets
from kdht.client._datagram import ANY_NODE
from kdht.client._session import Session


class Pump:
    """`clock` gives the session's time, seconds."""

    def __init__(self, opened: sockets.Sockets, session: Session, clock: Callable[[], float]) -> None:
        self._sockets = opened
        self._session = session
        self._clock = clock

    def send(self) -> None:
        """Send what is in the outbox."""
        outbox = self._session.outbox
        for send in outbox:  # `refused` may append to it
            if not self._sockets.send(send):
                self._session.refused(send.node, self._clock())
        # In place: the session and its requests hold the same list.
        outbox.clear()

    def read(self, node: int, sock: socket.socket) -> int:
        """Hand in up to BURST datagrams of the socket of `node`, or of ANY_NODE; how many there were."""
        count = 0
        for sender, data in self._sockets.arrived(node, sock):
            count += 1
            if data is None:
                self._session.refused(sender, self._clock())
            else:
                self._session.receive(sender, data, self._clock(), direct=node == ANY_NODE)
        return count

    def read_all(self) -> None:
        """Hand in all waiting datagrams, before deadlines pass: they came in time even if the program was blocked."""
        for node, sock in self._sockets:
            for _ in range(sockets.MAX_BURSTS):
                # Less than a whole burst: the socket is empty.
                if self.read(node, sock) < sockets.BURST:
                    break
