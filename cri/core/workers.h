/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers.h: threads for work that blocks: RPC handlers, boots, pulls, log writing.
 *
 * Purpose:   an elastic set of threads. A job never waits behind another job's wait: if no thread is idle a
 *            new one starts, up to the lane's cap; beyond the cap jobs queue. Lanes keep kinds of work apart,
 *            so that a hundred hung ExecSyncs cannot hold up a stop. Idle threads end after WORKERS_IDLE_S
 *            seconds, so an idle server has none.
 * Threads:   every function from any thread.
 * Limits:    per lane: threads and queue length (-EAGAIN when the queue is full: the caller answers
 *            ResourceExhausted). Stacks are 256 KiB (untouched pages cost nothing): a handler keeps large
 *            buffers on the heap.
 */
#ifndef CRI_CORE_WORKERS_H
#define CRI_CORE_WORKERS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum workers_lane {
	LANE_QUICK, /* reads and state changes: at most 16 threads, queue 4096 */
	LANE_BOOT,  /* boots, which wait for each other, and adoptions: at most 128 threads, queue 4096 */
	/* Creates, starts and updates, the beginnings of streams, looks at writable layers, log rotations. */
	LANE_SLOW,  /* at most 128 threads, queue 4096 */
	LANE_STOP,  /* stop, kill, remove: at most 128 threads, queue 4096 */
	LANE_EXEC,  /* ExecSync, verbose statuses of pods: at most 512 threads, queue 0 */
	LANE_IMAGE, /* pulls and unpacking: at most 32 threads, queue 1024 */
	LANE_NET,   /* what other lanes' jobs wait for: CNI, exits: at most 128 threads, queue 4096 */
	LANE_LOG,   /* log files: at most 16 threads, queue 65536 */
	LANES,
};
#define WORKERS_IDLE_S 5

struct workers;

int workers_new(struct workers **ret_workers, struct err *err);
/*
 * Refuses new jobs and waits for queued and running ones: true once all have ended. To be called while what
 * the jobs use, like the loop, still exists. Not from a job.
 */
bool workers_stop(struct workers *workers, int64_t timeout_ns);
/*
 * Refuses new jobs, lets queued and running ones end within timeout_ns, then frees. If some have not ended by
 * then, the workers and their threads stay until exit(), which must follow. Not from a job. Returns NULL.
 */
struct workers *workers_free(struct workers *workers, int64_t timeout_ns);
/*
 * 0; -EAGAIN: all threads are busy and the queue is full, or no thread can be started; -ESHUTDOWN: the
 * workers are stopping; -ENOMEM.
 */
int workers_submit(struct workers *workers, enum workers_lane lane, void (*fn)(void *arg), void *arg);
/* "quick", "boot" and so on, for Status info. */
const char *workers_lane_name(enum workers_lane lane);
/* Running and queued jobs of a lane, for Status info and tests. */
void workers_load(struct workers *workers, enum workers_lane lane, unsigned int *ret_running,
		  unsigned int *ret_queued);

#endif
