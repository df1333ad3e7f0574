/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/rootfs/rootfs_internal.h"

#include "base/tree.h"
#include "base/util.h"
#include "cri/rootfs/quota_internal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

/*
 * The mount is nosuid and nodev: nothing runs from it on the host, and the guest that it is shared with goes
 * by the bits and device numbers that it reads, not by the host's mount flags.
 */
#define ROOTFS_FLAGS ((unsigned long)MS_NOSUID | MS_NODEV)
#define ROOTFS_ATTRS (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
#define OPTIONS_MAX  4000

/* "index=off" etc.: the layers are shared by many overlays, and the upper one is never moved. */
static const char *const options[] = {"index", "off", "metacopy", "off", NULL};

/* ---- which layers -------------------------------------------------------------------------------------- */

static bool root_is_opaque(int fd)
{
	char value[2];

	return fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y';
}

struct lowers {
	int fds[IMAGE_LAYERS_MAX];
	size_t n; /* the top one first */
};

static void lowers_close(struct lowers *l)
{
	while (l->n > 0)
		close_fd(l->fds[--l->n]);
}

static int open_one(struct lowers *l, const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return err_set_errno(err, -errno, "image layer %s", path);
	l->fds[l->n++] = fd;
	return 0;
}

/* What lies below a layer whose root is opaque does not show. */
static int open_lowers(char *const *layers, struct lowers *l, struct err *err)
{
	for (; *layers; layers++) {
		int r = l->n == ARRAY_SIZE(l->fds)
				? err_set(err, -E2BIG, "an image of more than %zu layers", ARRAY_SIZE(l->fds))
				: open_one(l, *layers, err);

		if (r < 0)
			return r;
		if (root_is_opaque(l->fds[l->n - 1]))
			break;
	}
	return 0;
}

/* ---- mounting ------------------------------------------------------------------------------------------ */

/*
 * The kernel's own words, where fsopen has any: "e overlay: …". Before 6.5 overlayfs takes any parameter, and
 * refuses them all together, without words, when it is made: a wordless -EINVAL becomes -EOPNOTSUPP, and err
 * stays as it is.
 */
static int fs_error(int fs, int code, const char *target, struct err *err)
{
	char words[256];
	ssize_t n = read(fs, words, sizeof(words) - 1);

	if (n > 2) {
		words[n] = 0;
		words[strcspn(words, "\n")] = 0;
		return err_set(err, code, "mounting the root file system at %s: %s (%s)", target,
			       strerror(-code), words + 2);
	}
	if (code == -EINVAL)
		return -EOPNOTSUPP;
	return err_set_errno(err, code, "mounting the root file system at %s", target);
}

static int set_fd(int fs, const char *key, int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return fsconfig(fs, FSCONFIG_SET_STRING, key, path, 0) < 0 ? -errno : 0;
}

/* -EOPNOTSUPP: this kernel has no "lowerdir+" (it came with 6.7). */
static int configure(int fs, const struct lowers *l, int upper, int work)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n; i++) {
		r = set_fd(fs, "lowerdir+", l->fds[i]);
		if (r == -EINVAL && i == 0)
			return -EOPNOTSUPP;
	}
	if (r == 0 && upper >= 0)
		r = set_fd(fs, "upperdir", upper);
	if (r == 0 && upper >= 0)
		r = set_fd(fs, "workdir", work);
	for (const char *const *o = options; r == 0 && *o; o += 2)
		r = fsconfig(fs, FSCONFIG_SET_STRING, o[0], o[1], 0) < 0 ? -errno : 0;
	if (r == 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		r = -errno;
	return r;
}

