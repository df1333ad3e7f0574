/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/unpack/unpack_internal.h"

#include "base/util.h"
#include "base/tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define LINKS_MAX 8 /* that lead to nothing, in one path */

bool unpack_is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/* ---- what lies in the layers beneath ------------------------------------------------------------------- */

static bool is_opaque(int fd)
{
	char path[40], value[2];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return getxattr(path, XATTR_OPAQUE, value, sizeof(value)) == 1 && value[0] == 'y';
}

/* 1: found, *ret_fd (O_PATH); 0: not in this layer; -1: hidden, so nothing beneath shows either. */
static int lower_in(int root, const char *path, int *ret_fd)
{
	int dir CLEANUP_CLOSE = fcntl(root, F_DUPFD_CLOEXEC, 3);
	bool opaque = false;

	for (const char *p = path; dir >= 0;) {
		size_t len = strcspn(p, "/");
		char name[NAME_MAX + 1];
		struct stat st;
		int fd;

		snprintf(name, sizeof(name), "%.*s", (int)len, p);
		fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return opaque ? -1 : 0;
		if (fstat(fd, &st) < 0 || unpack_is_whiteout(&st) || (p[len] && !S_ISDIR(st.st_mode))) {
			close_fd(fd);
			return -1;
		}
		if (!p[len]) {
			*ret_fd = fd;
			return 1;
		}
		opaque = opaque || is_opaque(fd);
		close_fd(dir);
		dir = fd;
		p += len + 1;
	}
	return -1;
}

int unpack_lower_find(const struct unpack *u, const char *path)
{
	for (size_t i = 0; i < u->n_parents; i++) {
		int fd = -1;
		int r = lower_in(u->parents[i], path, &fd);

		if (r > 0)
			return fd;
		if (r < 0)
			break;
	}
	return -ENOENT;
}

/* ---- parents ------------------------------------------------------------------------------------------- */

void unpack_forget_parent(struct unpack *u)
{
	u->cached_fd = close_fd(u->cached_fd);
}

static int make_implied(struct unpack *u, int dirfd, const char *base, const char *path, struct err *err)
{
	int lower CLEANUP_CLOSE = -1;
	struct stat st;
	int r = unpack_count_made(u, err);

	if (r < 0)
		return r;
	if (mkdirat(dirfd, base, 0755) < 0)
		return unpack_io_error(err, path);
	lower = unpack_lower_find(u, path);
	if (lower < 0 || fstat(lower, &st) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	r = unpack_copy_attributes(lower, dirfd, base);
	if (r < 0)
		return err_set_errno(err, r, "unpacking \"%.200s\"", path);
	return unpack_remember_dir(u, "", path, &st.st_mtim, err);
}

static int walk_parent(struct unpack *u, const char *parent, int links, struct err *err);

/* Appends the parts of `path` to the clean path in out, ".." going up but never out. */
static int append_parts(char *out, const char *path)
{
	while (*path) {
		size_t len = strcspn(path, "/"), at = strlen(out);

		if (len == 2 && path[0] == '.' && path[1] == '.') {
			char *slash = strrchr(out, '/');

			*(slash ? slash : out) = 0;
		} else if (len > 0 && !(len == 1 && path[0] == '.')) {
			if (len > NAME_MAX || at + len + 2 > PATH_MAX)
				return -ENAMETOOLONG;
			snprintf(out + at, PATH_MAX - at, "%s%.*s", at ? "/" : "", (int)len, path);
		}
		path += len;
		while (*path == '/')
			path++;
	}
	return 0;
}

/*
 * A symlink in a parent's path is followed inside the root. Where it leads to nothing, that is made, as
 * containerd does: it may well be there in the layers beneath.
 */
static int through_link(struct unpack *u, int dirfd, const char *base, const char *path, int links,
			struct err *err)
{
	int fd = path_open_in(u->root, path, O_PATH | O_DIRECTORY);
	char *buffers CLEANUP_FREE = NULL;
	char *to, *target;
	ssize_t n;

	if (fd != -ENOENT || links >= LINKS_MAX)
		return fd >= 0 ? fd
			       : unpack_bad(err,
					    "an entry's path leads through the link \"%.200s\", which leads "
					    "to no directory",
					    path);
	buffers = calloc(2, PATH_MAX);
	if (!buffers)
		return err_oom(err);
	to = buffers;
	target = buffers + PATH_MAX;
	n = readlinkat(dirfd, base, target, PATH_MAX - 1);
	if (n < 0)
		return unpack_io_error(err, path);
	if (target[0] != '/')
		snprintf(to, PATH_MAX, "%.*s", (int)(strlen(path) - strlen(base)), path);
	if (append_parts(to, target) < 0 || strlen(to) > TREE_PATH_MAX)
		return unpack_bad(
			err, "an entry's path leads through the link \"%.200s\", which leads to no directory",
			path);
	return walk_parent(u, to, links + 1, err);
}

/* Opens one more part of a parent's path. */
static int step(struct unpack *u, int dirfd, const char *base, const char *path, int links, struct err *err)
{
	struct stat st;
	int fd, r;

	if (fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return unpack_io_error(err, path);
		r = make_implied(u, dirfd, base, path, err);
		if (r < 0)
			return r;
	} else if (unpack_is_whiteout(&st)) { /* removed beneath, made anew here */
		unpack_forget_parent(u);
		if (unlinkat(dirfd, base, 0) < 0 || mkdirat(dirfd, base, 0755) < 0)
			return unpack_io_error(err, path);
		r = unpack_set_opaque(dirfd, base, path, err);
		if (r < 0)
			return r;
	} else if (S_ISLNK(st.st_mode)) {
		return through_link(u, dirfd, base, path, links, err);
	} else if (!S_ISDIR(st.st_mode)) {
		return unpack_bad(err, "an entry's path leads through \"%.200s\", which is not a directory",
				  path);
	}
	fd = openat(dirfd, base, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? unpack_io_error(err, path) : fd;
}

static int walk_parent(struct unpack *u, const char *parent, int links, struct err *err)
{
	int dir = fcntl(u->root, F_DUPFD_CLOEXEC, 3);
	char *path CLEANUP_FREE = malloc(PATH_MAX);
	char base[NAME_MAX + 1];

	if (dir < 0 || !path) {
		close_fd(dir);
		return err_oom(err);
	}
	for (const char *p = parent; *p;) {
		size_t len = strcspn(p, "/");
		int fd;

		snprintf(base, sizeof(base), "%.*s", (int)len, p);
		snprintf(path, PATH_MAX, "%.*s", (int)((size_t)(p - parent) + len), parent);
		fd = step(u, dir, base, path, links, err);
		close_fd(dir);
		if (fd < 0)
			return fd;
		dir = fd;
		p += len;
		if (*p)
			p++;
	}
	return dir;
}

int unpack_open_parent(struct unpack *u, const char *parent, struct err *err)
{
	int fd;

	if (u->cached_fd >= 0 && str_eq(u->cached_path, parent))
		return u->cached_fd;
	fd = path_open_in(u->root, parent, O_PATH | O_DIRECTORY);
	if (fd < 0)
		fd = walk_parent(u, parent, 0, err);
	if (fd < 0)
		return fd;
	unpack_forget_parent(u);
	u->cached_fd = fd;
	snprintf(u->cached_path, sizeof(u->cached_path), "%s", parent);
	return fd;
}
