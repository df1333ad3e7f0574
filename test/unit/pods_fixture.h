/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pods_fixture.h: cri/pods over fakes of the rooms below that touch a host: sandbox, agent, logs, network,
 * images and roots. Store, loop, workers and the OCI spec are the real ones.
 *
 * A step of the fakes (enum step) can be held until the test lets it go on, or made to fail. The guest is a
 * table of containers: a process that runs until it is killed, and may be deaf to all signals but SIGKILL.
 */
#ifndef TEST_UNIT_PODS_FIXTURE_H
#define TEST_UNIT_PODS_FIXTURE_H

#include "api/agent/agent.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/pb.h"
#include "base/cond.h"
#include "base/cpulist.h"
#include "base/log.h"
#include "base/tree.h"
#include "cri/logs/logs.h"
#include "cri/pods/containers.h"
#include "cri/pods/pods.h"
#include "spared.h"
#include "vmm/cgroup.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define LONG_NS (30 * NS_PER_SEC)

enum step {
	STEP_READY,
	STEP_NEW,
	STEP_BOOT,
	STEP_ADD, /* CNI's */
	STEP_DEL,
	STEP_ASSIGN,
	STEP_SAVE,
	STEP_ADOPT,
	STEP_SHUTDOWN,
	STEP_UNDO,
	STEP_IMAGE,
	STEP_ROOT,
	STEP_BIND,
	STEP_PIN,
	STEP_UNPLACE,
	STEP_CREATE, /* and the guest's */
	STEP_START,
	STEP_STATE,
	STEP_KILL,
	STEP_DELETE,
	STEP_EXEC,
	STEP_UPDATE,
	STEP_RESIZE,
	STEPS,
};

enum { GUEST_NONE, GUEST_CREATED, GUEST_RUNNING, GUEST_EXITED };

struct guest_container {
	char id[65], exec_id[65], sandbox[65];
	int state;
	uint32_t code;
	bool deaf, endless; /* deaf: to all but SIGKILL */
	bool killed;
	agent_reply_fn *waiter;
	void *waiter_arg;
};

struct fake {
	pthread_mutex_t lock;
	pthread_cond_t changed, told;
	struct {
		bool hold;
		int fail; /* an errno */
		unsigned int inside, hits;
	} step[STEPS];
	struct guest_container guest[256];
	unsigned int sandboxes; /* alive */
	unsigned int attached;	/* CNI */
	unsigned int roots;
	unsigned int images; /* of a list */
	atomic_uint asked;   /* questions for figures */
	char updated[2048];  /* the resources of the last update, as the guest got them */
	atomic_uint updates;
	struct vmm_resources limits; /* of the last resize, but for strings */
	struct vm_size size;	     /* of the VM, vcpus aside; its boot sets all but what it may grow by */
	uint64_t memory_room;
	uint32_t vcpus_room;
	unsigned int resizes;	   /* of size */
	bool half_grown;	   /* the next resize changes the size and fails all the same */
	uint64_t memory_at_update; /* the VM's, when the guest was told of new limits */
	uint32_t vcpus_at_update;
	atomic_bool host_full;
	atomic_uint measured; /* layers */
	atomic_bool mute;     /* figures are not told */
	void (*lie)(Crivisor__Agent__V1__StatsResponse *stats);
	char full[65]; /* the container whose writable layer exceeds its limit */
	unsigned int looks;
	int64_t layers_ns;   /* of the next start; 0: as users have it */
	bool tagged;	     /* images have tags and digests in two repositories */
	bool held;	     /* an exec's output is held until it is killed */
	size_t output;	     /* bytes of an exec's output, in records of 64 KiB; 0: "out\n" */
	unsigned int killed; /* execs that were killed */
	bool deaf, hung_guest, oom, lost_wait;
	uint32_t vcpus;	  /* at most 4 */
	char pins[4][64]; /* where each vCPU runs */
	char adopts[16];
	unsigned int gcs;
	atomic_uint checks;
	int64_t adopt_wait_ns; /* of the next start; 0: as users have it */

	char dir[64];
	struct loop *loop;
	struct workers *workers;
	struct store *store;
	struct pods *pods;
	struct config config;
	pthread_t thread;
	/* Events that the hooks saw, one letter each. */
	char events[512];
};
static struct fake fake;

/* ---- steps --------------------------------------------------------------------------------------------- */

/* One allocation, for the many of the real one. */
static inline int fake_memory(struct err *err)
{
	bool before = fault_spare(false), fails = fault_fails("alloc");

	fault_spare(before);
	return fails ? err_oom(err) : 0;
}

static inline int fake_step(enum step step, struct call *call, struct err *err)
{
	int r = fake_memory(err), fail;

	if (r < 0)
		return r;

	pthread_mutex_lock(&fake.lock);
	fake.step[step].hits++;
	fake.step[step].inside++;
	pthread_cond_broadcast(&fake.changed);
	while (fake.step[step].hold && r == 0)
		r = call_wait(call, &fake.changed, &fake.lock, now_monotonic_ns() + LONG_NS);
	fake.step[step].inside--;
	fail = fake.step[step].fail;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	if (r == -ECANCELED)
		return call_check(call, err);
	if (r < 0)
		return err_set(err, r, "step %d was held for too long", step);
	return fail ? err_set(err, -fail, "step %d fails", step) : 0;
}

static inline void hold(enum step step)
{
	pthread_mutex_lock(&fake.lock);
	fake.step[step].hold = true;
	pthread_mutex_unlock(&fake.lock);
}

static inline void let_go(enum step step)
{
	pthread_mutex_lock(&fake.lock);
	fake.step[step].hold = false;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
}

static inline void fail_step(enum step step, int errnum)
{
	pthread_mutex_lock(&fake.lock);
	fake.step[step].fail = errnum;
	pthread_mutex_unlock(&fake.lock);
}

static inline void until_inside(enum step step, unsigned int n)
{
	int r = 0;

	pthread_mutex_lock(&fake.lock);
	while (fake.step[step].inside < n && r == 0)
		r = cond_wait_until(&fake.changed, &fake.lock, now_monotonic_ns() + LONG_NS);
	pthread_mutex_unlock(&fake.lock);
	if (r < 0)
		fail_msg("step %d is not reached", step);
}

