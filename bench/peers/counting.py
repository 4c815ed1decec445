"""The cost of a run: datagrams of a network namespace, processor time and memory of processes."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # fields of /proc/PID/stat after the name; those of ended children follow


def datagrams() -> int:
    """UDP datagrams received by this network namespace's sockets since its start."""
    return _of_snmp(Path("/proc/self/net/snmp").read_text())


def _of_snmp(text: str) -> int:
    names, numbers = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(numbers[names.index("InDatagrams")])


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, user's and kernel's."""
    return sum(_of_stat(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def tree_cpu_seconds(pids: Iterable[int]) -> float:
    """The same with all their descendants, ended ones too."""
    found = {stat[0]: stat[1:] for stat in filter(None, map(_stat_of, Path("/proc").glob("[0-9]*/stat")))}
    family = set(pids)
    while grown := {pid for pid, (parent, _) in found.items() if parent in family} - family:
        family |= grown
    return sum(found[pid][1] for pid in family)


def _stat_of(path: Path) -> tuple[int, int, float] | None:
    """A process, its parent, its processor time with that of its ended children; None: it has ended."""
    try:
        text = path.read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = sum(map(int, fields[_USER : _SYSTEM + 3]))
    return int(text.split()[0]), int(fields[_PARENT]), ticks / _TICK


def packets(interface: str) -> int:
    """Packets received by an interface of the calling thread's network namespace since its start."""
    return _of_dev(Path("/proc/thread-self/net/dev").read_text(), interface)


def _of_dev(text: str, interface: str) -> int:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{interface}:"))
    return int(line.partition(":")[2].split()[1])


def machine_cpu_seconds() -> float:
    """Processor time of the whole machine so far that was spent on anything."""
    return _of_machine(Path("/proc/stat").read_text())


def _of_machine(text: str) -> float:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, text.splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / _TICK


def _of_stat(text: str) -> float:
    fields = text.rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICK


def pss_mib(pid: int) -> float:
    """A process's own share of memory, MiB. Shared pages are divided by the number of sharers."""
    return _rollup(pid, "Pss:")


def rss_mib(pid: int) -> float:
    """A process's memory in RAM, MiB."""
    return _rollup(pid, "Rss:")


def _rollup(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {field} of {pid}")
