/* SPDX-License-Identifier: Apache-2.0 */
/* One sandbox: its life, its death, and its saving. */
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/cond.h"
#include "base/log.h"

#include <assert.h>

#define SYNC_NS	  (5 * NS_PER_SEC)  /* for an agent that can only be told to sync */
#define ANSWER_NS (500 * NS_PER_MS) /* of a shutdown's time: for the answer's way back */

/* ---- life ---------------------------------------------------------------------------------------------- */

struct sandbox_machine *sandbox_machine_ref(struct sandbox_machine *machine)
{
	atomic_fetch_add(&machine->refs, 1);
	return machine;
}

void sandbox_machine_unref(struct sandbox_machine *machine)
{
	if (machine && atomic_fetch_sub(&machine->refs, 1) == 1)
		machine->driver->machine_free(machine);
}

static void enlist(struct sandbox *s)
{
	struct sandboxes *room = s->room;

	pthread_mutex_lock(&room->lock);
	s->next = room->list;
	s->at = &room->list;
	if (s->next)
		s->next->at = &s->next;
	room->list = s;
	pthread_mutex_unlock(&room->lock);
}

static void delist(struct sandbox *s)
{
	pthread_mutex_lock(&s->room->lock);
	*s->at = s->next;
	if (s->next)
		s->next->at = s->at;
	pthread_mutex_unlock(&s->room->lock);
}

static struct sandbox *make(struct sandboxes *room, const struct sandbox_hooks *hooks)
{
	struct sandbox *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->room = room;
	s->driver = room->driver;
	s->machine = s->driver->machine_new(room);
	if (!s->machine) {
		free(s);
		return NULL;
	}
	s->machine->driver = s->driver;
	atomic_init(&s->machine->refs, 1);
	atomic_init(&s->refs, 1);
	if (hooks)
		s->hooks = *hooks;
	s->death_status = -1;
	pthread_mutex_init(&s->lock, NULL);
	cond_init(&s->changed);
	enlist(s);
	return s;
}

int sandbox_new(struct sandboxes *room, const struct sandbox_hooks *hooks, struct sandbox **ret_sandbox,
		struct err *err)
{
	struct sandbox *s = make(room, hooks);
	int dir, netns;

	if (!s)
		return err_oom(err);
	if (random_hex((SANDBOX_ID_MAX - 1) / 2, s->id) < 0) {
		sandbox_unref(s);
		return err_set(err, -EIO, "no random numbers");
	}
	dir = snprintf(s->dir, sizeof(s->dir), "%s/pods/%.20s", room->options.run_dir, s->id);
	netns = snprintf(s->netns, sizeof(s->netns), "%s/netns/%.20s", room->options.run_dir, s->id);
	if (dir >= (int)sizeof(s->dir) || netns >= (int)sizeof(s->netns)) {
		sandbox_unref(s);
		return err_set(err, -ENAMETOOLONG, "run_dir %s is too long", room->options.run_dir);
	}
	*ret_sandbox = s;
	return 0;
}

struct sandbox *sandbox_ref(struct sandbox *sandbox)
{
	atomic_fetch_add(&sandbox->refs, 1);
	return sandbox;
}

struct sandbox *sandbox_unref(struct sandbox *sandbox)
{
	if (!sandbox || atomic_fetch_sub(&sandbox->refs, 1) != 1)
		return NULL;
	assert(!sandbox->watched);
	delist(sandbox);
	agent_free(sandbox->agent);
	agent_free(sandbox->dead_agent);
	follow_free(sandbox->follow);
	sandbox_machine_unref(sandbox->machine);
	free(sandbox->saved_machine);
	free(sandbox->saved_boot_id);
	pthread_cond_destroy(&sandbox->changed);
	pthread_mutex_destroy(&sandbox->lock);
	free(sandbox);
	return NULL;
}

const char *sandbox_id(const struct sandbox *sandbox)
{
	return sandbox->id;
}

const char *sandbox_dir(const struct sandbox *sandbox)
{
	return sandbox->dir;
}

const char *sandbox_netns(const struct sandbox *sandbox)
{
	return sandbox->netns;
}

int sandbox_journal(struct sandbox *sandbox, const char *kind, const char *arg, struct err *err)
{
	int64_t step;

	return journal_begin(sandbox->room->options.store, sandbox->id, kind, arg, &step, err);
}

/* ---- what it is ---------------------------------------------------------------------------------------- */

