/* SPDX-License-Identifier: Apache-2.0
 *
 * Readers of hot keys: threads, each with a socket of its own and one GET at a time, without a repetition.
 *
 *   readers BOARD KEYS REQUESTS LENGTH NODES RESULT READERS
 *
 * BOARD: a file shared with the program that starts this one (struct board). REQUESTS: a file with two GETs of LENGTH
 * bytes for each of KEYS keys, the second with the flag DIRECT. NODES: IP:PORT[,IP:PORT...]. RESULT: a file of struct
 * read. Of four readers two ask the key's owner, one any node with DIRECT, one any node.
 */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kdht_shared.h"

#define MOST_NODES 32
#define MOST_KEYS 64
#define ROOM 2048
#define ID_AT offsetof(struct kdht_header, request_id)
#define STATUS_AT offsetof(struct kdht_header, status)
#define BODY_AT ((ssize_t)sizeof(struct kdht_header))
#define RECORD_LEN ((ssize_t)sizeof(struct kdht_record))
#define WAIT_US 100000
#define MOST_PAUSE_US 6000
#define HELD 512 /* results that a thread keeps until it writes them */

enum { AT_OWNER, AT_OWNER_TOO, DIRECT, ANYWHERE, WAYS };

/* As in histories/hot/readers.py. */
struct board {
	_Atomic uint64_t answered;
	_Atomic uint32_t ended;
	uint32_t pad;
	_Atomic uint8_t owners[MOST_KEYS]; /* numbers of nodes */
};

struct read {
	int64_t begun, ended; /* nanoseconds of CLOCK_MONOTONIC */
	uint64_t version, mark; /* of the record, and the first bytes of its value */
	uint32_t from;          /* who answered, as an IPv4 address */
	uint8_t key, way, reader, status;
};

static struct board *board;
static struct sockaddr_in nodes[MOST_NODES];
static int node_count, keys, result;
static size_t length;
static unsigned char *requests;

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint64_t big_endian(const unsigned char *at)
{
	uint64_t word = 0;

	for (int i = 0; i < 8; i++)
		word = word << 8 | at[i];
	return word;
}

/* Send one GET and wait for its answer. 0: there was none. */
static int ask(int fd, unsigned char *request, uint64_t id, const struct sockaddr_in *to, struct read *found)
{
	unsigned char answer[ROOM];
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	ssize_t got;

	memcpy(request + ID_AT, &id, sizeof(id));
	found->begun = now();
	if (sendto(fd, request, length, 0, (const void *)to, sizeof(*to)) < 0) {
		usleep(WAIT_US); /* the node is away */
		return 0;
	}
	do {
		size = sizeof(from);
		got = recvfrom(fd, answer, sizeof(answer), 0, (void *)&from, &size);
		found->ended = now();
		if (got < 0 || found->ended - found->begun > 10LL * WAIT_US * 1000)
			return 0;
	} while (got < BODY_AT || memcmp(answer + ID_AT, &id, sizeof(id)));
	found->status = answer[STATUS_AT];
	found->from = ntohl(from.sin_addr.s_addr);
	found->version = got >= BODY_AT + RECORD_LEN ? big_endian(answer + BODY_AT) : 0;
	found->mark = got >= BODY_AT + RECORD_LEN + 8 ? big_endian(answer + BODY_AT + RECORD_LEN) : 0;
	return 1;
}

static void keep(const struct read *held, int count)
{
	if (write(result, held, count * sizeof(*held)) != (ssize_t)(count * sizeof(*held)))
		err(1, "cannot write the results");
}

static void *reader(void *argument)
{
	int number = (int)(intptr_t)argument, way = number % WAYS, count = 0, to;
	struct timeval wait = {.tv_usec = WAIT_US};
	unsigned int chance = number * 7919 + 1;
	struct read held[HELD];
	unsigned char request[ROOM];
	uint64_t id = (uint64_t)number << 48;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)))
		err(1, "no socket");
	while (!atomic_load(&board->ended)) {
		int key = rand_r(&chance) % keys;

		usleep(rand_r(&chance) % MOST_PAUSE_US);
		memcpy(request, requests + (2 * key + (way == DIRECT)) * length, length);
		to = way <= AT_OWNER_TOO ? atomic_load(&board->owners[key]) : rand_r(&chance) % node_count;
		held[count] = (struct read){.key = key, .way = way, .reader = number};
		if (!ask(fd, request, ++id, &nodes[to % node_count], &held[count]))
			continue;
		atomic_fetch_add(&board->answered, 1);
		if (++count == HELD) {
			keep(held, count);
			count = 0;
		}
	}
	keep(held, count);
	return NULL;
}

static void read_nodes(char *text)
{
	for (char *each = strtok(text, ","); each && node_count < MOST_NODES; each = strtok(NULL, ",")) {
		char *port = strchr(each, ':');
		struct sockaddr_in *node = &nodes[node_count++];

		if (!port)
			errx(2, "%s is not IP:PORT", each);
		*port++ = 0;
		node->sin_family = AF_INET;
		node->sin_port = htons(atoi(port));
		if (inet_pton(AF_INET, each, &node->sin_addr) != 1)
			errx(2, "%s is no IPv4 address", each);
	}
}

static void *mapped(const char *path, size_t size, int writable)
{
	int fd = open(path, writable ? O_RDWR : O_RDONLY);
	void *at = fd < 0 ? MAP_FAILED :
			    mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		err(1, "%s", path);
	return at;
}

int main(int argc, char **arguments)
{
	int count;
	pthread_t threads[256];

	if (argc != 8)
		errx(2, "see the head of readers.c");
	keys = atoi(arguments[2]);
	length = atoi(arguments[4]);
	count = atoi(arguments[7]);
	if (keys < 1 || keys > MOST_KEYS || length > ROOM || count < 1 || count > 256)
		errx(2, "keys, length or readers");
	board = mapped(arguments[1], sizeof(*board), 1);
	requests = mapped(arguments[3], 2 * keys * length, 0);
	read_nodes(arguments[5]);
	result = open(arguments[6], O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (result < 0 || !node_count)
		err(1, "%s", arguments[6]);
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, reader, (void *)(intptr_t)i))
			errx(1, "no thread");
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
