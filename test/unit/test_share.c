/* SPDX-License-Identifier: Apache-2.0 */
/* The tree that a pod's virtiofsd exports, with real mounts in a mount namespace of the test's own. */
#include "base/procfs.h"
#include "base/util.h"
#include "cri/sandbox/share_internal.h"
#include "cri/sandbox/volumes_internal.h"
#include "vmm/cgroup_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

struct ctx {
	char dir[64], vol[64];
	char path[256];
	char got[VOLUMES_NAME]; /* of the last bind_volume */
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

static void must(int r, const struct err *err)
{
	if (r < 0)
		fail_msg("%s", err->msg);
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
	umount2(in_vol(c, "sub/inner"), MNT_DETACH);
	umount2(at(c, "victim/inner"), MNT_DETACH);
	if (remove_tree(c->dir) < 0 || remove_tree(c->vol) < 0)
		return -1;
	free(c);
	return 0;
}

/* The path of the volume in the exported tree, and `sub` below it. */
static const char *exported(struct ctx *c, const char *sub)
{
	snprintf(c->path, sizeof(c->path), "%s/shared/%s/%s", c->dir, c->got, sub);
	if (!*sub)
		c->path[strlen(c->path) - 1] = 0;
	return c->path;
}

static void bind_volume(struct ctx *c, const char *container, const char *source, bool read_only,
			bool recursive_ro)
{
	struct volume v = {source, read_only, recursive_ro};
	struct err err = ERR_INIT;

	must(volumes_bind(c->dir, NULL, container, &v, c->got, &err), &err);
}

static void release(struct ctx *c, const char *container)
{
	struct err err = ERR_INIT;
	char dir[256];

	snprintf(dir, sizeof(dir), "%s/mounts/%s", c->dir, container);
	must(share_container_destroy(dir, false, &err), &err);
}

static void make_share(struct ctx *c)
{
	struct err err = ERR_INIT;

	must(share_create(c->dir, &err), &err);
	must(share_container_create(c->dir, "c1", &err), &err);
	must(share_container_create(c->dir, "c2", &err), &err);
}

static void volumes_bind_appears_in_the_exported_tree(void **state)
{
	struct ctx *c = *state;

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	assert_int_equal(access(exported(c, "file"), F_OK), 0);
	assert_int_equal(write_file(exported(c, "new"), "x", 1, 0644), 0);
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

static void volumes_bind_read_only_leaves_nested_mounts_as_they_are(void **state)
{
	struct ctx *c = *state;

	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	make_share(c);
	bind_volume(c, "c1", c->vol, true, false);
	assert_int_equal(write_file(exported(c, "x"), "x", 1, 0644), -EROFS);
	assert_int_equal(write_file(exported(c, "sub/x"), "x", 1, 0644), 0);
	bind_volume(c, "c1", c->vol, true, true);
	assert_int_equal(write_file(exported(c, "sub/y"), "x", 1, 0644), -EROFS);
	/* The volume itself stays writable for the host. */
	assert_int_equal(write_file(in_vol(c, "sub/z"), "x", 1, 0644), 0);
}

static void volumes_bind_is_private_later_mounts_of_the_host_do_not_appear(void **state)
{
	struct ctx *c = *state;

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	assert_int_equal(write_file(in_vol(c, "sub/hidden"), "x", 1, 0644), 0);
	assert_int_equal(access(exported(c, "sub/hidden"), F_OK), -1);
}

static void volumes_bind_single_file_and_missing_source(void **state)
{
	struct ctx *c = *state;
	struct volume missing = {"/nonexistent/volume", true, false};
	struct err err = ERR_INIT;
	char *data CLEANUP_FREE = NULL;
	char file[128];

	snprintf(file, sizeof(file), "%s", in_vol(c, "file"));
	make_share(c);
	bind_volume(c, "c1", file, true, false);
	assert_int_equal(read_file(exported(c, ""), 16, &data, NULL), 0);
	assert_string_equal(data, "data");
	assert_int_equal(volumes_bind(c->dir, NULL, "c1", &missing, c->got, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/volume"));
	assert_int_equal(err.status, ERR_NOT_FOUND);
}

/* Fault V4: a socket of the host is refused in words, since no process in a VM could connect to it. */
static void volumes_bind_of_a_socket_is_refused(void **state)
{
	struct ctx *c = *state;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct volume v = {addr.sun_path, false, false};
	struct err err = ERR_INIT;
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	make_share(c);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", in_vol(c, "socket"));
	assert_int_equal(bind(s, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(volumes_bind(c->dir, NULL, "c1", &v, c->got, &err), -EOPNOTSUPP);
	assert_int_equal(err.status, ERR_INVALID_ARGUMENT);
	assert_non_null(strstr(err.msg, "is a socket of the host"));
	close_fd(s);
}

/* Fault V1: one source is one mount in the share, for every container and for every path in one. */
static void volumes_bind_same_source_is_one_mount(void **state)
{
	struct ctx *c = *state;
	char first[VOLUMES_NAME], link[128];

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	memcpy(first, c->got, sizeof(first));
	bind_volume(c, "c1", c->vol, false, false);
	assert_string_equal(c->got, first);
	bind_volume(c, "c2", c->vol, true, false);
	assert_string_equal(c->got, first);
	/* By another name. */
	snprintf(link, sizeof(link), "%s", at(c, "link"));
	assert_int_equal(symlink(c->vol, link), 0);
	bind_volume(c, "c2", link, true, false);
	assert_string_equal(c->got, first);
	/* Another source. */
	bind_volume(c, "c2", in_vol(c, "sub"), false, false);
	assert_string_not_equal(c->got, first);
}

/* Fault V1: it stays while one container uses it, and is gone after the last. */
static void volumes_release_unmounts_with_the_last_container(void **state)
{
	struct ctx *c = *state;
	char **list = NULL;

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	bind_volume(c, "c2", c->vol, false, false);
	release(c, "c1");
	assert_int_equal(access(exported(c, "file"), F_OK), 0);
	release(c, "c1"); /* again: nothing to do */
	assert_int_equal(access(exported(c, "file"), F_OK), 0);
	release(c, "c2");
	assert_int_equal(access(exported(c, ""), F_OK), -1);
	snprintf(c->path, sizeof(c->path), "%s/mounts/volumes/", c->dir);
	assert_int_equal(procfs_mounts_below(c->path, &list), 0);
	assert_null(list);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

/* Fault V1: read-only on the host until a container wants to write; also in another mount namespace. */
static void volumes_bind_writable_later_widens_the_mount_everywhere(void **state)
{
	struct ctx *c = *state;
	struct volume v = {c->vol, false, false};
	struct vmm_resources res = {0};
	struct err err = ERR_INIT;
	char first[VOLUMES_NAME], cgroup[64], path[256];
	int ready[2], go[2], status;
	char byte = 0;
	pid_t child;

	make_share(c);
	bind_volume(c, "c1", c->vol, true, false);
	memcpy(first, c->got, sizeof(first));
	snprintf(path, sizeof(path), "%s", exported(c, "written"));
	assert_int_equal(write_file(path, "x", 1, 0644), -EROFS);
	snprintf(cgroup, sizeof(cgroup), "/crvt-share-%d", getpid());
	must(vmm_cgroup_create(cgroup, &res, &err), &err);
	assert_int_equal(pipe(ready) | pipe(go), 0);
	child = fork();
	if (child == 0) { /* as virtiofsd */
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
		    write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(1);
		_exit(write_file(path, "x", 1, 0644) == 0 ? 0 : 2);
	}
	must(cgr_attach(cgroup, child, &err), &err);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	must(volumes_bind(c->dir, cgroup, "c2", &v, c->got, &err), &err);
	assert_string_equal(c->got, first);
	assert_int_equal(write_file(exported(c, "written"), "x", 1, 0644), 0);
	assert_int_equal(write(go[1], &byte, 1), 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	must(vmm_cgroup_destroy(cgroup, 0, &err), &err);
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
}

/* What the agent is told to mount: the volume and what lies below it. */
static void volumes_bind_lists_nested_mounts_for_the_guest(void **state)
{
	struct ctx *c = *state;
	char *text CLEANUP_FREE = NULL;
	char want[256];

	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	make_share(c);
	bind_volume(c, "c1", c->vol, true, false);
	snprintf(want, sizeof(want), "%s\n%s/sub\n", c->got, c->got);
	assert_int_equal(read_file(at(c, "shared/c1/volumes"), 4096, &text, NULL), 0);
	assert_string_equal(text, want);
}

/* The options of a mount point, "" if nothing is mounted there. */
static int take_options(const struct procfs_mount *m, void *arg)
{
	char **want = arg;

	if (str_eq(m->point, want[0]))
		snprintf(want[1], 256, "%s", m->options);
	return 0;
}

/*
 * Fault A: no user of the host reaches the pod's files by way of the share, and nothing that a container put
 * into a volume has effect there: set-user-id bits and device nodes.
 */
static void share_create_is_for_root_alone_and_binds_are_nosuid_nodev(void **state)
{
	static const char *const dirs[] = {"mounts", "shared", "mounts/c1", "shared/volumes", "volumes"};
	struct ctx *c = *state;
	struct stat st;

	assert_int_equal(mount("none", in_vol(c, "sub"), "tmpfs", 0, NULL), 0);
	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		assert_int_equal(stat(at(c, dirs[i]), &st), 0);
		assert_int_equal(st.st_mode & 0777, 0700);
	}
	for (int i = 0; i < 2; i++) {
		char path[256], options[256] = "";
		char *want[] = {path, options};

		snprintf(path, sizeof(path), "%s", exported(c, i ? "sub" : ""));
		assert_int_equal(procfs_mounts(take_options, want), 0);
		assert_non_null(strstr(options, "nosuid"));
		assert_non_null(strstr(options, "nodev"));
	}
}

struct swapping {
	char a[160], b[160];
	atomic_bool end;
	atomic_uint swaps;
};

static void *swap(void *arg)
{
	struct swapping *s = arg;

	while (!atomic_load(&s->end)) {
		(void)renameat2(AT_FDCWD, s->a, AT_FDCWD, s->b, RENAME_EXCHANGE);
		atomic_fetch_add(&s->swaps, 1);
	}
	return NULL;
}

/*
 * Fault N: a guest that replaces a directory above a nested mount by a symlink while the volume is released
 * leads to no mount elsewhere.
 */
static void share_container_destroy_follows_no_symlink_of_the_guest(void **state)
{
	struct ctx *c = *state;
	struct swapping s = {.end = false};
	char victim[128], victim_inner[160], inner[128];
	pthread_t thread;

	snprintf(victim, sizeof(victim), "%s", at(c, "victim"));
	snprintf(victim_inner, sizeof(victim_inner), "%s/inner", victim);
	snprintf(inner, sizeof(inner), "%s", in_vol(c, "sub/inner"));
	snprintf(s.a, sizeof(s.a), "%s", in_vol(c, "sub"));
	snprintf(s.b, sizeof(s.b), "%s", in_vol(c, "link"));
	assert_int_equal(mkdir(victim, 0755) | mkdir(inner, 0755) | mkdir(victim_inner, 0755), 0);
	assert_int_equal(symlink(victim, s.b), 0);
	assert_int_equal(mount("none", victim_inner, "tmpfs", 0, NULL), 0);
	make_share(c);
	for (int i = 0; i < 200; i++) {
		struct err err = ERR_INIT;

		must(share_container_create(c->dir, "c1", &err), &err);
		assert_int_equal(mount("none", inner, "tmpfs", 0, NULL), 0);
		bind_volume(c, "c1", c->vol, false, false);
		assert_int_equal(umount2(inner, 0), 0);
		atomic_store(&s.end, false);
		atomic_store(&s.swaps, 0);
		assert_int_equal(pthread_create(&thread, NULL, swap, &s), 0);
		while (atomic_load(&s.swaps) < 3 + (unsigned int)i % 16)
			sched_yield();
		release(c, "c1");
		atomic_store(&s.end, true);
		pthread_join(thread, NULL);
		if (readlink(s.a, c->path, 1) == 1) /* the symlink is in its place */
			assert_int_equal(renameat2(AT_FDCWD, s.a, AT_FDCWD, s.b, RENAME_EXCHANGE), 0);
	}
	assert_int_equal(umount2(victim_inner, 0), 0); /* it is still there */
}

/* The places of versions that shared a source for each container. */
static void share_container_destroy_of_an_earlier_version_unmounts_its_volumes(void **state)
{
	struct ctx *c = *state;
	char dir[256];

	make_share(c);
	assert_int_equal(mkdir(at(c, "mounts/c1/mounts"), 0755), 0);
	assert_int_equal(mkdir(at(c, "mounts/c1/mounts/0"), 0755), 0);
	assert_int_equal(mount(c->vol, at(c, "mounts/c1/mounts/0"), NULL, MS_BIND, NULL), 0);
	snprintf(dir, sizeof(dir), "%s", at(c, "mounts/c1"));
	release(c, "c1");
	assert_int_equal(access(dir, F_OK), -1);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

static void share_container_destroy_removes_the_tree_and_spares_the_volume(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	must(share_write(c->dir, "c1/config.json", "{}", &err), &err);
	release(c, "c1");
	release(c, "c1"); /* again: nothing to do */
	assert_int_equal(access(at(c, "mounts/c1"), F_OK), -1);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

static void share_destroy_with_mounts_left_spares_the_volume(void **state)
{
	struct ctx *c = *state;
	struct err err = ERR_INIT;

	make_share(c);
	bind_volume(c, "c1", c->vol, false, false);
	must(share_destroy(c->dir, &err), &err);
	assert_int_equal(access(at(c, "mounts"), F_OK), -1);
	assert_int_equal(access(in_vol(c, "file"), F_OK), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(volumes_bind_appears_in_the_exported_tree),
		TEST(share_create_exported_tree_itself_is_read_only),
		TEST(volumes_bind_read_only_leaves_nested_mounts_as_they_are),
		TEST(volumes_bind_is_private_later_mounts_of_the_host_do_not_appear),
		TEST(volumes_bind_single_file_and_missing_source),
		TEST(volumes_bind_of_a_socket_is_refused),
		TEST(volumes_bind_same_source_is_one_mount),
		TEST(volumes_release_unmounts_with_the_last_container),
		TEST(volumes_bind_writable_later_widens_the_mount_everywhere),
		TEST(volumes_bind_lists_nested_mounts_for_the_guest),
		TEST(share_create_is_for_root_alone_and_binds_are_nosuid_nodev),
		TEST(share_container_destroy_follows_no_symlink_of_the_guest),
		TEST(share_container_destroy_of_an_earlier_version_unmounts_its_volumes),
		TEST(share_container_destroy_removes_the_tree_and_spares_the_volume),
		TEST(share_destroy_with_mounts_left_spares_the_volume),
	};

	/* As on a host with systemd: / is shared; all of it in a namespace of our own. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
