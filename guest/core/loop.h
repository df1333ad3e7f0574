/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h: the agent's event loop: fds, timers and work put off to the end of the round.
 *
 * Purpose:   the one place where the agent waits. Everything else is a callback of it.
 * Threads:   one; every function and callback runs there.
 * Ownership: a source belongs to the loop until loop_source_free; the fd stays the caller's, who closes it
 *            after freeing the source. Timers and tasks are embedded in their owner, who clears them before
 *            it goes away.
 * Units:     deadlines are CLOCK_MONOTONIC nanoseconds.
 * Errors:    0 or negative errno.
 */
#ifndef GUEST_CORE_LOOP_H
#define GUEST_CORE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_source;

typedef void loop_fd_fn(void *arg, int fd, uint32_t events);
typedef void loop_fn(void *arg);

struct loop_timer {
	struct loop_timer *prev, *next; /* the loop's */
	struct loop *loop;
	int64_t at_ns;
	loop_fn *fn;
	void *arg;
};

/* Work for the end of this round; queueing it twice runs it once. */
struct loop_task {
	struct loop_task *next;
	bool queued;
	loop_fn *fn;
	void *arg;
};

struct loop *loop_new(void);
struct loop *loop_free(struct loop *loop);
/* Runs until loop_stop. 0 or negative errno (epoll itself failed). */
int loop_run(struct loop *loop);
/*
 * One round that waits for at most max_wait_ns (0: not at all, negative: without limit). For tests.
 */
int loop_round(struct loop *loop, int64_t max_wait_ns);
void loop_stop(struct loop *loop);

/*
 * events may be 0: then the fd is not watched at all, not even for hang-up. NULL on ENOMEM, or for an fd that
 * epoll refuses.
 */
struct loop_source *loop_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg);
void loop_set_events(struct loop_source *src, uint32_t events);
/* No callback comes after this. NULL-safe; returns NULL. Safe inside callbacks, its own included. */
struct loop_source *loop_source_free(struct loop_source *src);

/* Arms (or moves) the timer; it fires once. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t at_ns, loop_fn *fn, void *arg);
void loop_timer_clear(struct loop_timer *timer);
static inline bool loop_timer_armed(const struct loop_timer *timer)
{
	return timer->loop != NULL;
}

void loop_later(struct loop *loop, struct loop_task *task, loop_fn *fn, void *arg);
/* Takes a queued task back. */
void loop_task_clear(struct loop *loop, struct loop_task *task);

#endif
