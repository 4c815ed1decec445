"""Options of several commands, and their output."""

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
import msgspec
from click.core import ParameterSource

from kdht.config import places
from kdht.errors import ConfigError, KdhtError
from kdht.program import control_client
from kdht.program.node_status import NodeStatus
from kdht.program.options import SocketType as SocketType
from kdht.program.options import control_socket as control_socket
from kdht.program.options import default_socket as default_socket
from kdht.program.options import wide as wide
from kdht.remedies import about_file
from kdht.wire.limits import MAX_TTL

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def socket_given() -> bool:
    """Whether the caller of the running command chose a control socket. If not, a configuration's is better."""
    return click.get_current_context().get_parameter_source("socket_path") is not ParameterSource.DEFAULT


config_file = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="KDHT_CONFIG",
    default=places.CONFIG,
    show_default=True,
    help="The node's configuration. Default: $KDHT_CONFIG, then the path shown.",
)


def running_config() -> Path:
    """The configuration of the running node; the usual one where none runs, or it has none."""
    socket = os.environ.get("KDHT_SOCKET")
    try:
        status = control_client.ask(Path(socket) if socket else default_socket(), "status", NodeStatus)
    except KdhtError:
        return places.CONFIG
    return Path(status.config) if status.config else places.CONFIG


running_config_file = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="KDHT_CONFIG",
    default=running_config,
    help=f"The node's configuration. Default: $KDHT_CONFIG, then the running node's, then {places.CONFIG}.",
)


class InputFile(click.File):
    """A file to be read, or - for standard input. Raises ConfigError."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if isinstance(error.__context__, OSError):
                raise ConfigError(about_file(value, error.__context__)) from None
            raise


class Seconds(click.ParamType[int]):
    """A time span: a number of seconds, or with a unit, as in 90s, 15m, 12h, 7d."""

    name = "time"
    _UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"([0-9]{1,10})([smhd]?)", str(value))
        seconds = int(match[1]) * self._UNITS[match[2]] if match else 0
        if not 0 < seconds <= MAX_TTL:
            self.fail(
                f"{value!r} is not a valid duration (1 s to {MAX_TTL} s): write 90, 90s, 15m, 12h or 7d",
                param,
                ctx,
            )
        return seconds


def emit(data: Any, as_json: bool, draw: str, **how: bool) -> None:
    """Write plain data to standard output: as JSON, or drawn.

    `draw` names a function of kdht.cli.report, or as "room.function" one of kdht.cli.draw.room; `how` goes to it.
    """
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")
        return
    room, _, function = draw.rpartition(".")
    # By name and not before it is needed: rich takes longer to import than most commands to run.
    module = import_module(f"kdht.cli.draw.{room}" if room else "kdht.cli.report")
    getattr(module, function)(data, **how)


def binary_output() -> BinaryIO:
    """Standard output for bytes, to be closed. Writes everything or raises OSError, even with PYTHONUNBUFFERED."""
    return open(sys.stdout.fileno(), "wb", closefd=False)


def emit_line(data: Any) -> None:
    """One JSON object on a line of its own, for output in steps."""
    sys.stdout.write(msgspec.json.encode(data).decode() + "\n")
    sys.stdout.flush()
