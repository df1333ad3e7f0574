/* SPDX-License-Identifier: Apache-2.0 */
/* Users of an image's passwd and group files, hostile ones among them. */
#include "base/util.h"
#include "cri/spec/spec.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>

struct fixture {
	char root[64];
};

static void put(const struct fixture *f, const char *name, const char *text, size_t len)
{
	char *path CLEANUP_FREE = xasprintf("%s/etc/%s", f->root, name);

	assert_int_equal(write_file(path, text, len, 0644), 0);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *etc CLEANUP_FREE = NULL;

	snprintf(f->root, sizeof(f->root), "/tmp/crv-user-XXXXXX");
	assert_non_null(mkdtemp(f->root));
	etc = xasprintf("%s/etc", f->root);
	assert_int_equal(mkdir(etc, 0755), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(remove_tree(f->root), 0);
	free(f);
	return 0;
}

static void expect(const struct fixture *f, const char *user, uint32_t uid, uint32_t gid, size_t n_groups)
{
	struct spec_user found = {0};
	struct err err = ERR_INIT;

	if (spec_user_lookup(f->root, user, &found, &err) < 0)
		fail_msg("%s: %s", user, err.msg);
	assert_int_equal(found.uid, uid);
	assert_int_equal(found.gid, gid);
	assert_int_equal(found.n_groups, n_groups);
	free(found.groups);
}

static void refuse(const struct fixture *f, const char *user, int code, const char *words)
{
	struct spec_user found = {0};
	struct err err = ERR_INIT;

	assert_int_equal(spec_user_lookup(f->root, user, &found, &err), code);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
	assert_null(found.groups);
}

#define PUT(f, name, text) put(f, name, text, strlen(text))

static void spec_user_lookup_lines_that_name_nobody_are_left_out(void **state)
{
	const struct fixture *f = *state;

	PUT(f, "passwd",
	    "# comment\n"
	    "\n"
	    "+\n"
	    "+nis\n"
	    "-nis\n"
	    "+more::::::\n"
	    "short:x\n"
	    "text:x:abc:5:::\n"
	    "minus:x:-5:5:::\n"
	    "large:x:4294967296:5:::\n"
	    "none:x:4294967295:5:::\n"
	    "app:x:1000:1001\n"
	    "last:x:7:8:a:/home:/bin/sh");
	PUT(f, "group",
	    "+\n+nis:::app\nwheel:x:10:root,app\nempty:x:11:\nbare:x:12\nbad:x:-1:app\nlast:x:13:app");
	expect(f, "app", 1000, 1001, 2);
	expect(f, "last", 7, 8, 0);
	expect(f, "app:bare", 1000, 12, 2);
	expect(f, "app:empty", 1000, 11, 2);
	refuse(f, "+nis", -EINVAL, "unable to find user +nis");
	refuse(f, "+", -EINVAL, "unable to find user +");
	refuse(f, "-nis", -EINVAL, "unable to find user");
	refuse(f, "short", -EINVAL, "unable to find user short");
	refuse(f, "text", -EINVAL, "unable to find user text");
	refuse(f, "minus", -EINVAL, "unable to find user minus");
	refuse(f, "large", -EINVAL, "unable to find user large");
	refuse(f, "none", -EINVAL, "unable to find user none");
	refuse(f, "app:+nis", -EINVAL, "unable to find group +nis");
	expect(f, NULL, 0, 0, 0);
	expect(f, "", 0, 0, 0);
}

static void spec_user_lookup_name_wins_over_number(void **state)
{
	const struct fixture *f = *state;

	PUT(f, "passwd", "first:x:7:1:::\n7:x:70:71:::\nsecond:x:7:2:::\n");
	PUT(f, "group", "g:x:5:first\nh:x:6:7\n");
	expect(f, "7", 70, 71, 1);
	PUT(f, "passwd", "first:x:7:1:::\nsecond:x:7:2:::\n");
	expect(f, "7", 7, 1, 1);
	expect(f, "8", 8, 0, 0);
	refuse(f, "4294967295", -EINVAL, "unable to find user 4294967295");
}

static void spec_user_lookup_long_lines_are_read_up_to_a_limit(void **state)
{
	const struct fixture *f = *state;
	char *text CLEANUP_FREE = malloc(2u << 20);
	size_t n = 0;

	/* 20,000 members, "app" the last. */
	n += (size_t)sprintf(text + n, "big:x:9:");
	for (int i = 0; i < 20000; i++)
		n += (size_t)sprintf(text + n, "member%d,", i);
	n += (size_t)sprintf(text + n, "app\nafter:x:10:app\n");
	PUT(f, "passwd", "app:x:1:2:::\n");
	put(f, "group", text, n);
	expect(f, "app", 1, 2, 2);
	memset(text, 'a', 2u << 20);
	put(f, "group", text, 2u << 20);
	refuse(f, "app", -E2BIG, "/etc/group has a line that is too long");
}

static void spec_user_lookup_binary_file_is_no_harm(void **state)
{
	const struct fixture *f = *state;
	static const char bytes[] = "a\0b:x:1:2:::\n\xff\xfe:x:3:4\n:::\napp:x:5:6:\0::\n";

	put(f, "passwd", bytes, sizeof(bytes) - 1);
	put(f, "group", bytes, sizeof(bytes) - 1);
	expect(f, "app", 5, 6, 0);
	refuse(f, "b", -EINVAL, "unable to find user b");
}

static void spec_user_lookup_large_file_is_refused(void **state)
{
	const struct fixture *f = *state;
	char *path CLEANUP_FREE = xasprintf("%s/etc/passwd", f->root);

	PUT(f, "passwd", "app:x:1:2:::\n");
	assert_int_equal(truncate(path, (4 << 20) + 1), 0);
	refuse(f, "app", -EFBIG, "/etc/passwd is larger than 4194304 bytes");
}

static void spec_user_lookup_stays_inside_the_root(void **state)
{
	const struct fixture *f = *state;
	char *outside CLEANUP_FREE = xasprintf("%s/outside", f->root);
	char *root CLEANUP_FREE = xasprintf("%s/root", f->root);
	char *etc CLEANUP_FREE = xasprintf("%s/root/etc", f->root);
	char *link CLEANUP_FREE = xasprintf("%s/root/etc/passwd", f->root);
	struct fixture inner;

	assert_int_equal(write_file(outside, "app:x:1:2:::\n", 13, 0644), 0);
	assert_int_equal(mkdir_p(etc, 0755), 0);
	snprintf(inner.root, sizeof(inner.root), "%.40s/root", f->root);
	assert_int_equal(symlink("../../outside", link), 0);
	refuse(&inner, "app", -EINVAL, "unable to find user app");
	assert_int_equal(unlink(link), 0);
	assert_int_equal(mkfifo(link, 0644), 0);
	refuse(&inner, "app", -EINVAL, "not a regular file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(spec_user_lookup_lines_that_name_nobody_are_left_out),
		TEST(spec_user_lookup_name_wins_over_number),
		TEST(spec_user_lookup_long_lines_are_read_up_to_a_limit),
		TEST(spec_user_lookup_binary_file_is_no_harm),
		TEST(spec_user_lookup_large_file_is_refused),
		TEST(spec_user_lookup_stays_inside_the_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
