/* SPDX-License-Identifier: Apache-2.0 */
/* From nothing, or from a saved one, to a sandbox whose agent answers. */
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include "base/log.h"

#define BOOT_NS (90 * NS_PER_SEC)
/* As long as a health check waits: a busy guest must survive a restart of the server. */
#define ADOPT_NS    (30 * NS_PER_SEC)
#define NAME_PREFIX "crivisor-"

/*
 * "<parent>/crivisor-<id>": cut short it would name another's cgroup, whose processes the removal would kill.
 */
static int name_cgroup(struct sandbox *s, const char *parent, struct err *err)
{
	int len;

	if (str_empty(parent) || parent[0] != '/' || strstr(parent, "/../") || str_ends(parent, "/.."))
		return err_set(err, -EINVAL,
			       "cgroup_parent \"%s\" is not an absolute path of the cgroupfs driver",
			       parent ? parent : "");
	len = snprintf(s->cgroup, sizeof(s->cgroup), "%s%s" NAME_PREFIX "%s", parent,
		       str_ends(parent, "/") ? "" : "/", s->id);
	if (len >= (int)sizeof(s->cgroup))
		return err_set(err, -EINVAL, "cgroup_parent is longer than %zu bytes",
			       sizeof(s->cgroup) - sizeof("/" NAME_PREFIX) - SANDBOX_ID_MAX);
	return 0;
}

/* ---- the agent ----------------------------------------------------------------------------------------- */

static void release_machine(void *arg)
{
	sandbox_machine_unref(arg);
}

/* Reaches an agent of the machine; boot_id NULL: of any boot. */
static int sandbox_reach(struct sandbox *sandbox, struct call *call, const char *boot_id, int64_t deadline_ns,
			 struct err *err)
{
	const struct agent_options options = {.loop = sandbox->room->options.loop,
					      .workers = sandbox->room->options.workers,
					      .dial = sandbox->driver->dial,
					      .release = release_machine,
					      .arg = sandbox->machine,
					      .boot_id = boot_id};
	struct agent *agent = NULL;
	bool dead;
	int r = agent_new(&options, &agent, err);

	if (r < 0)
		return r;
	sandbox_machine_ref(sandbox->machine);
	pthread_mutex_lock(&sandbox->lock);
	sandbox->agent = agent;
	dead = sandbox->state == SANDBOX_DEAD;
	pthread_mutex_unlock(&sandbox->lock);
	return dead ? err_set(err, -ECANCELED, "it was ended meanwhile")
		    : agent_connect(agent, call, deadline_ns, err);
}

/* Drops the agent that did not come up; others may still hold references. */
static void put_agent_aside(struct sandbox *s)
{
	struct err gone = ERR_INIT;

	err_set(&gone, -ECONNRESET, "the VM ended");
	pthread_mutex_lock(&s->lock);
	if (s->agent)
		agent_abort(s->agent, &gone);
	s->dead_agent = move_ptr(s->agent);
	pthread_mutex_unlock(&s->lock);
}

/* ---- booting ------------------------------------------------------------------------------------------- */

static int start_and_reach(struct sandbox *s, struct call *call, const struct sandbox_spec *spec,
			   int64_t deadline_ns, struct err *err)
{
	int r = s->driver->start(s, spec, deadline_ns, err);

	call_step(call, "start VM");
	if (r < 0)
		return r;
	r = sandbox_reach(s, call, NULL, deadline_ns, err);
	return r < 0 ? s->driver->explain(s, err) : 0;
}

/*
 * On a host short of CPU a guest sometimes dies before its console exists (seen about once in a hundred boots
 * with QEMU's emulation under heavy load); such a one is started once more, and the log says so.
 */
static int start_twice(struct sandbox *s, struct call *call, const struct sandbox_spec *spec,
		       int64_t deadline_ns, struct err *err)
{
	struct err first = ERR_INIT;
	int r = start_and_reach(s, call, spec, deadline_ns, &first);

	if (r == 0)
		return 0;
	if (first.status == ERR_DEADLINE_EXCEEDED || now_monotonic_ns() >= deadline_ns ||
	    sandbox_is_dead(s) || call_check(call, NULL) < 0 || !s->driver->start_again(s))
		return err_copy(err, &first);
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", s->id),
		 "the VM died before its kernel wrote anything; starting it once more: %s", first.msg);
	put_agent_aside(s);
	r = start_and_reach(s, call, spec, deadline_ns, err);
	return r < 0 ? err_wrap(err, "on the second try") : 0;
}

