# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""The loop of the socket datapath: receive, decide and send on in batches, without the GIL.

Contract: an Engine borrows bound, prepared UDP sockets and an eventfd. Their maker closes them, while no
thread is in `run` or `send`. One thread calls `run`. One thread at a time calls `send`. Any thread may call
`call_in` and `end`. `run` takes the GIL once for each batch that needs Python; the callables that it gets
must not raise. The datapath reads the clocks here: after each poll, and before one that may wait.

Messages for this node wait in a backlog: members' are handled first, then one of each client in turn. A
request that has waited for more than TOO_OLD is dropped and counted if it is a client's write or read, or a
question for a promise: its sender has tried again or given up. A loop that has not polled for AWAY was
stopped, with its process or its host. Then `on_away` is called before the next datagram is handled, since
other nodes may have gone on without this one.

What may cost little is refused here, before Python: requests above a client's rate, the same message again
and again, requests without a cookie that need one, and many reads of absent keys while others wait.
"""

import os

from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EBADF, EINTR, EMSGSIZE, errno
from libc.math cimport INFINITY, ceil
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from posix.unistd cimport read

from kdht.core._layout cimport (
    KDHT_FLAG_FORWARDED, KDHT_FLAG_PROVEN, KDHT_FLAG_REPLY, KDHT_FORWARD, KDHT_HEADER_LEN, KDHT_ID_LEN,
    KDHT_LOCAL, KDHT_IS_WRITE, KDHT_MAX_BODY, KDHT_MAX_DATAGRAM, KDHT_MAX_OWN, KDHT_OP_FETCH, KDHT_OP_GET,
    KDHT_OP_MEMBERS, KDHT_OP_PROMISE, KDHT_OP_QUORUM_GET, KDHT_OP_WATCH, KDHT_REASON_ATTEMPT_ENDS,
    KDHT_REASON_CONTROL, KDHT_REASON_NEEDS_COOKIE, KDHT_REASON_NOT_READY, KDHT_REASON_OWNER,
    KDHT_PROOF_LEN, KDHT_REASON_RATE_LIMITED, KDHT_RECORD_LEN, KDHT_RELAY, KDHT_STATUS_BUSY,
    KDHT_STATUS_COOKIE_NEEDED, KDHT_STATUS_OK, be64toh, kdht_header, kdht_outcome, kdht_region,
)
from kdht.core._reply cimport Request
from kdht._routing cimport Core, core_bounce, core_decide_message, core_is_own_quote, core_reply
from kdht.storage._cache cimport RecordCache, write_body
from kdht.storage._hot cimport HotTable
from kdht.datapath.socket._backlog cimport Backlog, Local
from kdht.datapath.socket._datagrams cimport make_address, make_datagram
from kdht.datapath.socket._direct cimport Direct
from kdht.datapath.socket._outbox cimport Outbox, flush, flush_bundled, open_outbox, put
from kdht.datapath.socket._rates cimport (
    KDHT_RATE_SECOND, SenderRates, kdht_allowance, kdht_rate_kind_of, kdht_rate_take,
)
from kdht.datapath.socket._seen cimport Replays
from kdht.datapath.socket._udp cimport (
    AF_INET, BATCH, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, Inbox, Name, POLLERR,
    POLLIN, POLLNVAL, SOL_SOCKET, SO_ERROR, Tally, clock_gettime, count_error, family_of, getsockopt,
    htons, is_none, mmsghdr, named_errors, ntohs, open_inbox, poll, pollfd, read_destination,
    read_name, read_stamp, read_unreachable, receive, timespec,
)
from kdht.wire._named cimport item

from kdht.errors import DatapathError

MAX_ENDPOINTS = KDHT_MAX_OWN

cdef enum:
    LONGEST_WAIT = 250  # milliseconds that one poll waits at most
    DRAIN = 8           # batches from one socket before Python gets its turn
    MEMBERS_AT_ONCE = 256
    CLIENTS_AT_ONCE = 64
    ASKED_LEN = 12      # of a MEMBERS: cursor 8, flags 4
    PRESSED = 64        # requests that wait: now reads of absent keys have a limit

MISS_PRICE = 1_000_000_000 // 64
"""Nanoseconds for each read of an absent key: one client gets 64 of them a second while others wait.
Each asks a majority of the replicas. It costs the cluster about nine times as much as a read that finds
its key."""
cdef uint64_t HINT_PRICE = KDHT_RATE_SECOND // 32

cdef double AWAY = 0.5  # seconds without a poll; above LONGEST_WAIT
# The lease of the hot records: so long the program may go on where this loop could, too.
cdef uint64_t LEASE = <uint64_t>(1e9 * AWAY)
cdef uint64_t TRANSIT = 5_000_000  # nanoseconds that the kernel takes from an interface to a socket, and more
cdef double TOO_OLD = 1.0  # seconds in a socket's buffer

cdef const uint8_t *NO_IP = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


# One bound socket, with its bound address and port in network order.
cdef struct Endpoint:
    int fd
    int family
    bint wildcard
    uint16_t port
    uint8_t ip[16]

# An ICMP error: the address that it names, and the request ID of the message that it quotes.
cdef struct Gone:
    Name name
    bint proven         # the quote is of a message that this node sent, and the first one of it
    uint64_t request_id


cdef inline double coarse_now() noexcept nogil:
    """Unix seconds. The coarse clock costs no more than a read of memory, and milliseconds are good
    enough.
    """
    cdef timespec now
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


cdef inline double uptime() noexcept nogil:
    """Seconds since the host started, with the time in which it was suspended. Never runs backwards."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


