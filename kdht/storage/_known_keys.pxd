from libc.stdint cimport uint32_t, uint64_t


cdef class KnownKeys:
    cdef uint32_t *slots
    cdef uint64_t mask, most
    cdef readonly uint64_t count
    cdef uint64_t seed0, seed1
    cdef bytes _walked
    cdef bint _complete
    cdef readonly bint given_up

    cpdef bint may_have(self, bytes key) except -1
    cdef uint32_t _mark(self, bytes key) noexcept
    cdef bint _is_walked(self, bytes key) noexcept
    cdef void _insert(self, uint32_t mark) noexcept
    cdef bint _grow(self) noexcept
    cdef void _forget(self) noexcept
