/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends every datagram back, in batches, unread: the least that an answer over a socket can cost.
 *
 *   udp_echo PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdlib.h>
#include <sys/socket.h>

#define BATCH 64
#define ROOM 2048

static struct mmsghdr headers[BATCH];
static struct iovec vectors[BATCH];
static struct sockaddr_in names[BATCH];
static unsigned char data[BATCH][ROOM];

int main(int count, char **arguments)
{
	struct sockaddr_in here = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 4 << 20, got;

	if (count != 2)
		errx(2, "udp_echo PORT");
	here.sin_port = htons(atoi(arguments[1]));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) < 0)
		err(1, "port %s", arguments[1]);
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){data[i], ROOM};
			headers[i].msg_hdr = (struct msghdr){.msg_name = &names[i], .msg_namelen = sizeof(names[i]),
							     .msg_iov = &vectors[i], .msg_iovlen = 1};
		}
		got = recvmmsg(fd, headers, BATCH, MSG_WAITFORONE, NULL);
		for (int i = 0; i < got; i++)
			vectors[i].iov_len = headers[i].msg_len;
		if (got > 0)
			sendmmsg(fd, headers, got, 0);
	}
}
