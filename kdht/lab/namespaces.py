"""Named network namespaces (as listed by `ip netns`): make, enter, empty, remove.

A namespace belongs to the calling thread while it is entered, so sockets, netlink and
processes made meanwhile live in it, and other threads are not touched.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyroute2 import netns

from kdht.errors import LabError
from kdht.lab.wait import wait_until


def require_root() -> None:
    """Raises LabError, with advice, unless network namespaces can be made."""
    if os.geteuid() != 0:
        raise LabError("network namespaces need root: run it as root, or with DATAPATH=socket without")


def existing(prefix: str) -> list[str]:
    """The names of the namespaces with this prefix."""
    return sorted(name for name in netns.listnetns() if name.startswith(prefix))


def create(name: str) -> None:
    """Raises LabError if it is there already or cannot be made."""
    if name in netns.listnetns():
        raise LabError(f"the network namespace {name} is there already")
    netns.create(name)
    if name not in netns.listnetns():
        raise LabError(f"cannot make the network namespace {name}: is this a container without the right?")


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Put the calling thread into the namespace until the block ends. May be nested."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(os.path.join(netns.NETNS_RUN_DIR, name), os.O_RDONLY)
        try:
            netns.setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            netns.setns(home)
    finally:
        os.close(home)


def processes(name: str) -> list[int]:
    """The IDs of the namespace's processes, without this one."""
    return [pid for pid in netns.ns_pids().get(name, []) if pid != os.getpid()]


def remove(name: str) -> None:
    """Kill the namespace's processes, then remove it with its links and rules."""
    for pid in processes(name):
        # It has ended meanwhile.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not _alive(name), f"the processes in {name} to end")
    # Removed already, by hand, say.
    with suppress(FileNotFoundError):
        netns.remove(name)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        # No such process any more.
        return False


def _alive(name: str) -> list[int]:
    return [pid for pid in processes(name) if is_running(pid)]
