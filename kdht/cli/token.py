"""token: what proves a client's rights. Made and checked with an access secret; no node has to be asked."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from kdht.cli import config_edit
from kdht.cli.keys import KeyType, key_text
from kdht.cli.options import as_json, config_file, control_socket, emit, socket_given
from kdht.cli.results import Revoked, TokenChecked, TokenGrant, TokenMade
from kdht.client._keyfiles import write_secret
from kdht.client._rights import rights_of
from kdht.config.values import Holder, ScopeName
from kdht.errors import BadToken, ConfigError, Denied
from kdht.remedies import about_file
from kdht.wire import hash_key
from kdht.wire._shared import Op, Right
from kdht.wire.keys import AccessKey, derive_access
from kdht.wire.rights import EVERY_KEY, Grant, Token, holder_of, make_token, open_token, scope_of, scoped_key

if TYPE_CHECKING:
    from kdht.node.access import AccessPolicy

LETTERS = {"r": Right.READ, "w": Right.WRITE, "d": Right.DELETE, "a": Right.ANNOUNCE, "n": Right.WATCH}
"""n: be notified, by WATCH."""
DAY = 86400
# A hundred years. A number beyond it is a mistake.
MAX_DAYS = 36500
# A grant has 32 bits for it, so far dates end there, in 2106.
MAX_EXPIRY = 2**32 - 1
CHECKED = {
    Op.GET: "read",
    Op.PUT: "write",
    Op.DELETE: "delete",
    Op.WATCH: "watch",
    Op.ANNOUNCE: "announce",
}


class RightsType(click.ParamType[Right]):
    """Letters, each a right."""

    name = "letters"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Right:
        if isinstance(value, Right):
            return value
        found = Right(0)
        for letter in value:
            if letter not in LETTERS:
                self.fail(
                    f"{letter!r} is no right: r read, w write, d delete, a announce, n watch", param, ctx
                )
            found |= LETTERS[letter]
        if not found:
            self.fail("a token needs a right: r read, w write, d delete, a announce, n watch", param, ctx)
        return found


class NameType(click.ParamType[str]):
    """A scope's or a holder's name."""

    name = "name"

    def __init__(self, kind: type[ScopeName]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._kind(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def token() -> None:
    """Make, show, check or revoke a client's token."""


@token.command()
@click.option("--rights", type=RightsType(), default="rwdn", show_default=True,
              help="r read, w write, d delete, a announce, n watch.")  # fmt: skip
@click.option(
    "--scope", type=NameType(ScopeName), help="Good for the keys of this scope only. Default: for all keys."
)
@click.option("--days", type=click.IntRange(0, MAX_DAYS), default=90, show_default=True,
              help="Expires after so many days; 0: never.")  # fmt: skip
@click.option(
    "--holder", type=NameType(Holder), help="Whom it is for, to revoke it by. Default: a random number."
)
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="For a scope in access.open_scopes: needs no secret, has all rights.",
)
@click.option("--secret", "secret_file", type=click.Path(path_type=Path, dir_okay=False),
              help="The access secret's file. Default: the first [[access.key]] of the configuration.")  # fmt: skip
@click.option("--epoch", type=click.IntRange(0, 255), help="With --secret: its epoch. Default: 0.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it to this new file, readable by its owner only, for --token @FILE.")  # fmt: skip
@config_file
@as_json
def new(
    rights: Right, scope: str | None, days: int, holder: str | None, is_open: bool, secret_file: Path | None,
    epoch: int | None, output: Path | None, config_path: Path, as_json: bool,
) -> None:  # fmt: skip
    """Make a token, and print it. Clients take it from $KDHT_TOKEN or --token.

    Nothing is stored and no node is asked. Whoever has the token has its rights, until it expires or is revoked.
    """
    if is_open:
        if scope is None or holder is not None or secret_file is not None:
            raise click.UsageError("--open goes with --scope alone")
        made = open_token(scope)
    else:
        if epoch is not None and secret_file is None:
            raise click.UsageError("--epoch goes with --secret")
        key = _key_in(secret_file, epoch or 0) if secret_file else _first_key(config_path)
        expiry = min(int(time.time()) + days * DAY, MAX_EXPIRY) if days else 0
        number = holder_of(holder) if holder else secrets.randbits(64) or 1
        made = make_token(Grant(rights, key.epoch, expiry, number, scope_of(scope or "")), key.key)
    if output is not None:
        write_secret(output, made.text)
    if as_json or output is not None:
        told = TokenMade(**asdict(described(made)))
        if output is None:
            told.token = made.text
        else:
            told.file = str(output.absolute())
        emit(told, as_json, "token.made")
    else:
        click.echo(made.text)


