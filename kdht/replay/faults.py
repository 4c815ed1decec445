"""Artificial faults, so that tests can see the comparison find one: `diff --fault core:hops`.

Each wraps a right implementation in a likely mistake.
"""

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

from kdht.errors import ConfigError
from kdht.replay._capture import Batch
from kdht.replay._engine import Results
from kdht.replay.base import Implementation, Run
from kdht.replay.packets import take_apart
from kdht.replay.tables import ReplayTable
from kdht.wire import OFFSET
from kdht.wire._shared import Reason


class Fault(NamedTuple):
    """The change of the table before, and of the results after."""

    table: Callable[[ReplayTable], ReplayTable] = lambda table: table
    results: Callable[[Results], None] = lambda results: None


def _forget_first(table: ReplayTable) -> ReplayTable:
    """Buckets of two and more lose their first contact."""
    kept = [contact for held in table.buckets().values() for contact in (held[1:] or held)]
    return replace(table, contacts=tuple(kept))


def _stretch_window(table: ReplayTable) -> ReplayTable:
    """The replay window is taken as minutes."""
    return replace(table, window=60 * table.window)


def _keep_hops(results: Results) -> None:
    """A forwarded message's hops are not lowered."""
    for index in results.having([Reason.NEXT_HOP]):
        found = results.get(index)
        datagram = take_apart(found.data)
        if datagram is not None:
            data = bytearray(found.data)
            data[datagram.begin + OFFSET["hops"]] += 1
            assert found.reason is not None
            results.put(index, found.reason, bytes(data), *found[2:6])


def _drop_replies(results: Results) -> None:
    """No reply is for this entry node."""
    for index in results.having([Reason.RELAYED]):
        results.put(index, Reason.NOT_ENTRY, results.batch.packet(index))


FAULTS = {
    "next-hop": Fault(table=_forget_first),
    "window": Fault(table=_stretch_window),
    "hops": Fault(results=_keep_hops),
    "replies": Fault(results=_drop_replies),
}


class Faulty:
    """An implementation with a fault."""

    def __init__(self, make: Callable[[ReplayTable], Implementation], table: ReplayTable, fault: str) -> None:
        """Raises ConfigError for an unknown fault."""
        if fault not in FAULTS:
            raise ConfigError(f"no fault is called {fault}: there are {', '.join(FAULTS)}")
        self._fault = FAULTS[fault]
        self._inner = make(self._fault.table(table))
        self.name = self._inner.name

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def run(self, batch: Batch, now: int | None) -> Run:
        """As the right one, but for the fault."""
        run = self._inner.run(batch, now)
        self._fault.results(run.results)
        return run
