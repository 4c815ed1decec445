/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks over TCP with so many requests outstanding, checks every answer, and measures: the twin of udp_ask for
 * servers that speak RESP (Redis) or gRPC (etcd). Requests come ready made from a file.
 *
 *   tcp_ask PROTOCOL TARGETS REQUESTS LENGTH ANSWERS ANSWER_LENGTH CONNECTIONS STREAMS COUNT
 *
 * PROTOCOL: "respN": a request of N commands, so N replies; none may be an error, and the last one not ":0".
 * "grpc": one HTTP/2 HEADERS and one DATA frame; the number of the stream is written into both. The answer is good
 * with a message in it: an error has trailers only. TARGETS: IP:PORT[,IP:PORT...], connections to them in turn.
 * REQUESTS: file of messages of LENGTH bytes. ANSWERS: file with ANSWER_LENGTH bytes for each request, which must occur
 * in its answer (0: none). CONNECTIONS have STREAMS requests under way each, RESP one. It prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asking.h"

#define ROOM (4 << 20)
#define TARGETS 64
#define EVENTS 64
#define FRAME 9
#define WAIT_MS 10000

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7 };
enum { END_STREAM = 1, ACK = 1 };

struct slot {
	size_t request;
	uint32_t stream;
	int found, message, busy;
	long begun;
};

struct connection {
	int fd;
	uint32_t next_stream;
	struct slot *slots;
	unsigned char *in, *out;
	size_t held, staged;
};

static struct sockaddr_in targets[TARGETS];
static int target_count, replies, grpc, connection_count, streams;
static size_t length, answer_length, requests;
static unsigned char *asked, *wanted;
static long *latencies;
static unsigned long begun, done, bad, count;
static struct connection *connections;

static void put32(unsigned char *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, 4);
}

static uint32_t get32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, 4);
	return ntohl(value);
}

static size_t frame_length(const unsigned char *at)
{
	return at[0] << 16 | at[1] << 8 | at[2];
}

static void stage(struct connection *c, const void *data, size_t size)
{
	if (c->staged + size > ROOM)
		errx(1, "too much is waiting to be sent");
	memcpy(c->out + c->staged, data, size);
	c->staged += size;
}

static void flush(struct connection *c)
{
	/* Blocking: what is outstanding fits into the server's socket. */
	for (size_t sent = 0; sent < c->staged;) {
		ssize_t n = send(c->fd, c->out + sent, c->staged - sent, MSG_NOSIGNAL);

		if (n <= 0)
			err(1, "send");
		sent += n;
	}
	c->staged = 0;
}

static void begin(struct connection *c, struct slot *slot, long at)
{
	unsigned char *copy = c->out + c->staged;

	slot->busy = 0;
	if (begun == count)
		return;
	*slot = (struct slot){.request = begun++ % requests, .stream = c->next_stream, .busy = 1, .begun = at};
	stage(c, asked + slot->request * length, length);
	if (!grpc)
		return;
	c->next_stream += 2;
	put32(copy + 5, slot->stream);
	put32(copy + FRAME + frame_length(copy) + 5, slot->stream);
}

static void finish(struct connection *c, struct slot *slot, int good, long at)
{
	bad += !good || (answer_length && !slot->found);
	latencies[done++] = at - slot->begun;
	begin(c, slot, at);
}

static int occurs(const struct slot *slot, const unsigned char *data, size_t size)
{
	return answer_length && memmem(data, size, wanted + slot->request * answer_length, answer_length);
}

/* --- RESP */

/* The end of the reply at `at`, NULL if it is not whole. */
static const unsigned char *reply_end(const unsigned char *at, const unsigned char *end)
{
	const unsigned char *line = memchr(at, '\n', end - at);
	long number;

	if (!line)
		return NULL;
	number = at[0] == '$' || at[0] == '*' ? atol((const char *)at + 1) : -1;
	line++;
	if (number < 0)
		return line;
	if (at[0] == '$')
		return end - line >= number + 2 ? line + number + 2 : NULL;
	for (long i = 0; line && i < number; i++)
		line = line < end ? reply_end(line, end) : NULL;
	return line;
}

static size_t take_resp(struct connection *c, long at)
{
	const unsigned char *start = c->in, *end = c->in + c->held, *reply = start;
	struct slot *slot = c->slots;
	int good = 1;

	for (int i = 0; i < replies; i++) {
		const unsigned char *next = reply < end ? reply_end(reply, end) : NULL;

		if (!next)
			return 0;
		good &= *reply != '-' && !(i == replies - 1 && !memcmp(reply, ":0\r", 3));
		reply = next;
	}
	slot->found = occurs(slot, start, reply - start);
	finish(c, slot, good, at);
	return reply - start;
}

/* --- HTTP/2 */

static void open_http2(struct connection *c)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	/* SETTINGS_INITIAL_WINDOW_SIZE and the connection's window as large as can be: nothing is held back. */
	static const unsigned char frames[] = {0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff,
					       0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0};

	c->next_stream = 1;
	stage(c, preface, sizeof(preface) - 1);
	stage(c, frames, sizeof(frames));
}

