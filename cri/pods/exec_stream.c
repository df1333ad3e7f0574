/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command with a client: it begins when the client is there, on a thread; then all of it is on the loop.
 * Output is read from the guest when there is room for it on the way to the client, and only then: the
 * guest's buffer fills, and the process waits.
 */
#include "cri/pods/pods_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/pb.h"
#include "base/log.h"

#include <signal.h>

#define WAIT_MS	 30000
#define READ_NS	 (60 * NS_PER_SEC) /* the agent answers within WAIT_MS */
#define PAUSE_NS (100 * NS_PER_MS)

struct exec_stream {
	atomic_int refs; /* the offer's, the pipe's, and one for each job, post and call under way */
	struct pods *pods;
	struct container *container; /* a reference */
	char **args;
	struct container_io io;
	char exec_id[33];
	atomic_bool left; /* the client: there is nothing to start any more */

	/* The job's, then the loop's. */
	struct agent *agent; /* a reference */
	struct agent_conn *conn, *in_conn;
	int code;	/* of the start */
	struct err err; /* of the start; then of a connection that broke */
	bool added;	/* the guest knows the exec */

	/* The loop's. */
	struct stream_pipe *pipe; /* NULL: the client has left, or was told the end */
	struct guest_input in;
	struct agent_watch watch;
	struct loop_source *timer; /* of a pause */
	uint16_t width, height;	   /* 0: not known */
	uint64_t offset;
	bool started, reading, waiting, exited, eof, broken, killed, over;
	int exit_code;
};

/* ---- life ---------------------------------------------------------------------------------------------- */

static struct exec_stream *ref(struct exec_stream *e)
{
	atomic_fetch_add(&e->refs, 1);
	return e;
}

static void unref(void *arg)
{
	struct exec_stream *e = arg;

	if (atomic_fetch_sub(&e->refs, 1) != 1)
		return;
	agent_unref(e->agent);
	strv_free(e->args);
	object_unref(&e->container->object);
	free(e);
}

/* Carries a reference. What it answers changes nothing. */
static void on_done(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	(void)err;
	(void)msg;
	unref(arg);
}

static void send_call(struct exec_stream *e, const struct agent_method *method, const ProtobufCMessage *req)
{
	if (agent_call_async(e->agent, method, req, CALL_NS, on_done, ref(e)) < 0)
		unref(e);
}

/* The guest forgets it. The loop's last act for it. */
static void end(struct exec_stream *e)
{
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;

	if (e->over)
		return;
	e->over = true;
	if (e->agent)
		agent_watch_remove(e->agent, &e->watch);
	e->timer = loop_source_free(e->timer);
	guest_input_done(&e->in);
	e->conn = agent_conn_close(e->conn);
	if (e->added) {
		del.id = e->container->object.id;
		del.exec_id = e->exec_id;
		send_call(e, &AGENT_TASK_DELETE, &del.base);
	}
	unref(e);
}

/* The client is told, and nothing is written to it any more. */
static void finish(struct exec_stream *e, const struct err *why)
{
	struct stream_pipe *pipe = move_ptr(e->pipe);

	e->in.pipe = NULL;
	if (pipe)
		stream_pipe_finish(pipe, e->exit_code, why);
}

/* Nobody wants its output any more: it is killed, and forgotten once it has ended. */
static void abandon(struct exec_stream *e)
{
	if (e->over || !e->started)
		return; /* while it starts, `started` comes to this */
	guest_input_done(&e->in);
	if (!e->added) {
		end(e);
		return;
	}
	if (!e->killed && !(e->exited && e->eof) &&
	    guest_kill_async(e->agent, e->container->object.id, e->exec_id, SIGKILL, false, on_done, ref(e)) <
		    0)
		unref(e);
	e->killed = true;
	if (e->exited || !e->waiting)
		end(e);
}

static void fail(struct exec_stream *e, const struct err *why)
{
	struct err err = *why;

	err_wrap(&err, "exec in container \"%s\"", e->container->object.id);
	finish(e, &err);
	abandon(e);
}

/* ---- output -------------------------------------------------------------------------------------------- */

static void look_whether_over(struct exec_stream *e)
{
	if (!e->exited || !e->eof)
		return;
	finish(e, NULL);
	end(e);
}

static void read_on(struct exec_stream *e);

static void on_pause_over(void *arg)
{
	read_on(arg);
}

/* A guest's records, checked: a hostile one must not go on about other bytes. */
static int pass_on(struct exec_stream *e, const Crivisor__Agent__V1__ReadLogResponse *answer, struct err *err)
{
	if (answer->offset != e->offset)
		return err_set_status(err, -EBADMSG, ERR_INTERNAL,
				      "the guest's agent sent output at the wrong offset");
	for (size_t i = 0; i < answer->n_records; i++) {
		const Crivisor__Agent__V1__LogRecord *rec = answer->records[i];
		bool is_err = rec->stream == CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR;

		e->offset += rec->data.len;
		if (e->pipe)
			stream_pipe_write(e->pipe, is_err ? STREAM_STDERR : STREAM_STDOUT, rec->data.data,
					  rec->data.len);
	}
	return 0;
}

