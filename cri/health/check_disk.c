/* SPDX-License-Identifier: Apache-2.0 */
/* check_disk.c: where the server keeps its files, and its socket. */
#include "cri/health/check.h"

#include "base/util.h"
#include "cri/health/readiness.h"
#include "vmm/vm.h"

#include <inttypes.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/vfs.h>

#define MIB	      (UINT64_C(1) << 20)
#define SPACE_WANTED  (2048 * MIB) /* an image or two */
#define INODES_WANTED 100000	   /* an image of a distribution has some ten thousand files */

/* "<run_dir>/pods/<20 characters of the id>/vm/<socket>" in struct sockaddr_un. */
#define BELOW_RUN_DIR (sizeof("/pods/") - 1 + 20 + sizeof("/vm/") - 1 + VM_SOCKET_NAME_MAX)
#define SOCKET_MAX    (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/*
 * An overlay's upper layer (overlayfs.rst) needs whiteouts, trusted.* attributes and d_type. Magic numbers
 * that linux/magic.h lacks are those of statfs(2).
 */
static const struct {
	long magic;
	const char *name;
	bool upper;
} known[] = {
	{EXT4_SUPER_MAGIC, "ext4", true},
	{XFS_SUPER_MAGIC, "xfs", true},
	{BTRFS_SUPER_MAGIC, "btrfs", true},
	{F2FS_SUPER_MAGIC, "f2fs", true},
	{TMPFS_MAGIC, "tmpfs", true},
	{0x2fc12fc1, "zfs", true},
	{OVERLAYFS_SUPER_MAGIC, "overlay", false},
	{NFS_SUPER_MAGIC, "nfs", false},
	{0xff534d42, "cifs", false},
	{0xfe534d42, "smb", false},
	{V9FS_MAGIC, "9p", false},
	{MSDOS_SUPER_MAGIC, "vfat", false},
	{0x65735546, "fuse", false},
};

/* ---- directories --------------------------------------------------------------------------------------- */

/* The nearest ancestor that exists: nothing is made here. */
static char *existing(const char *path)
{
	char *copy = strdup(path);

	while (copy && access(copy, F_OK) < 0) {
		char *slash = strrchr(copy, '/');

		if (!slash || slash == copy) {
			free(copy);
			return strdup("/");
		}
		*slash = 0;
	}
	return copy;
}

struct place {
	long magic;
	struct statvfs fs;
};

static const char *fix_room(int code)
{
	switch (code) {
	case -EROFS:
		return "mount it writable; its file system's errors are in the kernel's log";
	case -ENOSPC:
		return "free some, or another [server] state_dir or run_dir";
	default:
		return "correct [server] state_dir and run_dir";
	}
}

/*
 * Looks at the file system of a directory that may have to be made yet, as the server does before each pod;
 * false after recording what is wrong.
 */
static bool look(struct check *check, const char *id, const char *key, const char *path, struct place *ret)
{
	char *dir CLEANUP_FREE = existing(path);
	struct err err = ERR_INIT;
	struct statfs st;
	struct stat info;
	int r;

	if (!dir) {
		check->oom = true;
		return false;
	}
	if (stat(dir, &info) < 0 || statfs(dir, &st) < 0 || statvfs(dir, &ret->fs) < 0)
		r = err_set_errno(&err, -errno, "%s %s", key, dir);
	else if (!S_ISDIR(info.st_mode))
		r = err_set(&err, -ENOTDIR, "%s %s: %s is not a directory", key, path, dir);
	else
		r = readiness_room(key, dir, &err);
	if (r < 0) {
		check_add(check, id, CHECK_MISSING, fix_room(r), "%s", err.msg);
		return false;
	}
	ret->magic = (long)st.f_type;
	return true;
}

static const char *fs_name(long magic)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].magic == magic)
			return known[i].name;
	return NULL;
}

static bool holds_layers(long magic)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].magic == magic)
			return known[i].upper;
	return true;
}

