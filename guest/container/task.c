/* SPDX-License-Identifier: Apache-2.0 */
/* containerd.task.v2.Task: unpacks requests and calls ctr.c, exec.c and proc.c. */
#include "guest/container/ctr_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "base/version.h"
#include "guest/container/cgroup.h"

#include <signal.h>

static void task_state(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__StateRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__state_request__descriptor, payload, len);
	Containerd__Task__V2__StateResponse resp = CONTAINERD__TASK__V2__STATE_RESPONSE__INIT;
	Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
	static const Containerd__V1__Types__Status states[] = {
		[PROC_NEW] = CONTAINERD__V1__TYPES__STATUS__CREATED,
		[PROC_CREATED] = CONTAINERD__V1__TYPES__STATUS__CREATED,
		[PROC_STARTING] = CONTAINERD__V1__TYPES__STATUS__CREATED,
		[PROC_RUNNING] = CONTAINERD__V1__TYPES__STATUS__RUNNING,
		[PROC_STOPPED] = CONTAINERD__V1__TYPES__STATUS__STOPPED,
	};
	struct err err = ERR_INIT;
	const struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (!p) {
		ttrpc_fail(req, &err);
		return;
	}
	resp.id = p->ctr->id;
	resp.bundle = p->ctr->bundle;
	resp.pid = (uint32_t)p->pid;
	resp.status = states[p->state];
	if (p->state == PROC_RUNNING && p->ctr->paused)
		resp.status = CONTAINERD__V1__TYPES__STATUS__PAUSED;
	resp.stdin = p->names[0] ? p->names[0] : resp.stdin;
	resp.stdout = p->names[1] ? p->names[1] : resp.stdout;
	resp.stderr = p->names[2] ? p->names[2] : resp.stderr;
	resp.terminal = p->terminal;
	resp.exec_id = p->exec_id;
	if (p->state == PROC_STOPPED) {
		resp.exit_status = (uint32_t)p->exit_status;
		at.seconds = p->exited_at_ns / NS_PER_SEC;
		at.nanos = (int32_t)(p->exited_at_ns % NS_PER_SEC);
		resp.exited_at = &at;
	}
	rpc_reply(req, &resp.base);
}

static void task_create(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__CreateTaskRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__create_task_request__descriptor, payload, len);
	struct proc_io io;
	struct err err;

	if (!m)
		return;
	if (m->n_rootfs > 0 || !str_empty(m->checkpoint)) {
		err_set(&err, -EOPNOTSUPP, "container \"%.128s\": %s", m->id,
			m->n_rootfs > 0 ? "mounts for the rootfs are not supported; prepare it in the bundle"
					: "checkpoints are not supported");
		ttrpc_fail(req, &err);
		return;
	}
	io = (struct proc_io){.terminal = m->terminal, .in = m->stdin, .out = m->stdout, .err = m->stderr};
	ctr_create(ctx, m->id, m->bundle, &io, req);
}

static void task_start(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__StartRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__start_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (!p)
		ttrpc_fail(req, &err);
	else if (p->exec_id[0])
		ctr_exec_start(p, req);
	else
		ctr_start(p->ctr, req);
}

static void task_delete(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__DeleteRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__delete_request__descriptor, payload, len);
	Containerd__Task__V2__DeleteResponse resp = CONTAINERD__TASK__V2__DELETE_RESPONSE__INIT;
	Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
	struct err err = ERR_INIT;
	struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (p && !p->exec_id[0]) {
		ctr_delete(p->ctr, req);
		return;
	}
	if (p) {
		resp.pid = (uint32_t)p->pid;
		resp.exit_status = (uint32_t)p->exit_status;
		at.seconds = p->exited_at_ns / NS_PER_SEC;
		at.nanos = (int32_t)(p->exited_at_ns % NS_PER_SEC);
		resp.exited_at = &at;
	}
	if (!p || ctr_exec_remove(p, &err) < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply(req, &resp.base);
}

static void task_pids(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__PidsRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__pids_request__descriptor, payload, len);
	Containerd__Task__V2__PidsResponse resp = CONTAINERD__TASK__V2__PIDS_RESPONSE__INIT;
	Containerd__V1__Types__ProcessInfo *infos CLEANUP_FREE = calloc(CGROUP_PIDS_MAX, sizeof(*infos));
	Containerd__V1__Types__ProcessInfo **list CLEANUP_FREE = calloc(CGROUP_PIDS_MAX, sizeof(*list));
	pid_t *pids CLEANUP_FREE = calloc(CGROUP_PIDS_MAX, sizeof(*pids));
	struct err err = ERR_INIT;
	const struct ctr *c;
	int n = 0;

	if (!m)
		return;
	c = ctr_find(ctx, m->id, &err);
	if (c && (!infos || !list || !pids)) {
		err_oom(&err);
		c = NULL;
	}
	if (!c) {
		ttrpc_fail(req, &err);
		return;
	}
	if (c->cgroup)
		n = cgroup_pids(c->agent->cgroup2, c->cgroup, pids, CGROUP_PIDS_MAX);
	for (int i = 0; i < n; i++) {
		containerd__v1__types__process_info__init(&infos[i]);
		infos[i].pid = (uint32_t)pids[i];
		list[i] = &infos[i];
	}
	resp.processes = list;
	resp.n_processes = n > 0 ? (size_t)n : 0;
	rpc_reply(req, &resp.base);
}

