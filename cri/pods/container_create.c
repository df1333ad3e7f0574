/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer: a job, which a call with the same names and configuration joins. */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/log.h"

/* ---- the job ------------------------------------------------------------------------------------------- */

static int log_path(struct creation *c, struct err *err)
{
	const char *dir = c->pod->state->config->log_directory;
	char *path CLEANUP_FREE = NULL;

	if (str_empty(c->config->log_path) || str_empty(dir))
		return 0;
	path = xasprintf("%s/%s", dir, c->config->log_path);
	return !path || pb_set_str(&c->container->state->log_path, path) < 0 ? err_oom(err) : 0;
}

/* How many bytes of a reference are its repository. */
static size_t repository(const char *ref)
{
	const char *slash = strrchr(ref, '/');
	const char *end = strpbrk(slash ? slash : ref, ":@");

	return end ? (size_t)(end - ref) : strlen(ref);
}

/*
 * Which of the image's tags the request means: the one it says, else the one its user said, else the first.
 */
static const char *tag_of(const struct image *image, const Runtime__V1__ImageSpec *spec)
{
	const char *const said[] = {spec->image, spec->user_specified_image};

	for (size_t k = 0; k < ARRAY_SIZE(said); k++) {
		for (size_t i = 0; i < strv_len(image->repo_tags); i++) {
			if (str_eq(image->repo_tags[i], said[k]))
				return image->repo_tags[i];
		}
	}
	return image->repo_tags ? image->repo_tags[0] : NULL;
}

/* The digest in the tag's repository, else the first. */
static const char *digest_of(const struct image *image, const char *tag)
{
	size_t len = tag ? repository(tag) : 0;

	for (size_t i = 0; tag && i < strv_len(image->repo_digests); i++) {
		if (repository(image->repo_digests[i]) == len &&
		    strncmp(image->repo_digests[i], tag, len) == 0)
			return image->repo_digests[i];
	}
	return image->repo_digests ? image->repo_digests[0] : NULL;
}

/* What people are shown of the image, as it was when the container was created. */
static int name_image(struct creation *c, struct err *err)
{
	ContainerState *state = c->container->state;
	const char *tag = tag_of(c->image, c->config->image), *digest = digest_of(c->image, tag);

	if (pb_set_str(&state->image_id, c->image->id) < 0 ||
	    pb_set_str(&state->image_ref, digest ? digest : c->image->id) < 0 ||
	    pb_set_str(&state->image_name, tag ? tag : "") < 0)
		return err_oom(err);
	return 0;
}

/* The image, and the row that holds the container's name. */
static int reserve(struct creation *c, struct err *err)
{
	ContainerState *state = c->container->state;
	int r = image_get(c->pods->parts.images, c->config->image->image, &c->image, err);

	if (r == 0)
		r = creation_check_spec(c, err);
	if (r == 0)
		r = log_path(c, err);
	if (r < 0)
		return r;
	state->stop_signal = creation_stop_signal(c->config, c->image);
	if (name_image(c, err) < 0)
		return -ENOMEM;
	return container_store(c->container, err) < 0 ? err_wrap(err, "reserving the container's name") : 0;
}

static int finish(struct creation *c, struct err *err)
{
	struct agent *agent;
	int r = call_check(c->container->object.work, err);
	bool ready;

	if (r < 0)
		return r;
	pthread_mutex_lock(&c->pod->lock);
	ready = c->pod->state->phase == POD_READY; /* else nothing would end this container later */
	if (ready)
		c->container->state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATED;
	pthread_mutex_unlock(&c->pod->lock);
	if (!ready)
		return pod_agent(c->pod, &agent, err) < 0 ? err->code : -ECONNRESET;
	r = container_store(c->container, err);
	if (r < 0)
		return r;
	container_tell(c->container, CONTAINER_IS_CREATED);
	object_show(&c->container->object);
	return 0;
}

static void roll_back(struct creation *c)
{
	struct container *container = c->container;
	const char *id = container->object.id;
	struct err err = ERR_INIT;
	bool let_go;

	/* The guest unmounts its part, also of a container that it failed to create. */
	let_go = guest_end(c->agent, id, c->task_tried, &err) == 0;
	/* If this fails, the journal has the place too; its undo detaches what is still in use. */
	(void)sandbox_place_remove(c->pod->sandbox, id, !let_go, &err);
	if (journal_undo_owner(c->pods->parts.store, id, pod_undo, c->pods, &err) < 0 ||
	    container_forget(container, &err) < 0)
		/* It keeps row and name, hidden: the removal of its pod tries again. */
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", id), "undoing a container that failed: %s",
			 err.msg);
	else
		object_remove(&container->object);
}

/*
 * A VM that cannot be as large as all limits allow holds the container all the same: a limit is no promise.
 * An update of it would be refused.
 */
static void make_room(struct creation *c)
{
	struct err err = ERR_INIT;

	if (resources_grow(NULL, c->config->linux ? c->config->linux->resources : NULL) &&
	    pod_fit(c->pod, FIT_GROW, c->container->object.work, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->container->object.id),
			 "the pod's VM is smaller than its containers' limits: %s", err.msg);
}

static int make(struct creation *c, struct err *err)
{
	int r = pod_agent(c->pod, &c->agent, err);

	if (r == 0)
		r = sandbox_place(c->pod->sandbox, c->container->object.id, &c->place, err);
	if (r == 0)
		r = reserve(c, err);
	if (r < 0) { /* nothing is on the host yet */
		object_remove(&c->container->object);
		return r;
	}
	make_room(c);
	r = creation_steps(c, err);
	if (r == 0)
		r = finish(c, err);
	if (r < 0)
		roll_back(c);
	return r;
}

