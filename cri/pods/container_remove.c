/* SPDX-License-Identifier: Apache-2.0 */
/* RemoveContainer: a job, which those who call again while it runs join. */
#include "cri/pods/pods_internal.h"

#include "base/log.h"

static int remove_steps(struct container *c, struct err *err)
{
	struct pods *pods = c->pods;
	struct sandbox *sandbox = c->pod->sandbox;
	char *pos CLEANUP_FREE = container_pos_path(pods, c->object.id);
	struct agent *agent;
	bool alive = pod_agent(c->pod, &agent, NULL) == 0;
	int r = 0;

	if (!pos)
		return err_oom(err);
	if (alive) {
		/* The guest unmounts before the host does. What still runs there is not removed. */
		r = guest_end(agent, c->object.id, container_state(c) == CONTAINER_CREATED, err);
		alive = pod_agent(c->pod, &agent, NULL) == 0;
		if (r < 0 && alive)
			return r;
	}
	r = sandbox_place_remove(sandbox, c->object.id, !alive, err);
	if (r == 0)
		r = journal_undo_owner(pods->parts.store, c->object.id, pod_undo, pods, err);
	if (r == 0 && unlink(pos) < 0 && errno != ENOENT)
		r = err_set_errno(err, -errno, "removing %s", pos);
	return r == 0 ? container_forget(c, err) : r;
}

/* Kills it if it runs: 0 once it does not, with the turn taken. */
static int take_stopped(struct container *c, struct call *call, struct err *err)
{
	for (;;) {
		struct outcome *outcome CLEANUP_OUTCOME = NULL;
		int r = container_stop_begin(c, 0, &outcome, err);

		if (r == 0 && outcome)
			r = outcome_wait(outcome, call, err);
		if (r == 0)
			r = container_turn_take(c, WORK_REMOVE, call, err);
		if (r < 0 || container_state(c) != CONTAINER_RUNNING)
			return r;
		container_turn_give(c); /* it was started while the turn was another's */
	}
}

int container_remove_now(struct container *container, struct call *call, struct err *err)
{
	struct container *c = container;
	/* Before that its guest cannot be told to let go of what it has mounted. */
	int r = pod_wait_adoption(c->pod, call, err);
	bool told;

	if (r == 0)
		r = take_stopped(c, call, err);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	told = container_state(c) != CONTAINER_CREATING; /* else it is what a failed creation left */
	r = remove_steps(c, err);
	if (r == 0)
		object_remove(&c->object);
	container_turn_give(c);
	if (r < 0)
		return err_wrap(err, "removing container \"%s\"", c->object.id);
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->object.id), "container is removed");
	if (told)
		container_tell(c, CONTAINER_IS_REMOVED);
	return 0;
}

static void remove_job(void *arg)
{
	struct container *c = arg;
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int r = call_new(now_monotonic_ns() + TURN_NS, &call, &err);

	if (r == 0)
		r = container_remove_now(c, call, &err);
	work_end(&c->pod->lock, &c->removing, r < 0 ? &err : NULL);
	pod_shrink(c->pod);
	object_unref(&c->object);
}

static void remove_again(struct pods *pods, const struct pod_later *later)
{
	containers_remove(pods, later->id, later->call, later->done, later->arg);
}

void containers_remove(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	bool begin = false;
	int r = container_find(pods, id, &c, &err);

	if (r == 0 &&
	    container_later(
		    c, &(struct pod_later){.again = remove_again, .call = call, .done = done, .arg = arg}))
		return;
	if (r == 0) {
		pthread_mutex_lock(&c->pod->lock);
		r = work_join(&c->removing, &outcome, &begin, &err);
		pthread_mutex_unlock(&c->pod->lock);
	}
	if (r < 0) {
		work_done(done, arg, id, r == -ENOENT ? NULL : &err);
		return;
	}
	(void)work_begin(&(struct work_slot){.object = &c->object,
					     .outcome = outcome,
					     .is_new = begin,
					     .lock = &c->pod->lock,
					     .slot = &c->removing,
					     .workers = pods->parts.workers,
					     .lane = LANE_STOP,
					     .job = remove_job,
					     .verb = "removed"},
			 call, done, arg);
}