cdef inline bint is_read(const uint8_t *data, uint8_t reason) noexcept nogil:
    """Whether this is a GET that this node may answer from its own store."""
    return (<const kdht_header *>data).op == KDHT_OP_GET and (
        reason == KDHT_REASON_OWNER or reason == KDHT_REASON_ATTEMPT_ENDS)


cdef inline bint read_cursor(const uint8_t *data, uint64_t *cursor) noexcept nogil:
    """The cursor of a MEMBERS to one node; False: it asks for a majority, or cannot be read."""
    cdef const kdht_header *header = <const kdht_header *>data
    cdef uint32_t flags, length = ntohs(header.body_len)
    cdef uint32_t proof = KDHT_PROOF_LEN if header.flags & KDHT_FLAG_PROVEN else 0
    if length < ASKED_LEN + proof:
        return False
    memcpy(cursor, data + KDHT_HEADER_LEN, 8)
    memcpy(&flags, data + KDHT_HEADER_LEN + 8, 4)
    cursor[0] = be64toh(cursor[0])
    return flags == 0


cdef inline void request_of(Local *local, Request *request) noexcept nogil:
    request.source_ip, request.source_port = local.source_ip, local.source_port
    request.target_ip, request.target_port = local.target_ip, local.target_port
    request.max_reply = local.max_reply


