/* SPDX-License-Identifier: Apache-2.0 */
/* A container after its creation: start, exit, stop, removal. */
#include "cri/pods/container.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/logs/logs.h"
#include "api/pb.h"
#include "cri/sandbox/share.h"

#include <signal.h>
#include <time.h>

#define CALL_NS	 (20 * NS_PER_SEC)
#define START_NS (60 * NS_PER_SEC)
#define KILL_NS	 (10 * NS_PER_SEC) /* a guest that cannot end a process by SIGKILL in this time is hung */
#define DRAIN_NS (5 * NS_PER_SEC)

typedef Crivisor__State__V1__Container State;
#define RUNNING CRIVISOR__STATE__V1__PHASE__PHASE_RUNNING
#define EXITED	CRIVISOR__STATE__V1__PHASE__PHASE_EXITED
#define CREATED CRIVISOR__STATE__V1__PHASE__PHASE_READY

/* ---- exit ---------------------------------------------------------------------------------------------- */

void container_exited(struct container *container, int32_t code, int64_t at_ns, const char *reason,
		      const char *message)
{
	struct err err = ERR_INIT;
	bool first;

	pthread_mutex_lock(&container->pod->lock);
	first = container->state && container->state->phase != EXITED;
	if (first) {
		container->state->phase = EXITED;
		container->state->exit_code = code;
		container->state->finished_at = at_ns;
		(void)pb_set_str(&container->state->reason, reason	? reason
							    : code == 0 ? "Completed"
									: "Error");
		(void)pb_set_text(&container->state->message, message);
	}
	pthread_cond_broadcast(&container->pod->changed);
	pthread_mutex_unlock(&container->pod->lock);
	if (!first)
		return;
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", container->id), "container has exited with %d",
		 code);
	if (container_store(container, &err) < 0 && err.code != -ENOENT)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", container->id), "storing an exit: %s",
			 err.msg);
}

void container_vm_died(struct pod *pod, const char *why)
{
	struct container **list;

	if (container_list(pod->server, pod, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		bool was_running;

		pthread_mutex_lock(&pod->lock);
		was_running = list[i]->state &&
			      (list[i]->state->phase == RUNNING || list[i]->state->phase == CREATED);
		pthread_mutex_unlock(&pod->lock);
		if (was_running)
			container_exited(list[i], 128 + SIGKILL, now_realtime_ns(), "Error", why);
	}
	container_list_free(list);
}

struct exit_note {
	struct container *container;
	int32_t code;
	int64_t at_ns;
	bool unknown; /* the guest does not know the container */
};

static bool was_oom_killed(struct container *container)
{
	Crivisor__Agent__V1__StatsRequest req = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	Crivisor__Agent__V1__StatsResponse *resp = NULL;
	struct agent *agent;
	bool oom;

	req.container_id = container->id;
	if (pod_agent(container->pod, &agent, NULL) < 0 ||
	    agent_call(agent, &AGENT_STATS, &req.base, CALL_NS, (ProtobufCMessage **)&resp, NULL) < 0)
		return false;
	oom = resp->oom_kills > 0;
	pb_free(resp);
	return oom;
}

/*
 * On a worker thread: the exit shows only once the log is complete, so that a client that sees it can read
 * all.
 */
static void exit_job(void *arg)
{
	struct exit_note *note = arg;
	struct container *c = note->container;
	bool oom = note->code != 0 && !note->unknown && was_oom_killed(c);
	struct log_pump *pump;

	pthread_mutex_lock(&c->pod->lock);
	pump = c->pump;
	pthread_mutex_unlock(&c->pod->lock);
	if (pump)
		log_pump_wait_eof(pump, NULL, now_monotonic_ns() + DRAIN_NS);
	if (note->unknown)
		container_exited(c, note->code, note->at_ns, "ContainerStatusUnknown",
				 "the guest does not know this container");
	else
		container_exited(c, note->code, note->at_ns, oom ? "OOMKilled" : NULL, NULL);
	container_unref(c);
	free(note);
}

/* Loop thread. Carries the reference that container_watch took. */
static void on_wait_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct container *c = arg;
	const Containerd__Task__V2__WaitResponse *resp = (const void *)msg;
	bool unknown = err && err->status == ERR_NOT_FOUND;
	int32_t code = unknown || err ? 255 : (int32_t)resp->exit_status;
	struct exit_note *note;
	char why[256];

	pthread_mutex_lock(&c->pod->lock);
	c->wait_pending = false;
	c->ending = unknown || !err;
	pthread_mutex_unlock(&c->pod->lock);
	if (err && !unknown) {
		/*
		 * Either the pod is dead already, and its death ends the container, or the guest broke the
		 * connection.
		 */
		snprintf(why, sizeof(why), "waiting for a container: %.200s", err->msg);
		pod_lost(c->pod, why);
	} else {
		note = calloc(1, sizeof(*note));
		if (note) {
			note->container = container_ref(c);
			note->unknown = unknown;
			note->code = code;
			/* The guest's clock is its own affair; the host's says when the exit was learned. */
			note->at_ns = now_realtime_ns();
		}
		if (!note || workers_submit(c->server->workers, LANE_NET, exit_job, note) < 0) {
			container_exited(c, code, now_realtime_ns(), NULL, NULL);
			if (note)
				container_unref(c);
			free(note);
		}
	}
	container_unref(c);
}

