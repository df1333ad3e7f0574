/* SPDX-License-Identifier: Apache-2.0 */
/* Untrusted directory trees: names, removal, usage. */
#include "base/tree.h"

#include "base/util.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>

static void path_clean_makes_names_relative(void **state)
{
	static const struct {
		const char *from, *to;
	} cases[] = {{"a", "a"},     {"/a/b", "a/b"}, {"./a", "a"}, {"a//b/./c/", "a/b/c"},
		     {"/", ""},	     {".", ""},	      {"", ""},	    {"..a/b..", "..a/b.."},
		     {"...", "..."}, {"////x", "x"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s", cases[i].from);
		assert_int_equal(path_clean(name), 0);
		assert_string_equal(name, cases[i].to);
	}
}

static void path_clean_refuses_dots_and_lengths(void **state)
{
	static const char *const bad[] = {"..", "a/..", "../a", "a/../b", "/..", "./.."};
	char name[5000];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(name, sizeof(name), "%s", bad[i]);
		assert_int_equal(path_clean(name), -EINVAL);
	}
	memset(name, 'n', 256);
	name[256] = 0;
	assert_int_equal(path_clean(name), -ENAMETOOLONG);
	for (size_t i = 0; i < 4500; i++)
		name[i] = i % 2 ? '/' : 'd';
	name[4500] = 0;
	assert_int_equal(path_clean(name), -ENAMETOOLONG);
	name[2 * TREE_DEPTH_MAX + 2] = 0;
	assert_int_equal(path_clean(name), -ENAMETOOLONG);
	name[2 * TREE_DEPTH_MAX] = 0;
	assert_int_equal(path_clean(name), 0);
}

static void remove_tree_at_stays_out_of_links(void **state)
{
	char dir[] = "/tmp/test_tree.XXXXXX";
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(fd, "keep", 0700), 0);
	assert_int_equal(mkdirat(fd, "tree", 0700), 0);
	assert_int_equal(mkdirat(fd, "tree/sub", 0700), 0);
	assert_int_equal(symlinkat("../../keep", fd, "tree/sub/link"), 0);
	assert_int_equal(symlinkat("tree", fd, "alias"), 0);
	assert_int_equal(remove_tree_at(fd, "alias"), 0);
	assert_int_equal(faccessat(fd, "tree/sub", F_OK, 0), 0);
	assert_int_equal(remove_tree_at(fd, "tree"), 0);
	assert_int_equal(remove_tree_at(fd, "tree"), 0);
	assert_int_equal(faccessat(fd, "tree", F_OK, 0), -1);
	assert_int_equal(faccessat(fd, "keep", F_OK, 0), 0);
	close_fd(fd);
	assert_int_equal(remove_tree(dir), 0);
}

static void path_open_in_stays_below_the_root(void **state)
{
	char dir[] = "/tmp/test_tree.XXXXXX";
	int root, fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(root, "etc", 0700), 0);
	assert_int_equal(symlinkat("/etc/passwd", root, "link"), 0);
	assert_int_equal(path_open_in(root, "link", O_RDONLY), -ENOENT);
	assert_int_equal(path_open_in(root, "../../etc/passwd", O_RDONLY), -ENOENT);
	assert_int_equal(symlinkat("../../../etc", root, "up"), 0);
	fd = path_open_in(root, "up", O_PATH | O_DIRECTORY);
	assert_true(fd >= 0);
	assert_int_equal(faccessat(fd, "passwd", F_OK, 0), -1);
	close_fd(fd);
	close_fd(root);
	assert_int_equal(remove_tree(dir), 0);
}

static void tree_usage_add_counts_each_file_once(void **state)
{
	char dir[] = "/tmp/test_tree.XXXXXX", block[8192] = {1};
	struct tree_usage none = {0}, usage = {0};
	int fd, file;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	tree_usage_add(fd, "missing", &none);
	assert_int_equal(none.bytes + none.inodes, 0);
	assert_int_equal(mkdirat(fd, "sub", 0700), 0);
	file = openat(fd, "sub/a", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write_full(file, block, sizeof(block)), 0);
	assert_int_equal(fsync(file), 0);
	close_fd(file);
	assert_int_equal(linkat(fd, "sub/a", fd, "sub/b", 0), 0);
	assert_int_equal(symlinkat("/", fd, "link"), 0);
	tree_usage_add(fd, ".", &usage);
	assert_int_equal(usage.inodes, 4); /* sub, its file by two names, the link */
	assert_true(usage.bytes >= sizeof(block) && usage.bytes < 2 * sizeof(block) + 16384);
	close_fd(fd);
	assert_int_equal(remove_tree(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(path_clean_makes_names_relative),
		cmocka_unit_test(path_clean_refuses_dots_and_lengths),
		cmocka_unit_test(remove_tree_at_stays_out_of_links),
		cmocka_unit_test(path_open_in_stays_below_the_root),
		cmocka_unit_test(tree_usage_add_counts_each_file_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
