"""Each thin client, and Python's, sends the bytes of tests/vectors/clients.json and understands the answers."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import client_vectors
import pytest
from drivers import DRIVERS, Driver
from paths import TESTS

VECTORS: dict[str, Any] = json.loads((TESTS / "vectors/clients.json").read_text())
SLOWER = (1, 3, 9)
"""On a busy machine a client takes an answer for late, and sends another datagram than the vectors'. With more time it does not."""
INDEX, ATTEMPT = 15, 36


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
    """Datagrams that are no answer, though nearly: each in another way."""
    for offset, bits in (
        (0, 1),
        (4, 2),
        (5, 0x40),
        (6, 2),
        (6, 1),
        (6, 8),
        (8, 1),
        (15, 0x20),
        (16, 1),
        (35, 1),
        (39, 1),
    ):
        changed = bytearray(reply)
        changed[offset] ^= bits
        yield bytes(changed)
    yield from (reply[:111], reply[:1], b"", reply + b"\0", reply + bytes(1232 - len(reply) + 1))


def answer(node: socket.socket, client: Any, replies: list[str]) -> None:
    for reply in replies:
        data = bytes.fromhex(reply)
        for decoy in decoys(data):
            node.sendto(decoy, client)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(data, client)
        node.sendto(data, client)


def play(driver: Driver, nodes: list[socket.socket], step: dict[str, Any]) -> tuple[list[str], str]:
    """The datagrams that the client sent, and its reply. Each is answered as the vectors say."""
    seen: list[str] = []
    expected = step["datagrams"]
    driver.say(step["command"])
    while True:
        replied, ready = driver.waits_for(*nodes)
        for node in ready:
            data, client = node.recvfrom(2048)
            place = len(seen)
            seen.append(data.hex())
            if place < len(expected) and seen[place] == expected[place]["request"]:
                answer(node, client, expected[place]["replies"])
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
