"""The XDP program's object file, and whether this kernel takes it.

All errors are DatapathErrors that say what to do.
"""

import errno
import os
import platform
import re
from pathlib import Path
from typing import Any

from kdht.datapath.ebpf.xdp_links import libbpf
from kdht.errors import DatapathError

OBJECT = Path(__file__).with_name("kdht_xdp.bpf.o")
PROGRAM = "kdht_xdp"
LEAST_KERNEL = (5, 18)
"""bpf_loop (5.17) and XDP's load helpers (5.18)."""
INSTEAD = "choose another datapath"
NEEDS = (12, 38, 39)
"""CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF: their bits in CapEff."""
SECCOMP_FILTER = 2
"""Of the field Seccomp in /proc/PID/status (proc(5))."""


def need_program() -> None:
    """Raises DatapathError if this installation of kdht cannot have the datapath."""
    libbpf().be_quiet()
    if not OBJECT.exists():
        raise DatapathError(
            "kdht was built without its XDP program: install clang (Debian: apt-get install clang) "
            "and install kdht again"
        )


def need_kernel() -> str:
    """The kernel's release. Raises DatapathError if it is too old for the program."""
    release = platform.release()
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if numbers < LEAST_KERNEL:
        least = ".".join(map(str, LEAST_KERNEL))
        raise DatapathError(f"Linux {release} is too old for the XDP program, which needs {least}: {INSTEAD}")
    return release


def load(pins: Path | None = None) -> Any:
    """The loaded program. With `pins`, its maps are kept there, and those already there are used on."""
    bpf = libbpf()
    bpf.be_quiet()
    try:
        return bpf.Object(str(OBJECT), PROGRAM, None if pins is None else str(pins))
    except bpf.BpfError as error:
        need_kernel()
        raise DatapathError(f"the kernel refuses the XDP program: {_why(error)}: {INSTEAD}") from error


def try_load() -> int:
    """Load the program once and forget it. Gives the number of instructions that the verifier walked."""
    walked: int = load().info()["verified_insns"]
    return walked


def may_load() -> bool:
    """Whether this process may try. Without root the kernel refuses any program."""
    return os.geteuid() == 0


def _why(error: Any) -> str:
    if error.errno == errno.EPERM:
        return _why_not_permitted(Path("/proc/self/status").read_text())
    said = f" ({error.verifier})" if error.verifier else ""
    return f"{os.strerror(error.errno)}{said}"


def _why_not_permitted(status: str) -> str:
    """From the process's own /proc/PID/status. A container's runtime may give the rights and still forbid the call."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    has = int(fields["CapEff"], 16)
    if all(has >> number & 1 for number in NEEDS) and int(fields.get("Seccomp", "0")) == SECCOMP_FILTER:
        return (
            "a seccomp filter of the container or service forbids bpf(2): start it with --security-opt seccomp=unconfined, "
            "or with a filter that allows bpf"
        )
    return "it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
