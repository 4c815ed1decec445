"""Options that mean the same in every program."""

import os
from pathlib import Path
from typing import Any

import click

from kdht.config import places
from kdht.config.values import SocketPath


def default_socket() -> Path:
    """The system's daemon, or where there is none the --dev node at its usual address."""
    dev_socket = places.control_socket(places.dev_dir(places.DEV_ADDRESS))
    # os.path.exists says no, and raises nothing, where this user may not look.
    return next((each for each in (places.SOCKET, dev_socket) if os.path.exists(each)), places.SOCKET)


class SocketType(click.Path):
    """A control socket's file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        # A unix socket's path is short, and a configuration asks for an absolute one.
        path = os.path.abspath(value)
        try:
            return SocketPath(path).path
        except ValueError as error:
            self.fail(f"{path}: {error}", param, ctx)


wide = click.option(
    "--wide", "-w", is_flag=True, help="Show all columns and whole IDs, however long the lines."
)
control_socket = click.option(
    "--socket",
    "-s",
    "socket_path",
    type=SocketType(),
    envvar="KDHT_SOCKET",
    default=default_socket,
    help=f"The daemon's control socket. Default: $KDHT_SOCKET, then {places.SOCKET}, then the --dev node's.",
)
