/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/proc_internal.h"

#include "api/agent/events.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "guest/container/cgroup.h"
#include "guest/container/ctr_internal.h"
#include "guest/rpc/events.h"
#include "guest/core/agent.h"

#include <signal.h>

#define STATUS_LOST 255 /* the end of the process was not seen */

const char *proc_name(const struct proc *p, char *buf, size_t len)
{
	if (p->exec_id[0])
		snprintf(buf, len, "exec \"%s\" of container \"%s\"", p->exec_id, p->ctr->id);
	else
		snprintf(buf, len, "container \"%s\"", p->ctr->id);
	return buf;
}

int proc_init(struct proc *p, struct agent *agent, struct ctr *ctr, const char *exec_id,
	      const struct proc_io *io, struct err *err)
{
	*p = (struct proc){.agent = agent, .ctr = ctr, .terminal = io->terminal, .child_stdio = {-1, -1, -1}};
	if (str_set(&p->exec_id, exec_id ? exec_id : "") < 0 || str_set(&p->names[0], io->in) < 0 ||
	    str_set(&p->names[1], io->out) < 0 || str_set(&p->names[2], io->err) < 0)
		return err_oom(err);
	p->stdio = stdio_new(agent, io->terminal, !str_empty(io->in), p->child_stdio, err);
	if (!p->stdio)
		return err ? err->code : -EIO;
	p->stdio->patient = p->exec_id[0] != 0;
	p->stdio->named[0] = !str_empty(io->out);
	p->stdio->named[1] = !str_empty(io->err);
	return 0;
}

void proc_close_child_stdio(struct proc *p)
{
	for (int i = 0; i < 3; i++)
		p->child_stdio[i] = close_fd(p->child_stdio[i]);
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

static void waiter_free(struct proc_waiter *w)
{
	*w->prevp = w->next;
	if (w->next)
		w->next->prevp = w->prevp;
	free(w);
}

static void on_waiter_gone(void *arg)
{
	waiter_free(arg);
}

static void fill_timestamp(Google__Protobuf__Timestamp *at, int64_t ns)
{
	google__protobuf__timestamp__init(at);
	at->seconds = ns / NS_PER_SEC;
	at->nanos = (int32_t)(ns % NS_PER_SEC);
}

static void answer_wait(struct rpc_slot *slot, const struct proc *p)
{
	Containerd__Task__V2__WaitResponse resp = CONTAINERD__TASK__V2__WAIT_RESPONSE__INIT;
	Google__Protobuf__Timestamp at;

	fill_timestamp(&at, p->exited_at_ns);
	resp.exit_status = (uint32_t)p->exit_status;
	resp.exited_at = &at;
	rpc_slot_reply(slot, &resp.base);
}

void proc_wait(struct proc *p, struct ttrpc_request *req)
{
	struct rpc_slot now = {.req = req};
	struct proc_waiter *w;
	struct err err;

	if (p->state == PROC_STOPPED) {
		answer_wait(&now, p);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w) {
		err_oom(&err);
		ttrpc_fail(req, &err);
		return;
	}
	*w = (struct proc_waiter){.next = p->waiters, .prevp = &p->waiters};
	if (w->next)
		w->next->prevp = &w->next;
	p->waiters = w;
	rpc_slot_take(&w->slot, req, on_waiter_gone, w);
}

static void answer_waiters(struct proc *p)
{
	while (p->waiters) {
		answer_wait(&p->waiters->slot, p);
		waiter_free(p->waiters);
	}
}

/* ---- life and death ------------------------------------------------------------------------------------ */

static void tell_exit(struct proc *p)
{
	Containerd__Events__TaskExit ev = CONTAINERD__EVENTS__TASK_EXIT__INIT;
	Google__Protobuf__Timestamp at;

	fill_timestamp(&at, p->exited_at_ns);
	ev.container_id = p->ctr->id;
	ev.id = p->exec_id[0] ? p->exec_id : p->ctr->id;
	ev.pid = (uint32_t)p->pid;
	ev.exit_status = (uint32_t)p->exit_status;
	ev.exited_at = &at;
	events_push(p->agent->events, "/tasks/exit", &ev.base);
}

static void stopped(struct proc *p, int status, int64_t at_ns)
{
	p->state = PROC_STOPPED;
	p->exit_status = status;
	p->exited_at_ns = at_ns;
	proc_close_child_stdio(p);
	stdio_exited(p->stdio);
	if (!p->exec_id[0])
		ctr_ended(p->ctr);
	answer_waiters(p);
	tell_exit(p);
}

static void on_exit_(void *arg, pid_t pid, int status, int64_t at_ns)
{
	(void)pid;
	stopped(arg, status, at_ns);
}

void proc_born(struct proc *p, pid_t pid, uint64_t since, enum proc_state state)
{
	p->pid = pid;
	p->state = state;
	reap_watch(&p->watch, pid, since, on_exit_, p);
	/* Neither alive nor remembered: more orphans died in between than are kept. */
	if (p->state != PROC_STOPPED && kill(pid, 0) < 0 && errno == ESRCH) {
		reap_unwatch(&p->watch);
		stopped(p, STATUS_LOST, now_realtime_ns());
	}
}

void proc_stillborn(struct proc *p, int status)
{
	if (p->state != PROC_STOPPED)
		stopped(p, status, now_realtime_ns());
}

int proc_kill(struct proc *p, int sig, struct err *err)
{
	char name[2 * AGENT_ID_MAX + 64];

	if (sig == SIGKILL && p->cgroup && (p->pid > 0 || p->state == PROC_STOPPED))
		return cgroup_kill(true, p->cgroup, err);
	if (p->state == PROC_STOPPED)
		return err_set(err, -ESRCH, "%s: process already finished", proc_name(p, name, sizeof(name)));
	if (p->pid == 0 && p->run && sig != 0) {
		crun_kill(p->run);
		return 0;
	}
	if (p->pid == 0)
		return err_set_status(err, -ESRCH, ERR_FAILED_PRECONDITION, "%s: process is not started",
				      proc_name(p, name, sizeof(name)));
	/* Our child, reaped by us alone and not reaped yet: the number cannot mean another process. */
	if (kill(p->pid, sig) < 0)
		return err_set_errno(err, -errno, "signal %d to %s", sig, proc_name(p, name, sizeof(name)));
	/* An exec without a cgroup is a session of its own: what stays in it goes when the exec is killed. */
	if (sig == SIGKILL && p->exec_id[0])
		kill(-p->pid, sig);
	return 0;
}

void proc_done(struct proc *p)
{
	char name[2 * AGENT_ID_MAX + 64];
	struct err err;

	reap_unwatch(&p->watch);
	if (p->exec_id && p->ctr->id)
		err_set(&err, -ENOENT, "%s was deleted", proc_name(p, name, sizeof(name)));
	else
		err_set(&err, -ENOENT, "process was deleted");
	while (p->waiters) {
		rpc_slot_fail(&p->waiters->slot, &err);
		waiter_free(p->waiters);
	}
	rpc_slot_fail(&p->slot, &err);
	proc_close_child_stdio(p);
	p->stdio = stdio_free(p->stdio);
	if (p->spec_path)
		unlink(p->spec_path);
	free(p->spec_path);
	free(p->cgroup);
	free(p->exec_id);
	for (int i = 0; i < 3; i++)
		free(p->names[i]);
	*p = (struct proc){.child_stdio = {-1, -1, -1}};
}
