#include "guest/rpc/server.h"

#include "base/log.h"
#include "base/util.h"

#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/socket.h>

#define READ_CHUNK 65536

struct gconn {
	struct gconn *prev, *next;
	struct gserver *server;
	int fd;
	struct eloop_source *src;
	struct ttrpc_conn *ttrpc;
	struct eloop_timer timer; /* ttrpc's next deadline */
	struct eloop_task flush;  /* output was added */
	struct gserver_drain *drains;
	unsigned int paused;
	bool dead; /* closed at the end of the round, never inside a callback of ttrpc */
};

struct gserver {
	struct guest *g;
	const struct ttrpc_service *services;
	int fd;
	struct eloop_source *src;
	struct gconn *conns;
	unsigned int conns_len;
	unsigned char chunk[READ_CHUNK];
};

/* ttrpc gives back the connection; there are at most GSERVER_CONNS_MAX of ours. */
static struct gserver *the_server;

ssize_t gserver_send(struct buf *b, int fd)
{
	ssize_t n =
		send(fd, buf_data(b), b->len < GSERVER_SEND_MAX ? b->len : GSERVER_SEND_MAX, MSG_NOSIGNAL);

	if (n < 0)
		return -errno;
	buf_consume(b, (size_t)n);
	return n;
}

static void conn_close(struct gconn *c)
{
	struct gserver *s = c->server;

	eloop_task_clear(s->g->loop, &c->flush);
	eloop_timer_clear(&c->timer);
	c->ttrpc = ttrpc_conn_free(c->ttrpc);
	eloop_task_clear(s->g->loop, &c->flush); /* the abort may have asked for output once more */
	eloop_source_free(c->src);
	close_fd(c->fd);
	if (c->prev)
		c->prev->next = c->next;
	else
		s->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	s->conns_len--;
	free(c);
}

static void conn_events(struct gconn *c)
{
	uint32_t events = 0;

	if (!c->paused)
		events |= EPOLLIN;
	if (ttrpc_out(c->ttrpc)->len > 0)
		events |= EPOLLOUT;
	/* Even while paused the end of the peer must be seen. */
	eloop_set_events(c->src, events ? events : EPOLLRDHUP);
}

static void on_deadline(void *arg);

static void conn_timer(struct gconn *c)
{
	int64_t at = ttrpc_next_deadline(c->ttrpc);

	if (at == INT64_MAX)
		eloop_timer_clear(&c->timer);
	else if (!eloop_timer_armed(&c->timer) || c->timer.at_ns != at)
		eloop_timer_set(c->server->g->loop, &c->timer, at, on_deadline, c);
}

/* One at a time: a hook may clear another one. A hook asks again only after it has filled the output. */
static void run_drains(struct gconn *c)
{
	while (c->drains && ttrpc_out(c->ttrpc)->len < GSERVER_OUT_LOW) {
		struct gserver_drain *d = c->drains;

		c->drains = d->next;
		d->queued = false;
		d->fn(d->arg);
	}
}

/* The one place that writes; also where a dead connection is closed. Runs at the end of a round. */
static void on_flush(void *arg)
{
	struct gconn *c = arg;

	while (!c->dead && ttrpc_out(c->ttrpc)->len > 0) {
		ssize_t n = gserver_send(ttrpc_out(c->ttrpc), c->fd);

		if (n == -EAGAIN || n == -EINTR)
			break;
		if (n < 0)
			c->dead = true;
	}
	if (c->dead) {
		conn_close(c);
		return;
	}
	run_drains(c);
	conn_events(c);
	conn_timer(c);
}

static void conn_later(struct gconn *c)
{
	eloop_later(c->server->g->loop, &c->flush, on_flush, c);
}

static void on_output(void *owner)
{
	conn_later(owner);
}

static void on_deadline(void *arg)
{
	struct gconn *c = arg;

	ttrpc_expire(c->ttrpc, now_monotonic_ns());
	conn_later(c);
}

static void on_conn(void *arg, int fd, uint32_t events)
{
	struct gconn *c = arg;
	struct err err = ERR_INIT;
	ssize_t n;

	if (events & (EPOLLERR | EPOLLHUP))
		c->dead = true;
	if (c->paused) {
		/*
		 * The peer closed, or output can go on: data stays where it is, but a closed peer is noticed.
		 */
		if (events & EPOLLRDHUP)
			c->dead = true;
	} else if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
		n = read(fd, c->server->chunk, sizeof(c->server->chunk));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			c->dead = true;
		if (n > 0) {
			c->dead = false; /* more may follow before the end */
			if (ttrpc_feed(c->ttrpc, c->server->chunk, (size_t)n, &err) < 0) {
				log_warn("connection closed: %s", err.msg);
				c->dead = true;
			}
		}
	}
	conn_later(c);
}

