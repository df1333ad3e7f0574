/* SPDX-License-Identifier: Apache-2.0 */
/* The pump: what happens on the loop's thread. The file's part is in writer.c. */
#include "cri/logs/pump_internal.h"

#include "api/agent/guest_abi.h"
#include "api/pb.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/util.h"

#define WAIT_MS	     30000
#define READ_NS	     (60 * NS_PER_SEC) /* the agent answers within WAIT_MS */
#define OPEN_NS	     (20 * NS_PER_SEC)
#define PAUSE_NS     (100 * NS_PER_MS)
#define PAUSE_MAX_NS (2 * NS_PER_SEC)
#define LOOK_NS	     NS_PER_SEC	       /* what a job could not post is seen this late */
#define IDLE_NS	     (30 * NS_PER_SEC) /* likewise, where nothing is expected soon */
#define RECORDS_MAX  4096

/* ---- life ---------------------------------------------------------------------------------------------- */

static void pump_destroy(void *arg)
{
	struct log_pump *pump = arg;

	log_file_close(pump->file);
	pb_free(pump->batch);
	agent_conn_close(pump->fresh);
	agent_unref(pump->agent);
	outcome_unref(pump->opened);
	pthread_cond_destroy(&pump->changed);
	pthread_mutex_destroy(&pump->lock);
	free(pump->log_path);
	free(pump->pos_path);
	free(pump);
}

struct log_pump *log_pump_ref(struct log_pump *pump)
{
	atomic_fetch_add(&pump->refs, 1);
	return pump;
}

void log_pump_unref(struct log_pump *pump)
{
	if (atomic_fetch_sub(&pump->refs, 1) != 1)
		return;
	/* Closing a file can block. */
	if (!loop_on_thread(pump->loop) || workers_submit(pump->workers, LANE_LOG, pump_destroy, pump) < 0)
		pump_destroy(pump);
}

static bool is_stopped(struct log_pump *pump)
{
	bool stop;

	pthread_mutex_lock(&pump->lock);
	stop = pump->stop;
	pthread_mutex_unlock(&pump->lock);
	return stop;
}

/* A job works for the cycle, or its outcome waits to be taken. */
static bool is_busy(struct log_pump *pump)
{
	bool busy;

	pthread_mutex_lock(&pump->lock);
	busy = pump->writing || pump->batch_ready || pump->write_done;
	pthread_mutex_unlock(&pump->lock);
	return pump->state == CONNECTING || (pump->state == WRITING && busy);
}

/* The cycle ends here, with its reference. */
static void end(struct log_pump *pump, bool eof)
{
	if (pump->state == ENDED)
		return;
	pump->state = ENDED;
	agent_watch_remove(pump->agent, &pump->watch);
	pump->timer = loop_source_free(pump->timer);
	pump->conn = agent_conn_close(pump->conn);
	log_pump_end_taps(pump);
	pthread_mutex_lock(&pump->lock);
	if (eof)
		pump->eof = true;
	else
		pump->broken = true;
	pthread_cond_broadcast(&pump->changed);
	pthread_mutex_unlock(&pump->lock);
	log_pump_unref(pump);
}

static void give_up(struct log_pump *pump, const char *why)
{
	if (!is_stopped(pump))
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", pump->id), "its log ends here: %s", why);
	end(pump, false);
}

