"""Sets of keys of 20 bytes (see _key_sets.pyx)."""


cdef class KeySet:
    cdef bytes starts, lasts    # of each interval, one behind the other
    cdef Py_ssize_t count

    cdef bint has(self, bytes key) except -1