static inline unsigned int hits(enum step step)
{
	unsigned int n;

	pthread_mutex_lock(&fake.lock);
	n = fake.step[step].hits;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

/* Until a condition that `fn` sees; polled, for what no lock of the fake covers. */
static inline void eventually(bool (*fn)(void *arg), void *arg, const char *what)
{
	const struct timespec pause = {.tv_nsec = NS_PER_MS};
	int64_t deadline = now_monotonic_ns() + LONG_NS;

	while (!fn(arg)) {
		if (now_monotonic_ns() > deadline)
			fail_msg("%s", what);
		nanosleep(&pause, NULL);
	}
}

/* ---- the sandbox --------------------------------------------------------------------------------------- */

struct agent {
	struct sandbox *sandbox;
};

struct sandbox {
	atomic_uint refs;
	char id[65], dir[300], netns[300];
	struct sandbox_hooks hooks; /* fake.lock */
	bool dead, alive, gone;	    /* fake.lock; alive: counted */
	bool telling;		    /* fake.lock; a hook runs */
	char why[SANDBOX_WHY_MAX];
	struct agent agent;
	struct call *ended; /* cancelled when it dies: ends what waits for its guest */
};

static struct sandbox *last_sandbox; /* a reference */

static struct sandbox *fake_sandbox(const char *id, const struct sandbox_hooks *hooks)
{
	SPARED;
	struct sandbox *s = calloc(1, sizeof(*s)), *old;

	assert_non_null(s);
	atomic_init(&s->refs, 1);
	snprintf(s->id, sizeof(s->id), "%s", id);
	snprintf(s->dir, sizeof(s->dir), "%s/run/%.20s", fake.dir, id);
	snprintf(s->netns, sizeof(s->netns), "%s/netns/%.20s", fake.dir, id);
	s->hooks = *hooks;
	s->agent.sandbox = s;
	assert_int_equal(call_new(INT64_MAX, &s->ended, NULL), 0);
	atomic_fetch_add(&s->refs, 1);
	pthread_mutex_lock(&fake.lock);
	old = last_sandbox;
	last_sandbox = s;
	pthread_mutex_unlock(&fake.lock);
	sandbox_unref(old);
	return s;
}

int sandbox_new(struct sandboxes *room, const struct sandbox_hooks *hooks, struct sandbox **ret_sandbox,
		struct err *err)
{
	SPARED;
	char id[65];
	int r = fake_step(STEP_NEW, NULL, err);

	(void)room;
	if (r < 0)
		return r;
	assert_int_equal(random_hex(32, id), 0);
	*ret_sandbox = fake_sandbox(id, hooks);
	return 0;
}

struct sandbox *sandbox_ref(struct sandbox *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

struct sandbox *sandbox_unref(struct sandbox *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
		return NULL;
	call_unref(s->ended);
	free(s);
	return NULL;
}

void sandbox_forget_hooks(struct sandbox *s)
{
	pthread_mutex_lock(&fake.lock);
	s->gone = true;
	while (s->telling && !loop_on_thread(fake.loop))
		pthread_cond_wait(&fake.told, &fake.lock);
	pthread_mutex_unlock(&fake.lock);
}

const char *sandbox_id(const struct sandbox *s)
{
	return s->id;
}
const char *sandbox_dir(const struct sandbox *s)
{
	return s->dir;
}
const char *sandbox_netns(const struct sandbox *s)
{
	return s->netns;
}

static void guest_reply(struct guest_container *g, const struct err *err);

struct death {
	struct sandbox *sandbox;
	bool told;
};

static void died_on_loop(void *arg)
{
	struct death *d = arg;
	struct sandbox *s = d->sandbox;
	bool tell;

	pthread_mutex_lock(&fake.lock);
	tell = s->telling = d->told && !s->gone;
	pthread_mutex_unlock(&fake.lock);
	if (tell)
		s->hooks.died(s->hooks.arg, s->why, 1);
	pthread_mutex_lock(&fake.lock);
	s->telling = false;
	pthread_cond_broadcast(&fake.told);
	pthread_mutex_unlock(&fake.lock);
	sandbox_unref(s);
	free(d);
}

/* True if it lived. All waits of its guest end with an error. */
static bool end_sandbox(struct sandbox *s, const char *why, bool told)
{
	SPARED;
	struct death *d = calloc(1, sizeof(*d));
	struct err err = ERR_INIT;
	bool lived;

	err_set_status(&err, -ECONNRESET, ERR_UNAVAILABLE, "the sandbox has died");
	pthread_mutex_lock(&fake.lock);
	lived = !s->dead;
	s->dead = true;
	if (lived)
		snprintf(s->why, sizeof(s->why), "%s", why);
	if (s->alive)
		fake.sandboxes--;
	s->alive = false;
	pthread_mutex_unlock(&fake.lock);
	if (!lived) {
		free(d);
		return false;
	}
	call_cancel(s->ended, "the sandbox has died");
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++) {
		if (!str_eq(fake.guest[i].sandbox, s->id))
			continue;
		guest_reply(&fake.guest[i], &err);
		pthread_mutex_lock(&fake.lock);
		fake.guest[i].state = GUEST_NONE;
		pthread_mutex_unlock(&fake.lock);
	}
	*d = (struct death){.sandbox = sandbox_ref(s), .told = told};
	assert_int_equal(loop_post(fake.loop, died_on_loop, d), 0);
	return true;
}

int sandbox_boot(struct sandbox *s, struct call *call, const struct sandbox_spec *spec, struct err *err)
{
	int r = spec->network(spec->network_arg, s->netns, err);

	if (r == 0)
		r = fake_step(STEP_BOOT, call, err);
	pthread_mutex_lock(&fake.lock);
	if (r == 0) {
		s->alive = true;
		fake.sandboxes++;
		fake.size.vcpus_boot = fake.vcpus;
		fake.size.vcpus_max = fake.vcpus + fake.vcpus_room;
		fake.size.memory_bytes = fake.size.memory_boot_bytes = spec->memory_bytes;
		fake.size.memory_max_bytes = spec->memory_bytes + fake.memory_room;
	}
	pthread_mutex_unlock(&fake.lock);
	return r;
}

int sandbox_assign(struct sandbox *s, struct call *call, const struct sandbox_assignment *assignment,
		   struct err *err)
{
	(void)s;
	assert_non_null(assignment->resolv_conf);
	assert_int_equal(assignment->network->n_ips, 1);
	return fake_step(STEP_ASSIGN, call, err);
}

int sandbox_agent(struct sandbox *s, struct agent **ret_agent, struct err *err)
{
	bool dead;

	pthread_mutex_lock(&fake.lock);
	dead = s->dead;
	pthread_mutex_unlock(&fake.lock);
	if (dead)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "the sandbox is dead: %s",
				      s->why);
	*ret_agent = &s->agent;
	return 0;
}

bool sandbox_is_dead(struct sandbox *s)
{
	bool dead;

	pthread_mutex_lock(&fake.lock);
	dead = s->dead;
	pthread_mutex_unlock(&fake.lock);
	return dead;
}

void sandbox_why(struct sandbox *s, char ret_why[SANDBOX_WHY_MAX])
{
	pthread_mutex_lock(&fake.lock);
	snprintf(ret_why, SANDBOX_WHY_MAX, "%s", s->why);
	pthread_mutex_unlock(&fake.lock);
}

int sandbox_place(const struct sandbox *s, const char *container_id, struct sandbox_place *ret,
		  struct err *err)
{
	(void)err;
	snprintf(ret->dir, sizeof(ret->dir), "%.200s/%.64s", s->dir, container_id);
	snprintf(ret->rootfs, sizeof(ret->rootfs), "%.300s/rootfs", ret->dir);
	snprintf(ret->bundle, sizeof(ret->bundle), "/run/share/%.64s", container_id);
	return 0;
}

int sandbox_place_make(struct sandbox *s, const char *container_id, struct err *err)
{
	SPARED;
	struct sandbox_place place;

	sandbox_place(s, container_id, &place, err);
	return mkdir_p(place.rootfs, 0755) < 0 ? err_set(err, -EIO, "making a place") : 0;
}

int sandbox_place_write(struct sandbox *s, const char *container_id, const char *name, const char *text,
			struct err *err)
{
	SPARED;
	struct sandbox_place place;
	char path[SANDBOX_PATH_MAX];

	sandbox_place(s, container_id, &place, err);
	snprintf(path, sizeof(path), "%.400s/%s", place.dir, name);
	return write_file(path, text, strlen(text), 0600) < 0 ? err_set(err, -EIO, "writing %s", path) : 0;
}

int sandbox_bind(struct sandbox *s, const char *container_id, const char *source, bool read_only,
		 bool recursive_ro, char ret_guest[SANDBOX_PATH_MAX], struct err *err)
{
	(void)s;
	(void)container_id;
	(void)source;
	(void)read_only;
	(void)recursive_ro;
	snprintf(ret_guest, SANDBOX_PATH_MAX, "/run/share/volumes/0");
	return fake_step(STEP_BIND, NULL, err);
}

