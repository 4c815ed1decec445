"""load: puts all values of a file into the cluster, many at once. Can be resumed.

The whole file is read and checked before the first value is sent. A state file beside it has the
progress, so the same command goes on after Ctrl-C or a failure.
"""

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
import msgspec

from kdht.cli import bulk, inflight, progress
from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import Seconds, emit
from kdht.cli.results import Loaded
from kdht.errors import ConfigError, Denied, Interrupted, RequestError
from kdht.program.files import write_atomically
from kdht.program.json import decoded
from kdht.remedies import about_file

# Each save is a file written anew. After an interruption at most this much is loaded again, which changes
# nothing.
SAVE_SECONDS = 1.0
# Writes under way. The nodes write what waits together, so a single file loads at the speed of groups.
WINDOW = 64


class LoadState(msgspec.Struct):
    """The content of the state file."""

    digest: str
    """BLAKE2b of the file's content."""
    done: int
    """So many of its entries, from the first on, are stored."""


class CheckedFile(NamedTuple):
    """A completely read file."""

    digest: str
    entries: int


window_option = click.option(
    "--window",
    "-w",
    type=click.IntRange(1, 4096),
    default=WINDOW,
    show_default=True,
    help="Requests in flight.",
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "tsv"]),
    help="Default: TSV for a file that ends in .tsv, JSON lines for all others.",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@format_option
@click.option("--ttl", type=Seconds(), help="TTL of entries that have none: 90s, 15m, 12h, 7d.")
@window_option
@click.option(
    "--restart", is_flag=True, help="Start from the beginning, even if an earlier run was interrupted."
)
@asks_nodes
def load(
    file: Path,
    form: str | None,
    ttl: int | None,
    window: int,
    restart: bool,
    target: Target,
    as_json: bool,
) -> None:
    """Store all values in FILE, JSON lines or TSV; - is standard input.

    \b
    {"key": "a", "value": "text"}
    {"key": "b", "base64": "AAEC", "ttl": 3600}

    Run it again to continue after an interruption.
    """
    with _opened(file) as content:
        kind = bulk.format_of(file, form)
        checked = _check(content, str(file), kind)
        # Standard input cannot be read again, so there is nothing to go on with.
        state_path = None if str(file) == "-" else file.with_name(file.name + ".loaded")
        begin = 0 if restart or state_path is None else _resumed(state_path, checked)
        job = _Job(target, window, ttl, checked, begin, state_path)
        result = job.run(content, str(file), kind)
    emit(result, as_json, "bulk.loaded")


class _Job:
    def __init__(
        self,
        target: Target,
        window: int,
        ttl: int | None,
        checked: CheckedFile,
        begin: int,
        state_path: Path | None,
    ) -> None:
        self._target = target
        self._window = window
        self._ttl = ttl
        self._checked = checked
        self._begin = begin
        self._state_path = state_path
        self._done = begin
        self._bytes = 0
        self._saved = time.monotonic()

    def run(self, content: BinaryIO, name: str, form: bulk.Format) -> Loaded:
        """Store the rest. Raises RequestError or Interrupted, with the progress and advice."""
        started = time.monotonic()
        try:
            with progress.bar(f"loading {name}", self._checked.entries, self._begin) as draw:
                asyncio.run(self._store(content, name, form, draw))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {self._so_far()}") from None
        except RequestError as error:
            # Its own class, because the exit code tells a script whether a further try can help.
            kind = Denied if isinstance(error, Denied) else RequestError
            raise kind(f"{error}; {self._so_far()}", error.status) from None
        finally:
            self._save()
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        stored = self._done - self._begin
        rate = stored / seconds if seconds else 0.0
        return Loaded(stored, self._begin, self._bytes, seconds, rate)

    async def _store(
        self, content: BinaryIO, name: str, form: bulk.Format, draw: Callable[[int], None]
    ) -> None:
        content.seek(0)
        found = bulk.entries(content, name, form)
        # Read again rather than sought: lines have no fixed length.
        for _ in range(self._begin):
            next(found)

        async with self._target.async_client() as client:

            async def put(index: int, numbered: tuple[int, bulk.KeyValue]) -> None:
                number, entry = numbered
                if entry.value is None:
                    return
                try:
                    put_it = client.put if len(entry.value) <= client.max_value else client.put_large
                    await put_it(entry.key, entry.value, entry.ttl or self._ttl)
                except RequestError as error:
                    raise type(error)(f"{name}, line {number}: {error}", error.status) from None
                self._bytes += len(entry.value)

            def stored(prefix: int) -> None:
                self._done = self._begin + prefix
                draw(self._done)
                if time.monotonic() - self._saved > SAVE_SECONDS:
                    self._save()

            await inflight.for_each(found, put, window=self._window, on_prefix=stored)

    def _so_far(self) -> str:
        stored = f"{self._done} of {self._checked.entries} entries are stored"
        return stored if self._state_path is None else f"{stored}; the same command goes on from there"

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._state_path is not None:
            write_atomically(
                self._state_path, msgspec.json.encode(LoadState(self._checked.digest, self._done))
            )


def _opened(path: Path) -> BinaryIO:
    """The file, or a copy of standard input that can be read twice. Raises ConfigError."""
    if str(path) == "-":
        # On disk, because it may be larger than the memory.
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        while part := sys.stdin.buffer.read(1 << 20):
            copy.write(part)
        copy.seek(0)
        return copy
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(about_file(path, error)) from None


def _check(content: BinaryIO, name: str, form: bulk.Format) -> CheckedFile:
    """Read all of it, because nothing of a faulty file is stored. Raises ConfigError."""
    digest = hashlib.blake2b(digest_size=16)
    while part := content.read(1 << 20):
        digest.update(part)
    content.seek(0)
    return CheckedFile(digest.hexdigest(), bulk.count(bulk.entries(content, name, form)))


def _resumed(path: Path, checked: CheckedFile) -> int:
    """How many entries an earlier run stored. Raises ConfigError if it had another content."""
    try:
        state = decoded(path.read_bytes(), LoadState)
    except FileNotFoundError:
        # No earlier run, or one that stored all.
        return 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a state file: {error}: remove it, or give --restart") from None
    if state.digest != checked.digest:
        raise ConfigError(
            f"{path} belongs to other content, so the file was changed: give --restart to start again"
        )
    return min(state.done, checked.entries)
