/* The OCI spec from CRI's words: each field's meaning, and the words for what cannot be had. */
#include "cri/oci_spec.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <json-c/json.h>

/* A request with everything that most tests need; each test changes what it is about. */
struct req {
	Runtime__V1__PodSandboxConfig pod;
	Runtime__V1__PodSandboxMetadata pod_meta;
	Runtime__V1__LinuxPodSandboxConfig pod_linux;
	Runtime__V1__LinuxSandboxSecurityContext pod_sc;
	Runtime__V1__ContainerConfig c;
	Runtime__V1__ContainerMetadata meta;
	Runtime__V1__ImageSpec image;
	Runtime__V1__LinuxContainerConfig lin;
	Runtime__V1__LinuxContainerResources res;
	Runtime__V1__LinuxContainerSecurityContext sc;
	Runtime__V1__NamespaceOption ns;
	Runtime__V1__Capability caps;
	Runtime__V1__SecurityProfile seccomp, apparmor;
	Runtime__V1__Int64Value uid, gid;
	struct image_config config;
	struct oci_spec_input in;
};

static char *strs(const char *s)
{
	return (char *)(uintptr_t)s;
}

#define V(...) ((char *[]){__VA_ARGS__, NULL})

static void init(struct req *q)
{
	static char *sh[] = {(char *)(uintptr_t) "/bin/sh", NULL};

	memset(q, 0, sizeof(*q));
	runtime__v1__pod_sandbox_config__init(&q->pod);
	runtime__v1__pod_sandbox_metadata__init(&q->pod_meta);
	runtime__v1__linux_pod_sandbox_config__init(&q->pod_linux);
	runtime__v1__linux_sandbox_security_context__init(&q->pod_sc);
	runtime__v1__container_config__init(&q->c);
	runtime__v1__container_metadata__init(&q->meta);
	runtime__v1__image_spec__init(&q->image);
	runtime__v1__linux_container_config__init(&q->lin);
	runtime__v1__linux_container_resources__init(&q->res);
	runtime__v1__linux_container_security_context__init(&q->sc);
	runtime__v1__namespace_option__init(&q->ns);
	runtime__v1__capability__init(&q->caps);
	runtime__v1__security_profile__init(&q->seccomp);
	runtime__v1__security_profile__init(&q->apparmor);
	runtime__v1__int64_value__init(&q->uid);
	runtime__v1__int64_value__init(&q->gid);
	q->pod_meta.name = strs("web");
	q->pod_meta.namespace_ = strs("default");
	q->pod_meta.uid = strs("u-1");
	q->pod.metadata = &q->pod_meta;
	q->pod_linux.security_context = &q->pod_sc;
	q->pod.linux = &q->pod_linux;
	q->meta.name = strs("app");
	q->image.image = strs("example/app:1");
	q->c.metadata = &q->meta;
	q->c.image = &q->image;
	q->sc.namespace_options = &q->ns;
	q->lin.resources = &q->res;
	q->lin.security_context = &q->sc;
	q->c.linux = &q->lin;
	q->config.entrypoint = sh;
	q->in = (struct oci_spec_input){.pod = &q->pod,
					.container = &q->c,
					.image = &q->config,
					.container_id = "c1",
					.sandbox_id = "s1",
					.hostname = "web-host"};
}

static struct json_object *build(struct req *q)
{
	struct err err = ERR_INIT;
	struct json_object *spec;
	char *json = NULL;

	if (oci_spec_build(&q->in, &json, &err) < 0)
		fail_msg("%s", err.msg);
	spec = json_tokener_parse(json);
	assert_non_null(spec);
	free(json);
	return spec;
}

static void refused_with(struct req *q, enum err_status status, const char *words)
{
	struct err err = ERR_INIT;
	char *json = NULL;

	assert_true(oci_spec_build(&q->in, &json, &err) < 0);
	assert_null(json);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" does not contain \"%s\"", err.msg, words);
	assert_int_equal(err.status, status);
}

static void refused(struct req *q, const char *words)
{
	refused_with(q, ERR_INVALID_ARGUMENT, words);
}

/* A value by path ("process.user.uid"), NULL if missing. */
static struct json_object *at(struct json_object *json, const char *path)
{
	char *copy CLEANUP_FREE = strdup(path), *save = NULL;

	for (char *key = strtok_r(copy, ".", &save); key && json; key = strtok_r(NULL, ".", &save)) {
		struct json_object *next = NULL;

		if (json_object_is_type(json, json_type_array))
			next = json_object_array_get_idx(json, (size_t)atoi(key));
		else
			json_object_object_get_ex(json, key, &next);
		json = next;
	}
	return json;
}

