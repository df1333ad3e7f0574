/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.h: cgroups: v2, and v1 where the machine has that.
 *
 * Threads:   none of its own; every function is a handful of reads or writes of cgroupfs files, none waits.
 * Ownership: paths are the caller's. `path` is relative to the hierarchy's root ("/crivisor/<id>").
 * Limits:    CGROUP_PIDS_MAX pids are reported.
 * Source:    Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
 */
#ifndef GUEST_CONTAINER_CGROUP_H
#define GUEST_CONTAINER_CGROUP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_ROOT	"/sys/fs/cgroup"
#define CGROUP_AGENT	"/init" /* the agent's own leaf */
#define CGROUP_PIDS_MAX 4096

/* True if v2 is mounted at CGROUP_ROOT; false for v1, hybrid included. */
bool cgroup_is_v2(void);
/* Mounts the hierarchy (v1: one for each controller). */
int cgroup_setup(bool *ret_v2, struct err *err);
/* v2: makes `parent` and enables the controllers down to it. */
int cgroup_enable(bool v2, const char *parent, struct err *err);
/*
 * Moves the agent from the root, where it begins, into its leaf. Not urgent: the root may hold processes
 * beside children.
 */
int cgroup_enter_leaf(bool v2, struct err *err);

/* v2 alone: a cgroup below one that exists. */
int cgroup_make(const char *path, struct err *err);
/* v2 alone: removes it if no process and no cgroup is in it. */
void cgroup_remove_empty(const char *path);
/* v2 alone: calls fn for the name of each cgroup directly below; fn may remove it. */
void cgroup_each(const char *path, void (*fn)(void *arg, const char *name), void *arg);

/* The cgroup of pid, of the memory controller on v1; *ret_path is the caller's to free. */
int cgroup_of(bool v2, pid_t pid, char **ret_path, struct err *err);
/* The same from the content of /proc/<pid>/cgroup; for tests too. */
int cgroup_parse(bool v2, const char *text, char **ret_path);
/* SIGKILL to everything in it and below. */
int cgroup_kill(bool v2, const char *path, struct err *err);
int cgroup_freeze(bool v2, const char *path, bool freeze, struct err *err);
/* Pids in it and below: count or negative errno. */
int cgroup_pids(bool v2, const char *path, pid_t *pids, size_t max);
/* Kills, and removes it with all below. Best effort for what the runtime left behind. */
void cgroup_remove(bool v2, const char *path);

struct cgroup_stats {
	uint64_t cpu_usage_ns;
	uint64_t memory_usage, memory_working_set, memory_rss;
	uint64_t memory_page_faults, memory_major_page_faults;
	uint64_t memory_limit; /* 0: none */
	uint64_t swap_usage;
	uint64_t pids;
	uint64_t oom_kills;
};
/* What cannot be read stays 0. path "" is the root. */
void cgroup_stats(bool v2, const char *path, struct cgroup_stats *ret);
uint64_t cgroup_oom_kills(bool v2, const char *path);
/* v2 alone: a file of the cgroup, malloc'ed, or NULL. */
char *cgroup_read(const char *path, const char *file);
/* v2 alone: a file of one number; 0: it is missing, or "max". */
uint64_t cgroup_number(const char *path, const char *file);
/* The value of `key` in "key value\n" lines; 0 if it is missing. */
uint64_t cgroup_keyed(const char *text, const char *key);

#endif
