/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UpdatePodSandboxResources: the limits of the pod's cgroup on the host, and the size of its VM: all of it or
 * nothing. The cgroup's memory limit follows the size that the VM has: a limit below what it was given would
 * kill it.
 */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/log.h"

typedef Runtime__V1__LinuxContainerResources Resources;

struct update {
	struct pod *pod; /* a reference */
	struct outcome *outcome;
	Resources *wanted;
};

/* What the pod has been given up to now: of its own making, or of its last update. */
static Resources *limits_now(struct pod *pod)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = pod->state->config->linux;
	Resources *r;

	pthread_mutex_lock(&pod->lock);
	if (pod->state->resources)
		r = PB_CLONE(pod->state->resources);
	else if (lx && lx->resources)
		r = PB_CLONE(lx->resources);
	else
		r = pb_new(&runtime__v1__linux_container_resources__descriptor);
	pthread_mutex_unlock(&pod->lock);
	return r;
}

static int check_limits(const Resources *r, struct err *err)
{
	if (r->cpu_shares < 0 || r->cpu_period < 0)
		return err_set(err, -EINVAL, "resources: cpu_shares %lld, cpu_period %lld: negative",
			       (long long)r->cpu_shares, (long long)r->cpu_period);
	return 0;
}

static void put_limits(struct pod *pod, Resources *limits, const Resources *from)
{
	pthread_mutex_lock(&pod->lock);
	pod->state->resources = limits; /* no view shows it */
	pod->updated_from = from;
	pthread_mutex_unlock(&pod->lock);
}

static void take_back(struct pod *pod, Resources *before, bool applied)
{
	struct err err = ERR_INIT;
	struct call *call CLEANUP_CALL = NULL;
	int r;

	put_limits(pod, before, NULL);
	if (!applied)
		return;
	r = call_new(now_monotonic_ns() + CALL_NS, &call, &err);
	if (r == 0)
		r = pod_apply_limits(pod, call, &err);
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->object.id),
			 "taking back an update that failed: %s", err.msg);
}

/* With the turn. */
static int update_steps(struct pod *pod, const Resources *wanted, struct call *call, struct err *err)
{
	Resources *now = limits_now(pod), *before = pod->state->resources;
	Resources *merged = now ? resources_merge(now, wanted) : NULL;
	bool applied = false;
	int r = 0;

	if (!merged) {
		pb_free(now);
		return err_oom(err);
	}
	put_limits(pod, merged, now);
	if (resources_grow(now, merged))
		r = pod_fit(pod, FIT_GROW, call, err);
	if (r == 0) {
		applied = true;
		r = pod_apply_limits(pod, call, err);
	}
	if (r == 0)
		r = pod_store(pod, err);
	if (r < 0)
		take_back(pod, before, applied);
	else
		put_limits(pod, merged, NULL);
	pb_free(r < 0 ? merged : before);
	pb_free(now);
	return r;
}

static void update_free(struct update *u)
{
	outcome_unref(u->outcome);
	object_unref(&u->pod->object);
	pb_free(u->wanted);
	free(u);
}

static void update_job(void *arg)
{
	struct update *u = arg;
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int r = call_new(now_monotonic_ns() + TURN_NS, &call, &err);

	if (r == 0)
		r = pod_turn_take(u->pod, WORK_UPDATE, call, &err);
	if (r == 0) {
		r = update_steps(u->pod, u->wanted, call, &err);
		pod_turn_give(u->pod);
	}
	if (r < 0)
		err_wrap(&err, "updating pod sandbox \"%s\"", u->pod->object.id);
	outcome_set(u->outcome, r < 0 ? &err : NULL);
	pod_shrink(u->pod);
	update_free(u);
}

void pods_update(struct pods *pods, const char *id, const Resources *resources, struct call *call,
		 pods_done_fn *done, void *arg)
{
	struct pod *pod CLEANUP_POD = NULL;
	struct update *u;
	struct agent *agent;
	struct err err = ERR_INIT;
	int r = pod_find(pods, id, &pod, &err);

	if (r == 0)
		r = resources ? check_limits(resources, &err) : 0;
	/* One that is being adopted waits in the job, for its turn. */
	if (r == 0 && !pod_is_adopted_now(pod))
		r = pod_agent(pod, &agent, &err);
	if (r < 0 || !resources) {
		work_done(done, arg, id, r < 0 ? &err : NULL);
		return;
	}
	object_claim(&pod->object);
	u = calloc(1, sizeof(*u));
	if (u) {
		u->pod = object_ref(&pod->object);
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
	if (work_answer(object_ref(&pod->object), u->outcome, true, call, done, arg) < 0) {
		update_free(u);
		return;
	}
	if (workers_submit(pods->parts.workers, LANE_SLOW, update_job, u) < 0) {
		err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "too many pods are being updated");
		outcome_set(u->outcome, &err);
		update_free(u);
	}
}
