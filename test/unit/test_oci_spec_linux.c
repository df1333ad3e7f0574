/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel is told of a container: mounts, devices, resources, seccomp and other profiles. */
#include "oci_spec_fixture.h"

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
		{"/share/c1/mounts/0", "/data/deep/er", true, false, false},
		{"/share/c1/mounts/1", "/data/", false, false, false},
		{"/share/c1/mounts/2", "//etc/./hosts", true, true, false},
		{"/share/c1/mounts/3", "/dev/shm", false, false, false},
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

/* Fault I1: a volume of the image gives way to the request's mounts, at its place and above it. */
static void mounts_volume_of_the_image_gives_way(void **state)
{
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *list[] = {&m};
	struct oci_mount own[] = {
		{"/share/volumes/a", "/data", false, false, false},
		{"/share/c1/rootfs/data", "/data/", false, false, true},
		{"/share/c1/rootfs/data/x", "/data/x", false, false, true},
		{"/share/c1/rootfs/database", "/database", false, false, true},
	};
	struct req q;
	struct json_object *spec;

	(void)state;
	init(&q);
	m.container_path = strs("/data");
	q.c.mounts = list;
	q.c.n_mounts = 1;
	q.in.mounts = own;
	q.in.n_mounts = 4;
	spec = build(&q);
	assert_string_equal(text_at(mount_at(spec, "/data", NULL), "source"), "\"/share/volumes/a\"");
	assert_null(mount_at(spec, "/data/x", NULL));
	assert_string_equal(text_at(mount_at(spec, "/database", NULL), "options"),
			    "[\"rbind\",\"rprivate\",\"rw\"]");
	json_object_put(spec);
}

static void mounts_volume_over_dev_takes_the_defaults_below_away(void **state)
{
	Runtime__V1__Mount m = RUNTIME__V1__MOUNT__INIT, *list[] = {&m};
	struct oci_mount own = {"/share/c1/mounts/0", "/dev", false, false, false};
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
	refused(&q, "BIDIRECTIONAL is not possible");
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
	assert_int_equal(oci_spec_resources(&q.res, NULL, &json, &err), 0);
	assert_string_equal(json, "{}");
	free(json);
	q.res.cpu_shares = 1;
	q.res.cpu_quota = 50000;
	q.res.cpu_period = 100000;
	q.res.cpuset_cpus = strs("2-3");
	q.res.cpuset_mems = strs("1");
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
	assert_int_equal(oci_spec_resources(&q.res, "0-1", &json, &err), 0);
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
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultErrnoRet\":1}",
		 "is allowed with SCMP_ACT_ERRNO"},
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mounts_defaults_and_the_pods_files),
		cmocka_unit_test(mounts_volumes_are_sorted_and_win_over_defaults),
		cmocka_unit_test(mounts_volume_of_the_image_gives_way),
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
