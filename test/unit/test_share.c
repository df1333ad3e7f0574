/* SPDX-License-Identifier: Apache-2.0 */
/* The tree that a pod's virtiofsd exports, with real mounts in a mount namespace of the test's own. */
#include "base/util.h"
#include "cri/sandbox/share_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

struct ctx {
	char dir[64], vol[64];
	char path[256];
};

static const char *at(struct ctx *c, const char *sub)
{
	snprintf(c->path, sizeof(c->path), "%s/%s", c->dir, sub);
	return c->path;
}

static const char *in_vol(struct ctx *c, const char *sub)
{
	snprintf(c->path, sizeof(c->path), "%s/%s", c->vol, sub);
	return c->path;
}

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof(*c));

	strcpy(c->dir, "/tmp/crv-share-XXXXXX");
	strcpy(c->vol, "/tmp/crv-vol-XXXXXX");
	if (!mkdtemp(c->dir) || !mkdtemp(c->vol))
		return -1;
	if (write_file(in_vol(c, "file"), "data", 4, 0644) < 0 || mkdir(in_vol(c, "sub"), 0755) < 0)
		return -1;
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	if (share_destroy(c->dir, &err) < 0) {
		print_error("%s\n", err.msg);
		return -1;
	}
	umount2(in_vol(c, "sub"), MNT_DETACH);
	if (remove_tree(c->dir) < 0 || remove_tree(c->vol) < 0)
		return -1;
	free(c);
	return 0;
}

static void must(int r, const struct err *err)
{
	if (r < 0)
		fail_msg("%s", err->msg);
}

static void share_bind_appears_in_the_exported_tree(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, c->vol, false, false, &err), &err);
	assert_int_equal(access(at(c, "shared/c1/mounts/0/file"), F_OK), 0);
	assert_int_equal(write_file(at(c, "shared/c1/mounts/0/new"), "x", 1, 0644), 0);
	assert_int_equal(access(in_vol(c, "new"), F_OK), 0);
}

static void share_create_exported_tree_itself_is_read_only(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_write(c->dir, "resolv.conf", "nameserver 192.0.2.1\n", &err), &err);
	assert_int_equal(access(at(c, "shared/resolv.conf"), R_OK), 0);
	/* What a guest would do to redirect the next mount. */
	assert_int_equal(symlink("/etc", at(c, "shared/evil")), -1);
	assert_int_equal(errno, EROFS);
	assert_int_equal(rmdir(at(c, "shared/c1/rootfs")), -1);
	assert_int_equal(errno, EROFS);
}

static void share_bind_read_only_leaves_nested_mounts_as_they_are(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, c->vol, true, false, &err), &err);
	must(share_bind(c->dir, "c1", 1, c->vol, true, true, &err), &err);
	assert_int_equal(write_file(at(c, "shared/c1/mounts/0/x"), "x", 1, 0644), -EROFS);
	assert_int_equal(write_file(at(c, "shared/c1/mounts/0/sub/x"), "x", 1, 0644), 0);
	assert_int_equal(write_file(at(c, "shared/c1/mounts/1/sub/y"), "x", 1, 0644), -EROFS);
	/* The volume itself stays writable for the host. */
	assert_int_equal(write_file(in_vol(c, "sub/z"), "x", 1, 0644), 0);
}

static void share_bind_is_private_later_mounts_of_the_host_do_not_appear(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, c->vol, false, false, &err), &err);
	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	assert_int_equal(write_file(in_vol(c, "sub/hidden"), "x", 1, 0644), 0);
	assert_int_equal(access(at(c, "shared/c1/mounts/0/sub/hidden"), F_OK), -1);
}

static void share_bind_single_file_and_missing_source(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;
	char *data CLEANUP_FREE = NULL;
	char file[128];

	snprintf(file, sizeof(file), "%s", in_vol(c, "file"));
	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, file, true, false, &err), &err);
	assert_int_equal(read_file(at(c, "shared/c1/mounts/0"), 16, &data, NULL), 0);
	assert_string_equal(data, "data");
	assert_int_equal(share_bind(c->dir, "c1", 1, "/nonexistent/volume", true, false, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/volume"));
	assert_int_equal(err.status, ERR_NOT_FOUND);
}

static void share_container_destroy_removes_the_tree_and_spares_the_volume(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;
	char dir[256];

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, c->vol, false, false, &err), &err);
	must(share_write(c->dir, "c1/config.json", "{}", &err), &err);
	snprintf(dir, sizeof(dir), "%s", at(c, "mounts/c1"));
	must(share_container_destroy(dir, false, &err), &err);
	must(share_container_destroy(dir, false, &err), &err); /* again: nothing to do */
	assert_int_equal(access(dir, F_OK), -1);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

static void share_destroy_with_mounts_left_spares_the_volume(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_bind(c->dir, "c1", 0, c->vol, false, false, &err), &err);
	must(share_destroy(c->dir, &err), &err);
	assert_int_equal(access(at(c, "mounts"), F_OK), -1);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(share_bind_appears_in_the_exported_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(share_create_exported_tree_itself_is_read_only, setup,
						teardown),
		cmocka_unit_test_setup_teardown(share_bind_read_only_leaves_nested_mounts_as_they_are, setup,
						teardown),
		cmocka_unit_test_setup_teardown(share_bind_is_private_later_mounts_of_the_host_do_not_appear,
						setup, teardown),
		cmocka_unit_test_setup_teardown(share_bind_single_file_and_missing_source, setup, teardown),
		cmocka_unit_test_setup_teardown(
			share_container_destroy_removes_the_tree_and_spares_the_volume, setup, teardown),
		cmocka_unit_test_setup_teardown(share_destroy_with_mounts_left_spares_the_volume, setup,
						teardown),
	};

	/* As on a host with systemd: / is shared; all of it in a namespace of our own. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
