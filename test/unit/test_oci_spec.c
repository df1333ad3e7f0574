/* SPDX-License-Identifier: Apache-2.0 */
/* The OCI spec from CRI's words: each field's meaning, and the words for what cannot be had. */
#include "oci_spec_fixture.h"

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
	struct spec_user user = {.uid = 5, .gid = 6, .groups = groups, .n_groups = 2};
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

/* fault I2: HOME is "/" for a user that /etc/passwd does not name; the runtime sets the others'. */
static void env_home_of_a_user_without_an_entry_is_the_root(void **state)
{
	struct spec_user user = {.uid = 4711, .no_entry = true};
	struct req q;

	(void)state;
	init(&q);
	q.in.user = &user;
	gives(&q, "process.env",
	      "[\"HOSTNAME=web-host\",\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
	      "bin\",\"HOME=/\"]");
	q.config.env = V("HOME=/image");
	gives(&q, "process.env.2", "\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"");
	gives(&q, "process.env.1", "\"HOME=/image\"");
	q.config.env = NULL;
	user.no_entry = false;
	gives(&q, "process.env",
	      "[\"HOSTNAME=web-host\",\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
	      "bin\"]");
}

/* fault S2: limits that the kernel would derive from the VM's memory are set; the configured ones win. */
static void rlimits_do_not_depend_on_the_vm(void **state)
{
	char *const wanted[] = {(char *)(uintptr_t) "nproc=7:8", (char *)(uintptr_t) "core=0", NULL};
	struct req q;

	(void)state;
	init(&q);
	gives(&q, "process.rlimits",
	      "[{\"type\":\"RLIMIT_NOFILE\",\"hard\":524288,\"soft\":1024},"
	      "{\"type\":\"RLIMIT_NPROC\",\"hard\":18446744073709551615,\"soft\":18446744073709551615},"
	      "{\"type\":\"RLIMIT_SIGPENDING\",\"hard\":65536,\"soft\":65536}]");
	q.in.ulimits = wanted;
	gives(&q, "process.rlimits",
	      "[{\"type\":\"RLIMIT_NOFILE\",\"hard\":524288,\"soft\":1024},"
	      "{\"type\":\"RLIMIT_NPROC\",\"hard\":8,\"soft\":7},"
	      "{\"type\":\"RLIMIT_SIGPENDING\",\"hard\":65536,\"soft\":65536},"
	      "{\"type\":\"RLIMIT_CORE\",\"hard\":0,\"soft\":0}]");
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
		cmocka_unit_test(rlimits_do_not_depend_on_the_vm),
		cmocka_unit_test(env_home_of_a_user_without_an_entry_is_the_root),
		cmocka_unit_test(user_bad_ones_are_refused),
		cmocka_unit_test(process_limits_privileges_and_scores),
		cmocka_unit_test(annotations_are_those_of_containerd_only),
		cmocka_unit_test(caps_default_add_drop_all),
		cmocka_unit_test(caps_ambient_reach_all_sets),
		cmocka_unit_test(privileged_means_the_vm_but_not_its_agent),
		cmocka_unit_test(namespaces_by_mode),
		cmocka_unit_test(namespaces_that_cannot_be_had),
		cmocka_unit_test(exec_process_is_the_containers_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
