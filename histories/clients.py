"""The processes of clients: they begin, are counted, and end in peace."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from histories.record import counted
from histories.stage import Stage
from histories.worker import Options
from kdht.errors import LabError

WORKER_TIMEOUT = 20.0
"""Seconds for a worker to end: longer than any request may take."""


@contextmanager
def running(stage: Stage, options: Options, offset: float = 0.0) -> Iterator[Callable[[], int]]:
    """One process until the block ends, with a clock that is ahead by `offset` seconds.

    Gives what tells the number of operations; it and the end raise LabError for a process that failed or hangs.
    """
    directory = stage.directory
    log = directory / f"{options.name}.log"
    command = [sys.executable, "-m", "histories.worker", msgspec.json.encode(options).decode()]
    with log.open("wb") as file, stage.new_clock(options.name, offset):
        worker = stage.popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def operations() -> int:
        if worker.poll() is not None:
            raise LabError(f"client process {options.name} ended: {_tail(log)}")
        return counted(Path(options.history))

    if not options.watches:
        stage.workers.append(worker)
    try:
        yield operations
    finally:
        stage.resume()
        if worker in stage.workers:
            stage.workers.remove(worker)
        _end(worker, options.name)
    if worker.returncode:
        raise LabError(f"client process {options.name} ended with {worker.returncode}: {_tail(log)}")


def _end(worker: subprocess.Popen[bytes], name: str) -> None:
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(WORKER_TIMEOUT)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        raise LabError(f"clients hang: {name} did not end within {WORKER_TIMEOUT:g} s") from None


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-5:])
