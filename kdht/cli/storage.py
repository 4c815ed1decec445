"""storage: the records of a running daemon, by its control socket, or of a stopped node, by its data directory.

LevelDB is one process's at a time: with --data-dir the directory is locked as a daemon would lock it,
and refused while one runs.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdht.cli.options import as_json, control_socket, emit, running_config_file
from kdht.cli.results import Exported, Imported, StorageChecked
from kdht.errors import ConfigError, StorageDamaged
from kdht.program import control_client
from kdht.program.answers import Compacted, StorageFigures, StoreFigures
from kdht.program.files import replacing
from kdht.times import UnixTime

if TYPE_CHECKING:
    from kdht.storage import LevelStore

# Seconds. LevelDB rewrites everything: minutes for gigabytes on a slow disk.
COMPACT_TIMEOUT = 3600.0

data_dir = click.option(
    "--data-dir", "-d", type=click.Path(path_type=Path, file_okay=False),
    help="Data directory of a stopped node. Default: ask the running daemon.",
)  # fmt: skip
stopped_dir = click.option(
    "--data-dir", "-d", type=click.Path(path_type=Path, file_okay=False),
    help="Data directory of a stopped node. Default: the configuration's.",
)  # fmt: skip


@click.group()
def storage() -> None:
    """Inspect, check, compact, export or import the records."""


@storage.command()
@data_dir
@control_socket
@as_json
def stats(data_dir: Path | None, socket_path: Path, as_json: bool) -> None:
    """Show how many records and bytes there are, and LevelDB's own statistics."""
    if data_dir is None:
        data: StoreFigures = control_client.ask(socket_path, "storage", StorageFigures)
    else:
        with _opened(data_dir) as store:
            data = StoreFigures(*store.stats())
    emit(data, as_json, "storage.stats")


@storage.command()
@stopped_dir
@running_config_file
@as_json
def check(data_dir: Path | None, config_path: Path, as_json: bool) -> None:
    """Read a stopped node's whole database, and verify checksums, index and counts.

    Exits with 3 if anything is wrong. Changes no record.
    """
    data_dir = data_dir or _configured_dir(config_path)
    with _opened(data_dir) as store:
        found = store.audit(UnixTime(time.time()))
    emit(StorageChecked(**found._asdict()), as_json, "storage.checked")
    if found.problems:
        raise StorageDamaged(
            f"{data_dir}: {len(found.problems)} problems: export what can be read, or restore a backup"
        )


@storage.command()
@data_dir
@control_socket
@as_json
def compact(data_dir: Path | None, socket_path: Path, as_json: bool) -> None:
    """Rewrite the database without replaced and removed records."""
    if data_dir is None:
        data = control_client.ask(socket_path, "compact", Compacted, timeout=COMPACT_TIMEOUT)
    else:
        with _opened(data_dir) as store:
            before = store.stats().disk_bytes
            store.compact()
            data = Compacted(before, store.stats().disk_bytes)
    emit(data, as_json, "storage.compacted")


@storage.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@data_dir
@control_socket
@as_json
def export(file: Path, data_dir: Path | None, socket_path: Path, as_json: bool) -> None:
    """Write this node's records and tombstones to FILE as JSON lines, atomically, for `storage import`.

    Keys are hashes: no node keeps the names that clients use.
    """
    from kdht.cli import archive
    from kdht.storage import exported

    with replacing(file, mode=0o600) as target:
        if data_dir is None:
            count = exported.write(target, archive.from_daemon(socket_path))
        else:
            with _opened(data_dir) as store:
                count = exported.write(target, archive.from_store(store))
    emit(Exported(str(file), count), as_json, "storage.exported")


@storage.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data-dir", "-d", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Data directory of a stopped node, or a new directory.")  # fmt: skip
@as_json
def import_(file: Path, data_dir: Path, as_json: bool) -> None:
    """Import the records of an exported FILE into a stopped node's database.

    The whole file is checked first. The newer record of a key wins, so the command may be repeated.
    """
    from kdht.cli import archive

    count = archive.check(file)
    with _opened(data_dir, make=True) as store:
        newest = archive.read_into(store, file, count)
    emit(Imported(str(file), count, newest), as_json, "storage.imported")


def _configured_dir(config: Path) -> Path:
    """Raises ConfigError."""
    from kdht.config.reading import load

    try:
        return load(config).node.data_dir.path
    except ConfigError as error:
        raise ConfigError(f"{error}; or name the data directory with --data-dir") from None


@contextmanager
def _opened(path: Path, make: bool = False) -> Iterator["LevelStore"]:
    """The store of a stopped node; `make`: a new one if there is none.

    Raises StorageLocked, StorageError, and ConfigError where there is none.
    """
    from kdht.daemon.datadir import DataDir
    from kdht.storage import LevelStore

    if not make and not (path / "records" / "CURRENT").exists():
        raise ConfigError(f"{path} holds no records of a node: name its data directory with --data-dir")
    with _as_owner(path):
        data = DataDir.open(path)
        try:
            store = LevelStore(data.records)
            try:
                yield store
            finally:
                store.close()
        finally:
            data.close()


@contextmanager
def _as_owner(path: Path) -> Iterator[None]:
    """Root becomes the directory's owner for a while, because LevelDB's files must stay the daemon's."""
    if os.geteuid() != 0 or not path.exists():
        yield
        return
    found, group = path.stat(), os.getegid()
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
