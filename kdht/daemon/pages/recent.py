"""The last events of a node, for its page: nodes that joined, left or died, datapaths, key rotations, readiness.

Contract: no bookkeeping in other parts. It looks at the control socket's answers every other second, and notes what
differs. So what comes and goes between two looks is missed; the log has everything. Bounded.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kdht.daemon.control.server import Method, answered
from kdht.errors import KdhtError
from kdht.program.answers import NodeStats, RoutingTable
from kdht.program.node_status import NodeStatus

log = logging.getLogger(__name__)

# The page asks as often. A finer picture costs the node work that nobody sees.
EVERY_SECONDS = 2.0
MOST = 50
"""Events kept, the newest."""
MOST_AT_ONCE = 10
"""Nodes named of one look. More are counted in one line, so that they do not push out all that came before."""


class RecentEvent(NamedTuple):
    unix_s: float
    kind: str
    """joined, left, died, gone (left or died), degraded, up, rotated, ready, waiting."""
    what: str


class Sight(NamedTuple):
    """What one look saw."""

    nodes: dict[str, str]
    """Addresses by ID."""
    left: int
    """Nodes that said that they leave, since the start."""
    paths: dict[str, str]
    """States of the datapaths."""
    epochs: tuple[int, ...]
    waits: tuple[str, ...]


class RecentEvents:
    """Of one daemon. `run` looks until it is cancelled."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._last: Sight | None = None
        self._kept: deque[RecentEvent] = deque(maxlen=MOST)

    @property
    def newest_first(self) -> list[RecentEvent]:
        return list(reversed(self._kept))

    async def run(self) -> None:
        while True:
            try:
                self.look(await self._see(), time.time())
            except KdhtError:
                self._last = None  # it starts, moves or stops: its next contacts are news to nobody
            except Exception:
                log.exception("the page's events failed")
            await asyncio.sleep(EVERY_SECONDS)

    async def _see(self) -> Sight:
        # In this order: who is missing from the table has been counted by then, if it said that it leaves.
        table = await answered(self._methods, "table", RoutingTable)
        stats = await answered(self._methods, "stats", NodeStats)
        status = await answered(self._methods, "status", NodeStatus)
        return Sight(
            {contact.id: contact.address for contact in table.contacts},
            stats.node.get("left", 0),
            {path["name"]: path["state"] for path in status.datapaths},
            tuple(status.key_epochs),
            tuple(status.waiting_for),
        )

    def look(self, now: Sight, unix_s: float) -> None:
        """Note what differs from the last look. The first one has nothing to compare with."""
        before, self._last = self._last, now
        if before is not None:
            self._kept.extend(RecentEvent(unix_s, *event) for event in _differences(before, now))


def _differences(before: Sight, now: Sight) -> Iterator[tuple[str, str]]:
    came = [address for id, address in now.nodes.items() if id not in before.nodes]
    went = [address for id, address in before.nodes.items() if id not in now.nodes]
    said = now.left - before.left
    yield from _named("joined", came)
    # Of several, some with a word and some without one, nothing tells which.
    yield from _named("left" if said >= len(went) else "gone" if said else "died", went)
    for name, state in now.paths.items():
        if before.paths.get(name, "up") != state:
            yield ("up" if state == "up" else "degraded"), f"datapath {name}: {state}"
    if before.epochs != now.epochs:
        yield "rotated", f"key epochs {_listed(before.epochs)} to {_listed(now.epochs)}"
    if before.waits != now.waits:
        yield ("waiting", f"this node, for {_listed(now.waits)}") if now.waits else ("ready", "this node")


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))


def _named(kind: str, addresses: list[str]) -> Iterator[tuple[str, str]]:
    for address in addresses[:MOST_AT_ONCE]:
        yield kind, address
    if len(addresses) > MOST_AT_ONCE:
        yield kind, f"{len(addresses) - MOST_AT_ONCE} more"
