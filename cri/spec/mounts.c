/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec_internal.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"

#define SHM_SIZE "size=65536k"

struct mount {
	char *destination; /* cleaned */
	const char *source;
	bool read_only, recursive, slave;
	size_t parts, order;
};

/* "/a//b/./c/../d/" to "/a/b/d", by its letters alone. NULL on -ENOMEM. */
static char *clean_path(const char *path)
{
	char *out = malloc(strlen(path) + 2);
	size_t len = 0;

	if (!out)
		return NULL;
	while (*path) {
		size_t n;

		path += strspn(path, "/");
		n = strcspn(path, "/");
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (len > 0 && out[--len] != '/')
				;
		} else if (n > 0 && !(n == 1 && path[0] == '.')) {
			out[len++] = '/';
			memcpy(out + len, path, n);
			len += n;
		}
		path += n;
	}
	if (len == 0)
		out[len++] = '/';
	out[len] = '\0';
	return out;
}

static size_t count_parts(const char *path)
{
	size_t n = 0;

	for (; *path; path++)
		n += *path == '/';
	return n;
}

/* ---- checks -------------------------------------------------------------------------------------------- */

int oci_check_mounts(struct oci_build *b, struct err *err)
{
	if (b->container->n_mounts > OCI_LIST_MAX || b->in->n_mounts > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "mounts: more than %d", OCI_LIST_MAX);
	for (size_t i = 0; i < b->container->n_mounts; i++) {
		const Runtime__V1__Mount *m = b->container->mounts[i];
		char *path CLEANUP_FREE = clean_path(m->container_path);

		if (!path)
			return err_oom(err);
		if (m->container_path[0] != '/' || str_eq(path, "/"))
			return err_set(
				err, -EINVAL,
				"mounts[%zu].container_path \"%.128s\" must be absolute and not the root", i,
				m->container_path);
		if (m->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL)
			return err_set(err, -EINVAL,
				       "mounts[%zu] (%.128s): propagation BIDIRECTIONAL is not possible: "
				       "mounts made in a VM do not "
				       "reach the host",
				       i, m->container_path);
		if (m->recursive_read_only && !m->readonly)
			return err_set(err, -EINVAL,
				       "mounts[%zu] (%.128s): recursive_read_only without readonly", i,
				       m->container_path);
		if (m->recursive_read_only &&
		    m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE)
			return err_set(err, -EINVAL,
				       "mounts[%zu] (%.128s): recursive_read_only needs private propagation",
				       i, m->container_path);
		if (m->n_uidmappings || m->n_gidmappings)
			return err_set_status(err, -EOPNOTSUPP, ERR_UNIMPLEMENTED,
					      "mounts[%zu] (%.128s): idmapped mounts are not supported yet",
					      i, m->container_path);
	}
	return 0;
}

/* ---- volumes ------------------------------------------------------------------------------------------- */

static bool wants_slave(const struct oci_build *b, const char *destination)
{
	for (size_t i = 0; i < b->container->n_mounts; i++)
		if (b->container->mounts[i]->propagation ==
			    RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER &&
		    str_eq(b->container->mounts[i]->container_path, destination))
			return true;
	return false;
}

static bool is_covered(const struct mount *mounts, size_t n, const char *destination)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(mounts[i].destination, destination))
			return true;
	return false;
}

/* Whether one of the mounts is at the path or at a directory above it. */
static bool is_inside(const struct mount *mounts, size_t n, const char *destination)
{
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(mounts[i].destination);

		if (str_starts(destination, mounts[i].destination) &&
		    (destination[len] == 0 || destination[len] == '/'))
			return true;
	}
	return false;
}

/* Fewer path components first, so that no mount hides another; in the request's order otherwise. */
static int compare_mounts(const void *a, const void *b)
{
	const struct mount *x = a, *y = b;

	if (x->parts != y->parts)
		return x->parts < y->parts ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static int collect(struct oci_build *b, struct mount *mounts, size_t *n)
{
	const struct {
		const char *source, *destination;
	} files[] = {
		{b->in->hostname_path, "/etc/hostname"},
		{b->in->hosts_path, "/etc/hosts"},
		{b->in->resolv_path, "/etc/resolv.conf"},
	};
	size_t n_volumes;

	for (size_t i = 0; i < b->in->n_mounts; i++) {
		const struct oci_mount *m = &b->in->mounts[i];

		mounts[*n] = (struct mount){.destination = clean_path(m->destination),
					    .source = m->guest_source,
					    .read_only = m->read_only,
					    .recursive = m->recursive_read_only,
					    .slave = wants_slave(b, m->destination)};
		if (!mounts[*n].destination)
			return -ENOMEM;
		if (m->of_image && is_inside(mounts, *n, mounts[*n].destination)) {
			free(mounts[*n].destination);
			continue;
		}
		(*n)++;
	}
	n_volumes = *n;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (!files[i].source || is_covered(mounts, n_volumes, files[i].destination))
			continue;
		mounts[*n] = (struct mount){.destination = strdup(files[i].destination),
					    .source = files[i].source,
					    .read_only = b->sc->readonly_rootfs};
		if (!mounts[*n].destination)
			return -ENOMEM;
		(*n)++;
	}
	for (size_t i = 0; i < *n; i++) {
		mounts[i].order = i;
		mounts[i].parts = count_parts(mounts[i].destination);
	}
	return 0;
}

