/*
 * cgroup.c: the pod's cgroup on the host, in v1, hybrid and v2.
 *
 * Facts: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel; the shares-to-weight line is
 *        the one
 * that OCI runtimes use. Plain files all through: libcgroup 2.0.2 knows v2's controllers only in part, caches
 * the mount table for the life of the process and has neither cgroup.kill nor subtree_control. In a hybrid
 * the leaf is made in the v2 tree as well, although no controller sits there: that gives cgroup.kill.
 */
#include "vmm/cgroup_internal.h"

#include "base/util.h"
#include "vmm/driver_internal.h"

#include <ctype.h>
#include <sys/stat.h>

#define MOUNTINFO_MAX (8 * 1024 * 1024)
#define FILE_MAX      (1024 * 1024)

static const struct {
	const char *name;
	unsigned bit;
} controllers[] = {{"cpu", CGROUP_CPU},	      {"cpuacct", CGROUP_CPUACCT}, {"cpuset", CGROUP_CPUSET},
		   {"memory", CGROUP_MEMORY}, {"pids", CGROUP_PIDS},	   {"freezer", CGROUP_FREEZER}};

/* ---- what this host has -------------------------------------------------------------------------------- */

unsigned cgroup_controllers_in(const char *words, const char *separators)
{
	char *copy CLEANUP_FREE = strdup(words);
	char *save = NULL;
	unsigned has = 0;

	for (char *w = copy ? strtok_r(copy, separators, &save) : NULL; w;
	     w = strtok_r(NULL, separators, &save)) {
		for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
			if (str_eq(w, controllers[i].name))
				has |= controllers[i].bit;
		}
	}
	return has;
}

static unsigned v2_controllers(const char *mount)
{
	char path[CGROUP_PATH_MAX];
	char *data CLEANUP_FREE = NULL;

	snprintf(path, sizeof(path), "%s/cgroup.controllers", mount);
	if (read_file(path, 4096, &data, NULL) < 0)
		return CGROUP_V2;
	return CGROUP_V2 | cgroup_controllers_in(data, " \n");
}

/*
 * One line of mountinfo (proc(5)): id parent dev root mountpoint options [optional…] - fstype source
 * superoptions.
 */
static void take_mount(struct cgroup_tree *t, char *line)
{
	char mount[256], type[32], super[512];
	char *dash = strstr(line, " - ");
	unsigned has;

	if (!dash || sscanf(line, "%*s %*s %*s %*s %255s", mount) != 1 ||
	    sscanf(dash, " - %31s %*s %511s", type, super) != 2 || t->n == CGROUP_HIERARCHIES_MAX)
		return;
	if (str_eq(type, "cgroup2"))
		has = v2_controllers(mount);
	else if (str_eq(type, "cgroup"))
		has = cgroup_controllers_in(super, ",");
	else
		return;
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].has == has || (t->h[i].has & has & ~(unsigned)CGROUP_V2))
			return; /* mounted twice */
	}
	if (!has)
		return;
	snprintf(t->h[t->n].mount, sizeof(t->h[0].mount), "%s", mount);
	t->h[t->n++].has = has;
}

int cgroup_find_tree(struct cgroup_tree *t, struct err *err)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;
	int r = read_file("/proc/self/mountinfo", MOUNTINFO_MAX, &data, NULL);

	t->n = 0;
	if (r < 0)
		return err_set_errno(err, r, "reading the mount table");
	for (char *line = strtok_r(data, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		take_mount(t, line);
	if (t->n == 0)
		return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
				      "no cgroup hierarchy is mounted");
	return 0;
}

int cgroup_check_path(const char *path, struct err *err)
{
	if (path[0] != '/' || path[1] == 0 || strlen(path) > 512 || strstr(path, "//") ||
	    strstr(path, "/../") || strstr(path, "/./") || str_ends(path, "/..") || str_ends(path, "/.") ||
	    str_ends(path, "/"))
		return err_set(err, -EINVAL, "cgroup path \"%s\" is no plain absolute path below the root",
			       path);
	return 0;
}

/* ---- files --------------------------------------------------------------------------------------------- */

int cgroup_put(const struct cgroup_hierarchy *h, const char *path, const char *file, const char *value,
	       struct err *err)
{
	char full[CGROUP_PATH_MAX];
	int r;

	if ((size_t)snprintf(full, sizeof(full), "%s%s/%s", h->mount, path, file) >= sizeof(full))
		return err_set(err, -ENAMETOOLONG, "cgroup path %s is too long", path);
	r = write_file(full, value, strlen(value), 0);
	return r < 0 ? err_set_errno(err, r, "writing \"%s\" to %s", value, full) : 0;
}

int cgroup_get(const struct cgroup_hierarchy *h, const char *path, const char *file, char **ret_data)
{
	char full[CGROUP_PATH_MAX];

	if ((size_t)snprintf(full, sizeof(full), "%s%s/%s", h->mount, path, file) >= sizeof(full))
		return -ENAMETOOLONG;
	return read_file(full, FILE_MAX, ret_data, NULL);
}

