/* SPDX-License-Identifier: Apache-2.0 */
/* After a start: the containers that a previous server left, with their pods. */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/log.h"

/* Rows of before containers had states of their own. */
static Crivisor__State__V1__ContainerState state_of_row(const ContainerState *row)
{
	if (row->state != CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_OLD)
		return row->state;
	switch (row->phase) {
	case CRIVISOR__STATE__V1__PHASE__PHASE_READY:
		return CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED;
	case CRIVISOR__STATE__V1__PHASE__PHASE_RUNNING:
		return CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING;
	case CRIVISOR__STATE__V1__PHASE__PHASE_EXITED:
		return CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
	default:
		return CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATING;
	}
}

static int load(struct pod *pod, const struct state_row *row, ContainerState *state, struct err *err)
{
	char *name CLEANUP_FREE = container_name(state->config, pod->object.id);
	struct container *c = name ? container_new(pod, row->id, state) : NULL;
	struct object *other = NULL;
	int r;

	if (!c) {
		pb_free(state);
		return err_oom(err);
	}
	r = table_add(&pod->pods->containers, &c->object, name, &other, err);
	object_unref(other);
	atomic_store(&c->object.unclaimed, state->unclaimed);
	if (r == 0 && container_state(c) != CONTAINER_CREATING) {
		object_show(&c->object);
		if (state->unclaimed)
			work_unclaimed(pod->pods, &c->object);
	}
	object_unref(&c->object);
	return r;
}

void container_recover(struct pods *pods, const struct state_row *row)
{
	ContainerState *state = crivisor__state__v1__container__unpack(NULL, row->len, row->data);
	struct pod *pod CLEANUP_POD = NULL;
	struct err err = ERR_INIT;

	if (state && !str_empty(state->pod_id))
		(void)pod_find(pods, state->pod_id, &pod, NULL);
	if (!pod || !state->config || !state->config->metadata || !str_eq(state->id, row->id) ||
	    strlen(row->id) > 64) {
		recover_undo(pods, "container", row->id, NULL);
		pb_free(state);
		return;
	}
	state->state = state_of_row(state);
	if (load(pod, row, state, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", row->id), "reading its row: %s", err.msg);
}

/* The guest of an adopted pod may have it, and its mounts, while the host does not count it as created. */
static void end_half_created(struct container *c)
{
	const char *id = c->object.id;
	struct agent *agent;
	struct err err = ERR_INIT;
	bool alive = pod_agent(c->pod, &agent, NULL) == 0;

	if ((alive && guest_end(agent, id, true, &err) < 0) ||
	    sandbox_place_remove(c->pod->sandbox, id, !alive, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", id), "ending it in its guest: %s", err.msg);
	recover_undo(c->pods, "container", id, NULL);
	pthread_mutex_lock(&c->pod->lock);
	c->gone = true;
	pthread_mutex_unlock(&c->pod->lock);
	object_remove(&c->object);
}

/* The row says "running" before the start is sent: whether it ever was, the guest knows. */
static bool never_started(struct container *c, struct agent *agent)
{
	if (!guest_is_created(agent, c->object.id))
		return false;
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->object.id),
		 "the previous server did not get to start it: it is created");
	pthread_mutex_lock(&c->pod->lock);
	c->state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED;
	c->state->started_at = 0;
	pthread_mutex_unlock(&c->pod->lock);
	(void)container_store(c, NULL); /* if this fails, the next start comes to the same result */
	return true;
}

static void adopt_running(struct container *c)
{
	struct agent *agent;
	struct err err = ERR_INIT;

	if (pod_agent(c->pod, &agent, &err) < 0 || never_started(c, agent))
		return; /* a dead sandbox ends it below */
	if (container_log_start(c, agent, true, NULL, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id), "resuming its log: %s",
			 err.msg);
	if (container_watch(c, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id), "waiting for its exit: %s",
			 err.msg);
}

void container_adopt_all(struct pod *pod)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct err err = ERR_INIT;

	if (container_list(pod->pods, pod, true, &list, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->object.id), "taking over its containers: %s",
			 err.msg);
		return;
	}
	for (size_t i = 0; list[i]; i++) {
		struct container *c = container_of(list[i]);
		int state = container_state(c);

		if (state == CONTAINER_CREATING)
			end_half_created(c);
		else if (state == CONTAINER_RUNNING)
			adopt_running(c);
	}
	/* Last: a sandbox that dies while this goes on has ended what was there. */
	if (!pod_is_ready(pod))
		container_sandbox_died(pod,
				       pod->state->reason[0] ? pod->state->reason : "the pod was stopped");
}
