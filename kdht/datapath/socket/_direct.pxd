# cython: language_level=3
"""Messages that need no plain Python (see _direct.pyx)."""

from kdht.datapath.socket._backlog cimport Local


cdef class Direct:
    cdef int take(self, Local **messages, int count) except -1
