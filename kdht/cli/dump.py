"""dump: the values of many keys into a file, many at once, resumable.

A cluster knows hashes of keys and no names, so the keys come from a file. The output grows in
OUTPUT.part, in the order of the keys, and is OUTPUT only when it is whole.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import click

from kdht.cli import bulk, inflight, progress
from kdht.cli.keys import too_large
from kdht.cli.load import format_option, window_option
from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import binary_output, emit
from kdht.cli.results import Dumped
from kdht.client import AsyncClient
from kdht.client._manifest import Manifest
from kdht.errors import ConfigError, Denied, Interrupted, NotFound, RequestError, ValueTooLarge
from kdht.remedies import about_file


@click.command()
@click.argument("keys", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), default="-",
              help="Write to this file. Default, and -: standard output.")  # fmt: skip
@format_option
@click.option("--keys-format", type=click.Choice(["lines", "jsonl", "tsv"]),
              help="Default: by the file's ending (.jsonl, .tsv), otherwise one key a line.")  # fmt: skip
@window_option
@click.option(
    "--restart", is_flag=True, help="Start from the beginning, even if an earlier run was interrupted."
)
@asks_nodes
def dump(
    keys: Path, output: Path, form: str | None, keys_format: str | None, window: int, restart: bool,
    target: Target, as_json: bool,
) -> None:  # fmt: skip
    """Fetch the values of all keys in the file KEYS: one key a line, or any file for `load`.

    Run it again to continue after an interruption. Exits with 7 if a key has no value. Values of more than 64 MiB do not go into
    a dump: `get --output` fetches them.
    """
    source = _Keys(keys, keys_format)
    job = _Job(source, output, bulk.format_of(output, form), target, window)
    result = job.run(restart)
    # Among values on standard output it would be taken for one.
    if str(output) != "-" or as_json:
        emit(result, as_json, "bulk.dumped")
    if result.missing:
        raise NotFound(f"{result.missing} of {source.count} keys have no value: the output says which")


class _Keys:
    """The file of keys, read twice. Raises ConfigError."""

    def __init__(self, path: Path, given: str | None) -> None:
        ending = {".jsonl": "jsonl", ".tsv": "tsv"}.get(path.suffix.lower(), "lines")
        kind = given or ending
        self.path = path
        self.form: bulk.Format | None = None if kind == "lines" else bulk.format_of(None, kind)
        with self.opened() as file:
            self.count = bulk.count(bulk.keys(file, str(path), self.form))

    def opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ConfigError(about_file(self.path, error)) from None


class _Job:
    def __init__(self, source: _Keys, output: Path, form: bulk.Format, target: Target, window: int) -> None:
        self._source = source
        self._output = output
        self._form = form
        self._target = target
        self._window = window
        self._begin = self._done = self._missing = self._bytes = 0
        self._waiting: dict[int, bulk.KeyValue] = {}

    def run(self, restart: bool) -> Dumped:
        """Fetch the rest. Raises RequestError or Interrupted, with the progress and advice."""
        started = time.monotonic()
        with ExitStack() as stack:
            sink = self._sink(stack, restart)
            try:
                with progress.bar(f"dumping to {self._output}", self._source.count, self._begin) as draw:
                    asyncio.run(self._fetch(sink, draw))
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted: {self._so_far()}") from None
            except RequestError as error:
                kind = Denied if isinstance(error, Denied) else RequestError
                raise kind(f"{error}; {self._so_far()}", error.status) from None
            sink.flush()
            if self._part is not None:
                # Before the name: OUTPUT is whole, also after a power failure.
                os.fsync(sink.fileno())
                self._part.replace(self._output)
        seconds = time.monotonic() - started
        fetched = self._done - self._begin
        rate = fetched / seconds if seconds else 0.0
        return Dumped(fetched, self._begin, self._missing, self._bytes, seconds, rate)

    @property
    def _part(self) -> Path | None:
        return None if str(self._output) == "-" else self._output.with_name(self._output.name + ".part")

    def _sink(self, stack: ExitStack, restart: bool) -> BinaryIO:
        if self._part is None:
            return stack.enter_context(binary_output())
        # In /tmp, another user may have put a link there.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if restart else 0)
        file = stack.enter_context(os.fdopen(os.open(self._part, flags, 0o666), "r+b"))
        self._take_up(file)
        return file

    def _take_up(self, part: BinaryIO) -> None:
        """Count the lines of an earlier run, cut off half a line, and check that they have these keys."""
        with self._source.opened() as file:
            keys = bulk.keys(file, str(self._source.path), self._source.form)
            whole = 0
            for line in part:
                if not line.endswith(b"\n"):
                    break
                (_, entry) = next(bulk.entries(BytesIO(line), str(self._part), self._form))
                # With another list of keys the parts would not belong together.
                if next(keys, (0, None))[1] != entry.key:
                    raise ConfigError(f"{self._part} belongs to other keys: remove it, or give --restart")
                self._begin += 1
                self._missing += entry.value is None
                whole += len(line)
        part.seek(whole)
        part.truncate()
        self._done = self._begin

    async def _fetch(self, sink: BinaryIO, draw: Callable[[int], None]) -> None:
        with self._source.opened() as file:
            keys = bulk.keys(file, str(self._source.path), self._source.form)
            for _ in range(self._begin):
                next(keys)
            async with self._target.async_client() as client:

                async def get(index: int, numbered: tuple[int, str | bytes]) -> None:
                    self._waiting[index] = await self._entry(client, numbered[1])

                def fetched(prefix: int) -> None:
                    for index in range(self._done - self._begin, prefix):
                        self._write(sink, self._waiting.pop(index))
                    self._done = self._begin + prefix
                    draw(self._done)

                await inflight.for_each(keys, get, window=self._window, on_prefix=fetched)

    async def _entry(self, client: AsyncClient, key: str | bytes) -> bulk.KeyValue:
        try:
            record = await client.get_record(key)
            value = await client.get_large(key) if Manifest.parse(record.value) else record.value
        except NotFound:
            return bulk.KeyValue(key, None, None)
        except ValueTooLarge:
            raise ValueTooLarge(too_large(key, "take it out of the list of keys")) from None
        return bulk.KeyValue(key, value, record.ttl or None)

    def _write(self, sink: BinaryIO, entry: bulk.KeyValue) -> None:
        sink.write(bulk.written(entry, self._form))
        self._missing += entry.value is None
        self._bytes += len(entry.value or b"")

    def _so_far(self) -> str:
        fetched = f"{self._done} of {self._source.count} values are fetched"
        return fetched if self._part is None else f"{fetched}; the same command goes on from there"
