/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "kdht.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { GET = 1, PUT, DELETE, QUORUM_GET = 5, ANNOUNCE = 7, WITHDRAW, MEMBERS };
enum { REPLY = 1, FORWARDED = 2, PROVEN = 8 };
enum { /* bytes, but for the last two lines */
    HEADER = 112, MAX_BODY = 1120, RECORD = 16, CONDITION = 8, KEY = 20, NAME = 8, GRANT = 24, SCOPE = 8, SECRET = 16, PROOF = 64,
    MAC = 12, QUESTION = 12, PAGE = 16, ENTRY = 14, TOKEN_TEXT = 51, TOKEN = GRANT - 2 + SECRET,
    MAX_SENT = 64, MAX_REPEATS = MAX_SENT - KDHT_MAX_ATTEMPTS, MAX_DOUBTS = 3, MAX_BOUNCES = 5, MAX_WAIT_MS = 2000, PENDING = -1,
    SPREAD_US = 1000000, SPREAD_AHEAD_US = 16384, MAX_CLOCK_ERROR_US = 60000000
};
#define CERTIFIED (UINT64_C(1) << 63) /* no ordinary version is as great */

static uint64_t load(const uint8_t *from, unsigned bytes) {
    uint64_t number = 0;
    while (bytes--)
        number = number << 8 | *from++;
    return number;
}

static void store(uint8_t *to, size_t bytes, uint64_t number) {
    for (; bytes; number >>= 8)
        to[--bytes] = (uint8_t)number;
}

static uint64_t greater(uint64_t one, uint64_t other) { return one > other ? one : other; }
static uint64_t lesser(uint64_t one, uint64_t other) { return one < other ? one : other; }
static uint64_t add(uint64_t one, uint64_t other) { return one + lesser(other, UINT64_MAX - one); } /* no overflow */

/* --- BLAKE2b (RFC 7693), with a key and a personalization */

struct blake {
    uint64_t h[8], block[16], bytes;
    size_t filled, size;
};

static const uint64_t BLAKE_IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static uint64_t right(uint64_t word, unsigned bits) { return word >> bits | word << (64 - bits); }

static void blake_compress(struct blake *b, bool last) {
    static const uint8_t sigma[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    };
    uint64_t v[16];
    memcpy(v, b->h, sizeof b->h);
    memcpy(v + 8, BLAKE_IV, sizeof BLAKE_IV);
    v[12] ^= b->bytes;
    v[14] = last ? ~v[14] : v[14];
    for (unsigned i = 0; i < 8 * 12; i++) { /* in each round four columns, then four diagonals */
        unsigned shift = i % 8 / 4, first = i % 4;
        uint64_t *a = v + first, *e = v + 4 + (first + shift) % 4, *c = v + 8 + (first + 2 * shift) % 4,
                 *d = v + 12 + (first + 3 * shift) % 4;
        for (unsigned half = 0; half < 2; half++) {
            *a += *e + b->block[sigma[i / 8 % 10][i % 8 * 2 + half]];
            *d = right(*d ^ *a, half ? 16 : 32);
            *c += *d;
            *e = right(*e ^ *c, half ? 63 : 24);
        }
    }
    for (unsigned i = 0; i < 8; i++)
        b->h[i] ^= v[i] ^ v[i + 8];
    memset(b->block, 0, sizeof b->block);
    b->filled = 0;
}

static void blake_add(struct blake *b, const void *data, size_t size) {
    for (const uint8_t *from = data; size; size--) {
        if (b->filled == sizeof b->block) {
            b->bytes += b->filled;
            blake_compress(b, false);
        }
        b->block[b->filled / 8] |= (uint64_t)*from++ << 8 * (b->filled % 8);
        b->filled++;
    }
}

/* `person`: up to 16 characters. `key`: 16 bytes, or NULL. */
static void blake_begin(struct blake *b, size_t size, const char *person, const uint8_t *key) {
    *b = (struct blake){.size = size};
    memcpy(b->h, BLAKE_IV, sizeof b->h);
    b->h[0] ^= 0x01010000u | (key ? SECRET << 8u : 0u) | size;
    for (unsigned i = 0; person[i]; i++)
        b->h[6 + i / 8] ^= (uint64_t)person[i] << 8 * (i % 8);
    blake_add(b, key, key ? SECRET : 0);
    b->filled = key ? sizeof b->block : 0;
}

