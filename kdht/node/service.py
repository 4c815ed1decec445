"""The answers to GET, PUT, DELETE and TRACE that ended at this node.

Contract: no I/O but the store's, no clock. `handle` takes a batch of routed requests whose
headers and tags were checked, on any thread; everything that can be answered at once goes
out in one `send`, writes are answered from the writer's thread once they are safe.

One node owns a key, so a write that ended elsewhere is refused, or the owner would go on
with the old value. A read is answered by whoever has the record.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kdht._routing import Core
from kdht._shared import HEADER_LEN, HOP_LIMIT, ID_LEN, RECORD_LEN, Op, Reason, Status
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket, StorageError
from kdht.node.reply import Replier
from kdht.storage import Result, Store, Stored, Write, Writer
from kdht.wire import OFFSET, RECORD, Address, Contact, Record, pack_contacts

_OP = OFFSET["op"]
_KEY = OFFSET["key"]
_KEY_END = _KEY + ID_LEN
_STATUS = OFFSET["status"]
_MAX_TTL = 2**32 - 1

_TRACE_STATUS = {Reason.TRACE_ENDS: Status.HOPS_ENDED, Reason.ATTEMPT_ENDS: Status.NOT_RESPONSIBLE}

Send = Callable[[list[Outgoing]], object]


def is_responsible(request: Datagram) -> bool:
    """Whether this node may write the key and say that it has no record."""
    return request.reason is Reason.OWNER


class _Pending(NamedTuple):
    """A write on its way to the disk, and the TTL to confirm."""

    request: Datagram
    write: Write
    ttl: int


class Service:
    """Answers for `contact`, the node's own. `own`: all its addresses, as its core has them."""

    def __init__(
        self,
        *,
        store: Store,
        writer: Writer,
        core: Core,
        contact: Contact,
        own: Iterable[Address],
        send: Send,
        cookies: bool = True,
        hop_limit: int = HOP_LIMIT,
    ) -> None:
        self._store = store
        self._writer = writer
        self._send = send
        self._replier = Replier(core, own, cookies=cookies, hop_limit=hop_limit)
        self._trace_body = pack_contacts([contact])
        self._counts: Counter[tuple[int, int]] = Counter()
        self._counts_lock = threading.Lock()

    def handle(self, batch: Sequence[Datagram], now: float) -> None:
        """Answer a batch. What is no routed request is not looked at."""
        reads: list[Datagram] = []
        writes: list[Datagram] = []
        traces: list[Datagram] = []
        lists: dict[int, list[Datagram]] = {
            Op.GET: reads,
            Op.PUT: writes,
            Op.DELETE: writes,
            Op.TRACE: traces,
        }
        for request in batch:
            requests = lists.get(request.data[_OP])
            if requests is not None:
                requests.append(request)
        answers = _Answers(self._replier, now)
        if reads:
            self._read(reads, answers)
        if writes:
            self._write(writes, answers)
        for request in traces:
            answers.add(request, _TRACE_STATUS.get(request.reason, Status.OK), self._trace_body)
        self._flush(answers)

    def counters(self) -> dict[str, int]:
        """Answers since the start, by op and status, such as `{"GET OK": 7}`."""
        with self._counts_lock:
            return {
                f"{Op(op).name} {Status(status).name}": n for (op, status), n in sorted(self._counts.items())
            }

    # --- GET

    def _read(self, requests: list[Datagram], answers: "_Answers") -> None:
        keys = [request.data[_KEY:_KEY_END] for request in requests]
        records: Iterable[Stored | StorageError | None]
        try:
            records = self._store.get_many(keys, answers.now)
        except StorageError:
            # One unreadable record must not fail those that came with it.
            records = [self._read_alone(key, answers.now) for key in keys]
        for request, record in zip(requests, records, strict=True):
            if type(record) is Stored:
                answers.add(request, Status.OK, _record_body(record, answers.now))
            elif record is not None:
                answers.add(request, Status.STORAGE_FAILED)
            else:
                answers.add(request, Status.NOT_FOUND if is_responsible(request) else Status.NOT_RESPONSIBLE)

    def _read_alone(self, key: bytes, now: float) -> Stored | StorageError | None:
        try:
            return self._store.get(key, now)
        except StorageError as error:
            return error

    # --- PUT and DELETE

    def _write(self, requests: list[Datagram], answers: "_Answers") -> None:
        pending = []
        for request in requests:
            planned = self._plan(request, answers.now)
            if isinstance(planned, Status):
                answers.add(request, planned)
            else:
                pending.append(planned)
        if not pending:
            return
        now = answers.now
        writes = [write for _, write, _ in pending]
        if not self._writer.submit(writes, now, lambda outcome: self._written(pending, now, outcome)):
            for request, _, _ in pending:
                answers.add(request, Status.BUSY)

    def _plan(self, request: Datagram, now: float) -> _Pending | Status:
        """The write that a request asks for, or the status that refuses it."""
        data = request.data
        key = data[_KEY:_KEY_END]
        if not is_responsible(request):
            return Status.NOT_RESPONSIBLE
        if data[_OP] == Op.DELETE:
            return _Pending(request, Write(key, None), 0)
        try:
            version, ttl, flags, value = Record.parse(data[HEADER_LEN:])
        except BadPacket:
            return Status.BAD_REQUEST
        if version or flags:
            return Status.BAD_REQUEST
        if request.max_reply < RECORD_LEN:
            # Said before anything is written: the confirmation could not be sent.
            return self._replier.refusal(request, RECORD_LEN)
        return _Pending(request, Write(key, value, math.ceil(now) + ttl if ttl else 0), ttl)

    def _written(self, pending: list[_Pending], now: float, outcome: list[Result] | StorageError) -> None:
        answers = _Answers(self._replier, now)
        if isinstance(outcome, StorageError):
            for request, _, _ in pending:
                answers.add(request, Status.STORAGE_FAILED)
        else:
            for (request, write, ttl), result in zip(pending, outcome, strict=True):
                if write.value is not None:
                    answers.add(request, Status.OK, RECORD.pack(result.version, ttl, write.flags))
                else:
                    answers.add(request, Status.OK if result.existed else Status.NOT_FOUND)
        self._flush(answers)

    def _flush(self, answers: "_Answers") -> None:
        if not answers.outgoing:
            return
        with self._counts_lock:
            self._counts.update(answers.given)
        self._send(answers.outgoing)


class _Answers:
    """The replies of one batch, made at one time."""

    def __init__(self, replier: Replier, now: float) -> None:
        self.now = now
        self.outgoing: list[Outgoing] = []
        self.given: list[tuple[int, int]] = []
        self._reply = replier.reply
        self._seconds = int(now)

    def add(self, request: Datagram, status: Status, body: bytes = b"") -> None:
        reply = self._reply(request, status, body, self._seconds)
        self.outgoing.append(reply)
        self.given.append((request.data[_OP], reply.data[_STATUS]))


def _record_body(record: Stored, now: float) -> bytes:
    """A record as its readers see it: the time left, at least a second, in place of the expiry."""
    version, expiry, flags, value = record
    ttl = min(max(expiry - math.ceil(now), 1), _MAX_TTL) if expiry else 0
    return RECORD.pack(version, ttl, flags) + value
