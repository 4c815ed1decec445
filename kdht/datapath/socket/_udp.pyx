# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: include_dirs = include
"""Batches of datagrams from UDP sockets, each with both of its addresses; no GIL. _outbox.pyx sends them.

Contract: addresses are 16 bytes, IPv6 or IPv4-mapped; ports are in network order. The destination of every
datagram is read (IP_PKTINFO, and RFC 3542 for IPv6), so that an answer can leave from there. ICMP errors come
from the socket's error queue and name the target that cannot be reached. Only the functions for Python raise;
other failures are counted in a Tally.
"""

import os
from errno import errorcode

from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef const uint8_t *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
cdef const uint8_t *NO_IP = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


# --- Addresses and control messages ----------------------------------------------------

cdef int family_of(const uint8_t *ip) noexcept nogil:
    return AF_INET if memcmp(ip, MAPPED, 12) == 0 else AF_INET6


cdef bint is_none(const uint8_t *ip) noexcept nogil:
    return memcmp(ip, NO_IP, 16) == 0


cdef void read_name(const Name *name, uint8_t *ip, uint16_t *port) noexcept nogil:
    if name.v4.sin_family == AF_INET:
        memcpy(ip, MAPPED, 12)
        memcpy(ip + 12, &name.v4.sin_addr, 4)
        port[0] = name.v4.sin_port
    else:
        memcpy(ip, &name.v6.sin6_addr, 16)
        port[0] = name.v6.sin6_port


cdef inline cmsghdr *find_control(msghdr *header, int level, int kind) noexcept nogil:
    cdef cmsghdr *cmsg = CMSG_FIRSTHDR(header)
    while cmsg is not NULL and not (cmsg.cmsg_level == level and cmsg.cmsg_type == kind):
        cmsg = CMSG_NXTHDR(header, cmsg)
    return cmsg


cdef bint read_destination(msghdr *header, int family, uint8_t *ip) noexcept nogil:
    """The address that a datagram was sent to. False if it is not the address of one host."""
    cdef cmsghdr *cmsg
    cdef in_pktinfo info
    if family == AF_INET:
        cmsg = find_control(header, IPPROTO_IP, IP_PKTINFO)
        if cmsg is NULL:
            return False
        memcpy(&info, CMSG_DATA(cmsg), sizeof(info))
        memcpy(ip, MAPPED, 12)
        memcpy(ip + 12, &info.ipi_addr, 4)
        # They differ for broadcast and multicast. An answer to those would come from many hosts.
        return memcmp(&info.ipi_addr, &info.ipi_spec_dst, 4) == 0
    cmsg = find_control(header, IPPROTO_IPV6, IPV6_PKTINFO)
    if cmsg is NULL:
        return False
    memcpy(ip, CMSG_DATA(cmsg), 16)
    # Multicast.
    return ip[0] != 0xff


cdef double read_stamp(msghdr *header) noexcept nogil:
    """When a datagram reached this host, Unix seconds. 0: the kernel did not say."""
    cdef cmsghdr *cmsg = find_control(header, SOL_SOCKET, SO_TIMESTAMPNS)
    cdef timespec stamp
    if cmsg is NULL:
        return 0
    memcpy(&stamp, CMSG_DATA(cmsg), sizeof(stamp))
    return <double>stamp.tv_sec + 1e-9 * <double>stamp.tv_nsec


# --- Receiving batches ----------------------------------------------------------------

cdef void count_error(uint64_t *errors, int error, uint64_t times) noexcept nogil:
    errors[error if 0 < error < ERRNOS else 0] += times


cdef void open_inbox(Inbox *inbox) noexcept nogil:
    """Point the headers to their slots. Called once."""
    cdef int i
    cdef msghdr *header
    for i in range(BATCH):
        header = &inbox.headers[i].msg_hdr
        inbox.slots[i].vector.iov_base = inbox.data[i]
        inbox.slots[i].vector.iov_len = ROOM
        header.msg_name = &inbox.slots[i].name
        header.msg_iov = &inbox.slots[i].vector
        header.msg_iovlen = 1
        header.msg_control = inbox.slots[i].control


