"""put, get, delete: the cluster from a shell, through kdht.Client."""

import base64
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import SEEK_SET, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import click

from kdht.cli.keys import HexKey, KeyType, key_text
from kdht.cli.nodes import Target, asks_nodes, warn
from kdht.cli.options import InputFile, Seconds, binary_output, emit
from kdht.cli.results import Deleted, Fetched, Signed, Stored
from kdht.client import Client, SigningKey, is_manifest
from kdht.errors import NotFound
from kdht.program.files import replacing, write_atomically
from kdht.wire import Record
from kdht.wire._shared import CONDITION_LEN, ID_LEN, MAX_VALUE, PUBLIC_KEY_LEN
from kdht.wire.bencode import Bencodable, encode
from kdht.wire.certified import CERTIFIED
from kdht.wire.limits import MAX_VERSION

F = TypeVar("F", bound=Callable[..., Any])


def through_client(command: F) -> F:
    """Options for the nodes to ask. The command gets a Client in their place."""

    @asks_nodes
    @wraps(command)
    def with_client(target: Target, **rest: Any) -> Any:
        with target.client() as client:
            return command(client=client, **rest)

    return with_client  # type: ignore[return-value]


@click.command()
@click.argument("key", type=KeyType(), required=False)
@click.argument("value", required=False)
@click.option("--file", "-f", type=InputFile(), help="Read the value from a file; - is standard input.")
@click.option(
    "--ttl", type=Seconds(), help="Expire the value after this time: 90s, 15m, 12h, 7d. Default: never."
)
@click.option(
    "--if-version",
    type=click.IntRange(0, MAX_VERSION),
    help="Write only if the current version is this one; 0: only if there is no value.",
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEYFILE",
    help="Sign the value (kdhtctl key new --for signing). KEY is then a name of at most 64 bytes among this signer's.",
)
@click.option("--immutable", is_flag=True, help="Store the value under a hash of itself. Leave KEY out.")
@through_client
def put(
    client: Client,
    key: str | bytes | None,
    value: str | None,
    file: BinaryIO | None,
    ttl: int | None,
    if_version: int | None,
    sign: Path | None,
    immutable: bool,
    as_json: bool,
) -> None:
    """Store VALUE under KEY. If VALUE is -, read it from standard input.

    A value has at most 1 GiB. Above 1104 bytes (1040 with a token) it is stored in parts, and read from its file meanwhile.
    """
    if (immutable or sign) and (if_version is not None or (immutable and sign)):
        raise click.UsageError("--immutable, --sign and --if-version exclude one another")
    if immutable:
        _put_immutable(client, key, value, file, ttl, as_json)
        return
    if key is None:
        raise click.UsageError("Missing argument 'KEY'.")
    source = _source(value, file)
    if sign is not None:
        _put_signed(client, SigningKey.load(sign, warn), key, _small(source), ttl, as_json)
        return
    most = client.max_value if if_version is None else client.max_value - CONDITION_LEN
    begin = source.read(most + 1)
    if len(begin) <= most:
        version, size = client.put(key, begin, ttl, if_version=if_version), len(begin)
    else:
        whole = Joined(begin, source)
        with _shown("storing") as progress:
            version = client.put_large(
                key, cast("BinaryIO", whole), ttl, progress=progress, if_version=if_version
            )
        size = whole.given
    emit(Stored(key_text(key), size, ttl or 0, version), as_json, "stored")


def _put_immutable(
    client: Client,
    only: str | bytes | None,
    more: str | None,
    file: BinaryIO | None,
    ttl: int | None,
    as_json: bool,
) -> None:
    """The only argument is the value."""
    if more is not None:
        raise click.UsageError("with --immutable the key is a hash of the value: give VALUE alone")
    data = _small(_source(only.decode(errors="surrogateescape") if isinstance(only, bytes) else only, file))
    found = client.put_immutable(data, ttl).hex()
    emit(Stored(found, len(data), ttl or 0, CERTIFIED), as_json, "stored")


def _put_signed(
    client: Client, signer: SigningKey, name: str | bytes, data: bytes, ttl: int | None, as_json: bool
) -> None:
    public = signer.public_key.hex()
    seq = client.put_signed(signer, data, ttl, salt=name)
    done = Signed(key_text(name), len(data), ttl or 0, CERTIFIED + seq, public, seq)
    emit(done, as_json, "signed")


def _source(value: str | None, file: BinaryIO | None) -> BinaryIO:
    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE or --file")
    if file is None and value != "-":
        return BytesIO(os.fsencode(value or ""))
    return file or sys.stdin.buffer


