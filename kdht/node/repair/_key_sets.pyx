# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Which keys a node keeps, and which it answers for: asked for each record that is written.

`Intervals` and `View` have the same sets with numbers, and all that is done with them. These only look up a
key of 20 bytes, without a call of Python.

Contract: any thread. A set never changes: another one takes its place.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from kdht.core._layout cimport KDHT_ID_LEN

cdef Py_ssize_t ID_LEN = KDHT_ID_LEN


cdef class KeySet:
    """The keys of sorted, disjoint `intervals` [start, stop) of numbers."""

    def __cinit__(self, intervals=()):
        cdef list found = list(intervals)
        self.count = len(found)
        self.starts = b"".join([start.to_bytes(ID_LEN, "big") for start, _ in found])
        # The last key, and not the first one beyond: that of the whole space has no 20 bytes.
        self.lasts = b"".join([(stop - 1).to_bytes(ID_LEN, "big") for _, stop in found])

    def __contains__(self, bytes key not None) -> bool:
        return self.has(key)

    cdef bint has(self, bytes key) except -1:
        cdef const uint8_t *starts = self.starts
        cdef const uint8_t *lasts = self.lasts
        cdef const uint8_t *wanted = key
        cdef Py_ssize_t low = 0, high = self.count, middle
        if len(key) != ID_LEN:
            raise ValueError(f"a key has {ID_LEN} bytes, not {len(key)}")
        # The last interval that begins at the key or before it is the only candidate.
        while low < high:
            middle = (low + high) // 2
            if memcmp(starts + middle * ID_LEN, wanted, ID_LEN) <= 0:
                low = middle + 1
            else:
                high = middle
        return low > 0 and memcmp(wanted, lasts + (low - 1) * ID_LEN, ID_LEN) <= 0


cdef class AnswerableKeys:
    """The keys that a node answers for. `CaughtUp` sets the two sets, `Repair` the flag."""

    cdef public KeySet caught_up
    """The node keeps these keys, and has caught up on them."""
    cdef public KeySet held
    """It kept these before nodes that have not all caught up."""
    cdef public bint withheld
    """It answers for no key, whatever it has caught up on."""

    def __cinit__(self):
        self.caught_up, self.held, self.withheld = KeySet(), KeySet(), False

    def is_caught_up(self, bytes key not None) -> bool:
        return not self.withheld and self.caught_up.has(key)

    def holds(self, bytes key not None) -> bool:
        return not self.withheld and (self.caught_up.has(key) or self.held.has(key))
