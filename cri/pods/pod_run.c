/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RunPodSandbox: from a request to a ready sandbox, as a job of its own. Each function is one step; a failure
 * undoes what the steps before it have made.
 */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "base/cond.h"
#include "base/log.h"

#define RESOLV_MAX (64 * 1024)
#define CNI_ADD_NS (60 * NS_PER_SEC)
#define KILL_NS	   (10 * NS_PER_SEC)

/* What one run carries from step to step. */
struct run {
	struct pod *pod; /* a reference */
	struct pods *pods;
	const Runtime__V1__PodSandboxConfig *config; /* the pod's */
	struct vmm_choice choice;
	uint64_t memory_bytes;
	uint32_t vcpus;
	bool reserved; /* it has a row */

	/* CNI's ADD runs beside the boot, on another thread; under `lock`. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char netns[SANDBOX_PATH_MAX];
	bool cni_begun, cni_done;
	int cni_code;
	struct err cni_err;
	struct cni_result cni;
};

/* ---- the network, beside the boot ---------------------------------------------------------------------- */

static void cni_job(void *arg)
{
	struct run *run = arg;
	struct cni_port ports[POD_PORTS_MAX];
	struct cni_pod view;
	struct err err = ERR_INIT;
	struct cni_result result = {0};
	int r = pod_cni_view(run->pod->object.id, run->netns, run->config, ports, POD_PORTS_MAX, &view, &err);

	if (r == 0)
		r = cni_add(run->pods->parts.cni, &view, run->pod->object.work,
			    call_until(run->pod->object.work, CNI_ADD_NS), &result, &err);
	pthread_mutex_lock(&run->lock);
	run->cni_code = r;
	run->cni_err = err;
	run->cni = result;
	run->cni_done = true;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
}

/* Of sandbox_boot: the network namespace is there. */
static int begin_network(void *arg, const char *netns, struct err *err)
{
	struct run *run = arg;
	int64_t step;
	int r = journal_begin(run->pods->parts.store, run->pod->object.id, "cni", netns, &step, err);

	if (r < 0)
		return r;
	snprintf(run->netns, sizeof(run->netns), "%s", netns);
	if (workers_submit(run->pods->parts.workers, LANE_NET, cni_job, run) < 0)
		return err_set_status(err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
				      "too many pod networks are being set up at once");
	run->cni_begun = true;
	return 0;
}

/* The job uses `run` and has a deadline of its own: whatever else fails, its end is waited for. */
static int wait_network(struct run *run, struct err *err)
{
	pthread_mutex_lock(&run->lock);
	while (run->cni_begun && !run->cni_done)
		(void)cond_wait_until(&run->changed, &run->lock, INT64_MAX);
	pthread_mutex_unlock(&run->lock);
	return run->cni_code < 0 ? err_copy(err, &run->cni_err) : 0;
}

/* ---- the steps ----------------------------------------------------------------------------------------- */

static int check_host(struct run *run, struct err *err)
{
	const struct pods_parts *parts = &run->pods->parts;
	const char *reason;
	int r;

	pod_size_at_boot(run->pods, run->config, &run->vcpus, &run->memory_bytes);
	r = health_ready(parts->health, run->memory_bytes, &run->choice, &reason, err);
	if (r == 0)
		r = health_fits_now(parts->health, run->memory_bytes, err);
	if (r < 0)
		return r;
	r = cni_status(parts->cni, err);
	return r < 0 ? err_wrap(err, "the pod network is not ready") : 0;
}

/* The row that holds the pod's name, and says where its sandbox will be. */
static int reserve(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct sandbox_hooks hooks;
	int r;

	pod_sandbox_hooks(pod, &hooks);
	r = sandbox_new(run->pods->parts.sandboxes, &hooks, &pod->sandbox, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	if (pb_set_str(&pod->state->sandbox_id, sandbox_id(pod->sandbox)) < 0 ||
	    pb_set_str(&pod->state->dir, sandbox_dir(pod->sandbox)) < 0 ||
	    pb_set_str(&pod->state->netns, sandbox_netns(pod->sandbox)) < 0)
		r = -ENOMEM;
	pthread_mutex_unlock(&pod->lock);
	if (r < 0)
		return err_oom(err);
	return pod_store(pod, err) < 0 ? err_wrap(err, "reserving the pod's name") : 0;
}

static int boot(struct run *run, struct err *err)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	const Runtime__V1__LinuxContainerResources *res = lx ? lx->resources : NULL;
	const char *parent = run->pods->parts.config->sandbox.cgroup_parent;
	struct vmm_resources limits = {0};
	struct sandbox_spec spec = {
		.choice = &run->choice,
		.vcpus = run->vcpus,
		.memory_bytes = run->memory_bytes,
		.cgroup_parent = lx && !str_empty(lx->cgroup_parent) ? lx->cgroup_parent : parent,
		.network = begin_network,
		.network_arg = run,
	};

	if (res) {
		limits.cpu_shares = res->cpu_shares > 0 ? (uint64_t)res->cpu_shares : 0;
		limits.cpu_quota_us = res->cpu_quota;
		limits.cpu_period_us = res->cpu_period > 0 ? (uint64_t)res->cpu_period : 0;
		limits.cpuset_cpus = str_empty(res->cpuset_cpus) ? NULL : res->cpuset_cpus;
		limits.cpuset_mems = str_empty(res->cpuset_mems) ? NULL : res->cpuset_mems;
		spec.limits = &limits;
	}
	return sandbox_boot(run->pod->sandbox, run->pod->object.work, &spec, err);
}

static void put_words(FILE *f, const char *first, char *const *words, size_t n)
{
	if (n > 0)
		fputs(first, f);
	for (size_t i = 0; i < n; i++)
		fprintf(f, " %s", words[i]);
	if (n > 0)
		fputc('\n', f);
}

/* resolv.conf as the pod's DNS config wants it, or the host's own where it has none; malloc'ed. */
static char *resolv_conf(const Runtime__V1__DNSConfig *dns)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f;

