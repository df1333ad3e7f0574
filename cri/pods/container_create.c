/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer: root, mounts and spec on the host, then Task.Create in the guest. */
#include "cri/pods/container.h"

#include "api/agent/guest_abi.h"
#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/spec/spec.h"
#include "api/pb.h"
#include "cri/sandbox/share.h"

#include <json-c/json.h>
#include <signal.h>
#include <sys/stat.h>

#define CREATE_NS    (90 * NS_PER_SEC)
#define DELETE_NS    (20 * NS_PER_SEC)
#define MOUNTS_MAX   512
#define PROFILE_MAX  (1 << 20)
#define SIGNAL_FIRST RUNTIME__V1__SIGNAL__SIGABRT

struct creation {
	struct server *server;
	struct pod *pod;
	struct agent *agent;
	struct container *container;
	const Runtime__V1__ContainerConfig *config;
	Crivisor__State__V1__Pod *pod_state;
	struct image *image;
	struct spec_user user;
	char dir[384]; /* <pod dir>/mounts/<id> */
	char rootfs[400];
	struct oci_mount *mounts;
	size_t n_mounts;
	char *target_pid_path;
	bool task_tried; /* the guest may have it */
};

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

static int check_config(const Runtime__V1__ContainerConfig *config, struct err *err)
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

static uint32_t stop_signal(const Runtime__V1__ContainerConfig *config, const struct image *image)
{
	uint32_t n = cri_signal_number(config->stop_signal);

	if (n == 0 && !str_empty(image->config.stop_signal))
		n = signal_number(image->config.stop_signal);
	return n ? n : SIGTERM;
}

static int reserve(struct creation *c, struct err *err)
{
	Crivisor__State__V1__Container *state = pb_new(&crivisor__state__v1__container__descriptor);
	char *log CLEANUP_FREE = NULL;

	if (!state)
		return err_oom(err);
	c->container->state = state;
	if (!str_empty(c->config->log_path)) {
		const char *dir = c->pod_state->config->log_directory;

		if (!str_empty(dir))
			log = xasprintf("%s/%s", dir, c->config->log_path);
		if (!str_empty(dir) && !log)
			return err_oom(err);
	}
	state->config = PB_CLONE(c->config);
	state->created_at = now_realtime_ns();
	state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING;
	state->stop_signal = stop_signal(c->config, c->image);
	if (!state->config || pb_set_str(&state->id, c->container->id) < 0 ||
	    pb_set_str(&state->pod_id, c->pod->id) < 0 || pb_set_str(&state->image_id, c->image->id) < 0 ||
	    pb_set_str(&state->image_ref, c->image->id) < 0 || pb_set_str(&state->log_path, log) < 0)
		return err_oom(err);
	if (container_store(c->container, err) < 0)
		return err_wrap(err, "reserving the container's name");
	return 0;
}

static int prepare_rootfs(struct creation *c, struct err *err)
{
	int64_t step;
	int r = journal_begin(c->server->store, c->container->id, "upper", c->container->id, &step, err);

	if (r == 0)
		r = journal_begin(c->server->store, c->container->id, "cdir", c->dir, &step, err);
	if (r == 0)
		r = share_container_create(c->pod->dir, c->container->id, err);
	if (r == 0)
		r = rootfs_mount(c->server->rootfs, c->image->id, c->container->id, c->rootfs, err);
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
	if (spec_user_lookup(c->rootfs, str_empty(user) ? "0" : user, &c->user, err) < 0)
		return err_wrap(err, "the container's user");
	return 0;
}

