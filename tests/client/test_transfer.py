"""Bursts: the batched socket beside its plain twin, and what becomes of a request that has no common answer."""

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
from scripted_node import drop, refusal, reply_to
from scripted_store import ScriptedStore

from kdht import AsyncClient, Client
from kdht.client import _calls as calls
from kdht.client import _nodes, _transfer
from kdht.client._bulk import BulkSocket
from kdht.client._chunks import AHEAD_CHUNKS
from kdht.client._journal import ABSENT_IN_A_ROW
from kdht.client._manifest import CHUNK_SIZE, Manifest, chunk_name
from kdht.client._plain_bulk import BATCH, PlainBulkSocket
from kdht.client._window import LEAST_WINDOW, MOST_WINDOW, Window
from kdht.errors import RequestError
from kdht.wire import OFFSET, Message, hash_key, pack_request, parse
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

VALUE = random.Random(7).randbytes(700 * CHUNK_SIZE + 5)
KEY = hash_key("big")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket and a node's, connected to each other."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        for sock in (ours, theirs):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        ours.connect(theirs.getsockname())
        theirs.connect(ours.getsockname())
        yield ours, theirs


def damaged(reply: bytes, chance: random.Random) -> bytes:
    """Not the reply: cut, longer, or one byte of its head changed."""
    kind = chance.randrange(3)
    if kind == 0:
        return reply[: chance.randrange(len(reply))]
    if kind == 1:
        return reply + bytes(chance.randrange(1, 50))
    at = chance.choice(
        [*range(OFFSET["hops"]), *range(OFFSET["request_id"], OFFSET["attempt"]), OFFSET["body_len"]]
    )
    return reply[:at] + bytes([reply[at] ^ 1 << chance.randrange(8)]) + reply[at + 1 :]


def play(
    make: Callable[[socket.socket], Any], ours: socket.socket, theirs: socket.socket, seed: int
) -> list[Any]:
    """Some requests and all kinds of answers, from one seed; everything that was told."""
    chance, told = random.Random(seed), []
    burst, now = make(ours), 0.0
    for step in range(60):
        now += chance.random()
        for number in range(chance.choice([0, 1, 3, BATCH + 5])):
            body = chance.randbytes(chance.choice([0, 16, 1000]))
            op = chance.choice([Op.PUT, Op.GET])
            burst.stage(
                bytes(pack_request(op, chance.randbytes(20), chance.getrandbits(64), body)),
                (step, number),
                now,
            )
        told.append((len(burst), burst.oldest))
        burst.flush()
        while True:
            try:
                request = parse(theirs.recv(2048))
            except BlockingIOError:
                break
            reply = reply_to(request, body=chance.randbytes(chance.choice([0, 16, 1120])), cookie=chance.getrandbits(64),
                             status=chance.choice([Status.OK, Status.BUSY]))  # fmt: skip
            fate = chance.random()
            for datagram in ([], [damaged(reply, chance)], [reply, reply], [reply])[min(int(fate * 8), 3)]:
                theirs.send(datagram)
        while answers := burst.receive():
            told.append(answers)
        if chance.random() < 0.3:
            told.append(burst.take_late(now - chance.random()))
            told.append(burst.take_late(now - chance.random(), chance.randrange(1, 5)))
        if chance.random() < 0.05:
            told.append(burst.take_all())
    told.append((burst.take_all(), len(burst), burst.oldest == inf, burst.is_refused))
    return told


@pytest.mark.parametrize("seed", range(8))
def test_both_sockets_tell_the_same(pair: tuple[socket.socket, socket.socket], seed: int) -> None:
    ours, theirs = pair
    plain = play(PlainBulkSocket, ours, theirs, seed)
    assert play(lambda sock: BulkSocket(sock.fileno()), ours, theirs, seed) == plain
    assert sum(len(each) for each in plain if isinstance(each, list)) > 100


