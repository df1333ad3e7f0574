/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client at a container's own process: its output is what goes to the log, from now on; its input goes to
 * the process's stdin. It leaves and comes again; only with stdin_once does its end end the stdin.
 */
#include "cri/pods/pods_internal.h"

#include "api/agent/task.pb-c.h"
#include "cri/logs/logs.h"

struct attach {
	atomic_int refs; /* the offer's, the pipe's, and one for each job, post and call under way */
	struct pods *pods;
	struct container *container; /* a reference */
	struct container_io io;
	bool stdin_once;
	/* The job's, then the loop's. */
	struct agent *agent; /* a reference */
	struct agent_conn *conn;
	int code;
	struct err err;
	/* The loop's. */
	struct stream_pipe *pipe; /* NULL: the client has left, or was told the end */
	struct log_pump *pump;	  /* lent: the container's */
	struct log_tap tap;
	struct guest_input in;
	bool ready;		/* the job's fields are the loop's now */
	uint16_t width, height; /* 0: not known */
};

static struct attach *ref(struct attach *a)
{
	atomic_fetch_add(&a->refs, 1);
	return a;
}

static void unref(void *arg)
{
	struct attach *a = arg;

	if (atomic_fetch_sub(&a->refs, 1) != 1)
		return;
	agent_unref(a->agent);
	object_unref(&a->container->object);
	free(a);
}

/* Carries a reference. What it answers changes nothing. */
static void on_done(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	(void)err;
	(void)msg;
	unref(arg);
}

static void send_call(struct attach *a, const struct agent_method *method, const ProtobufCMessage *req)
{
	if (agent_call_async(a->agent, method, req, CALL_NS, on_done, ref(a)) < 0)
		unref(a);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static void close_stdin(struct attach *a)
{
	Containerd__Task__V2__CloseIORequest req = CONTAINERD__TASK__V2__CLOSE_IOREQUEST__INIT;

	req.id = a->container->object.id;
	req.stdin = true;
	if (a->ready && a->agent && a->io.in && a->stdin_once)
		send_call(a, &AGENT_TASK_CLOSE_IO, &req.base);
}

/* The pipe's reference goes. */
static void leave(struct attach *a)
{
	a->pipe = NULL;
	if (a->pump)
		log_pump_untap(a->pump, &a->tap);
	a->pump = NULL;
	guest_input_done(&a->in);
	close_stdin(a);
	unref(a);
}

static void finish(struct attach *a, const struct err *why)
{
	struct stream_pipe *pipe = move_ptr(a->pipe);
	struct err err = ERR_INIT;

	if (!pipe)
		return;
	if (why) {
		err = *why;
		err_wrap(&err, "attach to container \"%s\"", a->container->object.id);
	}
	a->in.pipe = NULL;
	stream_pipe_finish(pipe, 0, &err);
	leave(a);
}

/* ---- output -------------------------------------------------------------------------------------------- */

static void on_data(void *arg, bool is_stderr, const void *data, size_t len)
{
	struct attach *a = arg;

	if (a->pipe)
		stream_pipe_write(a->pipe, is_stderr ? STREAM_STDERR : STREAM_STDOUT, data, len);
}

static bool is_full(void *arg)
{
	struct attach *a = arg;

	return a->pipe && stream_pipe_room(a->pipe) == 0;
}

static void on_end(void *arg, bool too_slow)
{
	struct attach *a = arg;
	struct err err = ERR_INIT;

	a->pump = NULL;
	if (too_slow)
		err_set(&err, -ETIMEDOUT, "the client read nothing for %d s", (int)(LOG_TAP_NS / NS_PER_SEC));
	finish(a, &err);
}

static void tap(struct attach *a)
{
	struct pod *pod = a->container->pod;

	pthread_mutex_lock(&pod->lock);
	a->pump = a->container->pump;
	pthread_mutex_unlock(&pod->lock);
	a->tap = (struct log_tap){.data = on_data, .full = is_full, .end = on_end, .arg = a};
	if (!a->pump || !log_pump_tap(a->pump, &a->tap)) {
		a->pump = NULL;
		finish(a, NULL); /* it has ended */
	}
}

/* ---- input --------------------------------------------------------------------------------------------- */

static void send_size(struct attach *a)
{
	Containerd__Task__V2__ResizePtyRequest req = CONTAINERD__TASK__V2__RESIZE_PTY_REQUEST__INIT;

	req.id = a->container->object.id;
	req.width = a->width;
	req.height = a->height;
	if (a->ready && a->agent && a->width > 0)
		send_call(a, &AGENT_TASK_RESIZE_PTY, &req.base);
}

static void on_input(void *arg, const void *data, size_t len)
{
	struct attach *a = arg;

	guest_input_take(&a->in, data, len);
}

static void on_input_end(void *arg)
{
	struct attach *a = arg;

	guest_input_end(&a->in);
}

static void on_resize(void *arg, uint16_t width, uint16_t height)
{
	struct attach *a = arg;

	a->width = width;
	a->height = height;
	send_size(a);
}

static void on_writable(void *arg)
{
	const struct attach *a = arg;

	if (a->pump)
		log_pump_tap_ready(a->pump);
}

static void on_gone(void *arg)
{
	struct attach *a = arg;

	a->in.pipe = NULL;
	leave(a);
}

static const struct stream_ops ops = {on_input, on_input_end, on_resize, on_writable, on_gone};

/* ---- the beginning ------------------------------------------------------------------------------------- */

/* Loop. Carries the job's reference. */
static void connected(void *arg)
{
	struct attach *a = arg;
	struct err err = a->err;
	int r = a->code;

	a->ready = true;
	if (!a->pipe) {
		agent_conn_close(move_ptr(a->conn));
		close_stdin(a);
	} else {
		if (r == 0 && a->conn)
			r = guest_input_open(&a->in, move_ptr(a->conn), a->container->object.id, "", &err);
		if (r < 0)
			finish(a, &err);
		else
			send_size(a);
	}
	unref(a);
}

static void connect_job(void *arg)
{
	struct attach *a = arg;
	struct agent *agent;

	a->code = pod_wait_adopted(a->container->pod, NULL, &a->err);
	if (a->code == 0)
		a->code = pod_agent(a->container->pod, &agent, &a->err);
	if (a->code == 0)
		a->agent = agent_ref(agent);
	if (a->code == 0 && a->io.in)
		a->code = guest_open(agent, NULL, &a->conn, &a->err);
	if (loop_post(a->pods->parts.loop, connected, a) < 0)
		agent_conn_close(move_ptr(a->conn));
}

static void on_accept(void *arg, struct stream_pipe *pipe, uint16_t port)
{
	struct attach *a = ref(arg); /* until `leave` */
	struct err err = ERR_INIT;

	(void)port;
	a->pipe = a->in.pipe = pipe;
	a->in.close_at_end = a->stdin_once;
	stream_pipe_use(pipe, &ops, a);
	ref(a);
	tap(a);
	if (a->pipe && a->io.in)
		stream_pipe_hold(pipe, true);
	if (a->pipe && (a->io.in || a->io.tty)) {
		if (workers_submit(a->pods->parts.workers, LANE_SLOW, connect_job, ref(a)) < 0) {
			unref(a);
			err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
				       "too many containers and commands are started at once");
			finish(a, &err);
		}
	}
	unref(a);
}

