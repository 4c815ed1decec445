# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Verdicts in batches on a netlink socket that the NetfilterQueue package opened and bound.

`QueueLoop.run` takes up to BATCH packets with one recvmmsg. The core rewrites each packet in place, in the
receive buffer. One sendmsg answers all, or a few if they are long. The loop holds no GIL and allocates
nothing. The verdict of a re-addressed packet is built in the bytes before its payload, over the attributes
that were just read. Neighbouring packets that are accepted as they came, or dropped, share one batch verdict.

Contract: every packet that is read gets a verdict. A packet that cannot be parsed is accepted as it came, so
the socket handles it. The kernel's attributes are checked against the received bytes, as any input is. The
counters lie in memory that the daemon maps too.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from kdht._routing cimport (
    KDHT_DROP, KDHT_FORWARD, KDHT_RELAY, Core, core_decide_packet, kdht_outcome, kdht_region,
)
from kdht.datapath.nfqueue._netlink cimport (
    CLOCK_REALTIME_COARSE, MSG_TRUNC, MSG_WAITFORONE, NFNL_SUBSYS_QUEUE, NFQA_CAP_LEN, NFQA_CFG_FLAGS,
    NFQA_CFG_F_FAIL_OPEN, NFQA_CFG_MASK, NFQA_MARK, NFQA_PACKET_HDR, NFQA_PAYLOAD, NFQA_VERDICT_HDR,
    NFQNL_MSG_CONFIG, NFQNL_MSG_PACKET, NFQNL_MSG_VERDICT, NFQNL_MSG_VERDICT_BATCH, NF_ACCEPT, NF_DROP,
    NLA_TYPE_MASK, NLMSG_ERROR, NLM_F_ACK, NLM_F_REQUEST, PR_SET_PDEATHSIG, SOL_SOCKET, SO_RCVTIMEO,
    clock_gettime, htonl, htons, iovec, kdht_nl_flags, kdht_nl_rewrite, kdht_nl_verdict, mmsghdr, msghdr,
    nfgenmsg, nfqnl_msg_packet_hdr, nfqnl_msg_verdict_hdr, nlattr, nlmsgerr, nlmsghdr, prctl, recvmmsg,
    sendmsg, setsockopt, timespec, timeval,
)


cdef enum:
    BATCH = 64
    ANSWER_BYTES = 30000   # a larger answer costs the kernel an allocation of many pages
    ROOM = 64              # before each slot, so that a rewrite's headers fit whatever was received
    SLOT = 2048            # a message with COPY_RANGE bytes of packet
    COPY_RANGE_BYTES = 1536  # a whole Ethernet frame; longer packets are accepted unread
    FLAGS_SEQ = 0x6b646874
    LOOK_UP_US = 100000    # within which an idle loop notices that it has to stop

cdef enum:
    C_PACKETS
    C_BATCHES
    C_PASSED
    C_LOCAL
    C_FORWARDED
    C_RELAYED
    C_DROPPED
    C_UNREAD
    C_OVERRUNS
    C_NETLINK_ERRORS
    C_FAIL_OPEN
    C_COUNT

COPY_RANGE = COPY_RANGE_BYTES
COUNTERS = (
    "packets",
    "batches",
    "passed",
    "local",
    "forwarded",
    "relayed",
    "dropped",
    "unread",
    "overruns",
    "netlink_errors",
    "fail_open",
)
LANE_BYTES = 128
"""The size of one queue's counters in the shared memory: COUNTERS as native u64, and room for more."""


cdef struct Packet:
    uint8_t *data
    uint32_t length
    uint32_t id       # network order
    bint whole        # all of the packet was copied
    bint known        # it has an ID, so it needs a verdict


cdef struct Loop:
    kdht_region *region
    uint64_t *counters
    uint32_t lane
    uint32_t now
    int fd
    uint32_t mark       # network order
    uint16_t queue      # network order
    int waiting         # verdicts in `out`
    size_t size         # and their bytes
    int plain           # index of the verdict that a same one may be merged into, or -1
    mmsghdr received[BATCH]
    iovec into[BATCH]
    iovec out[BATCH]
    kdht_nl_verdict verdicts[BATCH]
    uint8_t *slots


