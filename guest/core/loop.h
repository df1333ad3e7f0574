/*
 * eloop.h: the agent's event loop: fds, timers and work put off to the end of the round.
 *
 * Purpose:   the one place where the agent waits. Everything else is a callback of it.
 * Threads:   one; every function and callback runs there.
 * Ownership: a source belongs to the loop until eloop_source_free; the fd stays the caller's, who closes it
 *            after freeing the source. Timers and tasks are embedded in their owner, who clears them before
 *            it goes away.
 * Units:     deadlines are CLOCK_MONOTONIC nanoseconds.
 * Errors:    0 or negative errno.
 */
#ifndef GUEST_ELOOP_H
#define GUEST_ELOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct eloop;
struct eloop_source;

typedef void eloop_fd_fn(void *arg, int fd, uint32_t events);
typedef void eloop_fn(void *arg);

struct eloop_timer {
	struct eloop_timer *prev, *next; /* the loop's */
	struct eloop *loop;
	int64_t at_ns;
	eloop_fn *fn;
	void *arg;
};

/* Work for the end of this round; queued once however often it is asked for. */
struct eloop_task {
	struct eloop_task *next;
	bool queued;
	eloop_fn *fn;
	void *arg;
};

struct eloop *eloop_new(void);
struct eloop *eloop_free(struct eloop *loop);
/* Runs until eloop_stop. 0 or negative errno (epoll itself failed). */
int eloop_run(struct eloop *loop);
/*
 * One round that waits for at most max_wait_ns (0: not at all, negative: for ever). For tests and for the way
 * down.
 */
int eloop_round(struct eloop *loop, int64_t max_wait_ns);
void eloop_stop(struct eloop *loop);

/*
 * events may be 0: then the fd is not watched at all, not even for hang-up. NULL on ENOMEM or an fd epoll
 * refuses.
 */
struct eloop_source *eloop_add(struct eloop *loop, int fd, uint32_t events, eloop_fd_fn *fn, void *arg);
void eloop_set_events(struct eloop_source *src, uint32_t events);
/* No callback comes after this. NULL-safe; returns NULL. Safe inside callbacks, its own included. */
struct eloop_source *eloop_source_free(struct eloop_source *src);

/* Arms (or moves) the timer; it fires once. */
void eloop_timer_set(struct eloop *loop, struct eloop_timer *timer, int64_t at_ns, eloop_fn *fn, void *arg);
void eloop_timer_clear(struct eloop_timer *timer);
static inline bool eloop_timer_armed(const struct eloop_timer *timer)
{
	return timer->loop != NULL;
}

void eloop_later(struct eloop *loop, struct eloop_task *task, eloop_fn *fn, void *arg);
/* Takes a queued task back. */
void eloop_task_clear(struct eloop *loop, struct eloop_task *task);

#endif
