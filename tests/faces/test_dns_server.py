"""The DNS face on loopback, beside a cluster that the test scripts: what it reads, repeats, bounds and forgets."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from daemons import free_port

from kdht.config.faces_schema import DnsSection
from kdht.config.values import FaceEndpoint
from kdht.errors import ConfigError, NotFound, RequestTimeout
from kdht.faces.dns import lookups, streams
from kdht.faces.dns.face import DnsFace, make, service_of
from kdht.faces.face import FaceParts
from kdht.faces.senders import SenderRights
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Address, Record
from kdht.wire.sets import Member

HOST = "127.62.1.1"
SECONDS = 30.0
LENGTH = struct.Struct(">H")


class ScriptedClient:
    """A client of a cluster that has what the test says."""

    def __init__(self) -> None:
        self.sets: dict[bytes, list[Member]] = {}
        self.values: dict[bytes, Record] = {}
        self.reads: list[bytes] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False

    async def members(self, name: bytes, *, most: int) -> list[Member]:
        self.reads.append(name)
        await self._turn()
        return self.sets.get(name, [])[:most]

    async def get_record(self, name: bytes) -> Record:
        await self._turn()
        try:
            return self.values[name]
        except KeyError:
            raise NotFound("no value") from None

    async def _turn(self) -> None:
        await self.answers.wait()
        if self.fails:
            raise RequestTimeout("no answer")


class Site:
    """A running face with its clock."""

    def __init__(self, **settings: object) -> None:
        self.client = ScriptedClient()
        self.now = 1_800_000_000.0
        self.port = self._free_port()
        listen = [FaceEndpoint(f"{HOST}:{self.port}")]
        self.parts = FaceParts(
            nodes=("127.0.0.1:5348",),
            client=lambda token, scope: self.client,  # type: ignore[arg-type,return-value]
            cookie_keys=(bytes(16),),
            rights=SenderRights(None),
            unix=lambda: UnixTime(self.now),
            steady=lambda: SteadyTime(self.now),
        )
        self.face: DnsFace = make(DnsSection(listen=listen, **settings), self.parts)  # type: ignore[arg-type]

    @staticmethod
    def _free_port() -> int:
        while True:
            port = free_port(HOST)
            with socket.socket() as sock, suppress(OSError):
                sock.bind((HOST, port))
                return port

    async def udp(self, data: bytes) -> bytes:
        """The answer to one datagram."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setblocking(False)
            sock.connect((HOST, self.port))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, data)
            async with asyncio.timeout(SECONDS):
                return await loop.sock_recv(sock, 4096)

    async def ask(self, name: str, kind: str = "A", **how: object) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **how)
        reply = dns.message.from_wire(await self.udp(query.to_wire()))
        assert query.is_response(reply)
        return reply

    async def counted(self, event: str, least: int = 1) -> None:
        async with asyncio.timeout(SECONDS):
            while self.face.counters().get(event, 0) < least:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def served(story: Callable[[Site], Awaitable[None]], **settings: object) -> None:
    """Run a story beside a face."""

    async def run() -> None:
        site = Site(**settings)
        await site.face.start()
        try:
            await story(site)
        finally:
            await site.face.stop()

    asyncio.run(run())


def hosts(reply: dns.message.Message) -> set[str]:
    return {rdata.address for rrset in reply.answer for rdata in rrset}


# --- Reads --------------------------------------------------------------------------------------


def test_a_name_is_read_once_for_all_who_ask_and_again_a_second_later() -> None:
    async def story(site: Site) -> None:
        site.client.sets[b"web"] = [Member(7, 20, b"10.0.0.7:80")]
        site.client.answers.clear()
        asked = [asyncio.create_task(site.ask("web.kdht")) for _ in range(20)]
        await site.counted("udp", 20)
        site.client.answers.set()
        replies = await asyncio.gather(*asked)
        assert [hosts(reply) for reply in replies] == [{"10.0.0.7"}] * 20
        assert (await site.ask("web.kdht", "SRV")).answer[0][0].port == 80
        assert site.client.reads == [b"web"]
        site.client.sets[b"web"] = [Member(8, 20, b"10.0.0.8:80")]
        site.now += 0.5
        assert hosts(await site.ask("web.kdht")) == {"10.0.0.7"}
        assert site.client.reads == [b"web"]
        site.now += 0.6
        await site.ask("web.kdht")
        await site.counted("lookups", 2)
        assert hosts(await site.ask("web.kdht")) == {"10.0.0.8"}
        assert site.client.reads == [b"web"] * 2

    served(story)


