/* SPDX-License-Identifier: Apache-2.0 */
#include "base/tree.h"

#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define REMOVE_DEPTH 64 /* of descriptors held at once */

int path_open_in(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned long long)(unsigned int)(flags | O_CLOEXEC),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};

	for (int tries = 0; tries < 100; tries++) {
		long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR) /* a rename raced with a ".." */
			return -errno;
	}
	return -EAGAIN;
}

int path_clean(char *name)
{
	const char *from = name;
	char *to = name;
	int depth = 0;

	if (strlen(name) > IMAGE_PATH_MAX)
		return -ENAMETOOLONG;
	while (*from) {
		size_t len = strcspn(from, "/");

		if (len == 2 && from[0] == '.' && from[1] == '.')
			return -EINVAL;
		if (len > NAME_MAX || depth >= IMAGE_DEPTH_MAX)
			return -ENAMETOOLONG;
		if (len > 0 && !(len == 1 && from[0] == '.')) {
			if (to > name)
				*to++ = '/';
			memmove(to, from, len);
			to += len;
			depth++;
		}
		from += len;
		while (*from == '/')
			from++;
	}
	*to = 0;
	return 0;
}

void path_split(char *path, const char **ret_parent, const char **ret_base)
{
	char *slash = strrchr(path, '/');

	if (slash) {
		*slash = 0;
		*ret_parent = path;
		*ret_base = slash + 1;
	} else {
		*ret_parent = "";
		*ret_base = path;
	}
}

/* ---- removal ------------------------------------------------------------------------------------------- */

struct removal {
	int top; /* where what lies too deep is moved to */
	dev_t dev;
};

static int remove_children(struct removal *rm, int fd, int depth);

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

/* 0: gone; 1: something was hoisted, so another round is needed. */
static int remove_entry(struct removal *rm, int dirfd, const char *name, int depth)
{
	struct stat st;
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISDIR(st.st_mode))
		return -EPERM;
	if (st.st_dev != rm->dev)
		return -EXDEV;
	if (depth >= REMOVE_DEPTH && dirfd != rm->top)
		return hoist(rm, dirfd, name);
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = remove_children(rm, fd, depth + 1);
	if (r != 0)
		return r;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
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
		r = remove_entry(rm, fd, de->d_name, depth);
		if (r < 0) {
			result = r;
			break;
		}
		result |= r;
	}
	closedir(dir);
	return result;
}

int path_remove_tree(int dirfd, const char *name)
{
	struct stat st;
	struct removal rm = {.top = -1};
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (!S_ISDIR(st.st_mode))
		return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rm.top = fd;
	rm.dev = st.st_dev;
	do {
		if (lseek(fd, 0, SEEK_SET) < 0)
			return -errno;
		r = remove_children(&rm, fd, 0);
	} while (r > 0);
	if (r < 0)
		return r;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}
