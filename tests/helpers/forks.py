"""kdhtd and kdhtctl start by fork in a run of the tests: a process that has imported them waits for each start.

A start of `python -m kdht.daemon.main` costs a quarter of a second of a processor, of `kdhtctl` an eighth: nearly all of it
imports. A run has thousands. The process is a real one all the same, with its own streams, namespaces and session; only its
imports are done already (fork_server.py). What cannot be had so starts the usual way: programs behind a prefix such as
setpriv, those with another Python environment, those in a folder that has a kdht of its own, and all if
KDHT_TEST_FORKS=0 is in their environment.
"""

import inspect
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paths import HELPERS, ROOT

MODULES = ("kdht.daemon.main", "kdht.cli.main")
SWITCH = "KDHT_TEST_FORKS"
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "TZ")
"""Python and its libraries read variables with these beginnings before they run anything."""
STATUS_BYTES = 4
USUAL = {
    "executable": None,
    "preexec_fn": None,
    "close_fds": True,
    "pass_fds": (),
    "shell": False,
    "restore_signals": True,
    "gid": None,
    "gids": None,
    "uid": None,
    "umask": -1,
    "process_group": -1,
}
"""Of Popen's options, and how they have to be."""

_execute = subprocess.Popen._execute_child
_try_wait = subprocess.Popen._try_wait
_poll = subprocess.Popen._internal_poll
_parameters = inspect.signature(_execute)


class Server:
    """A fork server of one program."""

    def __init__(self, module: str, home: int) -> None:
        """`home`: the network namespace that it stays in. That of a test's host ends with the test, and all in it."""
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.environ = dict(os.environ)
            self._process = subprocess.Popen(
                [sys.executable, HELPERS / "fork_server.py", module, str(home)],
                stdin=theirs,
                pass_fds=[home],
                cwd=ROOT,
            )

    def start(self, request: Mapping[str, object], streams: list[int]) -> tuple[int, int]:
        """The process's ID, and the descriptor that will have its wait status."""
        ended, theirs = os.pipe()
        fds = [theirs, *(os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY) for name in ("net", "mnt"))]
        try:
            with self._lock:
                socket.send_fds(self._requests, [json.dumps(request).encode()], [*streams, *fds])
                return int(self._requests.recv(64)), ended
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


_servers: dict[str, Server] = {}
_homes: list[int] = []


def install() -> None:
    """From now on. A process that was forked from this one starts programs the usual way."""
    _homes.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    subprocess.Popen._execute_child = _execute_child
    subprocess.Popen._try_wait = _wait
    subprocess.Popen._internal_poll = _look
    os.register_at_fork(after_in_child=_servers.clear)


def end() -> None:
    """End the servers. What they started has ended, or goes on."""
    while _servers:
        _servers.popitem()[1].close()


def _execute_child(self: Any, *values: Any) -> None:
    given = _parameters.bind(self, *values).arguments
    request = _request(given)
    if request is None:
        _execute(self, *values)
        return
    module, wanted = request
    streams = [fd if fd != -1 else number for number, fd in enumerate(given[name] for name in _CHILDS_ENDS)]
    try:
        self.pid, self._ended = _servers[module].start(wanted, streams)
        self._child_created = True
    finally:
        self._close_pipe_fds(*(given[name] for name in _PIPES))


_CHILDS_ENDS = ("p2cread", "c2pwrite", "errwrite")
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def _request(given: Mapping[str, Any]) -> tuple[str, dict[str, object]] | None:
    """The module, and what its server is asked. None: it starts the usual way."""
    if isinstance(given["args"], (str, bytes, os.PathLike)):
        return None
    arguments = [os.fspath(each) for each in given["args"]]
    if arguments[:2] != [sys.executable, "-m"] or len(arguments) < 3 or arguments[2] not in MODULES:
        return None
    if any(given.get(name, usual) != usual for name, usual in USUAL.items()):
        return None
    env = dict(os.environ if given["env"] is None else given["env"])
    cwd = os.path.abspath(given["cwd"] or ".")
    texts = [*arguments, *env, *env.values(), cwd]
    if not all(isinstance(text, str) for text in texts) or env.get(SWITCH) == "0" or not _has_our_kdht(cwd):
        return None
    server = _servers.get(arguments[2])
    if server is None:
        server = _servers[arguments[2]] = Server(arguments[2], _homes[-1])
    if _at_start(env) != _at_start(server.environ):
        return None
    session = bool(given["start_new_session"])
    return arguments[2], {"arguments": arguments[3:], "cwd": cwd, "env": env, "session": session}


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def _has_our_kdht(cwd: str) -> bool:
    """Whether a program in this folder imports the kdht of this repository."""
    if not os.path.isdir(cwd):
        return False
    there = Path(cwd) / "kdht"
    return not there.exists() or there.samefile(ROOT / "kdht")


def _wait(self: Any, wait_flags: int) -> tuple[int, int]:
    """In place of waitpid: the status comes from the server, whose child it is."""
    if not hasattr(self, "_ended"):
        return _try_wait(self, wait_flags)
    if wait_flags & os.WNOHANG and not select.select([self._ended], [], [], 0)[0]:
        return 0, 0
    status = os.read(self._ended, STATUS_BYTES)
    os.close(self._ended)
    if not status:
        raise ChildProcessError("the fork server is gone")
    return self.pid, int.from_bytes(status, sys.byteorder, signed=True)


def _look(self: Any, *values: Any, **named: Any) -> int | None:
    if not hasattr(self, "_ended"):
        return _poll(self, *values, **named)
    if self.returncode is None and self._waitpid_lock.acquire(False):
        try:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
        finally:
            self._waitpid_lock.release()
    return self.returncode
