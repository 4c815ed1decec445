"""The drivers of the thin clients in Go and JavaScript: programs that carry out commands, a line each (clients/README.md)."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Self

from ci import lacks
from paths import ROOT

CLIENTS = ROOT / "clients"
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


class Driver:
    """One driver, started. `ask` raises AssertionError if it is not there any more."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "KDHT_TOKEN"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
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

    def hear(self) -> str:
        assert self._process.stdout is not None
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
