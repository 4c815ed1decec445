# cython: language_level=3
"""The shared headers and the few C functions that the core needs, as Cython sees them.

Only names are here; every value and layout comes from include/ when C is compiled.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "kdht_siphash.h" nogil:
    uint64_t kdht_sip_read(const void *at)
    uint64_t kdht_siphash(uint64_t k0, uint64_t k1, const uint8_t *data, uint32_t length)

cdef extern from "kdht_tags.h" nogil:
    enum:
        KDHT_COOKIE_PRF_LEN
    uint64_t kdht_header_tag(const kdht_key *key, const void *message)
    uint64_t kdht_body_tag(const kdht_key *key, const kdht_header *message, uint32_t length)
    void kdht_read_key(kdht_key *key, const uint8_t *at)

cdef extern from "kdht_checksum.h" nogil:
    uint64_t kdht_sum(const void *data, uint32_t length, uint64_t total)
    uint64_t kdht_sum_without(const void *data, uint32_t length, uint64_t total)
    uint16_t kdht_fold(uint64_t total)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t value)
    uint64_t htobe64(uint64_t value)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef extern from "<sys/mman.h>" nogil:
    void *c_mmap "mmap"(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int c_munmap "munmap"(void *addr, size_t length)
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    void *MAP_FAILED

cdef extern from *:
    int clzll "__builtin_clzll"(unsigned long long value) noexcept nogil

cdef extern from "kdht_shared.h" nogil:
    bint KDHT_IS_WRITE(uint8_t op)
    enum:
        KDHT_PASS
        KDHT_LOCAL
        KDHT_FORWARD
        KDHT_RELAY
        KDHT_DROP
        KDHT_MAGIC
        KDHT_VERSION
        KDHT_HEADER_LEN
        KDHT_KEYLESS_LEN
        KDHT_TAG_KEY_LEN
        KDHT_MAX_BODY
        KDHT_MAX_DATAGRAM
        KDHT_ID_LEN
        KDHT_ID_BITS
        KDHT_COOKIE_SLOT_BITS
        KDHT_FIRST_ROUTED_OP
        KDHT_LAST_ROUTED_OP
        KDHT_FIRST_CONTROL_OP
        KDHT_LAST_CONTROL_OP
        KDHT_OP_GET
        KDHT_OP_PUT
        KDHT_OP_DELETE
        KDHT_OP_QUORUM_GET
        KDHT_OP_WATCH
        KDHT_OP_MEMBERS
        KDHT_OP_FETCH
        KDHT_OP_TRACE
        KDHT_OP_STORE
        KDHT_OP_PROMISE
        KDHT_RECORD_LEN
        KDHT_RECORD_FLAG_TOMBSTONE
        KDHT_RECORD_FLAG_DECIDED
        KDHT_RECORD_FLAG_BEHIND
        KDHT_RECORD_FLAG_IMMUTABLE
        KDHT_RECORD_FLAG_SIGNED
        KDHT_RECORD_FLAG_SOFT
        KDHT_CERTIFIED_BIT
        KDHT_PROOF_LEN
        KDHT_PROOF_MAC_LEN
        KDHT_CONDITION_LEN
        KDHT_MAX_CONDITIONAL_VALUE
        KDHT_MAX_VALUE
        KDHT_STATUS_OK
        KDHT_STATUS_STORAGE_FAILED
        KDHT_STATUS_BUSY
        KDHT_STATUS_CONFLICT
        KDHT_STATUS_COOKIE_NEEDED
        KDHT_STATUS_TOO_LARGE
        KDHT_STATUS_UNREACHABLE
        KDHT_STATUS_BAD_VERSION
        KDHT_STATUS_DENIED
        KDHT_STATUS_FULL
        KDHT_FLAG_REPLY
        KDHT_FLAG_FORWARDED
        KDHT_FLAG_DIRECT
        KDHT_FLAG_PROVEN
        KDHT_KNOWN_FLAGS
        KDHT_REQUEST_FLAGS
        KDHT_K
        KDHT_ROOM
        KDHT_HOP_LIMIT
        KDHT_REPLAY_WINDOW
        KDHT_MAX_OWN
        KDHT_KEY_SLOTS
        KDHT_CONFIG_READY
        KDHT_CONFIG_COOKIES
        KDHT_CONFIG_UNTAGGED
        KDHT_CONFIG_WRITE_COOKIE
        KDHT_CONFIG_PREFIXES
        KDHT_MAY_READ
        KDHT_MAY_WRITE
        KDHT_MAX_PREFIXES
        KDHT_GO_ON
        KDHT_MAX_EXT_HEADERS
        KDHT_NEW_TTL
        KDHT_REASON_COUNT
        KDHT_REASON_NOT_OURS
        KDHT_REASON_OWNER
        KDHT_REASON_ATTEMPT_ENDS
        KDHT_REASON_TRACE_ENDS
        KDHT_REASON_CONTROL
        KDHT_REASON_FAMILY
        KDHT_REASON_NOT_READY
        KDHT_REASON_ENTERED
        KDHT_REASON_NEXT_HOP
        KDHT_REASON_RELAYED
        KDHT_REASON_TRUNCATED
        KDHT_REASON_BAD_MAGIC
        KDHT_REASON_BAD_VERSION
        KDHT_REASON_BAD_LENGTH
        KDHT_REASON_TOO_LONG
        KDHT_REASON_BAD_FLAGS
        KDHT_REASON_BAD_OP
        KDHT_REASON_FORGED_ORIGIN
        KDHT_REASON_BAD_EPOCH
        KDHT_REASON_BAD_TAG
        KDHT_REASON_BAD_BODY_TAG
        KDHT_REASON_STALE
        KDHT_REASON_HOP_LIMIT
        KDHT_REASON_NOT_ENTRY
        KDHT_REASON_BAD_ADDRESS
        KDHT_REASON_BAD_IP
        KDHT_REASON_FRAGMENT
        KDHT_REASON_IP_OPTIONS
        KDHT_REASON_EXT_HEADER
        KDHT_REASON_NO_CHECKSUM
        KDHT_REASON_MARTIAN
        KDHT_REASON_BAD_CHECKSUM
        KDHT_REASON_RATE_LIMITED
        KDHT_REASON_NEEDS_COOKIE
        KDHT_REASON_NOT_ALLOWED

    struct kdht_header:
        uint32_t magic
        uint8_t version
        uint8_t op
        uint8_t flags
        uint8_t hops
        uint64_t request_id
        uint8_t key[20]
        uint8_t attempt
        uint8_t status
        uint16_t body_len
        uint32_t time
        uint8_t epoch
        uint8_t reserved1
        uint16_t client_port
        uint8_t client_ip[16]
        uint8_t entry_ip[16]
        uint16_t entry_port
        uint16_t max_reply
        uint32_t reserved2
        uint64_t cookie
        uint64_t body_tag
        uint64_t header_tag

    struct kdht_record:
        uint64_t version
        uint32_t ttl
        uint32_t flags

    struct kdht_contact:
        uint8_t id[20]
        uint8_t ip[16]
        uint16_t port

    struct kdht_bucket:
        uint32_t count
        kdht_contact contacts[40]

    struct kdht_sip_key:
        uint64_t k0
        uint64_t k1

    struct kdht_key:
        uint8_t epoch
        uint8_t valid

    struct kdht_config:
        uint8_t self_id[20]
        uint16_t port
        uint8_t flags
        uint8_t own_count
        uint8_t own[8][16]
        uint8_t source4[16]
        uint8_t source6[16]
        kdht_key keys[2]
        kdht_sip_key cookie
        uint64_t occupancy[3]
        uint32_t window
        uint8_t hop_limit

    struct kdht_prefix:
        uint32_t bits
        uint8_t ip[16]
        uint32_t rights

    struct kdht_outcome:
        uint8_t verdict
        uint8_t reason
        uint16_t max_reply      # host order
        uint16_t source_port    # network order
        uint16_t target_port    # network order
        uint8_t source_ip[16]
        uint8_t target_ip[16]
        uint8_t next_id[20]

cdef extern from "kdht_nearest.h" nogil:
    enum:
        KDHT_NEAREST_SIZE
        KDHT_SEVERAL
    struct kdht_near_bucket:
        kdht_bucket bucket
        uint8_t nearest[256]
    struct kdht_bucket_cell:
        uint32_t sequence
        kdht_near_bucket copies[2]
    uint32_t kdht_next_bits(const unsigned long long *words, uint32_t index)
    void kdht_fill_nearest(kdht_near_bucket *made, uint32_t index)

cdef extern from "kdht_region.h" nogil:
    enum:
        KDHT_LANES
        KDHT_READ_TRIES
        KDHT_STRANGERS
    const uint64_t KDHT_REGION_MAGIC
    struct kdht_config_cell:
        uint32_t sequence
        kdht_config copies[2]
    struct kdht_prefix_cell:
        uint32_t sequence
        uint32_t counts[2]
        kdht_prefix copies[2][256]
    struct kdht_stranger:
        uint8_t ip[16]
        uint16_t port
        uint32_t seen
    struct kdht_lane:
        uint32_t config_sequence
        kdht_config config
        uint64_t reasons[64]
        kdht_stranger strangers[8]
        uint32_t next_stranger
    struct kdht_region:
        uint64_t magic
        kdht_config_cell config
        kdht_lane lanes[32]
        kdht_bucket_cell buckets[160]
        kdht_prefix_cell prefixes

cdef extern from "kdht_seqlock.h" nogil:
    uint32_t kdht_seq_begin(const uint32_t *sequence)
    int kdht_seq_same(const uint32_t *sequence, uint32_t begun)
    void kdht_seq_step(uint32_t *sequence)
    void kdht_seq_fence()
    void kdht_seq_open(uint32_t *sequence)

cdef extern from "kdht_verdicts.h" nogil:
    const uint8_t *kdht_verdict_of

cdef extern from "<netinet/ip.h>" nogil:
    struct iphdr:
        uint16_t tot_len
        uint16_t frag_off
        uint8_t ttl
        uint8_t protocol
        uint16_t check
        uint32_t saddr
        uint32_t daddr

cdef extern from "<netinet/udp.h>" nogil:
    struct udphdr:
        uint16_t source
        uint16_t dest
        uint16_t len
        uint16_t check
