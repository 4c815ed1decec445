# cython: language_level=3
"""The recent writes of a node, so that a late retry gets the answer of the first try.

Contract: bounded in number and time. A write that is forgotten early costs a client an UNCONFIRMED, nothing
else. Thread-safe.
"""

from threading import Lock

from kdht.wire._shared import TRY_BITS as _TRY_BITS

# Longer than a client tries by default, and as long as its version is believed.
SECONDS = 60.0
MOST = 16384
"""Items of one generation; there are two."""
cdef double KEPT = SECONDS
cdef int TRY_BITS = _TRY_BITS
cdef Py_ssize_t ROOM = MOST


cdef class Generations:
    """A dictionary that forgets. An item stays for SECONDS or longer, unless there are too many.

    By key and version, or key and request ID.
    """

    cdef dict new, old
    cdef double begun
    cdef object lock

    def __cinit__(self):
        self.new, self.old, self.begun, self.lock = {}, {}, 0.0, Lock()

    cdef object get(self, tuple name):
        entry = self.new.get(name)
        return self.old.get(name) if entry is None else entry

    cdef int put(self, tuple name, entry, double now) except -1:
        with self.lock:
            # Two dictionaries in place of a time for each entry: forgetting costs one assignment.
            if len(self.new) >= ROOM or not 0 <= now - self.begun < KEPT:
                self.old, self.new = self.new, {}
                self.begun = now
            self.new[name] = entry
        return 0


cdef class Recent:
    """The recent writes of one node. Only those with a version of their client are remembered."""

    cdef Generations begun, copies, greatest, confirmations, deletions, refusals

    def __cinit__(self):
        self.begun, self.copies, self.greatest = Generations(), Generations(), Generations()
        self.confirmations, self.deletions, self.refusals = Generations(), Generations(), Generations()

    def refuse(self, bytes key, request, status, version, double now) -> None:
        """Note that this request was refused, and changed nothing."""
        self.refusals.put((key, request), (status, version), now)

    def refused(self, bytes key, request):
        """The refusal of the request with this ID, if any. A copy of it, doubled by the network, is not
        carried out either."""
        return self.refusals.get((key, request))

    def again(self, bytes key, version, request, double now) -> None:
        """A request has come. If a copy of it has begun here, doubled by the network, there is one more."""
        copies = self._copies(key, version, request)
        if copies:
            self.copies.put((key, request), copies + 1, now)

    def merged(self, bytes key, version, request, double now) -> None:
        """A request has joined another one under way, perhaps a copy of it. Both have one end."""
        copies = self._copies(key, version, request)
        if copies > 1:
            self.copies.put((key, request), copies - 1, now)

    def may_stand(self, bytes key, version, request, double now) -> bool:
        """A request is about to be refused. Whether a copy of it has begun here that was not refused."""
        copies = max(self._copies(key, version, request) - 1, 0)
        self.copies.put((key, request), copies, now)
        return copies > 0

    cdef object _copies(self, bytes key, version, request):
        """How many copies of a request have begun here and were not refused."""
        copies = self.copies.get((key, request))
        if copies is not None:
            return copies
        # Nearly all requests come once, so the first copy is not counted apart.
        return 1 if self.begun.get((key, version)) == request else 0

    def claim(self, bytes key, version, request, double now, *, bint conditional) -> int:
        """0 if the version belongs to the write of this request, else one to go beyond. The tries of a write
        differ in the lowest bits.

        Another write may have the same version: clients with slow clocks choose the next one above all they
        have seen. Or a greater version was confirmed here. Then this write would be refused anyway, unless it
        has a condition to check. One that has only begun is no reason: it may yet be refused itself.
        """
        known = self.begun.get((key, version))
        if known is not None:
            if known != request and known >> TRY_BITS != request >> TRY_BITS:
                return version
            self.copies.put((key, request), self._copies(key, version, request) + 1, now)
            return 0
        # The store would refuse it after a sync of a whole group. Here it costs a look-up.
        if not conditional and version < self._greatest(key):
            return self._greatest(key)
        self.begun.put((key, version), request, now)
        return 0

    cdef object _greatest(self, bytes key):
        """The greatest confirmed version of a key, 0: none."""
        return self.greatest.get((key, 0)) or 0

    def confirm(self, bytes key, record, double now, *, existed) -> None:
        """Note that this write was confirmed."""
        self.confirmations.put((key, record.version), (content_of(record), existed), now)
        if record.version > self._greatest(key):
            self.greatest.put((key, 0), record.version, now)

    def confirmed(self, bytes key, record, write):
        """Whether the key had a record before this confirmed write, None if it was not confirmed. `write`:
        the upper bits of its requests."""
        # Two writes may have one version. Only the one that began here with it may be told of its outcome.
        begun = self.begun.get((key, record.version))
        if begun is None or begun >> TRY_BITS != write:
            return None
        known = self.confirmations.get((key, record.version))
        return known[1] if known is not None and known[0] == content_of(record) else None

    def deletion(self, bytes key, version, double now, *, existed) -> bool:
        """Whether the key had a record when this deletion first came here. `existed`: whether it does now."""
        known = self.deletions.get((key, version))
        if known is None:
            self.deletions.put((key, version), existed, now)
        return existed if known is None else known


def content_of(record) -> int:
    """A number for what a record says, whoever wrote it."""
    return hash((record.flags, record.value))
