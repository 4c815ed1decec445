# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""The common messages of reads, straight from the socket's loop: FETCH, its answer, and QUORUM_GET.

    FETCH        ---> FetchRequests; the answers of a batch leave together
    its answer   ---> CommonReads, in one turn for the batch
    QUORUM_GET   ---> CommonReads, in the same turn

What these do not take goes the way of all messages, as in _direct_writes.pyx, which gets the batch first.

Contract: on the loop's thread.
"""

from kdht.core._layout cimport (
    KDHT_FLAG_REPLY, KDHT_OP_FETCH, KDHT_OP_QUORUM_GET, KDHT_REASON_CONTROL, kdht_header,
)
from kdht.datapath.socket._backlog cimport Local
from kdht.datapath.socket._datagrams cimport make_datagram
from kdht.datapath.socket._direct cimport Direct
from kdht.node.replicas._common_reads cimport CommonReads, ReadAnswers
from kdht.node.replicas._fetch_requests cimport FetchRequests
from kdht.node.replicas._turns cimport Turn, Turns


cdef class DirectReads(Direct):
    """One node's. `writes` gets each batch first. `answers`: of its Service. `send`: Transport.send.
    `open_to_all()`: whether every client may read. `clock()`: Unix seconds.
    """

    cdef Direct writes
    cdef FetchRequests fetches
    cdef CommonReads common
    cdef ReadAnswers answers
    cdef Turns turns
    cdef object send, open_to_all, clock, faults

    def __cinit__(self, Direct writes not None, FetchRequests fetches not None, CommonReads common not None,
                  ReadAnswers answers not None, Turns turns not None, send, open_to_all, clock, faults):
        self.writes, self.fetches, self.common, self.answers = writes, fetches, common, answers
        self.turns, self.send, self.open_to_all = turns, send, open_to_all
        self.clock, self.faults = clock, faults

    cdef int take(self, Local **messages, int count) except -1:
        """As Direct.take."""
        cdef int i, requests = 0, answers = 0, reads = 0
        cdef const kdht_header *header
        self.writes.take(messages, count)
        for i in range(count):
            if messages[i].length == 0:
                continue
            header = <const kdht_header *>messages[i].data
            if messages[i].reason != KDHT_REASON_CONTROL:
                reads += header.op == KDHT_OP_QUORUM_GET
            elif header.op == KDHT_OP_FETCH and header.flags & KDHT_FLAG_REPLY:
                answers += 1
            elif header.op == KDHT_OP_FETCH:
                requests += 1
        try:
            if reads and not self.open_to_all():
                reads = 0
            if reads or answers and len(self.common.jobs):
                self._take_turn(messages, count, reads > 0)
            if requests:
                self._take_fetches(messages, count)
        except Exception:
            self.faults.note("a batch of reads")
        return 0

    cdef int _take_fetches(self, Local **messages, int count) except -1:
        cdef list answers = []
        cdef double now = self.clock()
        cdef int i
        for i in range(count):
            if (messages[i].length and messages[i].reason == KDHT_REASON_CONTROL
                    and (<const kdht_header *>messages[i].data).op == KDHT_OP_FETCH):
                answer = self.fetches.answer(make_datagram(messages[i]), now)
                if answer is not None:
                    answers.append(answer)
                    messages[i].length = 0
        if answers:
            self.send(answers)
        return 0

    cdef int _take_turn(self, Local **messages, int count, bint reads) except -1:
        cdef Turn turn = Turn(self.turns, self.clock())
        cdef int i
        self.turns.enter(turn)
        try:
            # First the answers: clients wait for them.
            for i in range(count):
                if (messages[i].length and messages[i].reason == KDHT_REASON_CONTROL
                        and (<const kdht_header *>messages[i].data).op == KDHT_OP_FETCH):
                    self._take_message(turn, messages[i])
            if reads and self.common.is_ready(self.answers):
                for i in range(count):
                    if messages[i].length and messages[i].reason != KDHT_REASON_CONTROL:
                        self._take_message(turn, messages[i])
        finally:
            self.turns.leave(turn, True)
        return 0

    cdef int _take_message(self, Turn turn, Local *message) except -1:
        cdef const kdht_header *header = <const kdht_header *>message.data
        try:
            if message.reason == KDHT_REASON_CONTROL:
                if self.common.expects(header) and self.common.take_answer(turn, make_datagram(message)):
                    message.length = 0
            elif header.op == KDHT_OP_QUORUM_GET and self.common.begin_at(turn, make_datagram(message)):
                message.length = 0
        except Exception:
            message.length = 0
            self.faults.note("a message of a read")
        return 0
