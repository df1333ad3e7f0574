/* SPDX-License-Identifier: Apache-2.0 */
/* One connection: its life, its input and output, its stream. */
#include "cri/agent/agent_internal.h"

#include "api/pb.h"
#include "api/pbcheck.h"
#include "base/util.h"

#include <sys/epoll.h>

#define READ_BYTES 16384u
#define OUT_KEEP   2048 /* an idle connection keeps at most this much memory for output */
#define READ_TURNS 16	/* reads in one turn of the loop, so that other sources get theirs */

/* ---- life ---------------------------------------------------------------------------------------------- */

struct agent_conn *agent_conn_ref(struct agent_conn *conn)
{
	atomic_fetch_add(&conn->refs, 1);
	return conn;
}

void agent_conn_unref(struct agent_conn *conn)
{
	if (!conn || atomic_fetch_sub(&conn->refs, 1) != 1)
		return;
	ttrpc_conn_free(conn->ttrpc);
	close_fd(conn->fd);
	agent_unref(conn->agent);
	pthread_mutex_destroy(&conn->lock);
	free(conn);
}

/* Loop's thread: ends everything, closes the socket. */
static void agent_conn_die(struct agent_conn *conn, const struct err *why)
{
	bool control;

	pthread_mutex_lock(&conn->lock);
	if (!conn->dead) {
		conn->dead = true;
		conn->why = *why;
	}
	pthread_mutex_unlock(&conn->lock);
	control = agent_control_died(conn->agent, conn); /* before the callbacks, which may call again */
	if (conn->attached) {
		conn->attached = false;
		conn->io = loop_source_free(conn->io);
		conn->timer = loop_source_free(conn->timer);
		conn->fd = close_fd(conn->fd);
		ttrpc_abort(conn->ttrpc, &conn->why);
		agent_calls_end(conn, &conn->why, true);
		agent_conn_unref(conn);
	} else {
		agent_calls_end(conn, &conn->why, true);
	}
	if (control)
		agent_conn_close(conn);
}

static void die_job(void *arg)
{
	struct agent_conn *conn = arg;

	agent_conn_die(conn, &conn->why);
	agent_conn_unref(conn);
}

void agent_conn_abort(struct agent_conn *conn, const struct err *why)
{
	bool first;

	pthread_mutex_lock(&conn->lock);
	first = !conn->dead;
	if (first) {
		conn->dead = true;
		conn->why = *why;
	}
	pthread_mutex_unlock(&conn->lock);
	if (!first)
		return;
	agent_calls_end(conn, why, false);
	agent_conn_ref(conn);
	if (loop_post(conn->agent->loop, die_job, conn) < 0)
		agent_conn_unref(conn);
}

int agent_conn_state(struct agent_conn *conn, struct err *err)
{
	int r;

	pthread_mutex_lock(&conn->lock);
	r = conn->dead ? err_copy(err, &conn->why) : 0;
	pthread_mutex_unlock(&conn->lock);
	return r;
}

int agent_conn_why(struct agent_conn *conn, struct err *err)
{
	int r;

	pthread_mutex_lock(&conn->lock);
	r = conn->dead ? err_copy(err, &conn->why) : err_set(err, -ENOTCONN, "not connected to the agent");
	pthread_mutex_unlock(&conn->lock);
	return r;
}

/* ---- I/O ----------------------------------------------------------------------------------------------- */

static void set_timer(struct agent_conn *conn)
{
	int64_t when = ttrpc_next_deadline(conn->ttrpc);

	if (when == conn->timer_ns)
		return;
	conn->timer_ns = when;
	loop_timer_set(conn->timer, when);
}

static int broke(struct err *err, int code)
{
	err_set_errno(err, code, "the connection to the guest agent broke");
	err->status = ERR_UNAVAILABLE;
	return code;
}

