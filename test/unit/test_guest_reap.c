/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1's children: watched ones, orphans, and ends that come before anybody knows the pid. */
#include "guest/core/reap.h"

#include "base/util.h"
#include "guest/core/spawn.h"

#include <signal.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct {
	int calls, status;
	pid_t pid;
	int64_t at_ns;
} seen;

static void on_exit_(void *arg, pid_t pid, int status, int64_t at_ns)
{
	(void)arg;
	seen.calls++;
	seen.pid = pid;
	seen.status = status;
	seen.at_ns = at_ns;
}

static int setup(void **state)
{
	(void)state;
	memset(&seen, 0, sizeof(seen));
	return 0;
}

static void reap_status_of_a_signal_is_128_and_it(void **state)
{
	(void)state;
	assert_int_equal(reap_status(SIGKILL), 137);
	assert_int_equal(reap_status(SIGTERM | 0x80), 143);
	assert_int_equal(reap_status(3 << 8), 3);
	assert_int_equal(reap_status(0), 0);
}

static void reap_watch_of_a_child_tells_its_end_once(void **state)
{
	struct reap_watch w = {.pid = 0};

	(void)state;
	reap_watch(&w, 4711, UINT64_MAX, on_exit_, NULL);
	reap_one(4712, 0, 1);
	assert_int_equal(seen.calls, 0);
	reap_one(4711, 5 << 8, 99);
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.status, 5);
	assert_int_equal(seen.at_ns, 99);
	reap_one(4711, 0, 100);
	assert_int_equal(seen.calls, 1);
}

static void reap_unwatch_silences(void **state)
{
	struct reap_watch a = {.pid = 0}, b = {.pid = 0};

	(void)state;
	reap_watch(&a, 100, UINT64_MAX, on_exit_, NULL);
	reap_watch(&b, 164, UINT64_MAX, on_exit_, NULL); /* same bucket */
	reap_unwatch(&a);
	reap_unwatch(&a);
	reap_one(100, 0, 1);
	assert_int_equal(seen.calls, 0);
	reap_one(164, 0, 1);
	assert_int_equal(seen.calls, 1);
}

static void reap_watch_after_the_end_finds_the_orphan(void **state)
{
	struct reap_watch w = {.pid = 0};
	uint64_t since;

	(void)state;
	reap_keep_orphans(true);
	since = reap_seq();
	reap_one(500, 7 << 8, 42);
	reap_watch(&w, 500, since, on_exit_, NULL);
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.status, 7);
	assert_int_equal(seen.at_ns, 42);
	assert_int_equal(w.pid, 0);
	reap_keep_orphans(false);
}

static void reap_watch_does_not_take_an_older_pid_for_it(void **state)
{
	struct reap_watch w = {.pid = 0};
	uint64_t since;

	(void)state;
	reap_keep_orphans(true);
	reap_one(600, 1 << 8, 1);
	since = reap_seq();
	reap_watch(&w, 600, since, on_exit_, NULL);
	assert_int_equal(seen.calls, 0);
	reap_one(600, 2 << 8, 2);
	assert_int_equal(seen.status, 2);
	reap_keep_orphans(false);
}

static void reap_watch_takes_the_latest_of_a_reused_pid(void **state)
{
	struct reap_watch w = {.pid = 0};
	uint64_t since = reap_seq();

	(void)state;
	reap_keep_orphans(true);
	reap_one(700, 1 << 8, 1);
	reap_one(700, 2 << 8, 2);
	reap_watch(&w, 700, since, on_exit_, NULL);
	assert_int_equal(seen.status, 2);
	reap_keep_orphans(false);
}

static void reap_orphans_are_bounded_and_forgotten(void **state)
{
	struct reap_watch w = {.pid = 0};
	uint64_t since = reap_seq();

	(void)state;
	reap_keep_orphans(true);
	reap_keep_orphans(true);
	for (int i = 0; i < REAP_ORPHANS + 1; i++)
		reap_one(10000 + i, 0, 1);
	reap_watch(&w, 10000, since, on_exit_, NULL);
	assert_int_equal(seen.calls, 0);
	reap_unwatch(&w);
	reap_keep_orphans(false);
	reap_watch(&w, 10001, since, on_exit_, NULL);
	assert_int_equal(seen.calls, 1);
	reap_keep_orphans(false);
	reap_watch(&w, 10002, since, on_exit_, NULL);
	assert_int_equal(seen.calls, 1);
	reap_unwatch(&w);
}

static int seven(void *arg)
{
	(void)arg;
	return 7;
}

static void wait_one(void)
{
	siginfo_t info;

	assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(reap_collect(), 1);
}

static void spawn_run_gives_status_and_127_for_nothing(void **state)
{
	char *sh[] = {(char *)"/bin/sh", (char *)"-c", (char *)"exit 9", NULL};
	char *none[] = {(char *)"/no/such", NULL};
	struct spawn s = {.argv = sh, .stdio = {-1, -1, -1}};
	struct reap_watch w = {.pid = 0};

	(void)state;
	reap_watch(&w, spawn_run(&s, NULL), UINT64_MAX, on_exit_, NULL);
	wait_one();
	assert_int_equal(seen.status, 9);
	s.argv = none;
	reap_watch(&w, spawn_run(&s, NULL), UINT64_MAX, on_exit_, NULL);
	wait_one();
	assert_int_equal(seen.status, 127);
	reap_watch(&w, spawn_fn(seven, NULL, NULL), UINT64_MAX, on_exit_, NULL);
	wait_one();
	assert_int_equal(seen.status, 7);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	const struct CMUnitTest tests[] = {
		T(reap_status_of_a_signal_is_128_and_it),
		T(reap_watch_of_a_child_tells_its_end_once),
		T(reap_unwatch_silences),
		T(reap_watch_after_the_end_finds_the_orphan),
		T(reap_watch_does_not_take_an_older_pid_for_it),
		T(reap_watch_takes_the_latest_of_a_reused_pid),
		T(reap_orphans_are_bounded_and_forgotten),
		T(spawn_run_gives_status_and_127_for_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
