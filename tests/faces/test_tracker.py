"""The UDP tracker: its messages, its swarms, and a tracker at real nodes with a client of a few lines."""

import asyncio
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tokens

from kdht.client import Client
from kdht.errors import BadPacket
from kdht.faces.tracker import messages
from kdht.faces.tracker.messages import Announce, Connect, Scrape, Swarm
from kdht.faces.tracker.swarms import Found, Swarms, chosen, compact, found, set_of
from kdht.lab.cluster import Cluster, Place, Settings, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.times import SteadyTime
from kdht.wire import Address
from kdht.wire.endpoints import Endpoint
from kdht.wire.sets import Member, MembersPage

HASH, OTHER_HASH = bytes(range(20)), bytes(range(1, 21))
PEER_ID = b"-XX0001-abcdefghijkl"
PORT, WILD = 16969, 16970
EVERY = 0xFFFFFFFF

# --- Messages ---------------------------------------------------------------------------


def announce_bytes(
    connection: int,
    transaction: int = 7,
    *,
    left: int = 1,
    event: int = 2,
    wanted: int = EVERY,
    port: int = 6881,
    info_hash: bytes = HASH,
) -> bytes:
    head = struct.pack(">QII20s20s", connection, 1, transaction, info_hash, PEER_ID)
    return head + struct.pack(">QQQIIIIH", 0, left, 0, event, 0, 99, wanted, port)


def test_requests_of_bep_15_byte_for_byte() -> None:
    assert messages.parse(bytes.fromhex("0000041727101980 00000000 00000007")) == Connect(7)
    data = announce_bytes(5, left=0)
    assert len(data) == 98
    assert messages.parse(data) == Announce(5, 7, HASH, 0, 2, EVERY, 6881)
    assert messages.parse(data + bytes.fromhex("0209") + b"/announce") == messages.parse(data), "BEP 41"
    scrape = struct.pack(">QII", 5, 2, 7) + HASH + OTHER_HASH
    assert messages.parse(scrape) == Scrape(5, 7, [HASH, OTHER_HASH])


def test_answers_of_bep_15_byte_for_byte() -> None:
    assert messages.pack_connected(7, 0x0102030405060708).hex() == "00000000000000070102030405060708"
    peers = [compact(Address.of("10.0.0.1", 0x1AE1)), compact(Address.of("10.0.0.2", 1))]
    announced = messages.pack_announced(7, 900, Swarm(seeders=3, leechers=4), peers)
    assert (
        announced.hex()
        == "00000001 00000007 00000384 00000004 00000003 0a000001 1ae1 0a000002 0001".replace(" ", "")
    )
    assert messages.pack_scraped(7, [Swarm(3, 4)]).hex() == "0000000200000007000000030000000000000004"
    assert messages.pack_error(7, "no") == b"\0\0\0\3\0\0\0\7no"
    assert len(compact(Address.of("fd00::1", 1))) == 18


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "TRUNCATED"),
        (struct.pack(">QII", 1, 0, 7), "BAD_MAGIC"),
        (struct.pack(">QII", 1, 3, 7), "BAD_OP"),
        (announce_bytes(1)[:-1], "TRUNCATED"),
        (announce_bytes(1, event=4), "BAD_FLAGS"),
        (announce_bytes(1, port=0), "BAD_PORT"),
        (struct.pack(">QII", 1, 2, 7), "BAD_LENGTH"),
        (struct.pack(">QII", 1, 2, 7) + HASH[:-1], "BAD_LENGTH"),
        (announce_bytes(1) + bytes(2000), "TOO_LONG"),
    ],
)
def test_what_is_no_request_is_refused_by_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket) as caught:
        messages.parse(data)
    assert caught.value.reason == reason


# --- Swarms -----------------------------------------------------------------------------


def member(number: int, *, is_seed: bool) -> Member:
    at = Address.of(f"10.0.0.{number}", 6881)
    return Member(number, 100, Endpoint(at, 0 if is_seed else 1).pack())


def test_a_swarm_of_one_answer_is_counted_and_a_larger_one_estimated() -> None:
    members = [member(number, is_seed=number <= 10) for number in range(1, 41)]
    assert found(MembersPage(40, 0, members), is_ipv4=True).swarm == Swarm(10, 30)
    assert found(MembersPage(4000, 0, members), is_ipv4=True).swarm == Swarm(1000, 3000)
    assert found(MembersPage(0, 0, []), is_ipv4=True) == Found(Swarm(0, 0), [], [])


def test_members_that_are_no_peers_are_left_out() -> None:
    strange = [
        Member(1, 9, b"hello"),
        Member(2, 9, Endpoint(Address.of("fd00::1", 1)).pack()),
        Member(3, 9, Endpoint(Address.of("10.0.0.1", 0)).pack()),
    ]
    assert found(MembersPage(3, 0, strange), is_ipv4=True) == Found(Swarm(0, 0), [], [])