static void pause_or_resume(struct ttrpc_request *req, struct agent *agent, const char *id, bool pause)
{
	struct err err = ERR_INIT;
	struct ctr *c = ctr_find(agent, id, &err);

	if (!c || ctr_pause(c, pause, &err) < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

static void task_pause(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__PauseRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__pause_request__descriptor, payload, len);

	if (m)
		pause_or_resume(req, ctx, m->id, true);
}

static void task_resume(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__ResumeRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__resume_request__descriptor, payload, len);

	if (m)
		pause_or_resume(req, ctx, m->id, false);
}

static void task_checkpoint(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err;

	(void)ctx;
	(void)payload;
	(void)len;
	err_set(&err, -EOPNOTSUPP, "checkpoints are not supported");
	ttrpc_fail(req, &err);
}

static void task_kill(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__KillRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__kill_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct proc *p;
	int r = -EINVAL;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (p && m->signal >= NSIG)
		err_set(&err, -EINVAL, "signal %u is not valid", m->signal);
	else if (p)
		r = m->all && !p->exec_id[0] ? ctr_kill_all(p->ctr, (int)m->signal, &err)
					     : proc_kill(p, (int)m->signal, &err);
	if (r < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

static void task_exec(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__ExecProcessRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__exec_process_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct ctr *c;
	struct proc_io io;

	if (!m)
		return;
	io = (struct proc_io){.terminal = m->terminal, .in = m->stdin, .out = m->stdout, .err = m->stderr};
	c = ctr_find(ctx, m->id, &err);
	if (!c || ctr_exec_add(c, m->exec_id, &io, m->spec ? m->spec->value.data : NULL,
			       m->spec ? m->spec->value.len : 0, &err) < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

static void task_resize(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__ResizePtyRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__resize_pty_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	const struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (!p || stdio_resize(p->stdio, m->width, m->height, &err) < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

static void task_close_io(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__CloseIORequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__close_iorequest__descriptor, payload, len);
	struct err err = ERR_INIT;
	const struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (!p) {
		ttrpc_fail(req, &err);
		return;
	}
	if (m->stdin)
		stdio_close_in(p->stdio);
	rpc_reply_empty(req);
}

static void task_update(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__UpdateTaskRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__update_task_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct ctr *c;

	if (!m)
		return;
	c = ctr_find(ctx, m->id, &err);
	if (c && (!m->resources || m->resources->value.len == 0)) {
		err_set(&err, -EINVAL, "update of container \"%s\": resources are missing", c->id);
		c = NULL;
	}
	if (!c)
		ttrpc_fail(req, &err);
	else
		ctr_update(c, m->resources->value.data, m->resources->value.len, req);
}

static void task_wait(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__WaitRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__wait_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct proc *p;

	if (!m)
		return;
	p = ctr_proc(ctx, m->id, m->exec_id, &err);
	if (!p)
		ttrpc_fail(req, &err);
	else
		proc_wait(p, req);
}

static void task_stats(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__StatsRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__stats_request__descriptor, payload, len);
	Containerd__Task__V2__StatsResponse resp = CONTAINERD__TASK__V2__STATS_RESPONSE__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	struct figures figures;
	void *data CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;

	if (!m)
		return;
	if (container_stats(ctx, m->id, &figures, &err) == 0) {
		data = rpc_pack(&figures.stats.base, &any.value.len);
		if (!data)
			err_oom(&err);
	}
	if (!data) {
		ttrpc_fail(req, &err);
		return;
	}
	any.type_url = (char *)"type.googleapis.com/crivisor.agent.v1.StatsResponse";
	any.value.data = data;
	resp.stats = &any;
	rpc_reply(req, &resp.base);
}

static void task_connect(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Containerd__Task__V2__ConnectRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__connect_request__descriptor, payload, len);
	Containerd__Task__V2__ConnectResponse resp = CONTAINERD__TASK__V2__CONNECT_RESPONSE__INIT;
	struct err err = ERR_INIT;
	const struct ctr *c;

	if (!m)
		return;
	c = ctr_find(ctx, m->id, &err);
	if (!c) {
		ttrpc_fail(req, &err);
		return;
	}
	resp.shim_pid = (uint32_t)getpid();
	resp.task_pid = (uint32_t)c->init.pid;
	resp.version = (char *)(uintptr_t)crv_version;
	rpc_reply(req, &resp.base);
}

static void task_shutdown(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct agent *agent = ctx;
	Containerd__Task__V2__ShutdownRequest *m RPC_MESSAGE =
		rpc_unpack(req, &containerd__task__v2__shutdown_request__descriptor, payload, len);

	if (!m)
		return;
	rpc_reply_empty(req);
	agent->ops->shutdown(agent, "the host asked for it");
}

const struct ttrpc_method task_methods[] = {
	{.name = "State", .unary = task_state},	      {.name = "Create", .unary = task_create},
	{.name = "Start", .unary = task_start},	      {.name = "Delete", .unary = task_delete},
	{.name = "Pids", .unary = task_pids},	      {.name = "Pause", .unary = task_pause},
	{.name = "Resume", .unary = task_resume},     {.name = "Checkpoint", .unary = task_checkpoint},
	{.name = "Kill", .unary = task_kill},	      {.name = "Exec", .unary = task_exec},
	{.name = "ResizePty", .unary = task_resize},  {.name = "CloseIO", .unary = task_close_io},
	{.name = "Update", .unary = task_update},     {.name = "Wait", .unary = task_wait},
	{.name = "Stats", .unary = task_stats},	      {.name = "Connect", .unary = task_connect},
	{.name = "Shutdown", .unary = task_shutdown}, {.name = NULL},
};
