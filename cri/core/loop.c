/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/loop.h"

#include "base/util.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <systemd/sd-event.h>

#define LOOP_MAGIC 0x100b100bU
/* sd-event may delay a timer by this much to wake up less often; 0 would mean its default of 250 ms. */
#define TIMER_ACCURACY_US 1000

struct post {
	struct post *next;
	loop_fn *fn;
	void *arg;
};

struct loop {
	uint32_t magic;
	sd_event *event;
	sd_event_source *wake_source;
	int wake_fd;
	_Atomic(pthread_t) thread;
	atomic_bool stop;
	struct loop_source *sources;
	pthread_mutex_t post_lock; /* guards head and tail; held for a few instructions */
	struct post *head, **tail;
};

enum source_type {
	SOURCE_FD,
	SOURCE_TIMER,
	SOURCE_SIGNAL,
};

struct loop_source {
	struct loop *loop;
	struct loop_source *prev, *next;
	sd_event_source *event_source;
	enum source_type type;
	union {
		loop_fd_fn *fd;
		loop_fn *timer;
		void (*signal)(void *arg, int signo);
	} fn;
	void *arg;
};

static void check_thread(const struct loop *loop)
{
	assert(loop && loop->magic == LOOP_MAGIC);
	assert(loop_on_thread(loop));
	(void)loop;
}

static void wake(struct loop *loop)
{
	const uint64_t one = 1;

	/* Fails only when the counter is about to overflow: then it is readable anyway. */
	(void)!write(loop->wake_fd, &one, sizeof(one));
}

/* Runs what was posted up to now; what the callbacks post waits for the next turn, so fds and timers are not
 * starved. */
static void run_posts(struct loop *loop)
{
	struct post *p;

	pthread_mutex_lock(&loop->post_lock);
	p = loop->head;
	loop->head = NULL;
	loop->tail = &loop->head;
	pthread_mutex_unlock(&loop->post_lock);
	while (p) {
		struct post *next = p->next;
		loop_fn *fn = p->fn;
		void *arg = p->arg;

		free(p);
		fn(arg);
		p = next;
	}
}

static int on_wake(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	uint64_t count;

	(void)source;
	(void)revents;
	(void)!read(fd, &count, sizeof(count));
	run_posts(arg);
	return 0;
}

int loop_new(struct loop **ret_loop, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return err_set(err, -ENOMEM, "no memory for the event loop");
	loop->magic = LOOP_MAGIC;
	loop->tail = &loop->head;
	pthread_mutex_init(&loop->post_lock, NULL);
	atomic_store(&loop->thread, pthread_self());
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		r = err_set_errno(err, -errno, "eventfd of the event loop");
		goto fail;
	}
	r = sd_event_new(&loop->event);
	if (r >= 0)
		r = sd_event_add_io(loop->event, &loop->wake_source, loop->wake_fd, EPOLLIN, on_wake, loop);
	if (r < 0) {
		err_set_errno(err, r, "event loop");
		goto fail;
	}
	*ret_loop = loop;
	return 0;
fail:
	loop_free(loop);
	return r;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	check_thread(loop);
	while (loop->sources)
		loop_source_free(loop->sources);
	while (loop->head) {
		struct post *p = loop->head;

		loop->head = p->next;
		free(p);
	}
	sd_event_source_disable_unref(loop->wake_source);
	sd_event_unref(loop->event);
	close_fd(loop->wake_fd);
	pthread_mutex_destroy(&loop->post_lock);
	loop->magic = 0;
	free(loop);
	return NULL;
}

int loop_run(struct loop *loop, struct err *err)
{
	assert(loop && loop->magic == LOOP_MAGIC);
	atomic_store(&loop->thread, pthread_self());
	while (!atomic_exchange(&loop->stop, false)) {
		int r = sd_event_run(loop->event, UINT64_MAX);

		if (r < 0)
			return err_set_errno(err, r, "event loop");
	}
	/* Whatever was posted before the stop has its turn. */
	run_posts(loop);
	return 0;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	wake(loop);
}

bool loop_on_thread(const struct loop *loop)
{
	return pthread_equal(atomic_load(&loop->thread), pthread_self());
}

int loop_post(struct loop *loop, loop_fn *fn, void *arg)
{
	struct post *p = malloc(sizeof(*p));
	bool was_empty;

	if (!p)
		return -ENOMEM;
	*p = (struct post){.fn = fn, .arg = arg};
	pthread_mutex_lock(&loop->post_lock);
	was_empty = !loop->head;
	*loop->tail = p;
	loop->tail = &p->next;
	/* Under the lock: once it is released the loop may already have run fn and been freed. */
	if (was_empty)
		wake(loop);
	pthread_mutex_unlock(&loop->post_lock);
	return 0;
}

