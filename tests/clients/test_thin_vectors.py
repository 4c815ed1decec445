"""Each thin client, and Python's, sends the bytes of tests/vectors/clients.json and understands the answers."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import client_vectors
import pytest
from drivers import DRIVERS, Driver
from paths import TESTS

from kdht.wire._shared import Status

VECTORS: dict[str, Any] = json.loads((TESTS / "vectors/clients.json").read_text())
SLOWER = (1, 3, 9)
"""On a busy machine a client takes an answer for late, and sends another datagram than the vectors'. With more time it does not."""
STATUS = 37
CHANGES = (
    (0, 1), (4, 2), (5, 0x40), (6, 2), (6, 1), (6, 8), (8, 1), (15, 0x20), (16, 1), (35, 1), (39, 1)
)  # fmt: skip
"""A byte of a reply, and the bits to turn: then it is none."""


@pytest.fixture(scope="module", params=DRIVERS.values(), ids=DRIVERS)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    build: Callable[[Path], list[str]] = request.param
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def driver(command: list[str]) -> Iterator[Driver]:
    with Driver(command) as driver:
        yield driver
        assert driver.end() == 0


@pytest.fixture
def nodes() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        yield opened


def names(nodes: list[socket.socket]) -> str:
    return ",".join("{}:{}".format(*each.getsockname()) for each in nodes)


def decoys(reply: bytes) -> Iterator[bytes]:
    """Datagrams that are no answer, though nearly: each in another way. To whom takes one for it, it says DENIED."""
    lie = lying(reply)
    for offset, bits in CHANGES:
        changed = bytearray(lie)
        changed[offset] ^= bits
        yield bytes(changed)
    yield from (lie[:111], lie[:1], b"", lie + b"\0", lie + bytes(1232 - len(lie) + 1))


def lying(reply: bytes) -> bytes:
    return reply[:STATUS] + bytes([Status.DENIED]) + reply[STATUS + 1 :]


def answer(node: socket.socket, clients: dict[socket.socket, Any], replies: list[str]) -> None:
    """From `node`, after decoys from everywhere. `clients`: where each node was asked from."""
    for reply in replies:
        data = bytes.fromhex(reply)
        for decoy in decoys(data):
            node.sendto(decoy, clients[node])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(lying(data), clients[node])
        for other in clients.keys() - {node}:
            other.sendto(lying(data), clients[other])
        node.sendto(data, clients[node])


def play(driver: Driver, nodes: list[socket.socket], step: dict[str, Any]) -> tuple[list[str], str]:
    """The datagrams that the client sent, and its reply. Each is answered as the vectors say."""
    seen: list[str] = []
    clients: dict[socket.socket, Any] = {}
    expected = step["datagrams"]
    driver.say(step["command"])
    while True:
        replied, ready = driver.waits_for(*nodes)
        for node in ready:
            data, clients[node] = node.recvfrom(2048)
            place = len(seen)
            seen.append(data.hex())
            if place < len(expected) and seen[place] == expected[place]["request"]:
                answer(node, clients, expected[place]["replies"])
        if replied and not ready:
            return seen, driver.hear()


def run_case(
    driver: Driver, nodes: list[socket.socket], case: dict[str, Any], slower: int
) -> list[tuple[object, object]]:
    """What was seen beside what was expected, up to the first difference."""
    fixed = {"clock_us": VECTORS["clock_us"], "number": VECTORS["number"]}
    options = {**fixed, **case["open"], "retry_ms": case["open"]["retry_ms"] * slower}
    if "timeout_ms" in options:
        options["timeout_ms"] *= slower
    seen: list[tuple[object, object]] = [
        (driver.ask("open", nodes=names(nodes[: case["nodes"]]), **options), "ok")
    ]
    for step in case["steps"]:
        sent, reply = play(driver, nodes, step)
        seen += [(sent, [each["request"] for each in step["datagrams"]]), (reply, step["reply"])]
        if seen[-1][0] != seen[-1][1] or seen[-2][0] != seen[-2][1]:
            break
    return seen


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_every_byte_and_every_answer(
    driver: Driver, nodes: list[socket.socket], case: dict[str, Any]
) -> None:
    for slower in SLOWER:
        seen = run_case(driver, nodes, case, slower)
        if all(one == other for one, other in seen):
            return
    assert [one for one, _ in seen] == [other for _, other in seen]


@pytest.mark.parametrize("options", VECTORS["bad_options"], ids=str)
def test_options_that_cannot_be(
    driver: Driver, nodes: list[socket.socket], options: dict[str, object]
) -> None:
    assert driver.ask("open", nodes=names(nodes), **options) == "error ARGUMENT"


def test_the_vectors_are_those_of_their_maker() -> None:
    assert json.loads(json.dumps(client_vectors.document())) == VECTORS


def noise(rng: Random, request: bytes) -> bytes:
    """A reply in form, with anything in it."""
    body = rng.randbytes(rng.choice((0, 1, 8, 15, 16, 17, 24, 31, 300, 1120)))
    if rng.random() < 0.5:  # so that numbers and lengths in it are small, as in a page of members
        body = bytes(each if rng.random() < 0.1 else 0 for each in body)
    head = bytearray(request[:112])
    head[6], head[STATUS], head[38:40] = 3, rng.randrange(20), len(body).to_bytes(2, "big")
    return bytes(head) + body


@pytest.mark.parametrize("seed", range(2))
def test_no_answer_breaks_a_client(driver: Driver, nodes: list[socket.socket], seed: int) -> None:
    """With sanitizers in C. Each request ends with DENIED, if not before."""
    rng = Random(seed)
    assert driver.ask("open", nodes=names(nodes), retry_ms=20, timeout_ms=1000) == "ok"
    commands = ("get key=61", "get key=61 quorum=1 max=9", "put key=61 value=62", "put key=61 value=62 if_version=7",
                "delete key=61", "announce set=61 payload=62 ttl=9", "members set=61")  # fmt: skip
    for command in commands * 10:
        driver.say(command)
        datagrams = 0
        while not (told := driver.waits_for(*nodes))[0] or told[1]:
            for node in told[1]:
                request, client = node.recvfrom(2048)
                datagrams += 1
                for _ in range(3):
                    node.sendto(noise(rng, request), client)
                if datagrams > 4:
                    node.sendto(lying(noise(rng, request)), client)
        assert driver.hear().split(" ")[0] in ("ok", "error")


def test_an_ipv6_node(driver: Driver) -> None:
    step = VECTORS["cases"][0]["steps"][0]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as node:
        node.bind(("::1", 0))
        fixed = {"clock_us": VECTORS["clock_us"], "number": VECTORS["number"], "retry_ms": 10_000}
        assert driver.ask("open", nodes=f"[::1]:{node.getsockname()[1]}", timeout_ms=30_000, **fixed) == "ok"
        driver.say(step["command"])
        data, client = node.recvfrom(2048)
        assert data.hex() == step["datagrams"][0]["request"]
        node.sendto(bytes.fromhex(step["datagrams"][0]["replies"][0]), client)
        assert driver.hear() == step["reply"]
