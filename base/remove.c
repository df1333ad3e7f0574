/* SPDX-License-Identifier: Apache-2.0 */
#include "base/tree.h"
#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define REMOVE_DEPTH 64 /* of descriptors held at once */

struct removal {
	int top; /* where what lies too deep is moved to */
	dev_t dev;
	int64_t deadline_ns;
};

static int remove_children(struct removal *rm, int fd, int depth);

/* A bind mount of the same file system has the same st_dev; the kernel tells it apart (Linux 5.8). */
static bool is_mount_root(int dirfd, const char *name)
{
	struct statx stx;

	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
		return false;
	return stx.stx_attributes_mask & stx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* Moves a directory that lies too deep up to the top, where a later round finds it. */
static int hoist(const struct removal *rm, int dirfd, const char *name)
{
	char up[40], suffix[33];
	int r = random_hex(16, suffix);

	if (r < 0)
		return r;
	snprintf(up, sizeof(up), "rm.%s", suffix);
	return renameat(dirfd, name, rm->top, up) < 0 ? -errno : 1;
}

/* Somebody has put something into it meanwhile: -EBUSY. */
static int remove_empty(int dirfd, const char *name)
{
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	return errno == ENOTEMPTY || errno == EEXIST ? -EBUSY : -errno;
}

/* 0: gone; 1: something was hoisted, so another round is needed. */
static int remove_entry(struct removal *rm, int dirfd, const char *name, int depth)
{
	struct stat st;
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno == EBUSY) /* a file that something is mounted on */
		return -EXDEV;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISDIR(st.st_mode))
		return -EPERM;
	if (st.st_dev != rm->dev || is_mount_root(dirfd, name))
		return -EXDEV;
	if (depth >= REMOVE_DEPTH && dirfd != rm->top)
		return hoist(rm, dirfd, name);
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = remove_children(rm, fd, depth + 1);
	if (r != 0)
		return r;
	return remove_empty(dirfd, name);
}

static int remove_children(struct removal *rm, int fd, int depth)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *de;
	int result = 0;

	if (!dir) {
		int r = -errno;

		close_fd(copy);
		return r;
	}
	while ((de = readdir(dir))) {
		int r;

		if (str_eq(de->d_name, ".") || str_eq(de->d_name, ".."))
			continue;
		r = now_monotonic_ns() < rm->deadline_ns ? remove_entry(rm, fd, de->d_name, depth) : -EBUSY;
		if (r < 0) {
			result = r;
			break;
		}
		result |= r;
	}
	closedir(dir);
	return result;
}

int remove_tree_until(int dirfd, const char *path, int64_t deadline_ns)
{
	struct stat st;
	struct removal rm = {.top = -1, .deadline_ns = deadline_ns};
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (is_mount_root(dirfd, path))
		return -EXDEV;
	if (!S_ISDIR(st.st_mode))
		return unlinkat(dirfd, path, 0) < 0 && errno != ENOENT ? -errno : 0;
	fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	rm.top = fd;
	rm.dev = st.st_dev;
	do {
		if (lseek(fd, 0, SEEK_SET) < 0)
			return -errno;
		r = remove_children(&rm, fd, 0);
	} while (r > 0);
	return r < 0 ? r : remove_empty(dirfd, path);
}

int remove_tree_at(int dirfd, const char *path)
{
	return remove_tree_until(dirfd, path, now_monotonic_ns() + REMOVE_TREE_NS);
}
