/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/mounts.h"

#include "base/util.h"

#include <limits.h>

char **mounts_where(bool (*want)(const struct mntent *m, const void *arg), const void *arg)
{
	FILE *f CLEANUP_FILE = setmntent("/proc/self/mounts", "re");
	char buf[4 * PATH_MAX]; /* a line: two paths and the options, with some characters as \\ooo */
	struct mntent m;
	char **list = NULL;

	while (f && getmntent_r(f, &m, buf, sizeof(buf))) {
		if (want(&m, arg))
			(void)strv_add(&list, m.mnt_dir);
	}
	return list;
}