static const char *text_at(struct json_object *json, const char *path)
{
	struct json_object *value = at(json, path);

	return value ? json_object_to_json_string_ext(value,
						      JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
		     : "(missing)";
}

/* Builds, compares one value's JSON, forgets. */
static void gives(struct req *q, const char *path, const char *expected)
{
	struct json_object *spec = build(q);

	assert_string_equal(text_at(spec, path), expected);
	json_object_put(spec);
}

static struct json_object *mount_at(struct json_object *spec, const char *destination, size_t *ret_index)
{
	struct json_object *mounts = at(spec, "mounts");

	for (size_t i = 0; i < json_object_array_length(mounts); i++) {
		struct json_object *m = json_object_array_get_idx(mounts, i);

		if (str_eq(json_object_get_string(at(m, "destination")), destination)) {
			if (ret_index)
				*ret_index = i;
			return m;
		}
	}
	return NULL;
}

/* ---- process ------------------------------------------------------------------------------------------- */

static void args_follow_the_rules_of_command_and_entrypoint(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	q.config.entrypoint = V("/entry", "-x");
	q.config.cmd = V("cmd", "1");
	gives(&q, "process.args", "[\"/entry\",\"-x\",\"cmd\",\"1\"]");
	q.c.args = V("a", "b");
	q.c.n_args = 2;
	gives(&q, "process.args", "[\"/entry\",\"-x\",\"a\",\"b\"]");
	q.c.command = V("/c");
	q.c.n_command = 1;
	gives(&q, "process.args", "[\"/c\",\"a\",\"b\"]");
	q.c.n_args = 0;
	gives(&q, "process.args", "[\"/c\"]");
	q.c.n_command = 0;
	q.config.entrypoint = V("");
	gives(&q, "process.args", "[\"cmd\",\"1\"]");
	q.config.cmd = NULL;
	refused(&q, "no command");
}

static void env_image_then_request_with_defaults(void **state)
{
	Runtime__V1__KeyValue a = RUNTIME__V1__KEY_VALUE__INIT, b = RUNTIME__V1__KEY_VALUE__INIT;
	Runtime__V1__KeyValue *envs[] = {&a, &b};
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "process.env",
	      "[\"HOSTNAME=web-host\",\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
	      "bin\"]");
	q.config.env = V("PATH=/image", "A=1", "nonsense", "A=2", "B=b");
	a.key = strs("B");
	a.value = strs("mine=1");
	b.key = strs("EMPTY");
	b.value = strs("");
	q.c.envs = envs;
	q.c.n_envs = 2;
	gives(&q, "process.env", "[\"HOSTNAME=web-host\",\"PATH=/image\",\"A=2\",\"B=mine=1\",\"EMPTY=\"]");
	q.c.tty = true;
	gives(&q, "process.env.0", "\"TERM=xterm\"");
	gives(&q, "process.terminal", "true");
	a.key = strs("X=Y");
	refused(&q, "envs[0].key");
	a.key = strs("");
	refused(&q, "envs[0].key");
}

static void env_ten_thousand_variables_are_quick(void **state)
{
	enum { N = 10000 };
	Runtime__V1__KeyValue *kv = calloc(N, sizeof(*kv)), **envs = calloc(N, sizeof(*envs));
	int64_t begin = now_monotonic_ns();
	struct json_object *spec;
	struct req q;

	(void)state;
	init(&q);
	for (size_t i = 0; i < N; i++) {
		runtime__v1__key_value__init(&kv[i]);
		kv[i].key = xasprintf("KEY_%zu", i % (N / 2));
		kv[i].value = strs("v");
		envs[i] = &kv[i];
	}
	q.c.envs = envs;
	q.c.n_envs = N;
	spec = build(&q);
	assert_int_equal(json_object_array_length(at(spec, "process.env")), N / 2 + 2);
	assert_true(now_monotonic_ns() - begin < 5 * NS_PER_SEC);
	json_object_put(spec);
	for (size_t i = 0; i < N; i++)
		free(kv[i].key);
	free(kv);
	free(envs);
}

static void cwd_request_wins_over_image(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "process.cwd", "\"/\"");
	q.config.working_dir = strs("/srv");
	gives(&q, "process.cwd", "\"/srv\"");
	q.c.working_dir = strs("/tmp");
	gives(&q, "process.cwd", "\"/tmp\"");
	q.c.working_dir = strs("tmp");
	refused(&q, "working directory \"tmp\"");
}

static void user_groups_merge_and_strict(void **state)
{
	uint32_t groups[] = {50, 20};
	struct image_user user = {.uid = 5, .gid = 6, .groups = groups, .n_groups = 2};
	int64_t extra[] = {1000, 20};
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "process.user", "{\"uid\":0,\"gid\":0,\"additionalGids\":[0]}");
	q.in.user = &user;
	gives(&q, "process.user", "{\"uid\":5,\"gid\":6,\"additionalGids\":[6,20,50]}");
	q.sc.supplemental_groups = extra;
	q.sc.n_supplemental_groups = 2;
	gives(&q, "process.user", "{\"uid\":5,\"gid\":6,\"additionalGids\":[6,20,50,1000]}");
	q.sc.supplemental_groups_policy = RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
	gives(&q, "process.user", "{\"uid\":5,\"gid\":6,\"additionalGids\":[6,20,1000]}");
	q.sc.run_as_user = &q.uid;
	q.uid.value = 1234;
	q.sc.run_as_group = &q.gid;
	q.gid.value = 4321;
	gives(&q, "process.user", "{\"uid\":1234,\"gid\":4321,\"additionalGids\":[20,1000,4321]}");
	q.sc.supplemental_groups_policy = (Runtime__V1__SupplementalGroupsPolicy)7;
	refused(&q, "supplemental_groups_policy");
}

