/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/unpack/unpack_internal.h"

#include "base/util.h"
#include "base/tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define WHITEOUT	".wh."
#define WHITEOUT_META	".wh..wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define FILE_SIZE_MAX	(1ll << 44)
#define COPY_BYTES	(64u << 10)

void unpack_fs_done(struct unpack *u)
{
	unpack_forget_parent(u);
	for (size_t i = 0; i < u->n_dirs; i++)
		free(u->dirs[i].path);
	free(u->dirs);
}

int unpack_count_made(struct unpack *u, struct err *err)
{
	if (++u->made > u->opt->limits.entries)
		return unpack_bad(err, "the layer has more than %llu entries",
				  (unsigned long long)u->opt->limits.entries);
	u->unchecked_bytes += 4096;
	return unpack_check_room(u, err);
}

int unpack_io_error(struct err *err, const char *path)
{
	return err_set_errno(err, -errno, "unpacking \"%.200s\"", path);
}

/* ---- files --------------------------------------------------------------------------------------------- */

/*
 * Clears the way for an entry. 0: nothing is there; 1: a directory stays, to be merged with; 2: a whiteout
 * was there. A directory gives way to anything else with all its content, as containerd has it.
 */
static int clear_way(struct unpack *u, int dirfd, const char *base, bool want_dir, const char *path,
		     struct err *err)
{
	struct stat st;
	int r;

	if (fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : unpack_io_error(err, path);
	if (S_ISDIR(st.st_mode) && want_dir)
		return 1;
	r = remove_tree_at(dirfd, base);
	if (r < 0)
		return err_set_errno(err, r, "unpacking \"%.200s\"", path);
	if (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)) {
		/* The cached parent may have lain in there. */
		u->cached_path[0] = 0;
		unpack_forget_parent(u);
		return 3;
	}
	return unpack_is_whiteout(&st) ? 2 : 0;
}

static int write_data(struct unpack *u, int fd, const char *path, int64_t size, struct err *err)
{
	int64_t end = 0;

	for (;;) {
		const void *block;
		size_t len;
		int64_t at;
		int r = archive_read_data_block(u->inner, &block, &len, &at);

		if (r == ARCHIVE_EOF)
			break;
		if (r != ARCHIVE_OK)
			return unpack_bad(err, "the layer's tar archive is damaged at \"%.200s\": %s", path,
					  archive_error_string(u->inner));
		if (at < 0 || at > FILE_SIZE_MAX - (int64_t)len)
			return unpack_bad(err, "entry \"%.200s\" is too large", path);
		for (size_t done = 0; done < len;) {
			ssize_t n = pwrite(fd, (const char *)block + done, len - done, at + (int64_t)done);

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return unpack_io_error(err, path);
			done += (size_t)n;
		}
		end = at + (int64_t)len > end ? at + (int64_t)len : end;
		u->unchecked_bytes += len;
		r = unpack_check_room(u, err);
		if (r < 0)
			return r;
	}
	if (end < size && ftruncate(fd, size) < 0) /* a hole at the end of a sparse file */
		return unpack_io_error(err, path);
	return 0;
}

