/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ExecSync: a process in a container, its output collected, its end awaited, on a thread of the exec lane.
 * The end of the call kills the process, and then all that waits for it ends by itself.
 */
#include "cri/pods/pods_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/pb.h"
#include "base/buf.h"
#include "cri/agent/agent.h"

#include <signal.h>

#define START_NS (60 * NS_PER_SEC)
#define POLL_MS	 10000
#define LATE_NS	 (1 * NS_PER_SEC) /* after the command's time no answer is waited for longer */
#define PAUSE_NS (100 * NS_PER_MS)

struct exec {
	struct container *container;
	struct call *call; /* the client's */
	struct agent *agent;
	struct agent_conn *conn; /* for the output */
	char exec_id[33];
	int64_t deadline_ns; /* the command's: that of timeout_s */
	struct buf out[2];
	size_t held; /* bytes in both */
	bool eof;
};

static int ask_agent(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, struct err *err)
{
	ProtobufCMessage *resp = NULL;
	int r = agent_call(agent, method, req, timeout_ns, &resp, err);

	pb_free(resp);
	return r;
}

/* What an exec asks of the agent on its control connection. */
static int ask(struct exec *e, const struct agent_method *method, const ProtobufCMessage *req,
	       int64_t timeout_ns, struct err *err)
{
	return ask_agent(e->agent, method, req, timeout_ns, err);
}

int exec_add(struct container *container, struct agent *agent, const char *exec_id, char *const *args,
	     const struct container_io *io, struct err *err)
{
	char *config CLEANUP_FREE = NULL;
	char *process CLEANUP_FREE = NULL;
	Containerd__Task__V2__ExecProcessRequest req = CONTAINERD__TASK__V2__EXEC_PROCESS_REQUEST__INIT;
	Google__Protobuf__Any spec = GOOGLE__PROTOBUF__ANY__INIT;
	int r = container_spec(container, &config, err);

	if (r == 0)
		r = oci_spec_exec_process(config, args, io->tty, &process, err);
	if (r < 0)
		return r;
	spec.type_url = (char *)(uintptr_t)GUEST_PROCESS_TYPE_URL;
	spec.value.data = (uint8_t *)process;
	spec.value.len = strlen(process);
	req.id = container->object.id;
	req.exec_id = (char *)(uintptr_t)exec_id;
	req.spec = &spec;
	req.terminal = io->tty;
	if (io->in)
		req.stdin = (char *)(uintptr_t) "stream";
	return ask_agent(agent, &AGENT_TASK_EXEC, &req.base, CALL_NS, err);
}

int exec_start(struct container *container, struct agent *agent, const char *exec_id, struct err *err)
{
	Containerd__Task__V2__StartRequest start = CONTAINERD__TASK__V2__START_REQUEST__INIT;

	start.id = container->object.id;
	start.exec_id = (char *)(uintptr_t)exec_id;
	return ask_agent(agent, &AGENT_TASK_START, &start.base, START_NS, err);
}

static int begin(struct exec *e, char *const *args, struct err *err)
{
	static const struct container_io io = {.out = true, .err = true};
	int r = exec_add(e->container, e->agent, e->exec_id, args, &io, err);

	if (r == 0)
		r = call_check(e->call, err);
	return r < 0 ? r : exec_start(e->container, e->agent, e->exec_id, err);
}

static void forget(struct exec *e, bool ended)
{
	Containerd__Task__V2__KillRequest kill_req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;
	Containerd__Task__V2__WaitRequest wait = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;

	kill_req.id = wait.id = del.id = e->container->object.id;
	kill_req.exec_id = wait.exec_id = del.exec_id = e->exec_id;
	kill_req.signal = SIGKILL;
	if (!ended) {
		/* A guest that is silent once is not waited for again. */
		if (ask(e, &AGENT_TASK_KILL, &kill_req.base, CALL_NS, NULL) == -ETIMEDOUT)
			return;
		(void)ask(e, &AGENT_TASK_WAIT, &wait.base, CALL_NS, NULL);
	}
	(void)ask(e, &AGENT_TASK_DELETE, &del.base, CALL_NS, NULL);
}

