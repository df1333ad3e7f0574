/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup_internal.h: what the files of cgroups share: cgroup_lib.c (libcgroup), cgroup_tree.c (every access
 * to the hierarchies of this host), cgroup.c (making and limits), cgroup_member.c (members, killing,
 * figures).
 *
 * Threads:   any. The calls take the lock `libcgroup` inside; none of them waits for a process.
 * Ownership: struct cgr_tree is a copy; it is valid for as long as the host's cgroup mounts stay as they are.
 */
#ifndef VMM_CGROUP_INTERNAL_H
#define VMM_CGROUP_INTERNAL_H

#include "vmm/cgroup.h"

#define CGR_HIERARCHIES_MAX 24
#define CGR_PATH_MAX	    1024

/* The controllers that matter here, as bits. */
enum {
	CGR_CPU = 1 << 0,
	CGR_CPUACCT = 1 << 1,
	CGR_CPUSET = 1 << 2,
	CGR_MEMORY = 1 << 3,
	CGR_PIDS = 1 << 4,
	CGR_FREEZER = 1 << 5,
	CGR_IO = 1 << 6,
	CGR_HUGETLB = 1 << 7,
};

struct cgr_hierarchy {
	char mount[256];
	bool v2;
	unsigned has; /* controllers; on v2 those of the root's cgroup.controllers */
	/* One of them, by which libcgroup finds the hierarchy; "": a v2 tree without any. */
	char controller[32];
};

struct cgr_tree {
	struct cgr_hierarchy h[CGR_HIERARCHIES_MAX];
	size_t n;
};

/* ---- cgroup.c ------------------------------------------------------------------------------------------ */

/* -EINVAL unless it is an absolute path below the root, without "//", "." and "..". */
int cgr_check_path(const char *path, struct err *err);
/* The hierarchy that has one of these controllers, or NULL. */
const struct cgr_hierarchy *cgr_find(const struct cgr_tree *t, unsigned bits);

/* ---- cgroup_member.c ----------------------------------------------------------------------------------- */

#define CGR_PIDS_AT_ONCE 1024
/*
 * SIGKILL to some members. A number read from the cgroup may belong to a process outside of it by the time
 * that its pidfd is open, so the members are read once more in between, into pids[CGR_PIDS_AT_ONCE]. Returns
 * one pidfd, or -1.
 */
int cgr_signal_members(const struct cgr_hierarchy *h, const char *path, pid_t *pids);

/* ---- cgroup_tree.c ------------------------------------------------------------------------------------- */

/* The bits of those controllers that are named in `words`. */
unsigned cgr_bits(const char *words);
bool cgr_exists(const struct cgr_hierarchy *h, const char *path);
/* The path "" is the hierarchy's root. *ret_data is the caller's to free. 0 or a negative errno. */
int cgr_get(const struct cgr_hierarchy *h, const char *path, const char *file, char **ret_data);
int cgr_set(const struct cgr_hierarchy *h, const char *path, const char *file, const char *value,
	    struct err *err);
/*
 * Makes `path`, whose parent exists. On v2 the parent passes on what it has of the controllers that matter
 * here. One that it cannot pass on is left out; a limit that needs it fails later.
 */
int cgr_make(const struct cgr_hierarchy *h, const char *parent, const char *path, struct err *err);
/* Removes an empty cgroup; -EBUSY if it is not empty. A missing one is success. */
int cgr_remove(const struct cgr_hierarchy *h, const char *path);
/* Moves a process with a single thread into the cgroup `path` of every hierarchy that has it. */
int cgr_attach(const char *path, pid_t pid, struct err *err);

/* ---- cgroup_lib.c -------------------------------------------------------------------------------------- */

/* What is mounted. -ENOENT if nothing is. Looks at the mounts again at every call. */
int cgr_tree(struct cgr_tree *ret, struct err *err);
/*
 * By libcgroup, in the hierarchy of a controller that cgr_tree has found. 0 or a negative errno. *ret_data is
 * the caller's to free. cglib_make makes parents too; on v2 it makes them pass the controller on.
 * cglib_remove reports success for a cgroup that is in use.
 */
int cglib_get(const char *controller, const char *path, const char *file, char **ret_data);
bool cglib_exists(const char *controller, const char *path);
int cglib_set(const char *controller, const char *path, const char *file, const char *value);
int cglib_make(const char *controller, const char *path);
int cglib_remove(const char *controller, const char *path);
int cglib_attach(const char *controller, const char *path, pid_t pid);

#endif