cdef int receive(int fd, Inbox *inbox, Tally *tally) noexcept nogil:
    """Receive up to BATCH datagrams. Gives how many; 0 after a temporary error, -1 if the socket is
    closed.
    """
    cdef int i, count
    for i in range(BATCH):
        # The kernel wrote the lengths of the last datagrams here.
        inbox.headers[i].msg_hdr.msg_namelen = sizeof(Name)
        inbox.headers[i].msg_hdr.msg_controllen = CONTROL_ROOM
    count = recvmmsg(fd, inbox.headers, BATCH, MSG_DONTWAIT, NULL)
    if count >= 0:
        tally.received += count
        return count
    if errno != EAGAIN and errno != EINTR:
        count_error(tally.receive_errors, errno, 1)
    # Every other error is one of a datagram, or passes: the loop goes on.
    return -1 if errno == EBADF else 0


cdef bint read_unreachable(int fd, Name *name, uint8_t *data, uint32_t *length, bint *more) noexcept nogil:
    """Take one error off the queue. True if it says that the host or port in `name` cannot be reached.

    `data` has ROOM bytes and gets the beginning of the lost datagram that the error quotes, `length` bytes.
    """
    cdef msghdr header
    cdef iovec vector
    cdef ssize_t size
    cdef uint8_t control[CONTROL_ROOM]
    cdef cmsghdr *cmsg
    cdef sock_extended_err error
    memset(&header, 0, sizeof(header))
    header.msg_name = name
    header.msg_namelen = sizeof(Name)
    header.msg_control = control
    header.msg_controllen = CONTROL_ROOM
    vector.iov_base, vector.iov_len = data, ROOM
    header.msg_iov, header.msg_iovlen = &vector, 1
    size = recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT)
    more[0] = size >= 0
    length[0] = <uint32_t>size if size > 0 else 0
    if not more[0] or header.msg_namelen == 0:
        return False
    cmsg = find_control(&header, IPPROTO_IP, IP_RECVERR)
    if cmsg is NULL:
        cmsg = find_control(&header, IPPROTO_IPV6, IPV6_RECVERR)
    if cmsg is NULL:
        return False
    memcpy(&error, CMSG_DATA(cmsg), sizeof(error))
    if error.ee_origin == SO_EE_ORIGIN_ICMP:
        return error.ee_type == ICMP_DEST_UNREACH and error.ee_code != ICMP_FRAG_NEEDED
    return error.ee_origin == SO_EE_ORIGIN_ICMP6 and error.ee_type == ICMP6_DST_UNREACH


# --- What Python calls ------------------------------------------------------------------

cdef int set_option(int fd, int level, int name, int value) except -1:
    if setsockopt(fd, level, name, &value, sizeof(value)) < 0:
        raise OSError(errno, os.strerror(errno))
    return 0


def prepare(fd: int, ipv4: bool, receive_buffer: int) -> None:
    """Set a UDP socket's options before it is bound. Raises OSError.

    The socket will tell destinations, ICMP errors and times of arrival. It ignores path MTU messages: a
    message fits any path, and they are easily forged. Its receive buffer gets `receive_buffer` bytes or the
    most allowed.
    """
    cdef int size = receive_buffer
    set_option(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if ipv4:
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
        set_option(fd, IPPROTO_IP, IP_RECVERR, 1)
        set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)
    else:
        # So that one node can bind both wildcards, and an IPv4-mapped source never comes in over IPv6.
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_OMIT)
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0:
        set_option(fd, SOL_SOCKET, SO_RCVBUF, size)


def kernel_drops(fd: int) -> int:
    """How many datagrams the kernel dropped because the socket's receive buffer was full. Raises OSError."""
    cdef uint32_t values[SK_MEMINFO_VARS]
    cdef uint32_t length = sizeof(values)
    if getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length) < 0:
        raise OSError(errno, os.strerror(errno))
    return values[SK_MEMINFO_DROPS]


cdef dict named_errors(const uint64_t *a, const uint64_t *b):
    """Two counts of errors added up, by name of the errno, without those that did not happen."""
    cdef int i
    return {errorcode.get(i, "other"): a[i] + b[i] for i in range(ERRNOS) if a[i] + b[i]}
