/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec_internal.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "cri/config/ulimit.h"

#include <assert.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define OCI_VERSION  "1.0.2"
#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define EXEC_DEPTH   32

/* As a service of systemd has it: programs that loop over all fds stay quick, those that need many raise it.
 */
#define NOFILE_SOFT 1024
#define NOFILE_HARD 524288
/* As a host of 16 GiB has it: 3946, in a VM of 1 GiB, is too few for programs that queue signals. */
#define SIGPENDING  65536
#define ULIMITS_MAX 32

/* ---- JSON ---------------------------------------------------------------------------------------------- */

struct json_object *oci_add(bool *oom, struct json_object *parent, const char *key, struct json_object *value)
{
	int r;

	if (!value || !parent) {
		json_object_put(value);
		*oom = true;
		return NULL;
	}
	r = key ? json_object_object_add(parent, key, value) : json_object_array_add(parent, value);
	if (r < 0) {
		json_object_put(value);
		*oom = true;
		return NULL;
	}
	return value;
}

/* The text of json (malloc'ed); drops the reference. */
static int oci_text(struct json_object *json, bool oom, char **ret, struct err *err)
{
	const char *text = NULL;
	char *copy = NULL;

	if (json && !oom)
		text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN |
								    JSON_C_TO_STRING_NOSLASHESCAPE);
	if (text)
		copy = strdup(text);
	json_object_put(json);
	if (!copy)
		return err_oom(err);
	*ret = copy;
	return 0;
}

/* ---- process ------------------------------------------------------------------------------------------- */

static void put_strv(struct oci_build *b, struct json_object *array, char *const *v)
{
	for (size_t i = 0; v && v[i]; i++)
		oci_string(&b->oom, array, NULL, v[i]);
}

static void put_strings(struct oci_build *b, struct json_object *array, char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		oci_string(&b->oom, array, NULL, v[i]);
}

/* CRI's command replaces the image's entrypoint and cmd; CRI's args alone replace cmd. */
static int put_args(struct oci_build *b, struct json_object *process, struct err *err)
{
	const Runtime__V1__ContainerConfig *c = b->container;
	const struct image_config *image = b->in->image;
	struct json_object *args = oci_array(&b->oom, process, "args");
	bool blank = image && image->entrypoint && image->entrypoint[0] && !image->entrypoint[0][0] &&
		     !image->entrypoint[1];

	if (c->n_command)
		put_strings(b, args, c->command, c->n_command);
	else if (image && !blank)
		put_strv(b, args, image->entrypoint);
	if (c->n_args)
		put_strings(b, args, c->args, c->n_args);
	else if (!c->n_command && image)
		put_strv(b, args, image->cmd);
	if (args && json_object_array_length(args) == 0)
		return err_set(err, -EINVAL,
			       "no command: the request has neither command nor args, the image no "
			       "entrypoint or cmd");
	return 0;
}

/* Environment variables by name: a later one takes the place of an earlier one. */
struct env {
	struct env_var {
		const char *text; /* "NAME=value", borrowed */
		UT_hash_handle hh;
	} * vars;
	size_t n, room;
	struct env_var *by_name;
};

static void env_done(struct env *env)
{
	HASH_CLEAR(hh, env->by_name);
	free(env->vars);
}

static int env_init(struct env *env, size_t room)
{
	env->vars = calloc(room, sizeof(*env->vars));
	env->room = room;
	return env->vars ? 0 : -ENOMEM;
}

static int env_put(struct env *env, const char *text)
{
	size_t len = strcspn(text, "=");
	struct env_var *var;

	if (!text[len] || len == 0)
		return 0; /* an image may hold such; it names nothing */
	HASH_FIND(hh, env->by_name, text, len, var);
	if (var) {
		var->text = text;
		return 0;
	}
	assert(env->n < env->room);
	var = &env->vars[env->n++];
	var->text = text;
	HASH_ADD_KEYPTR(hh, env->by_name, text, len, var);
	return var->hh.tbl ? 0 : -ENOMEM; /* as uthash tells */
}

