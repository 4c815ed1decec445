"""Starts one of kdht's programs many times: `python fork_server.py MODULE HOME` imports it once and forks for each start.

Contract: it moves to the network namespace of the descriptor HOME. Standard input is a socket of whole messages. Each asks
for a start: JSON with `arguments`, `cwd`, `env` and `session` (whether it gets a session of its own), and the descriptors of
FDS. The answer is the process's ID. Its wait status goes to the descriptor `ended` as a C int. The server ends with its
socket; what it started goes on.

The started process does what `python -m MODULE` does, in a process of its own with the same streams, folder, environment,
namespaces and signals. It only imports nothing a second time. forks.py has the other side.
"""

import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, NamedTuple

FDS = 6
"""In this order: standard input, output and error, `ended`, the network namespace, the namespace of mounts."""
MAX_MESSAGE = 1 << 19
STATUS = struct.Struct("i")

IMPORTED = {
    "kdht.daemon.main": ("kdht.daemon.process.daemon",),
    "kdht.cli.main": ("kdht.cli", "rich.console", "rich.table"),
}
"""What a program loads only when it needs it, and nearly always does. Of a package: each of its modules."""


class Start(NamedTuple):
    """What the forked process has to become."""

    arguments: list[str]
    cwd: str
    env: dict[str, str]
    session: bool
    fds: list[int]


def load(module: str) -> None:
    """Import what the program imports, and leave it as if it had not run yet."""
    importlib.import_module(module)
    if module == "kdht.daemon.main":
        from kdht.daemon.process import memory

        memory.without_tls()  # as main does, before it imports the rest
    for name in IMPORTED.get(module, ()):
        found = importlib.import_module(name)
        for each in pkgutil.iter_modules(getattr(found, "__path__", ()), f"{name}."):
            importlib.import_module(each.name)
    # It runs as __main__, from the beginning.
    del sys.modules[module]
    # What is there now is shared by all that are forked, as long as nobody writes to it.
    gc.collect()
    gc.freeze()


def serve(requests: socket.socket) -> Start:
    """Forks for each request. Returns in the forked process alone."""
    ended: dict[int, int] = {}
    wakes, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests, wakes], [], [])
        if wakes in ready:
            wakes.recv(4096)
            _reap(ended)
        if requests in ready:
            data, fds, _, _ = socket.recv_fds(requests, MAX_MESSAGE, FDS)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return Start(**json.loads(data), fds=fds)
            ended[pid] = fds[3]
            for fd in (*fds[:3], *fds[4:]):
                os.close(fd)
            requests.send(str(pid).encode())


def _reap(ended: dict[int, int]) -> None:
    """Tell of all that have ended."""
    while ended:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        fd = ended.pop(pid)
        with suppress(BrokenPipeError):  # who started it may not want to know
            os.write(fd, STATUS.pack(status))
        os.close(fd)


def become(start: Start, module: str) -> None:
    """The streams, namespaces, folder, environment and signals of a process that was started the usual way."""
    if start.session:
        os.setsid()
    *streams, _, network, mounts = start.fds
    for name, fd in (("net", network), ("mnt", mounts)):
        _enter(name, fd)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(start.cwd)
    os.environ.clear()
    os.environ.update(start.env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = start.cwd
    sys.argv[1:] = start.arguments
    sys.orig_argv[1:] = ["-m", module, *start.arguments]
    _open_streams()


def _enter(name: str, fd: int) -> None:
    """A namespace, unless this process is in it."""
    here = os.stat(f"/proc/self/ns/{name}")
    if os.fstat(fd).st_ino != here.st_ino and ctypes.CDLL(None, use_errno=True).setns(fd, 0):
        raise OSError(ctypes.get_errno(), f"setns {name}")


def _open_streams() -> None:
    """As Python opens them: how depends on what they are, and on PYTHONUNBUFFERED."""
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    old: list[Any] = [sys.stdin, sys.stdout, sys.stderr]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if number else "r"
        raw: Any = open(number, f"{mode}b", 0 if at_once and number else -1, closefd=False)  # noqa: SIM115
        getattr(raw, "raw", raw).name = old[number].name
        stream: Any = io.TextIOWrapper(
            raw,
            encoding=old[number].encoding,
            errors=old[number].errors,
            newline="\n" if number else None,
            line_buffering=not at_once and (number == 2 or os.isatty(number)),
            write_through=at_once,
        )
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    module = sys.argv[1]
    _enter("net", int(sys.argv[2]))
    os.close(int(sys.argv[2]))
    requests = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    # Ctrl-C is for the tests. The end of the socket follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load(module)
    become(serve(requests), module)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


main()