static void enter(struct log_pump *pump, enum pump_state state, int64_t after_ns)
{
	pump->state = state;
	loop_timer_set(pump->timer, now_monotonic_ns() + after_ns);
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

static void connected(struct log_pump *pump);

static void connected_job(void *arg)
{
	connected(arg);
	log_pump_unref(arg);
}

/* Worker thread. */
static void connect_job(void *arg)
{
	struct log_pump *pump = arg;
	struct agent_conn *conn = NULL;
	struct err err = ERR_INIT;
	int r = agent_open(pump->agent, now_monotonic_ns() + OPEN_NS, &conn, &err);

	pthread_mutex_lock(&pump->lock);
	pump->fresh = conn;
	pump->open_code = r;
	pump->open_done = true;
	pthread_mutex_unlock(&pump->lock);
	if (loop_post(pump->loop, connected_job, pump) < 0) /* the timer looks */
		log_pump_unref(pump);
}

static void dial(struct log_pump *pump)
{
	struct err over = ERR_INIT;

	if (agent_state(pump->agent, &over) < 0) {
		give_up(pump, over.msg);
		return;
	}
	pump->epoch_seen = false;
	enter(pump, CONNECTING, LOOK_NS);
	if (workers_submit(pump->workers, LANE_NET, connect_job, log_pump_ref(pump)) < 0) {
		log_pump_unref(pump);
		enter(pump, DISCONNECTED, LOOK_NS);
	}
}

/* At once the first time, then later and later. */
static void dial_later(struct log_pump *pump)
{
	int64_t pause = pump->lost == 0 ? 0 : PAUSE_NS;

	for (unsigned int i = 1; i < pump->lost && pause < PAUSE_MAX_NS; i++)
		pause *= 2;
	pump->lost++;
	if (pause == 0)
		dial(pump);
	else
		enter(pump, DISCONNECTED, pause < PAUSE_MAX_NS ? pause : PAUSE_MAX_NS);
}

static void read_on(struct log_pump *pump);

static void connected(struct log_pump *pump)
{
	struct agent_conn *conn;
	bool done;
	int r;

	pthread_mutex_lock(&pump->lock);
	done = pump->open_done;
	pump->open_done = false;
	conn = move_ptr(pump->fresh);
	r = pump->open_code;
	pthread_mutex_unlock(&pump->lock);
	if (!done)
		return;
	if (pump->state != CONNECTING) { /* the agent ended meanwhile, and the cycle with it */
		agent_conn_close(conn);
		return;
	}
	pump->conn = conn;
	if (is_stopped(pump)) {
		end(pump, false);
	} else if (r == 0) {
		read_on(pump);
	} else if (r == -ENOTCONN && !pump->epoch_seen) {
		/* The agent dials by itself, and tells when it stands. */
		enter(pump, DISCONNECTED, IDLE_NS);
	} else {
		dial_later(pump);
	}
}

/* A watch of the agent. */
static void on_epoch(void *arg, const struct err *over)
{
	struct log_pump *pump = arg;

	pump->epoch_seen = true;
	if (over && pump->state != WRITING)
		give_up(pump, over->msg);
	else if (!over && pump->state == DISCONNECTED)
		dial(pump);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static bool has_output(const Crivisor__Agent__V1__ReadLogResponse *batch)
{
	for (size_t i = 0; i < batch->n_records; i++) {
		if (batch->records[i]->data.len > 0)
			return true;
	}
	return false;
}

/*
 * Checks that the guest's answer continues where we are: a hostile one must not shift the log. The first one
 * after a restart may begin later: what a former server has acknowledged, and lost the position of, is gone.
 */
static bool fits(const struct log_pump *pump, const Crivisor__Agent__V1__ReadLogResponse *batch)
{
	size_t total = 0;

	if (batch->n_records > RECORDS_MAX || batch->offset < pump->offset || batch->offset > INT64_MAX ||
	    (batch->offset != pump->offset && !pump->may_skip))
		return false;
	for (size_t i = 0; i < batch->n_records; i++) {
		total += batch->records[i]->data.len;
		if (batch->records[i]->stream != CRIVISOR__AGENT__V1__STREAM__STREAM_STDOUT &&
		    batch->records[i]->stream != CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR)
			return false;
	}
	return total <= GUEST_READLOG_MAX;
}

static void write_batch(struct log_pump *pump)
{
	enter(pump, WRITING, LOOK_NS);
	log_pump_submit_batch(pump);
}

static void on_answer(struct log_pump *pump, const Crivisor__Agent__V1__ReadLogResponse *answer)
{
	pump->lost = 0;
	if (!fits(pump, answer)) {
		give_up(pump, "the guest agent sent records that do not continue it");
	} else if (!has_output(answer) && !answer->eof) {
		/*
		 * An honest agent gives one after WAIT_MS; one that gives it at once must not busy the loop.
		 */
		enter(pump, PAUSED, PAUSE_NS);
	} else {
		pump->batch = PB_CLONE(answer);
		if (pump->batch) {
			write_batch(pump);
			log_pump_tell_taps(pump, answer);
		} else {
			enter(pump, PAUSED, LOOK_NS); /* it is read again */
		}
	}
}

/* Carries a reference. */
static void on_read_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct log_pump *pump = arg;

	if (pump->state != READING) {
		/* the connection was closed at the pump's own end */
	} else if (is_stopped(pump)) {
		end(pump, false);
	} else if (err && err->status == ERR_NOT_FOUND) {
		give_up(pump, "the guest does not know the container");
	} else if (err) {
		pump->state = DISCONNECTED;
		pump->conn = agent_conn_close(pump->conn);
		dial_later(pump);
	} else {
		on_answer(pump, (const void *)msg);
	}
	log_pump_unref(pump);
}

static void acknowledge(struct log_pump *pump);

/* And none is under way. */
static bool unacknowledged(const struct log_pump *pump)
{
	return !pump->acking && pump->acked != pump->offset;
}

/* Carries a reference. One that is lost is sent again with the next read, or by the timer. */
static void on_ack_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct log_pump *pump = arg;

	(void)msg;
	if (!err)
		pump->acked = pump->acking;
	pump->acking = 0;
	if (!err)
		acknowledge(pump);
	if (unacknowledged(pump) && pump->state == READING)
		loop_timer_set(pump->timer, now_monotonic_ns() + LOOK_NS);
	log_pump_unref(pump);
}

