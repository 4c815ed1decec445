"""Whether the BPF file system is visible, by the kernel's list of mounts."""

from pathlib import Path

import pytest

from kdht.datapath.ebpf.xdp_links import BPFFS, is_bpffs

ROOT = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n"
SYS = "sysfs /sys sysfs rw 0 0\n"
BPF = "bpf /sys/fs/bpf bpf rw 0 0\n"
OTHER = "tmpfs /run tmpfs rw 0 0\nbpf /sys/fs/bpf2 bpf rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "visible"),
    [
        ("", False),
        (ROOT + SYS, False),
        (ROOT + SYS + BPF, True),
        (ROOT + SYS + BPF + OTHER, True),
        (ROOT + SYS + OTHER, False),
        (ROOT + SYS + BPF + SYS, False),  # a container's own /sys hides it
        (ROOT + SYS + BPF + SYS + BPF, True),
        (ROOT + SYS + BPF + "tmpfs /sys/fs/bpf tmpfs rw 0 0\n", False),
    ],
)
def test_the_last_mount_on_the_way_counts(mounts: str, visible: bool) -> None:
    assert is_bpffs(Path("/sys/fs/bpf"), mounts) == visible
    assert Path("/sys/fs/bpf") == BPFFS