/* ---- sources ------------------------------------------------------------------------------------------- */

/* The callbacks below copy what they need first: fn may free the source. */

static int on_fd(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	const struct loop_source *s = arg;

	(void)source;
	s->fn.fd(s->arg, fd, revents);
	return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	const struct loop_source *s = arg;

	(void)source;
	(void)usec;
	s->fn.timer(s->arg);
	return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *arg)
{
	const struct loop_source *s = arg;

	(void)si;
	s->fn.signal(s->arg, sd_event_source_get_signal(source));
	return 0;
}

static int source_new(struct loop *loop, enum source_type type, void *arg, struct loop_source **ret_source,
		      struct err *err)
{
	struct loop_source *s = NULL;

	check_thread(loop);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, -ENOMEM, "no memory for an event source");
	s->loop = loop;
	s->type = type;
	s->arg = arg;
	s->next = loop->sources;
	if (s->next)
		s->next->prev = s;
	loop->sources = s;
	*ret_source = s;
	return 0;
}

static uint64_t to_usec(int64_t when_ns)
{
	return when_ns <= 0 ? 0 : (uint64_t)when_ns / 1000 + ((uint64_t)when_ns % 1000 != 0);
}

int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg,
		struct loop_source **ret_source, struct err *err)
{
	struct loop_source *s = NULL;
	int r = source_new(loop, SOURCE_FD, arg, &s, err);

	if (r < 0)
		return r;
	s->fn.fd = fn;
	r = sd_event_add_io(loop->event, &s->event_source, fd, events, on_fd, s);
	if (r < 0) {
		loop_source_free(s);
		return err_set_errno(err, r, "cannot watch fd %d", fd);
	}
	*ret_source = s;
	return 0;
}

int loop_source_set_events(struct loop_source *source, uint32_t events)
{
	check_thread(source->loop);
	assert(source->type == SOURCE_FD);
	return sd_event_source_set_io_events(source->event_source, events);
}

int loop_add_timer(struct loop *loop, int64_t when_ns, loop_fn *fn, void *arg,
		   struct loop_source **ret_source, struct err *err)
{
	struct loop_source *s = NULL;
	int r = source_new(loop, SOURCE_TIMER, arg, &s, err);

	if (r < 0)
		return r;
	s->fn.timer = fn;
	r = sd_event_add_time(loop->event, &s->event_source, CLOCK_MONOTONIC, to_usec(when_ns),
			      TIMER_ACCURACY_US, on_timer, s);
	if (r >= 0 && when_ns == INT64_MAX)
		r = sd_event_source_set_enabled(s->event_source, SD_EVENT_OFF);
	if (r < 0) {
		loop_source_free(s);
		return err_set_errno(err, r, "cannot set a timer");
	}
	*ret_source = s;
	return 0;
}

int loop_timer_set(struct loop_source *source, int64_t when_ns)
{
	int r;

	check_thread(source->loop);
	assert(source->type == SOURCE_TIMER);
	if (when_ns == INT64_MAX)
		return sd_event_source_set_enabled(source->event_source, SD_EVENT_OFF);
	r = sd_event_source_set_time(source->event_source, to_usec(when_ns));
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(source->event_source, SD_EVENT_ONESHOT);
}

int loop_add_signal(struct loop *loop, int signo, void (*fn)(void *arg, int signo), void *arg,
		    struct loop_source **ret_source, struct err *err)
{
	struct loop_source *s = NULL;
	int r = source_new(loop, SOURCE_SIGNAL, arg, &s, err);

	if (r < 0)
		return r;
	s->fn.signal = fn;
	r = sd_event_add_signal(loop->event, &s->event_source, signo, on_signal, s);
	if (r < 0) {
		loop_source_free(s);
		return err_set_errno(err, r, "cannot watch signal %d", signo);
	}
	*ret_source = s;
	return 0;
}

struct loop_source *loop_source_free(struct loop_source *source)
{
	if (!source)
		return NULL;
	check_thread(source->loop);
	sd_event_source_disable_unref(source->event_source);
	if (source->prev)
		source->prev->next = source->next;
	else
		source->loop->sources = source->next;
	if (source->next)
		source->next->prev = source->prev;
	free(source);
	return NULL;
}
