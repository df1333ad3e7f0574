/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/cni.h"

#include "base/util.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>

#define ENVIRON_MAX (256 * 1024)
#define PASSES_MAX  10 /* a plugin may start another while it is looked for */
#define KILL_MS	    5000

static bool serves(pid_t pid, const char *netns_dir)
{
	char path[64];
	char *env CLEANUP_FREE = NULL;
	size_t len = 0, n = strlen(netns_dir);

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	if (read_file(path, ENVIRON_MAX, &env, &len) < 0)
		return false;
	for (const char *p = env; p < env + len; p += strlen(p) + 1) {
		if (str_starts(p, "CNI_NETNS=") && strncmp(p + 10, netns_dir, n) == 0 && p[10 + n] == '/')
			return true;
	}
	return false;
}

/* 1 if it was one of them, and is gone now; 0 if not. */
static int end_one(pid_t pid, const char *netns_dir, struct err *err)
{
	int fd CLEANUP_CLOSE = -1;
	struct pollfd p = {.events = POLLIN};

	if (pid == getpid() || !serves(pid, netns_dir))
		return 0;
	fd = pidfd_open(pid, 0);
	/* Looked at again: the pid may be another's by now, and the pidfd is of the one that is killed. */
	if (fd < 0 || !serves(pid, netns_dir))
		return 0;
	p.fd = fd;
	if (pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return err_set_errno(err, -errno, "killing the CNI plugin with pid %d", (int)pid);
	if (poll(&p, 1, KILL_MS) != 1)
		return err_set(err, -ETIMEDOUT, "the CNI plugin with pid %d cannot be killed", (int)pid);
	return 1;
}

static int pass(const char *netns_dir, struct err *err)
{
	DIR *d = opendir("/proc");
	struct dirent *ent;
	int ended = 0, r = 0;

	if (!d)
		return err_set_errno(err, -errno, "reading /proc");
	while (r >= 0 && (ent = readdir(d))) {
		if (!isdigit((unsigned char)ent->d_name[0]))
			continue;
		r = end_one((pid_t)strtol(ent->d_name, NULL, 10), netns_dir, err);
		ended += r > 0;
	}
	closedir(d);
	return r < 0 ? r : ended;
}

int cni_end_orphans(const char *netns_dir, struct err *err)
{
	int total = 0;

	for (int i = 0; i < PASSES_MAX; i++) {
		int r = pass(netns_dir, err);

		if (r <= 0)
			return r < 0 ? r : total;
		total += r;
	}
	return total;
}
