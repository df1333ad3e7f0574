/* SPDX-License-Identifier: Apache-2.0 */
/* A container as an object: its row, its turn, its state and its views. */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "cri/logs/logs.h"

#define SPEC_MAX (4 << 20)

/* ---- life ---------------------------------------------------------------------------------------------- */

struct container *container_new(struct pod *pod, const char *id, ContainerState *state)
{
	struct container *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	object_init(&c->object, &pod->pods->containers, id);
	c->pods = pod->pods;
	c->pod = object_ref(&pod->object);
	c->state = state;
	return c;
}

/* Of the table. */
void container_free(struct object *object)
{
	struct container *c = container_of(object);

	log_pump_free(c->pump);
	free(c->usage);
	for (size_t i = 0; i < c->n_kept; i++)
		pb_free(c->kept[i]);
	free(c->kept);
	pb_free(c->state);
	object_unref(&c->pod->object);
	object_done(object);
	free(c);
}

int container_find(struct pods *pods, const char *id, struct container **ret_container, struct err *err)
{
	struct object *object;
	int r = table_find(&pods->containers, id, &object, err);

	if (r == 0)
		*ret_container = container_of(object);
	return r;
}

bool container_later(struct container *container, const struct pod_later *later)
{
	struct pod_later with_id = *later;

	memcpy(with_id.id, container->object.id, sizeof(with_id.id));
	return pod_later(container->pod, &with_id);
}

int container_list(struct pods *pods, const struct pod *pod, bool hidden_too, struct object ***ret_list,
		   struct err *err)
{
	struct object **list;
	size_t n = 0;
	int r = table_list(&pods->containers, hidden_too, &list, err);

	if (r < 0)
		return r;
	for (size_t i = 0; list[i]; i++) {
		struct object *o = list[i];

		if (pod && container_of(o)->pod != pod)
			object_unref(o);
		else
			list[n++] = o;
	}
	list[n] = NULL;
	*ret_list = list;
	return 0;
}

/* ---- the row ------------------------------------------------------------------------------------------- */

char *container_name(const Runtime__V1__ContainerConfig *config, const char *pod_id)
{
	return xasprintf("%s_%u in pod %s", config->metadata->name, config->metadata->attempt, pod_id);
}

static int store_row(struct container *c, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = -ENOENT;

	pthread_mutex_lock(&c->pod->lock);
	if (!c->gone) {
		c->state->unclaimed = atomic_load(&c->object.unclaimed);
		r = pb_pack(&c->state->base, &data, &len);
	}
	pthread_mutex_unlock(&c->pod->lock);
	if (r == -ENOENT)
		return err_set(err, r, "container \"%s\" not found", c->object.id);
	if (r < 0)
		return err_oom(err);
	return store_put(c->pods->parts.store, "container", c->object.id, c->object.name, data, len, err);
}

int container_store(struct container *container, struct err *err)
{
	int r;

	pthread_mutex_lock(&container->pod->rows);
	r = store_row(container, err);
	pthread_mutex_unlock(&container->pod->rows);
	return r;
}

int container_store_object(struct object *object, struct err *err)
{
	return container_store(container_of(object), err);
}

int container_forget(struct container *container, struct err *err)
{
	struct pod *pod = container->pod;
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_delete(container->pods->parts.store, "container", container->object.id, err);
	if (r == 0) {
		pthread_mutex_lock(&pod->lock);
		container->gone = true;
		pthread_cond_broadcast(&pod->changed);
		pthread_mutex_unlock(&pod->lock);
	}
	pthread_mutex_unlock(&pod->rows);
	return r;
}

char *container_pos_path(const struct pods *pods, const char *id)
{
	return xasprintf("%s/logs/%s.pos", pods->parts.config->server.state_dir, id);
}

/* ---- the turn ------------------------------------------------------------------------------------------ */

int container_turn_take(struct container *container, enum work op, struct call *call, struct err *err)
{
	struct pod *pod = container->pod;
	bool gone = false;
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	while (container->op != WORK_NONE && r == 0)
		r = call_wait(call, &pod->changed, &pod->lock, INT64_MAX);
	if (r == 0) {
		gone = container->gone;
		if (!gone)
			container->op = op;
	}
	pthread_mutex_unlock(&pod->lock);
	if (gone)
		return err_set(err, -ENOENT, "container \"%s\" not found", container->object.id);
	if (r == -ECANCELED)
		return call_check(call, err);
	if (r < 0)
		return err_set(err, r, "timed out waiting for other work on container \"%s\"",
			       container->object.id);
	return 0;
}

void container_turn_give(struct container *container)
{
	pthread_mutex_lock(&container->pod->lock);
	container->op = WORK_NONE;
	pthread_cond_broadcast(&container->pod->changed);
	pthread_mutex_unlock(&container->pod->lock);
}

int container_wait_creations(struct pod *pod, struct call *call, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	int r = container_list(pod->pods, pod, true, &list, err);

	if (r < 0)
		return r;
	for (size_t i = 0; list[i]; i++) {
		if (list[i]->work)
			call_cancel(list[i]->work, "the pod is being stopped");
	}
	pthread_mutex_lock(&pod->lock);
	for (size_t i = 0; list[i] && r == 0; i++) {
		while (container_of(list[i])->op == WORK_CREATE && r == 0)
			r = call_wait(call, &pod->changed, &pod->lock, INT64_MAX);
	}
	pthread_mutex_unlock(&pod->lock);
	return r < 0 ? err_set(err, r, "timed out waiting for the creation of a container to end") : 0;
}