static int take_records(struct exec *e, const Crivisor__Agent__V1__ReadLogResponse *resp, uint64_t *offset,
			struct err *err)
{
	if (resp->offset != *offset)
		return err_set_status(err, -EBADMSG, ERR_INTERNAL,
				      "the guest's agent sent output at the wrong offset");
	for (size_t i = 0; i < resp->n_records; i++) {
		const Crivisor__Agent__V1__LogRecord *rec = resp->records[i];
		struct buf *to = &e->out[rec->stream == CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR];
		size_t room = EXEC_OUTPUT_MAX - e->held, len = rec->data.len < room ? rec->data.len : room;

		if (exec_hold(e->container->pod, e->held, len, err) < 0)
			return -ENOBUFS;
		e->held += len;
		if (buf_put(to, rec->data.data, len) < 0)
			return err_oom(err);
		*offset += rec->data.len;
	}
	return 0;
}

/* 0 while the command may go on; its own timeout ends it as the call's deadline does. */
static int check_time(struct exec *e, int64_t *ret_left_ns, struct err *err)
{
	int64_t until = call_deadline(e->call) < e->deadline_ns ? call_deadline(e->call) : e->deadline_ns;
	int r = call_check(e->call, err);

	*ret_left_ns = until - now_monotonic_ns();
	if (r == 0 && *ret_left_ns <= 0)
		r = err_set(err, -ETIMEDOUT, "the command did not end in time");
	return r;
}

static int read_output(struct exec *e, struct err *err)
{
	Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	Crivisor__Agent__V1__AckRequest ack = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;
	uint64_t offset = 0, before;
	int64_t left_ns, answer_ns;
	int r = 0;

	req.container_id = ack.container_id = e->container->object.id;
	req.exec_id = ack.exec_id = e->exec_id;
	while (r == 0 && !e->eof) {
		Crivisor__Agent__V1__ReadLogResponse *resp = NULL;

		r = check_time(e, &left_ns, err);
		if (r < 0)
			return r;
		req.offset = offset;
		req.wait_ms = left_ns / NS_PER_MS < POLL_MS ? (uint32_t)(left_ns / NS_PER_MS) + 1 : POLL_MS;
		answer_ns = POLL_MS * NS_PER_MS + CALL_NS;
		if (left_ns < answer_ns - LATE_NS)
			answer_ns = left_ns + LATE_NS;
		r = agent_conn_call_by(e->conn, e->call, &AGENT_READ_LOG, &req.base, answer_ns,
				       (ProtobufCMessage **)&resp, err);
		if (r < 0)
			return r;
		before = offset;
		r = take_records(e, resp, &offset, err);
		e->eof = resp->eof;
		pb_free(resp);
		/*
		 * An honest agent has waited before it says nothing; one that says it at once must not busy
		 * this thread.
		 */
		if (r == 0 && offset == before && !e->eof)
			r = call_sleep(e->call, now_monotonic_ns() + PAUSE_NS, err);
		if (r == 0 && offset > ack.offset && !e->eof) {
			ack.offset = offset;
			r = agent_conn_call(e->conn, &AGENT_ACK, &ack.base, CALL_NS, NULL, err);
		}
	}
	return r;
}

static int wait_end(struct exec *e, int32_t *ret_code, struct err *err)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Containerd__Task__V2__WaitResponse *resp = NULL;
	int64_t left_ns;
	int r = check_time(e, &left_ns, err);

	if (r < 0)
		return r;
	req.id = e->container->object.id;
	req.exec_id = e->exec_id;
	/* The call's own deadline ends it too; 0: none. */
	r = agent_call_by(e->agent, e->call, &AGENT_TASK_WAIT, &req.base,
			  e->deadline_ns == INT64_MAX ? 0 : left_ns, (ProtobufCMessage **)&resp, err);
	if (r < 0)
		return r;
	*ret_code = (int32_t)resp->exit_status;
	pb_free(resp);
	return 0;
}

/* The command itself has ended. */
static bool has_ended(struct exec *e)
{
	Containerd__Task__V2__StateRequest req = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__StateResponse *resp = NULL;
	bool ended;

	req.id = e->container->object.id;
	req.exec_id = e->exec_id;
	if (agent_call(e->agent, &AGENT_TASK_STATE, &req.base, CALL_NS, (ProtobufCMessage **)&resp, NULL) < 0)
		return false;
	ended = resp->status == CONTAINERD__V1__TYPES__STATUS__STOPPED;
	pb_free(resp);
	return ended;
}

