"""A network and a /run of its own for a process of a parallel test run, so that two of them never meet.

Ports, network namespaces, nft tables, sysctls of the network and pins of BPF objects are then this process's alone.
"""

import ctypes
import os
import subprocess

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

_MOUNTS = (
    ("mount", "--make-rprivate", "/"),
    ("mount", "-t", "sysfs", "sysfs", "/sys"),  # shows the interfaces of the namespace that mounts it
    ("mount", "-t", "bpf", "bpf", "/sys/fs/bpf"),
    ("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"),
    ("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"),
    ("ip", "link", "set", "lo", "up"),
)


def enter_own_world() -> None:
    """Move the calling thread, and all that it starts later, there. Needs root; raises OSError without."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    for command in _MOUNTS:
        subprocess.run(command, check=True, capture_output=True)
    for directory in ("netns", "lock", "user"):
        os.makedirs(f"/run/{directory}", exist_ok=True)