static void blake_end(struct blake *b, uint8_t *hash) {
    b->bytes += b->filled;
    blake_compress(b, true);
    for (size_t i = 0; i < b->size; i++)
        hash[i] = (uint8_t)(b->h[i / 8] >> 8 * (i % 8));
}

static void hash(uint8_t *to, size_t to_size, const char *person, struct kdht_bytes data) {
    struct blake b;
    blake_begin(&b, to_size, person, NULL);
    blake_add(&b, data.data, data.size);
    blake_end(&b, to);
}

/* --- Time, chance, versions */

static uint64_t time_us(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t host_clock_us(void *context) { return (void)context, time_us(CLOCK_REALTIME); }
static uint64_t steady_ms(void) { return time_us(CLOCK_MONOTONIC) / 1000; }

static uint64_t host_random(void *context, uint64_t bound) {
    uint64_t number = 0;
    while ((void)context, getrandom(&number, sizeof number, 0) != sizeof number) {}
    return number % bound; /* even enough: bounds are far below 2^64 */
}

static uint64_t draw(struct kdht *k, uint64_t bound) { return k->options.random(k->options.context, bound); }
static uint64_t clock_us(struct kdht *k) { return k->options.clock_us(k->options.context) + (uint64_t)k->offset_us; }

/* Above every version before, and at least `least`. A conditional write's is drawn: two clients' must differ. */
static uint64_t next_version(struct kdht *k, uint64_t least, bool conditional) {
    uint64_t now = clock_us(k), next = add(k->last_version, 1), own = greater(now, next), lowest = greater(least, next);
    uint64_t room = now > lowest ? now - lowest : 0;
    if (conditional && room > SPREAD_AHEAD_US) {
        own -= draw(k, lesser(room, SPREAD_US));
    } else if (conditional || least > own) {
        own = least = add(lowest, draw(k, SPREAD_AHEAD_US));
        /* The clock follows: else two clients behind one version would both choose the next. */
        if (own > now && own - now <= MAX_CLOCK_ERROR_US)
            k->offset_us += (int64_t)(own - now);
    }
    return k->last_version = greater(own, least);
}

/* BAD_VERSION: the node's clock, or the key's version, is `told`. */
static void clock_refused(struct kdht *k, uint64_t version, uint64_t told) {
    uint64_t now = clock_us(k);
    if (told < version || told > add(now, MAX_CLOCK_ERROR_US))
        k->offset_us += (int64_t)(told - now);
    k->last_version = told < version ? lesser(k->last_version, told) : k->last_version;
}

/* --- A request and all its datagrams. The tables of what follows what are in clients/README.md. */

struct call {
    uint8_t message[HEADER + MAX_BODY], reply[HEADER + MAX_BODY + 1], inner[KEY];
    size_t size, reply_size;
    bool is_write, accepts_not_found, is_conditional, is_corrected, is_held;
    uint64_t condition, version; /* of a read: the time in its proof */
    struct { uint8_t node, attempt; uint64_t cookie; } sent[MAX_SENT];
    unsigned count, tries, next_attempt, losses, laps, bounces, renewals, doubts;
    unsigned since, held;               /* datagrams: the first with the present version; the one refused in doubt */
    uint64_t replied, unchanged, unsure; /* sets of datagrams: with a reply; "nothing was changed"; all the same perhaps done */
    uint64_t gives_up, deadline;        /* milliseconds, steady */
    uint64_t told;                      /* the version in the last reply */
    int result, reason;                 /* result: PENDING until the end. reason: the last one that a node gave, 0 for none */
};

static uint64_t all(const struct call *c) { return UINT64_MAX >> (MAX_SENT - c->count); }
static bool is_in_doubt(const struct call *c) { return c->is_write && c->unchanged != all(c); }
static bool is_good(const struct call *c, int status) { return !status || (status == KDHT_NOT_FOUND && c->accepts_not_found); }

static void prove(const struct kdht *k, struct call *c) {
    uint8_t *proof = c->message + c->size - PROOF;
    struct blake b;
    if (!k->has_token)
        return;
    memcpy(proof, k->grant, GRANT);
    memcpy(proof + GRANT, c->inner, KEY);
    store(proof + GRANT + KEY, 8, c->version);
    blake_begin(&b, MAC, "kdht-proof", k->secret);
    blake_add(&b, c->message + 5, 1);
    blake_add(&b, c->message + 16, KEY);
    blake_add(&b, c->message + HEADER, c->size - HEADER - MAC);
    blake_end(&b, proof + PROOF - MAC);
}

static void choose_version(struct kdht *k, struct call *c, uint64_t least) {
    if (c->is_conditional)
        least = greater(least, add(c->condition, 1));
    c->version = next_version(k, least, c->is_conditional);
    store(c->message + HEADER, 8, c->version);
    prove(k, c);
    c->since = c->count;
}

static void set_deadline(struct kdht *k, struct call *c) {
    uint64_t wait = lesser((uint64_t)k->options.retry_ms << lesser(c->losses, 8), MAX_WAIT_MS);
    /* Clients that lost datagrams together must not try again together. */
    c->deadline = lesser(c->gives_up, steady_ms() + wait + draw(k, wait / 2 + 1));
    if (c->tries >= k->options.attempts)
        c->deadline = c->gives_up;
}

static void send_datagram(struct kdht *k, struct call *c, unsigned node, unsigned attempt) {
    if (!c->is_write) {
        c->version = clock_us(k);
        prove(k, c);
    }
    c->sent[c->count].node = (uint8_t)node;
    c->sent[c->count].attempt = c->message[36] = (uint8_t)attempt;
    c->sent[c->count].cookie = k->cookie;
    store(c->message + 88, 8, k->cookie);
    c->message[15] = (uint8_t)(c->message[15] / MAX_SENT * MAX_SENT + c->count++);
    (void)!send(k->sockets[node], c->message, c->size, MSG_NOSIGNAL); /* what cannot be sent counts as lost */
    set_deadline(k, c);
}

static void fail(struct call *c) {
    int silent = c->replied == all(c) ? KDHT_NOT_RESPONSIBLE : KDHT_TIMEOUT;
    c->result = !c->reason ? silent : is_in_doubt(c) ? KDHT_UNCONFIRMED : c->reason;
}

static unsigned next_node(const struct kdht *k, const struct call *c) { return (c->sent[c->count - 1].node + 1u) % k->nodes; }

/* Try again at that node; or wait first, as after a loss, and then try at the next one. */
static void try_or_wait(struct kdht *k, struct call *c, unsigned node, bool waits) {
    bool is_used_up = c->tries >= k->options.attempts;
    if (is_used_up && c->replied == all(c)) {
        fail(c);
    } else if (is_used_up) {
        c->deadline = c->gives_up;
    } else if (waits) {
        set_deadline(k, c);
        c->losses++;
    } else {
        c->tries++;
        send_datagram(k, c, node, c->next_attempt++);
    }
}

/* The end, unless a write is refused while another datagram of it may have been done: then wait for the open ones. */
static void conclude(struct kdht *k, struct call *c, unsigned index, int status) {
    c->is_held = !is_good(c, status) && is_in_doubt(c) && c->replied != all(c);
    if (!c->is_held) {
        c->result = !is_good(c, status) && is_in_doubt(c) ? KDHT_UNCONFIRMED : status;
        return;
    }
    c->held = index;
    c->reason = status;
    c->deadline = lesser(c->gives_up, steady_ms() + k->options.retry_ms);
}

static void bad_version(struct kdht *k, struct call *c, unsigned index) {
    c->reason = c->told >= CERTIFIED ? KDHT_STORAGE_FAILED : KDHT_BAD_VERSION;
    if (c->reason == KDHT_BAD_VERSION)
        clock_refused(k, c->version, c->told);
    if (c->reason == KDHT_BAD_VERSION && !is_in_doubt(c)) {
        choose_version(k, c, c->told + 1);
        c->next_attempt = c->sent[index].attempt;
        try_or_wait(k, c, c->sent[index].node, c->renewals++ > 0); /* a second time: others write the key, too */
    } else if (c->reason == KDHT_BAD_VERSION && (++c->doubts >= MAX_DOUBTS || c->tries >= k->options.attempts)) {
        conclude(k, c, index, KDHT_BAD_VERSION);
    } else if (index == c->count - 1) {
        try_or_wait(k, c, next_node(k, c), false); /* another replica may know that the write was done; or this node lies */
    }
}

static void take(struct kdht *k, struct call *c, unsigned index) {
    int status = c->reply[37];
    uint64_t cookie = load(c->reply + 88, 8);
    bool is_last = index == c->count - 1, may_repeat = c->count - c->tries < MAX_REPEATS;
    /* A copy of a refused datagram was done, and the write is on its way under a greater version: that is its end. */
    bool is_late = is_good(c, status) && index < c->since && c->since < c->count;
    c->unsure |= (uint64_t)(is_late || status == KDHT_UNCONFIRMED) << index;
    c->unchanged = (c->unchanged | (uint64_t)!is_good(c, status) << index) & ~c->unsure;
    if (is_late || (c->is_held && !is_good(c, status)))
        return;
    c->told = c->reply_size >= HEADER + RECORD ? load(c->reply + HEADER, 8) : 0;
    switch (status) {
    case KDHT_COOKIE_NEEDED:
        if (!cookie || cookie == c->sent[index].cookie || !may_repeat)
            break;
        if (c->sent[c->count - 1].cookie != cookie)
            send_datagram(k, c, c->sent[index].node, c->sent[index].attempt);
        return;
    case KDHT_BAD_VERSION:
        if (c->is_write && index >= c->since)
            bad_version(k, c, index);
        if (c->is_write)
            return;
        if (c->is_corrected || !may_repeat)
            break;
        c->is_corrected = true;
        clock_refused(k, c->version, c->told);
        send_datagram(k, c, c->sent[index].node, c->sent[index].attempt);
        return;
    case KDHT_NOT_RESPONSIBLE:
        if (is_last) { /* beyond the replicas: begin again */
            c->next_attempt = c->sent[index].attempt == 0;
            c->losses = c->laps += !c->next_attempt;
            try_or_wait(k, c, next_node(k, c), c->laps > 1 && !c->next_attempt);
        }
        return;
    case KDHT_UNREACHABLE:
        if (is_last)
            try_or_wait(k, c, c->sent[index].node, ++c->bounces > MAX_BOUNCES);
        return;
    case KDHT_STORAGE_FAILED: case KDHT_FULL: case KDHT_BUSY: case KDHT_UNCONFIRMED:
        c->reason = status;
        if (is_last)
            try_or_wait(k, c, next_node(k, c), status == KDHT_BUSY || status == KDHT_UNCONFIRMED);
        return;
    }
    conclude(k, c, index, status);
}

/* The datagram that c->reply answers: it must have been sent to this node. -1: none. */
static int answered(const struct call *c, unsigned node) {
    const uint8_t *reply = c->reply, *message = c->message;
    unsigned index = reply[15] % MAX_SENT;
    bool fits = c->reply_size >= HEADER && load(reply + 38, 2) == c->reply_size - HEADER && !memcmp(reply, message, 6) &&
                reply[6] == (REPLY | FORWARDED) && !memcmp(reply + 8, message + 8, 7) &&
                reply[15] / MAX_SENT == message[15] / MAX_SENT && !memcmp(reply + 16, message + 16, KEY);
    return fits && index < c->count && c->sent[index].node == node ? (int)index : -1;
}

static void receive(struct kdht *k, struct call *c, unsigned node) {
    /* Room for one byte more than a message has: so a longer datagram is seen, not cut off. */
    ssize_t size = recv(k->sockets[node], c->reply, sizeof c->reply, MSG_DONTWAIT);
    c->reply_size = size < 0 ? 0 : (size_t)size;
    int index = answered(c, node);
    if (index < 0)
        return;
    uint64_t cookie = load(c->reply + 88, 8);
    k->cookie = cookie ? cookie : k->cookie;
    k->current = node;
    c->replied |= UINT64_C(1) << index;
    take(k, c, (unsigned)index);
    if (c->is_held && c->result == PENDING && c->replied == all(c)) { /* the doubt has an end, one way or the other */
        c->is_held = false;
        if (c->reason == KDHT_BAD_VERSION && !is_in_doubt(c))
            bad_version(k, c, c->held);
        else
            conclude(k, c, c->held, c->reason);
    }
}

static int run(struct kdht *k, struct call *c) {
    struct pollfd polled[KDHT_MAX_NODES];
    for (unsigned i = 0; i < k->nodes; i++)
        polled[i] = (struct pollfd){.fd = k->sockets[i], .events = POLLIN};
    c->gives_up = steady_ms() + k->options.timeout_ms;
    if (c->is_write)
        choose_version(k, c, 1);
    try_or_wait(k, c, k->current, false);
    while (c->result == PENDING) {
        uint64_t now = steady_ms(), deadline = c->deadline;
        int ready = poll(polled, k->nodes, deadline > now ? (int)(deadline - now) : 0);
        for (unsigned i = 0; i < k->nodes && ready > 0 && c->result == PENDING; i++)
            if (polled[i].revents)
                receive(k, c, i);
        /* The time before poll: answers that came while this process was stopped count. */
        if (now < deadline || c->deadline != deadline || c->result != PENDING)
            continue;
        c->losses += !(c->replied >> (c->count - 1) & 1);
        if (c->is_held)
            c->result = KDHT_UNCONFIRMED;
        else if (now >= c->gives_up)
            fail(c);
        else
            try_or_wait(k, c, next_node(k, c), false);
    }
    return c->result;
}

/* --- Calls */

/* A request with a body of so many bytes before the proof; returns the body, all zero. */
static uint8_t *begin(struct kdht *k, struct call *c, int op, struct kdht_bytes name, size_t body_size) {
    uint8_t scoped[KEY + SCOPE], *key = c->message + 16;
    *c = (struct call){.result = PENDING};
    c->size = HEADER + body_size + (k->has_token ? PROOF : 0);
    memcpy(c->message, "KDHT\1", 5);
    c->message[5] = (uint8_t)op;
    c->message[6] = k->has_token ? PROVEN : 0;
    store(c->message + 8, 8, draw(k, UINT64_C(1) << 58) * MAX_SENT);
    store(c->message + 38, 2, c->size - HEADER);
    hash(c->inner, KEY, "", name);
    memcpy(key, c->inner, KEY);
    memcpy(scoped, c->inner, KEY);
    memcpy(scoped + KEY, k->scope, SCOPE);
    if (load(k->scope, SCOPE))
        hash(key, KEY, "kdht-scoped", (struct kdht_bytes){scoped, sizeof scoped});
    c->is_write = op != GET && op != QUORUM_GET && op != MEMBERS;
    c->accepts_not_found = op == DELETE || op == WITHDRAW;
    return c->message + HEADER;
}

int kdht_get(struct kdht *k, struct kdht_bytes key, bool quorum, size_t max, struct kdht_record *record) {
    struct call c;
    if (max > KDHT_MAX_VALUE)
        return KDHT_ARGUMENT;
    begin(k, &c, quorum ? QUORUM_GET : GET, key, 0);
    store(c.message + 82, 2, RECORD + max);
    if (run(k, &c) != KDHT_OK)
        return c.result;
    if (c.reply_size < HEADER + RECORD || c.reply_size > HEADER + RECORD + max)
        return KDHT_ANSWER;
    *record = (struct kdht_record){c.told, (uint32_t)load(c.reply + HEADER + 8, 4), c.reply_size - HEADER - RECORD, {0}};
    memcpy(record->value, c.reply + HEADER + RECORD, record->size);
    return KDHT_OK;
}

/* A PUT or DELETE, or with a member's name an ANNOUNCE or WITHDRAW. */
static int run_write(struct kdht *k, int op, struct kdht_bytes key, struct kdht_bytes value, uint32_t ttl,
                     const uint64_t *if_version, const uint8_t *name, uint64_t *version) {
    struct call c;
    size_t head = RECORD + (if_version || name ? CONDITION : 0u);
    if (value.size > MAX_BODY - head - (k->has_token ? PROOF : 0u))
        return KDHT_TOO_LARGE;
    uint8_t *body = begin(k, &c, op, key, head + value.size);
    store(body + 8, 4, ttl);
    store(body + 12, 4, if_version ? 1 : 0);
    c.is_conditional = if_version;
    c.condition = if_version ? *if_version : 0;
    store(body + RECORD, head - RECORD, name ? load(name, NAME) : c.condition); /* as long, or not at all */
    if (value.size)
        memcpy(body + head, value.data, value.size);
    run(k, &c);
    if (c.result == KDHT_OK && !c.accepts_not_found && c.reply_size < HEADER + RECORD)
        return KDHT_ANSWER;
    if (version && (c.result == KDHT_OK || c.result == KDHT_CONFLICT))
        *version = c.accepts_not_found && c.result == KDHT_OK ? c.version : c.told;
    return c.result;
}

int kdht_put(struct kdht *k, struct kdht_bytes key, struct kdht_bytes value, uint32_t ttl, const uint64_t *if_version,
             uint64_t *version) {
    return run_write(k, PUT, key, value, ttl, if_version, NULL, version);
}

int kdht_delete(struct kdht *k, struct kdht_bytes key, const uint64_t *if_version, uint64_t *version) {
    return run_write(k, DELETE, key, (struct kdht_bytes){0}, 0, if_version, NULL, version);
}

static int run_member(struct kdht *k, int op, struct kdht_bytes set, struct kdht_bytes payload, uint32_t ttl,
                      const struct kdht_bytes *member, uint64_t *version) {
    uint8_t name[NAME];
    if (!ttl || ttl > KDHT_MAX_MEMBER_TTL)
        return KDHT_ARGUMENT;
    if (member && member->size == NAME)
        memcpy(name, member->data, NAME);
    else
        hash(name, NAME, "kdht-member", member ? *member : payload);
    return run_write(k, op, set, op == ANNOUNCE ? payload : (struct kdht_bytes){0}, ttl, NULL, name, version);
}

int kdht_announce(struct kdht *k, struct kdht_bytes set, struct kdht_bytes payload, uint32_t ttl, const struct kdht_bytes *member,
                  uint64_t *version) {
    return payload.size > KDHT_MAX_PAYLOAD ? KDHT_TOO_LARGE : run_member(k, ANNOUNCE, set, payload, ttl, member, version);
}

int kdht_withdraw(struct kdht *k, struct kdht_bytes set, struct kdht_bytes payload, uint32_t ttl, const struct kdht_bytes *member) {
    return run_member(k, WITHDRAW, set, payload, ttl, member, NULL);
}

int kdht_members(struct kdht *k, struct kdht_bytes set, bool quorum, void (*each)(void *, const struct kdht_member *),
                 void *context) {
    struct call c;
    uint64_t cursor = 1, following = 1; /* the next ID to tell, so that nobody is told twice */
    while (cursor) {
        uint8_t *body = begin(k, &c, MEMBERS, set, QUESTION), *page = c.reply + HEADER;
        store(body, 8, cursor);
        store(body + 8, 4, quorum ? 1 : 0);
        if (run(k, &c) != KDHT_OK)
            return c.result;
        size_t size = c.reply_size - HEADER, at = PAGE, length;
        if (size < PAGE || load(page + 4, 4))
            return KDHT_ANSWER;
        for (; at < size; at += ENTRY + length) {
            length = size - at < ENTRY ? 0 : (size_t)load(page + at + 12, 2);
            if (size - at < ENTRY + length || length > KDHT_MAX_PAYLOAD)
                return KDHT_ANSWER;
            struct kdht_member member = {load(page + at, 8), (uint32_t)load(page + at + 8, 4), {page + at + ENTRY, length}};
            if (member.id >= following)
                each(context, &member);
            following = greater(following, add(member.id, 1));
        }
        uint64_t next = load(page + 8, 8);
        if (next && next <= cursor)
            return KDHT_ANSWER; /* it leads backwards */
        cursor = next;
    }
    return KDHT_OK;
}

/* --- A client */

static bool parse_token(struct kdht *k, const char *text) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t bytes[TOKEN];
    uint32_t bits = 0;
    if (strncmp(text, "kdht1.", 6) || strlen(text + 6) != TOKEN_TEXT)
        return false;
    for (unsigned i = 0, done = 0; i < TOKEN_TEXT; i++) {
        const char *letter = strchr(letters, text[6 + i]);
        if (!letter)
            return false;
        bits = bits << 6 | (uint32_t)(letter - letters);
        if ((i * 6 + 6) / 8 > done)
            bytes[done++] = (uint8_t)(bits >> (i * 6 + 6) % 8);
    }
    k->has_token = true;
    k->grant[0] = 1;
    memcpy(k->grant + 1, bytes, 2);
    memcpy(k->grant + 4, bytes + 2, GRANT - 4);
    memcpy(k->secret, bytes + GRANT - 2, SECRET);
    return !(bits & 3) && !(bytes[0] & 0xe0); /* spare bits, and rights of a later version */
}