@pytest.mark.parametrize("make", [PlainBulkSocket, lambda sock: BulkSocket(sock.fileno())])
def test_a_closed_port_is_noticed(make: Callable[[socket.socket], Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
            theirs.bind(("127.0.0.1", 0))
            ours.connect(theirs.getsockname())
        ours.setblocking(False)
        burst = make(ours)
        for number in range(3):
            burst.stage(bytes(pack_request(Op.GET, bytes(20), number)), number, 0.0)
        burst.flush()
        burst.receive()
        assert burst.is_refused
        assert (burst.take_all(), burst.is_refused) == ([0, 1, 2], False)


@pytest.mark.parametrize("scope", [None, "billing"])
def test_the_short_way_of_a_request_gives_the_same_bytes(scope: str | None) -> None:
    given = [
        calls.put("k", b"value", 60),
        calls.delete("k"),
        calls.get("k"),
        calls.put("other", bytes(1104), None),
    ]
    with Client("127.0.0.1:9", scope=scope) as client:
        session = client._session
        session.state.cookie = 12345
        for call in given:
            short, full = bytearray(session._prepared_plain(call)), bytearray(session._prepared_in_full(call))
            versions = [int.from_bytes(each[shared.HEADER_LEN :][:8], "big") for each in (short, full)]
            for each in (short, full):
                assert parse(each).request_id % (1 << shared.TRY_BITS) == 0
                each[OFFSET["request_id"] : OFFSET["key"]] = bytes(8)
                if call.op is not Op.GET:
                    each[shared.HEADER_LEN : shared.HEADER_LEN + 8] = bytes(8)
            assert short == full
            assert call.op is Op.GET or 0 < versions[0] < versions[1]


def test_the_window_follows_loss_and_not_a_lost_datagram_now_and_then() -> None:
    window = Window()
    for _ in range(100):
        window.count(95, 0)
        window.count(5, 5)
    assert window.size == MOST_WINDOW
    for _ in range(100):
        window.count(75, 0)
        window.count(25, 25)
    assert window.size == LEAST_WINDOW


def test_a_search_looks_past_all_that_a_writer_has_under_way() -> None:
    assert ABSENT_IN_A_ROW > 2 * MOST_WINDOW - 1
    assert AHEAD_CHUNKS > MOST_WINDOW


def asked_twice(
    store: ScriptedStore, wanted: Callable[[Message], bool], first: Callable[[Message], list[bytes]]
) -> None:
    """The first try of each such request meets `first`."""
    seen: set[tuple[Op, bytes]] = set()

    def before(request: Message) -> list[bytes] | None:
        if wanted(request) and (request.op, request.key) not in seen:
            seen.add((request.op, request.key))
            return first(request)
        return None

    store.before = before


@pytest.mark.parametrize(
    "first",
    [
        lambda request: drop(None, request),  # type: ignore[arg-type]
        lambda request: [refusal(request, Status.BUSY)],
        lambda request: [refusal(request, Status.STORAGE_FAILED)],
        lambda request: [reply_to(request, key=bytes(20))],
        lambda request: [reply_to(request)[:-1], b"x"],
    ],
    ids=["lost", "busy", "failed", "forged", "nonsense"],
)
def test_requests_without_a_common_answer_become_ordinary_ones(
    ask: Callable[..., Any], short_waits: None, first: Any
) -> None:
    """Every fifth chunk, both ways."""
    store = ScriptedStore()
    is_hit = lambda request: request.key[0] % 5 == 0 and request.key != KEY  # noqa: E731
    with store.node() as node:
        asked_twice(store, lambda request: request.op in (Op.PUT, Op.GET) and is_hit(request), first)
        ask(node.name, "put_large", "big", VALUE, client_options={"timeout": 5.0})
        assert ask(node.name, "get_large", "big", client_options={"timeout": 5.0}) == VALUE


def test_a_majority_is_asked_before_a_chunk_is_missing(ask: Callable[..., Any]) -> None:
    """One replica was away while the value was written."""
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        lacking = hash_key(chunk_name(Manifest.parse(store.value("big")).upload, 3))  # type: ignore[union-attr]
        of_a_majority = set()

        def before(request: Message) -> list[bytes] | None:
            if request.op is Op.QUORUM_GET:
                of_a_majority.add(request.key)
            return (
                [refusal(request, Status.NOT_FOUND)]
                if (request.op, request.key) == (Op.GET, lacking)
                else None
            )

        store.before = before
        assert ask(node.name, "get_large", "big") == VALUE
    assert of_a_majority == {lacking}


def test_a_dead_node_is_left_for_a_living_one(ask: Callable[..., Any], short_waits: None) -> None:
    store, dead = ScriptedStore(), ScriptedStore()
    requests = iter(range(10_000))
    dead.records = store.records
    dead.before = lambda request: drop(None, request) if next(requests) > 50 else None  # type: ignore[arg-type]
    with store.node() as living, dead.node() as dying:
        nodes = [dying.name, living.name]
        ask(nodes, "put_large", "big", VALUE, client_options={"timeout": 5.0})
        assert ask(living.name, "get_large", "big") == VALUE


def test_a_slow_cluster_is_not_asked_twice_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that come after twice the time that was allowed: the wait grows until they are in time."""
    monkeypatch.setattr(_nodes, "START_RTO", 0.02)
    clock = iter(range(100_000))
    sent: list[tuple[float, Any]] = []

    class Slow:
        """Answers every request 0.05 s after it was sent."""

        is_refused = False

        def __init__(self) -> None:
            self.flying: dict[int, tuple[bytes, Any, float]] = {}

        def __len__(self) -> int:
            return len(self.flying)

        @property
        def oldest(self) -> float:
            return min((each[2] for each in self.flying.values()), default=inf)

        def stage(self, message: bytes, tag: Any, now: float) -> None:
            self.flying[next(clock)] = message, tag, now
            sent.append((now, tag))

        def flush(self) -> None: ...

        def receive(self) -> list[Any]:
            done = [number for number, each in self.flying.items() if each[2] <= self.now - 0.05]
            body = bytes(shared.RECORD_LEN)
            return [(each[1], Status.OK, body, 0, each[2]) for each in map(self.flying.pop, done)]

        def take_late(self, before: float, most: int = 1 << 30) -> list[Any]:
            late = [number for number, each in self.flying.items() if each[2] < before][:most]
            return [self.flying.pop(number)[1] for number in late]

        def take_all(self) -> list[Any]:
            return self.take_late(inf)

        now = 0.0

    with Client("127.0.0.1:9") as client:
        session = client._session
        handed: list[Any] = []
        monkeypatch.setattr(
            session, "start", lambda call, now, on_done: handed.append((call, on_done)) or object()
        )
        answered: list[Any] = []
        bulk = _transfer.Bulk(
            (calls.put(f"k{number}", b"", None) for number in range(2000)),
            lambda *each: answered.append(each),
        )
        slow = Slow()
        transfer = _transfer.Transfer(session, bulk, lambda node: slow, lambda: None, lambda: slow.now)
        monkeypatch.setattr(transfer, "_exchanges", {})
        transfer.go_on(0.0)
        while len(answered) + len(handed) < 1900 and slow.now < 60:
            slow.now += 0.01
            transfer.wake(slow.now)
            transfer.received(session.state.nodes.current, slow.now)
            transfer._exchanges.clear()  # they are answered at once
    assert len(answered) > 1500


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_an_ended_read_leaves_no_socket(end: str) -> None:
    """A cancelled one, and one whose client is closed under it."""

    async def run(name: str) -> None:
        async with AsyncClient(name) as client:
            await client.put_large("big", VALUE)
            before = len(os.listdir("/proc/self/fd"))
            begun = asyncio.Event()
            progress = lambda done, total: done and begun.set()  # noqa: E731
            reading = asyncio.create_task(client.get_large("big", progress=progress))
            await begun.wait()
            if end == "cancel":
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert len(os.listdir("/proc/self/fd")) == before
                assert await client.get_large("big") == VALUE
            else:
                await client.close()
                with pytest.raises(RequestError, match="closed"):
                    await reading
                assert len(os.listdir("/proc/self/fd")) < before

    store = ScriptedStore()
    with store.node() as node:
        asyncio.run(run(node.name))
