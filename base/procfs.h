/* SPDX-License-Identifier: Apache-2.0 */
/*
 * procfs.h: facts of /proc.
 *
 * Purpose:   the one parser of mountinfo, of a process's stat line and of the boot id.
 * Threads:   any; no state.
 * Errors:    0 or a negative errno.
 * Source:    proc(5).
 */
#ifndef BASE_PROCFS_H
#define BASE_PROCFS_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* ---- mounts -------------------------------------------------------------------------------------------- */

/* One line of mountinfo, its octal escapes undone. The strings live until the callback returns. */
struct procfs_mount {
	const char *root;    /* the directory of the file system that is mounted */
	const char *point;   /* where */
	const char *options; /* of the mount */
	const char *type;
	const char *source;
	const char *super; /* options of the file system */
};

/* Anything but 0 ends the walk and becomes its result. */
typedef int procfs_mount_fn(const struct procfs_mount *mount, void *arg);

/*
 * Calls fn for each mount of this process's namespace, in mount order. -EBADMSG for a line that is no
 * mountinfo.
 */
int procfs_mounts(procfs_mount_fn *fn, void *arg);
/* The same of an open file. */
int procfs_mounts_of(FILE *f, procfs_mount_fn *fn, void *arg);
/*
 * The mount points at and below a path, in mount order: what is mounted on another comes after it. The caller
 * frees the list with strv_free; it is NULL if there is none.
 */
int procfs_mounts_below(const char *path, char ***ret_points);

/* ---- the boot ------------------------------------------------------------------------------------------ */

#define PROCFS_BOOT_ID_SIZE 37 /* a UUID and its NUL */

/* The id of this boot of the kernel. -EBADMSG if the kernel's file holds none. */
int procfs_boot_id(char out[static PROCFS_BOOT_ID_SIZE]);

/* ---- processes ----------------------------------------------------------------------------------------- */

struct procfs_stat {
	char state;	     /* field 3 */
	unsigned long flags; /* field 9: PF_* of the kernel */
	uint64_t start_time; /* field 22, in clock ticks: with the pid, it names a process until a reboot */
};

/* True once its main thread has ended or begun to: nothing of the process's own runs there any more. */
static inline bool procfs_stat_ending(const struct procfs_stat *stat)
{
	const unsigned long exiting = 0x00000004; /* PF_EXITING (include/linux/sched.h) */

	return stat->state == 'Z' || stat->state == 'X' || (stat->flags & exiting);
}

/* -ESRCH if there is no such process. */
int procfs_stat(pid_t pid, struct procfs_stat *ret);
/* The same of a stat line, which it may not change. -EBADMSG if it is none. */
int procfs_stat_parse(const char *line, struct procfs_stat *ret);

#endif
