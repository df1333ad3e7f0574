/* SPDX-License-Identifier: Apache-2.0 */
/* Further processes of a container. */
#include "guest/container/ctr_internal.h"

#include "guest/container/cgroup.h"
#include "guest/container/config_internal.h"
#include "guest/container/crun_internal.h"

/* The name of an exec's cgroup below its container's. No program of a container would take such a name. */
#define EXEC_CGROUP "crivisor-exec-"

#define SPEC_MAX	 (1u << 20)
#define STATUS_UNSTARTED 255 /* exit status of an exec that the runtime could not start */

/*
 * Removes the cgroup of an exec that is forgotten, if nothing lives in it. What such an exec has left behind
 * keeps its cgroup until it has ended, too: hence all of them are looked at.
 */
static void remove_if_empty(void *arg, const char *name)
{
	const struct ctr *c = arg;
	char *path CLEANUP_FREE = xasprintf("%s/%s", c->cgroup, name);

	if (!path || !str_starts(name, EXEC_CGROUP))
		return;
	for (const struct proc *p = c->execs; p; p = p->next) {
		if (p->cgroup && str_eq(p->cgroup, path))
			return;
	}
	cgroup_remove_empty(path);
}

void exec_free(struct proc *p)
{
	struct proc **at = &p->ctr->execs;
	struct ctr *c = p->ctr;
	bool own = p->cgroup;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	c->execs_len--;
	proc_done(p);
	free(p);
	if (own && c->cgroup)
		cgroup_each(c->cgroup, remove_if_empty, c);
}

/* v1 has no cgroup.kill, and its hierarchies would need one each. */
static int make_cgroup(struct proc *p, const char **ret_name, struct err *err)
{
	const struct ctr *c = p->ctr;
	int r;

	*ret_name = NULL;
	if (!c->agent->cgroup2 || !c->cgroup)
		return 0;
	p->cgroup = xasprintf("%s/" EXEC_CGROUP "%u", c->cgroup, agent_serial());
	if (!p->cgroup)
		return err_oom(err);
	r = cgroup_make(p->cgroup, err);
	if (r < 0) {
		free(p->cgroup);
		p->cgroup = NULL;
		return r;
	}
	*ret_name = strrchr(p->cgroup, '/') + 1;
	return 0;
}

int ctr_exec_add(struct ctr *c, const char *exec_id, const struct proc_io *io, const void *spec, size_t len,
		 struct err *err)
{
	struct proc *p;
	int score = 0, r = agent_id_check("exec id", exec_id, err);

	if (r < 0)
		return r;
	if (len == 0 || len > SPEC_MAX)
		return err_set(err, -EINVAL, "exec \"%s\": process of %zu bytes: want 1 to %u", exec_id, len,
			       SPEC_MAX);
	if (c->deleting || c->init.state != PROC_RUNNING)
		return err_set_status(err, -ESRCH, ERR_FAILED_PRECONDITION, "container \"%s\" is not running",
				      c->id);
	if (ctr_proc(c->agent, c->id, exec_id, NULL))
		return err_set(err, -EEXIST, "exec \"%s\" of container \"%s\" exists already", exec_id,
			       c->id);
	if (c->execs_len >= CTR_EXECS_MAX)
		return err_set_status(err, -ENOSPC, ERR_RESOURCE_EXHAUSTED,
				      "container \"%s\" has %u execs already", c->id, c->execs_len);
	r = config_oom_score(spec, len, &score, err);
	if (r < 0)
		return err_wrap(err, "exec \"%s\": its process", exec_id);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_oom(err);
	r = proc_init(p, c->agent, c, exec_id, io, err);
	p->oom_score_adj = score;
	if (r == 0) {
		p->spec_path = xasprintf("%s/%u.json", c->agent->paths.tmp, agent_serial());
		r = p->spec_path ? write_file(p->spec_path, spec, len, 0600) : -ENOMEM;
		if (r < 0)
			err_set_errno(err, r, "write the process of exec \"%s\"", exec_id);
	}
	if (r < 0) {
		proc_done(p);
		free(p);
		return r;
	}
	p->next = c->execs;
	c->execs = p;
	c->execs_len++;
	return 0;
}

int ctr_exec_remove(struct proc *p, struct err *err)
{
	if (p->run || (p->state != PROC_STOPPED && p->state != PROC_NEW))
		return err_set_status(err, -EBUSY, ERR_FAILED_PRECONDITION,
				      "exec \"%s\" of container \"%s\" is running", p->exec_id, p->ctr->id);
	exec_free(p);
	return 0;
}

static void on_exec_started(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct proc *p = arg;

	p->run = NULL;
	unlink(p->spec_path);
	free(p->spec_path);
	p->spec_path = NULL;
	if (err) {
		/* The runtime may have been ended after it had made the process. */
		if (p->cgroup)
			(void)cgroup_kill(true, p->cgroup, NULL);
		proc_stillborn(p, STATUS_UNSTARTED);
		rpc_slot_fail(&p->slot, err);
		return;
	}
	proc_born(p, pid, since, PROC_RUNNING);
	ctr_answer_started(p);
}

void ctr_exec_start(struct proc *p, struct ttrpc_request *req)
{
	char *args[] = {(char *)"exec",
			(char *)"--detach",
			(char *)"--process",
			p->spec_path,
			NULL,
			NULL,
			NULL,
			NULL,
			NULL};
	struct crun_args run = {
		.args = args, .id = p->ctr->id, .want_pid = true, .oom_score_adj = p->oom_score_adj};
	const char *cgroup;
	size_t n = 4;
	struct err err = ERR_INIT;
	char name[2 * AGENT_ID_MAX + 64];

	if (p->state != PROC_NEW || p->ctr->init.state != PROC_RUNNING || p->ctr->deleting) {
		err_set_status(&err, -EINVAL, ERR_FAILED_PRECONDITION, "%s cannot be started: %s",
			       proc_name(p, name, sizeof(name)),
			       p->state != PROC_NEW ? "it was started already"
						    : "the container is not running");
		ttrpc_fail(req, &err);
		return;
	}
	if (make_cgroup(p, &cgroup, &err) < 0) {
		ttrpc_fail(req, &err);
		return;
	}
	if (cgroup) {
		args[n++] = (char *)"--cgroup";
		args[n++] = (char *)(uintptr_t)cgroup;
	}
	if (p->terminal) {
		args[n++] = (char *)"--console-socket";
		args[n++] = p->stdio->console_path;
	}
	memcpy(run.stdio, p->child_stdio, sizeof(run.stdio));
	p->run = crun_start(p->agent, &run, on_exec_started, p, &err);
	if (!p->run) {
		ttrpc_fail(req, &err);
		return;
	}
	proc_close_child_stdio(p);
	p->state = PROC_STARTING;
	rpc_slot_take(&p->slot, req, NULL, NULL);
}
