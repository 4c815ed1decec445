"""The interface between a node and its repair.

Contract: `datagrams_to_send`, timers and `now` are the node's; `changed`, `is_caught_up` and `ever_caught_up` are for
any thread. Nothing is asked of others before `start`, nor before the node has joined.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdht.datapath.base import Datagram
from kdht.errors import StorageError
from kdht.histogram import Histogram
from kdht.node.context import NodeContext
from kdht.node.messages import Reply, untrusted_id
from kdht.node.readiness import RECORDS, TABLE
from kdht.node.repair._changed import RecordChanged
from kdht.node.repair.answers import RangeAnswers, Respond
from kdht.node.repair.caught_up import CaughtUp, Doubt
from kdht.node.repair.coming import Coming
from kdht.node.repair.context import COUNTERS, RepairContext
from kdht.node.repair.cut_off import CutOff
from kdht.node.repair.departure import Drain, Foreign
from kdht.node.repair.digests import Digests
from kdht.node.repair.factor import Factor
from kdht.node.repair.keeping import Keeping
from kdht.node.repair.missed import Missed
from kdht.node.repair.plan import Plan
from kdht.node.repair.progress import Progress
from kdht.node.repair.push import Pusher
from kdht.node.repair.sight import Sight
from kdht.node.repair.work import Work
from kdht.node.rpc import Mismatch, Rpc, Rpcs
from kdht.storage.versions import latest_version
from kdht.times import SteadyTime, UnixTime
from kdht.wire import Contact, Message
from kdht.wire._shared import ID_LEN, Op

OPS = frozenset({Op.DIGEST, Op.OFFER, Op.STORE})
"""Of STORE, the replies to this node's pushes."""
# As many as the largest window and all comparisons have under way.
MAX_PENDING = 4096


