"""The control socket: a unix stream socket with one JSON object a line, each way.

ControlRequest {"method": name, "params": {...}}, answer {"result": ...} or {"error": text}.
Requests and the number of callers are bounded, and a bad one gets an error, not the
daemon's attention. The file's mode decides who may ask; what changes the daemon is for
root and the daemon's own user.
"""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from kdht.errors import ConfigError, KdhtError
from kdht.program.json import decoded

log = logging.getLogger(__name__)

# The longest request has a few keys. A caller without an end of line must not fill the memory.
MAX_REQUEST = 64 << 10
# Each is a connection with a buffer. People and scripts are a handful.
MAX_CALLERS = 64
# A caller that says nothing must not hold its place for ever.
IDLE_SECONDS = 60.0

Params = dict[str, Any]


T = TypeVar("T")


class Method(NamedTuple):
    """One method of the control socket."""

    call: Callable[[Params], Awaitable[object]]
    owner_only: bool = False
    """Only root and the daemon's own user may call it."""


async def answered(methods: Mapping[str, Method], name: str, kind: type[T], /, **params: object) -> T:
    """The answer of a method, of this type, for the daemon's own pages. Raises the method's errors."""
    # Past the socket, so that pages cannot differ from what a caller sees.
    answer = await methods[name].call(params)
    assert isinstance(answer, kind), name
    return answer


class ControlRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One line from a caller."""

    method: str
    params: Params = {}


def taken(params: Params, kind: type[T]) -> T:
    """A method's parameters, checked. Raises ConfigError."""
    try:
        return msgspec.convert(params, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"bad parameters: {error}") from None


class ControlServer:
    """Answers on `path` from `start` to `stop`, in the running event loop."""

    def __init__(self, path: Path, methods: Mapping[str, Method], group: str | None = None) -> None:
        self.path = path
        self._methods = methods
        self._group = group
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ConfigError when the file cannot be made or another daemon answers there."""
        sock = _listen(self.path, self._group)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_REQUEST)

    async def stop(self) -> None:
        """Close the socket and all connections, and remove its file. May be called again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with contextlib.suppress(OSError):
            self.path.unlink()
        # A caller that only holds its connection would hold up the end.
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._callers.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await self._converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._callers.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Once: credentials are those of the moment of the connection.
        owner = _is_owner(writer)
        while True:
            try:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), IDLE_SECONDS)
            except asyncio.IncompleteReadError:
                # The caller has gone.
                return
            except asyncio.LimitOverrunError:
                writer.write(_line({"error": f"a request has at most {MAX_REQUEST} bytes"}))
                await writer.drain()
                return
            writer.write(_line(await self._answer(line, owner)))
            await writer.drain()

    async def _answer(self, line: bytes, owner: bool) -> dict[str, object]:
        if len(self._callers) > MAX_CALLERS:
            return {"error": f"{MAX_CALLERS} callers are served already: try again later"}
        try:
            request = decoded(line, ControlRequest)
            method = self._methods[request.method]
        except ValueError as error:
            return {"error": f"no valid request: {error}"}
        except KeyError:
            return {"error": f"no such method: {request.method!r}; there are {', '.join(self._methods)}"}
        if method.owner_only and not owner:
            return {"error": f"{request.method} is for root and the daemon's own user"}
        return await _result(request, method)


async def _result(request: ControlRequest, method: Method) -> dict[str, object]:
    try:
        return {"result": await method.call(request.params)}
    except KdhtError as error:
        return {"error": str(error)}
    except Exception:
        log.exception("control request failed", extra={"method": request.method})
        return {"error": "an error inside the daemon: its log says more"}


def _line(answer: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(answer, enc_hook=str) + b"\n"


def _is_owner(writer: asyncio.StreamWriter) -> bool:
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def _listen(path: Path, group: str | None) -> socket.socket:
    """The bound socket, readable and writable for its owner and the group alone."""
    owner_group = group_id(group)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _clear(path)
        # A mode set after `bind` would come too late: whoever connected in between stays connected.
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        _open_to(path, owner_group)
        sock.listen()
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{path}: the control socket: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _open_to(path: Path, owner_group: int) -> None:
    """Let the group use the socket. Raises OSError.

    By the inode, not by the name: who may write the directory could put a link to another file there meanwhile.
    """
    inode = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(inode)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "somebody else replaced it")
        this = f"/proc/self/fd/{inode}"
        os.chown(this, -1, owner_group)
        os.chmod(this, 0o660)
    finally:
        os.close(inode)


def group_id(group: str | None) -> int:
    """The number of a group of this system, -1 (unchanged) for None. Raises ConfigError."""
    try:
        return -1 if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"control.group is {group!r}: this system has no such group") from None


def _clear(path: Path) -> None:
    """Remove the socket of a crashed daemon. Raises ConfigError if a process listens on it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path}: not a socket: remove it, or choose another file as control.socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A daemon that hangs has its queue of callers full, and connecting would wait.
            probe.settimeout(1)
            probe.connect(str(path))
        raise ConfigError(f"{path}: another daemon answers there: choose another file as control.socket")
    except FileNotFoundError:
        # Nothing to clear.
        return
    except ConnectionRefusedError:
        log.warning("stale control socket replaced", extra={"path": path})
        path.unlink(missing_ok=True)
