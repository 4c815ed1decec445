# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""A replica's part of a write: from a batch of STOREs to the answers.

Contract: `take` is called on the thread that received the batch. Its STOREs become one job of the writer. The
writer reports the outcomes on its own thread. There the answers are made, and leave together. Other messages
and STOREs that are malformed or lack their certificate are returned untouched. For those
`untrusted_store` says what is wrong.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from kdht.core._layout cimport (
    KDHT_CERTIFIED_BIT, KDHT_CONDITION_LEN, KDHT_FLAG_REPLY, KDHT_HEADER_LEN, KDHT_ID_LEN, KDHT_MAGIC,
    KDHT_OP_STORE, KDHT_RECORD_FLAG_BEHIND, KDHT_RECORD_FLAG_DECIDED, KDHT_RECORD_FLAG_IMMUTABLE,
    KDHT_RECORD_FLAG_SIGNED, KDHT_RECORD_FLAG_SOFT, KDHT_RECORD_FLAG_TOMBSTONE, KDHT_RECORD_LEN,
    KDHT_STATUS_BAD_VERSION, KDHT_STATUS_BUSY,
    KDHT_STATUS_CONFLICT, KDHT_STATUS_FULL, KDHT_STATUS_OK, KDHT_STATUS_STORAGE_FAILED, KDHT_VERSION,
    be64toh, htobe64, htonl, htons, kdht_header, kdht_record, ntohl,
)
from kdht._routing cimport Core, core_seal
from kdht.datapath.socket._backlog cimport Local
from kdht.datapath.socket._datagrams cimport make_address, read_datagram
from kdht.wire._named cimport item

from kdht.datapath.base import Outgoing
from kdht.errors import BadPacket, MissingLibrary, StorageError
from kdht.node.messages import CONTROL_HOPS
from kdht.storage import StoredRecord, Write
from kdht.storage.versions import MICROSECONDS
from kdht.wire.certified import check_certified
from kdht.wire.limits import MAX_CLOCK_ERROR

cdef uint8_t HOPS = CONTROL_HOPS
cdef double SECOND = MICROSECONDS
cdef uint64_t ERROR = MAX_CLOCK_ERROR
cdef uint32_t CERTIFIED_KINDS = KDHT_RECORD_FLAG_IMMUTABLE | KDHT_RECORD_FLAG_SIGNED


cdef bint is_proven(bytes key, uint64_t version, uint32_t flags, bytes value) except -1:
    """Whether the certificate of a self-certified record is right."""
    try:
        check_certified(key, version, flags, value)
    except (BadPacket, MissingLibrary):
        return False
    return True


