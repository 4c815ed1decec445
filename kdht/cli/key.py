"""key: a secret made, and changed while traffic flows: the cluster's, or that of the tokens.

A node signs with its first key and accepts two. So a secret is changed in three stages, each on all
nodes before the next: `accept` (the new key as the second), `sign` (it comes first), `retire` (the old
one goes). Each stage rewrites the configuration, whole or not at all, and has the daemon read it.
"""

import base64
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdht.cli import config_edit
from kdht.cli.nodes import warn
from kdht.cli.options import as_json, config_file, control_socket, emit, socket_given
from kdht.cli.results import ClientKey, Rotated, SecretMade
from kdht.client._keyfiles import SealKey, SecretKey, SigningKey, write_secret
from kdht.errors import ConfigError
from kdht.remedies import about_file
from kdht.wire._shared import KEY_SLOTS

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import AoT

# 256 bits: more than the keys derived from it have.
SECRET_BYTES = 32
# The header has one byte for the epoch.
EPOCHS = 256
NEXT = {
    "accept": "when all nodes accept it: kdhtctl key rotate{} --stage sign, on each",
    "sign": "when all nodes sign with it: kdhtctl key rotate{} --stage retire, on each",
    "retire": "nothing: when all nodes have done so, the old secret's file can be removed",
}


@click.group()
def key() -> None:
    """Create a secret, or rotate it under traffic."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--for",
    "use",
    type=click.Choice(["nodes", "signing", "sealing"]),
    default="nodes",
    show_default=True,
    help="nodes: a cluster or access secret. signing, sealing: a client's key for put --sign and --seal.",
)
@as_json
def new(file: Path, use: str, as_json: bool) -> None:
    """Write a new random secret to FILE, readable by its owner only. Never replaces a file."""
    if use != "nodes":
        kind: type[SecretKey] = SigningKey if use == "signing" else SealKey
        made = kind.new()
        about = _about(file, made)  # before the file is there: without libsodium there is none
        made.save(file)
        emit(about, as_json, "config.made_for_clients")
        return
    # As text, because the file's content is stripped of blanks when it is read.
    text = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    write_secret(file, text)
    emit(SecretMade(str(file.absolute())), as_json, "config.made")


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
def show(file: Path, as_json: bool) -> None:
    """Say whose key a client's FILE has: its public key, or its ID. Never the secret."""
    text = _first_word(file)
    kind: type[SecretKey] = SigningKey if text == SigningKey.word else SealKey
    emit(_about(file, kind.load(file, warn)), as_json, "config.client_key")


def _first_word(file: Path) -> str:
    try:
        # Only the beginning, which says the kind: the rest is secret, and in no message.
        return file.read_bytes()[:64].decode("ascii", "replace").partition(".")[0]
    except OSError as error:
        raise ConfigError(about_file(file, error)) from None


def _about(file: Path, made: SecretKey) -> ClientKey:
    """What may be told of a key."""
    public = made.public_key.hex() if isinstance(made, SigningKey) else ""
    id = made.id.hex() if isinstance(made, SealKey) else ""
    return ClientKey(str(file.absolute()), made.use, public, id)


@key.command()
@click.option("--stage", type=click.Choice(list(NEXT)), required=True,
              help="accept, sign, retire: each on all nodes before the next.")  # fmt: skip
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), help="With accept: the new secret's file."
)
@click.option("--epoch", type=click.IntRange(0, EPOCHS - 1),
              help="With accept: the new key's epoch, the same on all nodes. Default: the old one plus 1.")  # fmt: skip
@click.option("--access", is_flag=True, help="Change the access secret, not the cluster's.")
@click.option("--reload/--no-reload", "wanted", default=True, help="Tell the daemon to read it now.")
@config_file
@control_socket
@as_json
def rotate(
    stage: str,
    file: Path | None,
    epoch: int | None,
    access: bool,
    wanted: bool,
    config_path: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Run one stage of a key rotation on this node.

    Finish each stage on all nodes before the next one; then no request fails. The configuration keeps its layout and
    comments. If the daemon refuses the new configuration, the old one is restored. With --access, make new tokens after
    the stage sign, and retire the old secret once all clients have theirs.
    """
    if (stage == "accept") != (file is not None) or (epoch is not None and stage != "accept"):
        raise click.UsageError("--file goes with --stage accept, and --epoch with it")
    before = config_edit.read(config_path)
    document = config_edit.parsed(config_path, before)
    keys = _keys(document, config_path, access=access)
    changed = _staged(stage, keys, file, epoch, config_path)
    epochs = [int(entry.get("epoch", 0)) for entry in keys]
    reloaded, waiting = False, list[str]()
    if changed:
        config_edit.replace(config_path, document.as_string().encode())
    if wanted:
        socket = socket_path if socket_given() else config_edit.control_socket(config_path)
        reloaded, waiting = config_edit.reload(config_path, before if changed else None, socket)
    more = " --access" if access else ""
    then = NEXT[stage].format(more)
    done = Rotated(str(config_path), stage, changed, epochs, reloaded, waiting, then)
    emit(done, as_json, "config.rotated")


def _keys(document: "TOMLDocument", path: Path, *, access: bool) -> "AoT":
    """The cluster's keys, or the access keys. Raises ConfigError where there are none to change."""
    import tomlkit

    table = "access.key" if access else "key"
    keys = document.get("access", {}).get("key") if access else document["key"]
    if not keys:
        raise ConfigError(f"{path} has no [[{table}]]: add the first one, with the file of its secret")
    if not isinstance(keys, tomlkit.items.AoT):
        raise ConfigError(
            f"{path}: `{table}` is an inline list: write each key as a table of its own, [[{table}]]"
        )
    return keys


def _staged(stage: str, keys: "AoT", file: Path | None, epoch: int | None, config: Path) -> bool:
    """Change the list of keys; False where that was done before. Raises ConfigError if it does not fit."""
    if stage == "accept":
        assert file is not None
        return _accept(keys, file, epoch, config)
    if stage == "sign":
        if len(keys) < KEY_SLOTS:
            raise ConfigError(f"{config} has one key: accept the new one first, with --stage accept")
        newest = max(range(KEY_SLOTS), key=lambda at: _age(keys, at))
        # Done before. A stage may be run again, for instance by a tool that runs it on all nodes.
        if newest == 0:
            return False
        keys.insert(0, keys.pop(newest))
        return True
    if len(keys) < KEY_SLOTS:
        return False
    # The key that goes would be the one that this node signs with.
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
    # As for `sign`: done before.
    if any(entry.get("file") == path for entry in keys):
        return False
    if len(keys) >= KEY_SLOTS:
        raise ConfigError(
            f"{config} has {len(keys)} keys already: finish the rotation under way with --stage retire"
        )
    old = int(keys[0].get("epoch", 0))
    number = (old + 1) % EPOCHS if epoch is None else epoch
    # The later stages tell the new key from the old one by this alone.
    if not 0 < (number - old) % EPOCHS < EPOCHS // 2:
        raise ConfigError(
            f"--epoch {number} is not newer than the old key's {old}: epochs rise by one, 255 to 0"
        )
    entry = tomlkit.table()
    entry.add("epoch", number)
    entry.add("file", path)
    keys.append(entry)
    return True