static void user_bad_ones_are_refused(void **state)
{
	int64_t extra[] = {-1};
	struct req q;

	(void)state;
	init(&q);
	q.sc.run_as_group = &q.gid;
	q.gid.value = 1;
	refused(&q, "run_as_group is set without run_as_user");
	q.sc.run_as_user = &q.uid;
	q.uid.value = -1;
	refused(&q, "run_as_user -1");
	q.uid.value = 1LL << 32;
	refused(&q, "run_as_user");
	init(&q);
	q.sc.supplemental_groups = extra;
	q.sc.n_supplemental_groups = 1;
	refused(&q, "supplemental_groups");
	init(&q);
	q.sc.run_as_username = strs("nobody");
	refused(&q, "run_as_username \"nobody\"");
}

static void process_limits_privileges_and_scores(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "process.rlimits", "[{\"type\":\"RLIMIT_NOFILE\",\"hard\":524288,\"soft\":1024}]");
	gives(&q, "process.noNewPrivileges", "false");
	gives(&q, "process.oomScoreAdj", "0");
	gives(&q, "root", "{\"path\":\"rootfs\",\"readonly\":false}");
	q.sc.no_new_privs = true;
	q.sc.readonly_rootfs = true;
	q.res.oom_score_adj = 999;
	gives(&q, "process.noNewPrivileges", "true");
	gives(&q, "process.oomScoreAdj", "999");
	gives(&q, "root.readonly", "true");
	q.res.oom_score_adj = 1001;
	refused(&q, "oom_score_adj 1001");
}

static void annotations_are_those_of_containerd_only(void **state)
{
	Runtime__V1__ContainerConfig__AnnotationsEntry entry =
		RUNTIME__V1__CONTAINER_CONFIG__ANNOTATIONS_ENTRY__INIT;
	Runtime__V1__ContainerConfig__AnnotationsEntry *list[] = {&entry};
	struct req q;

	(void)state;
	init(&q);
	entry.key = strs("run.oci.handler");
	entry.value = strs("wasm");
	q.c.annotations = list;
	q.c.n_annotations = 1;
	gives(&q, "annotations",
	      "{\"io.kubernetes.cri.container-type\":\"container\",\"io.kubernetes.cri.container-name\":"
	      "\"app\","
	      "\"io.kubernetes.cri.image-name\":\"example/app:1\",\"io.kubernetes.cri.sandbox-id\":\"s1\","
	      "\"io.kubernetes.cri.sandbox-name\":\"web\",\"io.kubernetes.cri.sandbox-namespace\":"
	      "\"default\","
	      "\"io.kubernetes.cri.sandbox-uid\":\"u-1\"}");
}

/* ---- capabilities -------------------------------------------------------------------------------------- */

static void caps_default_add_drop_all(void **state)
{
	struct req q;
	struct json_object *spec;

	(void)state;
	init(&q);
	gives(&q, "process.capabilities.bounding",
	      "[\"CAP_CHOWN\",\"CAP_DAC_OVERRIDE\",\"CAP_FOWNER\",\"CAP_FSETID\",\"CAP_KILL\",\"CAP_SETGID\","
	      "\"CAP_SETUID\",\"CAP_SETPCAP\",\"CAP_NET_BIND_SERVICE\",\"CAP_NET_RAW\",\"CAP_SYS_CHROOT\","
	      "\"CAP_MKNOD\",\"CAP_AUDIT_WRITE\",\"CAP_SETFCAP\"]");
	gives(&q, "process.capabilities.inheritable", "[]");
	gives(&q, "process.capabilities.ambient", "[]");
	q.sc.capabilities = &q.caps;
	q.caps.drop_capabilities = V("ALL");
	q.caps.n_drop_capabilities = 1;
	gives(&q, "process.capabilities.effective", "[]");
	q.caps.add_capabilities = V("NET_ADMIN", "cap_sys_time");
	q.caps.n_add_capabilities = 2;
	gives(&q, "process.capabilities.permitted", "[\"CAP_NET_ADMIN\",\"CAP_SYS_TIME\"]");
	q.caps.add_capabilities = V("ALL");
	q.caps.n_add_capabilities = 1;
	q.caps.drop_capabilities = V("CHOWN", "CHECKPOINT_RESTORE");
	q.caps.n_drop_capabilities = 2;
	spec = build(&q);
	assert_int_equal(json_object_array_length(at(spec, "process.capabilities.bounding")), 39);
	assert_string_equal(text_at(spec, "process.capabilities.bounding.0"), "\"CAP_DAC_OVERRIDE\"");
	json_object_put(spec);
	q.caps.drop_capabilities = V("FLYING");
	q.caps.n_drop_capabilities = 1;
	refused(&q, "capabilities.drop_capabilities[0]: \"FLYING\"");
}

static void caps_ambient_reach_all_sets(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	q.sc.capabilities = &q.caps;
	q.caps.drop_capabilities = V("ALL");
	q.caps.n_drop_capabilities = 1;
	q.caps.add_ambient_capabilities = V("NET_BIND_SERVICE");
	q.caps.n_add_ambient_capabilities = 1;
	gives(&q, "process.capabilities",
	      "{\"bounding\":[\"CAP_NET_BIND_SERVICE\"],\"effective\":[\"CAP_NET_BIND_SERVICE\"],"
	      "\"permitted\":[\"CAP_NET_BIND_SERVICE\"],\"inheritable\":[\"CAP_NET_BIND_SERVICE\"],"
	      "\"ambient\":[\"CAP_NET_BIND_SERVICE\"]}");
}

