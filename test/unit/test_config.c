/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>

struct fixture {
	char dir[64], *path;
	struct config config;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-config-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->path = xasprintf("%s/config.toml", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	config_done(&f->config);
	free(f->path);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

static void put(struct fixture *f, const char *name, const char *text)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s", f->dir, name);
	char *slash = strrchr(path, '/');

	*slash = 0;
	assert_int_equal(mkdir_p(path, 0700), 0);
	*slash = '/';
	assert_int_equal(write_file(path, text, strlen(text), 0600), 0);
}

static int load(struct fixture *f, const char *text)
{
	put(f, "config.toml", text);
	return config_load(f->path, &f->config, &f->err);
}

/* The text is refused, and the message is "<path>:<what>". */
static void assert_refused(struct fixture *f, const char *text, const char *what)
{
	char *want CLEANUP_FREE = xasprintf("%s:%s", f->path, what);

	assert_int_equal(load(f, text), -EINVAL);
	assert_int_equal(f->err.status, ERR_INVALID_ARGUMENT);
	assert_string_equal(f->err.msg, want);
}

static char *written(const struct config *config)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_int_equal(config ? config_write(config, out) : config_write_default(out), 0);
	fclose(out);
	return text;
}

static void empty_file_gives_the_defaults(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(load(f, ""), 0);
	assert_string_equal(f->config.server.socket, "/run/crivisor/crivisor.sock");
	assert_string_equal(f->config.cni.bin_dirs[1], "/usr/lib/cni");
	assert_null(f->config.cni.bin_dirs[2]);
	assert_null(f->config.hypervisor.path);
	assert_int_equal(f->config.hypervisor.vcpus, 1);
	assert_int_equal(f->config.hypervisor.memory_bytes, UINT64_C(1024) << 20);
	assert_string_equal(f->config.stream.address, "127.0.0.1:0");
	assert_null(f->config.stream.tls_cert_file);
	assert_string_equal(f->config.hypervisor.entropy_source, "/dev/urandom");
	assert_string_equal(f->config.hypervisor.virtiofsd_cache, "auto");
	assert_true(f->config.sandbox.layer_bytes == 10240ULL << 20);
	assert_int_equal(f->config.sandbox.layer_files, 1000000);
	assert_int_equal(f->config.hypervisor.virtiofsd_thread_pool_size, 4);
	assert_int_equal(f->config.hypervisor.virtiofsd_max_files, 262144);
	assert_false(f->config.hypervisor.hugepages);
}

static void default_text_loads_to_the_defaults(void **state)
{
	struct fixture *f = *state;
	char *text CLEANUP_FREE = written(NULL);
	char *again CLEANUP_FREE = NULL;

	assert_int_equal(load(f, text), 0);
	again = written(&f->config);
	/* but for the guest, which may be found beside the binary */
	if (str_starts(f->config.hypervisor.kernel_path, "/usr/share"))
		assert_string_equal(text, again);
}

static void shipped_file_says_the_defaults(void **state)
{
	struct fixture *f = *state;
	char *shipped CLEANUP_FREE = NULL, *text CLEANUP_FREE = NULL, *defaults CLEANUP_FREE = NULL;
	struct config plain;

	assert_int_equal(read_file(CRV_SOURCE_DIR "/deploy/config.toml", 1 << 20, &shipped, NULL), 0);
	if (load(f, shipped) < 0)
		fail_msg("%s", f->err.msg);
	assert_int_equal(config_init(&plain), 0);
	str_set(&plain.hypervisor.kernel_path, f->config.hypervisor.kernel_path);
	str_set(&plain.hypervisor.image_path, f->config.hypervisor.image_path);
	text = written(&f->config);
	defaults = written(&plain);
	assert_string_equal(text, defaults);
	config_done(&plain);
}