/* ---- output -------------------------------------------------------------------------------------------- */

static void put_mount(struct oci_build *b, struct json_object *array, const char *type, const char *source,
		      const char *destination, const char *const *options)
{
	struct json_object *object = oci_object(&b->oom, array, NULL), *list;

	oci_string(&b->oom, object, "destination", destination);
	oci_string(&b->oom, object, "type", type);
	oci_string(&b->oom, object, "source", source);
	list = oci_array(&b->oom, object, "options");
	for (size_t i = 0; options[i]; i++)
		oci_string(&b->oom, list, NULL, options[i]);
}

struct default_mount {
	const char *type, *source, *destination;
	const char *options[8];
};

#define SAFE "nosuid", "noexec", "nodev"

static void put_default(struct oci_build *b, struct json_object *array, const struct mount *mounts, size_t n,
			const struct default_mount *m)
{
	/* A volume over /dev brings its own world below it. */
	if (is_covered(mounts, n, m->destination) ||
	    (str_starts(m->destination, "/dev/") && is_covered(mounts, n, "/dev")))
		return;
	put_mount(b, array, m->type, m->source, m->destination, m->options);
}

static void put_defaults(struct oci_build *b, struct json_object *array, const struct mount *mounts, size_t n)
{
	const char *mode = b->sc->privileged ? "rw" : "ro";
	const struct default_mount fixed[] = {
		{"proc", "proc", "/proc", {SAFE}},
		{"tmpfs", "tmpfs", "/dev", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"devpts",
		 "devpts",
		 "/dev/pts",
		 {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{"mqueue", "mqueue", "/dev/mqueue", {SAFE}},
		{"sysfs", "sysfs", "/sys", {SAFE, mode}},
		{"cgroup", "cgroup", "/sys/fs/cgroup", {SAFE, "relatime", mode}},
	};
	const struct default_mount shared = {"bind", GUEST_SHM_DIR, "/dev/shm", {"rbind", "rprivate", SAFE}};
	const struct default_mount own = {"tmpfs", "shm", "/dev/shm", {SAFE, "mode=1777", SHM_SIZE}};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		put_default(b, array, mounts, n, &fixed[i]);
	put_default(b, array, mounts, n,
		    b->ns->ipc == RUNTIME__V1__NAMESPACE_MODE__CONTAINER ? &own : &shared);
}

static void put_volume(struct oci_build *b, struct json_object *array, const struct mount *m)
{
	const char *options[] = {"rbind", m->slave ? "rslave" : "rprivate", "rw", NULL};

	if (m->read_only)
		options[2] = m->recursive ? "rro" : "ro";
	put_mount(b, array, "bind", m->source, m->destination, options);
}

int oci_put_mounts(struct oci_build *b, struct json_object *spec, struct json_object *spec_linux,
		   struct err *err)
{
	struct json_object *array = oci_array(&b->oom, spec, "mounts");
	struct mount *mounts = calloc(b->in->n_mounts + 3, sizeof(*mounts));
	bool slave = false;
	size_t n = 0;
	int r = mounts ? collect(b, mounts, &n) : -ENOMEM;

	if (r == 0) {
		put_defaults(b, array, mounts, n);
		qsort(mounts, n, sizeof(*mounts), compare_mounts);
		for (size_t i = 0; i < n; i++) {
			put_volume(b, array, &mounts[i]);
			slave |= mounts[i].slave;
		}
		if (slave)
			oci_string(&b->oom, spec_linux, "rootfsPropagation", "rslave");
	}
	for (size_t i = 0; i < n; i++)
		free(mounts[i].destination);
	free(mounts);
	return r < 0 ? err_oom(err) : 0;
}