static void privileged_means_the_vm_but_not_its_agent(void **state)
{
	struct req q;
	struct json_object *spec, *rules;

	(void)state;
	init(&q);
	q.sc.privileged = true;
	refused(&q, "privileged: the pod sandbox is not privileged");
	q.pod_sc.privileged = true;
	q.sc.seccomp = &q.seccomp;
	q.sc.masked_paths = V("/proc/kcore");
	q.sc.n_masked_paths = 1;
	q.sc.apparmor = &q.apparmor;
	q.apparmor.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	spec = build(&q);
	assert_int_equal(json_object_array_length(at(spec, "process.capabilities.bounding")), 41);
	assert_null(at(spec, "linux.seccomp"));
	assert_string_equal(text_at(spec, "linux.maskedPaths"), "[]");
	assert_string_equal(text_at(mount_at(spec, "/sys", NULL), "options.3"), "\"rw\"");
	assert_string_equal(text_at(mount_at(spec, "/sys/fs/cgroup", NULL), "options.4"), "\"rw\"");
	/* An allow-list, and neither pmem (block-extended, 259) nor vsock (misc, dynamic minor) on it. */
	rules = at(spec, "linux.resources.devices");
	assert_string_equal(text_at(rules, "0"), "{\"allow\":false,\"access\":\"rwm\"}");
	for (size_t i = 1; i < json_object_array_length(rules); i++) {
		struct json_object *rule = json_object_array_get_idx(rules, i);
		int major = json_object_get_int(at(rule, "major"));

		assert_non_null(at(rule, "major"));
		assert_true(major == 1 || major == 5 || major == 7 || major == 10 || major == 136);
		if (major == 10)
			assert_non_null(at(rule, "minor"));
	}
	/* And a cgroup namespace, without which the agent's cgroup would be in sight. */
	assert_string_equal(text_at(spec, "linux.namespaces.1"), "{\"type\":\"cgroup\"}");
	json_object_put(spec);
}

/* ---- namespaces ---------------------------------------------------------------------------------------- */

static void namespaces_by_mode(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "linux.namespaces",
	      "[{\"type\":\"mount\"},{\"type\":\"cgroup\"},{\"type\":\"pid\",\"path\":\"" GUEST_PIDNS "\"}]");
	q.ns.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	q.ns.ipc = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	gives(&q, "linux.namespaces",
	      "[{\"type\":\"mount\"},{\"type\":\"cgroup\"},{\"type\":\"ipc\"},{\"type\":\"pid\"}]");
	q.ns.ipc = RUNTIME__V1__NAMESPACE_MODE__POD;
	q.ns.pid = RUNTIME__V1__NAMESPACE_MODE__NODE;
	gives(&q, "linux.namespaces", "[{\"type\":\"mount\"},{\"type\":\"cgroup\"}]");
	q.ns.pid = RUNTIME__V1__NAMESPACE_MODE__TARGET;
	refused(&q, "target_id");
	q.ns.target_id = strs("other");
	q.in.target_pid_path = "/proc/77/ns/pid";
	gives(&q, "linux.namespaces.2", "{\"type\":\"pid\",\"path\":\"/proc/77/ns/pid\"}");
	gives(&q, "linux.cgroupsPath", "\"" GUEST_CGROUP_PARENT "/c1\"");
}

static void namespaces_that_cannot_be_had(void **state)
{
	Runtime__V1__UserNamespace userns = RUNTIME__V1__USER_NAMESPACE__INIT;
	struct req q;

	(void)state;
	init(&q);
	q.ns.network = RUNTIME__V1__NAMESPACE_MODE__NODE;
	refused(&q, "host's network");
	init(&q);
	q.ns.ipc = RUNTIME__V1__NAMESPACE_MODE__NODE;
	refused(&q, "host's IPC");
	init(&q);
	q.ns.userns_options = &userns;
	userns.mode = RUNTIME__V1__NAMESPACE_MODE__POD;
	refused_with(&q, ERR_UNIMPLEMENTED, "user namespaces");
	userns.mode = RUNTIME__V1__NAMESPACE_MODE__NODE;
	json_object_put(build(&q));
}

/* ---- mounts -------------------------------------------------------------------------------------------- */

static void mounts_defaults_and_the_pods_files(void **state)
{
	struct req q;
	struct json_object *spec;

	(void)state;
	init(&q);
	q.in.hostname_path = "/share/hostname";
	q.in.hosts_path = "/share/hosts";
	q.in.resolv_path = "/share/resolv.conf";
	spec = build(&q);
	assert_string_equal(text_at(mount_at(spec, "/proc", NULL), "type"), "\"proc\"");
	assert_string_equal(text_at(mount_at(spec, "/sys", NULL), "options"),
			    "[\"nosuid\",\"noexec\",\"nodev\",\"ro\"]");
	assert_string_equal(text_at(mount_at(spec, "/dev/shm", NULL), "source"), "\"" GUEST_SHM_DIR "\"");
	assert_string_equal(text_at(mount_at(spec, "/etc/hosts", NULL), "source"), "\"/share/hosts\"");
	assert_string_equal(text_at(mount_at(spec, "/etc/hostname", NULL), "options"),
			    "[\"rbind\",\"rprivate\",\"rw\"]");
	json_object_put(spec);
	q.ns.ipc = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	q.sc.readonly_rootfs = true;
	spec = build(&q);
	assert_string_equal(text_at(mount_at(spec, "/dev/shm", NULL), "type"), "\"tmpfs\"");
	assert_string_equal(text_at(mount_at(spec, "/etc/hosts", NULL), "options.2"), "\"ro\"");
	json_object_put(spec);
}

