"""Finds the cluster's nodes on this host's links by multicast, and answers others who look for them: node.discover.

A question goes from port 5347 of each own address to the groups of kdht/wire/discovery.py, with TTL 1. So routers never pass it on, and a
firewall needs one rule. Who has the cluster's secret answers to the asker alone.

Contract: `ask` blocks, for SECONDS at most, and may run in any thread. `answering` belongs to the event loop. Both take
bytes of strangers: what is no message of the cluster is counted by reason, and dropped.
"""

import asyncio
import logging
import secrets
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from typing import Any, cast

from kdht.config.settings import Settings
from kdht.datapath.host.local_addresses import interface_of
from kdht.errors import BadPacket
from kdht.wire import Address, discovery
from kdht.wire._shared import DISCOVERY_PORT
from kdht.wire.discovery import Discovery, Kind

log = logging.getLogger(__name__)

SENDS_AT = (0.0, 0.2, 0.5)
"""Seconds. Multicast is often lost: a wireless link sends it once."""
SECONDS = 1.0
"""From the first question to the last answer."""
# To join takes one neighbour. The others come with its table.
MOST_FOUND = 64
ANSWERS_A_SECOND = 50
"""Of one node: more questions may be repeated ones, whose source is forged."""


def ask(settings: Settings) -> list[Address]:
    """Addresses of the cluster's nodes on the links of this node's own addresses. Empty without any. Blocks."""
    question = secrets.token_bytes(discovery.QUESTION_LEN)
    found: dict[Address, None] = {}
    with ExitStack() as opened:
        sockets = [opened.enter_context(closing(sock)) for sock in _askers(settings.unicast)]
        begun = time.monotonic()
        sends = iter(SENDS_AT)
        next_send = next(sends, None)
        while sockets and (left := begun + SECONDS - time.monotonic()) > 0:
            if next_send is not None and time.monotonic() >= begun + next_send:
                packed = discovery.pack(
                    Discovery(Kind.QUESTION, question), settings.keys[0], int(time.time())
                )
                for sock in sockets:
                    _to_group(sock, packed)
                next_send = next(sends, None)
            due = left if next_send is None else max(begun + next_send - time.monotonic(), 0)
            for sock in select.select(sockets, [], [], min(left, due))[0]:
                _take(sock, settings, question, int(time.time()), found)
    own = (*settings.own, *settings.also)
    return [address for address in found if address not in own][:MOST_FOUND]


def _askers(own: Sequence[Address]) -> Iterator[socket.socket]:
    """A socket at each own address, but for those that no interface has now."""
    for address in own:
        sock = socket.socket(_family(address), socket.SOCK_DGRAM)
        try:
            # A node that answers has the port at every address; this socket has it at one, so answers come here.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((address.host, DISCOVERY_PORT))
            if address.is_ipv4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.ip[12:])
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface_of(address.host))
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        except OSError as error:
            log.debug("cannot look for nodes", extra={"address": address, "error": error})
            sock.close()
            continue
        yield sock


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.is_ipv4 else socket.AF_INET6


def _to_group(sock: socket.socket, packed: bytes) -> None:
    group = discovery.GROUP4 if sock.family == socket.AF_INET else discovery.GROUP6
    with suppress(OSError):  # no route, or a full queue: the next one may leave
        sock.sendto(packed, (group, DISCOVERY_PORT))


def _take(
    sock: socket.socket, settings: Settings, question: bytes, now: int, found: dict[Address, None]
) -> None:
    try:
        data, _ = sock.recvfrom(discovery.LENGTH + 1)
        answer = discovery.parse(data, settings.keys, now, settings.config.node.replay_window)
    except (OSError, BadPacket):  # somebody else's
        return
    if answer.kind is Kind.ANSWER and answer.question == question and _is_usable(answer.address):
        found[answer.address] = None


def _is_usable(address: Address) -> bool:
    return address.port != 0 and any(address.ip) and not address.is_loopback


class Responder(asyncio.DatagramProtocol):
    """Answers the questions that come to one socket. `counts` has them by what became of them."""

    def __init__(self, current: Callable[[], Settings], counts: Counter[str], *, is_ipv4: bool) -> None:
        self._current = current
        self._counts = counts
        self._is_ipv4 = is_ipv4
        self._second = 0
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own class is no DatagramTransport by name.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: tuple[Any, ...]) -> None:
        settings, now = self._current(), int(time.time())
        own = next((each for each in settings.unicast if each.is_ipv4 == self._is_ipv4), None)
        try:
            asked = discovery.parse(data, settings.keys, now, settings.config.node.replay_window)
        except BadPacket as error:
            self._counts[error.reason] += 1
            return
        if asked.kind is not Kind.QUESTION or own is None:
            self._counts["NOT_OURS"] += 1
        elif not self._may_send(now):
            self._counts["RATE_LIMITED"] += 1
        else:
            self._counts["answered"] += 1
            answer = Discovery(Kind.ANSWER, asked.question, own)
            key = next(key for key in settings.keys if key.epoch == data[discovery.EPOCH_AT])
            self._transport.sendto(discovery.pack(answer, key, now), source)

    def _may_send(self, second: int) -> bool:
        if second != self._second:
            self._second, self._sent = second, 0
        self._sent += 1
        return self._sent <= ANSWERS_A_SECOND


@asynccontextmanager
async def answering(current: Callable[[], Settings], counts: Counter[str]) -> AsyncIterator[None]:
    """While the block runs, questions are answered, if node.discover is true. `current()` gives the settings of now."""
    with ExitStack() as opened:
        for sock in _listeners(current()):
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                partial(Responder, current, counts, is_ipv4=sock.family == socket.AF_INET), sock=sock
            )
            opened.callback(transport.close)
        yield


def _listeners(settings: Settings) -> Iterator[socket.socket]:
    """For each IP version a socket that is in the group at every link of this node's own addresses."""
    if not settings.config.node.discover:
        return
    for is_ipv4 in (True, False):
        own = [address for address in settings.unicast if address.is_ipv4 == is_ipv4]
        if not own:
            continue
        sock = socket.socket(_family(own[0]), socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            if is_ipv4:
                sock.bind(("0.0.0.0", DISCOVERY_PORT))
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::", DISCOVERY_PORT))
            for membership in dict.fromkeys(map(_membership, own)):
                sock.setsockopt(*membership)
        except OSError as error:
            sock.close()
            log.warning(
                "no node can find this one by multicast: free the port or let it join the group, then start it again",
                extra={"port": DISCOVERY_PORT, "ip": 4 if is_ipv4 else 6, "error": error},
            )
            continue
        yield sock


def _membership(own: Address) -> tuple[int, int, bytes]:
    """The socket option that joins the group at an own address's link. Raises OSError if no interface has the address."""
    if own.is_ipv4:
        return (
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(discovery.GROUP4) + own.ip[12:],
        )
    group = socket.inet_pton(socket.AF_INET6, discovery.GROUP6)
    index = interface_of(own.host)
    return socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index.to_bytes(4, sys.byteorder)