static struct slot *slot_of(struct connection *c, uint32_t stream)
{
	for (int i = 0; i < streams; i++)
		if (c->slots[i].busy && c->slots[i].stream == stream)
			return &c->slots[i];
	return NULL;
}

static void take_frame(struct connection *c, const unsigned char *frame, size_t size, long at)
{
	int type = frame[3], flags = frame[4];
	struct slot *slot = slot_of(c, get32(frame + 5) & 0x7fffffff);
	unsigned char answer[FRAME + 8];

	if (type == GOAWAY)
		errx(1, "the server ends the connection");
	if ((type == SETTINGS || type == PING) && !(flags & ACK)) {
		memcpy(answer, frame, FRAME);
		answer[4] = ACK;
		answer[2] = type == PING ? 8 : 0;
		if (type == PING)
			memcpy(answer + FRAME, frame + FRAME, 8);
		stage(c, answer, FRAME + answer[2]);
	}
	if (!slot)
		return;
	if (type == DATA) {
		slot->message |= size >= 5;
		slot->found |= occurs(slot, frame + FRAME, size);
	}
	if (type == RST_STREAM || ((type == HEADERS || type == DATA) && flags & END_STREAM))
		finish(c, slot, slot->message && type != RST_STREAM, at);
}

static size_t take_grpc(struct connection *c, long at)
{
	size_t used = 0, size;

	while (c->held - used >= FRAME && c->held - used >= FRAME + (size = frame_length(c->in + used))) {
		take_frame(c, c->in + used, size, at);
		used += FRAME + size;
	}
	return used;
}

static void receive(struct connection *c)
{
	ssize_t n = recv(c->fd, c->in + c->held, ROOM - c->held, 0);
	size_t used;

	if (n <= 0)
		errx(1, "the server closed the connection: %s", n ? strerror(errno) : "at its end");
	c->held += n;
	used = grpc ? take_grpc(c, now()) : take_resp(c, now());
	memmove(c->in, c->in + used, c->held - used);
	c->held -= used;
	if (c->held == ROOM)
		errx(1, "an answer is too long");
	flush(c);
}

/* --- All of it */

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
	printf("{\"done\": %lu, \"bad\": %lu, \"lost\": 0, \"retries\": 0, \"seconds\": %.6f, \"cpu\": %.6f, "
	       "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       done, bad, seconds, used.ru_utime.tv_sec + used.ru_stime.tv_sec +
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

static void join(struct connection *c, int number, int events)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
	int one = 1;

	c->slots = calloc(streams, sizeof(*c->slots));
	c->in = malloc(ROOM);
	c->out = malloc(ROOM);
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (!c->slots || !c->in || !c->out || c->fd < 0)
		err(1, "no socket");
	if (connect(c->fd, (struct sockaddr *)&targets[number % target_count], sizeof(*targets)) < 0)
		err(1, "connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(events, EPOLL_CTL_ADD, c->fd, &event) < 0)
		err(1, "epoll_ctl");
	if (grpc)
		open_http2(c);
}

static void read_arguments(char **arguments)
{
	size_t answers = 0;

	grpc = !strcmp(arguments[1], "grpc");
	replies = grpc ? 1 : atoi(arguments[1] + 4);
	read_targets(arguments[2]);
	length = atoi(arguments[4]);
	answer_length = atoi(arguments[6]);
	connection_count = atoi(arguments[7]);
	streams = atoi(arguments[8]);
	count = atol(arguments[9]);
	if (!length || !target_count || connection_count < 1 || streams < 1 || replies < 1 || (!grpc && streams > 1))
		errx(2, "see the head of tcp_ask.c");
	asked = load(arguments[3], length, &requests);
	if (answer_length)
		wanted = load(arguments[5], answer_length, &answers);
	if (!requests || (answer_length && answers != requests))
		errx(2, "requests and answers are not as many");
}

int main(int argc, char **arguments)
{
	int events = epoll_create1(0), got;
	struct epoll_event ready[EVENTS];
	long start;

	if (argc != 10)
		errx(2, "see the head of tcp_ask.c");
	read_arguments(arguments);
	connections = calloc(connection_count, sizeof(*connections));
	latencies = calloc(count, sizeof(*latencies));
	if (!connections || !latencies || events < 0)
		errx(1, "no memory");
	for (int i = 0; i < connection_count; i++)
		join(&connections[i], i, events);
	start = now();
	for (int i = 0; i < connection_count; i++) {
		for (int j = 0; j < streams; j++)
			begin(&connections[i], &connections[i].slots[j], start);
		flush(&connections[i]);
	}
	while (done < count) {
		got = epoll_wait(events, ready, EVENTS, WAIT_MS);
		if (got == 0)
			errx(1, "no answer for %d seconds", WAIT_MS / 1000);
		for (int i = 0; i < got; i++)
			receive(ready[i].data.ptr);
	}
	report((now() - start) / 1e9);
	return 0;
}