static void mounts_volumes_are_sorted_and_win_over_defaults(void **state)
{
	Runtime__V1__Mount m[4];
	Runtime__V1__Mount *list[] = {&m[0], &m[1], &m[2], &m[3]};
	struct oci_mount own[] = {
		{"/share/c1/mounts/0", "/data/deep/er", true, false},
		{"/share/c1/mounts/1", "/data/", false, false},
		{"/share/c1/mounts/2", "//etc/./hosts", true, true},
		{"/share/c1/mounts/3", "/dev/shm", false, false},
	};
	struct req q;
	struct json_object *spec;
	size_t deep, top, sys;

	(void)state;
	init(&q);
	for (size_t i = 0; i < 4; i++) {
		runtime__v1__mount__init(&m[i]);
		m[i].container_path = strs(own[i].destination);
		m[i].readonly = own[i].read_only;
		m[i].recursive_read_only = own[i].recursive_read_only;
	}
	m[1].propagation = RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER;
	q.c.mounts = list;
	q.c.n_mounts = 4;
	q.in.mounts = own;
	q.in.n_mounts = 4;
	q.in.hosts_path = "/share/hosts";
	spec = build(&q);
	assert_string_equal(text_at(mount_at(spec, "/data/deep/er", &deep), "options"),
			    "[\"rbind\",\"rprivate\",\"ro\"]");
	assert_string_equal(text_at(mount_at(spec, "/data", &top), "options"),
			    "[\"rbind\",\"rslave\",\"rw\"]");
	assert_string_equal(text_at(mount_at(spec, "/etc/hosts", NULL), "options"),
			    "[\"rbind\",\"rprivate\",\"rro\"]");
	assert_string_equal(text_at(mount_at(spec, "/etc/hosts", NULL), "source"), "\"/share/c1/mounts/2\"");
	assert_string_equal(text_at(mount_at(spec, "/dev/shm", NULL), "source"), "\"/share/c1/mounts/3\"");
	assert_non_null(mount_at(spec, "/sys", &sys));
	assert_true(sys < top && top < deep);
	assert_string_equal(text_at(spec, "linux.rootfsPropagation"), "\"rslave\"");
	json_object_put(spec);
}

static void mounts_volume_over_dev_takes_the_defaults_below_away(void **state)
{
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *list[] = {&m};
	struct oci_mount own = {"/share/c1/mounts/0", "/dev", false, false};
	struct req q;
	struct json_object *spec;

	(void)state;
	init(&q);
	m.container_path = strs("/dev");
	q.c.mounts = list;
	q.c.n_mounts = 1;
	q.in.mounts = &own;
	q.in.n_mounts = 1;
	spec = build(&q);
	assert_null(mount_at(spec, "/dev/pts", NULL));
	assert_null(mount_at(spec, "/dev/shm", NULL));
	assert_string_equal(text_at(mount_at(spec, "/dev", NULL), "type"), "\"bind\"");
	json_object_put(spec);
}

static void mounts_that_cannot_be_had(void **state)
{
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *list[] = {&m};
	struct req q;

	(void)state;
	init(&q);
	q.c.mounts = list;
	q.c.n_mounts = 1;
	m.container_path = strs("relative");
	refused(&q, "mounts[0].container_path \"relative\"");
	m.container_path = strs("/a/../..");
	refused(&q, "not the root");
	m.container_path = strs("/data");
	m.propagation = RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL;
	refused(&q, "BIDIRECTIONAL cannot be had");
	m.propagation = RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER;
	m.recursive_read_only = true;
	refused(&q, "recursive_read_only without readonly");
	m.readonly = true;
	refused(&q, "needs private propagation");
}

/* ---- devices ------------------------------------------------------------------------------------------- */

static void devices_of_the_guest_only(void **state)
{
	Runtime__V1__Device d = RUNTIME__V1__DEVICE__INIT, *list[] = {&d};
	Runtime__V1__CDIDevice cdi = RUNTIME__V1__CDIDEVICE__INIT, *cdis[] = {&cdi};
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "linux.devices", "[]");
	q.c.devices = list;
	q.c.n_devices = 1;
	d.host_path = strs("/dev/fuse");
	d.container_path = strs("/dev/myfuse");
	d.permissions = strs("rw");
	gives(&q, "linux.devices",
	      "[{\"path\":\"/dev/"
	      "myfuse\",\"type\":\"c\",\"major\":10,\"minor\":229,\"fileMode\":438,\"uid\":0,\"gid\":0}]");
	gives(&q, "linux.resources.devices",
	      "[{\"allow\":false,\"access\":\"rwm\"},"
	      "{\"allow\":true,\"type\":\"c\",\"major\":10,\"minor\":229,\"access\":\"rw\"}]");
	d.permissions = strs("rx");
	refused(&q, "devices[0].permissions");
	d.permissions = strs("rwm");
	d.host_path = strs("/dev/sda");
	refused(&q, "host device \"/dev/sda\" cannot be given");
	d.host_path = strs("/dev/vsock");
	refused(&q, "/dev/vsock");
	q.c.n_devices = 0;
	q.c.cdi_devices = cdis;
	q.c.n_cdi_devices = 1;
	refused_with(&q, ERR_UNIMPLEMENTED, "CDI_devices");
}