static void check_space(struct check *check, const char *path, const struct statvfs *fs)
{
	uint64_t space = (uint64_t)fs->f_bavail * fs->f_frsize;

	if (space < SPACE_WANTED)
		check_add(check, "disk-space", CHECK_NOTE,
			  "free some, or [server] state_dir on a larger disk",
			  "%" PRIu64 " MiB are free at %s, and images want more", space / MIB, path);
	else if (fs->f_files && fs->f_favail < INODES_WANTED)
		/* btrfs and others count none, and then say 0 of 0. */
		check_add(check, "disk-space", CHECK_NOTE,
			  "delete small files, or [server] state_dir on a file system with more inodes",
			  "%" PRIu64 " inodes are free at %s, and an image takes thousands",
			  (uint64_t)fs->f_favail, path);
	else
		check_ok(check, "disk-space", "%" PRIu64 " GiB free at %s", space >> 30, path);
}

static void check_state_dir(struct check *check)
{
	const char *path = check->config->server.state_dir, *name;
	struct place place;

	if (!look(check, "state-dir", "state_dir", path, &place))
		return;
	name = fs_name(place.magic);
	if (!holds_layers(place.magic))
		check_add(check, "state-dir", CHECK_MISSING, "[server] state_dir on ext4, xfs or btrfs",
			  "%s is on %s, which cannot hold the layers of containers' overlays", path, name);
	else if (place.magic == TMPFS_MAGIC)
		check_add(check, "state-dir", CHECK_NOTE, "[server] state_dir on ext4, xfs or btrfs",
			  "%s is on tmpfs: images take memory, and a reboot loses them", path);
	else if (!name)
		check_add(check, "state-dir", CHECK_NOTE, "[server] state_dir on ext4, xfs or btrfs",
			  "%s is on a file system of the unknown type 0x%lx", path,
			  (unsigned long)place.magic);
	else
		check_ok(check, "state-dir", "%s, on %s", path, name);
	check_space(check, path, &place.fs);
}

static void check_run_dir(struct check *check)
{
	const char *path = check->config->server.run_dir, *name;
	size_t longest = strlen(path) + BELOW_RUN_DIR;
	struct place place;

	if (longest > SOCKET_MAX) {
		check_add(check, "run-dir", CHECK_MISSING, "a shorter [server] run_dir",
			  "%s is %zu bytes too long: the sockets below it have paths of %zu, and %zu are "
			  "possible",
			  path, longest - SOCKET_MAX, longest, SOCKET_MAX);
		return;
	}
	if (!look(check, "run-dir", "run_dir", path, &place))
		return;
	name = fs_name(place.magic);
	if (place.magic != TMPFS_MAGIC)
		check_add(check, "run-dir", CHECK_NOTE, "[server] run_dir below /run, or mount a tmpfs there",
			  "%s is on %s, not on tmpfs: what it holds of one boot is still there at the next",
			  path, name ? name : "another file system");
	else
		check_ok(check, "run-dir", "%s, on tmpfs", path);
}

/* ---- socket -------------------------------------------------------------------------------------------- */

static void check_served(struct check *check, const char *path, int fd)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0)
		check_ok(check, "socket", "%s is served by process %ld", path, (long)peer.pid);
	else
		check_ok(check, "socket", "%s is served", path);
}

static void check_socket(struct check *check)
{
	const char *path = check->config->server.socket;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	size_t len = strlen(path);
	struct stat st;

	if (len > SOCKET_MAX) {
		check_add(check, "socket", CHECK_MISSING, "a shorter [server] socket",
			  "the path is %zu bytes long, and %zu are possible", len, SOCKET_MAX);
		return;
	}
	memcpy(addr.sun_path, path, len);
	if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
		check_add(check, "socket", CHECK_MISSING, "remove it, or another [server] socket",
			  "%s exists and is not a socket: a server cannot start", path);
	else if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		check_served(check, path, fd);
	else if (errno == EAGAIN)
		check_add(check, "socket", CHECK_NOTE, "look at the server's log, or restart it: pods run on",
			  "a server listens on %s, but does not accept connections", path);
	else if (errno == EACCES || errno == EPERM)
		check_add(check, "socket", CHECK_NOTE, "run it as root", "no permission to connect to %s",
			  path);
	else
		check_add(check, "socket", CHECK_NOTE, "systemctl start crivisor, or crivisor serve",
			  "no server is running at %s", path);
}

void check_disk(struct check *check)
{
	check_state_dir(check);
	check_run_dir(check);
	check_socket(check);
}
