#include "guest/gshare.h"

#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

#define MOUNTINFO_MAX (1 << 20)
#define SETTLE_ROUNDS 32 /* about as many milliseconds */

/*
 * Waits until virtiofs has nothing in flight. All mounts of the share are one connection, whose count of requests the
 * kernel shows (fs/fuse/control.c; its directory is the device number of the share's own mount). Other containers may
 * keep that above zero: after some rounds it is enough that each round's own request was answered, which virtiofsd
 * takes in turn behind the older ones.
 */
static void settle(void)
{
	static const struct timespec pause = {.tv_nsec = 1000000};
	char path[64];
	struct stat st;
	struct statfs fs;

	if (stat(GUEST_SHARE_DIR, &st) < 0)
		return;
	snprintf(path, sizeof(path), GUEST_FUSE_DIR "/%u/waiting", minor(st.st_dev));
	for (int i = 0; i < SETTLE_ROUNDS; i++) {
		char *text CLEANUP_FREE = NULL;

		if (i > 0)
			nanosleep(&pause, NULL);
		if (statfs(GUEST_SHARE_DIR, &fs) < 0 || read_file(path, 32, &text, NULL) < 0 || text[0] == '0')
			return; /* idle, or a share that is not virtiofs */
	}
}

void gshare_hold(const char *id)
{
	char *root CLEANUP_FREE = xasprintf(GUEST_SHARE_DIR "/%s/rootfs/.", id);
	struct stat st;

	/* What is behind the slash must be looked up in the file system that is mounted there (path_resolution(7)). */
	if (root)
		(void)stat(root, &st);
}

int gshare_hold_mounts(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int gshare_release_mounts(int handle)
{
	if (handle < 0)
		return -1;
	settle();
	return close_fd(handle);
}

/*
 * The mount points below `prefix` ("…/"), in the kernel's order: what is mounted on another comes after it.
 */
static char **mounts_below(const char *prefix)
{
	char *text CLEANUP_FREE = NULL;
	char **list = NULL;
	char *save;

	if (read_file("/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL) < 0)
		return NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char point[512];

		if (sscanf(line, "%*s %*s %*s %*s %511s", point) == 1 && str_starts(point, prefix))
			(void)strv_add(&list, point);
	}
	return list;
}

void gshare_release(const char *id)
{
	char *prefix CLEANUP_FREE = xasprintf(GUEST_SHARE_DIR "/%s/", id);
	char **list CLEANUP_STRV = prefix ? mounts_below(prefix) : NULL;
	int r;

	settle();
	for (size_t i = strv_len(list); i > 0; i--) {
		if (umount2(list[i - 1], UMOUNT_NOFOLLOW) < 0 &&
		    umount2(list[i - 1], MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			log_warn("unmounting %s: %s", list[i - 1], strerror(errno));
	}
	/*
	 * FUSE has no call that forgets one directory's inodes; dropping the caches of names and inodes
	 * forgets all unused ones.
	 */
	r = write_file("/proc/sys/vm/drop_caches", "2", 1, 0);
	if (r < 0)
		log_warn("dropping cached inodes: %s", strerror(-r));
}