/* ---- resources ----------------------------------------------------------------------------------------- */

static void resources_of_create_and_update(void **state)
{
	Runtime__V1__HugepageLimit h0 = RUNTIME__V1__HUGEPAGE_LIMIT__INIT,
				   h1 = RUNTIME__V1__HUGEPAGE_LIMIT__INIT;
	Runtime__V1__HugepageLimit *huge[] = {&h0, &h1};
	Runtime__V1__LinuxContainerResources__UnifiedEntry u =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__UNIFIED_ENTRY__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry *unified[] = {&u};
	struct err err = ERR_INIT;
	char *json = NULL;
	struct req q;

	(void)state;
	init(&q);
	assert_int_equal(oci_spec_resources(&q.res, &json, &err), 0);
	assert_string_equal(json, "{}");
	free(json);
	q.res.cpu_shares = 1;
	q.res.cpu_quota = 50000;
	q.res.cpu_period = 100000;
	q.res.cpuset_cpus = strs("0-1");
	q.res.memory_limit_in_bytes = 64 << 20;
	h0.page_size = strs("1GB");
	h1.page_size = strs("2MB");
	h1.limit = 4 << 20;
	q.res.hugepage_limits = huge;
	q.res.n_hugepage_limits = 2;
	u.key = strs("memory.high");
	u.value = strs("60000000");
	q.res.unified = unified;
	q.res.n_unified = 1;
	assert_int_equal(oci_spec_resources(&q.res, &json, &err), 0);
	assert_string_equal(json,
			    "{\"cpu\":{\"shares\":2,\"quota\":50000,\"period\":100000,\"cpus\":\"0-1\"},"
			    "\"memory\":{\"limit\":67108864,\"swap\":67108864},"
			    "\"hugepageLimits\":[{\"pageSize\":\"2MB\",\"limit\":4194304}],"
			    "\"unified\":{\"memory.high\":\"60000000\"}}");
	free(json);
	gives(&q, "linux.resources.memory.limit", "67108864");
	q.res.memory_swap_limit_in_bytes = 128 << 20;
	gives(&q, "linux.resources.memory.swap", "134217728");
}

static void resources_bad_ones_are_refused(void **state)
{
	Runtime__V1__HugepageLimit h = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, *huge[] = {&h};
	Runtime__V1__LinuxContainerResources__UnifiedEntry u =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__UNIFIED_ENTRY__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry *unified[] = {&u};
	static const char *const keys[] = {"../cgroup.procs", "cgroup.kill", "memory", "", "a/b.c"};
	struct req q;

	(void)state;
	init(&q);
	q.res.cpu_shares = -1;
	refused(&q, "cpu_shares");
	init(&q);
	q.res.cpu_period = 10;
	refused(&q, "cpu_period");
	init(&q);
	q.res.cpu_quota = 10;
	refused(&q, "cpu_quota");
	init(&q);
	q.res.memory_limit_in_bytes = -5;
	refused(&q, "memory_limit_in_bytes");
	init(&q);
	q.res.memory_limit_in_bytes = 100;
	q.res.memory_swap_limit_in_bytes = 50;
	refused(&q, "memory_swap_limit_in_bytes");
	init(&q);
	h.page_size = strs("16GB");
	h.limit = 1;
	q.res.hugepage_limits = huge;
	q.res.n_hugepage_limits = 1;
	refused(&q, "hugepage_limits[0]");
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		init(&q);
		u.key = strs(keys[i]);
		q.res.unified = unified;
		q.res.n_unified = 1;
		refused(&q, "unified");
	}
}

/* ---- profiles ------------------------------------------------------------------------------------------ */

static bool rule_names(struct json_object *seccomp, const char *action, const char *name)
{
	struct json_object *rules = at(seccomp, "syscalls");

	for (size_t i = 0; i < json_object_array_length(rules); i++) {
		struct json_object *rule = json_object_array_get_idx(rules, i), *names = at(rule, "names");

		if (!str_eq(json_object_get_string(at(rule, "action")), action) || at(rule, "args"))
			continue;
		for (size_t j = 0; j < json_object_array_length(names); j++)
			if (str_eq(json_object_get_string(json_object_array_get_idx(names, j)), name))
				return true;
	}
	return false;
}

