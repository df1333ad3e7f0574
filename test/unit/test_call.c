/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cond.h"
#include "cri/core/call.h"
#include "cri/core/outcome.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SOON_NS (100 * NS_PER_MS)
#define LONG_NS (20 * NS_PER_SEC)

static struct call *new_call(int64_t deadline_ns)
{
	struct call *call;

	assert_int_equal(call_new(deadline_ns, &call, NULL), 0);
	return call;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

struct sleep {
	struct call *call;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool asleep; /* lock */
	int result;
	int64_t woken_ns;
};

static void *sleeper(void *arg)
{
	struct sleep *s = arg;

	pthread_mutex_lock(&s->lock);
	s->asleep = true;
	do
		s->result = call_wait(s->call, &s->cond, &s->lock, now_monotonic_ns() + LONG_NS);
	while (s->result == 0);
	s->woken_ns = now_monotonic_ns();
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void call_wait_when_cancelled_wakes(void **state)
{
	struct sleep s = {.call = new_call(INT64_MAX), .lock = PTHREAD_MUTEX_INITIALIZER};
	struct err err = ERR_INIT;
	bool asleep = false;
	pthread_t thread;
	int64_t begin;

	(void)state;
	cond_init(&s.cond);
	assert_int_equal(pthread_create(&thread, NULL, sleeper, &s), 0);
	while (!asleep) {
		pthread_mutex_lock(&s.lock);
		asleep = s.asleep;
		pthread_mutex_unlock(&s.lock);
	}
	begin = now_monotonic_ns();
	call_cancel(s.call, "the client has left");
	pthread_join(thread, NULL);
	assert_int_equal(s.result, -ECANCELED);
	assert_true(s.woken_ns - begin < NS_PER_SEC);
	assert_int_equal(call_check(s.call, &err), -ECANCELED);
	assert_int_equal(err.status, ERR_CANCELLED);
	assert_string_equal(err.msg, "the client has left");
	call_cancel(s.call, "another reason");
	assert_int_equal(call_check(s.call, &err), -ECANCELED);
	assert_string_equal(err.msg, "the client has left");
	pthread_cond_destroy(&s.cond);
	call_unref(s.call);
}

static void call_wait_at_deadline_times_out(void **state)
{
	struct call *call = new_call(now_monotonic_ns() + SOON_NS);
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct err err = ERR_INIT;
	pthread_cond_t cond;
	int r = 0;

	(void)state;
	cond_init(&cond);
	assert_int_equal(call_check(call, NULL), 0);
	pthread_mutex_lock(&lock);
	while (r == 0)
		r = call_wait(call, &cond, &lock, now_monotonic_ns() + LONG_NS);
	pthread_mutex_unlock(&lock);
	assert_int_equal(r, -ETIMEDOUT);
	assert_int_equal(call_check(call, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	pthread_cond_destroy(&cond);
	call_unref(call);
}

static void call_wait_without_call_keeps_the_limit(void **state)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	int r = 0;

	(void)state;
	cond_init(&cond);
	pthread_mutex_lock(&lock);
	while (r == 0)
		r = call_wait(NULL, &cond, &lock, now_monotonic_ns() + SOON_NS);
	pthread_mutex_unlock(&lock);
	assert_int_equal(r, -ETIMEDOUT);
	assert_int_equal(call_check(NULL, NULL), 0);
	assert_int_equal(call_deadline(NULL), INT64_MAX);
	pthread_cond_destroy(&cond);
}

static void *cancel_soon(void *arg)
{
	usleep(50000);
	call_cancel(arg, "the client has left");
	return NULL;
}

static void call_sleep_ends_with_the_call(void **state)
{
	struct call *call = new_call(INT64_MAX);
	int64_t begin = now_monotonic_ns();
	struct err err = ERR_INIT;
	pthread_t thread;

	(void)state;
	assert_int_equal(call_sleep(NULL, begin + SOON_NS, &err), 0);
	assert_int_equal(call_sleep(call, begin + SOON_NS + SOON_NS, &err), 0);
	assert_true(now_monotonic_ns() >= begin + SOON_NS + SOON_NS);
	pthread_create(&thread, NULL, cancel_soon, call);
	assert_int_equal(call_sleep(call, now_monotonic_ns() + LONG_NS, &err), -ECANCELED);
	assert_string_equal(err.msg, "the client has left");
	assert_true(now_monotonic_ns() - begin < LONG_NS);
	pthread_join(thread, NULL);
	call_unref(call);
	call = new_call(now_monotonic_ns() + SOON_NS);
	assert_int_equal(call_sleep(call, INT64_MAX, &err), -ETIMEDOUT);
	call_unref(call);
}

static void call_until_takes_the_earlier(void **state)
{
	int64_t now = now_monotonic_ns();
	struct call *call = new_call(now + SOON_NS);

	(void)state;
	assert_int_equal(call_until(call, LONG_NS), now + SOON_NS);
	assert_true(call_until(call, 1) < now + SOON_NS);
	call_unref(call);
}

static void call_fd_polls_readable_once_cancelled(void **state)
{
	struct call *call = new_call(INT64_MAX);
	struct pollfd p = {.events = POLLIN};

	(void)state;
	assert_int_equal(call_fd(call, &p.fd, NULL), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	call_cancel(call, "x");
	assert_int_equal(poll(&p, 1, 0), 1);
	call_unref(call);
	call = new_call(INT64_MAX);
	call_cancel(call, "x");
	assert_int_equal(call_fd(call, &p.fd, NULL), 0);
	assert_int_equal(poll(&p, 1, 0), 1);
	call_unref(call);
	assert_int_equal(call_fd(NULL, &p.fd, NULL), 0);
	assert_int_equal(p.fd, -1);
}

static void count(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void call_hook_runs_once_unless_removed(void **state)
{
	struct call *call = new_call(INT64_MAX);
	struct call_hook a, b, late;
	atomic_int runs_a = 0, runs_b = 0, runs_late = 0;

	(void)state;
	call_hook_add(call, &a, count, &runs_a);
	call_hook_add(call, &b, count, &runs_b);
	call_hook_remove(call, &b);
	call_cancel(call, "x");
	call_hook_add(call, &late, count, &runs_late);
	assert_int_equal(runs_a, 1);
	assert_int_equal(runs_b, 0);
	assert_int_equal(runs_late, 1);
	call_hook_remove(call, &a);
	call_hook_remove(call, &late);
	call_unref(call);
}

static void call_expire_is_a_deadline_that_has_passed(void **state)
{
	struct call *call = new_call(INT64_MAX);
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct call_hook hook;
	struct err err = ERR_INIT;
	atomic_int runs = 0;
	pthread_cond_t cond;

	(void)state;
	cond_init(&cond);
	call_hook_add(call, &hook, count, &runs);
	call_expire(call);
	call_cancel(call, "too late");
	assert_int_equal(runs, 1);
	assert_int_equal(call_check(call, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	assert_string_equal(err.msg, "the call's deadline has passed");
	pthread_mutex_lock(&lock);
	assert_int_equal(call_wait(call, &cond, &lock, INT64_MAX), -ETIMEDOUT);
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&cond);
	call_unref(call);
}

/* ---- outcomes ------------------------------------------------------------------------------------------ */

struct seen {
	atomic_int times;
	int code;
};

static void on_outcome(void *arg, const struct err *err)
{
	struct seen *seen = arg;

	seen->code = err->code;
	atomic_fetch_add(&seen->times, 1);
}

static void outcome_is_told_to_every_waiter(void **state)
{
	struct outcome *o;
	struct call *call = new_call(INT64_MAX), *gone = new_call(INT64_MAX);
	struct seen a = {0}, b = {0}, c = {0}, late = {0};
	struct err why = ERR_INIT, err = ERR_INIT;

	(void)state;
	assert_int_equal(outcome_new(&o, NULL), 0);
	assert_int_equal(outcome_watch(o, call, on_outcome, &a, NULL), 0);
	assert_int_equal(outcome_watch(o, NULL, on_outcome, &b, NULL), 0);
	assert_int_equal(outcome_watch(o, gone, on_outcome, &c, NULL), 0);
	call_cancel(gone, "the client has left");
	assert_int_equal(c.times, 1);
	assert_int_equal(c.code, -ECANCELED);
	assert_false(outcome_known(o));
	assert_int_equal(outcome_wait(o, gone, &err), -ECANCELED);
	err_set(&why, -ENOSPC, "no room");
	outcome_set(o, &why);
	assert_int_equal(a.times, 1);
	assert_int_equal(a.code, -ENOSPC);
	assert_int_equal(b.times, 1);
	assert_int_equal(c.times, 1);
	assert_int_equal(outcome_watch(o, call, on_outcome, &late, NULL), 0);
	assert_int_equal(late.code, -ENOSPC);
	assert_int_equal(outcome_wait(o, call, &err), -ENOSPC);
	assert_string_equal(err.msg, "no room");
	call_unref(call);
	call_unref(gone);
	outcome_unref(o);
}

/* The caller that has left holds the last reference but the watch's, and gives it back when it is told. */
static void end_of_all(void *arg, const struct err *err)
{
	struct outcome *o = arg;

	assert_int_equal(err->code, -ECANCELED);
	outcome_set(o, NULL);
	outcome_unref(o);
}

static void outcome_may_go_while_a_watch_is_added(void **state)
{
	struct call *gone CLEANUP_CALL = NULL;
	struct outcome *o;

	(void)state;
	assert_int_equal(call_new(INT64_MAX, &gone, NULL), 0);
	call_cancel(gone, "left");
	assert_int_equal(outcome_new(&o, NULL), 0);
	assert_int_equal(outcome_watch(o, gone, end_of_all, o, NULL), 0);
}

static void outcome_wait_at_deadline_leaves_the_work_alone(void **state)
{
	struct outcome *o;
	struct call *call = new_call(now_monotonic_ns() + SOON_NS);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(outcome_new(&o, NULL), 0);
	assert_int_equal(outcome_wait(o, call, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	outcome_set(o, NULL);
	assert_int_equal(outcome_wait(o, NULL, NULL), 0);
	call_unref(call);
	outcome_unref(o);
}

/*
 * Outcome, cancellation and watch at the same moment: exactly one of them runs the function, and nothing is
 * used after it is freed.
 */
struct race {
	pthread_barrier_t barrier;
	struct outcome *outcome;
	struct call *call;
	struct seen seen;
};

static void *race_set(void *arg)
{
	struct race *race = arg;

	pthread_barrier_wait(&race->barrier);
	outcome_set(race->outcome, NULL);
	return NULL;
}

static void *race_cancel(void *arg)
{
	struct race *race = arg;

	pthread_barrier_wait(&race->barrier);
	call_cancel(race->call, "x");
	return NULL;
}

static void outcome_watch_raced_by_both_ends_runs_once(void **state)
{
	(void)state;
	for (int i = 0; i < 500; i++) {
		struct race race = {.call = new_call(INT64_MAX)};
		pthread_t threads[2];

		assert_int_equal(outcome_new(&race.outcome, NULL), 0);
		pthread_barrier_init(&race.barrier, NULL, 3);
		pthread_create(&threads[0], NULL, race_set, &race);
		pthread_create(&threads[1], NULL, race_cancel, &race);
		pthread_barrier_wait(&race.barrier);
		assert_int_equal(outcome_watch(race.outcome, race.call, on_outcome, &race.seen, NULL), 0);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		assert_int_equal(race.seen.times, 1);
		pthread_barrier_destroy(&race.barrier);
		call_unref(race.call);
		outcome_unref(race.outcome);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(call_wait_when_cancelled_wakes),
		cmocka_unit_test(call_wait_at_deadline_times_out),
		cmocka_unit_test(call_wait_without_call_keeps_the_limit),
		cmocka_unit_test(call_sleep_ends_with_the_call),
		cmocka_unit_test(call_until_takes_the_earlier),
		cmocka_unit_test(call_fd_polls_readable_once_cancelled),
		cmocka_unit_test(call_hook_runs_once_unless_removed),
		cmocka_unit_test(call_expire_is_a_deadline_that_has_passed),
		cmocka_unit_test(outcome_is_told_to_every_waiter),
		cmocka_unit_test(outcome_may_go_while_a_watch_is_added),
		cmocka_unit_test(outcome_wait_at_deadline_leaves_the_work_alone),
		cmocka_unit_test(outcome_watch_raced_by_both_ends_runs_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