/* ---- state and views ----------------------------------------------------------------------------------- */

/* With the pod's lock held. */
static enum container_state state_of(const struct container *c)
{
	switch (c->state->state) {
	case CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED:
		return CONTAINER_CREATED;
	case CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING:
		return CONTAINER_RUNNING;
	case CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED:
		return CONTAINER_EXITED;
	default:
		return CONTAINER_CREATING;
	}
}

int container_state(struct container *container)
{
	int state;

	pthread_mutex_lock(&container->pod->lock);
	state = container->gone ? -1 : (int)state_of(container);
	pthread_mutex_unlock(&container->pod->lock);
	return state;
}

/* With the pod's lock held. */
static const Runtime__V1__LinuxContainerResources *resources_of(const struct container *c)
{
	const Runtime__V1__LinuxContainerConfig *lx = c->state->config ? c->state->config->linux : NULL;

	return c->state->resources ? c->state->resources : lx ? lx->resources : NULL;
}

const Runtime__V1__LinuxContainerResources *container_resources(struct container *container)
{
	const Runtime__V1__LinuxContainerResources *r;

	pthread_mutex_lock(&container->pod->lock);
	r = resources_of(container);
	pthread_mutex_unlock(&container->pod->lock);
	return r;
}

/* False once it is gone. */
static bool view(struct container *c, struct container_view *ret)
{
	const ContainerState *s = c->state;
	bool there;

	pthread_mutex_lock(&c->pod->lock);
	there = !c->gone;
	*ret = (struct container_view){
		.id = c->object.id,
		.pod_id = c->pod->object.id,
		.config = s->config,
		.resources = resources_of(c),
		.image_id = s->image_id,
		.image_ref = s->image_ref,
		.image_name = s->image_name,
		.state = state_of(c),
		.created_at_ns = s->created_at,
		.started_at_ns = s->started_at,
		.finished_at_ns = s->finished_at,
		.exit_code = s->exit_code,
		.reason = s->reason,
		.message = s->message,
		.log_path = s->log_path,
		.uid = s->uid,
		.gid = s->gid,
		.groups = s->groups,
		.n_groups = s->n_groups,
		.stop_signal = s->stop_signal,
	};
	pthread_mutex_unlock(&c->pod->lock);
	return there;
}

void container_tell(struct container *container, enum pods_event event)
{
	const struct pods_hooks *hooks = &container->pods->hooks;
	struct container_view v;

	if (!hooks->container)
		return;
	pthread_mutex_lock(&container->pod->telling);
	/* A start that is overtaken by the death of its sandbox is not told of after the exit. */
	if (event > container->told) {
		container->told = event;
		view(container, &v);
		hooks->container(hooks->arg, event, &v);
	}
	pthread_mutex_unlock(&container->pod->telling);
}

void container_tell_stats(struct container *container, const ProtobufCMessage *stats)
{
	const struct pods_hooks *hooks = &container->pods->hooks;
	struct container_view v;

	if (!hooks->stats)
		return;
	view(container, &v);
	hooks->stats(hooks->arg, &v, stats);
}

int containers_each(struct pods *pods, const char *id, const char *pod_id, container_view_fn *fn, void *arg,
		    struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	int r = table_list(&pods->containers, false, &list, err);

	for (size_t i = 0; r == 0 && list[i]; i++) {
		struct container *c = container_of(list[i]);
		struct container_view v;

		if ((!id || str_starts(c->object.id, id)) &&
		    (!pod_id || str_starts(c->pod->object.id, pod_id)) && view(c, &v))
			r = fn(arg, &v, err);
	}
	return r;
}

int containers_look(struct pods *pods, const char *id, container_view_fn *fn, void *arg, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct container_view v;
	int r = container_find(pods, id, &c, err);

	if (r < 0)
		return r;
	if (!view(c, &v))
		return err_set(err, -ENOENT, "container \"%s\" not found", id);
	return fn(arg, &v, err);
}

int container_spec(struct container *container, char **ret_json, struct err *err)
{
	struct sandbox_place place;
	char *path CLEANUP_FREE = NULL;
	int r = sandbox_place(container->pod->sandbox, container->object.id, &place, err);

	if (r < 0)
		return r;
	path = xasprintf("%s/config.json", place.dir);
	if (!path)
		return err_oom(err);
	r = read_file(path, SPEC_MAX, ret_json, NULL);
	return r < 0 ? err_set_errno(err, r, "the spec of container \"%s\"", container->object.id) : 0;
}

int containers_spec(struct pods *pods, const char *id, char **ret_json, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	int r = container_find(pods, id, &c, err);

	return r < 0 ? r : container_spec(c, ret_json, err);
}

int containers_reopen_log(struct pods *pods, const char *id, struct call *call, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct log_pump *pump = NULL;
	int r = container_find(pods, id, &c, err);

	if (r == 0)
		r = pod_wait_adopted(c->pod, call, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&c->pod->lock);
	if (!c->gone && state_of(c) == CONTAINER_RUNNING)
		pump = c->pump;
	pthread_mutex_unlock(&c->pod->lock);
	if (!pump)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "container \"%s\" is not running", c->object.id);
	return log_pump_reopen(pump, call, err);
}