bool cgroup_exists(const struct cgroup_hierarchy *h, const char *path)
{
	char full[CGROUP_PATH_MAX];
	struct stat st;

	return (size_t)snprintf(full, sizeof(full), "%s%s", h->mount, path) < sizeof(full) &&
	       stat(full, &st) == 0;
}

/* ---- making -------------------------------------------------------------------------------------------- */

/* A fresh v1 cpuset is empty, and nothing can join it. */
static int fill_cpuset(const struct cgroup_hierarchy *h, const char *parent, const char *path,
		       struct err *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *mine CLEANUP_FREE = NULL, *theirs CLEANUP_FREE = NULL;
		int r;

		if (cgroup_get(h, path, files[i], &mine) < 0 || !isspace((unsigned char)mine[0]))
			continue;
		if (cgroup_get(h, parent, files[i], &theirs) < 0)
			continue;
		theirs[strcspn(theirs, "\n")] = 0;
		r = cgroup_put(h, path, files[i], theirs, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Passes each controller that `path` has on to its children; those that cannot be are left out and missed
 * when needed.
 */
static void pass_on(const struct cgroup_hierarchy *h, const char *path)
{
	static const char *const names[] = {"cpu", "memory", "pids", "cpuset", "io"};
	char *has CLEANUP_FREE = NULL, *on CLEANUP_FREE = NULL;

	if (cgroup_get(h, path, "cgroup.controllers", &has) < 0 ||
	    cgroup_get(h, path, "cgroup.subtree_control", &on) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		unsigned bit = cgroup_controllers_in(names[i], " ");
		char word[16];

		if (bit ? !(cgroup_controllers_in(has, " \n") & bit) ||
				    (cgroup_controllers_in(on, " \n") & bit)
			: !strstr(has, names[i]) || strstr(on, names[i]))
			continue;
		snprintf(word, sizeof(word), "+%s", names[i]);
		cgroup_put(h, path, "cgroup.subtree_control", word,
			   NULL); /* EBUSY: it holds processes itself */
	}
}

/* Makes path in one hierarchy, level by level; *ret_made counts the levels that were new. */
static int make_levels(const struct cgroup_hierarchy *h, const char *path, int *ret_made, struct err *err)
{
	char level[CGROUP_PATH_MAX], parent[CGROUP_PATH_MAX] = "";
	const char *end = path;

	*ret_made = 0;
	while (*end) {
		char full[CGROUP_PATH_MAX];
		int r;

		end = strchrnul(end + 1, '/');
		snprintf(level, sizeof(level), "%.*s", (int)(end - path), path);
		if ((size_t)snprintf(full, sizeof(full), "%s%s", h->mount, level) >= sizeof(full))
			return err_set(err, -ENAMETOOLONG, "cgroup path %s is too long", path);
		if (h->has & CGROUP_V2)
			pass_on(h, parent);
		if (mkdir(full, 0755) == 0)
			++*ret_made;
		else if (errno != EEXIST)
			return err_set_errno(err, -errno, "making cgroup %s", full);
		r = (h->has & CGROUP_CPUSET) && !(h->has & CGROUP_V2) ? fill_cpuset(h, parent, level, err)
								      : 0;
		if (r < 0)
			return r;
		memcpy(parent, level, sizeof(parent));
	}
	return 0;
}

/* Removes the last `levels` levels of path. */
static void unmake_levels(const struct cgroup_hierarchy *h, const char *path, int levels)
{
	char full[CGROUP_PATH_MAX];

	if ((size_t)snprintf(full, sizeof(full), "%s%s", h->mount, path) >= sizeof(full))
		return;
	while (levels-- > 0 && rmdir(full) == 0)
		*strrchr(full, '/') = 0;
}

/* ---- limits -------------------------------------------------------------------------------------------- */

const struct cgroup_hierarchy *cgroup_find_controller(const struct cgroup_tree *t, unsigned bit)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].has & bit)
			return &t->h[i];
	}
	return NULL;
}

/*
 * Writes one limit. `set` is false for the default, which is written too (an update may take a limit back),
 * but whose lack of a controller is no error.
 */
static int limit(const struct cgroup_tree *t, const char *path, unsigned bit, const char *v1, const char *v2,
		 bool set, const char *value, struct err *err)
{
	const struct cgroup_hierarchy *h = cgroup_find_controller(t, bit);
	struct err e = ERR_INIT;
	int r = -ENOENT;

	if (h)
		r = cgroup_put(h, path, h->has & CGROUP_V2 ? v2 : v1, value, &e);
	if (r == 0 || !set)
		return 0;
	if (r == -ENOENT)
		return err_set_status(
			err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
			"cgroup %s has no controller for %s: it is not mounted, or not passed on by a parent",
			path, h && (h->has & CGROUP_V2) ? v2 : v1);
	return err_copy(err, &e);
}

