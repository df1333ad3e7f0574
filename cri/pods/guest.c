/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent is asked about containers. Each call has a deadline of its own. */
#include "cri/pods/pods_internal.h"

#include "api/agent/task.pb-c.h"
#include "api/pb.h"
#include "cri/agent/agent.h"

#include <signal.h>

#define CREATE_NS (90 * NS_PER_SEC)
#define START_NS  (60 * NS_PER_SEC)
#define STATE_NS  (15 * NS_PER_SEC)
#define KILL_NS	  (10 * NS_PER_SEC)

static int ask(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
	       int64_t timeout_ns, struct err *err)
{
	ProtobufCMessage *resp = NULL;
	int r = agent_call(agent, method, req, timeout_ns, &resp, err);

	pb_free(resp);
	return r;
}

/* Requests lend their strings, which protobuf-c does not know as const. */
static char *lend(const char *s)
{
	return (char *)(uintptr_t)s;
}

int guest_create(struct agent *agent, const char *id, const char *bundle, bool terminal, bool stdin_open,
		 struct err *err)
{
	Containerd__Task__V2__CreateTaskRequest req = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;

	req.id = lend(id);
	req.bundle = lend(bundle);
	req.terminal = terminal;
	if (stdin_open)
		req.stdin = lend("stream");
	return ask(agent, &AGENT_TASK_CREATE, &req.base, CREATE_NS, err);
}

int guest_start(struct agent *agent, const char *id, struct err *err)
{
	Containerd__Task__V2__StartRequest req = CONTAINERD__TASK__V2__START_REQUEST__INIT;

	req.id = lend(id);
	return ask(agent, &AGENT_TASK_START, &req.base, START_NS, err);
}

int guest_update(struct agent *agent, const char *id, const char *resources, struct err *err)
{
	Containerd__Task__V2__UpdateTaskRequest req = CONTAINERD__TASK__V2__UPDATE_TASK_REQUEST__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

	any.value.data = (uint8_t *)lend(resources);
	any.value.len = strlen(resources);
	req.id = lend(id);
	req.resources = &any;
	return ask(agent, &AGENT_TASK_UPDATE, &req.base, CALL_NS, err);
}

int guest_kill(struct agent *agent, const char *id, uint32_t signo, bool all, int64_t timeout_ns,
	       struct err *err)
{
	Containerd__Task__V2__KillRequest req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;

	req.id = lend(id);
	req.signal = signo;
	req.all = all;
	return ask(agent, &AGENT_TASK_KILL, &req.base, timeout_ns, err);
}

int guest_kill_async(struct agent *agent, const char *id, const char *exec_id, uint32_t signo, bool all,
		     agent_reply_fn *reply, void *arg)
{
	Containerd__Task__V2__KillRequest req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;

	req.id = lend(id);
	req.exec_id = lend(exec_id);
	req.signal = signo;
	req.all = all;
	return agent_call_async(agent, &AGENT_TASK_KILL, &req.base, KILL_NS, reply, arg);
}

static int state_of(struct agent *agent, struct call *call, const char *id,
		    Containerd__Task__V2__StateResponse **ret_resp, struct err *err)
{
	Containerd__Task__V2__StateRequest req = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;

	req.id = lend(id);
	return agent_call_by(agent, call, &AGENT_TASK_STATE, &req.base, STATE_NS,
			     (ProtobufCMessage **)ret_resp, err);
}

int guest_ask_created(struct agent *agent, struct call *call, const char *id, bool *ret_created,
		      struct err *err)
{
	Containerd__Task__V2__StateResponse *resp = NULL;
	int r = state_of(agent, call, id, &resp, err);

	if (r < 0)
		return r;
	*ret_created = resp->status == CONTAINERD__V1__TYPES__STATUS__CREATED;
	pb_free(resp);
	return 0;
}

bool guest_is_created(struct agent *agent, const char *id)
{
	bool created = false;

	return guest_ask_created(agent, NULL, id, &created, NULL) == 0 && created;
}

int guest_pid(struct agent *agent, const char *id, uint32_t *ret_pid, struct err *err)
{
	Containerd__Task__V2__StateResponse *resp = NULL;
	int r = state_of(agent, NULL, id, &resp, err);

	if (r < 0)
		return err_wrap(err, "the state of container \"%s\"", id);
	*ret_pid = resp->pid;
	pb_free(resp);
	return 0;
}

static int delete_task(struct agent *agent, const char *id, struct err *err)
{
	Containerd__Task__V2__DeleteRequest req = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	int r;

	req.id = lend(id);
	r = ask(agent, &AGENT_TASK_DELETE, &req.base, CALL_NS, err);
	return r < 0 && err->status == ERR_NOT_FOUND ? 0 : r;
}

/* Also one that was created and never started has a process, which waits to be started. */
static int kill_task(struct agent *agent, const char *id, struct err *err)
{
	Containerd__Task__V2__WaitRequest wait = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	int r = guest_kill(agent, id, SIGKILL, true, KILL_NS, err);

	wait.id = lend(id);
	if (r == 0)
		(void)ask(agent, &AGENT_TASK_WAIT, &wait.base, KILL_NS, NULL);
	return r;
}

int guest_end(struct agent *agent, const char *id, bool kill_first, struct err *err)
{
	struct err why = ERR_INIT;
	int r;

	/* A guest that is silent once is not waited for again. */
	if (kill_first && kill_task(agent, id, &why) < 0 && why.status == ERR_DEADLINE_EXCEEDED)
		return err_copy(err, &why);
	r = delete_task(agent, id, &why);
	if (r < 0 && why.status == ERR_FAILED_PRECONDITION) { /* it is not stopped */
		(void)kill_task(agent, id, NULL);
		r = delete_task(agent, id, &why);
	}
	return r < 0 ? err_copy(err, &why) : 0;
}
