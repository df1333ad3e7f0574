/* The orderly end: containers, share, power. */
#include "guest/pod/services.h"

#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/container/ctr.h"
#include "guest/container/cgroup.h"
#include "guest/init/init.h"
#include "guest/rpc/server.h"

#include <signal.h>

#define GRACE_NS (3 * NS_PER_SEC)

static struct {
	struct guest *g;
	struct eloop_task task;
	struct eloop_timer deadline;
} down;

static bool all_stopped(const struct guest *g)
{
	for (const struct ctr *c = g->ctrs; c; c = c->next) {
		if (c->init.pid > 0 && c->init.state != PROC_STOPPED)
			return false;
	}
	return true;
}

static void off(void *arg)
{
	struct guest *g = arg;

	gserver_flush(g->server, now_monotonic_ns() + NS_PER_SEC / 2);
	log_info("power off");
	ginit_power_off();
}

/* Runs after every round while containers die. */
static void watch(void *arg)
{
	struct guest *g = arg;

	if (all_stopped(g))
		off(g);
}

static void begin(void *arg)
{
	struct guest *g = arg;

	(void)gcgroup_kill(g->cgroup2, GUEST_CGROUP_PARENT, NULL);
	for (struct ctr *c = g->ctrs; c; c = c->next) {
		if (c->init.state != PROC_STOPPED)
			(void)ctr_kill_all(c, SIGKILL, NULL);
	}
	eloop_timer_set(g->loop, &down.deadline, now_monotonic_ns() + GRACE_NS, off, g);
	watch(g);
}

void gshutdown_begin(struct guest *g, const char *why)
{
	if (g->shutting_down)
		return;
	g->shutting_down = true;
	down.g = g;
	log_info("shutting down: %s", why);
	eloop_later(g->loop, &down.task, begin, g);
}

void gshutdown_poll(struct guest *g)
{
	if (g->shutting_down && eloop_timer_armed(&down.deadline))
		watch(g);
}
