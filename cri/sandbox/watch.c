/* SPDX-License-Identifier: Apache-2.0 */
/* What is watched of a ready sandbox on the loop's thread: its machine, its agent, its clock. */
#include "cri/sandbox/clock_internal.h"
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include "api/agent/agent.pb-c.h"

#include <inttypes.h>
#include <sys/epoll.h>

#define HEALTH_EVERY_NS (10 * NS_PER_SEC)
#define HEALTH_NS	(30 * NS_PER_SEC) /* an agent silent for longer counts as dead */
#define CLOCK_EVERY	60		  /* looks at the agent: some ten minutes */

/* ---- the machine --------------------------------------------------------------------------------------- */

static void on_machine(void *arg, int fd, uint32_t revents)
{
	struct sandbox *s = arg;
	struct sandbox_death death = {.status = -1};

	(void)fd;
	(void)revents;
	if (!s->driver->look(s, &death))
		return;
	/* Nothing more will come, and the fd may stay readable. */
	s->machine_source = loop_source_free(s->machine_source);
	sandbox_condemn_status(s, death.why, death.status);
}

/* ---- the clock ----------------------------------------------------------------------------------------- */

/* Carries a reference. */
static void clock_done(void *arg, bool again)
{
	struct sandbox *s = arg;

	if (again)
		atomic_store(&s->looks, 0); /* at the next look */
	sandbox_unref(s);
}

static void compare_clocks(struct sandbox *s)
{
	clock_sync(s->agent, s->id, clock_done, sandbox_ref(s));
}

/* ---- the agent ----------------------------------------------------------------------------------------- */

static void next_look(struct sandbox *s)
{
	int64_t every_ns = s->room->options.health_every_ns;

	if (s->health)
		loop_timer_set(s->health, now_monotonic_ns() + (every_ns > 0 ? every_ns : HEALTH_EVERY_NS));
}

/* Carries a reference. */
static void on_health_reply(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct sandbox *s = arg;
	struct err other = ERR_INIT;
	char why[SANDBOX_WHY_MAX];

	if (err && err->status != ERR_UNAVAILABLE && err->status != ERR_CANCELLED) {
		snprintf(why, sizeof(why), "the guest agent does not answer: %.180s", err->msg);
		sandbox_condemn(s, why);
	} else if (!err && agent_check_same(s->agent, msg, &other) < 0) {
		sandbox_condemn(s, other.msg);
	}
	/* A broken connection is the agent's to make anew. */
	next_look(s);
	sandbox_unref(s);
}

static void unwatch(struct sandbox *s);

static void on_health_timer(void *arg)
{
	struct sandbox *s = sandbox_ref(arg);
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	struct err over = ERR_INIT;

	if (sandbox_is_dead(s)) { /* the news of it could not be posted */
		sandbox_tell_death(s);
		unwatch(s);
	} else if (agent_state(s->agent, &over) < 0) {
		sandbox_condemn(s, over.msg);
		next_look(s);
	} else {
		/* At once for an adopted guest, which may have missed that the clock was set. */
		if (atomic_fetch_add(&s->looks, 1) % CLOCK_EVERY == 0)
			compare_clocks(s);
		if (agent_call_async(s->agent, &AGENT_INFO, &req.base, HEALTH_NS, on_health_reply,
				     sandbox_ref(s)) < 0) {
			sandbox_unref(s);
			next_look(s);
		}
	}
	sandbox_unref(s);
}

static void on_agent(void *arg, const struct err *over)
{
	struct sandbox *s = sandbox_ref(arg);

	if (over) {
		sandbox_condemn(s, over->msg);
	} else {
		/* A guest that comes back from a snapshot has the time of then. */
		compare_clocks(s);
		sandbox_tell_reconnected(s);
	}
	sandbox_unref(s);
}

/* ---- on and off ---------------------------------------------------------------------------------------- */

static void unwatch(struct sandbox *s)
{
	if (!s->watched)
		return;
	s->watched = false;
	s->machine_source = loop_source_free(s->machine_source);
	s->health = loop_source_free(s->health);
	follow_stop(s);
	agent_watch_remove(s->agent, &s->agent_watch);
	sandbox_unref(s);
}

/* Carries a reference, which becomes the watch's. */
static void watch_job(void *arg)
{
	struct sandbox *s = arg;
	struct loop *loop = s->room->options.loop;
	struct err err = ERR_INIT;
	int r = loop_add_timer(loop, now_monotonic_ns(), on_health_timer, s, &s->health, &err);

	s->watched = true;
	agent_watch_add(s->agent, &s->agent_watch, on_agent, s);
	if (r == 0)
		r = loop_add_fd(loop, s->driver->fd(s), EPOLLIN, on_machine, s, &s->machine_source, &err);
	if (r < 0)
		sandbox_condemn(s, err.msg);
	if (sandbox_is_dead(s))
		unwatch(s);
}

void sandbox_watch(struct sandbox *sandbox)
{
	sandbox_ref(sandbox);
	if (loop_post(sandbox->room->options.loop, watch_job, sandbox) == 0)
		return;
	sandbox_condemn(sandbox, "out of memory");
	sandbox_unref(sandbox);
}

static void unwatch_job(void *arg)
{
	sandbox_tell_death(arg);
	unwatch(arg);
	sandbox_unref(arg);
}

void sandbox_unwatch(struct sandbox *sandbox)
{
	sandbox_ref(sandbox);
	if (loop_post(sandbox->room->options.loop, unwatch_job, sandbox) < 0) /* the next look does it */
		sandbox_unref(sandbox);
}
