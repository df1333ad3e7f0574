/* SPDX-License-Identifier: Apache-2.0 */
/*
 * StopContainer: a signal, a timer, SIGKILL. It lives on the loop and holds no thread, however long its grace
 * period; those who call again while it runs join it and may shorten it. It ends with the container's exit.
 */
#include "cri/pods/pods_internal.h"

#include "base/cond.h"
#include "base/log.h"
#include "cri/agent/agent.h"

#include <signal.h>
#include <utlist.h>

#define KILL_NS	    (10 * NS_PER_SEC) /* a guest that cannot end a process by SIGKILL in this time hangs */
#define DRAIN_NS    (25 * NS_PER_SEC) /* at most, from the end of a process until its exit is known */
#define ADOPTION_NS (500 * NS_PER_MS) /* to the next look at a pod that is being adopted */
#define AGAIN_NS    (100 * NS_PER_MS) /* to the next try of a signal that there was no memory to send */

static void on_timer(void *arg);

/* ---- on the loop --------------------------------------------------------------------------------------- */

static bool in_progress(struct container *c)
{
	bool yes;

	pthread_mutex_lock(&c->pod->lock);
	yes = c->stopping != NULL;
	pthread_mutex_unlock(&c->pod->lock);
	return yes;
}

static void fail(struct container *c, const struct err *why)
{
	c->stop.stage = STOP_BEGINS;
	work_end(&c->pod->lock, &c->stopping, why);
}

static void disarm(struct container *c)
{
	if (!c->stop.timer)
		return;
	c->stop.timer = loop_source_free(c->stop.timer);
	DL_DELETE2(c->pods->timed, c, stop.prev, stop.next);
	object_unref(&c->object); /* the caller holds another */
}

/* False: out of memory, and the stop has failed. */
static bool arm(struct container *c, enum stop_stage stage, int64_t when_ns)
{
	struct err err = ERR_INIT;

	c->stop.stage = stage;
	if (c->stop.timer) {
		loop_timer_set(c->stop.timer, when_ns);
		return true;
	}
	if (loop_add_timer(c->pods->parts.loop, when_ns, on_timer, c, &c->stop.timer, &err) < 0) {
		fail(c, &err);
		return false;
	}
	DL_APPEND2(c->pods->timed, c, stop.prev, stop.next);
	object_ref(&c->object);
	return true;
}

/* The guest's answer says little: "not found" and "already ended" mean that the exit is on its way. */
static void on_killed(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct container *c = arg;

	(void)err;
	(void)msg;
	object_unref(&c->object);
}

static void send_kill(struct container *c)
{
	struct agent *agent;
	int r = pod_agent(c->pod, &agent, NULL);

	if (!arm(c, STOP_KILLED, now_monotonic_ns() + KILL_NS))
		return;
	object_ref(&c->object);
	if (r == 0)
		r = guest_kill_async(agent, c->object.id, "", SIGKILL, true, on_killed, c);
	if (r == 0)
		return;
	if (r == -ENOMEM) /* the guest is not to blame */
		(void)arm(c, STOP_SIGNALLED, now_monotonic_ns() + AGAIN_NS);
	object_unref(&c->object); /* else its sandbox is dying, or the timer condemns it */
}

/*
 * If the signal could not be sent, there is no grace period. Where only its answer did not fit into memory,
 * it was sent.
 */
static void on_signalled(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct container *c = arg;

	(void)msg;
	if (err && err->code != -ENOMEM && in_progress(c) && c->stop.stage == STOP_SIGNALLED)
		send_kill(c);
	object_unref(&c->object);
}

static void send_signal(struct container *c, int64_t kill_at_ns)
{
	uint32_t signo = c->state->stop_signal ? c->state->stop_signal : SIGTERM;
	struct agent *agent;
	int r = pod_agent(c->pod, &agent, NULL);

	if (!arm(c, STOP_SIGNALLED, kill_at_ns))
		return;
	object_ref(&c->object);
	if (r == 0)
		r = guest_kill_async(agent, c->object.id, "", signo, false, on_signalled, c);
	if (r == 0)
		return;
	if (r == -ENOMEM)
		(void)arm(c, STOP_BEGINS, now_monotonic_ns() + AGAIN_NS);
	else
		send_kill(c);
	object_unref(&c->object);
}