cdef class StoreRequests:
    """Takes STOREs for the node whose addresses `own` has.

    `submit` is Writer.submit, `send` Transport.send, `clock` a HybridClock, `counters` has "stores_taken",
    "stores_older", "stores_below_promise", "stores_ahead" and "stores_full", `deletion` is Recent.deletion.
    `holds` tells whether this node has caught up on a key, or holds it still. Any thread.
    """

    def __cinit__(
        self, Core core not None, frozenset own not None, submit, send, clock, counters, deletion, holds
    ):
        self.core, self.own_count = core, 0
        if len(own) > MOST_OWN:
            raise ValueError(f"a node has at most {MOST_OWN} own addresses")
        for address in own:
            self._add_own(address)
        self.submit, self.send, self.clock, self.counters = submit, send, clock, counters
        self.deletion, self.holds = deletion, holds

    cdef int _add_own(self, own) except -1:
        cdef bytes ip = own.ip
        memcpy(self.own_ips[self.own_count], <const uint8_t *>ip, 16)
        self.own_ports[self.own_count] = htons(own.port)
        self.own_count += 1
        return 0

    def take(self, batch, now: float) -> list:
        """Have the STOREs of a batch of Datagrams written at `now`, Unix seconds; gives back the others."""
        cdef Local local
        cdef list rest = []
        cdef Taken job = self.job(now)
        for request in batch:
            if not (read_datagram(&local, request) and self.add(job, &local)):
                rest.append(request)
        self.begin(job)
        return rest

    cdef Taken job(self, double now):
        """An empty job."""
        cdef Taken job = Taken.__new__(Taken)
        job.stores, job.now, job.writes, job.newest = self, now, [], 0
        job.followed = <uint64_t>(now * SECOND) + ERROR  # versions.micros
        return job

    cdef bint add(self, Taken job, const Local *local) except -1:
        """Have a sound STORE written with the job. False: it is something else."""
        cdef const uint8_t *data = local.data
        cdef const kdht_header *header = <const kdht_header *>data
        cdef const kdht_record *record = <const kdht_record *>(data + KDHT_HEADER_LEN)
        cdef Py_ssize_t length = local.length
        cdef uint32_t flags
        cdef Py_ssize_t begin = KDHT_HEADER_LEN + KDHT_RECORD_LEN
        cdef uint64_t number, version
        cdef object nonce = None
        # Checked on this thread: one malformed STORE must not fail the group that it would be written with.
        if length < KDHT_HEADER_LEN + KDHT_RECORD_LEN or header.op != KDHT_OP_STORE:
            return False
        if header.flags & KDHT_FLAG_REPLY:
            return False
        # The tag covers the client fields, so a captured STORE cannot be sent from elsewhere.
        if (header.client_port != local.source_port or memcmp(header.client_ip, local.source_ip, 16)
                or not self._is_own(local.target_ip, local.target_port)):
            return False
        version, flags = be64toh(record.version), ntohl(record.flags)
        # It says how to store the record, and is no part of it.
        soft = flags == KDHT_RECORD_FLAG_SOFT
        if soft:
            flags = 0
        # A conditional write is taken only under its own promise, so its nonce goes to the store.
        if flags & KDHT_RECORD_FLAG_DECIDED:
            if length < begin + KDHT_CONDITION_LEN:
                return False
            memcpy(&number, data + begin, KDHT_CONDITION_LEN)
            nonce = be64toh(number)
            begin += KDHT_CONDITION_LEN
            flags ^= KDHT_RECORD_FLAG_DECIDED
        value = data[begin:length]
        key = header.key[:KDHT_ID_LEN]
        if version >> KDHT_CERTIFIED_BIT or flags & CERTIFIED_KINDS:
            if not is_proven(key, version, flags, value):
                return False
        elif version == 0 or flags & ~<uint32_t>KDHT_RECORD_FLAG_TOMBSTONE:
            return False
        elif flags and length > begin:
            return False
        # A version from farther ahead may still be stored, but the node's clock does not follow it. That of a
        # self-certified record is no time.
        elif version <= job.followed:
            job.newest = max(job.newest, version)
        # The field has seconds of life for clients, and the expiry in Unix seconds between nodes.
        stored = tuple.__new__(StoredRecord, (version, ntohl(record.ttl), flags, value))
        job.add(local)
        job.writes.append(tuple.__new__(Write, (key, stored, nonce, soft)))
        return True

    cdef int begin(self, Taken job) except -1:
        """Have the job written, if it is not empty."""
        if job.count:
            # So a version made here later is above it.
            self.clock.seen(job.newest, job.now)
            if not self.submit(job.writes, job.now, job):
                # The queue is bounded: the coordinator is told BUSY, and asks again.
                job.tell(None)
        return 0

    cdef bint _is_own(self, const uint8_t *ip, uint16_t port) noexcept:
        cdef int i
        for i in range(self.own_count):
            if self.own_ports[i] == port and memcmp(self.own_ips[i], ip, 16) == 0:
                return True
        return False


