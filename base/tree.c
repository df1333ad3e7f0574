/* SPDX-License-Identifier: Apache-2.0 */
#include "base/tree.h"

#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

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

	if (strlen(name) > TREE_PATH_MAX)
		return -ENAMETOOLONG;
	while (*from) {
		size_t len = strcspn(from, "/");

		if (len == 2 && from[0] == '.' && from[1] == '.')
			return -EINVAL;
		if (len > NAME_MAX || depth >= TREE_DEPTH_MAX)
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

/* ---- usage --------------------------------------------------------------------------------------------- */

static void add_file(const struct stat *st, struct tree_usage *usage)
{
	usage->inodes++;
	usage->bytes += (uint64_t)st->st_blocks * 512 /
			(S_ISDIR(st->st_mode) || st->st_nlink == 0 ? 1 : st->st_nlink);
}

static void add_tree(int dirfd, const char *path, struct tree_usage *usage, int depth)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;

	if (!dir) {
		close_fd(fd);
		return;
	}
	while ((de = readdir(dir))) {
		struct stat st;

		if (str_eq(de->d_name, ".") || str_eq(de->d_name, "..") ||
		    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		add_file(&st, usage);
		if (!S_ISDIR(st.st_mode))
			continue;
		if (depth < TREE_DEPTH_MAX)
			add_tree(fd, de->d_name, usage, depth + 1);
		else
			usage->deep = true;
	}
	closedir(dir);
}

void tree_usage_add(int dirfd, const char *path, struct tree_usage *usage)
{
	add_tree(dirfd, path, usage, 0);
}
