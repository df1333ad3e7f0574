/* SPDX-License-Identifier: Apache-2.0 */
/* The orderly end: containers, file systems, then the place itself (pod.h). */
#include "guest/pod/pod.h"

#include "api/agent/agent.pb-c.h"
#include "base/log.h"
#include "guest/container/container.h"
#include "guest/container/share.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"
#include "guest/core/spawn.h"
#include "guest/pod/methods_internal.h"
#include "guest/rpc/request.h"
#include "guest/rpc/server.h"

#include <signal.h>

#define FLUSH_NS  NS_PER_SEC
#define SLOTS_MAX 16 /* callers of Agent.Shutdown that wait at once */

enum phase {
	IDLE,
	KILLING,   /* containers end */
	QUIETING,  /* virtiofs answers what is in flight */
	RELEASING, /* the child unmounts and syncs */
	ENDING,
};

/* One in a process: it ends once. */
static struct {
	struct agent *agent;
	enum phase phase;
	int64_t begin_ns, deadline_ns;
	struct loop_task start, end;
	struct loop_timer deadline, patience; /* patience: for containers that do not end */
	struct share_wait share;
	pid_t child;
	struct reap_watch child_watch;
	bool synced, unmounted;
	struct rpc_slot slots[SLOTS_MAX];
} down;

static void answer(struct rpc_slot *slot)
{
	Crivisor__Agent__V1__ShutdownResponse resp = CRIVISOR__AGENT__V1__SHUTDOWN_RESPONSE__INIT;

	resp.synced = down.synced;
	resp.unmounted = down.unmounted;
	resp.containers_left = containers_running(down.agent);
	rpc_slot_reply(slot, &resp.base);
}

/* ---- the last step ------------------------------------------------------------------------------------ */

static void on_end(void *arg)
{
	struct agent *agent = arg;

	server_flush(agent->server, now_monotonic_ns() + FLUSH_NS);
	down.phase = IDLE;
	agent->ops->end(agent);
}

static void finish(void)
{
	if (down.phase == ENDING)
		return;
	down.phase = ENDING;
	reap_after(NULL, NULL);
	loop_timer_clear(&down.deadline);
	loop_timer_clear(&down.patience);
	share_wait_clear(&down.share);
	reap_unwatch(&down.child_watch);
	if (down.child > 0)
		kill(down.child, SIGKILL);
	log_info("shut down in %lld ms: %u containers left, file systems %s%s",
		 (long long)((now_monotonic_ns() - down.begin_ns) / NS_PER_MS),
		 containers_running(down.agent), down.synced ? "synced" : "NOT synced",
		 down.unmounted ? " and unmounted" : "");
	for (size_t i = 0; i < SLOTS_MAX; i++)
		answer(&down.slots[i]);
	loop_later(down.agent->loop, &down.end, on_end, down.agent);
}

static void on_deadline(void *arg)
{
	(void)arg;
	finish();
}

/* ---- file systems ------------------------------------------------------------------------------------- */

static void on_released(void *arg, pid_t pid, int status, int64_t at_ns)
{
	(void)arg;
	(void)pid;
	(void)at_ns;
	down.child = 0;
	down.synced = status == 0 || status == AGENT_RELEASE_BUSY;
	down.unmounted = status == 0;
	finish();
}

static int run_release(void *arg)
{
	struct agent *agent = arg;

	return agent->ops->release(agent);
}

static void release(void)
{
	struct err err = ERR_INIT;

	down.phase = RELEASING;
	down.child = spawn_fn(run_release, down.agent, &err);
	if (down.child < 0) {
		log_error("%s", err.msg);
		finish();
		return;
	}
	reap_watch(&down.child_watch, down.child, UINT64_MAX, on_released, NULL);
}

static void on_flight(void *arg, enum share_flight flight)
{
	(void)arg;
	if (flight == SHARE_HUNG) {
		log_error("virtiofsd does not answer: nothing is unmounted");
		finish();
		return;
	}
	containers_release_mounts(down.agent);
	release();
}

static void quiet(void)
{
	down.phase = QUIETING;
	loop_timer_clear(&down.patience);
	share_wait(down.agent, &down.share, on_flight, NULL);
}

/* ---- containers --------------------------------------------------------------------------------------- */

/* Runs after every reaping while containers die. */
static void watch(void *arg)
{
	(void)arg;
	if (down.phase == KILLING && containers_running(down.agent) == 0)
		quiet();
}

static void on_patience(void *arg)
{
	(void)arg;
	if (down.phase != KILLING)
		return;
	log_warn("%u containers have not ended", containers_running(down.agent));
	quiet();
}

static void set_timers(void)
{
	int64_t now = now_monotonic_ns();
	int64_t left = down.deadline_ns > now ? down.deadline_ns - now : 0;

	loop_timer_set(down.agent->loop, &down.deadline, down.deadline_ns, on_deadline, NULL);
	if (down.phase == KILLING)
		loop_timer_set(down.agent->loop, &down.patience, now + left / 2, on_patience, NULL);
}

static void start(void *arg)
{
	(void)arg;
	if (down.phase != KILLING)
		return;
	reap_after(watch, NULL);
	containers_kill(down.agent);
	watch(NULL);
}

static void begin(struct agent *agent, int64_t timeout_ns, const char *why)
{
	int64_t deadline_ns = now_monotonic_ns() + timeout_ns;

	if (down.phase != IDLE) {
		if (down.phase != ENDING && deadline_ns < down.deadline_ns) {
			down.deadline_ns = deadline_ns;
			set_timers();
		}
		return;
	}
	agent->shutting_down = true;
	down.agent = agent;
	down.phase = KILLING;
	down.synced = down.unmounted = false;
	down.begin_ns = now_monotonic_ns();
	down.deadline_ns = deadline_ns;
	log_info("shutting down within %lld ms: %s", (long long)(timeout_ns / NS_PER_MS), why);
	set_timers();
	loop_later(agent->loop, &down.start, start, NULL);
}

void pod_shutdown(struct agent *agent, const char *why)
{
	begin(agent, SHUTDOWN_DEFAULT_NS, why);
}

static struct rpc_slot *free_slot(void)
{
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		if (!down.slots[i].req)
			return &down.slots[i];
	}
	return NULL;
}

void shutdown_request(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__ShutdownRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__shutdown_request__descriptor, payload, len);
	struct rpc_slot *slot = free_slot();
	int64_t timeout_ns = SHUTDOWN_DEFAULT_NS;
	struct err err;

	if (!m)
		return;
	if (!slot) {
		err_set_status(&err, -EBUSY, ERR_RESOURCE_EXHAUSTED, "%d calls wait for the shutdown already",
			       SLOTS_MAX);
		ttrpc_fail(req, &err);
		return;
	}
	if (m->timeout_ns > 0)
		timeout_ns = m->timeout_ns < SHUTDOWN_MAX_NS ? (int64_t)m->timeout_ns : SHUTDOWN_MAX_NS;
	rpc_slot_take(slot, req, NULL, NULL);
	begin(service_ctx, timeout_ns, "Agent.Shutdown");
	if (down.phase == ENDING)
		answer(slot);
}
