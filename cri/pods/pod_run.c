/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RunPodSandbox: from a request to a booted, networked VM. Each function is one step; failure undoes what was
 * journalled.
 */
#include "cri/pods/container.h"
#include "cri/pods/pod_run_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "api/pb.h"
#include "cri/health/readiness.h"
#include "vmm/cgroup.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUEST_OWN   (96 * MIB) /* what kernel and agent need beside the containers' limits */
#define CREATION_NS (60 * NS_PER_SEC)

/*
 * The kubelet sends the sum of those limits that there are. Whether every container has one shows in the
 * cgroup that it made for the pod, which has a limit only then (pkg/kubelet/cm/helpers_linux.go,
 * ResourceConfigForPod).
 */
static bool some_without_limit(const struct pod_run *run)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	uint64_t limit;

	return lx && !str_empty(lx->cgroup_parent) &&
	       vmm_cgroup_memory_limit(lx->cgroup_parent, &limit, NULL) == 0 && limit == 0;
}

/*
 * Size of the VM: from the pod's own limits where it has them, else from the configuration. Containers
 * without a limit beside others that have one get what a pod without limits gets.
 */
static void size_vm(struct pod_run *run)
{
	const Runtime__V1__LinuxContainerResources *res =
		run->config->linux ? run->config->linux->resources : NULL;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int64_t wanted = atomic_load(&run->server->pod_vcpus);

	run->memory_bytes = atomic_load(&run->server->pod_memory_bytes);
	if (res && res->memory_limit_in_bytes > 0)
		run->memory_bytes =
			(some_without_limit(run) ? run->memory_bytes : GUEST_OWN) +
			((uint64_t)res->memory_limit_in_bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
	if (res && res->cpu_quota > 0 && res->cpu_period > 0)
		wanted = res->cpu_quota / res->cpu_period + (res->cpu_quota % res->cpu_period != 0);
	if (wanted > cpus)
		wanted = cpus;
	run->vcpus = wanted < 1 ? 1 : (uint32_t)wanted;
}

static int reserve(struct pod_run *run, const char *handler, struct err *err)
{
	Crivisor__State__V1__Pod *state = pb_new(&crivisor__state__v1__pod__descriptor);
	struct pod *pod = run->pod;
	const char *parent = run->server->config->sandbox.cgroup_parent;
	int len;

	if (!state)
		return err_oom(err);
	pod->state = state;
	if (run->config->linux && !str_empty(run->config->linux->cgroup_parent))
		parent = run->config->linux->cgroup_parent;
	if (parent[0] != '/' || strstr(parent, "/../") || str_ends(parent, "/.."))
		return err_set(err, -EINVAL,
			       "cgroup_parent \"%s\" is not an absolute path of the cgroupfs driver", parent);
	len = snprintf(run->cgroup, sizeof(run->cgroup), "%s%scrivisor-%s", parent,
		       str_ends(parent, "/") ? "" : "/", pod->id);
	/* Cut short it would name another's cgroup, whose processes the removal would kill. */
	if (len >= (int)sizeof(run->cgroup))
		return err_set(err, -EINVAL, "cgroup_parent is longer than %zu bytes",
			       sizeof(run->cgroup) - 75);
	snprintf(run->netns, sizeof(run->netns), "%s/netns/%.20s", run->server->config->server.run_dir,
		 pod->id);
	state->config = PB_CLONE(run->config);
	state->created_at = now_realtime_ns();
	state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING;
	if (!state->config || pb_set_str(&state->id, pod->id) < 0 ||
	    pb_set_str(&state->runtime_handler, handler) < 0 || pb_set_str(&state->dir, pod->dir) < 0 ||
	    pb_set_str(&state->netns, run->netns) < 0 || pb_set_str(&state->cgroup, run->cgroup) < 0)
		return err_oom(err);
	if (pod_store(pod, err) < 0)
		return err_wrap(err, "reserving the pod's name");
	return 0;
}

int pod_run_journal(struct pod_run *run, const char *kind, const char *arg, struct err *err)
{
	int64_t step;

	return journal_begin(run->server->store, run->pod->id, kind, arg, &step, err);
}

static int finish(struct pod_run *run, struct err *err)
{
	struct pod *pod = run->pod;
	char *vm CLEANUP_FREE = vm_save(pod->vm);
	char *ips[ARRAY_SIZE(run->cni.ips)];
	int r = 0;

	if (!vm)
		return err_oom(err);
	for (size_t i = 0; i < run->cni.n_ips; i++) {
		ips[i] = run->cni.ips[i].address;
		ips[i][strcspn(ips[i], "/")] = 0;
	}
	pthread_mutex_lock(&pod->lock);
	if (pod->cancel)
		r = -ECANCELED;
	else if (pb_set_str(&pod->state->vm, vm) < 0 ||
		 pb_set_strv(&pod->state->ips, &pod->state->n_ips, ips, run->cni.n_ips) < 0)
		r = -ENOMEM;
	else
		pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_READY;
	pthread_mutex_unlock(&pod->lock);
	if (r < 0)
		return err_set(err, r,
			       r == -ENOMEM ? "out of memory"
					    : "the pod was stopped while it was being created");
	r = pod_store(pod, err);
	return r < 0 ? r : pod_watch(pod, err);
}

/* With [sandbox] enable_tracing: how long each step took. */
void pod_run_trace(struct pod_run *run, const char *step)
{
	int64_t now = now_monotonic_ns();

	if (run->server->config->sandbox.enable_tracing)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", run->pod->id, "step", step), "step took %.1f ms",
			 (double)(now - run->traced_ns) / NS_PER_MS);
	run->traced_ns = now;
}

