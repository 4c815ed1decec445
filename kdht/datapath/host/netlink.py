"""Questions to the kernel over netlink, with pyroute2: addresses, links, and the NFQUEUE rule that nft cannot write.

nft's `queue` statement needs nft_queue in the kernel. Where that is missing, the same NFQUEUE exists as an xtables
target, which a rule may hold through nft_compat; nft has no syntax for it.

A process of its own asks (netlink_worker.py), in the caller's network namespace. pyroute2 is large and is needed
at the start only, so the process ends a moment after the last question and gives its memory back.
"""

import atexit
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from kdht.datapath.host import children
from kdht.errors import DatapathError
from kdht.wire import Address

IDLE = 2.0
"""Seconds without a question after which the worker ends."""


class Queue(NamedTuple):
    """The queues that packets are diverted to: `first` to `first + total - 1`."""

    first: int
    total: int
    by_cpu: bool
    """One queue per receiving CPU. Otherwise a hash of the addresses chooses the queue."""

    @property
    def last(self) -> int:
        return self.first + self.total - 1


class XdpState(NamedTuple):
    """The XDP program of an interface."""

    mode: str
    """"native", "generic", "offloaded", "several", or "" without a program."""
    program: int
    """The program's number, 0 without one."""


class Vlan(NamedTuple):
    """An interface that is a VLAN of another."""

    name: str
    ifindex: int
    number: int
    lower: str


def add_queue_rule(table: str, chain: str, queue: Queue) -> None:
    """Append `queue, with bypass` to a chain, through nft_compat.

    Raises DatapathError: there is no such chain, the kernel has no NFQUEUE target, or the
    target refuses these numbers.
    """
    _worker.ask("add_rule", table, chain, *queue)


def interfaces_of(addresses: list[Address]) -> list[str]:
    """The interfaces, other than lo, that hold any of these addresses; sorted."""
    hosts = {address.host for address in addresses}
    return sorted({name for name, host in _worker.ask("all_hosts") if host in hosts and name != "lo"})


def choose_interfaces(addresses: Sequence[Address], named: Sequence[str] = ()) -> tuple[str, ...]:
    """The interfaces whose packets a datapath takes: the named ones, or those with an address. Raises DatapathError."""
    chosen = tuple(named) or tuple(interfaces_of(list(addresses)))
    if not chosen:
        raise DatapathError("no interface but lo holds an own address: name some in datapath.interfaces")
    if "lo" in chosen:
        raise DatapathError("packets on lo cannot be re-addressed: remove lo from datapath.interfaces")
    return chosen


def hosts_of(interface: str) -> set[str]:
    """An interface's addresses, as text."""
    return {host for name, host in _worker.ask("all_hosts") if name == interface}


def xdp_of(interface: str) -> XdpState:
    """The XDP program that is attached to an interface."""
    return XdpState(*_worker.ask("xdp_of", interface))


def mtu_of(interface: str) -> int | None:
    """The most bytes of a packet on an interface; None if there is no such interface."""
    mtu: int | None = _worker.ask("mtu_of", interface)
    return mtu


def vlans() -> list[Vlan]:
    """All VLAN interfaces (IEEE 802.1Q) of this network namespace."""
    return [Vlan(*found) for found in _worker.ask("vlans")]


class _Worker:
    """The worker process. Started by a question, one at a time. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._namespace = 0
        self._timer: threading.Timer | None = None

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call the function of this name in netlink_worker.py. Raises DatapathError."""
        with self._lock:
            process = self._running()
            try:
                # Under the lock: questions and answers have no numbers, only an order.
                answer = json.loads(_exchange(process, json.dumps([name, *arguments])))
            except (OSError, ValueError) as error:
                status = self._end()
                raise DatapathError(
                    f"the process that asks the kernel by netlink ended with status {status}; "
                    "what it wrote to standard error says why"
                ) from error
            self._end_later()
        if "refused" in answer:
            raise DatapathError(answer["refused"])
        return answer["value"]

    def end(self) -> None:
        """Wait for the worker's end."""
        with self._lock:
            self._end()

    def _running(self) -> "subprocess.Popen[str]":
        """Start one in the network namespace of the calling thread."""
        # A process started in another namespace would tell of that one's interfaces.
        namespace = os.stat("/proc/thread-self/ns/net").st_ino
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None and (self._namespace != namespace or self._process.poll() is not None):
            self._end()
        if self._process is None:
            self._process = children.started(
                children.command("kdht.datapath.host.netlink_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=children.environment(),
                text=True,
            )
            self._namespace = namespace
        return self._process

    def _end_later(self) -> None:
        self._timer = threading.Timer(IDLE, self._idle, (self._process,))
        # It must not hold up the end of the daemon.
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no thread can be had now: then the process ends at once
            self._end()

    def _idle(self, process: "subprocess.Popen[str]") -> None:
        with self._lock:
            if process is self._process and threading.current_thread() is self._timer:
                self._end()

    def _end(self) -> int:
        """The worker's exit status. 0: there is none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(OSError):  # what it did not read any more
            process.communicate()
        return process.wait()


def _exchange(process: "subprocess.Popen[str]", question: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question + "\n")
    process.stdin.flush()
    return process.stdout.readline()


_worker = _Worker()
# It ends with its input anyway. But systemd kills what still runs when the daemon has ended, and says so.
atexit.register(_worker.end)
