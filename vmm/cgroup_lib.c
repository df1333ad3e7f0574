/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup_lib.c: the only user of the library libcgroup.
 *
 * Facts: libcgroup 2.0.2 (Debian 12) and 3.1 (Debian 13), src/api.c; Documentation/admin-guide/cgroup-v2.rst.
 *
 * The library keeps its table of mounts in global memory and fills it in cgroup_init, which may be called
 * again; nothing else refreshes it. So the table is filled again once the cgroup mounts of this process have
 * changed. Neither the table nor the library's buffers are safe to use from several threads: the lock
 * `libcgroup` serialises all calls. It is never held while waiting for a process. The kernel may take some 10
 * ms to move one.
 */
#include "vmm/cgroup_internal.h"

#include "base/buf.h"
#include "base/procfs.h"
#include "base/util.h"

#include <dlfcn.h>
#include <libcgroup.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>

#define FILE_MAX       (1024 * 1024)
#define LINE_MAX_BYTES 4096

/* The lock `libcgroup`: guards the library and what follows. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cgr_tree known; /* the library's table of mounts, by hierarchy */
static char *mounted;	      /* the cgroup mounts for which it is */

/* ---- errors -------------------------------------------------------------------------------------------- */

/*
 * The library's code as a negative errno. It keeps the errno of a write or an rmdir, and drops that of an
 * open.
 */
static int errno_of(int code)
{
	int e;

	switch (code) {
	case 0:
		return 0;
	case ECGOTHER:
		e = cgroup_get_last_errno();
		return e > 0 ? -e : -EIO;
	case ECGROUPVALUENOTEXIST:
	case ECGROUPNOTEXIST:
	case ECGROUPNOTMOUNTED:
	case ECGROUPSUBSYSNOTMOUNTED:
		return -ENOENT;
	case ECGROUPNOTOWNER:
	case ECGROUPNOTALLOWED:
		return -EACCES;
	case ECGNONEMPTY:
		return -EBUSY;
	default:
		return -EIO;
	}
}

/* Errors are returned, never logged: without this the library prints them to stderr. */
static void no_log(void *data, int level, const char *fmt, va_list ap)
{
	(void)data;
	(void)level;
	(void)fmt;
	(void)ap;
}

/* ---- what is mounted ----------------------------------------------------------------------------------- */

/*
 * What the library's table depends on, as text to compare: the cgroup mounts of this process, and the
 * controllers at the top of a v2 tree. v2: where the first such tree is mounted; "": nowhere.
 */
struct mounts {
	struct buf text;
	char v2[sizeof(known.h[0].mount)];
};

static int take_mount(const struct procfs_mount *m, void *arg)
{
	struct mounts *mounts = arg;
	char *path CLEANUP_FREE = xasprintf("%s/cgroup.controllers", m->point);
	char *line CLEANUP_FREE = NULL, *top CLEANUP_FREE = NULL;
	bool v2 = str_eq(m->type, "cgroup2");

	if (!v2 && !str_eq(m->type, "cgroup"))
		return 0;
	if (v2 && !mounts->v2[0])
		snprintf(mounts->v2, sizeof(mounts->v2), "%s", m->point);
	if (v2 && path && read_file(path, LINE_MAX_BYTES, &top, NULL) < 0)
		top = NULL;
	line = xasprintf("%s %s %s %s\n", m->type, m->point, m->super, top ? top : "");
	return line ? buf_put(&mounts->text, line, strlen(line)) : -ENOMEM;
}

/*
 * With the lock held. The library's table is an array of 800 KB, and cgroup_init writes zeros to all of it,
 * so that it is resident from then on. The kernel is given back the pages that hold zeros only; they read as
 * zeros afterwards. A library that does not export the table keeps them.
 */
static void trim_table(void)
{
	unsigned char *table = dlsym(RTLD_DEFAULT, "cg_mount_table");
	size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 0;
	const ElfW(Sym) *symbol = NULL;
	Dl_info info;

	if (table && dladdr1(table, &info, (void **)&symbol, RTLD_DL_SYMENT) != 0 && symbol)
		size = symbol->st_size;
	for (size_t at = (page - (uintptr_t)table % page) % page; at + page <= size; at += page) {
		if (table[at] == 0 && memcmp(table + at, table + at + 1, page - 1) == 0)
			(void)madvise(table + at, page, MADV_DONTNEED);
	}
}

