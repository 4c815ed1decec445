/* SPDX-License-Identifier: Apache-2.0
 *
 * Load for bench/socket_datapath.py, and the least that a forwarder can do, on loopback.
 *
 *   udp_load flood FILE LENGTH PORT SECONDS   send FILE's messages of LENGTH bytes, over and over
 *   udp_load forward PORT TARGET_PORT         send on all that comes, unread, until SIGTERM
 *
 * Each prints: datagrams sent, seconds of CPU time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define ROOM 2048

static volatile sig_atomic_t ended;
static struct mmsghdr headers[BATCH];
static struct iovec vectors[BATCH];
static unsigned char data[BATCH][ROOM];

static void end(int number)
{
	(void)number;
	ended = 1;
}

static struct sockaddr_in loopback(const char *port)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return name;
}

static void report(unsigned long sent)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	printf("%lu %.6f\n", sent, used.ru_utime.tv_sec + used.ru_stime.tv_sec +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static int flood(char **arguments)
{
	size_t length = atoi(arguments[1]), count, i;
	struct sockaddr_in target = loopback(arguments[2]);
	double seconds = atof(arguments[3]);
	struct timespec now, begun;
	unsigned char *all = malloc(64 << 20);
	unsigned long sent = 0;
	FILE *file = fopen(arguments[0], "rb");
	int fd = socket(AF_INET, SOCK_DGRAM, 0), done;

	if (!file || !all || fd < 0 || !length)
		err(1, "%s", arguments[0]);
	count = fread(all, length, (64 << 20) / length, file) / BATCH * BATCH;
	if (!count || connect(fd, (struct sockaddr *)&target, sizeof(target)) < 0)
		err(1, "no messages or no socket");
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		for (i = 0; i < BATCH; i++) {
			vectors[i].iov_base = all + (sent + i) % count * length;
			vectors[i].iov_len = length;
			headers[i].msg_hdr.msg_iov = &vectors[i];
			headers[i].msg_hdr.msg_iovlen = 1;
		}
		done = sendmmsg(fd, headers, BATCH, 0);
		sent += done > 0 ? done : 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begun.tv_sec + (now.tv_nsec - begun.tv_nsec) / 1e9 < seconds);
	report(sent);
	return 0;
}

static int forward(char **arguments)
{
	struct sockaddr_in here = loopback(arguments[0]), target = loopback(arguments[1]);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 8 << 20, got, done, i;
	unsigned long sent = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) < 0)
		err(1, "port %s", arguments[0]);
	while (!ended) {
		for (i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){data[i], ROOM};
			headers[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
		}
		got = recvmmsg(fd, headers, BATCH, MSG_WAITFORONE, NULL);
		for (i = 0; i < got; i++) {
			vectors[i].iov_len = headers[i].msg_len;
			headers[i].msg_hdr.msg_name = &target;
			headers[i].msg_hdr.msg_namelen = sizeof(target);
		}
		done = got > 0 ? sendmmsg(fd, headers, got, 0) : 0;
		sent += done > 0 ? done : 0;
	}
	report(sent);
	return 0;
}

int main(int count, char **arguments)
{
	struct sigaction action = {.sa_handler = end};

	sigaction(SIGTERM, &action, NULL);
	if (count == 6 && !strcmp(arguments[1], "flood"))
		return flood(arguments + 2);
	if (count == 4 && !strcmp(arguments[1], "forward"))
		return forward(arguments + 2);
	errx(2, "see the head of udp_load.c");
}