int container_watch(struct container *container, struct err *err)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	struct agent *agent;
	int r = pod_agent(container->pod, &agent, err);

	if (r < 0)
		return r;
	req.id = container->id;
	container_ref(container);
	pthread_mutex_lock(&container->pod->lock);
	container->wait_pending = true;
	pthread_mutex_unlock(&container->pod->lock);
	r = agent_call_async(agent, &AGENT_TASK_WAIT, &req.base, 0, on_wait_reply, container);
	if (r < 0) {
		container_unref(container);
		return err_set_errno(err, r, "waiting for container \"%s\"", container->id);
	}
	return 0;
}

/* ---- start --------------------------------------------------------------------------------------------- */

static int start_steps(struct container *c, struct err *err)
{
	char *pos CLEANUP_FREE = container_pos_path(c->server, c->id);
	Containerd__Task__V2__StartRequest req = CONTAINERD__TASK__V2__START_REQUEST__INIT;
	ProtobufCMessage *resp = NULL;
	struct log_pump *pump = NULL;
	struct agent *agent;
	int r = pod_agent(c->pod, &agent, err);

	if (r < 0)
		return r;
	if (!pos)
		return err_oom(err);
	if (!c->pump) {
		r = container_pump(c, agent, false, &pump, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&c->pod->lock);
		c->pump = pump;
		pthread_mutex_unlock(&c->pod->lock);
	}
	/*
	 * Stored first: a server that dies between here and the start finds out from the guest what became of
	 * it.
	 */
	pthread_mutex_lock(&c->pod->lock);
	if (c->state->phase == CREATED) {
		c->state->phase = RUNNING;
		c->state->started_at = now_realtime_ns();
	} else {
		r = -ECONNRESET; /* its VM died meanwhile */
	}
	pthread_mutex_unlock(&c->pod->lock);
	if (r < 0)
		return pod_agent(c->pod, &agent, err) < 0
			       ? r
			       : err_set(err, r, "container \"%s\" has ended", c->id);
	r = container_store(c, err);
	if (r == 0) {
		req.id = c->id;
		r = agent_call(agent, &AGENT_TASK_START, &req.base, START_NS, &resp, err);
		pb_free(resp);
	}
	if (r == 0)
		return container_watch(c, err);
	err_wrap(err, "starting container \"%s\"", c->id);
	container_exited(c, 128, now_realtime_ns(), "StartError", err ? err->msg : NULL);
	return r;
}

int container_start(struct server *server, const char *id, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	int phase;
	int r = container_find(server, id, &c, err);

	if (r < 0)
		return r;
	if (container_turn_take(c, CONTAINER_OP_START) < 0)
		return err_set(err, -ENOENT, "container \"%s\" not found", id);
	pthread_mutex_lock(&c->pod->lock);
	phase = (int)c->state->phase;
	pthread_mutex_unlock(&c->pod->lock);
	if (phase != CREATED)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				   "container \"%s\" is %s, not created", c->id,
				   phase == RUNNING ? "running" : "exited");
	else
		r = start_steps(c, err);
	container_turn_give(c);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->id), "container is started");
	return r;
}

/* ---- stop ---------------------------------------------------------------------------------------------- */

