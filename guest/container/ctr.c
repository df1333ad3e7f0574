/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/ctr_internal.h"

#include "api/agent/events.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "guest/container/cgroup.h"
#include "guest/rpc/events.h"
#include "guest/init/init_internal.h"
#include "guest/core/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define SPEC_MAX     (1u << 20)
#define STATUS_STILL 255 /* exit status of an exec that the runtime could not start */

static int oom_inotify = -1;

/* ---- table ---------------------------------------------------------------------------------------- */

struct ctr *ctr_find(struct agent *agent, const char *id, struct err *err)
{
	if (agent_id_check("container id", id, err) < 0)
		return NULL;
	for (struct ctr *c = agent->ctrs; c; c = c->next) {
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

static void exec_free(struct proc *p)
{
	struct proc **at = &p->ctr->execs;

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	p->ctr->execs_len--;
	proc_done(p);
	free(p);
}

static void ctr_free(struct ctr *c)
{
	struct ctr **p = &c->agent->ctrs;

	while (*p && *p != c)
		p = &(*p)->next;
	if (*p) {
		*p = c->next;
		c->agent->ctrs_len--;
	}
	while (c->execs)
		exec_free(c->execs);
	proc_done(&c->init);
	if (c->oom_watch >= 0)
		inotify_rm_watch(oom_inotify, c->oom_watch);
	if (c->run_file)
		unlink(c->run_file);
	share_wait_clear(&c->share);
	share_release_mounts(c->mounts);
	free(c->run_file);
	free(c->cgroup);
	free(c->bundle);
	free(c->id);
	free(c);
}

static void fail(struct ttrpc_request *req, const struct err *err)
{
	ttrpc_fail(req, err);
}

static bool busy(const struct ctr *c, struct err *err)
{
	if (!c->deleting && !c->run && !c->init.run)
		return false;
	err_set_status(err, -EBUSY, ERR_FAILED_PRECONDITION, "container \"%s\" is being %s", c->id,
		       c->deleting ? "deleted"
		       : c->run	   ? "updated"
				   : "created");
	return true;
}

/* ---- OOM ------------------------------------------------------------------------------------------ */

static void oom_look(struct ctr *c)
{
	Containerd__Events__TaskOOM ev = CONTAINERD__EVENTS__TASK_OOM__INIT;
	uint64_t n = c->cgroup ? cgroup_oom_kills(c->agent->cgroup2, c->cgroup) : 0;

	if (n <= c->oom_kills)
		return;
	c->oom_kills = n;
	ev.container_id = c->id;
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id), "out of memory: a process was killed");
	events_push(c->agent->events, "/tasks/oom", &ev.base);
}

static void on_inotify(void *arg, int fd, uint32_t events)
{
	struct agent *agent = arg;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(fd, buf, sizeof(buf));

	(void)events;
	for (const char *p = buf; n > 0 && p < buf + n;) {
		struct inotify_event ev;

		memcpy(&ev, p, sizeof(ev));
		for (struct ctr *c = agent->ctrs; c; c = c->next) {
			if (c->oom_watch == ev.wd)
				oom_look(c);
		}
		p += sizeof(ev) + ev.len;
	}
}

int ctr_oom_setup(struct agent *agent, struct err *err)
{
	oom_inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (oom_inotify < 0)
		return err_set_errno(err, -errno, "inotify");
	if (!loop_add(agent->loop, oom_inotify, EPOLLIN, on_inotify, agent))
		return err_set(err, -ENOMEM, "watch inotify");
	return 0;
}

static void oom_watch(struct ctr *c)
{
	char *path CLEANUP_FREE = xasprintf(CGROUP_ROOT "%s/memory.events", c->cgroup);

	/* On v1 the count is read when the process ends. */
	if (path && c->agent->cgroup2)
		c->oom_watch = inotify_add_watch(oom_inotify, path, IN_MODIFY);
}

