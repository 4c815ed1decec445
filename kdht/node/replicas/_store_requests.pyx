# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""A replica's part of a write: from a batch of STOREs to the answers.

Contract: `take` is called on the thread that received the batch. Its STOREs become one job of the writer. The
writer reports the outcomes on its own thread. There the answers are made, and leave together. Other messages
and STOREs that are malformed or lack their certificate are returned untouched. For those
`untrusted_store` says what is wrong.
"""

from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
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

from kdht.datapath.base import Outgoing
from kdht.errors import BadPacket, MissingLibrary, StorageError
from kdht.node.messages import CONTROL_HOPS
from kdht.storage import StoredRecord, Write
from kdht.storage.versions import micros
from kdht.wire.certified import check_certified
from kdht.wire.limits import MAX_CLOCK_ERROR

cdef uint8_t HOPS = CONTROL_HOPS
cdef uint32_t CERTIFIED_KINDS = KDHT_RECORD_FLAG_IMMUTABLE | KDHT_RECORD_FLAG_SIGNED


cdef inline object item(object named, Py_ssize_t place):
    """A field of a NamedTuple, by its place; nothing is checked."""
    return <object>PyTuple_GET_ITEM(named, place)


cdef bint is_proven(bytes key, uint64_t version, uint32_t flags, bytes value) except -1:
    """Whether the certificate of a self-certified record is right."""
    try:
        check_certified(key, version, flags, value)
    except (BadPacket, MissingLibrary):
        return False
    return True


cdef inline uint64_t version_of(request) except? 0:
    """The version in a sound STORE."""
    cdef bytes data = item(request, 0)
    return be64toh((<const kdht_record *>(<const uint8_t *>data + KDHT_HEADER_LEN)).version)


cdef class StoreRequests:
    """Takes STOREs for the node whose addresses `own` has.

    `submit` is Writer.submit, `send` Transport.send, `clock` a HybridClock, `counters` has "stores_taken",
    "stores_older", "stores_below_promise", "stores_ahead" and "stores_full", `deletion` is Recent.deletion.
    `holds` tells whether this node has caught up on a key, or holds it still. Any thread.
    """

    cdef Core core
    cdef frozenset own
    cdef object submit, send, clock, counters, deletion, holds

    def __cinit__(
        self, Core core not None, frozenset own not None, submit, send, clock, counters, deletion, holds
    ):
        self.core, self.own = core, own
        self.submit, self.send, self.clock, self.counters = submit, send, clock, counters
        self.deletion, self.holds = deletion, holds

    def take(self, batch, now: float) -> list:
        """Have the STOREs of a batch of Datagrams written at `now`, Unix seconds; gives back the others."""
        cdef list writes = [], taken = [], rest = []
        cdef uint64_t version = 0, newest = 0, followed = micros(now) + MAX_CLOCK_ERROR
        for request in batch:
            # Checked on this thread: one malformed STORE must not fail the group that it would be written
            # with.
            write = self._write(request, &version)
            if write is None:
                rest.append(request)
                continue
            # A version from farther ahead may still be stored, but the node's clock does not follow it.
            if version <= followed:
                newest = max(newest, version)
            writes.append(write)
            taken.append(request)
        if taken:
            # So a version made here later is above it.
            self.clock.seen(newest, now)
            job = Taken(self, taken, now)
            if not self.submit(writes, now, job):
                # The queue is bounded: the coordinator is told BUSY, and asks again.
                job(None)
        return rest

    cdef object _write(self, request, uint64_t *version):
        """The Write that a sound STORE asks for; None of anything else."""
        cdef bytes data = item(request, 0)
        cdef const kdht_header *header = <const kdht_header *><const uint8_t *>data
        cdef const kdht_record *record
        cdef Py_ssize_t length = len(data)
        cdef uint32_t flags
        cdef Py_ssize_t begin = KDHT_HEADER_LEN + KDHT_RECORD_LEN
        cdef uint64_t number
        cdef object nonce = None
        if length < KDHT_HEADER_LEN + KDHT_RECORD_LEN or header.op != KDHT_OP_STORE:
            return None
        if header.flags & KDHT_FLAG_REPLY:
            return None
        # The tag covers the client fields, so a captured STORE cannot be sent from elsewhere.
        if not self._is_sound(header, item(request, 1), item(request, 2)):
            return None
        record = <const kdht_record *>(<const uint8_t *>data + KDHT_HEADER_LEN)
        version[0], flags = be64toh(record.version), ntohl(record.flags)
        # It says how to store the record, and is no part of it.
        soft = flags == KDHT_RECORD_FLAG_SOFT
        if soft:
            flags = 0
        # A conditional write is taken only under its own promise, so its nonce goes to the store.
        if flags & KDHT_RECORD_FLAG_DECIDED:
            if length < begin + KDHT_CONDITION_LEN:
                return None
            memcpy(&number, <const uint8_t *>data + begin, KDHT_CONDITION_LEN)
            nonce = be64toh(number)
            begin += KDHT_CONDITION_LEN
            flags ^= KDHT_RECORD_FLAG_DECIDED
        value = data[begin:]
        # The field has seconds of life for clients, and the expiry in Unix seconds between nodes.
        stored = tuple.__new__(StoredRecord, (version[0], ntohl(record.ttl), flags, value))
        if version[0] >> KDHT_CERTIFIED_BIT or flags & CERTIFIED_KINDS:
            if not is_proven(header.key[:KDHT_ID_LEN], version[0], flags, value):
                return None
            version[0] = 0  # it is no time: the clock must not follow it
        elif version[0] == 0 or flags & ~<uint32_t>KDHT_RECORD_FLAG_TOMBSTONE:
            return None
        elif flags and length > begin:
            return None
        return tuple.__new__(Write, (header.key[:KDHT_ID_LEN], stored, nonce, soft))

    cdef bint _is_sound(self, const kdht_header *header, source, target) except -1:
        """Whether it came to an own address, from the one that its sender gives as its own."""
        cdef bytes ip = item(source, 0)
        cdef uint16_t port = item(source, 1)
        return (header.client_port == htons(port) and memcmp(header.client_ip, <const uint8_t *>ip, 16) == 0
                and target in self.own)


cdef class Taken:
    """STOREs that are being written: Writer.submit's `done`. An outcome of None says that too many waited."""

    cdef StoreRequests stores
    cdef list requests
    cdef double now

    def __cinit__(self, StoreRequests stores, list requests, double now):
        self.stores, self.requests, self.now = stores, requests, now

    def __call__(self, outcome) -> None:
        cdef list answers = []
        cdef Py_ssize_t i, accepted = 0, below = 0
        cdef uint64_t promised
        cdef Py_ssize_t ahead = 0, failed = 0, full = 0
        cdef bint done = isinstance(outcome, list)
        for i in range(len(self.requests)):
            request = self.requests[i]
            if outcome is None:
                answers.append(self._answer(request, KDHT_STATUS_BUSY, 0))
            elif not done:
                answers.append(self._answer(request, KDHT_STATUS_STORAGE_FAILED, 0))
            else:
                result = outcome[i]
                if isinstance(result, StorageError):
                    # The record of this key cannot be read. The others of the batch were written.
                    failed += 1
                    answers.append(self._answer(request, KDHT_STATUS_STORAGE_FAILED, 0))
                    continue
                promised = item(result, 3)
                if item(result, 4):
                    full += 1
                    answers.append(self._answer(request, KDHT_STATUS_FULL, 0))
                    continue
                if item(result, 0):
                    accepted += 1
                    self._remember(request, item(result, 1))
                    answers.append(self._answer(request, KDHT_STATUS_OK, item(result, 2)))
                elif promised:
                    if promised < version_of(request):
                        ahead += 1  # beyond what any clock may say: the answer has the time
                    else:
                        below += 1
                    answers.append(self._answer(request, KDHT_STATUS_BAD_VERSION, promised))
                else:
                    answers.append(self._answer(request, KDHT_STATUS_CONFLICT, item(result, 2)))
        if done:
            # Once for the batch: the counter is shared by threads.
            self.stores.counters["stores_taken"] += accepted
            self.stores.counters["stores_below_promise"] += below
            self.stores.counters["stores_ahead"] += ahead
            self.stores.counters["stores_full"] += full
            self.stores.counters["stores_older"] += len(answers) - accepted - below - ahead - failed - full
        # All at once, after one sync of the disk.
        self.stores.send(answers)

    cdef int _remember(self, request, existed) except -1:
        """A deletion that comes here as a client's retry later is answered as it would have been at first."""
        cdef bytes data = item(request, 0)
        cdef const kdht_header *header = <const kdht_header *><const uint8_t *>data
        cdef const kdht_record *record = <const kdht_record *>(<const uint8_t *>data + KDHT_HEADER_LEN)
        if ntohl(record.flags) & KDHT_RECORD_FLAG_TOMBSTONE:
            key = header.key[:KDHT_ID_LEN]
            self.stores.deletion(key, be64toh(record.version), self.now, existed=existed)
        return 0

    cdef object _answer(self, request, uint8_t status, uint64_t version):
        """The reply; `version`: the one that stands now, or is promised, where there was an outcome."""
        source, own = item(request, 1), item(request, 2)
        cdef bytes data = item(request, 0), own_ip = item(own, 0)
        cdef uint16_t own_port = item(own, 1)
        cdef const kdht_header *asked = <const kdht_header *><const uint8_t *>data
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
        header.client_port = htons(own_port)
        memcpy(header.client_ip, <const uint8_t *>own_ip, 16)
        record.version = htobe64(version)
        # The coordinator then does not count this node in its majority.
        if told and not self.stores.holds(asked.key[:KDHT_ID_LEN]):
            record.flags = htonl(KDHT_RECORD_FLAG_BEHIND)
        core_seal(self.stores.core.region, header, <uint32_t>self.now)
        return tuple.__new__(Outgoing, (message[:length], source, own))