class Repair:
    """The repair of one node. `transmit` sends a request, `respond` a reply."""

    def __init__(
        self,
        node: NodeContext,
        keeping: Keeping,
        *,
        transmit: Callable[[Rpc, SteadyTime], None],
        respond: Respond,
        joined: Callable[[], bool],
    ) -> None:
        options = keeping.options
        self._keeping = keeping
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        # A rate of its own, so repair cannot delay the probes.
        limits = replace(node.options, max_pending=MAX_PENDING, request_rate=options.rate)
        rpcs = Rpcs(limits, node.rng, node.timers, self.counters, transmit, _leave_to_probes)
        caught_up = CaughtUp(
            node.id,
            reached=lambda: node.readiness.reached(RECORDS),
            lost=self._lost,
            is_warm=self._knows_all,
        )
        self._caught_up = caught_up
        self.is_caught_up = caught_up.keys.is_caught_up
        """Whether the own store has all that the other replicas of a key have. False for keys of other nodes."""
        self.holds = caught_up.keys.holds
        """Whether this node answers for a key: it has caught up, or it kept the key before nodes that have not."""
        self._context = context = RepairContext(
            node=node,
            store=keeping.store,
            options=options,
            counters=self.counters,
            unix=self._unix,
            rpcs=rpcs,
            work=Work(node.timers, self._storage_failed, node.faults, lambda: bool(caught_up.behind)),
            digests=Digests(keeping.store, self._unix),
            drop=self._drop,
            sight=Sight(node.id),
            caught_up=caught_up,
            factor=Factor(options.replicas),
            progress=Progress(),
            coming=Coming(),
            on_replicas=self._replicas_changed,
            latest=lambda: latest_version(self._unix(), keeping.cluster.policy.window),
            look_again=lambda: self.contacts_changed(node.timers.now),
        )
        pusher = self._pusher = Pusher(context)
        # Clients should not be sent here before the node can answer by itself.
        node.readiness.require(RECORDS)
        self._foreign = Foreign(context, pusher)
        self.changed = RecordChanged(context.digests.kept, context.sight, self._foreign).changed
        """Called with the key of a record of the own store that has changed. Any thread."""
        self._plan = Plan(context, pusher, joined, self._view_changed)
        # After the plan, which it gives its keys to.
        self._missed = Missed(context, self._plan)
        self._cut_off = CutOff(context, self._was_cut_off)
        self._answers = RangeAnswers(context, pusher, self._plan, respond)
        self._joined = joined
        self._drain: Drain | None = None
        self._started = False
        self._epoch = 0
        self._replicas = options.replicas
        self._withheld = False

    def start(self, now: SteadyTime) -> None:
        """Begin; the node is about to join."""
        self._context.node.timers.now = now
        if self._started:
            return
        self._started = True
        self._plan.start(now)
        self._missed.start(now)
        self._cut_off.start(now)
        self._foreign.start(now)

    def contacts_changed(self, now: SteadyTime) -> None:
        """A contact entered or left the table."""
        self._plan.contacts_changed(now)

    def missed(self, key: bytes) -> None:
        """A replica did not confirm a write of this key. Any thread."""
        self._missed.note(key)

    def receive(self, message: Message, datagram: Datagram, now: SteadyTime) -> None:
        """One of `OPS`, a request or a reply. Raises BadPacket or Mismatch."""
        self._context.node.timers.now = now
        if message.is_reply:
            self._take_reply(message, datagram, now)
            return
        # Requests to store are the coordinator's, on the transport's thread.
        if message.op is Op.STORE:
            raise Mismatch("not_control")  # the coordinator's
        sender = Contact(untrusted_id(message), *datagram.source)
        if sender.id == self._context.node.id:
            raise Mismatch("own_id")
        self._answers.untrusted(message, sender, datagram, now)

    def _take_reply(self, message: Message, datagram: Datagram, now: SteadyTime) -> None:
        is_named = message.op is not Op.STORE
        sender = untrusted_id(message) if is_named else b""
        rpc, rtt = self._context.rpcs.match(message, datagram.source, sender, now)
        body = message.body[ID_LEN:] if is_named else message.body
        rpc.done(rpc, Reply(sender, [], rtt, message.status, body), now)

    # How far it is

    @property
    def round_trips(self) -> dict[Op, Histogram]:
        """How long others took to answer, by op."""
        return self._context.rpcs.round_trips

    @property
    def ever_caught_up(self) -> bool:
        """Whether this node has caught up on all its ranges once since the start."""
        return self._caught_up.ever

    def withhold(self, withheld: bool) -> None:
        """While True, this node answers for no key, whatever it has caught up on."""
        self._withheld = withheld
        self._answer_or_not()
        self._keeping.on_fell_behind()

    @property
    def doubt(self) -> Doubt:
        return self._caught_up.doubt

    def doubt_own(self) -> None:
        """Records of the last run were put out of the store, because the node was away too long. Call before `start`."""
        # Before the first comparison: nodes that are behind themselves cannot tell whether an old record was
        # deleted.
        self._caught_up.doubt = Doubt.OPEN

    def trust_own(self) -> None:
        """Records of the last run are in the store again, or set aside for good. Any thread."""
        self._caught_up.doubt = Doubt.NONE

    @property
    def caught_up(self) -> bool:
        """Whether this node has caught up on all that it keeps."""
        return self._joined() and self._context.view is not None and not self._caught_up.behind

    def catch_up_anew(self) -> None:
        """This node was away, and may have missed anything: it has caught up on nothing. Any thread.

        From now on `is_caught_up` is False for all keys; the comparisons begin in the node's next turn (`go_on`).
        """
        self._caught_up.reset()

    def go_on(self, now: SteadyTime) -> None:
        """Continue in the node's thread after `catch_up_anew`."""
        if self._epoch != self._caught_up.epoch:
            self._epoch = self._caught_up.epoch
            self._plan.begin_anew(now)

    @property
    def behind(self) -> int:
        """How many kept ranges it has not caught up on."""
        return len(self._caught_up.behind)

    def status(self) -> dict[str, object]:
        """Plain data for `kdhtctl status`."""
        view, progress = self._context.view, self._context.progress
        progress.only({kept.range for kept in self._caught_up.behind})
        return {
            "caught_up": self.ever_caught_up,
            "ranges": len(view.kept) if view else 0,
            "behind": len(self._caught_up.behind),
            "replicas": self._context.replicas,
            "others_replicas": self._context.factor.others,
            "waits_for": self._plan.waits_for(),
            "held": len(self._caught_up.held),
            "missing": progress.missing,
            "seconds_left": progress.seconds_left(self._context.node.timers.now),
            "neighbours": len(view.peers) if view else 0,
            "draining": self._drain is not None,
            "drained": self.drained,
            "pushing": len(self._pusher),
            **self._plan.status(),
            "counters": dict(self.counters),
        }

    # The end

    @property
    def drained(self) -> bool:
        """Whether all records were given away."""
        return self._drain is not None and self._drain.over

    def drain(self, now: SteadyTime, drained: Callable[[], None]) -> None:
        """Give all records to the nodes that keep them without this one, then call `drained`."""
        # First of all: a comparison would ask for records that this node is about to give away.
        self._plan.stop()
        self._foreign.stop()
        self._drain = Drain(self._context, self._pusher, drained)
        self._answer_or_not()
        self._caught_up.reset()
        self._drain.start(now)

    def _answer_or_not(self) -> None:
        self._caught_up.keys.withheld = self._withheld or self._drain is not None

    def _was_cut_off(self) -> None:
        # Where one node confirms a write, this one may have done so alone, and its clients rely on that it goes on.
        if self._keeping.cluster.policy.acks > 1:
            self.catch_up_anew()

    def _knows_all(self) -> bool:
        """Whether nobody near this node may have what it lacks."""
        view, cluster = self._context.view, self._keeping.cluster
        # Alone after it had others: they may live, and confirm writes without it. It could confirm none by itself.
        is_alone = view is not None and not view.others
        is_left = is_alone and self.ever_caught_up and cluster.others > 0 and cluster.policy.acks > 1
        return TABLE not in self._context.node.readiness.missing and not is_left

    def _unix(self) -> UnixTime:
        context = self._context.node
        return UnixTime(context.timers.now + context.unix_offset)

    def _drop(self, records: Sequence[tuple[bytes, int]]) -> None:
        self._keeping.drop(records, self._dropped)

    def _dropped(self, records: Sequence[tuple[bytes, int]]) -> None:
        """Any thread."""
        for key, _ in records:
            self.changed(key)

    def _view_changed(self) -> None:
        self._foreign.stray = True

    def _replicas_changed(self, replicas: int) -> None:
        """With fewer than before a majority may be one that no write was for: all is compared first."""
        # A majority of fewer nodes need not meet the majority of an earlier write.
        if replicas < self._replicas:
            self._caught_up.reset()
        self._replicas = self._context.node.table.replicas = replicas
        self._keeping.cluster.replicate(replicas)

    def _lost(self) -> None:
        self._foreign.stray = True  # what was held may be let go
        self._keeping.on_fell_behind()

    def _storage_failed(self, error: StorageError) -> None:
        self.counters["storage_failed"] += 1


def _leave_to_probes(rpc: Rpc, now: SteadyTime) -> None:
    """A missed answer may only mean a slow disk. Probes find out whether the contact lives."""
