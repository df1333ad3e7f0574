/* SPDX-License-Identifier: Apache-2.0 */
/* `crivisor check`: its records, its two printers, its exit status, and what it says of kernel, memory and
 * cgroups. Needs root. */
#include "check_fixture.h"

#include "base/version.h"
#include "vmm/cgroup.h"

#include <json-c/json.h>
#include <sys/utsname.h>

/* ---- records and printers ------------------------------------------------------------------------------ */

static char *printed(const struct check *check, int (*print)(const struct check *, FILE *))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_int_equal(print(check, out), 0);
	fclose(out);
	return text;
}

static const char *member(struct json_object *object, const char *key)
{
	struct json_object *value;

	assert_true(json_object_object_get_ex(object, key, &value));
	return json_object_get_string(value); /* NULL for null */
}

/* Parses the JSON, checks its shape against the findings that are there, and says whether it calls the host
 * ready. */
static bool assert_json(const char *text, size_t *ret_missing, size_t *ret_findings)
{
	struct json_object *o = json_tokener_parse(text), *value, *checks;
	size_t missing = 0;
	bool ready;

	assert_non_null(o);
	assert_string_equal(member(o, "version"), crv_version);
	assert_true(json_object_object_get_ex(o, "checks", &checks));
	assert_true(json_object_is_type(checks, json_type_array));
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *one = json_object_array_get_idx(checks, i);
		const char *status = member(one, "status");

		assert_int_equal(json_object_object_length(one), 4);
		assert_true(str_eq(status, "ok") || str_eq(status, "note") || str_eq(status, "missing"));
		assert_false(str_empty(member(one, "id")));
		assert_false(str_empty(member(one, "message")));
		if (str_eq(status, "ok"))
			assert_null(member(one, "fix"));
		else
			assert_false(str_empty(member(one, "fix")));
		missing += str_eq(status, "missing");
	}
	assert_true(json_object_object_get_ex(o, "missing", &value));
	assert_int_equal(json_object_get_int64(value), missing);
	assert_true(json_object_object_get_ex(o, "ready", &value));
	assert_true(json_object_is_type(value, json_type_boolean));
	ready = json_object_get_boolean(value);
	assert_int_equal(ready, missing == 0);
	*ret_missing = missing;
	*ret_findings = json_object_array_length(checks);
	json_object_put(o);
	return ready;
}

static void printers_say_the_same_of_hostile_words(void **state)
{
	struct fixture *f = *state;
	char *text CLEANUP_FREE = NULL, *json CLEANUP_FREE = NULL;
	size_t missing, n;

	check_ok(&f->check, "one", "well: %s", "\x1b[31m\"quoted\"\n\xff\xfe");
	check_add(&f->check, "two", CHECK_NOTE, "do\tthis", "a note");
	text = printed(&f->check, check_print_text);
	assert_string_equal(text, "ok       one  well:  [31m\"quoted\" ??\n"
				  "note     two  a note\n"
				  "              to fix: do this\n"
				  "pods can run here\n");
	json = printed(&f->check, check_print_json);
	assert_true(assert_json(json, &missing, &n));
	assert_int_equal(n, 2);
	assert_non_null(strstr(json, "well:  [31m\\\"quoted\\\" ??"));
	check_add(&f->check, "three", CHECK_MISSING, "fix", "gone");
	assert_int_equal(check_missing(&f->check), 1);
	free(text);
	free(json);
	text = printed(&f->check, check_print_text);
	assert_non_null(strstr(text, "MISSING  three  gone\n"));
	assert_non_null(strstr(text, "\n1 missing: pods cannot run here yet\n"));
	json = printed(&f->check, check_print_json);
	assert_false(assert_json(json, &missing, &n));
	assert_int_equal(missing, 1);
}

/* ---- host ---------------------------------------------------------------------------------------------- */

static void root_without_capabilities_is_named(void **state)
{
	struct fixture *f = *state;

	put(f, "proc/self/status", "Name:\tx\nCapEff:\t000001fff7ffffff\n", 0644); /* no CAP_MKNOD */
	check_host(&f->check);
	assert_found(f, "root", CHECK_MISSING, "CAP_MKNOD", "container");
	assert_true(f->check.privileged);
	forget(f);
	put(f, "proc/self/status", "Name:\tx\nCapEff:\t00000000a80425fb\n",
	    0644); /* an ordinary container's */
	check_host(&f->check);
	assert_found(f, "root", CHECK_MISSING, "CAP_SYS_ADMIN, CAP_NET_ADMIN", "container");
	assert_false(f->check.privileged);
	forget(f);
	put(f, "proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n", 0644);
	put(f, "proc/self/uid_map", "         0     100000      65536\n", 0644);
	check_host(&f->check);
	assert_found(f, "root", CHECK_MISSING, "user namespace", "root");
	forget(f);
	put(f, "proc/self/uid_map", "         0          0 4294967295\n", 0644);
	check_host(&f->check);
	assert_found(f, "root", CHECK_OK, "root", NULL);
	assert_true(f->check.privileged);
}

