/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn_jail.c: a root directory with only the paths that a program needs.
 *
 * Every path is cloned as a detached mount (open_tree(2)) before anything changes. Then an empty tmpfs covers
 * `home` in a mount namespace that only this process has, the clones are attached below it, and it becomes
 * the root (pivot_root(2)). Nothing of this is seen on the host, and it goes with the process. The mounts are
 * slaves: what the server mounts below `home` later appears in it, if that lies on a shared mount.
 */
#include "vmm/spawn_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define ENTRIES_MAX   (2 * SPAWN_PATHS_MAX + 16)
#define PROCESSES_MAX 4096 /* and threads: a VMM has one for each vCPU and some more */
#define TMPFS_OPTIONS "mode=0755,size=1m,nr_inodes=1024"
#define ATTR_ALWAYS   (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

/* Where distributions keep programs and libraries; on most all but the first are symlinks into it. */
static const char *const system_dirs[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
static const char *const system_files[] = {"/etc/ld.so.cache", "/dev/null", "/dev/urandom"};

struct entry {
	char *path;  /* never freed */
	char *link;  /* of a symlink; never freed */
	int tree;    /* a detached mount; -1: none */
	mode_t mode; /* its type */
	dev_t device;
};

static struct entry entries[ENTRIES_MAX];
static size_t n_entries;

/* ---- what goes in -------------------------------------------------------------------------------------- */

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == 0);
}

static bool is_system(const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(system_dirs); i++) {
		if (is_below(path, system_dirs[i]))
			return true;
	}
	return false;
}

static char *copy(const char *text)
{
	char *new = strdup(text);

	if (!new)
		spawn_die("\"%s\"", text);
	return new;
}

static struct entry *add_entry(const char *path)
{
	struct entry *e = &entries[n_entries];

	errno = 0;
	if (n_entries == ENTRIES_MAX)
		spawn_die("more than %d paths", ENTRIES_MAX);
	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		spawn_die("\"%s\" is not an absolute path", path);
	n_entries++;
	e->path = copy(path);
	e->tree = -1;
	return e;
}

/* A clone of what is at `source`, to be attached at `path`. */
static void add_mount(const char *path, const char *source, uint64_t attributes)
{
	struct mount_attr a = {.attr_set = ATTR_ALWAYS | attributes};
	struct entry *e = add_entry(path);
	struct stat st;

	e->tree = (int)syscall(SYS_open_tree, AT_FDCWD, source,
			       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (e->tree < 0 || fstat(e->tree, &st) < 0)
		spawn_die("opening %s", source);
	e->mode = st.st_mode & S_IFMT;
	if (mount_setattr(e->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &a, sizeof(a)) < 0)
		spawn_die("restricting %s", source);
}

static void add_device(const char *path, dev_t device)
{
	struct entry *e = add_entry(path);

	e->mode = S_IFCHR;
	e->device = device;
}

static void add_system_dir(const char *path)
{
	char link[PATH_MAX];
	struct entry *e;
	struct stat st;
	ssize_t n;

	if (lstat(path, &st) < 0)
		return;
	if (!S_ISLNK(st.st_mode)) {
		add_mount(path, path, MOUNT_ATTR_RDONLY);
		return;
	}
	e = add_entry(path);
	e->mode = S_IFLNK;
	n = readlink(path, link, sizeof(link) - 1);
	if (n <= 0)
		spawn_die("reading the link %s", path);
	link[n] = 0;
	e->link = copy(link);
}

/* Under its own name and, if that is or passes a symlink, under the real one. */
static void add_path(const char *path)
{
	char real[PATH_MAX];
	struct stat st;

	if (!realpath(path, real) || stat(real, &st) < 0)
		spawn_die("looking at %s", path);
	if (S_ISCHR(st.st_mode)) {
		add_device(path, st.st_rdev);
		return;
	}
	if (!is_system(real))
		add_mount(real, real, MOUNT_ATTR_RDONLY);
	if (!is_system(path) && !str_eq(path, real))
		add_mount(path, real, MOUNT_ATTR_RDONLY);
}

static void collect(const struct spawn_jail *jail)
{
	for (size_t i = 0; i < ARRAY_SIZE(system_dirs); i++)
		add_system_dir(system_dirs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(system_files); i++) {
		if (access(system_files[i], F_OK) == 0)
			add_path(system_files[i]);
	}
	for (size_t i = 0; i < jail->n_paths; i++)
		add_path(jail->paths[i]);
	/* Last, so that it is writable also where a path holds it. */
	add_mount(jail->home, jail->home, MOUNT_ATTR_NOEXEC);
}

/* ---- the new root -------------------------------------------------------------------------------------- */

/* `path` is relative to the new root, which is the working directory. */
static void make_parents(char *path)
{
	for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			spawn_die("making /%s in the new root", path);
		*slash = '/';
	}
}

static int make_target(const struct entry *e, const char *path, uid_t uid)
{
	switch (e->mode) {
	case S_IFLNK:
		return symlink(e->link, path);
	case S_IFCHR:
		return mknod(path, S_IFCHR | 0600, e->device) < 0 || lchown(path, uid, uid) < 0 ? -1 : 0;
	case S_IFDIR:
		return mkdir(path, 0755);
	default:
		return mknod(path, S_IFREG | 0644, 0);
	}
}

static void place(struct entry *e, uid_t uid)
{
	char *path = e->path + 1;

	make_parents(path);
	if (make_target(e, path, uid) < 0 && errno != EEXIST)
		spawn_die("making /%s in the new root", path);
	if (e->tree >= 0 && syscall(SYS_move_mount, e->tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		spawn_die("mounting /%s in the new root", path);
	e->tree = close_fd(e->tree);
}

static bool wants_sysfs(const struct spawn_jail *jail)
{
	for (size_t i = 0; i < jail->n_paths; i++) {
		if (is_below(jail->paths[i], "/sys"))
			return true;
	}
	return false;
}

void spawn_jail_enter(const struct spawn_jail *jail)
{
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY};
	mode_t mask = umask(0022);

	if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0)
		spawn_die("making namespaces");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		spawn_die("separating the mounts from the host's");
	if (wants_sysfs(jail) &&
	    mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		spawn_die("mounting sysfs");
	collect(jail);
	if (mount("root", jail->home, "tmpfs", MS_NOSUID | MS_NOEXEC, TMPFS_OPTIONS) < 0 ||
	    chdir(jail->home) < 0)
		spawn_die("mounting the new root");
	for (size_t i = 0; i < n_entries; i++)
		place(&entries[i], jail->uid);
	if (mount_setattr(AT_FDCWD, ".", 0, &ro, sizeof(ro)) < 0)
		spawn_die("making the new root read-only");
	/* With the same directory twice the old root lies on the new one, from where it is unmounted. */
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		spawn_die("changing the root");
	umask(mask);
}

static void limit(__rlimit_resource_t resource, rlim_t most)
{
	struct rlimit now;

	if (getrlimit(resource, &now) < 0 || now.rlim_max <= most)
		return;
	now = (struct rlimit){most, most};
	if (setrlimit(resource, &now) < 0)
		spawn_die("setting a resource limit");
}

void spawn_jail_limits(void)
{
	limit(RLIMIT_NPROC, PROCESSES_MAX);
	limit(RLIMIT_MSGQUEUE, 0);
	limit(RLIMIT_SIGPENDING, PROCESSES_MAX);
}
