"""Options and arguments of several commands, and their values."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from click.core import ParameterSource
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kdht.config import places
from kdht.errors import ConfigError
from kdht.program.drawing import PlainConsole
from kdht.program.options import SocketType, default_socket
from kdht.program.options import wide as wide
from kdht.replay import tables
from kdht.replay._capture import Batch
from kdht.replay.base import Implementation
from kdht.replay.capture import STDIN, Capture
from kdht.replay.implementations import NAMES, made
from kdht.replay.tables import ReplayTable

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, one object a line.")
capture_argument = click.argument("capture", type=FILE)
implementation_type = click.Choice(NAMES)
_TABLE_OPTIONS = [
    click.option("--table", "-t", type=FILE, help="The node that judges, as a JSON or TOML file."),
    click.option(
        "--socket",
        "-s",
        "socket_path",
        type=SocketType(),
        envvar="KDHT_SOCKET",
        help="In place of --table: the running node behind this control socket. Default: the one that kdhtctl asks.",
    ),
    click.option(
        "--config",
        "-c",
        "config_path",
        type=FILE,
        envvar="KDHT_CONFIG",
        help=f"That node's configuration, for keys and limits. Default: $KDHT_CONFIG, then {places.CONFIG}.",
    ),
    click.option(
        "--secret",
        multiple=True,
        metavar="EPOCH:FILE",
        help="In place of --config: a file with the cluster secret; the first signs.",
    ),
    click.option(
        "--now",
        metavar="SECOND|capture",
        help="Judge at this unix second, or each packet when it was captured; else as the table says.",
    ),
]
_FAULT = click.option(
    "--fault", metavar="IMPLEMENTATION:FAULT", hidden=True, help="For tests: see faults.py."
)


def _no_node(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        raise click.UsageError(
            "--node is a node's UDP address, as in kdhtctl, and none tells its table over UDP: name its control "
            "socket with --socket"
        )


_NODE = click.option(
    "--node", "-n", hidden=True, multiple=True, expose_value=False, callback=_no_node, is_eager=True
)


def table_options(function: F) -> F:
    """--table, --socket, --config, --secret, --now."""
    for option in reversed((*_TABLE_OPTIONS, _NODE)):
        function = option(function)
    return function


def fault_option(function: F) -> F:
    """--fault, which no help shows."""
    return _FAULT(function)


def table_of(
    table: Path | None,
    socket_path: Path | None,
    config_path: Path | None,
    secret: tuple[str, ...],
    now: str | None,
) -> ReplayTable:
    """The table named by the options. Raises UsageError, ConfigError, NoDaemon."""
    if table is None:
        found = _of_node(socket_path, config_path, secret)
    elif _typed("socket_path"):
        raise click.UsageError("which node judges? Give either --table or --socket")
    elif _typed("config_path") or secret:
        raise click.UsageError("--config and --secret go with --socket: a table file has its keys itself")
    else:
        found = tables.load(table)
    return tables.at(found, _second(now, found.now))


def node_of(table: Path | None, socket_path: Path | None, **others: Any) -> Path | None:
    """The control socket that `table_of` asks; None if there is a table file."""
    return None if table else socket_path or default_socket()


def _of_node(socket: Path | None, config: Path | None, secret: tuple[str, ...]) -> ReplayTable:
    """The table of a running node: the named one, or the one that kdhtctl would ask."""
    if socket is None:
        socket = default_socket()
        if not os.path.exists(socket):
            raise click.UsageError(
                f"which node judges? Give --table; or --socket, for no node runs at {socket}"
            )
    if config is None and not secret and places.CONFIG.exists():
        config = places.CONFIG
    return tables.from_node(socket, config, [_key(text) for text in secret])


def _typed(parameter: str) -> bool:
    """Whether an option is on the command line. What the environment says is for when it is needed."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _key(text: str) -> Any:
    epoch, colon, path = text.partition(":")
    if not colon or not epoch.isdigit():
        raise click.UsageError(
            f"--secret is an epoch, a colon and a file, as in 1:/etc/kdht/secret, not {text!r}"
        )
    return tables.read_key(int(epoch), Path(path))


def _second(text: str | None, usual: int | None) -> int | None:
    if text is None or text == "capture":
        return usual if text is None else None
    if not text.isdigit():
        raise click.UsageError(f"--now is a unix second or `capture`, not {text!r}")
    return int(text)


def opened(name: str, table: ReplayTable, fault: str | None) -> Implementation:
    """An implementation, with the fault if it is meant for it."""
    meant, _, kind = (fault or "").partition(":")
    return made(name, table, kind if meant == name else None)


def numbers(text: str | None) -> range | None:
    """Packets by number: "7" or "7-9". Raises UsageError."""
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise click.UsageError(f"--packet is a number or a range, as in 7 or 7-9, not {text!r}")
    return range(int(first), int(last or first) + 1)


# --- Output --------------------------------------------------------------------------------


def emit(data: Any) -> None:
    """One JSON object on a line of its own."""
    sys.stdout.write(msgspec.json.encode(data).decode() + "\n")


def console() -> PlainConsole:
    """The console for people."""
    return PlainConsole(soft_wrap=True)


@contextmanager
def reading(path: Path) -> Iterator[Iterator[Batch]]:
    """A capture's batches, with a progress bar on a terminal."""
    errors = PlainConsole(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Capture(path) as capture, Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:  # fmt: skip
        task = bar.add_task("standard input" if path == STDIN else path.name, total=capture.progress.total)

        def batches() -> Iterator[Batch]:
            for batch in capture:
                yield batch
                bar.update(task, completed=capture.progress.done)

        yield batches()


def packet_at(path: Path, number: int) -> tuple[Batch, int]:
    """One packet of a capture, by its number from 1, and its place in its batch. Raises ConfigError."""
    with reading(path) as batches:
        for batch in batches:
            if batch.first <= number < batch.first + len(batch):
                return batch, number - batch.first
    raise ConfigError(f"{path}: has no packet {number}")
