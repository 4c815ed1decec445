"""The state that the parts of repair share, and the few rules that all of them need."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdht.node.context import NodeContext
from kdht.node.repair.bodies import CAUGHT_UP, Digest, Report
from kdht.node.repair.caught_up import CaughtUp
from kdht.node.repair.coming import Coming
from kdht.node.repair.digests import Digests
from kdht.node.repair.factor import Factor
from kdht.node.repair.options import RepairOptions
from kdht.node.repair.progress import Progress
from kdht.node.repair.ranges import Range, View, number
from kdht.node.repair.sight import Sight
from kdht.node.repair.work import Work
from kdht.node.rpc import Done, Rpc, Rpcs
from kdht.storage import Store
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Contact
from kdht.wire._shared import Op

# Twice as many as other requests have: a whole comparison hangs on each answer.
TRIES = 4
FIRST_TIMEOUT = 1.0
"""Seconds. The other node may have to read or sync its disk."""
LAST_TIMEOUT = 5.0

COUNTERS = (
    "requests_sent", "repeats_sent", "timeouts", "pending_full", "digests_sent", "digests_answered",
    "ranges_differed", "offers_sent", "offers_answered", "records_offered", "records_pushed", "bytes_pushed",
    "pushes_refused", "pushes_failed", "records_dropped", "storage_failed", "comparisons", "unreadable", "versions_ahead",
    "records_uncertified",
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class RepairContext:
    """The shared state of one node's repair. `unix()`: the Unix time of the present call."""

    node: NodeContext
    store: Store
    options: RepairOptions
    counters: Counter[str]
    unix: Callable[[], UnixTime]
    rpcs: Rpcs
    work: Work
    digests: Digests
    drop: Callable[[Sequence[tuple[bytes, int]]], object]
    """Calls Store.drop, then `Repair.changed`, now or later, on any thread. It may wait for a disk."""
    sight: Sight
    caught_up: CaughtUp
    factor: Factor
    progress: Progress
    coming: Coming
    on_replicas: Callable[[int], object]
    """Called with the number of replicas when that changes."""
    latest: Callable[[], int]
    """The greatest version that a record may have now (`storage.versions`)."""
    look_again: Callable[[], object]
    """Called when the number of replicas has changed: the view has to be made anew."""

    @property
    def replicas(self) -> int:
        """The present number of replicas of a record."""
        return self.factor.value

    def others_replicas(self, id: bytes, replicas: int) -> None:
        """Note the number of replicas in the configuration of another node."""
        # Each DIGEST tells, so a change of `replicas` is known to all neighbours within a round.
        if self.factor.heard(id, replicas):
            self.look_again()

    @property
    def view(self) -> View | None:
        """None until the node knows its neighbours."""
        return self.sight.view

    def contact(self, id: bytes) -> Contact | None:
        entry = self.node.table.get(id)
        return None if entry is None else entry.contact

    def ask(self, op: Op, key: bytes, contact: Contact, body: bytes, done: Done, now: SteadyTime) -> bool:
        """Start a request. If too many wait, returns False and never calls `done`."""
        if self.node.source(contact.address) is None:
            return False
        # The reply to a STORE has no sender's ID. Address and request ID identify it.
        id = None if op is Op.STORE else contact.id
        rpc = Rpc(
            op,
            key,
            contact.address,
            id,
            done,
            tries=TRIES,
            timeout=FIRST_TIMEOUT,
            longest=LAST_TIMEOUT,
            body=body,
        )
        return self.rpcs.start(rpc, now)

    def keeps(self, id: bytes, key: bytes) -> bool:
        """Whether a node is among a key's replicas, as this one sees the cluster."""
        return self.view is not None and id in self.view.replicas_of(number(key))

    def word(self, range: Range, peer: bytes) -> Report:
        """The report of this node on a range. It is made before the digest, so it holds for all records in that."""
        caught_up = self.caught_up.covers(range)
        return self.sight.word(range, peer, self.node.timers.now, caught_up=caught_up)

    def note_gap(self, range: Range, own: Digest, report: Report) -> None:
        """Note how many more records the other node has, if it has caught up on a range that this one is behind on."""
        view = self.view
        if report.says & CAUGHT_UP and view is not None and not self.caught_up.covers(range):
            kept = view.kept_range(range.start)
            if kept is not None and kept.range == range:
                theirs = report.digest.records
                self.progress.heard(range, own.records, theirs, self.node.timers.now)

    def hear(self, peer: bytes, range: Range, report: Report, epoch: int) -> bool:
        """Take the report of another node. Returns whether it has caught up on the range and agrees with this one."""
        agrees = self.sight.agrees(range, report)
        self.caught_up.heard(peer, range, report.says, agrees=agrees, epoch=epoch)
        return agrees and bool(report.says & CAUGHT_UP)
