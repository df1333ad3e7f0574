/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <libgen.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/un.h>

#define RETRY_NS NS_PER_MS

static int fill_address(const char *path, struct sockaddr_un *ret, struct err *err)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return err_set(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
			       sizeof(ret->sun_path) - 1);
	strcpy(ret->sun_path, path);
	return 0;
}

int sock_listen(const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = -1;
	struct sockaddr_un a;
	int r = fill_address(path, &a, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(err, -errno, "socket");
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "removing the old %s", path);
	if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return err_set_errno(err, -errno, "binding %s", path);
	if (listen(fd, 16) < 0)
		return err_set_errno(err, -errno, "listening on %s", path);
	return move_fd(fd);
}

/* Waits for a change in the socket's directory, or for the owner's exit; -EAGAIN: look again. */
static int wait_in_directory(int watch, int stop_fd, const struct child *owner, int64_t deadline_ns,
			     struct err *err)
{
	struct pollfd p[] = {
		{.fd = watch, .events = POLLIN},
		{.fd = stop_fd, .events = POLLIN},
		{.fd = owner ? owner->pidfd : -1, .events = POLLIN},
	};
	char drop[4096];
	int r = wait_poll(p, 3, deadline_ns);

	if (r < 0)
		return err_set_errno(err, r, "waiting for its socket");
	if (p[1].revents)
		return err_set(err, -ECANCELED, "the VM is being stopped");
	if (p[2].revents)
		return err_set(err, -ENOTCONN, "it has exited");
	while (read(watch, drop, sizeof(drop)) > 0)
		;
	return -EAGAIN;
}

int sock_target(const char *path, struct sockaddr_un *ret_address)
{
	int fd CLEANUP_CLOSE = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d", fd);
	return move_fd(fd);
}

static int connect_once(const char *path)
{
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un a;
	int target CLEANUP_CLOSE = sock_target(path, &a);

	if (target < 0)
		return target;
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	return move_fd(fd);
}

int sock_connect(const char *path, int64_t deadline_ns, int stop_fd, const struct child *owner,
		 struct err *err)
{
	char *copy CLEANUP_FREE = strdup(path);
	int watch CLEANUP_CLOSE = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int r;

	if (!copy || watch < 0 || inotify_add_watch(watch, dirname(copy), IN_CREATE | IN_MOVED_TO) < 0)
		return err_set_errno(err, copy ? -errno : -ENOMEM, "watching for %s", path);
	for (;;) {
		int fd = connect_once(path);

		if (fd >= 0) {
			set_nonblock(fd, false);
			return fd;
		}
		if (fd == -ENOENT) {
			r = wait_in_directory(watch, stop_fd, owner, deadline_ns, err);
			if (r != -EAGAIN)
				return r;
			continue;
		}
		/* Bound but not yet listening, or a full backlog: there is no event for either. */
		if (fd != -ECONNREFUSED && fd != -EAGAIN)
			return err_set_errno(err, fd, "connecting to %s", path);
		if (owner && wait_fd(owner->pidfd, POLLIN, 0) > 0)
			return err_set(err, -ENOTCONN, "it has exited");
		if (now_monotonic_ns() >= deadline_ns)
			return err_set_errno(err, fd, "connecting to %s", path);
		wait_pause(stop_fd, RETRY_NS, deadline_ns);
		if (wait_fd(stop_fd, POLLIN, 0) > 0)
			return err_set(err, -ECANCELED, "the VM is being stopped");
	}
}
