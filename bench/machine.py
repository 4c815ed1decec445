"""The machine and the place where results are kept."""

import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
"""Ignored by git: figures hold for one machine and one day."""

_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """The machine's data, which the figures depend on."""
    models = [line.split(": ", 1)[1] for line in _CPU_INFO.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def softirq_thread(processor: int) -> Path:
    """The folder in /proc of the kernel's thread for this processor's interrupts."""
    name = f"ksoftirqd/{processor}\n"
    return next(comm.parent for comm in Path("/proc").glob("[0-9]*/comm") if _is(comm, name))


def softirq_seconds(thread: Path) -> float:
    """The processor time of that thread."""
    return int((thread / "schedstat").read_text().split()[0]) / 1e9


def _is(comm: Path, name: str) -> bool:
    try:
        return comm.read_text() == name
    except OSError:  # it has ended
        return False
