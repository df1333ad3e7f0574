/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"
#include "base/tree.h"

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

static int no_memory(struct err *err)
{
	return err_oom(err);
}

/* A container's id becomes part of a path. */
static bool id_valid(const char *id)
{
	size_t len = id ? strlen(id) : 0;

	return len > 0 && len <= 128 && id[0] != '.' &&
	       strspn(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == len;
}

static bool is_mounted(const char *target)
{
	struct statx stx;

	return statx(AT_FDCWD, target, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) == 0 &&
	       (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* ---- which layers -------------------------------------------------------------------------------------- */

static int image_chains(struct image_store *images, const char *image_id, char ***ret_chains, struct err *err)
{
	struct image_row **rows = NULL;
	struct image_row *row;
	int r = image_rows_load(images->store, &rows, err);

	if (r == 0)
		r = image_rows_find(rows, image_id, &row, err);
	for (size_t i = 0; r == 0 && i < row->n_layers; i++) {
		if (strv_add(ret_chains, row->layers[i].chain) < 0)
			r = no_memory(err);
	}
	image_rows_free(rows);
	return r;
}

/* What the container has used so far, else what the image has now; noted before anything is mounted. */
static int take_chains(struct image_store *images, const char *image_id, const char *container_id,
		       char ***ret_chains, struct err *err)
{
	int r;

	if (container_id) {
		r = rootfs_row_get(images->store, container_id, ret_chains, err);
		if (r != -ENOENT)
			return r;
	}
	r = image_chains(images, image_id, ret_chains, err);
	if (r < 0 || !container_id)
		return r;
	return rootfs_row_put(images->store, container_id, image_id, *ret_chains, err);
}

static bool root_is_opaque(int fd)
{
	char value[2];

	return fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value)) == 1 && value[0] == 'y';
}

struct lowers {
	int fds[OCI_LAYERS_MAX + 1];
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

static int open_lowers(const struct image_store *images, char *const *chains, struct lowers *l,
		       struct err *err)
{
	char *empty CLEANUP_FREE = xasprintf("%s/empty", images->dir);

	if (!empty)
		return no_memory(err);
	for (size_t i = strv_len(chains); i > 0 && l->n < OCI_LAYERS_MAX; i--) {
		char *path CLEANUP_FREE = layer_path(images, chains[i - 1]);
		int r = path ? open_one(l, path, err) : no_memory(err);

		if (r < 0)
			return r;
		if (root_is_opaque(l->fds[l->n - 1]))
			break;
	}
	return l->n > 0 ? 0 : open_one(l, empty, err);
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

/* A single layer without an upper one is no overlay, but the layer itself. */
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
				      "%s lies on overlayfs, on which no container's writable layer can be; "
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

static int mount_writable(const struct image_store *images, const struct lowers *l, const char *container_id,
			  const char *target, struct err *err)
{
	char *dir CLEANUP_FREE = xasprintf("%s/containers/%s", images->state_dir, container_id);
	int upper CLEANUP_CLOSE = -1;
	int work CLEANUP_CLOSE = -1;
	int r;

	if (!dir)
		return no_memory(err);
	upper = open_made(dir, "upper", 0755, err);
	if (upper < 0)
		return upper;
	work = open_made(dir, "work", 0700, err);
	if (work < 0)
		return work;
	r = check_upper_fs(upper, dir, err);
	if (r == 0)
		r = dress_upper(upper, l, err);
	return r < 0 ? r : mount_overlay(l, upper, work, target, err);
}

static int mount_locked(struct image_store *images, const char *image_id, const char *container_id,
			const char *target, struct err *err)
{
	char **chains CLEANUP_STRV = NULL;
	struct lowers l = {.n = 0};
	int r = take_chains(images, image_id, container_id, &chains, err);

	if (r == 0)
		r = open_lowers(images, chains, &l, err);
	if (r == 0 && container_id)
		r = mount_writable(images, &l, container_id, target, err);
	else if (r == 0)
		r = l.n == 1 ? mount_single(&l, target, err) : mount_overlay(&l, -1, -1, target, err);
	lowers_close(&l);
	return r;
}

int image_rootfs_mount(struct image_store *images, const char *image_id, const char *container_id,
		       const char *target, struct err *err)
{
	int lock, r;

	if (container_id && !id_valid(container_id))
		return err_set(err, -EINVAL, "\"%.200s\" is no container id", container_id);
	if (is_mounted(target))
		return 0;
	lock = images_lock(images, err);
	if (lock < 0)
		return lock;
	r = mount_locked(images, image_id, container_id, target, err);
	images_unlock(images, lock);
	return r;
}

int image_rootfs_umount(const char *target, bool lazy, struct err *err)
{
	if (umount2(target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 || errno == EINVAL ||
	    errno == ENOENT)
		return 0;
	return err_set_errno(err, -errno, "unmounting %s", target);
}

int image_rootfs_remove(struct image_store *images, const char *container_id, struct err *err)
{
	static const char *const parts[] = {"work", "upper"};
	char *dir CLEANUP_FREE = NULL;
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (!id_valid(container_id))
		return err_set(err, -EINVAL, "\"%.200s\" is no container id",
			       container_id ? container_id : "");
	dir = xasprintf("%s/containers/%s", images->state_dir, container_id);
	if (!dir)
		return no_memory(err);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(parts); i++) {
		r = layers_bury_tree(images, fd, parts[i]);
		if (r < 0)
			return err_set_errno(err, r, "removing %s/%s", dir, parts[i]);
	}
	/* Others may keep files there; then the last of them removes the directory. */
	(void)rmdir(dir);
	r = store_delete(images->store, ROOTFS_KIND, container_id, err);
	if (r < 0 && r != -ENOENT)
		return r;
	return images_collect(images, err);
}