/*
 * The connection broke, and output may be lost with it. The watch tells soon whether the guest has died: then
 * the client hears of that, which is why.
 */
static void lose(struct exec_stream *e, const struct err *why)
{
	struct err err = ERR_INIT;

	if (agent_state(e->agent, &err) < 0) {
		fail(e, &err);
	} else {
		e->err = *why;
		e->broken = true;
	}
}

/* Carries a reference. */
static void on_output(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct exec_stream *e = arg;
	const Crivisor__Agent__V1__ReadLogResponse *answer = (const void *)msg;
	uint64_t before = e->offset;
	struct err bad = ERR_INIT;

	e->reading = false;
	if (!e->over && !e->killed) {
		if (err && err->status == ERR_UNAVAILABLE) {
			lose(e, err);
		} else if (err) {
			fail(e, err);
		} else if (pass_on(e, answer, &bad) < 0) {
			fail(e, &bad);
		} else if (answer->eof) {
			e->eof = true;
			look_whether_over(e);
		} else if (e->offset == before) {
			/* One that answers at once, and nothing, must not busy the loop. */
			loop_timer_set(e->timer, now_monotonic_ns() + PAUSE_NS);
		} else {
			read_on(e);
		}
	}
	unref(e);
}

static void acknowledge(struct exec_stream *e)
{
	Crivisor__Agent__V1__AckRequest ack = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;

	if (e->offset == 0)
		return;
	ack.container_id = e->container->object.id;
	ack.exec_id = e->exec_id;
	ack.offset = e->offset;
	if (agent_conn_call_async(e->conn, &AGENT_ACK, &ack.base, READ_NS, on_done, ref(e)) < 0)
		unref(e);
}

static void read_on(struct exec_stream *e)
{
	Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	struct err err = ERR_INIT;
	int r;

	/* Without room `writable` comes. */
	if (e->over || e->killed || e->reading || e->eof || e->broken || !e->conn || !e->pipe ||
	    stream_pipe_room(e->pipe) == 0)
		return;
	acknowledge(e);
	req.container_id = e->container->object.id;
	req.exec_id = e->exec_id;
	req.offset = e->offset;
	req.wait_ms = WAIT_MS;
	e->reading = true;
	r = agent_conn_call_async(e->conn, &AGENT_READ_LOG, &req.base, READ_NS, on_output, ref(e));
	if (r == 0)
		return;
	e->reading = false;
	unref(e);
	err_set_errno(&err, r, "reading its output");
	if (r == -ENOMEM)
		fail(e, &err);
	else
		lose(e, &err);
}

/* ---- its end ------------------------------------------------------------------------------------------- */

static void wait_for_exit(struct exec_stream *e);

/* Carries a reference. */
static void on_exit_told(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct exec_stream *e = arg;
	bool lost = err && agent_state(e->agent, NULL) == 0 && err->status == ERR_UNAVAILABLE;

	e->waiting = false;
	if (e->over || lost) {
		/* The connection broke: the watch asks again. */
	} else if (err) {
		fail(e, err);
	} else {
		e->exited = true;
		e->exit_code =
			(int)((const Containerd__Task__V2__WaitResponse *)(const void *)msg)->exit_status;
		if (e->killed)
			end(e);
		else
			look_whether_over(e);
	}
	unref(e);
}

static void wait_for_exit(struct exec_stream *e)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	if (e->waiting || e->exited || e->over)
		return;
	req.id = e->container->object.id;
	req.exec_id = e->exec_id;
	e->waiting = true;
	if (agent_call_async(e->agent, &AGENT_TASK_WAIT, &req.base, 0, on_exit_told, ref(e)) == 0)
		return;
	e->waiting = false;
	unref(e);
}

/* The agent's watch. */
static void on_epoch(void *arg, const struct err *over)
{
	struct exec_stream *e = arg;

	if (over || e->broken)
		fail(e, over ? over : &e->err);
	else
		wait_for_exit(e);
}

/* ---- the client ---------------------------------------------------------------------------------------- */

static void send_size(struct exec_stream *e)
{
	Containerd__Task__V2__ResizePtyRequest req = CONTAINERD__TASK__V2__RESIZE_PTY_REQUEST__INIT;

	req.id = e->container->object.id;
	req.exec_id = e->exec_id;
	req.width = e->width;
	req.height = e->height;
	if (e->started && !e->over && e->width > 0)
		send_call(e, &AGENT_TASK_RESIZE_PTY, &req.base);
}

static void on_input(void *arg, const void *data, size_t len)
{
	struct exec_stream *e = arg;

	guest_input_take(&e->in, data, len);
}

static void on_input_end(void *arg)
{
	struct exec_stream *e = arg;

	guest_input_end(&e->in);
}

static void on_resize(void *arg, uint16_t width, uint16_t height)
{
	struct exec_stream *e = arg;

	e->width = width;
	e->height = height;
	send_size(e);
}

static void on_writable(void *arg)
{
	read_on(arg);
}

