/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/volumes_internal.h"

#include "base/procfs.h"
#include "base/util.h"
#include "cri/sandbox/share_internal.h"
#include "cri/sandbox/widen_internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define KEY_MAX	 256
#define NAME_HEX 16
#define GONE	 ".gone" /* no container uses it: to be unmounted */

/* The flags of a mount that change what is read and written through it. */
#define KEY_FLAGS (ST_RDONLY | ST_NOEXEC | ST_SYNCHRONOUS)

struct source {
	int fd; /* O_PATH */
	bool is_dir;
	char key[KEY_MAX];
};

/* ---- the source ---------------------------------------------------------------------------------------- */

static bool has_mounts_below(int fd)
{
	char link[40], path[4096];
	char **list CLEANUP_STRV = NULL;
	ssize_t n;
	size_t below = 0;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return true; /* not known: it is a source of its own */
	path[n] = 0;
	if (procfs_mounts_below(path, &list) < 0)
		return true;
	for (size_t i = 0; list && list[i]; i++)
		below += !str_eq(list[i], path);
	return below > 0;
}

static int open_source(const struct volume *v, struct source *ret, struct err *err)
{
	int fd CLEANUP_CLOSE = open(v->source, O_PATH | O_CLOEXEC);
	struct statvfs fs;
	struct statx st;
	unsigned long long below = 0;

	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0 ||
	    fstatvfs(fd, &fs) < 0)
		return err_set_errno(err, -errno, "mount source %s", v->source);
	if (S_ISSOCK(st.stx_mode))
		return err_set_status(
			err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
			"mount source %s is a socket of the host, to which no process in a VM can "
			"connect",
			v->source);
	ret->is_dir = S_ISDIR(st.stx_mode);
	if (ret->is_dir && has_mounts_below(fd))
		below = 2 * st.stx_mnt_id + (v->read_only && v->recursive_ro) + 1;
	snprintf(ret->key, sizeof(ret->key), "%u:%u %llu %lu %llu\n", st.stx_dev_major, st.stx_dev_minor,
		 (unsigned long long)st.stx_ino, fs.f_flag & KEY_FLAGS, below);
	ret->fd = move_fd(fd);
	return 0;
}

/* ---- the record ---------------------------------------------------------------------------------------- */

/* The pod's record, locked until it is closed. */
static int open_record(const char *pod_dir, bool make, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/" VOLUMES_DIR, pod_dir);
	int fd CLEANUP_CLOSE = -1;

	if (!path)
		return err_oom(err);
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set_errno(err, -errno, "making %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT && !make)
		return -ENOENT;
	while (fd >= 0 && flock(fd, LOCK_EX) < 0) {
		if (errno != EINTR)
			return err_set_errno(err, -errno, "locking %s", path);
	}
	return fd < 0 ? err_set_errno(err, -errno, "opening %s", path) : move_fd(fd);
}

/* The names in a directory, without those that begin with a dot. */
static int list_names(int dirfd, const char *path, char ***ret_names)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	int r = dir ? 0 : -errno;

	if (!dir) {
		close_fd(fd);
		return r;
	}
	while (r == 0 && (de = readdir(dir))) {
		if (de->d_name[0] != '.')
			r = strv_add(ret_names, de->d_name);
	}
	closedir(dir);
	return r;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && str_eq(s + n - m, end);
}

/* 1: found; 0: there is none. */
static int find(int record, const char *key, char ret_name[NAME_HEX + 1], struct err *err)
{
	char **names CLEANUP_STRV = NULL;
	int r = list_names(record, ".", &names);

	if (r < 0)
		return err_set_errno(err, r, "reading the volumes of the pod");
	for (size_t i = 0; names && names[i]; i++) {
		char path[NAME_HEX + sizeof("/key")];
		char *text CLEANUP_FREE = NULL;

		if (strlen(names[i]) != NAME_HEX)
			continue;
		snprintf(path, sizeof(path), "%s/key", names[i]);
		/* Without a key it is one whose mount failed. */
		if (read_file_at(record, path, KEY_MAX, &text, NULL) < 0 || !str_eq(text, key))
			continue;
		snprintf(ret_name, NAME_HEX + 1, "%s", names[i]);
		return 1;
	}
	return 0;
}

