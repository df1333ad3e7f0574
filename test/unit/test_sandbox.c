/* SPDX-License-Identifier: Apache-2.0 */
/* Sandboxes over the fake driver: boot, assignment, death, shutdown, adoption, undo. */
#include "base/util.h"
#include "cri/sandbox/sandbox.h"
#include "fake_sandbox.h"
#include "loop_fixture.h"

#include <dirent.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define CID "0123456789abcdef"

struct fixture {
	struct looping l;
	struct store *store;
	struct sandboxes *room;
	char dir[64], run_dir[80];
	struct vmm_config hypervisor;
};

static int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	struct sandboxes_options options = {0};
	char path[160];

	assert_non_null(x);
	snprintf(x->dir, sizeof(x->dir), "/tmp/crv-sandbox-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	snprintf(x->run_dir, sizeof(x->run_dir), "%s/run", x->dir);
	snprintf(path, sizeof(path), "%s/pods", x->run_dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/netns", x->run_dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	looping_start(&x->l);
	assert_int_equal(store_open(x->dir, &x->store, NULL), 0);
	options = (struct sandboxes_options){.hypervisor = &x->hypervisor,
					     .run_dir = x->run_dir,
					     .loop = x->l.loop,
					     .workers = x->l.workers,
					     .store = x->store,
					     .boots = 2,
					     .driver = &fake_sandbox_driver};
	assert_int_equal(sandboxes_new(&options, &x->room, NULL), 0);
	*state = x;
	return 0;
}

static unsigned int entries(const char *dir, const char *sub)
{
	char path[256];
	unsigned int n = 0;
	struct dirent *de;
	DIR *d;

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	d = opendir(path);
	assert_non_null(d);
	while ((de = readdir(d)))
		n += de->d_name[0] != '.';
	closedir(d);
	return n;
}

static void assert_nothing_left(struct fixture *x)
{
	char **owners = NULL;

	assert_int_equal(entries(x->run_dir, "pods"), 0);
	assert_int_equal(entries(x->run_dir, "netns"), 0);
	assert_int_equal(fake_sandbox_running(), 0);
	assert_int_equal(journal_owners(x->store, &owners, NULL), 0);
	assert_true(!owners || !owners[0]);
	strv_free(owners);
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	workers_stop(x->l.workers, 20 * NS_PER_SEC);
	looping_turn(&x->l);
	looping_turn(&x->l);
	looping_stop(&x->l);
	sandboxes_free(x->room); /* asserts that no sandbox is left */
	assert_nothing_left(x);
	fake_sandbox_reset();
	store_close(x->store);
	remove_tree(x->dir);
	free(x);
	return 0;
}

/* ---- an owner, as a pod is ----------------------------------------------------------------------------- */

struct owner {
	struct fixture *x;
	struct sandbox *sandbox;
	atomic_int deaths, reconnects, networks;
	char why[SANDBOX_WHY_MAX]; /* read once deaths is set */
	int status;
	int network_code;
};

static void died(void *arg, const char *why, int status)
{
	struct owner *o = arg;

	must(loop_on_thread(o->x->l.loop));
	snprintf(o->why, sizeof(o->why), "%s", why);
	o->status = status;
	atomic_fetch_add(&o->deaths, 1);
}

static void reconnected(void *arg)
{
	struct owner *o = arg;

	atomic_fetch_add(&o->reconnects, 1);
}

static struct sandbox_hooks hooks_of(struct owner *o)
{
	return (struct sandbox_hooks){.died = died, .reconnected = reconnected, .arg = o};
}

static void own(struct fixture *x, struct owner *o)
{
	struct sandbox_hooks hooks = hooks_of(o);

	*o = (struct owner){.x = x};
	assert_int_equal(sandbox_new(x->room, &hooks, &o->sandbox, NULL), 0);
}

static int network(void *arg, const char *netns, struct err *err)
{
	struct owner *o = arg;

	must(str_eq(netns, sandbox_netns(o->sandbox)));
	must(access(netns, F_OK) == 0);
	atomic_fetch_add(&o->networks, 1);
	return o->network_code < 0 ? err_set_errno(err, o->network_code, "the network") : 0;
}

static int boot(struct owner *o, struct call *call, struct err *err)
{
	static const struct vmm_choice choice = {.driver = "fake", .accel = "kvm"};
	const struct sandbox_spec spec = {.choice = &choice,
					  .vcpus = 1,
					  .memory_bytes = 64 << 20,
					  .cgroup_parent = "/test",
					  .network = network,
					  .network_arg = o};

	return sandbox_boot(o->sandbox, call, &spec, err);
}

static void disown(struct owner *o)
{
	struct fixture *x = o->x;
	char id[SANDBOX_ID_MAX];

	snprintf(id, sizeof(id), "%s", sandbox_id(o->sandbox));
	sandbox_forget_hooks(o->sandbox);
	assert_int_equal(sandbox_kill(o->sandbox, "the test is over", now_monotonic_ns() + NS_PER_SEC, NULL),
			 0);
	assert_int_equal(sandboxes_undo(x->room, id, NULL), 0);
	o->sandbox = sandbox_unref(o->sandbox);
}

static void assert_dead(struct sandbox *s, const char *why)
{
	struct err err = ERR_INIT;
	struct agent *agent;

	assert_true(sandbox_is_dead(s));
	assert_true(sandbox_agent(s, &agent, &err) < 0);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
	assert_non_null(strstr(err.msg, why));
}

/* ---- boot ---------------------------------------------------------------------------------------------- */

static void boot_gives_an_agent_and_a_place(void **state)
{
	struct fixture *x = *state;
	struct sandbox_info info;
	struct agent *agent;
	struct owner o;

	own(x, &o);
	assert_int_equal(strlen(sandbox_id(o.sandbox)), 64);
	assert_true(sandbox_agent(o.sandbox, &agent, NULL) < 0);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(atomic_load(&o.networks), 1);
	assert_int_equal(sandbox_agent(o.sandbox, &agent, NULL), 0);
	assert_int_equal(sandbox_info(o.sandbox, &info, NULL), 0);
	assert_string_equal(info.boot_id, sandbox_id(o.sandbox));
	assert_int_equal(info.epoch, 1);
	assert_string_equal(info.machine.driver, "fake");
	assert_true(str_starts(info.cgroup, "/test/crivisor-"));
	assert_int_equal(access(sandbox_dir(o.sandbox), F_OK), 0);
	assert_int_equal(boot(&o, NULL, NULL), -EBUSY);
	disown(&o);
}

static void boot_refuses_a_bad_cgroup_parent_and_makes_nothing(void **state)
{
	static const char *const bad[] = {"", "relative", "/a/../b", "/a/.."};
	static const struct vmm_choice choice = {.driver = "fake", .accel = "kvm"};
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	char deep[600];
	struct owner o;

	own(x, &o);
	for (size_t i = 0; i <= ARRAY_SIZE(bad); i++) {
		struct sandbox_spec spec = {.choice = &choice,
					    .cgroup_parent = i < ARRAY_SIZE(bad) ? bad[i] : deep};

		memset(deep, 'a', sizeof(deep));
		deep[0] = '/';
		deep[500] = 0;
		assert_int_equal(sandbox_boot(o.sandbox, NULL, &spec, &err), -EINVAL);
		assert_nothing_left(x);
	}
	disown(&o);
}

static void boot_that_fails_at_any_step_is_undone(void **state)
{
	struct fixture *x = *state;
	static const enum fake_step steps[] = {FAKE_PREPARE, FAKE_START};

	for (size_t i = 0; i < ARRAY_SIZE(steps) + 1; i++) {
		struct err err = ERR_INIT;
		struct owner o;

		own(x, &o);
		if (i < ARRAY_SIZE(steps))
			fake_sandbox_fail(steps[i], -EIO);
		else
			o.network_code = -ENETDOWN;
		assert_true(boot(&o, NULL, &err) < 0);
		assert_true(err.msg[0]);
		assert_dead(o.sandbox, "");
		assert_int_equal(fake_sandbox_running(), 0);
		disown(&o);
		assert_nothing_left(x);
		assert_int_equal(atomic_load(&o.deaths), 0);
	}
}

static void boot_mute_death_is_started_once_more(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct err err = ERR_INIT;

	own(x, &o);
	fake_sandbox_mute(1);
	assert_int_equal(boot(&o, NULL, &err), 0);
	assert_int_equal(fake_sandbox_count(FAKE_START), 2);
	assert_int_equal(fake_sandbox_running(), 1);
	disown(&o);
	own(x, &o);
	fake_sandbox_mute(2);
	assert_true(boot(&o, NULL, &err) < 0);
	assert_non_null(strstr(err.msg, "on the second try"));
	assert_int_equal(fake_sandbox_count(FAKE_START), 4);
	disown(&o);
}

static void boot_ends_at_its_deadline(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int64_t before = now_monotonic_ns();
	struct owner o;

	own(x, &o);
	fake_sandbox_new_agents_hang("Check");
	assert_int_equal(call_new(before + 200 * NS_PER_MS, &call, NULL), 0);
	assert_int_equal(boot(&o, call, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	assert_true(now_monotonic_ns() - before < 5 * NS_PER_SEC);
	assert_int_equal(fake_sandbox_running(), 0);
	disown(&o);
}

struct booting {
	struct owner *o;
	struct call *call;
	pthread_t thread;
	struct err err;
	int r;
};

static void *boot_thread(void *arg)
{
	struct booting *b = arg;

	b->r = boot(b->o, b->call, &b->err);
	return NULL;
}

/* What ends a boot in each of its phases. */
static void boot_cancelled_in_any_phase_ends_at_once(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 6; i++) {
		struct call *call CLEANUP_CALL = NULL;
		struct booting b;
		struct owner o;
		int64_t before;

		own(x, &o);
		assert_int_equal(call_new(INT64_MAX, &call, NULL), 0);
		b = (struct booting){.o = &o, .call = call, .err = ERR_INIT};
		fake_sandbox_new_agents_hang(i < 3 ? "Check" : NULL);
		fake_sandbox_slow(FAKE_START, i < 3 ? 0 : 60 * NS_PER_SEC);
		pthread_create(&b.thread, NULL, boot_thread, &b);
		if (i < 3)
			AWAIT(fake_sandbox_agent(o.sandbox) &&
			      fake_agent_calls(fake_sandbox_agent(o.sandbox), "Check") > 0);
		else
			AWAIT(fake_sandbox_count(FAKE_START) == (unsigned int)i + 1);
		before = now_monotonic_ns();
		if (i % 3 == 0)
			call_cancel(call, "the client left");
		else if (i % 3 == 1)
			sandbox_condemn(o.sandbox, "it is not wanted");
		else
			assert_int_equal(
				sandbox_kill(o.sandbox, "it is not wanted", before + NS_PER_SEC, NULL), 0);
		pthread_join(b.thread, NULL);
		assert_true(now_monotonic_ns() - before < 3 * NS_PER_SEC);
		assert_int_equal(b.r, -ECANCELED);
		assert_string_equal(b.err.msg, i % 3 == 0 ? "the client left" : "it is not wanted");
		assert_int_equal(fake_sandbox_running(), 0);
		fake_sandbox_slow(FAKE_START, 0);
		disown(&o);
		assert_int_equal(atomic_load(&o.deaths), 0);
	}
	fake_sandbox_new_agents_hang(NULL);
}

static void boot_waits_for_its_turn_within_its_call(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	struct booting b[2];
	struct owner o[2], third;
	unsigned int running, waiting;
	struct err err = ERR_INIT;

	fake_sandbox_slow(FAKE_START, 60 * NS_PER_SEC);
	for (int i = 0; i < 2; i++) {
		own(x, &o[i]);
		b[i] = (struct booting){.o = &o[i]};
		pthread_create(&b[i].thread, NULL, boot_thread, &b[i]);
	}
	AWAIT(fake_sandbox_count(FAKE_START) == 2);
	sandboxes_boots(x->room, &running, &waiting);
	assert_int_equal(running, 2);
	assert_int_equal(waiting, 0);
	own(x, &third);
	assert_int_equal(call_new(now_monotonic_ns() + 100 * NS_PER_MS, &call, NULL), 0);
	assert_int_equal(boot(&third, call, &err), -ETIMEDOUT);
	assert_int_equal(fake_sandbox_count(FAKE_PREPARE), 2);
	for (int i = 0; i < 2; i++) {
		sandbox_condemn(o[i].sandbox, "enough");
		pthread_join(b[i].thread, NULL);
		disown(&o[i]);
	}
	disown(&third);
}

/* ---- assignment and places ----------------------------------------------------------------------------- */

static int assign(struct owner *o, const char *hostname, struct err *err)
{
	static const struct sandbox_sysctl sysctls[] = {{"net.core.somaxconn", "100"}};
	struct cni_result result = {0};
	const struct sandbox_assignment a = {.pod_id = "pod",
					     .hostname = hostname,
					     .network = &result,
					     .ifname = "eth0",
					     .sysctls = sysctls,
					     .n_sysctls = 1,
					     .resolv_conf = "nameserver 10.0.0.1\n",
					     .hosts = "127.0.0.1\tlocalhost\n"};

	return sandbox_assign(o->sandbox, NULL, &a, err);
}

static void assign_writes_files_and_tells_the_guest_once(void **state)
{
	struct fixture *x = *state;
	char path[512], *text = NULL;
	struct owner o;
	struct err err = ERR_INIT;
	char name[66];

	own(x, &o);
	assert_true(assign(&o, "early", &err) < 0);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	memset(name, 'a', 65);
	name[65] = 0;
	assert_int_equal(assign(&o, name, &err), -EINVAL);
	assert_int_equal(assign(&o, "name", &err), 0);
	assert_int_equal(fake_agent_calls(fake_sandbox_agent(o.sandbox), "SetupSandbox"), 1);
	snprintf(path, sizeof(path), "%s/mounts/hostname", sandbox_dir(o.sandbox));
	assert_int_equal(read_file(path, 1000, &text, NULL), 0);
	assert_string_equal(text, "name\n");
	free(text);
	assert_int_equal(assign(&o, "name", &err), -EBUSY);
	disown(&o);
}

static void places_are_made_and_removed(void **state)
{
	struct fixture *x = *state;
	char guest[SANDBOX_PATH_MAX];
	struct sandbox_place place;
	struct owner o;
	struct err err = ERR_INIT;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(sandbox_place(o.sandbox, "../x", &place, &err), -EINVAL);
	assert_int_equal(sandbox_place(o.sandbox, "", &place, &err), -EINVAL);
	assert_int_equal(sandbox_place(o.sandbox, CID, &place, &err), 0);
	assert_int_equal(sandbox_place_make(o.sandbox, CID, &err), 0);
	assert_int_equal(sandbox_place_make(o.sandbox, CID, &err), 0);
	assert_int_equal(access(place.rootfs, F_OK), 0);
	assert_string_equal(place.bundle, "/run/kuasar/state/" CID);
	assert_int_equal(sandbox_place_write(o.sandbox, CID, "config.json", "{}", &err), 0);
	assert_int_equal(sandbox_place_write(o.sandbox, CID, "../config.json", "{}", &err), -EINVAL);
	assert_int_equal(sandbox_bind(o.sandbox, CID, x->dir, true, false, guest, &err), 0);
	assert_string_equal(guest, "/run/kuasar/state/volumes/fake");
	assert_int_equal(sandbox_bind(o.sandbox, CID, "/does/not/exist", true, false, guest, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/does/not/exist"));
	assert_int_equal(sandbox_place_remove(o.sandbox, CID, false, &err), 0);
	assert_int_equal(sandbox_place_remove(o.sandbox, CID, false, &err), 0);
	assert_int_equal(access(place.dir, F_OK), -1);
	disown(&o);
}

static const char *const with_online[] = {"online-resources", NULL};

static void assert_size(const struct owner *o, uint32_t vcpus, uint64_t memory_bytes)
{
	struct vm_size size;

	assert_int_equal(sandbox_size(o->sandbox, &size, NULL), 0);
	assert_int_equal(size.vcpus, vcpus);
	assert_int_equal(size.memory_bytes, memory_bytes);
}

static void resize_brings_online_what_was_plugged(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct err err = ERR_INIT;
	struct fake_agent *agent;

	fake_sandbox_features(with_online);
	own(x, &o);
	assert_true(sandbox_resize(o.sandbox, NULL, 2, 0, NULL, &err) < 0);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	agent = fake_sandbox_agent(o.sandbox);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 2, 0, NULL, &err), 0);
	assert_int_equal(fake_agent_calls(agent, "OnlineResources"), 1);
	/* Memory is compared with what there was before. */
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 0, 192 << 20, NULL, &err), 0);
	assert_int_equal(fake_agent_calls(agent, "OnlineResources"), 3);
	assert_size(&o, 2, 192 << 20);
	/* What shrinks, and limits alone, are none of the guest's business. */
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 1, 64 << 20, NULL, &err), 0);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 0, 0, NULL, &err), 0);
	assert_int_equal(fake_agent_calls(agent, "OnlineResources"), 3);
	assert_size(&o, 1, 64 << 20);
	disown(&o);
}