# --- Reading what the kernel sent -------------------------------------------------------

cdef bint _parse(const mmsghdr *message, uint8_t *data, Packet *packet) noexcept nogil:
    """Find the packet in one netlink message. False if there is no packet with an ID."""
    cdef nlmsghdr *nl = <nlmsghdr *>data
    cdef nlattr *at
    cdef uint32_t end, offset, kind, size

    memset(packet, 0, sizeof(Packet))
    if message.msg_len < sizeof(nlmsghdr) + sizeof(nfgenmsg):
        return False
    if nl.nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET):
        return False
    # A packet that was cut must not be judged: its end could say something else.
    packet.whole = not message.msg_hdr.msg_flags & MSG_TRUNC
    # The smaller of both: lengths from the kernel are checked like any input.
    end = nl.nlmsg_len if nl.nlmsg_len < message.msg_len else message.msg_len
    offset = sizeof(nlmsghdr) + sizeof(nfgenmsg)
    while offset + sizeof(nlattr) <= end:
        at = <nlattr *>(data + offset)
        size = at.nla_len
        if size < sizeof(nlattr) or size > end - offset:
            break
        kind = at.nla_type & NLA_TYPE_MASK
        size -= sizeof(nlattr)
        if kind == NFQA_PACKET_HDR and size >= sizeof(uint32_t):
            packet.id = (<nfqnl_msg_packet_hdr *>(at + 1)).packet_id
            packet.known = True
        elif kind == NFQA_PAYLOAD:
            packet.data = <uint8_t *>(at + 1)
            packet.length = size
        # The kernel gives this attribute only if it copied less than the whole packet.
        elif kind == NFQA_CAP_LEN:
            packet.whole = False
        offset += (at.nla_len + 3) & ~3u
    packet.whole = packet.whole and packet.data is not NULL
    return packet.known


cdef void _take_notice(Loop *loop, const mmsghdr *message, const uint8_t *data) noexcept nogil:
    """Handle a message without a packet: the kernel's answer to something that we sent."""
    cdef const nlmsghdr *nl = <const nlmsghdr *>data
    cdef const nlmsgerr *answer = <const nlmsgerr *>(nl + 1)

    if message.msg_len < sizeof(nlmsghdr) + sizeof(nlmsgerr) or nl.nlmsg_type != NLMSG_ERROR:
        return
    if answer.error:
        loop.counters[C_NETLINK_ERRORS] += 1
    elif answer.msg.nlmsg_seq == FLAGS_SEQ:
        loop.counters[C_FAIL_OPEN] = 1


# --- Writing verdicts ---------------------------------------------------------------------

cdef inline void _fill(const Loop *loop, kdht_nl_verdict *out, uint32_t verdict, uint32_t id) noexcept nogil:
    out.nl.nlmsg_len = sizeof(kdht_nl_verdict)
    out.nl.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT
    out.nl.nlmsg_flags = NLM_F_REQUEST
    out.nl.nlmsg_seq = 0
    out.nl.nlmsg_pid = 0
    out.nf.nfgen_family = 0
    out.nf.version = 0
    out.nf.res_id = loop.queue
    out.verdict_at.nla_len = sizeof(nlattr) + sizeof(nfqnl_msg_verdict_hdr)
    out.verdict_at.nla_type = NFQA_VERDICT_HDR
    out.verdict.verdict = htonl(verdict)
    out.verdict.id = id


cdef inline void _add(Loop *loop, void *message, uint32_t length) noexcept nogil:
    loop.out[loop.waiting].iov_base = message
    loop.out[loop.waiting].iov_len = (length + 3) & ~3u
    loop.size += length
    loop.waiting += 1


