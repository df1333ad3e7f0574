/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The news of a namespace's network: rtnetlink's multicast groups. What they say is not read: a change is
 * read whole.
 */
#include "vmm/netview.h"

#include "base/util.h"
#include "vmm/netns_internal.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#define GROUP(n)  (1u << ((n)-1))
#define TAKES_MAX 256 /* the rest makes the fd readable again */

static int open_job(void *arg, struct err *err)
{
	const struct sockaddr_nl address = {
		.nl_family = AF_NETLINK,
		.nl_groups = GROUP(RTNLGRP_LINK) | GROUP(RTNLGRP_NEIGH) | GROUP(RTNLGRP_IPV4_IFADDR) |
			     GROUP(RTNLGRP_IPV6_IFADDR) | GROUP(RTNLGRP_IPV4_ROUTE) |
			     GROUP(RTNLGRP_IPV6_ROUTE) | GROUP(RTNLGRP_IPV4_RULE) | GROUP(RTNLGRP_IPV6_RULE),
	};
	int fd CLEANUP_CLOSE = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	(void)arg;
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return err_set_errno(err, -errno, "a socket for changes of the network");
	return move_fd(fd);
}

int vmm_net_watch(const char *netns_path, struct err *err)
{
	return netns_run(netns_path, open_job, NULL, err);
}

bool vmm_net_watch_take(int fd)
{
	char first[16];
	bool news = false;

	for (int i = 0; i < TAKES_MAX; i++) {
		/* The rest of a message that is longer is dropped. */
		if (recv(fd, first, sizeof(first), MSG_DONTWAIT) < 0) {
			if (errno == EINTR)
				continue;
			if (errno != ENOBUFS) /* the kernel dropped messages: that is news too */
				break;
		}
		news = true;
	}
	return news;
}
