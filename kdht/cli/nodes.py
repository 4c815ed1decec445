"""The nodes to ask: options of all commands that are clients of a cluster."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from kdht.cli.options import as_json, control_socket
from kdht.errors import NoDaemon
from kdht.program import control_client
from kdht.program.answers import NodeStatus

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--node",
        "-n",
        multiple=True,
        metavar="HOST:PORT",
        envvar="KDHT_NODE",
        help="Ask this node. Default: $KDHT_NODE, then the daemon on this host. May be repeated.",
    ),
    control_socket,
    click.option(
        "--timeout",
        type=click.FloatRange(0, 3600, min_open=True),
        default=5.0,
        show_default=True,
        help="Seconds until giving up.",
    ),
    as_json,
]


class Target(NamedTuple):
    """The nodes to ask, and the time-out."""

    nodes: list[str]
    timeout: float
    socket: Path
    """The control socket of the daemon on this host, if there is one."""


def asks_nodes(command: F) -> F:
    """The options; the command gets a `target` in their place."""

    @wraps(command)
    def with_target(node: tuple[str, ...], socket_path: Path, timeout: float, **rest: Any) -> Any:
        nodes = list(node) or [nearest_node(socket_path)]
        return command(target=Target(nodes, timeout, socket_path), **rest)

    for option in reversed(_OPTIONS):
        with_target = option(with_target)
    return with_target  # type: ignore[return-value]


def nearest_node(socket_path: Path) -> str:
    """The address of the daemon on this host. Raises NoDaemon."""
    try:
        return control_client.ask(socket_path, "status", NodeStatus).address
    except NoDaemon as error:
        raise NoDaemon(f"{error}; or ask any node with --node HOST:PORT") from None
