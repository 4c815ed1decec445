"""Tells at once that somebody changed this host: its nftables rules, its forwarding, its interfaces,
addresses or routing rules.

The kernel announces these over netlink. It does not announce `accept_local` and `send_redirects`, so whoever listens
here also looks from time to time.

Contract: one thread in the network namespace of the thread that made the watch. `changed` is called on it, for all
announcements of a moment together; it may block. No failure ends the thread.
"""

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

from kdht.datapath.host.nfnetlink import ANSWER_BYTES, NETLINK_NETFILTER
from kdht.datapath.upkeep import Upkeep, started

log = logging.getLogger(__name__)

SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
GROUPS = (
    (NETLINK_NETFILTER, 7),  # NFNLGRP_NFTABLES
    (socket.NETLINK_ROUTE, 1),  # RTNLGRP_LINK
    (socket.NETLINK_ROUTE, 5),  # RTNLGRP_IPV4_IFADDR
    (socket.NETLINK_ROUTE, 8),  # RTNLGRP_IPV4_RULE
    (socket.NETLINK_ROUTE, 9),  # RTNLGRP_IPV6_IFADDR
    (socket.NETLINK_ROUTE, 19),  # RTNLGRP_IPV6_RULE
    (socket.NETLINK_ROUTE, 24),  # RTNLGRP_IPV4_NETCONF
    (socket.NETLINK_ROUTE, 25),  # RTNLGRP_IPV6_NETCONF
)
"""Protocol and multicast group."""
SETTLE_S = 0.02
"""A script changes many things in a row: so long is waited for the next announcement,"""
MOST_SETTLING = 5
"""and so often."""


class HostWatch:
    """Calls `changed` after every change, and after `tick_s` without one."""

    def __init__(self, changed: Callable[[], None], tick_s: float) -> None:
        self.announced = 0
        """How many moments with announcements there were."""
        self._changed = changed
        self._tick_s = tick_s
        self._upkeep = Upkeep(log, "the look at the host")
        self._undo = ExitStack()
        self._sockets: list[socket.socket] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises OSError, or DatapathError."""
        with ExitStack() as undo:
            self._sockets = [undo.enter_context(_listening(*each)) for each in GROUPS]
            self._end = os.eventfd(0, os.EFD_CLOEXEC)
            undo.callback(os.close, self._end)
            # Made once: it works without a free descriptor.
            self._poll = undo.enter_context(select.epoll())
            for fd in (self._end, *(each.fileno() for each in self._sockets)):
                self._poll.register(fd, select.EPOLLIN)
            self._thread = started("kdht-watch", self._run)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            os.eventfd_write(self._end, 1)
            thread.join()
        self._undo.close()

    def _run(self) -> None:
        while True:
            readable = self._readable(self._tick_s)
            if self._end in readable:
                return
            self.announced += bool(readable)
            # One look after a whole script, and not one for each of its commands.
            self._settle()
            self._upkeep.attempt(self._changed)

    def _settle(self) -> None:
        """Take all announcements, until a moment passes without one."""
        for _ in range(MOST_SETTLING):
            for each in self._sockets:
                _drain(each)
            if not self._readable(SETTLE_S):
                return

    def _readable(self, seconds: float) -> list[int]:
        return [fd for fd, _ in self._poll.poll(seconds)]


def _listening(protocol: int, group: int) -> socket.socket:
    here = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        # The kernel passes by a socket without a number.
        here.bind((0, 0))
        here.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
    except OSError:
        here.close()
        raise
    return here


def _drain(here: socket.socket) -> None:
    """An overrun (ENOBUFS) is an announcement too."""
    try:
        while here.recv(ANSWER_BYTES):
            pass
    except OSError:
        # Nothing waits any more. After an overrun the caller looks at everything anyway.
        return