/* ---- the offer ----------------------------------------------------------------------------------------- */

static int check(struct container *c, const struct container_io *io, struct err *err)
{
	const Runtime__V1__ContainerConfig *config = c->state->config;

	if (container_state(c) != CONTAINER_RUNNING)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "container \"%s\" is not running", c->object.id);
	if (io->in && !config->stdin)
		return err_set(err, -EINVAL, "container \"%s\" was made without stdin", c->object.id);
	if (io->tty && !config->tty)
		return err_set(err, -EINVAL, "container \"%s\" was made without a terminal", c->object.id);
	return 0;
}

int containers_offer_attach(struct pods *pods, const char *id, const struct container_io *io, char **ret_url,
			    struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct stream_request request = {.kind = STREAM_ATTACH,
					 .in = io->in,
					 .out = io->out,
					 .err = io->err,
					 .tty = io->tty,
					 .accept = on_accept,
					 .release = unref};
	struct attach *a;
	int r = stream_check_io(pods, io, err);

	if (r == 0)
		r = container_find(pods, id, &c, err);
	if (r == 0)
		r = check(c, io, err);
	if (r < 0)
		return r;
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_oom(err);
	atomic_init(&a->refs, 1);
	a->pods = pods;
	a->io = *io;
	a->stdin_once = c->state->config->stdin_once;
	a->container = move_ptr(c);
	request.arg = a;
	r = stream_offer(pods->parts.streams, &request, ret_url, err);
	if (r < 0)
		unref(a);
	return r;
}