/* What ended it, in words, before it is killed. */
static int explain(struct exec *e, int r, int64_t timeout_s, struct err *err)
{
	const char *id = e->container->object.id;

	if (r != -ETIMEDOUT)
		return r < 0 ? err_wrap(err, "exec in container \"%s\"", id) : 0;
	if (has_ended(e))
		return err_set(err, r,
			       "command in container \"%s\" has ended, but its output is still held by other "
			       "processes, which were killed",
			       id);
	if (timeout_s > 0 && call_check(e->call, NULL) == 0)
		return err_set(err, r, "command in container \"%s\" timed out after %lld s and was killed",
			       id, (long long)timeout_s);
	return err_wrap(err, "exec in container \"%s\"", id);
}

int guest_open(struct agent *agent, struct call *call, struct agent_conn **ret_conn, struct err *err)
{
	Grpc__CheckRequest check = GRPC__CHECK_REQUEST__INIT;
	int64_t until = call_until(call, CALL_NS), left;
	int r = agent_open(agent, until, ret_conn, err);

	while (r == -ENOTCONN && (left = until - now_monotonic_ns()) > 0) {
		r = agent_call_by(agent, call, &AGENT_CHECK, &check.base, left, NULL, err);
		if (r == 0)
			r = agent_open(agent, until, ret_conn, err);
	}
	return r;
}

static int run(struct exec *e, char *const *args, int64_t timeout_s, struct exec_result *ret, struct err *err)
{
	const char *id = e->container->object.id;
	int r = guest_open(e->agent, e->call, &e->conn, err);

	if (r < 0)
		return err_wrap(err, "exec in container \"%s\"", id);
	r = begin(e, args, err);
	if (r == 0)
		r = read_output(e, err);
	if (r == 0)
		r = wait_end(e, &ret->exit_code, err);
	r = explain(e, r, timeout_s, err);
	forget(e, r == 0);
	agent_conn_close(e->conn);
	return r;
}

static void take_output(struct buf *buf, void **ret_data, size_t *ret_len)
{
	*ret_len = buf->len;
	*ret_data = NULL;
	if (buf->len > 0) {
		if (buf->head > 0)
			memmove(buf->mem, buf_data(buf), buf->len);
		*ret_data = move_ptr(buf->mem);
	}
}

/* When the command's own time is over: never, without a timeout. */
static int64_t deadline_of(int64_t timeout_s)
{
	int64_t now = now_monotonic_ns();

	return timeout_s > 0 && timeout_s < (INT64_MAX - now) / NS_PER_SEC ? now + timeout_s * NS_PER_SEC
									   : INT64_MAX;
}

int containers_exec(struct pods *pods, const char *id, char *const *args, int64_t timeout_s,
		    struct call *call, struct exec_result *ret_result, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct exec e = {.call = call, .deadline_ns = deadline_of(timeout_s)};
	struct exec_result result = {0};
	int r = container_find(pods, id, &c, err);

	if (r < 0)
		return r;
	if (!args || !args[0])
		return err_set(err, -EINVAL, "cmd is empty");
	if (timeout_s < 0)
		return err_set(err, -EINVAL, "timeout %lld is negative", (long long)timeout_s);
	r = pod_wait_adopted(c->pod, call, err);
	if (r < 0)
		return r;
	if (container_state(c) != CONTAINER_RUNNING)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "container \"%s\" is not running", c->object.id);
	r = pod_agent(c->pod, &e.agent, err);
	if (r == 0 && random_hex(16, e.exec_id) < 0)
		r = err_set(err, -EIO, "the kernel gives no random numbers");
	if (r < 0)
		return r;
	r = exec_enter(c->pod, err);
	if (r < 0)
		return r;
	e.container = c;
	r = run(&e, args, timeout_s, &result, err);
	exec_leave(c->pod, e.held);
	if (r == 0) {
		take_output(&e.out[0], &result.out, &result.out_len);
		take_output(&e.out[1], &result.err_out, &result.err_len);
		*ret_result = result;
	}
	buf_done(&e.out[0]);
	buf_done(&e.out[1]);
	return r;
}
