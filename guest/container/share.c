/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/share.h"

#include "base/log.h"
#include "base/procfs.h"
#include "base/util.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LOOK_NS	   (2 * NS_PER_MS)
#define SILENCE_NS (100 * NS_PER_MS) /* without an answer: virtiofsd hangs */

/*
 * All mounts of the share are one connection, whose count of requests the kernel shows (fs/fuse/control.c;
 * its directory is the device number of the share's own mount). -1: this one is not shown.
 */
static long count_in_flight(const struct agent *agent)
{
	char path[64];
	char *text CLEANUP_FREE = NULL;
	struct statx st;

	if (statx(AT_FDCWD, agent->paths.share, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -1;
	snprintf(path, sizeof(path), SHARE_FUSE_DIR "/%u/waiting", st.stx_dev_minor);
	return read_file(path, 32, &text, NULL) < 0 ? -1 : strtol(text, NULL, 10);
}

bool share_is_counted(const struct agent *agent)
{
	return count_in_flight(agent) >= 0;
}

static void on_look(void *arg)
{
	struct share_wait *wait = arg;
	long n = count_in_flight(wait->agent);
	int64_t now = now_monotonic_ns();

	if (n < wait->in_flight)
		wait->answered_ns = now;
	else if (n >= 0 && now - wait->answered_ns >= SILENCE_NS)
		wait->until_ns = now + SHARE_WAIT_NS; /* begins anew when answers come */
	wait->in_flight = n;
	/* fn may free the wait. */
	if (n == 0)
		wait->fn(wait->arg, SHARE_IDLE);
	else if (now >= wait->until_ns)
		wait->fn(wait->arg, SHARE_PAST);
	else if (now >= wait->limit_ns)
		wait->fn(wait->arg, SHARE_HUNG);
	else
		loop_timer_set(wait->agent->loop, &wait->timer, now + LOOK_NS, on_look, wait);
}

void share_wait(const struct agent *agent, struct share_wait *wait, share_flight_fn *fn, void *arg)
{
	int64_t now = now_monotonic_ns();
	long n;

	share_wait_clear(wait);
	if (!agent->in_vm) {
		fn(arg, SHARE_IDLE);
		return;
	}
	n = count_in_flight(agent);
	*wait = (struct share_wait){.agent = agent,
				    .in_flight = n,
				    .answered_ns = now,
				    .until_ns = now + (n < 0 ? SHARE_BLIND_NS : SHARE_WAIT_NS),
				    .limit_ns = now + SHARE_HUNG_NS,
				    .fn = fn,
				    .arg = arg};
	on_look(wait);
}

void share_wait_clear(struct share_wait *wait)
{
	loop_timer_clear(&wait->timer);
}

void share_hold(const struct agent *agent, const char *id)
{
	char *root CLEANUP_FREE = xasprintf("%s/%s/rootfs/.", agent->paths.share, id);
	struct stat st;

	/* The dot makes the lookup enter the file system mounted there (path_resolution(7)). */
	if (root)
		(void)stat(root, &st);
}

int share_volumes(const struct agent *agent, const char *id, char ***ret_paths, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s/volumes", agent->paths.share, id);
	char *text CLEANUP_FREE = NULL;
	char **paths CLEANUP_STRV = NULL;
	char *rest, *line;
	int r = path ? read_file(path, SHARE_VOLUMES_MAX, &text, NULL) : -ENOMEM;

	if (r == -ENOENT) /* an earlier version of the server */
		return 0;
	rest = text;
	while (r == 0 && (line = strsep(&rest, "\n"))) {
		if (str_starts(line, "volumes/"))
			r = strv_add(&paths, line);
	}
	if (r < 0)
		return err_set_errno(err, r, "read %s", path ? path : "the container's volumes");
	*ret_paths = move_ptr(paths);
	return 0;
}

void share_hold_volumes(const struct agent *agent, char *const *paths)
{
	/* A container may have put a symlink in the place of what it can write to. */
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	int share CLEANUP_CLOSE = -1;

	if (!agent->in_vm || !paths)
		return;
	share = open(agent->paths.share, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; share >= 0 && paths[i]; i++) {
		/* Fails for a file, which has no mount of its own. */
		long fd = syscall(SYS_openat2, share, paths[i], &how, sizeof(how));

		if (fd >= 0)
			close_fd((int)fd);
	}
}

int share_hold_mounts(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int share_release_mounts(int handle)
{
	return close_fd(handle);
}

static void umount_below(const struct agent *agent, const char *path)
{
	char *dir CLEANUP_FREE = xasprintf("%s/%s", agent->paths.share, path);
	char **list CLEANUP_STRV = NULL;
	int r;

	if (!dir)
		return;
	r = procfs_mounts_below(dir, &list);
	if (r < 0)
		log_warn("list the mounts in %s: %s", dir, strerror(-r));
	for (size_t i = strv_len(list); i > 0; i--) {
		if (umount2(list[i - 1], UMOUNT_NOFOLLOW) < 0 &&
		    umount2(list[i - 1], MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			log_warn("unmount %s: %s", list[i - 1], strerror(errno));
	}
}

/*
 * Only a volume itself: what is mounted below it lies in directories that containers could replace by
 * symlinks, and goes with it.
 */
static void umount_volume(const struct agent *agent, const char *path)
{
	char *top CLEANUP_FREE = xasprintf("%s/%s", agent->paths.share, path);

	if (!top || strchr(path + strlen("volumes/"), '/'))
		return;
	/* EINVAL: a file, which has no mount of its own. */
	if (umount2(top, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
	    umount2(top, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		log_warn("unmount %s: %s", top, strerror(errno));
}

void share_release(const struct agent *agent, const char *id, char *const *volumes)
{
	int r;

	if (!agent->in_vm)
		return;
	umount_below(agent, id);
	for (size_t i = 0; volumes && volumes[i]; i++)
		umount_volume(agent, volumes[i]);
	/*
	 * FUSE has no call that forgets one directory's inodes; dropping the caches of names and inodes
	 * forgets all unused ones.
	 */
	r = write_file("/proc/sys/vm/drop_caches", "2", 1, 0);
	if (r < 0)
		log_warn("drop cached inodes: %s", strerror(-r));
}
