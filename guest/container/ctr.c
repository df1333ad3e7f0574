/* SPDX-License-Identifier: Apache-2.0 */
/* The table of containers, and what is done to a container as a whole. */
#include "guest/container/ctr_internal.h"

#include "base/log.h"
#include "guest/container/cgroup.h"
#include "guest/container/crun_internal.h"

#include <signal.h>

/* ---- the table ----------------------------------------------------------------------------------------- */

struct containers *containers_new(struct agent *agent)
{
	struct containers *containers = calloc(1, sizeof(*containers));

	if (!containers)
		return NULL;
	containers->agent = agent;
	containers->logs.max = CONTAINER_LOGS_MAX;
	containers->oom_inotify = -1;
	return containers;
}

struct containers *containers_free(struct containers *containers)
{
	if (!containers)
		return NULL;
	crun_probe_stop();
	crun_forget_all();
	while (containers->list)
		ctr_free(containers->list);
	oom_done(containers);
	free(containers);
	return NULL;
}

int containers_settle(struct agent *agent, struct err *err)
{
	int r = oom_setup(agent->containers, err);

	if (r == 0)
		crun_probe(agent);
	return r;
}

struct ctr *ctr_find(struct agent *agent, const char *id, struct err *err)
{
	if (agent_id_check("container id", id, err) < 0)
		return NULL;
	for (struct ctr *c = agent->containers->list; c; c = c->next) {
		if (str_eq(c->id, id))
			return c;
	}
	err_set(err, -ENOENT, "container \"%s\" not found", id);
	return NULL;
}

struct proc *ctr_proc(struct agent *agent, const char *id, const char *exec_id, struct err *err)
{
	struct ctr *c = ctr_find(agent, id, err);

	if (!c)
		return NULL;
	if (str_empty(exec_id))
		return &c->init;
	if (agent_id_check("exec id", exec_id, err) < 0)
		return NULL;
	for (struct proc *p = c->execs; p; p = p->next) {
		if (str_eq(p->exec_id, exec_id))
			return p;
	}
	err_set(err, -ENOENT, "exec \"%s\" of container \"%s\" not found", exec_id, id);
	return NULL;
}

static bool uses(const struct ctr *c, const char *volume)
{
	for (size_t i = 0; c->volumes && c->volumes[i]; i++) {
		if (str_eq(c->volumes[i], volume))
			return true;
	}
	return false;
}

void ctr_release(struct ctr *c)
{
	char **alone CLEANUP_STRV = NULL;

	for (size_t i = 0; c->volumes && c->volumes[i]; i++) {
		bool used = false;

		for (const struct ctr *o = c->agent->containers->list; o; o = o->next)
			used = used || (o != c && uses(o, c->volumes[i]));
		if (!used && strv_add(&alone, c->volumes[i]) < 0)
			log_warn("container %s: out of memory: a volume stays mounted", c->id);
	}
	share_release(c->agent, c->id, alone);
}

void ctr_free(struct ctr *c)
{
	struct ctr **p = &c->agent->containers->list;

	while (*p && *p != c)
		p = &(*p)->next;
	if (*p) {
		*p = c->next;
		c->agent->containers->len--;
	}
	while (c->execs)
		exec_free(c->execs);
	proc_done(&c->init);
	oom_unwatch(c);
	if (c->run_file)
		unlink(c->run_file);
	share_wait_clear(&c->share);
	share_release_mounts(c->mounts);
	strv_free(c->volumes);
	free(c->run_file);
	free(c->cgroup);
	free(c->bundle);
	free(c->id);
	free(c);
}

bool ctr_busy(const struct ctr *c, struct err *err)
{
	if (!c->deleting && !c->run && !c->init.run)
		return false;
	err_set_status(err, -EBUSY, ERR_FAILED_PRECONDITION, "container \"%s\" is being %s", c->id,
		       c->deleting ? "deleted"
		       : c->run	   ? "updated"
				   : "created");
	return true;
}

/* ---- its end ------------------------------------------------------------------------------------------- */

static void on_ended_flight(void *arg, enum share_flight flight)
{
	struct ctr *c = arg;

	/* Otherwise the mounts stay until the container is deleted. */
	if (flight == SHARE_IDLE)
		c->mounts = share_release_mounts(c->mounts);
}

void ctr_ended(struct ctr *c)
{
	struct err err;
	pid_t left;

	if (!c->cgroup)
		return;
	oom_look(c);
	/* With a shared PID namespace its children would live on; a container ends with its first process. */
	if (cgroup_kill(c->agent->cgroup2, c->cgroup, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id), "%s", err.msg);
	/*
	 * Memory-backed mounts are freed now, not only when the container is deleted; unless other processes
	 * of it are still dying.
	 */
	if (c->mounts >= 0 && cgroup_pids(c->agent->cgroup2, c->cgroup, &left, 1) == 0)
		share_wait(c->agent, &c->share, on_ended_flight, c);
}

int ctr_kill_all(struct ctr *c, int sig, struct err *err)
{
	pid_t *pids CLEANUP_FREE = NULL;
	int n;

	if (!c->cgroup)
		return proc_kill(&c->init, sig, err);
	if (sig == SIGKILL)
		return cgroup_kill(c->agent->cgroup2, c->cgroup, err);
	pids = calloc(CGROUP_PIDS_MAX, sizeof(*pids));
	if (!pids)
		return err_oom(err);
	n = cgroup_pids(c->agent->cgroup2, c->cgroup, pids, CGROUP_PIDS_MAX);
	if (n < 0)
		return err_set_errno(err, n, "list processes of container \"%s\"", c->id);
	for (int i = 0; i < n; i++)
		kill(pids[i], sig);
	return 0;
}

int ctr_pause(struct ctr *c, bool pause, struct err *err)
{
	int r;

	if (c->init.state != PROC_RUNNING || !c->cgroup)
		return err_set_status(err, -ESRCH, ERR_FAILED_PRECONDITION, "container \"%s\" is not running",
				      c->id);
	r = cgroup_freeze(c->agent->cgroup2, c->cgroup, pause, err);
	if (r == 0)
		c->paused = pause;
	return r;
}

/* ---- the end of all ------------------------------------------------------------------------------------ */

void containers_kill(struct agent *agent)
{
	struct containers *all = agent->containers;

	/* The parent also holds what was moved out of a container's own cgroup; it may not exist yet. */
	(void)cgroup_kill(agent->cgroup2, agent->paths.cgroup_parent, NULL);
	for (struct ctr *c = all->list; c; c = c->next) {
		/* A frozen v1 cgroup does not die before it is thawed. */
		if (c->paused)
			(void)ctr_pause(c, false, NULL);
		if (c->init.run)
			crun_kill(c->init.run);
		else if (c->init.state != PROC_STOPPED)
			(void)ctr_kill_all(c, SIGKILL, NULL);
	}
}

unsigned int containers_running(const struct agent *agent)
{
	unsigned int n = 0;

	for (const struct ctr *c = agent->containers->list; c; c = c->next)
		n += c->init.pid > 0 && c->init.state != PROC_STOPPED;
	return n;
}

void containers_remove_left(const struct agent *agent)
{
	for (const struct ctr *c = agent->containers->list; c; c = c->next) {
		char *state CLEANUP_FREE = xasprintf("%s/%s", agent->paths.crun_root, c->id);

		if (c->cgroup)
			cgroup_remove(agent->cgroup2, c->cgroup);
		if (state)
			(void)remove_tree(state);
	}
}

void containers_release_mounts(struct agent *agent)
{
	for (struct ctr *c = agent->containers->list; c; c = c->next)
		c->mounts = share_release_mounts(c->mounts);
}
