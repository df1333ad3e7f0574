#include "cri/image_unpack_priv.h"

#include "base/util.h"
#include "cri/image_path.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define WHITEOUT	".wh."
#define WHITEOUT_META	".wh..wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define XATTR_OPAQUE	"trusted.overlay.opaque"
#define FILE_SIZE_MAX	(1ll << 44)
#define COPY_BYTES	(64u << 10)
#define LINKS_MAX	8 /* that lead to nothing, in one path */

static void forget_parent(struct unpack *u)
{
	u->cached_fd = close_fd(u->cached_fd);
}

void unpack_fs_done(struct unpack *u)
{
	forget_parent(u);
	for (size_t i = 0; i < u->n_dirs; i++)
		free(u->dirs[i].path);
	free(u->dirs);
}

static int count_made(struct unpack *u, struct err *err)
{
	if (++u->made > u->opt->limits.entries)
		return unpack_bad(err, "the layer has more than %llu entries",
				  (unsigned long long)u->opt->limits.entries);
	u->unchecked_bytes += 4096;
	return unpack_check_room(u, err);
}

/* What failed on the disk, told with the entry's name. */
static int io_error(struct err *err, const char *path)
{
	return err_set_errno(err, -errno, "unpacking \"%.200s\"", path);
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/*
 * ---- what lies in the layers beneath
 * ------------------------------------------------------------------------
 */

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
		if (fstat(fd, &st) < 0 || is_whiteout(&st) || (p[len] && !S_ISDIR(st.st_mode))) {
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

/* The file that overlayfs would show at path from the parents: an O_PATH fd, or -ENOENT. */
static int lower_find(const struct unpack *u, const char *path)
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

/*
 * ---- attributes
 * ---------------------------------------------------------------------------------------------
 */

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

static void mtime_of(struct archive_entry *entry, struct timespec *ret)
{
	ret->tv_sec = archive_entry_mtime(entry);
	ret->tv_nsec = archive_entry_mtime_nsec(entry);
	if (!archive_entry_mtime_is_set(entry) || ret->tv_nsec < 0 || ret->tv_nsec >= NS_PER_SEC)
		ret->tv_sec = ret->tv_nsec = 0;
}

/* Owner first: chown clears set-id bits and capabilities. */
static int set_attributes(int dirfd, const char *base, struct archive_entry *entry, const char *path,
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
		return io_error(err, path);
	r = set_xattrs(dirfd, base, entry, path, err);
	if (r < 0)
		return r;
	if (!link && fchmodat(dirfd, base, archive_entry_perm(entry) & 07777, 0) < 0)
		return io_error(err, path);
	mtime_of(entry, &times[1]);
	times[0] = times[1];
	if (utimensat(dirfd, base, times, AT_SYMLINK_NOFOLLOW) < 0)
		return io_error(err, path);
	return 0;
}

/* Makes a directory like the one beneath, for a path whose parents the archive does not list. */
static int copy_attributes(int from, int dirfd, const char *base)
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

static int remember_dir(struct unpack *u, const char *parent, const char *base, const struct timespec *mtime,
			struct err *err)
{
	struct unpack_dir *grown;
	size_t room;

	if (u->n_dirs == u->room_dirs) {
		room = u->room_dirs ? u->room_dirs * 2 : 64;
		grown = realloc(u->dirs, room * sizeof(*grown));
		if (!grown)
			return err_set(err, -ENOMEM, "out of memory");
		u->dirs = grown;
		u->room_dirs = room;
	}
	u->dirs[u->n_dirs].path = xasprintf("%s%s%s", parent, *parent ? "/" : "", base);
	if (!u->dirs[u->n_dirs].path)
		return err_set(err, -ENOMEM, "out of memory");
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
			return io_error(err, d->path);
		}
		close_fd(fd);
		free(d->path);
		u->n_dirs--;
	}
	return 0;
}

static int set_opaque(int dirfd, const char *base, const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = openat(dirfd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fsetxattr(fd, XATTR_OPAQUE, "y", 1, 0) < 0)
		return io_error(err, path);
	return 0;
}

/*
 * ---- parents
 * ------------------------------------------------------------------------------------------------
 */

