/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The one definition of every constant and struct that Cython, Python and BPF
 * share. Python sees it through kdht/wire/_shared.pyx, the routing core through
 * kdht/_routing.pxd, the XDP program by including it. docs/protocol.md explains it.
 *
 * Contract: plain C that a BPF compiler takes too; no libc, no functions.
 */
#ifndef KDHT_SHARED_H
#define KDHT_SHARED_H

#include <linux/types.h>

/* --- The protocol: changing one of these makes another protocol ------------- */

#define KDHT_MAGIC 0x4b444854u /* "KDHT" */
#define KDHT_VERSION 1
#define KDHT_PORT 5348 /* "KDHT" on a phone's keys */
#define KDHT_HEADER_LEN 112
#define KDHT_TAGGED_LEN 104 /* the header tag covers these bytes, hops taken as 0 */
#define KDHT_MAX_BODY 1120  /* 40 IPv6 + 8 UDP + 112 + 1120 = 1280, IPv6's least MTU */
#define KDHT_MAX_DATAGRAM 1232
#define KDHT_ID_LEN 20
#define KDHT_ID_BITS 160
#define KDHT_RECORD_LEN 16 /* struct kdht_record */
#define KDHT_MAX_VALUE 1104 /* KDHT_MAX_BODY - KDHT_RECORD_LEN */
#define KDHT_CONDITION_LEN 8 /* behind a conditional write's record head: the version that must be stored */
#define KDHT_MAX_CONDITIONAL_VALUE 1096 /* KDHT_MAX_VALUE - KDHT_CONDITION_LEN */
#define KDHT_CERTIFIED_BIT 63 /* this bit of a version: the record proves itself, and wins over every record that does not */
#define KDHT_SALT_SHIFT 8 /* in a signed record's flags: the length of its salt */
#define KDHT_MAX_SALT 64
#define KDHT_PUBLIC_KEY_LEN 32 /* Ed25519 */
#define KDHT_SIGNATURE_LEN 64
#define KDHT_MAX_SIGNED 1000 /* salt and v of a signed record together: its PUT fills a body then */
#define KDHT_GRANT_LEN 24 /* struct kdht_grant */
#define KDHT_PROOF_LEN 64 /* struct kdht_proof: the end of a PROVEN request's body */
#define KDHT_PROOF_MAC_LEN 12
#define KDHT_GRANT_KIND 1 /* its key is derived from an access secret */
#define KDHT_MAX_PROVEN_VALUE 1040 /* KDHT_MAX_VALUE - KDHT_PROOF_LEN */
#define KDHT_TRY_BITS 6 /* the low bits of a write's request ID are the number of the try; the others are the write's own */
#define KDHT_HEADER_PAIRS 12 /* pairs of words that NH takes from the header: bytes 8 to 103 */
#define KDHT_BODY_PAIRS 141  /* and from the longest body; behind its last byte there are zeros */
#define KDHT_HEADER_KEY_WORDS 28 /* 2 for each pair, and 4 for the further lanes */
#define KDHT_BODY_KEY_WORDS 286
#define KDHT_TAG_KEY_LEN 1288 /* two SipHash keys of 16 bytes, then NH's words, 4 bytes each */
#define KDHT_DISCOVERY_PORT 5347 /* of the multicast groups in kdht/wire/discovery.py; datapaths never see it */
#define KDHT_COOKIE_SLOT_BITS 7 /* a cookie's time slot is 128 s; the cookie is good in it and in the two beside it */

