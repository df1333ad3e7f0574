/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UpdatePodSandboxResources: the limits of the pod's cgroup on the host. Memory follows the size of the VM,
 * and is not changed by this: a limit below what the VM was given would kill it.
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

static int update_steps(struct pod *pod, const Resources *wanted, struct call *call, struct err *err)
{
	Resources *now = limits_now(pod);
	Resources *merged = now ? resources_merge(now, wanted) : NULL;
	struct vmm_resources limits = {0};
	int r = merged ? 0 : err_oom(err);

	if (r == 0) {
		limits.cpu_shares = (uint64_t)merged->cpu_shares;
		limits.cpu_quota_us = merged->cpu_quota;
		limits.cpu_period_us = (uint64_t)merged->cpu_period;
		limits.cpuset_cpus = str_empty(merged->cpuset_cpus) ? NULL : merged->cpuset_cpus;
		limits.cpuset_mems = str_empty(merged->cpuset_mems) ? NULL : merged->cpuset_mems;
		r = sandbox_resize(pod->sandbox, call, 0, 0, &limits, err);
	}
	if (r == 0) {
		pthread_mutex_lock(&pod->lock);
		pb_free(pod->state->resources); /* no view shows it */
		pod->state->resources = move_ptr(merged);
		pthread_mutex_unlock(&pod->lock);
		r = pod_store(pod, err);
	}
	pb_free(now);
	pb_free(merged);
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
