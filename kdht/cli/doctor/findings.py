"""The findings of an examination, and its input: plain data for every check."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from kdht.cli.doctor.datagrams import answering
from kdht.cli.options import default_socket
from kdht.config import dev
from kdht.config.settings import Settings, of_file
from kdht.datapath.host import netlink
from kdht.errors import ConfigError, DatapathError, KdhtError
from kdht.program import control_client
from kdht.program.answers import NodeStats, RoutingTable
from kdht.program.node_status import NodeStatus
from kdht.wire import Address, split_port

State = Literal["ok", "warning", "failure"]


class Finding(msgspec.Struct):
    """One line. `mend`: the command or the change that mends it, empty if nothing is wrong."""

    check: str
    state: State
    what: str
    mend: str = ""


class Examination(msgspec.Struct):
    """All findings, or those that are not ok, and how many there are of each state."""

    findings: list[Finding]
    ok: int
    warnings: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The host and its node, as far as both can be seen."""

    config_path: Path
    socket: Path
    settings: Settings | None
    config_error: str
    status: NodeStatus | None
    stats: NodeStats | None
    table: RoutingTable | None
    daemon_error: str
    is_denied: bool = False
    """Whether the control socket is not for this user. Then `heard` and `silent` are own addresses that were asked by UDP."""
    heard: tuple[Address, ...] = ()
    silent: tuple[Address, ...] = ()
    is_root: bool
    own: tuple[Address, ...]
    interfaces: tuple[str, ...]
    """The interfaces of a datapath. Empty on loopback alone."""

    @property
    def kind(self) -> str:
        """The configured datapath; without a configuration, the running one."""
        if self.settings is not None:
            return self.settings.config.datapath.kind
        return self.running_kind

    @property
    def running_kind(self) -> str:
        """ "socket" without a daemon, too."""
        names = [path["name"] for path in self.status.datapaths] if self.status else []
        return next((name for name in names if name != "socket"), "socket")

    @property
    def is_dev(self) -> bool:
        return self.status is not None and dev.WARNING in self.status.warnings

    @property
    def port(self) -> int | None:
        return self.own[0].port if self.own else None

    def unless_needed(self, kind: str) -> State:
        """How bad it is that this datapath cannot work."""
        return "failure" if self.kind == kind else "warning"


Check: TypeAlias = Callable[[Subject], Iterator[Finding]]


def examined(config: Path, given: Path | None) -> Subject:
    """Look at the configuration and ask the daemon. A missing one is an error to report.

    `given`: the control socket. None: the configuration's, and without a configuration the usual one.
    """
    settings, config_error = _settings(config)
    socket = given or (settings.control_socket if settings else default_socket())
    status = stats = table = None
    daemon_error = ""
    try:
        status = control_client.ask(socket, "status", NodeStatus)
        stats = control_client.ask(socket, "stats", NodeStats)
        table = control_client.ask(socket, "table", RoutingTable)
    except KdhtError as error:
        daemon_error = str(error)
    own = _own(settings, status)
    is_denied = "permission denied" in daemon_error
    # Who may not use the control socket can still learn whether the node answers clients.
    heard, silent = answering(own) if is_denied else ([], [])
    return Subject(
        config_path=config,
        socket=socket,
        settings=settings,
        config_error=config_error,
        status=status,
        stats=stats,
        table=table,
        daemon_error=daemon_error,
        is_denied=is_denied,
        heard=tuple(heard),
        silent=tuple(silent),
        is_root=os.geteuid() == 0,
        own=own,
        interfaces=_interfaces(own, settings),
    )


def _settings(path: Path) -> tuple[Settings | None, str]:
    try:
        return of_file(path), ""
    except ConfigError as error:
        return None, str(error)


def _own(settings: Settings | None, status: NodeStatus | None) -> tuple[Address, ...]:
    """The running node's addresses, for these are in use."""
    if status is not None:
        return tuple(Address.of(*split_port(text)) for text in status.own)
    return settings.own if settings is not None else ()


def _interfaces(own: tuple[Address, ...], settings: Settings | None) -> tuple[str, ...]:
    named = [str(name) for name in settings.config.datapath.interfaces] if settings else []
    try:
        return netlink.choose_interfaces(own, named)
    except DatapathError:
        # The check of the interfaces says it, with advice. The other checks go on without.
        return ()