/* With a signal, if there is time left between it and SIGKILL. */
static void begin(struct container *c)
{
	int64_t kill_at_ns;

	pthread_mutex_lock(&c->pod->lock);
	kill_at_ns = c->kill_at_ns;
	pthread_mutex_unlock(&c->pod->lock);
	/*
	 * Its guest cannot be reached yet, which is not the guest's fault: a pod that is adopted slowly lives
	 * on.
	 */
	if (pod_is_adopted_now(c->pod))
		(void)arm(c, STOP_BEGINS, now_monotonic_ns() + ADOPTION_NS);
	else if (kill_at_ns > now_monotonic_ns())
		send_signal(c, kill_at_ns);
	else
		send_kill(c);
}

/* Not ended by SIGKILL: by its log's completion, by its sandbox's death, or not at all. */
static void insist(struct container *c)
{
	struct err err = ERR_INIT;
	char why[SANDBOX_WHY_MAX];
	bool ending;

	pthread_mutex_lock(&c->pod->lock);
	ending = c->ending;
	pthread_mutex_unlock(&c->pod->lock);
	if (ending && c->stop.stage == STOP_KILLED) {
		(void)arm(c, STOP_DRAINS, now_monotonic_ns() + DRAIN_NS);
	} else if (c->stop.stage != STOP_CONDEMNED) {
		snprintf(why, sizeof(why), "the guest did not end container %.13s within 10 s of SIGKILL",
			 c->object.id);
		(void)arm(c, STOP_CONDEMNED, now_monotonic_ns() + KILL_NS);
		sandbox_condemn(c->pod->sandbox, why);
	} else {
		err_set(&err, -ETIMEDOUT, "container \"%s\" could not be killed", c->object.id);
		disarm(c);
		fail(c, &err);
	}
}

static void on_timer(void *arg)
{
	struct container *c = arg;

	object_ref(&c->object);
	if (!in_progress(c))
		disarm(c);
	else if (c->stop.stage == STOP_BEGINS)
		begin(c);
	else if (c->stop.stage == STOP_SIGNALLED)
		send_kill(c);
	else
		insist(c);
	object_unref(&c->object);
}

static void advance(void *arg);

/* The start that this stop waited for has ended. Carries a reference. */
static void on_started(void *arg, const struct err *err)
{
	struct container *c = arg;

	(void)err;
	if (loop_post(c->pods->parts.loop, advance, c) < 0) {
		struct err oom = ERR_INIT;

		err_oom(&oom);
		work_end(&c->pod->lock, &c->stopping, &oom);
		object_unref(&c->object);
	}
}

/* Begins the stop, shortens it, or takes its timer away when it is over. Carries a reference. */
static void advance(void *arg)
{
	struct container *c = arg;
	struct outcome *starting CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	int64_t kill_at_ns;
	bool running;

	pthread_mutex_lock(&c->pod->lock);
	starting = outcome_ref(c->starting);
	kill_at_ns = c->kill_at_ns;
	pthread_mutex_unlock(&c->pod->lock);
	running = container_state(c) == CONTAINER_RUNNING;
	if (!in_progress(c)) {
		disarm(c);
		c->stop.stage = STOP_BEGINS;
	} else if (starting && !outcome_known(starting)) {
		if (outcome_watch(starting, NULL, on_started, c, &err) == 0)
			return; /* with the reference */
		fail(c, &err);
	} else if (!running) {
		disarm(c);
		fail(c, NULL);
	} else if (c->stop.stage == STOP_BEGINS) {
		begin(c);
	} else if (c->stop.stage == STOP_SIGNALLED) {
		(void)arm(c, STOP_SIGNALLED, kill_at_ns);
	}
	object_unref(&c->object);
}

/* ---- from any thread ----------------------------------------------------------------------------------- */

int container_stop_begin(struct container *container, int64_t kill_at_ns, struct outcome **ret_outcome,
			 struct err *err)
{
	struct container *c = container;
	bool begin = false, changed;
	int64_t left;
	int r = 0;

