/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boot of a pod's VM: in its turn, with CNI beside it, until the guest's agent has answered; why not, if
 * it does not.
 */
#include "cri/pods/pod_run_internal.h"

#include "api/agent/agent.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "api/pb.h"
#include "vmm/death.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOOT_NS	    (90 * NS_PER_SEC)
#define CNI_ADD_NS  (60 * NS_PER_SEC)
#define BOOT_ID_MAX 64 /* a UUID has 36 */

static void cni_job(void *arg)
{
	struct pod_run *run = arg;
	struct cni_port ports[PORTS_MAX];
	struct cni_pod view;
	struct err err = ERR_INIT;
	struct cni_result result = {0};
	int64_t deadline_ns = now_monotonic_ns() + CNI_ADD_NS;
	int r = pod_cni_view(run->pod->id, run->netns, run->config, ports, PORTS_MAX, &view, &err);

	if (run->deadline_ns < deadline_ns)
		deadline_ns = run->deadline_ns;
	if (r == 0)
		r = cni_add(run->server->cni, &view, deadline_ns, &result, &err);
	pthread_mutex_lock(&run->pod->lock);
	run->cni_code = r;
	run->cni_err = err;
	run->cni = result;
	run->cni_done = true;
	pthread_cond_broadcast(&run->pod->changed);
	pthread_mutex_unlock(&run->pod->lock);
}

int pod_run_cni_wait(struct pod_run *run, struct err *err)
{
	pthread_mutex_lock(&run->pod->lock);
	while (!run->cni_done) /* cni_add has a deadline of its own */
		pthread_cond_wait(&run->pod->changed, &run->pod->lock);
	pthread_mutex_unlock(&run->pod->lock);
	return run->cni_code < 0 ? err_copy(err, &run->cni_err) : 0;
}

static int start_vm(struct pod_run *run, struct err *err)
{
	struct pod *pod = run->pod;
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod->dir);
	struct vm_spec spec = {
		.id = pod->id,
		.run_dir = pod->dir,
		.shared_dir = shared,
		.netns_path = run->netns,
		.cgroup = run->cgroup,
		.tap = TAP,
		.mtu = run->choice.mtu_max,
		.vcpus = run->vcpus,
		.memory_bytes = run->memory_bytes,
	};
	struct vm *vm;
	int r;

	if (!shared)
		return err_oom(err);
	r = vm_start(&run->server->config->hypervisor, &run->choice, &spec, run->deadline_ns, &vm, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	pod->vm = vm;
	r = pod->cancel ? -ECANCELED : 0;
	pthread_mutex_unlock(&pod->lock);
	return r < 0 ? err_set(err, r, "the pod was stopped while it was being created") : 0;
}

