"""announce, withdraw, members: sets from a shell, also for services that know nothing of kdht."""

import base64
import os
import signal
import threading
from typing import Any

import click

from kdht.cli.checks import Check, all_of, by_command, by_connection
from kdht.cli.data_commands import through_client
from kdht.cli.keys import KeyType, key_text
from kdht.cli.nodes import Target, asks_nodes, warn
from kdht.cli.options import Seconds, emit, wide
from kdht.cli.results import Announced, Members, MemberShown, Withdrawn
from kdht.client import Client, Member
from kdht.errors import NotFound, RequestError
from kdht.wire import split_port
from kdht.wire.sets import MAX_MEMBER_TTL

Name = str | bytes
LAST_TRY = 2.0
"""Seconds for the withdrawal at the end."""


class TcpPlace(click.ParamType[tuple[str, int]]):
    """PORT on this host, or HOST:PORT."""

    name = "port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        text = str(value)
        try:
            host, port = split_port(text if ":" in text else f"127.0.0.1:{text}", 0)
        except ValueError as error:
            self.fail(f"{text!r}: {error}", param, ctx)
        if not port:
            self.fail(f"{text!r} has no port", param, ctx)
        return host, port


member_option = click.option(
    "--member", metavar="NAME", help="The member's own name. Default: its payload is its name."
)


@click.command()
@click.argument("name", type=KeyType())
@click.argument("payload")
@click.option(
    "--ttl", type=Seconds(), default=30, show_default=True,
    help="Be forgotten so long after a crash. Renewed three times in this time.",
)  # fmt: skip
@member_option
@click.option(
    "--soft", is_flag=True,
    help="Do not wait for the nodes' disks: cheaper, and may end if all replicas lose power at once, until it is renewed.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Announce once, and end. The membership ends with its TTL.")
@click.option("--exec", "command", metavar="CMD", help="Announce only while this shell command ends with 0.")
@click.option(
    "--tcp", type=TcpPlace(), metavar="PORT",
    help="Announce only while something listens at this TCP port, of this host or HOST:PORT.",
)  # fmt: skip
@click.option(
    "--every", type=Seconds(), default=5, show_default=True, help="Check so often. A check may take as long."
)
@asks_nodes
def announce(
    target: Target,
    name: Name,
    payload: str,
    ttl: int,
    member: str | None,
    soft: bool,
    once: bool,
    command: str | None,
    tcp: tuple[str, int] | None,
    every: int,
    as_json: bool,
) -> None:
    """Be a member of the set NAME with PAYLOAD, such as an address, until this command is stopped.

    It withdraws on Ctrl-C and on SIGTERM, and while a check fails.
    """
    if ttl > MAX_MEMBER_TTL:
        raise click.UsageError(f"--ttl is at most {MAX_MEMBER_TTL} s")
    checks = [by_command(command)] if command else []
    if tcp:
        checks.append(by_connection(*tcp))
    if once and checks:
        raise click.UsageError("--once goes without --exec and --tcp")
    stopped = threading.Event()
    # The end must not wait as long as a try may: the nodes forget the member by themselves.
    with target.client() as client, target._replace(timeout=min(target.timeout, LAST_TRY)).client() as last:
        announcer = Announcer(client, name, os.fsencode(payload), ttl, member, soft=soft, as_json=as_json)
        if once:
            announcer.announce()
            return
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            _announce_while(announcer, all_of(checks), min(every, ttl / 3) if checks else ttl / 3, stopped)
        finally:
            announcer.withdraw(last)


def _announce_while(announcer: "Announcer", check: Check, pause: float, stopped: threading.Event) -> None:
    """Until `stopped`. The first announcement's error ends it, later ones are told."""
    while not stopped.is_set():
        why = check(pause)
        if why:
            announcer.explain(why)
            announcer.withdraw()
        else:
            announcer.announce()
        stopped.wait(pause)


