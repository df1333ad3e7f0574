/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtiofsd.c: the program that exports the pod's shared directory to its VM.
 *
 * Two of them are known: the Rust one (1.14: its `--help`) and the C one that Debian 12 ships with QEMU
 * (virtiofsd(1)). Both sandbox themselves in a mount namespace whose mounts are slaves, so what the server
 * mounts below the shared directory later appears inside, provided that directory lies on a shared mount when
 * the daemon starts.
 */
#include "vmm/driver_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/resource.h>

#define LEGACY_PATH "/usr/lib/qemu/virtiofsd"
#define RUST_NAME   "virtiofsd"

/*
 * The C program's --help has `-o source=`, the Rust one's --shared-dir. This decides which options are used.
 */
static bool is_legacy(const char *path)
{
	char help[4096];
	char *argv[] = {(char *)(uintptr_t)path, (char *)(uintptr_t) "--help", NULL};
	struct vmm_run run = {.argv = argv, .out = help, .out_size = sizeof(help)};

	if (str_eq(path, LEGACY_PATH))
		return true;
	if (vmm_run(&run, now_monotonic_ns() + 5 * NS_PER_SEC) != 0)
		return false;
	return strstr(help, "--shared-dir") == NULL;
}

int virtiofsd_find(const struct vmm_config *config, char *out, size_t size, bool *ret_legacy, struct err *err)
{
	static const char *const places[] = {"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd"};
	char searched[PATH_MAX];

	if (!str_empty(config->virtiofsd_path)) {
		if (find_program(config->virtiofsd_path, out, size) < 0)
			return err_set_status(
				err, -ENOENT, ERR_FAILED_PRECONDITION,
				"virtiofsd %s is missing or not executable ([hypervisor.virtiofsd] path)",
				config->virtiofsd_path);
		*ret_legacy = is_legacy(out);
		return 0;
	}
	*ret_legacy = false;
	if (find_helper(config, RUST_NAME, out, size, searched, sizeof(searched)) == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (find_program(places[i], out, size) == 0)
			return 0;
	*ret_legacy = true;
	if (find_program(LEGACY_PATH, out, size) == 0)
		return 0;
	return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
			      "no virtiofsd on this host: looked for in %s, and as /usr/libexec/virtiofsd, "
			      "/usr/lib/virtiofsd and " LEGACY_PATH,
			      searched);
}

/*
 * A file that the guest knows of is a descriptor of virtiofsd: without a bound one guest takes the host's
 * memory for them, and what all processes may open together. The bound is the daemon's own hard limit at
 * most, which it has from this process and may not raise. 0: none is configured.
 */
static uint64_t max_files(const struct vmm_config *config)
{
	struct rlimit own;

	if (config->virtiofsd_max_files == 0 || getrlimit(RLIMIT_NOFILE, &own) < 0 ||
	    own.rlim_max > config->virtiofsd_max_files)
		return config->virtiofsd_max_files;
	return own.rlim_max;
}

/*
 * The cache policies of the Rust program in the options of the C one. Its own "none" refuses shared mappings,
 * without a switch; "auto" reads a file's data anew at each open, and allows them.
 */
static const char *legacy_cache(const char *cache)
{
	if (str_eq(cache, "never"))
		return "auto,timeout=0";
	if (str_eq(cache, "metadata"))
		return "auto,timeout=86400";
	return cache;
}

static const char *legacy_log_level(const char *level)
{
	if (str_eq(level, "error") || str_eq(level, "off"))
		return "err";
	if (str_eq(level, "trace"))
		return "debug";
	return level;
}

static int legacy_command(const char *path, const char *cache, const char *level, uint32_t threads,
			  const char *shared_dir, int fd, char ***argv)
{
	int r = strv_add(argv, path);

	if (r == 0)
		r = strv_addf(argv, "--fd=%d", fd);
	if (r == 0)
		r = strv_add(argv, "-f");
	if (r == 0)
		r = strv_add(argv, "-o");
	/* announce_submounts keeps the inodes of different layers and volumes apart. */
	if (r == 0)
		r = strv_addf(argv,
			      "source=%s,cache=%s,log_level=%s,sandbox=namespace,xattr,announce_submounts",
			      shared_dir, legacy_cache(cache), legacy_log_level(level));
	if (r == 0)
		r = strv_addf(argv, "--thread-pool-size=%u", threads);
	return r;
}

