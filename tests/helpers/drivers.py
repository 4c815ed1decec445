"""The drivers of all clients: programs that carry out commands, a line each (clients/README.md)."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Any, Self

from ci import lacks
from daemons import run
from paths import ROOT, TESTS

CLIENTS = ROOT / "clients"
REPLY_TIMEOUT = 90.0
"""Seconds for an answer: far more than any `timeout_ms`."""
C_FLAGS = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-g",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
Popen = Callable[..., "subprocess.Popen[Any]"]
# Built packages are kept between runs, beside this repository's others, and nothing is fetched.
GO_ENVIRONMENT = {
    "GOCACHE": str(ROOT / "build" / "go"),
    "GOENV": "off",
    "GOFLAGS": "-mod=mod",
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
}


def go_environment() -> dict[str, str]:
    return {**os.environ, **GO_ENVIRONMENT}


def need(program: str, package: str) -> None:
    if which(program) is None:
        lacks(f"needs {program} (Debian: apt-get install {package})")


def build_go(source: Path, package: str, target: Path) -> Path:
    """The program of a Go package, `./cmd/driver` for example, in the module in `source`."""
    need("go", "golang-go")
    command = ["go", "build", "-o", str(target), package]
    subprocess.run(command, cwd=source, env=go_environment(), check=True, timeout=240)
    return target


def go_driver(directory: Path) -> list[str]:
    return [str(build_go(CLIENTS / "go", "./cmd/driver", directory / "go-driver"))]


def js_driver(directory: Path) -> list[str]:
    need("node", "nodejs")
    return ["node", str(CLIENTS / "js" / "driver.mjs")]


def build_c(compiler: str, source: Path, target: Path) -> Path:
    """A program with the C client in it, and with sanitizers; a warning is an error."""
    need(compiler, compiler)
    client = CLIENTS / "c"
    done = run([compiler, *C_FLAGS, f"-I{client}", source, client / "kdht.c", "-o", target])
    assert done.returncode == 0, done.stderr
    return target


def c_driver(directory: Path) -> list[str]:
    return [str(build_c("gcc", TESTS / "clients/driver.c", directory / "c-driver"))]


def clang_driver(directory: Path) -> list[str]:
    return [str(build_c("clang", TESTS / "clients/driver.c", directory / "clang-driver"))]


def python_driver(directory: Path) -> list[str]:
    return [sys.executable, str(TESTS / "clients/driver.py")]


DRIVERS: dict[str, Callable[[Path], list[str]]] = {
    "python": python_driver,
    "c": c_driver,
    "c by clang": clang_driver,
    "go": go_driver,
    "js": js_driver,
}
"""Of each client: from a directory for what is built to the driver's command."""


class Driver:
    """One driver, started. `ask` raises AssertionError if it is not there any more.

    `popen`: as subprocess.Popen, perhaps in a namespace.
    """

    def __init__(self, command: Sequence[str], popen: Popen = subprocess.Popen) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "KDHT_TOKEN"}
        self._process = popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def say(self, word: str, **fields: object) -> None:
        """Bytes become hexadecimal."""
        parts = (f"{name}={_field(value)}" for name, value in fields.items())
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join((word, *parts)) + "\n")

    def waits_for(self, *others: socket.socket) -> tuple[bool, list[socket.socket]]:
        """Wait for an answer or a datagram: whether there is an answer, and the sockets with datagrams."""
        ready, _, _ = select.select([self._process.stdout, *others], [], [], REPLY_TIMEOUT)
        assert ready, "the driver is silent"
        return self._process.stdout in ready, [each for each in others if each in ready]

    def hear(self) -> str:
        assert self._process.stdout is not None
        self.waits_for()
        line = self._process.stdout.readline()
        assert line, "the driver has ended"
        return line.rstrip("\n")

    def ask(self, word: str, **fields: object) -> str:
        """The answer to one command."""
        self.say(word, **fields)
        return self.hear()

    def end(self) -> int:
        """End its input; its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(timeout=60)


def number_in(answer: str, name: str) -> int:
    """A number in an answer that is `ok`."""
    word, *fields = answer.split(" ")
    assert word == "ok", answer
    return int(dict(field.split("=", 1) for field in fields)[name])


def _field(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
