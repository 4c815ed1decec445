# cython: language_level=3
"""The recent writes of a node, so that a late retry gets the answer of the first try.

Contract: bounded in number and time. A write that is forgotten early costs a client an UNCONFIRMED, nothing
else. Thread-safe.
"""

from threading import Lock

# Longer than a client tries by default, and as long as its version is believed.
SECONDS = 60.0
MOST = 16384
"""Items of one generation; there are two."""
cdef double KEPT = SECONDS
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

    cdef Generations begun, greatest, confirmations, deletions, refusals

    def __cinit__(self):
        self.begun, self.greatest = Generations(), Generations()
        self.confirmations, self.deletions, self.refusals = Generations(), Generations(), Generations()

    def refuse(self, bytes key, request, status, version, double now) -> None:
        """Note that this request was refused, and changed nothing."""
        self.refusals.put((key, request), (status, version), now)

    def refused(self, bytes key, request):
        """The refusal of the request with this ID, if any. A copy of it, doubled by the network, is not
        carried out either."""
        return self.refusals.get((key, request))

    def claim(self, bytes key, version, write, double now, *, bint conditional) -> int:
        """0 if the version belongs to this write (`write`: the number of its tries), else one to go beyond.

        Another write may have the same version: clients with slow clocks choose the next one above all they
        have seen. Or a greater version was confirmed here. Then this write would be refused anyway, unless it
        has a condition to check. One that has only begun is no reason: it may yet be refused itself.
        """
        known = self.begun.get((key, version))
        if known is not None:
            return 0 if known == write else version
        # The store would refuse it after a sync of a whole group. Here it costs a look-up.
        if not conditional and version < self._greatest(key):
            return self._greatest(key)
        self.begun.put((key, version), write, now)
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
        """Whether the key had a record before this confirmed write; None if it was not confirmed."""
        # Two writes may have one version. Only the one that began here with it may be told of its outcome.
        if self.begun.get((key, record.version)) != write:
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