int sandbox_place_remove(struct sandbox *s, const char *container_id, bool lazy, struct err *err)
{
	SPARED;
	struct sandbox_place place;

	(void)lazy;
	sandbox_place(s, container_id, &place, err);
	if (fake_step(STEP_UNPLACE, NULL, err) < 0)
		return -EIO;
	return remove_tree(place.dir) < 0 ? err_set(err, -EIO, "removing %s", place.dir) : 0;
}

uint32_t sandbox_vcpus(struct sandbox *s)
{
	return sandbox_is_dead(s) ? 0 : fake.vcpus;
}

int sandbox_pin(struct sandbox *s, struct call *call, const cpu_set_t *sets, uint32_t n, struct err *err)
{
	int r = fake_step(STEP_PIN, call, err);

	(void)s;
	assert_int_equal(n, fake.vcpus);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		cpulist_words(&sets[i], fake.pins[i], sizeof(fake.pins[i]));
	return r;
}

int sandbox_resize(struct sandbox *s, struct call *call, uint32_t vcpus, uint64_t memory_bytes,
		   const struct vmm_resources *limits, struct err *err)
{
	int r = fake_step(STEP_RESIZE, call, err);

	(void)s;
	pthread_mutex_lock(&fake.lock);
	fake.limits = *limits;
	fake.resizes += vcpus || memory_bytes;
	if (r == 0 || fake.half_grown) {
		fake.vcpus = vcpus ? vcpus : fake.vcpus;
		fake.size.memory_bytes = memory_bytes ? memory_bytes : fake.size.memory_bytes;
	}
	fake.half_grown = false;
	assert_true(fake.vcpus >= fake.size.vcpus_boot && fake.vcpus <= fake.size.vcpus_max);
	assert_true(fake.size.memory_bytes >= fake.size.memory_boot_bytes &&
		    fake.size.memory_bytes <= fake.size.memory_max_bytes);
	pthread_mutex_unlock(&fake.lock);
	return r;
}

int sandbox_size(struct sandbox *s, struct vm_size *ret_size, struct err *err)
{
	(void)s;
	(void)err;
	pthread_mutex_lock(&fake.lock);
	*ret_size = fake.size;
	ret_size->vcpus = fake.vcpus;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int sandbox_usage(struct sandbox *s, struct vmm_cgroup_stats *ret, struct err *err)
{
	if (sandbox_is_dead(s))
		return err_set(err, -ENOENT, "there is no cgroup");
	*ret = (struct vmm_cgroup_stats){.cpu_usage_ns = 5 * NS_PER_SEC,
					 .memory_usage_bytes = 300 << 20,
					 .memory_working_set_bytes = 200 << 20,
					 .memory_rss_bytes = 100 << 20};
	return 0;
}

int sandbox_info(struct sandbox *s, struct sandbox_info *ret, struct err *err)
{
	(void)err;
	*ret = (struct sandbox_info){.epoch = 1, .machine.memory_bytes = fake.size.memory_bytes};
	snprintf(ret->dir, sizeof(ret->dir), "%s", s->dir);
	return 0;
}

void sandbox_condemn(struct sandbox *s, const char *why)
{
	end_sandbox(s, why, true);
}

int sandbox_shutdown(struct sandbox *s, struct call *call, int64_t deadline_ns, bool *ret_synced,
		     struct err *err)
{
	int r = fake_step(STEP_SHUTDOWN, call, err);

	(void)deadline_ns;
	(void)ret_synced;
	if (r == 0)
		end_sandbox(s, "it was stopped", false);
	return r;
}

int sandbox_kill(struct sandbox *s, const char *why, int64_t deadline_ns, struct err *err)
{
	(void)deadline_ns;
	(void)err;
	end_sandbox(s, why, false);
	return 0;
}

int sandbox_save(struct sandbox *s, struct sandbox_saved *ret, struct err *err)
{
	SPARED;
	int r = fake_step(STEP_SAVE, NULL, err);

	if (r == 0)
		*ret = (struct sandbox_saved){.id = strdup(s->id),
					      .dir = strdup(s->dir),
					      .netns = strdup(s->netns),
					      .cgroup = strdup("/cgroup"),
					      .machine = strdup("{}"),
					      .boot_id = strdup("boot")};
	return r;
}

void sandbox_saved_done(struct sandbox_saved *saved)
{
	free(saved->id);
	free(saved->dir);
	free(saved->netns);
	free(saved->cgroup);
	free(saved->machine);
	free(saved->boot_id);
}

int sandbox_load(struct sandboxes *room, const struct sandbox_hooks *hooks, const struct sandbox_saved *saved,
		 const char *why, struct sandbox **ret_sandbox, struct err *err)
{
	(void)room;
	assert_non_null(saved->id);
	assert_true(saved->id[0] != 0);
	if (strlen(saved->dir) >= SANDBOX_PATH_MAX)
		return err_set(err, -EINVAL, "the saved directory is too long");
	*ret_sandbox = fake_sandbox(saved->id, hooks);
	(*ret_sandbox)->dead = true;
	snprintf((*ret_sandbox)->why, SANDBOX_WHY_MAX, "%s", why);
	return 0;
}

int sandbox_adopt(struct sandbox *s, struct call *call, const struct sandbox_network *network,
		  struct err *err)
{
	int r = fake_step(STEP_ADOPT, call, err);

	assert_string_equal(network->ifname, "eth0");
	if (r < 0)
		return r;
	pthread_mutex_lock(&fake.lock);
	s->dead = false;
	s->alive = true;
	fake.sandboxes++;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int sandboxes_undo(struct sandboxes *room, const char *id, struct err *err)
{
	(void)room;
	(void)id;
	return fake_step(STEP_UNDO, NULL, err);
}

int sandboxes_undo_step(struct sandboxes *room, const char *kind, const char *arg, struct err *err)
{
	SPARED;
	(void)room;
	if (str_eq(kind, "cdir"))
		return remove_tree(arg) < 0 ? err_set(err, -EIO, "removing %s", arg) : 0;
	if (str_eq(kind, "rundir") || str_eq(kind, "share") || str_eq(kind, "netns") ||
	    str_eq(kind, "cgroup"))
		return 0;
	return err_set(err, -ENOENT, "no such step");
}

/* ---- the guest ----------------------------------------------------------------------------------------- */

static struct guest_container *guest_find(const char *id, const char *exec_id)
{
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++) {
		if (fake.guest[i].state != GUEST_NONE && str_eq(fake.guest[i].id, id) &&
		    str_eq(fake.guest[i].exec_id, exec_id))
			return &fake.guest[i];
	}
	return NULL;
}

static struct guest_container *guest_add(const struct agent *agent, const char *id, const char *exec_id,
					 int state)
{
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++) {
		struct guest_container *g = &fake.guest[i];

		if (g->state != GUEST_NONE)
			continue;
		*g = (struct guest_container){.state = state, .deaf = fake.deaf};
		snprintf(g->id, sizeof(g->id), "%s", id);
		snprintf(g->exec_id, sizeof(g->exec_id), "%s", exec_id);
		snprintf(g->sandbox, sizeof(g->sandbox), "%s", agent->sandbox->id);
		return g;
	}
	return NULL;
}

/* One reply to an asynchronous call, on the loop. */
struct reply {
	agent_reply_fn *fn;
	void *arg;
	struct err err;
	ProtobufCMessage *resp;
};

static void reply_on_loop(void *arg)
{
	struct reply *r = arg;

	if (fake_memory(NULL) < 0)
		err_set_status(&r->err, -ENOMEM, ERR_RESOURCE_EXHAUSTED, "out of memory");
	r->fn(r->arg, r->err.code ? &r->err : NULL, r->resp);
	pb_free(r->resp);
	free(r);
}