	if (!dns || (dns->n_servers == 0 && dns->n_searches == 0 && dns->n_options == 0))
		return read_file("/etc/resolv.conf", RESOLV_MAX, &text, NULL) < 0 ? strdup("") : text;
	f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	put_words(f, "search", dns->searches, dns->n_searches);
	for (size_t i = 0; i < dns->n_servers; i++)
		fprintf(f, "nameserver %s\n", dns->servers[i]);
	put_words(f, "options", dns->options, dns->n_options);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int assign(struct run *run, struct err *err)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	char *resolv CLEANUP_FREE = resolv_conf(run->config->dns_config);
	size_t n = lx ? lx->n_sysctls : 0;
	struct sandbox_sysctl *sysctls CLEANUP_FREE = calloc(n ? n : 1, sizeof(*sysctls));
	struct sandbox_assignment assignment = {
		.pod_id = run->pod->object.id,
		.hostname = str_empty(run->config->hostname) ? run->config->metadata->name
							     : run->config->hostname,
		.network = &run->cni,
		.ifname = POD_IFNAME,
		.allow_netns_rules = run->pods->parts.config->sandbox.allow_netns_rules,
		.spoof_check = run->pods->parts.config->sandbox.spoof_check,
		.sysctls = sysctls,
		.n_sysctls = n,
		.resolv_conf = resolv,
		.hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	};
	char hostname[65];

	if (!resolv || !sysctls)
		return err_oom(err);
	snprintf(hostname, sizeof(hostname), "%s", assignment.hostname); /* a long pod name is cut */
	assignment.hostname = hostname;
	for (size_t i = 0; i < n; i++)
		sysctls[i] =
			(struct sandbox_sysctl){.key = lx->sysctls[i]->key, .value = lx->sysctls[i]->value};
	return sandbox_assign(run->pod->sandbox, run->pod->object.work, &assignment, err);
}