/* Until it is told, the agent keeps the output, and a full buffer stops the process. */
static void acknowledge(struct log_pump *pump)
{
	Crivisor__Agent__V1__AckRequest req = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;

	if (!pump->conn || !unacknowledged(pump))
		return;
	req.container_id = pump->id;
	req.offset = pump->offset;
	pump->acking = pump->offset;
	if (agent_conn_call_async(pump->conn, &AGENT_ACK, &req.base, READ_NS, on_ack_reply,
				  log_pump_ref(pump)) == 0)
		return;
	pump->acking = 0;
	log_pump_unref(pump);
}

static void read_on(struct log_pump *pump)
{
	Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	int r;

	if (is_stopped(pump)) {
		end(pump, false);
		return;
	}
	if (!pump->conn) {
		dial(pump);
		return;
	}
	acknowledge(pump);
	pump->tap_waits = log_pump_taps_full(pump);
	if (pump->tap_waits) {
		enter(pump, PAUSED, LOOK_NS);
		return;
	}
	req.container_id = pump->id;
	req.offset = pump->offset;
	req.wait_ms = WAIT_MS;
	enter(pump, READING, unacknowledged(pump) ? LOOK_NS : READ_NS + IDLE_NS);
	r = agent_conn_call_async(pump->conn, &AGENT_READ_LOG, &req.base, READ_NS, on_read_reply,
				  log_pump_ref(pump));
	if (r == 0)
		return;
	log_pump_unref(pump);
	pump->state = DISCONNECTED;
	pump->conn = agent_conn_close(pump->conn);
	dial_later(pump);
}

void log_pump_read_on(struct log_pump *pump)
{
	if (pump->state == PAUSED && pump->tap_waits)
		read_on(pump);
}

/* ---- after writing ------------------------------------------------------------------------------------- */

