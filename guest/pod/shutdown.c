/* SPDX-License-Identifier: Apache-2.0 */
/* The orderly end: containers, share, power. */
#include "guest/pod/methods_internal.h"

#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/container/ctr_internal.h"
#include "guest/container/cgroup.h"
#include "guest/init/init_internal.h"
#include "guest/rpc/server.h"

#include <signal.h>

#define GRACE_NS (3 * NS_PER_SEC)

static struct {
	struct agent *agent;
	struct loop_task task;
	struct loop_timer deadline;
} down;

static bool all_stopped(const struct agent *agent)
{
	for (const struct ctr *c = agent->ctrs; c; c = c->next) {
		if (c->init.pid > 0 && c->init.state != PROC_STOPPED)
			return false;
	}
	return true;
}

static void off(void *arg)
{
	struct agent *agent = arg;

	server_flush(agent->server, now_monotonic_ns() + NS_PER_SEC / 2);
	log_info("power off");
	init_power_off();
}

/* Runs after every round while containers die. */
static void watch(void *arg)
{
	struct agent *agent = arg;

	if (all_stopped(agent))
		off(agent);
}

static void begin(void *arg)
{
	struct agent *agent = arg;

	(void)cgroup_kill(agent->cgroup2, GUEST_CGROUP_PARENT, NULL);
	for (struct ctr *c = agent->ctrs; c; c = c->next) {
		if (c->init.state != PROC_STOPPED)
			(void)ctr_kill_all(c, SIGKILL, NULL);
	}
	loop_timer_set(agent->loop, &down.deadline, now_monotonic_ns() + GRACE_NS, off, agent);
	watch(agent);
}

void shutdown_begin(struct agent *agent, const char *why)
{
	if (agent->shutting_down)
		return;
	agent->shutting_down = true;
	down.agent = agent;
	log_info("shutting down: %s", why);
	loop_later(agent->loop, &down.task, begin, agent);
}

void shutdown_poll(struct agent *agent)
{
	if (agent->shutting_down && loop_timer_armed(&down.deadline))
		watch(agent);
}
