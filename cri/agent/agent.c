/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/agent/agent_internal.h"

#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/util.h"

#include <time.h>

#define CHECK_FIRST_NS (1 * NS_PER_SEC) /* the first Check's share of the deadline; doubled each time */
#define RETRY_PAUSE_NS (5 * NS_PER_MS)

int agent_new(struct loop *loop, struct vm *vm, struct agent **ret_agent, struct err *err)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return err_oom(err);
	agent->loop = loop;
	agent->vm = vm;
	atomic_store(&agent->refs, 1);
	pthread_mutex_init(&agent->lock, NULL);
	*ret_agent = agent;
	return 0;
}

void agent_unref(struct agent *agent)
{
	if (atomic_fetch_sub(&agent->refs, 1) != 1)
		return;
	pthread_mutex_destroy(&agent->lock);
	free(agent);
}

/* Takes the control connection off, for whoever closes it. */
static struct agent_conn *take_control(struct agent *agent)
{
	struct agent_conn *control;

	pthread_mutex_lock(&agent->lock);
	control = agent->control;
	agent->control = NULL;
	pthread_mutex_unlock(&agent->lock);
	return control;
}

void agent_abort(struct agent *agent, const struct err *why)
{
	pthread_mutex_lock(&agent->lock);
	if (!agent->aborted) {
		agent->aborted = true;
		agent->why = *why;
		if (agent->why.code >= 0)
			err_set(&agent->why, -ECANCELED, "the VM is gone");
		for (struct agent_conn *conn = agent->conns; conn; conn = conn->next)
			agent_conn_abort(conn, &agent->why);
	}
	pthread_mutex_unlock(&agent->lock);
}

struct agent *agent_free(struct agent *agent)
{
	struct err why = ERR_INIT;

	if (!agent)
		return NULL;
	err_set(&why, -ECANCELED, "the pod is gone");
	agent_abort(agent, &why);
	agent_conn_close(take_control(agent));
	agent_unref(agent);
	return NULL;
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

/* A reference to the control connection, or why there is none. */
static int control_of(struct agent *agent, struct agent_conn **ret_conn, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&agent->lock);
	if (agent->aborted)
		r = err_copy(err, &agent->why);
	else if (!agent->control)
		r = err_set(err, -ENOTCONN, "not connected to the guest's agent");
	else
		*ret_conn = agent_conn_ref(agent->control);
	pthread_mutex_unlock(&agent->lock);
	return r;
}

int agent_adopt(struct agent *agent, int fd, struct agent_conn **ret_conn, struct err *err)
{
	return agent_conn_new(agent, fd, ret_conn, err);
}

int agent_open(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err)
{
	int fd, r = 0;

	if (loop_on_thread(agent->loop))
		return err_set(err, -EDEADLK, "connecting to the agent would block the event loop");
	pthread_mutex_lock(&agent->lock);
	if (agent->aborted)
		r = err_copy(err, &agent->why);
	pthread_mutex_unlock(&agent->lock);
	if (r < 0)
		return r;
	fd = vm_connect(agent->vm, GUEST_PORT_AGENT, deadline_ns, err);
	if (fd < 0)
		return fd;
	return agent_conn_new(agent, fd, ret_conn, err);
}

static int try_once(struct agent *agent, int64_t deadline_ns, int64_t check_ns, struct err *err)
{
	Grpc__CheckRequest req = GRPC__CHECK_REQUEST__INIT;
	struct agent_conn *conn = NULL, *old = NULL;
	int64_t left;
	int r = agent_open(agent, deadline_ns, &conn, err);

	if (r < 0)
		return r;
	left = deadline_ns - now_monotonic_ns();
	if (left > check_ns)
		left = check_ns;
	r = agent_conn_call(conn, &AGENT_CHECK, &req.base, left > 0 ? left : 1, NULL, err);
	if (r < 0) {
		agent_conn_close(conn);
		return r;
	}
	pthread_mutex_lock(&agent->lock);
	old = agent->control;
	agent->control = conn;
	pthread_mutex_unlock(&agent->lock);
	agent_conn_close(old);
	return 0;
}

/* A connection can be made before the agent serves it, or be lost while the guest boots. */
static bool worth_another_try(const struct agent *agent, int r, int64_t deadline_ns)
{
	if (agent->aborted || now_monotonic_ns() >= deadline_ns)
		return false;
	return r == -ETIMEDOUT || r == -ECONNRESET || r == -EPIPE;
}

int agent_connect(struct agent *agent, int64_t deadline_ns, struct err *err)
{
	int64_t check_ns = CHECK_FIRST_NS;

	for (;;) {
		int r = try_once(agent, deadline_ns, check_ns, err);
		bool again;

		pthread_mutex_lock(&agent->lock);
		again = r < 0 && worth_another_try(agent, r, deadline_ns);
		pthread_mutex_unlock(&agent->lock);
		if (!again)
			return r;
		check_ns *= 2;
		nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_NS}, NULL);
	}
}

/* ---- calls on the control connection ------------------------------------------------------------------- */

int agent_call(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
	       int64_t timeout_ns, ProtobufCMessage **ret_resp, struct err *err)
{
	struct agent_conn *conn = NULL;
	int r = control_of(agent, &conn, err);

	if (r < 0)
		return r;
	r = agent_conn_call(conn, method, req, timeout_ns, ret_resp, err);
	agent_conn_unref(conn);
	return r;
}

int agent_call_async(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, agent_reply_fn *reply, void *arg)
{
	struct agent_conn *conn = NULL;
	int r = control_of(agent, &conn, NULL);

	if (r < 0)
		return r;
	r = agent_conn_call_async(conn, method, req, timeout_ns, reply, arg);
	agent_conn_unref(conn);
	return r;
}
