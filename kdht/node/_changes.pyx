# cython: language_level=3, boundscheck=False, wraparound=False
"""What follows from each record that the own store has taken. On the writer's thread, without a call of
Python.
"""


cdef class RecordChanges:
    """`changed` is an OnChange. `invalidate` drops a key from the cache, `repair_changed` is repair's.

    `nearby` has the sets in memory by the first `shared` bytes of their keys: `sets_changed` gets the records
    that may be of one, and says whether they are news. `members_changed` drops kept replies. `watched` has
    the leases by key: `notify(key, record, is_news)` tells the watchers.
    """

    cdef object invalidate, members_changed     # None: there is no cache
    cdef object repair_changed, nearby, sets_changed, watched, notify
    cdef Py_ssize_t shared

    def __cinit__(self, invalidate, repair_changed, nearby, Py_ssize_t shared, sets_changed, members_changed,
                  watched, notify):
        self.invalidate, self.repair_changed = invalidate, repair_changed
        self.nearby, self.shared, self.sets_changed = nearby, shared, sets_changed
        self.members_changed, self.watched, self.notify = members_changed, watched, notify

    def changed(self, bytes key not None, record) -> None:
        is_news = True
        if self.invalidate is not None:
            self.invalidate(key)  # first: a watcher may read at once
        self.repair_changed(key)
        if key[:self.shared] in self.nearby:
            is_news = self.sets_changed(key, record)  # before the watchers, as above
        if self.members_changed is not None:
            self.members_changed(key)  # behind the index, from which replies are made
        if self.watched:
            self.notify(key, record, is_news)
