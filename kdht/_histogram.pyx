# cython: language_level=3, boundscheck=False, wraparound=False
"""The counting of a Histogram (histogram.py), for each message: without a call of Python.

Contract: thread-safe. No call here gives the GIL away in the middle.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

BOUNDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)
"""Seconds: each size class ends with its bound; one more holds what is longer than the last."""


cdef class SizeCounts:
    """How many durations fell into each class. `bounds`: seconds, rising; each class ends with its bound."""

    cdef readonly object bounds
    cdef double *ends
    cdef uint64_t *counts
    cdef Py_ssize_t size
    cdef double total

    def __cinit__(self, bounds=BOUNDS):
        cdef Py_ssize_t i
        self.bounds, self.size = bounds, len(bounds)
        self.ends = <double *>calloc(self.size + 1, sizeof(double))
        self.counts = <uint64_t *>calloc(self.size + 1, sizeof(uint64_t))
        if self.ends is NULL or self.counts is NULL:
            raise MemoryError
        for i in range(self.size):
            self.ends[i] = bounds[i]

    def __dealloc__(self):
        free(self.ends)
        free(self.counts)

    def observe(self, double seconds, uint64_t times=1) -> None:
        """Something took so long, `times` times."""
        cdef Py_ssize_t low = 0, high = self.size, middle
        while low < high:
            middle = (low + high) // 2
            if self.ends[middle] < seconds:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += times
        self.total += seconds * <double>times

    def sums(self) -> tuple:
        """The count of each class, and the sum of all durations."""
        cdef Py_ssize_t i
        cdef double total = self.total
        cdef list counts = [self.counts[i] for i in range(self.size + 1)]
        return counts, total
