"""Plays readers, writers and faults on a stage, and checks what was seen."""

import ipaddress
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from histories.faults import play
from histories.hot import check, readers, writers
from histories.hot.deaf import DAEMON as DEAF
from histories.hot.owners import Owners
from histories.plan import Act, acts
from histories.stage import Setting, Stage, built
from histories.verdict import Violation
from kdht import Client
from kdht.errors import KdhtError, LabError, NoDaemon
from kdht.lab.cluster import DAEMON
from kdht.lab.wait import wait_until
from kdht.wire._shared import Reason

KINDS = ("kill", "pause", "drain", "join", "calm")
SETTLED = 120.0
"""Seconds, at most, until all know each other again and have caught up."""
DOUBT = 1.5
"""Seconds more without a sure owner: a write that began before may be answered by another node until then."""
END_TIMEOUT = 30.0


class Plan(msgspec.Struct, frozen=True):
    seed: int
    reads: int
    faults: int
    """At least, unless the time is over."""
    minutes: float
    """At most."""
    nodes: int = 4
    readers: int = 32
    writers: int = 8
    keys: int = 8
    deaf: bool = False
    """The daemons' caches do not hear of changes: then there must be violations."""
    kinds: tuple[str, ...] = KINDS

    @property
    def names(self) -> list[str]:
        return [f"hot-{self.seed}-{number}" for number in range(self.keys)]


class Report(msgspec.Struct, frozen=True):
    plan: Plan
    reads: int
    """That were answered."""
    at_owners: int
    """Of these, those that the key's sure owner answered itself: they are in the search."""
    in_xdp: int
    """GETs that the XDP programs of all nodes answered."""
    outcomes: dict[str, int]
    acts: list[str]
    seconds: float
    checked_seconds: float
    violations: list[Violation]
    undecided: list[str]

    @property
    def holds(self) -> bool:
        return not self.violations and not self.undecided


Say = Callable[[str], None]


def run(plan: Plan, directory: Path, say: Say) -> Report:
    """`directory` is empty, and keeps what was seen. Raises LabError."""
    began = time.monotonic()
    setting = Setting(
        datapath="ebpf",
        nodes=plan.nodes,
        clocks=False,
        seed=plan.seed,
        program=DEAF if plan.deaf else DAEMON,
    )
    played: list[Act] = []
    with built(setting, directory) as stage:
        game = _Game(plan, stage)
        with game.clients():
            _play_all(plan, game, played, say)
        say("healed")
    seconds = time.monotonic() - began
    reads, writes = readers.load(directory), writers.load(directory)
    nodes = {int(ipaddress.ip_address(node.address.host)): node.name for node in stage.cluster.nodes}
    firm = check.at_owners(reads, game.owners.spans, nodes)
    say(
        f"checking {len(reads):,} reads, {len(firm):,} of them at the keys' owners, and {len(writes):,} writes"
    )
    verdict = check.check(reads, firm, writes, plan.keys)
    report = Report(
        plan,
        len(reads),
        len(firm),
        game.in_xdp,
        dict(Counter(f"{'quorum_get' if w.condition is None else 'put if'} {w.outcome}" for w in writes)),
        [str(act) for act in played],
        round(seconds, 1),
        round(time.monotonic() - began - seconds, 1),
        list(verdict.violations),
        list(verdict.undecided),
    )
    (directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return report


class _Game:
    """The stage with its clients, and what is known about the keys' owners."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan, self.stage = plan, stage
        self.owners = Owners(_ids(stage), plan.names)
        self.board = readers.Board(stage.directory / "board")
        self._numbers = {node.name: number for number, node in enumerate(stage.cluster.nodes)}
        self._counted: dict[str, int] = {}
        self.in_xdp = 0
        self._show_owners()

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Readers and writers, until the block ends; each key has a record before."""
        plan, stage = self._plan, self.stage
        self._write_first()
        directory = stage.directory
        options = writers.Options(
            plan.seed,
            plan.writers,
            plan.names,
            [(node.address.host, node.address.port) for node in stage.cluster.nodes],
            str(directory / "board"),
            str(directory / "writes"),
        )
        command = [sys.executable, "-m", "histories.hot.writers", msgspec.json.encode(options).decode()]
        writing = stage.popen(command, stdin=subprocess.DEVNULL)
        wait_until((directory / "writes").exists, "the writers", END_TIMEOUT)
        reading = readers.start(stage, plan.names, plan.readers, directory / "board")
        try:
            yield
        finally:
            self.board.end()
            self.owners.end_all()
            writing.terminate()
            self.count()
            readers.wait_end(reading)
            try:
                code = writing.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                writing.kill()
                raise LabError("the writers hang") from None
        if code:
            raise LabError(f"the writers ended with {code}")

    def begin(self, act: Act) -> None:
        """Before an act."""
        self.count()
        if act.kind != "join":
            self.owners.end(act.nodes)
        elif self.stage.spare.alive():  # it leaves
            self.owners.end([self.stage.spare.name])
        else:
            self.owners.end_all()

    def settle(self) -> None:
        """After an act: wait until all know each other and have caught up; then the owners are sure again.

        Raises LabError.
        """
        wait_until(self._is_settled, "all nodes to catch up", SETTLED)
        self.owners.know(_ids(self.stage))
        self._show_owners()
        time.sleep(DOUBT)
        self.owners.begin()
        self.count()

    def count(self) -> None:
        """Add up what the programs answered: a program that was loaded anew counts from 0."""
        for node in self.stage.living:
            with suppress(KdhtError, NoDaemon):
                now = int(node.stats()["packets"]["ebpf"][Reason.ANSWERED.name])
                before = self._counted.get(node.name, 0)
                self.in_xdp += now - before if now >= before else now
                self._counted[node.name] = now

    def _show_owners(self) -> None:
        for key, owner in enumerate(self.owners.owners):
            self.board.set_owner(key, self._numbers[owner])

    def _is_settled(self) -> bool:
        living = self.stage.living
        for node in living:
            try:
                status = node.status()
            except (NoDaemon, KdhtError):
                return False
            if not status["ready"] or status["contacts"] != len(living) - 1 or status["repair"]["behind"]:
                return False
        return True

    def _write_first(self) -> None:
        addresses = [str(node.address) for node in self.stage.members]
        host = self.stage.client
        assert host is not None, "histories of hot keys have namespaces"
        with host.enter(), Client(addresses, timeout=20) as client:
            for name in self._plan.names:
                client.put(name, bytes(8))


def _ids(stage: Stage) -> dict[str, bytes]:
    """Of the nodes that live."""
    return {node.name: bytes.fromhex(node.status()["node_id"]) for node in stage.living}


def _play_all(plan: Plan, game: _Game, played: list[Act], say: Say) -> None:
    """Acts until there are enough reads or the time is over."""
    ends = time.monotonic() + plan.minutes * 60

    def is_over() -> bool:
        enough = game.board.answered >= plan.reads and len(played) >= plan.faults
        return enough or time.monotonic() >= ends

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not is_over():
            time.sleep(min(0.1, max(until - time.monotonic(), 0)))

    for act in acts(plan.seed, plan.kinds, [node.name for node in game.stage.members]):
        wait(act.rest)
        if is_over():
            return
        say(f"{game.board.answered:9,} reads, {game.in_xdp:,} in XDP; {act}")
        played.append(act)
        game.begin(act)
        play(game.stage, msgspec.structs.replace(act, rest=0.0), wait)
        game.settle()
