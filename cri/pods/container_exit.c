/* SPDX-License-Identifier: Apache-2.0 */
/* How a container's exit is learned and made known. */
#include "cri/pods/pods_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/pb.h"
#include "base/log.h"
#include "cri/agent/agent.h"
#include "cri/logs/logs.h"

#include <signal.h>

#define DRAIN_NS     (5 * NS_PER_SEC)
#define ASK_PAUSE_NS (100 * NS_PER_MS)
#define ASK_TRIES    10

void container_exited(struct container *container, int32_t code, int64_t at_ns, const char *reason,
		      const char *message)
{
	struct pod *pod = container->pod;
	ContainerState *state = container->state;
	struct err err = ERR_INIT;
	bool first;

	pthread_mutex_lock(&pod->lock);
	first = !container->gone &&
		state->state != CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
	if (first) {
		state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
		state->exit_code = code;
		state->finished_at = at_ns;
		(void)pb_set_str(&state->reason, reason ? reason : code == 0 ? "Completed" : "Error");
		(void)pb_set_text(&state->message, message);
	}
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
	if (!first)
		return;
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", container->object.id),
		 "container has exited with %d", code);
	if (container_store(container, &err) < 0 && err.code != -ENOENT)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", container->object.id),
			 "storing an exit: %s", err.msg);
	container_tell(container, CONTAINER_HAS_EXITED);
	container_stop_over(container);
}

/* With pod.lock held. */
static bool lives(const struct object *object, const void *pod)
{
	const struct container *c = (const void *)object;

	return c->pod == pod && !c->gone &&
	       (c->state->state == CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED ||
		c->state->state == CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING);
}

/* A reference, or NULL. Without a list, so that a death is told however little memory there is. */
static struct container *first_living(struct pod *pod)
{
	struct object *object;

	pthread_mutex_lock(&pod->lock);
	object = table_first(&pod->pods->containers, lives, pod);
	pthread_mutex_unlock(&pod->lock);
	return object ? container_of(object) : NULL;
}

void container_sandbox_died(struct pod *pod, const char *why)
{
	struct container *c;

	while ((c = first_living(pod))) {
		container_exited(c, 128 + SIGKILL, now_realtime_ns(), "Error", why);
		object_unref(&c->object);
	}
}

/* ---- told by the guest --------------------------------------------------------------------------------- */

static bool was_oom_killed(struct container *c)
{
	Crivisor__Agent__V1__StatsRequest req = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	Crivisor__Agent__V1__StatsResponse *resp = NULL;
	struct agent *agent;
	bool oom;

	req.container_id = c->object.id;
	if (pod_agent(c->pod, &agent, NULL) < 0 ||
	    agent_call(agent, &AGENT_STATS, &req.base, CALL_NS, (ProtobufCMessage **)&resp, NULL) < 0)
		return false;
	oom = resp->oom_kills > 0;
	container_tell_stats(c, &resp->base);
	pb_free(resp);
	return oom;
}

/*
 * On a worker thread: the exit shows only once the log is complete, so that a client that sees it can read
 * all.
 */
static void exit_job(void *arg)
{
	struct container *c = arg;
	bool oom = c->exit_code != 0 && !c->exit_unknown && was_oom_killed(c);
	char full[sizeof(c->full)];
	struct log_pump *pump;

	pthread_mutex_lock(&c->pod->lock);
	pump = c->pump;
	snprintf(full, sizeof(full), "%s", c->full);
	pthread_mutex_unlock(&c->pod->lock);
	if (pump)
		log_pump_wait_eof(pump, NULL, now_monotonic_ns() + DRAIN_NS);
	if (c->exit_unknown)
		container_exited(c, c->exit_code, c->exit_at_ns, "ContainerStatusUnknown",
				 "the guest does not know this container");
	else if (full[0] && c->exit_code == 128 + SIGKILL)
		container_exited(c, c->exit_code, c->exit_at_ns, "WritableLayerFull", full);
	else
		container_exited(c, c->exit_code, c->exit_at_ns, oom ? "OOMKilled" : NULL, NULL);
	object_unref(&c->object);
}

