/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/core/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

/* A gate that jobs wait behind, and counters of what got through. */
struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool open;
	int waiting, done;
};

struct fixture {
	struct workers *workers;
	struct gate gate;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	pthread_mutex_init(&f->gate.lock, NULL);
	pthread_cond_init(&f->gate.changed, NULL);
	assert_int_equal(workers_new(&f->workers, &err), 0);
	*state = f;
	return 0;
}

static void open_gate(struct gate *g)
{
	pthread_mutex_lock(&g->lock);
	g->open = true;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	open_gate(&f->gate);
	workers_free(f->workers, 10 * NS_PER_SEC);
	free(f);
	return 0;
}

static void wait_behind_gate(void *arg)
{
	struct gate *g = arg;

	pthread_mutex_lock(&g->lock);
	g->waiting++;
	pthread_cond_broadcast(&g->changed);
	while (!g->open)
		pthread_cond_wait(&g->changed, &g->lock);
	g->waiting--;
	g->done++;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static void pass(void *arg)
{
	struct gate *g = arg;

	pthread_mutex_lock(&g->lock);
	g->done++;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static void await_waiting(struct gate *g, int n)
{
	pthread_mutex_lock(&g->lock);
	while (g->waiting < n)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

static void await_done(struct gate *g, int n)
{
	pthread_mutex_lock(&g->lock);
	while (g->done < n)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

static int thread_count(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = 0;

	for (struct dirent *de; (de = readdir(dir));)
		n += de->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Ended threads take a moment to leave; those of the test before may still be doing so. */
static int baseline;
static void await_threads(int n)
{
	int64_t until = now_monotonic_ns() + (WORKERS_IDLE_S + 10) * NS_PER_SEC;

	while (thread_count() > n && now_monotonic_ns() < until)
		usleep(20000);
	assert_int_equal(thread_count(), n);
}

static void hung_execs_do_not_delay_a_stop(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 100; i++)
		assert_int_equal(workers_submit(f->workers, LANE_EXEC, wait_behind_gate, &f->gate), 0);
	await_waiting(&f->gate, 100);
	assert_int_equal(workers_submit(f->workers, LANE_STOP, pass, &f->gate), 0);
	assert_int_equal(workers_submit(f->workers, LANE_QUICK, pass, &f->gate), 0);
	await_done(&f->gate, 2);
}

static void job_never_waits_behind_another_below_the_cap(void **state)
{
	struct fixture *f = *state;
	unsigned int running, queued;

	for (int i = 0; i < 16; i++)
		assert_int_equal(workers_submit(f->workers, LANE_QUICK, wait_behind_gate, &f->gate), 0);
	await_waiting(&f->gate, 16);
	workers_load(f->workers, LANE_QUICK, &running, &queued);
	assert_int_equal(running, 16);
	assert_int_equal(queued, 0);
}

static void beyond_the_cap_jobs_queue_and_then_run(void **state)
{
	struct fixture *f = *state;
	unsigned int running, queued;

	for (int i = 0; i < 40; i++)
		assert_int_equal(workers_submit(f->workers, LANE_QUICK, wait_behind_gate, &f->gate), 0);
	await_waiting(&f->gate, 16);
	workers_load(f->workers, LANE_QUICK, &running, &queued);
	assert_int_equal(running, 16);
	assert_int_equal(queued, 24);
	open_gate(&f->gate);
	await_done(&f->gate, 40);
}

static void queue_full_refuses(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 512; i++)
		assert_int_equal(workers_submit(f->workers, LANE_EXEC, wait_behind_gate, &f->gate), 0);
	assert_int_equal(workers_submit(f->workers, LANE_EXEC, pass, &f->gate), -EAGAIN);
	open_gate(&f->gate);
	await_done(&f->gate, 512);
}

static void idle_threads_end(void **state)
{
	struct fixture *f = *state;

	await_threads(baseline);
	for (int i = 0; i < 20; i++)
		assert_int_equal(workers_submit(f->workers, LANE_SLOW, wait_behind_gate, &f->gate), 0);
	await_waiting(&f->gate, 20);
	assert_int_equal(thread_count(), baseline + 20);
	open_gate(&f->gate);
	await_done(&f->gate, 20);
	await_threads(baseline);
	/* and the lane serves again */
	assert_int_equal(workers_submit(f->workers, LANE_SLOW, pass, &f->gate), 0);
	await_done(&f->gate, 21);
}

static void trickle_is_served_by_one_thread(void **state)
{
	struct fixture *f = *state;

	await_threads(baseline);
	for (int i = 1; i <= 50; i++) {
		unsigned int running = 1;

		assert_int_equal(workers_submit(f->workers, LANE_LOG, pass, &f->gate), 0);
		await_done(&f->gate, i);
		while (running)
			workers_load(f->workers, LANE_LOG, &running, NULL);
	}
	assert_true(thread_count() <= baseline + 1);
}

static void nap(void *arg)
{
	usleep(50000);
	pass(arg);
}

static void free_waits_for_running_and_queued_jobs(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 32; i++)
		assert_int_equal(workers_submit(f->workers, LANE_QUICK, nap, &f->gate), 0);
	f->workers = workers_free(f->workers, 10 * NS_PER_SEC);
	assert_null(f->workers);
	assert_int_equal(f->gate.done, 32);
}

static void *submitter(void *arg)
{
	struct fixture *f = arg;

	for (int i = 0; i < 2000; i++) {
		int r = workers_submit(f->workers, (enum workers_lane)(i % LANES), pass, &f->gate);

		if (r == -EAGAIN) /* more than a lane takes: wait a little */
			i--, usleep(100);
		else
			assert_int_equal(r, 0);
	}
	return NULL;
}

static void many_submitters_run_each_job_once(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, submitter, f);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	await_done(&f->gate, 8000);
	f->workers = workers_free(f->workers, 10 * NS_PER_SEC);
	assert_int_equal(f->gate.done, 8000);
}

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	pthread_t first;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(hung_execs_do_not_delay_a_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(job_never_waits_behind_another_below_the_cap, setup,
						teardown),
		cmocka_unit_test_setup_teardown(beyond_the_cap_jobs_queue_and_then_run, setup, teardown),
		cmocka_unit_test_setup_teardown(queue_full_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(idle_threads_end, setup, teardown),
		cmocka_unit_test_setup_teardown(trickle_is_served_by_one_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(free_waits_for_running_and_queued_jobs, setup, teardown),
		cmocka_unit_test_setup_teardown(many_submitters_run_each_job_once, setup, teardown),
	};

	/* The first thread may bring a sanitizer's own along. */
	pthread_create(&first, NULL, nothing, NULL);
	pthread_join(first, NULL);
	baseline = thread_count();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
