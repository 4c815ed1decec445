/* SPDX-License-Identifier: Apache-2.0
 *
 * A client of kdht for C11 and libc, in this header and kdht.c. clients/README.md has its rules, docs/protocol.md the bytes.
 *
 * Threads: a client serves one call at a time. Time: a call blocks for `timeout_ms` at most, kdht_members for so long each page.
 * Memory: the caller's. Bytes from the network are untrusted: what answers no datagram is ignored.
 */
#ifndef KDHT_H
#define KDHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KDHT_MAX_VALUE 1104  /* bytes; 8 fewer with a condition, 64 fewer with a token */
#define KDHT_MAX_PAYLOAD 256 /* bytes */
#define KDHT_MAX_MEMBER_TTL 86400 /* seconds */
#define KDHT_MAX_NODES 16
#define KDHT_MAX_ATTEMPTS 32

/* What a call returns: a status of the protocol, or one of the last four. "perhaps": a write may be done or not, now or later. */
enum kdht_result {
    KDHT_OK,
    KDHT_NOT_FOUND, /* the key has no value; of a delete and a withdraw: there was none */
    KDHT_NOT_RESPONSIBLE, KDHT_COOKIE_NEEDED, KDHT_TOO_LARGE, KDHT_BAD_REQUEST, KDHT_STORAGE_FAILED, KDHT_BUSY, KDHT_HOPS_ENDED,
    KDHT_CONFLICT,    /* the condition does not hold; nothing was changed */
    KDHT_UNCONFIRMED, /* perhaps */
    KDHT_UNREACHABLE,
    KDHT_DENIED, /* a token with the right is needed */
    KDHT_BAD_VERSION, KDHT_TOO_FEW, KDHT_FULL,
    KDHT_TIMEOUT = 256, /* no answer; perhaps */
    KDHT_ARGUMENT,      /* nothing was sent */
    KDHT_ANSWER,        /* an answer that cannot be read */
    KDHT_SYSTEM,        /* of kdht_open: no socket, or no route; errno says why */
};

struct kdht_bytes {
    const void *data;
    size_t size;
};

/* What is zero has the default in parentheses. */
struct kdht_options {
    const char *nodes;       /* "10.0.0.1,[fd00::1]:5348,kdht.example": looked up once, by kdht_open */
    const char *token;       /* "kdht1...." (none) */
    struct kdht_bytes scope; /* a scope's name (the token's) */
    unsigned timeout_ms;     /* of a request (5000) */
    unsigned attempts;       /* tries of a request (16) */
    unsigned retry_ms;       /* until a try is taken for lost (250); doubled with each loss, up to 2 s */
    uint64_t (*clock_us)(void *context);               /* microseconds since 1970 (CLOCK_REALTIME) */
    uint64_t (*random)(void *context, uint64_t bound); /* below `bound`; nobody may guess it (getrandom) */
    void *context;
};

struct kdht_record {
    uint64_t version; /* for conditions */
    uint32_t ttl;     /* seconds left; 0: without end */
    size_t size;      /* bytes of the value */
    uint8_t value[KDHT_MAX_VALUE];
};

struct kdht_member {
    uint64_t id;
    uint32_t ttl; /* seconds left */
    struct kdht_bytes payload;
};

struct kdht { /* a client; its fields are its own */
    struct kdht_options options;
    int sockets[KDHT_MAX_NODES]; /* connected: what comes is from the asked node */
    unsigned nodes, current;
    uint64_t cookie, last_version;
    int64_t offset_us; /* of the cluster's clocks from this host's */
    bool has_token;
    uint8_t grant[24], secret[16], scope[8];
};

static inline struct kdht_bytes kdht_text(const char *text) { return (struct kdht_bytes){text, strlen(text)}; }

/* All calls return an enum kdht_result. Keys and values are any bytes.
 *
 * open: KDHT_OK, KDHT_ARGUMENT or KDHT_SYSTEM; then there is nothing to close. It sends nothing.
 * get: a value of at most `max` bytes, from one replica, or with `quorum` the newest of a majority.
 * put, delete: with `if_version` only if the key has that version, 0 for no record; NULL: without a condition. *version becomes the
 * new record's; after KDHT_CONFLICT that of the record in its way, 0 for none. It may be NULL. `ttl` in seconds, 0: without end.
 */
int kdht_open(struct kdht *client, const struct kdht_options *options);
void kdht_close(struct kdht *client);
int kdht_get(struct kdht *client, struct kdht_bytes key, bool quorum, size_t max, struct kdht_record *record);
int kdht_put(struct kdht *client, struct kdht_bytes key, struct kdht_bytes value, uint32_t ttl, const uint64_t *if_version,
             uint64_t *version);
int kdht_delete(struct kdht *client, struct kdht_bytes key, const uint64_t *if_version, uint64_t *version);

/* A member of a set is known by its payload, or by the name `member`, if that is not NULL. TTLs are at most KDHT_MAX_MEMBER_TTL.
 *
 * announce: be a member for `ttl` seconds; to stay one, announce again three times in that time.
 * withdraw: `ttl` is the greatest one of the announcements.
 * members: calls `each` for all members, in the order of their IDs; the payload is good until it returns.
 */
int kdht_announce(struct kdht *client, struct kdht_bytes set, struct kdht_bytes payload, uint32_t ttl,
                  const struct kdht_bytes *member, uint64_t *version);
int kdht_withdraw(struct kdht *client, struct kdht_bytes set, struct kdht_bytes payload, uint32_t ttl,
                  const struct kdht_bytes *member);
int kdht_members(struct kdht *client, struct kdht_bytes set, bool quorum,
                 void (*each)(void *context, const struct kdht_member *member), void *context);

const char *kdht_result_name(int result); /* "NOT_FOUND" */

#endif
