/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that goes on when its caller leaves: callers wait for its outcome, each as long as its own call lasts.
 * And creations: who joins them, who has got the answer, and what becomes of those that nobody claims.
 */
#include "cri/pods/pods_internal.h"

#include "base/log.h"

/* ---- answers ------------------------------------------------------------------------------------------- */

/* One caller that waits for an outcome. */
struct waiter {
	struct object *object; /* a reference */
	bool claims;
	pods_done_fn *done;
	void *arg;
};

void work_done(pods_done_fn *done, void *arg, const char *id, const struct err *err)
{
	static const struct err well = {.code = 0};

	done(arg, id, err ? err : &well);
}

static void answer(void *arg, const struct err *err)
{
	struct waiter *w = arg;

	if (err->code == 0 && w->claims)
		object_claim(w->object);
	w->done(w->arg, w->object->id, err);
	object_unref(w->object);
	free(w);
}

int work_answer(struct object *object, struct outcome *outcome, bool claims, struct call *call,
		pods_done_fn *done, void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;
	int r = w ? 0 : err_oom(&err);

	if (r == 0) {
		*w = (struct waiter){.object = object, .claims = claims, .done = done, .arg = arg};
		r = outcome_watch(outcome, call, answer, w, &err);
	}
	if (r == 0)
		return 0;
	free(w);
	work_done(done, arg, object->id, &err);
	object_unref(object);
	return r;
}

int work_begin(struct work_slot *work, struct call *call, pods_done_fn *done, void *arg)
{
	struct object *object = work->object;
	struct err err = ERR_INIT;
	int r = work_answer(object_ref(object), work->outcome, false, call, done, arg);

	if (!work->is_new)
		return r;
	object_ref(object);
	if (r < 0)
		err_oom(&err);
	else if (workers_submit(work->workers, work->lane, work->job, object) < 0)
		r = err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "too many %ss are being %s",
				   object->table->what, work->verb);
	if (r == 0)
		return 0;
	work_end(work->lock, work->slot, &err);
	object_unref(object);
	return r;
}

/* ---- work in progress ---------------------------------------------------------------------------------- */

int work_join(struct outcome **slot, struct outcome **ret_outcome, bool *ret_new, struct err *err)
{
	*ret_new = !*slot;
	if (!*slot && outcome_new(slot, err) < 0)
		return -ENOMEM;
	*ret_outcome = outcome_ref(*slot);
	return 0;
}

void work_end(pthread_mutex_t *lock, struct outcome **slot, const struct err *why)
{
	struct outcome *outcome;

	pthread_mutex_lock(lock);
	outcome = move_ptr(*slot);
	pthread_mutex_unlock(lock);
	if (outcome)
		outcome_set(outcome, why);
	outcome_unref(outcome);
}

/* ---- creations ----------------------------------------------------------------------------------------- */

void object_claim(struct object *object)
{
	struct err err = ERR_INIT;

	if (!atomic_exchange(&object->unclaimed, false))
		return;
	atomic_store(&object->undo_at_ns, INT64_MAX);
	/* If this fails, the time begins anew after a restart of the server. */
	if (object->table->store(object, &err) < 0 && err.code != -ENOENT)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("id", object->id), "storing that %s is claimed: %s",
			 object->table->what, err.msg);
}

static void look_for_unclaimed(void *arg);

/* Loop thread: the next look is when the first of all is due. */
static void arm(void *arg)
{
	struct pods *pods = arg;
	struct table *tables[] = {&pods->containers, &pods->pods};
	int64_t next = INT64_MAX;

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		struct object **list CLEANUP_OBJECTS = NULL;

		if (table_list(tables[t], false, &list, NULL) < 0)
			next = now_monotonic_ns() + NS_PER_SEC;
		for (size_t i = 0; list && list[i]; i++) {
			int64_t at = atomic_load(&list[i]->undo_at_ns);

			if (at < next)
				next = at;
		}
	}
	if (pods->unclaimed)
		loop_timer_set(pods->unclaimed, next);
	else if (next < INT64_MAX &&
		 loop_add_timer(pods->parts.loop, next, look_for_unclaimed, pods, &pods->unclaimed, NULL) < 0)
		log_error("out of memory: pods that nobody claims are not removed");
}

/* One that could not be removed is tried again after the same time. */
static void unclaimed_gone(struct pods *pods, struct table *table, const char *id, const struct err *err)
{
	struct object *object;

	if (err->code == 0)
		return;
	log_line(LOG_LEVEL_ERROR, LOG_FIELDS("id", id),
		 "removing a %s that nobody claimed: %s; it is tried again", table->what, err->msg);
	if (table_find(table, id, &object, NULL) < 0)
		return;
	if (atomic_load(&object->unclaimed))
		work_unclaimed(pods, object);
	object_unref(object);
}

static void unclaimed_pod_gone(void *arg, const char *id, const struct err *err)
{
	struct pods *pods = arg;

	unclaimed_gone(pods, &pods->pods, id, err);
}

static void unclaimed_container_gone(void *arg, const char *id, const struct err *err)
{
	struct pods *pods = arg;

	unclaimed_gone(pods, &pods->containers, id, err);
}

/* Loop thread. */
static void look_for_unclaimed(void *arg)
{
	struct pods *pods = arg;
	struct table *tables[] = {&pods->containers, &pods->pods};

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		struct object **list CLEANUP_OBJECTS = NULL;

		if (table_list(tables[t], false, &list, NULL) < 0)
			continue;
		for (size_t i = 0; list[i]; i++) {
			if (atomic_load(&list[i]->undo_at_ns) > now_monotonic_ns())
				continue;
			atomic_store(&list[i]->undo_at_ns, INT64_MAX);
			if (!atomic_load(&list[i]->unclaimed))
				continue;
			log_line(LOG_LEVEL_WARN, LOG_FIELDS("id", list[i]->id),
				 "nobody has claimed this %s: it is removed", tables[t]->what);
			if (tables[t] == &pods->pods)
				pods_remove(pods, list[i]->id, NULL, unclaimed_pod_gone, pods);
			else
				containers_remove(pods, list[i]->id, NULL, unclaimed_container_gone, pods);
		}
	}
	arm(pods);
}

void work_unclaimed(struct pods *pods, struct object *object)
{
	atomic_store(&object->undo_at_ns, now_monotonic_ns() + pods->unclaimed_ns);
	if (loop_post(pods->parts.loop, arm, pods) < 0)
		log_error("out of memory: pods that nobody claims are not removed");
}

void work_made(struct pods *pods, struct object *object, const struct err *why)
{
	outcome_set(object->made, why);
	if (!why && atomic_load(&object->unclaimed))
		work_unclaimed(pods, object);
}

void work_repeat(struct object *other, const char *difference, bool usable, struct call *call,
		 pods_done_fn *done, void *arg)
{
	struct err err = ERR_INIT;

	if (difference[0])
		err_set(&err, -EEXIST, "the name \"%s\" is taken by %s \"%s\", whose request differs in %s",
			other->name, other->table->what, other->id, difference);
	else if (!usable)
		err_set(&err, -EEXIST, "the name \"%s\" is taken by %s \"%s\", which has ended", other->name,
			other->table->what, other->id);
	if (err.code < 0) {
		work_done(done, arg, other->id, &err);
		object_unref(other);
	} else if (other->made) {
		(void)work_answer(other, other->made, true, call, done, arg);
	} else {
		object_claim(other);
		work_done(done, arg, other->id, NULL);
		object_unref(other);
	}
}
