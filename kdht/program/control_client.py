"""Asks a daemon over its control socket: plain data, or NoDaemon with what to do."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kdht.errors import KdhtError, NoDaemon

TIMEOUT = 10.0
STOP_TIMEOUT = 60.0
MAX_ANSWER = 64 << 20
_HINT = "start it (kdhtd), or name another socket with --socket"


def call(path: Path, method: str, **params: object) -> Any:
    """The result of one request: what JSON makes of it.

    Raises NoDaemon when nobody answers, KdhtError when the daemon refuses.
    """
    return call_slow(path, TIMEOUT, method, **params)


def call_slow(path: Path, timeout: float, method: str, **params: object) -> Any:
    """As `call`, for what may take longer: `timeout` seconds."""
    with _connected(path) as sock:
        sock.settimeout(timeout)
        return _ask(path, sock, method, params)


def stop(path: Path) -> Any:
    """Ask the daemon to stop and wait until it has closed its socket, the last thing it does.

    Raises as `call` does.
    """
    with _connected(path) as sock:
        result = _ask(path, sock, "stop", {})
        sock.settimeout(STOP_TIMEOUT)
        with _explained(path):
            while sock.recv(1 << 10):
                pass
    return result


def _ask(path: Path, sock: socket.socket, method: str, params: Mapping[str, object]) -> Any:
    with _explained(path):
        sock.sendall(msgspec.json.encode({"method": method, "params": params}) + b"\n")
        answer = _decoded(path, _read_line(sock))
    if "error" in answer:
        raise KdhtError(f"the daemon refused {method}: {answer['error']}")
    return answer.get("result")


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
        raise NoDaemon(f"{path}: no such socket, so no daemon runs there: {_HINT}") from None
    except ConnectionRefusedError:
        raise NoDaemon(f"{path}: nobody listens, its daemon has died: {_HINT}") from None
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


def _decoded(path: Path, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise _cut_off(path) from None


def _cut_off(path: Path) -> NoDaemon:
    return NoDaemon(f"{path}: what answers there is no kdhtd, or it just stopped")
