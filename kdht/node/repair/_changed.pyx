# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""What a changed record means for repair, for each record that is written: without a call of Python.

Contract: any thread.
"""

from kdht.core._layout cimport KDHT_ID_BITS
from kdht.node.repair._key_sets cimport KeySet

from kdht.node.repair.ranges import Range

cdef int ID_BITS = KDHT_ID_BITS


cdef class Staleness:
    """Marks the digests above a changed key.

    `lock`, `kept` (by Range) and `depths` (its lengths) are those of Digests.
    """

    cdef object lock
    cdef dict kept
    cdef set depths

    def __cinit__(self, lock, dict kept not None, set depths not None):
        self.lock, self.kept, self.depths = lock, kept, depths

    def changed(self, bytes key not None) -> None:
        """The record of a key is another one now, or gone."""
        self.mark(key)

    cdef int mark(self, bytes key) except -1:
        at = int.from_bytes(key, "big")
        with self.lock:
            # Only lengths that are kept, so a write costs some look-ups and no walk.
            for bits in self.depths:
                below = ID_BITS - <int>bits
                found = self.kept.get(tuple.__new__(Range, (at >> below << below, bits)))
                if found is not None:
                    found.until = 0
                    # A digest that is being computed now is stale too.
                    found.stamp += 1
        return 0


cdef class RecordChanged:
    """`changed` is called with the key of each record that has changed in the own store.

    `sight`: its `view` has the kept ranges, `foreign` gives away the records of other nodes.
    """

    cdef Staleness stale
    cdef object sight, foreign

    def __cinit__(self, Staleness stale not None, sight, foreign):
        self.stale, self.sight, self.foreign = stale, sight, foreign

    def changed(self, bytes key not None) -> None:
        self.stale.mark(key)
        view = self.sight.view
        # A write may end at a stand-in. The handoff brings its record to the replicas.
        if view is not None and not (<KeySet?>view.keys).has(key):
            self.foreign.stray = True