def test_a_peer_gets_others_and_a_seed_no_seeds() -> None:
    random.seed(1)
    seeds, leechers = [b"seed-1", b"seed-2"], [b"leech1", compact(Address.of("10.0.0.1", 6881))]
    swarm = Found(Swarm(2, 2), seeds, leechers)
    me = Address.of("10.0.0.1", 6881)
    assert sorted(chosen(swarm, me, 50, is_seed=False)) == [b"leech1", b"seed-1", b"seed-2"]
    assert chosen(swarm, me, 50, is_seed=True) == [b"leech1"]
    assert chosen(swarm, me, 0, is_seed=False) == []
    assert len(chosen(swarm, me, 2, is_seed=False)) == 2


class Announced:
    """In place of a client: counts writes."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    async def announce_once(self, name: bytes, payload: bytes, ttl: int, *, member: bytes, soft: bool) -> int:
        assert soft  # it is said again soon
        self.payloads.append(payload)
        return 1

    async def withdraw(self, name: bytes, *, ttl: int, member: bytes) -> bool:
        return True


def test_an_announce_again_needs_no_write() -> None:
    client, now = Announced(), [100.0]
    swarms = Swarms(client, 900, lambda: SteadyTime(now[0]))  # type: ignore[arg-type]
    me = Address.of("10.0.0.1", 6881)

    def wrote(*, is_seed: bool, again: bool) -> bool:
        return asyncio.run(swarms.announce(HASH, me, is_seed=is_seed, again=again))

    assert wrote(is_seed=False, again=False)
    assert not wrote(is_seed=False, again=True)
    assert wrote(is_seed=True, again=True), "another payload"
    assert wrote(is_seed=True, again=False), "it may have left by another tracker meanwhile"
    now[0] += 450
    assert wrote(is_seed=True, again=True), "else it would expire"
    asyncio.run(swarms.withdraw(HASH, me))
    assert wrote(is_seed=True, again=True)
    assert len(client.payloads) == 5


# --- At real nodes ----------------------------------------------------------------------


class Announcer:
    """A client at one address, as BEP 15 has it."""

    def __init__(self, host: str) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.settimeout(10)

    def ask(self, data: bytes, tracker: str) -> bytes:
        self.sock.sendto(data, (tracker, PORT))
        return self.sock.recv(4096)

    def connect(self, tracker: str) -> int:
        action, transaction, connection = struct.unpack(
            ">IIQ", self.ask(struct.pack(">QII", 0x41727101980, 0, 77), tracker)
        )
        assert (action, transaction) == (0, 77)
        return connection

    def announce(self, tracker: str, connection: int, **fields: int) -> tuple[int, int, int, list[bytes]]:
        """Interval, leechers, seeders, peers."""
        reply = self.ask(announce_bytes(connection, **fields), tracker)
        action, transaction, interval, leechers, seeders = struct.unpack_from(">IIIII", reply)
        assert (action, transaction) == (1, 7), reply
        size = 18 if self.sock.family == socket.AF_INET6 else 6
        return interval, leechers, seeders, [reply[at : at + size] for at in range(20, len(reply), size)]

    def is_ignored(self, data: bytes, tracker: str) -> bool:
        """Whether it has no answer; the tracker answers a connect behind it."""
        self.sock.sendto(data, (tracker, PORT))
        self.sock.sendto(struct.pack(">QII", 0x41727101980, 0, 1234), (tracker, PORT))
        return self.sock.recv(4096)[:8] == struct.pack(">II", 0, 1234)


@contextmanager
def announcer(host: str) -> Iterator[Announcer]:
    made = Announcer(host)
    with made.sock:
        yield made


@pytest.fixture(scope="module")
def trackers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, each with a tracker."""
    places = places_on_loopback(2)

    def tables(place: Place) -> Settings:
        others = [f"[::1]:{PORT}"] if place is places[0] else [f"0.0.0.0:{WILD}", f"[::]:{WILD}"]
        return {"tracker": {"listen": [f"{place.addresses[0].host}:{PORT}", *others], "rate": 1000}}

    with Cluster(places, tmp_path_factory.mktemp("trackers"), datapath="socket", each=tables) as cluster:
        for node in cluster.nodes:
            wait_until(
                lambda node=node: [face["up"] for face in node.status()["faces"]] == [True], "the tracker"
            )
        yield cluster


def counted(cluster: Cluster, event: str, at: int = 0) -> int:
    return cluster.nodes[at].status()["faces"][0]["counters"].get(event, 0)


ONE, TWO = "127.0.0.1", "127.0.0.2"


