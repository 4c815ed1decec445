"""A cluster of real kdhtd daemons: in a laboratory's namespaces, or on loopback without root.

    with Lab("demo") as lab, Cluster(places_in(lab, 8), directory, datapath="nfqueue") as cluster:
        cluster.nodes[0].status()

At the end of the block all daemons have ended. Their logs are in `directory`. If one fails, its
last lines are in the error.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

from kdht.errors import LabError, NoDaemon
from kdht.lab import signals
from kdht.lab.netns import STOP_TIMEOUT, Host, Lab
from kdht.lab.wait import wait_until
from kdht.program import control_client
from kdht.wire import Address
from kdht.wire._shared import PORT, K

# Seconds. Sixty daemons start together on two processors.
READY_TIMEOUT = 60.0
DAEMON = "kdht.daemon.main"
LOG_TAIL = 15
"""Lines of a failed daemon's log in the error."""

Settings = Mapping[str, Mapping[str, object]]
"""Tables and fields of the daemon's configuration."""


class Place(NamedTuple):
    """Where a node runs: its name, its addresses, and its host if that is not this one."""

    name: str
    addresses: tuple[Address, ...]
    host: Host | None = None


def places_in(
    lab: Lab, count: int, *, ipv4: bool = True, ipv6: bool = False, port: int = PORT
) -> list[Place]:
    """New hosts n1, n2, ... on the lab's bridge: 10.53.48.N, fd53:48::N, or both."""
    found = []
    for number in range(1, count + 1):
        hosts = [text for text, wanted in _addresses(number, ipv4, ipv6) if wanted]
        host = lab.host(
            f"n{number}",
            ipv4=f"{hosts[0]}/24" if ipv4 else None,
            ipv6=f"{hosts[-1]}/64" if ipv6 else None,
        )
        found.append(Place(host.name, tuple(Address.of(text, port) for text in hosts), host))
    return found


def _addresses(number: int, ipv4: bool, ipv6: bool) -> list[tuple[str, bool]]:
    return [(f"10.53.48.{number}", ipv4), (f"fd53:48::{number:x}", ipv6)]


def places_on_loopback(count: int, port: int | None = None) -> list[Place]:
    """127.0.0.1, 127.0.0.2, ... with one port, a free one if none is given."""
    hosts = [f"127.0.0.{number}" for number in range(1, count + 1)]
    chosen = port or _free_port(hosts)
    return [Place(f"n{number}", (Address.of(host, chosen),)) for number, host in enumerate(hosts, start=1)]


def _free_port(hosts: Sequence[str], tries: int = 50) -> int:
    """A UDP port that is free on all hosts. Raises LabError."""
    for _ in range(tries):
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind((hosts[0], 0))
            port = cast(int, first.getsockname()[1])
            try:
                for host in hosts[1:]:
                    stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((host, port))
            except OSError:
                # Taken on another of the addresses. Try another port.
                continue
            return port
    raise LabError(f"no UDP port is free on all of {hosts[0]} to {hosts[-1]}: name one")


