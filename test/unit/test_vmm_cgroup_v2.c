/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cgroups on a pure v2 layout, whatever the machine has: the tests run in cgroup and mount namespaces of
 * their own, whose only cgroup mount is a v2 tree with this test's cgroup as its root. Needs root, and a v2
 * tree with a controller that matters to vmm/ (in a hybrid that is often hugetlb alone); without one the
 * tests are skipped.
 *
 * Also shown here: what libcgroup gets wrong on v2, and that vmm/ goes round it. Such a test fails once the
 * library is right.
 */
#include "base/util.h"
#include "vmm/cgroup_internal.h"
#include "vmm/child_internal.h"
#include "vmm/driver_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <ftw.h>
#include <libcgroup.h>
#include <mntent.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#define MOUNT "/sys/fs/cgroup"

static char controller[32]; /* one that the tree has; "": none */

/* ---- the files themselves, without vmm/ ---------------------------------------------------------------- */

static void put(const char *path, const char *value)
{
	int r = write_file(path, value, strlen(value), 0);

	if (r < 0)
		fail_msg("writing \"%s\" to %s: %s", value, path, strerrordesc_np(-r));
}

static bool has_word(const char *path, const char *word)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;

	if (read_file(path, 65536, &data, NULL) < 0)
		return false;
	for (char *w = strtok_r(data, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (str_eq(w, word))
			return true;
	}
	return false;
}

static bool holds_controller(const char *cgroup, const char *file)
{
	char path[256];

	snprintf(path, sizeof(path), MOUNT "%s/%s", cgroup, file);
	return has_word(path, controller);
}

static bool is_cgroup(const char *path)
{
	char full[256];

	snprintf(full, sizeof(full), MOUNT "%s/cgroup.procs", path);
	return access(full, F_OK) == 0;
}