static int run_steps(struct pod_run *run, struct err *err)
{
	int r = pod_run_boot(run, err);

	if (r == 0)
		r = pod_run_assign(run, err);
	pod_run_trace(run, "assign");
	if (r == 0)
		r = finish(run, err);
	pod_run_trace(run, "finish");
	if (r < 0 &&
	    /* the CNI job uses `run` and must have ended; its own failure matters less than ours */
	    run->cni_begun)
		pod_run_cni_wait(run, NULL);
	return r;
}

/* A pod that nobody was told of was listed all the same: a quick client may have made containers in it. */
static int remove_containers(struct pod *pod, struct err *err)
{
	struct container **list;
	int r = container_wait_creations(pod, now_monotonic_ns() + CREATION_NS, err);

	if (r == 0)
		r = container_list(pod->server, pod, &list, err);
	if (r < 0)
		return r;
	container_vm_died(pod, "the pod is being removed");
	for (size_t i = 0; list[i] && r == 0; i++)
		r = container_remove(pod->server, list[i]->id, err);
	container_list_free(list);
	return r;
}

static void roll_back(struct pod_run *run)
{
	struct pod *pod = run->pod;
	struct err err = ERR_INIT;

	pthread_mutex_lock(&pod->lock);
	pod->dead = true;
	pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING; /* nobody is to see it any more */
	pthread_mutex_unlock(&pod->lock);
	pod_unwatch(pod);
	if (pod->agent) {
		err_set(&err, -ECANCELED, "the pod is being removed");
		agent_abort(pod->agent, &err);
	}
	if (pod->vm && vm_stop(pod->vm, now_monotonic_ns() + 10 * NS_PER_SEC, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id),
			 "stopping the VM of a pod that failed: %s", err.msg);
	if (remove_containers(pod, &err) < 0 ||
	    journal_undo_owner(run->server->store, pod->id, pod_undo, run->server, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "undoing a pod that failed: %s",
			 err.msg);
	if (pod_forget(pod, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "forgetting a pod that failed: %s",
			 err.msg);
	pod_table_remove(pod);
	pthread_mutex_lock(&pod->lock);
	pb_free(pod->state);
	pod->state = NULL;
	pthread_mutex_unlock(&pod->lock);
}

static int run_reserved(struct pod_run *run, const char *handler, struct err *err)
{
	int r = reserve(run, handler, err);

	if (r < 0)
		return r; /* nothing is journalled yet, and the name is another's */
	pod_table_add(run->pod);
	r = run_steps(run, err);
	if (r < 0)
		roll_back(run);
	return r;
}

int pod_run(struct server *server, const Runtime__V1__PodSandboxConfig *config, const char *handler,
	    struct call *call, char **ret_id, struct err *err)
{
	struct pod_run run = {
		.server = server, .config = config, .call = call, .client_deadline_ns = call_deadline(call)};
	struct pod *pod CLEANUP_POD = NULL;
	int64_t start = now_monotonic_ns();
	const char *reason;
	char id[65];
	int r = pod_run_check(config, handler, err);

	if (r < 0)
		return r;
	size_vm(&run);
	r = health_ready(server->health, run.memory_bytes, &run.choice, &reason, err);
	if (r == 0)
		r = health_fits_now(server->health, run.memory_bytes, err);
	if (r < 0)
		return r;
	r = cni_status(server->cni, err);
	if (r < 0)
		return err_wrap(err, "the pod network is not ready");
	r = random_hex(32, id);
	if (r == 0) {
		r = pod_run_check_network(id, config, err);
		if (r < 0)
			return r;
	}
	pod = r < 0 ? NULL : pod_new(server, id);
	if (!pod)
		return err_oom(err);
	run.pod = pod;
	run.traced_ns = start;
	pod->op = POD_OP_CREATE;
	r = run_reserved(&run, handler, err);
	if (r == 0 && call_check(call, NULL) == -ECANCELED) {
		/* Nobody heard of this pod; left alone it would hold its name and a VM for ever. */
		roll_back(&run);
		r = err_set(err, -ECANCELED, "the client left before the pod was ready");
	}
	if (r == 0) {
		*ret_id = strdup(id);
		log_line(LOG_LEVEL_INFO,
			 LOG_FIELDS("pod", id, "name", config->metadata->name, "driver", run.choice.driver),
			 "pod is ready after %lld ms", (long long)((now_monotonic_ns() - start) / NS_PER_MS));
	}
	cni_result_done(&run.cni);
	pod_turn_give(pod);
	return r < 0 ? r : *ret_id ? 0 : err_oom(err);
}
