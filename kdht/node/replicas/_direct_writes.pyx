# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""The common messages of writes, straight from the socket's loop: STORE, its answer, and PUT.

    STORE        ---> one job of the writer for the batch
    its answer   ---> CommonWrites, in one turn for the batch
    PUT          ---> CommonWrites, in the same turn

What `StoreRequests` and `CommonWrites` do not take goes the way of all messages: Dispatcher, Service,
Coordinator. Both ways lead to the same functions, and have the same rules. Here only the pages of Python
between them are left out. They cost more than the messages, when a batch is one message or two.

Contract: on the loop's thread.
"""

from kdht.core._layout cimport (
    KDHT_FLAG_REPLY, KDHT_OP_PUT, KDHT_OP_STORE, KDHT_REASON_CONTROL, KDHT_REASON_OWNER,
    kdht_header,
)
from kdht.datapath.socket._backlog cimport Local
from kdht.datapath.socket._direct cimport Direct
from kdht.node.replicas._common_writes cimport CommonWrites, PutAnswers
from kdht.node.replicas._store_requests cimport StoreRequests, Taken
from kdht.node.replicas._turns cimport Turn, Turns


cdef class DirectWrites(Direct):
    """One node's. `answers`: of its Service. `open_to_all()`: whether every client may write. `clock()`: Unix
    seconds.
    """

    cdef StoreRequests stores
    cdef CommonWrites common
    cdef PutAnswers answers
    cdef Turns turns
    cdef object cluster, open_to_all, clock, faults

    def __cinit__(self, StoreRequests stores not None, CommonWrites common not None,
                  PutAnswers answers not None, Turns turns not None, cluster, open_to_all, clock, faults):
        self.stores, self.common, self.answers, self.turns = stores, common, answers, turns
        self.cluster, self.open_to_all, self.clock, self.faults = cluster, open_to_all, clock, faults

    cdef int take(self, Local **messages, int count) except -1:
        """As Direct.take."""
        cdef int i, requests = 0, answers = 0, puts = 0
        cdef const kdht_header *header
        for i in range(count):
            header = <const kdht_header *>messages[i].data
            if messages[i].reason == KDHT_REASON_CONTROL and header.op == KDHT_OP_STORE:
                if header.flags & KDHT_FLAG_REPLY:
                    answers += 1
                else:
                    requests += 1
            elif messages[i].reason == KDHT_REASON_OWNER and header.op == KDHT_OP_PUT:
                puts += 1
        try:
            if requests and not self.cluster.barred:
                self._take_stores(messages, count)
            if puts and not self.open_to_all():
                puts = 0
            if puts or answers and len(self.common.jobs):
                self._take_turn(messages, count, puts > 0)
        except Exception:
            self.faults.note("a batch of writes")
        return 0

    cdef int _take_stores(self, Local **messages, int count) except -1:
        cdef Taken job = self.stores.job(self.clock())
        cdef int i
        for i in range(count):
            if messages[i].reason == KDHT_REASON_CONTROL and self.stores.add(job, messages[i]):
                messages[i].length = 0
        return self.stores.begin(job)

    cdef int _take_turn(self, Local **messages, int count, bint puts) except -1:
        cdef Turn turn = Turn(self.turns, self.clock())
        cdef int i
        self.turns.enter(turn)
        try:
            # First the answers: clients wait for them.
            for i in range(count):
                if messages[i].length and messages[i].reason == KDHT_REASON_CONTROL:
                    self._take_message(turn, messages[i])
            if puts and self.common.is_ready(self.answers):
                for i in range(count):
                    if messages[i].reason == KDHT_REASON_OWNER:
                        self._take_message(turn, messages[i])
        finally:
            self.turns.leave(turn, True)
        return 0

    cdef int _take_message(self, Turn turn, Local *message) except -1:
        try:
            if (self.common.answered(turn, message) if message.reason == KDHT_REASON_CONTROL
                    else self.common.begin_at(turn, message)):
                message.length = 0
        except Exception:
            message.length = 0
            self.faults.note("a message of a write")
        return 0
