# cython: language_level=3
"""Finished replies of MEMBERS, for the socket's loop, which runs without the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    KEY_LEN = 20


cdef struct KeptReply:
    uint32_t sequence    # odd while it is written
    uint32_t generation  # of its set, when it was made
    uint32_t part        # of a drawn one: its number
    uint32_t length      # of the body
    uint64_t cursor
    uint64_t until       # Unix seconds: when the first record of its set ends
    uint8_t key[KEY_LEN]


cdef class MembersCache:
    cdef uint32_t *generations
    cdef KeptReply *slots
    cdef uint8_t *bodies  # KDHT_MAX_BODY bytes for each slot
    cdef uint32_t *_generation(self, const uint8_t *key) noexcept nogil
    cdef uint64_t _place(self, const uint8_t *key, uint64_t cursor, uint32_t part) noexcept nogil
    cdef int _keep(self, bytes key, uint64_t cursor, uint32_t part, uint64_t until, bytes body) except -1
    cdef int _copy(self, const uint8_t *key, uint64_t cursor, uint32_t part, uint32_t generation,
                   double now, uint8_t *body) noexcept nogil
    cdef int look_up(self, const uint8_t *key, uint64_t cursor, uint64_t chance, uint32_t room,
                     double now, uint8_t *body) noexcept nogil
