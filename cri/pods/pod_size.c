/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How large a pod's VM is: at its birth, and as its containers' limits change.
 *
 * The pod has a part of its own: what its VM was booted with beyond the limit that the pod had then. The rest
 * is for the containers: the sum of their limits, or the pod's own limit where that is more. Never less than
 * at the boot. One that is being updated counts with the larger of its old and new limits, so that the VM is
 * never too small for what the guest has been told.
 */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/cpulist.h"
#include "base/log.h"
#include "vmm/cgroup.h"

#include <unistd.h>

#define MIB	       (UINT64_C(1) << 20)
#define GUEST_OWN      (96 * MIB) /* what kernel and agent need beside the containers' limits */
#define DEFAULT_PERIOD 100000
#define MEMORY_LIMIT   (UINT64_C(1) << 60) /* sums end here */
#define CPUS_LIMIT     UINT64_C(1000000)   /* of one limit */
#define SHRINK_NS      (60 * NS_PER_SEC)

typedef Runtime__V1__LinuxContainerResources Resources;

/* ---- limits -------------------------------------------------------------------------------------------- */

/* What limits allow: bytes, and thousandths of a CPU; 0: without limit. */
struct allowance {
	uint64_t bytes, millicpus;
};

static struct allowance allowance(const Resources *r)
{
	struct allowance a = {0};
	uint64_t quota, period;

	if (!r)
		return a;
	if (r->memory_limit_in_bytes > 0)
		a.bytes = (uint64_t)r->memory_limit_in_bytes;
	if (a.bytes > MEMORY_LIMIT)
		a.bytes = MEMORY_LIMIT;
	if (r->cpu_quota <= 0)
		return a;
	quota = (uint64_t)r->cpu_quota;
	period = r->cpu_period > 0 ? (uint64_t)r->cpu_period : DEFAULT_PERIOD;
	a.millicpus = quota / period > CPUS_LIMIT ? CPUS_LIMIT * 1000 : quota * 1000 / period;
	return a;
}

static struct allowance larger(struct allowance a, struct allowance b)
{
	return (struct allowance){.bytes = a.bytes > b.bytes ? a.bytes : b.bytes,
				  .millicpus = a.millicpus > b.millicpus ? a.millicpus : b.millicpus};
}

static uint64_t round_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) / to * to;
}

static uint32_t whole_cpus(uint64_t millicpus)
{
	long host = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t cpus = round_up(millicpus, 1000) / 1000;

	/* More than the host has limits nothing. */
	if (host > 0 && cpus > (uint64_t)host)
		cpus = (uint64_t)host;
	return (uint32_t)cpus;
}

bool resources_grow(const Resources *old, const Resources *wanted)
{
	struct allowance a = allowance(old), b = allowance(wanted);

	return b.bytes > a.bytes || b.millicpus > a.millicpus;
}

/* ---- at the boot --------------------------------------------------------------------------------------- */

static const Resources *boot_limits(const Runtime__V1__PodSandboxConfig *config)
{
	return config->linux ? config->linux->resources : NULL;
}

/*
 * The kubelet sends the sum of those limits that there are. Whether every container has one shows in the
 * cgroup that it made for the pod, which has a limit only then (pkg/kubelet/cm/helpers_linux.go,
 * ResourceConfigForPod).
 */
static bool some_without_limit(const Runtime__V1__PodSandboxConfig *config)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = config->linux;
	uint64_t limit;

	return lx && !str_empty(lx->cgroup_parent) &&
	       vmm_cgroup_memory_limit(lx->cgroup_parent, &limit, NULL) == 0 && limit == 0;
}

