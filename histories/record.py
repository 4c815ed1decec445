"""One operation of a client, as a line of JSON. Times are CLOCK_MONOTONIC, which all processes of a machine share."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

Kind = Literal["put", "delete", "get", "quorum_get", "watch"]
"""`watch`: the report of a watch."""
Outcome = Literal["ok", "not_found", "conflict", "refused", "unknown"]
"""`refused`: nothing was changed. `unknown`: the write may take effect at any time after its call, or never."""


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`version`: of the record written or read, or of the current one at a conflict; 0 if unknown."""

    client: str
    kind: Kind
    key: str
    invoked_ns: int
    returned_ns: int
    outcome: Outcome
    value: str | None = None
    version: int = 0
    condition: int | None = None
    error: str = ""

    @property
    def is_write(self) -> bool:
        return self.kind in ("put", "delete")

    def __str__(self) -> str:
        condition = "" if self.condition is None else f" if {self.condition}"
        value = "" if self.value is None else f" {self.value!r}"
        version = f" version {self.version}" if self.version else ""
        error = f" ({self.error})" if self.error else ""
        span = f"{self.invoked_ns / 1e9:.6f} to {self.returned_ns / 1e9:.6f}"
        return (
            f"{span} {self.client} {self.kind} {self.key}{value}{condition}: {self.outcome}{version}{error}"
        )


History = Sequence[Operation]


def doubted(history: History) -> list[Operation]:
    """The history with refused writes in doubt: where the network delivers copies late, one may be carried out later.

    A condition that was not met stays so, whatever comes late.
    """
    return [
        msgspec.structs.replace(each, outcome="unknown") if each.outcome == "refused" else each
        for each in history
    ]


class Recorder(AbstractContextManager["Recorder"]):
    """Appends operations to a file, and keeps their number where others see it: in the file's twin `.count`."""

    def __init__(self, path: Path) -> None:
        self._file: BufferedWriter = path.open("wb")
        self._count_file = os.open(path.with_suffix(".count"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._encoder = msgspec.json.Encoder()
        self.count = 0

    def add(self, operation: Operation) -> None:
        self._file.write(self._encoder.encode(operation) + b"\n")
        self.count += 1
        if operation.kind == "watch":
            self._file.flush()  # somebody waits for the report
        if self.count % 50 == 0:
            self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._tell()
        os.close(self._count_file)

    def _tell(self) -> None:
        # In one call and of one length, so a reader finds the old number or the new one.
        os.pwrite(self._count_file, b"%12d" % self.count, 0)


def counted(path: Path) -> int:
    """About the number of operations recorded in that file."""
    try:
        return int(path.with_suffix(".count").read_text() or 0)
    except FileNotFoundError:
        return 0


def load(paths: Iterable[Path]) -> list[Operation]:
    """All operations by the time of their call."""
    return sorted((op for path in paths for op in _lines(path)), key=lambda op: op.invoked_ns)


def _lines(path: Path) -> Iterator[Operation]:
    decoder = msgspec.json.Decoder(Operation)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in history:
        found.setdefault(operation.key, []).append(operation)
    return found


def now_ns() -> int:
    return time.monotonic_ns()