/* Datapaths forward routed ops. Control ops always go up to the daemon. */
#define KDHT_OPS(X)                                                            \
	X(GET, 0x01)                                                               \
	X(PUT, 0x02)                                                               \
	X(DELETE, 0x03)                                                            \
	X(TRACE, 0x04)                                                             \
	X(QUORUM_GET, 0x05) /* the newest of what a majority of the replicas has */ \
	X(WATCH, 0x06)      /* tell me of changes, for a while */                  \
	X(ANNOUNCE, 0x07)   /* be a member of a set, for a while */                \
	X(WITHDRAW, 0x08)   /* be a member no more */                              \
	X(MEMBERS, 0x09)    /* the members of a set, or some of them */            \
	X(PING, 0x10)                                                              \
	X(FIND_NODE, 0x11)                                                         \
	X(STORE, 0x12)   /* a record, to a replica */                              \
	X(FETCH, 0x13)   /* a record, from a replica */                            \
	X(DIGEST, 0x14)  /* are these key ranges equal? */                         \
	X(OFFER, 0x15)   /* which of these versions do you want? */                \
	X(SUSPECT, 0x16) /* this contact does not answer me */                     \
	X(LEAVE, 0x17)   /* forget me: I am going */                               \
	X(PROMISE, 0x18) /* accept no older version of this key: a conditional write is being decided */ \
	X(FORGET, 0x19)  /* this node died and does not come back: wait for it no more */ \
	X(MEET, 0x1a)    /* get to know this contact, or have it get to know me */ \
	X(REFLECT, 0x1b) /* send me a TRACE that I have to forward to you */ \
	X(LIST, 0x1c)    /* the members of a set, from a replica */

#define KDHT_FIRST_ROUTED_OP 0x01
#define KDHT_LAST_ROUTED_OP 0x09
#define KDHT_FIRST_CONTROL_OP 0x10
#define KDHT_LAST_CONTROL_OP 0x1c

/* Routed requests that change something: PUT, DELETE, ANNOUNCE, WITHDRAW. Bit n is op n. */
#define KDHT_WRITE_OPS 0x18c
#define KDHT_IS_WRITE(op) ((op) <= KDHT_LAST_ROUTED_OP && KDHT_WRITE_OPS >> (op) & 1)

/* Only a routed request may have DIRECT or PROVEN; any other message with one is BAD_FLAGS. */
#define KDHT_FLAGS(X)  \
	X(REPLY, 0x01)     \
	X(FORWARDED, 0x02) /* filled in and tagged by a member of the cluster */ \
	X(DIRECT, 0x04)    /* the client takes the answer from any node's address */ \
	X(PROVEN, 0x08)    /* the body ends in a proof of the client's rights */

#define KDHT_KNOWN_FLAGS 0x0f
#define KDHT_REQUEST_FLAGS 0x0c /* DIRECT and PROVEN */

#define KDHT_STATUSES(X)                                                            \
	X(OK, 0)                                                                        \
	X(NOT_FOUND, 1)       /* the owner has no such record */                        \
	X(NOT_RESPONSIBLE, 2) /* a retry ended at a node that is no replica of the key */ \
	X(COOKIE_NEEDED, 3)   /* repeat with the cookie of this reply */                \
	X(TOO_LARGE, 4)       /* the value is larger than the client said it takes */   \
	X(BAD_REQUEST, 5)     /* the body does not fit the op */                \
	X(STORAGE_FAILED, 6)  /* the disk failed: nothing was changed */               \
	X(BUSY, 7)            /* the queue is full: try again later */             \
	X(HOPS_ENDED, 8)      /* TRACE only: the hop limit ended here */                    \
	X(CONFLICT, 9)        /* the stored version is not the writer's */             \
	X(UNCONFIRMED, 10)    /* too few replicas answered: it may be done */      \
	X(UNREACHABLE, 11)    /* the next hop's host refused it: nothing was done */    \
	X(DENIED, 12)         /* its sender may not do this: nothing was changed */ \
	X(BAD_VERSION, 13)    /* the write's own version is too low, or far from the time */ \
	X(TOO_FEW, 14)        /* fewer nodes are alive than must answer: nothing was changed */ \
	X(FULL, 15)           /* no room is left for it: nothing was changed */