static int limit_memory(const struct cgroup_tree *t, const char *path, const struct vmm_resources *res,
			struct err *err)
{
	const struct cgroup_hierarchy *h = cgroup_find_controller(t, CGROUP_MEMORY);
	char value[32] = "max";

	if (res->memory_limit_bytes)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->memory_limit_bytes);
	else if (h && !(h->has & CGROUP_V2))
		strcpy(value, "-1");
	return limit(t, path, CGROUP_MEMORY, "memory.limit_in_bytes", "memory.max",
		     res->memory_limit_bytes != 0, value, err);
}

static uint64_t weight_of_shares(uint64_t shares)
{
	if (shares < 2)
		shares = 2;
	if (shares > 262144)
		shares = 262144;
	return 1 + (shares - 2) * 9999 / 262142;
}

static int limit_cpu(const struct cgroup_tree *t, const char *path, const struct vmm_resources *res,
		     struct err *err)
{
	const struct cgroup_hierarchy *h = cgroup_find_controller(t, CGROUP_CPU);
	uint64_t period = res->cpu_period_us ? res->cpu_period_us : 100000;
	bool v2 = h && (h->has & CGROUP_V2), quota = res->cpu_quota_us > 0;
	char value[64];
	int r;

	if (v2)
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? weight_of_shares(res->cpu_shares) : 100));
	else
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? res->cpu_shares : 1024));
	r = limit(t, path, CGROUP_CPU, "cpu.shares", "cpu.weight", res->cpu_shares != 0, value, err);
	if (r < 0)
		return r;
	if (v2) {
		if (quota)
			snprintf(value, sizeof(value), "%lld %llu", (long long)res->cpu_quota_us,
				 (unsigned long long)period);
		else
			snprintf(value, sizeof(value), "max %llu", (unsigned long long)period);
		return limit(t, path, CGROUP_CPU, "", "cpu.max", quota, value, err);
	}
	/* The old quota must not be refused against the new period: lift it first. */
	limit(t, path, CGROUP_CPU, "cpu.cfs_quota_us", "", false, "-1", NULL);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)period);
	r = limit(t, path, CGROUP_CPU, "cpu.cfs_period_us", "", quota, value, err);
	if (r == 0 && quota) {
		snprintf(value, sizeof(value), "%lld", (long long)res->cpu_quota_us);
		r = limit(t, path, CGROUP_CPU, "cpu.cfs_quota_us", "", true, value, err);
	}
	return r;
}

static int apply(const struct cgroup_tree *t, const char *path, const struct vmm_resources *res,
		 struct err *err)
{
	char value[32] = "max";
	int r = limit_memory(t, path, res, err);

	if (r == 0)
		r = limit_cpu(t, path, res, err);
	if (res->pids_max)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->pids_max);
	if (r == 0)
		r = limit(t, path, CGROUP_PIDS, "pids.max", "pids.max", res->pids_max != 0, value, err);
	if (r == 0 && !str_empty(res->cpuset_cpus))
		r = limit(t, path, CGROUP_CPUSET, "cpuset.cpus", "cpuset.cpus", true, res->cpuset_cpus, err);
	if (r == 0 && !str_empty(res->cpuset_mems))
		r = limit(t, path, CGROUP_CPUSET, "cpuset.mems", "cpuset.mems", true, res->cpuset_mems, err);
	return r;
}

int vmm_cgroup_create(const char *path, const struct vmm_resources *res, struct err *err)
{
	int made[CGROUP_HIERARCHIES_MAX] = {0};
	struct cgroup_tree t;
	size_t i;
	int r = cgroup_check_path(path, err);

	if (r == 0)
		r = cgroup_find_tree(&t, err);
	if (r < 0)
		return r;
	for (i = 0; r == 0 && i < t.n; i++)
		r = make_levels(&t.h[i], path, &made[i], err);
	if (r == 0)
		r = apply(&t, path, res, err);
	while (r < 0 && i-- > 0)
		unmake_levels(&t.h[i], path, made[i]);
	return r;
}

int vmm_cgroup_update(const char *path, const struct vmm_resources *res, struct err *err)
{
	struct cgroup_tree t;
	int r = cgroup_check_path(path, err);

	if (r == 0)
		r = cgroup_find_tree(&t, err);
	if (r == 0 && !cgroup_exists(&t.h[0], path))
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	return r < 0 ? r : apply(&t, path, res, err);
}

int cgroup_procs_files(const char *path, char ***ret_files, struct err *err)
{
	char **files CLEANUP_STRV = NULL;
	struct cgroup_tree t;
	int r = cgroup_check_path(path, err);

	if (r == 0)
		r = cgroup_find_tree(&t, err);
	for (size_t i = 0; r == 0 && i < t.n; i++) {
		if (!cgroup_exists(&t.h[i], path))
			continue;
		r = strv_addf(&files, "%s%s/cgroup.procs", t.h[i].mount, path);
		if (r < 0)
			err_set(err, r, "out of memory");
	}
	if (r == 0 && !files)
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	if (r == 0)
		*ret_files = move_ptr(files);
	return r;
}
