/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/widen_internal.h"

#include "base/procfs.h"
#include "base/util.h"
#include "vmm/cgroup.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define PIDS_MAX 64

struct widening {
	const char *cgroup;
	char *suffix; /* "/<dir>/<name>" */
	int proc;     /* /proc of the host: the pod's namespaces may have none */
	int changed;
};

static int widen_one(const struct procfs_mount *m, void *arg)
{
	static const struct mount_attr rw = {.attr_clr = MOUNT_ATTR_RDONLY};
	struct widening *w = arg;
	size_t len = strlen(m->point), n = strlen(w->suffix);

	if (len < n || !str_eq(m->point + len - n, w->suffix))
		return 0;
	if (mount_setattr(AT_FDCWD, m->point, AT_SYMLINK_NOFOLLOW, (struct mount_attr *)(uintptr_t)&rw,
			  sizeof(rw)) < 0)
		return -errno;
	w->changed++;
	return 0;
}

static int widen_here(struct widening *w)
{
	int fd = openat(w->proc, "thread-self/mountinfo", O_RDONLY | O_CLOEXEC);
	FILE *f CLEANUP_FILE = fd < 0 ? NULL : fdopen(fd, "r");

	if (!f) {
		int r = -errno;

		close_fd(fd);
		return r;
	}
	return procfs_mounts_of(f, widen_one, w);
}

/* 0 where the process has ended. */
static int enter(const struct widening *w, pid_t pid)
{
	char path[40];
	int ns CLEANUP_CLOSE = -1;

	snprintf(path, sizeof(path), "%d/ns/mnt", pid);
	ns = openat(w->proc, path, O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	return setns(ns, CLONE_NEWNS) < 0 ? -errno : 1;
}

static void *run(void *arg)
{
	struct widening *w = arg;
	pid_t pids[PIDS_MAX];
	int n = 0;
	/* A thread enters a mount namespace only if it shares root and working directory with no other. */
	int r = unshare(CLONE_FS) < 0 ? -errno : widen_here(w);

	if (r == 0 && w->cgroup)
		n = vmm_cgroup_pids(w->cgroup, pids, PIDS_MAX);
	if (n > PIDS_MAX)
		n = PIDS_MAX;
	for (int i = 0; r == 0 && i < n; i++) {
		r = enter(w, pids[i]);
		if (r > 0)
			r = widen_here(w);
	}
	return (void *)(intptr_t)(r < 0 ? r : n < 0 ? n : 0);
}

int widen_mount(const char *pod_dir, const char *cgroup, const char *dir, const char *name, struct err *err)
{
	char *suffix CLEANUP_FREE = xasprintf("/%s/%s", dir, name);
	int proc CLEANUP_CLOSE = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct widening w = {.cgroup = cgroup, .suffix = suffix, .proc = proc};
	pthread_t thread;
	void *result;
	int r;

	if (!suffix)
		return err_oom(err);
	if (proc < 0)
		return err_set_errno(err, -errno, "opening /proc");
	r = -pthread_create(&thread, NULL, run, &w);
	if (r == 0) {
		pthread_join(thread, &result);
		r = (int)(intptr_t)result;
	}
	if (r < 0)
		return err_set_errno(err, r, "in %s and the namespaces of its pod", pod_dir);
	return w.changed > 0 ? 0 : err_set(err, -ENOENT, "%s/mounts%s is not mounted", pod_dir, suffix);
}