cdef void _plain(Loop *loop, uint32_t verdict, uint32_t id) noexcept nogil:
    """Accept or drop a packet as it came. A batch verdict covers all packets up to its ID that have none yet.

    Packets come in the order of their IDs and verdicts are treated in order, so that a run
    of the same plain verdict is exactly what the batch verdict of its last packet covers.
    """
    cdef kdht_nl_verdict *out

    if loop.plain >= 0:
        out = &loop.verdicts[loop.plain]
        if out.verdict.verdict == htonl(verdict):
            out.nl.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT_BATCH
            out.verdict.id = id
            return
    out = &loop.verdicts[loop.waiting]
    _fill(loop, out, verdict, id)
    loop.plain = loop.waiting
    _add(loop, out, sizeof(kdht_nl_verdict))


cdef void _rewritten(Loop *loop, const Packet *packet) noexcept nogil:
    """Accept a packet with a new payload. The message's headers go right before it, at worst into ROOM."""
    cdef kdht_nl_rewrite *out = <kdht_nl_rewrite *>(packet.data - sizeof(kdht_nl_rewrite))
    cdef uint32_t length = sizeof(kdht_nl_rewrite) + packet.length

    _fill(loop, &out.head, NF_ACCEPT, packet.id)
    out.head.nl.nlmsg_len = length
    out.mark_at.nla_len = sizeof(nlattr) + sizeof(uint32_t)
    out.mark_at.nla_type = NFQA_MARK
    out.mark = loop.mark
    out.payload_at.nla_len = sizeof(nlattr) + packet.length
    out.payload_at.nla_type = NFQA_PAYLOAD
    loop.plain = -1
    _add(loop, out, length)


cdef void _judge(Loop *loop, const Packet *packet) noexcept nogil:
    cdef kdht_outcome outcome
    cdef int verdict

    if not packet.whole:
        loop.counters[C_UNREAD] += 1
        _plain(loop, NF_ACCEPT, packet.id)
        return
    verdict = core_decide_packet(loop.region, loop.lane, packet.data, packet.length, loop.now, &outcome)
    if verdict == KDHT_FORWARD or verdict == KDHT_RELAY:
        _rewritten(loop, packet)
    else:
        _plain(loop, NF_DROP if verdict == KDHT_DROP else NF_ACCEPT, packet.id)
    # PASS to DROP are numbered as C_PASSED to C_DROPPED are.
    loop.counters[C_PASSED + verdict] += 1


cdef void _answer(Loop *loop) noexcept nogil:
    """Send all verdicts. If the kernel does not take them together, send them one by one."""
    cdef msghdr message
    cdef int i

    memset(&message, 0, sizeof(message))
    message.msg_iov = loop.out
    message.msg_iovlen = loop.waiting
    if loop.waiting and sendmsg(loop.fd, &message, 0) < 0:
        message.msg_iovlen = 1
        for i in range(loop.waiting):
            message.msg_iov = &loop.out[i]
            if sendmsg(loop.fd, &message, 0) < 0:
                loop.counters[C_NETLINK_ERRORS] += 1
    loop.counters[C_BATCHES] += loop.waiting > 0
    loop.waiting = 0
    loop.size = 0
    loop.plain = -1


# --- The loop -------------------------------------------------------------------------------

cdef void _treat(Loop *loop, int count) noexcept nogil:
    cdef Packet packet
    cdef timespec now
    cdef uint8_t *data
    cdef int i

    # Once for each batch. The replay window is counted in seconds.
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    loop.now = <uint32_t>now.tv_sec
    for i in range(count):
        data = <uint8_t *>loop.into[i].iov_base
        if _parse(&loop.received[i], data, &packet):
            loop.counters[C_PACKETS] += 1
            _judge(loop, &packet)
            if loop.size >= ANSWER_BYTES:
                _answer(loop)
        else:
            _take_notice(loop, &loop.received[i], data)
    _answer(loop)


cdef int _run(Loop *loop, const int *stopping) noexcept nogil:
    """Run until `stopping` is set and no packet waits. Gives 0, or the errno that ended it."""
    cdef int count

    while True:
        count = recvmmsg(loop.fd, loop.received, BATCH, MSG_WAITFORONE, NULL)
        if count >= 0:
            _treat(loop, count)
        elif errno == EAGAIN:
            # Only when no packet waits: those that were diverted to this queue have nobody else to judge
            # them.
            if stopping[0]:
                return 0
        # Packets were lost for want of room in the socket. The loop must go on, or all others would be
        # lost too.
        elif errno == ENOBUFS:
            loop.counters[C_OVERRUNS] += 1
        elif errno != EINTR:
            return errno


