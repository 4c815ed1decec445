"""The clients' work: write everything, read everything back elsewhere, trace all keys.

Every function takes `advance`, called once an entry is done, and returns what happened as
plain data; nothing is drawn here. A failed request is a result, not an exception.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from demo.dataset import Package
from demo.stage import Stage
from kdht import Client
from kdht.client import Hop
from kdht.errors import RequestError

Advance = Callable[[], object]


@dataclass(slots=True)
class Pass:
    """One go through the data set."""

    asked: int
    done: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """One line for each entry that was lost or wrong."""

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


@contextmanager
def clients_of(stage: Stage) -> Iterator[list[Client]]:
    """One client for each node, asking that node alone."""
    with ExitStack() as stack, stage.as_client():
        yield [stack.enter_context(Client(str(node.address))) for node in stage.nodes]


def write(stage: Stage, entries: Sequence[Package], advance: Advance) -> Pass:
    """Put entry i through node i modulo their number."""

    def one(clients: list[Client], number: int, entry: Package) -> str | None:
        clients[number % len(clients)].put(entry.name, entry.value)
        return None

    return _each(stage, entries, advance, one)


def read(stage: Stage, entries: Sequence[Package], advance: Advance) -> Pass:
    """Get every entry through another node than it was put through, and compare."""

    def one(clients: list[Client], number: int, entry: Package) -> str | None:
        # 1 to N-1 nodes further on, so never the same node
        other = number + 1 + number // len(clients) % (len(clients) - 1)
        value = clients[other % len(clients)].get(entry.name)
        return None if value == entry.value else f"{len(value)} bytes that were never put"

    return _each(stage, entries, advance, one)


def trace(stage: Stage, entries: Sequence[Package], advance: Advance) -> tuple[Pass, dict[str, list[Hop]]]:
    """Every entry's way from its entry node to its owner."""
    ways: dict[str, list[Hop]] = {}

    def one(clients: list[Client], number: int, entry: Package) -> str | None:
        ways[entry.name] = way = clients[number % len(clients)].trace(entry.name)
        return None if way and way[-1].owner else "its way does not end at an owner"

    return _each(stage, entries, advance, one), ways


def _each(
    stage: Stage,
    entries: Sequence[Package],
    advance: Advance,
    one: Callable[[list[Client], int, Package], str | None],
) -> Pass:
    result = Pass(len(entries))
    with clients_of(stage) as clients:
        started = time.perf_counter()
        for number, entry in enumerate(entries):
            try:
                wrong = one(clients, number, entry)
            except RequestError as error:
                wrong = str(error)
            if wrong:
                result.failures.append(f"{entry.name}: {wrong}")
            result.done += 1
            advance()
        result.seconds = time.perf_counter() - started
    return result