static int make_file(struct unpack *u, int dirfd, const char *base, struct archive_entry *entry,
		     const char *path, struct err *err)
{
	int64_t size = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : 0;
	int fd CLEANUP_CLOSE = -1;

	if (size < 0 || size > FILE_SIZE_MAX)
		return unpack_bad(err, "entry \"%.200s\" is too large", path);
	fd = openat(dirfd, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return unpack_io_error(err, path);
	return write_data(u, fd, path, size, err);
}

/* The bytes from *at on that are no hole; false after the last. Without support for holes all are data. */
static bool next_data(int fd, off_t size, off_t *at, off_t *ret_end)
{
	off_t data = lseek(fd, *at, SEEK_DATA), hole;

	if (data < 0 && errno != ENXIO)
		data = *at;
	hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
	*at = data;
	*ret_end = hole < 0 || hole > size ? size : hole;
	return data >= 0 && data < size;
}

static int copy_range(struct unpack *u, int from, int to, off_t at, off_t end, char *block, const char *path,
		      struct err *err)
{
	while (at < end) {
		size_t want = end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
		ssize_t n = pread(from, block, want, at);
		int r;

		if (n < 0)
			return unpack_io_error(err, path);
		if (n == 0)
			break;
		r = unpack_count_copied(u, (uint64_t)n, err);
		if (r < 0)
			return r;
		for (ssize_t done = 0; done < n;) {
			ssize_t m = pwrite(to, block + done, (size_t)(n - done), at + done);

			if (m < 0 && errno != EINTR)
				return unpack_io_error(err, path);
			done += m > 0 ? m : 0;
		}
		at += n;
	}
	return 0;
}

/* Holes stay holes: a sparse file of any size takes no more than its data. */
static int copy_content(struct unpack *u, int from, int to, off_t size, const char *path, struct err *err)
{
	char *block CLEANUP_FREE = malloc(COPY_BYTES);
	off_t at = 0, end;

	if (!block)
		return err_oom(err);
	if (ftruncate(to, size) < 0)
		return unpack_io_error(err, path);
	for (; next_data(from, size, &at, &end); at = end) {
		int r = copy_range(u, from, to, at, end, block, path, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Brings a file of the layers beneath into this one, so that it can be linked to. */
static int copy_up(struct unpack *u, int dirfd, const char *base, const char *path, struct err *err)
{
	int lower CLEANUP_CLOSE = unpack_lower_find(u, path);
	int in CLEANUP_CLOSE = -1;
	int out CLEANUP_CLOSE = -1;
	char at[40];
	struct stat st;
	int r;

	if (lower < 0 || fstat(lower, &st) < 0 || !S_ISREG(st.st_mode))
		return unpack_bad(err, "a hard link leads to \"%.200s\", which is not a file of the image",
				  path);
	snprintf(at, sizeof(at), "/proc/self/fd/%d", lower);
	in = open(at, O_RDONLY | O_CLOEXEC);
	out = openat(dirfd, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (in < 0 || out < 0)
		return unpack_io_error(err, path);
	r = copy_content(u, in, out, st.st_size, path, err);
	if (r < 0)
		return r;
	r = unpack_copy_attributes(lower, dirfd, base);
	return r < 0 ? err_set_errno(err, r, "unpacking \"%.200s\"", path) : 0;
}

/* Opens the directory of a hard link's target and sees to it that the target is there. */
static int open_target(struct unpack *u, const char *to_parent, const char *to_base, const char *full,
		       const char *path, struct err *err)
{
	int fd = unpack_open_parent(u, to_parent, err);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return fd;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return unpack_io_error(err, path);
	if (fstatat(fd, to_base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = copy_up(u, fd, to_base, full, err);
	else if (S_ISDIR(st.st_mode) || unpack_is_whiteout(&st))
		r = unpack_bad(err, "entry \"%.200s\" is a hard link to \"%.200s\", which is not a file",
			       path, full);
	if (r < 0) {
		close_fd(fd);
		return r;
	}
	return fd;
}

static int make_hardlink(struct unpack *u, const char *parent, const char *base, const char *to,
			 const char *path, struct err *err)
{
	char *target CLEANUP_FREE = strdup(to);
	char *full CLEANUP_FREE = NULL;
	const char *to_parent, *to_base;
	int from CLEANUP_CLOSE = -1;
	int dirfd, r;

	if (!target)
		return err_oom(err);
	r = path_clean(target);
	if (r < 0 || !*target)
		return unpack_bad(err, "entry \"%.200s\" is a hard link to \"%.200s\", which leaves the root",
				  path, to);
	if (str_eq(target, path))
		return 0; /* a link to itself changes nothing */
	full = strdup(target);
	if (!full)
		return err_oom(err);
	path_split(target, &to_parent, &to_base);
	from = open_target(u, to_parent, to_base, full, path, err);
	if (from < 0)
		return from;
	dirfd = unpack_open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	r = clear_way(u, dirfd, base, false, path, err);
	if (r < 0)
		return r;
	dirfd = unpack_open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	if (linkat(from, to_base, dirfd, base, 0) == 0)
		return 0;
	return errno == ENOENT ? unpack_bad(err, "entry \"%.200s\" is a hard link to what it replaces", path)
			       : unpack_io_error(err, path);
}

static int make_node(int dirfd, const char *base, struct archive_entry *entry, const char *path,
		     struct err *err)
{
	dev_t dev =
		makedev((unsigned)archive_entry_rdevmajor(entry), (unsigned)archive_entry_rdevminor(entry));
	mode_t type;

	switch (archive_entry_filetype(entry)) {
	case AE_IFCHR:
		type = S_IFCHR;
		if (dev == makedev(0, 0))
			return unpack_bad(err, "entry \"%.200s\" is the device 0:0", path);
		break;
	case AE_IFBLK:
		type = S_IFBLK;
		break;
	case AE_IFIFO:
		type = S_IFIFO;
		dev = 0;
		break;
	default:
		return unpack_bad(err, "entry \"%.200s\" is of an unknown type", path);
	}
	return mknodat(dirfd, base, type | 0600, dev) < 0 ? unpack_io_error(err, path) : 0;
}

static int make_symlink(int dirfd, const char *base, struct archive_entry *entry, const char *path,
			struct err *err)
{
	const char *to = archive_entry_symlink(entry);

	if (!to)
		to = archive_entry_symlink_utf8(entry);
	if (str_empty(to) || strlen(to) > TREE_PATH_MAX)
		return unpack_bad(err, "entry \"%.200s\" is a symbolic link to nothing", path);
	return symlinkat(to, dirfd, base) < 0 ? unpack_io_error(err, path) : 0;
}

static int make_dir(int dirfd, const char *base, int way, const char *path, struct err *err)
{
	if (way == 1)
		return 0;
	if (mkdirat(dirfd, base, 0700) < 0)
		return unpack_io_error(err, path);
	return way == 2 ? unpack_set_opaque(dirfd, base, path, err) : 0;
}

/* ---- whiteouts ----------------------------------------------------------------------------------------- */

/* Hides what lies beneath; what this layer itself has stays (layer.md). */
static int make_whiteout(struct unpack *u, const char *parent, const char *hidden, const char *path,
			 struct err *err)
{
	struct stat st;
	int dirfd;

	if (!*hidden || str_eq(hidden, ".") || str_eq(hidden, ".."))
		return unpack_bad(err, "whiteout \"%.200s\" hides nothing that has a name", path);
	if (u->n_parents == 0)
		return 0;
	dirfd = unpack_open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return S_ISDIR(st.st_mode) ? unpack_set_opaque(dirfd, hidden, path, err) : 0;
	if (mknodat(dirfd, hidden, S_IFCHR, makedev(0, 0)) < 0)
		return unpack_io_error(err, path);
	return 0;
}

static int make_opaque(struct unpack *u, const char *parent, const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = -1;
	int dirfd;

	if (u->n_parents == 0 || !*parent) {
		if (u->n_parents > 0 && fsetxattr(u->root, XATTR_OPAQUE, "y", 1, 0) < 0)
			return unpack_io_error(err, path);
		return 0;
	}
	dirfd = unpack_open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsetxattr(fd, XATTR_OPAQUE, "y", 1, 0) < 0)
		return unpack_io_error(err, path);
	return 0;
}

/* ---- an entry ------------------------------------------------------------------------------------------ */

static int make_thing(struct unpack *u, const char *parent, const char *base, struct archive_entry *entry,
		      const char *path, struct err *err)
{
	bool is_dir = archive_entry_filetype(entry) == AE_IFDIR && !archive_entry_hardlink(entry);
	const char *hardlink = archive_entry_hardlink(entry);
	int dirfd = unpack_open_parent(u, parent, err);
	struct timespec mtime;
	int way, r;

	if (dirfd < 0)
		return dirfd;
	if (!hardlink)
		hardlink = archive_entry_hardlink_utf8(entry);
	if (hardlink)
		return make_hardlink(u, parent, base, hardlink, path, err);
	way = clear_way(u, dirfd, base, is_dir, path, err);
	if (way < 0)
		return way;
	dirfd = unpack_open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	switch (archive_entry_filetype(entry)) {
	case AE_IFDIR:
		r = make_dir(dirfd, base, way, path, err);
		break;
	case AE_IFREG:
		r = make_file(u, dirfd, base, entry, path, err);
		break;
	case AE_IFLNK:
		r = make_symlink(dirfd, base, entry, path, err);
		break;
	default:
		r = make_node(dirfd, base, entry, path, err);
		break;
	}
	if (r == 0)
		r = unpack_set_attributes(dirfd, base, entry, path, err);
	if (r < 0 || !is_dir)
		return r;
	unpack_mtime_of(entry, &mtime);
	return unpack_remember_dir(u, parent, base, &mtime, err);
}

/*
 * AUFS's own files ("/.wh..wh.plnk/…") are in some old images; other parents named like whiteouts make no
 * sense.
 */
static int parent_is_meta(const char *parent)
{
	for (const char *p = parent; *p;) {
		size_t len = strcspn(p, "/");

		if (str_starts(p, WHITEOUT_META))
			return 1;
		if (str_starts(p, WHITEOUT))
			return -1;
		p += len;
		if (*p)
			p++;
	}
	return 0;
}

static int place_entry(struct unpack *u, char *name, struct archive_entry *entry, const char *path,
		       struct err *err)
{
	const char *parent, *base;
	int meta, r;

	path_split(name, &parent, &base);
	meta = parent_is_meta(parent);
	if (meta > 0)
		return 0;
	if (meta < 0)
		return unpack_bad(err, "entry \"%.200s\" lies in a whiteout", path);
	r = unpack_count_made(u, err);
	if (r < 0)
		return r;
	if (str_eq(base, WHITEOUT_OPAQUE))
		return make_opaque(u, parent, path, err);
	if (str_starts(base, WHITEOUT_META))
		return 0;
	if (str_starts(base, WHITEOUT))
		return make_whiteout(u, parent, base + strlen(WHITEOUT), path, err);
	return make_thing(u, parent, base, entry, path, err);
}

int unpack_entry(struct unpack *u, struct archive_entry *entry, struct err *err)
{
	const char *given = archive_entry_pathname(entry);
	char *name CLEANUP_FREE = NULL;
	char *path CLEANUP_FREE = NULL;
	int r;

	if (!given)
		given = archive_entry_pathname_utf8(entry);
	if (!given)
		return unpack_bad(err, "the layer's tar archive has an entry without a name");
	name = strdup(given);
	if (!name)
		return err_oom(err);
	r = path_clean(name);
	if (r == -EINVAL)
		return unpack_bad(err, "entry \"%.200s\" leaves the root", given);
	if (r < 0)
		return unpack_bad(err, "entry \"%.100s…\" has too long or too deep a name", given);
	if (!*name)
		return 0; /* the root: its attributes are not the layer's to set */
	path = strdup(name);
	if (!path)
		return err_oom(err);
	return place_entry(u, name, entry, path, err);
}