def test_a_name_that_was_read_before_is_answered_at_once_with_a_ttl_that_is_shorter_by_its_age() -> None:
    async def story(site: Site) -> None:
        site.client.sets[b"web"] = [Member(7, 60, b"10.0.0.7:80")]
        assert (await site.ask("web.kdht")).answer[0].ttl == 5
        site.client.answers.clear()
        for _ in range(2):
            assert (await site.ask("web.kdht")).answer[0].ttl == 5
        for ttl in (4, 3, 2, 1):
            site.now += 1
            for kind in ("A", "SRV"):
                reply = await site.ask("web.kdht", kind)
                assert {rrset.ttl for rrset in [*reply.answer, *reply.additional]} == {ttl}
        site.now += 1
        waiting = asyncio.create_task(site.ask("web.kdht"))
        await site.counted("udp", 12)
        assert site.client.reads == [b"web"] * 2
        site.client.answers.set()
        assert (await waiting).answer[0].ttl == 5

    served(story)


def test_a_withdrawn_member_is_out_of_all_resolvers_a_second_after_the_ttl() -> None:
    async def story(site: Site) -> None:
        site.client.sets[b"web"] = [Member(7, 3600, b"10.0.0.7:80")]
        await site.ask("web.kdht")
        withdrawn = site.now
        site.client.sets[b"web"] = []
        site.client.answers.clear()  # The cluster is slow, and the reads that begin do not end.
        for _ in range(19):
            site.now += 0.25
            reply = await site.ask("web.kdht")
            assert site.now + reply.answer[0].ttl <= withdrawn + 5 + 1
        site.now += 0.25
        site.client.answers.set()
        assert (await site.ask("web.kdht")).rcode() == dns.rcode.NXDOMAIN

    served(story)


def test_an_absent_name_and_one_whose_member_ended_are_read_before_the_answer() -> None:
    async def story(site: Site) -> None:
        assert (await site.ask("web.kdht")).rcode() == dns.rcode.NXDOMAIN
        site.now += 1
        site.client.sets[b"web"] = [Member(7, 2, b"10.0.0.7:80")]
        assert hosts(await site.ask("web.kdht")) == {"10.0.0.7"}
        site.now += 2
        assert hosts(await site.ask("web.kdht")) == {"10.0.0.7"}, "it was renewed meanwhile"

    served(story)


def test_the_same_query_gets_the_same_bytes_with_new_ids_and_ttls() -> None:
    async def story(site: Site) -> None:
        site.client.values[b"db"] = Record(1, 9, 0, b"10.0.0.9")
        query = dns.message.make_query("db.kdht", "A", id=1).to_wire()
        first = [await site.udp(query) for _ in range(3)]
        other = await site.udp(b"\x12\x34" + query[2:])
        assert (other[:2], {answer[2:] for answer in first}) == (b"\x12\x34", {other[2:]})
        assert site.face.counters()["repeated"] == 2, "the first answer came with the read"
        site.now += 2
        assert dns.message.from_wire(await site.udp(query)).answer[0].ttl == 3
        assert site.face.counters()["repeated"] == 3
        await site.counted("lookups", 2)
        assert dns.message.from_wire(await site.udp(query)).answer[0].ttl == 5

    served(story)


def test_while_the_cluster_is_silent_what_was_read_holds_until_it_expires() -> None:
    async def story(site: Site) -> None:
        site.client.sets[b"web"] = [Member(7, 20, b"10.0.0.7:80"), Member(8, 60, b"10.0.0.8:80")]
        assert len(hosts(await site.ask("web.kdht"))) == 2
        site.client.fails = True
        assert (await site.ask("other.kdht")).rcode() == dns.rcode.SERVFAIL
        site.now += 10
        assert len(hosts(await site.ask("web.kdht"))) == 2
        site.now += 15
        assert hosts(await site.ask("web.kdht")) == {"10.0.0.8"}
        site.now += 60
        assert (await site.ask("web.kdht")).rcode() == dns.rcode.SERVFAIL
        assert site.face.counters()["lookups_requesttimeout"] == 4
        site.client.fails = False
        assert len(hosts(await site.ask("web.kdht"))) == 2

    served(story)


def test_a_flood_of_names_costs_the_cluster_a_bounded_number_of_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookups, "MAX_UNDER_WAY", 5)
    monkeypatch.setattr(lookups, "MAX_KEPT", 3)

    async def story(site: Site) -> None:
        site.client.answers.clear()
        waiting = [asyncio.create_task(site.ask(f"n{number}.kdht")) for number in range(5)]
        await site.counted("lookups", 5)
        assert (await site.ask("n9.kdht")).rcode() == dns.rcode.SERVFAIL
        site.client.answers.set()
        assert {reply.rcode() for reply in await asyncio.gather(*waiting)} == {dns.rcode.NXDOMAIN}
        await asyncio.gather(*(site.ask(f"n{number}.kdht") for number in range(5)))
        assert len(site.client.reads) == 7, "three of five were kept"

    served(story)


# --- Bounds -------------------------------------------------------------------------------------


def test_more_queries_than_its_rate_are_dropped() -> None:
    async def story(site: Site) -> None:
        query = dns.message.make_query("kdht", "SOA").to_wire()
        for _ in range(3):
            assert await site.udp(query)
        lost = asyncio.create_task(site.udp(query))
        await site.counted("rate_limited")
        lost.cancel()
        site.now += 1
        assert await site.udp(query)

    served(story, rate=3)


