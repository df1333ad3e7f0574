/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pod's cgroup, on the real hierarchies of the machine that runs the test (v1, hybrid or v2). Needs root.
 */
#include "base/util.h"
#include "vmm/cgroup_internal.h"
#include "vmm/child_internal.h"
#include "vmm/driver_internal.h"
#include "vmm/cgroup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <cmocka.h>

static char top[64];

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/crvtest-%d", (int)getpid());
	return 0;
}

static int teardown(void **state)
{
	char path[128];

	static const char *const below[] = {"pod/vm", "pod/bad", "pod/kill", "pod", "many"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
		snprintf(path, sizeof(path), "%s/%s", top, below[i]);
		vmm_cgroup_destroy(path, 0, NULL);
	}
	return vmm_cgroup_destroy(top, 0, NULL);
}

/* The value of one file of the leaf, wherever its controller is: the first that exists. */
static char *read_limit(const char *leaf, const char *v1_dir, const char *v1, const char *v2)
{
	char path[256];
	char *data = NULL;

	snprintf(path, sizeof(path), "/sys/fs/cgroup/%s%s/%s", v1_dir, leaf, v1);
	if (read_file(path, 4096, &data, NULL) < 0) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", leaf, v2);
		assert_int_equal(read_file(path, 4096, &data, NULL), 0);
	}
	data[strcspn(data, "\n")] = 0;
	return data;
}

static void create_deep_path_applies_limits(void **state)
{
	struct vmm_resources res = {
		.memory_limit_bytes = 64 << 20, .cpu_shares = 2048, .cpu_quota_us = 50000, .pids_max = 77};
	struct err err = ERR_INIT;
	char leaf[128];
	char *value;

	(void)state;
	snprintf(leaf, sizeof(leaf), "%s/pod/vm", top);
	if (vmm_cgroup_create(leaf, &res, &err) < 0)
		fail_msg("%s", err.msg);
	value = read_limit(leaf, "memory", "memory.limit_in_bytes", "memory.max");
	assert_string_equal(value, "67108864");
	free(value);
	value = read_limit(leaf, "pids", "pids.max", "pids.max");
	assert_string_equal(value, "77");
	free(value);
	value = read_limit(leaf, "cpu", "cpu.cfs_quota_us", "cpu.max");
	assert_true(str_eq(value, "50000") || str_eq(value, "50000 100000"));
	free(value);
	/* A second call reuses what exists and lifts limits that are not set. */
	res = (struct vmm_resources){0};
	assert_int_equal(vmm_cgroup_create(leaf, &res, &err), 0);
	value = read_limit(leaf, "pids", "pids.max", "pids.max");
	assert_string_equal(value, "max");
	free(value);
	res.pids_max = 5;
	assert_int_equal(vmm_cgroup_update(leaf, &res, &err), 0);
	value = read_limit(leaf, "pids", "pids.max", "pids.max");
	assert_string_equal(value, "5");
	free(value);
	assert_int_equal(vmm_cgroup_destroy(leaf, 0, &err), 0);
	assert_int_equal(vmm_cgroup_update(leaf, &res, &err), -ENOENT);
}

static void create_bad_limit_leaves_nothing(void **state)
{
	struct vmm_resources res = {.cpuset_cpus = "4095-9999"};
	struct err err = ERR_INIT;
	char leaf[128];

	(void)state;
	snprintf(leaf, sizeof(leaf), "%s/pod/bad", top);
	assert_true(vmm_cgroup_create(leaf, &res, &err) < 0);
	assert_non_null(strstr(err.msg, "cpuset.cpus"));
	assert_int_equal(vmm_cgroup_pids(leaf, NULL, 0), -ENOENT);
}

static void create_odd_paths_are_refused(void **state)
{
	static const char *const odd[] = {"relative", "/", "/a/../b", "/a//b", "/a/", "/..", "/a/.."};
	struct vmm_resources res = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++)
		assert_int_equal(vmm_cgroup_create(odd[i], &res, NULL), -EINVAL);
}

