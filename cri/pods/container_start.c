/* SPDX-License-Identifier: Apache-2.0 */
/* StartContainer: a job, which those who call again while it runs join. */
#include "cri/pods/pods_internal.h"

#include "base/log.h"
#include "cri/agent/agent.h"
#include "cri/logs/logs.h"

#define RUNNING CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING
#define CREATED CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED

int container_log_start(struct container *container, struct agent *agent, bool resume, struct call *call,
			struct err *err)
{
	const struct pods_parts *parts = &container->pods->parts;
	char *pos CLEANUP_FREE = container_pos_path(container->pods, container->object.id);
	const struct log_pump_options options = {
		.loop = parts->loop,
		.workers = parts->workers,
		.agent = agent,
		.container_id = container->object.id,
		.log_path = container->state->log_path,
		.pos_path = pos,
		.resume = resume,
	};
	struct log_pump *pump = NULL;
	int r;

	if (!pos)
		return err_oom(err);
	r = log_pump_start(&options, call, &pump, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&container->pod->lock);
	container->pump = pump;
	pthread_mutex_unlock(&container->pod->lock);
	return 0;
}

static int refuse(struct container *c, int state, struct err *err)
{
	if (state < 0)
		return err_set(err, -ENOENT, "container \"%s\" not found", c->object.id);
	return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "container \"%s\" is %s, not created",
			      c->object.id, state == CONTAINER_RUNNING ? "running" : "exited");
}

/* It is not started after all; its sandbox's death may have ended it meanwhile. */
static void mark_created(struct container *c)
{
	pthread_mutex_lock(&c->pod->lock);
	if (c->state->state == RUNNING) {
		c->state->state = CREATED;
		c->state->started_at = 0;
	}
	pthread_mutex_unlock(&c->pod->lock);
}

/* Stored first: a server that dies between here and the start learns from the guest what became of it. */
static int mark_running(struct container *c, struct err *err)
{
	struct agent *agent;
	bool created;
	int r;

	pthread_mutex_lock(&c->pod->lock);
	created = c->state->state == CREATED;
	if (created) {
		c->state->state = RUNNING;
		c->state->started_at = now_realtime_ns();
	}
	pthread_mutex_unlock(&c->pod->lock);
	if (created) {
		r = container_store(c, err);
		if (r < 0)
			mark_created(c);
		return r;
	}
	/* Its sandbox died meanwhile. */
	if (pod_agent(c->pod, &agent, err) < 0)
		return -ECONNRESET;
	return err_set(err, -ECONNRESET, "container \"%s\" has ended", c->object.id);
}

static int start_steps(struct container *c, struct call *call, struct err *err)
{
	struct agent *agent;
	int r = pod_agent(c->pod, &agent, err);

	if (r == 0 && !c->pump)
		r = container_log_start(c, agent, false, call, err);
	if (r == 0)
		r = mark_running(c, err);
	if (r < 0)
		return r;
	r = guest_start(agent, c->object.id, err);
	if (r == 0) {
		if (container_state(c) == CONTAINER_RUNNING) /* else its sandbox has died, which was told */
			container_tell(c, CONTAINER_IS_STARTED);
		r = container_watch(c, err);
		if (r < 0) /* nobody would learn of its exit */
			(void)guest_end(agent, c->object.id, true, NULL);
	}
	if (r == 0)
		return 0;
	/* Of too little memory, most likely before the guest was asked. */
	if (r == -ENOMEM && guest_is_created(agent, c->object.id)) {
		mark_created(c);
		if (container_store(c, NULL) == 0)
			return r;
	}
	err_wrap(err, "starting container \"%s\"", c->object.id);
	container_exited(c, 128, now_realtime_ns(), "StartError", err->msg);
	return r;
}

static int start(struct container *c, struct err *err)
{
	struct call *call CLEANUP_CALL = NULL;
	int state, r = call_new(now_monotonic_ns() + TURN_NS, &call, err);

	if (r == 0)
		r = container_turn_take(c, WORK_START, call, err);
	if (r < 0)
		return r;
	state = container_state(c);
	r = state == CONTAINER_CREATED ? start_steps(c, call, err) : refuse(c, state, err);
	container_turn_give(c);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->object.id), "container is started");
	return r;
}

static void start_job(void *arg)
{
	struct container *c = arg;
	struct err err = ERR_INIT;
	int r = start(c, &err);

	work_end(&c->pod->lock, &c->starting, r < 0 ? &err : NULL);
	object_unref(&c->object);
}

static void start_again(struct pods *pods, const struct pod_later *later)
{
	containers_start(pods, later->id, later->call, later->done, later->arg);
}

void containers_start(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	bool begin = false;
	int r = container_find(pods, id, &c, &err);

	if (r == 0 &&
	    container_later(
		    c, &(struct pod_later){.again = start_again, .call = call, .done = done, .arg = arg}))
		return;
	if (r == 0) {
		int state = container_state(c);

		object_claim(&c->object);
		pthread_mutex_lock(&c->pod->lock);
		/* While a start is in progress the state is already "running". */
		if (c->starting || state == CONTAINER_CREATED)
			r = work_join(&c->starting, &outcome, &begin, &err);
		else
			r = refuse(c, state, &err);
		pthread_mutex_unlock(&c->pod->lock);
	}
	if (r < 0) {
		work_done(done, arg, id, &err);
		return;
	}
	(void)work_begin(&(struct work_slot){.object = &c->object,
					     .outcome = outcome,
					     .is_new = begin,
					     .lock = &c->pod->lock,
					     .slot = &c->starting,
					     .workers = pods->parts.workers,
					     .lane = LANE_SLOW,
					     .job = start_job,
					     .verb = "started"},
			 call, done, arg);
}
