/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define DEPTH_MAX 128 /* what lies deeper is not counted */

static void add_file(const struct stat *st, struct image_usage *u)
{
	u->inodes++;
	/* A file of several names counts once, as well as can be told without remembering all of them. */
	u->bytes += (uint64_t)st->st_blocks * 512 /
		    (S_ISDIR(st->st_mode) || st->st_nlink == 0 ? 1 : st->st_nlink);
}

static void add_tree(int dirfd, const char *name, struct image_usage *u, int depth)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
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
		add_file(&st, u);
		if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
			add_tree(fd, de->d_name, u, depth + 1);
	}
	closedir(dir);
}

/* ---- layers: counted once, when they are unpacked ------------------------------------------------------ */

int layer_usage_note(const char *layer_dir, struct err *err)
{
	char *fs CLEANUP_FREE = xasprintf("%s/fs", layer_dir);
	char *note CLEANUP_FREE = xasprintf("%s/usage", layer_dir);
	struct image_usage u = {0};
	char text[64];
	int n, r;

	if (!fs || !note)
		return err_oom(err);
	add_tree(AT_FDCWD, fs, &u, 0);
	n = snprintf(text, sizeof(text), "%llu %llu\n", (unsigned long long)u.bytes,
		     (unsigned long long)u.inodes);
	r = write_file(note, text, (size_t)n, 0600);
	return r < 0 ? err_set_errno(err, r, "%s", note) : 0;
}

static bool read_note(int dirfd, const char *layer, struct image_usage *u)
{
	char *path CLEANUP_FREE = xasprintf("%s/usage", layer);
	char *text CLEANUP_FREE = NULL;
	unsigned long long bytes, inodes;

	if (!path || read_file_at(dirfd, path, 64, &text, NULL) < 0 ||
	    sscanf(text, "%20llu %20llu", &bytes, &inodes) != 2)
		return false;
	u->bytes += bytes;
	u->inodes += inodes;
	return true;
}

static void add_layers(const struct image_store *images, struct image_usage *u)
{
	char *path CLEANUP_FREE = xasprintf("%s/layers", images->dir);
	DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *de;

	while (dir && (de = readdir(dir))) {
		if (de->d_name[0] != '.' && !read_note(dirfd(dir), de->d_name, u))
			add_tree(dirfd(dir), de->d_name, u, 0);
	}
	if (dir)
		closedir(dir);
}

int image_fs_info(struct image_store *images, struct image_fs_info *ret_info, struct err *err)
{
	struct image_usage u = {0};
	char *blobs CLEANUP_FREE = xasprintf("%s/blobs", images->dir);
	char *mountpoint = strdup(images->dir);

	if (!mountpoint || !blobs) {
		free(mountpoint);
		return err_oom(err);
	}
	add_tree(AT_FDCWD, blobs, &u, 0);
	add_layers(images, &u);
	ret_info->mountpoint = mountpoint;
	ret_info->used_bytes = u.bytes;
	ret_info->inodes_used = u.inodes;
	return 0;
}

int image_rootfs_usage(struct image_store *images, const char *container_id, uint64_t *ret_bytes,
		       uint64_t *ret_inodes, struct err *err)
{
	char *upper CLEANUP_FREE = xasprintf("%s/containers/%s/upper", images->state_dir, container_id);
	struct image_usage u = {0};

	if (!upper)
		return err_oom(err);
	add_tree(AT_FDCWD, upper, &u, 0);
	*ret_bytes = u.bytes;
	*ret_inodes = u.inodes;
	return 0;
}
