"""put, get, delete: the cluster from a shell, through kdht.Client."""

import base64
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from kdht._shared import MAX_VALUE
from kdht.cli import control_client
from kdht.cli.options import Seconds, as_json, control_socket, emit
from kdht.client import Client
from kdht.daemon.files import write_atomically
from kdht.errors import NoDaemon, NotFound, ValueTooLarge
from kdht.wire import Record

F = TypeVar("F", bound=Callable[..., Any])


class KeyType(click.ParamType[str | bytes]):
    """A key as it was typed: text, or bytes where they are no text."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | bytes:
        raw = os.fsencode(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw


def through_client(command: F) -> F:
    """Options that say whom to ask; the command gets a Client in their place."""

    @wraps(command)
    def with_client(node: tuple[str, ...], socket_path: Path, timeout: float, **rest: Any) -> Any:
        nodes = list(node) or [_nearest_node(socket_path)]
        with Client(nodes, timeout=timeout) as client:
            return command(client=client, **rest)

    options = [
        click.option(
            "--node",
            "-n",
            multiple=True,
            metavar="HOST:PORT",
            envvar="KDHT_NODE",
            help="Ask this node, else $KDHT_NODE, else the daemon on this host. May be repeated.",
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
    for option in reversed(options):
        with_client = option(with_client)
    return with_client  # type: ignore[return-value]


def _nearest_node(socket_path: Path) -> str:
    try:
        return str(control_client.call(socket_path, "status")["address"])
    except NoDaemon as error:
        raise NoDaemon(f"{error}; or ask any node with --node HOST:PORT") from None


@click.command()
@click.argument("key", type=KeyType())
@click.argument("value", required=False)
@click.option("--file", "-f", type=click.File("rb"), help="Take the value from a file; - is standard input.")
@click.option(
    "--ttl", type=Seconds(), help="Forget it after this time: 90s, 15m, 12h, 7d. Without it: never."
)
@through_client
def put(
    client: Client, key: str | bytes, value: str | None, file: BinaryIO | None, ttl: int | None, as_json: bool
) -> None:
    """Store VALUE under KEY. A VALUE of - is read from standard input."""
    data = _value(value, file)
    version = client.put(key, data, ttl)
    emit({"key": _text(key), "bytes": len(data), "ttl": ttl or 0, "version": version}, as_json, "stored")


def _value(value: str | None, file: BinaryIO | None) -> bytes:
    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE or --file")
    if file is None and value != "-":
        return os.fsencode(value or "")
    data = (file or sys.stdin.buffer).read(MAX_VALUE + 1)
    if len(data) > MAX_VALUE:
        raise ValueTooLarge(f"a value has at most {MAX_VALUE} bytes")
    return data


@click.command()
@click.argument("key", type=KeyType())
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the value to this file, whole or not at all.",
)
@through_client
def get(client: Client, key: str | bytes, output: Path | None, as_json: bool) -> None:
    """Write the value of KEY to standard output, byte for byte."""
    record = client.get_record(key)
    if output is not None:
        write_atomically(output, record.value, mode=0o666)
    if as_json:
        emit(_described(key, record), True, "")
    elif output is None:
        sys.stdout.buffer.write(record.value)
        sys.stdout.buffer.flush()


def _described(key: str | bytes, record: Record) -> dict[str, object]:
    """The value as text where it is text, and in base64 in any case."""
    try:
        text = record.value.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "key": _text(key),
        "value": text,
        "base64": base64.b64encode(record.value).decode(),
        "bytes": len(record.value),
        "ttl": record.ttl,
        "version": record.version,
    }


@click.command()
@click.argument("key", type=KeyType())
@through_client
def delete(client: Client, key: str | bytes, as_json: bool) -> None:
    """Remove the value of KEY."""
    if not client.delete(key):
        raise NotFound(f"delete {_text(key)!r}: the key has no value")
    emit({"key": _text(key)}, as_json, "deleted")


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode(errors="backslashreplace")