static void reply_later(agent_reply_fn *fn, void *arg, const struct err *err, ProtobufCMessage *resp)
{
	struct reply *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	*r = (struct reply){.fn = fn, .arg = arg, .resp = resp};
	if (err)
		r->err = *err;
	assert_int_equal(loop_post(fake.loop, reply_on_loop, r), 0);
}

/* Answers the wait for a container, if there is one: with its exit, or with err. */
static void guest_reply(struct guest_container *g, const struct err *err)
{
	SPARED;
	Containerd__Task__V2__WaitResponse *resp = NULL;
	agent_reply_fn *fn;
	void *arg;

	pthread_mutex_lock(&fake.lock);
	fn = move_ptr(g->waiter);
	arg = g->waiter_arg;
	if (fn && !err) {
		resp = pb_new(&containerd__task__v2__wait_response__descriptor);
		resp->exit_status = g->code;
	}
	pthread_mutex_unlock(&fake.lock);
	if (fn)
		reply_later(fn, arg, err, resp ? &resp->base : NULL);
}

static void guest_exit(const char *id, const char *exec_id, uint32_t code)
{
	struct guest_container *g;

	pthread_mutex_lock(&fake.lock);
	g = guest_find(id, exec_id);
	if (g && g->state != GUEST_EXITED) {
		g->state = GUEST_EXITED;
		g->code = code;
	} else {
		g = NULL;
	}
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	if (g)
		guest_reply(g, NULL);
}

static int guest_kill_now(const Containerd__Task__V2__KillRequest *req, struct err *err)
{
	struct guest_container *g;
	bool ends = false;
	int state;

	pthread_mutex_lock(&fake.lock);
	g = guest_find(req->id, req->exec_id);
	state = g ? g->state : GUEST_NONE;
	if (g)
		ends = req->signal == SIGKILL || !g->deaf;
	if (g)
		g->killed = g->killed || req->signal == SIGKILL;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	if (state == GUEST_NONE)
		return err_set_status(err, -ENOENT, ERR_NOT_FOUND, "no such process");
	if (ends && !fake.hung_guest)
		guest_exit(req->id, req->exec_id, 128 + req->signal);
	return 0;
}

static int wait_guest(struct agent *agent, struct call *call, const char *id, const char *exec_id,
		      int64_t until, uint32_t *ret_code, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&fake.lock);
	for (;;) {
		struct guest_container *g = guest_find(id, exec_id);

		if (!g || g->state == GUEST_EXITED) {
			*ret_code = g ? g->code : 255;
			break;
		}
		r = call_wait(call ? call : agent->sandbox->ended, &fake.changed, &fake.lock, until);
		if (r < 0)
			break;
	}
	pthread_mutex_unlock(&fake.lock);
	return r < 0 ? err_set(err, r, "the wait for a process ended") : 0;
}

/* Keeps the last one in fake.updated. */
static int guest_update_now(struct agent *agent, const Containerd__Task__V2__UpdateTaskRequest *req,
			    struct err *err)
{
	int r = fake_step(STEP_UPDATE, agent->sandbox->ended, err);

	pthread_mutex_lock(&fake.lock);
	snprintf(fake.updated, sizeof(fake.updated), "%.*s", (int)req->resources->value.len,
		 (const char *)req->resources->value.data);
	fake.updates++;
	fake.memory_at_update = fake.size.memory_bytes;
	fake.vcpus_at_update = fake.vcpus;
	pthread_mutex_unlock(&fake.lock);
	return r;
}

static int guest_task(struct agent *agent, struct call *call, const struct agent_method *method,
		      const ProtobufCMessage *msg, int64_t timeout_ns, ProtobufCMessage *resp,
		      struct err *err)
{
	const Containerd__Task__V2__CreateTaskRequest *create = (const void *)msg;
	const Containerd__Task__V2__StartRequest *start = (const void *)msg;
	const Containerd__Task__V2__DeleteRequest *del = (const void *)msg;
	const Containerd__Task__V2__StateRequest *state = (const void *)msg;
	const Containerd__Task__V2__WaitRequest *wait = (const void *)msg;
	const Containerd__Task__V2__ExecProcessRequest *exec = (const void *)msg;
	struct guest_container *g;
	int r = 0;

	if (method == &AGENT_TASK_CREATE)
		r = fake_step(STEP_CREATE, agent->sandbox->ended, err);
	else if (method == &AGENT_TASK_START)
		r = fake_step(STEP_START, agent->sandbox->ended, err);
	else if (method == &AGENT_TASK_DELETE)
		r = fake_step(STEP_DELETE, agent->sandbox->ended, err);
	else if (method == &AGENT_TASK_STATE)
		r = fake_step(STEP_STATE, agent->sandbox->ended, err);
	else if (method == &AGENT_TASK_EXEC)
		r = fake_step(STEP_EXEC, agent->sandbox->ended, err);
	else if (method == &AGENT_TASK_UPDATE)
		return guest_update_now(agent, (const void *)msg, err);
	if (r < 0)
		return r;
	if (method == &AGENT_TASK_KILL)
		return guest_kill_now((const void *)msg, err);
	if (method == &AGENT_TASK_WAIT)
		return wait_guest(agent, call, wait->id, wait->exec_id,
				  timeout_ns ? now_monotonic_ns() + timeout_ns : INT64_MAX,
				  &((Containerd__Task__V2__WaitResponse *)(void *)resp)->exit_status, err);
	pthread_mutex_lock(&fake.lock);
	if (method == &AGENT_TASK_CREATE) {
		g = guest_add(agent, create->id, "", GUEST_CREATED);
	} else if (method == &AGENT_TASK_EXEC) {
		g = guest_add(agent, exec->id, exec->exec_id, GUEST_CREATED);
	} else if (method == &AGENT_TASK_START) {
		g = guest_find(start->id, start->exec_id);
		if (g && g->state == GUEST_CREATED)
			g->state = GUEST_RUNNING;
	} else if (method == &AGENT_TASK_STATE) {
		g = guest_find(state->id, state->exec_id);
		if (g)
			((Containerd__Task__V2__StateResponse *)(void *)resp)->status =
				g->state == GUEST_CREATED  ? CONTAINERD__V1__TYPES__STATUS__CREATED
				: g->state == GUEST_EXITED ? CONTAINERD__V1__TYPES__STATUS__STOPPED
							   : CONTAINERD__V1__TYPES__STATUS__RUNNING;
	} else { /* Delete */
		g = guest_find(del->id, del->exec_id);
		if (g && g->exec_id[0] && g->killed)
			fake.killed++;
		if (g && (g->state == GUEST_EXITED || g->state == GUEST_CREATED))
			g->state = GUEST_NONE;
		else if (g)
			r = -EBUSY;
	}
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	if (r < 0)
		return err_set_status(err, r, ERR_FAILED_PRECONDITION, "the process runs");
	return g ? 0 : err_set_status(err, -ENOENT, ERR_NOT_FOUND, "no such process");
}

bool agent_has(struct agent *agent, const char *feature)
{
	(void)agent;
	(void)feature;
	return true;
}

