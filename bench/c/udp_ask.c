/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks over UDP with so many requests outstanding, checks every answer, and measures. It speaks no
 * protocol: requests come ready made from a file, a number is written into each, and the answer has
 * the same number at the same place, or at ANSWER_ID_AT.
 *
 *   udp_ask TARGETS REQUESTS LENGTH ANSWERS ANSWER_LENGTH ID_AT ID_SIZE STATUS_AT ATTEMPT_AT WINDOW COUNT
 *           [ANSWER_ID_AT]
 *
 * TARGETS: IP:PORT[,IP:PORT...], asked in turn. REQUESTS: file of messages of LENGTH bytes. ANSWERS: file
 * with ANSWER_LENGTH bytes for each request, which must occur in its answer (0: none). ID_SIZE bytes at ID_AT are
 * the number. STATUS_AT: a byte of the answer that must be 0, ATTEMPT_AT: one of the request that counts
 * repetitions; -1: there is none. WINDOW is a power of two. It prints one JSON object; latencies are
 * of all answers, repetitions included.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "asking.h"

#define BATCH 64
#define ROOM 2048
#define TARGETS 64
#define WAIT_NS 100000000L
#define TRIES 10
#define MOST_DOUBLED 5

struct slot {
	unsigned char data[ROOM];
	uint64_t id;
	long begun, sent;
	size_t request;
	int tries;	/* 0: free */
};

static struct sockaddr_in targets[TARGETS];
static int target_count, id_at, answer_id_at, id_size, status_at, attempt_at, fd;
static size_t length, answer_length, requests, window;
static unsigned char *asked, *wanted;
static struct slot *slots;
static long *latencies;
static unsigned long begun, done, bad, lost, retries, count;

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static unsigned char received[BATCH][ROOM];
static int staged;

static void flush(void)
{
	int sent = 0, n;

	while (sent < staged) {
		n = sendmmsg(fd, out + sent, staged - sent, 0);
		sent += n > 0 ? n : 1;	/* what cannot be sent is repeated later, as a loss is */
	}
	staged = 0;
}

static void stage(struct slot *slot, long at)
{
	if (staged == BATCH)
		flush();
	slot->sent = at;
	slot->tries++;
	out_vectors[staged] = (struct iovec){slot->data, length};
	out[staged].msg_hdr = (struct msghdr){
		.msg_name = &targets[(slot->request + slot->tries - 1) % target_count],
		.msg_namelen = sizeof(*targets), .msg_iov = &out_vectors[staged], .msg_iovlen = 1};
	staged++;
}

static void begin(size_t index, long at)
{
	struct slot *slot = &slots[index];

	if (begun == count)
		return;
	slot->request = begun++ % requests;
	slot->id += window;
	slot->begun = at;
	memcpy(slot->data, asked + slot->request * length, length);
	for (int i = 0; i < id_size; i++)
		slot->data[id_at + i] = slot->id >> 8 * (id_size - 1 - i);
	stage(slot, at);
}

static void take(const unsigned char *data, size_t size, long at)
{
	uint64_t id = 0;
	struct slot *slot;

	if (size < (size_t)(answer_id_at + id_size))
		return;
	for (int i = 0; i < id_size; i++)
		id = id << 8 | data[answer_id_at + i];
	slot = &slots[id & (window - 1)];
	if (!slot->tries || memcmp(slot->data + id_at, data + answer_id_at, id_size))
		return;	/* a second answer */
	if ((status_at >= 0 && data[status_at]) ||
	    (answer_length && !memmem(data, size, wanted + slot->request * answer_length, answer_length)))
		bad++;
	latencies[done++] = at - slot->begun;
	slot->tries = 0;
	begin(id & (window - 1), at);
}

