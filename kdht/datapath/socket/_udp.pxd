# cython: language_level=3
"""What UDP batches take from the system, their shape, and what can be done with them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from posix.types cimport time_t


cdef extern from "<sys/socket.h>" nogil:
    int AF_INET
    int AF_INET6
    int SOL_SOCKET
    int SO_ERROR
    int SO_MEMINFO
    int SO_RCVBUF
    int SO_RCVBUFFORCE
    int SO_TIMESTAMPNS
    int MSG_DONTWAIT
    int MSG_ERRQUEUE
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *cmsg)
    uint8_t *CMSG_DATA(cmsghdr *cmsg)
    size_t CMSG_SPACE(size_t length)
    size_t CMSG_LEN(size_t length)
    int recvmmsg(int fd, mmsghdr *headers, unsigned int count, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *headers, unsigned int count, int flags)
    ssize_t recvmsg(int fd, msghdr *header, int flags)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *length)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t length)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP
    int IPPROTO_IPV6
    int IP_PKTINFO
    int IP_RECVERR
    int IP_MTU_DISCOVER
    int IP_PMTUDISC_OMIT
    int IPV6_V6ONLY
    int IPV6_PKTINFO
    int IPV6_RECVPKTINFO
    int IPV6_RECVERR
    int IPV6_MTU_DISCOVER
    int IPV6_PMTUDISC_OMIT
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        uint32_t sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint8_t sin6_addr[16]
    struct in_pktinfo:
        int ipi_ifindex
        uint32_t ipi_spec_dst
        uint32_t ipi_addr
    struct in6_pktinfo:
        uint8_t ipi6_addr[16]
        unsigned int ipi6_ifindex
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_BOOTTIME
    int CLOCK_REALTIME_COARSE
    int clock_gettime(int clock, timespec *now)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    short POLLOUT
    short POLLERR
    short POLLNVAL
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<netinet/ip_icmp.h>" nogil:
    int ICMP_DEST_UNREACH
    int ICMP_FRAG_NEEDED

cdef extern from "<netinet/icmp6.h>" nogil:
    int ICMP6_DST_UNREACH

cdef extern from "<linux/errqueue.h>" nogil:
    int SO_EE_ORIGIN_ICMP
    int SO_EE_ORIGIN_ICMP6
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code

cdef extern from "<linux/sock_diag.h>" nogil:
    enum:
        SK_MEMINFO_DROPS
        SK_MEMINFO_VARS

cdef enum:
    BATCH = 64
    ROOM = 1280          # above KDHT_MAX_DATAGRAM, so that the core sees what is too long
    CONTROL_ROOM = 256
    ERRNOS = 134         # above every errno of Linux
    WRITE_WAIT_MS = 50   # how long a full send buffer may hold up a batch
    SEND_TRIES = 3       # of one datagram: an earlier one's ICMP error fails a send that is good

cdef union Name:
    sockaddr_in v4
    sockaddr_in6 v6

cdef struct Slot:
    iovec vector
    Name name
    uint8_t control[CONTROL_ROOM]

cdef struct Inbox:
    mmsghdr headers[BATCH]
    Slot slots[BATCH]
    uint8_t data[BATCH][ROOM]

# What one thread counts; it is the only writer.
cdef struct Tally:
    uint64_t received
    uint64_t sent
    uint64_t not_unicast
    uint64_t unroutable
    uint64_t unreachable
    uint64_t receive_errors[ERRNOS]
    uint64_t send_errors[ERRNOS]


cdef int family_of(const uint8_t *ip) noexcept nogil
cdef bint is_none(const uint8_t *ip) noexcept nogil
cdef void read_name(const Name *name, uint8_t *ip, uint16_t *port) noexcept nogil
cdef double read_stamp(msghdr *header) noexcept nogil
cdef bint read_destination(msghdr *header, int family, uint8_t *ip) noexcept nogil
cdef void open_inbox(Inbox *inbox) noexcept nogil
cdef int receive(int fd, Inbox *inbox, Tally *tally) noexcept nogil
cdef bint read_unreachable(int fd, Name *name, uint8_t *data, uint32_t *length, bint *more) noexcept nogil
cdef void count_error(uint64_t *errors, int error, uint64_t times) noexcept nogil
cdef dict named_errors(const uint64_t *a, const uint64_t *b)
