/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump_internal.h: what the two halves of the pump share.
 *
 * Shape:     one cycle: connect (a job of LANE_NET) → read (the agent waits) → write (a job of LANE_LOG) →
 *            acknowledge and read again. The loop's thread goes from state to state; a timer is armed in
 *            each, so that an event that could not be posted (no memory) is only late.
 * Locks:     pump.lock, held for an access and over workers_submit: never over a file, a call to the agent or
 *            a wait. The file belongs to the job that runs; at most one does.
 * Ownership: a reference for the caller, for the cycle, and for each job, post and call under way.
 */
#ifndef CRI_LOGS_PUMP_INTERNAL_H
#define CRI_LOGS_PUMP_INTERNAL_H

#include "api/agent/agent.pb-c.h"
#include "cri/core/outcome.h"
#include "cri/logs/file_internal.h"
#include "cri/logs/logs.h"

#include <pthread.h>
#include <stdatomic.h>

enum pump_state {
	NOT_BEGUN,
	OPENING,      /* a job does; only where a log is resumed */
	CONNECTING,   /* a job does */
	DISCONNECTED, /* until the timer or the agent's next epoch */
	READING,
	PAUSED, /* until the timer; then reads */
	WRITING,
	ENDED,
};

struct log_pump {
	struct loop *loop;
	struct workers *workers;
	struct agent *agent; /* a reference */
	char id[65];
	char *log_path, *pos_path;
	bool resume;
	atomic_int refs;
	/* Of the opening of the file, or of the last try. The loop's, once the cycle has begun. */
	struct outcome *opened;

	/* The loop's thread. */
	enum pump_state state;
	struct agent_conn *conn;
	struct agent_watch watch;
	struct loop_source *timer;
	uint64_t offset;   /* of the next byte to read: all before it is saved */
	uint64_t acked;	   /* what the agent has been told, and has answered */
	uint64_t acking;   /* the offset of the acknowledgement under way, else 0 */
	unsigned int lost; /* connections lost since the last answer */
	bool may_skip;	   /* nothing has been written since the log was resumed */
	bool epoch_seen;   /* since the last dialling began */
	bool tap_waits;	   /* PAUSED, until a tap has room */
	struct log_tap *taps;

	/* The job's: from log_pump_submit_batch until write_done. */
	Crivisor__Agent__V1__ReadLogResponse *batch;
	struct log_file *file;
	enum { STEP_SKIP, STEP_RECORDS, STEP_FINISH, STEP_SAVE } step;
	bool complained;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* of eof and broken */
	bool eof, broken, stop;
	bool job;			     /* one is queued or runs, and will look at the next three */
	struct outcome *opening, *reopening; /* wanted; a reference */
	bool batch_ready;		     /* wanted: the batch is to be written */
	bool writing;			     /* the job is at it */
	bool write_done, write_eof;	     /* the outcome of a batch, until the loop has taken it */
	int write_code;
	uint64_t saved;
	bool open_done; /* likewise, of connecting */
	int open_code;
	struct agent_conn *fresh;
};

struct log_pump *log_pump_ref(struct log_pump *pump);
void log_pump_unref(struct log_pump *pump);

/* pump.c, on the loop: takes the outcome of a batch, if there is one. */
void log_pump_written(struct log_pump *pump);

/* tap.c, on the loop */
void log_pump_tell_taps(struct log_pump *pump, const Crivisor__Agent__V1__ReadLogResponse *batch);
/* One of them is full. Ends those that have been for too long. */
bool log_pump_taps_full(struct log_pump *pump);
void log_pump_end_taps(struct log_pump *pump);
/* pump.c */
void log_pump_read_on(struct log_pump *pump);

/* writer.c */
int log_pump_submit_open(struct log_pump *pump, struct err *err);
/* Loop. Has the batch written, if there is one and it is not done yet. */
void log_pump_submit_batch(struct log_pump *pump);

#endif