/* What a later server needs to find the sandbox again. */
static int note_sandbox(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct sandbox_saved saved = {0};
	char *ips[ARRAY_SIZE(run->cni.ips)];
	int r = sandbox_save(pod->sandbox, &saved, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < run->cni.n_ips; i++) {
		ips[i] = run->cni.ips[i].address;
		ips[i][strcspn(ips[i], "/")] = 0;
	}
	pthread_mutex_lock(&pod->lock);
	if (pb_set_str(&pod->state->vm, saved.machine) < 0 ||
	    pb_set_str(&pod->state->cgroup, saved.cgroup) < 0 ||
	    pb_set_str(&pod->state->boot_id, saved.boot_id) < 0 ||
	    pb_set_strv(&pod->state->ips, &pod->state->n_ips, ips, run->cni.n_ips) < 0)
		r = err_oom(err);
	pthread_mutex_unlock(&pod->lock);
	sandbox_saved_done(&saved);
	return r;
}

static int finish(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	char why[SANDBOX_WHY_MAX];
	bool dead;
	int r = note_sandbox(run, err);

	if (r == 0)
		r = call_check(pod->object.work, err);
	if (r < 0)
		return r;
	/* The hook of a death either sees a ready pod, or the death is seen here. */
	pthread_mutex_lock(&pod->lock);
	dead = sandbox_is_dead(pod->sandbox);
	if (!dead)
		pod->state->phase = POD_READY;
	pthread_mutex_unlock(&pod->lock);
	if (dead) {
		sandbox_why(pod->sandbox, why);
		return err_set_status(err, -ECONNRESET, ERR_INTERNAL, "the sandbox died: %s", why);
	}
	return pod_store(pod, err);
}

static int run_steps(struct run *run, struct err *err)
{
	int r = boot(run, err);
	int cni = wait_network(run, r == 0 ? err : NULL);

	if (r == 0)
		r = cni;
	if (r == 0)
		r = assign(run, err);
	return r == 0 ? finish(run, err) : r;
}

/* ---- the job ------------------------------------------------------------------------------------------- */

/* What cannot be undone keeps its row, and with it the name: the pod is seen, and its removal tries again. */
static void show_remains(struct pod *pod, const struct err *why)
{
	pthread_mutex_lock(&pod->lock);
	pod->state->phase = POD_EXITED;
	if (!pod->state->reason[0])
		(void)pb_set_text(&pod->state->reason, why->msg);
	pthread_mutex_unlock(&pod->lock);
	object_show(&pod->object);
}

static void roll_back(struct pod *pod, const struct err *why)
{
	struct pods *pods = pod->pods;
	struct err err = ERR_INIT;

	pthread_mutex_lock(&pod->lock);
	pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING; /* hidden from now on */
	pthread_mutex_unlock(&pod->lock);
	if (sandbox_kill(pod->sandbox, "the creation of its pod failed", now_monotonic_ns() + KILL_NS, &err) <
	    0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->object.id),
			 "killing the sandbox of a pod that failed: %s", err.msg);
	if (pod_undo_all(pods, pod->object.id, sandbox_id(pod->sandbox), &err) < 0 ||
	    pod_forget(pod, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->object.id), "undoing a pod that failed: %s",
			 err.msg);
		show_remains(pod, why);
		return;
	}
	pod_unhook(pod);
	object_remove(&pod->object);
}

static int make(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	int r = check_host(run, err);

	if (r == 0)
		r = call_check(pod->object.work, err);
	if (r < 0)
		return r;
	r = reserve(run, err);
	if (r < 0)
		return r;
	run->reserved = true;
	return run_steps(run, err);
}

static void run_job(void *arg)
{
	struct run *run = arg;
	struct pod *pod = run->pod;
	struct err err = ERR_INIT;
	int64_t start = now_monotonic_ns();
	int r;

	if (run->pods->parts.config->sandbox.enable_tracing)
		call_trace(pod->object.work, "pod", pod->object.id);
	r = make(run, &err);
	if (r == 0) {
		log_line(LOG_LEVEL_INFO,
			 LOG_FIELDS("pod", pod->object.id, "name", run->config->metadata->name, "driver",
				    run->choice.driver),
			 "pod is ready after %lld ms", (long long)((now_monotonic_ns() - start) / NS_PER_MS));
		pod_tell(pod, POD_IS_READY);
		object_show(&pod->object);
	} else if (run->reserved) {
		roll_back(pod, &err);
	} else { /* nothing is on the host yet */
		pod_unhook(pod);
		object_remove(&pod->object);
	}
	pod_turn_give(pod);
	work_made(run->pods, &pod->object, r < 0 ? &err : NULL);
	cni_result_done(&run->cni);
	pthread_cond_destroy(&run->changed);
	pthread_mutex_destroy(&run->lock);
	free(run);
	object_unref(&pod->object);
}

