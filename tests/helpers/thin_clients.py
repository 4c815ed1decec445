"""The clients' drivers (clients/README.md): how each is built, and one that runs."""

import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from ci import lacks
from daemons import run
from paths import ROOT

REPLY_TIMEOUT = 90.0
"""Seconds for a reply: far more than any `timeout_ms`."""
DRIVERS = ROOT / "tests/clients"
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]  # fmt: skip

Popen = Callable[..., "subprocess.Popen[Any]"]


def compiled(compiler: str, directory: Path, *sources: Path) -> Path:
    """The C client with these sources, with sanitizers."""
    if shutil.which(compiler) is None:
        lacks(f"needs {compiler} (apt-get install {compiler})")
    program = directory / f"{sources[0].stem}-{compiler}"
    client = ROOT / "clients/c"
    done = run([compiler, *C_FLAGS, f"-I{client}", *sources, client / "kdht.c", "-o", program])
    assert done.returncode == 0, done.stderr
    return program


def _python(_: Path) -> list[str]:
    return [sys.executable, str(DRIVERS / "driver.py")]


def _c(directory: Path) -> list[str]:
    return [str(compiled("gcc", directory, DRIVERS / "driver.c"))]


def _c_of_clang(directory: Path) -> list[str]:
    return [str(compiled("clang", directory, DRIVERS / "driver.c"))]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {"python": _python, "c": _c, "c-clang": _c_of_clang}
"""Of each client: from a directory for what has to be built to the driver's command."""


class Driver:
    """A driver that runs. `popen`: as subprocess.Popen, perhaps in a namespace."""

    def __init__(self, command: Sequence[str], popen: Popen = subprocess.Popen) -> None:
        self._process = popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def send(self, command: str, **fields: object) -> None:
        """A command; `receive` has its reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(
            " ".join([command, *(f"{name}={each}" for name, each in fields.items())]) + "\n"
        )
        self._process.stdin.flush()

    def has_reply(self, seconds: float, *others: socket.socket) -> tuple[bool, list[socket.socket]]:
        """Whether a reply begins within that time, or else which of the sockets have datagrams."""
        ready, _, _ = select.select([self._process.stdout, *others], [], [], seconds)
        return self._process.stdout in ready, [each for each in others if each in ready]

    def receive(self) -> str:
        """The next reply."""
        assert self._process.stdout is not None
        assert self.has_reply(REPLY_TIMEOUT)[0], "no reply"
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            _, said = self._process.communicate()
            raise AssertionError(f"the driver ended with {self._process.returncode}: {said}")
        return line[:-1]

    def do(self, command: str, **fields: object) -> str:
        self.send(command, **fields)
        return self.receive()

    def end(self) -> tuple[int, str]:
        """At the end of its input: its status, and its standard error."""
        _, said = self._process.communicate(timeout=REPLY_TIMEOUT)
        return self._process.returncode, said
