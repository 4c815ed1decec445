# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Batches of datagrams to UDP sockets, with few system calls; no GIL.

Contract: addresses are 16 bytes, IPv6 or IPv4-mapped; ports are in network order. Every datagram can be given
a source address: so an answer leaves from the address that was asked. What cannot be sent is counted in a
Tally.

`flush_bundled` hands datagrams of one length for one target to the kernel together (UDP_SEGMENT, Linux 4.18).
They pass through its layers as one, and are cut apart by the device, or by the socket that receives them.
Those for one target keep their order. What the kernel refuses to cut is sent one by one.
"""

from libc.errno cimport EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS, EPERM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kdht.datapath.socket._udp cimport (
    AF_INET, AF_INET6, BATCH, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, IPPROTO_IP, IPPROTO_IPV6,
    IP_PKTINFO, IPV6_PKTINFO, MSG_DONTWAIT, Name, POLLOUT, SEND_TRIES, Slot, Tally, WRITE_WAIT_MS, cmsghdr,
    count_error, family_of, getsockopt, in6_pktinfo, in_pktinfo, mmsghdr, msghdr, poll, pollfd, sendmmsg,
    sockaddr_in, sockaddr_in6,
)

cdef extern from "<netinet/udp.h>" nogil:
    int SOL_UDP
    int UDP_SEGMENT

cdef size_t MOST_BYTES = 65535 - 8 - 40  # of a bundle, with its headers for UDP and IPv6


# --- Addresses and control messages ----------------------------------------------------

cdef inline uint32_t write_name(Name *name, const uint8_t *ip, uint16_t port) noexcept nogil:
    """The socket address of `ip`, and its length."""
    memset(name, 0, sizeof(Name))
    if family_of(ip) == AF_INET:
        name.v4.sin_family = AF_INET
        name.v4.sin_port = port
        memcpy(&name.v4.sin_addr, ip + 12, 4)
        return sizeof(sockaddr_in)
    name.v6.sin6_family = AF_INET6
    name.v6.sin6_port = port
    memcpy(&name.v6.sin6_addr, ip, 16)
    return sizeof(sockaddr_in6)


cdef void write_source(msghdr *header, uint8_t *control, const uint8_t *ip) noexcept nogil:
    """Make the datagram leave from `ip`."""
    cdef cmsghdr *cmsg
    cdef bint v4 = family_of(ip) == AF_INET
    cdef size_t size = sizeof(in_pktinfo) if v4 else sizeof(in6_pktinfo)
    header.msg_control = control
    header.msg_controllen = CMSG_SPACE(size)
    memset(control, 0, header.msg_controllen)
    cmsg = CMSG_FIRSTHDR(header)
    cmsg.cmsg_len = CMSG_LEN(size)
    cmsg.cmsg_level = IPPROTO_IP if v4 else IPPROTO_IPV6
    cmsg.cmsg_type = IP_PKTINFO if v4 else IPV6_PKTINFO
    if v4:
        memcpy(&(<in_pktinfo *>CMSG_DATA(cmsg)).ipi_spec_dst, ip + 12, 4)
    else:
        memcpy(CMSG_DATA(cmsg), ip, 16)


# --- Filling ----------------------------------------------------------------------------

cdef void open_outbox(Outbox *box, int fd) noexcept nogil:
    """Make an outbox of zeros ready for this socket."""
    cdef int size
    cdef uint32_t length = sizeof(size)
    # A kernel that does not know the option would send a bundle as one long datagram.
    box.bundles = getsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, &length) == 0


cdef void put(Outbox *box, uint8_t *data, size_t length, const uint8_t *source_ip,
              const uint8_t *target_ip, uint16_t target_port) noexcept nogil:
    """Add a datagram. `source_ip` NULL: the socket and the kernel choose the source."""
    cdef msghdr *header = &box.headers[box.count].msg_hdr
    cdef Slot *slot = &box.slots[box.count]
    box.count += 1
    slot.vector.iov_base = data
    slot.vector.iov_len = length
    header.msg_iov = &slot.vector
    header.msg_iovlen = 1
    header.msg_name = &slot.name
    header.msg_namelen = write_name(&slot.name, target_ip, target_port)
    header.msg_control = NULL
    header.msg_controllen = 0
    if source_ip is not NULL:
        write_source(header, slot.control, source_ip)


# --- Sending one by one -----------------------------------------------------------------

cdef bint becomes_writable(int fd) noexcept nogil:
    cdef pollfd polled
    polled.fd = fd
    polled.events = POLLOUT
    return poll(&polled, 1, WRITE_WAIT_MS) > 0


cdef inline bint is_its_own(int error) noexcept nogil:
    """Whether an error surely concerns this datagram. Others may be the ICMP error of an earlier one."""
    return error == ENOBUFS or error == EPERM or error == EINVAL


cdef void flush(int fd, Outbox *box, Tally *tally) noexcept nogil:
    """Send all datagrams of the outbox. Those that cannot be sent are counted and dropped.

    A full send buffer may block this for WRITE_WAIT_MS. If it stays full, the rest of the batch is dropped.
    """
    _send_each(fd, box.headers, box.count, tally)
    box.count = 0


cdef void _send_each(int fd, mmsghdr *headers, unsigned int count, Tally *tally) noexcept nogil:
    cdef unsigned int at = 0
    cdef int sent, error, tries = 0
    while at < count:
        sent = sendmmsg(fd, &headers[at], count - at, MSG_DONTWAIT)
        if sent > 0:
            tally.sent += sent
            at += sent
            tries = 0
            continue
        error = errno
        if error == EAGAIN and not becomes_writable(fd):
            count_error(tally.send_errors, EAGAIN, count - at)
            break
        # The kernel reports an ICMP error at the next send, whatever that sends. So the same datagram is
        # tried again.
        tries += 1
        if tries == SEND_TRIES or is_its_own(error):
            count_error(tally.send_errors, error, 1)
            at += 1
            tries = 0


# --- Sending together -------------------------------------------------------------------

cdef void flush_bundled(int fd, Outbox *box, Tally *tally) noexcept nogil:
    """As `flush`, with datagrams for one target together. Their order among targets may change."""
    cdef unsigned int at = 0, count
    cdef int sent, error, i
    if not box.bundles or box.count < 2:
        flush(fd, box, tally)
        return
    count = _make_runs(box)
    while at < count:
        sent = sendmmsg(fd, &box.runs[at], count - at, MSG_DONTWAIT)
        for i in range(sent):
            tally.sent += box.lengths[at + i]
        if sent > 0:
            at += sent
            continue
        error = errno
        if error != EAGAIN:
            _send_apart(fd, box, at, error, tally)
            at += 1
        elif not becomes_writable(fd):
            while at < count:
                count_error(tally.send_errors, EAGAIN, box.lengths[at])
                at += 1
    box.count = 0


cdef unsigned int _make_runs(Outbox *box) noexcept nogil:
    """Distribute the datagrams over `runs`. Gives how many there are."""
    cdef unsigned int i, count = 0, vectors = 0
    memset(box.is_taken, 0, sizeof(box.is_taken))
    for i in range(box.count):
        if not box.is_taken[i]:
            box.lengths[count] = _make_run(box, i, &box.runs[count].msg_hdr, vectors)
            vectors += box.lengths[count]
            count += 1
    return count


cdef unsigned int _make_run(Outbox *box, unsigned int first, msghdr *run,
                            unsigned int vectors) noexcept nogil:
    """Make a run of a datagram and those behind it that may go with it. Gives their number."""
    cdef msghdr *header = &box.headers[first].msg_hdr
    cdef size_t size, length = box.slots[first].vector.iov_len, bytes = length
    cdef unsigned int i, count = 1
    run[0] = header[0]
    box.vectors[vectors] = box.slots[first].vector
    for i in range(first + 1, box.count):
        if box.is_taken[i] or not _is_same_way(header, &box.headers[i].msg_hdr):
            continue
        size = box.slots[i].vector.iov_len
        if size > length or size == 0 or bytes + size > MOST_BYTES:
            break
        box.is_taken[i] = True
        box.vectors[vectors + count] = box.slots[i].vector
        count += 1
        bytes += size
        if size < length:   # only the last one may be shorter
            break
    if count > 1:
        run.msg_iov, run.msg_iovlen = &box.vectors[vectors], count
        _write_segment(run, box.slots[first].control, <uint16_t>length)
    return count


cdef bint _is_same_way(const msghdr *a, const msghdr *b) noexcept nogil:
    """Whether target and source are the same."""
    # Most differ in the first bytes, which are the family, the port and an IPv4 address.
    return ((<const uint64_t *>a.msg_name)[0] == (<const uint64_t *>b.msg_name)[0]
            and a.msg_namelen == b.msg_namelen and a.msg_controllen == b.msg_controllen
            and memcmp(a.msg_name, b.msg_name, a.msg_namelen) == 0
            and (a.msg_controllen == 0 or memcmp(a.msg_control, b.msg_control, a.msg_controllen) == 0))


cdef void _write_segment(msghdr *run, uint8_t *control, uint16_t length) noexcept nogil:
    """Have the kernel cut a run into datagrams of this length. `control`: room for control messages."""
    cdef cmsghdr *cmsg = <cmsghdr *>(control + run.msg_controllen)
    run.msg_control = control
    run.msg_controllen += CMSG_SPACE(sizeof(length))
    cmsg.cmsg_len = CMSG_LEN(sizeof(length))
    cmsg.cmsg_level, cmsg.cmsg_type = SOL_UDP, UDP_SEGMENT
    memcpy(CMSG_DATA(cmsg), &length, sizeof(length))


cdef void _send_apart(int fd, Outbox *box, unsigned int number, int error,
                      Tally *tally) noexcept nogil:
    """Send a run's datagrams one by one, after an error of the whole."""
    cdef mmsghdr each[BATCH]
    cdef const msghdr *run = &box.runs[number].msg_hdr
    cdef unsigned int i, count = box.lengths[number]
    # The device cannot complete checksums, or the path has no room for the datagrams: so it is with the next
    # ones. Other errors may be the ICMP error of an earlier datagram.
    if count > 1 and (error == EIO or error == EINVAL or error == EMSGSIZE):
        box.bundles = False
    for i in range(count):
        each[i].msg_hdr = run[0]
        each[i].msg_hdr.msg_iov, each[i].msg_hdr.msg_iovlen = &run.msg_iov[i], 1
        if count > 1:
            each[i].msg_hdr.msg_controllen -= CMSG_SPACE(sizeof(uint16_t))
            if each[i].msg_hdr.msg_controllen == 0:
                each[i].msg_hdr.msg_control = NULL
    _send_each(fd, each, count, tally)
