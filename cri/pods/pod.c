/* SPDX-License-Identifier: Apache-2.0 */
/* A pod as an object: its row, its turn, its state and its views. */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/cond.h"
#include "base/log.h"

/* ---- life ---------------------------------------------------------------------------------------------- */

struct pod *pod_new(struct pods *pods, const char *id, PodState *state)
{
	struct pod *pod = calloc(1, sizeof(*pod));

	if (!pod)
		return NULL;
	if (cond_init(&pod->changed) < 0) {
		free(pod);
		return NULL;
	}
	object_init(&pod->object, &pods->pods, id);
	pod->pods = pods;
	pod->state = state;
	pthread_mutex_init(&pod->telling, NULL);
	pthread_mutex_init(&pod->rows, NULL);
	pthread_mutex_init(&pod->lock, NULL);
	return pod;
}

/* Of the table. */
void pod_free(struct object *object)
{
	struct pod *pod = (struct pod *)(void *)object;

	sandbox_unref(pod->sandbox);
	free(pod->stats.usage);
	outcome_unref(pod->adopted);
	pb_free(pod->state);
	pthread_cond_destroy(&pod->changed);
	pthread_mutex_destroy(&pod->lock);
	pthread_mutex_destroy(&pod->rows);
	pthread_mutex_destroy(&pod->telling);
	object_done(object);
	free(pod);
}

int pod_find(struct pods *pods, const char *id, struct pod **ret_pod, struct err *err)
{
	struct object *object;
	int r = table_find(&pods->pods, id, &object, err);

	if (r == 0)
		*ret_pod = (struct pod *)(void *)object;
	return r;
}

/* ---- the row ------------------------------------------------------------------------------------------- */

char *pod_name(const Runtime__V1__PodSandboxConfig *config)
{
	const Runtime__V1__PodSandboxMetadata *m = config->metadata;

	return xasprintf("%s_%s_%s_%u", m->name, m->namespace_, m->uid, m->attempt);
}

static int store_row(struct pod *pod, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = -ENOENT;

	pthread_mutex_lock(&pod->lock);
	if (!pod->gone) {
		pod->state->unclaimed = atomic_load(&pod->object.unclaimed);
		r = pb_pack(&pod->state->base, &data, &len);
	}
	pthread_mutex_unlock(&pod->lock);
	if (r == -ENOENT)
		return err_set(err, r, "pod sandbox \"%s\" not found", pod->object.id);
	if (r < 0)
		return err_oom(err);
	return store_put(pod->pods->parts.store, "pod", pod->object.id, pod->object.name, data, len, err);
}

int pod_store(struct pod *pod, struct err *err)
{
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_row(pod, err);
	pthread_mutex_unlock(&pod->rows);
	return r;
}

int pod_store_object(struct object *object, struct err *err)
{
	return pod_store((struct pod *)(void *)object, err);
}

int pod_forget(struct pod *pod, struct err *err)
{
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_delete(pod->pods->parts.store, "pod", pod->object.id, err);
	if (r == 0) {
		pthread_mutex_lock(&pod->lock);
		pod->gone = true;
		pthread_cond_broadcast(&pod->changed);
		pthread_mutex_unlock(&pod->lock);
	}
	pthread_mutex_unlock(&pod->rows);
	return r;
}

/* ---- the turn ------------------------------------------------------------------------------------------ */

int pod_turn_take(struct pod *pod, enum work op, struct call *call, struct err *err)
{
	bool gone = false;
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	while (pod->op != WORK_NONE && r == 0)
		r = call_wait(call, &pod->changed, &pod->lock, INT64_MAX);
	if (r == 0) {
		gone = pod->gone;
		if (!gone)
			pod->op = op;
	}
	pthread_mutex_unlock(&pod->lock);
	if (gone)
		return err_set(err, -ENOENT, "pod sandbox \"%s\" not found", pod->object.id);
	if (r == -ECANCELED)
		return call_check(call, err);
	if (r < 0)
		return err_set(err, r, "timed out waiting for other work on pod sandbox \"%s\"",
			       pod->object.id);
	return 0;
}

