/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/tree.h"
#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>

/* ---- layers: counted once, when they are unpacked ------------------------------------------------------ */

int layer_usage_note(const char *layer_dir, struct err *err)
{
	char *fs CLEANUP_FREE = xasprintf("%s/fs", layer_dir);
	char *note CLEANUP_FREE = xasprintf("%s/usage", layer_dir);
	struct tree_usage u = {0};
	char text[64];
	int n, r;

	if (!fs || !note)
		return err_oom(err);
	tree_usage_add(AT_FDCWD, fs, &u);
	n = snprintf(text, sizeof(text), "%llu %llu\n", (unsigned long long)u.bytes,
		     (unsigned long long)u.inodes);
	r = write_file(note, text, (size_t)n, 0600);
	return r < 0 ? err_set_errno(err, r, "%s", note) : 0;
}

static bool read_note(int dirfd, const char *layer, struct tree_usage *u)
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

static void add_layers(const struct image_store *images, struct tree_usage *u)
{
	char *path CLEANUP_FREE = xasprintf("%s/layers", images->dir);
	DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *de;

	while (dir && (de = readdir(dir))) {
		if (de->d_name[0] != '.' && !read_note(dirfd(dir), de->d_name, u))
			tree_usage_add(dirfd(dir), de->d_name, u);
	}
	if (dir)
		closedir(dir);
}

int image_fs_info(struct image_store *images, struct image_fs_info *ret_info, struct err *err)
{
	struct tree_usage u = {0};
	char *blobs CLEANUP_FREE = xasprintf("%s/blobs", images->dir);
	char *mountpoint = strdup(images->dir);

	if (!mountpoint || !blobs) {
		free(mountpoint);
		return err_oom(err);
	}
	tree_usage_add(AT_FDCWD, blobs, &u);
	add_layers(images, &u);
	ret_info->mountpoint = mountpoint;
	ret_info->used_bytes = u.bytes;
	ret_info->inodes_used = u.inodes;
	return 0;
}
