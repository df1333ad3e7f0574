#include "guest/gshare.h"

#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"

#include <sys/mount.h>

#define MOUNTINFO_MAX (1 << 20)

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