int sandbox_agent(struct sandbox *sandbox, struct agent **ret_agent, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&sandbox->lock);
	if (sandbox->state != SANDBOX_READY || sandbox->ending)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "the sandbox is not ready%s%s",
				   sandbox->why[0] ? ": " : "", sandbox->why);
	else
		*ret_agent = sandbox->agent;
	pthread_mutex_unlock(&sandbox->lock);
	return r;
}

bool sandbox_is_dead(struct sandbox *sandbox)
{
	bool dead;

	pthread_mutex_lock(&sandbox->lock);
	dead = sandbox->state == SANDBOX_DEAD || sandbox->state == SANDBOX_LOADED;
	pthread_mutex_unlock(&sandbox->lock);
	return dead;
}

void sandbox_why(struct sandbox *sandbox, char ret_why[SANDBOX_WHY_MAX])
{
	pthread_mutex_lock(&sandbox->lock);
	memcpy(ret_why, sandbox->why, SANDBOX_WHY_MAX);
	pthread_mutex_unlock(&sandbox->lock);
}

int sandbox_usage(struct sandbox *sandbox, struct vmm_cgroup_stats *ret_usage, struct err *err)
{
	return sandbox->driver->usage(sandbox, ret_usage, err);
}

int sandbox_info(struct sandbox *sandbox, struct sandbox_info *ret_info, struct err *err)
{
	struct agent_identity identity = {0};
	struct agent *agent = NULL;

	memset(ret_info, 0, sizeof(*ret_info));
	memcpy(ret_info->dir, sandbox->dir, sizeof(ret_info->dir));
	memcpy(ret_info->netns, sandbox->netns, sizeof(ret_info->netns));
	pthread_mutex_lock(&sandbox->lock);
	memcpy(ret_info->cgroup, sandbox->cgroup, sizeof(ret_info->cgroup));
	if (sandbox->agent)
		agent_identify(sandbox->agent, &identity);
	if (identity.epoch == 0 && sandbox->saved_boot_id)
		snprintf(identity.boot_id, sizeof(identity.boot_id), "%s", sandbox->saved_boot_id);
	pthread_mutex_unlock(&sandbox->lock);
	memcpy(ret_info->boot_id, identity.boot_id, sizeof(ret_info->boot_id));
	memcpy(ret_info->agent_version, identity.version, sizeof(ret_info->agent_version));
	ret_info->epoch = identity.epoch;
	if (sandbox_agent(sandbox, &agent, NULL) == 0)
		return sandbox->driver->info(sandbox, &ret_info->machine, err);
	/* Of a dead one a later server knows no more than this. */
	ret_info->agent_version[0] = 0;
	ret_info->epoch = 0;
	return 0;
}

int sandbox_size(struct sandbox *sandbox, struct vm_size *ret_size, struct err *err)
{
	return sandbox->driver->size(sandbox, ret_size, err);
}

uint32_t sandbox_vcpus(struct sandbox *sandbox)
{
	struct agent *agent;

	return sandbox_agent(sandbox, &agent, NULL) == 0 ? sandbox->driver->vcpus(sandbox) : 0;
}

int sandbox_pin(struct sandbox *sandbox, struct call *call, const cpu_set_t *sets, uint32_t n,
		struct err *err)
{
	struct agent *agent;
	int r = sandbox_agent(sandbox, &agent, err);

	return r < 0 ? r : sandbox->driver->pin(sandbox, sets, n, call_until(call, 30 * NS_PER_SEC), err);
}

/* ---- hooks --------------------------------------------------------------------------------------------- */

/* Lock held. False: nobody is there to be told. */
static bool begin_telling(struct sandbox *s)
{
	if (!s->hooks.died && !s->hooks.reconnected)
		return false;
	s->telling = true;
	return true;
}

