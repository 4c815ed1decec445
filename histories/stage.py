"""A history's stage: nodes and clients, each in its own network namespace on one bridge.

client   n1   n2   ...   nN    spare (joins and leaves)
  |      |    |          |      |
--+------+----+-- br0 ---+------+--   (`network` treats what comes from each port)

Or on loopback, without root, where the network cannot be treated.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histories import clock
from histories.clock import Clock
from histories.network import Network
from kdht.errors import KdhtError, LabError, NoDaemon
from kdht.lab.cluster import DAEMON, Cluster, LabNode, Place, places_in, places_on_loopback
from kdht.lab.netns import Host, Lab
from kdht.lab.stage import client_host, runtime_dir_as_found
from kdht.lab.wait import wait_until
from kdht.wire._shared import ID_LEN

PREFIX = "kdht-hist"
RESTED = 180.0
"""Seconds for a healed cluster to come to rest."""
PINS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The parts of a stage."""

    datapath: str
    nodes: int = 5
    replicas: int = 3
    ipv6: bool = False
    loopback: bool = False
    clocks: bool = True
    seed: int = 0
    program: str = DAEMON
    """The daemons' module."""


@dataclass(slots=True)
class Stage:
    setting: Setting
    directory: Path
    cluster: Cluster
    spare: LabNode
    lab: Lab | None
    network: Network | None
    client: Host | None
    clocks: dict[str, Clock]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    """Process groups that are paused."""

    @property
    def members(self) -> list[LabNode]:
        return [node for node in self.cluster.nodes if node is not self.spare]

    @property
    def living(self) -> list[LabNode]:
        return [node for node in self.cluster.nodes if node.alive()]

    def node(self, name: str) -> LabNode:
        return next(node for node in self.cluster.nodes if node.name == name)

    def start(self, node: LabNode) -> None:
        start(node, self.clocks)

    def pause(self, group: int) -> None:
        """SIGSTOP to a process and its children."""
        self.stopped.add(group)
        os.killpg(group, signal.SIGSTOP)

    def resume(self) -> None:
        """All that are paused."""
        for group in self.stopped:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)
        self.stopped.clear()

    def new_clock(self, name: str, offset: float) -> AbstractContextManager[None]:
        """What is started in the block has a clock that is ahead, where the setting is about clocks."""
        if not self.setting.clocks:
            return nullcontext()
        made = Clock(clock.compiled(self.directory), self.directory / f"{name}.clock")
        made.set(offset)
        return made.worn()

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """A process where the clients are."""
        if self.client is not None:
            return self.client.popen(command, **options)
        return subprocess.Popen(list(command), start_new_session=True, **options)

    def wait_rest(self) -> float:
        """Until all members live, know each other, and have nothing to compare or send; the seconds it took.

        Raises LabError.
        """
        began = time.monotonic()
        waits = ""

        def rests() -> bool:
            nonlocal waits
            waits = self._unrest()
            return not waits

        try:
            wait_until(rests, "rest", RESTED)
        except LabError:
            raise LabError(f"not at rest {RESTED:g} s after all was healed: {waits}") from None
        return time.monotonic() - began

    def _unrest(self) -> str:
        """The nodes waiting, and their causes."""
        living = self.living
        for node in living:
            try:
                status = node.status()
            except (NoDaemon, KdhtError) as error:
                return f"{node.name}: {error}"
            busy = {
                what: status["repair"][what]
                for what in ("behind", "running", "planned", "pushing")
                if status["repair"].get(what)
            }
            if not status["ready"] or status["contacts"] != len(living) - 1 or busy:
                return f"{node.name}: ready {status['ready']}, {status['contacts']} contacts, {busy}"
        time.sleep(0.2)
        return ""


def start(node: LabNode, clocks: dict[str, Clock]) -> None:
    worn = clocks.get(node.name)
    with ExitStack() as stack:
        if worn is not None:
            stack.enter_context(worn.worn())
        node.start()


class _Members(Cluster):
    """All but the last node, which is the spare."""

    clocks: dict[str, Clock]

    def start(self) -> None:
        """All at once: each knows the others' addresses, and none is the first."""
        for node in self.nodes[:-1]:
            start(node, self.clocks)
        self.wait_ready()


@contextmanager
def built(setting: Setting, directory: Path) -> Iterator[Stage]:
    """The stage with its cluster running; nothing is left of it but `directory`. Raises LabError."""
    count = setting.nodes + 1
    rng = random.Random(f"ids {setting.seed}")
    ids = [rng.randbytes(ID_LEN) for _ in range(count)]
    with ExitStack() as stack:
        lab, network, client = None, None, None
        if setting.loopback:
            places = places_on_loopback(count)
        else:
            stack.enter_context(runtime_dir_as_found())
            lab = stack.enter_context(Lab(PREFIX))
            places = places_in(lab, count, ipv4=not setting.ipv6, ipv6=setting.ipv6)
            client = client_host(lab, ipv6=setting.ipv6)
            if setting.datapath == "ebpf":
                lab.let_xdp_send()
            network = _network(lab, setting.seed)
            stack.callback(network.close)
        clocks = _clocks(places, directory) if setting.clocks else {}
        cluster = _Members(
            places,
            directory,
            datapath=setting.datapath,
            settings={
                "node": {"bootstrap": [str(place.addresses[0]) for place in places[:-1]]},
                "replication": {"replicas": setting.replicas},
            },
            ids=ids,
            program=setting.program,
        )
        cluster.clocks = clocks
        stack.callback(_unpin, [*ids])
        stage = Stage(setting, directory, cluster, cluster.nodes[-1], lab, network, client, clocks)
        stack.enter_context(cluster)
        stack.callback(stage.resume)
        yield stage


def wipe(node: LabNode) -> None:
    """Its disk is new: it comes as a node that never was there."""
    shutil.rmtree(node.records.parent, ignore_errors=True)


def _network(lab: Lab, seed: int) -> Network:
    network = Network(lab, seed)
    for host in lab.hosts.values():
        if host is not lab.bridge:
            network.add(host)
    return network


def _clocks(places: Sequence[Place], directory: Path) -> dict[str, Clock]:
    library = clock.compiled(directory)
    return {place.name: Clock(library, directory / f"{place.name}.clock") for place in places}


def _unpin(ids: Sequence[bytes]) -> None:
    """What a killed daemon that was not started again left in bpffs."""
    for id in ids:
        shutil.rmtree(PINS / f"kdht-{id.hex()}", ignore_errors=True)
