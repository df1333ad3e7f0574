#include "base/util.h"
#include "cri/cmd.h"
#include "cri/cni.h"
#include "cri/config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>

#define SPACE_WANTED_BYTES (UINT64_C(2) << 30)

/* Counts what keeps pods from running; notes do not. */
static int missing;

static void __attribute__((format(printf, 2, 3))) good(const char *what, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("ok       %-16s ", what);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

static void note(const char *what, const char *text, const char *mend)
{
	printf("note     %-16s %s\n", what, text);
	if (mend)
		printf("         %-16s to mend: %s\n", "", mend);
}

static void lacks(const char *what, const char *text, const char *mend)
{
	missing++;
	printf("MISSING  %-16s %s\n", what, text);
	printf("         %-16s to mend: %s\n", "", mend);
}

/* The first of a colon-separated list (names without a slash are looked up in PATH) that can be run. */
static const char *first_program(const char *const *candidates, char *buf, size_t size)
{
	const char *path = getenv("PATH");

	for (; *candidates; candidates++) {
		if (strchr(*candidates, '/')) {
			if (access(*candidates, X_OK) == 0)
				return *candidates;
			continue;
		}
		for (const char *p = path; p && *p;) {
			size_t len = strcspn(p, ":");
			int n = snprintf(buf, size, "%.*s/%s", (int)len, p, *candidates);

			if (len && n > 0 && (size_t)n < size && access(buf, X_OK) == 0)
				return buf;
			p += len + (p[len] == ':');
		}
	}
	return NULL;
}

static void check_root(void)
{
	if (geteuid() == 0)
		good("root", "running as root");
	else
		lacks("root", "namespaces, mounts and cgroups need root", "run it as root");
}

static void check_vmm(const struct config *config, bool *ret_qemu)
{
	struct vmm_choice choice;
	struct err err = ERR_INIT;

	*ret_qemu = false;
	if (vmm_choose(&config->hypervisor, &choice, &err) < 0) {
		lacks("VMM and guest", err.msg, "sudo deploy/setup, or the paths in [hypervisor]");
		return;
	}
	good("VMM and guest", "%s %s (%s): %s", choice.driver, choice.path, choice.accel, choice.reason);
	*ret_qemu = str_eq(choice.driver, "qemu");
	if (str_eq(choice.accel, "tcg"))
		note("speed",
		     "the guest's processor is emulated: pods run, but several times slower than with KVM",
		     "a host with vmx or svm, and /dev/kvm");
}

/* Beside the binary, in the directory above it, in libexec/crivisor there, or in PATH: where vmm/ looks. */
static void check_spawn_helper(void)
{
	char self[512], beside[600], above[600], libexec[600], buf[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *const candidates[] = {beside, above, libexec, "crivisor-spawn", NULL};
	char *slash;
	const char *found;

	self[n > 0 ? n : 0] = 0;
	slash = strrchr(self, '/');
	if (slash)
		*slash = 0;
	snprintf(beside, sizeof(beside), "%s/crivisor-spawn", self);
	snprintf(above, sizeof(above), "%s/../crivisor-spawn", self);
	snprintf(libexec, sizeof(libexec), "%s/../libexec/crivisor/crivisor-spawn", self);
	found = first_program(candidates, buf, sizeof(buf));
	if (found)
		good("spawn helper", "%s", found);
	else
		lacks("spawn helper", "crivisor-spawn is neither beside this program nor in libexec/crivisor nor in PATH",
		      "install it beside crivisor");
}

static void check_virtiofsd(const struct config *config)
{
	static const char *const usual[] = {"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd",
					    NULL};
	const char *const named[] = {config->hypervisor.virtiofsd_path, NULL};
	char buf[512];
	const char *found = first_program(named[0] ? named : usual, buf, sizeof(buf));

	if (found)
		good("virtiofsd", "%s", found);
	else
		lacks("virtiofsd", named[0] ? named[0] : "neither in PATH nor in its usual places",
		      "apt install qemu-system-common, or cargo install virtiofsd");
}

static void check_vsock(void)
{
	static const char *const daemons[] = {"vhost-device-vsock", NULL};
	char buf[512];
	const char *found;

	if (access("/dev/vhost-vsock", R_OK | W_OK) == 0) {
		good("vsock", "/dev/vhost-vsock");
		return;
	}
	found = first_program(daemons, buf, sizeof(buf));
	if (found)
		good("vsock", "%s", found);
	else
		lacks("vsock", "neither /dev/vhost-vsock nor vhost-device-vsock in PATH",
		      "modprobe vhost_vsock, or cargo install vhost-device-vsock");
}

static void check_tun(void)
{
	int fd CLEANUP_CLOSE = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		good("tap", "/dev/net/tun");
	else
		lacks("tap", "/dev/net/tun cannot be opened", "modprobe tun");
}

static void check_overlay(void)
{
	char *list CLEANUP_FREE = NULL;

	if (read_file("/proc/filesystems", 1 << 16, &list, NULL) == 0 && strstr(list, "\toverlay\n"))
		good("overlay", "the kernel has overlayfs");
	else
		lacks("overlay", "/proc/filesystems does not list overlay", "modprobe overlay");
}

static void check_cgroups(void)
{
	struct statfs st;

	if (statfs("/sys/fs/cgroup", &st) == 0 && st.f_type == CGROUP2_SUPER_MAGIC)
		good("cgroups", "version 2");
	else if (access("/sys/fs/cgroup/memory", X_OK) == 0 && access("/sys/fs/cgroup/cpu", X_OK) == 0)
		good("cgroups", "version 1 or hybrid");
	else
		lacks("cgroups", "no cgroup file system with memory and cpu below /sys/fs/cgroup",
		      "mount -t cgroup2 cgroup2 /sys/fs/cgroup");
}

/* The nearest ancestor that exists: check makes nothing. */
static char *existing(const char *path)
{
	char *copy = strdup(path);

	while (copy && access(copy, F_OK) < 0) {
		char *slash = strrchr(copy, '/');

		if (!slash || slash == copy) {
			free(copy);
			return strdup("/");
		}
		*slash = 0;
	}
	return copy;
}

static void check_state_dir(const struct config *config)
{
	char *dir CLEANUP_FREE = existing(config->server.state_dir);
	struct statfs st;

	if (!dir || statfs(dir, &st) < 0) {
		lacks("state_dir", config->server.state_dir, "[server] state_dir");
		return;
	}
	if (st.f_type == OVERLAYFS_SUPER_MAGIC)
		lacks("state_dir", "lies on an overlay file system, which cannot hold containers' own layers",
		      "[server] state_dir on ext4, xfs or btrfs");
	else if ((uint64_t)st.f_bavail * (uint64_t)st.f_bsize < SPACE_WANTED_BYTES)
		note("state_dir", "less than 2 GiB is free there", "[server] state_dir on a larger disk");
	else
		good("state_dir", "%s, %" PRIu64 " GiB free", config->server.state_dir,
		     ((uint64_t)st.f_bavail * (uint64_t)st.f_bsize) >> 30);
}

static void check_cni(const struct config *config)
{
	struct cni *cni = NULL;
	struct err err = ERR_INIT;
	/* Looked at only: nothing is attached, so nothing is cached. */
	int r = cni_new(config->cni.bin_dirs, config->cni.conf_dir, config->server.state_dir, &cni, &err);

	if (r == 0)
		r = cni_status(cni, &err);
	if (r < 0)
		lacks("pod network", err.msg,
		      "apt install containernetworking-plugins; deploy/cni/10-crivisor.conflist to [cni] "
		      "conf_dir");
	else
		good("pod network", "configured in %s", config->cni.conf_dir);
	cni_free(cni);
}

static void check_socket(const struct config *config)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(config->server.socket);
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (len >= sizeof(addr.sun_path)) {
		lacks("socket", "the path is longer than 107 bytes", "[server] socket");
		return;
	}
	memcpy(addr.sun_path, config->server.socket, len);
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		good("socket", "%s is being served", config->server.socket);
	else
		note("socket", "no server is running", NULL);
}

int cmd_check(int argc, char **argv)
{
	const char *path = NULL;
	const struct cmd_option options[] = {{"config", &path, NULL}, {0}};
	struct err err = ERR_INIT;
	struct config config;
	bool qemu;
	int n = cmd_options(argc, argv, options);

	if (n < 0)
		return CMD_USAGE;
	if (n > 0)
		return cmd_usage("check: unexpected operand \"%s\"", argv[1]);
	if (config_load(path, &config, &err) < 0)
		return cmd_fail("%s", err.msg);
	good("configuration", "%s", path ? path : CONFIG_PATH);
	check_root();
	check_vmm(&config, &qemu);
	check_spawn_helper();
	check_virtiofsd(&config);
	if (qemu)
		check_vsock();
	check_tun();
	check_overlay();
	check_cgroups();
	check_state_dir(&config);
	check_cni(&config);
	check_socket(&config);
	config_done(&config);
	if (missing)
		printf("%d missing: pods cannot run here yet\n", missing);
	else
		puts("pods can run here");
	return missing > 0;
}
