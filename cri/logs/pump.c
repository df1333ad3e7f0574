/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/logs/pump.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/logs/file_internal.h"
#include "api/pb.h"
#include "cri/pods/pod.h"

#include <time.h>

#define WAIT_MS	    30000
#define READ_NS	    (60 * NS_PER_SEC) /* the agent answers within WAIT_MS */
#define OPEN_NS	    (20 * NS_PER_SEC)
#define RETRY_NS    NS_PER_SEC
#define PAUSE_NS    (100 * NS_PER_MS)
#define RECORDS_MAX 4096
#define LOST_MAX    10 /* connections lost in a row before the log is given up */

/*
 * One cycle: read (loop) → reply (loop) → write (workers) → acknowledge and read again (loop). Exactly one
 * stage is active at a time and holds one reference; `lock` is for what others touch: file, flags.
 */
struct log_pump {
	struct pod *pod; /* a reference: its agent must not go before the last connection */
	struct server *server;
	char id[65];
	struct agent *agent;
	struct agent_conn *conn;  /* loop thread, once started */
	struct agent_conn *fresh; /* of the stage that reconnects */
	unsigned int lost;	  /* connections lost since the last answer; loop thread */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int refs;
	struct log_file *file;
	struct loop_source *retry;		     /* loop thread */
	Crivisor__Agent__V1__ReadLogResponse *batch; /* of the stage that holds it */
	bool eof, broken, stop, complained;
};

static void pump_read(void *arg);
static void pump_write(void *arg);

static void pump_free(struct log_pump *pump)
{
	agent_conn_close(pump->conn);
	agent_conn_close(pump->fresh);
	log_file_close(pump->file);
	pb_free(pump->batch);
	pthread_cond_destroy(&pump->changed);
	pthread_mutex_destroy(&pump->lock);
	pod_unref(pump->pod);
	free(pump);
}

static void pump_unref(struct log_pump *pump)
{
	bool last;

	pthread_mutex_lock(&pump->lock);
	last = --pump->refs == 0;
	pthread_mutex_unlock(&pump->lock);
	if (last)
		pump_free(pump);
}

/* The cycle ends here, with its reference. */
static void pump_end(struct log_pump *pump, bool eof)
{
	pthread_mutex_lock(&pump->lock);
	if (eof)
		pump->eof = true;
	else
		pump->broken = true;
	pthread_cond_broadcast(&pump->changed);
	pthread_mutex_unlock(&pump->lock);
	pump_unref(pump);
}

static bool pump_stopped(struct log_pump *pump)
{
	bool stop;

	pthread_mutex_lock(&pump->lock);
	stop = pump->stop;
	pthread_mutex_unlock(&pump->lock);
	return stop;
}

static void to_pool(struct log_pump *pump)
{
	if (workers_submit(pump->server->workers, LANE_LOG, pump_write, pump) < 0)
		pump_end(pump, false);
}

static bool has_output(const Crivisor__Agent__V1__ReadLogResponse *batch)
{
	for (size_t i = 0; i < batch->n_records; i++) {
		if (batch->records[i]->data.len > 0)
			return true;
	}
	return false;
}

/* Checks that the guest's answer continues where we are: a hostile one must not shift the log. */
static bool batch_fits(const struct log_pump *pump, const Crivisor__Agent__V1__ReadLogResponse *batch)
{
	size_t total = 0;

	if (batch->n_records > RECORDS_MAX || batch->offset != log_file_offset(pump->file))
		return false;
	for (size_t i = 0; i < batch->n_records; i++) {
		total += batch->records[i]->data.len;
		if (batch->records[i]->stream != CRIVISOR__AGENT__V1__STREAM__STREAM_STDOUT &&
		    batch->records[i]->stream != CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR)
			return false;
	}
	return total <= GUEST_READLOG_MAX;
}

static void on_pause_end(void *arg)
{
	struct log_pump *pump = arg;

	pump->retry = loop_source_free(pump->retry);
	pump_read(pump);
}

/*
 * After an empty answer. An honest agent gives one after WAIT_MS; one that gives it at once must not keep the
 * loop busy.
 */
