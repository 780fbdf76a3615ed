/*
 * The walk that `cargo bench --bench scan` compares with: the least that a program can do to be told every TCP
 * socket in CLOSE_WAIT. One NETLINK_SOCK_DIAG socket that stays open, no extension asked for, the header of each
 * reply looked at and nothing else.
 *
 * One line in, one line out, so that the rounds of both take turns and no process start is in the figures:
 *
 *     one     both families in one dump: the version 1 request (TCPDIAG_GETSOCK), which the kernel reads as AF_UNSPEC
 *     two     AF_INET and then AF_INET6, by version 2 requests (SOCK_DIAG_BY_FAMILY): what `ss` does
 *
 * The answer is "NANOSECONDS SOCKETS": CPU time of this process, and how many sockets were told. Whatever goes wrong
 * is said on standard error, and ends the program with 1.
 *
 * As a process from start to end, the least that one look can take: `walk once` walks both families and prints the
 * number, `walk ages` asks for tcp_info as well, which alone tells how long a socket has been there.
 */
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { CLOSE_WAIT = 8 }; /* include/net/tcp_states.h */

static char buffer[64 * 1024]; /* the kernel fills 32 KiB at most */

static void fail(const char *what)
{
	fprintf(stderr, "walk: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void ask(int fd, int type, const void *body, size_t length)
{
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;

	memset(header, 0, sizeof(*header));
	header->nlmsg_len = NLMSG_LENGTH(length);
	header->nlmsg_type = type;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(NLMSG_DATA(header), body, length);
	if (send(fd, buffer, header->nlmsg_len, 0) < 0)
		fail("asking the kernel");
}

/* Reads replies up to the end of the dump; errors arrive inside that end. */
static long count(int fd)
{
	long sockets = 0;

	for (;;) {
		ssize_t length = recv(fd, buffer, sizeof(buffer), 0);
		struct nlmsghdr *header = (struct nlmsghdr *)buffer;

		if (length < 0)
			fail("reading a reply");
		for (; NLMSG_OK(header, length); header = NLMSG_NEXT(header, length)) {
			if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) {
				errno = -*(int *)NLMSG_DATA(header);
				if (errno > 0)
					fail("the kernel refused the dump");
				return sockets;
			}
			sockets++;
		}
	}
}

static long one_walk(int fd, int with_ages)
{
	struct inet_diag_req request = {
		.idiag_states = 1 << CLOSE_WAIT,
		.idiag_ext = with_ages ? 1 << (INET_DIAG_INFO - 1) : 0,
	};

	ask(fd, TCPDIAG_GETSOCK, &request, sizeof(request));
	return count(fd);
}

static long walk_of(int fd, int family)
{
	struct inet_diag_req_v2 request = {
		.sdiag_family = family,
		.sdiag_protocol = IPPROTO_TCP,
		.idiag_states = 1 << CLOSE_WAIT,
	};

	ask(fd, SOCK_DIAG_BY_FAMILY, &request, sizeof(request));
	return count(fd);
}

static long long cpu_nanoseconds(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) < 0)
		fail("CLOCK_PROCESS_CPUTIME_ID");
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
	char line[16];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (fd < 0)
		fail("NETLINK_SOCK_DIAG");
	if (argc > 1) {
		printf("%ld\n", one_walk(fd, strcmp(argv[1], "ages") == 0));
		return 0;
	}
	while (fgets(line, sizeof(line), stdin)) {
		long long begin = cpu_nanoseconds();
		long sockets;

		if (strcmp(line, "one\n") == 0) {
			sockets = one_walk(fd, 0);
		} else if (strcmp(line, "two\n") == 0) {
			sockets = walk_of(fd, AF_INET) + walk_of(fd, AF_INET6);
		} else {
			fprintf(stderr, "walk: neither `one` nor `two`: %s", line);
			return 1;
		}
		printf("%lld %ld\n", cpu_nanoseconds() - begin, sockets);
		fflush(stdout);
	}
	return 0;
}
