/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG		256
#define SOCKET_MODE	0660
#define ACCEPT_BURST	64		  /* then other sources of the loop have their turn */
#define ACCEPT_PAUSE_NS (100 * NS_PER_MS) /* until fds or memory may be had again */

/* One accepted connection. gRPC closes the fd without telling, so an entry is live as long as fd is still
 * that socket. */
struct peer {
	int fd;
	ino_t ino;
	pid_t pid;
};

struct rpc_listener {
	struct loop *loop;
	struct loop_source *source, *pause;
	rpc_accept_fn *fn;
	void *arg;
	char *path, *lock_path;
	int fd, lock_fd;
	bool bound; /* we made the socket's file */
	ino_t ino;  /* of that file */

	pthread_mutex_t lock; /* guards the rest */
	struct peer *peers;
	size_t n_peers;
};

/* ---- lock file ----------------------------------------------------------------------------------------- */

static int lock_held(const char *path, const char *socket_path, int fd, struct err *err)
{
	char pid[16] = "";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

	pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
	return err_set_status(err, -EADDRINUSE, ERR_FAILED_PRECONDITION,
			      "socket %s is served by another crivisor, pid %s (it holds %s)", socket_path,
			      *pid ? pid : "unknown", path);
}

/* True if the locked file is still the one at path: its last holder may have removed it in between. */
static bool lock_current(const char *path, int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int take_lock(struct rpc_listener *l, struct err *err)
{
	for (;;) {
		int fd CLEANUP_CLOSE = open(l->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		char pid[16];

		if (fd < 0)
			return err_set_errno(err, -errno, "lock file %s", l->lock_path);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EWOULDBLOCK)
				return lock_held(l->lock_path, l->path, fd, err);
			return err_set_errno(err, -errno, "lock %s", l->lock_path);
		}
		if (!lock_current(l->lock_path, fd))
			continue;
		snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
		if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0)
			return err_set_errno(err, -errno, "lock file %s", l->lock_path);
		l->lock_fd = move_fd(fd);
		return 0;
	}
}

/* ---- socket -------------------------------------------------------------------------------------------- */

/* With the lock held only a stranger can be listening here. */
static int check_stranger(const char *path, const struct sockaddr_un *addr, struct err *err)
{
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return err_set_errno(err, -errno, "socket %s", path);
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno != EAGAIN)
		return 0;
	(void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	return err_set_status(err, -EADDRINUSE, ERR_FAILED_PRECONDITION,
			      "socket %s is served by another program, pid %ld", path, (long)peer.pid);
}

static int remove_stale(const char *path, const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set_errno(err, -errno, "socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set_status(err, -EEXIST, ERR_FAILED_PRECONDITION, "%s exists and is not a socket",
				      path);
	r = check_stranger(path, addr, err);
	if (r < 0)
		return r;
	return unlink(path) < 0 && errno != ENOENT ? err_set_errno(err, -errno, "stale socket %s", path) : 0;
}

