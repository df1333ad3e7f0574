/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of host CPUs as vCPUs: the table's rules, then a pod's table. */
#include "cri/pods/cpus_internal.h"
#include "cri/pods/pods_internal.h"

#include "base/cpulist.h"
#include "base/log.h"

/* ---- the table ----------------------------------------------------------------------------------------- */

void cpus_keep(uint32_t *host, uint32_t vcpus, const cpu_set_t *used)
{
	for (uint32_t i = 0; i < vcpus; i++) {
		if (host[i] && !CPU_ISSET(host[i] - 1, used))
			host[i] = 0;
	}
}

/* The vCPU that stands for a CPU, or is free for it; `vcpus` if there is none. */
static uint32_t vcpu_for(const uint32_t *host, uint32_t vcpus, uint32_t cpu)
{
	uint32_t free = vcpus;

	for (uint32_t i = vcpus; i-- > 0;) {
		if (host[i] == cpu + 1)
			return i;
		if (!host[i])
			free = i;
	}
	return free;
}

void cpus_take(uint32_t *host, uint32_t vcpus, const cpu_set_t *wanted, cpu_set_t *ret_guest)
{
	uint32_t n = (uint32_t)CPU_COUNT(wanted);

	CPU_ZERO(ret_guest);
	for (uint32_t cpu = 0; n <= vcpus && cpu < CPU_SETSIZE; cpu++) {
		uint32_t i = CPU_ISSET(cpu, wanted) ? vcpu_for(host, vcpus, cpu) : vcpus;

		if (i == vcpus)
			continue;
		host[i] = cpu + 1;
		CPU_SET(i, ret_guest);
	}
	for (uint32_t i = 0; i < vcpus && (uint32_t)CPU_COUNT(ret_guest) < n; i++)
		CPU_SET(i, ret_guest);
}

void cpus_places(const uint32_t *host, uint32_t vcpus, const cpu_set_t *others, cpu_set_t *ret_sets)
{
	for (uint32_t i = 0; i < vcpus; i++) {
		ret_sets[i] = *others;
		if (host[i]) {
			CPU_ZERO(&ret_sets[i]);
			CPU_SET(host[i] - 1, &ret_sets[i]);
		}
	}
}

/* ---- a pod's ------------------------------------------------------------------------------------------- */

static const char *cpus_of(const struct container *c)
{
	const Runtime__V1__LinuxContainerConfig *lx = c->state->config ? c->state->config->linux : NULL;

	if (c->state->resources)
		return c->state->resources->cpuset_cpus;
	return lx && lx->resources ? lx->resources->cpuset_cpus : "";
}

/* With the pod's lock held: whether it may use a CPU from now on. */
static bool counts(const struct container *c)
{
	return !c->gone && !c->removing &&
	       c->state->state != CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_EXITED;
}

/* With the lock held: the CPUs of all sets; false if a container has no set, and runs anywhere. */
static bool used_cpus(struct object **list, cpu_set_t *ret_used)
{
	bool all = true;

	CPU_ZERO(ret_used);
	for (size_t i = 0; list[i]; i++) {
		const struct container *c = container_of(list[i]);
		cpu_set_t set;

		if (!counts(c))
			continue;
		if (cpulist_parse(cpus_of(c), &set) == 0)
			CPU_OR(ret_used, ret_used, &set);
		else
			all = false;
	}
	return all;
}

/* With the lock held: the table with an entry for each vCPU. */
static int grow_table(PodState *state, uint32_t vcpus)
{
	uint32_t *host;

	if (state->n_vcpu_cpus >= vcpus)
		return 0;
	host = realloc(state->vcpu_cpus, vcpus * sizeof(*host));
	if (!host)
		return -ENOMEM;
	memset(host + state->n_vcpu_cpus, 0, (vcpus - state->n_vcpu_cpus) * sizeof(*host));
	state->vcpu_cpus = host;
	state->n_vcpu_cpus = vcpus;
	return 0;
}