/* In a record's flags. */
#define KDHT_RECORD_FLAGS(X) \
	X(IF_VERSION, 0x01)  /* a request: a condition follows, 8 bytes: the version that must be stored, 0: none */ \
	X(TOMBSTONE, 0x02)   /* between nodes and in the store: deleted, there is no value */ \
	X(DECIDED, 0x04)     /* STORE: a nonce follows, 8 bytes: only where its promise still holds */ \
	X(BEHIND, 0x08)      /* a reply to STORE: this node has not caught up on the key */ \
	X(IMMUTABLE, 0x10)   /* the key is the hash of the value */ \
	X(SIGNED, 0x20)      /* the value is signed by the key's owner */ \
	X(SOFT, 0x40)        /* ANNOUNCE and STORE: acknowledge it before it is on the disk */

/* In a grant: what its token may do. */
#define KDHT_RIGHTS(X) \
	X(READ, 0x01)     /* GET and QUORUM_GET */ \
	X(WRITE, 0x02)    /* PUT */ \
	X(DELETE, 0x04)   /* DELETE */ \
	X(ANNOUNCE, 0x08) /* to be a member of a set */ \
	X(WATCH, 0x10)    /* WATCH */

/* --- What the implementations agree on ------------------------------------- */

/* FORWARD and RELAY re-address the packet, LOCAL and PASS leave it as it came. */
#define KDHT_VERDICTS(X)                                          \
	X(PASS, 0)    /* not ours: not examined further */   \
	X(LOCAL, 1)   /* up to this node's daemon */                  \
	X(FORWARD, 2) /* a request, on to the next hop */             \
	X(RELAY, 3)   /* a reply, back to its client */               \
	X(DROP, 4)

/* X(name, value, verdict): why a verdict was given; each reason has one verdict. */
#define KDHT_REASONS(X)                                                                \
	X(NOT_OURS, 0, PASS)                                                               \
	X(OWNER, 1, LOCAL)        /* no contact is closer to the key */                    \
	X(ATTEMPT_ENDS, 2, LOCAL) /* `attempt` skips all closer contacts */         \
	X(TRACE_ENDS, 3, LOCAL)   /* a TRACE whose hop limit ends here */                  \
	X(CONTROL, 4, LOCAL)                                                               \
	X(FAMILY, 5, LOCAL)       /* the next hop has the other IP version */ \
	X(NOT_READY, 6, LOCAL)    /* no configuration published, or it kept changing */    \
	X(ENTERED, 7, FORWARD)    /* a client's request, filled in and tagged */           \
	X(NEXT_HOP, 8, FORWARD)                                                            \
	X(RELAYED, 9, RELAY)                                                               \
	X(TRUNCATED, 10, DROP)                                                             \
	X(BAD_MAGIC, 11, DROP)                                                             \
	X(BAD_VERSION, 12, DROP)                                                           \
	X(BAD_LENGTH, 13, DROP)   /* the body length is not what follows */                \
	X(TOO_LONG, 14, DROP)                                                              \
	X(BAD_FLAGS, 15, DROP)                                                             \
	X(BAD_OP, 16, DROP)                                                                \
	X(FORGED_ORIGIN, 17, DROP) /* a client filled in the entry node's fields */       \
	X(BAD_EPOCH, 18, DROP)                                                             \
	X(BAD_TAG, 19, DROP)                                                               \
	X(BAD_BODY_TAG, 20, DROP)                                                          \
	X(STALE, 21, DROP)        /* its time is outside the replay window */              \
	X(HOP_LIMIT, 22, DROP)                                                             \
	X(NOT_ENTRY, 23, DROP)    /* a reply for another node's client */                  \
	X(BAD_ADDRESS, 24, DROP)  /* an address that no reply may go to */                 \
	X(BAD_IP, 25, DROP)       /* IP or UDP lengths that cannot be */                   \
	X(FRAGMENT, 26, DROP)                                                              \
	X(IP_OPTIONS, 27, DROP)                                                            \
	X(EXT_HEADER, 28, DROP)                                                            \
	X(NO_CHECKSUM, 29, DROP)  /* IPv6 UDP without one */                               \
	X(NO_NEIGHBOUR, 30, LOCAL) /* ebpf: not resolved yet: the socket's send does it */ \
	X(NO_ROUTE, 31, LOCAL)    /* ebpf: the kernel would not forward it there */        \
	X(RATE_LIMITED, 32, DROP) /* ebpf and the socket: more than its sender may */      \
	X(MARTIAN, 33, DROP)      /* from an address that no other host can have */        \
	X(BAD_CHECKSUM, 34, DROP) /* the checksum of the IPv4 header is wrong */           \
	X(NEEDS_COOKIE, 35, LOCAL) /* a request that needs a cookie, and has none that is right */ \
	X(NOT_ALLOWED, 36, DROP)  /* a request from an address that may not send it */          \
	X(PARTIAL, 37, LOCAL)     /* ebpf, generic mode: a device will complete its UDP checksum */ \
	X(ANSWERED, 38, LOCAL)    /* ebpf: a GET of a hot record, answered at the interface */ \
	X(NO_ROOM, 39, LOCAL)     /* ebpf: the answer to a GET of a hot record does not fit the frame */

