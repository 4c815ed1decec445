"""Swarms as sets: who shares a torrent is a member of the set that its info-hash names.

A swarm has a set for each IP version, because a client can use the addresses of its own version only. A member is a peer's
endpoint (kdht/wire/endpoints.py): priority 0 for a seed, LEECHER (1) for who still downloads. Nothing is kept here that an answer
depends on, so any node's tracker serves any client.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from kdht.client import AsyncClient
from kdht.errors import BadPacket
from kdht.faces.tracker.messages import Swarm
from kdht.times import SteadyTime
from kdht.wire import Address
from kdht.wire.endpoints import Endpoint, parse_endpoint
from kdht.wire.sets import MembersPage

SEED, LEECHER = 0, 1
"""Priorities. A reader of SRV records, too, comes to the seeds first."""
NAME = b"btih:"
"""Before the info-hash in a set's name. Without it a stranger could choose the info-hash that is the name of another's set."""
IPV6 = b"6"
"""Behind the info-hash, in the name of the IPv6 set."""
MAX_RECENT = 65536
"""Announces that are remembered, to save the write of one that repeats them."""


class Found(NamedTuple):
    """What one answer of the cluster says of a swarm."""

    swarm: Swarm
    """Exact for a swarm that fits one answer, some 46 peers; else an estimate from as many."""
    seeds: list[bytes]
    leechers: list[bytes]
    """Compact endpoints: address, port."""


def compact(address: Address) -> bytes:
    """6 bytes, 18 for IPv6."""
    ip = address.ip[12:] if address.is_ipv4 else address.ip
    return ip + address.port.to_bytes(2, "big")


def set_of(info_hash: bytes, *, is_ipv4: bool) -> bytes:
    """The name of a swarm's set."""
    return NAME + info_hash + (b"" if is_ipv4 else IPV6)


class Swarms:
    """`interval`: seconds between announces of one peer."""

    def __init__(self, client: AsyncClient, interval: int, steady: Callable[[], SteadyTime]) -> None:
        self._client = client
        self._interval = interval
        self._steady = steady
        self._recent: OrderedDict[tuple[bytes, Address], tuple[bool, SteadyTime]] = OrderedDict()

    async def announce(self, info_hash: bytes, peer: Address, *, is_seed: bool, again: bool) -> bool:
        """Have a peer in its swarm for two intervals. Returns whether that took a write. Raises RequestError.

        `again`: the client said that nothing happened since its last announce.
        """
        now, key = self._steady(), (info_hash, peer)
        if again and self._is_recent(key, is_seed, now):
            return False
        payload = Endpoint(peer, SEED if is_seed else LEECHER).pack()
        name = set_of(info_hash, is_ipv4=peer.is_ipv4)
        # Soft: clients announce again at each interval, and a power failure of all replicas is no loss that matters here.
        await self._client.announce_once(name, payload, 2 * self._interval, member=compact(peer), soft=True)
        self._recent[key] = (is_seed, now)
        self._recent.move_to_end(key)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return True

    def _is_recent(self, key: tuple[bytes, Address], is_seed: bool, now: SteadyTime) -> bool:
        before = self._recent.get(key)
        return before is not None and before[0] == is_seed and now - before[1] < self._interval / 2

    async def withdraw(self, info_hash: bytes, peer: Address) -> None:
        """Raises RequestError."""
        self._recent.pop((info_hash, peer), None)
        name = set_of(info_hash, is_ipv4=peer.is_ipv4)
        await self._client.withdraw(name, ttl=2 * self._interval, member=compact(peer))

    async def look(self, info_hash: bytes, *, is_ipv4: bool) -> Found:
        """A random part of the swarm. Raises RequestError."""
        return found(await self._client.members_page(set_of(info_hash, is_ipv4=is_ipv4)), is_ipv4=is_ipv4)


def found(page: MembersPage, *, is_ipv4: bool) -> Found:
    """The peers in an answer. Members that are none, for everybody with the right may announce, are left out."""
    seeds: list[bytes] = []
    leechers: list[bytes] = []
    for member in page.members:
        try:
            endpoint = parse_endpoint(member.payload)
        except BadPacket:
            # Anybody with the right may announce anything. What is no endpoint is no peer.
            continue
        if endpoint.address.is_ipv4 == is_ipv4 and endpoint.address.port:
            (leechers if endpoint.priority else seeds).append(compact(endpoint.address))
    shown = len(page.members)
    share = max(page.total, shown) / shown if shown else 0.0
    return Found(Swarm(round(len(seeds) * share), round(len(leechers) * share)), seeds, leechers)


def chosen(found: Found, peer: Address, wanted: int, *, is_seed: bool) -> list[bytes]:
    """Up to `wanted` peers for this one, drawn at random. A seed has no use for seeds."""
    others = [
        each
        for each in (found.leechers if is_seed else found.seeds + found.leechers)
        if each != compact(peer)
    ]
    return random.sample(others, min(wanted, len(others)))