static void create_job(void *arg)
{
	struct creation *c = arg;
	struct container *container = c->container;
	struct err err = ERR_INIT;
	int r = make(c, &err);

	container_turn_give(container);
	if (r == 0) {
		log_line(LOG_LEVEL_INFO,
			 LOG_FIELDS("container", container->object.id, "pod", c->pod->object.id, "name",
				    c->config->metadata->name),
			 "container is created");
		/* A sandbox that died before it was shown has ended those that were. */
		if (!pod_is_ready(c->pod))
			container_sandbox_died(c->pod, c->pod->state->reason);
	}
	work_made(c->pods, &container->object, r < 0 ? &err : NULL);
	if (r < 0)
		pod_shrink(c->pod);
	creation_done(c);
	free(c);
	object_unref(&container->object);
}

static int start_job(struct container *container, struct err *err)
{
	struct creation *c = calloc(1, sizeof(*c));

	if (!c)
		return err_oom(err);
	c->container = object_ref(&container->object);
	c->pods = container->pods;
	c->pod = container->pod;
	c->config = container->state->config;
	if (workers_submit(c->pods->parts.workers, LANE_SLOW, create_job, c) == 0)
		return 0;
	object_unref(&container->object);
	free(c);
	return err_set_status(err, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "too many containers are being created");
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static int new_container(struct pod *pod, const Runtime__V1__ContainerConfig *config,
			 struct container **ret_container, struct err *err)
{
	ContainerState *state = pb_new(&crivisor__state__v1__container__descriptor);
	struct container *c = NULL;
	char id[65];

	if (state && random_hex(32, id) == 0) {
		state->config = PB_CLONE(config);
		state->created_at = now_realtime_ns();
		state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATING;
		if (state->config && pb_set_str(&state->id, id) == 0 &&
		    pb_set_str(&state->pod_id, pod->object.id) == 0)
			c = container_new(pod, id, state);
	}
	if (!c) {
		pb_free(state);
		return err_oom(err);
	}
	atomic_store(&c->object.unclaimed, true);
	c->op = WORK_CREATE;
	if (outcome_new(&c->object.made, err) < 0 ||
	    call_new(now_monotonic_ns() + CREATION_NS, &c->object.work, err) < 0) {
		object_unref(&c->object);
		return -ENOMEM;
	}
	*ret_container = c;
	return 0;
}

static void repeat(struct container *other, const Runtime__V1__ContainerConfig *config, struct call *call,
		   pods_done_fn *done, void *arg)
{
	char path[256];
	bool usable;

	message_difference(&other->state->config->base, &config->base, "config", path, sizeof(path));
	pthread_mutex_lock(&other->pod->lock);
	usable = !other->removing &&
		 other->state->state != CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
	pthread_mutex_unlock(&other->pod->lock);
	work_repeat(&other->object, path, usable, call, done, arg);
}

static void create_again(struct pods *pods, const struct pod_later *later)
{
	containers_create(pods, later->id, later->config, later->call, later->done, later->arg);
}

/* With the config, which the caller keeps only until it returns. */
static bool is_later(struct pod *pod, const Runtime__V1__ContainerConfig *config, struct call *call,
		     pods_done_fn *done, void *arg)
{
	struct pod_later later = {
		.again = create_again, .config = config, .call = call, .done = done, .arg = arg};

	memcpy(later.id, pod->object.id, sizeof(later.id));
	return pod_later(pod, &later);
}

void containers_create(struct pods *pods, const char *pod_id, const Runtime__V1__ContainerConfig *config,
		       struct call *call, pods_done_fn *done, void *arg)
{
	struct object *other = NULL;
	struct pod *pod CLEANUP_POD = NULL;
	struct container *c CLEANUP_CONTAINER = NULL;
	char *name CLEANUP_FREE = NULL;
	struct agent *agent;
	struct err err = ERR_INIT;
	int r = creation_check(config, &err);

	if (r == 0 && atomic_load(&pods->closed))
		r = err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is being stopped");
	if (r == 0)
		r = pod_find(pods, pod_id, &pod, &err);
	if (r == 0 && is_later(pod, config, call, done, arg))
		return;
	if (r == 0) {
		object_claim(&pod->object);
		r = new_container(pod, config, &c, &err);
	}
	if (r == 0) {
		name = container_name(config, pod->object.id);
		r = name ? table_add(&pods->containers, &c->object, name, &other, &err) : err_oom(&err);
	}
	if (r == -EEXIST) {
		repeat(container_of(other), config, call, done, arg);
		return;
	}
	if (r < 0) {
		work_done(done, arg, "", &err);
		return;
	}
	/* First the answer, which the outcome gives if the start fails. */
	r = work_answer(object_ref(&c->object), c->object.made, true, call, done, arg);
	/* Only now: a stop of the pod either sees this container, or is seen here. */
	r = r < 0 ? err_oom(&err) : pod_agent(pod, &agent, &err);
	if (r == 0)
		r = start_job(c, &err);
	/* pods_close either sees it in the table, or is seen here. */
	if (r == 0 && atomic_load(&pods->closed))
		call_cancel(c->object.work, "the server is being stopped");
	if (r < 0) {
		container_turn_give(c);
		object_remove(&c->object);
		outcome_set(c->object.made, &err);
	}
}
