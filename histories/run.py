"""One history from its beginning to its verdict."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec

from histories import counters, final, registers, sessions, watches
from histories.clients import running
from histories.faults import play
from histories.final import Held
from histories.plan import DIVIDES, Act, acts, client_offsets
from histories.record import History, Operation, Recorder, by_key, doubted, load
from histories.recording import Recorded, connect
from histories.stage import Setting, Stage, built
from histories.verdict import Verdict, Violation, joined
from histories.worker import LEASE, Options
from kdht.errors import LabError
from kdht.lab import census
from kdht.lab.wait import wait_until
from kdht.wire import hash_key

WORKERS = 2
CLIENTS = 4
"""In each worker."""
TRACEBACK = "Traceback (most recent call last)"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A history's setting. With one tree of kdht it always gives the same plan."""

    seed: int
    operations: int
    minutes: float
    kinds: tuple[str, ...]
    datapath: str
    nodes: int
    replicas: int
    ipv6: bool
    loopback: bool
    pause_ms: float
    keys: int
    generation: int

    @property
    def setting(self) -> Setting:
        return Setting(
            datapath=self.datapath,
            nodes=self.nodes,
            replicas=self.replicas,
            ipv6=self.ipv6,
            loopback=self.loopback,
            clocks="skew" in self.kinds,
            seed=self.seed,
        )


class Report(msgspec.Struct, frozen=True):
    plan: Plan
    operations: int
    outcomes: dict[str, int]
    acts: list[str]
    seconds: float
    rest_seconds: float
    checked_seconds: float
    violations: list[Violation]
    undecided: list[str]

    @property
    def holds(self) -> bool:
        return not self.violations and not self.undecided


Say = Callable[[str], None]


