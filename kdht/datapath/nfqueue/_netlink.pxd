# cython: language_level=3
"""The parts of Linux's netlink and NFQUEUE interface that the queue loop uses, and the messages it sends."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    enum:
        MSG_WAITFORONE
        MSG_TRUNC
        SOL_SOCKET
        SO_RCVTIMEO
    int setsockopt(int fd, int level, int option, const void *value, uint32_t length)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t value)
    uint16_t htons(uint16_t value)

cdef extern from "<sys/time.h>" nogil:
    struct timespec:
        long tv_sec
    struct timeval:
        long tv_sec
        long tv_usec
    enum:
        CLOCK_REALTIME_COARSE
    int clock_gettime(int clock, timespec *now)

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_SET_PDEATHSIG
    int prctl(int option, unsigned long value)

cdef extern from "<linux/netlink.h>" nogil:
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    struct nlmsgerr:
        int error
        nlmsghdr msg
    struct nlattr:
        uint16_t nla_len
        uint16_t nla_type
    enum:
        NLMSG_ERROR
        NLM_F_REQUEST
        NLM_F_ACK
        NLA_TYPE_MASK

cdef extern from "<linux/netfilter/nfnetlink.h>" nogil:
    struct nfgenmsg:
        uint8_t nfgen_family
        uint8_t version
        uint16_t res_id
    enum:
        NFNL_SUBSYS_QUEUE

cdef extern from "<linux/netfilter.h>" nogil:
    enum:
        NF_DROP
        NF_ACCEPT

cdef extern from "<linux/netfilter/nfnetlink_queue.h>" nogil:
    struct nfqnl_msg_packet_hdr:
        uint32_t packet_id
    struct nfqnl_msg_verdict_hdr:
        uint32_t verdict
        uint32_t id
    enum:
        NFQNL_MSG_PACKET
        NFQNL_MSG_VERDICT
        NFQNL_MSG_CONFIG
        NFQNL_MSG_VERDICT_BATCH
        NFQA_PACKET_HDR
        NFQA_VERDICT_HDR
        NFQA_MARK
        NFQA_PAYLOAD
        NFQA_CAP_LEN
        NFQA_CFG_MASK
        NFQA_CFG_FLAGS
        NFQA_CFG_F_FAIL_OPEN

cdef extern from *:
    """
    /* The messages that we send, as they lie on the netlink socket. */
    struct kdht_nl_verdict { struct nlmsghdr nl; struct nfgenmsg nf;
        struct nlattr verdict_at; struct nfqnl_msg_verdict_hdr verdict; };
    struct kdht_nl_rewrite { struct kdht_nl_verdict head;
        struct nlattr mark_at; __be32 mark; struct nlattr payload_at; };
    struct kdht_nl_flags { struct nlmsghdr nl; struct nfgenmsg nf;
        struct nlattr flags_at; __be32 flags; struct nlattr mask_at; __be32 mask; };
    """
    struct kdht_nl_verdict:
        nlmsghdr nl
        nfgenmsg nf
        nlattr verdict_at
        nfqnl_msg_verdict_hdr verdict
    struct kdht_nl_rewrite:
        kdht_nl_verdict head
        nlattr mark_at
        uint32_t mark
        nlattr payload_at
    struct kdht_nl_flags:
        nlmsghdr nl
        nfgenmsg nf
        nlattr flags_at
        uint32_t flags
        nlattr mask_at
        uint32_t mask