enum kdht_op {
#define X(name, value) KDHT_OP_##name = value,
	KDHT_OPS(X)
#undef X
};
enum kdht_flag {
#define X(name, value) KDHT_FLAG_##name = value,
	KDHT_FLAGS(X)
#undef X
};
enum kdht_status {
#define X(name, value) KDHT_STATUS_##name = value,
	KDHT_STATUSES(X)
#undef X
};
enum kdht_record_flag {
#define X(name, value) KDHT_RECORD_FLAG_##name = value,
	KDHT_RECORD_FLAGS(X)
#undef X
};
enum kdht_verdict {
#define X(name, value) KDHT_##name = value,
	KDHT_VERDICTS(X)
#undef X
};
enum kdht_reason {
#define X(name, value, verdict) KDHT_REASON_##name = value,
	KDHT_REASONS(X)
#undef X
	KDHT_REASON_COUNT
};

#define KDHT_GO_ON (-1) /* in place of a reason: no objection so far */
#define KDHT_MAX_EXT_HEADERS 6 /* IPv6 extension headers before UDP; more: NOT_OURS */
#define KDHT_NEW_TTL 64 /* the TTL or hop limit of a packet that was re-addressed */

/* --- On the wire: big-endian, every field at a fixed offset ------------------ */

struct kdht_header {
	__be32 magic;
	__u8 version;
	__u8 op;
	__u8 flags;
	__u8 hops; /* how many nodes may still handle it, this one included */
	__be64 request_id;
	__u8 key[KDHT_ID_LEN];
	__u8 attempt;
	__u8 status;
	__be16 body_len;
	__be32 time;
	__u8 epoch;
	__u8 reserved1;
	__be16 client_port;
	__u8 client_ip[16];
	__u8 entry_ip[16];
	__be16 entry_port;
	__be16 max_reply; /* largest reply body; 0 from a client: KDHT_MAX_BODY */
	__be32 reserved2;
	__be64 cookie;
	__be64 body_tag;
	__be64 header_tag;
} __attribute__((packed));

/*
 * The head before the value in a PUT, in its reply and in a GET's reply. Between nodes (STORE,
 * FETCH) `ttl` is the expiry itself, in Unix seconds, so that all replicas agree on it.
 */
struct kdht_record {
	__be64 version;
	__be32 ttl; /* seconds; 0: no end */
	__be32 flags;
} __attribute__((packed));

/* What a token is good for. All of it is public; the token's key is derived from it. */
struct kdht_grant {
	__u8 kind;
	__u8 rights;
	__u8 epoch; /* of the access secret */
	__u8 reserved;
	__be32 expiry; /* Unix seconds; 0: never */
	__be64 holder; /* 0: nobody, whose key is known to all; for open scopes */
	__be64 scope;  /* 0: every key */
} __attribute__((packed));

/* The last bytes of a PROVEN request's body. */
struct kdht_proof {
	struct kdht_grant grant;
	__u8 inner[KDHT_ID_LEN]; /* the name's hash, before the scope went in */
	__be64 seq;              /* a write's version; microseconds since 1970 */
	__u8 mac[KDHT_PROOF_MAC_LEN];
} __attribute__((packed));

