# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""The messages for this node that wait for Python; no GIL.

The kernel's buffer of a socket is one queue for all. Whoever floods it delays the probes of other nodes, and
each other client. So the loop empties it at once, into queues of its own: members' messages are first, then
one request of each client in turn ("fair queueing", Nagle, RFC 970, 1985). Clients share FLOWS queues by a
hash of their address.

Contract: one thread, bounded memory. When all ROOM messages wait, the longest client's queue loses its
oldest one.
"""

import os

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free

from kdht.datapath.socket._rates cimport network_of

# Random, so that nobody can choose addresses that share the queue of somebody else.
cdef uint64_t _SEED = int.from_bytes(os.urandom(8)) | 1


cdef inline void clear(Queue *queue) noexcept nogil:
    queue.first = queue.last = NOTHING
    queue.count = 0


cdef inline void append(Local *messages, Queue *queue, Local *message) noexcept nogil:
    cdef uint16_t number = <uint16_t>(message - messages)
    message.next = NOTHING
    if queue.count:
        messages[queue.last].next = number
    else:
        queue.first = number
    queue.last = number
    queue.count += 1


cdef inline Local *shift(Local *messages, Queue *queue) noexcept nogil:
    cdef Local *message
    if queue.count == 0:
        return NULL
    message = &messages[queue.first]
    queue.first = message.next
    queue.count -= 1
    return message


cdef class Backlog:
    """One engine's."""

    def __cinit__(self):
        cdef int i
        self.messages = <Local *>calloc(ROOM, sizeof(Local))
        if self.messages is NULL:
            raise MemoryError
        clear(&self.unused)
        clear(&self.members)
        for i in range(FLOWS):
            clear(&self.flows[i])

    def __dealloc__(self):
        free(self.messages)

    cdef Local *make(self) noexcept nogil:
        """Room for a message, which is then added or dropped. NULL: everything waiting is a member's."""
        cdef Local *message = shift(self.messages, &self.unused)
        cdef int i, longest = 0
        if message is not NULL:
            return message
        # Memory is touched only as far as messages really wait.
        if self.touched < ROOM:
            self.touched += 1
            return &self.messages[self.touched - 1]
        # The longest queue is that of whoever sends most, so it pays.
        for i in range(1, FLOWS):
            if self.flows[i].count > self.flows[longest].count:
                longest = i
        message = shift(self.messages, &self.flows[longest])
        if message is not NULL:
            self.waiting -= 1
            self.crowded_out += 1
        return message

    cdef void drop(self, Local *message) noexcept nogil:
        message.next = self.unused.first
        self.unused.first = <uint16_t>(message - self.messages)
        if self.unused.count == 0:
            self.unused.last = self.unused.first
        self.unused.count += 1

    cdef void add_member(self, Local *message) noexcept nogil:
        append(self.messages, &self.members, message)

    cdef void add_client(self, Local *message, const uint8_t *client_ip) noexcept nogil:
        # The top six bits choose one of 64 queues: the low bits of a product depend on the low bits of
        # the address alone.
        append(self.messages, &self.flows[(network_of(client_ip) * _SEED) >> 58], message)
        self.waiting += 1

    cdef Local *take_member(self) noexcept nogil:
        return shift(self.messages, &self.members)

    cdef Local *take_client(self) noexcept nogil:
        """The next client's oldest request."""
        cdef Local *message
        cdef int _i
        if self.waiting == 0:
            return NULL
        for _i in range(FLOWS):
            self.turn = (self.turn + 1) % FLOWS
            message = shift(self.messages, &self.flows[self.turn])
            if message is not NULL:
                self.waiting -= 1
                return message
        return NULL
