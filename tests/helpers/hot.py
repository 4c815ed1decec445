"""A table of hot records for one program in a test run, filled through the cache as the daemon does."""

import mmap
import os
import time

from xdp import Program

from kdht.datapath.ebpf import _ebpf
from kdht.storage._cache import RecordCache
from kdht.storage._hot import SIZE, HotTable

LONG = 10**12
"""Nanoseconds: a lease that outlives the test."""


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Hot:
    """The table, its cache and its memory, in use by `program`."""

    def __init__(self, program: Program) -> None:
        self.table = HotTable()
        self.cache = RecordCache(4 << 20, self.table)
        self._fd = _ebpf.make_hot(SIZE)
        self.memory = mmap.mmap(self._fd, SIZE)
        self.table.open(self.memory)
        program.object.use_hot(self._fd)
        self.lease()

    def lease(self) -> None:
        self.table.loop_until(boot_ns() + LONG, boot_ns())
        self.table.serve_until(boot_ns() + LONG)

    def put(self, key: bytes, version: int, expiry: int, flags: int, value: bytes) -> None:
        (begun,) = self.cache.begin([key])
        assert self.cache.fill(key, begun, version, expiry, flags, value)
        self.cache.heat([key])

    def close(self) -> None:
        os.close(self._fd)
