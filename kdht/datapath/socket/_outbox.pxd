# cython: language_level=3
"""Datagrams that leave together, by one socket."""

from libc.stdint cimport uint8_t, uint16_t

from kdht.datapath.socket._udp cimport BATCH, Slot, Tally, iovec, mmsghdr

# Datagrams that leave by one endpoint; they point to data that somebody else holds.
cdef struct Outbox:
    unsigned int count
    mmsghdr headers[BATCH]
    Slot slots[BATCH]
    bint bundles                 # the kernel takes several datagrams for one target as one
    bint is_taken[BATCH]         # into a run
    mmsghdr runs[BATCH]
    unsigned int lengths[BATCH]  # datagrams of a run
    iovec vectors[BATCH]         # of all runs, one behind the other

cdef void open_outbox(Outbox *box, int fd) noexcept nogil
cdef void put(Outbox *box, uint8_t *data, size_t length, const uint8_t *source_ip,
              const uint8_t *target_ip, uint16_t target_port) noexcept nogil
cdef void flush(int fd, Outbox *box, Tally *tally) noexcept nogil
cdef void flush_bundled(int fd, Outbox *box, Tally *tally) noexcept nogil
