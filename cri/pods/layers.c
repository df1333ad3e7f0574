/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends containers whose writable layer exceeds its limit. Where the file system enforces the limit, writers
 * get an error instead, and a look costs one call for each container. Elsewhere a look walks the layers of
 * all running containers: one job for all of them, which rests for nineteen times as long as it took, so that
 * it uses a twentieth of a CPU at most. It sleeps while no container runs.
 */
#include "cri/pods/pods_internal.h"

#include "base/log.h"

#define LOOK_NS (10 * NS_PER_SEC) /* between two looks, at least */
#define REST	19		  /* times the length of a look */

static int64_t look_ns(const struct pods *pods)
{
	return pods->parts.layers_ns > 0 ? pods->parts.layers_ns : LOOK_NS;
}

/* ---- a look: worker thread ----------------------------------------------------------------------------- */

static void end_container(struct container *c, const char *why)
{
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;

	log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->object.id), "container is killed: %s", why);
	pthread_mutex_lock(&c->pod->lock);
	snprintf(c->full, sizeof(c->full), "%s", why);
	pthread_mutex_unlock(&c->pod->lock);
	if (container_stop_begin(c, 0, &outcome, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id),
			 "a container with a full layer: %s; it is tried again", err.msg);
}

static void look_at(struct container *c)
{
	char why[sizeof(c->full)];

	if (rootfs_exceeds(c->pods->parts.rootfs, c->object.id, why, sizeof(why)) &&
	    container_state(c) == CONTAINER_RUNNING)
		end_container(c, why);
}

static void look_ended(void *arg);

static void look_job(void *arg)
{
	struct pods *pods = arg;
	struct object **list CLEANUP_OBJECTS = NULL;
	int64_t began = now_monotonic_ns();
	unsigned int running = 0;

	if (container_list(pods, NULL, false, &list, NULL) < 0)
		running = 1; /* no memory: look again */
	for (size_t i = 0; list && list[i] && !atomic_load(&pods->closed); i++) {
		if (container_state(container_of(list[i])) != CONTAINER_RUNNING)
			continue;
		look_at(container_of(list[i]));
		running++;
	}
	pods->layers.running = running;
	pods->layers.took_ns = now_monotonic_ns() - began;
	if (!atomic_load(&pods->closed) && loop_post(pods->parts.loop, look_ended, pods) < 0)
		log_error("out of memory: writable layers are not looked at any more");
}

/* ---- when: loop thread --------------------------------------------------------------------------------- */

static void look(void *arg)
{
	struct pods *pods = arg;

	pods->layers.wanted = false;
	if (workers_submit(pods->parts.workers, LANE_SLOW, look_job, pods) < 0)
		loop_timer_set(pods->layers.timer, now_monotonic_ns() + look_ns(pods));
}

static void look_ended(void *arg)
{
	struct pods *pods = arg;
	int64_t rest = REST * pods->layers.took_ns;

	pods->layers.busy = pods->layers.running > 0 || pods->layers.wanted;
	if (pods->layers.busy && pods->layers.timer)
		loop_timer_set(pods->layers.timer,
			       now_monotonic_ns() + (rest > look_ns(pods) ? rest : look_ns(pods)));
}

void layers_watch(struct pods *pods)
{
	int64_t when = now_monotonic_ns() + look_ns(pods);

	pods->layers.wanted = true;
	if (pods->layers.busy || !rootfs_limits(pods->parts.rootfs))
		return;
	if (pods->layers.timer)
		loop_timer_set(pods->layers.timer, when);
	else if (loop_add_timer(pods->parts.loop, when, look, pods, &pods->layers.timer, NULL) < 0)
		return; /* the next container to run tries again */
	pods->layers.busy = true;
}
