/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/pod/setup_internal.h"

#include "api/agent/guest_abi.h"
#include "base/meminfo.h"
#include "base/util.h"
#include "guest/pod/pod.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define SHM_DEFAULT  (64ULL << 20)
#define POD_FILE_MAX (1u << 20)

/* ---- sysctls ------------------------------------------------------------------------------------------- */

char *pod_sysctl_path(const char *name)
{
	size_t len = strlen(name);
	bool slashes = strchr(name, '/') != NULL;
	char *path;

	if (len == 0 || len > 255 || name[0] == '.' || name[0] == '/' || strstr(name, "..") ||
	    strstr(name, "//"))
		return NULL;
	if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") != len)
		return NULL;
	path = xasprintf("/proc/sys/%s", name);
	for (char *p = path ? path + strlen("/proc/sys/") : NULL; p && *p && !slashes; p++) {
		if (*p == '.')
			*p = '/';
	}
	return path;
}

static int set_sysctl(const char *name, const char *value, struct err *err)
{
	char *path CLEANUP_FREE = pod_sysctl_path(name);
	int r;

	if (!path)
		return err_set(err, -EINVAL, "sysctl \"%.128s\" is not a valid name", name);
	r = write_file(path, value, strlen(value), 0);
	if (r == -ENOENT)
		return err_set(err, -EINVAL, "sysctl \"%s\" does not exist in the VM", name);
	return r < 0 ? err_set_errno(err, r, "set sysctl \"%s\" to \"%.128s\"", name, value) : 0;
}

/* ---- /dev/shm ------------------------------------------------------------------------------------------ */

static uint64_t shm_size(uint64_t wanted)
{
	char *mem CLEANUP_FREE = NULL;
	uint64_t half = SHM_DEFAULT;

	if (wanted)
		return wanted;
	if (read_file("/proc/meminfo", 65536, &mem, NULL) == 0 && meminfo_bytes(mem, "MemTotal") > 0)
		half = meminfo_bytes(mem, "MemTotal") / 2;
	return half < SHM_DEFAULT ? half : SHM_DEFAULT;
}

static bool is_mount(const char *dir)
{
	char *parent CLEANUP_FREE = xasprintf("%s/..", dir);
	struct stat here, up;

	return parent && stat(dir, &here) == 0 && stat(parent, &up) == 0 && here.st_dev != up.st_dev;
}

static int setup_shm(const char *dir, uint64_t wanted, struct err *err)
{
	char options[64];
	unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	snprintf(options, sizeof(options), "mode=1777,size=%llu", (unsigned long long)shm_size(wanted));
	if (mkdir(dir, 01777) < 0 && errno != EEXIST)
		return err_set_errno(err, -errno, "make %s", dir);
	if (is_mount(dir))
		flags |= MS_REMOUNT;
	if (mount("shm", dir, "tmpfs", flags, options) < 0)
		return err_set_errno(err, -errno, "mount tmpfs at %s (%s)", dir, options);
	return 0;
}

/* ---- the pod's PID namespace --------------------------------------------------------------------------- */

/*
 * The first process of the shared namespace: it only reaps. Containers see it as PID 1 and, being root, could
 * look through /proc/1/root: so its root is an empty file system, and it has no capabilities.
 */
static int pause_main(void *arg)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT};
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	(void)arg;
	prctl(PR_SET_NAME, "pause");
	sigaction(SIGCHLD, &ignore, NULL);
	close_range(0, ~0U, 0);
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("pause", "/tmp", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "size=4k,mode=555") < 0)
		return 1;
	if (chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
	    chdir("/") < 0)
		return 2;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		;
	if (syscall(SYS_capset, &header, none) < 0)
		return 3;
	for (;;)
		pause();
}

static pid_t pause_start(struct err *err)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid < 0)
		return err_set_errno(err, -errno, "make the pod's PID namespace");
	if (pid == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		_exit(pause_main(NULL));
	}
	return pid;
}

static pid_t pause_pid; /* 0: none */

static int setup_pidns(const char *file, struct err *err)
{
	char path[64];
	pid_t pid;
	int fd;

	if (pause_pid)
		return 0;
	pid = pause_start(err);
	if (pid < 0)
		return (int)pid;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close_fd(fd);
	if (fd < 0 || mount(path, file, NULL, MS_BIND, NULL) < 0) {
		int r = -errno;

		kill(pid, SIGKILL);
		return err_set_errno(err, r, "keep the pod's PID namespace at %s", file);
	}
	pause_pid = pid;
	return 0;
}

void pod_end(void)
{
	if (pause_pid > 0)
		kill(pause_pid, SIGKILL);
	pause_pid = 0;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

int pod_dns(struct err *err)
{
	static bool done;

	if (done || access(GUEST_RESOLV, F_OK) < 0)
		return 0;
	if (mount(GUEST_RESOLV, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0)
		return err_set_errno(err, -errno, "bind " GUEST_RESOLV " over /etc/resolv.conf");
	done = true;
	return 0;
}

/*
 * What the pod's containers may change lives in the guest's memory: the host's files are not theirs to fill.
 */
static int pod_files(struct err *err)
{
	static const char *const names[] = {"resolv.conf", "hostname", "hosts"};

	if (mkdir(GUEST_FILES_DIR, 0700) < 0 && errno != EEXIST)
		return err_set_errno(err, -errno, "make " GUEST_FILES_DIR);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *from CLEANUP_FREE = xasprintf(GUEST_SHARE_DIR "/%s", names[i]);
		char *to CLEANUP_FREE = xasprintf(GUEST_FILES_DIR "/%s", names[i]);
		char *text CLEANUP_FREE = NULL;
		size_t len = 0;
		int r = from && to ? read_file(from, POD_FILE_MAX, &text, &len) : -ENOMEM;

		if (r == -ENOENT) /* a client that shares no such file */
			continue;
		if (r == 0)
			r = write_file(to, text, len, 0644);
		if (r < 0)
			return err_set_errno(err, r, "copy the pod's %s", names[i]);
	}
	return 0;
}

int pod_setup(struct agent *agent, const Crivisor__Agent__V1__Sandbox *sb, struct err *err)
{
	int r = 0;

	if (!str_empty(sb->hostname) || sb->n_sysctls > 0)
		r = agent_vm_only(agent, "SetupSandbox with a hostname or sysctls", err);
	if (r < 0)
		return r;
	if (!str_empty(sb->hostname) && sethostname(sb->hostname, strlen(sb->hostname)) < 0)
		return err_set_errno(err, -errno, "set hostname \"%.128s\"", sb->hostname);
	for (size_t i = 0; r == 0 && i < sb->n_sysctls; i++)
		r = set_sysctl(sb->sysctls[i]->key, sb->sysctls[i]->value, err);
	if (r == 0)
		r = setup_shm(agent->paths.shm, sb->shm_size, err);
	if (r == 0 && sb->shared_pid_namespace)
		r = setup_pidns(agent->paths.pidns, err);
	if (r == 0 && agent->in_vm)
		r = pod_files(err);
	return r == 0 && agent->in_vm ? pod_dns(err) : r;
}
