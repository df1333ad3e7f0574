/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/rootfs/rootfs_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/rootfs/quota_internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define ID_MAX 128

/* ---- open and close ------------------------------------------------------------------------------------ */

static int make_dir(const struct rootfs *rootfs, struct err *err)
{
	struct statfs fs;
	int r = mkdir_p(rootfs->dir, 0700);

	if (r < 0)
		return err_set_errno(err, r, "%s", rootfs->dir);
	if (statfs(rootfs->dir, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC)
		log_warn("%s is on overlayfs, which cannot hold a container's writable layer: put state_dir "
			 "on another "
			 "file system",
			 rootfs->dir);
	return 0;
}

static int look_for_quota(struct rootfs *rootfs, struct err *err)
{
	int dir CLEANUP_CLOSE = open(rootfs->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return err_set_errno(err, -errno, "%s", rootfs->dir);
	rootfs->enforced = quota_enforced(dir);
	if (rootfs_limits(rootfs))
		log_info("writable layers of containers are bounded by %s",
			 rootfs->enforced ? "the file system's project quota"
					  : "a look at intervals: the file system enforces no project quota");
	return 0;
}

int rootfs_open(struct image_store *images, const char *state_dir, const struct rootfs_limit *limit,
		struct rootfs **ret_rootfs, struct err *err)
{
	struct rootfs *rootfs = calloc(1, sizeof(*rootfs));
	int r;

	if (!rootfs)
		return err_oom(err);
	rootfs->driver = &rootfs_overlay;
	rootfs->images = images;
	if (limit)
		rootfs->limit = *limit;
	rootfs->dir = xasprintf("%s/containers", state_dir);
	r = rootfs->dir ? make_dir(rootfs, err) : err_oom(err);
	if (r == 0)
		r = look_for_quota(rootfs, err);
	if (r < 0) {
		rootfs_close(rootfs);
		return r;
	}
	*ret_rootfs = rootfs;
	return 0;
}

struct rootfs *rootfs_close(struct rootfs *rootfs)
{
	if (rootfs)
		free(rootfs->dir);
	free(rootfs);
	return NULL;
}

/* ---- calls --------------------------------------------------------------------------------------------- */

/* A container's id becomes a file name. */
static int check_id(const char *id, struct err *err)
{
	size_t len = id ? strlen(id) : 0;

	if (len > 0 && len <= ID_MAX && id[0] != '.' &&
	    strspn(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == len)
		return 0;
	return err_set(err, -EINVAL, "\"%.200s\" is not a valid container id", id ? id : "");
}

static bool is_mounted(const char *target)
{
	struct statx stx;

	return statx(AT_FDCWD, target, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) == 0 &&
	       (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

int rootfs_mount(struct rootfs *rootfs, const char *image_id, const char *container_id, const char *target,
		 struct err *err)
{
	int r = container_id ? check_id(container_id, err) : 0;

	if (r < 0 || is_mounted(target))
		return r;
	return rootfs->driver->mount(rootfs, image_id, container_id, target, err);
}

int rootfs_umount(struct rootfs *rootfs, const char *target, bool lazy, struct err *err)
{
	return rootfs->driver->umount(target, lazy, err);
}

int rootfs_remove(struct rootfs *rootfs, const char *container_id, struct err *err)
{
	char *dir CLEANUP_FREE = NULL;
	int fd CLEANUP_CLOSE = -1;
	int r = check_id(container_id, err);

	if (r < 0)
		return r;
	dir = xasprintf("%s/%s", rootfs->dir, container_id);
	if (!dir)
		return err_oom(err);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "%s", dir);
	r = fd < 0 ? 0 : rootfs->driver->remove(rootfs, container_id, fd, err);
	if (r < 0)
		return r;
	/* Others may keep files there; then the last of them removes the directory. */
	(void)rmdir(dir);
	return image_use_drop(rootfs->images, container_id, err);
}

int rootfs_usage(struct rootfs *rootfs, const char *container_id, uint64_t *ret_bytes, uint64_t *ret_inodes,
		 struct err *err)
{
	struct tree_usage usage = {0};
	int r = check_id(container_id, err);

	if (r == 0)
		r = rootfs->driver->usage(rootfs, container_id, &usage, err);
	if (r < 0)
		return r;
	*ret_bytes = usage.bytes;
	*ret_inodes = usage.inodes;
	return 0;
}

bool rootfs_limits(const struct rootfs *rootfs)
{
	return rootfs && (rootfs->limit.bytes > 0 || rootfs->limit.inodes > 0);
}

bool rootfs_exceeds(struct rootfs *rootfs, const char *container_id, char *ret_why, size_t size)
{
	const struct rootfs_limit *limit = &rootfs->limit;
	struct tree_usage usage = {0};

	if (!rootfs_limits(rootfs) || check_id(container_id, NULL) < 0 ||
	    rootfs->driver->usage(rootfs, container_id, &usage, NULL) < 0)
		return false;
	if (limit->bytes > 0 && usage.bytes > limit->bytes)
		snprintf(ret_why, size,
			 "the writable layer takes %" PRIu64 " MiB, more than the %" PRIu64
			 " MiB of [sandbox] layer_in_mb",
			 usage.bytes >> 20, limit->bytes >> 20);
	else if (limit->inodes > 0 && usage.inodes > limit->inodes)
		snprintf(ret_why, size,
			 "the writable layer has %" PRIu64 " files, more than the %" PRIu64
			 " of [sandbox] layer_files",
			 usage.inodes, limit->inodes);
	else if (usage.deep)
		snprintf(ret_why, size,
			 "the writable layer has directories more than %d deep, in which its size cannot be "
			 "seen",
			 TREE_DEPTH_MAX);
	else
		return false;
	return true;
}