static void overlay_module_is_a_note_and_none_is_missing(void **state)
{
	struct fixture *f = *state;
	char modules[128];
	struct utsname u;

	put(f, "proc/filesystems", "nodev\tproc\n\text4\n", 0644);
	check_host(&f->check);
	assert_found(f, "overlay", CHECK_MISSING, "no overlayfs", "CONFIG_OVERLAY_FS");
	forget(f);
	uname(&u);
	snprintf(modules, sizeof(modules), "lib/modules/%s/modules.dep", u.release);
	put(f, modules, "kernel/fs/overlayfs/overlay.ko.xz:\n", 0644);
	check_host(&f->check);
	assert_found(f, "overlay", CHECK_NOTE, "not loaded", "modprobe overlay");
	forget(f);
	put(f, "proc/filesystems", "nodev\tproc\nnodev\toverlay\n", 0644);
	check_host(&f->check);
	assert_found(f, "overlay", CHECK_OK, "overlayfs", NULL);
}

static void few_inotify_instances_are_a_note(void **state)
{
	struct fixture *f = *state;

	check_host(&f->check);
	assert_null(finding(f, "inotify")); /* it cannot be told */
	put(f, "proc/sys/fs/inotify/max_user_instances", "128\n", 0644);
	check_host(&f->check);
	assert_found(f, "inotify", CHECK_NOTE, "128", "sysctl");
	forget(f);
	put(f, "proc/sys/fs/inotify/max_user_instances", "1024\n", 0644);
	check_host(&f->check);
	assert_found(f, "inotify", CHECK_OK, "1024", NULL);
}

static void memory_is_held_against_the_vm(void **state)
{
	struct fixture *f = *state;

	put(f, "proc/meminfo", "MemTotal:        8000000 kB\nMemAvailable:     400000 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "memory", CHECK_NOTE, "390 of 7812 MiB", "memory_in_mb");
	forget(f);
	put(f, "proc/meminfo", "MemTotal:        8000000 kB\nMemAvailable:    4000000 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "memory", CHECK_OK, "3906 of 7812 MiB", NULL);
	assert_null(finding(f, "hugepages"));
	assert_null(finding(f, "overcommit"));
	forget(f);
	f->config.hypervisor.memory_bytes = UINT64_C(1) << 50; /* no machine has that */
	check_memory(&f->check);
	assert_found(f, "memory", CHECK_MISSING, "does not fit into this host", "memory_in_mb");
}

static void strict_overcommit_is_missing_where_no_vm_fits(void **state)
{
	struct fixture *f = *state;

	put(f, "proc/sys/vm/overcommit_memory", "2\n", 0644);
	put(f, "proc/meminfo",
	    "MemTotal: 8000000 kB\nMemAvailable: 8000000 kB\nCommitLimit: 4000000 kB\nCommitted_AS: 3500000 "
	    "kB\n",
	    0644);
	check_memory(&f->check);
	assert_found(f, "overcommit", CHECK_MISSING, "488 MiB", "vm.overcommit_memory=1");
	forget(f);
	put(f, "proc/meminfo",
	    "MemTotal: 8000000 kB\nMemAvailable: 8000000 kB\nCommitLimit: 4000000 kB\nCommitted_AS: 500000 "
	    "kB\n",
	    0644);
	check_memory(&f->check);
	assert_found(f, "overcommit", CHECK_NOTE, "3417 MiB", "vm.overcommit_memory=1");
	forget(f);
	put(f, "proc/sys/vm/overcommit_memory", "0\n", 0644);
	check_memory(&f->check);
	assert_found(f, "overcommit", CHECK_OK, "0", NULL);
}

static void hugepages_are_counted_where_they_are_configured(void **state)
{
	struct fixture *f = *state;

	f->config.hypervisor.hugepages = true;
	put(f, "proc/meminfo", "MemTotal: 8000000 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "hugepages", CHECK_MISSING, "no huge pages", "hugepages = false");
	forget(f);
	put(f, "proc/meminfo",
	    "HugePages_Total: 100\nHugePages_Free: 100\nHugePages_Rsvd: 0\nHugepagesize: 2048 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "hugepages", CHECK_MISSING, "takes 512", "vm.nr_hugepages=512");
	forget(f);
	put(f, "proc/meminfo",
	    "HugePages_Total: 600\nHugePages_Free: 520\nHugePages_Rsvd: 20\nHugepagesize: 2048 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "hugepages", CHECK_NOTE, "500 huge pages", "vm.nr_hugepages");
	forget(f);
	put(f, "proc/meminfo",
	    "HugePages_Total: 600\nHugePages_Free: 600\nHugePages_Rsvd: 0\nHugepagesize: 2048 kB\n", 0644);
	check_memory(&f->check);
	assert_found(f, "hugepages", CHECK_OK, "a VM takes 512", NULL);
}

static void cgroups_are_judged_by_controller(void **state)
{
	struct fixture *f = *state;
	struct vmm_cgroups c = {.layout = "v2", .cpu = true, .memory = true, .cpuset = true, .pids = true};
	struct err err = ERR_INIT;

	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_OK, "v2", NULL);
	assert_found(f, "cgroup-controllers", CHECK_OK, "cpuset and pids", NULL);
	forget(f);
	c.memory = false;
	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_MISSING, "without memory:", "cgroup_disable=memory");
	forget(f);
	c.cpu = false;
	c.layout = "v1";
	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_MISSING, "without cpu and memory:", "mount -t cgroup");
	forget(f);
	c = (struct vmm_cgroups){.layout = "v2", .cpu = true, .memory = true, .cpuset = true};
	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_OK, "v2", NULL);
	assert_found(f, "cgroup-controllers", CHECK_NOTE, "without pids:", "pids");
	forget(f);
	c.read_only = true;
	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_MISSING, "read-only", "remount");
	forget(f);
	c.read_only = false;
	snprintf(c.crowded, sizeof(c.crowded), "/sys/fs/cgroup");
	check_cgroups(&f->check, &c, NULL);
	assert_found(f, "cgroups", CHECK_MISSING, "holds processes", "subtree_control");
	forget(f);
	err_set(&err, -ENOENT, "no cgroup hierarchy is mounted");
	check_cgroups(&f->check, &c, &err);
	assert_found(f, "cgroups", CHECK_MISSING, "no cgroup hierarchy", "mount -t cgroup2");
	assert_null(finding(f, "cgroup-controllers"));
}

