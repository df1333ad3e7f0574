/* SPDX-License-Identifier: Apache-2.0 */
/* check_host.c: who runs this, the kernel, and what of it every pod needs. */
#include "cri/health/check.h"

#include "base/util.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <sys/utsname.h>

/* ---- privileges ---------------------------------------------------------------------------------------- */

/*
 * Those that the server cannot do without: namespaces, mounts and cgroups; taps and CNI; VMs' users; image
 * layers with their device nodes, owners and file capabilities. root in a container has often fewer.
 */
static const struct {
	int bit;
	const char *name;
} needed[] = {
	{CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{CAP_MKNOD, "CAP_MKNOD"},	  {CAP_CHOWN, "CAP_CHOWN"},
	{CAP_FOWNER, "CAP_FOWNER"},	  {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{CAP_SETFCAP, "CAP_SETFCAP"},	  {CAP_KILL, "CAP_KILL"},
	{CAP_SETUID, "CAP_SETUID"},	  {CAP_SETGID, "CAP_SETGID"},
	{CAP_SETPCAP, "CAP_SETPCAP"},
};

/* The effective set of /proc/self/status (proc(5)). All of them where it cannot be read. */
static uint64_t capabilities(const struct check *check)
{
	char *status CLEANUP_FREE = NULL;
	uint64_t set;
	char *line;

	if (check_read(check, "/proc/self/status", &status) < 0)
		return UINT64_MAX;
	line = strstr(status, "\nCapEff:");
	return line && sscanf(line, "\nCapEff: %" SCNx64, &set) == 1 ? set : UINT64_MAX;
}

/* "0 0 4294967295" in the first user namespace (user_namespaces(7)): uid 0 of another is root only there. */
static bool in_user_namespace(const struct check *check)
{
	char *map CLEANUP_FREE = NULL;
	unsigned long inside, outside, count;

	return check_read(check, "/proc/self/uid_map", &map) == 0 &&
	       sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 &&
	       (inside != 0 || outside != 0 || count != UINT32_MAX);
}

static void check_root(struct check *check)
{
	uint64_t set = capabilities(check);
	char lacking[256] = "";
	size_t len = 0;

	if (geteuid() != 0) {
		check_add(check, "root", CHECK_MISSING, "run it as root",
			  "namespaces, mounts and cgroups need root");
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!(set >> needed[i].bit & 1))
			len += (size_t)snprintf(lacking + len, sizeof(lacking) - len, "%s%s", len ? ", " : "",
						needed[i].name);
	if (len)
		check_add(check, "root", CHECK_MISSING,
			  "run it outside of a container, or in a privileged one", "root without %s",
			  lacking);
	else if (in_user_namespace(check))
		check_add(check, "root", CHECK_MISSING, "run it as the host's own root",
			  "root of a user namespace only, which can neither make device nodes nor mount");
	else
		check_ok(check, "root", "running as root");
	check->privileged = (set >> CAP_SYS_ADMIN & 1) && (set >> CAP_NET_ADMIN & 1);
}

/* ---- kernel -------------------------------------------------------------------------------------------- */

static void check_kernel(struct check *check)
{
	struct utsname u;

	if (uname(&u) == 0)
		check_ok(check, "host", "%s %s %s, %ld CPUs", u.sysname, u.release, u.machine,
			 sysconf(_SC_NPROCESSORS_ONLN));
}

/* As built or installed: "kernel/fs/overlayfs/overlay.ko…" begins a line of modules.dep (depmod(8)). */
static bool has_module(const struct check *check, const char *file)
{
	char *path CLEANUP_FREE = NULL, *list CLEANUP_FREE = NULL;
	struct utsname u;

	if (uname(&u) < 0)
		return false;
	path = xasprintf("%s/lib/modules/%s/modules.dep", check->root, u.release);
	return path && read_file(path, 16 * CHECK_FILE_MAX, &list, NULL) == 0 && strstr(list, file);
}

/* Every container's root is one. */
static void check_overlay(struct check *check)
{
	char *list CLEANUP_FREE = NULL;

	if (check_read(check, "/proc/filesystems", &list) == 0 && strstr(list, "\toverlay\n"))
		check_ok(check, "overlay", "the kernel has overlayfs");
	else if (has_module(check, "/overlay.ko"))
		check_add(check, "overlay", CHECK_NOTE, "modprobe overlay, and a line in /etc/modules-load.d",
			  "overlayfs is a module that is not loaded: the first mount has to load it");
	else
		check_add(check, "overlay", CHECK_MISSING, "a kernel with CONFIG_OVERLAY_FS",
			  "the kernel has no overlayfs, which containers' root file systems need");
}

/*
 * Of the other limits none is near: a pod's processes are the guest's, so kernel.pid_max counts a few dozen
 * threads per pod; and of inotify it is instances that are few, each with one watch.
 */
#define INOTIFY_WANTED 256

static void check_inotify(struct check *check)
{
	uint64_t max;

	/* Each running VM holds one (what its processes write), and a second while it boots; kubelet and
	 * systemd, root too, have theirs. */
	if (check_read_number(check, "/proc/sys/fs/inotify/max_user_instances", &max) < 0)
		return;
	if (max < INOTIFY_WANTED)
		check_add(check, "inotify", CHECK_NOTE, "sysctl -w fs.inotify.max_user_instances=1024",
			  "fs.inotify.max_user_instances is %" PRIu64
			  ": root's programs share it, and each VM wants one, so a node full of pods runs "
			  "short",
			  max);
	else
		check_ok(check, "inotify", "fs.inotify.max_user_instances is %" PRIu64, max);
}

void check_host(struct check *check)
{
	check_kernel(check);
	check_root(check);
	check_overlay(check);
	check_inotify(check);
}