static void resize_that_fails_leaves_the_former_size(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct err err = ERR_INIT;
	struct fake_agent *agent;

	fake_sandbox_features(with_online);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	agent = fake_sandbox_agent(o.sandbox);
	fake_sandbox_fail(FAKE_RESIZE, -EINVAL);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 2, 0, NULL, &err), -EINVAL);
	assert_size(&o, 1, 64 << 20);
	/* Plugged, and the guest does not bring it online. */
	fake_agent_set_size(agent, 1, 60 << 20);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 2, 0, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.msg, "1 of 2 vCPUs"));
	assert_size(&o, 1, 64 << 20);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 0, 192 << 20, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.msg, "62914560 bytes"));
	assert_size(&o, 1, 64 << 20);
	fake_agent_fail(agent, "OnlineResources", -EIO, "no");
	assert_true(sandbox_resize(o.sandbox, NULL, 0, 192 << 20, NULL, &err) < 0);
	assert_size(&o, 1, 64 << 20);
	disown(&o);
}

static void resize_with_an_agent_that_cannot_is_refused(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct err err = ERR_INIT;

	fake_sandbox_features(NULL);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 2, 0, NULL, &err), -EOPNOTSUPP);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
	assert_int_equal(sandbox_resize(o.sandbox, NULL, 0, 0, NULL, &err), 0);
	assert_size(&o, 1, 64 << 20);
	disown(&o);
}