/* One contact, in FIND_NODE replies and in the tables. */
struct kdht_contact {
	__u8 id[KDHT_ID_LEN];
	__u8 ip[16]; /* IPv6 or IPv4-mapped */
	__be16 port;
} __attribute__((packed));

/* --- Tuning: may differ between builds of one cluster ------------------------ */

#define KDHT_K 20    /* contacts in a bucket, and in the result of a lookup */
#define KDHT_ROOM 40 /* contacts in a wide bucket: its nodes keep keys together with this node, so none may be left out */
#define KDHT_MAX_REPLICAS 16
#define KDHT_HOP_LIMIT 16
#define KDHT_REPLAY_WINDOW 60 /* seconds, either way */
#define KDHT_MAX_OWN 8        /* addresses of one node */
#define KDHT_KEY_SLOTS 2      /* epochs of the cluster secret accepted at once */
#define KDHT_MAX_PREFIXES 256 /* in the table of rights of addresses */

/* --- The routing state that the control plane publishes ---------------------- */

struct kdht_bucket {
	__u32 count;
	struct kdht_contact contacts[KDHT_ROOM];
} __attribute__((aligned(8)));

#define KDHT_READ_TRIES 8 /* a reader gives up after it lost so many races with the writer */

struct kdht_sip_key {
	__u64 k0; /* little-endian reads of the 16 bytes */
	__u64 k1;
};

/* The keys for the tags of one epoch. Header and body share none of them. */
struct kdht_key {
	__u8 epoch;
	__u8 valid;
	__u8 pad[6];
	struct kdht_sip_key header, body;
	__u32 header_words[KDHT_HEADER_KEY_WORDS]; /* of NH */
	__u32 body_words[KDHT_BODY_KEY_WORDS];
};

#define KDHT_CONFIG_READY 0x01
#define KDHT_CONFIG_COOKIES 0x02 /* large replies only to proven addresses */
#define KDHT_CONFIG_UNTAGGED 0x04 /* benchmarks only: tags neither made nor checked */
#define KDHT_CONFIG_WRITE_COOKIE 0x08 /* writes only from proven addresses */
#define KDHT_CONFIG_PREFIXES 0x10 /* the rights of addresses are in the table of prefixes */

/* What the addresses under a prefix may do. The longest prefix of an address counts; without one it may do nothing. */
#define KDHT_MAY_READ 0x01
#define KDHT_MAY_WRITE 0x02

struct kdht_prefix {
	__u32 bits; /* of the 128, so 96 more than IPv4 writes; `bits` and `ip` are the key of a BPF trie */
	__u8 ip[16];
	__u32 rights;
};

struct kdht_config {
	__u8 self_id[KDHT_ID_LEN];
	__be16 port;
	__u8 flags;
	__u8 own_count;
	__u8 own[KDHT_MAX_OWN][16]; /* every address that is this node, anycast included */
	__u8 source4[16];           /* the source address of forwarded packets, by IP version; */
	__u8 source6[16];           /* all zero: none */
	struct kdht_sip_key cookie;
	__u64 occupancy[3]; /* bit i: bucket i is not empty; word 0 holds buckets 0 to 63, bucket 0 its top bit */
	__u32 window;
	__u8 hop_limit;
	__u8 pad[3];
	struct kdht_key keys[KDHT_KEY_SLOTS]; /* the first one seals, all are accepted; last, for they are long */
};

/* Bytes of the configuration before the keys: all that a search for contacts needs. */
#define KDHT_KEYLESS_LEN __builtin_offsetof(struct kdht_config, keys)

/* The outcome of a verdict, beside the rewritten packet. */
struct kdht_outcome {
	__u8 verdict;
	__u8 reason;
	__u16 max_reply;      /* LOCAL request: the largest body that may be answered */
	__be16 source_port;   /* FORWARD, RELAY: the new addresses */
	__be16 target_port;
	__u8 source_ip[16];
	__u8 target_ip[16];
	__u8 next_id[KDHT_ID_LEN]; /* FORWARD: the next hop */
	__u32 pad;
};

#endif
