"""Leases of clients that want to be told of changes of a key.

Contract: bounded in number; a lease ends by itself. A notification is one more reply to the client's WATCH, through the same
entry node, so this node needs nothing but the request. Thread-safe.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from kdht.datapath.base import Datagram
from kdht.times import UnixTime
from kdht.wire.limits import MAX_LEASE

MAX_LEASES = 16384
MAX_WATCHERS = 1024
"""Leases of one key."""


class Lease(NamedTuple):
    """One client's wish; `until` is Unix seconds."""

    request: Datagram
    until: UnixTime


class Leases:
    """All leases at one node, by key and by client and request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[bytes, dict[bytes, Lease]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def renew(self, key: bytes, who: bytes, request: Datagram, lease: int, now: UnixTime) -> bool:
        """Begin or renew a lease of `lease` seconds; 0 ends it. False if there are too many already."""
        with self._lock:
            watchers = self._by_key.get(key, {})
            if not lease:
                self._end(key, [who])
                return True
            if who not in watchers:
                if len(watchers) >= MAX_WATCHERS or self._count >= MAX_LEASES:
                    # Only when full: a walk over all leases is slow.
                    self._expire(now)
                    watchers = self._by_key.get(key, {})
                if len(watchers) >= MAX_WATCHERS or self._count >= MAX_LEASES:
                    return False
                self._count += 1
            self._by_key.setdefault(key, watchers)[who] = Lease(
                request, UnixTime(now + min(lease, MAX_LEASE))
            )
            return True

    def watching(self, key: bytes, now: UnixTime) -> list[Datagram]:
        """The requests of all clients that watch the key."""
        if key not in self._by_key:  # nearly always, and without the lock
            return []
        with self._lock:
            leases = self._by_key.get(key, {})
            self._end(key, [who for who, lease in leases.items() if lease.until <= now])
            return [lease.request for lease in self._by_key.get(key, {}).values()]

    def keep(self, may_stand: Callable[[Datagram], bool]) -> None:
        """End all leases whose request `may_stand` refuses."""
        with self._lock:
            for key in list(self._by_key):
                leases = self._by_key[key]
                self._end(key, [who for who, lease in leases.items() if not may_stand(lease.request)])

    def _expire(self, now: UnixTime) -> None:
        for key in list(self._by_key):
            self._end(key, [who for who, lease in self._by_key[key].items() if lease.until <= now])

    def _end(self, key: bytes, ended: list[bytes]) -> None:
        watchers = self._by_key.get(key, {})
        for who in ended:
            self._count -= watchers.pop(who, None) is not None
        if not watchers:
            self._by_key.pop(key, None)