static struct cgr_hierarchy *hierarchy_at(struct cgr_tree *t, const char *mount, const char *v2)
{
	for (size_t i = 0; i < t->n; i++) {
		if (str_eq(t->h[i].mount, mount))
			return &t->h[i];
	}
	if (t->n == CGR_HIERARCHIES_MAX || strlen(mount) >= sizeof(t->h[0].mount))
		return NULL;
	t->h[t->n] = (struct cgr_hierarchy){.v2 = str_eq(mount, v2)};
	snprintf(t->h[t->n].mount, sizeof(t->h[0].mount), "%s", mount);
	return &t->h[t->n++];
}

/*
 * With the lock held. Its mount tells a controller's version: 2.0.2 exports cgroup_get_controller_version
 * without declaring it.
 */
static int list_controllers(struct cgr_tree *t, const char *v2)
{
	struct cgroup_mount_point info;
	void *handle = NULL;
	int code;

	for (code = cgroup_get_controller_begin(&handle, &info); code == 0;
	     code = cgroup_get_controller_next(&handle, &info)) {
		unsigned bit = cgr_bits(info.name);
		struct cgr_hierarchy *h;

		if (str_starts(info.name, "name=")) /* a named hierarchy, without controllers: others' */
			continue;
		/* On v1 a hierarchy without a controller that matters here is left alone. */
		h = hierarchy_at(t, info.path, v2);
		if (!h || strlen(info.name) >= sizeof(h->controller))
			continue;
		h->has |= bit;
		if (!h->controller[0] || (bit && !cgr_bits(h->controller)))
			snprintf(h->controller, sizeof(h->controller), "%s", info.name);
	}
	cgroup_get_controller_end(&handle);
	return code == ECGEOF ? 0 : errno_of(code);
}

/* A v2 tree without controllers is not in the library's table. */
static void add_bare_tree(struct cgr_tree *t, const char *v2)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].v2)
			return;
	}
	if (v2[0])
		hierarchy_at(t, v2, v2);
}

/* With the lock held. -ENOENT: nothing is mounted. */
static int fill_table(const char *v2)
{
	struct cgr_tree found = {.n = 0};
	size_t kept = 0;
	int r;

	cgroup_set_logger(no_log, CGROUP_LOG_ERROR, NULL);
	r = errno_of(cgroup_init());
	if (r == 0)
		r = list_controllers(&found, v2);
	trim_table();
	/* A bare v2 tree alone is "not mounted" to the library. */
	if (r < 0 && r != -ENOENT)
		return r;
	add_bare_tree(&found, v2);
	for (size_t i = 0; i < found.n; i++) {
		if (found.h[i].v2 || found.h[i].has)
			found.h[kept++] = found.h[i];
	}
	found.n = kept;
	known = found;
	return kept ? 0 : -ENOENT;
}

/* With the lock held. The table stays for as long as what it depends on does. */
static int refresh(void)
{
	struct mounts now = {.text = {.max = FILE_MAX}};
	int r = procfs_mounts(take_mount, &now);

	if (r == 0)
		r = buf_put(&now.text, "", 1);
	if (r == 0 && (!mounted || !str_eq(mounted, (const char *)buf_data(&now.text)))) {
		free(mounted);
		mounted = NULL;
		r = fill_table(now.v2);
		if (r == 0)
			mounted = strdup((const char *)buf_data(&now.text));
	}
	buf_done(&now.text);
	return r;
}

int cgr_tree(struct cgr_tree *ret, struct err *err)
{
	int r;

	pthread_mutex_lock(&lock);
	r = refresh();
	if (r == 0)
		*ret = known;
	pthread_mutex_unlock(&lock);
	if (r == -ENOENT)
		return err_set_status(err, r, ERR_FAILED_PRECONDITION, "no cgroup hierarchy is mounted");
	return r < 0 ? err_set_errno(err, r, "reading which cgroup hierarchies are mounted") : 0;
}

/* ---- reading and setting ------------------------------------------------------------------------------- */

/* The library takes NULL for the root; an empty name makes it read in front of the string. */
static const char *lib_path(const char *path)
{
	return path[0] ? path : NULL;
}

/*
 * With the lock held: begins to read a file. -ENOENT and other errors of opening it; 0 with *ret_handle set,
 * and *ret_more true if `line` holds its first line.
 */
