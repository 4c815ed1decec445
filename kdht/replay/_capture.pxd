# cython: language_level=3
"""Batches of captured packets, for loops without the GIL."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef struct Slot:
    # One packet of a batch; `at` and `frame` are positions in the batch's data.
    uint64_t offset     # of its record in the file
    uint64_t nanos      # since the epoch
    uint32_t frame      # where the link layer begins
    uint32_t captured   # bytes from there
    uint32_t original   # bytes that were on the wire
    uint32_t at         # where IP begins
    uint32_t length     # bytes from there; 0: nothing that is IP
    uint16_t link       # the link type
    bint foreign        # a link type that only scapy reads
    uint8_t skipped     # why no IP was found, or not all of it: an index of SKIPPED


cdef class Batch:
    cdef readonly bytes data
    cdef readonly uint64_t first
    cdef readonly uint32_t count
    cdef Slot *slots
    cdef uint32_t room
    cdef Slot *_add(self) except NULL
    cdef Slot *_slot(self, Py_ssize_t index) except NULL