cdef int _set_up(Loop *loop) noexcept nogil:
    """-1 and errno if the file descriptor is not a socket."""
    cdef timeval limit
    cdef int i

    limit.tv_sec = 0
    limit.tv_usec = LOOK_UP_US
    for i in range(BATCH):
        loop.into[i].iov_base = loop.slots + i * (ROOM + SLOT) + ROOM
        loop.into[i].iov_len = SLOT
        loop.received[i].msg_hdr.msg_iov = &loop.into[i]
        loop.received[i].msg_hdr.msg_iovlen = 1
    return setsockopt(loop.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))


cdef int _fail_open(Loop *loop) noexcept nogil:
    """Ask the kernel to accept packets while the queue is full. `run` sees the answer. -1: it cannot be
    sent.
    """
    cdef kdht_nl_flags ask
    cdef iovec part
    cdef msghdr message

    memset(&ask, 0, sizeof(ask))
    memset(&message, 0, sizeof(message))
    ask.nl.nlmsg_len = sizeof(ask)
    ask.nl.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG
    ask.nl.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK
    ask.nl.nlmsg_seq = FLAGS_SEQ
    ask.nf.res_id = loop.queue
    ask.flags_at.nla_len = ask.mask_at.nla_len = sizeof(nlattr) + sizeof(uint32_t)
    ask.flags_at.nla_type = NFQA_CFG_FLAGS
    ask.mask_at.nla_type = NFQA_CFG_MASK
    ask.flags = ask.mask = htonl(NFQA_CFG_F_FAIL_OPEN)
    part.iov_base = &ask
    part.iov_len = sizeof(ask)
    message.msg_iov = &part
    message.msg_iovlen = 1
    return -1 if sendmsg(loop.fd, &message, 0) < 0 else 0


cdef class QueueLoop:
    """One queue, one thread, one lane of the core.

    `fd` is bound to queue number `queue`. `counters` is LANE_BYTES of writable memory that
    this loop alone writes. `mark` goes on every re-addressed packet. Raises OSError for an
    `fd` that is no socket, ValueError for too little memory.
    """

    cdef Loop *loop
    cdef Core core
    cdef uint64_t[::1] counters
    cdef int stopping

    def __cinit__(self, Core core, int lane, int fd, int queue, uint32_t mark, counters):
        self.core = core
        self.counters = memoryview(counters).cast("B").cast("Q")
        if self.counters.shape[0] < C_COUNT:
            raise ValueError(f"a queue's counters take {LANE_BYTES} bytes")
        self.loop = <Loop *>calloc(1, sizeof(Loop))
        if self.loop is NULL:
            raise MemoryError
        self.loop.slots = <uint8_t *>calloc(BATCH, ROOM + SLOT)
        if self.loop.slots is NULL:
            raise MemoryError
        self.loop.region = core.region
        self.loop.counters = &self.counters[0]
        self.loop.lane = lane
        self.loop.fd = fd
        self.loop.queue = htons(queue)
        self.loop.mark = htonl(mark)
        self.loop.plain = -1
        if _set_up(self.loop):
            raise OSError(errno, "the queue's file descriptor is no socket")

    def __dealloc__(self):
        if self.loop is not NULL:
            free(self.loop.slots)
            free(self.loop)

    def run(self) -> None:
        """Give verdicts until `stop`, then to the waiting packets. Raises OSError if the socket fails."""
        cdef int failed
        with nogil:
            failed = _fail_open(self.loop)
            if failed:
                failed = errno
            else:
                failed = _run(self.loop, &self.stopping)
        if failed:
            raise OSError(failed, "the netlink socket of the queue failed")

    def stop(self) -> None:
        """End `run` as soon as no packet waits. Any thread may call it."""
        self.stopping = 1


def die_with(int signal_number) -> None:
    """Make the kernel send this process a signal when the thread that started it ends."""
    prctl(PR_SET_PDEATHSIG, signal_number)
