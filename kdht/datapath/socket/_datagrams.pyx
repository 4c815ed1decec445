# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Messages of the socket's loop as base.Datagrams, and back."""

from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from kdht.core._layout cimport KDHT_MAX_DATAGRAM, htons, ntohs
from kdht.datapath.socket._backlog cimport Local
from kdht.datapath.socket._direct cimport Direct
from kdht.wire._named cimport item

from kdht.datapath.base import Datagram
from kdht.wire import Address
from kdht.wire._shared import Reason

cdef tuple REASONS = tuple(Reason)


cdef object make_address(const uint8_t *ip, uint16_t port):
    """Past its own constructor, which is Python. `port` is in network order."""
    return tuple.__new__(Address, (ip[:16], ntohs(port)))


cdef object make_datagram(const Local *local):
    return tuple.__new__(Datagram, (
        local.data[:local.length],
        make_address(local.source_ip, local.source_port),
        make_address(local.target_ip, local.target_port),
        REASONS[local.reason],
        local.max_reply,
    ))


cdef bint read_datagram(Local *local, datagram) except -1:
    """The other way. False: it is longer than any message."""
    cdef bytes data = item(datagram, 0), source_ip, target_ip
    source, target = item(datagram, 1), item(datagram, 2)
    source_ip, target_ip = item(source, 0), item(target, 0)
    if len(data) > KDHT_MAX_DATAGRAM or len(source_ip) != 16 or len(target_ip) != 16:
        return False
    memcpy(local.data, <const uint8_t *>data, len(data))
    memcpy(local.source_ip, <const uint8_t *>source_ip, 16)
    memcpy(local.target_ip, <const uint8_t *>target_ip, 16)
    local.length, local.came = <uint16_t>len(data), 0
    local.source_port, local.target_port = htons(item(source, 1)), htons(item(target, 1))
    local.reason, local.max_reply = <int>item(datagram, 3), item(datagram, 4)
    return True


def offer(Direct direct not None, list batch not None) -> list:
    """Offer Datagrams to `direct`, as the loop does with its messages. Gives those that it leaves."""
    cdef int i, count = 0
    cdef list offered = [], left = []
    cdef Local *locals = <Local *>malloc(max(len(batch), 1) * sizeof(Local))
    cdef Local **messages = <Local **>malloc(max(len(batch), 1) * sizeof(Local *))
    try:
        if locals is NULL or messages is NULL:
            raise MemoryError
        for datagram in batch:
            if read_datagram(&locals[count], datagram) and locals[count].length:
                messages[count] = &locals[count]
                count += 1
                offered.append(datagram)
            else:
                left.append(datagram)
        direct.take(messages, count)
        left += [offered[i] for i in range(count) if messages[i].length]
    finally:
        free(locals)
        free(messages)
    return left
