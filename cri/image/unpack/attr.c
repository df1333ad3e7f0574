/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/unpack/unpack_internal.h"

#include "base/util.h"
#include "base/tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static bool xattr_wanted(const char *name)
{
	return str_starts(name, "user.") || str_eq(name, "security.capability") ||
	       str_eq(name, "system.posix_acl_access") || str_eq(name, "system.posix_acl_default");
}

static int set_xattrs(int dirfd, const char *base, struct archive_entry *entry, const char *path,
		      struct err *err)
{
	char at[NAME_MAX + 64];
	const char *name;
	const void *value;
	size_t size;

	if (archive_entry_xattr_reset(entry) <= 0)
		return 0;
	snprintf(at, sizeof(at), "/proc/self/fd/%d/%s", dirfd, base);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		if (str_starts(name, "trusted.overlay."))
			return unpack_bad(err, "entry \"%.200s\" carries the attribute %.100s", path, name);
		if (!xattr_wanted(name))
			continue;
		/* user.* goes on files and directories only; a file system may know none at all. */
		if (lsetxattr(at, name, value, size, 0) < 0 && errno != ENOTSUP && errno != EPERM)
			return err_set_errno(err, -errno, "unpacking \"%.200s\": attribute %.100s", path,
					     name);
	}
	return 0;
}

void unpack_mtime_of(struct archive_entry *entry, struct timespec *ret)
{
	ret->tv_sec = archive_entry_mtime(entry);
	ret->tv_nsec = archive_entry_mtime_nsec(entry);
	if (!archive_entry_mtime_is_set(entry) || ret->tv_nsec < 0 || ret->tv_nsec >= NS_PER_SEC)
		ret->tv_sec = ret->tv_nsec = 0;
}

/* Owner first: chown clears set-id bits and capabilities. */
int unpack_set_attributes(int dirfd, const char *base, struct archive_entry *entry, const char *path,
			  struct err *err)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
	bool link = archive_entry_filetype(entry) == AE_IFLNK;
	struct timespec times[2];
	int r;

	if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return unpack_bad(err, "entry \"%.200s\" has the owner %lld:%lld", path, (long long)uid,
				  (long long)gid);
	if (fchownat(dirfd, base, (uid_t)uid, (gid_t)gid, AT_SYMLINK_NOFOLLOW) < 0)
		return unpack_io_error(err, path);
	r = set_xattrs(dirfd, base, entry, path, err);
	if (r < 0)
		return r;
	if (!link && fchmodat(dirfd, base, archive_entry_perm(entry) & 07777, 0) < 0)
		return unpack_io_error(err, path);
	unpack_mtime_of(entry, &times[1]);
	times[0] = times[1];
	if (utimensat(dirfd, base, times, AT_SYMLINK_NOFOLLOW) < 0)
		return unpack_io_error(err, path);
	return 0;
}

int unpack_copy_attributes(int from, int dirfd, const char *base)
{
	struct timespec times[2];
	struct stat st;

	if (fstat(from, &st) < 0 || fchownat(dirfd, base, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISLNK(st.st_mode) && fchmodat(dirfd, base, st.st_mode & 07777, 0) < 0)
		return -errno;
	times[0] = times[1] = st.st_mtim;
	return utimensat(dirfd, base, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int unpack_remember_dir(struct unpack *u, const char *parent, const char *base, const struct timespec *mtime,
			struct err *err)
{
	struct unpack_dir *grown;
	size_t room;

	if (u->n_dirs == u->room_dirs) {
		room = u->room_dirs ? u->room_dirs * 2 : 64;
		grown = realloc(u->dirs, room * sizeof(*grown));
		if (!grown)
			return err_oom(err);
		u->dirs = grown;
		u->room_dirs = room;
	}
	u->dirs[u->n_dirs].path = xasprintf("%s%s%s", parent, *parent ? "/" : "", base);
	if (!u->dirs[u->n_dirs].path)
		return err_oom(err);
	u->dirs[u->n_dirs++].mtime = *mtime;
	return 0;
}

int unpack_finish_dirs(struct unpack *u, struct err *err)
{
	while (u->n_dirs > 0) {
		struct unpack_dir *d = &u->dirs[u->n_dirs - 1];
		int fd = path_open_in(u->root, d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
		struct timespec times[2] = {d->mtime, d->mtime};

		/*
		 * Replaced since, or reached through a link that has changed: then its time does not matter.
		 */
		if (fd >= 0 && futimens(fd, times) < 0) {
			close_fd(fd);
			return unpack_io_error(err, d->path);
		}
		close_fd(fd);
		free(d->path);
		u->n_dirs--;
	}
	return 0;
}

int unpack_set_opaque(int dirfd, const char *base, const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = openat(dirfd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fsetxattr(fd, XATTR_OPAQUE, "y", 1, 0) < 0)
		return unpack_io_error(err, path);
	return 0;
}