static int set_rights(struct kdht *k) {
    const uint8_t *own = k->grant + GRANT - SCOPE;
    if (k->options.token && !parse_token(k, k->options.token))
        return KDHT_ARGUMENT;
    if (k->options.scope.size)
        hash(k->scope, SCOPE, "kdht-scope", k->options.scope);
    else if (!k->options.scope.data)
        memcpy(k->scope, own, SCOPE);
    return load(own, SCOPE) && memcmp(own, k->scope, SCOPE) ? KDHT_ARGUMENT : KDHT_OK;
}

/* "host", "host:port", "[host]:port" or an IPv6 address, of so many characters. */
static int add_node(struct kdht *k, const char *text, size_t size) {
    char node[256] = {0}, *host = node, *port = NULL;
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found;
    if (!size || size >= sizeof node || k->nodes == KDHT_MAX_NODES)
        return KDHT_ARGUMENT;
    memcpy(node, text, size);
    char *bracket = strchr(node, ']'), *colon = strrchr(node, ':');
    if (*node == '[' && bracket) {
        host = node + 1;
        port = bracket[1] == ':' ? bracket + 2 : NULL;
        *bracket = 0;
    } else if (colon && colon == strchr(node, ':')) { /* the only one: no IPv6 address */
        port = colon + 1;
        *colon = 0;
    }
    if (getaddrinfo(host, port ? port : "5348", &hints, &found))
        return KDHT_ARGUMENT;
    int made = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int result = made < 0 || connect(made, found->ai_addr, found->ai_addrlen) ? KDHT_SYSTEM : KDHT_OK;
    if (made >= 0)
        k->sockets[k->nodes++] = made;
    freeaddrinfo(found);
    return result;
}

