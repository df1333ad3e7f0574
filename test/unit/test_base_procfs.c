/* SPDX-License-Identifier: Apache-2.0 */
/* The facts of /proc: scripted lines, and what this kernel says. */
#include "base/procfs.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct seen {
	int n, stop_at;
	char points[4][64], types[4][16];
};

static int take(const struct procfs_mount *m, void *arg)
{
	struct seen *seen = arg;

	assert_true(seen->n < 4);
	snprintf(seen->points[seen->n], sizeof(seen->points[0]), "%s", m->point);
	snprintf(seen->types[seen->n], sizeof(seen->types[0]), "%s", m->type);
	return ++seen->n == seen->stop_at ? 7 : 0;
}

static int walk(const char *text, struct seen *seen)
{
	FILE *f CLEANUP_FILE = fmemopen((char *)(uintptr_t)text, strlen(text), "r");

	assert_non_null(f);
	return procfs_mounts_of(f, take, seen);
}

static const char two_lines[] =
	"36 35 98:0 /mnt1 /a\\040b\\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
	"37 36 0:5 / /dev rw - devtmpfs udev rw,mode=755\n";

static void procfs_mounts_of_lines_are_split_and_unescaped(void **state)
{
	struct seen seen = {0};

	(void)state;
	assert_int_equal(walk(two_lines, &seen), 0);
	assert_int_equal(seen.n, 2);
	assert_string_equal(seen.points[0], "/a b\\");
	assert_string_equal(seen.types[0], "ext3");
	assert_string_equal(seen.points[1], "/dev");
	assert_string_equal(seen.types[1], "devtmpfs");
}

static void procfs_mounts_of_callback_ends_the_walk(void **state)
{
	struct seen seen = {.stop_at = 1};

	(void)state;
	assert_int_equal(walk(two_lines, &seen), 7);
	assert_int_equal(seen.n, 1);
}

static void procfs_mounts_of_malformed_lines_are_refused(void **state)
{
	static const char *const bad[] = {"36 35 98:0 / /a rw ext3 /dev/root rw\n",
					  "36 35 98:0 / - ext3 a rw\n", "36 35 98:0 / /a rw - ext3\n", "\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct seen seen = {0};

		assert_int_equal(walk(bad[i], &seen), -EBADMSG);
	}
}

static void procfs_mounts_below_lists_a_path_and_what_is_under_it(void **state)
{
	char dir[] = "/tmp/crv base-XXXXXX", sub[64], beside[64];
	char **points CLEANUP_STRV = NULL, **none CLEANUP_STRV = NULL;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(sub, sizeof(sub), "%s/sub", dir);
	snprintf(beside, sizeof(beside), "%sbeside", dir);
	assert_int_equal(mount("tmpfs", dir, "tmpfs", 0, NULL), 0);
	assert_int_equal(mkdir(sub, 0700), 0);
	assert_int_equal(mkdir(beside, 0700), 0);
	assert_int_equal(mount("tmpfs", sub, "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("tmpfs", beside, "tmpfs", 0, NULL), 0);
	assert_int_equal(procfs_mounts_below(dir, &points), 0);
	assert_int_equal(strv_len(points), 2);
	assert_string_equal(points[0], dir);
	assert_string_equal(points[1], sub);
	assert_int_equal(umount(sub), 0);
	assert_int_equal(umount(dir), 0);
	assert_int_equal(umount(beside), 0);
	assert_int_equal(procfs_mounts_below(dir, &none), 0);
	assert_null(none);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(rmdir(beside), 0);
}

static void procfs_boot_id_is_the_same_twice(void **state)
{
	char one[PROCFS_BOOT_ID_SIZE], two[PROCFS_BOOT_ID_SIZE];

	(void)state;
	assert_int_equal(procfs_boot_id(one), 0);
	assert_int_equal(procfs_boot_id(two), 0);
	assert_string_equal(one, two);
	assert_int_equal(strlen(one), 36);
}

static void procfs_stat_parse_name_with_parentheses(void **state)
{
	struct procfs_stat st;

	(void)state;
	assert_int_equal(
		procfs_stat_parse("7 (a) S 1) R 1 2 3 4 5 4194304 7 8 9 10 11 12 13 14 15 16 17 18 99 20",
				  &st),
		0);
	assert_int_equal(st.state, 'R');
	assert_true(st.flags == 4194304);
	assert_true(st.start_time == 99);
	assert_int_equal(procfs_stat_parse("", &st), -EBADMSG);
	assert_int_equal(procfs_stat_parse("7 (a) R 1 2", &st), -EBADMSG);
}

static void procfs_stat_tells_processes_apart(void **state)
{
	struct procfs_stat mine, init;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	assert_int_equal(procfs_stat(getpid(), &mine), 0);
	assert_int_equal(procfs_stat(1, &init), 0);
	assert_int_equal(mine.state, 'R');
	assert_true(mine.start_time > init.start_time);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(procfs_stat(pid, &mine), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(procfs_mounts_of_lines_are_split_and_unescaped),
		cmocka_unit_test(procfs_mounts_of_callback_ends_the_walk),
		cmocka_unit_test(procfs_mounts_of_malformed_lines_are_refused),
		cmocka_unit_test(procfs_mounts_below_lists_a_path_and_what_is_under_it),
		cmocka_unit_test(procfs_boot_id_is_the_same_twice),
		cmocka_unit_test(procfs_stat_parse_name_with_parentheses),
		cmocka_unit_test(procfs_stat_tells_processes_apart),
	};

	/* Mounts of this test stay in a mount namespace of its own. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
