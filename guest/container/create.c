/* SPDX-License-Identifier: Apache-2.0 */
/* Creation of a container by the runtime, and what a failed one leaves. */
#include "guest/container/ctr_internal.h"

#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "guest/container/cgroup.h"
#include "guest/container/config_internal.h"
#include "guest/container/crun_internal.h"

static void on_clean_flight(void *arg, enum share_flight flight)
{
	struct ctr *c = arg;

	if (flight == SHARE_HUNG)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id),
			 "its mounts stay: virtiofsd does not answer");
	else
		ctr_release(c);
	rpc_slot_fail(&c->init.slot, &c->failed);
	ctr_free(c);
}

static void on_clean(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;
	char *path CLEANUP_FREE = xasprintf("%s/%s", c->agent->paths.cgroup_parent, c->id);
	char *state CLEANUP_FREE = xasprintf("%s/%s", c->agent->paths.crun_root, c->id);

	(void)pid;
	(void)since;
	if (err)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id),
			 "clean-up after a failed creation: %s", err->msg);
	c->run = NULL;
	if (path)
		cgroup_remove(c->agent->cgroup2, path);
	if (state)
		(void)remove_tree(state);
	share_wait(c->agent, &c->share, on_clean_flight, c);
}

/* Lets the runtime remove what a failed create left, then answers. */
static void create_failed(struct ctr *c, const struct err *why)
{
	char *const args[] = {(char *)"delete", (char *)"--force", NULL};
	struct crun_args run = {.args = args, .id = c->id, .stdio = {-1, -1, -1}};
	char *state CLEANUP_FREE = xasprintf("%s/%s", c->agent->paths.crun_root, c->id);

	c->failed = *why;
	c->deleting = true;
	if (state && access(state, F_OK) == 0) {
		c->run = crun_start(c->agent, &run, on_clean, c, NULL);
		if (c->run)
			return;
	}
	on_clean(c, NULL, 0, 0);
}

/*
 * A container is killed by its cgroup, which must hold neither the agent nor, beside a VM, anything of the
 * host.
 */
static bool cgroup_is_ours(const struct ctr *c)
{
	const char *parent = c->agent->paths.cgroup_parent;

	if (c->agent->in_vm)
		return !str_eq(c->cgroup, "/") && !str_starts(c->cgroup, CGROUP_AGENT);
	return str_starts(c->cgroup, parent) && c->cgroup[strlen(parent)] == '/';
}

static void on_created(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;
	Containerd__Task__V2__CreateTaskResponse resp = CONTAINERD__TASK__V2__CREATE_TASK_RESPONSE__INIT;
	struct err why;

	c->init.run = NULL;
	if (err) {
		create_failed(c, err);
		return;
	}
	/* The process may be dead already. */
	if (cgroup_of(c->agent->cgroup2, pid, &c->cgroup, &why) < 0 || !cgroup_is_ours(c)) {
		free(c->cgroup);
		c->cgroup = xasprintf("%s/%s", c->agent->paths.cgroup_parent, c->id);
	}
	if (c->cgroup)
		oom_watch(c);
	c->mounts = share_hold_mounts(pid);
	proc_born(&c->init, pid, since, PROC_CREATED);
	resp.pid = (uint32_t)pid;
	rpc_slot_reply(&c->init.slot, &resp.base);
}

/*
 * The bundle's config.json must be valid JSON; its hooks decide whether crun has to start the container.
 */
static int look_at_config(struct ctr *c, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/config.json", c->bundle);
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = path ? read_file(path, CTR_CONFIG_MAX, &text, &len) : -ENOMEM;

	if (r < 0)
		return err_set_errno(err, r, "read %s", path ? path : "config.json");
	r = config_hooks(text, len, &c->hooks, err);
	return r < 0 ? err_wrap(err, "%s", path) : 0;
}

/* In the child that becomes the runtime: a volume whose storage hangs does not hold up the agent. */
static void hold_volumes(void *arg)
{
	const struct ctr *c = arg;

	share_hold_volumes(c->agent, c->volumes);
}

static struct ctr *ctr_new(struct agent *agent, const char *id, const struct proc_io *io, struct err *err)
{
	struct ctr *c = calloc(1, sizeof(*c));

	if (!c) {
		err_oom(err);
		return NULL;
	}
	c->agent = agent;
	c->oom_watch = -1;
	c->mounts = -1;
	c->id = strdup(id);
	c->bundle = xasprintf("%s/%s", agent->paths.share, id);
	if (!c->id || !c->bundle) {
		err_oom(err);
		c->init.ctr = c;
		ctr_free(c);
		return NULL;
	}
	if (proc_init(&c->init, agent, c, "", io, err) < 0 || look_at_config(c, err) < 0 ||
	    share_volumes(agent, id, &c->volumes, err) < 0) {
		ctr_free(c);
		return NULL;
	}
	c->next = agent->containers->list;
	agent->containers->list = c;
	agent->containers->len++;
	return c;
}

static int create_check(struct agent *agent, const char *id, const char *bundle, struct err *err)
{
	const char *share = agent->paths.share;
	size_t len = strlen(share);

	if (agent_id_check("container id", id, err) < 0)
		return -EINVAL;
	if (!str_empty(bundle) &&
	    (strncmp(bundle, share, len) != 0 || bundle[len] != '/' || !str_eq(bundle + len + 1, id)))
		return err_set(err, -EINVAL, "bundle \"%.200s\": want %s/%s", bundle, share, id);
	if (ctr_find(agent, id, NULL))
		return err_set(err, -EEXIST, "container \"%s\" exists already", id);
	if (agent->containers->len >= CTR_MAX)
		return err_set_status(err, -ENOSPC, ERR_RESOURCE_EXHAUSTED, "%u containers exist already",
				      agent->containers->len);
	if (agent->shutting_down)
		return err_set_status(err, -ESHUTDOWN, ERR_UNAVAILABLE, "the agent is shutting down");
	return 0;
}

void ctr_create(struct agent *agent, const char *id, const char *bundle, const struct proc_io *io,
		struct ttrpc_request *req)
{
	char *args[] = {(char *)"create", (char *)"--bundle", NULL, NULL, NULL, NULL};
	struct crun_args run = {.args = args, .id = id, .want_pid = true};
	struct err err = ERR_INIT;
	struct ctr *c = NULL;

	agent_settle(agent);
	if (create_check(agent, id, bundle, &err) == 0)
		c = ctr_new(agent, id, io, &err);
	if (!c) {
		ttrpc_fail(req, &err);
		return;
	}
	args[2] = c->bundle;
	if (io->terminal) {
		args[3] = (char *)"--console-socket";
		args[4] = c->init.stdio->console_path;
	}
	run.before = hold_volumes;
	run.before_arg = c;
	memcpy(run.stdio, c->init.child_stdio, sizeof(run.stdio));
	share_hold(c->agent, c->id);
	c->init.run = crun_start(agent, &run, on_created, c, &err);
	proc_close_child_stdio(&c->init);
	if (!c->init.run) {
		ttrpc_fail(req, &err);
		ctr_free(c);
		return;
	}
	rpc_slot_take(&c->init.slot, req, NULL, NULL);
}
