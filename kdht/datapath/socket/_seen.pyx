# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""A bounded memory of messages, each by 60 bits of its tag or of another mark; and whether one is a copy.

Contract: one thread. A mark is forgotten when others take its place, at the earliest after WAYS others of
its set. Two different messages share a mark once in 2^60.
"""

import os

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kdht.core._layout cimport (
    KDHT_FLAG_FORWARDED, KDHT_FLAG_REPLY, KDHT_HEADER_LEN, KDHT_IS_WRITE, KDHT_MAX_DATAGRAM, kdht_header,
    kdht_siphash,
)
from kdht.core._reply cimport Request

cdef enum:
    SETS_BITS = 13
    WAYS = 4
    COUNT_MASK = 15
    COPIES = 8          # of one message that are treated; members send theirs again, with the same tag
    WRITE_COPIES = 1

# What tells a message from its copies of another second or another sender. Without gaps, for it is hashed.
cdef packed struct Arrival:
    uint8_t source_ip[16]
    uint16_t source_port
    uint32_t second
    uint8_t data[KDHT_MAX_DATAGRAM]


cdef class Seen:
    """One engine's."""

    def __cinit__(self):
        self.marks = <uint64_t *>calloc(WAYS << SETS_BITS, sizeof(uint64_t))
        if self.marks is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.marks)

    cdef uint32_t note(self, uint64_t mark) noexcept nogil:
        cdef uint64_t *first = &self.marks[WAYS * ((mark * <uint64_t>0x9e3779b97f4a7c15) >> (64 - SETS_BITS))]
        cdef uint32_t count
        cdef int i
        for i in range(WAYS):
            # Four bits count, and 60 tell messages apart: a word of 64 bits is read and written at once.
            if (first[i] ^ mark) & ~<uint64_t>COUNT_MASK == 0 and first[i]:
                count = first[i] & COUNT_MASK
                if count < COUNT_MASK:
                    first[i] += 1
                return count
        # In turn: the oldest of the set goes, without a time for each.
        self.turn = (self.turn + 1) % WAYS
        first[self.turn] = (mark & ~<uint64_t>COUNT_MASK) | 1
        return 0


cdef class Replays:
    """One engine's."""

    def __cinit__(self):
        # Apart, because no tag bounds how many requests of clients there are: they push out no member's.
        self.members, self.clients = Seen(), Seen()
        self.seed0, self.seed1 = int.from_bytes(os.urandom(8)), int.from_bytes(os.urandom(8))

    cdef bint is_copy(self, const uint8_t *data, uint32_t length, const Request *came,
                      uint32_t second) noexcept nogil:
        """A member's message is known by its tags, and without tags by its bytes. A client's is known by its
        sender and its request ID within one second: the entry node's tag of the same request is the same for
        as long.
        """
        cdef const kdht_header *message = <const kdht_header *>data
        cdef bint writes = KDHT_IS_WRITE(message.op)
        cdef uint32_t times
        cdef uint64_t mark
        if message.flags & KDHT_FLAG_REPLY:
            return False  # it must belong to a question under way
        if message.flags & KDHT_FLAG_FORWARDED:
            mark = message.header_tag ^ (message.body_tag << 7 | message.body_tag >> 57)
            if not message.header_tag:
                mark = self._mark_of(data, length, came, second)
            times = self.members.note(mark)
        else:
            mark = self._mark_of(data, length if writes else KDHT_HEADER_LEN, came, second)
            times = self.clients.note(mark)
        return times >= <uint32_t>(WRITE_COPIES if writes else COPIES)

    cdef bint is_known_quote(self, const uint8_t *data) noexcept nogil:
        """A quote is known as its message is, but by the header alone: ICMP may cut the rest off."""
        cdef uint64_t tag = (<const kdht_header *>data).header_tag
        if not tag:
            tag = kdht_siphash(self.seed0, self.seed1, data, KDHT_HEADER_LEN)
        # The complement, for the message itself may come to this node too.
        return self.members.note(~tag) > 0

    cdef uint64_t _mark_of(self, const uint8_t *data, uint32_t length, const Request *came,
                           uint32_t second) noexcept nogil:
        """A hash of a valid message's first bytes and of what they came with."""
        cdef Arrival arrival
        memcpy(arrival.source_ip, came.source_ip, 16)
        arrival.source_port, arrival.second = came.source_port, second
        memcpy(arrival.data, data, length)
        length += sizeof(arrival) - sizeof(arrival.data)
        return kdht_siphash(self.seed0, self.seed1, <const uint8_t *>&arrival, length)