def run(plan: Plan, directory: Path, say: Say) -> Report:
    """Play and check. `directory` is empty, and keeps the history, the logs and the report. Raises LabError."""
    began = time.monotonic()
    played: list[Act] = []
    troubles: list[Violation] = []
    rest_seconds = 0.0
    held: dict[str, list[Held]] = {}
    with built(plan.setting, directory) as stage:
        try:
            with running(stage, _options(plan, stage, "watch", watches=True)):
                with _clients(plan, stage) as operations:
                    _play_all(plan, stage, operations, played, say)
                say("healed; waiting for rest")
                for node in stage.members:
                    if not node.alive():
                        stage.start(node)
                rest_seconds = stage.wait_rest()
                _wait_told(directory)
            keys = sorted(by_key(_history(directory)))
            say(f"at rest after {rest_seconds:.1f} s; reading {len(keys)} keys through every node")
            _read_all(stage, keys)
            held = _on_disks(stage, keys)
        except LabError as error:
            troubles.append(Violation("lives", "the cluster", str(error)))
    troubles += _tracebacks(stage)
    seconds = time.monotonic() - began
    history = _history(directory)
    say(f"checking {len(history)} operations")
    verdict = joined([Verdict(tuple(troubles)), check(plan, history, held)])
    report = Report(
        plan,
        len(history),
        _outcomes(history),
        [str(act) for act in played],
        round(seconds, 1),
        round(rest_seconds, 1),
        round(time.monotonic() - began - seconds, 1),
        list(verdict.violations),
        list(verdict.undecided),
    )
    (directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return report


def check(plan: Plan, history: History, held: dict[str, list[Held]]) -> Verdict:
    """All promises not suspended by the plan's faults."""
    divided = not DIVIDES.isdisjoint(plan.kinds)
    if "duplicate" in plan.kinds:
        history = doubted(history)
    verdicts = [
        registers.check(history, linearizable=not divided),
        sessions.check(history),
        watches.check(history),
    ]
    if not divided:
        verdicts.append(counters.check(history))
    if held:
        verdicts.append(final.check(history, held, min(plan.replicas, plan.nodes)))
    return joined(verdicts)


# --- Playing -------------------------------------------------------------------------------


def _play_all(plan: Plan, stage: Stage, operations: Callable[[], int], played: list[Act], say: Say) -> None:
    """Acts until there are enough operations or the time is over."""
    ends = time.monotonic() + plan.minutes * 60

    def is_over() -> bool:
        return operations() >= plan.operations or time.monotonic() >= ends

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not is_over():
            time.sleep(min(0.2, max(until - time.monotonic(), 0)))

    for act in acts(plan.seed, plan.kinds, [node.name for node in stage.members]):
        if is_over():
            return
        say(f"{operations():7,} operations; {act}")
        played.append(act)
        play(stage, act, wait)


@contextmanager
def _clients(plan: Plan, stage: Stage) -> Iterator[Callable[[], int]]:
    """All clients, until the block ends. Yields a function for the number of operations."""
    with ExitStack() as stack:
        counts = [
            stack.enter_context(running(stage, _options(plan, stage, f"w{number}"), offset))
            for number, offset in enumerate(client_offsets(plan.seed, WORKERS, plan.kinds))
        ]
        yield lambda: sum(count() for count in counts)


def _options(plan: Plan, stage: Stage, name: str, *, watches: bool = False) -> Options:
    return Options(
        name,
        plan.seed,
        [str(node.address) for node in stage.members],
        str(stage.directory / f"{name}.jsonl"),
        CLIENTS,
        plan.pause_ms,
        plan.keys,
        plan.generation,
        watches,
    )


# --- Looking ---------------------------------------------------------------------------------


def _history(directory: Path) -> list[Operation]:
    return load(sorted(directory.glob("*.jsonl")))


def _wait_told(directory: Path) -> None:
    """Until the watches have told all, or had the time for it."""
    with suppress(LabError):  # the checker names the missing ones
        wait_until(lambda: watches.check(_history(directory)).holds, "the watches", 2 * LEASE)


def _read_all(stage: Stage, keys: Sequence[str]) -> None:
    """Every key by QUORUM_GET and by GET through each node, as clients of their own."""

    async def through(number: int, address: str, recorder: Recorder) -> None:
        client = Recorded(
            f"final.{number}", connect([address], blocking=False, direct=False, spread=False), recorder
        )
        waiting = iter(keys)

        async def reader() -> None:
            for key in waiting:
                await client.read(key, quorum=True)
                await client.read(key, quorum=False)

        await asyncio.gather(*(reader() for _ in range(8)))
        await client.close()

    async def all_nodes(recorder: Recorder) -> None:
        for number, node in zip(count(1), stage.living, strict=False):
            await through(number, str(node.address), recorder)

    with Recorder(stage.directory / "final.jsonl") as recorder:
        if stage.client is None:
            asyncio.run(all_nodes(recorder))
        else:
            with stage.client.enter():
                asyncio.run(all_nodes(recorder))


def _on_disks(stage: Stage, keys: Sequence[str]) -> dict[str, list[Held]]:
    """What the replicas hold. All daemons are ended for it; raises LabError for one that does not end."""
    living = stage.living
    ids = [(bytes.fromhex(node.status()["node_id"]), node.name) for node in living]
    stage.cluster.stop()
    taken = census.take(living)
    found: dict[str, list[Held]] = {}
    for key in keys:
        hashed = hash_key(key)
        records = taken.get(hashed, {})
        replicas = census.closest(ids, hashed, stage.setting.replicas)
        found[key] = [
            Held(name, records[name].version, None if records[name].deleted else records[name].value.decode())
            for name in replicas
            if name in records
        ]
    return found


def _tracebacks(stage: Stage) -> Iterator[Violation]:
    for node in stage.cluster.nodes:
        if node.log.exists() and TRACEBACK in node.log.read_text(errors="replace"):
            yield Violation("lives", node.name, f"a traceback in {node.log}")


def _outcomes(history: History) -> dict[str, int]:
    found: dict[str, int] = {}
    for op in history:
        name = f"{op.kind}{'' if op.condition is None else ' if'} {op.outcome}"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))