static int touch(int record, const char *name, const char *file, const char *text, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s", name, file);
	int fd CLEANUP_CLOSE = -1;
	size_t len = strlen(text);

	if (!path)
		return err_oom(err);
	fd = openat(record, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		return err_set_errno(err, fd < 0 ? -errno : -ENOSPC, "writing the record %s of a volume",
				     path);
	return 0;
}

/* ---- the mount ----------------------------------------------------------------------------------------- */

static int make_target(const char *pod_dir, const char *name, bool is_dir, char **ret_target, struct err *err)
{
	char *top CLEANUP_FREE = xasprintf("%s/mounts/" VOLUMES_DIR, pod_dir);
	char *target CLEANUP_FREE = xasprintf("%s/mounts/" VOLUMES_DIR "/%s", pod_dir, name);
	int fd = -1;

	if (!top || !target)
		return err_oom(err);
	if (mkdir(top, 0700) < 0 && errno != EEXIST)
		return err_set_errno(err, -errno, "making %s", top);
	if (is_dir ? mkdir(target, 0700) < 0
		   : (fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
		return err_set_errno(err, -errno, "making %s", target);
	close_fd(fd);
	*ret_target = move_ptr(target);
	return 0;
}

/*
 * The mounts are nosuid and nodev: nothing of a volume runs or is opened as a device on the host by this
 * path. The guest goes by the bits and numbers that it reads.
 */
static int mount_source(const struct source *s, const struct volume *v, const char *target, struct err *err)
{
	struct mount_attr all = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, .propagation = MS_PRIVATE};
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY};
	int tree CLEANUP_CLOSE =
		open_tree(s->fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH);

	if (tree < 0)
		return err_set_errno(err, -errno, "mount source %s", v->source);
	if (v->read_only && v->recursive_ro)
		all.attr_set |= MOUNT_ATTR_RDONLY;
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &all, sizeof(all)) < 0)
		return err_set_errno(err, -errno, "making the mount of %s private, nosuid and nodev",
				     v->source);
	if (v->read_only && mount_setattr(tree, "", AT_EMPTY_PATH, &ro, sizeof(ro)) < 0)
		return err_set_errno(err, -errno, "making the mount of %s read-only", v->source);
	if (move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_set_errno(err, -errno, "mounting %s at %s", v->source, target);
	return 0;
}

/* ---- what the guest mounts ----------------------------------------------------------------------------- */

static int tell_guest(const char *pod_dir, const char *container_id, const char *name, struct err *err)
{
	char *file CLEANUP_FREE = xasprintf("%s/mounts/%s/" VOLUMES_DIR, pod_dir, container_id);
	char *target CLEANUP_FREE = xasprintf("%s/mounts/" VOLUMES_DIR "/%s", pod_dir, name);
	char **list CLEANUP_STRV = NULL;
	FILE *f CLEANUP_FILE = NULL;
	size_t base;
	int r;

	if (!file || !target)
		return err_oom(err);
	r = procfs_mounts_below(target, &list);
	f = r < 0 ? NULL : fopen(file, "ae");
	if (!f)
		return err_set_errno(err, r < 0 ? r : -errno, "writing %s", file);
	base = strlen(target) - strlen(name) - strlen(VOLUMES_DIR "/");
	for (size_t i = 0; list && list[i]; i++) {
		if (!strchr(list[i], '\n'))
			fprintf(f, "%s\n", list[i] + base);
	}
	return fflush(f) != 0 || ferror(f) ? err_set_errno(err, -errno, "writing %s", file) : 0;
}

/* ---- using and releasing ------------------------------------------------------------------------------- */

/* One that is there already. */
static int join(int record, const char *pod_dir, const char *cgroup, const char *name, const struct volume *v,
		struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/writable", name);

	if (!path)
		return err_oom(err);
	if (v->read_only || faccessat(record, path, F_OK, 0) == 0)
		return 0;
	if (widen_mount(pod_dir, cgroup, VOLUMES_DIR, name, err) < 0)
		return err_wrap(err, "making the volume %s writable", v->source);
	return touch(record, name, "writable", "", err);
}

