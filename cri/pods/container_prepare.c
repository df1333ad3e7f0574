/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer's steps: root, mounts and spec on the host, then the container in the guest. */
#include "cri/pods/pods_internal.h"

#include "api/agent/guest_abi.h"
#include "api/pb.h"
#include "base/tree.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <sys/stat.h>

#define MOUNTS_MAX	  512
#define PROFILE_MAX	  (1 << 20)
#define IMAGE_VOLUMES_MAX 128
#define SIGNAL_FIRST	  RUNTIME__V1__SIGNAL__SIGABRT

/* Whether a part of the path is "..". */
static bool leaves(const char *path)
{
	for (const char *p = path; *p; p += strspn(p, "/")) {
		size_t n = strcspn(p, "/");

		if (n == 2 && strncmp(p, "..", 2) == 0)
			return true;
		p += n;
	}
	return false;
}

int creation_check(const Runtime__V1__ContainerConfig *config, struct err *err)
{
	if (!config)
		return err_set(err, -EINVAL, "config is missing");
	if (!config->metadata || str_empty(config->metadata->name))
		return err_set(err, -EINVAL, "config.metadata.name is missing");
	if (!config->image || str_empty(config->image->image))
		return err_set(err, -EINVAL, "config.image.image is missing");
	if (config->windows)
		return err_set(err, -EINVAL, "config.windows: this server runs Linux containers only");
	if (config->n_cdi_devices > 0)
		return err_set_status(err, -EINVAL, ERR_INVALID_ARGUMENT,
				      "config.CDI_devices are not supported by this version");
	if (config->n_mounts > MOUNTS_MAX)
		return err_set(err, -E2BIG, "config.mounts has %zu entries, at most %d are allowed",
			       config->n_mounts, MOUNTS_MAX);
	if (strchr(config->log_path, '\n') || leaves(config->log_path))
		return err_set(err, -EINVAL, "config.log_path \"%s\" leaves the pod's log directory",
			       config->log_path);
	return 0;
}

/* "SIGTERM", "TERM", "15" or a CRI signal to a Linux number; 0 if it is none. */
static uint32_t signal_number(const char *name)
{
	uint64_t n;

	if (parse_u64(name, &n) == 0)
		return n > 0 && n <= (uint64_t)SIGRTMAX ? (uint32_t)n : 0;
	if (str_starts(name, "SIG"))
		name += 3;
	for (int s = 1; s < 32; s++) {
		if (str_eq(sigabbrev_np(s), name))
			return (uint32_t)s;
	}
	if (str_starts(name, "RTMIN+") && parse_u64(name + 6, &n) == 0 && n <= 30)
		return 34 + (uint32_t)n;
	if (str_starts(name, "RTMAX-") && parse_u64(name + 6, &n) == 0 && n <= 30)
		return 64 - (uint32_t)n;
	if (str_eq(name, "RTMIN"))
		return 34;
	return str_eq(name, "RTMAX") ? 64 : 0;
}

/* CRI's names have no '+' and '-': SIGRTMINPLUS1, SIGRTMAXMINUS2. */
static uint32_t cri_signal_number(Runtime__V1__Signal value)
{
	const ProtobufCEnumValue *v =
		protobuf_c_enum_descriptor_get_value(&runtime__v1__signal__descriptor, (int)value);
	char name[32];
	char *p;

	if (!v || value < SIGNAL_FIRST)
		return 0;
	snprintf(name, sizeof(name), "%s", v->name);
	p = strstr(name, "PLUS");
	if (!p)
		p = strstr(name, "MINUS");
	if (p) {
		char num[8];

		snprintf(num, sizeof(num), "%s", p + (p[0] == 'P' ? 4 : 5));
		snprintf(p, 8, "%c%s", p[0] == 'P' ? '+' : '-', num);
	}
	return signal_number(name);
}

uint32_t creation_stop_signal(const Runtime__V1__ContainerConfig *config, const struct image *image)
{
	uint32_t n = cri_signal_number(config->stop_signal);

	if (n == 0 && !str_empty(image->config.stop_signal))
		n = signal_number(image->config.stop_signal);
	return n ? n : SIGTERM;
}

