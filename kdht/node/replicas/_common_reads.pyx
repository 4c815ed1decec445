# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""A coordinator's common QUORUM_GET: at a replica that has caught up, and all answers are what it has itself.

    taken ---> a majority has the own record, or none ---> told ---> all have answered ---> gone
      '------> another record, a late or a strange answer: `QuorumReads` goes on with it

`QuorumReads` has the rules. Here stand only the steps of a read that meets none of their cases, without a
page of Python for each. So a read that was handed over is in the state in which `QuorumReads` itself would
have it (tests/node/replicas/test_common_reads.py plays the same seeds with and without this module).

Contract: whoever calls has a turn.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from kdht.core._addresses cimport is_ipv4
from kdht.core._layout cimport (
    KDHT_CERTIFIED_BIT, KDHT_FLAG_REPLY, KDHT_HEADER_LEN, KDHT_ID_LEN, KDHT_MAGIC, KDHT_MAX_BODY,
    KDHT_OP_FETCH, KDHT_OP_QUORUM_GET, KDHT_RECORD_LEN, KDHT_STATUS_OK, KDHT_VERSION,
    be64toh, htobe64, htonl, htons, kdht_header, kdht_record, ntohl,
)
from kdht._routing cimport Core, core_seal
from kdht.node.replicas._common_jobs cimport MOST_ASKED, CommonJob, CommonJobs
from kdht.node.replicas._turns cimport Turn
from kdht.storage._cache cimport write_body
from kdht.storage._reader cimport StoreReader
from kdht.wire._named cimport item

from kdht.datapath.base import Outgoing
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas.calls import (
    FIRST_TIMEOUT, LEAST_TIMEOUT, MAX_CALLS, MOST_TIMEOUT, AskedReplica, ReplicaQuestion,
)
from kdht.node.replicas.quorum_reads import READ_DEADLINE, ReadUnderWay, untrusted_stored
from kdht.storage.versions import latest_version
from kdht.wire import Address
from kdht.wire._shared import MAX_REPLICAS, Op, Status

cdef uint8_t HOPS = CONTROL_HOPS
cdef object FETCH = Op.FETCH
cdef int NOT_FOUND = Status.NOT_FOUND
cdef double FIRST = FIRST_TIMEOUT, LEAST = LEAST_TIMEOUT[Op.FETCH], MOST = MOST_TIMEOUT
cdef double DEADLINE = READ_DEADLINE
if MOST_ASKED != MAX_REPLICAS - 1:
    raise ImportError("the greatest number of replicas has changed: change _common_reads.pxd too")
cdef Py_ssize_t MOST_READS = MAX_CALLS // 2


cdef class CommonRead(CommonJob):
    """One read."""

    cdef bint waits_for(self, address) except -1:
        cdef int i
        for i in range(self.asked_count):
            if self.due[i] != INFINITY and self.asked[i] == address:
                return True
        return False


cdef class ReadAnswers:
    """What a client hears of its QUORUM_GET.

    `counts`: replies by op and status. `late` is Observer.late, `end_of(request, arrived)` gives the Done of
    a read that is handed over.
    """

    def __cinit__(self, Core core not None, counts not None, late, end_of):
        self.core, self.counts, self.late, self.end_of = core, counts, late, end_of

    cdef int found(self, Turn turn, CommonRead read) except -1:
        cdef uint8_t body[KDHT_MAX_BODY]
        cdef const uint8_t *own
        cdef const kdht_record *record
        cdef uint32_t length = 0
        cdef int status = NOT_FOUND
        now = turn.now
        if read.own is not None:
            own, status = read.own, KDHT_STATUS_OK
            record = <const kdht_record *>own
            length = write_body(body, be64toh(record.version), ntohl(record.ttl), ntohl(record.flags),
                                own + KDHT_RECORD_LEN, <uint32_t>(len(read.own) - KDHT_RECORD_LEN), now)
        reply = self.core.reply(read.request, status, body[:length], int(now))
        turn.outgoing.append(tuple.__new__(Outgoing, reply))
        given = (KDHT_OP_QUORUM_GET, (<kdht_header *><const uint8_t *><bytes>reply[0]).status)
        self.counts[given] = self.counts.get(given, 0) + 1
        self.late(KDHT_OP_QUORUM_GET, read.arrived)
        return 0


