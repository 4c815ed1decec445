/* The C client's driver: clients/README.md has its commands and replies. */

#define _GNU_SOURCE
#include "kdht.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct fixed {
    uint64_t clock_us, number;
};

static struct kdht client;
static struct fixed fixed;
static bool is_open;

static uint64_t fixed_clock(void *context) { return ((struct fixed *)context)->clock_us; }

/* The first request's number is given, each further one's is one more; every other draw is 0. */
static uint64_t fixed_random(void *context, uint64_t bound) {
    return bound == UINT64_C(1) << 58 ? ((struct fixed *)context)->number++ : 0;
}

/* The value of a field, or NULL. The line is " name=value name=value". */
static char *field(const char *line, const char *name) {
    char wanted[32];
    snprintf(wanted, sizeof wanted, " %s=", name);
    const char *found = strstr(line, wanted);
    return found ? strndup(found + strlen(wanted), strcspn(found + strlen(wanted), " \n")) : NULL;
}

static uint64_t number(const char *line, const char *name, uint64_t missing) {
    char *text = field(line, name);
    uint64_t value = text ? strtoull(text, NULL, 10) : missing;
    free(text);
    return value;
}

/* The bytes of a field in hexadecimal; the caller frees them. {NULL, 0}: there is no such field. */
static struct kdht_bytes bytes(const char *line, const char *name) {
    char *text = field(line, name);
    if (!text)
        return (struct kdht_bytes){NULL, 0};
    size_t size = strlen(text) / 2;
    uint8_t *data = malloc(size + 1);
    for (size_t i = 0; i < size; i++)
        sscanf(text + 2 * i, "%2hhx", data + i);
    free(text);
    return (struct kdht_bytes){data, size};
}

static void put_hex(const uint8_t *data, size_t size) {
    while (size--)
        printf("%02x", *data++);
}

static void put_error(int result, uint64_t version) {
    printf("error %s", kdht_result_name(result));
    if (result == KDHT_CONFLICT)
        printf(" version=%" PRIu64, version);
}

static void open_client(const char *line) {
    char *nodes = field(line, "nodes"), *token = field(line, "token"), *clock = field(line, "clock_us");
    struct kdht_options options = {.nodes = nodes, .token = token && *token ? token : NULL, .scope = bytes(line, "scope"), .context = &fixed};
    fixed = (struct fixed){number(line, "clock_us", 0), number(line, "number", 0)};
    options.timeout_ms = (unsigned)number(line, "timeout_ms", 0);
    options.attempts = (unsigned)number(line, "attempts", 0);
    options.retry_ms = (unsigned)number(line, "retry_ms", 0);
    options.clock_us = clock ? fixed_clock : NULL;
    options.random = strstr(line, " number=") ? fixed_random : NULL;
    if (is_open)
        kdht_close(&client);
    int result = kdht_open(&client, &options);
    is_open = result == KDHT_OK;
    if (is_open)
        printf("ok");
    else
        put_error(result, 0);
    free(nodes), free(token), free(clock), free((void *)options.scope.data);
}

static void get(const char *line) {
    struct kdht_bytes key = bytes(line, "key");
    struct kdht_record record;
    int result = kdht_get(&client, key, number(line, "quorum", 0), number(line, "max", KDHT_MAX_VALUE), &record);
    if (result == KDHT_OK) {
        printf("ok version=%" PRIu64 " ttl=%" PRIu32 " value=", record.version, record.ttl);
        put_hex(record.value, record.size);
    } else {
        put_error(result, 0);
    }
    free((void *)key.data);
}