static void on_ended_flight(void *arg, enum share_flight flight)
{
	struct ctr *c = arg;

	if (flight == SHARE_IDLE) /* else it waits for the container's deletion */
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
	/* What is in its memory-backed mounts is freed now, not when it is deleted; others of it may still be
	 * dying. */
	if (c->mounts >= 0 && cgroup_pids(c->agent->cgroup2, c->cgroup, &left, 1) == 0)
		share_wait(c->agent->loop, &c->share, on_ended_flight, c);
}

/* ---- create --------------------------------------------------------------------------------------- */

static void on_clean_flight(void *arg, enum share_flight flight)
{
	struct ctr *c = arg;

	if (flight == SHARE_HUNG)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id),
			 "its mounts stay: virtiofsd answers nothing");
	else
		share_release(c->id);
	rpc_slot_fail(&c->init.slot, &c->failed);
	ctr_free(c);
}

static void on_clean(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;
	char *path CLEANUP_FREE = xasprintf(GUEST_CGROUP_PARENT "/%s", c->id);
	char *state CLEANUP_FREE = xasprintf(CRUN_ROOT "/%s", c->id);

	(void)pid;
	(void)since;
	if (err)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id), "clean up after a failed create: %s",
			 err->msg);
	c->run = NULL;
	if (path)
		cgroup_remove(c->agent->cgroup2, path);
	if (state)
		(void)remove_tree(state);
	share_wait(c->agent->loop, &c->share, on_clean_flight, c);
}

/* Lets the runtime remove what a failed create left, then answers. */
static void create_failed(struct ctr *c, const struct err *why)
{
	char *const args[] = {(char *)"delete", (char *)"--force", NULL};
	struct crun_args run = {.args = args, .id = c->id, .stdio = {-1, -1, -1}};
	char *state CLEANUP_FREE = xasprintf(CRUN_ROOT "/%s", c->id);

	c->failed = *why;
	c->deleting = true;
	if (state && access(state, F_OK) == 0) {
		c->run = crun_start(c->agent, &run, on_clean, c, NULL);
		if (c->run)
			return;
	}
	on_clean(c, NULL, 0, 0);
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
	/* It may be dead already; and what the container's cgroup is killed with must never hit the agent. */
	if (cgroup_of(c->agent->cgroup2, pid, &c->cgroup, &why) < 0 || str_eq(c->cgroup, "/") ||
	    str_starts(c->cgroup, CGROUP_AGENT)) {
		free(c->cgroup);
		c->cgroup = xasprintf(GUEST_CGROUP_PARENT "/%s", c->id);
	}
	if (c->cgroup)
		oom_watch(c);
	c->mounts = share_hold_mounts(pid);
	proc_born(&c->init, pid, since, PROC_CREATED);
	resp.pid = (uint32_t)pid;
	rpc_slot_reply(&c->init.slot, &resp.base);
}

/*
 * The bundle's config.json must be there and readable; whether it has hooks decides who starts the container.
 */
static int look_at_config(struct ctr *c, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/config.json", c->bundle);
	char *text CLEANUP_FREE = NULL;
	int r = path ? read_file(path, CTR_CONFIG_MAX, &text, NULL) : -ENOMEM;

	if (r < 0)
		return err_set_errno(err, r, "read %s", path ? path : "config.json");
	c->hooks = strstr(text, "\"hooks\"") != NULL;
	return 0;
}

static struct ctr *ctr_new(struct agent *agent, const char *id, const struct proc_io *io, struct err *err)
{
	struct ctr *c = calloc(1, sizeof(*c));

	if (!c) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	c->agent = agent;
	c->oom_watch = -1;
	c->mounts = -1;
	c->id = strdup(id);
	c->bundle = xasprintf(GUEST_SHARE_DIR "/%s", id);
	if (!c->id || !c->bundle) {
		err_set(err, -ENOMEM, "out of memory");
		c->init.ctr = c;
		ctr_free(c);
		return NULL;
	}
	if (proc_init(&c->init, agent, c, "", io, err) < 0 || look_at_config(c, err) < 0) {
		ctr_free(c);
		return NULL;
	}
	c->next = agent->ctrs;
	agent->ctrs = c;
	agent->ctrs_len++;
	return c;
}

