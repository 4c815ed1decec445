"""The XDP program's links to the interfaces of one node, kept in place.

Contract: thread-safe. All errors are DatapathErrors, or BpfErrors.
"""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from kdht.datapath.ebpf import xdp_links
from kdht.datapath.ebpf.xdp_links import Link
from kdht.errors import DatapathError


class Attachments:
    """`links` are replaced, never changed."""

    def __init__(self, pins: Path) -> None:
        self.links: tuple[Link, ...] = ()
        self.trouble = ""
        """Why the program is not on all interfaces. Empty: it is."""
        self._pins = pins
        self._lock = threading.Lock()

    def attach(self, program_fd: int, interfaces: Iterable[str]) -> None:
        """Attach the program to the interfaces, or put it behind the pinned links of an earlier one."""
        with self._lock:
            self.links = tuple(xdp_links.attach(program_fd, name, self._pins) for name in interfaces)

    def close(self) -> None:
        """Close the links. Those that are pinned hold."""
        with self._lock:
            for link in self.links:
                os.close(link.fd)
            self.links, self.trouble = (), ""

    def mend(
        self, program_fd: int, number: int, may: Callable[[str], None], done: Callable[[str], None]
    ) -> bool:
        """Attach the program of this number again where somebody took it off or exchanged it, or made the interface again.

        `may` gets what is to be mended, and may refuse; `done` gets it afterwards. Returns whether there was anything.
        """
        with self._lock:
            before = self.links
            try:
                for index, link in enumerate(before):
                    if not xdp_links.holds(link, number):
                        what = f"the XDP program of {link.interface}"
                        may(what)
                        made = xdp_links.attach_again(link, program_fd, self._pins)
                        self.links = (*self.links[:index], made, *self.links[index + 1 :])
                        done(what)
                self.trouble = ""
            except (DatapathError, OSError) as error:
                self.trouble = str(error)
            return self.links != before

    def places(self) -> str:
        """Where the program is, in words."""
        return ", ".join(f"{link.interface} ({link.mode} mode)" for link in self.links)
