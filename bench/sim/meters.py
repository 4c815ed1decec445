"""Meters of a virtual cluster: packets by op, the contacts in each table, and the tables' truth."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from bench.sim.figures import spread
from kdht.datapath.memory import Event
from kdht.lab.virtual import Member, VirtualCluster
from kdht.wire import OFFSET, Address, Contact
from kdht.wire._shared import ID_BITS, ID_LEN, Flag, Op

NEIGHBOURS = 8
_OP = OFFSET["op"]
_FLAGS = OFFSET["flags"]


class Traffic:
    """Counts every datagram of a cluster's network once, for its sender."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self._network = cluster.network
        self._network.observer = self._note
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.begun = self._network.now
        self._kinds: Counter[tuple[int, int]] = Counter()
        self._senders: Counter[Address] = Counter()
        self._askers: Counter[Address] = Counter()
        self._bytes = 0

    def figures(self, members: list[Member], node_seconds: float, *, sampled: bool = False) -> dict[str, Any]:
        """Packets and bytes a second of one node, by op, and over the nodes the packets that each sent.

        `sampled`: only these members ask, and each is reckoned to answer as often.
        """
        rates: dict[str, float] = defaultdict(float)
        for (op, reply), count in sorted(self._kinds.items()):
            rates[Op(op).name + (" reply" if reply else "")] += count / node_seconds
        seconds = self._network.now - self.begun

        def sent(address: Address) -> float:
            return 2 * self._askers[address] if sampled else self._senders[address]

        return {
            "packets_per_second": sum(rates.values()),
            "bytes_per_second": self._bytes / node_seconds,
            "by_op": dict(rates),
            "per_node": spread([sent(member.contact.address) / seconds for member in members]),
        }

    def _note(self, event: Event) -> None:
        if event.what != "duplicated":
            data = event.data
            self._kinds[data[_OP], data[_FLAGS] & Flag.REPLY] += 1
            self._senders[event.source] += 1
            self._askers[event.source] += not data[_FLAGS] & Flag.REPLY
            self._bytes += len(data)


class Holders:
    """Who has whom in the published tables, and how long the dead stay there. It is told what is published."""

    def __init__(self) -> None:
        self._tables: dict[bytes, dict[int, frozenset[bytes]]] = defaultdict(dict)
        self._holders: Counter[bytes] = Counter()
        self._died: dict[bytes, float] = {}
        self._near: dict[bytes, frozenset[bytes]] = {}
        self.until_out: list[float] = []
        """Of each live node that had a dead one in its table: seconds until it had not."""
        self.until_out_near: list[float] = []
        """Of the dead one's closest alone."""
        self.until_gone: list[float] = []
        """Of each dead node: seconds until it was in no live table."""

    def published(self, member: Member, index: int, contacts: list[Contact]) -> None:
        """A member's bucket is another."""
        table = self._tables[member.contact.id]
        before, after = table.get(index, frozenset()), frozenset(contact.id for contact in contacts)
        table[index] = after
        now = member.network.now
        self._holders.update(after - before)
        for id in before - after:
            if id in self._died:
                self.until_out.append(now - self._died[id])
                if member.contact.id in self._near[id]:
                    self.until_out_near.append(now - self._died[id])
            self._let_go(id, now)

    def died(self, member: Member, near: frozenset[bytes]) -> None:
        """A member is dead from now on; `near`: those closest to it."""
        id, now = member.contact.id, member.network.now
        self._died[id], self._near[id] = now, near
        if self._holders[id] == 0:
            self.until_gone.append(0.0)
        for held in self._tables.pop(id, {}).values():
            for other in held:
                self._let_go(other, now)

    def came_back(self, id: bytes) -> None:
        """The dead node lives again: whoever has it in its table is right."""
        self._died.pop(id, None)

    def still_held(self) -> int:
        """How many dead nodes are in live tables."""
        return sum(self._holders[id] > 0 for id in self._died)

    def figures(self) -> dict[str, Any]:
        return {
            "seconds_until_out_of_a_table": spread(self.until_out),
            "seconds_until_out_of_a_neighbours_table": spread(self.until_out_near),
            "seconds_until_out_of_all_tables": spread(self.until_gone),
            "dead_still_in_tables": self.still_held(),
        }

    def _let_go(self, id: bytes, now: float) -> None:
        self._holders[id] -= 1
        if self._holders[id] == 0 and id in self._died:
            self.until_gone.append(now - self._died[id])


class Truth:
    """The live nodes, all of them, at one time."""

    def __init__(self, live: Sequence[Contact]) -> None:
        self._ids = sorted(int.from_bytes(contact.id, "big") for contact in live)
        self._live = frozenset(contact.id for contact in live)

    def closest(self, id: bytes, count: int) -> list[bytes]:
        """The live nodes closest to an ID, itself excluded."""
        number = int.from_bytes(id, "big")
        others = sorted((other for other in self._ids if other != number), key=lambda other: other ^ number)
        return [other.to_bytes(ID_LEN, "big") for other in others[:count]]

    def accuracy(self, members: list[Member]) -> dict[str, float]:
        """Of these members' tables: the parts of entries that are dead, of buckets that are empty and
        should not be, of closest nodes that are missing."""
        entries = dead = should = empty = near = missing = 0
        for member in members:
            known = {contact.id for contact in member.published()}
            entries += len(known)
            dead += len(known - self._live)
            for index in range(ID_BITS):
                if self._is_inhabited(member.contact.id, index):
                    should += 1
                    empty += not any(contact.id in self._live for contact in member.core.bucket(index))
            closest = self.closest(member.contact.id, NEIGHBOURS)
            near += len(closest)
            missing += len(set(closest) - known)
        return {
            "dead_entries": dead / max(entries, 1),
            "empty_buckets": empty / max(should, 1),
            "missing_neighbours": missing / max(near, 1),
        }

    def _is_inhabited(self, id: bytes, index: int) -> bool:
        """Whether a live node shares exactly `index` leading bits with the ID."""
        below = ID_BITS - 1 - index
        low = (int.from_bytes(id, "big") >> below ^ 1) << below
        at = bisect_left(self._ids, low)
        return at < len(self._ids) and self._ids[at] < low + (1 << below)


def look_up(cluster: VirtualCluster, entries: list[Member], keys: int, rng: Random) -> Counter[str]:
    """Follow the published tables, at this moment, from random entries for random keys: where it ends."""
    ends: Counter[str] = Counter(right=0, dead=0, wrong=0)
    live = {member.contact.id for member in cluster.members}
    for _ in range(keys):
        key = rng.randbytes(ID_LEN)
        end = cluster.end_of_chain(rng.choice(entries), key)
        if end.id not in live:
            ends["dead"] += 1
        else:
            ends["right" if end == cluster.owner(key) else "wrong"] += 1
    return ends
