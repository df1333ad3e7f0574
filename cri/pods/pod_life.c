/* SPDX-License-Identifier: Apache-2.0 */
/* A pod after its start: watching its VM, condemning it, stopping, removing. */
#include "cri/pods/container.h"
#include "cri/pods/pod.h"

#include "api/agent/agent.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/sandbox/clock.h"
#include "api/pb.h"
#include "vmm/death.h"

#include <sys/epoll.h>

#define STOP_NS		(10 * NS_PER_SEC)
#define DRAIN_NS	(5 * NS_PER_SEC)
#define CREATION_NS	(60 * NS_PER_SEC) /* for the host's part of a CreateContainer whose VM is dead */
#define HEALTH_EVERY_NS (10 * NS_PER_SEC)
#define CLOCK_EVERY	60		  /* looks at the agent: some ten minutes */
#define HEALTH_NS	(30 * NS_PER_SEC) /* an agent silent for longer counts as dead */
#define LOST_NS                                                                                              \
	(NS_PER_SEC / 4) /* from the end of a VM's sockets to that of its process, with room to spare */

/* ---- the VM's events ----------------------------------------------------------------------------------- */

static void on_vm_event(void *arg, int fd, uint32_t revents)
{
	struct pod *pod = arg;
	struct vm_event event;
	char why[256];

	(void)fd;
	(void)revents;
	while (vm_dispatch(pod->vm, &event) == 1) {
		if (!vm_event_is_death(&event))
			continue;
		vm_death_words(&event, why, sizeof(why));
		pod_condemn(pod, why);
		if (event.type ==
		    VM_EVENT_VMM_EXITED) { /* nothing more will come, and the fd may stay readable */
			pod->vm_source = loop_source_free(pod->vm_source);
			return;
		}
	}
}

/* ---- the agent's health -------------------------------------------------------------------------------- */

static void on_health_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct pod *pod = arg;
	const Crivisor__Agent__V1__InfoResponse *info = (const void *)msg;
	bool other_boot = false;
	char why[256];

	if (err) {
		snprintf(why, sizeof(why), "the guest's agent does not answer: %.180s", err->msg);
		pod_lost(pod, why);
	} else {
		pthread_mutex_lock(&pod->lock);
		other_boot = pod->state && !str_eq(pod->state->boot_id, info->boot_id);
		pthread_mutex_unlock(&pod->lock);
		if (other_boot)
			pod_condemn(pod, "the guest was reset");
		else if (pod->health)
			loop_timer_set(pod->health, now_monotonic_ns() + HEALTH_EVERY_NS);
	}
	pod_unref(pod);
}

static void clock_done(void *arg, bool again)
{
	struct pod *pod = arg;

	if (again)
		pod->looks = 0;
	pod_unref(pod);
}

static void on_health_timer(void *arg)
{
	struct pod *pod = arg;
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;

	pod_ref(pod);
	if (agent_call_async(pod->agent, &AGENT_INFO, &req.base, HEALTH_NS, on_health_reply, pod) < 0)
		pod_unref(pod);
	/* At the first look too: an adopted guest may have missed that the host's clock was set. */
	if (pod->looks++ % CLOCK_EVERY == 0)
		clock_sync(pod->agent, pod->id, clock_done, pod_ref(pod));
}

/* ---- the agent lost ------------------------------------------------------------------------------------ */

static void on_lost_timer(void *arg)
{
	struct pod *pod = arg;

	pod_condemn(pod, pod->lost_why);
}

void pod_lost(struct pod *pod, const char *why)
{
	if (!pod->lost) {
		pod_condemn(pod, why);
		return;
	}
	if (pod->lost_why[0])
		return;
	snprintf(pod->lost_why, sizeof(pod->lost_why), "%s", why);
	loop_timer_set(pod->lost, now_monotonic_ns() + LOST_NS);
}

/* ---- watching ------------------------------------------------------------------------------------------ */

struct on_loop {
	struct pod *pod;
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done;
	int code;
	struct err err;
	void (*fn)(struct on_loop *job);
};

static void run_on_loop(void *arg)
{
	struct on_loop *job = arg;

	job->fn(job);
	pthread_mutex_lock(&job->lock);
	job->done = true;
	pthread_cond_signal(&job->done_cond);
	pthread_mutex_unlock(&job->lock);
}

/* Runs fn on the loop's thread and waits for it; the loop never blocks, so this is short. */
static int call_on_loop(struct pod *pod, void (*fn)(struct on_loop *job), struct err *err)
{
	struct on_loop job = {.pod = pod, .err = ERR_INIT, .fn = fn};

	if (loop_on_thread(pod->server->loop)) {
		fn(&job);
	} else {
		pthread_mutex_init(&job.lock, NULL);
		pthread_cond_init(&job.done_cond, NULL);
		if (loop_post(pod->server->loop, run_on_loop, &job) < 0)
			return err_oom(err);
		pthread_mutex_lock(&job.lock);
		while (!job.done)
			pthread_cond_wait(&job.done_cond, &job.lock);
		pthread_mutex_unlock(&job.lock);
		pthread_cond_destroy(&job.done_cond);
		pthread_mutex_destroy(&job.lock);
	}
	return job.code < 0 ? err_copy(err, &job.err) : 0;
}

static void watch_on_loop(struct on_loop *job)
{
	struct pod *pod = job->pod;

	job->code = loop_add_fd(pod->server->loop, vm_fd(pod->vm), EPOLLIN, on_vm_event, pod, &pod->vm_source,
				&job->err);
	if (job->code == 0)
		job->code = loop_add_timer(pod->server->loop, now_monotonic_ns() + HEALTH_EVERY_NS,
					   on_health_timer, pod, &pod->health, &job->err);
	if (job->code == 0)
		job->code = loop_add_timer(pod->server->loop, INT64_MAX, on_lost_timer, pod, &pod->lost,
					   &job->err);
}