static int make_socket(struct rpc_listener *l, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	int r;

	if (strlen(l->path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", l->path,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, l->path, strlen(l->path));
	r = remove_stale(l->path, &addr, err);
	if (r < 0)
		return r;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The file takes its mode from the fd, less the umask: never wider than meant, even for a moment. */
	if (l->fd < 0 || fchmod(l->fd, SOCKET_MODE) < 0 ||
	    bind(l->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set_errno(err, -errno, "socket %s", l->path);
	l->bound = true;
	if (stat(l->path, &st) < 0 || chmod(l->path, SOCKET_MODE) < 0 || listen(l->fd, BACKLOG) < 0)
		return err_set_errno(err, -errno, "socket %s", l->path);
	l->ino = st.st_ino;
	return 0;
}

static int make_parent(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *dir CLEANUP_FREE = NULL;
	int r;

	if (!slash || slash == path)
		return 0;
	dir = strndup(path, (size_t)(slash - path));
	r = dir ? mkdir_p(dir, 0711) : -ENOMEM;
	return r < 0 ? err_set_errno(err, r, "directory of socket %s", path) : 0;
}

/* ---- peers --------------------------------------------------------------------------------------------- */

static bool peer_live(const struct peer *peer)
{
	struct stat st;

	return fstat(peer->fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == peer->ino;
}

/* Lock held. Forgets connections that have ended. */
static void sweep(struct rpc_listener *l)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->n_peers; i++)
		if (peer_live(&l->peers[i]))
			l->peers[kept++] = l->peers[i];
	l->n_peers = kept;
}

/* False: too many connections. */
static bool remember(struct rpc_listener *l, int fd)
{
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);
	struct stat st = {0};
	bool fits;

	(void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	(void)fstat(fd, &st);
	pthread_mutex_lock(&l->lock);
	if (l->n_peers == RPC_CONNECTIONS_MAX)
		sweep(l);
	fits = l->n_peers < RPC_CONNECTIONS_MAX;
	if (fits)
		l->peers[l->n_peers++] = (struct peer){.fd = fd, .ino = st.st_ino, .pid = cred.pid};
	pthread_mutex_unlock(&l->lock);
	return fits;
}

pid_t rpc_listener_peer_pid(struct rpc_listener *l, int fd)
{
	pid_t pid = 0;

	pthread_mutex_lock(&l->lock);
	/* From the end: the latest owner of that fd number. */
	for (size_t i = l->n_peers; i > 0 && !pid; i--)
		if (l->peers[i - 1].fd == fd)
			pid = l->peers[i - 1].pid;
	pthread_mutex_unlock(&l->lock);
	return pid;
}

/* ---- accepting ----------------------------------------------------------------------------------------- */

static void accept_again(void *arg)
{
	struct rpc_listener *l = arg;

	loop_source_set_events(l->source, EPOLLIN);
}

/* Out of fds or memory: the connection stays in the backlog, and a level-triggered loop would spin on it. */
static void accept_pause(struct rpc_listener *l, int error)
{
	char buf[64];

	log_warn("cannot accept on %s: %s", l->path, strerror_r(error, buf, sizeof(buf)));
	loop_source_set_events(l->source, 0);
	loop_timer_set(l->pause, now_monotonic_ns() + ACCEPT_PAUSE_NS);
}

static void on_connection(void *arg, int fd, uint32_t revents)
{
	struct rpc_listener *l = arg;

	(void)revents;
	for (int i = 0; i < ACCEPT_BURST; i++) {
		int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (conn < 0 && errno == EAGAIN)
			return;
		if (conn < 0 && (errno == ECONNABORTED || errno == EINTR))
			continue;
		if (conn < 0) {
			accept_pause(l, errno);
			return;
		}
		if (remember(l, conn)) {
			l->fn(l->arg, conn);
		} else {
			close_fd(conn);
			log_warn("more than %d connections on %s: one refused", RPC_CONNECTIONS_MAX, l->path);
		}
	}
}

static int listener_start(struct rpc_listener *l, int listen_fd, struct err *err)
{
	int r = make_parent(l->path, err);

	if (r == 0)
		r = take_lock(l, err);
	if (r < 0)
		return r;
	if (listen_fd >= 0) {
		l->fd = listen_fd;
		r = set_nonblock(listen_fd, true);
		if (r < 0)
			return err_set_errno(err, r, "socket given by the service manager");
	} else {
		r = make_socket(l, err);
	}
	if (r == 0)
		r = loop_add_timer(l->loop, INT64_MAX, accept_again, l, &l->pause, err);
	if (r == 0)
		r = loop_add_fd(l->loop, l->fd, EPOLLIN, on_connection, l, &l->source, err);
	return r;
}

int rpc_listener_new(const char *socket_path, int listen_fd, rpc_accept_fn *fn, void *arg, struct loop *loop,
		     struct rpc_listener **ret_listener, struct err *err)
{
	struct rpc_listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set(err, -ENOMEM, "no memory for the listener");
	l->loop = loop;
	l->fn = fn;
	l->arg = arg;
	l->fd = l->lock_fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	l->path = strdup(socket_path);
	l->lock_path = xasprintf("%s.lock", socket_path);
	l->peers = calloc(RPC_CONNECTIONS_MAX, sizeof(*l->peers));
	if (l->path && l->lock_path && l->peers)
		r = listener_start(l, listen_fd, err);
	else
		r = err_set(err, -ENOMEM, "no memory for the listener");
	if (r < 0) {
		rpc_listener_close(l);
		rpc_listener_free(l);
		return r;
	}
	*ret_listener = l;
	return 0;
}

void rpc_listener_close(struct rpc_listener *l)
{
	struct stat st;

	l->source = loop_source_free(l->source);
	l->pause = loop_source_free(l->pause);
	l->fd = close_fd(l->fd);
	if (l->bound && lstat(l->path, &st) == 0 && st.st_ino == l->ino)
		unlink(l->path);
	l->bound = false;
}

struct rpc_listener *rpc_listener_free(struct rpc_listener *l)
{
	if (!l)
		return NULL;
	if (l->lock_fd >= 0)
		unlink(l->lock_path);
	close_fd(l->lock_fd);
	pthread_mutex_destroy(&l->lock);
	free(l->path);
	free(l->lock_path);
	free(l->peers);
	free(l);
	return NULL;
}