static int rust_command(const char *path, const char *cache, const char *level, uint32_t threads,
			const char *shared_dir, int fd, char ***argv)
{
	int r = strv_add(argv, path);

	if (r == 0)
		r = strv_addf(argv, "--shared-dir=%s", shared_dir);
	if (r == 0)
		r = strv_addf(argv, "--fd=%d", fd);
	if (r == 0)
		r = strv_addf(argv, "--cache=%s", cache);
	/* Without data in the guest's cache there are no shared mappings, unless they are asked for. */
	if (r == 0 && (str_eq(cache, "never") || str_eq(cache, "metadata")))
		r = strv_add(argv, "--allow-mmap");
	if (r == 0)
		r = strv_addf(argv, "--log-level=%s", level);
	if (r == 0)
		r = strv_addf(argv, "--thread-pool-size=%u", threads);
	if (r == 0)
		r = strv_add(argv, "--sandbox=namespace");
	if (r == 0)
		r = strv_add(argv, "--announce-submounts");
	if (r == 0)
		r = strv_add(argv, "--xattr");
	/* File handles would need CAP_DAC_READ_SEARCH, which opens every file of the file system. */
	if (r == 0)
		r = strv_add(argv, "--inode-file-handles=never");
	return r;
}

int virtiofsd_command(const struct vmm_config *config, const char *path, bool legacy, const char *shared_dir,
		      int fd, char ***ret_argv, struct err *err)
{
	const char *cache = str_empty(config->virtiofsd_cache) ? "auto" : config->virtiofsd_cache;
	const char *level = str_empty(config->virtiofsd_log_level) ? "info" : config->virtiofsd_log_level;
	char **argv CLEANUP_STRV = NULL;
	int r = vmm_option_check("shared directory", shared_dir, err);

	if (r == 0)
		r = vmm_option_check("virtiofsd cache policy", cache, err);
	if (r == 0)
		r = vmm_option_check("virtiofsd log level", level, err);
	if (r < 0)
		return r;
	if (legacy)
		r = legacy_command(path, cache, level, config->virtiofsd_thread_pool_size, shared_dir, fd,
				   &argv);
	else
		r = rust_command(path, cache, level, config->virtiofsd_thread_pool_size, shared_dir, fd,
				 &argv);
	/* Both programs take 0 for "as it is". */
	if (r == 0)
		r = strv_addf(&argv, "--rlimit-nofile=%" PRIu64, max_files(config));
	if (r < 0)
		return err_set_errno(err, r, "virtiofsd's command line");
	*ret_argv = move_ptr(argv);
	return 0;
}

int virtiofsd_spawn(struct vm *vm, const struct vm_launch *launch, const char *helper, struct err *err)
{
	char path[512], log[256], sock[256];
	char **argv CLEANUP_STRV = NULL;
	int listener CLEANUP_CLOSE = -1;
	struct child_spec ps = {
		.helper = helper, .netns = launch->spec->netns_path, .cgroup = launch->spec->cgroup};
	bool legacy;
	int r = virtiofsd_find(launch->config, path, sizeof(path), &legacy, err);

	if (r == 0)
		r = vm_path(vm, VM_FILE_FS_LOG, log, sizeof(log), err);
	if (r == 0)
		r = vm_path(vm, VM_FILE_FS, sock, sizeof(sock), err);
	if (r == 0)
		r = virtiofsd_command(launch->config, path, legacy, launch->spec->shared_dir, CHILD_FD_BASE,
				      &argv, err);
	if (r < 0)
		return r;
	/* The socket listens before the daemon is spawned: clients need not wait for the daemon. */
	listener = sock_listen(sock, err);
	if (listener < 0)
		return listener;
	r = vm_give(vm, sock, err);
	if (r < 0)
		return r;
	ps.argv = argv;
	ps.log = log;
	ps.caps = VIRTIOFSD_CAPS;
	ps.oom_score_adj = launch->spec->oom_score_adj;
	ps.fds = &listener;
	ps.n_fds = 1;
	snprintf(vm->exe[VM_ROLE_FS], sizeof(vm->exe[0]), "%s", RUST_NAME);
	return child_spawn(&vm->procs[VM_ROLE_FS], &ps, err);
}