bool pod_is_adopted_now(struct pod *pod)
{
	bool yes;

	pthread_mutex_lock(&pod->lock);
	yes = pod->op == WORK_ADOPT;
	pthread_mutex_unlock(&pod->lock);
	return yes;
}

int pod_wait_adoption(struct pod *pod, struct call *call, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	while (pod->op == WORK_ADOPT && r == 0)
		r = call_wait(call, &pod->changed, &pod->lock, INT64_MAX);
	pthread_mutex_unlock(&pod->lock);
	if (r == -ECANCELED)
		return call_check(call, err);
	return r < 0 ? err_set(err, r, "timed out waiting for pod sandbox \"%s\" to be taken over",
			       pod->object.id)
		     : 0;
}

void pod_turn_give(struct pod *pod)
{
	pthread_mutex_lock(&pod->lock);
	pod->op = WORK_NONE;
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
}

/* ---- calls while it is adopted ------------------------------------------------------------------------- */

/* A pod_later in its own memory. */
struct kept {
	struct pods *pods;
	struct pod_later later;
};

/* The adoption has ended, or the call has. */
static void on_adopted(void *arg, const struct err *err)
{
	struct kept *k = arg;

	if (err->code < 0)
		work_done(k->later.done, k->later.arg, k->later.id, err);
	else
		k->later.again(k->pods, &k->later);
	pb_free((void *)(uintptr_t)k->later.config);
	free(k);
}

bool pod_later(struct pod *pod, const struct pod_later *later)
{
	struct kept *k;
	struct err err = ERR_INIT;

	if (!pod->adopted || outcome_known(pod->adopted))
		return false;
	k = malloc(sizeof(*k));
	if (k) {
		*k = (struct kept){.pods = pod->pods, .later = *later};
		k->later.config = PB_CLONE(later->config);
	}
	if (k && (k->later.config || !later->config) &&
	    outcome_watch(pod->adopted, later->call, on_adopted, k, &err) == 0)
		return true;
	if (k)
		pb_free((void *)(uintptr_t)k->later.config);
	free(k);
	err_oom(&err);
	work_done(later->done, later->arg, later->id, &err);
	return true;
}

int pod_wait_adopted(struct pod *pod, struct call *call, struct err *err)
{
	return pod->adopted ? outcome_wait(pod->adopted, call, err) : 0;
}

/* ---- state --------------------------------------------------------------------------------------------- */

bool pod_is_ready(struct pod *pod)
{
	bool ready;

	pthread_mutex_lock(&pod->lock);
	ready = !pod->gone && pod->state->phase == POD_READY;
	pthread_mutex_unlock(&pod->lock);
	return ready;
}

int pod_agent(struct pod *pod, struct agent **ret_agent, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	if (pod->gone)
		r = err_set(err, -ENOENT, "pod sandbox \"%s\" not found", pod->object.id);
	else if (pod->state->phase != POD_READY)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				   "pod sandbox \"%s\" is not ready%s%s", pod->object.id,
				   pod->state->reason[0] ? ": " : "", pod->state->reason);
	pthread_mutex_unlock(&pod->lock);
	if (r == 0 && sandbox_agent(pod->sandbox, ret_agent, err) < 0)
		r = err_wrap(err, "pod sandbox \"%s\"", pod->object.id);
	return r;
}

bool pod_end(struct pod *pod, const char *why)
{
	bool first;

	pthread_mutex_lock(&pod->lock);
	first = pod->state->phase == POD_READY;
	if (first) {
		pod->state->phase = POD_EXITED;
		(void)pb_set_text(&pod->state->reason, why);
	}
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
	return first;
}

