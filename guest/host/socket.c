/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/host/socket_internal.h"

#include "base/log.h"
#include "base/util.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 128

static int make_address(const char *path, struct sockaddr_un *ret, struct err *err)
{
	size_t len = strlen(path);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (len == 0 || len >= sizeof(ret->sun_path))
		return err_set(err, -ENAMETOOLONG, "socket \"%.128s\": want a path of 1 to %zu bytes", path,
			       sizeof(ret->sun_path) - 1);
	memcpy(ret->sun_path, path, len + 1);
	return 0;
}

static int open_socket(struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? err_set_errno(err, -errno, "socket") : fd;
}

/* Removes a socket that nobody serves; what is no socket stays, and bind says so. */
static int remove_stale(const struct sockaddr_un *addr, struct err *err)
{
	int fd CLEANUP_CLOSE = open_socket(err);
	struct stat st;

	if (fd < 0)
		return fd;
	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return 0;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno != ECONNREFUSED)
		return err_set(err, -EADDRINUSE, "socket %s is served already", addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "remove socket %s", addr->sun_path);
	return 0;
}

int socket_listen(const char *path, struct err *err)
{
	struct sockaddr_un addr;
	int fd CLEANUP_CLOSE = -1;
	mode_t mask;
	int r = make_address(path, &addr, err);

	if (r == 0)
		r = remove_stale(&addr, err);
	if (r < 0)
		return r;
	fd = open_socket(err);
	if (fd < 0)
		return fd;
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	umask(mask);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(err, r, "listen on socket %s", path);
	return move_fd(fd);
}

int socket_accept(int fd)
{
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (conn < 0)
		return -errno;
	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		int r = -errno;

		close_fd(conn);
		return r;
	}
	if (peer.uid != 0) {
		log_warn("connection from process %d of user %u refused: only root may connect", peer.pid,
			 peer.uid);
		close_fd(conn);
		return -EAGAIN;
	}
	return conn;
}