int agent_call_by(struct agent *agent, struct call *call, const struct agent_method *method,
		  const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		  struct err *err)
{
	SPARED;
	struct err ignored = ERR_INIT;
	ProtobufCMessage *resp;
	int r = call_check(agent->sandbox->ended, err);

	if (r == 0)
		r = fake_memory(err);
	if (r < 0)
		return r;
	resp = pb_new(method->response);
	assert_non_null(resp);
	if (method == &AGENT_STATS)
		((Crivisor__Agent__V1__StatsResponse *)(void *)resp)->oom_kills = fake.oom;
	else
		r = guest_task(agent, call, method, req, timeout_ns, resp, err ? err : &ignored);
	if (r == 0 && ret_resp)
		*ret_resp = move_ptr(resp);
	pb_free(resp);
	return r;
}

/*
 * The n-th answer of a guest: each of its running containers has used n seconds of CPU. fake.mute: none comes
 * in time.
 */
static int guest_stats(struct agent *agent, const Crivisor__Agent__V1__StatsRequest *req,
		       agent_reply_fn *reply, void *arg)
{
	Crivisor__Agent__V1__StatsResponse *resp = pb_new(&crivisor__agent__v1__stats_response__descriptor);
	struct err err = ERR_INIT;

	pthread_mutex_lock(&fake.lock);
	fake.asked++;
	resp->memory_limit = 256 << 20;
	resp->cpu_usage_ns = fake.asked * NS_PER_SEC;
	for (size_t i = 0; req->all && i < ARRAY_SIZE(fake.guest); i++) {
		Crivisor__Agent__V1__ContainerStats *c;

		if (fake.guest[i].state != GUEST_RUNNING || fake.guest[i].exec_id[0] ||
		    !str_eq(fake.guest[i].sandbox, agent->sandbox->id))
			continue;
		c = pb_append(&resp->containers, &resp->n_containers,
			      &crivisor__agent__v1__container_stats__descriptor);
		pb_set_str(&c->container_id, fake.guest[i].id);
		c->stats = pb_new(&crivisor__agent__v1__stats_response__descriptor);
		c->stats->cpu_usage_ns = fake.asked * NS_PER_SEC;
		c->stats->memory_working_set = 1 << 20;
		c->stats->memory_usage = 2 << 20;
		c->stats->processes = 3;
		if (fake.lie)
			fake.lie(c->stats);
	}
	if (req->all) {
		Crivisor__Agent__V1__InterfaceStats *n =
			pb_append(&resp->interfaces, &resp->n_interfaces,
				  &crivisor__agent__v1__interface_stats__descriptor);

		pb_set_str(&n->name, "eth0");
		n->rx_bytes = 1000;
		n->tx_bytes = 2000;
	}
	pthread_mutex_unlock(&fake.lock);
	if (fake.mute)
		err_set_status(&err, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED, "no answer");
	reply_later(reply, arg, fake.mute ? &err : NULL, &resp->base);
	return 0;
}

int agent_call_async(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, agent_reply_fn *reply, void *arg)
{
	SPARED;
	const Containerd__Task__V2__WaitRequest *wait = (const void *)req;
	struct guest_container *g;
	struct err err = ERR_INIT;
	bool ended = false;

	(void)timeout_ns;
	if (call_check(agent->sandbox->ended, NULL) < 0 || (method == &AGENT_TASK_WAIT && fake.lost_wait))
		return -ENOTCONN;
	if (fake_memory(NULL) < 0)
		return -ENOMEM;
	if (method == &AGENT_TASK_KILL) {
		(void)fake_step(STEP_KILL, NULL, NULL);
		(void)guest_kill_now((const void *)req, &err);
		reply_later(reply, arg, err.code ? &err : NULL, pb_new(method->response));
		return 0;
	}
	if (method == &AGENT_STATS)
		return guest_stats(agent, (const void *)req, reply, arg);
	assert_ptr_equal(method, &AGENT_TASK_WAIT);
	pthread_mutex_lock(&fake.lock);
	g = guest_find(wait->id, "");
	if (g) {
		g->waiter = reply;
		g->waiter_arg = arg;
		ended = g->state == GUEST_EXITED;
	}
	pthread_mutex_unlock(&fake.lock);
	if (!g) {
		err_set_status(&err, -ENOENT, ERR_NOT_FOUND, "no such container");
		reply_later(reply, arg, &err, NULL);
	} else if (ended) {
		guest_reply(g, NULL);
	}
	return 0;
}

struct agent_conn {
	struct agent *agent;
};

int agent_open(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err)
{
	SPARED;
	(void)deadline_ns;
	(void)err;
	*ret_conn = calloc(1, sizeof(**ret_conn));
	(*ret_conn)->agent = agent;
	return 0;
}

struct agent_conn *agent_conn_close(struct agent_conn *conn)
{
	free(conn);
	return NULL;
}

/* An exec's output: "out\n", at its end. */
int agent_conn_call_by(struct agent_conn *conn, struct call *call, const struct agent_method *method,
		       const ProtobufCMessage *msg, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		       struct err *err)
{
	SPARED;
	const Crivisor__Agent__V1__ReadLogRequest *req = (const void *)msg;
	Crivisor__Agent__V1__ReadLogResponse *resp;
	Crivisor__Agent__V1__LogRecord *rec;
	struct guest_container *g;
	uint32_t code;
	int r;

	(void)timeout_ns;
	if (method == &AGENT_ACK)
		return 0;
	assert_ptr_equal(method, &AGENT_READ_LOG);
	pthread_mutex_lock(&fake.lock);
	g = guest_find(req->container_id, req->exec_id);
	if (g && !g->deaf)
		g->state = GUEST_EXITED; /* a command that ends at once */
	pthread_mutex_unlock(&fake.lock);
	r = wait_guest(conn->agent, call, req->container_id, req->exec_id,
		       now_monotonic_ns() + (int64_t)req->wait_ms * NS_PER_MS, &code, err);
	if (r == -ECANCELED || r == -ESHUTDOWN)
		return call_check(call, err) < 0 ? err->code : r;
	pthread_mutex_lock(&fake.lock);
	while (r == 0 && fake.held) {
		r = call_wait(call, &fake.changed, &fake.lock,
			      now_monotonic_ns() + (int64_t)req->wait_ms * NS_PER_MS);
		if (r == -ECANCELED) {
			pthread_mutex_unlock(&fake.lock);
			return call_check(call, err);
		}
	}
	pthread_mutex_unlock(&fake.lock);
	resp = pb_new(&crivisor__agent__v1__read_log_response__descriptor);
	resp->offset = req->offset;
	if (fake.output > req->offset) {
		size_t len = fake.output - req->offset < 65536 ? fake.output - req->offset : 65536;

		rec = pb_append(&resp->records, &resp->n_records,
				&crivisor__agent__v1__log_record__descriptor);
		rec->stream = req->offset / 65536 % 2 ? CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR
						      : CRIVISOR__AGENT__V1__STREAM__STREAM_STDOUT;
		rec->data.data = calloc(1, len);
		rec->data.len = len;
		*ret_resp = &resp->base;
		return 0;
	}
	resp->eof = r == 0;
	if (r == 0 && req->offset == 0) {
		rec = pb_append(&resp->records, &resp->n_records,
				&crivisor__agent__v1__log_record__descriptor);
		rec->stream = CRIVISOR__AGENT__V1__STREAM__STREAM_STDOUT;
		rec->data.data = (uint8_t *)strdup("out\n");
		rec->data.len = 4;
	}
	*ret_resp = &resp->base;
	return 0;
}

