"""watch: the value of a key, now and after every change, as lines or as a file kept up to date."""

import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

from kdht.cli.data_commands import described
from kdht.cli.keys import KeyType, key_text, too_large
from kdht.cli.nodes import Target, asks_nodes
from kdht.cli.options import emit_line
from kdht.cli.set_watch import watch_set
from kdht.client import MAX_LEASE, Client, is_manifest
from kdht.errors import NotFound, ValueTooLarge
from kdht.program.files import write_atomically
from kdht.wire import Record

MOST_SHOWN = 60
"""Characters of a value in a line."""


@click.command()
@click.argument("key", type=KeyType())
@click.option(
    "--count", "-c", type=click.IntRange(1), help="Stop after this many states. Default: run until Ctrl-C."
)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False),
              help="Keep the value in this file, replaced atomically. No value, no file.")  # fmt: skip
@click.option(
    "--set",
    "is_set",
    is_flag=True,
    help="Watch the members of the set KEY: one line for each that comes, changes or goes.",
)
@click.option("--lease", type=click.IntRange(1, MAX_LEASE), default=30, show_default=True,
              help="Seconds that the nodes remember the watch. A third of it after they fall silent, this command notices.")  # fmt: skip
@asks_nodes
def watch(
    key: str | bytes,
    count: int | None,
    output: Path | None,
    is_set: bool,
    lease: int,
    target: Target,
    as_json: bool,
) -> None:
    """Print the value of KEY now and after every change. Changes in quick succession may be printed as one.

    JSON is one object a line. A value of more than 64 MiB ends the command. Exits with 6 when no node answers any more.
    """
    if is_set:
        if output is not None:
            raise click.UsageError("--set goes without --output")
        watch_set(target, key, count, lease, as_json)
        return
    with (
        target.client() as client,
        closing(_states(client, key, lease)) as states,
    ):
        for number, record in enumerate(states, 1):
            if output is not None:
                _keep(output, record)
            _tell(key, record, as_json)
            if number == count:
                return


def _states(client: Client, key: str | bytes, lease: int) -> Generator[Record | None]:
    """Whole records, and None where there is none."""
    with closing(client.watch(key, lease=lease)) as events:
        for record in events:
            if record is None or not is_manifest(record.value):
                yield record
                continue
            try:
                yield record._replace(value=client.get_large(key))
            except NotFound:
                continue  # deleted meanwhile: the next event says so
            except ValueTooLarge:
                raise ValueTooLarge(too_large(key, "it cannot be watched")) from None


def _keep(output: Path, record: Record | None) -> None:
    if record is None:
        output.unlink(missing_ok=True)
    else:
        write_atomically(output, record.value, mode=0o666)


def _tell(key: str | bytes, record: Record | None, as_json: bool) -> None:
    if as_json:
        data: dict[str, Any] = {"key": key_text(key), "value": None, "base64": None, "version": 0}
        emit_line({**data, **(asdict(described(key, record)) if record else {}), "at": time.time()})
        return
    what = "no value" if record is None else f"version {record.version}  {_line(record.value)}"
    click.echo(f"{time.strftime('%H:%M:%S')}  {what}")


def _line(value: bytes) -> str:
    """The beginning of a value, with nothing in it that a terminal would obey."""
    text = value[: 4 * MOST_SHOWN].decode(errors="backslashreplace")
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:MOST_SHOWN])
    more = "..." if len(text) > MOST_SHOWN else ""
    return f"{len(value):,} bytes: {shown}{more}"
