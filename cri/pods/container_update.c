/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UpdateContainerResources: all of it or nothing. The new limits stand in the state first, so that what other
 * containers do at the same time counts with them; then the pod's VM grows where it must, CPUs are placed,
 * the guest is told, the row is written. What fails takes it all back. A step back that fails itself is
 * logged: the guest is then in doubt, and the next update sets it again. At the very end, whatever came out,
 * the VM gives back what it needs no longer; nobody waits for that, and the update stands if it fails.
 */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/log.h"

typedef Runtime__V1__LinuxContainerResources Resources;

struct update {
	struct container *c; /* a reference */
	struct outcome *outcome;
	Resources *wanted; /* as asked for */
};

/* ---- the new limits ------------------------------------------------------------------------------------ */

static void take_number(int64_t *to, int64_t from)
{
	if (from)
		*to = from;
}

static int take_string(char **to, const char *from)
{
	return str_empty(from) ? 0 : pb_set_str(to, from);
}

static int take_hugepages(Resources *to, const Resources *from)
{
	for (size_t i = 0; i < from->n_hugepage_limits; i++) {
		Runtime__V1__HugepageLimit *limit = NULL;

		for (size_t k = 0; k < to->n_hugepage_limits && !limit; k++) {
			if (str_eq(to->hugepage_limits[k]->page_size, from->hugepage_limits[i]->page_size))
				limit = to->hugepage_limits[k];
		}
		if (!limit)
			limit = pb_append(&to->hugepage_limits, &to->n_hugepage_limits,
					  &runtime__v1__hugepage_limit__descriptor);
		if (!limit || pb_set_str(&limit->page_size, from->hugepage_limits[i]->page_size) < 0)
			return -ENOMEM;
		limit->limit = from->hugepage_limits[i]->limit;
	}
	return 0;
}

static int take_unified(Resources *to, const Resources *from)
{
	for (size_t i = 0; i < from->n_unified; i++) {
		size_t k = 0;

		while (k < to->n_unified && !str_eq(to->unified[k]->key, from->unified[i]->key))
			k++;
		if (k < to->n_unified
			    ? pb_set_str(&to->unified[k]->value, from->unified[i]->value) < 0
			    : pb_map_add(&to->unified, &to->n_unified,
					 &runtime__v1__linux_container_resources__unified_entry__descriptor,
					 from->unified[i]->key, from->unified[i]->value) < 0)
			return -ENOMEM;
	}
	return 0;
}

/*
 * oom_score_adj stays that of the creation, as with containerd: the runtime sets it for a process that
 * begins, and kubelets name another one with each new memory request.
 */
Resources *resources_merge(const Resources *old, const Resources *wanted)
{
	Resources *r = old ? PB_CLONE(old) : pb_new(&runtime__v1__linux_container_resources__descriptor);

	if (!r)
		return NULL;
	take_number(&r->cpu_period, wanted->cpu_period);
	take_number(&r->cpu_quota, wanted->cpu_quota);
	take_number(&r->cpu_shares, wanted->cpu_shares);
	take_number(&r->memory_limit_in_bytes, wanted->memory_limit_in_bytes);
	take_number(&r->memory_swap_limit_in_bytes, wanted->memory_swap_limit_in_bytes);
	/* A limit on both together that was made for a smaller limit grows with it. */
	if (!wanted->memory_swap_limit_in_bytes && r->memory_swap_limit_in_bytes > 0 &&
	    r->memory_swap_limit_in_bytes < r->memory_limit_in_bytes)
		r->memory_swap_limit_in_bytes = r->memory_limit_in_bytes;
	if (take_string(&r->cpuset_cpus, wanted->cpuset_cpus) == 0 &&
	    take_string(&r->cpuset_mems, wanted->cpuset_mems) == 0 && take_hugepages(r, wanted) == 0 &&
	    take_unified(r, wanted) == 0)
		return r;
	pb_free(r);
	return NULL;
}

/* ---- the state ----------------------------------------------------------------------------------------- */

/*
 * With the pod's lock held. Views point to what stood there before, so it is kept with the container. Room
 * for it was made before (keep_room).
 */
static void put_resources(struct container *c, Resources *resources)
{
	if (c->state->resources)
		c->kept[c->n_kept++] = c->state->resources;
	c->state->resources = resources;
}

/* With the pod's lock held: for two more, a step and its way back. */
static int keep_room(struct container *c)
{
	void *kept = realloc(c->kept, (c->n_kept + 2) * sizeof(*c->kept));

	if (!kept)
		return -ENOMEM;
	c->kept = kept;
	return 0;
}

/* ---- the steps ----------------------------------------------------------------------------------------- */

static int check_state(struct container *c, struct err *err)
{
	int state = container_state(c);

	if (state < 0)
		return err_set(err, -ENOENT, "container \"%s\" not found", c->object.id);
	if (state != CONTAINER_CREATED && state != CONTAINER_RUNNING)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "container \"%s\" has exited",
				      c->object.id);
	return 0;
}

static int tell_guest(struct container *c, const Resources *resources, const char *guest_cpus,
		      struct err *err)
{
	char *json CLEANUP_FREE = NULL;
	struct agent *agent;
	int r = oci_spec_resources(resources, guest_cpus, &json, err);

	if (r == 0)
		r = pod_agent(c->pod, &agent, err);
	return r < 0 ? r : guest_update(agent, c->object.id, json, err);
}

/* Limits that there were none of before are lifted again. */
static Resources *way_back(const Resources *old, const Resources *merged)
{
	Resources *r = old ? PB_CLONE(old) : pb_new(&runtime__v1__linux_container_resources__descriptor);

	if (!r)
		return NULL;
	if (!r->memory_limit_in_bytes && merged->memory_limit_in_bytes)
		r->memory_limit_in_bytes = -1;
	if (!r->cpu_quota && merged->cpu_quota)
		r->cpu_quota = -1;
	if (!r->cpu_shares && merged->cpu_shares)
		r->cpu_shares = 1024;
	return r;
}

