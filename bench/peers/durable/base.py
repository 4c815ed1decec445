"""What the clusters have in common: ports, processes that end, processor time, and the load over TCP."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bench.peers.asking import TIMEOUT, parsed, program
from bench.peers.base import Timing
from bench.peers.missing import PeerMissing

NODES = 3
START = 60.0
END = 20.0
HOME = "127.0.0.1"


class Store(Protocol):
    """A running cluster that keeps values; value i is `values[i]`."""

    def cpu_seconds(self) -> float:
        """Processor time of all nodes so far."""

    def put(self, numbers: Sequence[int], outstanding: int) -> Timing:
        """Write these values."""

    def get(self, numbers: Sequence[int], outstanding: int) -> Timing | None:
        """Read and check them: no older than the last confirmed write. None: it is not measured here."""


class Durable(Protocol):
    """A peer."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> str:
        """How it is set up, in one or two sentences."""

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""

    def store(self, values: Sequence[bytes], directory: Path) -> AbstractContextManager[Store]:
        """Start three nodes. Raises PeerMissing."""


def found(name: str, *places: str) -> str | None:
    """Where that program is."""
    return shutil.which(name, path=":".join([*places, os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"]))


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody has now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind((HOME, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


@contextmanager
def started(command: Sequence[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program until the end of the block. Raises PeerMissing if it cannot be started."""
    with log.open("ab") as file:
        try:
            process = subprocess.Popen(
                [*map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        except OSError as error:
            raise PeerMissing(f"{command[0]}: {error}") from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as sock:
        return sock.connect_ex((HOME, port)) == 0


def ask_tcp(
    protocol: str,
    ports: Sequence[int],
    requests: Sequence[bytes],
    answers: Sequence[bytes],
    connections: int,
    streams: int = 1,
    count: int | None = None,
) -> Timing:
    """bench/c/tcp_ask.c with these requests, all of one length; `answers` may be empty. `count`: each once if left out."""
    assert len({*map(len, requests)}) == 1
    with tempfile.TemporaryDirectory(prefix="tcp_ask.") as directory:
        files = Path(directory) / "requests", Path(directory) / "answers"
        for file, messages in zip(files, (requests, answers), strict=True):
            file.write_bytes(b"".join(messages))
        sizes = len(requests[0]), len(answers[0]) if answers else 0
        targets = ",".join(f"{HOME}:{port}" for port in ports)
        command = [program("tcp_ask"), protocol, targets, files[0], sizes[0], files[1], sizes[1]]
        command += [connections, streams, count or len(requests)]
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    if done.returncode:
        raise PeerMissing(f"tcp_ask: {done.stderr.strip()}")
    return parsed(json.loads(done.stdout))


def costing(cpu_seconds: Callable[[], float], load: Callable[[], Timing]) -> tuple[Timing, float]:
    """A load, and the servers' processor time for each of its requests in µs."""
    before = cpu_seconds()
    done = load()
    return done, 1e6 * (cpu_seconds() - before) / max(done.done, 1)
