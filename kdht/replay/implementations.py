"""The implementations for captures: the oracle, the core, and the XDP program by test run.

The live ones are in live.py. `made` makes any of them by its name, with an artificial fault (faults.py) on request.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from kdht.errors import ConfigError
from kdht.replay._capture import Batch
from kdht.replay._engine import Results, run_core, run_program
from kdht.replay.base import NANOSECONDS, Implementation, InProcess, Run
from kdht.replay.faults import Faulty
from kdht.replay.oracle import OracleSettings, SlowNode, SlowTable
from kdht.replay.oracle_packets import decide_packet
from kdht.replay.tables import ReplayTable

THREADS = 2
"""Threads that run the XDP program: each packet costs one system call."""
ALONE = 64
"""A batch of at most so many packets runs in one thread."""


class OfCore(InProcess):
    """The Cython core."""

    name = "core"

    def __init__(self, table: ReplayTable) -> None:
        self.core = table.core()

    def run(self, batch: Batch, now: int | None) -> Run:
        results = Results(batch)
        run_core(self.core, results, now)
        return Run(results, now)


class OfOracle(InProcess):
    """The plain Python oracle."""

    name = "oracle"

    def __init__(self, table: ReplayTable) -> None:
        self.node = SlowNode(OracleSettings(**table.settings()), SlowTable(table.self_id, table.buckets()))

    def run(self, batch: Batch, now: int | None) -> Run:
        results = Results(batch)
        for index in range(len(batch)):
            second = batch.frame(index).nanos // NANOSECONDS if now is None else now
            found = decide_packet(self.node, batch.packet(index), second % 2**32)
            results.put(
                index, found.reason, found.data, found.source, found.target, found.next_id, found.max_reply
            )
        return Run(results, now)


class OfProgram(InProcess):
    """The XDP program, in the kernel's test run: one system call for each packet, in two threads."""

    name = "ebpf"

    def __init__(self, table: ReplayTable) -> None:
        """Raises DatapathError where the program cannot be loaded."""
        from kdht.replay.program import TestProgram

        self._program = TestProgram(table)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="kdht-test-run")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(self, batch: Batch, now: int | None) -> Run:
        results = Results(batch)
        begin = 0
        while begin < len(batch):
            end = len(batch) if now is not None else batch.same_second(begin)
            self._program.set_time(now if now is not None else batch.frame(begin).nanos // NANOSECONDS)
            self._run(results, begin, end)
            begin = end
        return Run(results, now)

    def _run(self, results: Results, begin: int, end: int) -> None:
        if end - begin <= ALONE:
            run_program(self._program.fd, results, begin, end)
            return
        step = -(-(end - begin) // THREADS)
        waiting: list[Future[None]] = [
            self._pool.submit(run_program, self._program.fd, results, at, min(at + step, end))
            for at in range(begin, end, step)
        ]
        for each in waiting:
            each.result()


def _live(kind: str) -> Callable[[ReplayTable], Implementation]:
    def make(table: ReplayTable) -> Implementation:
        from kdht.replay.live import Live

        return Live(table, kind)

    return make


MAKERS: dict[str, Callable[[ReplayTable], Implementation]] = {
    "oracle": OfOracle,
    "core": OfCore,
    "ebpf": OfProgram,
    "live-socket": _live("socket"),
    "live-nfqueue": _live("nfqueue"),
    "live-ebpf": _live("ebpf"),
}
NAMES = tuple(MAKERS)


def made(name: str, table: ReplayTable, fault: str | None = None) -> Implementation:
    """The implementation of that name, perhaps with an artificial fault.

    Raises ConfigError for an unknown name, DatapathError if it cannot run here.
    """
    if name not in MAKERS:
        raise ConfigError(f"no implementation is called {name}: there are {', '.join(NAMES)}")
    if fault is None:
        return MAKERS[name](table)
    return Faulty(MAKERS[name], table, fault)