static int mount_new_api(const struct lowers *l, int upper, int work, const char *target, struct err *err)
{
	int fs CLEANUP_CLOSE = fsopen("overlay", FSOPEN_CLOEXEC);
	int mnt CLEANUP_CLOSE = -1;
	int r;

	if (fs < 0)
		return errno == ENOSYS
			       ? -EOPNOTSUPP
			       : err_set_errno(err, -errno, "mounting the root file system at %s: overlay",
					       target);
	r = configure(fs, l, upper, work);
	if (r == -EOPNOTSUPP)
		return r;
	if (r < 0)
		return fs_error(fs, r, target, err);
	mnt = fsmount(fs, FSMOUNT_CLOEXEC, upper < 0 ? ROOTFS_ATTRS | MOUNT_ATTR_RDONLY : ROOTFS_ATTRS);
	if (mnt < 0)
		return fs_error(fs, -errno, target, err);
	if (move_mount(mnt, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_set_errno(err, -errno, "mounting the root file system at %s", target);
	return 0;
}

/* Older kernels: one page of options, in which descriptors keep the layers' names short. */
static int mount_old_api(const struct lowers *l, int upper, int work, const char *target, struct err *err)
{
	char text[OPTIONS_MAX + 64] = "";
	size_t at = 0;

	for (size_t i = 0; i < l->n && at < OPTIONS_MAX; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s/proc/self/fd/%d",
				       i ? ":" : "lowerdir=", l->fds[i]);
	if (upper >= 0 && at < OPTIONS_MAX)
		at += (size_t)snprintf(text + at, sizeof(text) - at,
				       ",upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", upper, work);
	for (const char *const *o = options; *o && at < OPTIONS_MAX; o += 2)
		at += (size_t)snprintf(text + at, sizeof(text) - at, ",%s=%s", o[0], o[1]);
	if (at >= OPTIONS_MAX)
		return err_set(err, -E2BIG,
			       "mounting the root file system at %s: %zu layers are too many for this kernel",
			       target, l->n);
	if (mount("overlay", target, "overlay", upper < 0 ? ROOTFS_FLAGS | MS_RDONLY : ROOTFS_FLAGS, text) <
	    0)
		return err_set_errno(err, -errno, "mounting the root file system at %s", target);
	return 0;
}

static int mount_overlay(const struct lowers *l, int upper, int work, const char *target, struct err *err)
{
	int r = mount_new_api(l, upper, work, target, err);

	return r == -EOPNOTSUPP ? mount_old_api(l, upper, work, target, err) : r;
}

/* A single layer without a writable one needs no overlay: the layer itself is mounted. */
static int mount_single(const struct lowers *l, const char *target, struct err *err)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", l->fds[0]);
	if (mount(path, target, NULL, MS_BIND, NULL) < 0)
		return err_set_errno(err, -errno, "mounting the image at %s", target);
	if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | ROOTFS_FLAGS, NULL) < 0) {
		int r = err_set_errno(err, -errno, "mounting the image read-only at %s", target);

		umount2(target, MNT_DETACH);
		return r;
	}
	return 0;
}

static int check_upper_fs(int fd, const char *dir, struct err *err)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "%s is on overlayfs, which cannot hold a container's writable layer: "
				      "put state_dir on another file system",
				      dir);
	return 0;
}

