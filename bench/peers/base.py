"""The interface of every peer.

Contract: `Kind.cluster` is a block in which nodes run at the places of a site and know each other. Values
have numbers; value i is `values[i]`, its key a peer's own business. `get` checks what it gets, and
counts whatever is not the value as failed. The peers' own Pythons import this: nothing but the standard library.
"""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from bench.peers.sites import Site


SEED = 7
NOBODY = "-"
"""In place of the bootstrap address, for the first node."""


class Timing(NamedTuple):
    """Finished requests: their number, failures, seconds for all, and latencies in milliseconds.

    `client_cpu`: seconds of processor time of the one who asked, where that was no node.
    """

    done: int
    failed: int
    seconds: float
    p50: float
    p99: float
    client_cpu: float = 0.0


class Running(Protocol):
    """A running cluster."""

    def pids(self) -> list[int]:
        """The processes of all nodes."""

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        """Write these values, at most so many at a time."""

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing:
        """Read and check these, by another node than the one that wrote them."""


class Kind(Protocol):
    """A peer."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> str:
        """How it is set up, and its limits: one or two sentences for the table's foot."""

    @property
    def scale(self) -> float:
        """How many requests it is asked, 1 being all: slow ones are asked less."""

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""

    def cluster(
        self, site: "Site", values: Sequence[bytes], directory: Path
    ) -> AbstractContextManager[Running]:
        """Start it, a node at each place. Raises PeerMissing, or whatever its failure is."""


def make_values(count: int, size: int) -> list[bytes]:
    """`count` different values of `size` bytes, the same every time."""
    chance = random.Random(SEED)
    return [chance.randbytes(size) for _ in range(count)]


def timing(latencies: Sequence[float], failed: int, seconds: float) -> Timing:
    """From latencies in seconds."""
    ordered = sorted(latencies)
    return Timing(
        done=len(ordered),
        failed=failed,
        seconds=seconds,
        p50=1e3 * percentile(ordered, 0.5),
        p99=1e3 * percentile(ordered, 0.99),
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """Of sorted figures; 0 if there are none."""
    return ordered[int(part * (len(ordered) - 1))] if ordered else 0.0
