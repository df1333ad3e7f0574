/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/wait_internal.h"

#include "base/util.h"

#define DEFAULT_NS (30 * NS_PER_SEC)

int wait_poll(struct pollfd *fds, nfds_t n, int64_t deadline_ns)
{
	for (;;) {
		int64_t left = deadline_ns - now_monotonic_ns();
		struct timespec ts = {0, 0};
		int r;

		if (left > 0) {
			ts.tv_sec = left / NS_PER_SEC;
			ts.tv_nsec = left % NS_PER_SEC;
		}
		r = ppoll(fds, n, &ts, NULL);
		if (r > 0)
			return r;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

int wait_fd(int fd, short events, int64_t deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = events};

	return wait_poll(&p, 1, deadline_ns);
}

int64_t wait_deadline(int64_t deadline_ns)
{
	return deadline_ns ? deadline_ns : now_monotonic_ns() + DEFAULT_NS;
}

void wait_pause(int stop_fd, int64_t ns, int64_t deadline_ns)
{
	int64_t until = now_monotonic_ns() + ns;

	wait_fd(stop_fd, POLLIN, until < deadline_ns ? until : deadline_ns);
}