static int open_made(const char *dir, const char *name, mode_t mode, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s", dir, name);
	int fd, r = path ? mkdir_p(path, mode) : -ENOMEM;

	if (r < 0)
		return err_set_errno(err, r, "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_set_errno(err, -errno, "%s", path) : fd;
}

/* The root directory of a container looks like the image's. */
static int dress_upper(int upper, const struct lowers *l, struct err *err)
{
	struct stat st;

	if (fstat(l->fds[0], &st) < 0 || fchown(upper, st.st_uid, st.st_gid) < 0 ||
	    fchmod(upper, st.st_mode & 07777) < 0)
		return err_set_errno(err, -errno, "the container's writable layer");
	return 0;
}

/* A layer that an earlier version made has files and no project: it is looked at, as without quotas. */
static int bound(const struct rootfs *rootfs, int upper, int work, const char *container_id, struct err *err)
{
	const int dirs[] = {upper, work};
	int r;

	if (!rootfs->enforced || !rootfs_limits(rootfs))
		return 0;
	r = quota_begin(dirs, ARRAY_SIZE(dirs), container_id, &rootfs->limit, err);
	return r == -EEXIST ? 0 : r;
}

static int mount_writable(const struct rootfs *rootfs, const struct lowers *l, const char *container_id,
			  const char *target, struct err *err)
{
	char *dir CLEANUP_FREE = xasprintf("%s/%s", rootfs->dir, container_id);
	int upper CLEANUP_CLOSE = -1;
	int work CLEANUP_CLOSE = -1;
	int r;

	if (!dir)
		return err_oom(err);
	upper = open_made(dir, "upper", 0755, err);
	if (upper < 0)
		return upper;
	work = open_made(dir, "work", 0700, err);
	if (work < 0)
		return work;
	r = check_upper_fs(upper, dir, err);
	if (r == 0)
		r = bound(rootfs, upper, work, container_id, err);
	if (r == 0)
		r = dress_upper(upper, l, err);
	return r < 0 ? r : mount_overlay(l, upper, work, target, err);
}

static int mount_held(struct rootfs *rootfs, const char *image_id, const char *container_id,
		      const char *target, struct err *err)
{
	char **layers CLEANUP_STRV = NULL;
	struct lowers l = {.n = 0};
	int r = image_use_take(rootfs->images, image_id, container_id, &layers, err);

	if (r == 0)
		r = open_lowers(layers, &l, err);
	if (r == 0 && container_id)
		r = mount_writable(rootfs, &l, container_id, target, err);
	else if (r == 0)
		r = l.n == 1 ? mount_single(&l, target, err) : mount_overlay(&l, -1, -1, target, err);
	lowers_close(&l);
	return r;
}

static int overlay_mount(struct rootfs *rootfs, const char *image_id, const char *container_id,
			 const char *target, struct err *err)
{
	int hold = image_hold(rootfs->images, err);
	int r;

	if (hold < 0)
		return hold;
	r = mount_held(rootfs, image_id, container_id, target, err);
	image_unhold(rootfs->images, hold);
	return r;
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

static int overlay_umount(const char *target, bool lazy, struct err *err)
{
	if (umount2(target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 || errno == EINVAL ||
	    errno == ENOENT)
		return 0;
	return err_set_errno(err, -errno, "unmounting %s", target);
}

static void end_quota(int dir, const char *part)
{
	int fd CLEANUP_CLOSE = openat(dir, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0)
		quota_end(fd);
}

static int overlay_remove(struct rootfs *rootfs, const char *container_id, int dir, struct err *err)
{
	static const char *const parts[] = {"work", "upper"};

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		int r;

		end_quota(dir, parts[i]);
		r = image_discard_tree(rootfs->images, dir, parts[i]);

		if (r < 0)
			return err_set_errno(err, r, "removing %s/%s/%s", rootfs->dir, container_id,
					     parts[i]);
	}
	return 0;
}

static int overlay_usage(struct rootfs *rootfs, const char *container_id, struct tree_usage *ret_usage,
			 struct err *err)
{
	char *upper CLEANUP_FREE = xasprintf("%s/%s/upper", rootfs->dir, container_id);
	int fd CLEANUP_CLOSE = -1;

	if (!upper)
		return err_oom(err);
	*ret_usage = (struct tree_usage){0};
	fd = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || quota_usage(fd, &ret_usage->bytes, &ret_usage->inodes) < 0)
		tree_usage_add(AT_FDCWD, upper, ret_usage);
	return 0;
}

const struct rootfs_driver rootfs_overlay = {
	.name = "overlay",
	.mount = overlay_mount,
	.umount = overlay_umount,
	.remove = overlay_remove,
	.usage = overlay_usage,
};