/* ---- the command itself -------------------------------------------------------------------------------- */

static int run(const char *args, char *out, size_t size)
{
	char *command CLEANUP_FREE = xasprintf("%s/crivisor check %s 2>/dev/null", CRV_BUILD_DIR, args);
	FILE *pipe = popen(command, "r");
	size_t n = fread(out, 1, size - 1, pipe);

	out[n] = 0;
	return WEXITSTATUS(pclose(pipe));
}

static void binary_answers_by_its_exit_status(void **state)
{
	static char out[1 << 16];
	struct fixture *f = *state;
	char args[256];
	size_t missing, n;

	if (access(CRV_BUILD_DIR "/crivisor", X_OK) < 0)
		skip();
	assert_int_equal(run("here", out, sizeof(out)), 2);
	assert_int_equal(run("--jsno", out, sizeof(out)), 2);
	assert_int_equal(run("--json=yes", out, sizeof(out)), 2);
	/* A wrong configuration is the only finding, in both shapes. */
	snprintf(args, sizeof(args), "--config %s",
		 put(f, "config.toml", "[server]\nsokcet = \"/x\"\n", 0644));
	assert_int_equal(run(args, out, sizeof(out)), 1);
	assert_non_null(strstr(out, "MISSING  configuration  "));
	assert_non_null(strstr(out, "config.toml:2: unknown key"));
	strcat(args, " --json");
	assert_int_equal(run(args, out, sizeof(out)), 1);
	assert_false(assert_json(out, &missing, &n));
	assert_int_equal(n, 1);
	put(f, "config.toml",
	    "[hypervisor]\nkernel_path = \"/nonexistent/k\"\n[server]\nrun_dir = "
	    "\"/nonexistent/r\"\nstate_dir = \"/nonexistent/s\"\n"
	    "[cni]\nconf_dir = \"/nonexistent/net.d\"\n",
	    0644);
	assert_int_equal(run(args, out, sizeof(out)), 1);
	assert_false(assert_json(out, &missing, &n));
	assert_true(missing >= 2 && n >= 20);
	assert_non_null(strstr(out, "/nonexistent/k: No such file"));
	assert_int_equal(access("/nonexistent", F_OK), -1);
	/* The output cannot be written. */
	strcat(args, " >/dev/full");
	assert_int_equal(run(args, out, sizeof(out)), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(printers_say_the_same_of_hostile_words),
		TEST(root_without_capabilities_is_named),
		TEST(overlay_module_is_a_note_and_none_is_missing),
		TEST(few_inotify_instances_are_a_note),
		TEST(memory_is_held_against_the_vm),
		TEST(strict_overcommit_is_missing_where_no_vm_fits),
		TEST(hugepages_are_counted_where_they_are_configured),
		TEST(cgroups_are_judged_by_controller),
		TEST(binary_answers_by_its_exit_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
