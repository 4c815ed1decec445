"""A part of a processor for each node, so a dozen nodes on one machine have limits of their own, like hosts.

The kernel's CFS bandwidth control, by cgroup version 1 or 2, in periods so short that a node does not stand still for long.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdht.errors import LabError
from kdht.lab.cluster import LabNode

QUOTA_US = 1000
"""The kernel's least quota."""


@contextmanager
def limited(nodes: Sequence[LabNode], part: float) -> Iterator[None]:
    """While the block runs each node has `part` of one processor; 0: as much as it gets. Raises LabError."""
    if not part:
        yield
        return
    version_2, root = _hierarchy()
    made: list[Path] = []
    try:
        for node in nodes:
            group = root / f"kdht-bench-{os.getpid()}-{node.name}"
            group.mkdir()
            made.append(group)
            if version_2:
                (group / "cpu.max").write_text(f"{QUOTA_US} {round(QUOTA_US / part)}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(round(QUOTA_US / part)))
                (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
            (group / "cgroup.procs").write_text(str(node.pid))
        yield
    except OSError as error:
        raise LabError(f"{root}: {error.strerror}: no limits here, say --cpu 0") from error
    finally:
        for group in made:
            for pid in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(pid)
            group.rmdir()


def _hierarchy() -> tuple[bool, Path]:
    """The cgroup directory, and whether it is version 2. Raises LabError."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, at, kind, options, *_ in mounts:
        given = Path(at) / "cgroup.subtree_control"
        if kind == "cgroup2" and given.exists() and "cpu" in given.read_text().split():
            return True, Path(at)
        if kind == "cgroup" and "cpu" in options.split(",") and os.access(at, os.W_OK):
            return False, Path(at)
    raise LabError("no cgroup hierarchy with the controller cpu is mounted here: say --cpu 0")