/* What has no meaning in a VM is refused before anything is begun. */
int creation_check_spec(struct creation *c, struct err *err)
{
	const struct oci_spec_input in = {
		.pod = c->pod->state->config,
		.container = c->config,
		.image = &c->image->config,
		.container_id = "",
	};

	return oci_spec_check(&in, err);
}

static int prepare_rootfs(struct creation *c, struct err *err)
{
	struct store *store = c->pods->parts.store;
	const char *id = c->container->object.id;
	int64_t step;
	int r = journal_begin(store, id, "upper", id, &step, err);

	if (r == 0)
		r = journal_begin(store, id, "cdir", c->place.dir, &step, err);
	if (r == 0)
		r = sandbox_place_make(c->pod->sandbox, id, err);
	if (r == 0)
		r = rootfs_mount(c->pods->parts.rootfs, c->image->id, id, c->place.rootfs, err);
	return r;
}

static int resolve_user(struct creation *c, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		c->config->linux ? c->config->linux->security_context : NULL;
	const char *user = c->image->config.user;
	char number[64];

	if (sc && sc->run_as_group && !sc->run_as_user && str_empty(sc->run_as_username))
		return err_set(err, -EINVAL, "run_as_group is set without run_as_user or run_as_username");
	if (sc && !str_empty(sc->run_as_username)) {
		user = sc->run_as_username;
	} else if (sc && sc->run_as_user) {
		if (sc->run_as_user->value < 0 || sc->run_as_user->value > INT32_MAX)
			return err_set(err, -EINVAL, "run_as_user %lld is out of range",
				       (long long)sc->run_as_user->value);
		snprintf(number, sizeof(number), "%lld", (long long)sc->run_as_user->value);
		user = number;
	}
	if (spec_user_lookup(c->place.rootfs, str_empty(user) ? "0" : user, &c->user, err) < 0)
		return err_wrap(err, "the container's user");
	return 0;
}

static int check_mount(const Runtime__V1__Mount *m, size_t i, struct err *err)
{
	if (m->image)
		return err_set_status(
			err, -EINVAL, ERR_INVALID_ARGUMENT,
			"ImageVolumeMountFailed: image volumes are not supported by this version");
	if (m->n_uidmappings > 0 || m->n_gidmappings > 0)
		return err_set(err, -EINVAL,
			       "mounts[%zu] (%s): idmapped mounts are not supported by this version", i,
			       m->container_path);
	if (str_empty(m->host_path) || m->host_path[0] != '/')
		return err_set(err, -EINVAL, "mounts[%zu] (%s): host_path \"%s\" is not absolute", i,
			       m->container_path, m->host_path);
	return 0;
}

static int prepare_mounts(struct creation *c, struct err *err)
{
	c->mounts = calloc(c->config->n_mounts + strv_len(c->image->config.volumes) + 1, sizeof(*c->mounts));
	if (!c->mounts)
		return err_oom(err);
	for (size_t i = 0; i < c->config->n_mounts; i++) {
		const Runtime__V1__Mount *m = c->config->mounts[i];
		char guest[SANDBOX_PATH_MAX];
		char *copy;
		int r = check_mount(m, i, err);

		if (r < 0)
			return r;
		r = sandbox_bind(c->pod->sandbox, c->container->object.id, m->host_path, m->readonly,
				 m->recursive_read_only, guest, err);
		if (r < 0)
			return err_wrap(err, "mounts[%zu] (%s)", i, m->container_path);
		copy = strdup(guest);
		if (!copy)
			return err_oom(err);
		c->mounts[c->n_mounts++] = (struct oci_mount){.guest_source = copy,
							      .destination = m->container_path,
							      .read_only = m->readonly,
							      .recursive_read_only = m->recursive_read_only};
	}
	return 0;
}

/* A directory of the container's root that may be missing: an O_PATH fd. -ENOTDIR where it is none. */
static int make_in_root(int root, const char *path)
{
	for (size_t len = strcspn(path, "/");; len += 1 + strcspn(path + len + 1, "/")) {
		char *part CLEANUP_FREE = strndup(path, len);
		const char *parent, *base;
		int dir CLEANUP_CLOSE = -1;

		if (!part)
			return -ENOMEM;
		path_split(part, &parent, &base);
		dir = path_open_in(root, parent, O_PATH | O_DIRECTORY);
		if (dir < 0)
			return dir;
		if (mkdirat(dir, base, 0755) < 0 && errno != EEXIST)
			return -errno;
		if (!path[len])
			return path_open_in(root, path, O_PATH | O_DIRECTORY);
	}
}