static void on_gone(void *arg)
{
	struct exec_stream *e = arg;

	atomic_store(&e->left, true);
	e->pipe = e->in.pipe = NULL;
	abandon(e);
}

static const struct stream_ops ops = {on_input, on_input_end, on_resize, on_writable, on_gone};

/* ---- its start ----------------------------------------------------------------------------------------- */

/* Loop. Carries the job's reference. */
static void started(void *arg)
{
	struct exec_stream *e = arg;
	struct err err = ERR_INIT;
	int r = e->code;

	e->started = true;
	if (r == 0)
		r = loop_add_timer(e->pods->parts.loop, INT64_MAX, on_pause_over, e, &e->timer, &err);
	else
		err = e->err;
	if (e->agent)
		agent_watch_add(e->agent, &e->watch, on_epoch, e);
	if (e->added)
		wait_for_exit(e);
	if (r == 0 && e->in_conn)
		r = guest_input_open(&e->in, move_ptr(e->in_conn), e->container->object.id, e->exec_id, &err);
	if (r < 0) {
		agent_conn_close(move_ptr(e->in_conn));
		fail(e, &err);
	} else if (!e->pipe) {
		abandon(e);
	} else {
		send_size(e);
		read_on(e);
	}
	unref(e);
}

static int start(struct exec_stream *e, struct err *err)
{
	struct agent *agent;
	int r = pod_wait_adopted(e->container->pod, NULL, err);

	if (r == 0 && atomic_load(&e->left))
		r = err_set(err, -ECANCELED, "the client has left");
	if (r == 0 && container_state(e->container) != CONTAINER_RUNNING)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "it is not running");
	if (r == 0)
		r = pod_agent(e->container->pod, &agent, err);
	if (r < 0)
		return r;
	e->agent = agent_ref(agent);
	r = guest_open(agent, NULL, &e->conn, err);
	if (r == 0 && e->io.in)
		r = guest_open(agent, NULL, &e->in_conn, err);
	if (r < 0)
		return r;
	e->added = true; /* also where the answer is lost */
	r = exec_add(e->container, agent, e->exec_id, e->args, &e->io, err);
	return r < 0 ? r : exec_start(e->container, agent, e->exec_id, err);
}

static void start_job(void *arg)
{
	struct exec_stream *e = arg;

	e->code = start(e, &e->err);
	if (loop_post(e->pods->parts.loop, started, e) < 0)
		log_error("exec in container \"%s\": out of memory", e->container->object.id);
}

static void on_accept(void *arg, struct stream_pipe *pipe, uint16_t port)
{
	struct exec_stream *e = ref(arg); /* until `end` */
	struct err err = ERR_INIT;

	(void)port;
	e->pipe = e->in.pipe = pipe;
	e->in.close_at_end = true;
	stream_pipe_use(pipe, &ops, e);
	if (e->io.in)
		stream_pipe_hold(pipe, true);
	if (workers_submit(e->pods->parts.workers, LANE_SLOW, start_job, ref(e)) == 0)
		return;
	unref(e);
	err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
		       "too many containers and commands are started at once");
	finish(e, &err);
	unref(e);
}

/* ---- the offer ----------------------------------------------------------------------------------------- */

int stream_check_io(const struct pods *pods, const struct container_io *io, struct err *err)
{
	if (!pods->parts.streams)
		return err_set_status(err, -EOPNOTSUPP, ERR_UNIMPLEMENTED, "there is no streaming server");
	if (!io->in && !io->out && !io->err)
		return err_set(err, -EINVAL, "one of stdin, stdout and stderr must be set");
	if (io->tty && io->err)
		return err_set(err, -EINVAL, "tty and stderr cannot both be set");
	return 0;
}

int containers_offer_exec(struct pods *pods, const char *id, char *const *args, const struct container_io *io,
			  char **ret_url, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct stream_request request = {.kind = STREAM_EXEC,
					 .in = io->in,
					 .out = io->out,
					 .err = io->err,
					 .tty = io->tty,
					 .accept = on_accept,
					 .release = unref};
	struct exec_stream *e;
	int r = stream_check_io(pods, io, err);

	if (r == 0)
		r = container_find(pods, id, &c, err);
	if (r < 0)
		return r;
	if (!args || !args[0])
		return err_set(err, -EINVAL, "cmd is empty");
	if (container_state(c) != CONTAINER_RUNNING)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "container \"%s\" is not running", c->object.id);
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_oom(err);
	atomic_init(&e->refs, 1);
	e->pods = pods;
	e->io = *io;
	e->container = move_ptr(c);
	for (size_t i = 0; args[i] && r == 0; i++)
		r = strv_add(&e->args, args[i]) < 0 ? err_oom(err) : 0;
	if (r == 0 && random_hex(16, e->exec_id) < 0)
		r = err_set(err, -EIO, "the kernel gives no random numbers");
	request.arg = e;
	if (r == 0)
		r = stream_offer(pods->parts.streams, &request, ret_url, err);
	if (r < 0)
		unref(e);
	return r;
}