static void take_back(struct container *c, Resources *before, const Resources *old, const Resources *merged,
		      bool placed, bool told, struct call *call)
{
	Resources *back = told ? way_back(old, merged) : NULL;
	char *guest_cpus CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;
	int r = 0;

	pthread_mutex_lock(&c->pod->lock);
	put_resources(c, before);
	pthread_mutex_unlock(&c->pod->lock);
	if (placed)
		r = container_place_cpus(c, call, &guest_cpus, &err);
	if (r == 0 && told)
		r = back ? tell_guest(c, back, guest_cpus, &err) : err_oom(&err);
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->object.id),
			 "taking back an update that failed: %s", err.msg);
	pb_free(back);
}

/* With the turn. */
static int update_steps(struct container *c, const Resources *wanted, struct call *call, struct err *err)
{
	const Resources *old = container_resources(c);
	Resources *merged = resources_merge(old, wanted), *before = NULL;
	char *guest_cpus CLEANUP_FREE = NULL;
	char *json CLEANUP_FREE = NULL;
	bool place = !str_empty(wanted->cpuset_cpus), told = false;
	int r = merged ? oci_spec_resources(merged, NULL, &json, err) : err_oom(err);

	if (r == 0) {
		pthread_mutex_lock(&c->pod->lock);
		/* The copy is what comes back: what stands there now may still be looked at. */
		before = c->state->resources ? PB_CLONE(c->state->resources) : NULL;
		if ((c->state->resources && !before) || keep_room(c) < 0)
			r = err_oom(err);
		else
			put_resources(c, merged);
		if (r == 0)
			c->updated_from = old;
		pthread_mutex_unlock(&c->pod->lock);
	}
	if (r < 0) {
		pb_free(before);
		pb_free(merged);
		return r;
	}
	if (resources_grow(old, merged))
		r = pod_fit(c->pod, FIT_GROW, call, err);
	if (r < 0)
		place = false;
	if (r == 0 && place)
		r = container_place_cpus(c, call, &guest_cpus, err);
	if (r == 0) {
		told = true;
		r = tell_guest(c, merged, guest_cpus, err);
	}
	if (r == 0)
		r = container_store(c, err);
	if (r < 0)
		take_back(c, before, old, merged, place, told, call);
	else
		pb_free(before);
	pthread_mutex_lock(&c->pod->lock);
	c->updated_from = NULL;
	pthread_mutex_unlock(&c->pod->lock);
	return r;
}

static int update(struct container *c, const Resources *wanted, struct err *err)
{
	struct call *call CLEANUP_CALL = NULL;
	int r = call_new(now_monotonic_ns() + TURN_NS, &call, err);

	if (r == 0)
		r = container_turn_take(c, WORK_UPDATE, call, err);
	if (r < 0)
		return r;
	r = check_state(c, err);
	if (r == 0)
		r = update_steps(c, wanted, call, err);
	container_turn_give(c);
	return r < 0 ? err_wrap(err, "updating container \"%s\"", c->object.id) : 0;
}

static void update_free(struct update *u)
{
	outcome_unref(u->outcome);
	object_unref(&u->c->object);
	pb_free(u->wanted);
	free(u);
}

static void update_job(void *arg)
{
	struct update *u = arg;
	struct err err = ERR_INIT;
	int r = update(u->c, u->wanted, &err);

	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", u->c->object.id), "container is updated");
	outcome_set(u->outcome, r < 0 ? &err : NULL);
	pod_shrink(u->c->pod);
	update_free(u);
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static void update_again(struct pods *pods, const struct pod_later *later)
{
	containers_update(pods, later->id, later->config->linux->resources, later->call, later->done,
			  later->arg);
}

/* Whether its pod is still being adopted: then the call is made again later. */
static bool update_later(struct container *c, const Resources *resources, struct call *call,
			 pods_done_fn *done, void *arg)
{
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerConfig lx = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;

	config.linux = &lx;
	lx.resources = (Resources *)(uintptr_t)resources;
	return container_later(
		c, &(struct pod_later){
			   .again = update_again, .config = &config, .call = call, .done = done, .arg = arg});
}

void containers_update(struct pods *pods, const char *id, const Resources *resources, struct call *call,
		       pods_done_fn *done, void *arg)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct update *u;
	struct err err = ERR_INIT;
	int r = container_find(pods, id, &c, &err);

	if (r == 0 && !resources)
		r = err_set(&err, -EINVAL, "linux is missing");
	if (r == 0 && update_later(c, resources, call, done, arg))
		return;
	if (r == 0)
		r = check_state(c, &err);
	if (r < 0) {
		work_done(done, arg, id, &err);
		return;
	}
	object_claim(&c->object);
	u = calloc(1, sizeof(*u));
	if (u) {
		u->c = object_ref(&c->object);
		u->wanted = PB_CLONE(resources);
		(void)outcome_new(&u->outcome, NULL);
	}
	if (!u || !u->wanted || !u->outcome) {
		err_oom(&err);
		work_done(done, arg, id, &err);
		if (u)
			update_free(u);
		return;
	}
	if (work_answer(object_ref(&c->object), u->outcome, true, call, done, arg) < 0) {
		update_free(u);
		return;
	}
	if (workers_submit(pods->parts.workers, LANE_SLOW, update_job, u) < 0) {
		err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
			       "too many containers are being updated");
		outcome_set(u->outcome, &err);
		update_free(u);
	}
}
