"""The memory of a node's hot records, which the XDP program and the daemon share.

Contract: made once, when the first record is hot, and kept: whatever datapath runs meanwhile, the next program uses it
again. The kernel allocates such a map as a whole, so a node whose records nobody reads has none.
"""

import mmap
import os

from kdht.datapath.ebpf.xdp_links import libbpf
from kdht.storage._hot import SIZE, HotTable


class HotMap:
    """The map behind `table`. For one thread at a time; `close` when no program uses it any more."""

    def __init__(self, table: HotTable) -> None:
        self._table = table
        self._fd: int | None = None

    def made(self) -> int | None:
        """The map (file descriptor), made now if there are hot records; None: there are none yet. Raises BpfError."""
        if self._fd is None and self._table.wanted:
            fd = libbpf().make_hot(SIZE)
            try:
                # The mapping lives as long as the table.
                self._table.open(mmap.mmap(fd, SIZE))
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
        return self._fd

    def close(self) -> None:
        """Programs and mappings keep the map for as long as they need it."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
