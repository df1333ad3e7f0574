/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports of a pod: each forwarded connection is a connection of its own to the agent, which dials the port
 * inside the guest. All of it is on the loop, but for the making of that connection. The agent's window says
 * what may be sent to it; what is beyond stops the reading of the client's socket.
 */
#include "cri/pods/pods_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"

#define CHUNK	   (32u * 1024)
#define QUEUE_HIGH (64u * 1024) /* the client is held while more than this waits for the guest */

/* What a token leads to. */
struct forward_offer {
	struct pods *pods;
	struct pod *pod; /* a reference */
};

struct forward {
	atomic_int refs; /* the pipe's, and one for a job or post under way */
	struct pods *pods;
	struct pod *pod; /* a reference */
	uint16_t port;
	/* The job's, then the loop's. */
	struct agent_conn *conn;
	int code;
	struct err err;
	/* The loop's. */
	struct stream_pipe *pipe; /* NULL: the client has left, or was told the end */
	struct buf waiting;	  /* from the client, until the guest takes it */
	int64_t window;		  /* what the guest takes now */
	bool ready;		  /* the job's fields are the loop's now */
	bool open, input_over, closed;
};

static struct forward *ref(struct forward *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

static void unref(struct forward *f)
{
	if (atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	buf_done(&f->waiting);
	object_unref(&f->pod->object);
	free(f);
}

static void hang_up(struct forward *f)
{
	f->open = false;
	if (f->ready)
		f->conn = agent_conn_close(f->conn);
}

/* The pipe's reference goes. why NULL: the server in the pod has closed. */
static void finish(struct forward *f, const struct err *why)
{
	struct stream_pipe *pipe = move_ptr(f->pipe);
	struct err err = ERR_INIT;

	if (!pipe)
		return;
	if (why) {
		err = *why;
		err_wrap(&err, "forwarding port %u of pod \"%s\"", f->port, f->pod->object.id);
	}
	hang_up(f);
	stream_pipe_finish(pipe, 0, &err);
	unref(f);
}

/* ---- from the client ----------------------------------------------------------------------------------- */

static void settle(struct forward *f)
{
	if (f->pipe && f->open)
		stream_pipe_hold(f->pipe, f->waiting.len > 0 || agent_conn_queued(f->conn) > QUEUE_HIGH);
}

/* Sends what the guest takes, and holds the client while something waits. */
static void push(struct forward *f)
{
	Crivisor__Agent__V1__DialData msg = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;

	while (f->open && f->waiting.len > 0 && f->window > 0) {
		msg.data.data = buf_data(&f->waiting);
		msg.data.len = f->waiting.len < CHUNK ? f->waiting.len : CHUNK;
		if ((int64_t)msg.data.len > f->window)
			msg.data.len = (size_t)f->window;
		/* A stream that has ended says so by itself. */
		(void)agent_stream_send(f->conn, &msg.base, false);
		f->window -= (int64_t)msg.data.len;
		buf_consume(&f->waiting, msg.data.len);
	}
	if (f->open && f->waiting.len == 0 && f->input_over && !f->closed) {
		f->closed = true;
		(void)agent_stream_send(f->conn, NULL, true);
	}
	settle(f);
}

static void on_input(void *arg, const void *data, size_t len)
{
	struct forward *f = ref(arg);
	struct err err = ERR_INIT;

	if (buf_put(&f->waiting, data, len) == 0) {
		push(f);
	} else {
		err_oom(&err);
		finish(f, &err);
	}
	unref(f);
}

static void on_input_end(void *arg)
{
	struct forward *f = ref(arg);

	f->input_over = true;
	push(f);
	unref(f);
}

static void on_resize(void *arg, uint16_t width, uint16_t height)
{
	(void)arg;
	(void)width;
	(void)height;
}

static void on_writable(void *arg)
{
	struct forward *f = arg;

	if (f->open)
		agent_conn_set_reading(f->conn, true);
}

static void on_gone(void *arg)
{
	struct forward *f = arg;

	f->pipe = NULL;
	hang_up(f);
	unref(f);
}

static const struct stream_ops ops = {on_input, on_input_end, on_resize, on_writable, on_gone};

/* ---- from the guest ------------------------------------------------------------------------------------ */

/* Whatever a hostile guest says: no more than DIAL_WINDOW. */
static void widen(struct forward *f, uint32_t by)
{
	if (f->window >= DIAL_WINDOW)
		return;
	f->window = by < DIAL_WINDOW - f->window ? f->window + by : DIAL_WINDOW;
	push(f);
}

static void on_data(void *arg, const struct err *err, const ProtobufCMessage *msg, bool eof)
{
	struct forward *f = ref(arg);
	const Crivisor__Agent__V1__DialData *data = (const void *)msg;

	if (f->pipe && data)
		stream_pipe_write(f->pipe, STREAM_STDOUT, data->data.data, data->data.len);
	if (err || eof) {
		finish(f, err);
	} else if (f->pipe) {
		if (stream_pipe_room(f->pipe) == 0)
			agent_conn_set_reading(f->conn, false); /* until `writable` */
		if (data && data->window > 0)
			widen(f, data->window);
	}
	unref(f);
}

static void on_drained(void *arg)
{
	settle(arg);
}

/* ---- the beginning ------------------------------------------------------------------------------------- */

static int dial(struct forward *f, struct err *err)
{
	Crivisor__Agent__V1__DialData first = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;
	int r;

	first.port = f->port;
	r = agent_stream_open(f->conn, &AGENT_DIAL, &first.base, on_data, f, err);
	if (r < 0)
		return r;
	f->open = true;
	agent_conn_on_drained(f->conn, on_drained, f);
	push(f);
	return 0;
}

/* Loop. Carries the job's reference. */
static void connected(void *arg)
{
	struct forward *f = arg;
	struct err err = f->err;
	int r = f->code;

	f->ready = true;
	if (f->pipe) {
		if (r == 0)
			r = dial(f, &err);
		if (r < 0)
			finish(f, &err);
	} else {
		hang_up(f); /* the client has left meanwhile */
	}
	unref(f);
}

static void connect_job(void *arg)
{
	struct forward *f = arg;
	struct agent *agent;
	struct agent_conn *conn = NULL;

	f->code = pod_wait_adopted(f->pod, NULL, &f->err);
	if (f->code == 0)
		f->code = pod_agent(f->pod, &agent, &f->err);
	if (f->code == 0)
		f->code = guest_open(agent, NULL, &conn, &f->err);
	f->conn = conn;
	/* An agent of an earlier version, in a pod that was taken over, knows no windows. */
	f->window = conn && agent_has(agent, DIAL_WINDOW_FEATURE) ? DIAL_WINDOW : INT64_MAX;
	if (loop_post(f->pods->parts.loop, connected, f) < 0)
		agent_conn_close(conn);
}

static void on_accept(void *arg, struct stream_pipe *pipe, uint16_t port)
{
	const struct forward_offer *offer = arg;
	struct forward *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	if (!f) {
		err_oom(&err);
		stream_pipe_finish(pipe, 0, &err);
		return;
	}
	atomic_init(&f->refs, 1);
	f->pods = offer->pods;
	f->pod = offer->pod;
	object_ref(&f->pod->object);
	f->port = port;
	f->pipe = pipe;
	stream_pipe_use(pipe, &ops, f);
	stream_pipe_hold(pipe, true);
	if (workers_submit(f->pods->parts.workers, LANE_SLOW, connect_job, ref(f)) == 0)
		return;
	unref(f);
	err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "too many connections are made at once");
	finish(f, &err);
}

static void release(void *arg)
{
	struct forward_offer *offer = arg;

	object_unref(&offer->pod->object);
	free(offer);
}

int pods_offer_forward(struct pods *pods, const char *id, char **ret_url, struct err *err)
{
	static const struct container_io any = {.in = true, .out = true};
	struct pod *pod CLEANUP_POD = NULL;
	struct stream_request request = {.kind = STREAM_FORWARD, .accept = on_accept, .release = release};
	struct forward_offer *offer;
	int r = stream_check_io(pods, &any, err);

	if (r == 0)
		r = pod_find(pods, id, &pod, err);
	if (r < 0)
		return r;
	if (!pod_is_ready(pod))
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "pod sandbox \"%s\" is not ready", pod->object.id);
	offer = calloc(1, sizeof(*offer));
	if (!offer)
		return err_oom(err);
	offer->pods = pods;
	offer->pod = move_ptr(pod);
	request.arg = offer;
	r = stream_offer(pods->parts.streams, &request, ret_url, err);
	if (r < 0)
		release(offer);
	return r;
}