cdef class Engine:
    """Receives from some sockets and sends through them.

    `sockets`: pairs of file descriptor and bound Address, at most MAX_ENDPOINTS. `lane`: the core's lane in
    which `run` counts. `wake_fd`: an eventfd that only the engine uses. `cache`: a GET for one of its
    records is answered in the loop, and a MEMBERS with a reply that it keeps, unless `checks_reads`: then
    `may_read` of `run` is asked first about a GET, and a MEMBERS goes to the receiver.
    `prices`: of clients' requests, as ClientRates has them.
    """

    cdef Core core
    cdef RecordCache cache         # or None
    cdef bint has_cache
    cdef HotTable hot              # the cache's, or None
    cdef bint has_hot
    cdef public bint checks_reads
    cdef SenderRates rates
    cdef SenderRates misses     # of reads of absent keys, while others wait
    cdef Backlog backlog
    cdef Replays replays
    cdef kdht_allowance hints   # ICMP errors that prove nothing
    cdef double now             # Unix seconds, at the last poll
    cdef uint64_t clock         # nanoseconds, by `uptime`, at the last poll
    cdef uint64_t cache_answers, bounced, away, late_reads, late_writes, late_promises
    cdef uint64_t replayed, refused_misses, hints_ignored, overflowed
    cdef double looked          # when `run` polled its sockets last, by `uptime`
    cdef double polled_before   # and the time before that
    cdef bint behind            # more waits in a socket than one round receives
    cdef uint32_t lane
    cdef int count
    cdef int turn               # the endpoint to receive from first, so that none starves
    cdef Endpoint endpoints[KDHT_MAX_OWN]
    cdef pollfd polled[KDHT_MAX_OWN + 1]
    cdef Inbox *inbox
    cdef Outbox *forwards       # of `run`, one for each endpoint
    cdef Outbox *answers        # of `send`
    cdef Tally loop_tally
    cdef Tally send_tally
    cdef Local *local[MEMBERS_AT_ONCE + CLIENTS_AT_ONCE]
    cdef int local_count
    cdef Gone gone[BATCH]
    cdef int gone_count
    cdef double due             # when `run` calls its `on_time`, by `uptime`; INFINITY: not
    cdef unsigned long runner   # the thread that is in `run`
    cdef bint ended

    def __cinit__(self, Core core not None, lane: int, sockets, wake_fd: int, RecordCache cache=None,
                  prices=(0, 0, 0)):
        self.core = core
        self.rates = SenderRates(prices)
        self.misses = SenderRates((MISS_PRICE, 0, 0))
        self.backlog, self.replays = Backlog(), Replays()
        self.cache = cache
        self.has_cache = cache is not None
        self.hot = None if cache is None else cache.hot
        self.has_hot = self.hot is not None
        self.lane = lane
        self.count = len(sockets)
        if not 1 <= self.count <= KDHT_MAX_OWN:
            raise DatapathError(f"a node has 1 to {KDHT_MAX_OWN} addresses, not {self.count}")
        self.inbox = <Inbox *>calloc(1, sizeof(Inbox))
        self.forwards = <Outbox *>calloc(self.count, sizeof(Outbox))
        self.answers = <Outbox *>calloc(self.count, sizeof(Outbox))
        if self.inbox is NULL or self.forwards is NULL or self.answers is NULL:
            raise MemoryError
        self.polled[self.count].fd = wake_fd
        self.polled[self.count].events = POLLIN
        for index, (fd, address) in enumerate(sockets):
            self._add(index, fd, address.ip, address.port)
        open_inbox(self.inbox)

    def __dealloc__(self):
        free(self.inbox)
        free(self.forwards)
        free(self.answers)

    cdef _add(self, int index, int fd, bytes ip, uint16_t port):
        cdef Endpoint *endpoint = &self.endpoints[index]
        if len(ip) != 16:
            raise ValueError(f"an address has 16 bytes, not {len(ip)}")
        memcpy(endpoint.ip, <const uint8_t *>ip, 16)
        endpoint.fd = fd
        endpoint.port = htons(port)
        endpoint.family = family_of(endpoint.ip)
        endpoint.wildcard = memcmp(endpoint.ip + 12, NO_IP, 4) == 0 and (
            endpoint.family == AF_INET or is_none(endpoint.ip))
        self.polled[index].fd = fd
        self.polled[index].events = POLLIN
        open_outbox(&self.forwards[index], fd)
        open_outbox(&self.answers[index], fd)

    def run(self, receiver, on_unreachable, on_away, reader=None, on_time=None, may_read=None,
            Direct direct=None) -> None:
        """Treat datagrams until `end` is called. Raises OSError if a socket is no more.

        `receiver` gets each batch's local messages, but for GETs that the `reader` (base.Reader) has
        records for; `on_unreachable` gets a list of Addresses, each with the request ID of a message to it
        that an ICMP error proves to be lost, or None: a hint. `on_away` is called before anything is
        treated that came while the loop was away. `on_time` is called at the start and when
        `call_in` said so; it may return in how many seconds to call it again.
        `direct` is offered each batch first; the receiver and the reader get what it leaves.
        `may_read` (base.MayRead) is asked while `checks_reads`; without it no GET is answered here then.
        """
        self.runner = PyThread_get_thread_ident()
        self.due = INFINITY if on_time is None else 0.0
        self.looked = self.polled_before = uptime()
        try:
            self._run(receiver, on_unreachable, on_away, reader, on_time, may_read, direct)
        finally:
            # A later thread may get the same number: it must not take the loop's way of sending.
            self.runner = 0
            if self.has_hot:
                self.hot.renew(0)

    cdef _run(self, receiver, on_unreachable, on_away, reader, on_time, may_read, Direct direct):
        cdef int state
        while True:
            with nogil:
                state = self._work()
            if state < 0:
                raise OSError(-state, os.strerror(-state))
            if state == 2:
                on_away()
            if self.local_count and direct is not None:
                direct.take(self.local, self.local_count)
                self._drop_taken()
            if self.local_count and reader is not None:
                self._answer_reads(reader, may_read)
            if self.local_count:
                receiver(self._take_local())
            if self.gone_count:
                on_unreachable(self._take_gone())
            if state == 0:
                return
            if self.due <= self.looked:
                self.due = INFINITY
                seconds = on_time()
                if seconds is not None:
                    self.call_in(seconds)

    def call_in(self, seconds: float) -> None:
        """Have `on_time` called within so many seconds. Costs no system call on `run`'s own thread."""
        cdef double due = uptime() + <double>seconds
        if due < self.due:
            self.due = due
            # Its own thread looks at `due` before it polls again; another one has to wake it.
            if PyThread_get_thread_ident() != self.runner:
                self._wake()

    def end(self) -> None:
        """Make `run` return, now or as soon as it begins."""
        self.ended = True
        self._wake()

    cdef _wake(self):
        os.eventfd_write(self.polled[self.count].fd, 1)

    def is_here(self) -> bool:
        """Whether this is the thread that is in `run`."""
        return PyThread_get_thread_ident() == self.runner

    def send(self, list batch) -> int:
        """Send `base.Outgoing`s. Returns how many were sent. Raises ValueError for an address of a wrong
        length.
        """
        # The loop's own thread has boxes of its own, which are empty while it is in Python: it waits for no
        # other sender.
        if PyThread_get_thread_ident() == self.runner:
            return self._send(batch, self.forwards, &self.loop_tally)
        return self._send(batch, self.answers, &self.send_tally)

    cdef _send(self, list batch, Outbox *boxes, Tally *tally):
        cdef uint64_t before = tally.sent
        cdef Py_ssize_t start, i
        cdef list held = []     # bytes that no Outgoing holds, until they are sent
        try:
            for start in range(0, len(batch), BATCH):
                for i in range(start, min(start + BATCH, len(batch))):
                    self._stage(batch[i], held, boxes, tally)
                with nogil:
                    self._flush_bundled(boxes, tally)
        finally:
            for i in range(self.count):
                boxes[i].count = 0
        return tally.sent - before

    def counters(self) -> dict:
        """Counters since the start: numbers, and for errors a number for each errno."""
        cdef Tally *a = &self.loop_tally
        cdef Tally *b = &self.send_tally
        return {
            "received": a.received,
            "sent": a.sent + b.sent,
            "not_unicast": a.not_unicast,
            "unroutable": a.unroutable + b.unroutable,
            "unreachable": a.unreachable,
            "bounced": self.bounced,
            "cache_answers": self.cache_answers,
            "away": self.away,
            "late_reads": self.late_reads,
            "late_writes": self.late_writes,
            "late_promises": self.late_promises,
            "crowded_out": self.backlog.crowded_out + self.overflowed,
            "refused_misses": self.refused_misses,
            "replayed": self.replayed,
            "hints_ignored": self.hints_ignored,
            "receive_errors": named_errors(a.receive_errors, b.receive_errors),
            "send_errors": named_errors(a.send_errors, b.send_errors),
        }

    # --- The loop ---

    cdef int _work(self) noexcept nogil:
        """Go round until Python is wanted (1), or is to hear that the loop was away (2), or the end is (0).

        Or fail (-errno).
        """
        cdef int index, wait
        cdef short events
        cdef uint64_t woken
        while True:
            wait = 0 if self.backlog.waiting or self.backlog.members.count else self._milliseconds()
            if poll(self.polled, self.count + 1, wait) < 0:
                if errno == EINTR:
                    continue
                return -errno
            # Before any datagram is handled: other nodes may have gone on without this one.
            if self._was_away():
                return 2
            if self.polled[self.count].revents:
                read(self.polled[self.count].fd, &woken, sizeof(woken))
                if self.ended:
                    return 0
            self.behind = False
            for _ in range(self.count):
                index = self.turn
                # In turn, so that a busy endpoint starves no other.
                self.turn = (self.turn + 1) % self.count
                events = self.polled[index].revents
                if events & POLLNVAL:
                    return -EBADF
                if events & POLLERR:
                    self._drain_errors(self.endpoints[index].fd)
                if events & POLLIN and self._drain(&self.endpoints[index]) < 0:
                    return -EBADF
            if self.has_hot and not self.behind:
                # What came before this poll began, it saw; and all is read that it saw.
                self.hot.note_drained(<uint64_t>(1e9 * self.polled_before) - TRANSIT)
            self._gather(self.now)
            if self.local_count or self.gone_count or self.due <= self.looked:
                return 1

    cdef int _drain(self, const Endpoint *endpoint) noexcept nogil:
        """Receive what waits in the kernel, in some batches. -1 if the socket is closed."""
        cdef int count
        for _ in range(DRAIN):
            count = self._serve(endpoint)
            if count < BATCH:
                return count
        self.behind = True
        return 0

    cdef void _gather(self, double now) noexcept nogil:
        """Choose what Python gets next: members' messages, then requests of clients that are not too old."""
        cdef Local *message
        cdef int clients = 0
        while self.local_count < MEMBERS_AT_ONCE:
            message = self.backlog.take_member()
            if message is NULL:
                break
            self.local[self.local_count] = message
            self.local_count += 1
        while clients < CLIENTS_AT_ONCE:
            message = self.backlog.take_client()
            if message is NULL:
                return
            if self._is_late(message.came, message.data, message.length, now):
                self.backlog.drop(message)
                continue
            self.local[self.local_count] = message
            self.local_count += 1
            clients += 1

    cdef bint _was_away(self) noexcept nogil:
        """Whether the loop was stopped for so long that other nodes may have gone on without this one.

        Sets the clocks by which all that the poll found is treated.
        """
        cdef double before = self.looked
        self.looked, self.now = uptime(), coarse_now()
        self.clock = <uint64_t>(1e9 * self.looked)
        if self.looked - before < AWAY:
            self.polled_before = before
            if self.has_hot:
                self.hot.renew(self.clock + LEASE)
            return False
        if self.has_hot:
            self.hot.renew(0)  # not before the node knows
        self.away += 1
        return True

    cdef inline int _milliseconds(self) noexcept nogil:
        """Milliseconds until `on_time` is due, rounded up, at most LONGEST_WAIT. 0: it is due."""
        cdef double left
        if self.due == INFINITY:
            return LONGEST_WAIT
        left = self.due - uptime()
        return 0 if left <= 0 else <int>ceil(1000 * min(left, <double>LONGEST_WAIT / 1000))

    cdef int _serve(self, const Endpoint *endpoint) noexcept nogil:
        """Receive one batch from one endpoint, decide, and send on. -1 if the socket is closed."""
        cdef int i, count = receive(endpoint.fd, self.inbox, &self.loop_tally)
        for i in range(count):
            self._treat(endpoint, i, self.now)
        self._flush(self.forwards, &self.loop_tally)
        return count

    cdef void _treat(self, const Endpoint *endpoint, int i, double now) noexcept nogil:
        """Handle one datagram. A datagram longer than ROOM arrives cut to ROOM, which the core finds too
        long. One from outside with a source of this host arrives empty (outside.py), so all others of such a
        source are from inside.
        """
        cdef mmsghdr *header = &self.inbox.headers[i]
        cdef uint8_t *data = self.inbox.data[i]
        cdef kdht_outcome out
        cdef Request came
        cdef uint8_t source_ip[16]
        cdef uint8_t target_ip[16]
        cdef int verdict
        came.source_ip, came.target_ip, came.target_port = source_ip, target_ip, endpoint.port
        read_name(&self.inbox.slots[i].name, source_ip, &came.source_port)
        if not read_destination(&header.msg_hdr, endpoint.family, target_ip):
            self.loop_tally.not_unicast += 1
            return
        if self._is_too_much(data, header.msg_len, source_ip):
            return
        memset(&out, 0, sizeof(out))
        verdict = core_decide_message(self.core.region, self.lane, data, header.msg_len,
                                      source_ip, came.source_port, target_ip, came.target_port,
                                      header.msg_len > 0, <uint32_t>now, &out)
        came.max_reply = out.max_reply
        if verdict == KDHT_FORWARD or verdict == KDHT_RELAY:
            if verdict == KDHT_RELAY or not self._is_late(
                    read_stamp(&header.msg_hdr), data, header.msg_len, now):
                self._post(self.forwards, &self.loop_tally, data, header.msg_len,
                           out.source_ip, out.source_port, out.target_ip, out.target_port)
        elif verdict == KDHT_LOCAL and out.reason != KDHT_REASON_NOT_READY:
            self._keep(data, header.msg_len, read_stamp(&header.msg_hdr), out.reason, &came, now)

    cdef bint _is_too_much(self, const uint8_t *data, uint32_t length,
                           const uint8_t *source_ip) noexcept nogil:
        """Whether a client has sent more than it may. Before all other checks: what is too much must cost
        little."""
        cdef const kdht_header *message = <const kdht_header *>data
        cdef kdht_region *region
        if self.rates.senders is NULL or length < KDHT_HEADER_LEN or message.flags & KDHT_FLAG_FORWARDED:
            return False
        if self.rates.take(source_ip, kdht_rate_kind_of(message.op), self.clock):
            return False
        region = self.core.region
        region.lanes[self.lane].reasons[<int>KDHT_REASON_RATE_LIMITED] += 1
        return True

    cdef void _keep(self, uint8_t *data, uint32_t length, double stamp, uint8_t reason, const Request *came,
                    double now) noexcept nogil:
        """Answer a message for this node at once, or put it into the backlog."""
        cdef Local *message
        if self._is_late(stamp, data, length, now):
            return
        if self.replays.is_copy(data, length, came, <uint32_t>now):
            self.replayed += 1
            return
        if reason == KDHT_REASON_NEEDS_COOKIE:
            self._reply(data, came, KDHT_STATUS_COOKIE_NEEDED, NULL, 0, now)
            return
        if self.has_cache and not self.checks_reads and self._answer(data, reason, came, now):
            return
        message = self.backlog.make()
        if message is NULL:
            self.overflowed += 1
            return
        memcpy(message.data, data, length)
        message.length, message.came = length, stamp
        message.reason, message.max_reply = reason, came.max_reply
        message.source_port, message.target_port = came.source_port, came.target_port
        memcpy(message.source_ip, came.source_ip, 16)
        memcpy(message.target_ip, came.target_ip, 16)
        if reason == KDHT_REASON_CONTROL:
            self.backlog.add_member(message)
        elif (<const kdht_header *>data).flags & KDHT_FLAG_FORWARDED:
            self.backlog.add_client(message, (<const kdht_header *>data).client_ip)
        else:
            self.backlog.add_client(message, message.source_ip)

    cdef bint _is_late(self, double came, const uint8_t *data, uint32_t length, double now) noexcept nogil:
        """Whether a valid request has waited too long; then it is counted.

        Its sender has repeated it or given up. A process that was stopped finds such requests when it goes
        on. A write without a version of its own would get a version of now, and undo newer writes.
        """
        cdef const kdht_header *message = <const kdht_header *>data
        if came == 0 or now - came <= TOO_OLD or message.flags & KDHT_FLAG_REPLY:
            return False
        if KDHT_IS_WRITE(message.op):
            self.late_writes += 1
        elif message.op == KDHT_OP_PROMISE and length == KDHT_HEADER_LEN + KDHT_RECORD_LEN:
            self.late_promises += 1  # one that is given back is longer, and never too late
        elif (message.op == KDHT_OP_GET or message.op == KDHT_OP_QUORUM_GET or message.op == KDHT_OP_WATCH
              or message.op == KDHT_OP_MEMBERS or message.op == KDHT_OP_FETCH):
            self.late_reads += 1
        else:
            return False
        return True

    cdef bint _answer(self, uint8_t *data, uint8_t reason, const Request *came, double now) noexcept nogil:
        """Answer a GET for a cached record, or a MEMBERS with a kept reply, in place. False for all else."""
        cdef uint8_t body[KDHT_MAX_BODY]
        cdef const kdht_header *header = <const kdht_header *>data
        cdef uint64_t cursor
        cdef int length
        if is_read(data, reason):
            length = self.cache.look_up(header.key, now, body)
        elif header.op == KDHT_OP_MEMBERS and reason == KDHT_REASON_OWNER and read_cursor(data, &cursor):
            length = self.cache.members.look_up(
                header.key, cursor, be64toh(header.request_id), came.max_reply, now, body)
        else:
            return False
        if length < 0 or length > came.max_reply:
            return False
        self.cache_answers += 1
        self._reply(data, came, KDHT_STATUS_OK, body, <uint32_t>length, now)
        return True

    cdef void _reply(self, uint8_t *data, const Request *came, uint8_t status, const uint8_t *body,
                     uint32_t length, double now) noexcept nogil:
        """Turn a request into its reply, in place, and post it. The body fits its `max_reply`."""
        cdef kdht_outcome out
        memset(&out, 0, sizeof(out))
        length = core_reply(
            self.core.region, self.lane, data, came, status, body, length, <uint32_t>now, &out)
        self._post(self.forwards, &self.loop_tally, data, length,
                   out.source_ip, out.source_port, out.target_ip, out.target_port)

    cdef void _drain_errors(self, int fd) noexcept nogil:
        """Read a batch from a socket's error queue, and clear its pending error."""
        cdef int pending
        cdef uint32_t length = sizeof(pending), quoted
        cdef bint more = True
        cdef uint8_t *data
        cdef Gone *gone
        while more and self.gone_count < BATCH:
            data = self.inbox.data[self.gone_count]  # free: this comes before what is received
            gone = &self.gone[self.gone_count]
            if read_unreachable(fd, &gone.name, data, &quoted, &more):
                self.loop_tally.unreachable += 1
                if self._believes(gone, data, quoted, self.now):
                    self.gone_count += 1
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &pending, &length)
        self._flush(self.forwards, &self.loop_tally)

    cdef bint _believes(self, Gone *gone, uint8_t *data, uint32_t length, double now) noexcept nogil:
        """Whether an ICMP error is worth a look.

        Anybody can forge one. It proves something only if it quotes a message that this node sent, by its
        tag, for the first time. Any other is a hint, and hints are few.
        """
        cdef const kdht_header *header = <const kdht_header *>data
        gone.proven = (core_is_own_quote(self.core.region, self.lane, data, length, <uint32_t>now)
                       and not self.replays.is_known_quote(data))
        if gone.proven:
            gone.request_id = be64toh(header.request_id)
            self._bounce(data, length, now)
        elif not kdht_rate_take(&self.hints, self.clock, HINT_PRICE):
            self.hints_ignored += 1
            return False
        return True

    cdef void _bounce(self, uint8_t *data, uint32_t length, double now) noexcept nogil:
        """Tell the client of a request that met a closed port, so that it tries another route at once."""
        cdef kdht_outcome out
        memset(&out, 0, sizeof(out))
        length = core_bounce(self.core.region, self.lane, data, length, <uint32_t>now, &out)
        if length:
            self.bounced += 1
            self._post(self.forwards, &self.loop_tally, data, length,
                       out.source_ip, out.source_port, out.target_ip, out.target_port)

    # --- Sending ---

    cdef int _choose(self, const uint8_t *source_ip, uint16_t source_port, int family) noexcept nogil:
        """The endpoint to send through: one bound to the source, else to any address, else of the IP
        version.
        """
        cdef int i, rank, best = -1, best_rank = -1
        cdef const Endpoint *endpoint
        for i in range(self.count):
            endpoint = &self.endpoints[i]
            if endpoint.family != family:
                continue
            rank = 4 * (memcmp(endpoint.ip, source_ip, 16) == 0) + 2 * endpoint.wildcard + (
                endpoint.port == source_port)
            if rank > best_rank:
                best, best_rank = i, rank
        return best

    cdef void _post(self, Outbox *boxes, Tally *tally, uint8_t *data, size_t length,
                    const uint8_t *source_ip, uint16_t source_port,
                    const uint8_t *target_ip, uint16_t target_port) noexcept nogil:
        """Put a datagram into its endpoint's outbox. The caller flushes after at most BATCH."""
        cdef int index = self._choose(source_ip, source_port, family_of(target_ip))
        if index < 0:
            tally.unroutable += 1
            return
        if is_none(source_ip) or memcmp(source_ip, self.endpoints[index].ip, 16) == 0:
            source_ip = NULL
        put(&boxes[index], data, length, source_ip, target_ip, target_port)

    cdef void _flush(self, Outbox *boxes, Tally *tally) noexcept nogil:
        cdef int i
        for i in range(self.count):
            if boxes[i].count:
                flush(self.endpoints[i].fd, &boxes[i], tally)

    cdef void _flush_bundled(self, Outbox *boxes, Tally *tally) noexcept nogil:
        """For the node's own messages. What is sent on for others is not bundled: a closed port on this host
        is told for the first datagram of a bundle alone, and so only one client would hear of it.
        """
        cdef int i
        for i in range(self.count):
            if boxes[i].count:
                flush_bundled(self.endpoints[i].fd, &boxes[i], tally)

    cdef int _stage(self, outgoing, list held, Outbox *boxes, Tally *tally) except -1:
        """Post one Outgoing."""
        cdef object given = item(outgoing, 0)
        cdef bytes data = given if type(given) is bytes else bytes(given)
        cdef bytes target_ip, source_ip = None
        cdef const uint8_t *source_at = NO_IP
        cdef uint16_t source_port = 0
        target, source = item(outgoing, 1), item(outgoing, 2)
        target_ip = item(target, 0)
        if source is not None:
            source_ip, source_port = item(source, 0), item(source, 1)
            source_at = source_ip
        if len(target_ip) != 16 or (source is not None and len(source_ip) != 16):
            raise ValueError("an address has 16 bytes")
        if len(data) > KDHT_MAX_DATAGRAM:
            count_error(tally.send_errors, EMSGSIZE, 1)
            return 0
        if data is not given:
            held.append(data)
        self._post(boxes, tally, data, len(data), source_at, htons(source_port),
                   <const uint8_t *>target_ip, htons(item(target, 1)))
        return 0

    # --- What came up ---

    cdef void _drop_taken(self) noexcept nogil:
        """Drop what has no length any more; the others move together at the front."""
        cdef int i, left = 0
        for i in range(self.local_count):
            if self.local[i].length == 0:
                self.backlog.drop(self.local[i])
            else:
                self.local[left] = self.local[i]
                left += 1
        self.local_count = left

    cdef _answer_reads(self, reader, may_read):
        """Answer the batch's GETs that have records. The other messages move together at the front."""
        cdef int i, left = 0, answered = 0
        cdef Local *local
        cdef Request came
        cdef uint8_t body[KDHT_MAX_BODY]
        cdef bint wanted[MEMBERS_AT_ONCE + CLIENTS_AT_ONCE]
        cdef double now = self.now
        cdef list keys = [], rooms = []
        for i in range(self.local_count):
            local = self.local[i]
            wanted[i] = is_read(local.data, local.reason) and local.max_reply >= KDHT_RECORD_LEN
            if wanted[i] and self.checks_reads:
                # The cache was not asked in the loop: nothing is read for a stranger.
                wanted[i] = may_read is not None and may_read(local.data[:local.length], now)
                request_of(local, &came)
                if wanted[i] and self.has_cache and self._answer(local.data, local.reason, &came, now):
                    local.length = 0
                    answered += 1
                    continue
            if wanted[i]:
                keys.append((<kdht_header *>local.data).key[:KDHT_ID_LEN])
                rooms.append(local.max_reply - KDHT_RECORD_LEN)
        if not keys and not answered:
            return
        records = iter(reader(keys, rooms, now)) if keys else None
        for i in range(self.local_count):
            local = self.local[i]
            if local.length == 0:
                continue
            record = next(records) if wanted[i] else None
            request_of(local, &came)
            if record is not None:
                version, expiry, flags, value = record
                size = write_body(
                    body, version, expiry, flags, <const uint8_t *>(<bytes>value), len(value), now)
                self._reply(local.data, &came, KDHT_STATUS_OK, body, size, now)
            elif wanted[i] and self._is_miss_too_much(local):
                self._reply(local.data, &came, KDHT_STATUS_BUSY, NULL, 0, now)
            else:
                self.local[left], self.local[i] = local, self.local[left]
                left += 1
        with nogil:
            self._flush(self.forwards, &self.loop_tally)
        # Not before: their bytes are sent from there.
        for i in range(left, self.local_count):
            self.backlog.drop(self.local[i])
        self.local_count = left

    cdef bint _is_miss_too_much(self, const Local *local) noexcept nogil:
        """Whether a client has read too many absent keys while others wait."""
        cdef const kdht_header *message = <const kdht_header *>local.data
        cdef const uint8_t *client = &local.source_ip[0]
        if message.flags & KDHT_FLAG_FORWARDED:
            client = &message.client_ip[0]
        if self.backlog.waiting < PRESSED or self.misses.take(client, 0, self.clock):
            return False
        self.refused_misses += 1
        return True

    cdef list _take_local(self):
        """The batch's local messages as base.Datagrams."""
        cdef int i
        cdef Local *local
        cdef list batch = []
        for i in range(self.local_count):
            local = self.local[i]
            batch.append(make_datagram(local))
            self.backlog.drop(local)
        self.local_count = 0
        return batch

    cdef list _take_gone(self):
        """Addresses, each with the request ID that the quote proves, or None."""
        cdef int i
        cdef uint8_t ip[16]
        cdef uint16_t port
        cdef Gone *gone
        cdef list batch = []
        for i in range(self.gone_count):
            gone = &self.gone[i]
            read_name(&gone.name, ip, &port)
            batch.append((make_address(ip, port), gone.request_id if gone.proven else None))
        self.gone_count = 0
        return batch
