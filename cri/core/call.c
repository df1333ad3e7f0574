/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/call.h"

#include "base/cond.h"
#include "base/log.h"

#include <stdatomic.h>
#include <sys/eventfd.h>

#define DEADLINE_PASSED "the call's deadline has passed"

struct call {
	int64_t deadline_ns; /* immutable */
	atomic_uint refs;
	atomic_int ended; /* 0, -ECANCELED or -ETIMEDOUT; written with lock held */

	pthread_mutex_t lock; /* innermost: nothing else is locked while it is held */
	pthread_cond_t idle;  /* running became NULL */
	char why[128];
	int fd; /* -1: nobody has asked for it */
	struct call_hook *hooks;
	const struct call_hook *running; /* the hook whose fn runs now, on thread `runner` */
	pthread_t runner;

	char key[16], id[65]; /* key "": not traced */
	int64_t step_ns;      /* when the last step ended */
};

/* ---- life ---------------------------------------------------------------------------------------------- */

int call_new(int64_t deadline_ns, struct call **ret_call, struct err *err)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		return err_oom(err);
	call->deadline_ns = deadline_ns;
	atomic_init(&call->refs, 1);
	atomic_init(&call->ended, 0);
	pthread_mutex_init(&call->lock, NULL);
	pthread_cond_init(&call->idle, NULL);
	call->fd = -1;
	call->step_ns = now_monotonic_ns();
	*ret_call = call;
	return 0;
}

struct call *call_ref(struct call *call)
{
	if (call)
		atomic_fetch_add(&call->refs, 1);
	return call;
}

struct call *call_unref(struct call *call)
{
	if (!call || atomic_fetch_sub(&call->refs, 1) > 1)
		return NULL;
	close_fd(call->fd);
	pthread_cond_destroy(&call->idle);
	pthread_mutex_destroy(&call->lock);
	free(call);
	return NULL;
}

/* ---- the deadline -------------------------------------------------------------------------------------- */

int64_t call_deadline(const struct call *call)
{
	return call ? call->deadline_ns : INT64_MAX;
}

int64_t call_until(const struct call *call, int64_t limit_ns)
{
	int64_t until = now_monotonic_ns() + limit_ns;

	return call && call->deadline_ns < until ? call->deadline_ns : until;
}

/* ---- cancellation -------------------------------------------------------------------------------------- */

static void end(struct call *call, int code, const char *why)
{
	struct call_hook *hook;

	if (!call)
		return;
	pthread_mutex_lock(&call->lock);
	if (!call->ended) {
		snprintf(call->why, sizeof(call->why), "%s", why);
		atomic_store(&call->ended, code);
		if (call->fd >= 0)
			(void)eventfd_write(call->fd, 1);
		call->runner = pthread_self();
		while ((hook = call->hooks)) {
			void (*fn)(void *arg) = hook->fn;
			void *arg = hook->arg;

			call->hooks = hook->next;
			if (hook->next)
				hook->next->at = &call->hooks;
			hook->at = NULL;
			call->running = hook;
			pthread_mutex_unlock(&call->lock);
			fn(arg);
			pthread_mutex_lock(&call->lock);
			call->running = NULL;
			pthread_cond_broadcast(&call->idle);
		}
	}
	pthread_mutex_unlock(&call->lock);
}

void call_cancel(struct call *call, const char *why)
{
	end(call, -ECANCELED, why);
}

void call_expire(struct call *call)
{
	end(call, -ETIMEDOUT, DEADLINE_PASSED);
}

int call_check(struct call *call, struct err *err)
{
	if (!call)
		return 0;
	if (atomic_load(&call->ended) == -ECANCELED)
		return err_set_status(err, -ECANCELED, ERR_CANCELLED, "%s", call->why);
	if (atomic_load(&call->ended) ||
	    (call->deadline_ns != INT64_MAX && now_monotonic_ns() >= call->deadline_ns))
		return err_set_status(err, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED, DEADLINE_PASSED);
	return 0;
}