static void A5_every_key_is_read(void **state)
{
	struct fixture *f = *state;
	static const char text[] =
		"[server]\nsocket = '/a/s'\nstate_dir = '/b'\nrun_dir = '/c'\nlog_level = 'warn'\n"
		"[cni]\nbin_dirs = ['/d', '/e']\nconf_dir = '/f'\n"
		"[image]\nregistry_config_dir = '/g'\n"
		"[sandbox]\ncgroup_parent = '/h'\nenable_tracing = true\n"
		"default_ulimits = ['nofile=5:6', 'core=-1']\n"
		"spoof_check = false\n"
		"uid_range = '70000-70009'\n"
		"layer_in_mb = 7\nlayer_files = 0\n"
		"allow_netns_rules = true\n"
		"[stream]\naddress = '[::1]:10010'\ntls_cert_file = '/n'\ntls_key_file = '/o'\n"
		"[hypervisor]\ndriver = 'qemu'\npath = '/i'\nvcpus = 3\nmemory_in_mb = 96\n"
		"kernel_path = '/j'\nimage_path = '/k'\nkernel_params = 'quiet x=y'\n"
		"hugepages = true\nentropy_source = '/l'\ndebug = true\n"
		"[hypervisor.virtiofsd]\npath = '/m'\nlog_level = 'debug'\ncache = 'never'\n"
		"thread_pool_size = 7\nmax_files = 4096\n"
		"[hypervisor.task]\ndebug = true\nenable_tracing = true\n";
	const struct config *c = &f->config;

	assert_int_equal(load(f, text), 0);
	assert_string_equal(c->server.socket, "/a/s");
	assert_string_equal(c->server.state_dir, "/b");
	assert_string_equal(c->server.run_dir, "/c");
	assert_int_equal(c->server.log_level, LOG_LEVEL_WARN);
	assert_string_equal(c->cni.bin_dirs[0], "/d");
	assert_string_equal(c->cni.bin_dirs[1], "/e");
	assert_string_equal(c->cni.conf_dir, "/f");
	assert_string_equal(c->image.registry_config_dir, "/g");
	assert_string_equal(c->sandbox.cgroup_parent, "/h");
	assert_true(c->sandbox.enable_tracing);
	assert_string_equal(c->sandbox.default_ulimits[0], "nofile=5:6");
	assert_string_equal(c->sandbox.default_ulimits[1], "core=-1");
	assert_false(c->sandbox.spoof_check);
	assert_string_equal(c->sandbox.uid_range, "70000-70009");
	assert_true(c->sandbox.allow_netns_rules);
	assert_string_equal(c->stream.address, "[::1]:10010");
	assert_string_equal(c->stream.tls_cert_file, "/n");
	assert_string_equal(c->stream.tls_key_file, "/o");
	assert_string_equal(c->hypervisor.driver, "qemu");
	assert_string_equal(c->hypervisor.path, "/i");
	assert_int_equal(c->hypervisor.vcpus, 3);
	assert_int_equal(c->hypervisor.memory_bytes, UINT64_C(96) << 20);
	assert_string_equal(c->hypervisor.kernel_path, "/j");
	assert_string_equal(c->hypervisor.image_path, "/k");
	assert_string_equal(c->hypervisor.kernel_params, "quiet x=y");
	assert_true(c->hypervisor.hugepages);
	assert_string_equal(c->hypervisor.entropy_source, "/l");
	assert_true(c->hypervisor.debug);
	assert_string_equal(c->hypervisor.virtiofsd_path, "/m");
	assert_string_equal(c->hypervisor.virtiofsd_log_level, "debug");
	assert_string_equal(c->hypervisor.virtiofsd_cache, "never");
	assert_true(c->sandbox.layer_bytes == 7ULL << 20);
	assert_int_equal(c->sandbox.layer_files, 0);
	assert_int_equal(c->hypervisor.virtiofsd_thread_pool_size, 7);
	assert_int_equal(c->hypervisor.virtiofsd_max_files, 4096);
	assert_true(c->hypervisor.task_debug);
	assert_true(c->hypervisor.task_enable_tracing);
}

