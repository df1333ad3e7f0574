/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota_internal.h: bounds what a container's writable layer takes, by a project quota of its file system.
 *
 * Purpose:   the directories of one layer become a project of their own; the file system counts what is made
 *            below them and refuses what exceeds the project's limits (ENOSPC or EDQUOT to who writes).
 * Where:     ext4 with the features quota and project, mounted with `prjquota`; XFS mounted with `prjquota`;
 *            Linux 5.14. Elsewhere quota_enforced is false, and nothing here is called.
 * Durable:   the project is an attribute of the directories, its limits are in the file system. Nothing of it
 *            is stored elsewhere. A project is free when it has neither limits nor files, so that one whose
 *            files are still being removed is not given out again.
 * Threads:   any. quota_begin is one at a time for the whole process.
 * Source:    quotactl(2), quotactl_fd (linux/quota.h, linux/dqblk_xfs.h), FS_IOC_FSSETXATTR (linux/fs.h).
 */
#ifndef CRI_ROOTFS_QUOTA_INTERNAL_H
#define CRI_ROOTFS_QUOTA_INTERNAL_H

#include "base/err.h"
#include "cri/rootfs/rootfs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Projects of this server: QUOTA_FIRST and the QUOTA_COUNT - 1 above it. Others' are left alone. */
#define QUOTA_FIRST 0x43000000u
#define QUOTA_COUNT 0x01000000u

/* Whether the file system of `dir`, an open directory, has project quotas and enforces them. */
bool quota_enforced(int dir);
/*
 * Gives the n directories, all of one file system, a project with these limits. `name` decides where the
 * search for a free one begins. Directories that have one of this server's projects get its limits anew. One
 * that has another's, or that holds files already, is left as it is: -EEXIST, without words.
 */
int quota_begin(const int *dirs, size_t n, const char *name, const struct rootfs_limit *limit,
		struct err *err);
/* What the project of `dir` takes. -ENODATA: it has none of this server's. */
int quota_usage(int dir, uint64_t *ret_bytes, uint64_t *ret_inodes);
/* Takes away the limits of the project of `dir`: it is about to be removed. */
void quota_end(int dir);

#endif
