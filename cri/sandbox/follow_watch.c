/* SPDX-License-Identifier: Apache-2.0 */
/* When to look: on the loop's thread. */
#include "cri/sandbox/follow_internal.h"

#include "base/log.h"

#include <sys/epoll.h>

#define REST_NS	    (100 * NS_PER_MS) /* changes come in groups */
#define PAUSE_NS    (500 * NS_PER_MS) /* from the end of one look to the next */
#define RETRY_NS    (1 * NS_PER_SEC)
#define RETRIES_MAX 6 /* so often it is doubled */

static void arm(struct follow *f, int64_t in_ns)
{
	if (f->armed || !f->timer)
		return;
	f->armed = true;
	loop_timer_set(f->timer, now_monotonic_ns() + in_ns);
}

static void log_failure(struct sandbox *s, struct follow *f)
{
	char words[sizeof(f->logged)];

	snprintf(words, sizeof(words), "%.120s", f->err.msg);
	if (str_eq(words, f->logged) || sandbox_is_dead(s))
		return;
	memcpy(f->logged, words, sizeof(words));
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", s->id),
		 "a change of the pod's network has not reached its VM: %s", f->err.msg);
}

/* Loop. Carries a reference. */
static void looked(void *arg)
{
	struct sandbox *s = arg;
	struct follow *f = s->follow;
	bool failed = f->err.code < 0;

	atomic_store(&f->busy, false);
	if (failed) {
		log_failure(s, f);
		arm(f, RETRY_NS << (f->failures < RETRIES_MAX ? f->failures : RETRIES_MAX));
		f->failures++;
	} else {
		f->failures = 0;
		f->logged[0] = 0;
		if (f->news)
			arm(f, PAUSE_NS);
	}
	sandbox_unref(s);
}

/* Worker thread. Carries a reference. */
static void look_job(void *arg)
{
	struct sandbox *s = arg;

	s->follow->err = ERR_INIT;
	(void)follow_look(s, &s->follow->err);
	if (loop_post(s->room->options.loop, looked, s) == 0)
		return;
	/* The next change looks again. */
	atomic_store(&s->follow->busy, false);
	sandbox_unref(s);
}

static void on_timer(void *arg)
{
	struct sandbox *s = arg;
	struct follow *f = s->follow;

	f->armed = false;
	if (atomic_load(&f->busy)) {
		f->news = true;
		return;
	}
	f->news = false;
	atomic_store(&f->busy, true);
	if (workers_submit(s->room->options.workers, LANE_NET, look_job, sandbox_ref(s)) == 0)
		return;
	atomic_store(&f->busy, false);
	arm(f, RETRY_NS);
	sandbox_unref(s);
}

static void on_news(void *arg, int fd, uint32_t revents)
{
	struct sandbox *s = arg;

	(void)revents;
	if (vmm_net_watch_take(fd))
		arm(s->follow, REST_NS);
}

/* ---- on and off ---------------------------------------------------------------------------------------- */

void follow_stop(struct sandbox *sandbox)
{
	struct follow *f;

	pthread_mutex_lock(&sandbox->lock);
	f = sandbox->follow;
	pthread_mutex_unlock(&sandbox->lock);
	if (!f)
		return;
	f->source = loop_source_free(f->source);
	f->timer = loop_source_free(f->timer);
	f->fd = close_fd(f->fd);
}

static void begin(struct sandbox *s, bool look)
{
	struct follow *f = s->follow;
	struct loop *loop = s->room->options.loop;
	struct err err = ERR_INIT;
	int r = 0;

	/* A sandbox that is watched no more has died, and its end has come by here. */
	if (s->watched && f->fd >= 0 && !f->source) {
		r = loop_add_timer(loop, INT64_MAX, on_timer, s, &f->timer, &err);
		if (r == 0)
			r = loop_add_fd(loop, f->fd, EPOLLIN, on_news, s, &f->source, &err);
	}
	if (r < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", s->id),
			 "changes of the pod's network will not reach its VM: %s", err.msg);
	if (!s->watched)
		follow_stop(s);
	else if (look)
		arm(f, 0);
	sandbox_unref(s);
}

/* They carry a reference. */
static void begin_job(void *arg)
{
	begin(arg, false);
}

static void begin_and_look_job(void *arg)
{
	begin(arg, true);
}

void follow_begin(struct sandbox *sandbox, bool look)
{
	if (loop_post(sandbox->room->options.loop, look ? begin_and_look_job : begin_job,
		      sandbox_ref(sandbox)) == 0)
		return;
	sandbox_unref(sandbox);
	sandbox_condemn(sandbox, "out of memory");
}
