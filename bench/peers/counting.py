"""What a run cost: datagrams in this network namespace, processor time and memory of processes."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12  # fields of /proc/PID/stat after the name


def datagrams() -> int:
    """UDP datagrams that sockets of this network namespace received since its start."""
    return _of_snmp(Path("/proc/self/net/snmp").read_text())


def _of_snmp(text: str) -> int:
    names, numbers = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(numbers[names.index("InDatagrams")])


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, user's and kernel's."""
    return sum(_of_stat(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def _of_stat(text: str) -> float:
    fields = text.rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICK


def pss_mib(pid: int) -> float:
    """A process's own share of memory, MiB: what it shares counts by as many as share it."""
    return _rollup(pid, "Pss:")


def rss_mib(pid: int) -> float:
    """All memory of a process that is in RAM, MiB."""
    return _rollup(pid, "Rss:")


def _rollup(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {field} of {pid}")
