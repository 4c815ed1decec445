/* A sensor that anybody can read through the cluster: examples/sensor/README.md.
 *
 * One thread. Ends at SIGTERM and SIGINT. The token is in $KDHT_TOKEN.
 */
#define _POSIX_C_SOURCE 200809L
#include "kdht.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LONGEST_NAME = 64, ROOM = 128, MISSED = 3, TIMEOUT_MS = 2000, MAX_SECONDS = 3600 };

static volatile sig_atomic_t ends;

static void end(int signal_number) {
    (void)signal_number;
    ends = 1;
}

struct sensor {
    struct kdht client;
    const char *name, *file;
    uint32_t seconds; /* between two readings */
};

/* The number in the sensor's file, as Linux has it in /sys/class/thermal. */
static bool read_sensor(const struct sensor *s, long *reading) {
    char text[ROOM] = "", *rest = text;
    FILE *file = fopen(s->file, "r");
    if (!file)
        return false;
    if (fgets(text, sizeof text, file))
        *reading = strtol(text, &rest, 10);
    fclose(file);
    return rest != text;
}

/* So long after its last reading a sensor counts as dead. */
static uint32_t lifetime(const struct sensor *s) { return s->seconds * MISSED; }

static bool worked(const char *what, int result) {
    if (result != KDHT_OK)
        fprintf(stderr, "%s: %s\n", what, kdht_result_name(result));
    return result == KDHT_OK;
}

/* The reading ends by itself if no further one follows. */
static bool publish(struct sensor *s, long reading) {
    char key[ROOM], text[ROOM];
    uint64_t version = 0;
    snprintf(key, sizeof key, "sensors/%s", s->name);
    snprintf(text, sizeof text, "%ld", reading);
    if (!worked("put", kdht_put(&s->client, kdht_text(key), kdht_text(text), lifetime(s), NULL, &version)))
        return false;
    printf("%s version=%llu\n", text, (unsigned long long)version);
    return true;
}

/* The highest reading of all sensors: many change this record, so each writes only over the version that it has read. */
static void raise_highest(struct sensor *s, long reading) {
    struct kdht_bytes key = kdht_text("sensors/highest");
    char text[ROOM];
    int result;
    snprintf(text, sizeof text, "%ld %s", reading, s->name);
    do {
        struct kdht_record highest = {0};
        result = kdht_get(&s->client, key, true, KDHT_MAX_VALUE - 1, &highest);
        if (result != KDHT_OK && result != KDHT_NOT_FOUND)
            break;
        highest.value[highest.size] = 0;
        if (result == KDHT_OK && strtol((char *)highest.value, NULL, 10) >= reading)
            return;
        result = kdht_put(&s->client, key, kdht_text(text), 0, &highest.version, NULL);
    } while (result == KDHT_CONFLICT && !ends);
    /* In doubt or without an answer: the next reading tries again. */
    worked("highest", result);
}

static void run(struct sensor *s) {
    struct kdht_bytes set = kdht_text("sensors"), name = kdht_text(s->name);
    long reading = 0;
    while (!ends) {
        /* The time of the network must not add up. */
        struct timespec next;
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_sec += s->seconds;
        if (!read_sensor(s, &reading))
            fprintf(stderr, "%s: no number in it\n", s->file);
        else if (publish(s, reading) && worked("announce", kdht_announce(&s->client, set, name, lifetime(s), NULL, NULL)))
            raise_highest(s, reading);
        fflush(stdout);
        while (!ends && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR) {}
    }
    int result = kdht_withdraw(&s->client, set, name, lifetime(s), NULL);
    worked("withdraw", result == KDHT_NOT_FOUND ? KDHT_OK : result);
}

int main(int count, char **arguments) {
    struct sensor s = {.seconds = 10};
    long seconds = count > 4 ? strtol(arguments[4], NULL, 10) : s.seconds;
    if (count < 4 || count > 5 || seconds < 1 || seconds > MAX_SECONDS || strlen(arguments[2]) > LONGEST_NAME) {
        fprintf(stderr, "usage: %s NODES NAME FILE [SECONDS]\nSECONDS is 1 to %d, NAME has at most %d characters\n", *arguments,
                MAX_SECONDS, LONGEST_NAME);
        return 2;
    }
    s.name = arguments[2];
    s.file = arguments[3];
    s.seconds = (uint32_t)seconds;
    struct kdht_options options = {.nodes = arguments[1], .token = getenv("KDHT_TOKEN"), .timeout_ms = TIMEOUT_MS};
    int result = kdht_open(&s.client, &options);
    if (result != KDHT_OK) {
        fprintf(stderr, "%s\n", result == KDHT_SYSTEM ? strerror(errno) : "check the nodes' names, and the token in $KDHT_TOKEN");
        return 2;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    run(&s);
    kdht_close(&s.client);
    return 0;
}
