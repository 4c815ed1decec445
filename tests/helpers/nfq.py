"""What the nfqueue tests share: sockets in hosts, and a node of hand-set tables with all its parts."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chain import answer, configure

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers
from kdht.datapath.nfqueue.datapath import NfqueueDatapath, NfqueueOptions
from kdht.datapath.socket.transport import SocketTransport
from kdht.lab.netns import Host
from kdht.wire import Address, Contact
from kdht.wire._shared import PORT


def udp(host: Host, address: str, port: int = 0) -> socket.socket:
    """A bound socket in a host, with a time-out."""
    with host.enter():
        there = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        there.settimeout(10)
        there.bind((address, port))
    return there


def arrived(there: socket.socket) -> list[tuple[bytes, str, int]]:
    """What waits in a socket now: data, sender's host and port."""
    there.setblocking(False)
    found = []
    try:
        while True:
            data, sender = there.recvfrom(2048)
            found.append((data, sender[0], sender[1]))
    except BlockingIOError:
        return found
    finally:
        there.settimeout(10)


def echo_through(one: socket.socket, other: socket.socket, target: tuple[str, int]) -> None:
    """Send one datagram to `other` and wait for it: what was sent before on this way has arrived, or never will."""
    one.sendto(b"through", target)
    while other.recvfrom(2048)[0] != b"through":
        pass


class Node:
    """One node in a host: core, sockets underneath, and the nfqueue datapath, not yet started."""

    def __init__(
        self, host: Host, node_id: bytes, addresses: list[str], state: Path, **options: object
    ) -> None:
        self.host = host
        self.id = node_id
        self.addresses = [Address.of(each, PORT) for each in addresses]
        self.core = Core()
        configure(self.core, node_id, *self.addresses)
        self.transport = SocketTransport(self.core, self.addresses)
        self.options = NfqueueOptions(
            addresses=tuple(self.addresses), runtime_dir=state / f"{host.name}", **options
        )
        self.datapath = NfqueueDatapath(self.core, self.options)
        self.received: list[Datagram] = []
        self.reply = b""
        """Not empty: what the owner answers with."""

    def knows(self, bucket: int, other: "Node", family: int = 4) -> None:
        found = next(each for each in other.addresses if each.is_ipv4 == (family == 4))
        self.core.set_bucket(bucket, [Contact(other.id, *found)])

    def _receive(self, batch: list[Datagram]) -> None:
        self.received += batch
        if self.reply:
            self.transport.send([answer(each, self.reply, int(time.time())) for each in batch])

    def status(self) -> dict:
        with self.host.enter():
            return dict(self.datapath.status())

    def count(self, name: str) -> int:
        """One of the queues' counters, over all queues."""
        return sum(queue[name] for queue in self.status()["queues"])

    @contextmanager
    def running(self) -> Iterator["Node"]:
        with self.host.enter():
            self.transport.start(Handlers.without_records(self._receive))
            try:
                self.datapath.start()
                yield self
            finally:
                self.datapath.stop()
                self.transport.stop()