def test_peers_find_each_other_through_any_tracker(trackers: Cluster) -> None:
    with announcer("127.0.0.31") as seed, announcer("127.0.0.32") as leecher:
        connection = seed.connect(ONE)
        assert seed.announce(ONE, connection, left=0)[0] == 900
        at = leecher.connect(ONE)
        # The connection ID of one tracker is good at the other one, which finds the seed.
        _, leechers, seeders, peers = leecher.announce(TWO, at)
        assert (seeders, peers) == (1, [compact(Address.of("127.0.0.31", 6881))])
        _, leechers, seeders, peers = seed.announce(TWO, connection, left=0, event=0)
        assert (leechers, seeders, peers) == (1, 1, [compact(Address.of("127.0.0.32", 6881))])
        scraped = seed.ask(struct.pack(">QII", connection, 2, 5) + HASH + OTHER_HASH, TWO)
        assert struct.unpack(">II6I", scraped) == (2, 5, 1, 0, 1, 0, 0, 0)
        # The leecher has all of it now, and then leaves; the seed, too.
        leecher.announce(ONE, at, left=0, event=1)
        assert seed.announce(ONE, connection, left=0, event=0)[1:] == (0, 2, [])
        leecher.announce(TWO, at, event=3)
        assert seed.announce(ONE, connection, left=0, event=0)[1:] == (0, 1, [])
        seed.announce(ONE, connection, event=3)
    with Client(str(trackers.nodes[0].address)) as client:
        assert client.members(set_of(HASH, is_ipv4=True)) == []


def test_ipv6_has_a_swarm_of_its_own(trackers: Cluster) -> None:
    with announcer("::1") as one, announcer("127.0.0.33") as other:
        connection = one.connect("::1")
        one.announce("::1", connection, left=0, port=7001)
        other.announce(ONE, other.connect(ONE))
        _, leechers, seeders, peers = one.announce("::1", connection, port=7002)
        assert (leechers, seeders, peers) == (0, 1, [compact(Address.of("::1", 7001))])
        for port in (7001, 7002):
            one.announce("::1", connection, event=3, port=port)
        other.announce(ONE, other.connect(ONE), event=3)


def test_who_has_not_shown_its_address_gets_nothing_but_as_many_bytes(trackers: Cluster) -> None:
    with announcer("127.0.0.34") as client, announcer("127.0.0.35") as stranger:
        before = counted(trackers, "dropped_bad_cookie")
        connection = client.connect(ONE)
        assert stranger.is_ignored(announce_bytes(connection), ONE), "another address's"
        assert client.is_ignored(announce_bytes(connection ^ 1), ONE)
        assert client.is_ignored(struct.pack(">QII", 0, 2, 5) + HASH, ONE)
        assert client.is_ignored(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", ONE)
        wait_until(
            lambda: counted(trackers, "dropped_bad_cookie") == before + 3, "three refusals in the counters"
        )
        assert counted(trackers, "dropped_bad_op")


def test_a_wildcard_answers_from_the_address_that_was_asked(trackers: Cluster) -> None:
    for host in ("127.0.0.77", "::1"):
        with announcer(host) as client:
            client.sock.connect((host, WILD))  # takes answers from there alone
            client.sock.send(struct.pack(">QII", 0x41727101980, 0, 1))
            assert len(client.sock.recv(100)) == 16


def test_a_denied_tracker_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The token of whoever starts kdhtd is not the tracker's: strangers would write with it.
    monkeypatch.setenv("KDHT_TOKEN", tokens.token().text)
    settings = {"tracker": {"listen": [f"{ONE}:{PORT + 3}"]}, **tokens.settings()}
    with Cluster(places_on_loopback(1), tmp_path, datapath="socket", settings=settings) as cluster:
        wait_until(lambda: cluster.nodes[0].status()["faces"][0]["up"], "the tracker")
        with announcer("127.0.0.37") as client:
            client.sock.connect((ONE, PORT + 3))
            client.sock.send(struct.pack(">QII", 0x41727101980, 0, 1))
            connection = struct.unpack(">IIQ", client.sock.recv(100))[2]
            client.sock.send(announce_bytes(connection))
            assert client.sock.recv(100) == messages.pack_error(
                7, "the cluster does not answer now: try again later"
            )
        wait_until(lambda: counted(cluster, "failed_denied"), "the reason in the counters")


def test_strangers_reach_no_set_of_others_by_its_name(trackers: Cluster) -> None:
    """Twenty bytes of an info-hash are a stranger's choice. They may be the name of somebody's set."""
    name = b"production-databases"
    with announcer("127.0.0.38") as stranger, Client(str(trackers.nodes[0].address)) as client:
        client.announce_once(name, Endpoint(Address.of("10.0.0.7", 5432)).pack(), 60)
        client.announce_once(name + b"6", Endpoint(Address.of("fd00::7", 5432)).pack(), 60)
        before = client.members(name)
        connection = stranger.connect(ONE)
        stranger.sock.sendto(announce_bytes(connection, info_hash=name), (ONE, PORT))
        # Neither seen by the stranger, nor changed.
        assert len(stranger.sock.recv(4096)) == 20
        assert client.members(name) == before
        assert len(client.members(set_of(name, is_ipv4=True))) == 1
