"""kdht-faces: the process of the faces. kdhtd starts it where its configuration has a face; or it runs alone beside a node."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from kdht import __version__
from kdht.config import places
from kdht.config.faces import FacesJob, job_of
from kdht.config.settings import of_file
from kdht.errors import ConfigError, exit_codes
from kdht.faces.runner import Runner, makers
from kdht.program import boundary, capabilities, logs
from kdht.program.faces_report import FacesReport
from kdht.program.notify import beating, notify

HELP = f"""Serve a kdht cluster by DNS, by HTTP and as a BitTorrent tracker.

kdhtd runs this program itself where its configuration has a table [dns], [http] or [tracker] with `listen`. Alone it serves the
tables of --config beside the node at that file's node.listen, which must not have the same tables.

{exit_codes(0, 1, 2)}
"""
# They say why the process ends. Nobody waits longer for a reader that is stuck.
LAST_LINES_SECONDS = 1.0
# Bytes: the tables of the faces as JSON have some kilobytes.
MAX_JOB = 1 << 20
PR_SET_PDEATHSIG = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=HELP)
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path),
    default=places.FACES_CONFIG,
    help=f"The configuration; {places.FACES_CONFIG} without it.",
)
@click.option(
    "--child", "parent", type=int, hidden=True, help="Of kdhtd, this process. The job is on standard input."
)
@click.version_option(__version__, message="kdht-faces %(version)s")
def command(path: Path, parent: int | None) -> int:
    if parent is not None:
        return _serve(_told_by(parent), _tell)
    job = job_of(of_file(path))
    if not job.wanted:
        raise ConfigError(f"{path}: no face is on: set dns.listen, http.listen or tracker.listen")
    return _serve(job, None)


def _told_by(parent: int) -> FacesJob:
    """The job from standard input. From now on the end of kdhtd, by whatever cause, ends this process too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that died before that is noticed here.
    if os.getppid() != parent:
        raise ConfigError("kdhtd is gone")
    try:
        return FacesJob.parse(sys.stdin.buffer.readline(MAX_JOB))
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ConfigError(f"no job is on standard input: {error}") from None


def _tell(report: FacesReport) -> None:
    """To kdhtd. A report that it has no room for is dropped: another one follows."""
    with suppress(BlockingIOError):
        os.write(sys.stdout.fileno(), report.pack())


def _serve(job: FacesJob, tell: Callable[[FacesReport], None] | None) -> int:
    if tell:
        os.set_blocking(sys.stdout.fileno(), False)
    writer = logs.configure(job.log_level, job.log_format, sys.stderr.fileno())
    capabilities.reduce_child(job.ports)
    # Threads keep the rights of the moment when they are made.
    writer.start()
    try:
        asyncio.run(_run(job, tell))
    finally:
        writer.drain(LAST_LINES_SECONDS)
    return 0


async def _run(job: FacesJob, tell: Callable[[FacesReport], None] | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with beating():
        await Runner(job, makers(job), tell or _ready).run(stopping, is_strict=tell is None)


def _ready(report: FacesReport) -> None:
    """Alone a face is told of to systemd only."""
    notify("READY=1")


def main() -> NoReturn:
    """The program's entry point."""
    boundary.run(command, "kdht-faces", patience_s=1.0)


if __name__ == "__main__":
    main()
