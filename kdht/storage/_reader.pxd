# cython: language_level=3
"""Records for the GETs of a batch, and for other nodes (see _reader.pyx)."""

from libc.stdint cimport uint32_t, uint64_t

from kdht.storage._cache cimport RecordCache


# The head of a packed record.
cdef struct Packed:
    uint64_t version
    uint64_t expiry
    uint32_t flags
    uint32_t length


cdef class StoreReader:
    cdef object get
    cdef RecordCache cache
    cdef object is_caught_up
    cdef readonly uint64_t answered
    """How many records were given."""

    cdef tuple _record(self, bytes key, Py_ssize_t room, double now, uint64_t latest)
    cdef bytes stored(self, bytes key, bint caught_up, double now)
    cdef bytes _read(self, bytes key, Packed *found)
