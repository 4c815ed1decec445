"""The DNS face: its parts and its sockets. One event loop."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import dns.name

from kdht.config.faces_schema import DnsSection
from kdht.config.values import FaceEndpoint
from kdht.faces.dns.answers import Answerer, Question, Zone
from kdht.faces.dns.cookies import PURPOSE
from kdht.faces.dns.lookups import Lookups
from kdht.faces.dns.service import DnsService
from kdht.faces.dns.streams import StreamServer
from kdht.faces.face import FaceParts, token_of
from kdht.faces.rates import Rates
from kdht.faces.udp import Peer, UdpServer
from kdht.times import SteadyTime
from kdht.wire.addresses import Address, split_port

MAX_WAITING = 4096
"""Queries by UDP whose names are being read."""


def make(section: DnsSection, parts: FaceParts) -> "DnsFace":
    """Raises ConfigError."""
    counters: Counter[str] = Counter()

    def count(event: str) -> None:
        counters[event] += 1

    return DnsFace(section.listen, service_of(section, parts, count), parts.rights.may_read, counters)


def service_of(section: DnsSection, parts: FaceParts, count: Callable[[str], None]) -> DnsService:
    """All but the sockets. Raises ConfigError."""
    amplified = Rates(section.unproven_rate)

    def may_amplify(asker: Address, now: SteadyTime) -> bool:
        return amplified.allows(network_of(asker), now)

    client = parts.client(token_of(section.token_file, "dns.token_file"), section.scope)
    answerer = Answerer(zone_of(section, parts.nodes), parts.purpose_keys(PURPOSE), may_amplify, count)
    lookups = Lookups(client, section.ttl, parts.unix, parts.steady, count)
    return DnsService(answerer, lookups, Rates(section.rate), may_amplify, parts.unix, parts.steady, count)


def network_of(asker: Address) -> bytes:
    """The /24 of an IPv4 address, as 16 bytes: a forger floods a victim's link by all the addresses behind it."""
    return asker.ip[:-1] + b"\0" if asker.is_ipv4 else asker.ip


def zone_of(section: DnsSection, nodes: Sequence[str]) -> Zone:
    """The zone of a configuration. `nodes`: addresses of the node beside the face, for its own name."""
    # A wildcard is no address that a resolver could ask.
    listen = [at.host for at in section.listen if not at.is_wildcard]
    return Zone(
        origin=_absolute(section.zone),
        nameservers=[_absolute(name) for name in section.nameservers],
        addresses=list(dict.fromkeys(listen or (split_port(node)[0] for node in nodes))),
        ttl=section.ttl,
        negative_ttl=section.negative_ttl,
    )


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name.lower())


class DnsFace:
    """Answers queries at the addresses of `listen`, of the clients that it `serves`."""

    def __init__(
        self,
        listen: Sequence[FaceEndpoint],
        service: DnsService,
        serves: Callable[[bytes], bool],
        counters: Counter[str],
    ) -> None:
        self._service = service
        self._counters = counters
        self._udp = [
            UdpServer(at, "dns.listen", serves, partial(self._received, number))
            for number, at in enumerate(listen)
        ]
        self._tcp = [StreamServer(at, service, serves, self._count) for at in listen]
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises ConfigError."""
        for udp, tcp in zip(self._udp, self._tcp, strict=True):
            udp.start()
            await tcp.start()

    async def stop(self) -> None:
        # Sockets first: no query comes while those that wait are dropped.
        for udp in self._udp:
            udp.stop()
        for tcp in self._tcp:
            await tcp.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._service.stop()

    def counters(self) -> Mapping[str, int]:
        """Queries by way and by answer, drops and refusals by reason."""
        return sum((udp.counters for udp in self._udp), self._counters)

    def _count(self, event: str) -> None:
        self._counters[event] += 1

    def _received(self, number: int, data: bytes, peer: Peer) -> None:
        self._count("udp")
        answer = self._service.at_once(data, Address(peer.ip, peer.port), stream=False)
        if isinstance(answer, bytes):
            self._udp[number].send(answer, peer)
        # Bounded, because anybody can send queries, and each waits for a read.
        elif answer is not None and len(self._tasks) < MAX_WAITING:
            task = asyncio.create_task(self._find_and_send(number, answer, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif answer is not None:
            self._count("busy")

    async def _find_and_send(self, number: int, question: Question, peer: Peer) -> None:
        self._udp[number].send(await self._service.later(question), peer)