/* Hands the creation over to a job. On failure no job has the pod. */
static int start_job(struct pod *pod, struct err *err)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run || cond_init(&run->changed) < 0) {
		free(run);
		return err_oom(err);
	}
	pthread_mutex_init(&run->lock, NULL);
	run->pod = object_ref(&pod->object);
	run->pods = pod->pods;
	run->config = pod->state->config;
	run->cni_err = ERR_INIT;
	if (workers_submit(pod->pods->parts.workers, LANE_BOOT, run_job, run) < 0) {
		object_unref(&pod->object);
		pthread_cond_destroy(&run->changed);
		pthread_mutex_destroy(&run->lock);
		free(run);
		return err_set_status(err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
				      "too many pods are being created");
	}
	return 0;
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static int new_pod(struct pods *pods, const Runtime__V1__PodSandboxConfig *config, const char *handler,
		   struct pod **ret_pod, struct err *err)
{
	PodState *state = pb_new(&crivisor__state__v1__pod__descriptor);
	struct pod *pod;
	char id[65];

	if (random_hex(32, id) < 0 || !state)
		return pb_free(state), err_oom(err);
	state->config = PB_CLONE(config);
	state->created_at = now_realtime_ns();
	pod = state->config && pb_set_str(&state->id, id) == 0 &&
			      pb_set_str(&state->runtime_handler, handler) == 0
		      ? pod_new(pods, id, state)
		      : NULL;
	if (!pod)
		return pb_free(state), err_oom(err);
	atomic_store(&pod->object.unclaimed, true);
	pod->op = WORK_CREATE;
	if (outcome_new(&pod->object.made, err) < 0 ||
	    call_new(now_monotonic_ns() + CREATION_NS, &pod->object.work, err) < 0) {
		object_unref(&pod->object);
		return -ENOMEM;
	}
	*ret_pod = pod;
	return 0;
}

static void repeat(struct pod *other, const Runtime__V1__PodSandboxConfig *config, const char *handler,
		   struct call *call, pods_done_fn *done, void *arg)
{
	char path[256];
	bool usable;

	message_difference(&other->state->config->base, &config->base, "config", path, sizeof(path));
	if (!path[0] && !str_eq(other->state->runtime_handler, handler))
		snprintf(path, sizeof(path), "runtime_handler");
	pthread_mutex_lock(&other->lock);
	usable = !other->removing && !other->stopping && other->state->phase != POD_EXITED;
	pthread_mutex_unlock(&other->lock);
	work_repeat(&other->object, path, usable, call, done, arg);
}

void pods_run(struct pods *pods, const Runtime__V1__PodSandboxConfig *config, const char *handler,
	      struct call *call, pods_done_fn *done, void *arg)
{
	struct object *other = NULL;
	struct pod *pod CLEANUP_POD = NULL;
	char *name CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;
	int r = pod_check(config, handler, &err);

	if (r == 0 && atomic_load(&pods->closed))
		r = err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is being stopped");
	if (r == 0)
		r = new_pod(pods, config, handler, &pod, &err);
	if (r == 0)
		r = pod_check_network(pod->object.id, config, &err);
	if (r == 0) {
		name = pod_name(config);
		r = name ? table_add(&pods->pods, &pod->object, name, &other, &err) : err_oom(&err);
	}
	if (r == -EEXIST) {
		repeat((struct pod *)(void *)other, config, handler, call, done, arg);
		return;
	}
	if (r < 0) {
		work_done(done, arg, "", &err);
		return;
	}
	/* First the answer, which the outcome gives if the start fails. */
	r = work_answer(object_ref(&pod->object), pod->object.made, true, call, done, arg);
	r = r < 0 ? err_oom(&err) : start_job(pod, &err);
	/* pods_close either sees it in the table, or is seen here. */
	if (r == 0 && atomic_load(&pods->closed))
		call_cancel(pod->object.work, "the server is being stopped");
	if (r < 0) {
		object_remove(&pod->object);
		outcome_set(pod->object.made, &err);
	}
}