/* Streams to clients are none of these tests': there is no streaming server, and offers are refused. */
int agent_conn_call_async(struct agent_conn *conn, const struct agent_method *method,
			  const ProtobufCMessage *req, int64_t timeout_ns, agent_reply_fn *reply, void *arg)
{
	(void)conn;
	(void)method;
	(void)req;
	(void)timeout_ns;
	(void)reply;
	(void)arg;
	abort();
}
int agent_stream_open(struct agent_conn *conn, const struct agent_method *method,
		      const ProtobufCMessage *first, agent_stream_fn *on_data, void *arg, struct err *err)
{
	(void)conn;
	(void)method;
	(void)first;
	(void)on_data;
	(void)arg;
	(void)err;
	abort();
}
int agent_stream_send(struct agent_conn *conn, const ProtobufCMessage *msg, bool close)
{
	(void)conn;
	(void)msg;
	(void)close;
	abort();
}
size_t agent_conn_queued(const struct agent_conn *conn)
{
	(void)conn;
	abort();
}
void agent_conn_on_drained(struct agent_conn *conn, void (*drained)(void *arg), void *arg)
{
	(void)conn;
	(void)drained;
	(void)arg;
	abort();
}
void agent_conn_set_reading(struct agent_conn *conn, bool on)
{
	(void)conn;
	(void)on;
	abort();
}
struct agent *agent_ref(struct agent *agent)
{
	(void)agent;
	abort();
}
void agent_unref(struct agent *agent)
{
	(void)agent;
	abort();
}
int agent_state(struct agent *agent, struct err *err)
{
	(void)agent;
	(void)err;
	abort();
}
void agent_watch_add(struct agent *agent, struct agent_watch *watch,
		     void (*fn)(void *arg, const struct err *over), void *arg)
{
	(void)agent;
	(void)watch;
	(void)fn;
	(void)arg;
	abort();
}
void agent_watch_remove(struct agent *agent, struct agent_watch *watch)
{
	(void)agent;
	(void)watch;
	abort();
}
bool log_pump_tap(struct log_pump *pump, struct log_tap *tap)
{
	(void)pump;
	(void)tap;
	abort();
}
void log_pump_untap(struct log_pump *pump, const struct log_tap *tap)
{
	(void)pump;
	(void)tap;
	abort();
}
void log_pump_tap_ready(struct log_pump *pump)
{
	(void)pump;
	abort();
}

/* ---- logs, network, images, roots ---------------------------------------------------------------------- */

struct log_pump {
	char path[256];
};

int log_pump_start(const struct log_pump_options *options, struct call *call, struct log_pump **ret_pump,
		   struct err *err)
{
	SPARED;
	int r = fake_memory(err);

	(void)options;
	(void)call;
	if (r == 0)
		*ret_pump = calloc(1, sizeof(**ret_pump));
	return r;
}
int log_pump_wait_eof(struct log_pump *pump, struct call *call, int64_t deadline_ns)
{
	(void)pump;
	(void)call;
	(void)deadline_ns;
	return 0;
}
int log_pump_reopen(struct log_pump *pump, struct call *call, struct err *err)
{
	(void)pump;
	(void)call;
	(void)err;
	return 0;
}
struct log_pump *log_pump_free(struct log_pump *pump)
{
	free(pump);
	return NULL;
}

int cni_status(struct cni *cni, struct err *err)
{
	(void)cni;
	(void)err;
	return 0;
}
int cni_pod_check(const struct cni_pod *pod, struct err *err)
{
	(void)pod;
	(void)err;
	return 0;
}
int cni_bandwidth_parse(const char *quantity, uint64_t *ret_bps, struct err *err)
{
	(void)quantity;
	(void)err;
	*ret_bps = 1;
	return 0;
}
int cni_add(struct cni *cni, const struct cni_pod *pod, struct call *call, int64_t deadline_ns,
	    struct cni_result *ret_result, struct err *err)
{
	SPARED;
	int r = fake_step(STEP_ADD, call, err);

	(void)cni;
	(void)pod;
	(void)deadline_ns;
	if (r < 0)
		return r;
	err_set(err, -ENOENT, "a first try failed");
	ret_result->n_ips = 1;
	snprintf(ret_result->ips[0].address, sizeof(ret_result->ips[0].address), "10.0.0.2/24");
	pthread_mutex_lock(&fake.lock);
	fake.attached++;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}
int cni_del(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct err *err)
{
	int r = fake_step(STEP_DEL, NULL, err);

	(void)cni;
	(void)pod;
	(void)deadline_ns;
	pthread_mutex_lock(&fake.lock);
	if (r == 0 && fake.attached > 0)
		fake.attached--;
	pthread_mutex_unlock(&fake.lock);
	return r;
}
int cni_check(struct cni *cni, const char *pod_id, int64_t deadline_ns, struct err *err)
{
	(void)cni;
	(void)pod_id;
	(void)deadline_ns;
	fake.checks++;
	return err_set(err, -EIO, "the interface has lost its address");
}
int cni_gc(struct cni *cni, char *const *ids, int64_t deadline_ns, struct err *err)
{
	(void)cni;
	(void)deadline_ns;
	(void)err;
	fake.gcs += 1 + (unsigned int)strv_len(ids) * 100;
	return 0;
}
int cni_end_orphans(const char *netns_dir, struct err *err)
{
	(void)netns_dir;
	(void)err;
	return 0;
}
void cni_result_done(struct cni_result *result)
{
	free(result->json);
	result->json = NULL;
}

int image_get(struct image_store *images, const char *ref, struct image **ret_image, struct err *err)
{
	SPARED;
	int r = fake_step(STEP_IMAGE, NULL, err);

	(void)images;
	(void)ref;
	if (r < 0)
		return r;
	*ret_image = calloc(1, sizeof(**ret_image));
	(*ret_image)->id = strdup("sha256:1");
	for (size_t i = 0; fake.tagged && i < 2; i++) {
		static const char *const repos[] = {"a.b:5000/one", "a.b:5000/two"};
		char text[64];

		snprintf(text, sizeof(text), "%s:tag", repos[i]);
		assert_int_equal(strv_add(&(*ret_image)->repo_tags, text), 0);
		snprintf(text, sizeof(text), "%s@sha256:2", repos[i]);
		assert_int_equal(strv_add(&(*ret_image)->repo_digests, text), 0);
	}
	return 0;
}
/* As many as fake.images. */
int image_list(struct image_store *images, const char *ref, struct image ***ret_list, struct err *err)
{
	struct image **list = calloc(fake.images + 1, sizeof(*list));

	(void)images;
	(void)ref;
	(void)err;
	for (unsigned int i = 0; i < fake.images; i++) {
		list[i] = calloc(1, sizeof(**list));
		list[i]->id = xasprintf("sha256:%u", i);
	}
	*ret_list = list;
	return 0;
}
struct image *image_free(struct image *image)
{
	if (image) {
		free(image->id);
		strv_free(image->repo_tags);
		strv_free(image->repo_digests);
	}
	free(image);
	return NULL;
}

/* Of the kubelet's cgroup for a pod: none here. */
int vmm_cgroup_memory_limit(const char *path, uint64_t *ret_bytes, struct err *err)
{
	(void)ret_bytes;
	return err_set(err, -ENOENT, "no cgroup %s", path);
}

int rootfs_mount(struct rootfs *rootfs, const char *image_id, const char *container_id, const char *target,
		 struct err *err)
{
	int r = fake_step(STEP_ROOT, NULL, err);