void pod_size_at_boot(struct pods *pods, const Runtime__V1__PodSandboxConfig *config, uint32_t *ret_vcpus,
		      uint64_t *ret_memory_bytes)
{
	struct allowance limit = allowance(boot_limits(config));
	uint64_t memory = atomic_load(&pods->memory_bytes);
	uint64_t cpus = atomic_load(&pods->vcpus);

	if (limit.bytes > 0)
		memory = (some_without_limit(config) ? memory : GUEST_OWN) + round_up(limit.bytes, 2 * MIB);
	cpus = whole_cpus(limit.millicpus > 0 ? limit.millicpus : cpus * 1000);
	*ret_vcpus = cpus < 1 ? 1 : (uint32_t)cpus;
	*ret_memory_bytes = memory;
}

/* ---- afterwards ---------------------------------------------------------------------------------------- */

struct need {
	uint64_t limits;       /* of memory, of all that counts */
	uint64_t own;	       /* the pod's own part of its memory */
	uint64_t memory_bytes; /* as the VMM can have it, not checked against its largest size */
	uint32_t vcpus;
};

/* With the pod's lock held: whether it may use something from now on. */
static bool counts(const struct container *c)
{
	return !c->gone && !c->removing &&
	       c->state->state != CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
}

/* With the pod's lock held. */
static struct allowance of_container(const struct container *c)
{
	const Runtime__V1__LinuxContainerConfig *lx = c->state->config ? c->state->config->linux : NULL;
	const Resources *now = c->state->resources ? c->state->resources : lx ? lx->resources : NULL;

	return c->updated_from ? larger(allowance(now), allowance(c->updated_from)) : allowance(now);
}

/* With the pod's lock held. */
static struct allowance of_pod(const struct pod *pod)
{
	const Resources *now =
		pod->state->resources ? pod->state->resources : boot_limits(pod->state->config);

	return pod->updated_from ? larger(allowance(now), allowance(pod->updated_from)) : allowance(now);
}