	*ret_outcome = NULL;
	pthread_mutex_lock(&c->pod->lock);
	if (!c->gone &&
	    (c->starting || c->state->state == CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING))
		r = work_join(&c->stopping, ret_outcome, &begin, err);
	changed = *ret_outcome && (begin || kill_at_ns < c->kill_at_ns);
	left = kill_at_ns - now_monotonic_ns();
	if (changed) {
		c->kill_at_ns = kill_at_ns;
		c->state->kill_at = left > 0 ? now_realtime_ns() + left : 0;
	}
	pthread_mutex_unlock(&c->pod->lock);
	if (!changed)
		return r;
	/* So that a later server keeps to it. Where it cannot be stored, the client's next stop has to do. */
	if (left > 0)
		(void)container_store(c, NULL);
	object_ref(&c->object);
	if (loop_post(c->pods->parts.loop, advance, c) == 0)
		return 0;
	object_unref(&c->object);
	err_oom(err);
	if (begin)
		work_end(&c->pod->lock, &c->stopping, err);
	*ret_outcome = outcome_unref(*ret_outcome);
	return -ENOMEM;
}

void container_stop_resume(struct container *container)
{
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	int64_t kill_at, left;

	pthread_mutex_lock(&container->pod->lock);
	kill_at = container->state->kill_at;
	pthread_mutex_unlock(&container->pod->lock);
	if (kill_at == 0)
		return;
	left = kill_at - now_realtime_ns();
	if (container_stop_begin(container, left > 0 ? now_monotonic_ns() + left : 0, &outcome, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", container->object.id),
			 "going on with its stop: %s", err.msg);
}

void container_stop_forget(struct container *container)
{
	struct err err = ERR_INIT;

	disarm(container);
	if (!in_progress(container))
		return;
	err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is being stopped");
	fail(container, &err);
}

void container_stops_forget(struct pods *pods)
{
	while (pods->timed)
		disarm(pods->timed);
}

void container_stop_over(struct container *container)
{
	bool was;

	pthread_mutex_lock(&container->pod->lock);
	was = container->stopping != NULL;
	pthread_mutex_unlock(&container->pod->lock);
	if (!was)
		return;
	work_end(&container->pod->lock, &container->stopping, NULL);
	/* The timer goes, or does so by itself when it is due. */
	object_ref(&container->object);
	if (loop_post(container->pods->parts.loop, advance, container) < 0)
		object_unref(&container->object);
}

static void stop_again(struct pods *pods, const struct pod_later *later)
{
	containers_stop(pods, later->id, later->timeout_s, later->call, later->done, later->arg);
}

void containers_stop(struct pods *pods, const char *id, int64_t timeout_s, struct call *call,
		     pods_done_fn *done, void *arg)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct outcome *outcome CLEANUP_OUTCOME = NULL;
	struct err err = ERR_INIT;
	int64_t grace_s = timeout_s < 0 ? 0 : timeout_s > INT32_MAX ? INT32_MAX : timeout_s;
	int r = container_find(pods, id, &c, &err);

	if (r == 0 && container_later(c, &(struct pod_later){.again = stop_again,
							     .timeout_s = timeout_s,
							     .call = call,
							     .done = done,
							     .arg = arg}))
		return;
	if (r == 0)
		r = container_stop_begin(c, now_monotonic_ns() + grace_s * NS_PER_SEC, &outcome, &err);
	if (r < 0 || !outcome)
		work_done(done, arg, id, r < 0 && r != -ENOENT ? &err : NULL);
	else
		(void)work_answer(object_ref(&c->object), outcome, false, call, done, arg);
}

/* True once it has stopped running. */
static bool wait_exit(struct container *c, int64_t deadline_ns)
{
	int r = 0;

	pthread_mutex_lock(&c->pod->lock);
	while (r == 0 && !c->gone &&
	       c->state->state == CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING)
		r = cond_wait_until(&c->pod->changed, &c->pod->lock, deadline_ns);
	pthread_mutex_unlock(&c->pod->lock);
	return r == 0;
}

int container_kill_all(struct pod *pod, int64_t deadline_ns, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct agent *agent;

	int r = container_list(pod->pods, pod, false, &list, err);

	if (r < 0)
		return r;
	if (pod_agent(pod, &agent, NULL) < 0)
		return 0;
	/* All at once: a guest that is slow to answer for one holds up no other. */
	for (size_t i = 0; list[i]; i++) {
		struct outcome *outcome CLEANUP_OUTCOME = NULL;
		struct err ignored = ERR_INIT; /* what lives on ends with the sandbox */

		(void)container_stop_begin(container_of(list[i]), 0, &outcome, &ignored);
	}
	for (size_t i = 0; list[i]; i++)
		(void)wait_exit(container_of(list[i]), deadline_ns);
	return 0;
}
