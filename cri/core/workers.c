/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/workers.h"

#include "base/fault.h"
#include "base/cond.h"
#include "base/util.h"

#include <assert.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_BYTES (1024UL * 1024) /* sanitizers widen every frame */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STACK_BYTES (1024UL * 1024)
#endif
#endif
#ifndef STACK_BYTES
#define STACK_BYTES (256UL * 1024)
#endif
#define TRIM_PERIOD_NS NS_PER_SEC /* malloc_trim walks the whole heap: not for every thread that ends */

static const struct {
	unsigned int threads_max, queue_max;
	const char *fault; /* base/fault.h: the lane is full */
} limits[LANES] = {
	[LANE_QUICK] = {16, 4096, "lane.quick"}, [LANE_BOOT] = {128, 4096, "lane.boot"},
	[LANE_SLOW] = {128, 4096, "lane.slow"},	 [LANE_STOP] = {128, 4096, "lane.stop"},
	[LANE_EXEC] = {512, 0, "lane.exec"},	 [LANE_IMAGE] = {32, 1024, "lane.image"},
	[LANE_LOG] = {16, 65536, "lane.log"},	 [LANE_NET] = {128, 4096, "lane.net"},
};

struct job {
	void (*fn)(void *arg);
	void *arg;
};

struct queued {
	struct queued *next;
	struct job job;
};

/* One per thread. While idle it sits in its lane's stack: the latest first, so that the others can time out.
 */
struct worker {
	struct lane *lane;
	struct worker *prev, *next;
	pthread_cond_t given; /* job was set */
	struct job job;
};

struct lane {
	pthread_mutex_t lock; /* guards the rest; never held while a job runs */
	struct worker *idle;
	struct queued *head, **tail;
	unsigned int threads, running, queued;
	unsigned int threads_max, queue_max;
	bool stopping;
	pthread_cond_t ended; /* a thread ended while stopping */
};

struct workers {
	struct lane lanes[LANES];
};

static void idle_push(struct lane *lane, struct worker *w)
{
	w->prev = NULL;
	w->next = lane->idle;
	if (w->next)
		w->next->prev = w;
	lane->idle = w;
}

static void idle_remove(struct lane *lane, struct worker *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		lane->idle = w->next;
	if (w->next)
		w->next->prev = w->prev;
	w->prev = w->next = NULL;
}

/*
 * Gives memory that the jobs freed back to the kernel, once a burst is over. All workers share one heap, and
 * so the time of the last trim.
 */
static void trim(void)
{
	static _Atomic int64_t last_trim_ns;
	int64_t now = now_monotonic_ns(), last = atomic_load(&last_trim_ns);

	if (now - last >= TRIM_PERIOD_NS && atomic_compare_exchange_strong(&last_trim_ns, &last, now))
		malloc_trim(0);
}

/* The next job, counted as running: from the queue, else handed over while idle. False: the thread ends. Lock
 * held. */
static bool next_job(struct lane *lane, struct worker *w, struct job *ret_job)
{
	struct queued *q = lane->head;
	int64_t until = now_monotonic_ns() + WORKERS_IDLE_S * NS_PER_SEC;
	int r = 0;

	if (q) {
		lane->head = q->next;
		if (!lane->head)
			lane->tail = &lane->head;
		lane->queued--;
		lane->running++;
		*ret_job = q->job;
		free(q);
		return true;
	}
	idle_push(lane, w);
	while (!w->job.fn && !lane->stopping && r == 0)
		r = cond_wait_until(&w->given, &lane->lock, until);
	if (!w->job.fn) {
		idle_remove(lane, w);
		return false;
	}
	*ret_job = w->job;
	w->job = (struct job){0};
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct lane *lane = w->lane;
	struct job job = w->job;
	bool more;

	w->job = (struct job){0};
	do {
		job.fn(job.arg);
		pthread_mutex_lock(&lane->lock);
		lane->running--;
		more = next_job(lane, w, &job);
		if (!more) {
			lane->threads--;
			if (lane->stopping)
				pthread_cond_signal(&lane->ended);
		}
		pthread_mutex_unlock(&lane->lock); /* the lane may be gone after this, if there is no more */
	} while (more);
	pthread_cond_destroy(&w->given);
	free(w);
	trim();
	return NULL;
}