/* ---- death --------------------------------------------------------------------------------------------- */

static void death_of_the_machine_is_told_once(void **state)
{
	struct fixture *x = *state;
	char why[SANDBOX_WHY_MAX];
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	fake_sandbox_end(o.sandbox, "the VMM was killed by signal 9", 137);
	AWAIT(atomic_load(&o.deaths) == 1);
	assert_string_equal(o.why, "the VMM was killed by signal 9");
	assert_int_equal(o.status, 137);
	assert_dead(o.sandbox, "killed by signal 9");
	sandbox_why(o.sandbox, why);
	assert_string_equal(why, o.why);
	sandbox_condemn(o.sandbox, "again");
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&o.deaths), 1);
	disown(&o);
}

static void condemned_is_killed_and_told(void **state)
{
	struct fixture *x = *state;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	sandbox_condemn(o.sandbox, "it does not end a container");
	assert_dead(o.sandbox, "it does not end a container");
	AWAIT(atomic_load(&o.deaths) == 1);
	AWAIT(fake_sandbox_running() == 0);
	disown(&o);
}

static void death_tells_nobody_after_forget_and_after_kill(void **state)
{
	struct fixture *x = *state;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	sandbox_forget_hooks(o.sandbox);
	fake_sandbox_end(o.sandbox, "gone", 1);
	AWAIT(sandbox_is_dead(o.sandbox));
	looping_turn(&x->l);
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&o.deaths), 0);
	disown(&o);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(sandbox_kill(o.sandbox, "stopped", now_monotonic_ns() + NS_PER_SEC, NULL), 0);
	looping_turn(&x->l);
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&o.deaths), 0);
	assert_dead(o.sandbox, "stopped");
	disown(&o);
}