void log_pump_written(struct log_pump *pump)
{
	bool done, over, eof;
	int r;

	pthread_mutex_lock(&pump->lock);
	done = pump->write_done;
	pump->write_done = false;
	r = pump->write_code;
	if (done && r == 0) {
		pump->offset = pump->saved;
		pump->may_skip = false;
	}
	eof = pump->write_eof;
	pthread_mutex_unlock(&pump->lock);
	if (!done)
		return;
	over = is_stopped(pump);
	if (r < 0 && over) {
		end(pump, false);
	} else if (r < 0) {
		enter(pump, WRITING, LOOK_NS); /* the timer tries again */
	} else if (eof) {
		end(pump, true);
	} else {
		read_on(pump);
	}
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static void look_at_opening(struct log_pump *pump);

static void opened_job(void *arg)
{
	look_at_opening(arg);
	log_pump_unref(arg);
}

/* Carries a reference. Worker thread. */
static void on_opened(void *arg, const struct err *err)
{
	struct log_pump *pump = arg;

	(void)err;
	if (loop_post(pump->loop, opened_job, pump) < 0) /* the timer looks */
		log_pump_unref(pump);
}

/* A disk that is full or hangs ends no log, and holds up nobody. */
static void try_to_open(struct log_pump *pump)
{
	struct err err = ERR_INIT;

	enter(pump, OPENING, LOOK_NS);
	pump->opened = outcome_unref(pump->opened);
	if (outcome_new(&pump->opened, &err) < 0)
		return;
	if (log_pump_submit_open(pump, &err) < 0)
		pump->opened = outcome_unref(pump->opened);
	else if (outcome_watch(pump->opened, NULL, on_opened, log_pump_ref(pump), &err) < 0)
		log_pump_unref(pump); /* the timer looks */
}

static void look_at_opening(struct log_pump *pump)
{
	struct err err = ERR_INIT;

	if (pump->state != OPENING || !pump->opened || !outcome_known(pump->opened))
		return;
	if (outcome_wait(pump->opened, NULL, &err) == 0) {
		pump->complained = false;
		read_on(pump);
		return;
	}
	if (!pump->complained)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", pump->id),
			 "resuming its log: %s; trying again each second", err.msg);
	pump->complained = true;
	pump->opened = outcome_unref(pump->opened);
}

/* ---- the timer ----------------------------------------------------------------------------------------- */

static void on_timer(void *arg)
{
	struct log_pump *pump = log_pump_ref(arg);

	if (is_stopped(pump) && !is_busy(pump)) {
		end(pump, false);
	} else {
		switch (pump->state) {
		case OPENING:
			loop_timer_set(pump->timer, now_monotonic_ns() + LOOK_NS);
			look_at_opening(pump);
			if (pump->state == OPENING && !pump->opened)
				try_to_open(pump);
			break;
		case CONNECTING:
			loop_timer_set(pump->timer, now_monotonic_ns() + LOOK_NS);
			connected(pump);
			break;
		case DISCONNECTED:
			dial(pump);
			break;
		case READING: /* it has a time of its own */
			acknowledge(pump);
			loop_timer_set(pump->timer,
				       now_monotonic_ns() + (unacknowledged(pump) ? LOOK_NS : IDLE_NS));
			break;
		case PAUSED:
			read_on(pump);
			break;
		case WRITING:
			loop_timer_set(pump->timer, now_monotonic_ns() + LOOK_NS);
			log_pump_written(pump);
			if (pump->state == WRITING)
				log_pump_submit_batch(pump);
			break;
		case NOT_BEGUN:
		case ENDED:
			break;
		}
	}
	log_pump_unref(pump);
}

/* ---- start and end ------------------------------------------------------------------------------------- */

struct beginning {
	struct log_pump *pump;	 /* the cycle's reference */
	struct outcome *outcome; /* a reference */
};