static void put(const char *line) {
    struct kdht_bytes key = bytes(line, "key"), value = bytes(line, "value");
    bool has_condition = strstr(line, " if_version=");
    uint64_t condition = number(line, "if_version", 0), version = 0, ttl = number(line, "ttl", 0);
    int result = KDHT_ARGUMENT;
    /* The client's argument cannot be wrong: 0 is "without end" there. */
    if (ttl <= UINT32_MAX && (ttl || !strstr(line, " ttl=")))
        result = kdht_put(&client, key, value, (uint32_t)ttl, has_condition ? &condition : NULL, &version);
    if (result == KDHT_OK)
        printf("ok version=%" PRIu64, version);
    else
        put_error(result, version);
    free((void *)key.data), free((void *)value.data);
}

static void put_found(int result, uint64_t version) {
    if (result == KDHT_OK || result == KDHT_NOT_FOUND)
        printf("ok found=%d", result == KDHT_OK);
    else
        put_error(result, version);
}

static void delete(const char *line) {
    struct kdht_bytes key = bytes(line, "key");
    uint64_t condition = number(line, "if_version", 0), version = 0;
    int result = kdht_delete(&client, key, strstr(line, " if_version=") ? &condition : NULL, &version);
    put_found(result, version);
    free((void *)key.data);
}

static void member(const char *line, bool announces) {
    struct kdht_bytes set = bytes(line, "set"), payload = bytes(line, "payload"), name = bytes(line, "member");
    uint64_t version = 0, ttl = number(line, "ttl", announces ? 0 : KDHT_MAX_MEMBER_TTL);
    uint32_t seconds = ttl > UINT32_MAX ? UINT32_MAX : (uint32_t)ttl;
    int result = announces ? kdht_announce(&client, set, payload, seconds, name.data ? &name : NULL, &version)
                           : kdht_withdraw(&client, set, payload, seconds, name.data ? &name : NULL);
    if (!announces)
        put_found(result, 0);
    else if (result == KDHT_OK)
        printf("ok version=%" PRIu64, version);
    else
        put_error(result, version);
    free((void *)set.data), free((void *)payload.data), free((void *)name.data);
}

struct list {
    char *text;
    size_t size;
    FILE *file;
};

static void add(void *context, const struct kdht_member *member) {
    struct list *list = context;
    fprintf(list->file, "%s%016" PRIx64 ":%" PRIu32 ":", ftell(list->file) ? "," : "", member->id, member->ttl);
    for (size_t i = 0; i < member->payload.size; i++)
        fprintf(list->file, "%02x", ((const uint8_t *)member->payload.data)[i]);
}

static void members(const char *line) {
    struct kdht_bytes set = bytes(line, "set");
    struct list list = {0};
    list.file = open_memstream(&list.text, &list.size);
    int result = kdht_members(&client, set, number(line, "quorum", 0), add, &list);
    fclose(list.file);
    if (result == KDHT_OK)
        printf("ok members=%s", list.text);
    else
        put_error(result, 0);
    free(list.text), free((void *)set.data);
}

static void obey(const char *line, const char *word) {
    if (!strcmp(word, "open"))
        open_client(line);
    else if (!is_open)
        put_error(KDHT_ARGUMENT, 0);
    else if (!strcmp(word, "get"))
        get(line);
    else if (!strcmp(word, "put"))
        put(line);
    else if (!strcmp(word, "delete"))
        delete(line);
    else if (!strcmp(word, "announce") || !strcmp(word, "withdraw"))
        member(line, *word == 'a');
    else if (!strcmp(word, "members"))
        members(line);
    else if (!strcmp(word, "cookie"))
        printf("ok cookie=%016" PRIx64, client.cookie);
    else if (!strcmp(word, "clock"))
        fixed.clock_us = number(line, "clock_us", 0), printf("ok");
    else if (!strcmp(word, "close"))
        kdht_close(&client), is_open = false, printf("ok");
    else
        put_error(KDHT_ARGUMENT, 0);
}

int main(void) {
    char *line = NULL, word[16];
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        *word = 0;
        sscanf(line, "%15s", word);
        obey(line, word);
        putchar('\n');
        fflush(stdout);
    }
    free(line);
    if (is_open)
        kdht_close(&client);
    return 0;
}