def test_a_network_of_unproven_askers_has_a_share_of_longer_answers() -> None:
    async def story(site: Site) -> None:
        counted: Counter[str] = Counter()
        section = DnsSection(listen=[FaceEndpoint(f"{HOST}:{site.port}")], unproven_rate=2)
        service = service_of(section, site.parts, lambda event: counted.update([event]))
        query = dns.message.make_query("kdht", "SOA").to_wire()

        def cut(host: str, data: bytes = query) -> bool:
            answer = service.at_once(data, Address.of(host, 5), stream=False)
            assert isinstance(answer, bytes)
            assert len(answer) <= len(query) or not answer[2] & 2
            return bool(answer[2] & 2)

        assert [cut(f"192.0.2.{number}") for number in range(5)] == [False, False, True, True, True]
        assert [cut(f"2001:db8::{number}") for number in range(5)] == [False, False, True, True, True]
        assert not cut("198.51.100.1")
        assert not any(cut("127.0.0.1") for _ in range(5))
        assert not cut("192.0.2.1", dns.message.make_query("org", "A").to_wire()), "a refusal is not longer"
        site.now += 1
        assert not cut("192.0.2.9")
        assert counted["cut"] == 6

    served(story)


def test_malformed_datagrams_are_counted() -> None:
    async def story(site: Site) -> None:
        assert dns.message.from_wire(await site.udp(bytes(12))).rcode() == dns.rcode.FORMERR
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (HOST, site.port))
            sock.sendto(bytes(11), (HOST, site.port))
            sock.sendto(bytes(2) + b"\x80" + bytes(9), (HOST, site.port))
        await site.counted("dropped_bad_flags")
        counters = site.face.counters()
        assert (counters["malformed"], counters["dropped_truncated"], counters["udp"]) == (1, 2, 4)

    served(story)


def test_a_port_in_use_is_told() -> None:
    async def story(site: Site) -> None:
        other = make(DnsSection(listen=[FaceEndpoint(f"{HOST}:{site.port}")]), site.parts)
        with pytest.raises(ConfigError, match=r"dns\.listen has .*: Address already in use: "):
            await other.start()
        await other.stop()

    served(story)


# --- TCP ----------------------------------------------------------------------------------------


async def answer_of(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(SECONDS):
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return dns.message.from_wire(await reader.readexactly(length))


def packed(name: str, kind: str = "A", **how: object) -> bytes:
    data = dns.message.make_query(name, kind, **how).to_wire()
    return LENGTH.pack(len(data)) + data


def test_queries_on_one_connection_are_answered_in_their_order() -> None:
    async def story(site: Site) -> None:
        site.client.sets[b"web"] = [
            Member(n, 20, f"10.0.{n // 250}.{n % 250}:80".encode()) for n in range(1, 200)
        ]
        reader, writer = await asyncio.open_connection(HOST, site.port)
        data = packed("web.kdht", id=1) + packed("none.kdht", id=2) + packed("web.kdht", "SRV", id=3)
        for at in range(0, len(data), 7):
            writer.write(data[at : at + 7])
            await writer.drain()
        replies = [await answer_of(reader) for _ in range(3)]
        assert [reply.id for reply in replies] == [1, 2, 3]
        assert (len(hosts(replies[0])), replies[1].rcode()) == (199, dns.rcode.NXDOMAIN)
        assert (len(replies[2].answer[0]), len(replies[2].additional)) == (199, 199)
        writer.close()

    served(story)


@pytest.mark.parametrize(
    "sent",
    [LENGTH.pack(5000) + bytes(5000), LENGTH.pack(11) + bytes(11), b"\0", b"", LENGTH.pack(40) + bytes(9)],
)
def test_a_connection_with_nonsense_or_too_slow_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "IDLE_S", 0.2)

    async def story(site: Site) -> None:
        reader, writer = await asyncio.open_connection(HOST, site.port)
        writer.write(sent)
        with suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                assert await reader.read() == b""
        writer.close()
        assert (await site.ask("kdht", "SOA")).answer

    served(story)


def test_a_client_has_so_many_connections_and_all_clients_together() -> None:
    async def story(site: Site) -> None:
        held = [await asyncio.open_connection(HOST, site.port) for _ in range(streams.MAX_OF_CLIENT)]
        await site.counted("connections", streams.MAX_OF_CLIENT)
        reader, writer = await asyncio.open_connection(HOST, site.port)
        with suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                assert await reader.read() == b""
        writer.close()
        assert site.face.counters()["connections_refused"] == 1
        for _, each in held:
            each.close()
        other_reader, other = await asyncio.open_connection(HOST, site.port, local_addr=("127.62.9.9", 0))
        other.write(packed("kdht", "SOA"))
        assert (await answer_of(other_reader)).answer
        other.close()

    served(story)
