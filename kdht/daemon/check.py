"""`kdhtd --check`, `kdhtctl config check`: whether this configuration can work on this host. Changes nothing.

Each check says what a start would do, or raises the error of a start. All of them run; the exit
code is the first error's. The database is not opened, because that would change it. A start
finds its damage.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from kdht.config.faces import job_of
from kdht.config.settings import Settings, other_version
from kdht.daemon import identity
from kdht.daemon.bootstrap import resolve_bootstrap
from kdht.daemon.control.server import group_id
from kdht.daemon.datadir import kept_node_id
from kdht.daemon.datapaths import PROBES
from kdht.daemon.host_addresses import settled
from kdht.daemon.pages.server import bound
from kdht.datapath.host.local_addresses import allow_absent
from kdht.errors import ConfigError, DatapathError, KdhtError, StorageError
from kdht.wire import Address


class Checked(NamedTuple):
    """The findings of all checks."""

    findings: list[str]
    problems: list[KdhtError]
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        return self.problems[0].exit_code if self.problems else 0


def checked(settings: Settings) -> Checked:
    """Run them all."""
    done = Checked([], [], list(settings.warnings))
    for each in CHECKS:
        try:
            done.findings.extend(each(settings))
        except KdhtError as error:
            done.problems.append(error)
    return done


def check(settings: Settings) -> int:
    """Print the findings; the exit code."""
    done = checked(settings)
    for line in done.findings:
        click.echo(line)
    for error in done.problems:
        click.echo(f"problem: {error}", err=True)
    for warning in done.warnings:
        click.echo(f"warning: {warning}", err=True)
    return done.exit_code


def _addresses(settings: Settings) -> Iterator[str]:
    running = _is_running(settings.data_dir)
    for address in settings.listen:
        if not running:
            try_bind(address, freebind=settings.config.node.freebind)
        yield f"listens on {address}"
    if running:
        yield "a daemon runs on this data directory now, so its addresses were not tried"
    yield f"other nodes learn {settings.address}"
    if also := settled(settings).also:
        yield f"clients may also ask {', '.join(address.host for address in also)}"
    anycast = settings.own[len(settings.unicast) :]
    if anycast:
        yield f"answers for the anycast addresses {', '.join(a.host for a in anycast)}"


def _keys(settings: Settings) -> Iterator[str]:
    first, *others = (key.epoch for key in settings.keys)
    yield f"signs with the key of epoch {first}" + "".join(
        f", accepts that of {epoch} too" for epoch in others
    )


def _bootstrap(settings: Settings) -> Iterator[str]:
    found = resolve_bootstrap(settings)
    for name in found.unresolved:
        yield f"warning: {name} of node.bootstrap cannot be resolved now"
    if found.addresses:
        yield f"joins through {', '.join(str(address) for address in found.addresses)}"
    elif found.unreachable:
        raise ConfigError(
            f"node.bootstrap: {', '.join(found.unreachable)}: {other_version(settings.address)}"
        )
    elif not found.unresolved:
        yield "joins nobody: the first node of its cluster"


def _data_dir(settings: Settings) -> Iterator[str]:
    path = settings.data_dir
    at = next(each for each in (path, *path.parents) if os.path.exists(each))
    if not at.is_dir():
        raise StorageError(f"{at}: not a directory: choose another node.data_dir")
    if not os.access(at, os.W_OK | os.X_OK):
        raise StorageError(
            f"{at}: this user may not write there: give it permission, or choose another node.data_dir"
        )
    identity.check(settings, kept_node_id(path))
    yield f"keeps its data in {path}" + ("" if at == path else ", which it makes")


def _control(settings: Settings) -> Iterator[str]:
    group_id(settings.config.control.group)
    yield f"answers kdhtctl on {settings.control_socket}"


def _pages(settings: Settings) -> Iterator[str]:
    config, running = settings.config, _is_running(settings.data_dir)
    for name, at in (("metrics", config.metrics.listen), ("web", config.web.listen)):
        if at:
            if not running:
                bound(f"{name}.listen", at, freebind=config.node.freebind).close()
            yield f"serves {name} on http://{at}/"


def _faces(settings: Settings) -> Iterator[str]:
    running, freebind = _is_running(settings.data_dir), settings.config.node.freebind
    for name, section in job_of(settings).wanted.items():
        for at in section.listen:
            # DNS listens by both.
            if not running and name != "tracker":
                bound(f"{name}.listen", at, freebind=freebind).close()
            if not running and name != "http":
                _try_face(f"{name}.listen", at.address, freebind=freebind)
            yield f"serves {name} at {at}"


def _try_face(field: str, at: Address, *, freebind: bool) -> None:
    try:
        try_bind(at, freebind=freebind)
    except DatapathError as error:
        raise ConfigError(f"{field}: {error}: stop what uses it, or choose another") from error


def _datapath(settings: Settings) -> Iterator[str]:
    kind = settings.config.datapath.kind
    if kind == "socket":
        yield "treats packets on sockets"
        return
    try:
        yield PROBES[kind](settings)
    except DatapathError as error:
        if kind != "auto":
            raise
        yield f"treats packets on sockets, for nfqueue cannot work here: {error}"


CHECKS: tuple[Callable[[Settings], Iterator[str]], ...] = (
    _addresses,
    _keys,
    _bootstrap,
    _data_dir,
    _control,
    _pages,
    _faces,
    _datapath,
)


def _is_running(data_dir: Path) -> bool:
    """Whether a daemon holds the data directory's lock."""
    try:
        with (data_dir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No such file: no daemon ever ran with this directory.
        return False
    return False


def try_bind(address: Address, *, freebind: bool) -> None:
    """Whether a node could listen there. Raises DatapathError."""
    family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if freebind:
                allow_absent(sock)
            sock.bind((address.host, address.port))
    except OSError as error:
        raise DatapathError(f"{address} cannot be bound: {error.strerror}") from error
