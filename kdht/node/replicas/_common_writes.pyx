# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""A coordinator's common write: one without a condition, refused and delayed by nobody.

A PUT at its owner is one from its beginning (`begin`); an announcement from where the coordinator knows its
record (`begin_record`).

    taken ---> the own store and all replicas have it ---> gone
      '------> a refusal, a late or a strange answer, a time-out: `Writes` goes on with it

`Writes` has the rules. Here stand only the steps of a write that meets none of their cases, without a page of
Python for each. So a write that was handed over is in the state in which `Writes` itself would have it
(tests/node/replicas/test_common_writes.py plays the same seeds with and without this module).

Contract: whoever calls has a turn.
"""

from libc.math cimport INFINITY, ceil
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kdht.core._addresses cimport is_ipv4
from kdht.core._layout cimport (
    KDHT_CERTIFIED_BIT, KDHT_FLAG_PROVEN, KDHT_FLAG_REPLY, KDHT_HEADER_LEN, KDHT_ID_LEN, KDHT_MAGIC,
    KDHT_MAX_DATAGRAM, KDHT_MAX_VALUE, KDHT_OP_PUT, KDHT_OP_STORE, KDHT_PROOF_LEN, KDHT_PROOF_MAC_LEN,
    KDHT_REASON_OWNER, KDHT_RECORD_FLAG_BEHIND, KDHT_RECORD_FLAG_SOFT, KDHT_RECORD_LEN, KDHT_STATUS_OK,
    KDHT_VERSION,
    be64toh, htobe64, htonl, htons, kdht_header, kdht_outcome, kdht_record, ntohl,
)
from kdht.core._reply cimport Request
from kdht._routing cimport Core, core_answer, core_closest, core_seal, make_contact
from kdht.datapath.socket._backlog cimport Local
from kdht.datapath.socket._datagrams cimport make_address, make_datagram, read_datagram
from kdht.node._roundtrip cimport RoundTrip
from kdht.node.replicas._common_jobs cimport MOST_ASKED, CommonJob, CommonJobs
from kdht.node.replicas._turns cimport Turn
from kdht.wire._named cimport item

from kdht.datapath.base import Outgoing
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas.calls import (
    FIRST_TIMEOUT, LEAST_TIMEOUT, MAX_CALLS, MOST_TIMEOUT, AskedReplica, ReplicaQuestion,
)
from kdht.node.replicas._turns import Planned
from kdht.node.replicas.writes import SPARE, WRITE_DEADLINE, UnderWay, Written
from kdht.storage import Result, StoredRecord, Write
from kdht.storage.versions import latest_version
from kdht.wire._shared import MAX_REPLICAS, TRY_BITS, Op, Status
from kdht.wire.limits import MAX_CLOCK_ERROR, MAX_WIRE_EXPIRY

cdef uint8_t HOPS = CONTROL_HOPS
cdef object STORE = Op.STORE, DONE = Status.OK
cdef double FIRST = FIRST_TIMEOUT, LEAST = LEAST_TIMEOUT[Op.STORE], MOST = MOST_TIMEOUT
cdef double DEADLINE = WRITE_DEADLINE
cdef double LAST_EXPIRY = MAX_WIRE_EXPIRY
cdef int64_t MAX_ERROR = MAX_CLOCK_ERROR
cdef int BESIDE = SPARE
cdef Py_ssize_t MOST_WRITES = MAX_CALLS // 2
if MAX_REPLICAS - 1 > MOST_ASKED or MAX_REPLICAS - 1 + SPARE > MOST_NEAR:
    raise ImportError("more replicas than a CommonWrite has room for: change _common_writes.pxd")


cdef class CommonWrite(CommonJob):
    """One write. Called with a turn and the outcome in the own store (turns.Planned)."""

    def __call__(self, Turn turn, outcome) -> None:
        self.writes.stored(turn, self, outcome)

    cdef int remember(self, const Local *local) except -1:
        """Keep the request until its answer."""
        self.data = local.data[:local.length]
        self.max_reply = local.max_reply
        self.source_port, self.target_port = local.source_port, local.target_port
        memcpy(self.source_ip, local.source_ip, 16)
        memcpy(self.target_ip, local.target_ip, 16)
        return 0

    cdef object request(self):
        """As a Datagram."""
        cdef Local local
        local.length, local.reason = <uint32_t>len(self.data), KDHT_REASON_OWNER
        local.max_reply = self.max_reply
        local.source_port, local.target_port = self.source_port, self.target_port
        memcpy(local.source_ip, self.source_ip, 16)
        memcpy(local.target_ip, self.target_ip, 16)
        memcpy(local.data, <const uint8_t *>self.data, len(self.data))
        return make_datagram(&local)

    cdef int waited_for(self, const uint8_t *ip, uint16_t port) noexcept:
        """The number of the replica at this address, if its answer is awaited; else -1."""
        cdef int i
        for i in range(self.asked_count):
            if (self.due[i] != INFINITY and self.near[i].port == port
                    and memcmp(self.near[i].ip, ip, 16) == 0):
                return i
        return -1

    cdef bint waits_for(self, address) except -1:
        cdef bytes ip = address.ip
        return self.waited_for(ip, htons(address.port)) >= 0


cdef class PutAnswers:
    """What a client hears of its PUT, and what follows at this node.

    `counts`: replies by op and status. `late` is Observer.late, `keep` (StoreReader.of, or None) puts
    records at hand,
    `end_of(request, arrived, ttl, size)` gives the Done of a write that is handed over, `open_to_all()` tells
    whether every client's value has room.
    """

    def __cinit__(self, Core core not None, counts not None, late, keep, end_of, open_to_all):
        self.core, self.counts, self.late = core, counts, late
        self.keep, self.end_of, self.open_to_all = keep, end_of, open_to_all

    cdef int confirmed(self, Turn turn, CommonWrite write) except -1:
        cdef uint8_t body[KDHT_RECORD_LEN]
        cdef uint8_t message[KDHT_MAX_DATAGRAM]
        cdef kdht_record *record = <kdht_record *>body
        cdef kdht_outcome out
        cdef Request came
        cdef uint32_t length
        memset(body, 0, sizeof(body))
        memset(&out, 0, sizeof(out))
        record.version, record.ttl = htobe64(<uint64_t>item(write.record, 0)), htonl(write.ttl)
        memcpy(message, <const uint8_t *>write.data, KDHT_HEADER_LEN)
        came.source_ip, came.source_port = write.source_ip, write.source_port
        came.target_ip, came.target_port = write.target_ip, write.target_port
        came.max_reply = write.max_reply
        length = core_answer(self.core.region, message, &came, KDHT_STATUS_OK, body, sizeof(body),
                             <uint32_t>turn.now, &out)
        turn.outgoing.append(tuple.__new__(Outgoing, (
            message[:length], make_address(out.target_ip, out.target_port),
            make_address(out.source_ip, out.source_port) if out.source_port else None)))
        given = (KDHT_OP_PUT, (<kdht_header *>message).status)
        self.counts[given] = self.counts.get(given, 0) + 1
        self.late(KDHT_OP_PUT, write.arrived)
        if self.keep is not None:
            self.keep([write.key], [KDHT_MAX_VALUE], turn.now)
        return 0


cdef class CommonWrites(CommonJobs):
    """One coordinator's, with its `context` (CoordinatorContext), `writes` (Writes) and `admission`.

    `sources`: the own address for each IP version. `quorum()` gives what counts now.
    `ended(key, nonce, record, done)` wraps a Done as the coordinator does.
    """

    def __cinit__(self, context, dict sources not None, writes, admission, quorum, ended):
        self.core, self.cluster, self.calls = context.core, context.cluster, context.calls
        self.clock, self.recent = context.clock, context.recent
        self.counters, self.holds = context.counters, context.holds
        self.sources, self.writes, self.admission = sources, writes, admission
        self.quorum, self.ended = quorum, ended
        self.deadline, self.own_count = DEADLINE, 0
        for own in sources.values():
            self._add_own(own)
        self.known_others = -1
        self.trips, self.latest_at, self.latest = self.calls.trips, -1.0, 0
        self.took = self.trips.round_trips[STORE].observe

    cdef int _add_own(self, own) except -1:
        cdef bytes ip = own.ip
        memcpy(self.own_ips[self.own_count], <const uint8_t *>ip, 16)
        self.own_ports[self.own_count] = htons(own.port)
        self.own_count += 1
        return 0

    cdef bint is_own(self, const uint8_t *ip, uint16_t port) noexcept:
        """Whether this node talks to other nodes from there. `port`: in network order."""
        cdef int i
        for i in range(self.own_count):
            if self.own_ports[i] == port and memcmp(self.own_ips[i], ip, 16) == 0:
                return True
        return False

    # --- The beginning

    def is_ready(self, PutAnswers answers not None) -> bool:
        """Whether this node begins writes now, and every client's value has room. Asked in each turn before
        `begin`.
        """
        cluster = self.cluster
        self.answers = answers
        self._count()
        return (cluster.joined and not cluster.barred and cluster.living >= self.least
                and answers.open_to_all())

    cdef int _count(self) except -1:
        """Know what counts now."""
        policy, others = self.cluster.policy, self.cluster.others
        # What counts follows from these two, and they seldom change.
        if policy is not self.known_policy or others != self.known_others:
            self.known_policy, self.known_others = policy, others
            self.now_counts = self.quorum()
            self.others = policy.replicas - 1
            self.least = self.now_counts.acks - 1
        return 0

    def begin(self, Turn turn, request) -> bool:
        """Begin the write of an admitted request. False: it is no common one, and nothing was done."""
        cdef Local local
        return read_datagram(&local, request) and self.begin_at(turn, &local)

    cdef bint begin_at(self, Turn turn, const Local *local) except -1:
        """The same for a message of the socket's loop."""
        cdef const uint8_t *data = local.data
        cdef const kdht_header *header = <const kdht_header *>data
        cdef const kdht_record *asked = <const kdht_record *>(data + KDHT_HEADER_LEN)
        cdef Py_ssize_t begin = KDHT_HEADER_LEN + KDHT_RECORD_LEN, end = local.length
        cdef uint64_t version, seq, nonce
        cdef CommonWrite write
        if end < begin or header.op != KDHT_OP_PUT or local.reason != KDHT_REASON_OWNER:
            return False
        version = be64toh(asked.version)
        if header.flags & KDHT_FLAG_PROVEN:
            if end < begin + KDHT_PROOF_LEN:
                return False
            memcpy(&seq, data + end - KDHT_PROOF_MAC_LEN - sizeof(seq), sizeof(seq))
            seq = be64toh(seq)
            end -= KDHT_PROOF_LEN
            # A proven write's version is in its proof, so a copy of this datagram is the same write.
            if version and version != seq:
                return False
            version = seq
        if (asked.flags or version >> KDHT_CERTIFIED_BIT or end - begin > KDHT_MAX_VALUE
                or local.max_reply < KDHT_RECORD_LEN or len(self.jobs) >= MOST_WRITES):
            return False
        write = CommonWrite.__new__(CommonWrite)
        write.writes, write.answers = self, self.answers
        write.quorum = self.now_counts
        write.key = header.key[:KDHT_ID_LEN]
        write.own_version, write.ttl = version != 0, ntohl(asked.ttl)
        if not self._choose(write):
            return False
        nonce = be64toh(header.request_id)
        if self.recent.refused(write.key, nonce) is not None:
            return False
        write.remember(local)
        write.arrived, write.begun = turn.now, turn.steady
        if version == 0:
            version = self.clock.next(turn.now)
            known = None
        else:
            write.record = self._record(write, version, data[begin:end])
            known = self._known(turn, write, version, nonce)
        if known is not None:
            self._done_of(write)(turn, known)
            return True
        if not write.own_version:
            write.record = self._record(write, version, data[begin:end])
        self._begin(turn, write)
        return True

    def begin_record(self, Turn turn, bytes key, record, done, bint soft) -> bool:
        """Begin the write of a record that the coordinator has let in, as `Writes.write`.

        False: it is no common one, and nothing was done.
        """
        cdef uint64_t version = item(record, 0)
        cdef CommonWrite write
        if item(record, 2) or version >> KDHT_CERTIFIED_BIT or len(self.jobs) >= MOST_WRITES:
            return False
        self._count()
        write = CommonWrite.__new__(CommonWrite)
        write.writes, write.quorum, write.done, write.soft = self, self.now_counts, done, soft
        write.key, write.own_version = key, version != 0
        if not self._choose(write):
            return False
        write.arrived, write.begun = turn.now, turn.steady
        if version == 0:
            version = self.clock.next(turn.now)
            record = tuple.__new__(StoredRecord, (version, item(record, 1), 0, item(record, 3)))
        write.record = record
        self.counters["writes_soft"] += soft
        self._begin(turn, write)
        return True

    cdef int _begin(self, Turn turn, CommonWrite write) except -1:
        """Store it here and at the replicas."""
        self.counters["writes"] += 1
        write.place = turn.keep_places(1 + write.asked_count)
        turn.writes.append(tuple.__new__(
            Planned, (tuple.__new__(Write, (write.key, write.record, None, write.soft)), write)))
        if write.asked_count:
            self._ask(turn, write)
        return 0

    cdef object _known(self, Turn turn, CommonWrite write, uint64_t version, uint64_t nonce):
        """What is to be said at once of a write that has its own version (`Admission.known`)."""
        cdef int64_t ahead = <int64_t>version - <int64_t>(turn.now * 1e6)
        number = nonce >> TRY_BITS
        # Nearly always: its first try, with a version of about now.
        if (-MAX_ERROR <= ahead <= MAX_ERROR
                and self.recent.confirmed(write.key, write.record, number) is None
                and self.recent.claim(write.key, version, nonce, turn.now, conditional=False) == 0):
            return None
        return self.admission.known(write.key, write.record, nonce, turn.now, conditional=False)

    cdef object _record(self, CommonWrite write, uint64_t version, bytes value):
        cdef double expiry = min(ceil(write.arrived) + write.ttl, LAST_EXPIRY) if write.ttl else 0
        return tuple.__new__(StoredRecord, (version, <uint64_t>expiry, 0, value))

    cdef bint _choose(self, CommonWrite write) except -1:
        """Choose the replicas. False: one of them cannot be asked as usual."""
        cdef const uint8_t *key = write.key
        cdef int i, others = self.others
        if others > MOST_ASKED:
            return False
        write.near_count = 0
        if others:
            write.near_count = core_closest(self.core.region, key, others + BESIDE, write.near)
        write.asked_count = min(others, write.near_count)
        for i in range(write.asked_count):
            write.due[i] = 0
            source = self.sources.get(bool(is_ipv4(write.near[i].ip)))
            if source is None or write.source not in (None, source) or _is_named_before(write, i):
                return False
            write.source = source
        return True

    cdef int _ask(self, Turn turn, CommonWrite write) except -1:
        """Send STORE to the replicas."""
        cdef int i
        cdef RoundTrip trip
        write.request_id = self.calls.new_id()
        write.wire = self._seal(write, <uint32_t>turn.now)
        write.waiting = write.asked_count
        write.trips = []
        for i in range(write.asked_count):
            address = make_address(write.near[i].ip, write.near[i].port)
            turn.outgoing.append(tuple.__new__(Outgoing, (write.wire, address, write.source)))
            trip = self.trips.of(STORE, address)
            write.trips.append(trip)
            write.due[i] = write.begun + min(trip.timeout(FIRST, LEAST, MOST), MOST)
        self.jobs[write.request_id] = write
        self.watch(turn, write.next_due(DEADLINE))
        return 0

    cdef bytes _seal(self, CommonWrite write, uint32_t now):
        cdef uint8_t message[KDHT_MAX_DATAGRAM]
        cdef kdht_header *header = <kdht_header *>message
        cdef kdht_record *record = <kdht_record *>(message + KDHT_HEADER_LEN)
        cdef bytes value = item(write.record, 3), own_ip = item(write.source, 0)
        cdef size_t size = KDHT_RECORD_LEN + len(value)
        memset(message, 0, KDHT_HEADER_LEN + KDHT_RECORD_LEN)
        header.magic, header.version, header.op = htonl(KDHT_MAGIC), KDHT_VERSION, KDHT_OP_STORE
        header.hops, header.request_id = HOPS, htobe64(write.request_id)
        memcpy(header.key, <const uint8_t *>write.key, KDHT_ID_LEN)
        header.body_len = htons(<uint16_t>size)
        header.client_port = htons(<uint16_t>item(write.source, 1))
        memcpy(header.client_ip, <const uint8_t *>own_ip, 16)
        record.version = htobe64(<uint64_t>item(write.record, 0))
        record.ttl = htonl(<uint32_t>item(write.record, 1))
        if write.soft:
            record.flags = htonl(KDHT_RECORD_FLAG_SOFT)
        memcpy(message + KDHT_HEADER_LEN + KDHT_RECORD_LEN, <const uint8_t *>value, len(value))
        core_seal(self.core.region, header, now)
        return message[:KDHT_HEADER_LEN + size]

    # --- Answers

    cdef bint answered(self, Turn turn, const Local *local) except -1:
        """Take the expected answer of a replica. False: it is something else."""
        cdef const kdht_header *header = <const kdht_header *>local.data
        cdef const kdht_record *record = <const kdht_record *>(local.data + KDHT_HEADER_LEN)
        cdef CommonWrite write
        cdef int i
        cdef double rtt
        if (local.length < KDHT_HEADER_LEN + KDHT_RECORD_LEN or header.op != KDHT_OP_STORE
                or not header.flags & KDHT_FLAG_REPLY or header.status != KDHT_STATUS_OK
                or ntohl(record.flags) & KDHT_RECORD_FLAG_BEHIND):
            return False
        if turn.now != self.latest_at:
            self.latest_at, self.latest = turn.now, latest_version(turn.now, self.cluster.policy.window)
        if be64toh(record.version) > self.latest:
            return False
        found = self.jobs.get(be64toh(header.request_id))
        if found is None:
            return False
        write = found
        if memcmp(header.key, <const uint8_t *>write.key, KDHT_ID_LEN):
            return False
        # What is not sound is counted elsewhere.
        if (header.client_port != local.source_port or memcmp(header.client_ip, local.source_ip, 16)
                or not self.is_own(local.target_ip, local.target_port)):
            return False
        i = write.waited_for(local.source_ip, local.source_port)
        if i < 0:
            return False
        rtt = turn.steady - write.begun
        (<RoundTrip>write.trips[i]).sample(rtt)
        self.took(rtt)
        write.due[i] = INFINITY
        write.waiting -= 1
        write.acks += 1
        self._settle(turn, write)
        return True

    cdef int stored(self, Turn turn, CommonWrite write, outcome) except -1:
        """The own store has answered."""
        if write.handed_over is None and not (
                type(outcome) is Result and item(outcome, 0) and not item(outcome, 4)
                and self.holds(write.key)):
            self.hand_over(turn, write)
        if write.handed_over is not None:
            self.writes.stored(turn, write.handed_over, outcome)
            return 0
        write.existed = item(outcome, 1)
        write.here = True
        write.acks += 1
        self._settle(turn, write)
        return 0

    cdef int _settle(self, Turn turn, CommonWrite write) except -1:
        """Tell the client once enough nodes have its write (`WriteJob.is_confirmed`). None has refused it."""
        cdef int acks, majority
        if not write.here:
            return 0
        if not write.told:
            acks, majority = item(write.quorum, 2), item(write.quorum, 1)
            if write.acks >= acks and write.acks >= min(majority, acks):
                write.told = True
                if write.own_version:
                    self.recent.confirm(write.key, write.record, turn.now, existed=write.existed)
                self.counters["writes_ok"] += 1
                if write.done is None:
                    (<PutAnswers>write.answers).confirmed(turn, write)
                else:
                    write.done(turn, tuple.__new__(Written, (DONE, item(write.record, 0), write.existed)))
            elif not write.waiting:
                self.writes.finish_if_decided(turn, self.hand_over(turn, write))
                return 0
        if not write.waiting:
            self.jobs.pop(write.request_id, None)
        return 0

    # --- Handing over

    cdef object hand_over(self, Turn turn, CommonJob job):
        """From now on the write is `Writes`'. Gives the WriteJob."""
        cdef CommonWrite write = job
        cdef Py_ssize_t i
        cdef bytes body
        self.jobs.pop(write.request_id, None)
        question = None
        if write.wire is not None:
            body = write.wire[KDHT_HEADER_LEN:]
            question = ReplicaQuestion(STORE, write.key, body, write.request_id)
            question.wires[write.source] = write.wire
        near = [make_contact(&write.near[i]) for i in range(write.near_count)]
        asked = [AskedReplica(near[i].address, write.source, write.begun, write.due[i], write.place + 1 + i,
                              write.due[i] == INFINITY) for i in range(write.asked_count)]
        write.handed_over = self.writes.go_on(turn, UnderWay(
            key=write.key,
            record=write.record,
            quorum=write.quorum,
            done=None if write.told else write.done or self._done_of(write),
            own_version=write.own_version,
            existed=write.existed,
            here=write.here,
            near=near,
            taken=write.asked_count,
            question=question,
            asked=asked,
            deadline=write.begun + DEADLINE,
            place=write.place,
            soft=write.soft,
        ))
        return write.handed_over

    cdef object _done_of(self, CommonWrite write):
        cdef const uint8_t *data = write.data
        nonce = be64toh((<const kdht_header *>data).request_id)
        end = (<PutAnswers>write.answers).end_of(
            write.request(), write.arrived, write.ttl, len(<bytes>item(write.record, 3)))
        return self.ended(write.key, nonce, write.record, end)


cdef bint _is_named_before(CommonWrite write, int number) noexcept:
    """Whether two contacts have one address."""
    cdef int i
    for i in range(number):
        if (write.near[i].port == write.near[number].port
                and memcmp(write.near[i].ip, write.near[number].ip, 16) == 0):
            return True
    return False
