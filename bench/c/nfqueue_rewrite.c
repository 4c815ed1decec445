/* SPDX-License-Identifier: Apache-2.0
 *
 * The least that a queue's program can do in batches: for bench/nfqueue.py to compare with.
 *
 *   nfqueue_rewrite QUEUE MAX_LEN MARK SOURCE TARGET
 *
 * Binds the queue, gives every IPv4 packet new addresses and TTL 64, puts its checksums right
 * (RFC 1624) and accepts it with a mark: up to 32 packets a recvmmsg, their verdicts in one
 * sendmsg. It looks at nothing and trusts everything. Prints "ready", ends with its input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 32
#define ROOM 64
#define SLOT 2048
#define COPY_RANGE 1536
#define BUFFER (64 << 20)
#define VERDICT (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT)
#define CONFIG (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG)

struct rewrite {
	struct nlmsghdr nl;
	struct nfgenmsg nf;
	struct nlattr verdict_at;
	struct nfqnl_msg_verdict_hdr verdict;
	struct nlattr mark_at;
	__be32 mark;
	struct nlattr payload_at;
};

static int queue, fd;
static uint32_t mark, source, target;
static unsigned char slots[BATCH][ROOM + SLOT];

/* One attribute of the queue's configuration, acknowledged. */
static void configure(int type, const void *value, size_t length)
{
	struct {
		struct nlmsghdr nl;
		struct nfgenmsg nf;
		struct nlattr at;
		unsigned char value[8];
	} ask = {.nl = {NLMSG_ALIGN(20 + NLA_HDRLEN + length), CONFIG, NLM_F_REQUEST | NLM_F_ACK},
		 .nf = {.res_id = htons(queue)}, .at = {NLA_HDRLEN + length, type}};
	struct {
		struct nlmsghdr nl;
		struct nlmsgerr answer;
	} reply;

	memcpy(ask.value, value, length);
	if (send(fd, &ask, ask.nl.nlmsg_len, 0) < 0 || recv(fd, &reply, sizeof(reply), MSG_TRUNC) < 0 ||
	    reply.answer.error)
		errx(1, "queue %d refuses setting %d", queue, type);
}

static void bind_queue(uint32_t max_len)
{
	struct nfqnl_msg_config_cmd command = {.command = NFQNL_CFG_CMD_BIND};
	struct nfqnl_msg_config_params copy = {htonl(COPY_RANGE), NFQNL_COPY_PACKET};
	struct sockaddr_nl any = {.nl_family = AF_NETLINK};
	int size = BUFFER;

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		err(1, "netlink");
	max_len = htonl(max_len);
	configure(NFQA_CFG_CMD, &command, sizeof(command));
	configure(NFQA_CFG_PARAMS, &copy, sizeof(copy));
	configure(NFQA_CFG_QUEUE_MAXLEN, &max_len, sizeof(max_len));
}

static uint16_t updated(uint16_t check, uint64_t sum)
{
	sum += (uint16_t)~check;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* What the new words are more than the old ones, in ones' complement. */
static uint64_t difference(uint32_t old, uint32_t new)
{
	uint32_t gone = ~old;

	return (uint64_t)(gone & 0xffff) + (gone >> 16) + (new & 0xffff) + (new >> 16);
}

static void readdress(unsigned char *packet)
{
	struct iphdr *ip = (struct iphdr *)packet;
	struct udphdr *udp = (struct udphdr *)(packet + ip->ihl * 4);
	uint64_t addresses = difference(ip->saddr, source) + difference(ip->daddr, target);
	uint16_t old, new;

	memcpy(&old, &ip->ttl, 2);
	ip->ttl = 64;
	memcpy(&new, &ip->ttl, 2);
	ip->saddr = source;
	ip->daddr = target;
	ip->check = updated(ip->check, addresses + (uint16_t)~old + new);
	if (udp->check)
		udp->check = updated(udp->check, addresses);
}

/* The verdict's bytes, right before the packet in the receive buffer. */
static struct iovec treat(unsigned char *message)
{
	struct nlmsghdr *nl = (struct nlmsghdr *)message;
	struct nlattr *at = (struct nlattr *)(message + sizeof(*nl) + sizeof(struct nfgenmsg));
	unsigned char *payload = NULL;
	struct rewrite *out;
	uint32_t id = 0, length = 0, size;

	for (; (unsigned char *)at + NLA_HDRLEN <= message + nl->nlmsg_len;
	     at = (struct nlattr *)((unsigned char *)at + NLA_ALIGN(at->nla_len))) {
		if (at->nla_type == NFQA_PACKET_HDR)
			id = ((struct nfqnl_msg_packet_hdr *)(at + 1))->packet_id;
		if (at->nla_type == NFQA_PAYLOAD) {
			payload = (unsigned char *)(at + 1);
			length = at->nla_len - NLA_HDRLEN;
		}
	}
	if (!payload)
		errx(1, "no packet");
	readdress(payload);
	out = (struct rewrite *)(payload - sizeof(*out));
	size = sizeof(*out) + length;
	*out = (struct rewrite){
		.nl = {size, VERDICT, NLM_F_REQUEST},
		.nf = {.res_id = htons(queue)},
		.verdict_at = {NLA_HDRLEN + sizeof(out->verdict), NFQA_VERDICT_HDR},
		.verdict = {htonl(NF_ACCEPT), id},
		.mark_at = {NLA_HDRLEN + 4, NFQA_MARK},
		.mark = htonl(mark),
		.payload_at = {NLA_HDRLEN + length, NFQA_PAYLOAD},
	};
	return (struct iovec){out, NLMSG_ALIGN(size)};
}

static void *serve(void *unused)
{
	struct mmsghdr received[BATCH] = {};
	struct iovec into[BATCH], out[BATCH];
	struct msghdr answer = {.msg_iov = out};
	int count, i;

	for (i = 0; i < BATCH; i++) {
		into[i] = (struct iovec){slots[i] + ROOM, SLOT};
		received[i].msg_hdr = (struct msghdr){.msg_iov = &into[i], .msg_iovlen = 1};
	}
	while ((count = recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL)) > 0) {
		for (i = 0; i < count; i++)
			out[i] = treat(slots[i] + ROOM);
		answer.msg_iovlen = count;
		if (sendmsg(fd, &answer, 0) < 0)
			err(1, "verdicts");
	}
	return unused;
}

int main(int count, char **arguments)
{
	pthread_t thread;

	if (count != 6)
		errx(2, "see the head of nfqueue_rewrite.c");
	queue = atoi(arguments[1]);
	mark = strtoul(arguments[3], NULL, 0);
	source = inet_addr(arguments[4]);
	target = inet_addr(arguments[5]);
	bind_queue(strtoul(arguments[2], NULL, 0));
	if (pthread_create(&thread, NULL, serve, NULL))
		errx(1, "no thread");
	puts("ready");
	fflush(stdout);
	return read(0, slots[0], 1) > 0;
}