static int prepare_mounts(struct creation *c, struct err *err)
{
	c->mounts = calloc(c->config->n_mounts ? c->config->n_mounts : 1, sizeof(*c->mounts));
	if (!c->mounts)
		return err_oom(err);
	for (size_t i = 0; i < c->config->n_mounts; i++) {
		const Runtime__V1__Mount *m = c->config->mounts[i];
		char *guest;
		int r;

		if (m->image)
			return err_set_status(
				err, -EINVAL, ERR_INVALID_ARGUMENT,
				"ImageVolumeMountFailed: image volumes are not supported by this version");
		if (m->n_uidmappings > 0 || m->n_gidmappings > 0)
			return err_set(err, -EINVAL,
				       "mounts[%zu] (%s): idmapped mounts are not supported by this version",
				       i, m->container_path);
		if (str_empty(m->host_path) || m->host_path[0] != '/')
			return err_set(err, -EINVAL, "mounts[%zu] (%s): host_path \"%s\" is not absolute", i,
				       m->container_path, m->host_path);
		r = share_bind(c->pod->dir, c->container->id, (unsigned int)i, m->host_path, m->readonly,
			       m->recursive_read_only, err);
		if (r < 0)
			return err_wrap(err, "mounts[%zu] (%s)", i, m->container_path);
		guest = xasprintf("%s/%s/mounts/%zu", GUEST_SHARE_DIR, c->container->id, i);
		if (!guest)
			return err_oom(err);
		c->mounts[c->n_mounts++] = (struct oci_mount){.guest_source = guest,
							      .destination = m->container_path,
							      .read_only = m->readonly,
							      .recursive_read_only = m->recursive_read_only};
	}
	return 0;
}