	(void)rootfs;
	(void)image_id;
	(void)container_id;
	(void)target;
	if (r == 0) /* the real one, too, may leave words of an error that it got over */
		err_set(err, -ENOENT, "a first try failed");
	pthread_mutex_lock(&fake.lock);
	if (r == 0)
		fake.roots++;
	pthread_mutex_unlock(&fake.lock);
	return r;
}
int rootfs_usage(struct rootfs *rootfs, const char *container_id, uint64_t *ret_bytes, uint64_t *ret_inodes,
		 struct err *err)
{
	(void)rootfs;
	(void)container_id;
	(void)err;
	fake.measured++;
	*ret_bytes = 4096;
	*ret_inodes = 2;
	return 0;
}
bool rootfs_limits(const struct rootfs *rootfs)
{
	(void)rootfs;
	return true;
}
bool rootfs_exceeds(struct rootfs *rootfs, const char *container_id, char *ret_why, size_t size)
{
	bool full;

	(void)rootfs;
	pthread_mutex_lock(&fake.lock);
	fake.looks++;
	full = str_eq(container_id, fake.full);
	pthread_mutex_unlock(&fake.lock);
	if (full)
		snprintf(ret_why, size, "the writable layer takes 3 MiB");
	return full;
}
int rootfs_remove(struct rootfs *rootfs, const char *container_id, struct err *err)
{
	(void)rootfs;
	(void)container_id;
	(void)err;
	pthread_mutex_lock(&fake.lock);
	if (fake.roots > 0)
		fake.roots--;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

/* ---- the room and its life ----------------------------------------------------------------------------- */

int health_ready(struct health *health, uint64_t memory_bytes, struct vmm_choice *ret_choice,
		 const char **ret_reason, struct err *err)
{
	(void)health;
	assert_true(memory_bytes > 0);
	*ret_reason = "NoSpace";
	*ret_choice = (struct vmm_choice){.driver = "fake"};
	return fake_step(STEP_READY, NULL, err);
}

int health_fits_now(struct health *health, uint64_t memory_bytes, struct err *err)
{
	(void)health;
	assert_true(memory_bytes > 0);
	return atomic_load(&fake.host_full) ? err_set(err, -ENOMEM, "the host's memory is taken") : 0;
}

static inline bool events_are(void *want)
{
	bool yes;

	pthread_mutex_lock(&fake.lock);
	yes = str_eq(fake.events, want);
	pthread_mutex_unlock(&fake.lock);
	return yes;
}

static inline void event_letter(char letter)
{
	size_t len;

	pthread_mutex_lock(&fake.lock);
	len = strlen(fake.events);
	if (len + 1 < sizeof(fake.events))
		fake.events[len] = letter;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
}

/* Is told of all that happens, too. */
static struct pods_hooks fake_listener;

static inline void on_pod(void *arg, enum pods_event event, const struct pod_view *pod)
{
	(void)arg;
	assert_non_null(pod->config);
	if (fake_listener.pod)
		fake_listener.pod(fake_listener.arg, event, pod);
	event_letter("RNX----"[event]);
}
static inline void on_container(void *arg, enum pods_event event, const struct container_view *container)
{
	(void)arg;
	assert_non_null(container->config);
	if (fake_listener.container)
		fake_listener.container(fake_listener.arg, event, container);
	event_letter("---cser"[event]);
}
static inline void on_stats(void *arg, const struct container_view *container, const ProtobufCMessage *stats)
{
	(void)arg;
	(void)container;
	assert_ptr_equal(stats->descriptor, &crivisor__agent__v1__stats_response__descriptor);
	event_letter('m');
}

static inline void *run_loop(void *arg)
{
	(void)arg;
	assert_int_equal(loop_run(fake.loop, NULL), 0);
	fake.pods = pods_free(fake.pods);
	fake.loop = loop_free(fake.loop);
	return NULL;
}

/* A server's start, on what is in fake.dir. unclaimed_ms 0: as users have it. */
static inline void begin_room(int64_t unclaimed_ms)
{
	static const struct pods_hooks hooks = {.pod = on_pod, .container = on_container, .stats = on_stats};
	struct pods_parts parts = {.config = &fake.config,
				   .unclaimed_ns = unclaimed_ms * NS_PER_MS,
				   .adopt_wait_ns = fake.adopt_wait_ns,
				   .layers_ns = fake.layers_ns};
	struct err err = ERR_INIT;

	assert_int_equal(loop_new(&fake.loop, &err), 0);
	assert_int_equal(workers_new(&fake.workers, &err), 0);
	assert_int_equal(store_open(fake.dir, &fake.store, &err), 0);
	parts.loop = fake.loop;
	parts.workers = fake.workers;
	parts.store = fake.store;
	memset(fake.events, 0, sizeof(fake.events));
	assert_int_equal(pods_new(&parts, &hooks, &fake.pods, &err), 0);
	assert_int_equal(pthread_create(&fake.thread, NULL, run_loop, NULL), 0);
	if (pods_recover(fake.pods, &err) < 0)
		fail_msg("%s", err.msg);
}

static inline void let_all_go(void)
{
	for (int i = 0; i < STEPS; i++) {
		let_go((enum step)i);
		fail_step((enum step)i, 0);
	}
}

static inline bool no_jobs(void *arg)
{
	(void)arg;
	for (int i = 0; i < LANES; i++) {
		unsigned int running, queued;

		workers_load(fake.workers, (enum workers_lane)i, &running, &queued);
		if (running + queued > 0)
			return false;
	}
	return true;
}

static inline void posted(void *arg)
{
	atomic_store((atomic_bool *)arg, true);
}
static inline bool is_true(void *arg)
{
	return atomic_load((atomic_bool *)arg);
}
/* What was posted to the loop has run. */
static inline void settle(void)
{
	SPARED;
	for (int i = 0; i < 3; i++) {
		atomic_bool ran = false;

		eventually(no_jobs, NULL, "jobs do not end");
		assert_int_equal(loop_post(fake.loop, posted, &ran), 0);
		eventually(is_true, &ran, "the loop does not run");
	}
	eventually(no_jobs, NULL, "jobs do not end");
}

/* The end of the server; its guests live on in fake.guest. */
static inline void end_room(void)
{
	struct err err = ERR_INIT;

	let_all_go();
	pods_close(fake.pods);
	settle();
	err_set_status(&err, -ECONNRESET, ERR_UNAVAILABLE, "the server ends");
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++)
		guest_reply(&fake.guest[i], &err);
	settle();
	assert_true(workers_stop(fake.workers, LONG_NS));
	loop_stop(fake.loop);
	pthread_join(fake.thread, NULL);
	fake.workers = workers_free(fake.workers, LONG_NS);
	fake.store = store_close(fake.store);
	fake.sandboxes = 0; /* the next server counts those that it adopts */
}

static inline int fake_setup(void **state)
{
	char logs[128];

	(void)state;
	memset(&fake, 0, sizeof(fake));
	pthread_mutex_init(&fake.lock, NULL);
	cond_init(&fake.changed);
	cond_init(&fake.told);
	snprintf(fake.dir, sizeof(fake.dir), "/tmp/crv-pods-XXXXXX");
	assert_non_null(mkdtemp(fake.dir));
	snprintf(logs, sizeof(logs), "%s/logs", fake.dir);
	mkdir(logs, 0700);
	fake.config.server.state_dir = fake.dir;
	fake.config.server.run_dir = fake.dir;
	fake.config.sandbox.cgroup_parent = (char *)(uintptr_t) "/crivisor";
	fake.vcpus = 1;
	fake.config.hypervisor.vcpus = 1;
	fake.config.hypervisor.memory_bytes = 256 << 20;
	log_set_level(LOG_LEVEL_ERROR);
	begin_room(0);
	return 0;
}

static inline int fake_teardown(void **state)
{
	(void)state;
	if (fake.pods)
		end_room();
	last_sandbox = sandbox_unref(last_sandbox);
	assert_int_equal(remove_tree(fake.dir), 0);
	pthread_cond_destroy(&fake.changed);
	pthread_mutex_destroy(&fake.lock);
	return 0;
}

/* ---- requests and answers ------------------------------------------------------------------------------ */