/* Where it is in the guest: without the symlinks of the image, which would lead the guest out of the root. */
static int guest_path(const struct creation *c, int fd, char **ret_path, struct err *err)
{
	char link[40], path[4096], root[4096];
	ssize_t n;
	size_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || !realpath(c->place.rootfs, root))
		return err_set_errno(err, -errno, "%s", c->place.rootfs);
	path[n] = 0;
	len = strlen(root);
	if (strncmp(path, root, len) != 0 || (path[len] != '/' && path[len] != 0))
		return err_set(err, -EXDEV, "%s is not in %s", path, root);
	*ret_path = xasprintf("%s/rootfs%s", c->place.bundle, path + len);
	return *ret_path ? 0 : err_oom(err);
}

/*
 * A VOLUME of the image is its directory in the container's own writable layer, which is made if it is
 * missing: so it is fresh for each container and has the image's content, owner and mode. A read-only root
 * leaves it writable.
 */
static int prepare_image_volume(struct creation *c, int root, const char *volume, bool mount, struct err *err)
{
	char *path CLEANUP_FREE = strdup(volume);
	char *source = NULL;
	int fd CLEANUP_CLOSE = -1;
	int r = path ? path_clean(path) : -ENOMEM;

	if (r == 0 && !*path)
		r = -EINVAL;
	if (r == 0) {
		fd = make_in_root(root, path);
		r = fd < 0 ? fd : 0;
	}
	if (r < 0)
		return err_set_status(err, r, ERR_FAILED_PRECONDITION, "the image's volume \"%.200s\": %s",
				      volume, strerror(-r));
	if (!mount)
		return 0;
	r = guest_path(c, fd, &source, err);
	if (r == 0)
		c->mounts[c->n_mounts++] =
			(struct oci_mount){.guest_source = source, .destination = volume, .of_image = true};
	return r;
}

