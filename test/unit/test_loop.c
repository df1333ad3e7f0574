/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/core/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>

struct fixture {
	struct loop *loop;
	struct loop_source *source, *other;
	int calls;
	int fds[2];
	int order[8];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	f->fds[0] = f->fds[1] = -1;
	assert_int_equal(loop_new(&f->loop, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	close_fd(f->fds[0]);
	close_fd(f->fds[1]);
	free(f);
	return 0;
}

static void run(struct fixture *f)
{
	struct err err = ERR_INIT;

	assert_int_equal(loop_run(f->loop, &err), 0);
}

static void stop(void *arg)
{
	loop_stop(((struct fixture *)arg)->loop);
}

/* ---- posts --------------------------------------------------------------------------------------------- */

struct numbered {
	struct fixture *f;
	int number;
};

static void note(void *arg)
{
	struct numbered *n = arg;

	n->f->order[n->f->calls++] = n->number;
}

static void post_in_order_runs_in_order_and_before_stop(void **state)
{
	struct fixture *f = *state;
	struct numbered n[3] = {{f, 1}, {f, 2}, {f, 3}};

	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_post(f->loop, note, &n[i]), 0);
	loop_stop(f->loop);
	run(f);
	assert_int_equal(f->calls, 3);
	assert_int_equal(f->order[0], 1);
	assert_int_equal(f->order[2], 3);
}

static void post_of_a_post_runs(void **state)
{
	struct fixture *f = *state;

	/* stop posts nothing more; the loop must not end before it has run. */
	assert_int_equal(loop_post(f->loop, stop, f), 0);
	run(f);
	assert_int_equal(loop_post(f->loop, stop, f), 0);
	run(f);
}

#define POSTERS 4
#define POSTS	5000
static void count_one(void *arg)
{
	struct fixture *f = arg;

	assert_true(loop_on_thread(f->loop));
	if (++f->calls == POSTERS * POSTS)
		loop_stop(f->loop);
}

static void *poster(void *arg)
{
	struct fixture *f = arg;

	assert_false(loop_on_thread(f->loop));
	for (int i = 0; i < POSTS; i++)
		assert_int_equal(loop_post(f->loop, count_one, f), 0);
	return NULL;
}

static void post_from_many_threads_runs_each_once(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[POSTERS];

	for (int i = 0; i < POSTERS; i++)
		pthread_create(&threads[i], NULL, poster, f);
	run(f);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(f->calls, POSTERS * POSTS);
}

static void free_with_posts_left_drops_them(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(loop_post(f->loop, stop, f), 0);
	/* teardown frees; the sanitizer would tell of a leak */
}

/* ---- fds ----------------------------------------------------------------------------------------------- */

static void on_readable_frees_itself(void *arg, int fd, uint32_t revents)
{
	struct fixture *f = arg;

	assert_int_equal(fd, f->fds[0]);
	assert_true(revents & EPOLLIN);
	f->calls++;
	f->source = loop_source_free(f->source);
	loop_post(f->loop, stop, f);
}

static void fd_freed_in_its_callback_is_not_called_again(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, f->fds), 0);
	assert_int_equal(
		loop_add_fd(f->loop, f->fds[0], EPOLLIN, on_readable_frees_itself, f, &f->source, &err), 0);
	assert_int_equal(write(f->fds[1], "x", 1), 1);
	run(f);
	assert_int_equal(f->calls, 1);
}

static void on_first_frees_other(void *arg, int fd, uint32_t revents)
{
	struct fixture *f = arg;

	(void)revents;
	f->calls++;
	/* Whichever of the two comes first frees the other, which is ready as well. */
	if (fd == f->fds[0])
		f->other = loop_source_free(f->other);
	else
		f->source = loop_source_free(f->source);
	loop_post(f->loop, stop, f);
	if (f->source)
		loop_source_set_events(f->source, 0);
	if (f->other)
		loop_source_set_events(f->other, 0);
}

static void fd_freed_by_another_callback_of_the_same_turn_is_not_called(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, f->fds), 0);
	assert_int_equal(loop_add_fd(f->loop, f->fds[0], EPOLLOUT, on_first_frees_other, f, &f->source, &err),
			 0);
	assert_int_equal(loop_add_fd(f->loop, f->fds[1], EPOLLOUT, on_first_frees_other, f, &f->other, &err),
			 0);
	run(f);
	assert_int_equal(f->calls, 1);
}

static void add_fd_with_bad_fd_fails_with_its_number(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(loop_add_fd(f->loop, 999, EPOLLIN, on_first_frees_other, f, &f->source, &err),
			 -EBADF);
	assert_non_null(strstr(err.msg, "999"));
}

/* ---- timers and signals -------------------------------------------------------------------------------- */

static void on_timer_again(void *arg)
{
	struct fixture *f = arg;

	if (++f->calls == 3)
		loop_stop(f->loop);
	else
		loop_timer_set(f->source, now_monotonic_ns() + NS_PER_MS);
}

static void timer_set_again_in_its_callback_fires_again(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	int64_t start = now_monotonic_ns();

	assert_int_equal(loop_add_timer(f->loop, start + 5 * NS_PER_MS, on_timer_again, f, &f->source, &err),
			 0);
	run(f);
	assert_int_equal(f->calls, 3);
	assert_true(now_monotonic_ns() - start >= 7 * NS_PER_MS);
}

static void must_not_run(void *arg)
{
	(void)arg;
	fail();
}

static void timer_disarmed_does_not_fire(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(loop_add_timer(f->loop, INT64_MAX, must_not_run, f, &f->source, &err), 0);
	assert_int_equal(
		loop_add_timer(f->loop, now_monotonic_ns() + NS_PER_MS, must_not_run, f, &f->other, &err), 0);
	assert_int_equal(loop_timer_set(f->other, INT64_MAX), 0);
	assert_int_equal(
		loop_add_timer(f->loop, now_monotonic_ns() + 20 * NS_PER_MS, stop, f, &f->other, &err), 0);
	run(f);
}

static void on_usr1(void *arg, int signo)
{
	struct fixture *f = arg;

	assert_int_equal(signo, SIGUSR1);
	f->calls++;
	loop_stop(f->loop);
}

static void signal_blocked_becomes_an_event(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	assert_int_equal(loop_add_signal(f->loop, SIGUSR1, on_usr1, f, &f->source, &err), 0);
	raise(SIGUSR1);
	run(f);
	assert_int_equal(f->calls, 1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(post_in_order_runs_in_order_and_before_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(post_of_a_post_runs, setup, teardown),
		cmocka_unit_test_setup_teardown(post_from_many_threads_runs_each_once, setup, teardown),
		cmocka_unit_test_setup_teardown(free_with_posts_left_drops_them, setup, teardown),
		cmocka_unit_test_setup_teardown(fd_freed_in_its_callback_is_not_called_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(fd_freed_by_another_callback_of_the_same_turn_is_not_called,
						setup, teardown),
		cmocka_unit_test_setup_teardown(add_fd_with_bad_fd_fails_with_its_number, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_set_again_in_its_callback_fires_again, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_disarmed_does_not_fire, setup, teardown),
		cmocka_unit_test_setup_teardown(signal_blocked_becomes_an_event, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