static void read_later(struct log_pump *pump)
{
	if (loop_add_timer(pump->server->loop, now_monotonic_ns() + PAUSE_NS, on_pause_end, pump,
			   &pump->retry, NULL) < 0)
		pump_end(pump, false);
}

/* ---- a connection that broke while its VM lives -------------------------------------------------------- */

/* Loop thread. */
static void reconnected(void *arg)
{
	struct log_pump *pump = arg;

	pump->conn = move_ptr(pump->fresh);
	if (pump_stopped(pump)) {
		struct agent_conn *conn = move_ptr(pump->conn);

		agent_conn_close(conn);
		pump_end(pump, false);
		return;
	}
	read_later(pump);
}

/* Worker thread. Of a dead VM this fails at once. */
static void reconnect(void *arg)
{
	struct log_pump *pump = arg;
	struct err err = ERR_INIT;

	if (agent_open(pump->agent, now_monotonic_ns() + OPEN_NS, &pump->fresh, &err) < 0) {
		if (!pump_stopped(pump))
			log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", pump->id), "its log ends here: %s",
				 err.msg);
		pump_end(pump, false);
	} else if (loop_post(pump->server->loop, reconnected, pump) < 0) {
		pump_end(pump, false);
	}
}

/* Loop thread, outside any callback of the connection, which goes. */
static void drop_connection(void *arg)
{
	struct log_pump *pump = arg;
	struct agent_conn *conn = move_ptr(pump->conn);

	agent_conn_close(conn);
	if (pump_stopped(pump) || ++pump->lost > LOST_MAX ||
	    workers_submit(pump->server->workers, LANE_NET, reconnect, pump) < 0)
		pump_end(pump, false);
}

static void on_read_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct log_pump *pump = arg;
	const Crivisor__Agent__V1__ReadLogResponse *resp = (const void *)msg;

	if (pump_stopped(pump) || (err && err->status == ERR_NOT_FOUND)) {
		pump_end(pump, false);
		return;
	}
	if (err) {
		if (loop_post(pump->server->loop, drop_connection, pump) < 0)
			pump_end(pump, false);
		return;
	}
	pump->lost = 0;
	if (!batch_fits(pump, resp)) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", pump->id),
			 "the guest's agent sent log records that do not fit; its log ends here");
		pump_end(pump, false);
		return;
	}
	if (!has_output(resp) && !resp->eof) {
		read_later(pump);
		return;
	}
	pump->batch = PB_CLONE(resp);
	if (pump->batch)
		to_pool(pump);
	else
		pump_end(pump, false);
}

/* Loop thread. */
static void pump_read(void *arg)
{
	struct log_pump *pump = arg;
	Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;

	if (pump_stopped(pump) || !pump->conn) {
		pump_end(pump, false);
		return;
	}
	req.container_id = pump->id;
	req.offset = log_file_offset(pump->file);
	req.wait_ms = WAIT_MS;
	if (agent_conn_call_async(pump->conn, &AGENT_READ_LOG, &req.base, READ_NS, on_read_reply, pump) < 0 &&
	    loop_post(pump->server->loop, drop_connection, pump) < 0)
		pump_end(pump, false);
}

static void on_retry(void *arg)
{
	struct log_pump *pump = arg;

	pump->retry = loop_source_free(pump->retry);
	to_pool(pump);
}

/* Loop thread: the disk is full or the like; the guest's buffer holds the process back meanwhile. */
static void arm_retry(void *arg)
{
	struct log_pump *pump = arg;

	if (pump_stopped(pump) || loop_add_timer(pump->server->loop, now_monotonic_ns() + RETRY_NS, on_retry,
						 pump, &pump->retry, NULL) < 0)
		pump_end(pump, false);
}

static void on_ack_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	(void)arg; /* a lost acknowledgement costs memory in the guest only, and the next one covers it */
	(void)err;
	(void)msg;
}

/* Loop thread. */
static void acknowledge(void *arg)
{
	struct log_pump *pump = arg;
	Crivisor__Agent__V1__AckRequest req = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;

	req.container_id = pump->id;
	req.offset = log_file_offset(pump->file);
	if (pump->conn)
		(void)agent_conn_call_async(pump->conn, &AGENT_ACK, &req.base, READ_NS, on_ack_reply, NULL);
	pump_read(pump);
}

