/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/loop.h"

#include "base/util.h"

#include <sys/epoll.h>

#define EVENTS_PER_ROUND 64

struct loop_source {
	struct loop *loop;
	struct loop_source *next_dead;
	loop_fd_fn *fn;
	void *arg;
	int fd;
	uint32_t events;
	bool dead;
};

struct loop {
	int epfd;
	bool stop;
	struct loop_timer *timers; /* unsorted: there are a few dozen at most */
	struct loop_task *tasks, **tasks_tail;
	struct loop_source
		*dead; /* freed at the end of the round: events of this round may still name them */
};

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return NULL;
	loop->tasks_tail = &loop->tasks;
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0) {
		free(loop);
		return NULL;
	}
	return loop;
}

static void bury(struct loop *loop)
{
	while (loop->dead) {
		struct loop_source *src = loop->dead;

		loop->dead = src->next_dead;
		free(src);
	}
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	bury(loop);
	close_fd(loop->epfd);
	free(loop);
	return NULL;
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}

struct loop_source *loop_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg)
{
	struct loop_source *src = calloc(1, sizeof(*src));
	struct epoll_event ev = {.events = events, .data.ptr = src};

	if (!src)
		return NULL;
	*src = (struct loop_source){.loop = loop, .fn = fn, .arg = arg, .fd = fd, .events = events};
	if (events && epoll_ctl(loop->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		free(src);
		return NULL;
	}
	return src;
}

void loop_set_events(struct loop_source *src, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = src};
	int op = EPOLL_CTL_MOD;

	if (!src || src->dead || src->events == events)
		return;
	if (events == 0)
		op = EPOLL_CTL_DEL;
	else if (src->events == 0)
		op = EPOLL_CTL_ADD;
	/* Only ADD can fail, with ENOMEM; then the next change of events tries again. */
	if (epoll_ctl(src->loop->epfd, op, src->fd, &ev) == 0)
		src->events = events;
}

struct loop_source *loop_source_free(struct loop_source *src)
{
	if (!src || src->dead)
		return NULL;
	loop_set_events(src, 0);
	src->dead = true;
	src->next_dead = src->loop->dead;
	src->loop->dead = src;
	return NULL;
}

void loop_timer_clear(struct loop_timer *timer)
{
	if (!timer->loop)
		return;
	if (timer->prev)
		timer->prev->next = timer->next;
	else
		timer->loop->timers = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	timer->prev = timer->next = NULL;
	timer->loop = NULL;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t at_ns, loop_fn *fn, void *arg)
{
	loop_timer_clear(timer);
	*timer =
		(struct loop_timer){.next = loop->timers, .loop = loop, .at_ns = at_ns, .fn = fn, .arg = arg};
	if (loop->timers)
		loop->timers->prev = timer;
	loop->timers = timer;
}

void loop_later(struct loop *loop, struct loop_task *task, loop_fn *fn, void *arg)
{
	if (task->queued)
		return;
	*task = (struct loop_task){.queued = true, .fn = fn, .arg = arg};
	*loop->tasks_tail = task;
	loop->tasks_tail = &task->next;
}

void loop_task_clear(struct loop *loop, struct loop_task *task)
{
	struct loop_task **p = &loop->tasks;

	if (!task->queued)
		return;
	while (*p && *p != task)
		p = &(*p)->next;
	if (*p)
		*p = task->next;
	if (loop->tasks_tail == &task->next)
		loop->tasks_tail = p;
	task->queued = false;
	task->next = NULL;
}

static void run_tasks(struct loop *loop)
{
	while (loop->tasks) {
		struct loop_task *task = loop->tasks;

		loop->tasks = task->next;
		if (!loop->tasks)
			loop->tasks_tail = &loop->tasks;
		task->next = NULL;
		task->queued = false;
		task->fn(task->arg);
	}
}

static int64_t next_deadline(const struct loop *loop)
{
	int64_t at = INT64_MAX;

	for (const struct loop_timer *t = loop->timers; t; t = t->next)
		at = t->at_ns < at ? t->at_ns : at;
	return at;
}

static void run_timers(struct loop *loop)
{
	int64_t now = now_monotonic_ns();

	/*
	 * A callback may clear or arm any timer, so the list is walked anew after each. One armed in the past
	 * waits a round.
	 */
	for (;;) {
		struct loop_timer *due = NULL;

		for (struct loop_timer *t = loop->timers; t; t = t->next) {
			if (t->at_ns <= now && (!due || t->at_ns < due->at_ns))
				due = t;
		}
		if (!due)
			return;
		loop_timer_clear(due);
		due->fn(due->arg);
	}
}

int loop_round(struct loop *loop, int64_t max_wait_ns)
{
	struct epoll_event events[EVENTS_PER_ROUND];
	struct timespec ts, *wait = NULL;
	int64_t at = next_deadline(loop), left = INT64_MAX;
	int n;

	if (loop->tasks)
		max_wait_ns = 0;
	if (at != INT64_MAX) {
		left = at - now_monotonic_ns();
		left = left < 0 ? 0 : left;
	}
	if (max_wait_ns >= 0 && max_wait_ns < left)
		left = max_wait_ns;
	if (left != INT64_MAX) {
		ts = (struct timespec){.tv_sec = left / NS_PER_SEC, .tv_nsec = left % NS_PER_SEC};
		wait = &ts;
	}
	n = epoll_pwait2(loop->epfd, events, EVENTS_PER_ROUND, wait, NULL);
	if (n < 0 && errno != EINTR)
		return -errno;
	for (int i = 0; i < n; i++) {
		struct loop_source *src = events[i].data.ptr;

		if (!src->dead)
			src->fn(src->arg, src->fd, events[i].events);
	}
	run_timers(loop);
	run_tasks(loop);
	bury(loop);
	return 0;
}

int loop_run(struct loop *loop)
{
	loop->stop = false;
	while (!loop->stop) {
		int r = loop_round(loop, -1);

		if (r < 0)
			return r;
	}
	return 0;
}
