# cython: language_level=3
"""Messages that wait for Python: members' first, then clients' in turn."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kdht.core._layout cimport KDHT_MAX_DATAGRAM

cdef enum:
    ROOM = 2048          # messages
    FLOWS = 64
    NOTHING = 0xffff     # in place of a message's number

# A message whose verdict is LOCAL, with its addresses.
cdef struct Local:
    uint32_t length
    uint8_t reason
    uint16_t max_reply
    uint16_t source_port
    uint16_t target_port
    uint8_t source_ip[16]
    uint8_t target_ip[16]
    double came          # Unix seconds when the kernel received it; 0: unknown
    uint16_t next        # the message behind it in its queue
    uint8_t data[KDHT_MAX_DATAGRAM]

cdef struct Queue:
    uint16_t first
    uint16_t last
    uint32_t count

cdef class Backlog:
    cdef Local *messages
    cdef Queue unused
    cdef Queue members
    cdef Queue flows[64]
    cdef readonly uint32_t waiting     # clients' requests
    cdef readonly uint64_t crowded_out
    cdef int turn
    cdef int touched    # messages that were ever used: the first ones
    cdef Local *make(self) noexcept nogil
    cdef void drop(self, Local *message) noexcept nogil
    cdef void add_member(self, Local *message) noexcept nogil
    cdef void add_client(self, Local *message, const uint8_t *client_ip) noexcept nogil
    cdef Local *take_member(self) noexcept nogil
    cdef Local *take_client(self) noexcept nogil
