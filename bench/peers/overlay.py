"""Clusters of peers with overlays of their own: N node programs (`nodes/`), asked over their pipes."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.base import NOBODY, Running, Timing, timing
from bench.peers.missing import PeerMissing
from bench.peers.sites import Site

ROOT = Path(__file__).parent.parent.parent
START = 60.0
ANSWER = 600.0
SETTLE = 15.0
"""Seconds for a new cluster to fill its routing tables. libtorrent's nodes know 8 others after 3, all after 12."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A Kind: one of the programs in `nodes/`, and the Python with its binding."""

    name: str
    notes: str
    module: str
    binding: str
    python: str = sys.executable
    scale: float = 1.0

    def missing(self) -> str | None:
        try:
            tried = subprocess.run(
                [self.python, "-c", f"import {self.binding}"], capture_output=True, check=False
            )
        except OSError as error:
            return str(error)
        return f"{self.python} has no module {self.binding}" if tried.returncode else None

    @contextmanager
    def cluster(self, site: Site, values: Sequence[bytes], directory: Path) -> Iterator[Running]:
        if len(site.places) < 2:
            raise PeerMissing(f"a single node of {self.name} has nobody to ask")
        addresses = site.peers()
        size = len(values[0])
        with ExitStack() as stack:
            programs = []
            for number, address in enumerate(addresses):
                bootstrap = addresses[0] if number else NOBODY
                command = [self.python, "-m", f"bench.peers.nodes.{self.module}", address, bootstrap]
                log = stack.enter_context((directory / f"{self.name}-{number}.log").open("wb"))
                program = Program(site, number, [*command, str(len(values)), str(size)], log)
                stack.callback(program.end)
                programs.append(program)
                if not number:
                    program.wait_ready()
            for program in programs[1:]:
                program.wait_ready()
            time.sleep(SETTLE)
            yield Asked(programs)


class Program:
    """One node."""

    def __init__(self, site: Site, number: int, command: list[str], log: Any) -> None:
        self._process = site.popen(
            number, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Raises PeerMissing if it ended instead."""
        if self._line(START) != b"ready\n":
            raise PeerMissing(f"{self._process.args!r} did not start")

    def ask(self, do: str, numbers: Sequence[int], outstanding: int) -> Timing:
        """Raises PeerMissing if the node ends."""
        assert self._process.stdin is not None
        asked = {"do": do, "numbers": list(numbers), "outstanding": outstanding}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        line = self._line(ANSWER)
        if not line:
            raise PeerMissing(f"{self._process.args!r} ended or hung under load")
        said = json.loads(line)
        return timing(said["latencies"], said["failed"], said["seconds"])

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], seconds)[0]:
            return b""
        return stdout.readline()


class Asked:
    """A Running: writes by the second node, reads by the last."""

    def __init__(self, programs: list[Program]) -> None:
        self._programs = programs

    def pids(self) -> list[int]:
        return [program.pid for program in self._programs]

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        return self._programs[1].ask("put", numbers, outstanding)

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing:
        return self._programs[-1].ask("get", numbers, outstanding)


OVERLAYS = (
    Overlay(
        name="libtorrent",
        notes="Immutable items (BEP 44), in memory on 8 nodes; its limits for one address are lifted.",
        module="libtorrent_node",
        binding="libtorrent",
    ),
    Overlay(
        name="OpenDHT",
        notes="The C++ library by its Python binding, values in memory on 8 nodes; its rate limits are lifted.",
        module="opendht_node",
        binding="opendht",
        python="/usr/bin/python3",
        scale=0.3,
    ),
    Overlay(
        name="kademlia",
        notes="The PyPI package: asyncio, values in memory on 20 nodes; it loses replies under load, and waits 5 s for each.",
        module="kademlia_node",
        binding="kademlia",
        scale=0.07,
    ),
)