static int make_implied(struct unpack *u, int dirfd, const char *base, const char *path, struct err *err)
{
	int lower CLEANUP_CLOSE = -1;
	struct stat st;
	int r = count_made(u, err);

	if (r < 0)
		return r;
	if (mkdirat(dirfd, base, 0755) < 0)
		return io_error(err, path);
	lower = lower_find(u, path);
	if (lower < 0 || fstat(lower, &st) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	r = copy_attributes(lower, dirfd, base);
	if (r < 0)
		return err_set_errno(err, r, "unpacking \"%.200s\"", path);
	return remember_dir(u, "", path, &st.st_mtim, err);
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
		return err_set(err, -ENOMEM, "out of memory");
	to = buffers;
	target = buffers + PATH_MAX;
	n = readlinkat(dirfd, base, target, PATH_MAX - 1);
	if (n < 0)
		return io_error(err, path);
	if (target[0] != '/')
		snprintf(to, PATH_MAX, "%.*s", (int)(strlen(path) - strlen(base)), path);
	if (append_parts(to, target) < 0 || strlen(to) > IMAGE_PATH_MAX)
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
			return io_error(err, path);
		r = make_implied(u, dirfd, base, path, err);
		if (r < 0)
			return r;
	} else if (is_whiteout(&st)) { /* removed beneath, made anew here */
		forget_parent(u);
		if (unlinkat(dirfd, base, 0) < 0 || mkdirat(dirfd, base, 0755) < 0)
			return io_error(err, path);
		r = set_opaque(dirfd, base, path, err);
		if (r < 0)
			return r;
	} else if (S_ISLNK(st.st_mode)) {
		return through_link(u, dirfd, base, path, links, err);
	} else if (!S_ISDIR(st.st_mode)) {
		return unpack_bad(err, "an entry's path leads through \"%.200s\", which is no directory",
				  path);
	}
	fd = openat(dirfd, base, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? io_error(err, path) : fd;
}

static int walk_parent(struct unpack *u, const char *parent, int links, struct err *err)
{
	int dir = fcntl(u->root, F_DUPFD_CLOEXEC, 3);
	char *path CLEANUP_FREE = malloc(PATH_MAX);
	char base[NAME_MAX + 1];

	if (dir < 0 || !path) {
		close_fd(dir);
		return err_set(err, -ENOMEM, "out of memory");
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

/* The directory that an entry goes into, made if need be; the fd stays the cache's. */
static int open_parent(struct unpack *u, const char *parent, struct err *err)
{
	int fd;

	if (u->cached_fd >= 0 && str_eq(u->cached_path, parent))
		return u->cached_fd;
	fd = path_open_in(u->root, parent, O_PATH | O_DIRECTORY);
	if (fd < 0)
		fd = walk_parent(u, parent, 0, err);
	if (fd < 0)
		return fd;
	forget_parent(u);
	u->cached_fd = fd;
	snprintf(u->cached_path, sizeof(u->cached_path), "%s", parent);
	return fd;
}

/*
 * ---- files
 * --------------------------------------------------------------------------------------------------
 */

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
		return errno == ENOENT ? 0 : io_error(err, path);
	if (S_ISDIR(st.st_mode) && want_dir)
		return 1;
	r = path_remove_tree(dirfd, base);
	if (r < 0)
		return err_set_errno(err, r, "unpacking \"%.200s\"", path);
	if (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)) {
		/* The cached parent may have lain in there. */
		u->cached_path[0] = 0;
		forget_parent(u);
		return 3;
	}
	return is_whiteout(&st) ? 2 : 0;
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
				return io_error(err, path);
			done += (size_t)n;
		}
		end = at + (int64_t)len > end ? at + (int64_t)len : end;
		u->unchecked_bytes += len;
		r = unpack_check_room(u, err);
		if (r < 0)
			return r;
	}
	if (end < size && ftruncate(fd, size) < 0) /* a hole at the end of a sparse file */
		return io_error(err, path);
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
		return io_error(err, path);
	return write_data(u, fd, path, size, err);
}

static int copy_content(int from, int to)
{
	char *block CLEANUP_FREE = malloc(COPY_BYTES);

	if (!block)
		return -ENOMEM;
	for (;;) {
		ssize_t n = read_full(from, block, COPY_BYTES);
		int r;

		if (n <= 0)
			return (int)n;
		r = write_full(to, block, (size_t)n);
		if (r < 0)
			return r;
	}
}