/*
 * From the first thing that is made until the agent has answered: what keeps the host's CPUs busy, and so
 * behind the gate.
 */
static int boot_steps(struct sandbox *s, struct call *call, const struct sandbox_spec *spec, struct err *err)
{
	int64_t deadline_ns;
	int r = gate_enter(&s->room->gate, call, err);

	if (r < 0)
		return err_wrap(err, "waiting for a boot slot");
	call_step(call, "turn");
	/* Time spent queued does not count against the boot's own limit. */
	deadline_ns = call_until(call, BOOT_NS);
	r = s->driver->prepare(s, spec, call, err);
	if (r == 0 && spec->network)
		r = spec->network(spec->network_arg, s->netns, err);
	if (r == 0)
		r = start_twice(s, call, spec, deadline_ns, err);
	gate_leave(&s->room->gate);
	call_step(call, "boot");
	return r;
}

/* A hook of the call. Its words go into the error of the boot. */
static void on_cancel(void *arg)
{
	sandbox_condemn(arg, "its creation was given up");
}

static int become(struct sandbox *s, enum sandbox_state from, enum sandbox_state to, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->state == from)
		s->state = to;
	else if (s->state == SANDBOX_DEAD)
		r = err_set(err, -ECANCELED, "%s", s->why);
	else
		r = err_set(err, -EBUSY, "the sandbox is booted already");
	if (r == 0 && to == SANDBOX_READY)
		s->why[0] = 0;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* The boot or the adoption failed: with the error of its step, unless somebody has ended the sandbox. */
static int fail(struct sandbox *s, struct call *call, struct err *err)
{
	struct err left = ERR_INIT;
	char words[SANDBOX_WHY_MAX];

	snprintf(words, sizeof(words), "%.255s", err->msg);
	if (!sandbox_die(s, words, -1)) {
		sandbox_why(s, words);
		if (call_check(call, &left) < 0)
			err_copy(err, &left);
		else
			err_set(err, -ECANCELED, "%s", words);
	}
	if (s->driver->kill(s->machine, now_monotonic_ns() + SANDBOX_KILL_NS, &left) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("sandbox", s->id), "killing a sandbox that failed: %s",
			 left.msg);
	return err->code;
}

int sandbox_boot(struct sandbox *sandbox, struct call *call, const struct sandbox_spec *spec, struct err *err)
{
	struct call_hook hook;
	struct err why = ERR_INIT;
	int r = name_cgroup(sandbox, spec->cgroup_parent, err);

	if (r == 0)
		r = become(sandbox, SANDBOX_NEW, SANDBOX_BOOTING, err);
	if (r < 0)
		return r;
	call_hook_add(call, &hook, on_cancel, sandbox);
	r = boot_steps(sandbox, call, spec, &why);
	if (r == 0)
		r = become(sandbox, SANDBOX_BOOTING, SANDBOX_READY, &why);
	call_hook_remove(call, &hook);
	if (r < 0) {
		fail(sandbox, call, &why);
		return err_copy(err, &why);
	}
	/* Its clock is set when it is assigned; a first look's answer beside that would move it twice. */
	atomic_store(&sandbox->looks, 1);
	sandbox_watch(sandbox);
	return 0;
}

/* ---- adopting ------------------------------------------------------------------------------------------ */

int sandbox_adopt(struct sandbox *sandbox, struct call *call, const struct sandbox_network *network,
		  struct err *err)
{
	struct err why = ERR_INIT;
	int r = become(sandbox, SANDBOX_LOADED, SANDBOX_BOOTING, err);

	if (r < 0)
		return r;
	r = sandbox->driver->recover(sandbox, sandbox->saved_machine, &why);
	if (r == 0)
		r = sandbox_reach(sandbox, call, sandbox->saved_boot_id, call_until(call, ADOPT_NS), &why);
	if (r == -ESTALE)
		err_set_status(&why, r, ERR_UNAVAILABLE, "the guest was reset while no server watched");
	if (r == 0 && network && sandbox->driver->network)
		r = follow_new(sandbox, network, &why);
	if (r == 0)
		r = become(sandbox, SANDBOX_BOOTING, SANDBOX_READY, &why);
	if (r < 0) {
		fail(sandbox, call, &why);
		return err_copy(err, &why);
	}
	sandbox_watch(sandbox);
	if (sandbox->follow)
		follow_begin(sandbox, true);
	return 0;
}