struct answer {
	struct call *call;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int times;
	char id[65];
	struct err err;
};

static inline void on_answer(void *arg, const char *id, const struct err *err)
{
	struct answer *a = arg;

	pthread_mutex_lock(&a->lock);
	a->times++;
	snprintf(a->id, sizeof(a->id), "%s", id);
	a->err = *err;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
}

static inline void answer_init(struct answer *a)
{
	SPARED;
	memset(a, 0, sizeof(*a));
	assert_int_equal(call_new(INT64_MAX, &a->call, NULL), 0);
	pthread_mutex_init(&a->lock, NULL);
	cond_init(&a->changed);
}

/* Waits for the answer: its code. */
static inline int answer_wait(struct answer *a)
{
	int r = 0;

	pthread_mutex_lock(&a->lock);
	while (a->times == 0 && r == 0)
		r = cond_wait_until(&a->changed, &a->lock, now_monotonic_ns() + LONG_NS);
	pthread_mutex_unlock(&a->lock);
	if (r < 0)
		fail_msg("no answer");
	assert_int_equal(a->times, 1);
	return a->err.code;
}

static inline bool answered(struct answer *a)
{
	bool yes;

	pthread_mutex_lock(&a->lock);
	yes = a->times > 0;
	pthread_mutex_unlock(&a->lock);
	return yes;
}

static inline void answer_done(struct answer *a)
{
	a->call = call_unref(a->call);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
}

static inline void leave(struct answer *a)
{
	call_cancel(a->call, "the client has left");
	assert_int_equal(answer_wait(a), -ECANCELED);
}

static inline Runtime__V1__PodSandboxConfig *pod_config(const char *name)
{
	SPARED;
	Runtime__V1__PodSandboxConfig *c = pb_new(&runtime__v1__pod_sandbox_config__descriptor);

	c->metadata = pb_new(&runtime__v1__pod_sandbox_metadata__descriptor);
	pb_set_str(&c->metadata->name, name);
	pb_set_str(&c->metadata->namespace_, "default");
	pb_set_str(&c->metadata->uid, "uid");
	return c;
}

static inline Runtime__V1__ContainerConfig *container_config(const char *name)
{
	SPARED;
	Runtime__V1__ContainerConfig *c = pb_new(&runtime__v1__container_config__descriptor);

	c->metadata = pb_new(&runtime__v1__container_metadata__descriptor);
	c->image = pb_new(&runtime__v1__image_spec__descriptor);
	pb_set_str(&c->metadata->name, name);
	pb_set_str(&c->image->image, "busybox");
	pb_set_strv(&c->command, &c->n_command, (char *const[]){(char *)(uintptr_t) "sh"}, 1);
	return c;
}

static inline void ask_run(struct answer *a, const char *name)
{
	Runtime__V1__PodSandboxConfig *config = pod_config(name);

	answer_init(a);
	pods_run(fake.pods, config, "", a->call, on_answer, a);
	pb_free(config);
}

static inline void ask_create(struct answer *a, const char *pod_id, const char *name)
{
	Runtime__V1__ContainerConfig *config = container_config(name);

	answer_init(a);
	containers_create(fake.pods, pod_id, config, a->call, on_answer, a);
	pb_free(config);
}

/* Waits for a good answer. */
static inline void expect(struct answer *a, char ret_id[65])
{
	if (answer_wait(a) < 0)
		fail_msg("%s", a->err.msg);
	if (ret_id)
		snprintf(ret_id, 65, "%s", a->id);
	answer_done(a);
}

static inline void expect_error(struct answer *a, enum err_status status, const char *words)
{
	assert_true(answer_wait(a) < 0);
	if (!strstr(a->err.msg, words))
		fail_msg("\"%s\" does not contain \"%s\"", a->err.msg, words);
	assert_int_equal(a->err.status, status);
	answer_done(a);
}

static inline void run_pod(const char *name, char ret_id[65])
{
	struct answer a;

	ask_run(&a, name);
	expect(&a, ret_id);
}

static inline void create(const char *pod_id, const char *name, char ret_id[65])
{
	struct answer a;

	ask_create(&a, pod_id, name);
	expect(&a, ret_id);
}

typedef void simple_fn(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg);

static inline void ask(struct answer *a, simple_fn *fn, const char *id)
{
	answer_init(a);
	fn(fake.pods, id, a->call, on_answer, a);
}

static inline void do_it(simple_fn *fn, const char *id)
{
	struct answer a;

	ask(&a, fn, id);
	expect(&a, NULL);
}

static inline void ask_stop(struct answer *a, const char *id, int64_t timeout_s)
{
	answer_init(a);
	containers_stop(fake.pods, id, timeout_s, a->call, on_answer, a);
}

/* ---- looking ------------------------------------------------------------------------------------------- */

static inline int count_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	unsigned int *n = arg;

	(void)pod;
	(void)err;
	(*n)++;
	return 0;
}
static inline unsigned int listed_pods(void)
{
	unsigned int n = 0;

	assert_int_equal(pods_each(fake.pods, NULL, count_pod, &n, NULL), 0);
	return n;
}
static inline int count_container(void *arg, const struct container_view *c, struct err *err)
{
	unsigned int *n = arg;

	(void)c;
	(void)err;
	(*n)++;
	return 0;
}
static inline unsigned int listed_containers(void)
{
	unsigned int n = 0;

	assert_int_equal(containers_each(fake.pods, NULL, NULL, count_container, &n, NULL), 0);
	return n;
}

struct pod_copy {
	bool ready;
	char reason[256], ip[64];
};
static inline int copy_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	struct pod_copy *c = arg;

	(void)err;
	c->ready = pod->ready;
	snprintf(c->reason, sizeof(c->reason), "%s", pod->reason);
	snprintf(c->ip, sizeof(c->ip), "%s", pod->n_ips ? pod->ips[0] : "");
	return 0;
}
static inline struct pod_copy look_pod(const char *id)
{
	struct pod_copy c = {0};

	assert_int_equal(pods_look(fake.pods, id, copy_pod, &c, NULL), 0);
	return c;
}

struct container_copy {
	enum container_state state;
	int32_t code;
	char reason[64], message[256];
};
static inline int copy_container(void *arg, const struct container_view *v, struct err *err)
{
	struct container_copy *c = arg;

	(void)err;
	c->state = v->state;
	c->code = v->exit_code;
	snprintf(c->reason, sizeof(c->reason), "%s", v->reason);
	snprintf(c->message, sizeof(c->message), "%s", v->message);
	return 0;
}
static inline struct container_copy look(const char *id)
{
	struct container_copy c = {0};

	assert_int_equal(containers_look(fake.pods, id, copy_container, &c, NULL), 0);
	return c;
}

static inline int count_row(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	unsigned int *n = arg;

	(void)id;
	(void)name;
	(void)value;
	(void)len;
	(*n)++;
	return 0;
}

/* Neither object nor row, step, sandbox, network or root is left. */
static inline void assert_nothing_left(void)
{
	char **owners CLEANUP_STRV = NULL;
	unsigned int rows = 0;

	settle();
	assert_int_equal(listed_pods(), 0);
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(store_each(fake.store, "pod", count_row, &rows, NULL), 0);
	assert_int_equal(store_each(fake.store, "container", count_row, &rows, NULL), 0);
	assert_int_equal(rows, 0);
	assert_int_equal(journal_owners(fake.store, &owners, NULL), 0);
	assert_int_equal(strv_len(owners), 0);
	assert_int_equal(fake.sandboxes, 0);
	assert_int_equal(fake.attached, 0);
	assert_int_equal(fake.roots, 0);
}

#endif