static void unknown_key_is_refused_with_its_line(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, "[hypervisor]\nvcpus = 2\nfoo = 1\n", "3: unknown key \"hypervisor.foo\"");
	assert_refused(f, "\n[nonsense]\n", "2: unknown key \"nonsense\"");
	assert_refused(f, "x = 1", "1: unknown key \"x\"");
	assert_refused(f, "[hypervisor.virtiofs]\npath = ''", "1: unknown key \"hypervisor.virtiofs\"");
	assert_refused(f, "[server]\nsocket.path = '/x'", "2: server.socket must be a string");
}

static const char *const bad_uids[] = {
	"5",	       "70000", "70000-",	    "-70000",	     "999-70000",
	"70001-70000", "a-b",	"70000-2147483648", "70000-1118576", "70000-70001-"};
static const char *const bad_ulimits[] = {"",		"nofile",    "nofile=",	     "files=1",
					  "nofile=2:1", "nofile=1:", "nofile=1:2:3", "nofile=-2",
					  "NOFILE=1",	"=1",	     "nofile=-1:5"};

static void wrong_type_or_value_is_refused_with_its_line(void **state)
{
	struct fixture *f = *state;

	assert_refused(f, "hypervisor = 3", "1: hypervisor must be a table");
	assert_refused(f, "[hypervisor]\nvcpus = '2'", "2: hypervisor.vcpus must be an integer");
	assert_refused(f, "[hypervisor]\nvcpus = 0", "2: hypervisor.vcpus must be from 1 to 254");
	assert_refused(f, "[hypervisor]\nmemory_in_mb = -5",
		       "2: hypervisor.memory_in_mb must be from 64 to 16777216");
	assert_refused(f, "[hypervisor]\nhugepages = 1", "2: hypervisor.hugepages must be true or false");
	assert_refused(f, "[hypervisor]\ndriver = 'xen'",
		       "2: hypervisor.driver must be one of: auto cloud-hypervisor qemu; not \"xen\"");
	assert_refused(f, "[hypervisor]\ndriver = ''",
		       "2: hypervisor.driver must be one of: auto cloud-hypervisor qemu; not \"\"");
	assert_refused(f, "[hypervisor]\nkernel_params = \"a\\nb\"",
		       "2: hypervisor.kernel_params must be one line without control characters");
	assert_refused(f, "[hypervisor]\nkernel_params = \"a\\u0000b\"",
		       "2: hypervisor.kernel_params holds a NUL");
	assert_refused(f, "[server]\nsocket = 'run/x'", "2: server.socket must be an absolute path");
	assert_refused(f, "[server]\nsocket = ''", "2: server.socket must be an absolute path");
	assert_refused(f, "[server]\nlog_level = 'loud'",
		       "2: server.log_level must be one of: error warn info debug trace; not \"loud\"");
	assert_refused(f, "[cni]\nbin_dirs = '/x'", "2: cni.bin_dirs must be a list of strings");
	assert_refused(f, "[cni]\nbin_dirs = [1]", "2: cni.bin_dirs must be a list of strings");
	assert_refused(f, "[cni]\nbin_dirs = ['x']", "2: cni.bin_dirs must be a list of absolute paths");
	assert_refused(f, "[sandbox]\ndefault_ulimits = 'nofile=1'",
		       "2: sandbox.default_ulimits must be a list of strings");
	for (size_t i = 0; i < ARRAY_SIZE(bad_ulimits); i++) {
		char text[96];

		snprintf(text, sizeof(text), "[sandbox]\ndefault_ulimits = ['nproc=1', '%s']",
			 bad_ulimits[i]);
		assert_refused(f, text,
			       "2: sandbox.default_ulimits must be a list of limits such as "
			       "\"nofile=1024:524288\"");
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad_uids); i++) {
		char text[96];

		snprintf(text, sizeof(text), "[sandbox]\nuid_range = '%s'", bad_uids[i]);
		assert_refused(f, text,
			       "2: sandbox.uid_range must be empty, or a range of user ids such as "
			       "\"1900000000-1900065535\", above 999");
	}
	assert_refused(f, "[sandbox]\ncgroup_parent = '/a/../b'",
		       "2: sandbox.cgroup_parent must be an absolute path without \"..\"");
}

