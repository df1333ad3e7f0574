/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup_tree.c: the hierarchies of this host, and reading, setting, making, removing and attaching in one of
 * them: by libcgroup (cgroup_lib.c) wherever it can.
 *
 * The files themselves are used for what it cannot do:
 *   - a v2 tree without controllers, as in most hybrids: the library knows a tree by its controllers alone;
 *   - a v2 cgroup to which no parent passes a controller: the library makes one, and attaches to it, only by
 *     a controller.
 * cgroup.kill, for which the library has no call, is set like any other value (cgr_set).
 */
#include "vmm/cgroup_internal.h"

#include "base/util.h"

#include <sys/stat.h>

#define FILE_MAX (1024 * 1024)

static const struct {
	const char *name;
	unsigned bit;
} controllers[] = {
	{"cpu", CGR_CPU},   {"cpuacct", CGR_CPUACCT}, {"cpuset", CGR_CPUSET}, {"memory", CGR_MEMORY},
	{"pids", CGR_PIDS}, {"freezer", CGR_FREEZER}, {"io", CGR_IO},	      {"hugetlb", CGR_HUGETLB},
};

/* ---- names --------------------------------------------------------------------------------------------- */

unsigned cgr_bits(const char *words)
{
	char *copy CLEANUP_FREE = strdup(words);
	char *save = NULL;
	unsigned bits = 0;

	for (char *w = copy ? strtok_r(copy, " \n", &save) : NULL; w; w = strtok_r(NULL, " \n", &save)) {
		for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
			if (str_eq(w, controllers[i].name))
				bits |= controllers[i].bit;
		}
	}
	return bits;
}

static const char *cgr_name(unsigned bit)
{
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		if (controllers[i].bit == bit)
			return controllers[i].name;
	}
	return "";
}

/* ---- files of a tree that the library does not know ---------------------------------------------------- */

static int full_path(const struct cgr_hierarchy *h, const char *path, const char *file,
		     char out[CGR_PATH_MAX])
{
	int n = snprintf(out, CGR_PATH_MAX, "%s%s%s%s", h->mount, path, file[0] ? "/" : "", file);

	return n >= CGR_PATH_MAX ? -ENAMETOOLONG : 0;
}

static bool is_bare(const struct cgr_hierarchy *h)
{
	return !h->controller[0];
}

static int plain_set(const struct cgr_hierarchy *h, const char *path, const char *file, const char *value)
{
	char full[CGR_PATH_MAX];
	int r = full_path(h, path, file, full);

	return r < 0 ? r : write_file(full, value, strlen(value), 0);
}

static int plain_make(const struct cgr_hierarchy *h, const char *path)
{
	char full[CGR_PATH_MAX];
	int r = full_path(h, path, "", full);

	if (r < 0)
		return r;
	return mkdir(full, 0755) == 0 || errno == EEXIST ? 0 : -errno;
}

/* ---- reading and setting ------------------------------------------------------------------------------- */

int cgr_get(const struct cgr_hierarchy *h, const char *path, const char *file, char **ret_data)
{
	char full[CGR_PATH_MAX];
	int r = full_path(h, path, file, full);

	if (r < 0)
		return r;
	return is_bare(h) ? read_file(full, FILE_MAX, ret_data, NULL)
			  : cglib_get(h->controller, path, file, ret_data);
}

bool cgr_exists(const struct cgr_hierarchy *h, const char *path)
{
	char full[CGR_PATH_MAX];

	if (full_path(h, path, "cgroup.procs", full) < 0)
		return false;
	return is_bare(h) ? access(full, F_OK) == 0 : cglib_exists(h->controller, path);
}

int cgr_set(const struct cgr_hierarchy *h, const char *path, const char *file, const char *value,
	    struct err *err)
{
	int r = is_bare(h) ? plain_set(h, path, file, value) : cglib_set(h->controller, path, file, value);

	return r < 0 ? err_set_errno(err, r, "writing \"%s\" to %s%s/%s", value, h->mount, path, file) : 0;
}

/* ---- making and removing ------------------------------------------------------------------------------- */

static unsigned bits_in(const struct cgr_hierarchy *h, const char *path, const char *file)
{
	char *data CLEANUP_FREE = NULL;

	return cgr_get(h, path, file, &data) == 0 ? cgr_bits(data) : 0;
}

/*
 * One call for each controller: the library gives up at the first that a parent cannot pass on. It writes the
 * root's cgroup.subtree_control only for a cgroup right below the root, so that callers make one level after
 * another.
 */
static int make_v2(const struct cgr_hierarchy *h, const char *parent, const char *path)
{
	unsigned on = bits_in(h, parent, "cgroup.subtree_control");
	unsigned missing = bits_in(h, parent, "cgroup.controllers") & ~on;

	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		if (missing & controllers[i].bit)
			cglib_make(controllers[i].name, path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(controllers) && !cgr_exists(h, path); i++) {
		if (on & controllers[i].bit)
			cglib_make(controllers[i].name, path);
	}
	/* No controller can be passed on, or none that the library could be asked with. */
	return cgr_exists(h, path) ? 0 : plain_make(h, path);
}

int cgr_make(const struct cgr_hierarchy *h, const char *parent, const char *path, struct err *err)
{
	int r;

	if (is_bare(h))
		r = plain_make(h, path);
	else if (h->v2)
		r = make_v2(h, parent, path);
	else
		r = cglib_make(h->controller, path);
	return r < 0 ? err_set_errno(err, r, "making cgroup %s%s", h->mount, path) : 0;
}

int cgr_remove(const struct cgr_hierarchy *h, const char *path)
{
	char full[CGR_PATH_MAX];
	int r = full_path(h, path, "", full);

	if (r < 0)
		return r;
	if (is_bare(h))
		return rmdir(full) == 0 || errno == ENOENT ? 0 : -errno;
	r = cglib_remove(h->controller, path);
	/*
	 * The library reports success for a cgroup that is not empty: it drops ECGNONEMPTY as the first
	 * error.
	 */
	return r == 0 && cgr_exists(h, path) ? -EBUSY : r;
}

/* ---- members ------------------------------------------------------------------------------------------- */

/*
 * On v2 the library attaches only by a controller that the parent passes on. Where none is, the file is
 * written.
 */
static int attach_in(const struct cgr_hierarchy *h, const char *path, pid_t pid)
{
	char parent[CGR_PATH_MAX], number[16];
	unsigned on;

	if (!h->v2)
		return cglib_attach(h->controller, path, pid);
	snprintf(parent, sizeof(parent), "%.*s", (int)(strrchr(path, '/') - path), path);
	on = is_bare(h) ? 0 : bits_in(h, parent, "cgroup.subtree_control");
	if (on)
		return cglib_attach(cgr_name(on & (~on + 1)), path, pid);
	snprintf(number, sizeof(number), "%d", (int)pid);
	return plain_set(h, path, "cgroup.procs", number);
}

int cgr_attach(const char *path, pid_t pid, struct err *err)
{
	struct cgr_tree t;
	bool any = false;
	int r = cgr_check_path(path, err);

	if (r == 0)
		r = cgr_tree(&t, err);
	for (size_t i = 0; r == 0 && i < t.n; i++) {
		if (!cgr_exists(&t.h[i], path))
			continue;
		any = true;
		r = attach_in(&t.h[i], path, pid);
		if (r < 0)
			err_set_errno(err, r, "moving process %d to cgroup %s%s", (int)pid, t.h[i].mount,
				      path);
	}
	if (r == 0 && !any)
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	return r;
}