static int begin_read(const char *controller, const char *path, const char *file, char *line, int size,
		      void **ret_handle, bool *ret_more)
{
	char name[64];
	int code;

	*ret_handle = NULL;
	snprintf(name, sizeof(name), "%s", file); /* the parameter is not const */
	code = cgroup_read_value_begin(controller, lib_path(path), name, ret_handle, line, size);
	*ret_more = code == 0;
	return code == ECGEOF ? 0 : errno_of(code);
}

/* With the lock held. The library hands out lines, in pieces where they are long. */
static int read_lines(const char *controller, const char *path, const char *file, struct buf *out)
{
	char piece[LINE_MAX_BYTES];
	void *handle;
	bool more;
	int r = begin_read(controller, path, file, piece, sizeof(piece), &handle, &more);

	while (r == 0 && more) {
		r = buf_put(out, piece, strlen(piece));
		more = cgroup_read_value_next(&handle, piece, sizeof(piece)) == 0;
	}
	if (handle)
		cgroup_read_value_end(&handle);
	return r == 0 ? buf_put(out, "", 1) : r;
}

int cglib_get(const char *controller, const char *path, const char *file, char **ret_data)
{
	struct buf out = {.max = FILE_MAX};
	int r;

	pthread_mutex_lock(&lock);
	r = read_lines(controller, path, file, &out);
	pthread_mutex_unlock(&lock);
	if (r == 0) {
		*ret_data = strdup((const char *)buf_data(&out));
		r = *ret_data ? 0 : -ENOMEM;
	}
	buf_done(&out);
	return r;
}

/* The library has no question of its own for this; every cgroup has this file. */
bool cglib_exists(const char *controller, const char *path)
{
	char line[64];
	void *handle;
	bool more;
	int r;

	pthread_mutex_lock(&lock);
	r = begin_read(controller, path, "cgroup.procs", line, sizeof(line), &handle, &more);
	/* Of an empty file 2.0.2 gives a handle, and 3.1 has none. */
	if (handle)
		cgroup_read_value_end(&handle);
	pthread_mutex_unlock(&lock);
	return r == 0;
}

/* With the lock held: the library's object for `path`, with one controller; NULL on ENOMEM. */
static struct cgroup *new_group(const char *path, const char *controller,
				struct cgroup_controller **ret_controller)
{
	struct cgroup *g = cgroup_new_cgroup(path[0] ? path : "/");

	*ret_controller = g ? cgroup_add_controller(g, controller) : NULL;
	if (g && !*ret_controller)
		cgroup_free(&g);
	return g;
}

int cglib_set(const char *controller, const char *path, const char *file, const char *value)
{
	struct cgroup_controller *c;
	struct cgroup *g;
	int r = -ENOMEM;

	pthread_mutex_lock(&lock);
	g = new_group(path, controller, &c);
	if (g) {
		r = errno_of(cgroup_add_value_string(c, file, value));
		if (r == 0)
			r = errno_of(cgroup_modify_cgroup(g));
		cgroup_free(&g);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

/* ---- making and removing ------------------------------------------------------------------------------- */

int cglib_make(const char *controller, const char *path)
{
	struct cgroup_controller *c;
	struct cgroup *g;
	int r = -ENOMEM;

	pthread_mutex_lock(&lock);
	g = new_group(path, controller, &c);
	if (g) {
		r = errno_of(cgroup_create_cgroup(g, 1));
		cgroup_free(&g);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int cglib_remove(const char *controller, const char *path)
{
	struct cgroup_controller *c;
	struct cgroup *g;
	int r = -ENOMEM;

	pthread_mutex_lock(&lock);
	g = new_group(path, controller, &c);
	if (g) {
		/* Without this flag the library moves what is inside to the parent. */
		r = errno_of(cgroup_delete_cgroup_ext(g, CGFLAG_DELETE_EMPTY_ONLY));
		cgroup_free(&g);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

/* ---- members ------------------------------------------------------------------------------------------- */

int cglib_attach(const char *controller, const char *path, pid_t pid)
{
	struct cgroup_controller *c;
	struct cgroup *g;
	int r = -ENOMEM;

	pthread_mutex_lock(&lock);
	g = new_group(path, controller, &c);
	if (g) {
		r = errno_of(cgroup_attach_task_pid(g, pid));
		cgroup_free(&g);
	}
	pthread_mutex_unlock(&lock);
	return r;
}