static bool is_running(struct container *c)
{
	bool running;

	pthread_mutex_lock(&c->pod->lock);
	running = c->state && c->state->phase == RUNNING;
	pthread_mutex_unlock(&c->pod->lock);
	return running;
}

/* True once it does not run any more. Holds no turn while it waits. */
static bool wait_exit(struct container *c, int64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = deadline_ns / NS_PER_SEC, .tv_nsec = deadline_ns % NS_PER_SEC};
	bool ended;

	pthread_mutex_lock(&c->pod->lock);
	for (;;) {
		ended = !c->state || c->state->phase != RUNNING;
		if (ended || pthread_cond_timedwait(&c->pod->changed, &c->pod->lock, &ts) == ETIMEDOUT)
			break;
	}
	ended = !c->state || c->state->phase != RUNNING;
	pthread_mutex_unlock(&c->pod->lock);
	return ended;
}

static int send_signal(struct container *c, uint32_t signo, bool all, int64_t timeout_ns, struct err *err)
{
	Containerd__Task__V2__KillRequest req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;
	ProtobufCMessage *resp = NULL;
	struct agent *agent;
	int r = pod_agent(c->pod, &agent, err);

	if (r < 0)
		return r;
	req.id = c->id;
	req.signal = signo;
	req.all = all;
	r = agent_call(agent, &AGENT_TASK_KILL, &req.base, timeout_ns, &resp, err);
	pb_free(resp);
	return r;
}

static bool is_ending(struct container *c)
{
	bool ending;

	pthread_mutex_lock(&c->pod->lock);
	ending = c->ending;
	pthread_mutex_unlock(&c->pod->lock);
	return ending;
}

static int kill_now(struct container *c, struct err *err)
{
	char why[256];
	int r = send_signal(c, SIGKILL, true, KILL_NS, err);

	/* "Not found" and "already exited" mean that its exit is on the way. */
	if (wait_exit(c, now_monotonic_ns() + KILL_NS))
		return 0;
	/* It has ended, and only its log is not complete yet: no reason to condemn the pod. */
	if (is_ending(c) && wait_exit(c, now_monotonic_ns() + CALL_NS + DRAIN_NS))
		return 0;
	snprintf(why, sizeof(why), "the guest did not end container %.13s within 10 s of SIGKILL", c->id);
	pod_condemn(c->pod, why);
	if (wait_exit(c, now_monotonic_ns() + KILL_NS))
		return 0;
	return r < 0 ? r : err_set(err, -ETIMEDOUT, "container \"%s\" could not be killed", c->id);
}

/* The turn of a start in progress must end first; it has a deadline of its own. */
static void wait_for_start(struct container *c)
{
	pthread_mutex_lock(&c->pod->lock);
	while (c->op == CONTAINER_OP_START || c->op == CONTAINER_OP_CREATE)
		pthread_cond_wait(&c->pod->changed, &c->pod->lock);
	pthread_mutex_unlock(&c->pod->lock);
}