static int reach_agent(struct pod_run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct agent *agent = NULL;
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__InfoResponse *info = NULL;
	struct agent_options options = {.loop = run->server->loop,
					.workers = run->server->workers,
					.dial = pod_dial,
					.arg = pod->vm};
	int r = agent_new(&options, &agent, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	pod->agent = agent;
	pthread_mutex_unlock(&pod->lock);
	r = agent_connect(agent, NULL, run->deadline_ns, err);
	if (r < 0)
		return vm_explain_start(pod->vm, pod->dir, err);
	r = agent_call(agent, &AGENT_INFO, &req.base, SETUP_NS, (ProtobufCMessage **)&info, err);
	if (r < 0)
		return err_wrap(err, "asking the guest's agent who it is");
	if (strlen(info->boot_id) > BOOT_ID_MAX) {
		pb_free(info);
		return err_set_status(err, -EBADMSG, ERR_INTERNAL,
				      "the guest's agent gives a boot id of more than %d bytes", BOOT_ID_MAX);
	}
	pthread_mutex_lock(&pod->lock);
	r = pb_set_str(&pod->state->boot_id, info->boot_id);
	pthread_mutex_unlock(&pod->lock);
	pb_free(info);
	return r < 0 ? err_oom(err) : 0;
}

/* The VM ended before its kernel wrote a word: nothing in the guest's configuration can be the reason. */
static bool died_mute(struct pod_run *run, const struct err *err)
{
	struct pod *pod = run->pod;
	bool cancelled;

	pthread_mutex_lock(&pod->lock);
	cancelled = pod->cancel || !pod->vm;
	pthread_mutex_unlock(&pod->lock);
	return !cancelled && err->status != ERR_DEADLINE_EXCEEDED && now_monotonic_ns() < run->deadline_ns &&
	       vm_said_nothing(pod->dir);
}

/*
 * Puts the dead VM aside (others may still hold its handle; it goes with the pod) and removes its sockets and
 * logs.
 */
static int clear_vm(struct pod_run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct err gone = ERR_INIT;

	err_set(&gone, -ECONNRESET, "the VM died");
	agent_abort(pod->agent, &gone);
	if (vm_stop(pod->vm, now_monotonic_ns() + 10 * NS_PER_SEC, err) < 0)
		return err->code;
	pthread_mutex_lock(&pod->lock);
	pod->dead_vm = move_ptr(pod->vm);
	pod->dead_agent = move_ptr(pod->agent);
	pthread_mutex_unlock(&pod->lock);
	return vm_clear_files(pod->dir, err);
}

/*
 * Starts the VM and reaches its agent. On a host short of CPU a guest sometimes dies before its console
 * exists (seen about once in a hundred boots with QEMU's emulation under heavy load); such a one is started
 * once more, and the log says so.
 */
static int boot(struct pod_run *run, struct err *err)
{
	struct err first = ERR_INIT;
	int r = start_vm(run, &first);

	pod_run_trace(run, "start VM");
	if (r == 0)
		r = reach_agent(run, &first);
	if (r == 0)
		return 0;
	if (!died_mute(run, &first))
		return err_copy(err, &first);
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", run->pod->id),
		 "the VM died before its kernel spoke and is started once more: %s", first.msg);
	r = clear_vm(run, err);
	if (r == 0)
		r = start_vm(run, err);
	if (r == 0)
		r = reach_agent(run, err);
	return r < 0 ? err_wrap(err, "on the second try") : 0;
}

static void client_left(void *arg)
{
	call_cancel(arg, "the client has left");
}

static void set_waits(struct pod *pod, struct call *call)
{
	pthread_mutex_lock(&pod->lock);
	pod->waits = call;
	if (call && pod->cancel)
		call_cancel(call, "the pod sandbox is to be stopped");
	pthread_mutex_unlock(&pod->lock);
}

/* Until the client leaves, or the pod is to be stopped. */
static int enter_gate(struct pod_run *run, struct err *err)
{
	struct call *call CLEANUP_CALL = NULL;
	struct call_hook hook;
	int r = call_new(run->client_deadline_ns, &call, err);

	if (r < 0)
		return r;
	call_hook_add(run->call, &hook, client_left, call);
	set_waits(run->pod, call);
	r = gate_enter(&run->server->boots, call, err);
	set_waits(run->pod, NULL);
	call_hook_remove(run->call, &hook);
	return r;
}

/*
 * From the first thing that is made until the agent has answered: what keeps the host's CPUs busy, and so
 * behind the gate.
 */
int pod_run_boot(struct pod_run *run, struct err *err)
{
	int64_t limit;
	int r = enter_gate(run, err);

	if (r < 0)
		return r;
	pod_run_trace(run, "turn");
	/* What it waited for others is not of its boot's time. */
	limit = now_monotonic_ns() + BOOT_NS;
	run->deadline_ns = limit < run->client_deadline_ns ? limit : run->client_deadline_ns;
	r = pod_run_prepare(run, err);
	pod_run_trace(run, "cgroup");
	if (r == 0) {
		r = workers_submit(run->server->workers, LANE_NET, cni_job, run);
		run->cni_begun = r == 0;
		if (r < 0)
			err_set_status(err, r, ERR_RESOURCE_EXHAUSTED,
				       "too many pods are being set up at once");
	}
	if (r == 0)
		r = boot(run, err);
	gate_leave(&run->server->boots);
	pod_run_trace(run, "boot");
	return r;
}