static void broken_connection_is_no_death(void **state)
{
	struct fixture *x = *state;
	struct sandbox_info info;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	for (int i = 1; i <= 3; i++) {
		fake_agent_cut(fake_sandbox_agent(o.sandbox));
		AWAIT(atomic_load(&o.reconnects) == i);
	}
	assert_int_equal(sandbox_info(o.sandbox, &info, NULL), 0);
	assert_int_equal(info.epoch, 4);
	assert_int_equal(atomic_load(&o.deaths), 0);
	disown(&o);
}

/* fault S1: the guest's clock is right before the pod's first container can be made. */
static void clock_that_is_off_is_set_at_assign(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct fake_agent *agent;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	agent = fake_sandbox_agent(o.sandbox);
	fake_agent_set_clock(agent, -1600 * NS_PER_MS);
	assert_int_equal(assign(&o, "pod", NULL), 0);
	assert_true(llabs(fake_agent_clock(agent)) < 100 * NS_PER_MS);
	disown(&o);
}

/* Fault G: a look that fails at once, for want of a connection, is not the last one. */
static void health_is_looked_at_after_a_look_that_failed_at_once(void **state)
{
	struct fixture *x = *state;
	struct sandboxes_options options = {.hypervisor = &x->hypervisor,
					    .run_dir = x->run_dir,
					    .loop = x->l.loop,
					    .workers = x->l.workers,
					    .store = x->store,
					    .boots = 2,
					    .driver = &fake_sandbox_driver,
					    .health_every_ns = 5 * NS_PER_MS};
	struct fake_agent *fake;
	struct owner o;

	x->room = sandboxes_free(x->room);
	assert_int_equal(sandboxes_new(&options, &x->room, NULL), 0);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	fake = fake_sandbox_agent(o.sandbox);
	fake_agent_refuse(fake, -ECONNREFUSED);
	fake_agent_cut(fake);
	usleep(100000);
	fake_agent_refuse(fake, 0);
	AWAIT(atomic_load(&o.reconnects) == 1);
	assert_int_equal(atomic_load(&o.deaths), 0);
	/* The connection stands: only a look can tell that another boot answers. */
	fake_agent_set_boot(fake, "another");
	AWAIT(atomic_load(&o.deaths) == 1);
	disown(&o);
}

