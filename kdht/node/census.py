"""The number of nodes in the cluster, as far as this node has seen: the living ones, and dead ones that may come back.

If fewer nodes live than must confirm a write, the living ones are no cluster: the others would lack what these confirm.
So contacts that fell silent are remembered by name, and count in the number of confirmations that a write needs.

A dead node counts until one of these happens:
- it answers again;
- it says that it gave all its records away (a drain);
- as many other nodes live as a key has replicas beside this one: then they are enough without it;
- the operator says that it does not come back (FORGET).

The counts go to the node's ClusterState.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kdht.node.cluster import ClusterState
from kdht.node.table import Table
from kdht.times import SteadyTime
from kdht.wire import Contact

MAX_GONE = 256
"""The dead that are remembered; more than any write needs."""


class Gone(NamedTuple):
    """A dead node that may come back, and when it was lost: of an earlier run's, when this one began."""

    contact: Contact
    since: SteadyTime


class Census:
    """One node's. `replicas`: how many nodes keep a key. `alone(left)`: whether it is the only one left of several."""

    def __init__(
        self, table: Table, replicas: int, cluster: ClusterState, alone: Callable[[bool], None]
    ) -> None:
        self._alone = alone
        self._cluster = cluster
        self._table = table
        # Beside this node, which lives.
        self._enough = max(replicas - 1, 1)
        self._gone: dict[bytes, Gone] = {}

    @property
    def gone(self) -> list[Contact]:
        """The dead that may come back, the one that went last at the end."""
        return [gone.contact for gone in self._gone.values()]

    @property
    def lost_at(self) -> list[Gone]:
        """The same, with the times."""
        return list(self._gone.values())

    def remember(self, contacts: Iterable[Contact], now: SteadyTime) -> None:
        """Contacts of an earlier run, which have not answered yet."""
        for contact in contacts:
            # One that has answered already lives.
            if self._table.get(contact.id) is None:
                self._gone[contact.id] = Gone(contact, now)
        self._count()

    def added(self, contact: Contact) -> None:
        """It answered, and is in the table."""
        self._gone.pop(contact.id, None)
        self._count()

    def lost(self, contact: Contact, now: SteadyTime) -> None:
        """It is out of the table: silent, or gone without a word of its records."""
        # It may return without the writes that the others confirm meanwhile.
        self._gone[contact.id] = Gone(contact, now)
        self._count()

    def forget(self, id: bytes) -> bool:
        """All its records are elsewhere, or nobody will see them again. Whether it was remembered."""
        known = self._gone.pop(id, None) is not None
        self._count()
        return known

    def _count(self) -> None:
        living = len(self._table)
        # A write needs its full number of living nodes now in any case, so the dead need not count.
        if living >= self._enough:
            self._gone.clear()
        # The longest dead first: they are the least likely to return.
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._cluster.count(living, living + len(self._gone))
        self._alone(not living and bool(self._gone))
