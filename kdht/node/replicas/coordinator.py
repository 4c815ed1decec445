"""A node's part in the replication of records: coordinator of writes and reads, and replica for others.

Contract: any thread may call; `now` is Unix seconds. Each operation ends with a call of its `done`, in a later turn.
For that, `tick` must be called when its last result says, or earlier if `call_in` says so.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Protocol

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.datapath.socket._direct import Direct
from kdht.errors import BadPacket, MissingLibrary, StorageError, Uncertified
from kdht.faults import Faults
from kdht.histogram import Histogram
from kdht.node.cluster import ClusterState
from kdht.node.replicas import calls, holders, quorum_reads, writes
from kdht.node.replicas._clock import HybridClock
from kdht.node.replicas._common_reads import CommonReads, ReadAnswers
from kdht.node.replicas._common_writes import CommonWrites, PutAnswers
from kdht.node.replicas._direct_reads import DirectReads
from kdht.node.replicas._direct_writes import DirectWrites
from kdht.node.replicas._fetch_requests import FetchRequests
from kdht.node.replicas._recent import Recent
from kdht.node.replicas._store_requests import StoreRequests
from kdht.node.replicas._turns import Outcome, Planned, Turn, Turns
from kdht.node.replicas.admission import Admission
from kdht.node.replicas.conditions import ConditionJob, Conditions
from kdht.node.replicas.context import CoordinatorContext, Quorum
from kdht.node.replicas.member_reads import MemberReads, MembersDone, MembersOutcome
from kdht.node.replicas.quorum_reads import untrusted_store
from kdht.node.replicas.writes import pack_stored
from kdht.node.sets.index import Listing, SetIndex
from kdht.storage import Granted, Promise, Store, StoredRecord, Writer
from kdht.storage._cache import RecordCache
from kdht.times import UnixTime
from kdht.wire import FIELD, OFFSET, RECORD, Address, parse_promise, promised_record
from kdht.wire._shared import HEADER_LEN, Flag, Op, RecordFlag, Status
from kdht.wire.certified import CERTIFIED, check_certified, is_bare, promise_nonce
from kdht.wire.limits import MAX_WIRE_EXPIRY
from kdht.wire.sets import parse_listing

_OP = OFFSET["op"]
_FLAGS = OFFSET["flags"]
_KEY, _CLIENT_PORT, _CLIENT_IP = FIELD["key"], FIELD["client_port"], FIELD["client_ip"]
_REQUEST_ID = FIELD["request_id"]
# As a plain number: an enum's operators cost more than all else that is done with it.
_REPLY = int(Flag.REPLY)
REFUSALS = frozenset({
    Status.CONFLICT, Status.BAD_VERSION, Status.BUSY, Status.DENIED, Status.TOO_FEW, Status.FULL, Status.STORAGE_FAILED,
})  # fmt: skip
"""Of a write that was not done and shall not be."""

STANDING = frozenset({Status.CONFLICT, Status.BAD_VERSION, Status.BUSY})
"""Of these the version of the answer is that of a record in the way."""

OPS = frozenset({Op.STORE, Op.FETCH, Op.PROMISE, Op.LIST})
"""The control messages that are the coordinator's, not the node's."""

COUNTERS = (
    "writes", "writes_soft", "renewals_spared", "writes_ok", "writes_conflict", "writes_unconfirmed", "writes_busy", "writes_storage_failed",
    "writes_bad_version", "writes_too_few", "writes_full", "writes_denied", "writes_uncertified", "write_rounds", "confirmed_behind",
    "gathered_miss", "gathered_quorum", "read_repairs",
    "stores_taken", "stores_older", "stores_below_promise", "stores_ahead", "stores_full", "stores_uncertified",
    "promises_given", "promises_refused", "promises_given_back", "promises_uncertified",
    "fetches", "lists", "calls_refused", "calls_unmatched", "calls_unreachable", "calls_overdue", "calls_unreadable", "calls_uncertified",
    "not_own_address", "wrong_client", "faults",
)  # fmt: skip


class KeptRecords(Protocol):
    """What the coordinator asks of the node's repair. Thread-safe."""

    def is_caught_up(self, key: bytes, /) -> bool:
        """Whether this node has what the other replicas of a key have."""

    def holds(self, key: bytes, /) -> bool:
        """The same; or this node was a replica, and not all of those that are now have caught up."""

    def missed(self, key: bytes) -> None:
        """Some replica did not confirm a write of this key."""


