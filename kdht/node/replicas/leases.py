"""Leases of clients that want to be told of changes of a key.

Contract: bounded in number, in all, for a key and for a client's address; a lease ends by itself. Every call takes about
the same short time, a refused one too, however many leases there are. A notification is one more reply to the client's
WATCH, through the same entry node, so this node needs nothing but the request. Thread-safe.
"""

import heapq
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kdht.datapath.base import Datagram
from kdht.times import SteadyTime
from kdht.wire.limits import MAX_LEASE

MAX_LEASES = 16384
MAX_WATCHERS = 1024
"""Leases of one key."""
MAX_OF_CLIENT = 1024
"""Leases of one address. Of an IPv6 address, its network of 64 bits counts: one host has all of that."""
MAX_OF_CLIENT_AT_KEY = MAX_WATCHERS // 4
"""Of those, at one key: else one host with a thousand ports would keep all others from watching it."""
# A bound on the time of one call: after a pause thousands of leases may be due together.
ENDED_AT_ONCE = 64
"""Leases that one call ends at most. More than one, so the ended ones never pile up."""

_PORT_LEN, _ADDRESS_LEN, _NETWORK_LEN = 2, 16, 8
_MAPPED = bytes(10) + b"\xff\xff"
"""An IPv4 address begins so."""


class Lease(NamedTuple):
    """One client's wish."""

    request: Datagram
    until: SteadyTime


class Leases:
    """All leases at one node, by key and by client and request. `steady`: the time; a set clock ends no lease."""

    def __init__(self, steady: Callable[[], SteadyTime]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self.by_key: dict[bytes, dict[bytes, Lease]] = {}
        """Every write looks here whether anybody watches."""
        self._of_client: Counter[bytes] = Counter()
        """By client, and by key and client together."""
        self._count = 0
        self._ends: list[tuple[SteadyTime, bytes, bytes]] = []
        """A heap of ends with key and client. Renewed and ended leases leave entries behind, which count no more."""

    def __len__(self) -> int:
        return self._count

    def renew(self, key: bytes, who: bytes, request: Datagram, lease: int) -> bool:
        """Begin or renew a lease of `lease` seconds; 0 ends it. False if there are too many already.

        `who`: the client's port in 2 bytes, its address in 16, and its request.
        """
        with self._lock:
            now = self._steady()
            self._end_due(now)
            if not lease:
                self._end(key, who)
                return True
            watchers = self.by_key.get(key, {})
            if who not in watchers:
                if self._is_full(key, watchers, who):
                    return False
                self._count += 1
                self._of_client.update(_counted(key, who))
            until = SteadyTime(now + min(lease, MAX_LEASE))
            self.by_key.setdefault(key, watchers)[who] = Lease(request, until)
            self._remember((until, key, who))
            return True

    def watching(self, key: bytes) -> list[Datagram]:
        """The requests of all clients that watch the key."""
        # This is asked for every write.
        if key not in self.by_key:  # nearly always, and without the lock
            return []
        with self._lock:
            now = self._steady()
            self._end_due(now)
            # An ended lease may still be there, because one call ends a bounded number.
            return [lease.request for lease in self.by_key.get(key, {}).values() if lease.until > now]

    def keep(self, may_stand: Callable[[Datagram], bool]) -> None:
        """End all leases whose request `may_stand` refuses. The one call that takes longer with more leases."""
        with self._lock:
            for key, leases in list(self.by_key.items()):
                for who in [who for who, lease in leases.items() if not may_stand(lease.request)]:
                    self._end(key, who)

    def _is_full(self, key: bytes, watchers: dict[bytes, Lease], who: bytes) -> bool:
        client, client_at_key = _counted(key, who)
        return (
            self._count >= MAX_LEASES
            or len(watchers) >= MAX_WATCHERS
            or self._of_client[client] >= MAX_OF_CLIENT
            or self._of_client[client_at_key] >= MAX_OF_CLIENT_AT_KEY
        )

    def _remember(self, end: tuple[SteadyTime, bytes, bytes]) -> None:
        heapq.heappush(self._ends, end)
        if len(self._ends) > 2 * self._count + ENDED_AT_ONCE:
            # Half of them count no more. So this is paid for by as many renewals.
            leases = self.by_key.items()
            self._ends = [(each.until, key, who) for key, by in leases for who, each in by.items()]
            heapq.heapify(self._ends)

    def _end_due(self, now: SteadyTime) -> None:
        for _ in range(ENDED_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                return
            until, key, who = heapq.heappop(self._ends)
            lease = self.by_key.get(key, {}).get(who)
            if lease is not None and lease.until == until:  # not renewed since
                self._end(key, who)

    def _end(self, key: bytes, who: bytes) -> None:
        watchers = self.by_key.get(key, {})
        if watchers.pop(who, None) is None:
            return
        self._count -= 1
        for counted in _counted(key, who):
            self._of_client[counted] -= 1
            # A counter of 0 would stay for each address that ever watched.
            if not self._of_client[counted]:
                del self._of_client[counted]
        if not watchers:
            del self.by_key[key]


def _counted(key: bytes, who: bytes) -> tuple[bytes, bytes]:
    """The client, and the client at this key."""
    address = who[_PORT_LEN : _PORT_LEN + _ADDRESS_LEN]
    client = address if address.startswith(_MAPPED) else address[:_NETWORK_LEN]
    return client, key + client
