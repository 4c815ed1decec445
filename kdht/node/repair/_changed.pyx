# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""The digests that are kept, and what a changed record means for repair: for each record that is written,
without a call of Python.

Contract: any thread.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from kdht.core._layout cimport KDHT_ID_BITS, KDHT_ID_LEN
from kdht.node.repair._key_sets cimport KeySet

cdef int ID_LEN = KDHT_ID_LEN


cdef class KeptDigest:
    """The `digest` of one range. It holds until `until`, Unix seconds; 0 means stale. `stamp` counts changes.
    """

    cdef public object digest
    cdef public object until
    cdef public long stamp

    def __cinit__(self, digest):
        self.digest, self.until, self.stamp = digest, 0, 0


cdef bytes prefix_of(const uint8_t *key, int bits):
    """A name for the range of all keys with the same first bits: their number, and they themselves."""
    cdef uint8_t name[KDHT_ID_LEN + 1]
    cdef int whole = bits // 8
    name[0] = <uint8_t>bits
    memcpy(name + 1, key, whole)
    if bits % 8:
        name[1 + whole] = key[whole] & <uint8_t>(0xff << (8 - bits % 8))
        whole += 1
    return PyBytes_FromStringAndSize(<char *>name, 1 + whole)


cdef class KeptDigests:
    """The kept digests by their ranges, and the marks on those above a changed key.

    `lock`: `changed` takes it. For `set` and `clear` the caller has it.
    """

    cdef object lock
    cdef dict kept                      # by prefix
    cdef bint depths[KDHT_ID_BITS + 1]  # whether a range of so many bits was kept

    def __cinit__(self, lock):
        self.lock, self.kept = lock, {}

    def __len__(self):
        return len(self.kept)

    def get(self, bytes start not None, int bits):
        """That of the range of keys with the same first `bits` as `start`, or None."""
        self._check(start, bits)
        return self.kept.get(prefix_of(start, bits))

    def set(self, bytes start not None, int bits, KeptDigest kept not None) -> None:
        """Keep one."""
        self._check(start, bits)
        self.depths[bits] = True
        self.kept[prefix_of(start, bits)] = kept

    def clear(self) -> None:
        """Forget all."""
        cdef int bits
        self.kept.clear()
        for bits in range(KDHT_ID_BITS + 1):
            self.depths[bits] = False

    def changed(self, bytes key not None) -> None:
        """The record of a key is another one now, or gone."""
        self.mark(key)

    cdef int _check(self, bytes start, int bits) except -1:
        if len(start) != ID_LEN or not 0 <= bits <= KDHT_ID_BITS:
            raise ValueError(f"no range of keys: {len(start)} bytes, the first {bits} bits")
        return 0

    cdef int mark(self, bytes key) except -1:
        cdef int bits
        cdef KeptDigest kept
        self._check(key, 0)
        with self.lock:
            # Only lengths that are kept, so a write costs some look-ups and no walk.
            for bits in range(KDHT_ID_BITS + 1):
                if self.depths[bits]:
                    found = self.kept.get(prefix_of(key, bits))
                    if found is not None:
                        kept = found
                        kept.until = 0
                        # A digest that is being computed now is stale too.
                        kept.stamp += 1
        return 0


cdef class RecordChanged:
    """`changed` is called with the key of each record that has changed in the own store.

    `sight`: its `view` has the kept ranges, `foreign` gives away the records of other nodes.
    """

    cdef KeptDigests kept
    cdef object sight, foreign

    def __cinit__(self, KeptDigests kept not None, sight, foreign):
        self.kept, self.sight, self.foreign = kept, sight, foreign

    def changed(self, bytes key not None) -> None:
        self.kept.mark(key)
        view = self.sight.view
        # A write may end at a stand-in. The handoff brings its record to the replicas.
        if view is not None and not (<KeySet?>view.keys).has(key):
            self.foreign.stray = True
