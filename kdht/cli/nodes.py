"""The nodes to ask: options of all commands that are clients of a cluster."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
import msgspec

from kdht.cli.options import as_json, control_socket
from kdht.errors import Conflict, KdhtError, NoDaemon, RequestError
from kdht.program import control_client
from kdht.program.node_status import NodeStatus

if TYPE_CHECKING:
    from kdht.client import Client, SealKey
    from kdht.client.aio import AsyncClient

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
    click.option(
        "--token",
        metavar="TOKEN",
        envvar="KDHT_TOKEN",
        help="What proves the right to this: a token, or @FILE with one. Default: $KDHT_TOKEN.",
    ),
    click.option("--scope", metavar="NAME", help="The scope of the keys. Default: the token's."),
    click.option(
        "--seal",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="KDHT_SEAL",
        help="Encrypt and decrypt values with the key in this file (kdhtctl key new --for sealing). Default: $KDHT_SEAL.",
    ),
    as_json,
]


DOUBTS = frozenset({"UNCONFIRMED", "TOO_FEW", "BUSY"})
"""Statuses whose cause the node on this host may know."""


class Target(NamedTuple):
    """The nodes to ask, the time-out, and the caller's rights."""

    nodes: list[str]
    timeout: float
    socket: Path
    """The control socket of the daemon on this host, if there is one."""
    token: str
    """Empty for none."""
    scope: str | None
    is_local: bool = False
    """The only node is the daemon on this host."""
    seal: Path | None = None
    """The file of the key for sealing."""

    def client(self) -> "Client":
        """A blocking client with these."""
        # Here, because most commands ask the control socket only, and the import takes longer than they do.
        from kdht.client import Client

        return Client(
            self.nodes, timeout=self.timeout, token=self.token, scope=self.scope, seal=self._seal_key()
        )

    def async_client(self, *, direct: bool = False) -> "AsyncClient":
        """The same for an event loop."""
        from kdht.client.aio import AsyncClient

        return AsyncClient(
            self.nodes,
            timeout=self.timeout,
            direct=direct,
            token=self.token,
            scope=self.scope,
            seal=self._seal_key(),
        )

    def _seal_key(self) -> "SealKey | None":
        if self.seal is None:
            return None
        from kdht.client import SealKey

        return SealKey.load(self.seal, warn)


def asks_nodes(command: F) -> F:
    """The options; the command gets a `target` in their place."""

    @wraps(command)
    def with_target(
        node: tuple[str, ...],
        socket_path: Path,
        timeout: float,
        token: str | None,
        scope: str | None,
        seal: Path | None,
        **rest: Any,
    ) -> Any:
        nodes = list(node) or [nearest_node(socket_path)]
        target = Target(nodes, timeout, socket_path, token or "", scope, not node, seal)
        try:
            return command(target=target, **rest)
        except RequestError as error:
            raise _explained(error, target) from None

    # As decorators stand: the last one applied is the first in the help.
    for option in reversed(_OPTIONS):
        with_target = option(with_target)
    return with_target  # type: ignore[return-value]


def _explained(error: RequestError, target: Target) -> RequestError:
    """A doubt with its cause, if the node on this host knows it: which nodes are missing, and what to do."""
    if not target.is_local or error.status not in DOUBTS or isinstance(error, Conflict):
        return error
    try:
        status = control_client.ask(target.socket, "status", NodeStatus)
    except KdhtError:
        return error
    why = (status.waiting_for and f"not ready, {status.why_not_ready}") or status.not_writable
    return type(error)(f"{error}; here: {why}", error.status) if why else error


def warn(message: str) -> None:
    """A line on standard error, for what is no error."""
    context = click.get_current_context(silent=True)
    as_json = context is not None and context.params.get("as_json")
    # Not on standard output, which a script reads.
    text = msgspec.json.encode({"warning": message}).decode() if as_json else f"kdhtctl: warning: {message}"
    click.echo(text, err=True)


def nearest_node(socket_path: Path) -> str:
    """The address of the daemon on this host. Raises NoDaemon."""
    try:
        return control_client.ask(socket_path, "status", NodeStatus).address
    except NoDaemon as error:
        raise NoDaemon(f"{error}; or ask any node with --node HOST:PORT") from None