class Coordinator:
    """One node's.

    `sources`: its own address for each IP version (is_ipv4), to talk to other nodes from.
    `cluster`: what the node knows of its cluster. `repair`: what it has caught up on.
    `send` sends datagrams. `call_in(seconds)`: `tick` is due in so many seconds, if that is earlier than was said.
    `on_silent(address)`: no answer came in time. `on_strays(batch)`: replies to nothing that was sent from here,
    for the node's repair sends STORE too. All of these are called on any thread.
    `cache`: gets what other nodes and quorum reads ask for. `plain`: all in plain Python. Tests compare both.
    """

    def __init__(
        self,
        *,
        store: Store,
        cache: RecordCache | None,
        writer: Writer,
        core: Core,
        sources: dict[bool, Address],
        rng: Random,
        cluster: ClusterState,
        repair: KeptRecords,
        send: Callable[[list[Outgoing]], object],
        call_in: Callable[[float], None],
        on_silent: Callable[[Address], None],
        on_strays: Callable[[list[Datagram]], None],
        sets: SetIndex,
        plain: bool = False,
    ) -> None:
        self.cluster = cluster
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._repair = repair
        self._send = send
        self._on_strays = on_strays
        self.faults = Faults(self.counters)
        self._turns = Turns(send, writer, call_in, self.faults)
        self._core = core
        self._store = store
        self._own = frozenset(sources.values())
        self._calls = calls.Calls(core, sources, rng, self.counters, on_silent, cluster)
        self._clock = HybridClock()
        self._recent = Recent()
        self._context = CoordinatorContext(
            cluster=cluster,
            core=core,
            store=store,
            calls=self._calls,
            clock=self._clock,
            recent=self._recent,
            counters=self.counters,
            holds=repair.holds,
            on_missed=repair.missed,
        )
        self._stores = StoreRequests(
            core,
            self._own,
            writer.submit,
            send,
            self._clock,
            self.counters,
            self._recent.deletion,
            repair.holds,
        )
        self._admission = Admission(self._context)
        self._writes = writes.Writes(self._context)
        self._reads = quorum_reads.QuorumReads(self._context, self._writes)
        self._sets = sets
        self._member_reads = MemberReads(self._context, self._writes)
        self._conditions = Conditions(self._context, self.read, self._may_promise, repair.is_caught_up)
        self.common: CommonWrites | None = None
        """Begins the writes that need none of the rules. None: all are plain Python's."""
        if not plain:
            self.common = CommonWrites(
                self._context,
                sources,
                self._writes,
                self._admission,
                lambda: self._quorum,
                lambda *write: partial(self._wrote, *write),
            )
        self.common_reads: CommonReads | None = None
        """The same for QUORUM_GETs."""
        self._fetch_requests: FetchRequests | None = None
        if not plain:
            # For one thread at a time: they read in a turn.
            reader = store.reader(cache, repair.is_caught_up)
            self.common_reads = CommonReads(
                self._context,
                sources,
                reader,
                self._reads,
                lambda: self.need_to_read,
                repair.is_caught_up,
            )
            self._fetch_requests = FetchRequests(
                core, self._own, reader, repair.is_caught_up, repair.holds, self.counters
            )

    def direct(
        self,
        puts: PutAnswers,
        reads: ReadAnswers,
        *,
        all_write: Callable[[], bool],
        all_read: Callable[[], bool],
        clock: Callable[[], UnixTime],
    ) -> Direct | None:
        """Takes what is common of its messages from the socket's loop. None: all is plain Python's."""
        if self.common is None or self.common_reads is None or self._fetch_requests is None:
            return None
        turns, faults = self._turns, self.faults
        direct = DirectWrites(self._stores, self.common, puts, turns, self.cluster, all_write, clock, faults)
        return DirectReads(
            direct, self._fetch_requests, self.common_reads, reads, turns, self._send, all_read, clock, faults
        )

    @property
    def round_trips(self) -> dict[Op, Histogram]:
        """How long other replicas took to answer, by op, their disks included."""
        return self._calls.trips.round_trips

    # --- Time and threads

    def turn(self, now: UnixTime) -> Turn:
        """A turn, for `write` and `read`: several of one batch share it."""
        return self._turns.turn(now)

    def tick(self, now: UnixTime) -> float | None:
        """Let what is due happen. The seconds until the next call; None: not before `call_in` says so."""
        return self._turns.tick(now)

    @property
    def need(self) -> int:
        """Nodes that have to confirm a write, this one included."""
        return self._quorum.acks

    @property
    def need_to_read(self) -> int:
        """Replicas that have to be heard where one alone says too little."""
        return self._quorum.majority

    def lacks(self, need: int) -> int:
        """How many nodes too few live for so many to answer."""
        return max(need - 1 - self.cluster.living, 0)

    # --- What clients want

    def responsible(self, key: bytes) -> bool:
        """Whether this node is among the key's replicas, as far as it knows."""
        replicas = self.cluster.policy.replicas
        return self._core.rank(key, replicas) < replicas

    def put(
        self,
        turn: Turn,
        key: bytes,
        record: StoredRecord,
        done: writes.Done,
        *,
        condition: int | None = None,
        nonce: int = 0,
        soft: bool = False,
    ) -> None:
        """Replicate a record; one with version 0 is given a version. `condition`: the version that must stand, 0: none.
        `soft`: as in `storage.Write`; not with a condition.

        `nonce` is the request's ID, by which its tries are known.
        """
        refused = self._recent.refused(key, nonce)
        if refused is not None:
            done(turn, writes.Written(*refused, existed=False))
            return
        done = partial(self._wrote, key, nonce, record, done)
        # A node alone takes itself for the whole cluster: a quorum of the others would lack its writes.
        if not self.cluster.joined or self.cluster.barred:
            self._recent.again(key, record.version, nonce, turn.now)
            done(turn, writes.Written(Status.BUSY, 0, existed=False))
            return
        if is_bare(record.version, record.flags):
            self.counters["writes_denied"] += 1
            done(turn, writes.Written(Status.DENIED, 0, existed=False))
            return
        known = None
        if record.version:
            known = self._admission.known(key, record, nonce, turn.now, conditional=condition is not None)
        if known is not None:
            done(turn, known)
        # Refused before anything is stored, so TOO_FEW means: nothing was changed.
        elif self.lacks(self.need if condition is None else max(self.need, self._quorum.majority)):
            self.counters["writes_too_few"] += 1
            done(turn, writes.Written(Status.TOO_FEW, 0, existed=False))
        elif condition is None:
            if self.common is None or not self.common.begin_record(turn, key, record, done, soft):
                self._writes.write(turn, key, record, self._quorum, done, soft=soft)
        else:
            if record.version >= CERTIFIED:
                nonce = promise_nonce(record.value)
            self._conditions.write(turn, ConditionJob(key, record, condition, nonce, self._quorum, done))

    def _wrote(
        self,
        key: bytes,
        nonce: int,
        record: StoredRecord,
        done: writes.Done,
        turn: Turn,
        written: writes.Written,
    ) -> None:
        """A write's end."""
        # A self-certified record stands there. The client must not try again above its version.
        if written.version >= CERTIFIED > record.version and written.status in STANDING:
            written = written._replace(status=Status.DENIED, version=0)
        if nonce and written.status in REFUSALS:
            written = self._refused(key, nonce, record.version, written, turn.now)
        done(turn, written)

    def refuse(self, key: bytes, version: int, nonce: int, status: Status, now: UnixTime) -> Status:
        """The status for a write that is not to begin, and has changed nothing."""
        self._recent.again(key, version, nonce, now)
        return self._refused(key, nonce, version, writes.Written(status, 0, existed=False), now).status

    def _refused(
        self, key: bytes, nonce: int, version: int, written: writes.Written, now: UnixTime
    ) -> writes.Written:
        """The answer to a try that changed nothing."""
        # The network doubled its datagram, and the other copy is under way or unconfirmed. To the client both are one try.
        if self._recent.may_stand(key, version, nonce, now):
            return writes.Written(Status.UNCONFIRMED, 0, existed=False)
        # A refused try must not be done later by a duplicate of its datagram.
        self._recent.refuse(key, nonce, written.status, written.version, now)
        return written

    def delete(
        self,
        turn: Turn,
        key: bytes,
        done: writes.Done,
        *,
        version: int = 0,
        condition: int | None = None,
        nonce: int = 0,
    ) -> None:
        """Replicate a tombstone."""
        expiry = min(int(turn.now) + 1 + self.cluster.policy.tombstone_ttl, MAX_WIRE_EXPIRY)
        tombstone = StoredRecord(version, expiry, int(RecordFlag.TOMBSTONE), b"")
        self.put(turn, key, tombstone, done, condition=condition, nonce=nonce)

    @property
    def _quorum(self) -> Quorum:
        policy, others = self.cluster.policy, self.cluster.others
        # Enough nodes live or may return. With fewer, a majority of all of them is enough.
        if others >= policy.replicas:
            return Quorum(policy.replicas, policy.majority, policy.acks)
        nodes = min(policy.replicas, 1 + others)
        return Quorum(nodes, min(policy.majority, nodes), min(policy.acks, nodes))

    def _may_promise(self, key: bytes) -> bool:
        return self._repair.is_caught_up(key) and self.responsible(key)

    def read(
        self,
        turn: Turn,
        key: bytes,
        own: StoredRecord | None,
        done: quorum_reads.Done,
        *,
        quorum: bool,
        caught_up: bool,
    ) -> None:
        """Ask the other replicas too; `own` is what the own store has. `caught_up`: whether this node had caught up on the
        key. Asked before the store was: a record that came in between, and settled the key, is not in `own`.
        """
        if not self.cluster.joined or self.cluster.barred:
            done(turn, quorum_reads.ReadOutcome(own, enough=False))
            return
        need, replica = self.need_to_read, self.responsible(key)
        self._reads.gather(turn, key, own, need, done, quorum=quorum, replica=replica, caught_up=caught_up)

    def read_members(
        self, turn: Turn, set_key: bytes, start: int, own: Listing, done: MembersDone, *, caught_up: bool
    ) -> None:
        """Ask the other replicas for their members of a set too; `own` is what this node has from `start` on. `caught_up`: as
        in `read`.
        """
        if not self.cluster.joined or self.cluster.barred:
            done(turn, MembersOutcome(own.page, enough=False))
            return
        replica = self.responsible(set_key)
        self._member_reads.gather_members(
            turn, set_key, start, own, self.need_to_read, done, replica=replica, caught_up=caught_up
        )

    def survey(self, key: bytes, addresses: Sequence[Address], done: holders.Done, now: UnixTime) -> None:
        """Ask these nodes, none of them this one, what they hold of a key; `done` may come on any thread."""
        with self.turn(now) as turn:
            holders.HolderSurvey(self._calls, turn, key, addresses, done)

    # --- What other nodes want, and answer

    def receive(self, batch: Sequence[Datagram], now: UnixTime) -> None:
        """STORE, FETCH, PROMISE and LIST, requests and replies, whose tags were checked."""
        if self.cluster.barred:
            batch = self._refuse_stores(batch, now)
        others = self._stores.take(batch, now)
        if not others:
            return
        fetches: list[Datagram] = []
        strays: list[Datagram] = []
        with self.turn(now) as turn:
            for datagram in others:
                try:
                    self._take(turn, datagram, fetches, strays)
                except Exception:
                    self.faults.note(f"a message of another replica, op {datagram.data[_OP]:#x}")
            for datagram in fetches:
                try:
                    turn.outgoing += self._read_here(datagram, now)
                except Exception:
                    self.faults.note("a FETCH or a LIST")
        if strays:
            self._on_strays(strays)

    def _take(self, turn: Turn, datagram: Datagram, fetches: list[Datagram], strays: list[Datagram]) -> None:
        if not self._is_sound(datagram):
            return
        if datagram.data[_FLAGS] & _REPLY:
            for common in (self.common, self.common_reads):
                if common is not None:
                    common.release(turn, int.from_bytes(datagram.data[_REQUEST_ID], "big"))
            if not self._calls.receive(turn, datagram):
                strays.append(datagram)
        elif datagram.data[_OP] == Op.STORE:
            self._unreadable(turn, datagram)
        elif datagram.data[_OP] == Op.PROMISE:
            self._promise(turn, datagram)
        else:
            fetches.append(datagram)

    def unreachable(self, address: Address, request_id: int, now: UnixTime) -> None:
        """As Calls.unreachable."""
        with self.turn(now) as turn:
            commons = [each for each in (self.common, self.common_reads) if each is not None]
            if any(each.waits(request_id, address) for each in (*commons, self._calls)):
                for each in commons:
                    each.release_asked(turn, address)
            self._calls.unreachable(turn, address, request_id)

    def _refuse_stores(self, batch: Sequence[Datagram], now: UnixTime) -> list[Datagram]:
        """Another node shall take them; what is left of the batch."""
        left = []
        with self.turn(now) as turn:
            for datagram in batch:
                if datagram.data[_OP] != Op.STORE or datagram.data[_FLAGS] & _REPLY:
                    left.append(datagram)
                elif self._is_sound(datagram):
                    turn.outgoing.append(calls.answer(self._core, datagram, Status.BUSY, b"", now))
        return left

    def _is_sound(self, datagram: Datagram) -> bool:
        source, data = datagram.source, datagram.data
        # Anycast addresses are answered by several nodes: control messages must name this one.
        if datagram.target not in self._own:
            self.counters["not_own_address"] += 1
        elif data[_CLIENT_IP] != source.ip or data[_CLIENT_PORT] != source.port.to_bytes(2, "big"):
            self.counters["wrong_client"] += 1
        else:
            return True
        return False

    def _unreadable(self, turn: Turn, request: Datagram) -> None:
        """A STORE that was not taken. One without a certificate is answered: its sender may not know that its disk was altered."""
        status = Status.DENIED
        try:
            untrusted_store(request.data[_KEY], request.data[HEADER_LEN:])
            return
        except MissingLibrary:
            status = Status.STORAGE_FAILED
        except Uncertified:
            pass
        except BadPacket as bad:
            self.counters[bad.reason] += 1
            return
        self.counters["stores_uncertified"] += 1
        turn.outgoing.append(calls.answer(self._core, request, status, b"", turn.now))

    def _promise(self, turn: Turn, request: Datagram) -> None:
        """A coordinator asks for a promise, or gives it back."""
        key = request.data[_KEY]
        try:
            version, nonce, given_back = parse_promise(request.data[HEADER_LEN:])
            # Without a certificate a liar could promise any key a version that no ordinary write can beat.
            if version >= CERTIFIED and not given_back:
                check_certified(key, version, *promised_record(request.data[HEADER_LEN:]))
        except (Uncertified, MissingLibrary):
            self.counters["promises_uncertified"] += 1
            return
        except BadPacket as bad:
            self.counters[bad.reason] += 1
            return
        status = Status.OK
        # A stand-in must not promise: two majorities of promises would not need to meet.
        if not given_back and not self.responsible(key):
            status = Status.NOT_RESPONSIBLE
        # Its record may be old, and the condition would be compared with that.
        elif not given_back and not self._repair.is_caught_up(key):
            status = Status.UNCONFIRMED
        if status is Status.OK:
            promise = Promise(key, version, nonce, given_back)
            turn.writes.append(Planned(promise, partial(self._promised, request, given_back)))
        else:
            self.counters["promises_refused"] += 1
            turn.outgoing.append(calls.answer(self._core, request, status, b"", turn.now))

    def _promised(self, request: Datagram, given_back: bool, turn: Turn, outcome: Outcome) -> None:
        status, body = Status.BUSY, b""
        if isinstance(outcome, StorageError):
            status = Status.STORAGE_FAILED
        elif isinstance(outcome, Granted) and outcome.accepted:
            status, body = Status.OK, RECORD.pack(outcome.version, outcome.expiry, outcome.flags)
        elif isinstance(outcome, Granted) and outcome.version:
            status, body = Status.BAD_VERSION, RECORD.pack(outcome.version, 0, 0)
        good = "promises_given_back" if given_back else "promises_given"
        self.counters[good if status is Status.OK else "promises_refused"] += 1
        turn.outgoing.append(calls.answer(self._core, request, status, body, turn.now))

    def _read_here(self, request: Datagram, now: UnixTime) -> list[Outgoing]:
        """The answer to a FETCH or a LIST; none to one that cannot be read."""
        key = request.data[_KEY]
        caught_up = self._repair.holds(key)  # before the look: what came in between does no harm
        try:
            status, body = (self._list if request.data[_OP] == Op.LIST else self._fetch)(request, key, now)
        except StorageError:
            return [calls.answer(self._core, request, Status.STORAGE_FAILED, b"", now)]
        except BadPacket as bad:
            self.counters[bad.reason] += 1
            return []
        if not caught_up:
            status = Status.UNCONFIRMED
        return [calls.answer(self._core, request, status, body, now)]

    def _fetch(self, request: Datagram, key: bytes, now: UnixTime) -> tuple[Status, bytes]:
        self.counters["fetches"] += 1
        record = self._store.get(key, now)
        return (Status.NOT_FOUND, b"") if record is None else (Status.OK, pack_stored(record))

    def _list(self, request: Datagram, key: bytes, now: UnixTime) -> tuple[Status, bytes]:
        self.counters["lists"] += 1
        start = parse_listing(request.data[HEADER_LEN:])
        return Status.OK, self._sets.listing(key, start, now).packed