def _small(source: BinaryIO) -> bytes:
    """All of what is one record, and enough of what is not for the client to refuse it."""
    return source.read(MAX_VALUE + 1)


class Joined:
    """A file whose first bytes were read already: a pipe cannot go back. `given`: the bytes that were read of it."""

    def __init__(self, begin: bytes, rest: BinaryIO) -> None:
        self.given = 0
        self._begin, self._rest = begin, rest

    def read(self, size: int) -> bytes:
        part, self._begin = self._begin[:size], self._begin[size:]
        part = part or self._rest.read(size)
        self.given += len(part)
        return part

    def seekable(self) -> bool:
        return not self.given and self._rest.seekable()

    def tell(self) -> int:
        return self._rest.tell() - len(self._begin)

    def seek(self, offset: int, whence: int = 0) -> int:
        """To measure it: the position is restored by `seek(tell())`."""
        if whence == SEEK_SET:
            offset += len(self._begin)
        return self._rest.seek(offset, whence)


@contextmanager
def _shown(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a large value, on standard error if somebody looks there."""
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            # A pipe does not say how much will come. The bar then shows how much has.
            bar.length = total or done + 1
            bar.label = label if total else f"{label} {done >> 20} MiB"
            bar.update(done - bar.pos)

        yield progress


@click.command()
@click.argument("key", type=KeyType())
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the value to this file, atomically.",
)
@click.option("--quorum", is_flag=True, help="Ask a majority of the replicas, and take their newest value.")
@click.option(
    "--signed-by",
    type=HexKey(PUBLIC_KEY_LEN),
    metavar="PUBLICKEY",
    help="Read the value that this key signed under the name KEY, and check it.",
)
@click.option(
    "--immutable", is_flag=True, help="KEY is what put --immutable printed: 40 hex digits. Check the value."
)
@through_client
def get(
    client: Client,
    key: str | bytes,
    output: Path | None,
    quorum: bool,
    signed_by: bytes | None,
    immutable: bool,
    as_json: bool,
) -> None:
    """Write the value of KEY to standard output, unchanged. On a terminal, end its line."""
    if immutable and signed_by:
        raise click.UsageError("--immutable and --signed-by exclude one another")
    if immutable:
        raw = HexKey(ID_LEN).convert(key_text(key), None, None)
        record = Record(CERTIFIED, 0, 0, client.get_immutable(raw, quorum=quorum))
    elif signed_by is not None:
        found = client.get_signed(signed_by, salt=key, quorum=quorum)
        value = found.value if isinstance(found.value, bytes) else encode(cast("Bencodable", found.value))
        record = Record(CERTIFIED + found.seq, found.ttl, 0, value)
    else:
        record = client.get_record(key, quorum=quorum)
    if not (immutable or signed_by) and is_manifest(record.value):
        if not as_json:
            _copy_large(client, key, output)
            return
        with _shown("reading") as progress:
            record = record._replace(value=client.get_large(key, progress=progress))
    if output is not None:
        write_atomically(output, record.value, mode=0o666)
    if as_json:
        emit(described(key, record), True, "")
    elif output is None:
        with binary_output() as out:
            out.write(record.value)
            # The prompt would stand behind it. A script gets the value unchanged.
            if sys.stdout.isatty() and not record.value.endswith(b"\n"):
                out.write(b"\n")


def _copy_large(client: Client, key: str | bytes, output: Path | None) -> None:
    """A large value to a file or to standard output, without holding it as a whole."""
    target = binary_output() if output is None else replacing(output, mode=0o666)
    with target as out, _shown("reading") as progress:
        client.get_large(key, into=out, progress=progress)


def described(key: str | bytes, record: Record) -> Fetched:
    """The value as text where it is text, and in base64 in any case."""
    try:
        text = record.value.decode()
    except UnicodeDecodeError:
        text = None
    packed = base64.b64encode(record.value).decode()
    return Fetched(key_text(key), text, packed, len(record.value), record.ttl, record.version)


@click.command()
@click.argument("key", type=KeyType())
@click.option(
    "--if-version",
    type=click.IntRange(1, MAX_VERSION),
    help="Delete only if the current version is this one.",
)
@through_client
def delete(client: Client, key: str | bytes, if_version: int | None, as_json: bool) -> None:
    """Delete the value of KEY, and the parts that unfinished uploads left."""
    existed = client.delete_large(key) if if_version is None else client.delete(key, if_version=if_version)
    if not existed:
        raise NotFound(f"delete {key_text(key)!r}: the key has no value")
    emit(Deleted(key_text(key)), as_json, "deleted")
