"""Socket transports on loopback, and who asks them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from chain import IDS, configure

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Receiver
from kdht.datapath.socket.transport import SocketTransport
from kdht.wire import Address

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}
PATIENCE = 10.0  # seconds until a condition that must come true counts as a failure

Start = Callable[..., SocketTransport]


@contextmanager
def transports() -> Iterator[Start]:
    """Starts transports, and stops them at the end. Options of `start` are those of SocketTransport and of Handlers."""
    running: list[SocketTransport] = []

    def start(core: Core, hosts: list[str], receiver: Receiver, **options: object) -> SocketTransport:
        on = {name: options.pop(name) for name in ("unreachable", "away", "time", "read") if name in options}
        transport = SocketTransport(core, [Address.of(host, 0) for host in hosts], **options)
        running.append(transport)
        transport.start(replace(Handlers.without_records(receiver), **on))
        return transport

    try:
        yield start
    finally:
        for transport in running:
            transport.stop()


class Client:
    """A UDP socket that asks and waits."""

    def __init__(self, host: str = LOOPBACK[4]) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE)
        self.sock.bind((host, 0))
        self.address = Address.of(*self.sock.getsockname()[:2])

    def send(self, data: bytes, target: Address) -> None:
        self.sock.sendto(data, (target.host, target.port))

    def receive(self) -> tuple[bytes, Address]:
        data, name = self.sock.recvfrom(2048)
        return data, Address.of(*name[:2])


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        threading.Event().wait(0.002)


def lonely(start: Start, *hosts: str, receiver: Receiver | None = None, **options: object):
    """A started node that knows no other, so that every request is local; and what it got."""
    got: list[Datagram] = []
    core = Core()
    transport = start(core, list(hosts or [LOOPBACK[4]]), receiver or got.extend, **options)
    configure(core, IDS[2], *transport.addresses)
    return core, transport, got


def closed_port(host: str) -> Address:
    with Client(host).sock as sock:
        return Address.of(*sock.getsockname()[:2])
