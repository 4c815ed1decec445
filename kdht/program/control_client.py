"""Asks a daemon over its control socket: an answer as a struct, or an error that says what to do."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kdht.errors import KdhtError, NoDaemon
from kdht.program.answers import Stopping
from kdht.program.json import decoded

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds."""
# Waiting writes are confirmed first, and each has its own time-out.
STOP_TIMEOUT = 60.0
# The counters and tables of the largest node are far smaller. What has no end is no answer.
MAX_ANSWER = 64 << 20
_HINT = "start it (kdhtd), or name another socket with --socket"


class _Reply(msgspec.Struct):
    error: str | None = None
    # Decoded by the caller, who knows its type.
    result: msgspec.Raw = msgspec.Raw(b"null")


def ask(path: Path, method: str, answer: type[T], /, *, timeout: float = TIMEOUT, **params: object) -> T:
    """One request's answer, as a struct of kdht.program.answers; it may take `timeout` seconds.

    Raises NoDaemon when nobody answers, KdhtError when the daemon refuses or answers in another form.
    """
    with _connected(path) as sock:
        sock.settimeout(timeout)
        return _decoded(path, method, _exchange(path, sock, method, params), answer)


def call(path: Path, method: str, **params: object) -> Any:
    """As `ask`: whatever JSON makes of the answer."""
    return ask(path, method, object, timeout=TIMEOUT, **params)


def stop(path: Path) -> Stopping:
    """Ask the daemon to stop and wait until it has closed its socket, the last thing it does.

    Raises as `ask` does.
    """
    with _connected(path) as sock:
        result = _decoded(path, "stop", _exchange(path, sock, "stop", {}), Stopping)
        sock.settimeout(STOP_TIMEOUT)
        with _explained(path):
            # Its end is the signal, because the socket is the last that the daemon undoes.
            while sock.recv(1 << 10):
                pass
    return result


def _exchange(path: Path, sock: socket.socket, method: str, params: Mapping[str, object]) -> msgspec.Raw:
    """The result, not yet decoded."""
    with _explained(path):
        sock.sendall(msgspec.json.encode({"method": method, "params": params}) + b"\n")
        line = _read_line(sock)
    try:
        reply = decoded(line, _Reply)
    except ValueError:
        raise _cut_off(path) from None
    if reply.error is not None:
        raise KdhtError(f"the daemon refused {method}: {reply.error}")
    return reply.result


def _decoded(path: Path, method: str, result: msgspec.Raw, answer: type[T]) -> T:
    try:
        return decoded(bytes(result), answer)
    except ValueError as error:
        raise KdhtError(
            f"{path}: the daemon's answer to {method} is not what this version expects ({error}): "
            "restart kdhtd, so that both are of one version"
        ) from None


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        with _explained(path):
            sock.connect(str(path))
        yield sock


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the system says of a socket, as what it means for the user."""
    try:
        yield
    except FileNotFoundError:
        raise NoDaemon(f"{path}: no such socket: no daemon runs there: {_HINT}") from None
    except ConnectionRefusedError:
        # The kernel refuses a connection to any file that is no socket, too.
        why = "nobody listens: its daemon has died" if path.is_socket() else "no socket, but another file"
        raise NoDaemon(f"{path}: {why}: {_HINT}") from None
    except (BrokenPipeError, ConnectionResetError):
        raise _cut_off(path) from None
    except PermissionError:
        raise NoDaemon(
            f"{path}: permission denied: ask as root or as a member of the socket's group"
        ) from None
    except TimeoutError:
        raise NoDaemon(f"{path}: the daemon did not answer in time: its log may say why") from None
    except OSError as error:
        raise NoDaemon(f"{path}: {error.strerror or error}: {_HINT}") from error


def _read_line(sock: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= MAX_ANSWER:
        part = sock.recv(1 << 16)
        if not part:
            break
        received += part
    return bytes(received)


def _cut_off(path: Path) -> NoDaemon:
    return NoDaemon(
        f"{path}: another program answers there, or kdhtd has just stopped: try again, or name another socket with --socket"
    )
