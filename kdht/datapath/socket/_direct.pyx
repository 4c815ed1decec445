# cython: language_level=3
"""The seam between the socket's loop and a node's Cython: messages as the loop has them, without Datagrams.

What a `Direct` does not take goes to the receiver, as if there were none.
"""

from kdht.datapath.socket._backlog cimport Local


cdef class Direct:
    """A node's."""

    cdef int take(self, Local **messages, int count) except -1:
        """Take what is common, and set its `length` to 0. On the loop's thread, which has the GIL.

        It must not raise: a message that fails is noted and taken.
        """
        return 0
