/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sandboxes that are virtual machines, with a scripted stand-in for Cloud Hypervisor (test/fake/fake_clh.py)
 * whose vsock leads to a fake agent: the host's side of boot, assignment, death, shutdown and adoption is the
 * real one. Needs root and python3; mounts and namespaces are of the test's own.
 */
#include "base/util.h"
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"
#include "fake_agent.h"
#include "loop_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define FAKE CRV_SOURCE_DIR "/test/fake/"
#define CID  "0123456789abcdef"

struct fixture {
	struct looping l;
	struct store *store;
	struct sandboxes *room;
	struct fake_agent *agent;
	int listen_fd, stop_fd[2];
	pthread_t listener;
	char dir[64], run_dir[80], socket[80], file[80], parent[64];
	struct vmm_config hypervisor;
	struct vmm_choice choice;
	/* the owner */
	struct sandbox *sandbox;
	atomic_int deaths, reconnects;
	char why[SANDBOX_WHY_MAX];
	int status;
};

/* What is connected to in the "guest" is the fake agent. */
static void *listen_thread(void *arg)
{
	struct fixture *x = arg;

	for (;;) {
		struct pollfd p[2] = {{.fd = x->listen_fd, .events = POLLIN},
				      {.fd = x->stop_fd[0], .events = POLLIN}};

		poll(p, 2, -1);
		if (p[1].revents)
			return NULL;
		fake_agent_serve(x->agent, accept4(x->listen_fd, NULL, NULL, SOCK_CLOEXEC));
	}
}

static void start_listener(struct fixture *x)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", x->socket);
	x->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(x->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(x->listen_fd, 16), 0);
	assert_int_equal(pipe2(x->stop_fd, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&x->listener, NULL, listen_thread, x), 0);
}