static void text_that_is_no_toml_is_refused_with_its_line(void **state)
{
	struct fixture *f = *state;
	char *start CLEANUP_FREE = xasprintf("%s:2: ", f->path);

	assert_int_equal(load(f, "[server]\nsocket = \n"), -EINVAL);
	assert_true(str_starts(f->err.msg, start));
	assert_int_equal(load(f, "[server]\n[server]\n"), -EINVAL);
	assert_true(str_starts(f->err.msg, start));
	assert_int_equal(load(f, "\xff\xfe"), -EINVAL);
}

static void dropins_override_single_keys_in_the_order_of_their_names(void **state)
{
	struct fixture *f = *state;

	put(f, "config.d/20.toml", "[hypervisor]\nvcpus = 20\n");
	put(f, "config.d/10.toml", "[hypervisor]\nvcpus = 10\nmemory_in_mb = 512\n[cni]\nbin_dirs = []\n");
	put(f, "config.d/30.conf", "nonsense");
	put(f, "config.d/.40.toml", "nonsense");
	assert_int_equal(load(f, "[hypervisor]\nvcpus = 2\nkernel_params = 'quiet'\n"), 0);
	assert_int_equal(f->config.hypervisor.vcpus, 20);
	assert_int_equal(f->config.hypervisor.memory_bytes, UINT64_C(512) << 20);
	assert_string_equal(f->config.hypervisor.kernel_params, "quiet");
	assert_int_equal(strv_len(f->config.cni.bin_dirs), 0);
}

static void dropin_error_names_the_dropin(void **state)
{
	struct fixture *f = *state;
	char *want CLEANUP_FREE = xasprintf("%s/config.d/10.toml:1: unknown key \"y\"", f->dir);

	put(f, "config.d/10.toml", "y = 10\n");
	assert_int_equal(load(f, ""), -EINVAL);
	assert_string_equal(f->err.msg, want);
	/* nothing was written to ret_config */
	assert_null(f->config.server.socket);
}

static void missing_file_is_refused_when_named(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(config_load("/nonexistent/config.toml", &f->config, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.msg, "/nonexistent/config.toml"));
}

static void reload_reads_what_may_change_or_nothing(void **state)
{
	struct fixture *f = *state;
	struct config_live live = {0};

	assert_int_equal(load(f, "[server]\nlog_level = 'warn'\n"), 0);
	assert_string_equal(f->config.file, f->path);
	put(f, "config.toml", "[server]\nlog_level = 'debug'\n[hypervisor]\nvcpus = 3\nmemory_in_mb = 300\n");
	assert_int_equal(config_reload(&f->config, &live, &f->err), 0);
	assert_int_equal(live.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(live.vcpus, 3);
	assert_int_equal(live.memory_bytes, 300 << 20);
	put(f, "config.toml", "[server]\nlog_level = 'info'\n[hypervisor]\nvcpus = 0\n");
	assert_int_equal(config_reload(&f->config, &live, &f->err), -EINVAL);
	assert_int_equal(live.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(live.vcpus, 3);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(empty_file_gives_the_defaults),
		T(default_text_loads_to_the_defaults),
		T(shipped_file_says_the_defaults),
		T(A5_every_key_is_read),
		T(unknown_key_is_refused_with_its_line),
		T(wrong_type_or_value_is_refused_with_its_line),
		T(text_that_is_no_toml_is_refused_with_its_line),
		T(dropins_override_single_keys_in_the_order_of_their_names),
		T(dropin_error_names_the_dropin),
		T(missing_file_is_refused_when_named),
		T(reload_reads_what_may_change_or_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