static int need_of(struct pod *pod, const struct vm_size *size, struct need *ret, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct allowance sum = {0}, boot = allowance(boot_limits(pod->state->config));
	uint64_t wanted, boot_bytes = round_up(boot.bytes, 2 * MIB);
	int r = container_list(pod->pods, pod, true, &list, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	for (size_t i = 0; list[i]; i++) {
		struct allowance one = {0};

		if (counts(container_of(list[i])))
			one = of_container(container_of(list[i]));
		sum.bytes += sum.bytes < MEMORY_LIMIT ? one.bytes : 0;
		sum.millicpus += sum.millicpus < CPUS_LIMIT * 1000 ? one.millicpus : 0;
	}
	sum = larger(sum, of_pod(pod));
	pthread_mutex_unlock(&pod->lock);
	*ret = (struct need){.limits = sum.bytes, .own = GUEST_OWN};
	if (boot.bytes > 0 && size->memory_boot_bytes > boot_bytes)
		ret->own = size->memory_boot_bytes - boot_bytes;
	wanted = ret->own + sum.bytes;
	ret->memory_bytes = size->memory_boot_bytes;
	if (sum.bytes > 0 && wanted > size->memory_boot_bytes)
		ret->memory_bytes += round_up(wanted - size->memory_boot_bytes, VM_MEMORY_STEP);
	ret->vcpus = whole_cpus(sum.millicpus);
	if (ret->vcpus < size->vcpus_boot)
		ret->vcpus = size->vcpus_boot;
	return 0;
}

static int check_growth(struct pod *pod, const struct vm_size *size, const struct need *need, struct err *err)
{
	int r = 0;

	if (need->memory_bytes > size->memory_bytes && need->memory_bytes > size->memory_max_bytes)
		return err_set_status(err, -ENOSPC, ERR_FAILED_PRECONDITION,
				      "memory_limit_in_bytes: the limits are %llu bytes in all, and the "
				      "pod's VM needs %llu "
				      "beside them: it has %llu bytes of memory and can have %llu at most",
				      (unsigned long long)need->limits, (unsigned long long)need->own,
				      (unsigned long long)size->memory_bytes,
				      (unsigned long long)size->memory_max_bytes);
	if (need->vcpus > size->vcpus && need->vcpus > size->vcpus_max)
		return err_set_status(
			err, -ENOSPC, ERR_FAILED_PRECONDITION,
			"cpu_quota: the limits need %u vCPUs: the pod's VM has %u and can have %u "
			"at most",
			need->vcpus, size->vcpus, size->vcpus_max);
	if (need->memory_bytes > size->memory_bytes)
		r = health_fits_now(pod->pods->parts.health, need->memory_bytes - size->memory_bytes, err);
	return r < 0 ? err_wrap(err, "growing the pod's VM") : 0;
}

/* ---- one change at a time ------------------------------------------------------------------------------ */

static int sizing_take(struct pod *pod, struct call *call, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	while (pod->sizing && r == 0)
		r = call_wait(call, &pod->changed, &pod->lock, INT64_MAX);
	if (r == 0)
		pod->sizing = true;
	pthread_mutex_unlock(&pod->lock);
	if (r == -ECANCELED)
		return call_check(call, err);
	return r < 0 ? err_set(err, r, "timed out waiting for another change of the VM's size") : 0;
}

static void sizing_give(struct pod *pod)
{
	pthread_mutex_lock(&pod->lock);
	pod->sizing = false;
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
}

/* Until the row says again how large the VM is, a later server makes sure of it. */
static int note_begin(struct pod *pod, struct err *err)
{
	pthread_mutex_lock(&pod->lock);
	pod->state->resizing = true;
	pthread_mutex_unlock(&pod->lock);
	return pod_store(pod, err);
}

static int note_end(struct pod *pod, struct err *err)
{
	struct sandbox_saved saved = {0};
	int r = sandbox_save(pod->sandbox, &saved, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	r = pb_set_str(&pod->state->vm, saved.machine);
	if (r == 0)
		pod->state->resizing = false;
	pthread_mutex_unlock(&pod->lock);
	sandbox_saved_done(&saved);
	return r < 0 ? err_oom(err) : pod_store(pod, err);
}

/* The limits of the pod's cgroup: they are set anew with each change. */
static int resize(struct pod *pod, uint32_t vcpus, uint64_t memory_bytes, struct call *call, struct err *err)
{
	const Resources *r;
	Resources *copy = NULL;
	struct vmm_resources limits = {0};
	int code;

	pthread_mutex_lock(&pod->lock);
	r = pod->state->resources ? pod->state->resources : boot_limits(pod->state->config);
	if (r)
		copy = PB_CLONE(r);
	pthread_mutex_unlock(&pod->lock);
	if (r && !copy)
		return err_oom(err);
	if (copy) {
		limits.cpu_shares = copy->cpu_shares > 0 ? (uint64_t)copy->cpu_shares : 0;
		limits.cpu_quota_us = copy->cpu_quota;
		limits.cpu_period_us = copy->cpu_period > 0 ? (uint64_t)copy->cpu_period : 0;
		limits.cpuset_cpus = str_empty(copy->cpuset_cpus) ? NULL : copy->cpuset_cpus;
		limits.cpuset_mems = str_empty(copy->cpuset_mems) ? NULL : copy->cpuset_mems;
	}
	code = sandbox_resize(pod->sandbox, call, vcpus, memory_bytes, &limits, err);
	pb_free(copy);
	return code;
}

static bool has_cpu_sets(struct pod *pod)
{
	bool has;

	pthread_mutex_lock(&pod->lock);
	has = pod->state->n_vcpu_cpus > 0;
	pthread_mutex_unlock(&pod->lock);
	return has;
}

/* What the VM is to have after it; 0: as it is. */
static int target(struct pod *pod, enum fit how, struct need *ret, struct err *err)
{
	struct vm_size size;
	struct need need;
	bool again;
	int r = sandbox_size(pod->sandbox, &size, err);

	if (r == 0)
		r = need_of(pod, &size, &need, err);
	if (r == 0 && how == FIT_GROW)
		r = check_growth(pod, &size, &need, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	again = pod->state->resizing; /* how large it is, is not known */
	pthread_mutex_unlock(&pod->lock);
	if (how == FIT_SHRINK && !again) {
		if (need.memory_bytes >= size.memory_bytes)
			need.memory_bytes = 0;
		/* Containers' sets name vCPUs by their numbers. */
		if (need.vcpus >= size.vcpus || has_cpu_sets(pod))
			need.vcpus = 0;
	} else if (!again) {
		if (need.memory_bytes <= size.memory_bytes)
			need.memory_bytes = 0;
		if (need.vcpus <= size.vcpus)
			need.vcpus = 0;
	} else {
		if (need.memory_bytes > size.memory_max_bytes)
			need.memory_bytes = size.memory_max_bytes;
		if (need.vcpus > size.vcpus_max)
			need.vcpus = size.vcpus_max;
		if (need.vcpus < size.vcpus && has_cpu_sets(pod))
			need.vcpus = size.vcpus;
	}
	*ret = need;
	return 0;
}

static int fit(struct pod *pod, enum fit how, struct call *call, struct err *err)
{
	struct vm_size size;
	struct need to;
	int r = target(pod, how, &to, err);

	if (r < 0 || (!to.vcpus && !to.memory_bytes))
		return r;
	r = note_begin(pod, err);
	if (r == 0)
		r = resize(pod, to.vcpus, to.memory_bytes, call, err);
	if (r < 0)
		return r;
	r = note_end(pod, err);
	/* A vCPU that is plugged runs anywhere until then. */
	if (r == 0 && to.vcpus && has_cpu_sets(pod))
		r = pod_place_vcpus(pod, call, err);
	if (r == 0 && sandbox_size(pod->sandbox, &size, NULL) == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->object.id),
			 "the pod's VM has %u vCPUs and %llu MiB of memory now", size.vcpus,
			 (unsigned long long)(size.memory_bytes / MIB));
	return r;
}

int pod_fit(struct pod *pod, enum fit how, struct call *call, struct err *err)
{
	int r = sizing_take(pod, call, err);

	if (r < 0)
		return r;
	r = fit(pod, how, call, err);
	sizing_give(pod);
	return r;
}

int pod_apply_limits(struct pod *pod, struct call *call, struct err *err)
{
	int r = sizing_take(pod, call, err);

	if (r < 0)
		return r;
	r = resize(pod, 0, 0, call, err);
	sizing_give(pod);
	return r;
}

/* Carries a reference. */
static void shrink_job(void *arg)
{
	struct pod *pod = arg;
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int r = call_new(now_monotonic_ns() + SHRINK_NS, &call, &err);

	pthread_mutex_lock(&pod->lock);
	pod->shrinking = false;
	pthread_mutex_unlock(&pod->lock);
	if (r == 0)
		r = pod_fit(pod, FIT_SHRINK, call, &err);
	if (r < 0 && pod_is_ready(pod))
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->object.id),
			 "the pod's VM stays larger than its containers need: %s", err.msg);
	object_unref(&pod->object);
}

void pod_shrink(struct pod *pod)
{
	struct vm_size size;
	bool begin;

	if (!pod_is_ready(pod) || sandbox_size(pod->sandbox, &size, NULL) < 0)
		return;
	pthread_mutex_lock(&pod->lock);
	begin = !pod->shrinking && (pod->state->resizing || size.vcpus > size.vcpus_boot ||
				    size.memory_bytes > size.memory_boot_bytes);
	if (begin)
		pod->shrinking = true;
	pthread_mutex_unlock(&pod->lock);
	if (!begin ||
	    workers_submit(pod->pods->parts.workers, LANE_SLOW, shrink_job, object_ref(&pod->object)) == 0)
		return;
	pthread_mutex_lock(&pod->lock);
	pod->shrinking = false;
	pthread_mutex_unlock(&pod->lock);
	object_unref(&pod->object);
}