/* Brings a file of the layers beneath into this one, so that it can be linked to. */
static int copy_up(struct unpack *u, int dirfd, const char *base, const char *path, struct err *err)
{
	int lower CLEANUP_CLOSE = lower_find(u, path);
	int in CLEANUP_CLOSE = -1;
	int out CLEANUP_CLOSE = -1;
	char at[40];
	struct stat st;
	int r;

	if (lower < 0 || fstat(lower, &st) < 0 || !S_ISREG(st.st_mode))
		return unpack_bad(err, "a hard link leads to \"%.200s\", which is no file of the image",
				  path);
	snprintf(at, sizeof(at), "/proc/self/fd/%d", lower);
	in = open(at, O_RDONLY | O_CLOEXEC);
	out = openat(dirfd, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (in < 0 || out < 0)
		return io_error(err, path);
	r = copy_content(in, out);
	if (r == 0)
		r = copy_attributes(lower, dirfd, base);
	return r < 0 ? err_set_errno(err, r, "unpacking \"%.200s\"", path) : 0;
}

/* Opens the directory of a hard link's target and sees to it that the target is there. */
static int open_target(struct unpack *u, const char *to_parent, const char *to_base, const char *full,
		       const char *path, struct err *err)
{
	int fd = open_parent(u, to_parent, err);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return fd;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return io_error(err, path);
	if (fstatat(fd, to_base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = copy_up(u, fd, to_base, full, err);
	else if (S_ISDIR(st.st_mode) || is_whiteout(&st))
		r = unpack_bad(err, "entry \"%.200s\" is a hard link to \"%.200s\", which is no file", path,
			       full);
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
		return err_set(err, -ENOMEM, "out of memory");
	r = path_clean(target);
	if (r < 0 || !*target)
		return unpack_bad(err, "entry \"%.200s\" is a hard link to \"%.200s\", which leaves the root",
				  path, to);
	if (str_eq(target, path))
		return 0; /* a link to itself changes nothing */
	full = strdup(target);
	if (!full)
		return err_set(err, -ENOMEM, "out of memory");
	path_split(target, &to_parent, &to_base);
	from = open_target(u, to_parent, to_base, full, path, err);
	if (from < 0)
		return from;
	dirfd = open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	r = clear_way(u, dirfd, base, false, path, err);
	if (r < 0)
		return r;
	dirfd = open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	if (linkat(from, to_base, dirfd, base, 0) == 0)
		return 0;
	return errno == ENOENT ? unpack_bad(err, "entry \"%.200s\" is a hard link to what it replaces", path)
			       : io_error(err, path);
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
	return mknodat(dirfd, base, type | 0600, dev) < 0 ? io_error(err, path) : 0;
}

static int make_symlink(int dirfd, const char *base, struct archive_entry *entry, const char *path,
			struct err *err)
{
	const char *to = archive_entry_symlink(entry);

	if (!to)
		to = archive_entry_symlink_utf8(entry);
	if (str_empty(to) || strlen(to) > IMAGE_PATH_MAX)
		return unpack_bad(err, "entry \"%.200s\" is a symbolic link to nothing", path);
	return symlinkat(to, dirfd, base) < 0 ? io_error(err, path) : 0;
}

static int make_dir(int dirfd, const char *base, int way, const char *path, struct err *err)
{
	if (way == 1)
		return 0;
	if (mkdirat(dirfd, base, 0700) < 0)
		return io_error(err, path);
	return way == 2 ? set_opaque(dirfd, base, path, err) : 0;
}

/*
 * ---- whiteouts
 * ----------------------------------------------------------------------------------------------
 */

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
	dirfd = open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return S_ISDIR(st.st_mode) ? set_opaque(dirfd, hidden, path, err) : 0;
	if (mknodat(dirfd, hidden, S_IFCHR, makedev(0, 0)) < 0)
		return io_error(err, path);
	return 0;
}

static int make_opaque(struct unpack *u, const char *parent, const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = -1;
	int dirfd;

	if (u->n_parents == 0 || !*parent) {
		if (u->n_parents > 0 && fsetxattr(u->root, XATTR_OPAQUE, "y", 1, 0) < 0)
			return io_error(err, path);
		return 0;
	}
	dirfd = open_parent(u, parent, err);
	if (dirfd < 0)
		return dirfd;
	fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsetxattr(fd, XATTR_OPAQUE, "y", 1, 0) < 0)
		return io_error(err, path);
	return 0;
}

/*
 * ---- an entry
 * -----------------------------------------------------------------------------------------------
 */

static int make_thing(struct unpack *u, const char *parent, const char *base, struct archive_entry *entry,
		      const char *path, struct err *err)
{
	bool is_dir = archive_entry_filetype(entry) == AE_IFDIR && !archive_entry_hardlink(entry);
	const char *hardlink = archive_entry_hardlink(entry);
	int dirfd = open_parent(u, parent, err);
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
	dirfd = open_parent(u, parent, err);
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
		r = set_attributes(dirfd, base, entry, path, err);
	if (r < 0 || !is_dir)
		return r;
	mtime_of(entry, &mtime);
	return remember_dir(u, parent, base, &mtime, err);
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
	r = count_made(u, err);
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
		return err_set(err, -ENOMEM, "out of memory");
	r = path_clean(name);
	if (r == -EINVAL)
		return unpack_bad(err, "entry \"%.200s\" leaves the root", given);
	if (r < 0)
		return unpack_bad(err, "entry \"%.100s…\" has too long or too deep a name", given);
	if (!*name)
		return 0; /* the root: its attributes are not the layer's to set */
	path = strdup(name);
	if (!path)
		return err_set(err, -ENOMEM, "out of memory");
	return place_entry(u, name, entry, path, err);
}