int kdht_open(struct kdht *k, const struct kdht_options *options) {
    *k = (struct kdht){.options = *options};
    struct kdht_options *o = &k->options;
    int result = o->nodes && o->attempts <= KDHT_MAX_ATTEMPTS ? set_rights(k) : KDHT_ARGUMENT;
    o->timeout_ms = (unsigned)lesser(o->timeout_ms ? o->timeout_ms : 5000, INT32_MAX);
    o->attempts = o->attempts ? o->attempts : 16;
    o->retry_ms = o->retry_ms ? o->retry_ms : 250;
    o->clock_us = o->clock_us ? o->clock_us : host_clock_us;
    o->random = o->random ? o->random : host_random;
    for (const char *node = o->nodes; node && !result; node += strcspn(node, ","), node = *node ? node + 1 : NULL)
        result = add_node(k, node, strcspn(node, ","));
    if (result)
        kdht_close(k);
    return result;
}

void kdht_close(struct kdht *k) {
    for (int error = errno; k->nodes; errno = error)
        close(k->sockets[--k->nodes]);
}

const char *kdht_result_name(int result) {
    static const char *const names[] = {
        "OK", "NOT_FOUND", "NOT_RESPONSIBLE", "COOKIE_NEEDED", "TOO_LARGE", "BAD_REQUEST", "STORAGE_FAILED", "BUSY", "HOPS_ENDED",
        "CONFLICT", "UNCONFIRMED", "UNREACHABLE", "DENIED", "BAD_VERSION", "TOO_FEW", "FULL", "TIMEOUT", "ARGUMENT",
        "ANSWER", "SYSTEM",
    };
    if (result < 0 || result > KDHT_SYSTEM || (result > KDHT_FULL && result < KDHT_TIMEOUT))
        return "UNKNOWN";
    return names[result < KDHT_TIMEOUT ? result : result - KDHT_TIMEOUT + KDHT_FULL + 1];
}