static void clock_that_is_off_is_set_when_the_guest_comes_back(void **state)
{
	struct fixture *x = *state;
	struct owner o;
	struct fake_agent *agent;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	agent = fake_sandbox_agent(o.sandbox);
	usleep(20000);
	assert_int_equal(fake_agent_calls(agent, "SyncClock"), 0); /* the assignment's */
	fake_agent_set_clock(agent, -3600 * NS_PER_SEC);	   /* as after a snapshot of an hour ago */
	fake_agent_cut(agent);
	AWAIT(llabs(fake_agent_clock(agent)) < NS_PER_SEC);
	/* Slightly off is left alone. */
	fake_agent_set_clock(agent, 30 * NS_PER_MS);
	fake_agent_cut(agent);
	fake_agent_await(agent, "SyncClock", 3);
	usleep(20000);
	assert_int_equal(fake_agent_clock(agent), 30 * NS_PER_MS);
	disown(&o);
}

static void other_boot_behind_the_connection_is_death(void **state)
{
	struct fixture *x = *state;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	fake_agent_set_boot(fake_sandbox_agent(o.sandbox), "another");
	fake_agent_cut(fake_sandbox_agent(o.sandbox));
	AWAIT(atomic_load(&o.deaths) == 1);
	assert_string_equal(o.why, "the guest was reset");
	AWAIT(fake_sandbox_running() == 0);
	disown(&o);
}