static pid_t sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static void end_sleeper(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static bool is_member(const char *cgroup, pid_t pid)
{
	char path[256], number[16];

	snprintf(path, sizeof(path), MOUNT "%s/cgroup.procs", cgroup);
	snprintf(number, sizeof(number), "%d", (int)pid);
	return has_word(path, number);
}

static void create(const char *path)
{
	struct vmm_resources none = {0};
	struct err err = ERR_INIT;

	if (vmm_cgroup_create(path, &none, &err) < 0)
		fail_msg("%s", err.msg);
}

static void destroy(const char *path)
{
	struct err err = ERR_INIT;

	if (vmm_cgroup_destroy(path, now_monotonic_ns() + 5 * NS_PER_SEC, &err) < 0)
		fail_msg("%s", err.msg);
}

/* The only hierarchy here. */
static struct cgr_hierarchy tree(void)
{
	struct cgr_tree t;
	struct err err = ERR_INIT;

	if (cgr_tree(&t, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(t.n, 1);
	return t.h[0];
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void look_sees_v2(void **state)
{
	struct vmm_cgroups found;
	struct cgr_hierarchy h = tree();

	(void)state;
	assert_int_equal(vmm_cgroup_look(&found, NULL), 0);
	assert_string_equal(found.layout, "v2");
	assert_string_equal(found.crowded, "");
	assert_string_equal(h.mount, MOUNT);
	assert_true(h.v2);
	assert_true(cgr_bits(controller) & h.has);
}

static void create_passes_controllers_down_from_the_root(void **state)
{
	(void)state;
	put(MOUNT "/cgroup.subtree_control", "");
	create("/a/b/c");
	assert_true(holds_controller("", "cgroup.subtree_control"));
	assert_true(holds_controller("/a/b", "cgroup.subtree_control"));
	assert_true(holds_controller("/a/b/c", "cgroup.controllers"));
	create("/a/b/c"); /* what exists is reused */
	destroy("/a/b/c");
	assert_false(is_cgroup("/a/b/c"));
	assert_true(is_cgroup("/a/b"));
	destroy("/a/b");
	destroy("/a");
}

/* libcgroup begins to pass a controller on at the first level below the root, never at the root itself. */
static void library_leaves_the_root_out(void **state)
{
	struct cgroup *g = cgroup_new_cgroup("/deep/lib");
	char line[64];

	(void)state;
	tree(); /* fills the library's table */
	snprintf(line, sizeof(line), "-%s", controller);
	if (holds_controller("", "cgroup.subtree_control"))
		put(MOUNT "/cgroup.subtree_control", line);
	assert_non_null(cgroup_add_controller(g, controller));
	assert_int_not_equal(cgroup_create_cgroup(g, 1), 0);
	cgroup_free(&g);
	assert_false(is_cgroup("/deep/lib"));
	create("/deep/lib");
	assert_true(holds_controller("/deep/lib", "cgroup.controllers"));
	destroy("/deep/lib");
	destroy("/deep");
}

/* libcgroup calls the removal of a cgroup that is in use a success. */
static void remove_of_a_cgroup_in_use_is_busy(void **state)
{
	struct cgr_hierarchy h = tree();
	struct cgroup *g = cgroup_new_cgroup("/used");
	pid_t pid = sleeper();
	struct err err = ERR_INIT;

	(void)state;
	create("/used");
	if (cgr_attach("/used", pid, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(is_member("/used", pid));
	assert_non_null(cgroup_add_controller(g, controller));
	assert_int_equal(cgroup_delete_cgroup_ext(g, CGFLAG_DELETE_EMPTY_ONLY), 0);
	cgroup_free(&g);
	assert_true(is_cgroup("/used"));
	assert_int_equal(cgr_remove(&h, "/used"), -EBUSY);
	end_sleeper(pid);
	destroy("/used");
	assert_int_equal(cgr_remove(&h, "/used"), 0);
}

/* Where the parent passes nothing on, libcgroup can neither make the cgroup nor attach to it. */
static void create_below_a_parent_with_processes_goes_without_controllers(void **state)
{
	struct vmm_resources limited = {.memory_limit_bytes = 64 << 20};
	struct err err = ERR_INIT;
	pid_t pid = sleeper(), inner = sleeper();

	(void)state;
	create("/crowd");
	assert_int_equal(cgr_attach("/crowd", pid, NULL), 0);
	create("/crowd/leaf");
	assert_false(holds_controller("/crowd/leaf", "cgroup.controllers"));
	if (cgr_attach("/crowd/leaf", inner, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(is_member("/crowd/leaf", inner));
	assert_int_equal(vmm_cgroup_create("/crowd/other", &limited, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "memory.max"));
	assert_false(is_cgroup("/crowd/other"));
	end_sleeper(pid);
	end_sleeper(inner);
	destroy("/crowd/leaf");
	destroy("/crowd");
}

static void child_is_in_the_cgroup_from_the_start_and_killed_with_it(void **state)
{
	char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
			(char *)(uintptr_t) "sleep 600 & sleep 600", NULL};
	struct vmm_config config = {0};
	struct child_spec spec = {.argv = argv, .cgroup = "/kill"};
	struct cgr_hierarchy h = tree();
	struct err err = ERR_INIT;
	struct child c;
	char helper[512];
	pid_t pids[8];

	(void)state;
	create("/kill");
	assert_int_equal(find_spawn_helper(&config, helper, sizeof(helper), &err), 0);
	spec.helper = helper;
	if (child_spawn(&c, &spec, &err) < 0 ||
	    child_confirm(&c, now_monotonic_ns() + 5 * NS_PER_SEC, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(is_member("/kill", c.pid));
	assert_true(vmm_cgroup_pids("/kill", pids, 8) >= 1);
	if (cgr_set(&h, "/kill", "cgroup.kill", "1", &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(child_wait(&c, now_monotonic_ns() + 5 * NS_PER_SEC), 0);
	destroy("/kill");
	assert_int_equal(c.status, 128 + SIGKILL);
	child_done(&c);
}

static void child_of_a_missing_cgroup_does_not_start(void **state)
{
	char *argv[] = {(char *)(uintptr_t) "touch", (char *)(uintptr_t)MOUNT "/../crv-never", NULL};
	struct vmm_config config = {0};
	struct child_spec spec = {.argv = argv, .cgroup = "/missing"};
	struct err err = ERR_INIT;
	struct child c;
	char helper[512];

	(void)state;
	assert_int_equal(find_spawn_helper(&config, helper, sizeof(helper), &err), 0);
	spec.helper = helper;
	assert_int_equal(child_spawn(&c, &spec, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/missing"));
	assert_int_equal(c.pid, 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* reaped */
}

static void mounts_that_move_are_found(void **state)
{
	char dir[] = "/tmp/crv-cgroup-XXXXXX";

	(void)state;
	assert_string_equal(tree().mount, MOUNT);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount(MOUNT, dir, NULL, MS_MOVE, NULL), 0);
	assert_string_equal(tree().mount, dir);
	create("/moved");
	destroy("/moved");
	assert_int_equal(mount(dir, MOUNT, NULL, MS_MOVE, NULL), 0);
	assert_string_equal(tree().mount, MOUNT);
	rmdir(dir);
}

/* ---- the namespaces ------------------------------------------------------------------------------------ */

/* Where the host's v2 tree is mounted, and which of its controllers to use; "": none. */
static void find_host_tree(char *out, size_t size)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent *m;

	out[0] = 0;
	while (f && (m = getmntent(f)) && !out[0]) {
		if (str_eq(m->mnt_type, "cgroup2"))
			snprintf(out, size, "%s", m->mnt_dir);
	}
	if (f)
		endmntent(f);
}

static void choose_controller(const char *host)
{
	static const char *const names[] = {"memory", "pids", "cpu", "hugetlb", "io"};
	char path[256];

	snprintf(path, sizeof(path), "%s/cgroup.controllers", host);
	for (size_t i = 0; i < ARRAY_SIZE(names) && !controller[0]; i++) {
		if (has_word(path, names[i]))
			snprintf(controller, sizeof(controller), "%s", names[i]);
	}
}

/* In the child: its own namespaces, in which `top` is the root of the only cgroup mount. */
static int enter(const char *top)
{
	char path[256];
	FILE *f;
	struct mntent *m;

	snprintf(path, sizeof(path), "%s/cgroup.procs", top);
	put(path, "0");
	if (unshare(CLONE_NEWCGROUP | CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	f = setmntent("/proc/self/mounts", "re");
	while (f && (m = getmntent(f))) {
		if (str_eq(m->mnt_type, "cgroup") || str_eq(m->mnt_type, "cgroup2"))
			umount2(m->mnt_dir, MNT_DETACH);
	}
	if (f)
		endmntent(f);
	if (mount("cgroup2", MOUNT, "cgroup2", 0, NULL) < 0 || mkdir(MOUNT "/init", 0755) < 0)
		return -errno;
	put(MOUNT "/init/cgroup.procs", "0");
	return 0;
}

static int run(const char *top)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(look_sees_v2),
		cmocka_unit_test(create_passes_controllers_down_from_the_root),
		cmocka_unit_test(library_leaves_the_root_out),
		cmocka_unit_test(remove_of_a_cgroup_in_use_is_busy),
		cmocka_unit_test(create_below_a_parent_with_processes_goes_without_controllers),
		cmocka_unit_test(child_is_in_the_cgroup_from_the_start_and_killed_with_it),
		cmocka_unit_test(child_of_a_missing_cgroup_does_not_start),
		cmocka_unit_test(mounts_that_move_are_found),
	};
	int r = enter(top);

	if (r < 0) {
		fprintf(stderr, "namespaces for the test: %s\n", strerrordesc_np(-r));
		return 1;
	}
	return cmocka_run_group_tests_name("vmm_cgroup_v2", tests, NULL, NULL);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	if (type != FTW_DP)
		return 0;
	for (int i = 0; rmdir(path) < 0; i++) { /* members that have just been killed */
		if (errno != EBUSY || i == 500)
			return -1;
		usleep(10000);
	}
	return 0;
}

int main(void)
{
	char host[128], top[192], path[256], plus[40];
	int status = 1;
	pid_t pid;

	find_host_tree(host, sizeof(host));
	choose_controller(host);
	if (!controller[0]) {
		puts("SKIPPED: the v2 tree of this machine has no controller");
		return 77;
	}
	snprintf(top, sizeof(top), "%s/crvtest-v2-%d", host, (int)getpid());
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", host);
	snprintf(plus, sizeof(plus), "+%s", controller);
	put(path, plus);
	if (mkdir(top, 0755) < 0) {
		perror(top);
		return 1;
	}
	pid = fork();
	if (pid == 0)
		exit(run(top));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	snprintf(path, sizeof(path), "%s/cgroup.kill", top);
	write_file(path, "1", 1, 0);
	if (nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0) {
		perror("removing the test's cgroup");
		return 1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