static int create_check(struct agent *agent, const char *id, const char *bundle, struct err *err)
{
	size_t len = strlen(GUEST_SHARE_DIR "/");

	if (agent_id_check("container id", id, err) < 0)
		return -EINVAL;
	if (!str_empty(bundle) &&
	    (strncmp(bundle, GUEST_SHARE_DIR "/", len) != 0 || !str_eq(bundle + len, id)))
		return err_set(err, -EINVAL, "bundle \"%.200s\": want " GUEST_SHARE_DIR "/%s", bundle, id);
	if (ctr_find(agent, id, NULL))
		return err_set(err, -EEXIST, "container \"%s\" exists already", id);
	if (agent->ctrs_len >= CTR_MAX)
		return err_set_status(err, -ENOSPC, ERR_RESOURCE_EXHAUSTED, "there are %u containers already",
				      agent->ctrs_len);
	if (agent->shutting_down)
		return err_set_status(err, -ESHUTDOWN, ERR_UNAVAILABLE, "the guest is shutting down");
	return 0;
}

void ctr_create(struct agent *agent, const char *id, const char *bundle, const struct proc_io *io,
		struct ttrpc_request *req)
{
	char *args[] = {(char *)"create", (char *)"--bundle", NULL, NULL, NULL, NULL};
	struct crun_args run = {.args = args, .id = id, .want_pid = true};
	struct err err = ERR_INIT;
	struct ctr *c = NULL;

	init_settle(agent);
	if (create_check(agent, id, bundle, &err) == 0)
		c = ctr_new(agent, id, io, &err);
	if (!c) {
		fail(req, &err);
		return;
	}
	args[2] = c->bundle;
	if (io->terminal) {
		args[3] = (char *)"--console-socket";
		args[4] = c->init.stdio->console_path;
	}
	memcpy(run.stdio, c->init.child_stdio, sizeof(run.stdio));
	share_hold(c->id);
	c->init.run = crun_start(agent, &run, on_created, c, &err);
	proc_close_child_stdio(&c->init);
	if (!c->init.run) {
		fail(req, &err);
		ctr_free(c);
		return;
	}
	rpc_slot_take(&c->init.slot, req, NULL, NULL);
}

/* ---- start ---------------------------------------------------------------------------------------- */

static void started(struct proc *p)
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
	started(&c->init);
}

/*
 * What `crun start` does where there are no hooks: the container's process waits for a byte on its FIFO (crun
 * 1.8.1, src/libcrun/status.c). Without the program's own start-up this takes no time.
 */
static int start_directly(struct ctr *c)
{
	char *path CLEANUP_FREE = xasprintf(CRUN_ROOT "/%s/exec.fifo", c->id);
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

	if (busy(c, &err)) {
		fail(req, &err);
		return;
	}
	if (c->init.state != PROC_CREATED) {
		err_set_status(&err, -EINVAL, ERR_FAILED_PRECONDITION,
			       "container \"%s\" cannot be started: it is %s", c->id,
			       c->init.state == PROC_STOPPED ? "stopped" : "running already");
		fail(req, &err);
		return;
	}
	rpc_slot_take(&c->init.slot, req, NULL, NULL);
	if (!c->hooks && start_directly(c) == 0) {
		c->init.state = PROC_RUNNING;
		started(&c->init);
		return;
	}
	c->init.run = crun_start(c->agent, &run, on_started, c, &err);
	if (!c->init.run)
		rpc_slot_fail(&c->init.slot, &err);
}

/* ---- delete --------------------------------------------------------------------------------------- */

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
		err_set_status(
			&err, -ETIMEDOUT, ERR_UNAVAILABLE,
			"container \"%s\" cannot be unmounted: virtiofsd has answered nothing for %lld s",
			c->id, (long long)(SHARE_HUNG_NS / NS_PER_SEC));
		rpc_slot_fail(&c->slot, &err);
		return;
	}
	c->mounts = share_release_mounts(c->mounts);
	share_release(c->id);
	answer_delete(&c->slot, &c->init);
	ctr_free(c);
}