static int set_up(void **state)
{
	static char clh[] = FAKE "fake_clh.py", helper[] = FAKE "fake_helper.py";
	struct fixture *x = calloc(1, sizeof(*x));
	struct sandboxes_options options;
	char path[160];
	int fd;

	assert_non_null(x);
	snprintf(x->dir, sizeof(x->dir), "/tmp/crv-sbvm-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	snprintf(x->run_dir, sizeof(x->run_dir), "%s/run", x->dir);
	snprintf(x->socket, sizeof(x->socket), "%s/agent.sock", x->dir);
	snprintf(x->file, sizeof(x->file), "%s/file", x->dir);
	snprintf(x->parent, sizeof(x->parent), "/crv-test-%d", getpid());
	snprintf(path, sizeof(path), "%s/pods", x->run_dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/netns", x->run_dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	fd = open(x->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 4 << 20), 0);
	close(fd);
	looping_start(&x->l);
	assert_int_equal(store_open(x->dir, &x->store, NULL), 0);
	x->agent = fake_agent_new();
	start_listener(x);
	x->hypervisor = (struct vmm_config){.driver = (char *)(uintptr_t) "cloud-hypervisor",
					    .path = clh,
					    .vcpus = 1,
					    .memory_bytes = 256 << 20,
					    .kernel_path = x->file,
					    .image_path = x->file,
					    .virtiofsd_path = helper,
					    .virtiofsd_thread_pool_size = 4,
					    .vsock_daemon_path = helper};
	x->choice = (struct vmm_choice){.driver = "cloud-hypervisor", .accel = "kvm"};
	snprintf(x->choice.path, sizeof(x->choice.path), "%s", clh);
	options = (struct sandboxes_options){.hypervisor = &x->hypervisor,
					     .run_dir = x->run_dir,
					     .loop = x->l.loop,
					     .workers = x->l.workers,
					     .store = x->store,
					     .boots = 2};
	assert_int_equal(sandboxes_new(&options, &x->room, NULL), 0);
	*state = x;
	return 0;
}

static int left_below(const char *dir, const char *sub)
{
	char path[256];
	struct dirent *de;
	int n = 0;
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
	char *mounts = NULL;

	assert_int_equal(left_below(x->run_dir, "pods"), 0);
	assert_int_equal(left_below(x->run_dir, "netns"), 0);
	assert_int_equal(journal_owners(x->store, &owners, NULL), 0);
	assert_true(!owners || !owners[0]);
	strv_free(owners);
	assert_int_equal(read_file("/proc/self/mountinfo", 4 << 20, &mounts, NULL), 0);
	assert_null(strstr(mounts, x->dir));
	free(mounts);
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	workers_stop(x->l.workers, 20 * NS_PER_SEC);
	looping_turn(&x->l);
	looping_turn(&x->l);
	looping_stop(&x->l);
	sandboxes_free(x->room);
	assert_nothing_left(x);
	close(x->stop_fd[1]);
	pthread_join(x->listener, NULL);
	close(x->stop_fd[0]);
	close(x->listen_fd);
	fake_agent_free(x->agent);
	store_close(x->store);
	vmm_cgroup_destroy(x->parent, 0, NULL);
	remove_tree(x->dir);
	free(x);
	return 0;
}

/* ---- an owner ------------------------------------------------------------------------------------------ */

static void died(void *arg, const char *why, int status)
{
	struct fixture *x = arg;

	snprintf(x->why, sizeof(x->why), "%s", why);
	x->status = status;
	atomic_fetch_add(&x->deaths, 1);
}

static void reconnected(void *arg)
{
	atomic_fetch_add(&((struct fixture *)arg)->reconnects, 1);
}

static struct sandbox_hooks hooks_of(struct fixture *x)
{
	return (struct sandbox_hooks){.died = died, .reconnected = reconnected, .arg = x};
}

/* In the middle of the boot: the stand-in's script, and the interface that CNI makes. */
static int network(void *arg, const char *netns, struct err *err)
{
	struct fixture *x = arg;
	char path[256], text[256], command[400];

	(void)err;
	snprintf(path, sizeof(path), "%s/vm/fake.json", sandbox_dir(x->sandbox));
	snprintf(text, sizeof(text), "{\"vsock_forward\": \"%s\"}", x->socket);
	must(write_file(path, text, strlen(text), 0600) == 0);
	snprintf(command, sizeof(command),
		 "nsenter --net=%s ip link add eth0 type veth peer name peer0 && "
		 "nsenter --net=%s ip link set eth0 up",
		 netns, netns);
	must(system(command) == 0);
	return 0;
}

static int boot(struct fixture *x, struct call *call, struct err *err)
{
	const struct sandbox_hooks hooks = hooks_of(x);
	const struct sandbox_spec spec = {.choice = &x->choice,
					  .vcpus = 1,
					  .memory_bytes = 256 << 20,
					  .cgroup_parent = x->parent,
					  .network = network,
					  .network_arg = x};

	atomic_store(&x->deaths, 0);
	assert_int_equal(sandbox_new(x->room, &hooks, &x->sandbox, NULL), 0);
	return sandbox_boot(x->sandbox, call, &spec, err);
}

static void must_boot(struct fixture *x)
{
	struct err err = ERR_INIT;

	if (boot(x, NULL, &err) < 0)
		fail_msg("%s", err.msg);
}

static void disown(struct fixture *x)
{
	struct err err = ERR_INIT;
	char id[SANDBOX_ID_MAX];

	snprintf(id, sizeof(id), "%s", sandbox_id(x->sandbox));
	sandbox_forget_hooks(x->sandbox);
	assert_int_equal(sandbox_kill(x->sandbox, "over", now_monotonic_ns() + 10 * NS_PER_SEC, &err), 0);
	if (sandboxes_undo(x->room, id, &err) < 0)
		fail_msg("%s", err.msg);
	x->sandbox = sandbox_unref(x->sandbox);
}

static pid_t vmm_pid(struct fixture *x)
{
	struct sandbox_info info;
	struct err err = ERR_INIT;

	if (sandbox_info(x->sandbox, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(info.machine.driver, "cloud-hypervisor");
	return info.machine.vmm_pid;
}

/* ---- tests --------------------------------------------------------------------------------------------- */

/* The host's OOM killer takes a BestEffort pod's VM first and a Guaranteed one's last. */
static void oom_score_follows_the_pod_s_class(void **state)
{
	static const struct {
		const char *cgroup;
		int score;
	} cases[] = {
		{"/kubepods/besteffort/pod1/crivisor-x", 1000},
		{"/kubepods/burstable/pod1/crivisor-x", 750},
		{"/kubepods/pod1/crivisor-x", -997},
		{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crivisor-x", 1000},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crivisor-x", 750},
		{"/kubepods.slice/kubepods-pod1.slice/crivisor-x", -997},
		{"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/crivisor-x", -997},
		{"/crivisor/besteffort-not/crivisor-x", 0},
		{"/crivisor/crivisor-x", 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(sandbox_oom_score(cases[i].cgroup, UINT64_C(1) << 30, UINT64_C(4) << 30),
				 cases[i].score);
	assert_int_equal(sandbox_oom_score("/kubepods/burstable/p", UINT64_C(8) << 30, UINT64_C(4) << 30), 3);
	assert_int_equal(sandbox_oom_score("/kubepods/burstable/p", 1 << 20, UINT64_C(4) << 30), 999);
	assert_int_equal(sandbox_oom_score("/kubepods/burstable/p", 1 << 30, 0), 3);
}

/* Its VMM and its virtiofsd have the score. */
static void processes_have_their_pod_s_oom_score(void **state)
{
	struct fixture *x = *state;
	struct sandbox_info info;
	char path[64];

	snprintf(x->parent, sizeof(x->parent), "/crv-test-%d/kubepods/besteffort", getpid());
	must_boot(x);
	assert_int_equal(sandbox_info(x->sandbox, &info, NULL), 0);
	for (int i = 0; i < 2; i++) {
		char *text CLEANUP_FREE = NULL;

		snprintf(path, sizeof(path), "/proc/%d/oom_score_adj",
			 i ? info.machine.virtiofsd_pid : info.machine.vmm_pid);
		assert_int_equal(read_file(path, 64, &text, NULL), 0);
		assert_string_equal(text, "1000\n");
	}
	disown(x);
	for (char *slash; (slash = strrchr(x->parent, '/')) > x->parent; *slash = 0)
		vmm_cgroup_destroy(x->parent, 0, NULL);
}

static void vm_lives_from_boot_to_shutdown(void **state)
{
	static const char *const features[] = {"shutdown", NULL};
	struct fixture *x = *state;
	struct cni_result result = {0};
	const struct sandbox_assignment a = {.pod_id = "pod",
					     .hostname = "name",
					     .network = &result,
					     .ifname = "eth0",
					     .resolv_conf = "",
					     .hosts = ""};
	struct vmm_cgroup_stats usage;
	struct sandbox_place place;
	struct err err = ERR_INIT;
	char guest[SANDBOX_PATH_MAX], path[600];
	bool synced = false;

	fake_agent_set_features(x->agent, features);
	must_boot(x);
	if (sandbox_assign(x->sandbox, NULL, &a, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(fake_agent_calls(x->agent, "SetupSandbox"), 1);
	assert_int_equal(sandbox_usage(x->sandbox, &usage, &err), 0);
	assert_true(usage.memory_usage_bytes > 0);
	/* A volume appears in what virtiofsd exports. */
	assert_int_equal(sandbox_place_make(x->sandbox, CID, &err), 0);
	assert_int_equal(sandbox_bind(x->sandbox, CID, x->file, true, false, guest, &err), 0);
	snprintf(path, sizeof(path), "%s/shared/volumes%s", sandbox_dir(x->sandbox), strrchr(guest, '/'));
	assert_int_equal(access(path, R_OK), 0);
	assert_int_equal(sandbox_place_remove(x->sandbox, CID, false, &err), 0);
	assert_int_equal(sandbox_place(x->sandbox, CID, &place, &err), 0);
	assert_int_equal(access(place.dir, F_OK), -1);
	fake_agent_answer(x->agent, "Shutdown", "\x08\x01", 2);
	assert_int_equal(
		sandbox_shutdown(x->sandbox, NULL, now_monotonic_ns() + 10 * NS_PER_SEC, &synced, &err), 0);
	assert_true(synced);
	looping_turn(&x->l);
	assert_int_equal(atomic_load(&x->deaths), 0);
	disown(x);
}

/* ---- the network of the namespace ---------------------------------------------------------------------- */

static void in_netns(struct fixture *x, const char *command)
{
	char text[512];

	snprintf(text, sizeof(text), "nsenter --net=%s sh -ec '%s'", sandbox_netns(x->sandbox), command);
	if (system(text) != 0)
		fail_msg("failed: %s", command);
}

/* The traffic control of a tap holds an address, as u32 shows it. */
static bool guards(struct fixture *x, const char *tap, const char *hex)
{
	char text[512];

	snprintf(text, sizeof(text), "nsenter --net=%s tc filter show dev %s ingress | grep -q %s",
		 sandbox_netns(x->sandbox), tap, hex);
	return system(text) == 0;
}

/* As a server that has ended. */
static void stop_job(void *arg)
{
	follow_stop(arg);
}

static void unfollow(struct fixture *x, struct sandbox *old)
{
	usleep(1000000); /* a look may be under way */
	must(loop_post(x->l.loop, stop_job, old) == 0);
	looping_turn(&x->l);
}

static void assign(struct fixture *x, struct cni_result *result)
{
	static const char *const features[] = {"network", "network-update", NULL};
	const struct sandbox_assignment a = {.pod_id = "pod",
					     .hostname = "name",
					     .network = result,
					     .ifname = "eth0",
					     .spoof_check = true,
					     .resolv_conf = "",
					     .hosts = ""};
	struct err err = ERR_INIT;

	fake_agent_set_features(x->agent, features);
	must_boot(x);
	in_netns(x, "ip addr add 10.97.0.5/24 dev eth0");
	if (sandbox_assign(x->sandbox, NULL, &a, &err) < 0)
		fail_msg("%s", err.msg);
}

/*
 * Faults N1, U: what changes in the namespace is told to the agent, once for what comes together, and the
 * filter follows; what fails is told again.
 */
static void vm_follows_the_network_of_its_namespace(void **state)
{
	struct fixture *x = *state;
	struct cni_result result = {0};

	assign(x, &result);
	assert_true(guards(x, "tap0", "0a610005"));
	/* What changes nothing that a guest has is not told. */
	in_netns(x, "ip link add x0 type veth peer name x1");
	usleep(400000);
	assert_int_equal(fake_agent_calls(x->agent, "UpdateNetwork"), 0);
	in_netns(x, "for i in 1 2 3 4 5 6 7 8; do ip route add 10.9$i.0.0/16 via 10.97.0.1; done");
	fake_agent_await(x->agent, "UpdateNetwork", 1);
	usleep(1000000);
	assert_true(fake_agent_calls(x->agent, "UpdateNetwork") <= 2);
	in_netns(x, "ip addr add 10.97.0.6/24 dev eth0");
	AWAIT(guards(x, "tap0", "0a610006"));
	in_netns(x, "ip addr del 10.97.0.6/24 dev eth0");
	AWAIT(!guards(x, "tap0", "0a610006"));
	usleep(1000000);
	fake_agent_fail(x->agent, "UpdateNetwork", -EINVAL, "not now");
	in_netns(x, "ip route del 10.91.0.0/16");
	fake_agent_await(x->agent, "UpdateNetwork", fake_agent_calls(x->agent, "UpdateNetwork") + 2);
	disown(x);
}

/*
 * Fault N1: an interface that comes later gets a tap, a filter and a NIC, and one that goes takes them with
 * it. A later server finds them, and follows what has changed meanwhile.
 */
static void vm_gets_nics_for_further_interfaces(void **state)
{
	struct fixture *x = *state;
	struct cni_result result = {0};
	struct sandbox_hooks hooks = hooks_of(x);
	const struct sandbox_network network = {.ifname = "eth0", .spoof_check = true};
	struct sandbox_saved saved;
	struct sandbox *old;
	struct err err = ERR_INIT;

	assign(x, &result);
	in_netns(x, "ip link add net1 index 77 type veth peer name far1; ip addr add 10.98.0.5/24 dev net1; "
		    "ip link set net1 up");
	fake_agent_await(x->agent, "AttachDevice", 1);
	fake_agent_await(x->agent, "UpdateNetwork", 1);
	assert_true(guards(x, "ctap77", "0a620005"));
	/* The pod's addresses are its own on either. */
	assert_true(guards(x, "ctap77", "0a610005"));
	AWAIT(guards(x, "tap0", "0a620005"));
	/* A later server. */
	old = x->sandbox;
	sandbox_forget_hooks(old);
	assert_int_equal(sandbox_save(old, &saved, NULL), 0);
	unfollow(x, old);
	in_netns(x,
		 "ip link add net2 index 78 type veth peer name far2; ip link set net2 up; ip link del net1");
	assert_int_equal(sandbox_load(x->room, &hooks, &saved, "", &x->sandbox, &err), 0);
	if (sandbox_adopt(x->sandbox, NULL, &network, &err) < 0)
		fail_msg("%s", err.msg);
	AWAIT(guards(x, "ctap78", "0a610005"));
	AWAIT(!guards(x, "ctap77", "0a610005"));
	sandbox_saved_done(&saved);
	disown(x);
	assert_int_equal(sandbox_kill(old, "", now_monotonic_ns() + NS_PER_SEC, NULL), 0);
	sandbox_unref(old);
}

static void vm_death_is_told_with_its_status(void **state)
{
	struct fixture *x = *state;

	must_boot(x);
	assert_int_equal(kill(vmm_pid(x), SIGKILL), 0);
	AWAIT(atomic_load(&x->deaths) == 1);
	assert_int_equal(x->status, 128 + SIGKILL);
	assert_true(x->why[0]);
	assert_true(sandbox_is_dead(x->sandbox));
	disown(x);
}

static void vm_that_does_not_start_is_undone(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;

	snprintf(x->choice.path, sizeof(x->choice.path), "/bin/false");
	x->hypervisor.path = x->choice.path;
	assert_true(boot(x, NULL, &err) < 0);
	assert_true(err.msg[0]);
	disown(x);
	assert_nothing_left(x);
}

static void vm_whose_agent_is_silent_ends_with_its_call(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	int64_t before = now_monotonic_ns();

	fake_agent_hang(x->agent, "Check", true);
	assert_int_equal(call_new(before + 3 * NS_PER_SEC, &call, NULL), 0);
	assert_int_equal(boot(x, call, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	assert_true(now_monotonic_ns() - before < 10 * NS_PER_SEC);
	disown(x);
}

static void vm_with_a_broken_connection_lives_on(void **state)
{
	struct fixture *x = *state;
	struct sandbox_info info;

	must_boot(x);
	fake_agent_cut(x->agent);
	AWAIT(atomic_load(&x->reconnects) == 1);
	assert_int_equal(sandbox_info(x->sandbox, &info, NULL), 0);
	assert_int_equal(info.epoch, 2);
	assert_int_equal(atomic_load(&x->deaths), 0);
	disown(x);
}

/* kill(2) returns before the process has stopped. */
static bool is_stopped(pid_t pid)
{
	char path[64];
	char *text CLEANUP_FREE = NULL;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	assert_int_equal(read_file(path, 4096, &text, NULL), 0);
	return strstr(text, ") T ");
}

static void vm_that_hangs_is_killed_at_the_deadline_of_its_shutdown(void **state)
{
	static const char *const features[] = {"shutdown", NULL};
	struct fixture *x = *state;
	int64_t before;
	bool synced = true;
	pid_t pid;

	fake_agent_set_features(x->agent, features);
	must_boot(x);
	/* All vsock goes through it, so that its agent is silent too. */
	pid = vmm_pid(x);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	AWAIT(is_stopped(pid));
	before = now_monotonic_ns();
	assert_int_equal(sandbox_shutdown(x->sandbox, NULL, before + NS_PER_SEC, &synced, NULL), 0);
	assert_false(synced);
	assert_true(now_monotonic_ns() - before >= NS_PER_SEC);
	assert_true(now_monotonic_ns() - before < 8 * NS_PER_SEC);
	disown(x);
}

static void vm_is_adopted_by_a_later_server(void **state)
{
	struct fixture *x = *state;
	struct sandbox_hooks hooks = hooks_of(x);
	struct sandbox_saved saved;
	struct sandbox *old;
	struct err err = ERR_INIT;
	pid_t pid;

	must_boot(x);
	pid = vmm_pid(x);
	old = x->sandbox;
	sandbox_forget_hooks(old);
	assert_int_equal(sandbox_save(old, &saved, NULL), 0);
	assert_int_equal(sandbox_load(x->room, &hooks, &saved, "", &x->sandbox, &err), 0);
	assert_int_equal(sandbox_adopt(x->sandbox, NULL, NULL, &err), 0);
	assert_int_equal(vmm_pid(x), pid);
	assert_int_equal(kill(pid, SIGKILL), 0);
	AWAIT(atomic_load(&x->deaths) == 1);
	sandbox_saved_done(&saved);
	AWAIT(sandbox_is_dead(old));
	disown(x);
	assert_int_equal(sandbox_kill(old, "", now_monotonic_ns() + NS_PER_SEC, NULL), 0);
	sandbox_unref(old);
}

static void vm_of_another_boot_is_not_adopted_and_killed(void **state)
{
	struct fixture *x = *state;
	struct sandbox_hooks hooks = hooks_of(x);
	struct sandbox_saved saved;
	struct sandbox *old;
	struct err err = ERR_INIT;
	pid_t pid;

	must_boot(x);
	pid = vmm_pid(x);
	old = x->sandbox;
	sandbox_forget_hooks(old);
	assert_int_equal(sandbox_save(old, &saved, NULL), 0);
	free(saved.boot_id);
	saved.boot_id = strdup("boot-0");
	assert_int_equal(sandbox_load(x->room, &hooks, &saved, "", &x->sandbox, &err), 0);
	assert_int_equal(sandbox_adopt(x->sandbox, NULL, NULL, &err), -ESTALE);
	AWAIT(sandbox_is_dead(old)); /* which reaps the VMM, its child */
	assert_int_equal(sandbox_kill(old, "", now_monotonic_ns() + 5 * NS_PER_SEC, NULL), 0);
	assert_int_equal(kill(pid, 0), -1);
	sandbox_saved_done(&saved);
	disown(x);
	sandbox_unref(old);
}

static int own_namespaces(void **state)
{
	(void)state;
	return unshare(CLONE_NEWNS | CLONE_NEWNET) < 0 ||
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(oom_score_follows_the_pod_s_class),
		TEST(processes_have_their_pod_s_oom_score),
		TEST(vm_lives_from_boot_to_shutdown),
		TEST(vm_follows_the_network_of_its_namespace),
		TEST(vm_gets_nics_for_further_interfaces),
		TEST(vm_death_is_told_with_its_status),
		TEST(vm_that_does_not_start_is_undone),
		TEST(vm_whose_agent_is_silent_ends_with_its_call),
		TEST(vm_with_a_broken_connection_lives_on),
		TEST(vm_that_hangs_is_killed_at_the_deadline_of_its_shutdown),
		TEST(vm_is_adopted_by_a_later_server),
		TEST(vm_of_another_boot_is_not_adopted_and_killed),
	};

	return cmocka_run_group_tests(tests, own_namespaces, NULL);
}
