"""Clients of a virtual cluster: puts and gets by the client library's own rules, and their outcomes.

Each request goes to three live, ready nodes, like the up-to-date list of a client. A get is right if
it returns the value of a possible put: the last acknowledged one before it, or one since then that was
unconfirmed or under way.
"""

from collections import Counter, defaultdict
from functools import partial
from random import Random
from typing import Any

from bench.sim.figures import spread
from kdht.client import _calls as calls
from kdht.client._exchange import Exchange
from kdht.lab.virtual import VirtualCluster
from kdht.lab.virtual.client import VirtualRequest
from kdht.storage import MemoryStore
from kdht.times import UnixTime
from kdht.wire import Address, Record, hash_key
from kdht.wire._shared import Status

ENTRIES = 3
PATIENCE = 5.0
_PORTS = 60_000


class Load:
    """Requests for `values` keys."""

    def __init__(self, cluster: VirtualCluster, rng: Random, values: int) -> None:
        self._cluster = cluster
        self._rng = rng
        self._keys = [f"value {number}" for number in range(values)]
        self._serial = self._ports = 0
        self._acknowledged: set[str] = set()
        self._standing: defaultdict[str, set[int]] = defaultdict(set)
        """Puts of a key whose value may be seen: none that had ended before an acknowledged one began."""
        self._under_way: set[int] = set()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def fill(self) -> None:
        """Put every key once, and wait."""
        for key in self._keys:
            self._put(key)
            self._cluster.run(0.02)
        self._cluster.run(PATIENCE + 1)
        self.outcomes.clear()
        self.times.clear()

    def start(self, gets: float, puts: float, end: float) -> None:
        """So many a second, at random times, until the virtual time `end`."""
        for rate, request in ((gets, self._get), (puts, self._put)):
            if rate and self._keys:
                self._again(rate, request, end - PATIENCE - 1)

    def figures(self) -> dict[str, Any]:
        """Parts of the gets and puts by outcome, and how many seconds those took that had an answer."""
        totals: Counter[str] = Counter()
        for (what, _), number in self.outcomes.items():
            totals[what] += number
        return {
            what: {
                "count": total,
                "parts": {how: n / total for (kind, how), n in sorted(self.outcomes.items()) if kind == what},
                "seconds": spread(self.times[what]),
            }
            for what, total in totals.items()
        }

    def copies(self) -> dict[str, float]:
        """Of the acknowledged values: copies on live nodes; how many values have none there, or on no disk."""
        members = self._cluster.members
        live = [member.store for member in members if member.records is not None]
        disks = list(self._cluster.stores.values())
        on_live = [float(self._count(key, live)) for key in self._acknowledged]
        lost = sum(self._count(key, disks) == 0 for key in self._acknowledged)
        return {**spread(on_live), "out_of_reach": sum(n == 0 for n in on_live), "lost": lost}

    def _count(self, key: str, stores: list[MemoryStore]) -> int:
        """How many of the stores have a value of the key that may be seen."""
        wanted = {str(serial).encode() for serial in self._standing[key]}
        found = (store.get(hash_key(key), UnixTime(self._cluster.network.now)) for store in stores)
        return sum(record is not None and record.value in wanted for record in found)

    def _again(self, rate: float, request: Any, end: float) -> None:
        network = self._cluster.network
        when = network.now + self._rng.expovariate(rate)
        if when < end:
            network.call_at(when, self._one, rate, request, end)

    def _one(self, rate: float, request: Any, end: float) -> None:
        request(self._rng.choice(self._keys))
        self._again(rate, request, end)

    def _get(self, key: str) -> None:
        self._ask(calls.get(key), partial(self._got, key, frozenset(self._standing[key])))

    def _put(self, key: str) -> None:
        self._serial += 1
        ended = frozenset(self._standing[key] - self._under_way)
        self._standing[key].add(self._serial)
        self._under_way.add(self._serial)
        call = calls.put(key, str(self._serial).encode(), None)
        self._ask(call, partial(self._was_put, key, self._serial, ended))

    def _ask(self, call: calls.Call, done: Any) -> None:
        cluster = self._cluster
        members = [member for member in cluster.members if member.node.ready] or cluster.members
        chosen = self._rng.sample(members, min(ENTRIES, len(members)))
        self._ports += 1
        address = Address.of("192.0.2.1", 1024 + self._ports % _PORTS)
        entries = [member.contact.address for member in chosen]
        VirtualRequest(cluster.network, address, entries, call, done, self._rng, timeout=PATIENCE)

    def _got(self, key: str, before: frozenset[int], exchange: Exchange, seconds: float) -> None:
        answer = exchange.answer
        how = "no answer" if answer is None else answer.status.name
        if answer is not None and answer.status is Status.OK:
            value = int(Record.parse(answer.body).value)
            how = "right" if value in before or value in self._standing[key] else "old"
        self._note("get", how, seconds)

    def _was_put(
        self, key: str, serial: int, ended: frozenset[int], exchange: Exchange, seconds: float
    ) -> None:
        answer = exchange.answer
        how = "no answer" if answer is None else answer.status.name
        self._under_way.discard(serial)
        if answer is not None and answer.status is Status.OK:
            how = "acknowledged"
            self._acknowledged.add(key)
            self._standing[key] -= ended
        self._note("put", how, seconds)

    def _note(self, what: str, how: str, seconds: float) -> None:
        self.outcomes[what, how] += 1
        if how != "no answer":
            self.times[what].append(seconds)