static void seccomp_default_follows_the_capabilities(void **state)
{
	struct req q;
	struct json_object *spec, *profile;

	(void)state;
	init(&q);
	gives(&q, "linux.seccomp", "(missing)");
	q.sc.seccomp = &q.seccomp;
	spec = build(&q);
	profile = at(spec, "linux.seccomp");
	assert_string_equal(text_at(profile, "defaultAction"), "\"SCMP_ACT_ERRNO\"");
	assert_string_equal(text_at(profile, "defaultErrnoRet"), "38");
	assert_true(rule_names(profile, "SCMP_ACT_ALLOW", "openat"));
	assert_true(rule_names(profile, "SCMP_ACT_ALLOW", "chroot")); /* CAP_SYS_CHROOT is a default one */
	assert_true(rule_names(profile, "SCMP_ACT_ERRNO", "mount"));
	assert_true(rule_names(profile, "SCMP_ACT_ERRNO", "keyctl"));
	assert_false(rule_names(profile, "SCMP_ACT_ALLOW", "mount"));
	assert_false(rule_names(profile, "SCMP_ACT_ALLOW", "clone"));
	assert_false(rule_names(profile, "SCMP_ACT_ALLOW", "clone3"));
	assert_false(rule_names(profile, "SCMP_ACT_ALLOW", "socket"));
	json_object_put(spec);
	q.sc.capabilities = &q.caps;
	q.caps.add_capabilities = V("SYS_ADMIN");
	q.caps.n_add_capabilities = 1;
	q.caps.drop_capabilities = V("SYS_CHROOT");
	q.caps.n_drop_capabilities = 1;
	spec = build(&q);
	profile = at(spec, "linux.seccomp");
	assert_true(rule_names(profile, "SCMP_ACT_ALLOW", "mount"));
	assert_false(rule_names(profile, "SCMP_ACT_ERRNO", "mount"));
	assert_true(rule_names(profile, "SCMP_ACT_ALLOW", "clone3"));
	assert_true(rule_names(profile, "SCMP_ACT_ERRNO", "chroot"));
	assert_false(rule_names(profile, "SCMP_ACT_ALLOW", "socket")); /* vsock stays shut */
	json_object_put(spec);
	q.seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	gives(&q, "linux.seccomp", "(missing)");
}

/* Which rule of the profile takes socket(family): "ALLOW", "ERRNO" or "" (the default). */
static const char *socket_rule(struct json_object *profile, uint64_t family)
{
	struct json_object *rules = at(profile, "syscalls");
	const char *found = "";

	for (size_t i = 0; i < json_object_array_length(rules); i++) {
		struct json_object *rule = json_object_array_get_idx(rules, i);
		uint64_t mask, value;

		if (!at(rule, "args") || !str_eq(json_object_get_string(at(rule, "names.0")), "socket"))
			continue;
		mask = (uint64_t)json_object_get_int64(at(rule, "args.0.value"));
		value = (uint64_t)json_object_get_int64(at(rule, "args.0.valueTwo"));
		if ((family & mask) != value)
			continue;
		assert_string_equal(found, ""); /* no two rules for one family */
		found = json_object_get_string(at(rule, "action")) + strlen("SCMP_ACT_");
	}
	return found;
}

static void seccomp_default_vsock_is_shut_whatever_the_upper_bits(void **state)
{
	struct req q;
	struct json_object *spec, *profile;

	(void)state;
	init(&q);
	q.sc.seccomp = &q.seccomp;
	spec = build(&q);
	profile = at(spec, "linux.seccomp");
	for (uint64_t upper = 0; upper < 2; upper++)
		for (uint64_t family = 0; family < 48; family++)
			assert_string_equal(socket_rule(profile, upper << 32 | family),
					    family == 38 || family == 40 ? "ERRNO" : "ALLOW");
	assert_string_equal(socket_rule(profile, 48), "");
	json_object_put(spec);
}

static void seccomp_localhost_is_checked_and_taken_over(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	q.sc.seccomp = &q.seccomp;
	q.seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	q.seccomp.localhost_ref = strs("/var/lib/kubelet/seccomp/p.json");
	assert_string_equal(oci_spec_seccomp_path(&q.c), "/var/lib/kubelet/seccomp/p.json");
	refused(&q, "was not read");
	q.in.seccomp_profile_json =
		"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86_64\"],\"comment\":"
		"7,\"syscalls\":["
		"{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":5,\"args\":[]},"
		"{\"name\":\"socket\",\"action\":\"SCMP_ACT_ERRNO\",\"args\":[{\"index\":0,\"value\":40,"
		"\"op\":\"SCMP_CMP_EQ\"}]}]}\n";
	gives(&q, "linux.seccomp",
	      "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86_64\"],\"syscalls\":["
	      "{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":5},"
	      "{\"names\":[\"socket\"],\"action\":\"SCMP_ACT_ERRNO\","
	      "\"args\":[{\"index\":0,\"value\":40,\"valueTwo\":0,\"op\":\"SCMP_CMP_EQ\"}]}]}");
	q.seccomp.localhost_ref = strs("relative.json");
	refused(&q, "not an absolute path");
	q.seccomp.localhost_ref = strs("localhost//p.json");
	assert_string_equal(oci_spec_seccomp_path(&q.c), "/p.json");
}

static void seccomp_localhost_bad_ones_are_refused(void **state)
{
	static const char *const bad[][2] = {
		{"", "not valid JSON"},
		{"[]", "not an object"},
		{"{} x", "not valid JSON"},
		{"{}", "\"defaultAction\""},
		{"{\"defaultAction\":\"SCMP_ACT_NOTIFY\"}", "\"SCMP_ACT_NOTIFY\" is unknown"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultErrnoRet\":1}", "goes with SCMP_ACT_ERRNO"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"/x\"}", "listenerPath"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":{}}", "\"syscalls\""},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_LOG\"}]}",
		 "syscalls[0]: \"names\""},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"x\"],\"action\":\"SCMP_"
		 "ACT_LOG\","
		 "\"args\":[{\"index\":6,\"op\":\"SCMP_CMP_EQ\"}]}]}",
		 "args[0]: \"index\""},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"x86\"]}", "architectures[0]"},
	};
	struct req q;

	(void)state;
	init(&q);
	q.sc.seccomp = &q.seccomp;
	q.seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	q.seccomp.localhost_ref = strs("/p.json");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		q.in.seccomp_profile_json = bad[i][0];
		refused(&q, "seccomp profile /p.json");
		refused(&q, bad[i][1]);
	}
}