int container_stop(struct server *server, const char *id, int64_t timeout_s, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	uint32_t signo = SIGTERM;
	int r = container_find(server, id, &c, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	wait_for_start(c);
	if (!is_running(c))
		return 0;
	pthread_mutex_lock(&c->pod->lock);
	if (c->state)
		signo = c->state->stop_signal;
	pthread_mutex_unlock(&c->pod->lock);
	if (timeout_s > 0) {
		if (timeout_s > INT32_MAX)
			timeout_s = INT32_MAX;
		r = send_signal(c, signo, false, KILL_NS, err);
		if (wait_exit(c, now_monotonic_ns() + (r < 0 ? 0 : timeout_s * NS_PER_SEC)))
			return 0;
	}
	return kill_now(c, err);
}

void container_kill_all(struct pod *pod, int64_t deadline_ns)
{
	struct container **list;

	if (container_list(pod->server, pod, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		int64_t left = deadline_ns - now_monotonic_ns();

		if (is_running(list[i]) && left > 0)
			(void)send_signal(list[i], SIGKILL, true, left, NULL);
	}
	for (size_t i = 0; list[i]; i++)
		(void)wait_exit(list[i], deadline_ns);
	container_list_free(list);
}

/* ---- removal ------------------------------------------------------------------------------------------- */

static int delete_task(struct agent *agent, const char *id, struct err *err)
{
	Containerd__Task__V2__DeleteRequest req = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	ProtobufCMessage *resp = NULL;
	int r;

	req.id = (char *)(uintptr_t)id;
	r = agent_call(agent, &AGENT_TASK_DELETE, &req.base, CALL_NS, &resp, err);
	pb_free(resp);
	return r < 0 && err->status == ERR_NOT_FOUND ? 0 : r;
}

/* Also one that was created and never started has a process, which waits to be started. */
static void kill_task(struct agent *agent, const char *id)
{
	Containerd__Task__V2__KillRequest req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;
	Containerd__Task__V2__WaitRequest wait = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	ProtobufCMessage *resp = NULL;

	req.id = wait.id = (char *)(uintptr_t)id;
	req.signal = SIGKILL;
	req.all = true;
	if (agent_call(agent, &AGENT_TASK_KILL, &req.base, KILL_NS, &resp, NULL) == 0) {
		pb_free(resp);
		resp = NULL;
		(void)agent_call(agent, &AGENT_TASK_WAIT, &wait.base, KILL_NS, &resp, NULL);
	}
	pb_free(resp);
}

int container_end_in_guest(struct agent *agent, const char *id, bool kill_first, struct err *err)
{
	struct err why = ERR_INIT;
	int r;

	if (kill_first)
		kill_task(agent, id);
	r = delete_task(agent, id, &why);
	if (r < 0 && why.status == ERR_FAILED_PRECONDITION) { /* it is not stopped */
		kill_task(agent, id);
		r = delete_task(agent, id, &why);
	}
	return r < 0 ? err_copy(err, &why) : 0;
}

int container_wait_creations(struct pod *pod, int64_t deadline_ns, struct err *err)
{
	struct timespec ts = {.tv_sec = deadline_ns / NS_PER_SEC, .tv_nsec = deadline_ns % NS_PER_SEC};
	struct container **list;
	int r = container_list(pod->server, pod, &list, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	for (size_t i = 0; list[i] && r == 0; i++) {
		while (list[i]->op == CONTAINER_OP_CREATE && r == 0)
			r = pthread_cond_timedwait(&pod->changed, &pod->lock, &ts) == ETIMEDOUT ? -ETIMEDOUT
												: 0;
	}
	pthread_mutex_unlock(&pod->lock);
	container_list_free(list);
	return r < 0 ? err_set(err, r, "a container that is being created does not come to its end") : 0;
}

static int remove_steps(struct container *c, struct err *err)
{
	char *pos CLEANUP_FREE = container_pos_path(c->server, c->id);
	char *dir CLEANUP_FREE = xasprintf("%s/mounts/%s", c->pod->dir, c->id);
	struct agent *agent;
	bool alive = pod_agent(c->pod, &agent, NULL) == 0, created;
	int r = 0;

	if (!pos || !dir)
		return err_oom(err);
	pthread_mutex_lock(&c->pod->lock);
	created = c->state->phase == CREATED;
	pthread_mutex_unlock(&c->pod->lock);
	if (alive) {
		/* The guest unmounts before the host does. What still runs there is not removed. */
		r = container_end_in_guest(agent, c->id, created, err);
		alive = pod_agent(c->pod, &agent, NULL) == 0;
		if (r < 0 && alive)
			return err_wrap(err, "removing container \"%s\"", c->id);
	}
	r = share_container_destroy(dir, !alive, err);
	if (r == 0)
		r = journal_undo_owner(c->server->store, c->id, pod_undo, c->server, err);
	if (r == 0 && unlink(pos) < 0 && errno != ENOENT)
		r = err_set_errno(err, -errno, "removing %s", pos);
	if (r == 0)
		r = container_forget(c, err);
	if (r < 0)
		return err_wrap(err, "removing container \"%s\"", c->id);
	container_table_remove(c);
	return 0;
}

int container_remove(struct server *server, const char *id, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	int r = container_find(server, id, &c, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	for (;;) {
		wait_for_start(c);
		if (is_running(c)) {
			r = kill_now(c, err);
			if (r < 0)
				return r;
		}
		if (container_turn_take(c, CONTAINER_OP_REMOVE) < 0)
			return 0;
		if (!is_running(c))
			break;
		container_turn_give(c); /* started while the turn was another's */
	}
	r = remove_steps(c, err);
	container_turn_give(c);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->id), "container is removed");
	return r;
}
