# cython: language_level=3, boundscheck=False, wraparound=False
"""Many requests of one datagram each through one connected UDP socket: sent and received in batches.

`PlainBulkSocket` (_plain_bulk) does the same without Cython, and is the oracle of its tests. A request
without an answer is only noted: others decide what becomes of it (_transfer).
"""

from libc.errno cimport EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETUNREACH, errno
from libc.math cimport INFINITY
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from kdht.wire import OFFSET
from kdht.wire._shared import HEADER_LEN, ID_LEN, MAX_DATAGRAM, Flag

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *headers, unsigned int count, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *headers, unsigned int count, int flags)

cdef enum:
    BATCH = 64
    ROOM = 1280         # above the longest datagram, so that one that is too long is seen
    MOST = 1 << 30
    SEND_TRIES = 3      # of one batch: an earlier datagram's ICMP error fails a send that is good

cdef Py_ssize_t OP = OFFSET["op"], FLAGS = OFFSET["flags"], ID = OFFSET["request_id"], KEY = OFFSET["key"]
cdef Py_ssize_t STATUS = OFFSET["status"], BODY_LEN = OFFSET["body_len"], COOKIE = OFFSET["cookie"]
cdef Py_ssize_t HEADER = HEADER_LEN, KEY_LEN = ID_LEN
cdef uint8_t REPLY_FLAGS = int(Flag.REPLY | Flag.FORWARDED)
assert MAX_DATAGRAM < ROOM


cdef struct Batch:
    mmsghdr headers[BATCH]
    iovec vectors[BATCH]
    uint8_t data[BATCH][ROOM]


cdef class UnderWay:
    """One request that was sent, or is about to be."""

    cdef bytes message
    cdef object tag
    cdef double sent


cdef class BulkSocket:
    """`fd`: a connected UDP socket that does not block; who made it closes it. Times are steady seconds."""

    cdef int fd
    cdef Batch *batch
    cdef dict flying            # request ID, 8 bytes: UnderWay; the oldest first
    cdef list staged            # of those, what still has to be sent
    cdef bint _is_refused

    def __cinit__(self, int fd):
        cdef int i
        self.fd, self.flying, self.staged = fd, {}, []
        self.batch = <Batch *>calloc(1, sizeof(Batch))
        if self.batch == NULL:
            raise MemoryError
        for i in range(BATCH):
            self.batch.headers[i].msg_hdr.msg_iov = &self.batch.vectors[i]
            self.batch.headers[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.batch)

    def __len__(self):
        return len(self.flying)

    @property
    def is_refused(self) -> bool:
        """Whether the port was found closed since `take_all`."""
        return self._is_refused

    @property
    def oldest(self) -> float:
        """When the oldest request under way was sent; infinity without one."""
        for each in self.flying.values():
            return (<UnderWay>each).sent
        return INFINITY

    def stage(self, bytes message not None, tag, double now) -> None:
        """Send this request with the next `flush`. `tag` comes back with its answer."""
        cdef UnderWay new = UnderWay.__new__(UnderWay)
        new.message, new.tag, new.sent = message, tag, now
        self.flying[message[ID:ID + 8]] = new
        self.staged.append(new)

    def flush(self) -> None:
        """Send what is staged. What finds no room in the socket's buffer stays staged."""
        cdef Py_ssize_t at = 0
        cdef int count, i, sent, tries = 0
        cdef list staged = self.staged
        cdef bytes message
        cdef Batch *batch = self.batch
        while at < len(staged):
            count = <int>min(len(staged) - at, BATCH)
            for i in range(count):
                message = (<UnderWay>staged[at + i]).message
                batch.vectors[i].iov_base = <uint8_t *>message
                batch.vectors[i].iov_len = len(message)
            with nogil:
                sent = sendmmsg(self.fd, batch.headers, count, MSG_DONTWAIT)
            if sent > 0:
                at += sent
                tries = 0
            elif errno == EAGAIN:
                break
            elif errno in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN) and tries < SEND_TRIES:
                self._is_refused = True
                tries += 1
            elif errno != EINTR:
                at += 1         # as if the network had lost it
                tries = 0
        del staged[:at]

    def receive(self) -> list:
        """The answers that wait in the socket, at most BATCH of them: (tag, status, body, cookie, when sent).

        Untrusted: what has not the request ID, op and key of a request under way is dropped.
        """
        cdef int count, i
        cdef list answers = []
        cdef Batch *batch = self.batch
        for i in range(BATCH):
            batch.vectors[i].iov_base = batch.data[i]
            batch.vectors[i].iov_len = ROOM
        while True:
            with nogil:
                count = recvmmsg(self.fd, batch.headers, BATCH, MSG_DONTWAIT, NULL)
            if count >= 0:
                break
            if errno in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN):
                self._is_refused = True
                return answers
            if errno != EINTR:
                return answers
        for i in range(count):
            self._take(answers, batch.data[i], batch.headers[i].msg_len)
        return answers

    cdef int _take(self, list answers, const uint8_t *data, Py_ssize_t length) except -1:
        cdef UnderWay asked
        cdef const uint8_t *message
        cdef bytes number
        if length < HEADER or HEADER + (data[BODY_LEN] << 8 | data[BODY_LEN + 1]) != length:
            return 0
        number = data[ID:ID + 8]
        found = self.flying.get(number)
        if found is None:
            return 0
        asked = found
        message = asked.message
        # Magic and version, op, key: as in the request. Request IDs are random: nobody can guess an answer.
        if (memcmp(data, message, OP + 1) or data[FLAGS] != REPLY_FLAGS
                or memcmp(data + KEY, message + KEY, KEY_LEN)):
            return 0
        del self.flying[number]
        cookie = int.from_bytes(data[COOKIE:COOKIE + 8], "big")
        answers.append((asked.tag, data[STATUS], data[HEADER:length], cookie, asked.sent))
        return 1

    def take_late(self, double before, int most=MOST) -> list:
        """Forget the oldest requests that were sent before then, at most so many; their tags."""
        cdef list late = []
        for number, each in self.flying.items():
            if (<UnderWay>each).sent >= before or len(late) == most:
                break
            late.append((number, (<UnderWay>each).tag))
        return self._forget(late)

    def take_all(self) -> list:
        """Forget all requests under way, and that the port was closed; their tags."""
        self._is_refused = False
        return self._forget([(number, (<UnderWay>each).tag) for number, each in self.flying.items()])

    cdef list _forget(self, list pairs):
        for number, _ in pairs:
            del self.flying[number]
        if self.staged:
            self.staged = [each for each in self.staged if (<UnderWay>each).message[ID:ID + 8] in self.flying]
        return [tag for _, tag in pairs]
