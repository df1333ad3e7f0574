/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netns.c: network namespaces held by bind mounts, and work inside them.
 *
 * setns(2) belongs to a thread: whatever has to happen inside a namespace is done by a thread that is made
 * for it and dies with it, so no thread of the server ever changes its own.
 */
#include "vmm/netns_internal.h"

#include "base/util.h"
#include "vmm/network.h"

#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#define STACK_BYTES (256 * 1024)

struct job {
	int netns_fd; /* -1: a new namespace */
	netns_fn *fn;
	void *arg;
	struct err *err;
	int result;
};

static void *run_job(void *arg)
{
	struct job *j = arg;

	if (j->netns_fd < 0 ? unshare(CLONE_NEWNET) < 0 : setns(j->netns_fd, CLONE_NEWNET) < 0)
		j->result = err_set_errno(j->err, -errno,
					  j->netns_fd < 0 ? "making a network namespace" : "entering it");
	else
		j->result = j->fn(j->arg, j->err);
	return NULL;
}

static int run_thread(struct job *j)
{
	pthread_attr_t attr;
	pthread_t t;
	sigset_t all, old;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&t, &attr, run_job, j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r != 0)
		return err_set_errno(j->err, -r, "starting a thread");
	pthread_join(t, NULL);
	return j->result;
}

int netns_run(const char *netns_path, netns_fn *fn, void *arg, struct err *err)
{
	int fd CLEANUP_CLOSE = -1;
	struct job j = {.fn = fn, .arg = arg, .err = err};
	struct statfs fs;
	int r;

	if (!netns_path)
		return fn(arg, err);
	fd = open(netns_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set_errno(err, -errno, "network namespace %s", netns_path);
	if (fstatfs(fd, &fs) < 0 || fs.f_type != NSFS_MAGIC)
		return err_set(err, -EINVAL, "%s is not a network namespace", netns_path);
	j.netns_fd = fd;
	r = run_thread(&j);
	return r < 0 ? err_wrap(err, "in network namespace %s", netns_path) : r;
}

int netns_run_new(netns_fn *fn, void *arg, struct err *err)
{
	struct job j = {.netns_fd = -1, .fn = fn, .arg = arg, .err = err};

	return run_thread(&j);
}

static int lo_up(struct err *err)
{
	int fd CLEANUP_CLOSE = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "lo"};

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		return err_set_errno(err, -errno, "the loopback interface");
	ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		return err_set_errno(err, -errno, "the loopback interface");
	return 0;
}

static int do_nothing(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	return 0;
}

int vmm_netns_try(struct err *err)
{
	return netns_run_new(do_nothing, NULL, err);
}

static int pin_current(void *arg, struct err *err)
{
	const char *path = arg;

	if (mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL) < 0)
		return err_set_errno(err, -errno, "binding the namespace to %s", path);
	return lo_up(err);
}

int vmm_netns_create(const char *path, struct err *err)
{
	struct job j = {.netns_fd = -1, .fn = pin_current, .arg = (char *)(uintptr_t)path, .err = err};
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return err_set_errno(err, -errno, "network namespace %s", path);
	close_fd(fd);
	r = run_thread(&j);
	if (r < 0) {
		umount2(path, MNT_DETACH);
		unlink(path);
		return err_wrap(err, "network namespace %s", path);
	}
	return 0;
}

int vmm_netns_destroy(const char *path, struct err *err)
{
	/* EINVAL: nothing is mounted there; a crash came between the file's creation and the mount. */
	if (umount2(path, MNT_DETACH) < 0 && errno != ENOENT && errno != EINVAL)
		return err_set_errno(err, -errno, "unmounting network namespace %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "removing network namespace %s", path);
	return 0;
}
