"""The answers to the requests of clients that ended at this node.

Contract: no I/O but the store's, no clock. `handle` takes a batch of routed requests whose
headers and tags were checked, on any thread; everything that can be answered at once goes
out in one `send`. What needs other replicas, or the disk, is answered in a later turn of the
coordinator (`replicas`).

A read or a write is answered by any of the key's replicas; for a write it coordinates the others. Where a
retry ends at another node, that says NOT_RESPONSIBLE, to a GET with the record that it has all the same.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.errors import BadPacket, MissingLibrary, StorageError, Uncertified
from kdht.faults import Guard
from kdht.node.access import READS, WRITES, Access, body_of
from kdht.node.late_answers import Late, LateAnswers
from kdht.node.replicas import Coordinator
from kdht.node.replicas._common_reads import ReadAnswers
from kdht.node.replicas._common_writes import PutAnswers
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.coordinator import KeptRecords
from kdht.node.replicas.leases import Leases
from kdht.node.replicas.quorum_reads import ReadOutcome
from kdht.node.replicas.writes import Done, Written
from kdht.node.replies import Replies, ReplyBatch
from kdht.node.sets.service import SetService
from kdht.storage import Store, StoredRecord, visible
from kdht.storage._cache import RecordCache
from kdht.storage.room import Room
from kdht.storage.versions import micros
from kdht.times import UnixTime
from kdht.wire import FIELD, OFFSET, RECORD, Contact, Record, pack_contacts, parse_write
from kdht.wire._shared import CONTACT_LEN, HEADER_LEN, MAX_VALUE, RECORD_LEN, K, Op, Reason, Status
from kdht.wire.certified import KINDS, check_certified
from kdht.wire.limits import MAX_WIRE_EXPIRY

_OP = OFFSET["op"]
_KEY = FIELD["key"]
_STATUS = OFFSET["status"]
_REQUEST_ID = FIELD["request_id"]
_LEASE = struct.Struct(">I")
_SET_WRITES = frozenset({Op.ANNOUNCE, Op.WITHDRAW})
_WRITING = frozenset({Op.PUT, Op.DELETE}) | _SET_WRITES

_TRACE_STATUS = {Reason.TRACE_ENDS: Status.HOPS_ENDED, Reason.ATTEMPT_ENDS: Status.NOT_RESPONSIBLE}


class _Guards(NamedTuple):
    """One malformed or unlucky request loses itself alone, not its batch."""

    trace: Guard
    proof: Guard
    read: Guard


class Service:
    """Answers for `contact`, the node's own. `cache` is filled with what clients read and write."""

    def __init__(
        self,
        *,
        store: Store,
        coordinator: Coordinator,
        repair: KeptRecords,
        core: Core,
        contact: Contact,
        replies: Replies,
        leases: Leases,
        cache: RecordCache | None,
        access: Access,
        on_late: Late,
        late: LateAnswers,
        room: Room,
        sets: SetService,
    ) -> None:
        self._store = store
        self._access = access
        self._room = room
        self._sets = sets
        self._late = late
        self._coordinator = coordinator
        faults = coordinator.faults
        self._guards = _Guards(*(faults.guard(of) for of in ("a TRACE", "a proof", "a read")))
        self._repair = repair
        self._cache = cache
        # As a read does, it fills the cache.
        self._keep = store.reader(cache, repair.is_caught_up).of if cache is not None else None
        self._core = core
        self._replies = replies
        self._replier = replies.replier
        self._trace_body = pack_contacts([contact])
        self._leases = leases
        self.read_answers = ReadAnswers(
            core, replies.counts, on_late, lambda request, arrived: partial(self._found, request, arrived)
        )
        self.put_answers = PutAnswers(
            core, replies.counts, on_late, self._keep, self._end_of, room.lets_all_in
        )
        """For common writes, and for common reads."""

    def handle(self, batch: Sequence[Datagram], now: UnixTime) -> int:
        """Answer a batch; the number of reads that were answered at once. What is no routed request is not looked at."""
        reads: list[Datagram] = []
        strict: list[Datagram] = []
        others: list[Datagram] = []
        members: list[Datagram] = []
        traces: list[Datagram] = []
        lists: dict[int, list[Datagram]] = {
            Op.GET: reads,
            Op.QUORUM_GET: strict,
            Op.WATCH: reads,
            Op.PUT: others,
            Op.DELETE: others,
            Op.ANNOUNCE: others,
            Op.WITHDRAW: others,
            Op.MEMBERS: members,
            Op.TRACE: traces,
        }
        for request in batch:
            op = request.data[_OP]
            requests = lists.get(op)
            if op == Op.WATCH and self._sets.is_watch(request):
                members.append(request)
            elif requests is not None:
                requests.append(request)
        # One batch, sent once: a system call for each reply would cost more than the replies.
        answers = self._replies.batch(now)
        # Before anything is read, written or leased.
        reads, others = self._admitted(READS, reads, answers), self._admitted(WRITES, others, answers)
        strict = self._admitted(READS, strict, answers)
        # First: other nodes look for their records while this one goes on.
        if strict:
            self._read_strictly(strict, answers)
        # Reads first: they are answered at once, and a write may wait for the lock of a turn.
        at_once = self._read(reads, answers) if reads else 0
        for request in self._admitted(READS, members, answers):
            with self._guards.read:
                at_once += self._sets.read(request, answers)
        if others:
            self._write(others, answers)
        for request in traces:
            with self._guards.trace:
                answers.add(request, _TRACE_STATUS.get(request.reason, Status.OK), self._contacts(request))
        self._replies.send(answers)
        return at_once

    def access_changed(self, now: UnixTime) -> None:
        """The policy is another one: end the leases that it would refuse."""
        self._leases.keep(lambda request: self._access.may_go_on(request.data, now))

    def _admitted(self, kind: str, requests: list[Datagram], answers: ReplyBatch) -> list[Datagram]:
        """Those whose sender may do this; the others are refused."""
        policy = self._access.policy
        if not requests or (policy.writes if kind == WRITES else policy.reads) == "open":
            return requests
        admitted = []
        for request in requests:
            with self._guards.proof:
                if self._is_admitted(kind, request, answers):
                    admitted.append(request)
        return admitted

    def _is_admitted(self, kind: str, request: Datagram, answers: ReplyBatch) -> bool:
        reason = self._access.refusal(kind, request.data, answers.now)
        # A write's time is its version, which the coordinator judges with what stands.
        if reason == "seq" and request.data[_OP] not in _WRITING:
            # A right token, and a clock that is off: the client corrects it by this time.
            answers.add(request, Status.BAD_VERSION, self._time_for(request, answers.now))
        elif reason:
            answers.add(request, Status.DENIED)
        return not reason

    @staticmethod
    def _time_for(request: Datagram, now: UnixTime) -> bytes:
        return RECORD.pack(micros(now), 0, 0) if request.max_reply >= RECORD_LEN else b""

    def counters(self) -> dict[str, int]:
        """As Replies.counters."""
        return self._replies.counters()

    @property
    def watchers(self) -> int:
        """Leases that have not ended, as far as is known."""
        return len(self._leases)

    def _contacts(self, request: Datagram) -> bytes:
        """This node, and as many others near the key as the request's padding and its client have room for: no more is
        sent than came."""
        # A TRACE can be forged as any request, so it must not be a way to send much to somebody else.
        most = min(len(request.data) - HEADER_LEN, request.max_reply)
        room = min(most // CONTACT_LEN - 1, K)
        if room < 1:
            return self._trace_body
        return self._trace_body + pack_contacts(self._core.closest(request.data[_KEY], room))

    # --- QUORUM_GET

    def _read_strictly(self, requests: list[Datagram], answers: ReplyBatch) -> None:
        """QUORUM_GETs: the own store alone answers none."""
        common = self._coordinator.common_reads
        with self._coordinator.turn(answers.now) as turn:
            if common is not None and not common.is_ready(self.read_answers):
                common = None
            for request in requests:
                # No guard of its own: it would cost two calls for each read.
                try:
                    if common is None or not common.begin(turn, request):
                        self._begin_strictly(turn, request, answers)
                except Exception:
                    self._coordinator.faults.note("a read")

    def _begin_strictly(self, turn: Turn, request: Datagram, answers: ReplyBatch) -> None:
        key = request.data[_KEY]
        caught_up = self._repair.is_caught_up(key)  # before the look
        record = self._read_alone(key, answers.now)
        if isinstance(record, StorageError):
            answers.add(request, Status.STORAGE_FAILED)
        else:
            self._ask_others(turn, request, record, answers, quorum=True, caught_up=caught_up)

    # --- GET and WATCH

    def _read(self, requests: list[Datagram], answers: ReplyBatch) -> int:
        """The number of those that were answered."""
        keys = [request.data[_KEY] for request in requests]
        # Before the store is read, so a change in between is noticed.
        begun = self._cache.begin(keys) if self._cache else ()
        caught_up = self._caught_up(keys)
        records: Iterable[StoredRecord | StorageError | None]
        try:
            records = self._store.get_many(keys, answers.now)
        except StorageError:
            # One unreadable record must not fail those that came with it.
            records = [self._read_alone(key, answers.now) for key in keys]
        wider: list[tuple[Datagram, StoredRecord | None, bool]] = []
        for number, (request, key, record) in enumerate(zip(requests, keys, records, strict=True)):
            op = request.data[_OP]
            with self._guards.read:
                if isinstance(record, StorageError):
                    answers.add(request, Status.STORAGE_FAILED)
                elif op == Op.WATCH and not self._watch(request, key, answers):
                    continue
                # A node that is behind may lack acknowledged writes, so its store alone does not count.
                elif record is None or not caught_up[number]:
                    wider.append((request, record, caught_up[number]))
                else:
                    answers.add_record(request, record)
                    if self._cache and op == Op.GET and not record.deleted:
                        self._cache.fill(key, begun[number], *record)
        if wider:
            self._read_wider(wider, answers)
        return len(requests) - len(wider)

    def _caught_up(self, keys: Sequence[bytes]) -> list[bool]:
        """Asked before the store is: else a record could come, and settle its key, between the two looks."""
        return list(map(self._repair.is_caught_up, keys))

    def _read_alone(self, key: bytes, now: UnixTime) -> StoredRecord | StorageError | None:
        try:
            return self._store.get(key, now)
        except StorageError as error:
            return error

    def _read_wider(
        self, wider: list[tuple[Datagram, StoredRecord | None, bool]], answers: ReplyBatch
    ) -> None:
        """What the own store alone cannot answer: each with its record here, and whether the node had caught up on it."""
        with self._coordinator.turn(answers.now) as turn:
            for request, record, caught_up in wider:
                with self._guards.read:
                    self._ask_others(
                        turn, request, record, answers, quorum=not caught_up, caught_up=caught_up
                    )

    def _ask_others(
        self,
        turn: Turn,
        request: Datagram,
        record: StoredRecord | None,
        answers: ReplyBatch,
        *,
        quorum: bool,
        caught_up: bool,
    ) -> None:
        key = request.data[_KEY]
        if request.reason is not Reason.OWNER and not self._coordinator.responsible(key):
            # A node beside the replicas has no say. Its record is passed on as hearsay, and the client decides.
            quorum = request.data[_OP] == Op.QUORUM_GET
            if record is None or not quorum:
                answers.add_hearsay(request, record)
                return
        done = partial(self._found, request, answers.now)
        self._coordinator.read(turn, key, record, done, quorum=quorum, caught_up=caught_up)

    def _found(self, request: Datagram, arrived: UnixTime, turn: Turn, found: ReadOutcome) -> None:
        answers = self._replies.batch(turn.now)
        # It may have expired while the replicas were asked.
        record = visible(found.record, turn.now)
        strict = request.data[_OP] == Op.QUORUM_GET
        coordinator = self._coordinator
        # NOT_FOUND needs a majority without a record. One record is enough for a GET.
        if not found.enough and (strict or record is None or coordinator.cluster.barred):
            lacks = strict and coordinator.cluster.joined and coordinator.lacks(coordinator.need_to_read)
            answers.add(request, Status.TOO_FEW if lacks else Status.UNCONFIRMED)
        elif record is None:
            answers.add_gone(request, 0 if found.record is None else found.record.version)
        else:
            answers.add_record(request, record)
        self._late.send(turn, request, arrived, answers)

    def _watch(self, request: Datagram, key: bytes, answers: ReplyBatch) -> bool:
        """Take the lease; whether the request goes on as a GET does."""
        try:
            body, _ = body_of(request.data)
            (seconds,) = _LEASE.unpack(body)
        except (BadPacket, struct.error):
            answers.add(request, Status.BAD_REQUEST)
            return False
        # A lease must not outlive the right to it.
        if end := self._access.may_watch_until(request.data):
            seconds = min(seconds, max(end - int(answers.now), 0))
        if request.max_reply < RECORD_LEN:
            answers.add(request, self._replier.refusal(request, RECORD_LEN, int(answers.now)))
        elif not self._leases.renew(key, self._replier.client_of(request), request, seconds):
            answers.add(request, Status.BUSY)
        else:
            return True
        return False

    # --- PUT and DELETE

    def _write(self, requests: list[Datagram], answers: ReplyBatch) -> None:
        common = self._coordinator.common
        with self._coordinator.turn(answers.now) as turn:
            if common is not None and not common.is_ready(self.put_answers):
                common = None
            for request in requests:
                # No guard of its own: it would cost two calls for each write.
                try:
                    if common is not None and common.begin(turn, request):
                        continue
                    begin = self._sets.begin if request.data[_OP] in _SET_WRITES else self._begin
                    refused = begin(turn, request)
                    if refused is not None:
                        answers.add(request, refused)
                except Exception:
                    self._coordinator.faults.note("a write")

    def _begin(self, turn: Turn, request: Datagram) -> Status | None:
        """Begin the write that a request asks for; or the status that refuses it."""
        data = request.data
        key = data[_KEY]
        if request.reason is not Reason.OWNER and not self._coordinator.responsible(key):
            return Status.NOT_RESPONSIBLE
        try:
            body, seq = body_of(data)
            asked, condition = parse_write(body) if body or data[_OP] == Op.PUT else (Record(), None)
        except BadPacket:
            return Status.BAD_REQUEST
        # A proven write's version is in its proof, so a copy of this datagram is the same write.
        if seq is not None and asked.version != seq:
            if asked.version:
                return Status.BAD_REQUEST
            asked = asked._replace(version=seq)
        if asked.flags & KINDS:
            refused = self._check_certified(data, asked)
            if refused is not None:
                return refused
        # Other flags are for nodes: a client cannot write a tombstone by a PUT.
        elif asked.flags:
            return Status.BAD_REQUEST
        if (body or seq is not None or data[_OP] == Op.PUT) and request.max_reply < RECORD_LEN:
            # Said before anything is written: the confirmation could not be sent.
            return self._replier.refusal(request, RECORD_LEN, int(turn.now))
        # By holder where tokens are checked: addresses of clients change, and a shared one would punish all
        # behind it.
        who = self._access.writer_of(data) or self._replier.address_of(request)
        if data[_OP] == Op.DELETE:
            if asked.value or asked.ttl:
                return Status.BAD_REQUEST
            done: Done = partial(self._late.removed, request, turn.now, who)
            self._coordinator.delete(
                turn, key, done, version=asked.version, condition=condition, nonce=_request_id(data)
            )
        else:
            # Before any replica is asked: a refusal here is certain, and changes nothing.
            if not self._room.lets_in(who, len(asked.value), asked.ttl, turn.now):
                return self._coordinator.refuse(key, asked.version, _request_id(data), Status.FULL, turn.now)
            # Rounded up: a value lives at least as long as was asked for.
            expiry = min(math.ceil(turn.now) + asked.ttl, MAX_WIRE_EXPIRY) if asked.ttl else 0
            done = self._end_of(request, turn.now, asked.ttl, len(asked.value))
            record = StoredRecord(asked.version, expiry, asked.flags, asked.value)
            self._coordinator.put(turn, key, record, done, condition=condition, nonce=_request_id(data))
        return None

    def _check_certified(self, data: bytes, asked: Record) -> Status | None:
        """The status that refuses a self-certified record; None: its certificate is right."""
        if data[_OP] == Op.DELETE:
            return Status.BAD_REQUEST
        try:
            check_certified(data[_KEY], asked.version, asked.flags, asked.value)
        except Uncertified:
            self._coordinator.counters["writes_uncertified"] += 1
            return Status.DENIED
        except BadPacket:
            return Status.BAD_REQUEST
        except MissingLibrary:
            # Another replica may have what this one lacks.
            self._coordinator.counters["writes_uncertified"] += 1
            return Status.STORAGE_FAILED
        return None

    def _end_of(self, request: Datagram, arrived: UnixTime, ttl: int, size: int) -> Done:
        """What the end of a PUT leads to."""
        who = self._access.writer_of(request.data) or self._replier.address_of(request)
        return partial(self._put, request, arrived, ttl, who, size)

    def _put(
        self,
        request: Datagram,
        arrived: UnixTime,
        ttl: int,
        who: bytes,
        size: int,
        turn: Turn,
        written: Written,
    ) -> None:
        self._late.stored(request, arrived, ttl, who, size, turn, written)
        if written.status is Status.OK:
            self._keep_at_hand(request.data[_KEY], turn.now)

    def _keep_at_hand(self, key: bytes, now: UnixTime) -> None:
        """What was just written is read soon. It is taken from the store, as by a read, so it cannot be old.

        In a turn, like FETCH's look: LevelDB has what was written last in memory.
        """
        if self._keep is not None:
            self._keep([key], [MAX_VALUE], now)


def _request_id(data: bytes) -> int:
    return int.from_bytes(data[_REQUEST_ID], "big")
