/* SPDX-License-Identifier: Apache-2.0 */
/* The pump: what happens to the file, in one job of LANE_LOG at a time. */
#include "cri/logs/pump_internal.h"

#include "api/pb.h"
#include "base/log.h"

/* ---- the job ------------------------------------------------------------------------------------------- */

static void set_outcome(struct outcome *outcome, int r, const struct err *err)
{
	outcome_set(outcome, r < 0 ? err : NULL);
	outcome_unref(outcome);
}

static int open_file(struct log_pump *pump, struct err *err)
{
	uint64_t offset;
	int r = log_file_open(pump->log_path, pump->pos_path, pump->resume, &pump->file, &offset, err);

	if (r == 0)
		pump->offset = offset; /* before the loop looks at it */
	return r;
}

static int reopen_file(struct log_pump *pump, struct err *err)
{
	if (!pump->file)
		return err_set_status(err, -EAGAIN, ERR_UNAVAILABLE, "the log is not open yet");
	return log_file_reopen(pump->file, err);
}

static int write_records(struct log_pump *pump, struct err *err)
{
	const Crivisor__Agent__V1__ReadLogResponse *batch = pump->batch;
	struct log_record *records = calloc(batch->n_records ? batch->n_records : 1, sizeof(*records));
	int r;

	if (!records)
		return err_oom(err);
	for (size_t i = 0; i < batch->n_records; i++)
		records[i] = (struct log_record){
			.is_stderr = batch->records[i]->stream == CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR,
			.data = batch->records[i]->data.data,
			.len = batch->records[i]->data.len,
		};
	r = log_file_write(pump->file, records, batch->n_records, err);
	free(records);
	return r;
}

/* From the step on at which it failed the last time: none is done twice. */
static int write_batch(struct log_pump *pump, struct err *err)
{
	int r = 0;

	if (pump->step == STEP_SKIP) {
		uint64_t missing = pump->batch->offset - log_file_offset(pump->file);

		r = missing > 0 ? log_file_skip(pump->file, missing, err) : 0;
		if (r < 0)
			return r;
		if (missing > 0)
			log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", pump->id),
				 "its guest does not have %llu bytes of its output any more",
				 (unsigned long long)missing);
		pump->step = STEP_RECORDS;
	}
	if (pump->step == STEP_RECORDS) {
		r = write_records(pump, err);
		if (r < 0)
			return r;
		pump->step = STEP_FINISH;
	}
	if (pump->step == STEP_FINISH) {
		r = pump->batch->eof ? log_file_finish(pump->file, err) : 0;
		if (r < 0)
			return r;
		pump->step = STEP_SAVE;
	}
	return log_file_save(pump->file, err);
}

static void written_job(void *arg)
{
	log_pump_written(arg);
	log_pump_unref(arg);
}

static void run_batch(struct log_pump *pump)
{
	struct err err = ERR_INIT;
	int r = write_batch(pump, &err);

	if (r < 0 && !pump->complained)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", pump->id), "%s; trying again each second",
			 err.msg);
	pump->complained = r < 0;
	pthread_mutex_lock(&pump->lock);
	if (r == 0) {
		pump->write_eof = pump->batch->eof;
		pump->saved = log_file_offset(pump->file);
		pump->step = STEP_SKIP;
		pb_free(pump->batch);
		pump->batch = NULL;
	}
	pump->write_code = r;
	pump->write_done = true;
	pump->writing = false;
	pthread_mutex_unlock(&pump->lock);
	if (loop_post(pump->loop, written_job, log_pump_ref(pump)) < 0) /* the timer looks */
		log_pump_unref(pump);
}

static void file_job(void *arg)
{
	struct log_pump *pump = arg;

	for (;;) {
		struct outcome *opening, *reopening;
		struct err err = ERR_INIT;
		bool batch;

		pthread_mutex_lock(&pump->lock);
		opening = move_ptr(pump->opening);
		reopening = move_ptr(pump->reopening);
		batch = pump->batch_ready;
		pump->batch_ready = false;
		pump->writing = batch;
		pump->job = opening || reopening || batch;
		pthread_mutex_unlock(&pump->lock);
		if (opening)
			set_outcome(opening, open_file(pump, &err), &err);
		if (reopening)
			set_outcome(reopening, reopen_file(pump, &err), &err);
		if (batch)
			run_batch(pump);
		if (!opening && !reopening && !batch)
			break;
	}
	log_pump_unref(pump);
}

/* ---- what it is told to do ----------------------------------------------------------------------------- */

/* With the lock held: 0 if a job will look at what the caller has put down. */
static int need_job(struct log_pump *pump)
{
	int r;

	if (pump->job)
		return 0;
	r = workers_submit(pump->workers, LANE_LOG, file_job, log_pump_ref(pump));
	if (r < 0)
		atomic_fetch_sub(&pump->refs, 1); /* never the last: the caller has one */
	pump->job = r == 0;
	return r;
}

int log_pump_submit_open(struct log_pump *pump, struct err *err)
{
	int r;

	pthread_mutex_lock(&pump->lock);
	pump->opening = outcome_ref(pump->opened);
	r = need_job(pump);
	if (r < 0)
		pump->opening = outcome_unref(pump->opening);
	pthread_mutex_unlock(&pump->lock);
	return r < 0 ? err_set_status(err, r, ERR_RESOURCE_EXHAUSTED, "too many logs are written at once")
		     : 0;
}

void log_pump_submit_batch(struct log_pump *pump)
{
	pthread_mutex_lock(&pump->lock);
	pump->batch_ready = pump->batch && !pump->writing && !pump->write_done;
	if (pump->batch_ready && need_job(pump) < 0)
		pump->batch_ready = false; /* the timer comes back to it */
	pthread_mutex_unlock(&pump->lock);
}

int log_pump_reopen(struct log_pump *pump, struct call *call, struct err *err)
{
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	int r = 0;

	pthread_mutex_lock(&pump->lock);
	if (!pump->reopening)
		r = outcome_new(&pump->reopening, err);
	if (r == 0) {
		outcome = outcome_ref(pump->reopening);
		r = need_job(pump);
		if (r < 0) {
			pump->reopening = outcome_unref(pump->reopening);
			err_set_status(err, r, ERR_RESOURCE_EXHAUSTED, "too many logs are written at once");
		}
	}
	pthread_mutex_unlock(&pump->lock);
	return r < 0 ? r : outcome_wait(outcome, call, err);
}
