/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/init/init_internal.h"

#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/procfs.h"
#include "base/util.h"
#include "guest/container/cgroup.h"
#include "guest/container/container.h"
#include "guest/container/share.h"
#include "guest/device/device.h"
#include "guest/pod/pod.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#define FILES_MAX 1048576 /* fs.nr_open's default */

struct early_mount {
	const char *source, *target, *type, *options;
	unsigned long flags;
	bool optional; /* containers also run on a kernel without it */
};

static const struct early_mount early[] = {
	{"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false},
	{"devtmpfs", "/dev", "devtmpfs", "mode=755", MS_NOSUID, false},
	{"tmpfs", "/run", "tmpfs", "mode=755", MS_NOSUID | MS_NODEV, false},
	{"shm", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV | MS_NOEXEC, false},
	{"devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666,gid=5", MS_NOSUID | MS_NOEXEC, false},
};

/* What containers need, but the first answer to the host does not. */
static const struct early_mount later[] = {
	{"tmpfs", "/tmp", "tmpfs", "mode=1777,size=64m", MS_NOSUID | MS_NODEV, true},
	{"mqueue", "/dev/mqueue", "mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
	{"fusectl", SHARE_FUSE_DIR, "fusectl", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
};

struct sysctl {
	const char *path, *value;
	bool optional;
};

static const struct sysctl early_sysctls[] = {
	{"/proc/sys/vm/overcommit_memory", "1", false},
};

static const struct sysctl later_sysctls[] = {
	{"/proc/sys/kernel/panic_on_oops", "1", false},
	{"/proc/sys/fs/inotify/max_user_instances", "8192", true},
	{"/proc/sys/fs/inotify/max_user_watches", "524288", true},
	/* The kernel's default would write core dumps into a container's working directory. */
	{"/proc/sys/kernel/core_pattern", "|/bin/false", true},
};

static int console_fd = -1;

/* ---- log ----------------------------------------------------------------------------------------------- */

static void console_line(enum log_level level, const char *line, size_t len)
{
	struct timespec ts;
	char stamp[48];
	struct iovec iov[3] = {{.iov_base = stamp},
			       {.iov_base = (char *)line, .iov_len = len},
			       {.iov_base = (char *)"\n", .iov_len = 1}};

	(void)level;
	clock_gettime(CLOCK_BOOTTIME, &ts);
	iov[0].iov_len =
		(size_t)snprintf(stamp, sizeof(stamp), "[%5lld.%06ld] crivisor-agent: ", (long long)ts.tv_sec,
				 ts.tv_nsec / 1000);
	if (console_fd >= 0)
		(void)!writev(console_fd, iov, 3);
}

void init_log(void)
{
	static const char *const paths[] = {"/dev/hvc0", "/dev/console", "/dev/kmsg"};

	console_fd = close_fd(console_fd);
	for (size_t i = 0; i < ARRAY_SIZE(paths) && console_fd < 0; i++)
		console_fd = open(paths[i], O_WRONLY | O_NOCTTY | O_CLOEXEC);
	log_set_sink(console_line);
}

/* ---- mounts -------------------------------------------------------------------------------------------- */

static int mount_one(const struct early_mount *m, struct err *err)
{
	int r;

	if (mkdir(m->target, 0755) < 0 && errno != EEXIST && errno != EROFS && !m->optional)
		return err_set_errno(err, -errno, "make %s", m->target);
	if (mount(m->source, m->target, m->type, m->flags, m->options) == 0)
		return 0;
	r = -errno;
	/* The kernel mounts /dev itself with DEVTMPFS_MOUNT. */
	if (r == -EBUSY && str_eq(m->target, "/dev"))
		return 0;
	if (m->optional)
		return 0;
	return err_set_errno(err, r, "mount %s at %s", m->type, m->target);
}

/*
 * Making and removing namespaces, mounts, cgroups and interfaces waits for RCU grace periods; with few vCPUs
 * expedited ones cost little. Not every kernel has the switch.
 */
static void hurry_rcu(void)
{
	(void)write_file("/sys/kernel/rcu_expedited", "1", 1, 0);
}

int init_proc(struct err *err)
{
	static const struct early_mount proc = {
		"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false};

	return mount_one(&proc, err);
}

static int make_links(struct err *err)
{
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
					       {"/proc/self/fd/0", "/dev/stdin"},
					       {"/proc/self/fd/1", "/dev/stdout"},
					       {"/proc/self/fd/2", "/dev/stderr"}};

	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			return err_set_errno(err, -errno, "link %s", links[i][1]);
	}
	return 0;
}

static int make_dirs(const struct agent *agent, struct err *err)
{
	const char *const dirs[] = {GUEST_RUN_DIR,	agent->paths.tmp, agent->paths.crun_root,
				    agent->paths.share, "/run/user",	  "/run/user/0"};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		int r = mkdir_p(dirs[i], 0700);

		if (r < 0)
			return err_set_errno(err, r, "make %s", dirs[i]);
	}
	return 0;
}

static int set_sysctls(const struct sysctl *list, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = write_file(list[i].path, list[i].value, strlen(list[i].value), 0);

		if (r < 0 && !list[i].optional)
			return err_set_errno(err, r, "write %s to %s", list[i].value, list[i].path);
	}
	return 0;
}