cdef class CommonReads(CommonJobs):
    """One coordinator's, with its `context` (CoordinatorContext) and `reads` (QuorumReads).

    `sources`: the own address for each IP version. `reader` reads the own store. `need()` gives how many
    replicas have to be heard now, `is_caught_up` as in KeptRecords.
    """

    def __cinit__(
        self, context, dict sources not None, StoreReader reader not None, reads, need, is_caught_up
    ):
        self.core, self.cluster, self.calls = context.core, context.cluster, context.calls
        self.clock, self.counters = context.clock, context.counters
        self.sources, self.reader, self.reads = sources, reader, reads
        self.need, self.is_caught_up = need, is_caught_up
        self.own, self.deadline = frozenset(sources.values()), DEADLINE
        self.trips, self.latest_at, self.latest = self.calls.trips, -1.0, 0

    # --- The beginning

    cpdef bint is_ready(self, ReadAnswers answers) except -1:
        """Whether this node begins reads now. Asked in each turn before `begin`."""
        cluster = self.cluster
        self.now_need, self.answers = self.need(), answers
        self.replicas = cluster.policy.replicas
        return cluster.joined and not cluster.barred and self.now_need > 1

    def begin(self, Turn turn, request) -> bool:
        """Begin the read of an admitted request. False: it is no common one, and nothing was done."""
        return self.begin_at(turn, request)

    cdef bint begin_at(self, Turn turn, request) except -1:
        """As `begin`."""
        cdef bytes data = item(request, 0)
        cdef const kdht_header *header = <const kdht_header *><const uint8_t *>data
        cdef CommonRead read
        cdef bytes key
        if header.op != KDHT_OP_QUORUM_GET or len(self.jobs) >= MOST_READS:
            return False
        key = header.key[:KDHT_ID_LEN]
        # Before the look: else a record could come, and settle its key, between the two.
        if not self.is_caught_up(key):
            return False
        read = CommonRead.__new__(CommonRead)
        read.key, read.seats, read.need = key, self.replicas, self.now_need
        read.rank = self.core.rank(key, read.seats)
        if read.rank >= read.seats or not self._choose(read) or not self._look(turn, read):
            return False
        read.request, read.answers = request, self.answers
        read.arrived, read.begun, read.heard = turn.now, turn.steady, 1
        self.counters["gathered_quorum"] += 1
        read.place = turn.keep_places(1 + len(read.asked))
        self._ask(turn, read)
        return True

    cdef bint _look(self, Turn turn, CommonRead read) except -1:
        """Look into the own store. False: what is there is no ordinary record."""
        cdef const kdht_record *record
        try:
            read.own = self.reader.stored(read.key, True, turn.now)
        except Exception:  # the plain Python meets the same error and reports it
            return False
        if read.own is None:
            return True
        record = <const kdht_record *><const uint8_t *>read.own
        return record.flags == 0 and be64toh(record.version) >> KDHT_CERTIFIED_BIT == 0

    cdef bint _choose(self, CommonRead read) except -1:
        """Choose the replicas. False: they cannot be asked as usual, or are too few."""
        cdef list near = self.core.closest(read.key, read.seats - 1)
        cdef bytes ip
        read.asked = []
        if len(near) > MOST_ASKED or <int>len(near) + 1 < read.need:
            return False
        for contact in near:
            ip = item(contact, 1)
            address = tuple.__new__(Address, (ip, item(contact, 2)))
            source = self.sources.get(bool(is_ipv4(<const uint8_t *>ip)))
            if source is None or address in read.asked or read.source not in (None, source):
                return False
            read.source = source
            read.asked.append(address)
        return True

    cdef int _ask(self, Turn turn, CommonRead read) except -1:
        """Send FETCH to the replicas."""
        cdef Py_ssize_t i
        cdef double timeout
        read.request_id = self.calls.new_id()
        read.wire = self._seal(read, <uint32_t>turn.now)
        read.asked_count = read.waiting = <int>len(read.asked)
        for i in range(read.waiting):
            address = read.asked[i]
            turn.outgoing.append(tuple.__new__(Outgoing, (read.wire, address, read.source)))
            timeout = self.trips.of(FETCH, address).timeout(FIRST, LEAST, MOST)
            read.due[i] = read.begun + min(timeout, MOST)
        self.jobs[read.request_id] = read
        self.watch(turn, read.next_due(DEADLINE))
        return 0

    cdef bytes _seal(self, CommonRead read, uint32_t now):
        cdef kdht_header header
        cdef bytes own_ip = item(read.source, 0)
        memset(&header, 0, KDHT_HEADER_LEN)
        header.magic, header.version, header.op = htonl(KDHT_MAGIC), KDHT_VERSION, KDHT_OP_FETCH
        header.hops, header.request_id = HOPS, htobe64(read.request_id)
        memcpy(header.key, <const uint8_t *>read.key, KDHT_ID_LEN)
        header.client_port = htons(<uint16_t>item(read.source, 1))
        memcpy(header.client_ip, <const uint8_t *>own_ip, 16)
        core_seal(self.core.region, &header, now)
        return (<uint8_t *>&header)[:KDHT_HEADER_LEN]

    # --- Answers

    cdef bint expects(self, const kdht_header *header) except -1:
        """Whether this may be an answer to a FETCH of a read that is here."""
        return bool(header.flags & KDHT_FLAG_REPLY) and be64toh(header.request_id) in self.jobs

    cdef bint take_answer(self, Turn turn, datagram) except -1:
        """Take the expected answer of a replica. False: it is something else."""
        cdef bytes data = item(datagram, 0)
        cdef const kdht_header *header = <const kdht_header *><const uint8_t *>data
        cdef CommonRead read
        cdef Py_ssize_t i
        cdef bytes ip
        if header.op != KDHT_OP_FETCH or not header.flags & KDHT_FLAG_REPLY:
            return False
        found = self.jobs.get(be64toh(header.request_id))
        if found is None:
            return False
        read = found
        if memcmp(header.key, <const uint8_t *>read.key, KDHT_ID_LEN) or not self._agrees(turn, read, data):
            return False
        source = item(datagram, 1)
        ip = item(source, 0)
        # What is not sound is counted elsewhere.
        if (header.client_port != htons(<uint16_t>item(source, 1))
                or memcmp(header.client_ip, <const uint8_t *>ip, 16)
                or item(datagram, 2) not in self.own):
            return False
        for i in range(read.asked_count):
            if read.due[i] != INFINITY and read.asked[i] == source:
                break
        else:
            return False
        self.trips.took(FETCH, source, turn.steady - read.begun)
        read.due[i] = INFINITY
        read.waiting -= 1
        read.heard += 1
        if read.own is not None:
            # So versions made here are above it.
            self.clock.seen(be64toh((<const kdht_record *><const uint8_t *>read.own).version), turn.now)
        if not read.told and read.heard >= read.need:
            read.told = True
            (<ReadAnswers>read.answers).found(turn, read)
        if not read.waiting:
            self.jobs.pop(read.request_id, None)
        return True

    cdef bint _agrees(self, Turn turn, CommonRead read, bytes data) except -1:
        """Whether this node of a majority has what the own store has, and a client may see it."""
        cdef const uint8_t *at = data
        cdef const kdht_record *record
        cdef uint32_t expiry
        cdef uint8_t status = (<const kdht_header *>at).status
        if read.own is None:
            return status == NOT_FOUND and len(data) == KDHT_HEADER_LEN
        if (status != KDHT_STATUS_OK or len(data) != KDHT_HEADER_LEN + len(read.own)
                or memcmp(at + KDHT_HEADER_LEN, <const uint8_t *>read.own, len(read.own))):
            return False
        record = <const kdht_record *>(at + KDHT_HEADER_LEN)
        if turn.now != self.latest_at:
            self.latest_at, self.latest = turn.now, latest_version(turn.now, self.cluster.policy.window)
        expiry = ntohl(record.ttl)
        return be64toh(record.version) <= self.latest and (expiry == 0 or <double>expiry > turn.now)

    # --- Handing over

    cdef object hand_over(self, Turn turn, CommonJob job):
        """From now on the read is `QuorumReads`'. Gives the ReadJob."""
        cdef CommonRead read = job
        cdef Py_ssize_t i
        self.jobs.pop(read.request_id, None)
        question = ReplicaQuestion(FETCH, read.key, b"", read.request_id)
        question.wires[read.source] = read.wire
        asked = [AskedReplica(read.asked[i], read.source, read.begun, read.due[i], read.place + 1 + i,
                              read.due[i] == INFINITY) for i in range(read.asked_count)]
        return self.reads.go_on(turn, ReadUnderWay(
            question=question,
            own=None if read.own is None else untrusted_stored(read.key, read.own),
            need=read.need,
            done=None if read.told else (<ReadAnswers>read.answers).end_of(read.request, read.arrived),
            seats=read.seats,
            rank=read.rank,
            asked=asked,
            deadline=read.begun + DEADLINE,
            place=read.place,
        ))
