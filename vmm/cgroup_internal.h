/*
 * cgroup_internal.h: what cgroup.c (finding, making, limits) and cgroup_member.c (members, killing, figures) share.
 *
 * Threads: no state; each call reads the mount table anew.
 */
#ifndef VMM_CGROUP_INTERNAL_H
#define VMM_CGROUP_INTERNAL_H

#include "vmm/cgroup.h"

#define CGROUP_HIERARCHIES_MAX 24
#define CGROUP_PATH_MAX	       1024

enum {
	CGROUP_CPU = 1 << 0,
	CGROUP_CPUACCT = 1 << 1,
	CGROUP_CPUSET = 1 << 2,
	CGROUP_MEMORY = 1 << 3,
	CGROUP_PIDS = 1 << 4,
	CGROUP_FREEZER = 1 << 5,
	CGROUP_V2 = 1 << 8,
};

struct cgroup_hierarchy {
	char mount[256];
	unsigned has; /* controllers; with CGROUP_V2: those of the root's cgroup.controllers */
};

struct cgroup_tree {
	struct cgroup_hierarchy h[CGROUP_HIERARCHIES_MAX];
	size_t n;
};

/* The bits of those controllers that are named in `words`. */
unsigned cgroup_controllers_in(const char *words, const char *separators);
int cgroup_find_tree(struct cgroup_tree *t, struct err *err);
/* -EINVAL unless it is a plain absolute path below the root. */
int cgroup_check_path(const char *path, struct err *err);
int cgroup_put(const struct cgroup_hierarchy *h, const char *path, const char *file, const char *value,
	       struct err *err);
/* *ret_data is the caller's to free. 0 or a negative errno. */
int cgroup_get(const struct cgroup_hierarchy *h, const char *path, const char *file, char **ret_data);
bool cgroup_exists(const struct cgroup_hierarchy *h, const char *path);
/* The hierarchy that has one of these controllers, or NULL. */
const struct cgroup_hierarchy *cgroup_find_controller(const struct cgroup_tree *t, unsigned bit);

#endif