int init_early(struct agent *agent, struct err *err)
{
	static const struct rlimit files = {.rlim_cur = FILES_MAX, .rlim_max = FILES_MAX};
	int r = 0;

	if (setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1) < 0 ||
	    setenv("XDG_RUNTIME_DIR", "/run/user/0", 1) < 0 || setenv("HOME", "/root", 1) < 0)
		return err_set_errno(err, -errno, "set the environment");
	umask(022);
	/*
	 * The agent holds the pipes of all processes; containers inherit limits that their spec does not set.
	 */
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		return err_set_errno(err, -errno, "raise the limit of open files");
	/* Later mounts in the share reach the containers that asked for propagation. */
	if (mount("none", "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
		return err_set_errno(err, -errno, "make mounts shared");
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(early); i++)
		r = mount_one(&early[i], err);
	hurry_rcu();
	if (r == 0)
		r = make_dirs(agent, err);
	if (r == 0)
		r = cgroup_setup(&agent->cgroup2, err);
	if (r == 0)
		r = set_sysctls(early_sysctls, ARRAY_SIZE(early_sysctls), err);
	/* The agent must survive its containers, and its memory must not be read by them. */
	(void)write_file("/proc/self/oom_score_adj", "-1000", 5, 0);
	prctl(PR_SET_DUMPABLE, 0);
	return r;
}

int init_share(const struct config *config, struct err *err)
{
	/*
	 * Containers' roots and volumes inherit these flags: set-user-id programs work there, as anywhere.
	 * Device nodes are made in /dev, a file system of the container's own.
	 */
	unsigned long flags = MS_NODEV;
	int r = 0;

	if (config->share == CONFIG_SHARE_9P) {
		if (mount(GUEST_SHARE_TAG, GUEST_SHARE_DIR, "9p", flags,
			  "trans=virtio,version=9p2000.L,msize=524288") < 0)
			r = -errno;
	} else if (mount(GUEST_SHARE_TAG, GUEST_SHARE_DIR, "virtiofs", flags, NULL) < 0) {
		r = -errno;
	}
	if (r < 0)
		return err_set_errno(err, r, "mount the share \"%s\" (%s) at %s", GUEST_SHARE_TAG,
				     config->share == CONFIG_SHARE_9P ? "9p" : "virtiofs", GUEST_SHARE_DIR);
	return 0;
}

static int settle(struct agent *agent, const struct config *config, struct err *err)
{
	int r = pod_loopback(err);

	if (r == 0)
		r = cgroup_enable(agent->cgroup2, agent->paths.cgroup_parent, err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(later); i++)
		r = mount_one(&later[i], err);
	if (r == 0 && config->share == CONFIG_SHARE_VIRTIOFS && !share_is_counted(agent))
		log_warn("this kernel does not show virtiofs in fusectl: a container that ends while it "
			 "reads may crash the VM");
	if (r == 0)
		r = make_links(err);
	if (r == 0)
		r = set_sysctls(later_sysctls, ARRAY_SIZE(later_sysctls), err);
	if (r == 0)
		r = containers_settle(agent, err);
	if (r == 0)
		r = device_settle(agent, err);
	return r == 0 ? cgroup_enter_leaf(agent->cgroup2, err) : r;
}

void init_settle(struct agent *agent, const struct config *config)
{
	struct err err = ERR_INIT;

	if (settle(agent, config, &err) < 0)
		init_fatal(&err);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

/* Collects file systems on a device and those of the host. */
static int collect(const struct procfs_mount *m, void *arg)
{
	static const char *const types[] = {"virtiofs", "fuse", "9p"};
	char ***list = arg;
	bool undo = str_starts(m->source, "/dev/");

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		undo = undo || str_eq(m->type, types[i]);
	return undo && !str_eq(m->point, "/") ? strv_add(list, m->point) : 0;
}

int init_release(struct agent *agent)
{
	char **list CLEANUP_STRV = NULL;
	int status = procfs_mounts(collect, &list) < 0 ? AGENT_RELEASE_BUSY : 0;

	(void)agent;
	for (size_t i = strv_len(list); i > 0; i--) {
		if (umount2(list[i - 1], UMOUNT_NOFOLLOW) == 0)
			continue;
		status = AGENT_RELEASE_BUSY;
		log_warn("unmount %s: %s", list[i - 1], strerror(errno));
		/* In use: written out, and read-only from now on. */
		if (mount(NULL, list[i - 1], NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
			umount2(list[i - 1], MNT_DETACH | UMOUNT_NOFOLLOW);
	}
	sync();
	return status;
}

void init_power_off(void)
{
	reboot(RB_POWER_OFF);
	_exit(1); /* PID 1's end is a panic, which the host sees as well */
}

void init_fatal(const struct err *err)
{
	static const char *const paths[] = {"/dev/hvc0", "/dev/console", "/dev/kmsg"};
	char line[ERR_MSG_MAX + 64];
	int len = snprintf(line, sizeof(line), "crivisor-agent: fatal: %s\n", err->msg);
	int fd = console_fd;

	for (size_t i = 0; i < ARRAY_SIZE(paths) && fd < 0; i++)
		fd = open(paths[i], O_WRONLY | O_NOCTTY | O_CLOEXEC);
	(void)!write(fd, line, (size_t)(len < (int)sizeof(line) ? len : (int)sizeof(line) - 1));
	sync();
	init_power_off();
}