static int prepare_image_volumes(struct creation *c, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		c->config->linux ? c->config->linux->security_context : NULL;
	char *const *volumes = c->image->config.volumes;
	int root CLEANUP_CLOSE = -1;
	int r = 0;

	if (strv_len(volumes) > IMAGE_VOLUMES_MAX)
		return err_set(err, -E2BIG, "the image has %zu volumes, at most %d are allowed",
			       strv_len(volumes), IMAGE_VOLUMES_MAX);
	if (strv_len(volumes) == 0)
		return 0;
	root = open(c->place.rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_set_errno(err, -errno, "%s", c->place.rootfs);
	for (size_t i = 0; r == 0 && volumes[i]; i++)
		r = prepare_image_volume(c, root, volumes[i], sc && sc->readonly_rootfs, err);
	return r;
}

/* A pid namespace of another container of the pod: its guest pid names the namespace. */
static int resolve_target(struct creation *c, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		c->config->linux ? c->config->linux->security_context : NULL;
	struct container *target CLEANUP_CONTAINER = NULL;
	uint32_t pid;
	int r;

	if (!sc || !sc->namespace_options ||
	    sc->namespace_options->pid != RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return 0;
	r = container_find(c->pods, sc->namespace_options->target_id, &target, err);
	if (r < 0)
		return err_wrap(err, "namespace_options.target_id");
	if (target->pod != c->pod)
		return err_set(err, -EINVAL,
			       "namespace_options.target_id: container \"%s\" is in another pod",
			       target->object.id);
	r = guest_pid(c->agent, target->object.id, &pid, err);
	if (r < 0)
		return r;
	c->target_pid_path = xasprintf("/proc/%u/ns/pid", pid);
	return c->target_pid_path ? 0 : err_oom(err);
}

static int read_profile(struct creation *c, char **ret_json, struct err *err)
{
	const char *ref = oci_spec_seccomp_path(c->config);
	int r;

	if (!ref)
		return 0;
	r = read_file(ref, PROFILE_MAX, ret_json, NULL);
	return r < 0 ? err_set_errno(err, r, "seccomp profile %s", ref) : 0;
}

/* The user as the process really gets it, for ContainerStatus. */
static int note_user(struct creation *c, const char *spec_json, struct err *err)
{
	struct json_object *spec = json_tokener_parse(spec_json);
	struct json_object *process = NULL, *user = NULL, *v = NULL, *groups = NULL;
	size_t n = 0;
	int64_t *list = NULL;

	if (json_object_object_get_ex(spec, "process", &process) &&
	    json_object_object_get_ex(process, "user", &user) &&
	    json_object_object_get_ex(user, "additionalGids", &groups))
		n = json_object_array_length(groups);
	if (n > 0)
		list = calloc(n, sizeof(*list));
	pthread_mutex_lock(&c->pod->lock);
	if (json_object_object_get_ex(user, "uid", &v))
		c->container->state->uid = json_object_get_int64(v);
	if (json_object_object_get_ex(user, "gid", &v))
		c->container->state->gid = json_object_get_int64(v);
	for (size_t i = 0; list && i < n; i++)
		list[i] = json_object_get_int64(json_object_array_get_idx(groups, i));
	free(c->container->state->groups);
	c->container->state->groups = list;
	c->container->state->n_groups = list ? n : 0;
	pthread_mutex_unlock(&c->pod->lock);
	json_object_put(spec);
	return n > 0 && !list ? err_oom(err) : 0;
}

static int write_spec(struct creation *c, struct err *err)
{
	/* An older agent, of a pod that an earlier server started, has no copies that can be written. */
	bool own = agent_has(c->agent, GUEST_FILES_FEATURE);
	char hostname[65];
	char *profile CLEANUP_FREE = NULL;
	char *json CLEANUP_FREE = NULL;
	const Runtime__V1__PodSandboxConfig *pod = c->pod->state->config;
	struct oci_spec_input in = {
		.pod = pod,
		.container = c->config,
		.image = &c->image->config,
		.user = &c->user,
		.container_id = c->container->object.id,
		.sandbox_id = c->pod->object.id,
		.mounts = c->mounts,
		.n_mounts = c->n_mounts,
		.hostname_path = own ? GUEST_FILES_DIR "/hostname" : GUEST_SHARE_DIR "/hostname",
		.hosts_path = own ? GUEST_FILES_DIR "/hosts" : GUEST_SHARE_DIR "/hosts",
		.resolv_path = own ? GUEST_FILES_DIR "/resolv.conf" : GUEST_SHARE_DIR "/resolv.conf",
		.target_pid_path = c->target_pid_path,
		.guest_cpus = c->guest_cpus,
		.hostname = hostname,
		.ulimits = c->pods->parts.config->sandbox.default_ulimits,
	};
	int r = read_profile(c, &profile, err);

	if (r < 0)
		return r;
	snprintf(hostname, sizeof(hostname), "%s",
		 str_empty(pod->hostname) ? pod->metadata->name : pod->hostname);
	in.seccomp_profile_json = profile;
	r = oci_spec_build(&in, &json, err);
	if (r == 0)
		r = note_user(c, json, err);
	if (r < 0)
		return r;
	return sandbox_place_write(c->pod->sandbox, c->container->object.id, "config.json", json, err);
}

static int place_cpus(struct creation *c, struct err *err)
{
	return container_place_cpus(c->container, c->container->object.work, &c->guest_cpus, err);
}

static int create_task(struct creation *c, struct err *err)
{
	c->task_tried = true;
	if (guest_create(c->agent, c->container->object.id, c->place.bundle, c->config->tty, c->config->stdin,
			 err) < 0)
		return err_wrap(err, "creating the container in the guest");
	return 0;
}

int creation_steps(struct creation *c, struct err *err)
{
	static int (*const steps[])(struct creation * c, struct err * err) = {
		prepare_rootfs, resolve_user, prepare_mounts, prepare_image_volumes,
		resolve_target, place_cpus,   write_spec,     create_task,
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(steps) && r == 0; i++) {
		r = call_check(c->container->object.work, err);
		if (r == 0)
			r = steps[i](c, err);
	}
	return r;
}

void creation_done(struct creation *c)
{
	for (size_t i = 0; i < c->n_mounts; i++)
		free((char *)(uintptr_t)c->mounts[i].guest_source);
	free(c->mounts);
	free(c->target_pid_path);
	free(c->guest_cpus);
	free(c->user.groups);
	image_free(c->image);
}