/* Worker thread. */
static void pump_write(void *arg)
{
	struct log_pump *pump = arg;
	Crivisor__Agent__V1__ReadLogResponse *batch = pump->batch;
	struct log_record *records = calloc(batch->n_records ? batch->n_records : 1, sizeof(*records));
	struct err err = ERR_INIT;
	bool eof = batch->eof;
	int r = records ? 0 : -ENOMEM;

	for (size_t i = 0; records && i < batch->n_records; i++)
		records[i] = (struct log_record){
			.is_stderr = batch->records[i]->stream == CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR,
			.data = batch->records[i]->data.data,
			.len = batch->records[i]->data.len,
		};
	pthread_mutex_lock(&pump->lock);
	if (r == 0 && batch->n_records > 0)
		r = log_file_write(pump->file, records, batch->n_records, &err);
	if (r == 0 && eof)
		r = log_file_finish(pump->file, &err);
	pthread_mutex_unlock(&pump->lock);
	free(records);
	if (r < 0) {
		if (!pump->complained)
			log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", pump->id),
				 "%s; trying again each second", err.msg);
		pump->complained = true;
		if (loop_post(pump->server->loop, arm_retry, pump) < 0)
			pump_end(pump, false);
		return;
	}
	pump->complained = false;
	pb_free(batch);
	pump->batch = NULL;
	if (eof)
		pump_end(pump, true);
	else if (loop_post(pump->server->loop, acknowledge, pump) < 0)
		pump_end(pump, false);
}

int log_pump_start(struct pod *pod, struct agent *agent, const char *container_id, const char *log_path,
		   const char *pos_path, bool resume, struct log_pump **ret_pump, struct err *err)
{
	struct log_pump *pump = calloc(1, sizeof(*pump));
	pthread_condattr_t attr;
	uint64_t offset;
	int r;

	if (!pump)
		return err_oom(err);
	pump->pod = pod_ref(pod);
	pump->server = pod->server;
	pump->agent = agent;
	pump->refs = 2; /* the caller's and the cycle's */
	snprintf(pump->id, sizeof(pump->id), "%s", container_id);
	pthread_mutex_init(&pump->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pump->changed, &attr);
	pthread_condattr_destroy(&attr);
	r = log_file_open(log_path, pos_path, resume, &pump->file, &offset, err);
	if (r == 0)
		r = agent_open(agent, now_monotonic_ns() + OPEN_NS, &pump->conn, err);
	if (r == 0 && loop_post(pump->server->loop, pump_read, pump) < 0)
		r = err_oom(err);
	if (r < 0) {
		pump_free(pump);
		return r;
	}
	*ret_pump = pump;
	return 0;
}

int log_pump_wait_eof(struct log_pump *pump, int64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = deadline_ns / NS_PER_SEC, .tv_nsec = deadline_ns % NS_PER_SEC};
	int r = 0;

	pthread_mutex_lock(&pump->lock);
	while (!pump->eof && !pump->broken && r == 0)
		r = pthread_cond_timedwait(&pump->changed, &pump->lock, &ts) == ETIMEDOUT ? -ETIMEDOUT : 0;
	if (pump->eof)
		r = 0;
	else if (pump->broken)
		r = -ECONNRESET;
	pthread_mutex_unlock(&pump->lock);
	return r;
}

int log_pump_reopen(struct log_pump *pump, struct err *err)
{
	int r;

	pthread_mutex_lock(&pump->lock);
	r = log_file_reopen(pump->file, err);
	pthread_mutex_unlock(&pump->lock);
	return r;
}

/* Loop thread. Ends a read in progress, which ends the cycle. Carries the caller's reference. */
static void hang_up(void *arg)
{
	struct log_pump *pump = arg;
	struct agent_conn *conn = move_ptr(pump->conn);

	agent_conn_close(conn);
	pump_unref(pump);
}

struct log_pump *log_pump_free(struct log_pump *pump)
{
	if (!pump)
		return NULL;
	pthread_mutex_lock(&pump->lock);
	pump->stop = true;
	pthread_mutex_unlock(&pump->lock);
	/* The cycle uses the connection on the loop alone, so there it can be closed under it. */
	if (loop_post(pump->server->loop, hang_up, pump) < 0)
		pump_unref(pump);
	return NULL;
}