/* A pid namespace of another container of the pod: its guest pid names the namespace. */
static int resolve_target(struct creation *c, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		c->config->linux ? c->config->linux->security_context : NULL;
	struct container *target CLEANUP_CONTAINER = NULL;
	Containerd__Task__V2__StateRequest req = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__StateResponse *resp = NULL;
	int r;

	if (!sc || !sc->namespace_options ||
	    sc->namespace_options->pid != RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return 0;
	r = container_find(c->server, sc->namespace_options->target_id, &target, err);
	if (r < 0)
		return err_wrap(err, "namespace_options.target_id");
	if (target->pod != c->pod)
		return err_set(err, -EINVAL,
			       "namespace_options.target_id: container \"%s\" is in another pod", target->id);
	req.id = target->id;
	r = agent_call(c->agent, &AGENT_TASK_STATE, &req.base, DELETE_NS, (ProtobufCMessage **)&resp, err);
	if (r < 0)
		return err_wrap(err, "the state of target container \"%s\"", target->id);
	c->target_pid_path = xasprintf("/proc/%u/ns/pid", resp->pid);
	pb_free(resp);
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
	char hostname[65];
	char *profile CLEANUP_FREE = NULL;
	char *json CLEANUP_FREE = NULL;
	char *path CLEANUP_FREE = xasprintf("%s/config.json", c->dir);
	const Runtime__V1__PodSandboxConfig *pod = c->pod_state->config;
	struct oci_spec_input in = {
		.pod = pod,
		.container = c->config,
		.image = &c->image->config,
		.user = &c->user,
		.container_id = c->container->id,
		.sandbox_id = c->pod->id,
		.mounts = c->mounts,
		.n_mounts = c->n_mounts,
		.hostname_path = GUEST_SHARE_DIR "/hostname",
		.hosts_path = GUEST_SHARE_DIR "/hosts",
		.resolv_path = GUEST_SHARE_DIR "/resolv.conf",
		.target_pid_path = c->target_pid_path,
		.hostname = hostname,
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
	r = path ? write_file(path, json, strlen(json), 0600) : -ENOMEM;
	return r < 0 ? err_set_errno(err, r, "writing the spec of container %s", c->container->id) : 0;
}

static int create_task(struct creation *c, struct err *err)
{
	char *bundle CLEANUP_FREE = xasprintf("%s/%s", GUEST_SHARE_DIR, c->container->id);
	Containerd__Task__V2__CreateTaskRequest req = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	ProtobufCMessage *resp = NULL;
	int r;

	if (!bundle)
		return err_oom(err);
	req.id = c->container->id;
	req.bundle = bundle;
	req.terminal = c->config->tty;
	if (c->config->stdin)
		req.stdin = (char *)"stream";
	c->task_tried = true;
	r = agent_call(c->agent, &AGENT_TASK_CREATE, &req.base, CREATE_NS, &resp, err);
	pb_free(resp);
	return r < 0 ? err_wrap(err, "creating the container in the guest") : 0;
}

static int finish(struct creation *c, struct err *err)
{
	Crivisor__State__V1__Container *state = c->container->state;
	struct agent *agent;
	bool dead;

	pthread_mutex_lock(&c->pod->lock);
	dead = c->pod->dead; /* then nobody would end this container any more */
	if (!dead)
		state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_READY;
	pthread_mutex_unlock(&c->pod->lock);
	if (dead)
		return pod_agent(c->pod, &agent, err) < 0 ? err->code : -ECONNRESET;
	return container_store(c->container, err);
}

static int create_steps(struct creation *c, struct err *err)
{
	int r = prepare_rootfs(c, err);

	if (r == 0)
		r = resolve_user(c, err);
	if (r == 0)
		r = prepare_mounts(c, err);
	if (r == 0)
		r = resolve_target(c, err);
	if (r == 0)
		r = write_spec(c, err);
	if (r == 0)
		r = create_task(c, err);
	if (r == 0)
		r = finish(c, err);
	return r;
}

static void roll_back(struct creation *c)
{
	struct container *container = c->container;
	struct err err = ERR_INIT;
	bool let_go;

	/* The guest lets go of what it mounted, even of a container that it failed to create. */
	let_go = container_end_in_guest(c->agent, container->id, c->task_tried, &err) == 0;
	if (share_container_destroy(c->dir, !let_go, &err) < 0 ||
	    journal_undo_owner(c->server->store, container->id, pod_undo, c->server, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", container->id),
			 "undoing a container that failed: %s", err.msg);
	if (container_forget(container, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", container->id),
			 "forgetting a container that failed: %s", err.msg);
	container_table_remove(container);
}

/* What a VM cannot mean is refused before anything is begun. */
static int check_spec(struct creation *c, struct err *err)
{
	const struct oci_spec_input in = {
		.pod = c->pod_state->config,
		.container = c->config,
		.image = &c->image->config,
		.container_id = "",
	};

	return oci_spec_check(&in, err);
}

static int create_in_pod(struct creation *c, struct err *err)
{
	char id[65];
	int r = pod_agent(c->pod, &c->agent, err);

	if (r < 0)
		return r;
	c->pod_state = pod_state(c->pod);
	if (!c->pod_state || random_hex(32, id) < 0)
		return err_oom(err);
	r = image_get(c->server->images, c->config->image->image, &c->image, err);
	if (r == 0)
		r = check_spec(c, err);
	if (r < 0)
		return r;
	c->container = container_new(c->pod, id);
	if (!c->container)
		return err_oom(err);
	snprintf(c->dir, sizeof(c->dir), "%s/mounts/%s", c->pod->dir, id);
	snprintf(c->rootfs, sizeof(c->rootfs), "%s/rootfs", c->dir);
	c->container->op = CONTAINER_OP_CREATE;
	r = reserve(c, err);
	if (r < 0)
		return r;
	container_table_add(c->container);
	/* Looked at once more: a stop either sees this container now, or is seen here. */
	r = pod_agent(c->pod, &c->agent, err);
	if (r == 0)
		r = create_steps(c, err);
	if (r < 0)
		roll_back(c);
	container_turn_give(c->container);
	return r;
}

int container_create(struct server *server, const char *pod_id, const Runtime__V1__ContainerConfig *config,
		     char **ret_id, struct err *err)
{
	struct creation c = {.server = server, .config = config};
	struct pod *pod CLEANUP_POD = NULL;
	int r = check_config(config, err);

	if (r == 0)
		r = pod_find(server, pod_id, &pod, err);
	if (r < 0)
		return r;
	c.pod = pod;
	r = create_in_pod(&c, err);
	if (r == 0) {
		*ret_id = strdup(c.container->id);
		if (!*ret_id)
			r = err_oom(err);
		log_line(LOG_LEVEL_INFO,
			 LOG_FIELDS("container", c.container->id, "pod", pod->id, "name",
				    config->metadata->name),
			 "container is created");
	}
	for (size_t i = 0; i < c.n_mounts; i++)
		free((char *)(uintptr_t)c.mounts[i].guest_source);
	free(c.mounts);
	free(c.target_pid_path);
	free(c.user.groups);
	image_free(c.image);
	pb_free(c.pod_state);
	container_unref(c.container);
	return r;
}
