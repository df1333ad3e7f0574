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

static bool has_row(struct pods *pods, const char *pod_id)
{
	void *data CLEANUP_FREE = NULL;
	size_t len;

	return store_get(pods->parts.store, "pod", pod_id, &data, &len, NULL) != -ENOENT;
}

int container_recover(struct pods *pods, const struct state_row *row, struct err *err)
{
	ContainerState *state;
	struct pod *pod CLEANUP_POD = NULL;
	struct err why = ERR_INIT;
	int r = state_unpack(&crivisor__state__v1__container__descriptor, row, (void **)&state);

	if (r < 0)
		return err_oom(err);
	if (state && !str_empty(state->pod_id))
		(void)pod_find(pods, state->pod_id, &pod, NULL);
	if (!pod && state && has_row(pods, state->pod_id)) { /* its pod may live, and it in it */
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", row->id, "pod", state->pod_id),
			 "it is left as it is: its pod's row is there but could not be read");
		pb_free(state);
		return 0;
	}
	if (!pod || !state->config || !state->config->metadata || !str_eq(state->id, row->id) ||
	    strlen(row->id) > 64) {
		recover_undo(pods, "container", row->id, NULL);
		pb_free(state);
		return 0;
	}
	state->state = state_of_row(state);
	r = load(pod, row, state, &why);
	if (r == -ENOMEM)
		return err_copy(err, &why);
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", row->id), "reading its row: %s", why.msg);
	return 0;
}

/* Silent once is silent for good: the next container of the pod does not wait for it again. */
static void condemn_if_silent(struct container *c, const struct err *err)
{
	char why[SANDBOX_WHY_MAX];

	if (err->status != ERR_DEADLINE_EXCEEDED)
		return;
	snprintf(why, sizeof(why), "the guest did not answer when it was adopted: %.180s", err->msg);
	sandbox_condemn(c->pod->sandbox, why);
}

/* The guest of an adopted pod may have it, and its mounts, while the host does not count it as created. */
static void end_half_created(struct container *c)
{
	const char *id = c->object.id;
	struct agent *agent;
	struct err err = ERR_INIT;
	bool alive = pod_agent(c->pod, &agent, NULL) == 0;

	if (alive && guest_end(agent, id, true, &err) < 0) {
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", id), "ending it in its guest: %s", err.msg);
		condemn_if_silent(c, &err);
		alive = pod_agent(c->pod, &agent, NULL) == 0;
	}
	err = ERR_INIT;
	if (sandbox_place_remove(c->pod->sandbox, id, !alive, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", id), "removing its place: %s", err.msg);
	recover_undo(c->pods, "container", id, NULL);
	pthread_mutex_lock(&c->pod->lock);
	c->gone = true;
	pthread_mutex_unlock(&c->pod->lock);
	object_remove(&c->object);
}

static void never_started(struct container *c)
{
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->object.id),
		 "the previous server did not get to start it: it is created");
	pthread_mutex_lock(&c->pod->lock);
	c->state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED;
	c->state->started_at = 0;
	pthread_mutex_unlock(&c->pod->lock);
	(void)container_store(c, NULL); /* if this fails, the next start comes to the same result */
}

/* The row says "running" before the start is sent: whether it ever was, the guest knows. */
static void adopt_running(struct container *c, struct call *call)
{
	struct agent *agent;
	struct err err = ERR_INIT;
	bool created = false;

	if (pod_agent(c->pod, &agent, &err) < 0)
		return; /* a dead sandbox ends it below */
	if (guest_ask_created(agent, call, c->object.id, &created, &err) < 0)
		condemn_if_silent(c, &err);
	if (created) {
		never_started(c);
		return;
	}
	if (sandbox_is_dead(c->pod->sandbox))
		return;
	if (container_log_start(c, agent, true, call, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id), "resuming its log: %s",
			 err.msg);
	if (container_watch(c, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id), "waiting for its exit: %s",
			 err.msg);
	container_stop_resume(c);
}

void container_adopt_all(struct pod *pod, struct call *call)
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
			adopt_running(c, call);
	}
	/* Last: a sandbox that dies while this goes on has ended what was there. */
	if (!pod_is_ready(pod))
		container_sandbox_died(pod,
				       pod->state->reason[0] ? pod->state->reason : "the pod was stopped");
}