static void apparmor_by_name_is_refused(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	q.sc.apparmor = &q.apparmor;
	json_object_put(build(&q)); /* RuntimeDefault */
	q.apparmor.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	q.apparmor.localhost_ref = strs("mine");
	refused(&q, "AppArmor profile \"mine\"");
}

static void masked_paths_are_what_the_request_says(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "linux.maskedPaths", "[]");
	q.sc.masked_paths = V("/proc/kcore", "/sys/firmware");
	q.sc.n_masked_paths = 2;
	q.sc.readonly_paths = V("/proc/sys");
	q.sc.n_readonly_paths = 1;
	gives(&q, "linux.maskedPaths", "[\"/proc/kcore\",\"/sys/firmware\"]");
	gives(&q, "linux.readonlyPaths", "[\"/proc/sys\"]");
	q.sc.readonly_paths = V("proc");
	refused(&q, "readonly_paths[0]");
}

static void check_refuses_before_anything_is_prepared(void **state)
{
	Runtime__V1__Device d = RUNTIME__V1__DEVICE__INIT, *list[] = {&d};
	struct err err = ERR_INIT;
	struct req q;

	(void)state;
	init(&q);
	q.sc.run_as_username = strs("nobody");
	q.sc.seccomp = &q.seccomp;
	q.seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	q.seccomp.localhost_ref = strs("/p.json");
	assert_int_equal(oci_spec_check(&q.in, &err), 0);
	q.c.devices = list;
	q.c.n_devices = 1;
	d.container_path = strs("/dev/x");
	d.host_path = strs("/dev/x");
	assert_true(oci_spec_check(&q.in, &err) < 0);
	q.c.n_devices = 0;
	q.res.cpu_period = 3;
	assert_true(oci_spec_check(&q.in, &err) < 0);
	assert_non_null(strstr(err.msg, "cpu_period"));
}

/* ---- exec ---------------------------------------------------------------------------------------------- */

static void exec_process_is_the_containers_own(void **state)
{
	struct err err = ERR_INIT;
	char *config = NULL, *json = NULL;
	struct json_object *process;
	struct req q;

	(void)state;
	init(&q);
	q.config.working_dir = strs("/srv");
	q.sc.no_new_privs = true;
	assert_int_equal(oci_spec_build(&q.in, &config, &err), 0);
	assert_int_equal(oci_spec_exec_process(config, V("ls", "-l"), true, &json, &err), 0);
	process = json_tokener_parse(json);
	assert_string_equal(text_at(process, "args"), "[\"ls\",\"-l\"]");
	assert_string_equal(text_at(process, "terminal"), "true");
	assert_string_equal(text_at(process, "cwd"), "\"/srv\"");
	assert_string_equal(text_at(process, "noNewPrivileges"), "true");
	assert_string_equal(text_at(process, "env.2"), "\"TERM=xterm\"");
	assert_non_null(at(process, "capabilities.bounding"));
	json_object_put(process);
	free(json);
	json = NULL;
	assert_true(oci_spec_exec_process(config, V(NULL), false, &json, &err) < 0);
	assert_true(oci_spec_exec_process("{", V("ls"), false, &json, &err) < 0);
	assert_true(oci_spec_exec_process("{\"process\":7}", V("ls"), false, &json, &err) < 0);
	assert_null(json);
	free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(args_follow_the_rules_of_command_and_entrypoint),
		cmocka_unit_test(env_image_then_request_with_defaults),
		cmocka_unit_test(env_ten_thousand_variables_are_quick),
		cmocka_unit_test(cwd_request_wins_over_image),
		cmocka_unit_test(user_groups_merge_and_strict),
		cmocka_unit_test(user_bad_ones_are_refused),
		cmocka_unit_test(process_limits_privileges_and_scores),
		cmocka_unit_test(annotations_are_those_of_containerd_only),
		cmocka_unit_test(caps_default_add_drop_all),
		cmocka_unit_test(caps_ambient_reach_all_sets),
		cmocka_unit_test(privileged_means_the_vm_but_not_its_agent),
		cmocka_unit_test(namespaces_by_mode),
		cmocka_unit_test(namespaces_that_cannot_be_had),
		cmocka_unit_test(mounts_defaults_and_the_pods_files),
		cmocka_unit_test(mounts_volumes_are_sorted_and_win_over_defaults),
		cmocka_unit_test(mounts_volume_over_dev_takes_the_defaults_below_away),
		cmocka_unit_test(mounts_that_cannot_be_had),
		cmocka_unit_test(devices_of_the_guest_only),
		cmocka_unit_test(resources_of_create_and_update),
		cmocka_unit_test(resources_bad_ones_are_refused),
		cmocka_unit_test(seccomp_default_follows_the_capabilities),
		cmocka_unit_test(seccomp_default_vsock_is_shut_whatever_the_upper_bits),
		cmocka_unit_test(seccomp_localhost_is_checked_and_taken_over),
		cmocka_unit_test(seccomp_localhost_bad_ones_are_refused),
		cmocka_unit_test(apparmor_by_name_is_refused),
		cmocka_unit_test(masked_paths_are_what_the_request_says),
		cmocka_unit_test(check_refuses_before_anything_is_prepared),
		cmocka_unit_test(exec_process_is_the_containers_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
