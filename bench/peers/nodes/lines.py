"""The common part of the programs in this folder: arguments, lines, a window of requests."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from bench.peers.base import NOBODY, make_values

TIMEOUT = 60.0
"""Seconds without any answer until the requests under way count as failed."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Arguments(NamedTuple):
    own: Address
    bootstrap: Address | None
    values: list[bytes]


def arguments() -> Arguments:
    """Of this program."""
    own, bootstrap, count, size = sys.argv[1:5]
    values = make_values(int(count), int(size))
    return Arguments(_address(own), None if bootstrap == NOBODY else _address(bootstrap), values)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


class Node(Protocol):
    """A node with events at the ends of requests."""

    def begin(self, do: str, number: int) -> None:
        """Begin to "put" or "get" a value."""

    def finished(self, seconds: float) -> Iterable[tuple[int, bool]]:
        """Wait up to so long for something to end: numbers, and whether all was well."""


def serve(node: Node) -> None:
    """Answer lines until there are no more."""
    say("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        say(json.dumps(window(node, asked["do"], asked["numbers"], asked["outstanding"])))


def window(
    node: Node,
    do: str,
    numbers: Sequence[int],
    outstanding: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Do all, so many at a time. A request that ends twice counts once."""
    latencies: list[float] = []
    failed = 0
    waiting = iter(numbers)
    under_way: dict[int, float] = {}

    def more() -> None:
        for number in waiting:
            under_way[number] = clock()
            node.begin(do, number)
            if len(under_way) >= outstanding:
                return

    begun = last = clock()
    more()
    while under_way and clock() - last < TIMEOUT:
        for number, well in node.finished(1.0):
            started = under_way.pop(number, None)
            if started is None:
                continue
            last = clock()
            latencies.append(last - started)
            failed += not well
            more()
    return {"latencies": latencies, "failed": failed + len(under_way), "seconds": clock() - begun}


def say(text: str) -> None:
    print(text, flush=True)