/* Puts the threads where the table says: again, if it has changed meanwhile. */
static int place_vcpus(struct pod *pod, uint32_t vcpus, struct call *call, struct err *err)
{
	cpu_set_t *sets CLEANUP_FREE = calloc(vcpus, sizeof(*sets));
	cpu_set_t others, online;
	uint64_t epoch;
	int r = 0;

	if (!sets)
		return err_oom(err);
	if (cpulist_online(&online) < 0)
		return err_set(err, -EIO, "reading which CPUs the host has");
	for (bool again = true; r == 0 && again;) {
		struct object **list CLEANUP_OBJECTS = NULL;

		r = container_list(pod->pods, pod, true, &list, err);
		if (r < 0)
			break;
		pthread_mutex_lock(&pod->lock);
		if (!used_cpus(list, &others))
			others = online;
		epoch = pod->cpus_epoch;
		if (grow_table(pod->state, vcpus) < 0)
			r = err_oom(err);
		else
			cpus_places(pod->state->vcpu_cpus, vcpus, &others, sets);
		pthread_mutex_unlock(&pod->lock);
		if (r == 0)
			r = sandbox_pin(pod->sandbox, call, sets, vcpus, err);
		pthread_mutex_lock(&pod->lock);
		again = epoch != pod->cpus_epoch;
		pthread_mutex_unlock(&pod->lock);
	}
	return r;
}

int pod_place_vcpus(struct pod *pod, struct call *call, struct err *err)
{
	uint32_t vcpus = sandbox_vcpus(pod->sandbox);

	return vcpus > 0 ? place_vcpus(pod, vcpus, call, err) : 0;
}

static void tell_difference(const struct container *c, const char *wanted, int n, uint32_t vcpus)
{
	if ((uint32_t)n > vcpus)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->object.id),
			 "cpuset_cpus %s names %d CPUs and the pod's VM has %u vCPUs: the container gets all "
			 "of them",
			 wanted, n, vcpus);
}

/* What it may ask for at all. */
static int check_set(const char *text, cpu_set_t *ret_wanted, struct err *err)
{
	cpu_set_t online, both;

	if (cpulist_parse(text, ret_wanted) < 0)
		return err_set(err, -EINVAL, "cpuset_cpus \"%.64s\" is not a list of CPUs", text);
	if (cpulist_online(&online) < 0)
		return err_set(err, -EIO, "reading which CPUs the host has");
	CPU_AND(&both, ret_wanted, &online);
	if (!CPU_EQUAL(&both, ret_wanted))
		return err_set(err, -EINVAL,
			       "cpuset_cpus \"%.64s\" names a CPU that the host does not have online", text);
	return 0;
}

int container_place_cpus(struct container *c, struct call *call, char **ret_guest, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct pod *pod = c->pod;
	char words[CPULIST_WORDS_MAX];
	uint32_t vcpus = sandbox_vcpus(pod->sandbox);
	cpu_set_t wanted, used, guest;
	int r;

	if (str_empty(cpus_of(c))) {
		/* It runs anywhere, and so may the vCPUs that stand for no CPU. */
		pthread_mutex_lock(&pod->lock);
		r = pod->state->n_vcpu_cpus > 0;
		pthread_mutex_unlock(&pod->lock);
		return r && vcpus > 0 ? place_vcpus(pod, vcpus, call, err) : 0;
	}
	r = check_set(cpus_of(c), &wanted, err);
	if (r == 0 && vcpus == 0)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "the pod's VM does not run");
	if (r == 0)
		r = container_list(pod->pods, pod, true, &list, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	r = grow_table(pod->state, vcpus);
	if (r == 0) {
		used_cpus(list, &used);
		cpus_keep(pod->state->vcpu_cpus, vcpus, &used);
		cpus_take(pod->state->vcpu_cpus, vcpus, &wanted, &guest);
		pod->cpus_epoch++;
	}
	pthread_mutex_unlock(&pod->lock);
	if (r < 0)
		return err_oom(err);
	tell_difference(c, cpus_of(c), CPU_COUNT(&wanted), vcpus);
	r = pod_store(pod, err);
	if (r == 0)
		r = place_vcpus(pod, vcpus, call, err);
	cpulist_words(&guest, words, sizeof(words));
	if (r == 0 && !(*ret_guest = strdup(words)))
		r = err_oom(err);
	return r;
}