@token.command()
@click.argument("token_text", metavar="TOKEN")
@as_json
def show(token_text: str, as_json: bool) -> None:
    """Show what TOKEN is good for, without its secret part. TOKEN is a token, or @FILE with one."""
    emit(described(_parsed(token_text)), as_json, "token.shown")


@token.command()
@click.argument("token_text", metavar="TOKEN")
@click.argument("key", type=KeyType())
@click.option("--scope", type=NameType(ScopeName), help="The key's scope. Default: the token's.")
@config_file
@as_json
def check(token_text: str, key: str | bytes, scope: str | None, config_path: Path, as_json: bool) -> None:
    """Check what TOKEN may do with KEY on a node with this configuration. Exits with 11 if it may do nothing."""
    from kdht.config.reading import load
    from kdht.config.settings import resolve

    found = _parsed(token_text)
    policy = resolve(load(config_path)).access
    number = scope_of(scope) if scope is not None else found.grant.scope
    refused = _refusals(found, policy, hash_key(key), number)
    data = TokenChecked(
        key=key_text(key),
        hashed=scoped_key(hash_key(key), number).hex(),
        writes=policy.writes,
        reads=policy.reads,
        may=refused,
        **asdict(described(found)),
    )
    emit(data, as_json, "token.checked")
    if all(refused.values()):
        raise Denied(f"this token may do nothing with {key_text(key)!r}: {next(iter(refused.values()))}")


@token.command()
@click.argument("holder")
@click.option("--reload/--no-reload", "wanted", default=True, help="Tell the daemon to read it now.")
@config_file
@control_socket
@as_json
def revoke(holder: str, wanted: bool, config_path: Path, socket_path: Path, as_json: bool) -> None:
    """Accept no token of HOLDER on this node any more. HOLDER is a name, a number, or one of the tokens.

    Run it on every node. It adds the holder to access.revoked in the configuration, which keeps its layout. Other tokens
    of the same holder are revoked too.
    """
    import tomlkit

    name = _holder_in(holder)
    before = config_edit.read(config_path)
    document = config_edit.parsed(config_path, before)
    access = document.setdefault("access", tomlkit.table())
    revoked = access.setdefault("revoked", tomlkit.array())
    changed = holder_of(name) not in map(holder_of, map(str, revoked))
    if changed:
        revoked.append(name)
        config_edit.replace(config_path, document.as_string().encode())
    reloaded = False
    if wanted:
        socket = socket_path if socket_given() else config_edit.control_socket(config_path)
        reloaded, _ = config_edit.reload(config_path, before if changed else None, socket)
    data = Revoked(str(config_path), name, f"{holder_of(name):016x}", changed, reloaded)
    emit(data, as_json, "token.revoked")


def described(made: Token) -> TokenGrant:
    """A token's grant as plain data."""
    grant = made.grant
    return TokenGrant(
        rights="".join(letter for letter, right in LETTERS.items() if grant.rights & right),
        scope=f"{grant.scope:016x}" if grant.scope != EVERY_KEY else "every key",
        holder=f"{grant.holder:016x}",
        epoch=grant.epoch,
        expiry=grant.expiry,
        expired=bool(grant.expiry and grant.expiry <= time.time()),
    )


def _parsed(text: str) -> Token:
    found = rights_of(text, None).token
    if found is None:
        raise BadToken("the token is empty: give a token, or @FILE with one")
    return found


def _holder_in(text: str) -> str:
    """The holder's name or number; a token's is a number. Raises ConfigError."""
    if text.startswith(("kdht1.", "@")):
        return f"{_parsed(text).grant.holder:016x}"
    try:
        Holder.check(text)
    except ValueError as error:
        raise ConfigError(f"HOLDER is {text!r}: {error}") from None
    return text


def _refusals(found: Token, policy: "AccessPolicy", plain: bytes, scope: int) -> dict[str, str]:
    """By each operation why a node refuses it to this token; empty texts where it does not."""
    from kdht.client._calls import Call
    from kdht.client._rights import Rights
    from kdht.node.access import Access
    from kdht.times import UnixTime

    now = UnixTime(time.time())
    rights, access = Rights(found, scope), Access(policy)
    told = {}
    for op, word in CHECKED.items():
        call = rights.in_scope(Call(op, "", plain))
        message = rights.pack(call, 0)
        rights.prove(message, call, int(now * 1_000_000))
        told[word] = access.reason(bytes(message), now)
    return told


def _first_key(config_path: Path) -> AccessKey:
    from kdht.config.reading import load
    from kdht.config.settings import resolve

    keys = resolve(load(config_path)).access.keys
    if not keys:
        raise ConfigError(f"{config_path} has no [[access.key]]: name the access secret's file with --secret")
    return keys[0]


def _key_in(path: Path, epoch: int) -> AccessKey:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(about_file(path, error)) from None
    return derive_access(epoch, secret)