void agent_conn_flush(struct agent_conn *conn)
{
	struct buf *out = ttrpc_out(conn->ttrpc);
	bool had = out->len > 0;
	struct err err = ERR_INIT;
	uint32_t events;
	ssize_t n = 0;

	if (!conn->attached)
		return;
	while (out->len > 0 && n >= 0)
		n = buf_write_fd(out, conn->fd);
	if (n < 0 && n != -EAGAIN && n != -EINTR) {
		broke(&err, (int)n);
		agent_conn_die(conn, &err);
		return;
	}
	events = (conn->reading ? EPOLLIN : 0u) | (out->len > 0 ? EPOLLOUT : 0u);
	if (events != conn->events && loop_source_set_events(conn->io, events) >= 0)
		conn->events = events;
	set_timer(conn);
	if (out->len == 0 && out->room > OUT_KEEP)
		buf_done(out);
	if (had && out->len == 0 && conn->drained)
		conn->drained(conn->drained_arg);
}

/* Reads what is there, within bounds. 0, or what the connection died of. */
static int take_in(struct agent_conn *conn, struct err *err)
{
	unsigned char data[READ_BYTES];

	for (int i = 0; i < READ_TURNS && conn->attached && conn->reading; i++) {
		ssize_t n = read(conn->fd, data, sizeof(data));
		int r;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n < 0)
			return broke(err, -errno);
		if (n == 0)
			return err_set_status(err, -ECONNRESET, ERR_UNAVAILABLE,
					      "the guest agent closed the connection");
		r = ttrpc_feed(conn->ttrpc, data, (size_t)n, err);
		if (r < 0) {
			err->status = ERR_INTERNAL; /* no argument of a caller's is at fault */
			return err_wrap(err, "malformed reply from the guest agent");
		}
		if ((size_t)n < sizeof(data))
			return 0;
	}
	return 0;
}

static void on_io(void *arg, int fd, uint32_t revents)
{
	struct agent_conn *conn = agent_conn_ref(arg);
	struct err err = ERR_INIT;
	int r = 0;

	(void)fd;
	if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		bool reading = conn->reading;

		/* A connection that has ended is read to its end: epoll would report it again and again. */
		if (revents & (EPOLLHUP | EPOLLERR))
			conn->reading = true;
		r = take_in(conn, &err);
		if (revents & (EPOLLHUP | EPOLLERR) && conn->attached)
			conn->reading = reading || conn->reading;
	}
	if (r < 0 && conn->attached)
		agent_conn_die(conn, &err);
	else
		agent_conn_flush(conn);
	agent_conn_unref(conn);
}

static void on_timer(void *arg)
{
	struct agent_conn *conn = agent_conn_ref(arg);

	conn->timer_ns = 0; /* has fired: must be set again */
	ttrpc_expire(conn->ttrpc, now_monotonic_ns());
	agent_conn_flush(conn);
	agent_conn_unref(conn);
}

static void attach_job(void *arg)
{
	struct agent_conn *conn = arg;
	struct loop *loop = conn->agent->loop;
	struct err err = ERR_INIT;
	bool dead;

	pthread_mutex_lock(&conn->lock);
	dead = conn->dead;
	pthread_mutex_unlock(&conn->lock);
	if (!dead) {
		conn->attached = true;
		agent_conn_ref(conn); /* that of being attached; agent_conn_die drops it */
		conn->events = EPOLLIN;
		conn->timer_ns = INT64_MAX;
		if (loop_add_fd(loop, conn->fd, conn->events, on_io, conn, &conn->io, &err) < 0 ||
		    loop_add_timer(loop, INT64_MAX, on_timer, conn, &conn->timer, &err) < 0)
			agent_conn_die(conn, &err);
	}
	agent_conn_unref(conn);
}

int agent_conn_new(struct agent *agent, int fd, struct agent_conn **ret_conn, struct err *err)
{
	struct agent_conn *conn = calloc(1, sizeof(*conn));
	bool aborted;

	if (!conn) {
		close_fd(fd);
		return err_oom(err);
	}
	atomic_fetch_add(&agent->refs, 1);
	conn->agent = agent;
	conn->fd = fd;
	conn->reading = true;
	atomic_store(&conn->refs, 3); /* the owner's, the list's, the job's */
	pthread_mutex_init(&conn->lock, NULL);
	conn->ttrpc = ttrpc_client_new(NULL, NULL);
	pthread_mutex_lock(&agent->lock);
	aborted = agent->aborted;
	if (!aborted && conn->ttrpc) {
		conn->next = agent->conns;
		if (conn->next)
			conn->next->prev = conn;
		agent->conns = conn;
	}
	pthread_mutex_unlock(&agent->lock);
	if (aborted || !conn->ttrpc) {
		atomic_store(&conn->refs, 1);
		agent_conn_unref(conn);
		return aborted ? err_copy(err, &agent->why) : err_oom(err);
	}
	if (loop_post(agent->loop, attach_job, conn) < 0) {
		agent_conn_unref(conn);
		agent_conn_close(conn);
		return err_oom(err);
	}
	*ret_conn = conn;
	return 0;
}

