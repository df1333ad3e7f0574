/* SPDX-License-Identifier: Apache-2.0 */
/* Waits on the monotonic clock. */
#include "base/cond.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool open;
};

static void *open_gate(void *arg)
{
	struct gate *gate = arg;

	pthread_mutex_lock(&gate->lock);
	gate->open = true;
	pthread_cond_signal(&gate->opened);
	pthread_mutex_unlock(&gate->lock);
	return NULL;
}

static void cond_wait_until_passed_deadline_times_out(void **state)
{
	struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER};
	int64_t deadline = now_monotonic_ns() + 20 * NS_PER_MS;
	int r = 0;

	(void)state;
	assert_int_equal(cond_init(&gate.opened), 0);
	pthread_mutex_lock(&gate.lock);
	assert_int_equal(cond_wait_until(&gate.opened, &gate.lock, -1), -ETIMEDOUT);
	while (r == 0)
		r = cond_wait_until(&gate.opened, &gate.lock, deadline);
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(now_monotonic_ns() >= deadline);
	pthread_mutex_unlock(&gate.lock);
	pthread_cond_destroy(&gate.opened);
}

static void cond_wait_until_signal_ends_a_wait_without_deadline(void **state)
{
	struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t thread;

	(void)state;
	assert_int_equal(cond_init(&gate.opened), 0);
	pthread_mutex_lock(&gate.lock);
	assert_int_equal(pthread_create(&thread, NULL, open_gate, &gate), 0);
	while (!gate.open)
		assert_int_equal(cond_wait_until(&gate.opened, &gate.lock, INT64_MAX), 0);
	pthread_mutex_unlock(&gate.lock);
	assert_int_equal(pthread_join(thread, NULL), 0);
	pthread_cond_destroy(&gate.opened);
}

static void timespec_to_ns_and_back_is_the_same(void **state)
{
	const int64_t values[] = {0, 1, NS_PER_SEC - 1, NS_PER_SEC, 1234567890123456789, INT64_MAX};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		struct timespec ts = ns_to_timespec(values[i]);

		assert_true(ts.tv_nsec < NS_PER_SEC);
		assert_true(timespec_to_ns(&ts) == values[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cond_wait_until_passed_deadline_times_out),
		cmocka_unit_test(cond_wait_until_signal_ends_a_wait_without_deadline),
		cmocka_unit_test(timespec_to_ns_and_back_is_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
