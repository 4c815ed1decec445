"""Changes a configuration's file: whole or not at all, with its layout and comments, and has the daemon read it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdht.errors import ConfigError, KdhtError, NoDaemon
from kdht.program import control_client
from kdht.program.answers import ReloadAnswer
from kdht.program.files import write_atomically
from kdht.remedies import about_file

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def read(path: Path) -> bytes:
    """The file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(about_file(path, error, "name the configuration with --config")) from None


def parsed(path: Path, content: bytes) -> "TOMLDocument":
    """The document, checked by the daemon's own reader."""
    import tomlkit

    from kdht.config.reading import load
    from kdht.config.settings import resolve

    # First, because tomlkit takes files that no daemon would.
    resolve(load(path))
    return tomlkit.parse(content.decode())


def control_socket(path: Path) -> Path:
    """The socket that the configuration names."""
    from kdht.config.reading import load
    from kdht.config.settings import resolve

    return resolve(load(path)).control_socket


def replace(path: Path, content: bytes) -> None:
    """Put the new configuration in place of the old, if it is a good one: rights and owner stay."""
    from kdht.config.reading import load
    from kdht.config.settings import resolve

    # In the same directory: a rename to another file system would not be one step.
    trial = path.with_name(f".{path.name}.new")
    try:
        write_atomically(trial, content)
        resolve(load(trial))
        found = path.stat()
        # Before it has its name, or a daemon of another user could not read it for a moment.
        os.chown(trial, found.st_uid, found.st_gid)
        trial.chmod(found.st_mode & 0o7777)
        # What the name points at, if it is a link: the link stays.
        trial.replace(path.resolve())
    except ConfigError as error:
        # The trial file is gone when the user reads this.
        raise ConfigError(str(error).replace(str(trial), str(path))) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: it was not changed") from None
    finally:
        trial.unlink(missing_ok=True)


def reload(path: Path, before: bytes | None, socket: Path) -> tuple[bool, list[str]]:
    """Whether the daemon has it, and the fields that need a restart. Raises KdhtError with the old file back."""
    try:
        answer = control_client.ask(socket, "reload", ReloadAnswer)
    except NoDaemon:
        # A daemon that may run, and that this user may not ask, would go on with the old keys unnoticed.
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