static bool env_has(const struct env *env, const char *prefix)
{
	for (size_t i = 0; i < env->n; i++)
		if (str_starts(env->vars[i].text, prefix))
			return true;
	return false;
}

static int put_env(struct oci_build *b, struct json_object *process, struct err *err)
{
	const Runtime__V1__ContainerConfig *c = b->container;
	char **own CLEANUP_STRV = NULL, **image = b->in->image ? b->in->image->env : NULL;
	size_t n_image = strv_len(image);
	struct json_object *array;
	struct env env = {0};
	int r = 0;

	if (n_image > OCI_LIST_MAX || c->n_envs > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "envs: more than %d", OCI_LIST_MAX);
	own = calloc(c->n_envs + 2, sizeof(*own));
	if (!own || env_init(&env, n_image + c->n_envs + 5) < 0)
		r = -ENOMEM;
	for (size_t i = 0; r == 0 && i < c->n_envs; i++) {
		const Runtime__V1__KeyValue *kv = c->envs[i];

		if (str_empty(kv->key) || strchr(kv->key, '=')) {
			r = err_set(err, -EINVAL, "envs[%zu].key \"%.64s\" cannot be a variable's name", i,
				    kv->key);
			break;
		}
		own[i] = xasprintf("%s=%s", kv->key, kv->value);
		r = own[i] ? 0 : -ENOMEM;
	}
	if (r == 0 && !str_empty(b->in->hostname)) {
		own[c->n_envs] = xasprintf("HOSTNAME=%s", b->in->hostname);
		r = own[c->n_envs] ? 0 : -ENOMEM;
	}
	if (r == 0 && c->tty)
		r = env_put(&env, "TERM=xterm");
	if (r == 0 && own[c->n_envs])
		r = env_put(&env, own[c->n_envs]);
	for (size_t i = 0; r == 0 && i < n_image; i++)
		r = env_put(&env, image[i]);
	for (size_t i = 0; r == 0 && i < c->n_envs; i++)
		r = env_put(&env, own[i]);
	if (r == 0 && !env_has(&env, "PATH="))
		r = env_put(&env, DEFAULT_PATH);
	/* The runtime sets HOME from the user's entry. Without one it would stay unset. */
	if (r == 0 && b->in->user && b->in->user->no_entry && !env_has(&env, "HOME="))
		r = env_put(&env, "HOME=/");
	if (r == 0) {
		array = oci_array(&b->oom, process, "env");
		for (size_t i = 0; i < env.n; i++)
			oci_string(&b->oom, array, NULL, env.vars[i].text);
	}
	env_done(&env);
	return r == -ENOMEM ? err_oom(err) : r;
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static int check_id(int64_t id, const char *field, struct err *err)
{
	if (id < 0 || id > INT32_MAX)
		return err_set(err, -EINVAL, "%s %lld is out of range", field, (long long)id);
	return 0;
}

static int check_user(const struct oci_build *b, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc = b->sc;
	int r = 0;

	if (sc->run_as_group && !sc->run_as_user && str_empty(sc->run_as_username))
		return err_set(err, -EINVAL, "run_as_group is set without run_as_user or run_as_username");
	if (sc->run_as_user)
		r = check_id(sc->run_as_user->value, "run_as_user", err);
	if (r == 0 && sc->run_as_group)
		r = check_id(sc->run_as_group->value, "run_as_group", err);
	if (sc->n_supplemental_groups > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "supplemental_groups: more than %d", OCI_LIST_MAX);
	for (size_t i = 0; r == 0 && i < sc->n_supplemental_groups; i++)
		r = check_id(sc->supplemental_groups[i], "supplemental_groups: group", err);
	if (r == 0 && sc->supplemental_groups_policy != RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Merge &&
	    sc->supplemental_groups_policy != RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict)
		return err_set(err, -EINVAL, "supplemental_groups_policy %d is unknown",
			       (int)sc->supplemental_groups_policy);
	return r;
}

/*
 * The primary group counts among the supplementary ones, so that a set-gid program cannot shed it. With the
 * policy Merge the groups of the image's /etc/group are added.
 */
static int put_user(struct oci_build *b, struct json_object *process, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc = b->sc;
	const struct spec_user *user = b->in->user;
	bool merge = sc->supplemental_groups_policy == RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Merge;
	struct json_object *object = oci_object(&b->oom, process, "user"), *array;
	uint32_t uid = user ? user->uid : 0, gid = user ? user->gid : 0;
	size_t n_image = merge && user ? user->n_groups : 0, n = 0;
	uint32_t *groups CLEANUP_FREE = NULL;

	if (!user && !str_empty(sc->run_as_username))
		return err_set(err, -EINVAL, "run_as_username \"%s\" was not looked up", sc->run_as_username);
	if (sc->run_as_user && str_empty(sc->run_as_username))
		uid = (uint32_t)sc->run_as_user->value;
	if (sc->run_as_group)
		gid = (uint32_t)sc->run_as_group->value;
	if (n_image > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "the image's /etc/group gives the user more than %d groups",
			       OCI_LIST_MAX);
	groups = calloc(n_image + sc->n_supplemental_groups + 1, sizeof(*groups));
	if (!groups)
		return err_oom(err);
	groups[n++] = gid;
	for (size_t i = 0; i < n_image; i++)
		groups[n++] = user->groups[i];
	for (size_t i = 0; i < sc->n_supplemental_groups; i++)
		groups[n++] = (uint32_t)sc->supplemental_groups[i];
	qsort(groups, n, sizeof(*groups), compare_u32);
	oci_int(&b->oom, object, "uid", uid);
	oci_int(&b->oom, object, "gid", gid);
	array = oci_array(&b->oom, object, "additionalGids");
	for (size_t i = 0; i < n; i++)
		if (i == 0 || groups[i] != groups[i - 1])
			oci_int(&b->oom, array, NULL, groups[i]);
	return 0;
}

static int put_cwd(struct oci_build *b, struct json_object *process, struct err *err)
{
	const char *cwd = b->container->working_dir;

	if (str_empty(cwd) && b->in->image)
		cwd = b->in->image->working_dir;
	if (str_empty(cwd))
		cwd = "/";
	if (cwd[0] != '/')
		return err_set(err, -EINVAL, "working directory \"%.128s\" is not absolute", cwd);
	oci_string(&b->oom, process, "cwd", cwd);
	return 0;
}

static int put_oom_score(struct oci_build *b, struct json_object *process, struct err *err)
{
	const Runtime__V1__LinuxContainerResources *res =
		b->container->linux ? b->container->linux->resources : NULL;
	int64_t score = res ? res->oom_score_adj : 0;

	if (score < -1000 || score > 1000)
		return err_set(err, -EINVAL, "oom_score_adj %lld is not within -1000 and 1000",
			       (long long)score);
	oci_int(&b->oom, process, "oomScoreAdj", score);
	return 0;
}

static void put_rlimit(struct oci_build *b, struct json_object *array, const struct ulimit *limit)
{
	struct json_object *object = oci_object(&b->oom, array, NULL);

	oci_string(&b->oom, object, "type", limit->type);
	oci_add(&b->oom, object, "hard", json_object_new_uint64(limit->hard));
	oci_add(&b->oom, object, "soft", json_object_new_uint64(limit->soft));
}

/* Of a type once: the last word for it wins. */
static int put_rlimits(struct oci_build *b, struct json_object *process, struct err *err)
{
	struct ulimit limits[ULIMITS_MAX] = {
		{"RLIMIT_NOFILE", NOFILE_SOFT, NOFILE_HARD},
		{"RLIMIT_NPROC", UINT64_MAX, UINT64_MAX},
		{"RLIMIT_SIGPENDING", SIGPENDING, SIGPENDING},
	};
	struct json_object *array = oci_array(&b->oom, process, "rlimits");
	size_t n = 3;

	for (size_t i = 0; i < strv_len((char **)(uintptr_t)b->in->ulimits); i++) {
		struct ulimit limit;
		size_t at = 0;

		if (ulimit_parse(b->in->ulimits[i], &limit) < 0)
			return err_set(err, -EINVAL, "\"%s\" is not a limit", b->in->ulimits[i]);
		while (at < n && !str_eq(limits[at].type, limit.type))
			at++;
		limits[at] = limit; /* there are fewer types than places */
		n = at == n ? n + 1 : n;
	}
	for (size_t i = 0; i < n; i++)
		put_rlimit(b, array, &limits[i]);
	return 0;
}

static int put_process(struct oci_build *b, struct json_object *spec, struct err *err)
{
	struct json_object *process = oci_object(&b->oom, spec, "process");
	int r;

	oci_bool(&b->oom, process, "terminal", b->container->tty);
	r = put_user(b, process, err);
	if (r == 0)
		r = put_args(b, process, err);
	if (r == 0)
		r = put_env(b, process, err);
	if (r == 0)
		r = put_cwd(b, process, err);
	if (r == 0)
		r = put_oom_score(b, process, err);
	if (r < 0)
		return r;
	oci_put_caps(b, process);
	oci_bool(&b->oom, process, "noNewPrivileges", b->sc->no_new_privs);
	return put_rlimits(b, process, err);
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

/* Those of containerd's CRI, for tools that look at them. Annotations of pods stay out: crun takes orders
 * from some. */
static void put_annotations(struct oci_build *b, struct json_object *spec)
{
	struct json_object *object = oci_object(&b->oom, spec, "annotations");
	const Runtime__V1__ContainerConfig *c = b->container;
	const Runtime__V1__PodSandboxMetadata *pod = b->in->pod ? b->in->pod->metadata : NULL;

	oci_string(&b->oom, object, "io.kubernetes.cri.container-type", "container");
	if (c->metadata)
		oci_string(&b->oom, object, "io.kubernetes.cri.container-name", c->metadata->name);
	if (c->image)
		oci_string(&b->oom, object, "io.kubernetes.cri.image-name",
			   str_empty(c->image->user_specified_image) ? c->image->image
								     : c->image->user_specified_image);
	if (b->in->sandbox_id)
		oci_string(&b->oom, object, "io.kubernetes.cri.sandbox-id", b->in->sandbox_id);
	if (pod) {
		oci_string(&b->oom, object, "io.kubernetes.cri.sandbox-name", pod->name);
		oci_string(&b->oom, object, "io.kubernetes.cri.sandbox-namespace", pod->namespace_);
		oci_string(&b->oom, object, "io.kubernetes.cri.sandbox-uid", pod->uid);
	}
}

static int put_paths(struct oci_build *b, struct json_object *spec_linux, const char *key, char **paths,
		     size_t n, const char *field, struct err *err)
{
	struct json_object *array = spec_linux ? oci_array(&b->oom, spec_linux, key) : NULL;

	if (n > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "%s: more than %d", field, OCI_LIST_MAX);
	for (size_t i = 0; i < n; i++) {
		if (paths[i][0] != '/')
			return err_set(err, -EINVAL, "%s[%zu] \"%.128s\" is not absolute", field, i,
				       paths[i]);
		if (array && !b->sc->privileged)
			oci_string(&b->oom, array, NULL, paths[i]);
	}
	return 0;
}

static int put_linux(struct oci_build *b, struct json_object *spec, struct err *err)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc = b->sc;
	struct json_object *spec_linux = oci_object(&b->oom, spec, "linux");
	struct json_object *resources = oci_object(&b->oom, spec_linux, "resources");
	char *cgroup CLEANUP_FREE = xasprintf("%s/%s", GUEST_CGROUP_PARENT, b->in->container_id);
	int r;

	b->oom |= !cgroup;
	oci_string(&b->oom, spec_linux, "cgroupsPath", cgroup);
	oci_put_namespaces(b, spec_linux);
	r = put_paths(b, spec_linux, "maskedPaths", sc->masked_paths, sc->n_masked_paths, "masked_paths",
		      err);
	if (r == 0)
		r = put_paths(b, spec_linux, "readonlyPaths", sc->readonly_paths, sc->n_readonly_paths,
			      "readonly_paths", err);
	if (r == 0)
		r = oci_put_devices(b, spec_linux, resources, err);
	if (r == 0 && b->container->linux && b->container->linux->resources)
		r = oci_fill_resources(b->container->linux->resources, b->in->guest_cpus, resources, &b->oom,
				       err);
	if (r == 0)
		r = oci_put_seccomp(b, spec_linux, err);
	if (r == 0)
		r = oci_put_mounts(b, spec, spec_linux, err);
	return r;
}

static int put_all(struct oci_build *b, struct json_object *spec, struct err *err)
{
	struct json_object *root;
	int r;

	oci_string(&b->oom, spec, "ociVersion", OCI_VERSION);
	r = put_process(b, spec, err);
	if (r < 0)
		return r;
	root = oci_object(&b->oom, spec, "root");
	oci_string(&b->oom, root, "path", "rootfs");
	oci_bool(&b->oom, root, "readonly", b->sc->readonly_rootfs);
	put_annotations(b, spec);
	return put_linux(b, spec, err);
}

/* RuntimeDefault without AppArmor means nothing, to Kubernetes as well; a profile by name means something
 * that is not there. */
static int check_apparmor(const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	const char *name = "";

	if (sc->privileged)
		return 0;
	if (sc->apparmor) {
		if (sc->apparmor->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost)
			name = str_empty(sc->apparmor->localhost_ref) ? "localhost"
								      : sc->apparmor->localhost_ref;
	} else {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
		if (!str_empty(sc->apparmor_profile) && !str_eq(sc->apparmor_profile, "unconfined") &&
		    !str_eq(sc->apparmor_profile, "runtime/default"))
			name = sc->apparmor_profile;
#pragma GCC diagnostic pop
	}
	if (*name)
		return err_set(err, -EINVAL,
			       "AppArmor profile \"%.128s\" is not possible: the guest has no AppArmor",
			       name);
	return 0;
}

/* Fills b from input: security context, namespaces, capabilities; checks what has no place in the spec. */
static int oci_build_begin(struct oci_build *b, const struct oci_spec_input *input, struct err *err)
{
	static const Runtime__V1__LinuxContainerSecurityContext no_context =
		RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT;
	static const Runtime__V1__NamespaceOption no_options = RUNTIME__V1__NAMESPACE_OPTION__INIT;
	const Runtime__V1__LinuxPodSandboxConfig *pod = input->pod ? input->pod->linux : NULL;
	int r;

	*b = (struct oci_build){
		.in = input, .container = input->container, .sc = &no_context, .ns = &no_options};
	if (b->container->linux && b->container->linux->security_context)
		b->sc = b->container->linux->security_context;
	if (b->sc->namespace_options)
		b->ns = b->sc->namespace_options;
	if (b->sc->privileged && !(pod && pod->security_context && pod->security_context->privileged))
		return err_set(err, -EINVAL, "privileged: the pod sandbox is not privileged");
	if (b->container->n_cdi_devices)
		return err_set_status(err, -EOPNOTSUPP, ERR_UNIMPLEMENTED,
				      "CDI_devices are not supported yet");
	r = oci_check_namespaces(b, err);
	if (r == 0)
		r = check_user(b, err);
	if (r == 0)
		r = check_apparmor(b->sc, err);
	if (r == 0)
		r = oci_caps(b, err);
	if (r == 0)
		r = oci_check_mounts(b, err);
	return r;
}

int oci_spec_check(const struct oci_spec_input *input, struct err *err)
{
	struct json_object *scratch = json_object_new_object();
	struct oci_build b;
	int r = oci_build_begin(&b, input, err);

	if (r == 0)
		r = oci_put_devices(&b, NULL, NULL, err);
	if (r == 0)
		r = oci_put_seccomp(&b, NULL, err);
	if (r == 0)
		r = put_oom_score(&b, scratch, err);
	if (r == 0 && b.container->linux && b.container->linux->resources)
		r = oci_fill_resources(b.container->linux->resources, NULL, scratch, &b.oom, err);
	json_object_put(scratch);
	return r;
}

int oci_spec_build(const struct oci_spec_input *input, char **ret_json, struct err *err)
{
	struct json_object *spec;
	struct oci_build b;
	int r = oci_build_begin(&b, input, err);

	if (r < 0)
		return r;
	spec = json_object_new_object();
	r = put_all(&b, spec, err);
	if (r < 0) {
		json_object_put(spec);
		return r;
	}
	return oci_text(spec, b.oom, ret_json, err);
}

int oci_spec_resources(const Runtime__V1__LinuxContainerResources *resources, const char *guest_cpus,
		       char **ret_json, struct err *err)
{
	struct json_object *object = json_object_new_object();
	bool oom = !object;
	int r = oci_fill_resources(resources, guest_cpus, object, &oom, err);

	if (r < 0) {
		json_object_put(object);
		return r;
	}
	return oci_text(object, oom, ret_json, err);
}

/* ---- exec ---------------------------------------------------------------------------------------------- */

static int parse_config(const char *text, struct json_object **ret, struct err *err)
{
	struct json_tokener *tok = json_tokener_new_ex(EXEC_DEPTH);
	struct json_object *config;
	size_t len = strlen(text);

	if (!tok || len > INT32_MAX) {
		if (tok)
			json_tokener_free(tok);
		return err_oom(err);
	}
	config = json_tokener_parse_ex(tok, text, (int)len);
	json_tokener_free(tok);
	if (!config)
		return err_set_status(err, -EBADMSG, ERR_INTERNAL, "the container's config.json is damaged");
	*ret = config;
	return 0;
}

static bool has_term(struct json_object *env)
{
	for (size_t i = 0; i < json_object_array_length(env); i++)
		if (str_starts(json_object_get_string(json_object_array_get_idx(env, i)), "TERM="))
			return true;
	return false;
}

int oci_spec_exec_process(const char *config_json, char *const *args, bool tty, char **ret_json,
			  struct err *err)
{
	struct json_object *config = NULL, *process, *array;
	bool oom = false;
	int r;

	if (!args || !args[0])
		return err_set(err, -EINVAL, "no command to execute");
	r = parse_config(config_json, &config, err);
	if (r < 0)
		return r;
	if (!json_object_object_get_ex(config, "process", &process) ||
	    !json_object_is_type(process, json_type_object)) {
		json_object_put(config);
		return err_set_status(err, -EBADMSG, ERR_INTERNAL,
				      "the container's config.json has no process");
	}
	json_object_object_del(process, "consoleSize");
	oci_bool(&oom, process, "terminal", tty);
	array = oci_array(&oom, process, "args");
	for (size_t i = 0; args[i]; i++)
		oci_string(&oom, array, NULL, args[i]);
	if (tty && json_object_object_get_ex(process, "env", &array) &&
	    json_object_is_type(array, json_type_array) && !has_term(array))
		oci_string(&oom, array, NULL, "TERM=xterm");
	json_object_get(process);
	json_object_put(config);
	return oci_text(process, oom, ret_json, err);
}