static void on_deleted(void *arg, const struct err *err, pid_t pid, uint64_t since)
{
	struct ctr *c = arg;
	char *state CLEANUP_FREE = xasprintf(CRUN_ROOT "/%s", c->id);

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
	share_wait(c->agent->loop, &c->share, on_deleted_flight, c);
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
	if (busy(c, &err)) {
		fail(req, &err);
		return;
	}
	if (c->init.state != PROC_STOPPED || execs_busy(c)) {
		err_set_status(&err, -EBUSY, ERR_FAILED_PRECONDITION, "container \"%s\" is not stopped",
			       c->id);
		fail(req, &err);
		return;
	}
	c->run = crun_start(c->agent, &run, on_deleted, c, &err);
	if (!c->run) {
		fail(req, &err);
		return;
	}
	c->deleting = true;
	rpc_slot_take(&c->slot, req, NULL, NULL);
}

/* ---- update --------------------------------------------------------------------------------------- */

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

	if (busy(c, &err)) {
		fail(req, &err);
		return;
	}
	if (c->init.state != PROC_CREATED && c->init.state != PROC_RUNNING) {
		err_set_status(&err, -ESRCH, ERR_FAILED_PRECONDITION, "container \"%s\" is not running",
			       c->id);
		fail(req, &err);
		return;
	}
	c->run_file = xasprintf("%s/%u.json", agent_tmp_dir, agent_serial());
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
	fail(req, &err);
	free(c->run_file);
	c->run_file = NULL;
}

/* ---- exec ----------------------------------------------------------------------------------------- */

int ctr_exec_add(struct ctr *c, const char *exec_id, const struct proc_io *io, const void *spec, size_t len,
		 struct err *err)
{
	struct proc *p;
	int r = agent_id_check("exec id", exec_id, err);

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
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	r = proc_init(p, c->agent, c, exec_id, io, err);
	if (r == 0) {
		p->spec_path = xasprintf("%s/%u.json", agent_tmp_dir, agent_serial());
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
		proc_stillborn(p, STATUS_STILL);
		rpc_slot_fail(&p->slot, err);
		return;
	}
	proc_born(p, pid, since, PROC_RUNNING);
	started(p);
}

void ctr_exec_start(struct proc *p, struct ttrpc_request *req)
{
	char *args[] = {
		(char *)"exec", (char *)"--detach", (char *)"--process", p->spec_path, NULL, NULL, NULL};
	struct crun_args run = {.args = args, .id = p->ctr->id, .want_pid = true};
	struct err err = ERR_INIT;
	char name[2 * AGENT_ID_MAX + 64];

	if (p->state != PROC_NEW || p->ctr->init.state != PROC_RUNNING || p->ctr->deleting) {
		err_set_status(&err, -EINVAL, ERR_FAILED_PRECONDITION, "%s cannot be started: %s",
			       proc_name(p, name, sizeof(name)),
			       p->state != PROC_NEW ? "it was started already"
						    : "the container is not running");
		fail(req, &err);
		return;
	}
	if (p->terminal) {
		args[4] = (char *)"--console-socket";
		args[5] = p->stdio->console_path;
	}
	memcpy(run.stdio, p->child_stdio, sizeof(run.stdio));
	p->run = crun_start(p->agent, &run, on_exec_started, p, &err);
	if (!p->run) {
		fail(req, &err);
		return;
	}
	proc_close_child_stdio(p);
	p->state = PROC_STARTING;
	rpc_slot_take(&p->slot, req, NULL, NULL);
}

/* ---- the rest ------------------------------------------------------------------------------------- */

int ctr_kill_all(struct ctr *c, int sig, struct err *err)
{
	pid_t pids[CGROUP_PIDS_MAX];
	int n;

	if (!c->cgroup)
		return proc_kill(&c->init, sig, err);
	if (sig == SIGKILL)
		return cgroup_kill(c->agent->cgroup2, c->cgroup, err);
	n = cgroup_pids(c->agent->cgroup2, c->cgroup, pids, ARRAY_SIZE(pids));
	if (n < 0)
		return err_set_errno(err, n, "processes of container \"%s\"", c->id);
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
