/* SPDX-License-Identifier: Apache-2.0 */
/* Deletion and update of a container by the runtime. */
#include "guest/container/ctr_internal.h"

#include "api/agent/task.pb-c.h"
#include "guest/container/cgroup.h"
#include "guest/container/crun_internal.h"

static void answer_delete(struct rpc_slot *slot, const struct proc *p)
{
	Containerd__Task__V2__DeleteResponse resp = CONTAINERD__TASK__V2__DELETE_RESPONSE__INIT;
	Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;

	at.seconds = p->exited_at_ns / NS_PER_SEC;
	at.nanos = (int32_t)(p->exited_at_ns % NS_PER_SEC);
	resp.pid = (uint32_t)p->pid;
	resp.exit_status = (uint32_t)p->exit_status;
	resp.exited_at = &at;
	rpc_slot_reply(slot, &resp.base);
}

static void on_deleted_flight(void *arg, enum share_flight flight)
{
	struct ctr *c = arg;
	struct err err;

	if (flight == SHARE_HUNG) { /* it may be tried again */
		c->deleting = false;
		err_set_status(&err, -ETIMEDOUT, ERR_UNAVAILABLE,
			       "container \"%s\" cannot be unmounted: virtiofsd has not answered for %lld s",
			       c->id, (long long)(SHARE_HUNG_NS / NS_PER_SEC));
		rpc_slot_fail(&c->slot, &err);
		return;
	}
	c->mounts = share_release_mounts(c->mounts);
	ctr_release(c);
	answer_delete(&c->slot, &c->init);
	ctr_free(c);
}

static void on_deleted(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;
	char *state CLEANUP_FREE = xasprintf("%s/%s", c->agent->paths.crun_root, c->id);

	(void)pid;
	(void)since;
	c->run = NULL;
	if (err && state && access(state, F_OK) == 0) {
		c->deleting = false;
		rpc_slot_fail(&c->slot, err);
		return;
	}
	if (c->cgroup)
		cgroup_remove(c->agent->cgroup2, c->cgroup);
	share_wait(c->agent, &c->share, on_deleted_flight, c);
}

static bool execs_busy(const struct ctr *c)
{
	for (const struct proc *p = c->execs; p; p = p->next) {
		if (p->run)
			return true;
	}
	return false;
}

void ctr_delete(struct ctr *c, struct ttrpc_request *req)
{
	char *const args[] = {(char *)"delete", (char *)"--force", NULL};
	struct crun_args run = {.args = args, .id = c->id, .stdio = {-1, -1, -1}};
	struct err err = ERR_INIT;

	if (c->deleting && (c->run || loop_timer_armed(&c->share.timer)) && !c->slot.req) {
		/* The first caller gave up: this one gets the answer. */
		rpc_slot_take(&c->slot, req, NULL, NULL);
		return;
	}
	if (ctr_busy(c, &err)) {
		ttrpc_fail(req, &err);
		return;
	}
	if (c->init.state != PROC_STOPPED || execs_busy(c)) {
		err_set_status(&err, -EBUSY, ERR_FAILED_PRECONDITION, "container \"%s\" is not stopped",
			       c->id);
		ttrpc_fail(req, &err);
		return;
	}
	c->run = crun_start(c->agent, &run, on_deleted, c, &err);
	if (!c->run) {
		ttrpc_fail(req, &err);
		return;
	}
	c->deleting = true;
	rpc_slot_take(&c->slot, req, NULL, NULL);
}

static void on_updated(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;

	(void)pid;
	(void)since;
	c->run = NULL;
	unlink(c->run_file);
	free(c->run_file);
	c->run_file = NULL;
	if (err)
		rpc_slot_fail(&c->slot, err);
	else
		rpc_slot_reply_empty(&c->slot);
}

void ctr_update(struct ctr *c, const void *json, size_t len, struct ttrpc_request *req)
{
	char *args[] = {(char *)"update", (char *)"--resources", NULL, NULL};
	struct crun_args run = {.args = args, .id = c->id, .stdio = {-1, -1, -1}};
	struct err err = ERR_INIT;
	int r;

	if (ctr_busy(c, &err)) {
		ttrpc_fail(req, &err);
		return;
	}
	if (c->init.state != PROC_CREATED && c->init.state != PROC_RUNNING) {
		err_set_status(&err, -ESRCH, ERR_FAILED_PRECONDITION, "container \"%s\" is not running",
			       c->id);
		ttrpc_fail(req, &err);
		return;
	}
	c->run_file = xasprintf("%s/%u.json", c->agent->paths.tmp, agent_serial());
	r = c->run_file ? write_file(c->run_file, json, len, 0600) : -ENOMEM;
	args[2] = c->run_file;
	if (r == 0) {
		c->run = crun_start(c->agent, &run, on_updated, c, &err);
		r = c->run ? 0 : -EIO;
	} else {
		err_set_errno(&err, r, "write resources");
	}
	if (r == 0) {
		rpc_slot_take(&c->slot, req, NULL, NULL);
		return;
	}
	ttrpc_fail(req, &err);
	free(c->run_file);
	c->run_file = NULL;
}