static void destroy_kills_members(void **state)
{
	char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
			(char *)(uintptr_t) "sleep 600 & sleep 600", NULL};
	struct vmm_resources res = {0};
	struct vmm_config config = {0};
	struct vmm_cgroup_stats stats;
	struct err err = ERR_INIT;
	char leaf[128], helper[512];
	struct child_spec spec = {.argv = argv};
	struct child c;
	pid_t pids[16];

	(void)state;
	snprintf(leaf, sizeof(leaf), "%s/pod/kill", top);
	assert_int_equal(vmm_cgroup_create(leaf, &res, &err), 0);
	if (find_spawn_helper(&config, helper, sizeof(helper), &err) < 0)
		fail_msg("%s", err.msg);
	spec.helper = helper;
	spec.cgroup = leaf;
	if (child_spawn(&c, &spec, &err) < 0 ||
	    child_confirm(&c, now_monotonic_ns() + 5 * NS_PER_SEC, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(vmm_cgroup_pids(leaf, pids, 16) >= 1);
	assert_int_equal(vmm_cgroup_stats(leaf, &stats, &err), 0);
	if (vmm_cgroup_destroy(leaf, now_monotonic_ns() + 5 * NS_PER_SEC, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(child_wait(&c, now_monotonic_ns() + NS_PER_SEC), 0);
	assert_int_equal(c.status, 128 + 9);
	child_done(&c);
	assert_int_equal(vmm_cgroup_pids(leaf, pids, 16), -ENOENT);
	assert_int_equal(vmm_cgroup_destroy(leaf, 0, &err), 0);
}

/* What stands in a cgroup's list of members at each look. */
struct looks {
	const char *path;
	char first[16], later[16];
	atomic_bool over;
};

static void *list_members(void *arg)
{
	struct looks *l = arg;
	const char *text = l->first;

	while (!atomic_load(&l->over)) {
		int fd = open(l->path, O_WRONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe: -1 while nobody looks */

		if (fd >= 0) {
			assert_int_equal(write(fd, text, strlen(text)), strlen(text));
			text = l->later;
			close(fd);
		}
		usleep(20000);
	}
	return NULL;
}

/* A child that sleeps is in the list; then it is, or is not. True if it was killed. */
static bool is_killed(bool still_there)
{
	char dir[] = "/tmp/crv-members-XXXXXX", path[64];
	struct cgr_hierarchy h = {.v2 = true};
	struct looks looks = {.path = path};
	pid_t pids[CGR_PIDS_AT_ONCE], pid = fork();
	pthread_t thread;
	int fd, status = 0;

	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_non_null(mkdtemp(dir));
	snprintf(h.mount, sizeof(h.mount), "%s", dir);
	snprintf(path, sizeof(path), "%s/c", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/c/cgroup.procs", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(looks.first, sizeof(looks.first), "%d\n", (int)pid);
	snprintf(looks.later, sizeof(looks.later), "%s", still_there ? looks.first : "\n");
	assert_int_equal(pthread_create(&thread, NULL, list_members, &looks), 0);
	fd = cgr_signal_members(&h, "/c", pids);
	atomic_store(&looks.over, true);
	pthread_join(thread, NULL);
	assert_int_equal(fd >= 0, still_there);
	close_fd(fd);
	if (!still_there)
		assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(remove_tree(dir), 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* Fault Q: a process whose number stood in the cgroup, but is none of its members any more, is not killed. */
static void number_that_changed_hands_is_not_killed(void **state)
{
	(void)state;
	assert_false(is_killed(false));
	assert_true(is_killed(true));
}

static void look_tells_what_create_can_limit(void **state)
{
	struct vmm_resources memory = {.memory_limit_bytes = 64 << 20}, cpu = {.cpu_shares = 2048},
			     pids = {.pids_max = 77};
	struct vmm_cgroups found;
	struct err err = ERR_INIT;
	struct statfs fs;

	(void)state;
	if (vmm_cgroup_look(&found, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(statfs("/sys/fs/cgroup", &fs), 0);
	assert_int_equal(fs.f_type == CGROUP2_SUPER_MAGIC, str_eq(found.layout, "v2"));
	assert_int_equal(access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0,
			 str_eq(found.layout, "hybrid"));
	assert_false(found.read_only);
	assert_string_equal(found.crowded, "");
	assert_int_equal(vmm_cgroup_create(top, &memory, NULL) == 0, found.memory);
	assert_int_equal(vmm_cgroup_create(top, &cpu, NULL) == 0, found.cpu);
	assert_int_equal(vmm_cgroup_create(top, &pids, NULL) == 0, found.pids);
}

/* One of several threads: its own cgroups, below a parent that all of them make. */
static void *make_and_destroy(void *arg)
{
	struct vmm_resources res = {.pids_max = 50};
	const int *number = arg;

	for (int i = 0; i < 10; i++) {
		struct vmm_cgroup_stats stats;
		struct err err = ERR_INIT;
		char leaf[128];
		int r;

		snprintf(leaf, sizeof(leaf), "%s/many/%d", top, *number);
		r = vmm_cgroup_create(leaf, &res, &err);
		if (r == 0)
			r = vmm_cgroup_stats(leaf, &stats, &err);
		if (r == 0)
			r = vmm_cgroup_destroy(leaf, 0, &err);
		if (r < 0)
			return strdup(err.msg);
	}
	return NULL;
}

static void create_and_destroy_from_several_threads(void **state)
{
	pthread_t threads[4];
	int numbers[4];
	char path[128];

	(void)state;
	for (int i = 0; i < 4; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, make_and_destroy, &numbers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		void *words = NULL;

		pthread_join(threads[i], &words);
		if (words)
			fail_msg("%s", (char *)words);
	}
	snprintf(path, sizeof(path), "%s/many", top);
	assert_int_equal(vmm_cgroup_destroy(path, 0, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(number_that_changed_hands_is_not_killed),
		cmocka_unit_test(look_tells_what_create_can_limit),
		cmocka_unit_test(create_deep_path_applies_limits),
		cmocka_unit_test(create_bad_limit_leaves_nothing),
		cmocka_unit_test(create_odd_paths_are_refused),
		cmocka_unit_test(destroy_kills_members),
		cmocka_unit_test(create_and_destroy_from_several_threads),
	};

	return cmocka_run_group_tests_name("vmm_cgroup", tests, setup, teardown);
}
