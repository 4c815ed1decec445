# cython: language_level=3
"""Messages as Datagrams (see _datagrams.pyx)."""

from libc.stdint cimport uint8_t, uint16_t

from kdht.datapath.socket._backlog cimport Local

cdef object make_address(const uint8_t *ip, uint16_t port)
cdef object make_datagram(const Local *local)
cdef bint read_datagram(Local *local, datagram) except -1