static void deaths_at_any_moment_leave_nothing(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 30; i++) {
		struct owner o;
		struct booting b;

		own(x, &o);
		b = (struct booting){.o = &o};
		pthread_create(&b.thread, NULL, boot_thread, &b);
		usleep((useconds_t)(i * 97) % 3000);
		if (i % 3 == 0)
			sandbox_condemn(o.sandbox, "any moment");
		else if (i % 3 == 1)
			fake_sandbox_end(o.sandbox, "any moment", 1);
		else
			(void)sandbox_kill(o.sandbox, "any moment", now_monotonic_ns() + NS_PER_SEC, NULL);
		pthread_join(b.thread, NULL);
		disown(&o);
		assert_nothing_left(x);
	}
}

/* ---- shutdown ------------------------------------------------------------------------------------------ */

static const char *const with_shutdown[] = {"shutdown", NULL};

static void shutdown_asks_an_agent_that_can(void **state)
{
	struct fixture *x = *state;
	bool synced = false;
	struct owner o;

	fake_sandbox_features(with_shutdown);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	fake_agent_answer(fake_sandbox_agent(o.sandbox), "Shutdown", "\x08\x01", 2);
	assert_int_equal(
		sandbox_shutdown(o.sandbox, NULL, now_monotonic_ns() + 10 * NS_PER_SEC, &synced, NULL), 0);
	assert_true(synced);
	assert_int_equal(fake_sandbox_running(), 0);
	assert_int_equal(fake_agent_calls(fake_sandbox_agent(o.sandbox), "Shutdown"), 1);
	/* Again: nothing more to do. */
	assert_int_equal(sandbox_shutdown(o.sandbox, NULL, now_monotonic_ns() + NS_PER_SEC, &synced, NULL),
			 0);
	assert_false(synced);
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&o.deaths), 0);
	disown(&o);
}

static void shutdown_of_an_old_agent_syncs(void **state)
{
	struct fixture *x = *state;
	bool synced = false;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(
		sandbox_shutdown(o.sandbox, NULL, now_monotonic_ns() + 10 * NS_PER_SEC, &synced, NULL), 0);
	assert_true(synced);
	assert_int_equal(fake_agent_calls(fake_sandbox_agent(o.sandbox), "Shutdown"), 0);
	assert_int_equal(fake_agent_calls(fake_sandbox_agent(o.sandbox), "ExecVMProcess"), 1);
	disown(&o);
}

