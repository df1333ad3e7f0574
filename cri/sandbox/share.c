/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/share_internal.h"

#include "base/procfs.h"
#include "base/util.h"
#include "cri/sandbox/volumes_internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The guest's FORGETs reach virtiofsd some time after its umount; no event says when. */
#define UMOUNT_TRIES   40
#define UMOUNT_WAIT_MS 50
#define STACK_MAX      16 /* mounts on one another at a path */

int share_create(const char *pod_dir, struct err *err)
{
	char *mounts CLEANUP_FREE = xasprintf("%s/mounts", pod_dir);
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod_dir);
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};

	if (!mounts || !shared)
		return err_oom(err);
	if ((mkdir(mounts, 0700) < 0 && errno != EEXIST) || (mkdir(shared, 0700) < 0 && errno != EEXIST))
		return err_set_errno(err, -errno, "making %s", mounts);
	if (mount(mounts, mounts, NULL, MS_BIND, NULL) < 0 ||
	    mount(NULL, mounts, NULL, MS_PRIVATE, NULL) < 0 || mount(NULL, mounts, NULL, MS_SHARED, NULL) < 0)
		return err_set_errno(err, -errno, "mounting %s", mounts);
	/* A peer of `mounts`: what is mounted there appears here. Only its own top is read-only. */
	if (mount(mounts, shared, NULL, MS_BIND, NULL) < 0)
		return err_set_errno(err, -errno, "mounting %s", shared);
	if (mount_setattr(AT_FDCWD, shared, 0, &ro, sizeof(ro)) < 0)
		return err_set_errno(err, -errno, "making %s read-only", shared);
	return 0;
}

/* -EINVAL: nothing is mounted there (any more). */
static int umount_idle(const char *path)
{
	for (int i = 0; i < UMOUNT_TRIES; i++) {
		if (umount2(path, UMOUNT_NOFOLLOW) == 0)
			return 0;
		if (errno != EBUSY)
			return -errno;
		poll(NULL, 0, UMOUNT_WAIT_MS);
	}
	return -EBUSY;
}

static bool has_mounts_below(const char *path)
{
	char **list CLEANUP_STRV = NULL;

	return procfs_mounts_below(path, &list) == 0 && strv_len(list) > 1;
}

int share_umount(const char *path, bool lazy, struct err *err)
{
	int r = 0;

	for (int i = 0; r == 0 && i < STACK_MAX; i++) {
		r = lazy || has_mounts_below(path) ? -EBUSY : umount_idle(path);
		/* With all that is below it. It goes with the VM if that does not let go of it. */
		if (r == -EBUSY)
			r = umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
	}
	return r == 0 || r == -EINVAL || r == -ENOENT ? 0 : err_set_errno(err, r, "unmounting %s", path);
}

int share_destroy(const char *pod_dir, struct err *err)
{
	char *mounts CLEANUP_FREE = xasprintf("%s/mounts", pod_dir);
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod_dir);
	int r;

	if (!mounts || !shared)
		return err_oom(err);
	r = share_umount(mounts, true, err);
	if (r == 0)
		r = share_umount(shared, true, err);
	if (r == 0)
		r = remove_tree(shared) < 0 ? err_set(err, -EBUSY, "removing %s", shared) : 0;
	if (r == 0) {
		r = remove_tree(mounts);
		if (r < 0)
			return err_set_errno(err, r, "removing %s", mounts);
	}
	return r;
}

int share_container_create(const char *pod_dir, const char *container_id, struct err *err)
{
	static const char *const sub[] = {"", "/rootfs"};

	for (size_t i = 0; i < ARRAY_SIZE(sub); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/mounts/%s%s", pod_dir, container_id, sub[i]);

		if (!path)
			return err_oom(err);
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_set_errno(err, -errno, "making %s", path);
	}
	return 0;
}

/* Removes the entries of a directory that is known to hold empty mount targets only. */
static int remove_targets(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *de;
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (errno = 0, de = readdir(dir))) {
		if (str_eq(de->d_name, ".") || str_eq(de->d_name, ".."))
			continue;
		if (unlinkat(dirfd(dir), de->d_name, 0) < 0 &&
		    unlinkat(dirfd(dir), de->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			r = -errno;
	}
	closedir(dir);
	if (r == 0 && rmdir(path) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

/*
 * The places where something is mounted in a container's directory; versions before volumes had names used
 * `mounts`.
 */
static int container_tops(const char *container_dir, char ***ret_tops)
{
	char *volumes CLEANUP_FREE = xasprintf("%s/mounts", container_dir);
	DIR *dir = volumes ? opendir(volumes) : NULL;
	const struct dirent *de;
	int r = volumes ? strv_addf(ret_tops, "%s/rootfs", container_dir) : -ENOMEM;

	while (r == 0 && dir && (de = readdir(dir))) {
		if (de->d_name[0] != '.')
			r = strv_addf(ret_tops, "%s/%s", volumes, de->d_name);
	}
	if (dir)
		closedir(dir);
	return r;
}

static int umount_container(const char *container_dir, bool lazy, struct err *err)
{
	char **tops CLEANUP_STRV = NULL;
	int r = container_tops(container_dir, &tops);

	if (r < 0)
		return err_set_errno(err, r, "reading %s", container_dir);
	for (size_t i = 0; r == 0 && tops[i]; i++)
		r = share_umount(tops[i], lazy, err);
	return r;
}

static int remove_container(const char *container_dir, struct err *err)
{
	static const char *const files[] = {"config.json", VOLUMES_DIR};
	static const char *const dirs[] = {"mounts", "rootfs", ""};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", container_dir, files[i]);

		if (!path || (unlink(path) < 0 && errno != ENOENT))
			return err_set_errno(err, -errno, "removing %s/%s", container_dir, files[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", container_dir, dirs[i]);

		r = path ? remove_targets(path) : -ENOMEM;
		if (r < 0)
			return err_set_errno(err, r, "removing %s/%s", container_dir, dirs[i]);
	}
	return 0;
}

int share_container_destroy(const char *container_dir, bool lazy, struct err *err)
{
	char *pod_dir CLEANUP_FREE = strdup(container_dir);
	const char *id = strrchr(container_dir, '/');
	char *end = NULL;
	int r;

	if (!pod_dir)
		return err_oom(err);
	/* <pod dir>/mounts/<container> */
	for (int i = 0; i < 2 && (end = strrchr(pod_dir, '/')); i++)
		*end = 0;
	if (!id || !end)
		return err_set(err, -EINVAL, "\"%s\" is not a container's place", container_dir);
	r = access(container_dir, F_OK) < 0 ? 0 : umount_container(container_dir, lazy, err);
	if (r == 0)
		r = volumes_release(pod_dir, id + 1, lazy, err);
	if (r == 0 && access(container_dir, F_OK) == 0)
		r = remove_container(container_dir, err);
	return r;
}

int share_write(const char *pod_dir, const char *name, const char *text, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/mounts/%s", pod_dir, name);
	int r;

	if (!path)
		return err_oom(err);
	r = write_file(path, text, strlen(text), 0644);
	if (r < 0)
		return err_set_errno(err, r, "writing %s", path);
	return 0;
}