static void nobody_asks(struct container *c)
{
	sandbox_condemn(c->pod->sandbox, "the server has no memory to ask for the exits of its containers");
}

/* Worker thread. Carries a reference. */
static void ask_again_job(void *arg)
{
	struct container *c = arg;

	(void)call_sleep(NULL, now_monotonic_ns() + ASK_PAUSE_NS, NULL);
	if (container_watch(c, NULL) < 0)
		nobody_asks(c);
	object_unref(&c->object);
}

/* There was no memory to ask, or to take the answer. */
static void ask_again(struct container *c)
{
	object_ref(&c->object);
	if (workers_submit(c->pods->parts.workers, LANE_NET, ask_again_job, c) == 0)
		return;
	nobody_asks(c);
	object_unref(&c->object);
}

/* Loop thread. Carries a reference. */
static void on_wait_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct container *c = arg;
	const Containerd__Task__V2__WaitResponse *resp = (const void *)msg;
	bool unknown = err && err->status == ERR_NOT_FOUND;
	char why[SANDBOX_WHY_MAX];

	pthread_mutex_lock(&c->pod->lock);
	c->wait_pending = false;
	if (!err || unknown) {
		c->ending = true;
		c->exit_unknown = unknown;
		c->exit_code = unknown ? 255 : (int32_t)resp->exit_status;
		/* The guest's clock is not trusted: this is when the host learned of the exit. */
		c->exit_at_ns = now_realtime_ns();
	}
	pthread_mutex_unlock(&c->pod->lock);
	if (err && err->code == -ENOMEM) {
		ask_again(c);
		object_unref(&c->object);
	} else if (err && !unknown) {
		/* Either the sandbox is dead, and its death ends the container, or its agent comes back. */
		if (err->status != ERR_UNAVAILABLE) {
			snprintf(why, sizeof(why), "waiting for a container: %.200s", err->msg);
			sandbox_condemn(c->pod->sandbox, why);
		}
		object_unref(&c->object);
	} else if (workers_submit(c->pods->parts.workers, LANE_NET, exit_job, c) < 0) {
		container_exited(c, c->exit_code, c->exit_at_ns, NULL, NULL);
		object_unref(&c->object);
	}
}

/* Loop thread, so that a connection that is lost here is a loss that container_watch_again comes after. */
static void ask(struct container *c)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	struct agent *agent;
	bool wanted;
	int r;

	pthread_mutex_lock(&c->pod->lock);
	wanted = !c->wait_pending && !c->ending && !c->gone &&
		 c->state->state == CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING;
	if (wanted)
		c->wait_pending = true;
	pthread_mutex_unlock(&c->pod->lock);
	if (!wanted)
		return;
	layers_watch(c->pods);
	req.id = c->object.id;
	object_ref(&c->object);
	r = pod_agent(c->pod, &agent, NULL);
	if (r == 0)
		r = agent_call_async(agent, &AGENT_TASK_WAIT, &req.base, 0, on_wait_reply, c);
	if (r == 0)
		return;
	pthread_mutex_lock(&c->pod->lock);
	c->wait_pending = false;
	pthread_mutex_unlock(&c->pod->lock);
	if (r == -ENOMEM) /* else the death of the sandbox, or the next connection, sees to it */
		ask_again(c);
	object_unref(&c->object);
}

static void ask_on_loop(void *arg)
{
	struct container *c = arg;

	ask(c);
	object_unref(&c->object);
}

int container_watch(struct container *container, struct err *err)
{
	object_ref(&container->object);
	for (int i = 0; i < ASK_TRIES; i++) {
		if (loop_post(container->pods->parts.loop, ask_on_loop, container) == 0)
			return 0;
		(void)call_sleep(NULL, now_monotonic_ns() + ASK_PAUSE_NS, NULL);
	}
	object_unref(&container->object);
	return err_oom(err);
}

void container_watch_again(struct pod *pod)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct err err = ERR_INIT;

	if (container_list(pod->pods, pod, false, &list, &err) < 0) {
		sandbox_condemn(pod->sandbox,
				"the server has no memory to ask for the exits of its containers");
		return;
	}
	for (size_t i = 0; list[i]; i++)
		ask(container_of(list[i]));
}
