/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wait_internal.h: waiting with a deadline.
 *
 * Threads:   any; no shared state.
 * Units:     CLOCK_MONOTONIC nanoseconds.
 */
#ifndef VMM_WAIT_INTERNAL_H
#define VMM_WAIT_INTERNAL_H

#include <poll.h>
#include <stdint.h>

/*
 * poll(2) until the deadline, EINTR retried: the number of ready fds, -ETIMEDOUT or another negative errno.
 */
int wait_poll(struct pollfd *fds, nfds_t n, int64_t deadline_ns);
/* As above, for one fd. Negative fds are ignored. */
int wait_fd(int fd, short events, int64_t deadline_ns);
/* The given deadline, or 30 s from now if it is 0. */
int64_t wait_deadline(int64_t deadline_ns);
/* Sleeps, for the rare case without an event; wakes early if stop_fd (-1: none) becomes readable. */
void wait_pause(int stop_fd, int64_t ns, int64_t deadline_ns);

#endif