int call_fd(struct call *call, int *ret_fd, struct err *err)
{
	int fd;

	if (!call) {
		*ret_fd = -1; /* poll(2) passes over it */
		return 0;
	}
	pthread_mutex_lock(&call->lock);
	if (call->fd < 0)
		call->fd = eventfd(call->ended ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
	fd = call->fd;
	pthread_mutex_unlock(&call->lock);
	if (fd < 0)
		return err_set_errno(err, -errno, "an fd for the end of a call");
	*ret_fd = fd;
	return 0;
}

void call_hook_add(struct call *call, struct call_hook *hook, void (*fn)(void *arg), void *arg)
{
	int late;

	if (!call) {
		*hook = (struct call_hook){.fn = fn, .arg = arg};
		return;
	}
	pthread_mutex_lock(&call->lock);
	*hook = (struct call_hook){.fn = fn, .arg = arg};
	late = call->ended;
	if (!late) {
		hook->next = call->hooks;
		hook->at = &call->hooks;
		if (hook->next)
			hook->next->at = &hook->next;
		call->hooks = hook;
	}
	pthread_mutex_unlock(&call->lock);
	if (late)
		fn(arg);
}

/* Lock held. False: its fn runs on another thread just now. */
static bool take_out(struct call *call, struct call_hook *hook)
{
	if (hook->at) {
		*hook->at = hook->next;
		if (hook->next)
			hook->next->at = hook->at;
		hook->at = NULL;
	}
	return call->running != hook || pthread_equal(call->runner, pthread_self());
}

void call_hook_remove(struct call *call, struct call_hook *hook)
{
	if (!call)
		return;
	pthread_mutex_lock(&call->lock);
	while (!take_out(call, hook))
		pthread_cond_wait(&call->idle, &call->lock);
	pthread_mutex_unlock(&call->lock);
}

struct sleeper {
	struct call_hook hook;
	pthread_cond_t *cond;
	pthread_mutex_t *lock;
};

static void wake(void *arg)
{
	struct sleeper *s = arg;

	pthread_mutex_lock(s->lock);
	pthread_cond_broadcast(s->cond);
	pthread_mutex_unlock(s->lock);
}

/* With the sleeper's lock held. 0, or how the call has ended already. */
static int sleeper_add(struct call *call, struct sleeper *s)
{
	int late;

	pthread_mutex_lock(&call->lock);
	late = call->ended;
	if (!late) {
		s->hook = (struct call_hook){.fn = wake, .arg = s, .next = call->hooks, .at = &call->hooks};
		if (s->hook.next)
			s->hook.next->at = &s->hook.next;
		call->hooks = &s->hook;
	}
	pthread_mutex_unlock(&call->lock);
	return late;
}

/* With the sleeper's lock held, which is given up for as long as `wake` runs. */
static void sleeper_remove(struct call *call, struct sleeper *s)
{
	bool out;

	pthread_mutex_lock(&call->lock);
	out = take_out(call, &s->hook);
	pthread_mutex_unlock(&call->lock);
	if (out)
		return;
	pthread_mutex_unlock(s->lock);
	call_hook_remove(call, &s->hook);
	pthread_mutex_lock(s->lock);
}

int call_wait(struct call *call, pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns)
{
	int64_t until = call_deadline(call) < until_ns ? call_deadline(call) : until_ns;
	struct sleeper s = {.cond = cond, .lock = lock};
	int r = call ? sleeper_add(call, &s) : 0;

	if (r < 0)
		return r;
	r = cond_wait_until(cond, lock, until);
	if (!call)
		return r;
	sleeper_remove(call, &s);
	return atomic_load(&call->ended) ? atomic_load(&call->ended) : r;
}

int call_sleep(struct call *call, int64_t until_ns, struct err *err)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	int r = -cond_init(&never);

	if (r > 0)
		return err_set_errno(err, -r, "a condition");
	pthread_mutex_lock(&lock);
	while (now_monotonic_ns() < until_ns && (r = call_check(call, err)) == 0)
		(void)call_wait(call, &never, &lock, until_ns);
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	return r;
}

/* ---- the trace ----------------------------------------------------------------------------------------- */

void call_trace(struct call *call, const char *key, const char *id)
{
	if (!call)
		return;
	pthread_mutex_lock(&call->lock);
	snprintf(call->key, sizeof(call->key), "%s", key);
	snprintf(call->id, sizeof(call->id), "%s", id);
	pthread_mutex_unlock(&call->lock);
}

void call_step(struct call *call, const char *name)
{
	int64_t now = now_monotonic_ns(), took;
	char key[sizeof(call->key)], id[sizeof(call->id)];

	if (!call)
		return;
	pthread_mutex_lock(&call->lock);
	took = now - call->step_ns;
	call->step_ns = now;
	memcpy(key, call->key, sizeof(key));
	memcpy(id, call->id, sizeof(id));
	pthread_mutex_unlock(&call->lock);
	if (key[0])
		log_line(LOG_LEVEL_INFO, LOG_FIELDS(key, id, "step", name), "step took %.1f ms",
			 (double)took / NS_PER_MS);
}
