"""Sends datagrams late, twice, in another order: `python -m histories.relay` on the bridge's side of the hosts' links.

A line of JSON on standard input (`network.Wire`) says what is done from now on, and is answered by a line.
Frames are taken from the wire before the rules drop them. They keep their offload header, for their checksums are
not yet computed.
"""

import heapq
import random
import selectors
import socket
import sys
import time

import msgspec

from histories.network import UNTOUCHED, Treatment, Wire

ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
VNET_HDR_LEN = 10
MAX_FRAME = 65536
UDP = 17
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"


class Relay:
    """Ports are opened when they are relayed for first, and stay open."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._sockets: dict[str, socket.socket] = {}
        self._wire = Wire({}, {}, {}, 0)
        self._owners: dict[bytes, str] = {}
        self._rng = random.Random()
        self._waiting: list[tuple[float, int, str, bytes]] = []
        self._order = 0

    def set(self, wire: Wire) -> None:
        if wire.seed != self._wire.seed:
            self._rng.seed(wire.seed)
        self._wire = wire
        self._owners = {bytes.fromhex(mac.replace(":", "")): port for mac, port in wire.owners.items()}
        for port in {*wire.ports, *self._owners.values()} - self._sockets.keys():
            self._sockets[port] = self._open(port)
        for port, sock in list(self._sockets.items()):
            self._listen(port, sock, port in wire.ports)

    def take(self, port: str, frame: bytes, now: float) -> None:
        """A frame that a host sent: when it goes on, if it does."""
        head = frame[VNET_HDR_LEN:]
        target = self._owners.get(head[:6])
        if target is None or not _is_udp(head) or target in self._wire.cuts.get(port, ()):
            return
        treatment = self._wire.ports.get(port, UNTOUCHED)
        if self._rng.randrange(1000) >= treatment.loss_permille:
            self._queue(now, treatment, target, frame)
        if self._rng.randrange(1000) < treatment.duplicate_permille:
            self._queue(now + self._rng.random() * treatment.late_ms / 1000, treatment, target, frame)

    def _queue(self, now: float, treatment: Treatment, target: str, frame: bytes) -> None:
        delay = treatment.delay_ms + self._rng.random() * treatment.jitter_ms
        self._order += 1
        heapq.heappush(self._waiting, (now + delay / 1000, self._order, target, frame))

    def send_due(self, now: float) -> float | None:
        """Send the frames that are due. Returns the seconds until the next."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                self._sockets[target].send(frame)
            except OSError:  # the host's link is down: lost
                continue
        return max(self._waiting[0][0] - now, 0) if self._waiting else None

    def read(self, port: str) -> None:
        sock = self._sockets[port]
        for _ in range(64):
            try:
                frame = sock.recv(MAX_FRAME)
            except BlockingIOError:
                return
            except OSError:  # the link went down
                return
            self.take(port, frame, time.monotonic())

    def _open(self, port: str) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setblocking(False)
        sock.bind((port, 0))
        return sock

    def _listen(self, port: str, sock: socket.socket, wanted: bool) -> None:
        listens = sock in self.selector.get_map()
        if wanted and not listens:
            sock.bind((port, ETH_P_ALL))
            self.selector.register(sock, selectors.EVENT_READ, port)
        elif listens and not wanted:  # a packet socket cannot be told to hear nothing again
            self.selector.unregister(sock)
            sock.close()
            self._sockets[port] = self._open(port)


def _is_udp(frame: bytes) -> bool:
    kind = frame[12:14]
    return (kind == IPV4 and frame[23] == UDP) or (kind == IPV6 and frame[20] == UDP)


def main() -> None:
    relay = Relay()
    commands = sys.stdin.buffer
    relay.selector.register(commands, selectors.EVENT_READ, None)
    wait: float | None = None
    while True:
        for selected, _ in relay.selector.select(wait):
            if selected.data is not None:
                relay.read(selected.data)
                continue
            line = commands.readline()
            if not line:
                return
            relay.set(msgspec.json.decode(line, type=Wire))
            print("done", flush=True)
        wait = relay.send_due(time.monotonic())


if __name__ == "__main__":
    main()