static void unwatch_on_loop(struct on_loop *job)
{
	job->pod->vm_source = loop_source_free(job->pod->vm_source);
	job->pod->health = loop_source_free(job->pod->health);
	job->pod->lost = loop_source_free(job->pod->lost);
}

int pod_watch(struct pod *pod, struct err *err)
{
	return call_on_loop(pod, watch_on_loop, err);
}

void pod_unwatch(struct pod *pod)
{
	call_on_loop(pod, unwatch_on_loop, NULL);
}

/* ---- death --------------------------------------------------------------------------------------------- */

static void condemned_job(void *arg)
{
	struct pod *pod = arg;
	struct err err = ERR_INIT;
	char why[256];

	pthread_mutex_lock(&pod->lock);
	snprintf(why, sizeof(why), "%s", pod->reason);
	pthread_mutex_unlock(&pod->lock);
	if (vm_stop(pod->vm, now_monotonic_ns() + STOP_NS, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "killing a dead pod's VM: %s", err.msg);
	pod_unwatch(pod);
	container_vm_died(pod, why);
	if (pod_store(pod, &err) < 0 && err.code != -ENOENT)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "storing a dead pod: %s", err.msg);
	pod_unref(pod);
}

void pod_condemn(struct pod *pod, const char *why)
{
	struct err err = ERR_INIT;
	bool first;

	pthread_mutex_lock(&pod->lock);
	first = !pod->dead && pod->state && pod->state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_READY;
	if (first) {
		pod->dead = true;
		snprintf(pod->reason, sizeof(pod->reason), "%s", why);
		pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_EXITED;
		(void)pb_set_text(&pod->state->reason, why);
		pthread_cond_broadcast(&pod->changed);
	}
	pthread_mutex_unlock(&pod->lock);
	if (!first)
		return;
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id), "pod is not ready: %s", why);
	err_set_status(&err, -ECONNRESET, ERR_UNAVAILABLE, "pod sandbox \"%s\" has died: %s", pod->id, why);
	agent_abort(pod->agent, &err);
	pod_ref(pod);
	/* Not the lane of the stops: they wait for what this job brings about. */
	if (workers_submit(pod->server->workers, LANE_NET, condemned_job, pod) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id),
			 "no thread to clean up a dead pod; StopPodSandbox will");
		pod_unref(pod);
	}
}

/* ---- stop and remove ----------------------------------------------------------------------------------- */

/* With the turn taken. Idempotent: what is undone leaves the journal. */
static int stop_steps(struct pod *pod, struct err *err)
{
	struct err gone = ERR_INIT;
	bool was_ready;
	int r;

	pthread_mutex_lock(&pod->lock);
	was_ready = pod->state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_READY && !pod->dead;
	pthread_mutex_unlock(&pod->lock);
	if (was_ready)
		container_kill_all(pod, now_monotonic_ns() + DRAIN_NS);
	pthread_mutex_lock(&pod->lock);
	pod->dead = true;
	pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_EXITED;
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
	if (pod->agent) {
		err_set_status(&gone, -ECONNRESET, ERR_UNAVAILABLE, "pod sandbox \"%s\" was stopped",
			       pod->id);
		agent_abort(pod->agent, &gone);
	}
	if (pod->vm) {
		pod_unwatch(pod);
		r = vm_stop(pod->vm, now_monotonic_ns() + STOP_NS, err);
		if (r < 0)
			return err_wrap(err, "stopping the VM of pod sandbox \"%s\"", pod->id);
	}
	container_vm_died(pod, "the pod was stopped");
	/* What they mount must be there to be unmounted; new ones find the pod dead. */
	r = container_wait_creations(pod, now_monotonic_ns() + CREATION_NS, err);
	if (r == 0)
		r = pod_store(pod, err);
	if (r == 0)
		r = journal_undo_owner(pod->server->store, pod->id, pod_undo, pod->server, err);
	return r < 0 ? err_wrap(err, "stopping pod sandbox \"%s\"", pod->id) : 0;
}

int pod_stop(struct server *server, const char *id, struct err *err)
{
	struct pod *pod CLEANUP_POD = NULL;
	int r = pod_find(server, id, &pod, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (pod_turn_take(pod, POD_OP_STOP) < 0)
		return 0;
	r = stop_steps(pod, err);
	pod_turn_give(pod);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->id), "pod is stopped");
	return r;
}

static int remove_steps(struct pod *pod, struct err *err)
{
	struct container **list;
	int r = stop_steps(pod, err);

	if (r == 0)
		r = container_list(pod->server, pod, &list, err);
	if (r < 0)
		return r;
	for (size_t i = 0; list[i] && r == 0; i++)
		r = container_remove(pod->server, list[i]->id, err);
	container_list_free(list);
	if (r == 0)
		r = pod_forget(pod, err);
	if (r < 0)
		return err_wrap(err, "removing pod sandbox \"%s\"", pod->id);
	pod_table_remove(pod);
	return 0;
}

int pod_remove(struct server *server, const char *id, struct err *err)
{
	struct pod *pod CLEANUP_POD = NULL;
	int r = pod_find(server, id, &pod, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (pod_turn_take(pod, POD_OP_REMOVE) < 0)
		return 0;
	r = remove_steps(pod, err);
	pod_turn_give(pod);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->id), "pod is removed");
	return r;
}