static void end_telling(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->telling = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void sandbox_tell_death(struct sandbox *sandbox)
{
	struct sandbox_hooks hooks;
	char why[SANDBOX_WHY_MAX];
	int status;
	bool tell;

	pthread_mutex_lock(&sandbox->lock);
	tell = sandbox->state == SANDBOX_DEAD && !sandbox->told && !sandbox->ending && begin_telling(sandbox);
	if (sandbox->state == SANDBOX_DEAD)
		sandbox->told = true;
	hooks = sandbox->hooks;
	memcpy(why, sandbox->why, sizeof(why));
	status = sandbox->death_status;
	pthread_mutex_unlock(&sandbox->lock);
	if (!tell)
		return;
	if (hooks.died)
		hooks.died(hooks.arg, why, status);
	end_telling(sandbox);
}

void sandbox_tell_reconnected(struct sandbox *sandbox)
{
	struct sandbox_hooks hooks;
	bool tell;

	pthread_mutex_lock(&sandbox->lock);
	tell = sandbox->state == SANDBOX_READY && begin_telling(sandbox);
	hooks = sandbox->hooks;
	pthread_mutex_unlock(&sandbox->lock);
	if (!tell)
		return;
	if (hooks.reconnected)
		hooks.reconnected(hooks.arg);
	end_telling(sandbox);
}

void sandbox_forget_hooks(struct sandbox *sandbox)
{
	bool on_loop = loop_on_thread(sandbox->room->options.loop);

	pthread_mutex_lock(&sandbox->lock);
	sandbox->hooks = (struct sandbox_hooks){0};
	while (sandbox->telling && !on_loop)
		pthread_cond_wait(&sandbox->changed, &sandbox->lock); /* hooks do not block */
	pthread_mutex_unlock(&sandbox->lock);
}

/* ---- death --------------------------------------------------------------------------------------------- */

bool sandbox_die(struct sandbox *sandbox, const char *why, int status)
{
	struct err gone = ERR_INIT;
	bool first;

	err_set_status(&gone, -ECONNRESET, ERR_UNAVAILABLE, "the sandbox has ended: %s", why);
	pthread_mutex_lock(&sandbox->lock);
	first = sandbox->state != SANDBOX_DEAD;
	if (first) {
		sandbox->told =
			sandbox->state != SANDBOX_READY; /* of the others their owner learns by itself */
		sandbox->state = SANDBOX_DEAD;
		sandbox->death_status = status;
		snprintf(sandbox->why, sizeof(sandbox->why), "%s", why);
		if (sandbox->agent)
			agent_abort(sandbox->agent, &gone);
	}
	pthread_mutex_unlock(&sandbox->lock);
	return first;
}

static void tell_job(void *arg)
{
	sandbox_tell_death(arg);
	sandbox_unref(arg);
}

/* Worker thread. Carries a reference. */
static void kill_job(void *arg)
{
	struct sandbox *s = arg;
	struct err err = ERR_INIT;

	if (s->driver->kill(s->machine, now_monotonic_ns() + SANDBOX_KILL_NS, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("sandbox", s->id),
			 "killing a sandbox that has ended: %s", err.msg);
	sandbox_unref(s);
}

void sandbox_condemn_status(struct sandbox *sandbox, const char *why, int status)
{
	if (!sandbox_die(sandbox, why, status))
		return;
	sandbox_ref(sandbox);
	if (loop_post(sandbox->room->options.loop, tell_job, sandbox) <
	    0) /* the next look at its health tells */
		sandbox_unref(sandbox);
	/* Not the lane of the stops: they wait for what this job brings about. */
	if (workers_submit(sandbox->room->options.workers, LANE_NET, kill_job, sandbox_ref(sandbox)) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("sandbox", sandbox->id),
			 "no thread to kill a sandbox that has ended; its owner's stop will");
		sandbox_unref(sandbox);
	}
	sandbox_unwatch(sandbox);
}

void sandbox_condemn(struct sandbox *sandbox, const char *why)
{
	sandbox_condemn_status(sandbox, why, -1);
}

int sandbox_kill(struct sandbox *sandbox, const char *why, int64_t deadline_ns, struct err *err)
{
	pthread_mutex_lock(&sandbox->lock);
	sandbox->ending = true;
	pthread_mutex_unlock(&sandbox->lock);
	if (sandbox_die(sandbox, why, -1))
		sandbox_unwatch(sandbox);
	return sandbox->driver->kill(sandbox->machine, deadline_ns, err);
}

/* ---- an orderly end ------------------------------------------------------------------------------------ */

/* True if this is the one that may ask the agent to end in order. */
static bool begin_ending(struct sandbox *s, struct agent **ret_agent)
{
	bool may;

	pthread_mutex_lock(&s->lock);
	may = s->state == SANDBOX_READY && !s->ending;
	if (may) {
		s->ending = true;
		snprintf(s->why, sizeof(s->why), "it is being stopped");
		*ret_agent = agent_ref(s->agent);
	}
	pthread_mutex_unlock(&s->lock);
	return may;
}

static bool ask_shutdown(struct agent *agent, struct call *call, int64_t left_ns, struct err *err)
{
	Crivisor__Agent__V1__ShutdownRequest req = CRIVISOR__AGENT__V1__SHUTDOWN_REQUEST__INIT;
	Crivisor__Agent__V1__ShutdownResponse *resp = NULL;
	bool synced;

	req.timeout_ns = (uint64_t)(left_ns > 2 * ANSWER_NS ? left_ns - ANSWER_NS : left_ns / 2);
	if (agent_call_by(agent, call, &AGENT_SHUTDOWN, &req.base, left_ns, (ProtobufCMessage **)&resp, err) <
	    0)
		return false;
	synced = resp->synced;
	crivisor__agent__v1__shutdown_response__free_unpacked(resp, NULL);
	return synced;
}

/* Agents without Shutdown run commands only where they were started for debugging; else there is no way. */
static bool ask_sync(struct agent *agent, struct call *call, int64_t left_ns, struct err *err)
{
	Grpc__ExecVMProcessRequest req = GRPC__EXEC_VMPROCESS_REQUEST__INIT;

	req.command = (char *)(uintptr_t) "sync";
	return agent_call_by(agent, call, &AGENT_EXEC_VM_PROCESS, &req.base,
			     left_ns < SYNC_NS ? left_ns : SYNC_NS, NULL, err) == 0;
}

int sandbox_shutdown(struct sandbox *sandbox, struct call *call, int64_t deadline_ns, bool *ret_synced,
		     struct err *err)
{
	struct agent *agent = NULL;
	struct err why = ERR_INIT;
	bool synced = false;

	if (begin_ending(sandbox, &agent)) {
		int64_t left = deadline_ns - now_monotonic_ns();

		if (left > 0)
			synced = agent_has(agent, "shutdown") ? ask_shutdown(agent, call, left, &why)
							      : ask_sync(agent, call, left, &why);
		if (!synced)
			log_line(LOG_LEVEL_DEBUG, LOG_FIELDS("sandbox", sandbox->id),
				 "its guest did not end in order: %s", why.msg);
		agent_unref(agent);
	}
	if (ret_synced)
		*ret_synced = synced;
	return sandbox_kill(sandbox, "it was stopped", now_monotonic_ns() + SANDBOX_KILL_NS, err);
}

/* ---- across a restart ---------------------------------------------------------------------------------- */

void sandbox_saved_done(struct sandbox_saved *saved)
{
	free(saved->id);
	free(saved->dir);
	free(saved->netns);
	free(saved->cgroup);
	free(saved->machine);
	free(saved->boot_id);
	memset(saved, 0, sizeof(*saved));
}

int sandbox_save(struct sandbox *sandbox, struct sandbox_saved *ret_saved, struct err *err)
{
	struct agent_identity identity;
	struct agent *agent = NULL;
	int r = sandbox_agent(sandbox, &agent, err);

	if (r < 0)
		return r;
	agent_identify(agent, &identity);
	*ret_saved = (struct sandbox_saved){
		.id = strdup(sandbox->id),
		.dir = strdup(sandbox->dir),
		.netns = strdup(sandbox->netns),
		.cgroup = strdup(sandbox->cgroup),
		.machine = sandbox->driver->save(sandbox),
		.boot_id = strdup(identity.boot_id),
	};
	if (ret_saved->id && ret_saved->dir && ret_saved->netns && ret_saved->cgroup && ret_saved->machine &&
	    ret_saved->boot_id)
		return 0;
	sandbox_saved_done(ret_saved);
	return err_oom(err);
}

static int take_saved(struct sandbox *s, const struct sandbox_saved *saved, struct err *err)
{
	const struct {
		const char *name, *from;
		char *to;
		size_t size;
	} fields[] = {
		{"id", saved->id, s->id, sizeof(s->id)},
		{"directory", saved->dir, s->dir, sizeof(s->dir)},
		{"network namespace", saved->netns, s->netns, sizeof(s->netns)},
		{"cgroup", saved->cgroup, s->cgroup, sizeof(s->cgroup)},
	};

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		if (!fields[i].from || strlen(fields[i].from) >= fields[i].size)
			return err_set(err, -EINVAL, "the saved %s of a sandbox is missing or too long",
				       fields[i].name);
		snprintf(fields[i].to, fields[i].size, "%s", fields[i].from);
	}
	s->saved_machine = strdup(saved->machine ? saved->machine : "");
	s->saved_boot_id = strdup(saved->boot_id ? saved->boot_id : "");
	return s->saved_machine && s->saved_boot_id ? 0 : err_oom(err);
}

int sandbox_load(struct sandboxes *room, const struct sandbox_hooks *hooks, const struct sandbox_saved *saved,
		 const char *why, struct sandbox **ret_sandbox, struct err *err)
{
	struct sandbox *s = make(room, hooks);
	int r = s ? take_saved(s, saved, err) : err_oom(err);

	if (r < 0) {
		sandbox_unref(s);
		return r;
	}
	s->state = SANDBOX_LOADED;
	snprintf(s->why, sizeof(s->why), "%s", why ? why : "");
	*ret_sandbox = s;
	return 0;
}
