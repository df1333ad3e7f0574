/* SPDX-License-Identifier: Apache-2.0 */
/* A loop on a thread of its own, with workers, for unit tests. */
#ifndef TEST_LOOP_FIXTURE_H
#define TEST_LOOP_FIXTURE_H

#include "base/util.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

/* As assert_true, for threads other than cmocka's. */
static inline void must(bool ok)
{
	if (!ok)
		abort();
}

struct looping {
	struct loop *loop;
	struct workers *workers;
	pthread_t thread;
};

static inline void *looping_thread(void *arg)
{
	struct looping *l = arg;

	loop_run(l->loop, NULL);
	loop_free(l->loop);
	return NULL;
}

static inline void looping_start(struct looping *l)
{
	must(loop_new(&l->loop, NULL) == 0);
	must(workers_new(&l->workers, NULL) == 0);
	must(pthread_create(&l->thread, NULL, looping_thread, l) == 0);
	while (loop_on_thread(l->loop)) /* until the thread has taken the loop over */
		sched_yield();
}

static inline void looping_stop_job(void *arg)
{
	loop_stop(arg);
}

/* Jobs end first, then what they posted, then the loop. */
static inline void looping_stop(struct looping *l)
{
	workers_free(l->workers, 20 * NS_PER_SEC);
	must(loop_post(l->loop, looping_stop_job, l->loop) == 0);
	pthread_join(l->thread, NULL);
}

static inline void looping_mark(void *arg)
{
	atomic_store((atomic_bool *)arg, true);
}

/* Returns when all that was posted before has run; aborts if the loop does not get to it within 5 s. */
static inline void looping_turn(struct looping *l)
{
	atomic_bool ran = false;
	int64_t deadline = now_monotonic_ns() + 5 * NS_PER_SEC;

	must(loop_post(l->loop, looping_mark, &ran) == 0);
	while (!atomic_load(&ran)) {
		must(now_monotonic_ns() < deadline);
		usleep(500);
	}
}

/* Waits until the condition holds; aborts after 20 s. */
#define AWAIT(condition)                                                                                     \
	do {                                                                                                 \
		int64_t await_deadline_ = now_monotonic_ns() + 20 * NS_PER_SEC;                              \
		while (!(condition)) {                                                                       \
			must(now_monotonic_ns() < await_deadline_);                                          \
			usleep(1000);                                                                        \
		}                                                                                            \
	} while (0)

#endif
