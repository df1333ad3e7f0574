/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a container: by the runtime, or by its FIFO where that is the same. */
#include "guest/container/ctr_internal.h"

#include "api/agent/task.pb-c.h"
#include "guest/container/crun_internal.h"

#include <fcntl.h>

void ctr_answer_started(struct proc *p)
{
	Containerd__Task__V2__StartResponse resp = CONTAINERD__TASK__V2__START_RESPONSE__INIT;

	resp.pid = (uint32_t)p->pid;
	rpc_slot_reply(&p->slot, &resp.base);
}

static void on_started(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;

	(void)pid;
	(void)since;
	c->init.run = NULL;
	if (err) {
		rpc_slot_fail(&c->init.slot, err);
		return;
	}
	if (c->init.state == PROC_CREATED)
		c->init.state = PROC_RUNNING;
	ctr_answer_started(&c->init);
}

/*
 * What `crun start` does for a container without hooks, with the versions in crun_version.c: the container's
 * process waits for a byte on its FIFO. It saves the start-up of the program.
 */
static int start_directly(struct ctr *c)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s/exec.fifo", c->agent->paths.crun_root, c->id);
	int fd CLEANUP_CLOSE = path ? open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC) : -1;

	if (fd < 0)
		return -errno;
	if (unlink(path) < 0)
		return -errno;
	return write(fd, "", 1) == 1 ? 0 : -errno;
}

void ctr_start(struct ctr *c, struct ttrpc_request *req)
{
	char *const args[] = {(char *)"start", NULL};
	struct crun_args run = {.args = args, .id = c->id, .stdio = {-1, -1, -1}};
	struct err err = ERR_INIT;

	if (ctr_busy(c, &err)) {
		ttrpc_fail(req, &err);
		return;
	}
	if (c->init.state != PROC_CREATED) {
		err_set_status(&err, -EINVAL, ERR_FAILED_PRECONDITION,
			       "container \"%s\" cannot be started: it is %s", c->id,
			       c->init.state == PROC_STOPPED ? "stopped" : "already running");
		ttrpc_fail(req, &err);
		return;
	}
	rpc_slot_take(&c->init.slot, req, NULL, NULL);
	if (!c->hooks && c->agent->containers->fifo_known && start_directly(c) == 0) {
		c->init.state = PROC_RUNNING;
		ctr_answer_started(&c->init);
		return;
	}
	c->init.run = crun_start(c->agent, &run, on_started, c, &err);
	if (!c->init.run)
		rpc_slot_fail(&c->init.slot, &err);
}