/* Loop. The file is open, or is now opened. */
static void begin(void *arg)
{
	struct beginning *b = arg;
	struct log_pump *pump = b->pump;
	struct err err = ERR_INIT;
	int r = loop_add_timer(pump->loop, INT64_MAX, on_timer, pump, &pump->timer, &err);

	outcome_set(b->outcome, r < 0 ? &err : NULL);
	outcome_unref(b->outcome);
	free(b);
	if (r < 0) {
		pump->state = ENDED;
		log_pump_unref(pump);
		return;
	}
	agent_watch_add(pump->agent, &pump->watch, on_epoch, pump);
	if (pump->resume) {
		try_to_open(pump);
	} else {
		pump->state = PAUSED;
		read_on(pump);
	}
}

/* Starts the cycle, and waits until it runs. */
static int start_cycle(struct log_pump *pump, struct call *call, struct err *err)
{
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct beginning *b;
	int r = outcome_new(&outcome, err);

	if (r < 0)
		return r;
	b = malloc(sizeof(*b));
	if (!b)
		return err_oom(err);
	*b = (struct beginning){.pump = log_pump_ref(pump), .outcome = outcome_ref(outcome)};
	if (loop_post(pump->loop, begin, b) == 0)
		return outcome_wait(outcome, call, err);
	log_pump_unref(pump);
	outcome_unref(b->outcome);
	free(b);
	return err_oom(err);
}

static int open_now(struct log_pump *pump, struct call *call, struct err *err)
{
	int r = outcome_new(&pump->opened, err);

	if (r == 0)
		r = log_pump_submit_open(pump, err);
	return r == 0 ? outcome_wait(pump->opened, call, err) : r;
}

int log_pump_start(const struct log_pump_options *options, struct call *call, struct log_pump **ret_pump,
		   struct err *err)
{
	struct log_pump *pump = calloc(1, sizeof(*pump));
	int r;

	if (!pump)
		return err_oom(err);
	atomic_init(&pump->refs, 1);
	pump->loop = options->loop;
	pump->workers = options->workers;
	pump->agent = agent_ref(options->agent);
	pump->resume = pump->may_skip = options->resume;
	pump->log_path = strdup(options->log_path ? options->log_path : "");
	pump->pos_path = strdup(options->pos_path);
	snprintf(pump->id, sizeof(pump->id), "%s", options->container_id);
	pthread_mutex_init(&pump->lock, NULL);
	cond_init(&pump->changed);
	r = pump->log_path && pump->pos_path ? 0 : err_oom(err);
	if (r == 0 && !pump->resume)
		r = open_now(pump, call, err);
	if (r == 0)
		r = start_cycle(pump, call, err);
	if (r == 0)
		*ret_pump = pump;
	else
		log_pump_free(pump); /* also one whose cycle has begun while the caller left */
	return r;
}

int log_pump_wait_eof(struct log_pump *pump, struct call *call, int64_t deadline_ns)
{
	int r = 0;

	pthread_mutex_lock(&pump->lock);
	while (!pump->eof && !pump->broken && r == 0)
		r = call_wait(call, &pump->changed, &pump->lock, deadline_ns);
	if (pump->eof)
		r = 0;
	else if (pump->broken)
		r = -ECONNRESET;
	pthread_mutex_unlock(&pump->lock);
	return r;
}

/* Loop. Carries the caller's reference. What a job does meanwhile comes to its end first. */
static void hang_up(void *arg)
{
	struct log_pump *pump = arg;

	if (pump->state != NOT_BEGUN && !is_busy(pump))
		end(pump, false);
	log_pump_unref(pump);
}

struct log_pump *log_pump_free(struct log_pump *pump)
{
	if (!pump)
		return NULL;
	pthread_mutex_lock(&pump->lock);
	pump->stop = true;
	pthread_mutex_unlock(&pump->lock);
	if (loop_post(pump->loop, hang_up, pump) < 0) /* the timer sees it */
		log_pump_unref(pump);
	return NULL;
}