static void repeat(long at)
{
	for (size_t i = 0; i < window; i++) {
		struct slot *slot = &slots[i];

		int doubled = slot->tries < MOST_DOUBLED ? slot->tries : MOST_DOUBLED;

		/* As clients do, later each time: a repeated PUT is a second write. */
		if (!slot->tries || at - slot->sent < WAIT_NS << (doubled - 1))
			continue;
		retries++;
		if (slot->tries == TRIES) {
			lost++;
			slot->tries = 0;
			begin(i, at);
			continue;
		}
		if (attempt_at >= 0)
			slot->data[attempt_at] = slot->tries % 4;
		stage(slot, at);
	}
}

static int compare(const void *a, const void *b)
{
	long d = *(const long *)a - *(const long *)b;

	return d < 0 ? -1 : d > 0;
}

static double share(double part)
{
	return done ? latencies[(size_t)(part * (done - 1))] / 1e3 : 0;
}

static void report(double seconds)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	qsort(latencies, done, sizeof(*latencies), compare);
	printf("{\"done\": %lu, \"bad\": %lu, \"lost\": %lu, \"retries\": %lu, \"seconds\": %.6f, \"cpu\": %.6f, "
	       "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       done, bad, lost, retries, seconds, used.ru_utime.tv_sec + used.ru_stime.tv_sec +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
	       share(.5), share(.9), share(.99), share(1));
}

static void read_targets(char *text)
{
	for (char *each = strtok(text, ","); each && target_count < TARGETS; each = strtok(NULL, ",")) {
		char *port = strchr(each, ':');
		struct sockaddr_in *target = &targets[target_count++];

		if (!port)
			errx(2, "%s is not IP:PORT", each);
		*port++ = 0;
		target->sin_family = AF_INET;
		target->sin_port = htons(atoi(port));
		if (inet_pton(AF_INET, each, &target->sin_addr) != 1)
			errx(2, "%s is no IPv4 address", each);
	}
}

static void prepare(void)
{
	struct timeval wait = {.tv_usec = 20000};
	int size = 4 << 20;

	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		err(1, "no socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	slots = calloc(window, sizeof(*slots));
	latencies = calloc(count, sizeof(*latencies));
	if (!slots || !latencies)
		errx(1, "no memory");
	for (size_t i = 0; i < window; i++)
		slots[i].id = i;
	for (int i = 0; i < BATCH; i++) {
		in_vectors[i] = (struct iovec){received[i], ROOM};
		in[i].msg_hdr = (struct msghdr){.msg_iov = &in_vectors[i], .msg_iovlen = 1};
	}
}

int main(int argc, char **arguments)
{
	size_t answers = 0;
	long start, at, checked;
	int got;

	if (argc != 12 && argc != 13)
		errx(2, "see the head of udp_ask.c");
	read_targets(arguments[1]);
	length = atoi(arguments[3]);
	answer_length = atoi(arguments[5]);
	id_at = atoi(arguments[6]);
	id_size = atoi(arguments[7]);
	status_at = atoi(arguments[8]);
	attempt_at = atoi(arguments[9]);
	window = atoi(arguments[10]);
	count = atol(arguments[11]);
	answer_id_at = argc == 13 ? atoi(arguments[12]) : id_at;
	if (!length || length > ROOM || !window || window & (window - 1) || !target_count)
		errx(2, "length, window or targets");
	asked = load(arguments[2], length, &requests);
	if (answer_length)
		wanted = load(arguments[4], answer_length, &answers);
	if (!requests || (answer_length && answers != requests))
		errx(2, "requests and answers are not as many");
	prepare();
	start = checked = now();
	for (size_t i = 0; i < window; i++)
		begin(i, start);
	flush();
	while (done + lost < count) {
		got = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL);
		at = now();
		for (int i = 0; i < got; i++)
			take(received[i], in[i].msg_len, at);
		if (at - checked > WAIT_NS / 4) {
			checked = at;
			repeat(at);
		}
		flush();
	}
	report((now() - start) / 1e9);
	return 0;
}
