/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mounts.h: the mount points of this process's namespace.
 *
 * Threads: none of its own. Reads /proc/self/mounts; never touches the file systems themselves.
 */
#ifndef GUEST_CORE_MOUNTS_H
#define GUEST_CORE_MOUNTS_H

#include <mntent.h>
#include <stdbool.h>

/* The mount points for which `want` is true, in the kernel's order: a mount on another comes after it. CLEANUP_STRV. */
char **mounts_where(bool (*want)(const struct mntent *m, const void *arg), const void *arg);

#endif