static void died_job(void *arg)
{
	struct pod *pod = arg;
	int64_t deadline_ns = now_monotonic_ns() + CALL_NS;
	struct err err = ERR_INIT;
	int r = 0;

	container_sandbox_died(pod, pod->state->reason); /* set once */
	if (pod_store(pod, &err) < 0 && err.code != -ENOENT)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->object.id), "storing a dead pod: %s",
			 err.msg);
	/* A pod that dies as it becomes ready is reported as ready first: its creation is about to end. */
	pthread_mutex_lock(&pod->lock);
	while (pod->op == WORK_CREATE && r == 0)
		r = cond_wait_until(&pod->changed, &pod->lock, deadline_ns);
	pthread_mutex_unlock(&pod->lock);
	pod_tell(pod, POD_IS_NOT_READY);
	object_unref(&pod->object);
}

/* A hook of the sandbox. During a creation it has no effect: the creation fails by itself. */
static void sandbox_died(void *arg, const char *why, int status)
{
	struct pod *pod = arg;

	(void)status;
	if (!pod_end(pod, why))
		return;
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->object.id), "pod is not ready: %s", why);
	object_ref(&pod->object);
	/* Not the lane of the stops: they wait for what this job brings about. */
	if (workers_submit(pod->pods->parts.workers, LANE_NET, died_job, pod) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->object.id),
			 "no thread to end the containers of a dead pod; StopPodSandbox will");
		object_unref(&pod->object);
	}
}

static void sandbox_reconnected(void *arg)
{
	container_watch_again(arg);
}

void pod_sandbox_hooks(struct pod *pod, struct sandbox_hooks *ret)
{
	*ret = (struct sandbox_hooks){.died = sandbox_died, .reconnected = sandbox_reconnected, .arg = pod};
}

void pod_unhook(struct pod *pod)
{
	if (pod->sandbox)
		sandbox_forget_hooks(pod->sandbox);
}

/* ---- views --------------------------------------------------------------------------------------------- */

/* False once it is gone. */
static bool view(struct pod *pod, struct pod_view *ret)
{
	const PodState *s = pod->state;
	bool there;

	pthread_mutex_lock(&pod->lock);
	there = !pod->gone;
	*ret = (struct pod_view){
		.id = pod->object.id,
		.config = s->config,
		.runtime_handler = s->runtime_handler,
		.created_at_ns = s->created_at,
		.ready = s->phase == POD_READY,
		.reason = s->reason,
		.ips = s->ips,
		.n_ips = s->n_ips,
	};
	pthread_mutex_unlock(&pod->lock);
	return there;
}

void pod_tell(struct pod *pod, enum pods_event event)
{
	const struct pods_hooks *hooks = &pod->pods->hooks;
	struct pod_view v;

	if (!hooks->pod)
		return;
	pthread_mutex_lock(&pod->telling);
	view(pod, &v);
	hooks->pod(hooks->arg, event, &v);
	pthread_mutex_unlock(&pod->telling);
}

int pods_each(struct pods *pods, const char *id, pod_view_fn *fn, void *arg, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	int r = table_list(&pods->pods, false, &list, err);

	for (size_t i = 0; r == 0 && list[i]; i++) {
		struct pod_view v;

		if ((!id || str_starts(list[i]->id, id)) && view((struct pod *)(void *)list[i], &v))
			r = fn(arg, &v, err);
	}
	return r;
}

int pods_look(struct pods *pods, const char *id, pod_view_fn *fn, void *arg, struct err *err)
{
	struct pod *pod CLEANUP_POD = NULL;
	struct pod_view v;
	int r = pod_find(pods, id, &pod, err);

	if (r < 0)
		return r;
	if (!view(pod, &v))
		return err_set(err, -ENOENT, "pod sandbox \"%s\" not found", id);
	return fn(arg, &v, err);
}

int pods_info(struct pods *pods, const char *id, struct sandbox_info *ret_info, struct err *err)
{
	struct pod *pod CLEANUP_POD = NULL;
	int r = pod_find(pods, id, &pod, err);

	return r < 0 ? r : sandbox_info(pod->sandbox, ret_info, err);
}