static int make(int record, const char *pod_dir, const char *container_id, const char *name,
		const struct source *s, const struct volume *v, struct err *err)
{
	char *target CLEANUP_FREE = NULL;
	int r = 0;

	if (mkdirat(record, name, 0700) < 0)
		r = err_set_errno(err, -errno, "making the record of a volume");
	if (r == 0) /* before the mount: its undo finds it by this */
		r = touch(record, name, container_id, "", err);
	if (r == 0)
		r = make_target(pod_dir, name, s->is_dir, &target, err);
	if (r == 0)
		r = mount_source(s, v, target, err);
	if (r == 0 && !v->read_only)
		r = touch(record, name, "writable", "", err);
	return r == 0 ? touch(record, name, "key", s->key, err) : r;
}

int volumes_bind(const char *pod_dir, const char *cgroup, const char *container_id, const struct volume *v,
		 char ret_path[VOLUMES_NAME], struct err *err)
{
	struct source s = {.fd = -1};
	char name[NAME_HEX + 1];
	int record CLEANUP_CLOSE = -1;
	int r = open_source(v, &s, err);

	if (r == 0) {
		record = open_record(pod_dir, true, err);
		r = record < 0 ? record : find(record, s.key, name, err);
	}
	if (r > 0) {
		r = join(record, pod_dir, cgroup, name, v, err);
		if (r == 0)
			r = touch(record, name, container_id, "", err);
	} else if (r == 0) {
		r = random_hex(NAME_HEX / 2, name);
		r = r < 0 ? err_set_errno(err, r, "naming a volume")
			  : make(record, pod_dir, container_id, name, &s, v, err);
	}
	close_fd(s.fd);
	if (r == 0)
		r = tell_guest(pod_dir, container_id, name, err);
	if (r < 0)
		return r;
	snprintf(ret_path, VOLUMES_NAME, VOLUMES_DIR "/%s", name);
	return 0;
}

/* Those that nobody uses now get a name by which no other container finds them. */
static int leave(int record, const char *container_id, struct err *err)
{
	char **names CLEANUP_STRV = NULL;
	int r = list_names(record, ".", &names);

	for (size_t i = 0; r == 0 && names && names[i]; i++) {
		char *use CLEANUP_FREE = xasprintf("%s/%s", names[i], container_id);
		char *gone CLEANUP_FREE = xasprintf("%s" GONE, names[i]);
		char **uses CLEANUP_STRV = NULL;
		size_t others = 0;

		if (!use || !gone)
			return err_oom(err);
		if (ends_with(names[i], GONE))
			continue;
		if (unlinkat(record, use, 0) < 0) {
			if (errno != ENOENT)
				r = -errno;
			continue;
		}
		r = list_names(record, names[i], &uses);
		for (size_t k = 0; uses && uses[k]; k++)
			others += !str_eq(uses[k], "key") && !str_eq(uses[k], "writable");
		if (r == 0 && others == 0 && renameat(record, names[i], record, gone) < 0)
			r = -errno;
	}
	return r < 0 ? err_set_errno(err, r, "releasing the volumes of container %s", container_id) : 0;
}

static int end_one(int record, const char *pod_dir, const char *gone, bool lazy, struct err *err)
{
	char *target CLEANUP_FREE = xasprintf("%s/mounts/" VOLUMES_DIR "/%.*s", pod_dir,
					      (int)(strlen(gone) - strlen(GONE)), gone);
	int r = target ? share_umount(target, lazy, err) : err_oom(err);

	if (r < 0)
		return r;
	if (unlink(target) < 0 && errno != ENOENT && rmdir(target) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "removing %s", target);
	r = remove_tree_at(record, gone);
	return r < 0 ? err_set_errno(err, r, "removing the record of a volume") : 0;
}

int volumes_release(const char *pod_dir, const char *container_id, bool lazy, struct err *err)
{
	char **names CLEANUP_STRV = NULL;
	int record CLEANUP_CLOSE = open_record(pod_dir, false, err);
	int r;

	if (record < 0)
		return record == -ENOENT ? 0 : record;
	r = leave(record, container_id, err);
	/* Names are never used again: what is gone stays gone, and others need not wait for it. */
	(void)flock(record, LOCK_UN);
	if (r == 0) {
		r = list_names(record, ".", &names);
		if (r < 0)
			err_set_errno(err, r, "reading the volumes of the pod");
	}
	for (size_t i = 0; r == 0 && names && names[i]; i++) {
		if (ends_with(names[i], GONE))
			r = end_one(record, pod_dir, names[i], lazy, err);
	}
	return r;
}