cdef class Taken:
    """STOREs that are being written: Writer.submit's `done`. An outcome of None says that too many waited."""

    def __dealloc__(self):
        free(self.asked)

    cdef int add(self, const Local *local) except -1:
        """Remember whom to answer."""
        cdef const kdht_header *header = <const kdht_header *>local.data
        cdef const kdht_record *record = <const kdht_record *>(local.data + KDHT_HEADER_LEN)
        cdef Asked *asked
        if self.count == self.room:
            self.room = 2 * self.room or 4
            asked = <Asked *>realloc(self.asked, self.room * sizeof(Asked))
            if asked is NULL:
                raise MemoryError
            self.asked = asked
        asked = &self.asked[self.count]
        self.count += 1
        asked.request_id = header.request_id
        memcpy(asked.key, header.key, KDHT_ID_LEN)
        asked.version, asked.flags = be64toh(record.version), ntohl(record.flags)
        asked.source_port, asked.target_port = local.source_port, local.target_port
        memcpy(asked.source_ip, local.source_ip, 16)
        memcpy(asked.target_ip, local.target_ip, 16)
        return 0

    def __call__(self, outcome) -> None:
        self.tell(outcome)

    cdef int tell(self, outcome) except -1:
        cdef list answers = []
        cdef Py_ssize_t i, accepted = 0, below = 0
        cdef uint64_t promised
        cdef Py_ssize_t ahead = 0, failed = 0, full = 0
        cdef bint done = isinstance(outcome, list)
        cdef const Asked *asked
        for i in range(self.count):
            asked = &self.asked[i]
            if outcome is None:
                answers.append(self._answer(asked, KDHT_STATUS_BUSY, 0))
            elif not done:
                answers.append(self._answer(asked, KDHT_STATUS_STORAGE_FAILED, 0))
            else:
                result = outcome[i]
                if isinstance(result, StorageError):
                    # The record of this key cannot be read. The others of the batch were written.
                    failed += 1
                    answers.append(self._answer(asked, KDHT_STATUS_STORAGE_FAILED, 0))
                    continue
                promised = item(result, 3)
                if item(result, 4):
                    full += 1
                    answers.append(self._answer(asked, KDHT_STATUS_FULL, 0))
                    continue
                if item(result, 0):
                    accepted += 1
                    if asked.flags & KDHT_RECORD_FLAG_TOMBSTONE:
                        # It is answered as it would have been at first, should it come here as a client's
                        # retry later.
                        self.stores.deletion(
                            asked.key[:KDHT_ID_LEN], asked.version, self.now, existed=item(result, 1))
                    answers.append(self._answer(asked, KDHT_STATUS_OK, item(result, 2)))
                elif promised:
                    if promised < asked.version:
                        ahead += 1  # beyond what any clock may say: the answer has the time
                    else:
                        below += 1
                    answers.append(self._answer(asked, KDHT_STATUS_BAD_VERSION, promised))
                else:
                    answers.append(self._answer(asked, KDHT_STATUS_CONFLICT, item(result, 2)))
        if done:
            # Once for the batch: the counter is shared by threads.
            self.stores.counters["stores_taken"] += accepted
            self.stores.counters["stores_below_promise"] += below
            self.stores.counters["stores_ahead"] += ahead
            self.stores.counters["stores_full"] += full
            self.stores.counters["stores_older"] += len(answers) - accepted - below - ahead - failed - full
        # All at once, after one sync of the disk.
        self.stores.send(answers)
        return 0

    cdef object _answer(self, const Asked *asked, uint8_t status, uint64_t version):
        """The reply; `version`: the one that stands now, or is promised, where there was an outcome."""
        cdef uint8_t message[KDHT_HEADER_LEN + KDHT_RECORD_LEN]
        cdef kdht_header *header = <kdht_header *>message
        cdef kdht_record *record = <kdht_record *>(message + KDHT_HEADER_LEN)
        cdef bint told = (status == KDHT_STATUS_OK or status == KDHT_STATUS_CONFLICT
                          or status == KDHT_STATUS_BAD_VERSION)
        cdef Py_ssize_t length = KDHT_HEADER_LEN + (KDHT_RECORD_LEN if told else 0)
        # No byte of this stack may leave the host.
        memset(message, 0, sizeof(message))
        header.magic, header.version, header.op = htonl(KDHT_MAGIC), KDHT_VERSION, KDHT_OP_STORE
        header.flags, header.hops, header.status = KDHT_FLAG_REPLY, HOPS, status
        # As it came, in network order.
        header.request_id = asked.request_id
        memcpy(header.key, asked.key, KDHT_ID_LEN)
        header.body_len = htons(<uint16_t>(length - KDHT_HEADER_LEN))
        header.client_port = asked.target_port
        memcpy(header.client_ip, asked.target_ip, 16)
        record.version = htobe64(version)
        # The coordinator then does not count this node in its majority.
        if told and not self.stores.holds(asked.key[:KDHT_ID_LEN]):
            record.flags = htonl(KDHT_RECORD_FLAG_BEHIND)
        core_seal(self.stores.core.region, header, <uint32_t>self.now)
        return tuple.__new__(Outgoing, (
            message[:length], make_address(asked.source_ip, asked.source_port),
            make_address(asked.target_ip, asked.target_port)))
