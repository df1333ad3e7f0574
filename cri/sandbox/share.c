/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/share_internal.h"

#include "base/procfs.h"
#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The guest's FORGETs reach virtiofsd some time after its umount; no event says when. */
#define UMOUNT_TRIES   40
#define UMOUNT_WAIT_MS 50

int share_create(const char *pod_dir, struct err *err)
{
	char *mounts CLEANUP_FREE = xasprintf("%s/mounts", pod_dir);
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod_dir);
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};

	if (!mounts || !shared)
		return err_oom(err);
	if ((mkdir(mounts, 0755) < 0 && errno != EEXIST) || (mkdir(shared, 0755) < 0 && errno != EEXIST))
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

static int umount_one(const char *path, bool lazy, struct err *err)
{
	for (int i = 0; !lazy && i < UMOUNT_TRIES; i++) {
		if (umount2(path, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return err_set_errno(err, -errno, "unmounting %s", path);
		poll(NULL, 0, UMOUNT_WAIT_MS);
	}
	/* The guest still uses it, and must not hold up the removal: detached, it goes with the VM. */
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
		return err_set_errno(err, -errno, "detaching %s", path);
	return 0;
}

static int umount_below(const char *path, bool lazy, struct err *err)
{
	char **list CLEANUP_STRV = NULL;
	int r = procfs_mounts_below(path, &list); /* the deepest come last */

	if (r < 0)
		return err_set_errno(err, r, "reading /proc/self/mountinfo");
	for (size_t i = strv_len(list); i > 0; i--) {
		r = umount_one(list[i - 1], lazy, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int share_destroy(const char *pod_dir, struct err *err)
{
	char *mounts CLEANUP_FREE = xasprintf("%s/mounts", pod_dir);
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod_dir);
	int r;

	if (!mounts || !shared)
		return err_oom(err);
	r = umount_below(mounts, true, err);
	if (r == 0)
		r = umount_below(shared, true, err);
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
	static const char *const sub[] = {"", "/rootfs", "/mounts"};

	for (size_t i = 0; i < ARRAY_SIZE(sub); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/mounts/%s%s", pod_dir, container_id, sub[i]);

		if (!path)
			return err_oom(err);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_set_errno(err, -errno, "making %s", path);
	}
	return 0;
}

int share_bind(const char *pod_dir, const char *container_id, unsigned int index, const char *source,
	       bool read_only, bool recursive_ro, struct err *err)
{
	char *target CLEANUP_FREE = xasprintf("%s/mounts/%s/mounts/%u", pod_dir, container_id, index);
	int tree CLEANUP_CLOSE = -1;
	struct mount_attr priv = {.propagation = MS_PRIVATE};
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY};
	struct stat st;

	if (!target)
		return err_oom(err);
	tree = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0)
		return err_set_errno(err, -errno, "mount source %s", source);
	if (fstat(tree, &st) < 0)
		return err_set_errno(err, -errno, "mount source %s", source);
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(target, 0755) < 0 && errno != EEXIST)
			return err_set_errno(err, -errno, "making %s", target);
	} else {
		int fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);

		if (fd < 0)
			return err_set_errno(err, -errno, "making %s", target);
		close_fd(fd);
	}
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &priv, sizeof(priv)) < 0)
		return err_set_errno(err, -errno, "making the mount of %s private", source);
	if (read_only &&
	    mount_setattr(tree, "", AT_EMPTY_PATH | (recursive_ro ? AT_RECURSIVE : 0u), &ro, sizeof(ro)) < 0)
		return err_set_errno(err, -errno, "making the mount of %s read-only", source);
	if (move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_set_errno(err, -errno, "mounting %s at %s", source, target);
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

int share_container_destroy(const char *container_dir, bool lazy, struct err *err)
{
	static const char *const files[] = {"config.json"};
	static const char *const dirs[] = {"mounts", "rootfs", ""};
	int r;

	if (access(container_dir, F_OK) < 0)
		return 0;
	r = umount_below(container_dir, lazy, err);
	if (r < 0)
		return r;
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