/* Lock held. */
static int thread_start(struct lane *lane, struct job job)
{
	struct worker *w = calloc(1, sizeof(*w));
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (!w)
		return -ENOMEM;
	w->lane = lane;
	w->job = job;
	cond_init(&w->given);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	if (r) {
		pthread_cond_destroy(&w->given);
		free(w);
		return -r;
	}
	lane->threads++;
	lane->running++;
	return 0;
}

/* Lock held. */
static int enqueue(struct lane *lane, struct job job)
{
	struct queued *q;

	if (lane->queued >= lane->queue_max)
		return -EAGAIN;
	q = malloc(sizeof(*q));
	if (!q)
		return -ENOMEM;
	*q = (struct queued){.job = job};
	*lane->tail = q;
	lane->tail = &q->next;
	lane->queued++;
	return 0;
}

/* Lock held. */
static int place(struct lane *lane, struct job job)
{
	struct worker *w = lane->idle;

	if (lane->stopping)
		return -ESHUTDOWN;
	if (w) {
		idle_remove(lane, w);
		w->job = job;
		lane->running++;
		pthread_cond_signal(&w->given);
		return 0;
	}
	if (lane->threads < lane->threads_max && thread_start(lane, job) == 0)
		return 0;
	/* No thread can be started, and none runs that would take the job from the queue. */
	if (lane->threads == 0)
		return -EAGAIN;
	return enqueue(lane, job);
}

int workers_submit(struct workers *workers, enum workers_lane lane, void (*fn)(void *arg), void *arg)
{
	struct lane *l = &workers->lanes[lane];
	int r;

	assert(lane < LANES && fn);
	if (fault_fails(limits[lane].fault))
		return -EAGAIN;
	pthread_mutex_lock(&l->lock);
	r = place(l, (struct job){.fn = fn, .arg = arg});
	pthread_mutex_unlock(&l->lock);
	return r;
}

const char *workers_lane_name(enum workers_lane lane)
{
	return limits[lane].fault + strlen("lane.");
}

void workers_load(struct workers *workers, enum workers_lane lane, unsigned int *ret_running,
		  unsigned int *ret_queued)
{
	struct lane *l = &workers->lanes[lane];

	pthread_mutex_lock(&l->lock);
	if (ret_running)
		*ret_running = l->running;
	if (ret_queued)
		*ret_queued = l->queued;
	pthread_mutex_unlock(&l->lock);
}

int workers_new(struct workers **ret_workers, struct err *err)
{
	struct workers *workers = calloc(1, sizeof(*workers));

	if (!workers)
		return err_set(err, -ENOMEM, "no memory for the workers");
	for (size_t i = 0; i < LANES; i++) {
		struct lane *lane = &workers->lanes[i];

		lane->tail = &lane->head;
		lane->threads_max = limits[i].threads_max;
		lane->queue_max = limits[i].queue_max;
		pthread_mutex_init(&lane->lock, NULL);
		cond_init(&lane->ended);
	}
	*ret_workers = workers;
	return 0;
}

static void lane_stop(struct lane *lane)
{
	pthread_mutex_lock(&lane->lock);
	lane->stopping = true;
	for (struct worker *w = lane->idle; w; w = w->next)
		pthread_cond_signal(&w->given);
	pthread_mutex_unlock(&lane->lock);
}

/* True once all its threads have ended. */
static bool lane_wait(struct lane *lane, int64_t until)
{
	bool ended;
	int r = 0;

	pthread_mutex_lock(&lane->lock);
	while (lane->threads > 0 && r == 0)
		r = cond_wait_until(&lane->ended, &lane->lock, until);
	ended = lane->threads == 0;
	pthread_mutex_unlock(&lane->lock);
	return ended;
}

bool workers_stop(struct workers *workers, int64_t timeout_ns)
{
	int64_t until = now_monotonic_ns() + (timeout_ns > 0 ? timeout_ns : 0);
	bool ended = true;

	for (size_t i = 0; i < LANES; i++)
		lane_stop(&workers->lanes[i]);
	for (size_t i = 0; i < LANES; i++)
		ended = lane_wait(&workers->lanes[i], until) && ended;
	return ended;
}

struct workers *workers_free(struct workers *workers, int64_t timeout_ns)
{
	/* A thread that hangs still looks at its lane: then the workers stay until exit(). */
	if (!workers || !workers_stop(workers, timeout_ns))
		return NULL;
	for (size_t i = 0; i < LANES; i++) {
		pthread_mutex_destroy(&workers->lanes[i].lock);
		pthread_cond_destroy(&workers->lanes[i].ended);
	}
	free(workers);
	return NULL;
}
