"""The tracker as a server.

A connection ID is a cookie of the client's address, good at every tracker of the cluster for two minutes at least (BEP 15). So a
tracker keeps nothing for a client, and who has not shown its address gets 16 bytes for 16.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from kdht.config.faces_schema import TrackerSection
from kdht.errors import BadPacket, RequestError
from kdht.faces.face import FaceParts, token_of
from kdht.faces.rates import Rates
from kdht.faces.tracker import messages
from kdht.faces.tracker.messages import Announce, Connect, Scrape
from kdht.faces.tracker.swarms import Swarms, chosen
from kdht.faces.udp import NOT_ALLOWED, Peer, UdpServer
from kdht.wire import Address
from kdht.wire.tags import make_cookie, valid_cookie

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 2048
"""Requests that wait for the cluster. More are dropped: their clients ask again."""
# Of a client that leaves it to the tracker. BEP 15 names no number; 50 is usual.
DEFAULT_WANTED = 50
EVERY = 2**32 - 1
"""The number of peers wanted by a client that names none."""
HASHES_PER_REQUEST = 8
"""Info-hashes of a scrape that count as one request in the client's rate."""
TRY_LATER = "the cluster does not answer now: try again later"
READS_ONLY = "this tracker takes no announces from your address"
SECONDS = 10.0
"""That a client's request may take."""


class TrackerFace:
    """See Face."""

    def __init__(self, section: TrackerSection, parts: FaceParts) -> None:
        client = parts.client(token_of(section.token_file, "tracker.token_file"), section.scope)
        self._swarms = Swarms(client, section.interval, parts.steady)
        self._interval = section.interval
        self._parts = parts
        self._keys = parts.purpose_keys(b"kdht-tracker")
        self._rates = Rates(section.rate)
        # Apart, so that connects with a forged source do not use up what is its owner's.
        self._connects = Rates(section.rate)
        self._counters: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()
        self._servers = [
            UdpServer(at, "tracker.listen", parts.rights.may_read, partial(self._receive, number))
            for number, at in enumerate(section.listen)
        ]

    async def start(self) -> None:
        for server in self._servers:
            server.start()

    async def stop(self) -> None:
        for server in self._servers:
            server.stop()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def counters(self) -> Mapping[str, int]:
        return sum((server.counters for server in self._servers), self._counters)

    def _receive(self, number: int, data: bytes, peer: Peer) -> None:
        try:
            request = messages.parse(data)
            self._dispatch(self._servers[number], request, peer)
        except BadPacket as bad:
            self._counters[f"dropped_{bad.reason.lower()}"] += 1

    def _dispatch(self, server: UdpServer, request: Connect | Announce | Scrape, peer: Peer) -> None:
        """Raises BadPacket for a request that gets no answer."""
        now = self._parts.steady()
        if isinstance(request, Connect):
            if not self._connects.allows(peer.ip, now):
                raise BadPacket("TOO_OFTEN")
            self._counters["connect"] += 1
            cookie = make_cookie(self._keys[0], peer.ip, int(self._parts.unix()))
            server.send(messages.pack_connected(request.transaction, cookie), peer)
            return
        unix = int(self._parts.unix())
        if not any(valid_cookie(request.connection, key, peer.ip, unix) for key in self._keys):
            raise BadPacket("BAD_COOKIE")
        cost = len(request.info_hashes) / HASHES_PER_REQUEST if isinstance(request, Scrape) else 0.0
        if not self._rates.allows(peer.ip, now, max(cost, 1.0)):
            raise BadPacket("TOO_OFTEN")
        if isinstance(request, Announce) and not self._parts.rights.may_write(peer.ip):
            # Its address is proven: this is no answer to a forged source.
            self._counters[NOT_ALLOWED] += 1
            server.send(messages.pack_error(request.transaction, READS_ONLY), peer)
            return
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise BadPacket("BUSY")
        answer = self._announced if isinstance(request, Announce) else self._scraped
        self._begin(self._answer(server, peer, request.transaction, answer(request, peer)))  # type: ignore[arg-type]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(
        self, server: UdpServer, peer: Peer, transaction: int, work: Coroutine[Any, Any, bytes]
    ) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                reply = await work
        except (RequestError, TimeoutError) as error:
            why = getattr(error, "status", None) or type(error).__name__
            self._counters[f"failed_{why.lower()}"] += 1
            self._tell(why, error)
            reply = messages.pack_error(transaction, TRY_LATER)
        server.send(reply, peer)

    def _tell(self, why: str, error: Exception) -> None:
        """Once for each reason: the counters have how often."""
        if why not in self._told:
            self._told.add(why)
            log.warning("a request of a client failed", extra={"error": error or why})

    async def _announced(self, request: Announce, peer: Peer) -> bytes:
        # The sender's own address, whatever it says: else anybody could send a swarm to a stranger.
        at, is_seed = Address(peer.ip, request.port), request.left == 0
        if request.event == messages.STOPPED:
            self._counters["stopped"] += 1
            await self._swarms.withdraw(request.info_hash, at)
            return messages.pack_announced(request.transaction, self._interval, messages.NOBODY, ())
        self._counters["announce"] += 1
        found, wrote = await asyncio.gather(
            self._swarms.look(request.info_hash, is_ipv4=at.is_ipv4),
            self._swarms.announce(
                request.info_hash, at, is_seed=is_seed, again=request.event == messages.NONE
            ),
        )
        self._counters["written"] += wrote
        wanted = DEFAULT_WANTED if request.wanted == EVERY else request.wanted
        peers = chosen(found, at, wanted, is_seed=is_seed)
        return messages.pack_announced(request.transaction, self._interval, found.swarm, peers)

    async def _scraped(self, request: Scrape, peer: Peer) -> bytes:
        self._counters["scrape"] += 1
        is_ipv4 = Address(peer.ip, peer.port).is_ipv4
        looks = (self._swarms.look(info_hash, is_ipv4=is_ipv4) for info_hash in request.info_hashes)
        return messages.pack_scraped(
            request.transaction, [found.swarm for found in await asyncio.gather(*looks)]
        )


def make(section: TrackerSection, parts: FaceParts) -> TrackerFace:
    """Raises ConfigError for a token that cannot be used."""
    return TrackerFace(section, parts)
