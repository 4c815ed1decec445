# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""A replica's part of a read: from FETCH to the answer.

Contract: no I/O but the store's. The coordinator's plain Python gets every unsound FETCH and every record
that the store cannot read. It says what is wrong.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset


from kdht.core._layout cimport (
    KDHT_FLAG_REPLY, KDHT_HEADER_LEN, KDHT_ID_LEN, KDHT_MAGIC, KDHT_MAX_DATAGRAM, KDHT_OP_FETCH,
    KDHT_STATUS_OK, KDHT_VERSION, htonl, htons, kdht_header,
)
from kdht._routing cimport Core, core_seal
from kdht.storage._reader cimport StoreReader
from kdht.wire._named cimport item

from kdht.datapath.base import Outgoing
from kdht.node.messages import CONTROL_HOPS
from kdht.wire._shared import Status

cdef uint8_t HOPS = CONTROL_HOPS
cdef uint8_t NOT_FOUND = Status.NOT_FOUND, UNCONFIRMED = Status.UNCONFIRMED


cdef class FetchRequests:
    """Answers FETCHes for the node whose addresses `own` has, from what `reader` gives.

    `is_caught_up` and `holds`: as in KeptRecords. `counters` has "fetches".
    """

    def __cinit__(self, Core core not None, frozenset own not None, StoreReader reader not None, is_caught_up,
                  holds, counters):
        self.core, self.own, self.reader = core, own, reader
        self.is_caught_up, self.holds, self.counters = is_caught_up, holds, counters

    def take(self, batch, now: float, list answers not None) -> list:
        """Add the answers to the FETCHes of a batch of Datagrams, each an Outgoing; gives back the others.

        For tests: the socket's loop calls `answer`.
        """
        cdef list rest = []
        for request in batch:
            answer = self.answer(request, now)
            if answer is None:
                rest.append(request)
            else:
                answers.append(answer)
        return rest

    cdef object answer(self, request, double now):
        """An Outgoing. None: it is something else, or cannot be answered here."""
        cdef bytes data = item(request, 0), key, body
        cdef const kdht_header *header = <const kdht_header *><const uint8_t *>data
        cdef uint8_t status = KDHT_STATUS_OK
        if header.op != KDHT_OP_FETCH or header.flags & KDHT_FLAG_REPLY:
            return None
        if not self._is_sound(header, request):
            return None
        key = header.key[:KDHT_ID_LEN]
        # Before the look: what comes in between does no harm.
        caught_up, holds = self.is_caught_up(key), self.holds(key)
        try:
            body = self.reader.stored(key, caught_up, now)
        except Exception:  # the plain Python meets the same error and reports it
            return None
        self.counters["fetches"] += 1
        if body is None:
            body, status = b"", NOT_FOUND
        if not holds:
            status = UNCONFIRMED
        return self._sealed(header, request, status, body, <uint32_t>now)

    cdef bint _is_sound(self, const kdht_header *header, request) except -1:
        """Whether it came to an own address, from the one that its sender gives as its own."""
        source = item(request, 1)
        cdef bytes ip = item(source, 0)
        cdef uint16_t port = item(source, 1)
        return (header.client_port == htons(port) and memcmp(header.client_ip, <const uint8_t *>ip, 16) == 0
                and item(request, 2) in self.own)

    cdef object _sealed(self, const kdht_header *asked, request, uint8_t status, bytes body, uint32_t now):
        source, own = item(request, 1), item(request, 2)
        cdef bytes own_ip = item(own, 0)
        cdef uint16_t own_port = item(own, 1)
        cdef uint8_t message[KDHT_MAX_DATAGRAM]
        cdef kdht_header *header = <kdht_header *>message
        cdef Py_ssize_t length = len(body)
        # No byte of this stack may leave the host.
        memset(message, 0, KDHT_HEADER_LEN)
        header.magic, header.version, header.op = htonl(KDHT_MAGIC), KDHT_VERSION, KDHT_OP_FETCH
        header.flags, header.hops, header.status = KDHT_FLAG_REPLY, HOPS, status
        # As it came, in network order.
        header.request_id = asked.request_id
        memcpy(header.key, asked.key, KDHT_ID_LEN)
        header.body_len = htons(<uint16_t>length)
        header.client_port = htons(own_port)
        memcpy(header.client_ip, <const uint8_t *>own_ip, 16)
        memcpy(message + KDHT_HEADER_LEN, <const uint8_t *>body, length)
        core_seal(self.core.region, header, now)
        return tuple.__new__(Outgoing, (message[:KDHT_HEADER_LEN + length], source, own))