static void shutdown_of_a_hung_guest_ends_at_its_deadline(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	bool synced = true;
	struct owner o;
	int64_t before;

	fake_sandbox_features(with_shutdown);
	for (int i = 0; i < 2; i++) {
		own(x, &o);
		assert_int_equal(boot(&o, NULL, NULL), 0);
		fake_agent_hang(fake_sandbox_agent(o.sandbox), "Shutdown", true);
		before = now_monotonic_ns();
		if (i == 1) {
			assert_int_equal(call_new(INT64_MAX, &call, NULL), 0);
			call_cancel(call, "no patience");
		}
		assert_int_equal(sandbox_shutdown(o.sandbox, call,
						  before + (i == 1 ? 60 * NS_PER_SEC : NS_PER_SEC / 2),
						  &synced, NULL),
				 0);
		assert_true(now_monotonic_ns() - before < 5 * NS_PER_SEC);
		assert_false(synced);
		assert_int_equal(fake_sandbox_running(), 0);
		disown(&o);
	}
}

static void shutdown_in_which_the_guest_powers_off_is_no_death(void **state)
{
	struct fixture *x = *state;
	struct owner o;

	fake_sandbox_features(with_shutdown);
	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	fake_agent_cut_at(fake_sandbox_agent(o.sandbox), "Shutdown", true);
	fake_agent_refuse(fake_sandbox_agent(o.sandbox), -ENOTCONN);
	assert_int_equal(sandbox_shutdown(o.sandbox, NULL, now_monotonic_ns() + NS_PER_SEC, NULL, NULL), 0);
	looping_turn(&x->l);
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&o.deaths), 0);
	disown(&o);
}

/* ---- a restart of the server --------------------------------------------------------------------------- */

/* The object goes, the machine stays. */
static void leave(struct owner *o, struct sandbox_saved *saved)
{
	assert_int_equal(sandbox_save(o->sandbox, saved, NULL), 0);
	sandbox_forget_hooks(o->sandbox);
}

static void adopt_finds_the_machine_again(void **state)
{
	struct fixture *x = *state;
	struct sandbox_saved saved;
	struct owner old, o = {.x = x};
	struct sandbox_hooks hooks = hooks_of(&o);
	struct agent *agent;
	struct sandbox_place place;
	struct err err = ERR_INIT;

	own(x, &old);
	assert_int_equal(boot(&old, NULL, NULL), 0);
	leave(&old, &saved);
	assert_int_equal(sandbox_load(x->room, &hooks, &saved, "not adopted yet", &o.sandbox, &err), 0);
	assert_dead(o.sandbox, "not adopted yet");
	assert_int_equal(sandbox_place(o.sandbox, CID, &place, &err), 0);
	assert_string_equal(sandbox_dir(o.sandbox), saved.dir);
	assert_int_equal(sandbox_adopt(o.sandbox, NULL, NULL, &err), 0);
	assert_int_equal(sandbox_agent(o.sandbox, &agent, &err), 0);
	assert_int_equal(sandbox_adopt(o.sandbox, NULL, NULL, &err), -EBUSY);
	fake_sandbox_end(o.sandbox, "gone", 1);
	AWAIT(atomic_load(&o.deaths) == 1);
	sandbox_saved_done(&saved);
	disown(&o);
	disown(&old);
}

static void adopt_fails_where_it_must(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 4; i++) {
		struct sandbox_saved saved;
		struct owner old, o = {.x = x};
		struct sandbox_hooks hooks = hooks_of(&o);
		struct call *call CLEANUP_CALL = NULL;
		struct err err = ERR_INIT;
		static const char *const words[] = {"has ended while no server watched",
						    "reset while no server watched", "deadline",
						    "the fake fails"};

		own(x, &old);
		assert_int_equal(boot(&old, NULL, NULL), 0);
		leave(&old, &saved);
		if (i == 0)
			fake_sandbox_end(old.sandbox, "gone", 1);
		if (i == 1) {
			free(saved.boot_id);
			saved.boot_id = strdup("of another boot");
		}
		if (i == 2) {
			fake_agent_hang(fake_sandbox_agent(old.sandbox), "Check", true);
			assert_int_equal(call_new(now_monotonic_ns() + 200 * NS_PER_MS, &call, NULL), 0);
		}
		if (i == 3)
			fake_sandbox_fail(FAKE_RECOVER, -EINVAL);
		assert_int_equal(sandbox_load(x->room, &hooks, &saved, "", &o.sandbox, &err), 0);
		assert_true(sandbox_adopt(o.sandbox, call, NULL, &err) < 0);
		if (i != 2)
			assert_non_null(strstr(err.msg, words[i]));
		assert_dead(o.sandbox, "");
		if (i != 3)
			assert_int_equal(fake_sandbox_running(), 0);
		sandbox_saved_done(&saved);
		disown(&o);
		disown(&old);
		assert_int_equal(atomic_load(&o.deaths), 0);
	}
}