class LabNode:
    """One daemon: its files, its process, and its control socket."""

    def __init__(
        self,
        place: Place,
        directory: Path,
        config: str,
        id: bytes | None = None,
        program: str = DAEMON,
    ) -> None:
        self.place = place
        self.name = place.name
        self.address = place.addresses[0]
        self.control = directory / "control.sock"
        self.log = directory / "log"
        self.records = directory / "data" / "records"
        self.config = directory / "kdhtd.toml"
        self.program = program
        """Of the next start."""
        self._process: subprocess.Popen[Any] | None = None
        directory.mkdir()
        self.config.write_text(config)
        if id is not None:
            self.records.parent.mkdir()
            (self.records.parent / "node_id").write_text(f"{id.hex()}\n")

    def __repr__(self) -> str:
        return f"Node({self.name} at {self.address})"

    @property
    def host(self) -> Host:
        """The namespace; raises LabError for a node on loopback."""
        if self.place.host is None:
            raise LabError(f"{self.name} has no host of its own")
        return self.place.host

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Start the daemon; `Cluster.wait_ready` waits for it."""
        command = [sys.executable, "-m", self.program, "--config", str(self.config)]
        with self.log.open("ab") as log, signals.deferred():
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            if self.place.host is not None:
                self._process = self.place.host.popen(command, **options)
            else:
                self._process = subprocess.Popen(command, start_new_session=True, **options)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._running().terminate()

    def stop(self) -> int:
        """SIGTERM, and wait; the exit status. Raises as `wait_end` does."""
        self.terminate()
        return self.wait_end()

    def wait_end(self) -> int:
        """The exit status. Raises LabError if the daemon does not end and has to be killed."""
        try:
            return self._running().wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"{self.name} did not end on SIGTERM{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL, and wait."""
        process = self._running()
        process.kill()
        process.wait()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def call(self, method: str, **params: object) -> Any:
        """The daemon's answer. Raises NoDaemon, or KdhtError with its refusal."""
        return control_client.call(self.control, method, **params)

    def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.call("status"))

    def stats(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.call("stats"))

    def started(self) -> bool:
        """Whether it is ready, or would be if the others lived that it remembers. Raises LabError if it ended."""
        return self.ready(0) or (self.alive() and self._misses_others())

    def _misses_others(self) -> bool:
        try:
            return bool(self.status()["gone"])
        except NoDaemon:
            # It is starting or stopping.
            return False

    def ready(self, contacts: int) -> bool:
        """Whether it is ready and knows enough others. Raises LabError if it ended."""
        if not self.alive():
            code = self._running().returncode
            raise LabError(f"{self.name} ended with status {code}{self.tail()}")
        try:
            status = self.status()
        except NoDaemon:
            # Its control socket is not there yet.
            return False
        return bool(status["ready"]) and int(status["contacts"]) >= contacts

    def tail(self) -> str:
        """The last lines of the log, for an error's end."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        return "".join(f"\n  {line}" for line in lines)

    def _running(self) -> subprocess.Popen[Any]:
        if self._process is None:
            raise LabError(f"{self.name} was never started")
        return self._process


class Cluster:
    """Daemons at the places given, all knowing each other when the block begins."""

    def __init__(
        self,
        places: Sequence[Place],
        directory: Path,
        *,
        datapath: str,
        settings: Settings | None = None,
        each: Callable[[Place], Settings] = lambda place: {},
        ids: Sequence[bytes] | None = None,
        program: str = DAEMON,
    ) -> None:
        """`settings` are laid over every node's configuration, and what `each` says over one; `directory` exists and is the
        caller's.

        `ids`: the nodes', in order (kdht.lab.ids); without, each makes its own. `program`: the daemon's module, or a
        test's in its place.
        """
        self.nodes: list[LabNode] = []
        self._stack = ExitStack()
        # Its own, so that nodes of two clusters on one machine never believe each other.
        self.secret = secrets.token_hex(16)
        self._bucket_size = cast(int, (settings or {}).get("node", {}).get("bucket_size", K))
        first = str(places[0].addresses[0])
        for place, id in zip(places, ids or repeat(None), strict=False):
            home = directory / place.name
            tables = _tables(place, home, first, self.secret, datapath)
            for table, fields in [*(settings or {}).items(), *each(place).items()]:
                tables[table] = {**tables.get(table, {}), **fields}
            self.nodes.append(LabNode(place, home, _toml(tables), id, program))

    def __enter__(self) -> "Cluster":
        with ExitStack() as stack:
            stack.enter_context(signals.ended_by_sigterm())
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start all, the first one before the others, and wait until all know each other."""
        # The others join through the first. A node whose bootstrap is silent asks again with growing pauses.
        first, *others = self.nodes
        first.start()
        wait_until(first.started, f"{first.name} to start", READY_TIMEOUT)
        for node in others:
            node.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every living node is ready and knows the other living ones. Raises LabError."""
        living = [node for node in self.nodes if node.alive()]
        expected = min(len(living) - 1, self._bucket_size)
        for node in living:
            with _with_log(node):
                wait_until(
                    lambda node=node: node.ready(expected),  # type: ignore[misc]
                    f"{node.name} to be ready and know {expected} others",
                    READY_TIMEOUT,
                )

    @signals.deferred()
    def stop(self) -> None:
        """End all daemons, in parallel. Once all have ended, raises LabError if one had to be killed."""
        living = [node for node in self.nodes if node.alive()]
        # All at once: an end waits for the disk, and dozens one by one would take minutes.
        for node in living:
            node.terminate()
        with ExitStack() as stack:
            for node in living:
                stack.callback(node.wait_end)


@contextmanager
def _with_log(node: LabNode) -> Iterator[None]:
    try:
        yield
    except LabError as error:
        raise LabError(f"{error}{node.tail()}") if node.alive() else error from None


def _tables(place: Place, home: Path, first: str, secret: str, datapath: str) -> dict[str, dict[str, Any]]:
    listen = [str(address) for address in place.addresses]
    return {
        "node": {
            "listen": listen,
            "bootstrap": [] if first in listen else [first],
            "data_dir": str(home / "data"),
        },
        "[key]": {"epoch": 1, "secret": secret},
        "access": {"writes": "open"},
        "datapath": {"kind": datapath},
        "control": {"socket": str(home / "control.sock")},
    }


def _toml(tables: Settings) -> str:
    """Texts, numbers, truth values and lists look in TOML as they do in JSON."""
    lines = [f"# process {os.getpid()} made this"]
    for table, fields in tables.items():
        lines += ["", f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    return "\n".join(lines) + "\n"