int gserver_listen(unsigned int port, struct err *err)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
	int fd CLEANUP_CLOSE = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_set_errno(err, -errno, "vsock socket");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set_errno(err, -errno, "bind vsock port %u", port);
	if (listen(fd, 128) < 0)
		return err_set_errno(err, -errno, "listen on vsock port %u", port);
	return move_fd(fd);
}

int gserver_accept(int fd)
{
	struct sockaddr_vm peer = {.svm_family = AF_VSOCK};
	socklen_t len = sizeof(peer);
	int conn = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (conn < 0)
		return -errno;
	if (peer.svm_family != AF_VSOCK || peer.svm_cid != VMADDR_CID_HOST) {
		log_warn("connection from CID %u refused: only the host may connect", peer.svm_cid);
		close_fd(conn);
		return -EAGAIN;
	}
	return conn;
}

int gserver_take(struct gserver *s, int fd)
{
	struct gconn *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*c = (struct gconn){.server = s, .fd = fd, .next = s->conns};
	c->ttrpc = ttrpc_server_new(s->services, on_output, c);
	c->src = eloop_add(s->g->loop, fd, EPOLLIN, on_conn, c);
	if (!c->ttrpc || !c->src) {
		ttrpc_conn_free(c->ttrpc);
		eloop_source_free(c->src);
		free(c);
		return -ENOMEM;
	}
	if (s->conns)
		s->conns->prev = c;
	s->conns = c;
	s->conns_len++;
	return 0;
}

static void on_listen(void *arg, int fd, uint32_t events)
{
	struct gserver *s = arg;
	int conn = gserver_accept(fd);

	(void)events;
	if (conn < 0)
		return;
	if (s->conns_len >= GSERVER_CONNS_MAX) {
		log_warn("connection refused: there are %u already", s->conns_len);
		close_fd(conn);
		return;
	}
	if (gserver_take(s, conn) < 0) {
		log_error("connection refused: out of memory");
		close_fd(conn);
	}
}

struct gserver *gserver_new(struct guest *g, const struct ttrpc_service *services)
{
	struct gserver *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->g = g;
	s->services = services;
	s->fd = -1;
	the_server = s;
	return s;
}

int gserver_serve(struct gserver *s, unsigned int port, struct err *err)
{
	s->fd = gserver_listen(port, err);
	if (s->fd < 0)
		return s->fd;
	s->src = eloop_add(s->g->loop, s->fd, EPOLLIN, on_listen, s);
	return s->src ? 0 : err_set(err, -ENOMEM, "watch vsock port %u", port);
}

struct gserver *gserver_free(struct gserver *s)
{
	if (!s)
		return NULL;
	while (s->conns)
		conn_close(s->conns);
	eloop_source_free(s->src);
	close_fd(s->fd);
	free(s);
	the_server = NULL;
	return NULL;
}

void gserver_flush(struct gserver *server, int64_t deadline_ns)
{
	for (struct gconn *c = server ? server->conns : NULL; c; c = c->next) {
		while (ttrpc_out(c->ttrpc)->len > 0) {
			int64_t left = deadline_ns - now_monotonic_ns();
			struct pollfd pfd = {.fd = c->fd, .events = POLLOUT};

			if (left <= 0 || poll(&pfd, 1, (int)(left / NS_PER_MS) + 1) <= 0)
				return;
			if (gserver_send(ttrpc_out(c->ttrpc), c->fd) < 0)
				break;
		}
	}
}

struct gconn *gserver_conn(struct ttrpc_request *req)
{
	const struct ttrpc_conn *t = ttrpc_request_conn(req);
	struct gconn *c = the_server->conns;

	while (c && c->ttrpc != t)
		c = c->next;
	return c;
}

bool gserver_may_send(const struct gconn *conn)
{
	return ttrpc_out(conn->ttrpc)->len < GSERVER_OUT_HIGH;
}

void gserver_on_drain(struct gconn *conn, struct gserver_drain *drain, void (*fn)(void *arg), void *arg)
{
	if (drain->queued)
		return;
	*drain = (struct gserver_drain){.next = conn->drains, .fn = fn, .arg = arg, .queued = true};
	conn->drains = drain;
	conn_later(conn);
}

void gserver_drain_clear(struct gconn *conn, struct gserver_drain *drain)
{
	struct gserver_drain **p = &conn->drains;

	if (!drain->queued)
		return;
	while (*p && *p != drain)
		p = &(*p)->next;
	if (*p)
		*p = drain->next;
	drain->queued = false;
}

void gserver_pause(struct gconn *conn, bool pause)
{
	conn->paused += pause ? 1U : -1U;
	conn_later(conn);
}