class Announcer:
    """One member, and what was told of it."""

    def __init__(
        self,
        client: Client,
        name: Name,
        payload: bytes,
        ttl: int,
        member: str | None,
        *,
        soft: bool,
        as_json: bool,
    ) -> None:
        self._client = client
        self._name = name
        self._payload = payload
        self._ttl = ttl
        self._member = member
        self._soft = soft
        self._as_json = as_json
        self._is_member = False
        self._was_member = False
        self._failed = False
        self._told = ""

    def announce(self) -> None:
        """Announce or renew."""
        announced = self._is_member
        self._is_member = True  # already now: it may be done before an interruption
        try:
            version = self._client.announce_once(
                self._name,
                self._payload,
                self._ttl,
                member=self._member,
                soft=self._soft,
                renewal=announced and not self._failed,
            )
        except RequestError as error:
            if not self._was_member:
                self._is_member = False
                raise
            self.explain(str(error))
            self._failed = True  # the next one is written in any case
            return
        if not announced:
            emit(Announced(key_text(self._name), self._ttl, version), self._as_json, "sets.announced")
        self._was_member = True
        self._failed = False
        self._told = ""

    def explain(self, why: str) -> None:
        """Say what is wrong with the service, when it is new."""
        if why != self._told:
            self._told = why
            warn(why)

    def withdraw(self, client: Client | None = None) -> None:
        """Withdraw if it is a member, or may be. `client`: in place of the usual one."""
        if not self._is_member:
            return
        self._is_member = False
        try:
            (client or self._client).withdraw(self._name, self._payload, self._ttl, member=self._member)
        except RequestError as error:
            # Nobody may ever have heard of it.
            if self._was_member:
                warn(f"{error}; the membership ends with its TTL")
            return
        emit(Withdrawn(key_text(self._name)), self._as_json, "sets.withdrawn")


@click.command()
@click.argument("name", type=KeyType())
@click.argument("payload", required=False)
@member_option
@click.option(
    "--ttl", type=Seconds(), default=MAX_MEMBER_TTL,
    help="The greatest TTL that it was announced with. Nodes remember the withdrawal for so long. Default: a day.",
)  # fmt: skip
@through_client
def withdraw(
    client: Client, name: Name, payload: str | None, member: str | None, ttl: int, as_json: bool
) -> None:
    """End the membership of PAYLOAD, or of --member, in the set NAME. A token withdraws its own members only."""
    if (payload is None) == (member is None):
        raise click.UsageError("give either PAYLOAD or --member")
    if ttl > MAX_MEMBER_TTL:
        raise click.UsageError(f"--ttl is at most {MAX_MEMBER_TTL} s")
    if not client.withdraw(name, os.fsencode(payload or ""), ttl, member=member):
        raise NotFound(f"withdraw {key_text(name)!r}: there is no such member")
    emit(Withdrawn(key_text(name)), as_json, "sets.withdrawn")


@click.command()
@click.argument("name", type=KeyType())
@click.option(
    "--quorum", is_flag=True, help="Ask a majority of the replicas: no acknowledged member is missed."
)
@click.option(
    "--sample", is_flag=True, help="Show only as many as one answer has; of a large set others each time."
)
@wide
@through_client
def members(client: Client, name: Name, quorum: bool, sample: bool, wide: bool, as_json: bool) -> None:
    """List the members of the set NAME: payload, and seconds until it is forgotten."""
    found = client.members(name, quorum=quorum, sample=sample)
    emit(Members(key_text(name), [described(member) for member in found]), as_json, "sets.members", wide=wide)


def described(member: Member) -> MemberShown:
    """The payload as text where it is text, and in base64 in any case."""
    try:
        text = member.payload.decode()
    except UnicodeDecodeError:
        text = None
    packed = base64.b64encode(member.payload).decode()
    return MemberShown(f"{member.id:016x}", text, packed, member.ttl)