struct agent_conn *agent_conn_close(struct agent_conn *conn)
{
	struct err why = ERR_INIT;
	bool listed;

	if (!conn)
		return NULL;
	pthread_mutex_lock(&conn->agent->lock);
	listed = conn->prev || conn->agent->conns == conn;
	if (listed) {
		if (conn->prev)
			conn->prev->next = conn->next;
		else
			conn->agent->conns = conn->next;
		if (conn->next)
			conn->next->prev = conn->prev;
		conn->prev = conn->next = NULL;
	}
	pthread_mutex_unlock(&conn->agent->lock);
	err_set(&why, -ECANCELED, "the connection to the guest agent was closed");
	if (loop_on_thread(conn->agent->loop))
		agent_conn_die(conn, &why);
	else
		agent_conn_abort(conn, &why);
	if (listed)
		agent_conn_unref(conn);
	agent_conn_unref(conn);
	return NULL;
}

/* ---- streams ------------------------------------------------------------------------------------------- */

static void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct agent_conn *conn = agent_conn_ref(arg);
	agent_stream_fn *on_data = conn->on_data;
	ProtobufCMessage *msg = NULL;
	struct err bad = ERR_INIT;

	if (!on_data) {
		agent_conn_unref(conn);
		return;
	}
	if (payload && pb_unpack(conn->stream->response, payload, len, &msg, &bad) < 0) {
		err_wrap(&bad, "malformed reply from the guest agent");
		bad.status = ERR_INTERNAL;
		bad.code = -EBADMSG;
		if (!eof)
			ttrpc_cancel(conn->ttrpc, conn->stream_id);
		err = &bad;
		eof = true;
	}
	if (err || eof) {
		conn->on_data = NULL;
		eof = true;
	}
	on_data(conn->stream_arg, err, msg, eof);
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
	agent_conn_unref(conn);
}

int agent_stream_open(struct agent_conn *conn, const struct agent_method *method,
		      const ProtobufCMessage *first, agent_stream_fn *on_data, void *arg, struct err *err)
{
	int r;

	if (!conn->attached)
		return agent_conn_why(conn, err);
	if (conn->on_data)
		return err_set(err, -EBUSY, "the connection has a stream already");
	r = ttrpc_stream_open(conn->ttrpc, method->service, method->name, NULL, 0, on_stream, conn,
			      &conn->stream_id, err);
	if (r < 0)
		return r;
	conn->stream = method;
	conn->on_data = on_data;
	conn->stream_arg = arg;
	/* As a data message: containerd's server takes a first message in the request too, but not every
	 * server does. */
	if (first)
		r = agent_stream_send(conn, first, false);
	if (r < 0) {
		conn->on_data = NULL;
		ttrpc_cancel(conn->ttrpc, conn->stream_id);
		return err_set_errno(err, r, "opening a stream to the guest agent");
	}
	agent_conn_flush(conn);
	return 0;
}

int agent_stream_send(struct agent_conn *conn, const ProtobufCMessage *msg, bool close)
{
	void *data CLEANUP_FREE = NULL;
	size_t len = 0;
	int r;

	if (!conn->attached || !conn->on_data)
		return -EPIPE;
	r = msg ? pb_pack(msg, &data, &len) : 0;
	if (r < 0)
		return r;
	r = ttrpc_stream_send(conn->ttrpc, conn->stream_id, data, len, close);
	agent_conn_flush(conn);
	return r;
}

size_t agent_conn_queued(const struct agent_conn *conn)
{
	return ttrpc_out(conn->ttrpc)->len;
}

void agent_conn_on_drained(struct agent_conn *conn, void (*drained)(void *arg), void *arg)
{
	conn->drained = drained;
	conn->drained_arg = arg;
}

void agent_conn_set_reading(struct agent_conn *conn, bool on)
{
	conn->reading = on;
	agent_conn_flush(conn);
}