static void load_refuses_what_cannot_be_a_saved_one(void **state)
{
	struct fixture *x = *state;
	struct sandbox_saved saved = {0};
	struct sandbox *s = NULL;
	struct err err = ERR_INIT;
	char longish[600];

	memset(longish, 'a', sizeof(longish) - 1);
	longish[599] = 0;
	saved.id = (char *)(uintptr_t) "abc";
	assert_int_equal(sandbox_load(x->room, NULL, &saved, "", &s, &err), -EINVAL);
	saved.dir = saved.netns = (char *)(uintptr_t) "/x";
	saved.cgroup = longish;
	assert_int_equal(sandbox_load(x->room, NULL, &saved, "", &s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "cgroup"));
}

static void undo_of_pods_without_sandbox_ids_knows_their_steps(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;

	assert_int_equal(sandboxes_undo_step(x->room, "rundir", "/does/not/exist", &err), 0);
	assert_int_equal(sandboxes_undo_step(x->room, "netns", "/does/not/exist", &err), 0);
	assert_int_equal(sandboxes_undo_step(x->room, "cgroup", "/does/not/exist", &err), 0);
	assert_int_equal(sandboxes_undo_step(x->room, "cdir", "/does/not/exist", &err), 0);
	assert_int_equal(sandboxes_undo_step(x->room, "share", "/does/not/exist", &err), 0);
	assert_int_equal(sandboxes_undo_step(x->room, "cni", "x", &err), -ENOENT);
	assert_int_equal(sandboxes_undo(x->room, "nobody", &err), 0);
}

static void undo_that_fails_stays_in_the_journal(void **state)
{
	struct fixture *x = *state;
	char **owners = NULL;
	struct err err = ERR_INIT;
	struct owner o;

	own(x, &o);
	assert_int_equal(boot(&o, NULL, NULL), 0);
	assert_int_equal(sandbox_kill(o.sandbox, "", now_monotonic_ns() + NS_PER_SEC, NULL), 0);
	fake_sandbox_fail(FAKE_UNDO, -EBUSY);
	assert_int_equal(sandboxes_undo(x->room, sandbox_id(o.sandbox), &err), -EBUSY);
	assert_int_equal(journal_owners(x->store, &owners, NULL), 0);
	assert_string_equal(owners[0], sandbox_id(o.sandbox));
	strv_free(owners);
	disown(&o);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(boot_gives_an_agent_and_a_place),
		TEST(boot_refuses_a_bad_cgroup_parent_and_makes_nothing),
		TEST(boot_that_fails_at_any_step_is_undone),
		TEST(boot_mute_death_is_started_once_more),
		TEST(boot_ends_at_its_deadline),
		TEST(boot_cancelled_in_any_phase_ends_at_once),
		TEST(boot_waits_for_its_turn_within_its_call),
		TEST(assign_writes_files_and_tells_the_guest_once),
		TEST(places_are_made_and_removed),
		TEST(resize_brings_online_what_was_plugged),
		TEST(resize_that_fails_leaves_the_former_size),
		TEST(resize_with_an_agent_that_cannot_is_refused),
		TEST(death_of_the_machine_is_told_once),
		TEST(condemned_is_killed_and_told),
		TEST(death_tells_nobody_after_forget_and_after_kill),
		TEST(broken_connection_is_no_death),
		TEST(health_is_looked_at_after_a_look_that_failed_at_once),
		TEST(clock_that_is_off_is_set_when_the_guest_comes_back),
		TEST(clock_that_is_off_is_set_at_assign),
		TEST(other_boot_behind_the_connection_is_death),
		TEST(deaths_at_any_moment_leave_nothing),
		TEST(shutdown_asks_an_agent_that_can),
		TEST(shutdown_of_an_old_agent_syncs),
		TEST(shutdown_of_a_hung_guest_ends_at_its_deadline),
		TEST(shutdown_in_which_the_guest_powers_off_is_no_death),
		TEST(adopt_finds_the_machine_again),
		TEST(adopt_fails_where_it_must),
		TEST(load_refuses_what_cannot_be_a_saved_one),
		TEST(undo_of_pods_without_sandbox_ids_knows_their_steps),
		TEST(undo_that_fails_stays_in_the_journal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
