/* SPDX-License-Identifier: Apache-2.0 */
/* StopPodSandbox and RemovePodSandbox: jobs, which those who call again while they run join. */
#include "cri/pods/pods_internal.h"

#include "base/log.h"

#define DRAIN_NS    (5 * NS_PER_SEC)  /* for the exits of killed containers and the rest of their logs */
#define SHUTDOWN_NS (10 * NS_PER_SEC) /* for the guest to write what it holds */
#define KILL_NS	    (10 * NS_PER_SEC)

/* With the turn taken. Idempotent: what is undone leaves the journal. */
static int stop_steps(struct pod *pod, struct call *call, struct err *err)
{
	struct pods *pods = pod->pods;
	bool was_ready = pod_is_ready(pod);
	int r = was_ready ? container_kill_all(pod, now_monotonic_ns() + DRAIN_NS, err) : 0;

	if (r < 0)
		return err_wrap(err, "ending the containers of pod sandbox \"%s\"", pod->object.id);
	if (pod_end(pod, ""))
		pod_tell(pod, POD_IS_NOT_READY);
	if (was_ready)
		r = sandbox_shutdown(pod->sandbox, call, now_monotonic_ns() + SHUTDOWN_NS, NULL, err);
	else
		r = sandbox_kill(pod->sandbox, "the pod is being stopped", now_monotonic_ns() + KILL_NS, err);
	if (r < 0)
		return err_wrap(err, "ending the sandbox of pod sandbox \"%s\"", pod->object.id);
	container_sandbox_died(pod, "the pod was stopped");
	/* What they mount must be there to be unmounted; new ones find the pod not ready. */
	r = container_wait_creations(pod, call, err);
	if (r == 0)
		r = pod_store(pod, err);
	if (r == 0)
		r = pod_undo_all(pods, pod->object.id, sandbox_id(pod->sandbox), err);
	return r < 0 ? err_wrap(err, "stopping pod sandbox \"%s\"", pod->object.id) : 0;
}

static int remove_steps(struct pod *pod, struct call *call, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	int r = stop_steps(pod, call, err);

	if (r == 0)
		r = container_list(pod->pods, pod, true, &list, err);
	for (size_t i = 0; r == 0 && list[i]; i++)
		r = container_remove_now(container_of(list[i]), call, err);
	if (r == 0)
		r = pod_forget(pod, err);
	if (r < 0)
		return err_wrap(err, "removing pod sandbox \"%s\"", pod->object.id);
	pod_unhook(pod);
	object_remove(&pod->object);
	pod_tell(pod, POD_IS_REMOVED);
	return 0;
}

static int stop_now(struct pod *pod, struct call *call, struct err *err)
{
	int r = pod_turn_take(pod, WORK_STOP, call, err);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = stop_steps(pod, call, err);
	pod_turn_give(pod);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->object.id), "pod is stopped");
	return r;
}

/* On the caller's thread. Idempotent. */
static int pod_remove_now(struct pod *pod, struct call *call, struct err *err)
{
	int r = pod_turn_take(pod, WORK_REMOVE, call, err);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = remove_steps(pod, call, err);
	pod_turn_give(pod);
	if (r == 0)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->object.id), "pod is removed");
	return r;
}

/* ---- jobs ---------------------------------------------------------------------------------------------- */

typedef int end_fn(struct pod *pod, struct call *call, struct err *err);

static void end_job(struct pod *pod, struct outcome **slot, end_fn *end)
{
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int r = call_new(now_monotonic_ns() + TURN_NS, &call, &err);

	if (r == 0)
		r = end(pod, call, &err);
	work_end(&pod->lock, slot, r < 0 ? &err : NULL);
	object_unref(&pod->object);
}

static void stop_job(void *arg)
{
	struct pod *pod = arg;

	end_job(pod, &pod->stopping, stop_now);
}

static void remove_job(void *arg)
{
	struct pod *pod = arg;

	end_job(pod, &pod->removing, pod_remove_now);
}

static void end_pod(struct pod *pod, struct outcome **slot, void (*job)(void *arg), struct call *call,
		    pods_done_fn *done, void *arg)
{
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	bool begin = false;
	int r;

	pthread_mutex_lock(&pod->lock);
	r = work_join(slot, &outcome, &begin, &err);
	pthread_mutex_unlock(&pod->lock);
	if (r < 0) {
		work_done(done, arg, pod->object.id, &err);
		object_unref(&pod->object);
		return;
	}
	(void)work_begin(&(struct work_slot){.object = &pod->object,
					     .outcome = outcome,
					     .is_new = begin,
					     .lock = &pod->lock,
					     .slot = slot,
					     .workers = pod->pods->parts.workers,
					     .lane = LANE_STOP,
					     .job = job,
					     .verb = "stopped"},
			 call, done, arg);
	object_unref(&pod->object);
}

/* 0, or 1 if the call is answered. */
static int find(struct pods *pods, const char *id, struct pod **ret_pod, pods_done_fn *done, void *arg)
{
	struct err err = ERR_INIT;
	int r = pod_find(pods, id, ret_pod, &err);

	if (r == 0)
		return 0;
	work_done(done, arg, id, r == -ENOENT ? NULL : &err);
	return 1;
}

static void stop_again(struct pods *pods, const struct pod_later *later)
{
	pods_stop(pods, later->id, later->call, later->done, later->arg);
}

static void remove_again(struct pods *pods, const struct pod_later *later)
{
	pods_remove(pods, later->id, later->call, later->done, later->arg);
}

/* True if the call waits for the pod's adoption; its reference is dropped then. */
static bool is_later(struct pod *pod, void (*again)(struct pods *pods, const struct pod_later *later),
		     struct call *call, pods_done_fn *done, void *arg)
{
	struct pod_later later = {.again = again, .call = call, .done = done, .arg = arg};
	bool is;

	memcpy(later.id, pod->object.id, sizeof(later.id));
	is = pod_later(pod, &later);
	if (is)
		object_unref(&pod->object);
	return is;
}

void pods_stop(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg)
{
	struct pod *pod;

	if (find(pods, id, &pod, done, arg) != 0 || is_later(pod, stop_again, call, done, arg))
		return;
	object_claim(&pod->object);
	end_pod(pod, &pod->stopping, stop_job, call, done, arg);
}

void pods_remove(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg)
{
	struct pod *pod;

	if (find(pods, id, &pod, done, arg) == 0 && !is_later(pod, remove_again, call, done, arg))
		end_pod(pod, &pod->removing, remove_job, call, done, arg);
}
