"""Drops the capabilities of a root daemon, once its files are open, to those needed by its datapaths; and those of its children.

Called before the first thread is made, because capabilities are a thread's own: later threads
inherit what is left, and programs that are started (nft) cannot get more than the bounding set.
See capabilities(7). The sets were found by experiment (tests/root/test_capabilities.py).
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
# net.ipv4.ip_unprivileged_port_start, if nobody changed it.
FIRST_FREE_PORT = 1024
HEADER_VERSION_3 = 0x20080522

NUMBERS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""linux/capability.h"""
REASONS = {
    "CAP_NET_ADMIN": "nftables, NFQUEUE, sysctls of the network, attaching XDP programs",
    "CAP_BPF": "loading the XDP program and its maps",
    "CAP_PERFMON": "the verifier's pointer arithmetic for that program",
    "CAP_NET_BIND_SERVICE": "a port below 1024",
    "CAP_DAC_OVERRIDE": "the data directory belongs to another user",
    "CAP_DAC_READ_SEARCH": "Python, kdht or a key file can be read by another user only",
}

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def reduce(data_dir: Path, ports: Iterable[int], key_files: Iterable[Path] = ()) -> list[str]:
    """Give up all capabilities but the needed ones. Returns the names of those left.

    `ports`: those that are bound later, by a child of this process.
    Python's files, kdht's and `key_files` must stay readable: modules are imported, workers
    started and keys read anew while the daemon runs. Without capabilities this does nothing.
    Never raises. If the kernel refuses, more capabilities are left.
    """
    wanted = ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]
    # Without it root can write another user's files by no other right.
    if data_dir.stat().st_uid != os.geteuid():
        wanted.append("CAP_DAC_OVERRIDE")
    if any(port < FIRST_FREE_PORT for port in ports):
        wanted.append("CAP_NET_BIND_SERVICE")
    held = _permitted()
    if not held:
        return []
    kept = held & _mask(wanted)
    # Tried and not computed from modes: access lists and mounts decide as well.
    if not _can_read_with(kept, held, [Path(os.__file__), Path(__file__), *key_files]):
        kept |= held & _mask(["CAP_DAC_READ_SEARCH"])
    _keep(kept)
    return names(_permitted())


def reduce_child(ports: Iterable[int]) -> None:
    """Give up all capabilities but the one to bind these ports, and the way to new ones. Never raises."""
    low = any(port < FIRST_FREE_PORT for port in ports)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if held := _permitted():
        _keep(held & _mask(["CAP_NET_BIND_SERVICE"] if low else []))


def _keep(kept: int) -> None:
    for number in range(64):
        if not kept >> number & 1:
            # Of the bounding set, too: a program with file capabilities would get them back.
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # EINVAL beyond the kernel's last
    _set(effective=kept, permitted=kept)


def _can_read_with(kept: int, held: int, paths: Iterable[Path]) -> bool:
    """Whether the paths could be read with `kept` alone; `held` is in effect again afterwards."""
    _set(effective=kept, permitted=held)
    readable = all(_is_readable(path) for path in paths)
    _set(effective=held, permitted=held)
    return readable


def _is_readable(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        # Then the capability that reads it anyway has to stay.
        return False
    return True


def _mask(wanted: Iterable[str]) -> int:
    return sum(1 << NUMBERS[name] for name in wanted)


def names(mask: int) -> list[str]:
    """The capabilities in a mask, those without a name here by their number."""
    known = {number: name for name, number in NUMBERS.items()}
    return [known.get(number, f"CAP_{number}") for number in range(64) if mask >> number & 1]


def _permitted() -> int:
    header, data = _Header(HEADER_VERSION_3, 0), (_Data * 2)()
    if _libc.capget(ctypes.byref(header), data) != 0:
        return 0
    return int(data[0].permitted) | int(data[1].permitted) << 32


def _set(*, effective: int, permitted: int) -> None:
    header, data = _Header(HEADER_VERSION_3, 0), (_Data * 2)()
    for half in range(2):
        data[half].effective = effective >> 32 * half & 0xFFFFFFFF
        data[half].permitted = permitted >> 32 * half & 0xFFFFFFFF
    _libc.capset(ctypes.byref(header), data)
