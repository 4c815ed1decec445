"""key: a cluster secret made, and changed while traffic flows.

A node signs with its first key and accepts two. So a secret is changed in three stages, each on all
nodes before the next: `accept` (the new key as the second), `sign` (it comes first), `retire` (the old
one goes). Each stage rewrites the configuration, whole or not at all, and has the daemon read it.
"""

import base64
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdht.cli.options import as_json, config_file, control_socket, emit, socket_given
from kdht.errors import ConfigError, KdhtError, NoDaemon
from kdht.program import control_client
from kdht.program.answers import ReloadAnswer
from kdht.program.files import write_atomically
from kdht.wire._shared import KEY_SLOTS

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import AoT

SECRET_BYTES = 32
EPOCHS = 256
NEXT = {
    "accept": "when all nodes accept it: kdhtctl key rotate --stage sign, on each",
    "sign": "when all nodes sign with it: kdhtctl key rotate --stage retire, on each",
    "retire": "nothing: when all nodes have done so, the old secret's file can be removed",
}


@click.group()
def key() -> None:
    """Create a cluster secret, or rotate it under traffic."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
def new(file: Path, as_json: bool) -> None:
    """Write a new random secret to FILE, readable by its owner only. Never replaces a file."""
    text = base64.b64encode(secrets.token_bytes(SECRET_BYTES)) + b"\n"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{file} already exists, and a secret is never replaced: choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    with open(fd, "wb") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(fd)
    emit({"file": str(file.absolute())}, as_json, "config.made")


@key.command()
@click.option("--stage", type=click.Choice(list(NEXT)), required=True,
              help="accept, sign, retire: each on all nodes before the next.")  # fmt: skip
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), help="With accept: the new secret's file."
)
@click.option("--epoch", type=click.IntRange(0, EPOCHS - 1),
              help="With accept: the new key's epoch, the same on all nodes. Default: the old one plus 1.")  # fmt: skip
@click.option("--reload/--no-reload", "wanted", default=True, help="Tell the daemon to read it now.")
@config_file
@control_socket
@as_json
def rotate(
    stage: str,
    file: Path | None,
    epoch: int | None,
    wanted: bool,
    config_path: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Run one stage of a key rotation on this node.

    Finish each stage on all nodes before the next one; then no request fails. The configuration keeps its layout and
    comments. If the daemon refuses the new configuration, the old one is restored.
    """
    if (stage == "accept") != (file is not None) or (epoch is not None and stage != "accept"):
        raise click.UsageError("--file goes with --stage accept, and --epoch with it")
    before = _read(config_path)
    document = _parsed(config_path, before)
    changed = _staged(stage, document["key"], file, epoch, config_path)
    epochs = [int(entry.get("epoch", 0)) for entry in document["key"]]
    reloaded, waiting = False, list[str]()
    if changed:
        _replace(config_path, document.as_string().encode())
    if wanted:
        socket = socket_path if socket_given() else _control_socket(config_path)
        reloaded, waiting = _reload(config_path, before if changed else None, socket)
    emit({"config": str(config_path), "stage": stage, "changed": changed, "epochs": epochs, "reloaded": reloaded,
          "waiting": waiting, "next": NEXT[stage]}, as_json, "config.rotated")  # fmt: skip


def _staged(stage: str, keys: "AoT", file: Path | None, epoch: int | None, config: Path) -> bool:
    """Change the list of keys; False where that was done before. Raises ConfigError if it does not fit."""
    if stage == "accept":
        assert file is not None
        return _accept(keys, file, epoch, config)
    if stage == "sign":
        if len(keys) < KEY_SLOTS:
            raise ConfigError(f"{config} has one key: accept the new one first, with --stage accept")
        newest = max(range(KEY_SLOTS), key=lambda at: _age(keys, at))
        if newest == 0:
            return False
        keys.insert(0, keys.pop(newest))
        return True
    if len(keys) < KEY_SLOTS:
        return False
    if _age(keys, 0) < _age(keys, 1):
        raise ConfigError(f"{config} still signs with the old key: --stage sign first, on all nodes")
    del keys[1]
    return True


def _age(keys: "AoT", at: int) -> bool:
    """Greater for the newer of two keys: epochs go round, so one more than the other is newer."""
    here, other = (int(keys[each].get("epoch", 0)) for each in (at, 1 - at))
    return 0 < (here - other) % EPOCHS < EPOCHS // 2


def _accept(keys: "AoT", file: Path, epoch: int | None, config: Path) -> bool:
    import tomlkit

    path = str(file.absolute())
    if any(entry.get("file") == path for entry in keys):
        return False
    if len(keys) >= KEY_SLOTS:
        raise ConfigError(
            f"{config} has {len(keys)} keys already: finish the rotation under way with --stage retire"
        )
    old = int(keys[0].get("epoch", 0))
    number = (old + 1) % EPOCHS if epoch is None else epoch
    if not 0 < (number - old) % EPOCHS < EPOCHS // 2:
        raise ConfigError(
            f"--epoch {number} is not newer than the old key's {old}: epochs rise by one, 255 to 0"
        )
    entry = tomlkit.table()
    entry.add("epoch", number)
    entry.add("file", path)
    keys.append(entry)
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name the configuration with --config") from None


def _parsed(path: Path, content: bytes) -> "TOMLDocument":
    """The document, checked by the daemon's own reader."""
    import tomlkit

    from kdht.config.schema import load
    from kdht.config.settings import resolve

    resolve(load(path))
    document = tomlkit.parse(content.decode())
    if not isinstance(document["key"], tomlkit.items.AoT):
        raise ConfigError(f"{path}: `key` is an inline list: write each key as a table of its own, [[key]]")
    return document


def _control_socket(path: Path) -> Path:
    from kdht.config.schema import load
    from kdht.config.settings import resolve

    return resolve(load(path)).control_socket


def _replace(path: Path, content: bytes) -> None:
    """Put the new configuration in place of the old, if it is a good one: rights and owner stay."""
    from kdht.config.schema import load
    from kdht.config.settings import resolve

    trial = path.with_name(f".{path.name}.new")
    try:
        write_atomically(trial, content)
        resolve(load(trial))
        found = path.stat()
        os.chown(trial, found.st_uid, found.st_gid)
        trial.chmod(found.st_mode & 0o7777)
        trial.replace(path.resolve())
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(trial), str(path))) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: it was not changed") from None
    finally:
        trial.unlink(missing_ok=True)


def _reload(path: Path, before: bytes | None, socket: Path) -> tuple[bool, list[str]]:
    """Whether the daemon has it, and the fields that need a restart. Raises KdhtError with the old file back."""
    try:
        answer = control_client.ask(socket, "reload", ReloadAnswer)
    except NoDaemon:
        if socket.exists() and not os.access(socket, os.W_OK):
            _put_back(path, before)
            raise
        return False, []
    except KdhtError:
        _put_back(path, before)
        raise
    return True, answer.waiting


def _put_back(path: Path, before: bytes | None) -> None:
    if before is not None:
        found = path.stat()
        write_atomically(path, before, found.st_mode & 0o7777)
        os.chown(path, found.st_uid, found.st_gid)
