# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""The table of hot records, in memory that the XDP program reads (include/kdht_hot.h).

Contract: as exact as the cache (_cache.pyx), which alone writes records here, with the GIL. Once `forget` has
returned, the program does not give the old record out again. Whatever the table holds, nothing is answered
without the lease: both its times must lie ahead. `renew` sets the one of the socket's loop, `serve_until` the
one of the node. Times are nanoseconds of CLOCK_BOOTTIME and are passed in.

Until `open` there is no memory: a node whose records nobody reads pays nothing. Once opened, the memory stays
until the table is no more, for the loop's thread writes to it without the GIL.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kdht.core._layout cimport KDHT_ID_LEN, KDHT_MAX_VALUE, kdht_seq_open, kdht_seq_step, kdht_sum

ASKS = KDHT_HOT_ASKS
ENDED = KDHT_HOT_ENDED
"""Reasons for `forbid`."""
SIZE = sizeof(kdht_hot_table)


cdef class HotTable:
    """No memory yet. One at a time may use it, with the GIL; `note` and `renew` are for the socket's loop."""

    def open(self, memory) -> None:
        """Use this writable buffer of SIZE bytes, all zero, from now on. Raises ValueError if there is one.

        The table holds the buffer for as long as it lives.
        """
        cdef unsigned char[::1] view = memory
        if self.table is not NULL or view.shape[0] < <Py_ssize_t>SIZE:
            raise ValueError(f"a table of hot records takes {SIZE} bytes, once")
        self.memory = view
        (<kdht_hot_table *>&view[0]).forbidden = self.forbidden
        self.table = <kdht_hot_table *>&view[0]

    @property
    def is_open(self) -> bool:
        return self.table is not NULL

    @property
    def wanted(self) -> bool:
        """Whether there are keys to put into the table, but no memory yet."""
        return self.table is NULL and self.noted != self.taken

    def forbid(self, reason: int, is_so: bool) -> None:
        """Answer nothing for this reason (ASKS or ENDED), or no longer for it. Holds when it returns."""
        self.forbidden = self.forbidden | <uint32_t>reason if is_so else self.forbidden & ~<uint32_t>reason
        if self.table is not NULL:
            self.table.forbidden = self.forbidden

    def serve_until(self, until: int) -> None:
        """The node lives and serves: it may answer until then, as far as it goes. 0: it may not."""
        if self.table is not NULL:
            self.table.node_until = <uint64_t>until

    def loop_until(self, until: int, drained: int) -> None:
        """`renew` and `note_drained`, for tests."""
        self.renew(<uint64_t>until)
        self.note_drained(<uint64_t>drained)

    def take_noted(self) -> list:
        """The keys that the loop noted since the last call; the oldest are lost if they were too many."""
        cdef uint32_t noted = self.noted
        cdef list found = []
        if noted - self.taken > NOTED:
            self.taken = noted - NOTED
        while self.taken != noted:
            # The loop may write over it meanwhile: then this is no key, or another one. Whoever looks it up
            # in the cache finds that out.
            found.append((<char *>&self.ring[self.taken % NOTED][0])[:KDHT_ID_LEN])
            self.taken += 1
        return found

    def holds(self, key: bytes) -> bool:
        """Whether the record of this key counts in the table."""
        cdef int way
        cdef const uint8_t *at = key
        if self.table is NULL or len(key) != KDHT_ID_LEN:
            return False
        way = self._way(at)
        return way >= 0 and self._set_of(at).valid >> way & 1 != 0

    cdef void note(self, const uint8_t *key) noexcept nogil:
        """The loop has answered from this key's record again and again."""
        memcpy(&self.ring[self.noted % NOTED][0], key, KDHT_ID_LEN)
        self.noted += 1

    cdef void renew(self, uint64_t until) noexcept nogil:
        """The loop may answer until then."""
        if self.table is not NULL:
            self.table.loop_until = until

    cdef void note_drained(self, uint64_t moment) noexcept nogil:
        """What came to the interface before `moment` has been received from all sockets."""
        if self.table is not NULL:
            self.table.drained = moment

    cdef bint knows(self, const uint8_t *key) noexcept:
        """Whether the key has a slot, with a record that counts or not."""
        return self.table is not NULL and self._way(key) >= 0

    cdef void put(self, const uint8_t *key, uint64_t version, uint64_t expiry, uint32_t flags,
                  const uint8_t *value, uint32_t length) noexcept:
        """A record of the store that no change has made old. It may find no room: then others are as hot."""
        cdef kdht_hot_set *set
        cdef kdht_hot_slot *slot
        cdef int way
        if self.table is NULL or length > KDHT_MAX_VALUE:
            return
        set = self._set_of(key)
        way = self._way(key)
        if way < 0:
            way = self._place(set)
        if way < 0:
            return
        slot = &set.slots[way]
        kdht_seq_open(&set.sequence)
        slot.key[2] = 0
        memcpy(slot.key, key, KDHT_ID_LEN)
        slot.version, slot.expiry, slot.flags, slot.length = version, expiry, flags, length
        if length & 7:
            slot.value[length >> 3] = 0  # the rest of the last word
        memcpy(slot.value, value, length)
        slot.sum = kdht_sum(slot.value, (length + 7) & ~<uint32_t>7, 0)
        set.valid |= 1 << way
        kdht_seq_step(&set.sequence)

    cdef void forget(self, const uint8_t *key) noexcept:
        """The key's record has changed. Its slot stays."""
        cdef kdht_hot_set *set
        cdef int way
        if self.table is NULL:
            return
        way = self._way(key)
        if way < 0:
            return
        set = self._set_of(key)
        kdht_seq_open(&set.sequence)
        set.valid &= ~(<uint32_t>1 << way)
        kdht_seq_step(&set.sequence)

    cdef void forget_all(self) noexcept:
        """No record counts any more."""
        cdef int i
        if self.table is NULL:
            return
        for i in range(KDHT_HOT_SETS):
            if self.table.sets[i].valid:
                kdht_seq_open(&self.table.sets[i].sequence)
                self.table.sets[i].valid = 0
                kdht_seq_step(&self.table.sets[i].sequence)

    cdef kdht_hot_set *_set_of(self, const uint8_t *key) noexcept:
        cdef uint64_t words[3]
        memcpy(words, key, KDHT_ID_LEN)
        return &self.table.sets[kdht_hot_set_of(words[1])]

    cdef int _way(self, const uint8_t *key) noexcept:
        """The key's slot; -1: it has none."""
        cdef int way
        cdef uint64_t words[3]
        cdef kdht_hot_set *set = self._set_of(key)
        words[2] = 0
        memcpy(words, key, KDHT_ID_LEN)
        for way in range(KDHT_HOT_WAYS):
            if (set.slots[way].key[0] == words[0] and set.slots[way].key[1] == words[1]
                    and set.slots[way].key[2] == words[2]):
                return way
        return -1

    cdef int _place(self, kdht_hot_set *set) noexcept:
        """A slot for a new key: an empty one, or one without an answer since a key found no room (the clock
        algorithm). -1: none."""
        cdef int way
        for way in range(KDHT_HOT_WAYS):
            if not set.used[way] and not set.slots[way].key[1] and not set.slots[way].key[0]:
                return way
        for way in range(KDHT_HOT_WAYS):
            if not set.used[way]:
                return way
        memset(set.used, 0, sizeof(set.used))
        return -1
