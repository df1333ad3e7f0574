/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/rpc/server.h"

#include "base/log.h"
#include "base/util.h"
#include "guest/core/loop.h"

#include <poll.h>
#include <sys/socket.h>

#define READ_CHUNK 65536

struct server_conn {
	struct server_conn *prev, *next;
	struct server *server;
	int fd;
	struct loop_source *src;
	struct ttrpc_conn *ttrpc;
	struct loop_timer timer; /* ttrpc's next deadline */
	struct loop_task flush;	 /* output was added */
	struct server_drain *drains;
	unsigned int paused;
	bool dead; /* closed at the end of the round, never inside a callback of ttrpc */
};

struct server {
	struct agent *agent;
	const struct ttrpc_service *services;
	int fd;
	server_accept_fn *accept;
	struct loop_source *src;
	struct server_conn *conns;
	unsigned int conns_len;
	unsigned char chunk[READ_CHUNK];
};

/* ttrpc gives back the connection; there are at most SERVER_CONNS_MAX of ours. */
static struct server *the_server;

ssize_t server_send(struct buf *b, int fd)
{
	ssize_t n = send(fd, buf_data(b), b->len < SERVER_SEND_MAX ? b->len : SERVER_SEND_MAX, MSG_NOSIGNAL);

	if (n < 0)
		return -errno;
	buf_consume(b, (size_t)n);
	return n;
}

static void conn_close(struct server_conn *c)
{
	struct server *s = c->server;

	loop_task_clear(s->agent->loop, &c->flush);
	loop_timer_clear(&c->timer);
	c->ttrpc = ttrpc_conn_free(c->ttrpc);
	loop_task_clear(s->agent->loop, &c->flush); /* the abort may have asked for output once more */
	loop_source_free(c->src);
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

static void conn_events(struct server_conn *c)
{
	uint32_t events = 0;

	if (!c->paused)
		events |= EPOLLIN;
	if (ttrpc_out(c->ttrpc)->len > 0)
		events |= EPOLLOUT;
	/* Even while paused the end of the peer must be seen. */
	loop_set_events(c->src, events ? events : EPOLLRDHUP);
}

static void on_deadline(void *arg);

static void conn_timer(struct server_conn *c)
{
	int64_t at = ttrpc_next_deadline(c->ttrpc);

	if (at == INT64_MAX)
		loop_timer_clear(&c->timer);
	else if (!loop_timer_armed(&c->timer) || c->timer.at_ns != at)
		loop_timer_set(c->server->agent->loop, &c->timer, at, on_deadline, c);
}

/* One at a time: a hook may clear another one. A hook asks again only after it has filled the output. */
static void run_drains(struct server_conn *c)
{
	while (c->drains && ttrpc_out(c->ttrpc)->len < SERVER_OUT_LOW) {
		struct server_drain *d = c->drains;

		c->drains = d->next;
		d->queued = false;
		d->fn(d->arg);
	}
}

/* The one place that writes; also where a dead connection is closed. Runs at the end of a round. */
static void on_flush(void *arg)
{
	struct server_conn *c = arg;

	while (!c->dead && ttrpc_out(c->ttrpc)->len > 0) {
		ssize_t n = server_send(ttrpc_out(c->ttrpc), c->fd);

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

static void conn_later(struct server_conn *c)
{
	loop_later(c->server->agent->loop, &c->flush, on_flush, c);
}

static void on_output(void *owner)
{
	conn_later(owner);
}

static void on_deadline(void *arg)
{
	struct server_conn *c = arg;

	ttrpc_expire(c->ttrpc, now_monotonic_ns());
	conn_later(c);
}

static void on_conn(void *arg, int fd, uint32_t events)
{
	struct server_conn *c = arg;
	struct err err = ERR_INIT;
	ssize_t n;

	if (events & (EPOLLERR | EPOLLHUP))
		c->dead = true;
	if (c->paused) {
		/* Data stays in the kernel, but a closed peer is noticed. */
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

int server_take(struct server *s, int fd)
{
	struct server_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*c = (struct server_conn){.server = s, .fd = fd, .next = s->conns};
	c->ttrpc = ttrpc_server_new(s->services, on_output, c);
	c->src = loop_add(s->agent->loop, fd, EPOLLIN, on_conn, c);
	if (!c->ttrpc || !c->src) {
		ttrpc_conn_free(c->ttrpc);
		loop_source_free(c->src);
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
	struct server *s = arg;
	int conn = s->accept(fd);

	(void)events;
	if (conn < 0)
		return;
	if (s->conns_len >= SERVER_CONNS_MAX) {
		log_warn("connection refused: %u are open already", s->conns_len);
		close_fd(conn);
		return;
	}
	if (server_take(s, conn) < 0) {
		log_error("connection refused: out of memory");
		close_fd(conn);
	}
}

struct server *server_new(struct agent *agent, const struct ttrpc_service *services)
{
	struct server *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->agent = agent;
	s->services = services;
	s->fd = -1;
	the_server = s;
	return s;
}

int server_serve(struct server *s, int fd, server_accept_fn *accept, struct err *err)
{
	s->src = loop_add(s->agent->loop, fd, EPOLLIN, on_listen, s);
	if (!s->src)
		return err_set(err, -ENOMEM, "watch the listening socket");
	s->fd = fd;
	s->accept = accept;
	return 0;
}

const struct ttrpc_service *server_services(const struct server *s)
{
	return s->services;
}

struct server *server_free(struct server *s)
{
	if (!s)
		return NULL;
	while (s->conns)
		conn_close(s->conns);
	loop_source_free(s->src);
	close_fd(s->fd);
	free(s);
	the_server = NULL;
	return NULL;
}

void server_flush(struct server *server, int64_t deadline_ns)
{
	for (struct server_conn *c = server ? server->conns : NULL; c; c = c->next) {
		while (ttrpc_out(c->ttrpc)->len > 0) {
			int64_t left = deadline_ns - now_monotonic_ns();
			struct pollfd pfd = {.fd = c->fd, .events = POLLOUT};

			if (left <= 0 || poll(&pfd, 1, (int)(left / NS_PER_MS) + 1) <= 0)
				return;
			if (server_send(ttrpc_out(c->ttrpc), c->fd) < 0)
				break;
		}
	}
}

struct server_conn *server_conn(struct ttrpc_request *req)
{
	const struct ttrpc_conn *t = ttrpc_request_conn(req);
	struct server_conn *c = the_server->conns;

	while (c && c->ttrpc != t)
		c = c->next;
	return c;
}

bool server_may_send(const struct server_conn *conn)
{
	return ttrpc_out(conn->ttrpc)->len < SERVER_OUT_HIGH;
}

void server_on_drain(struct server_conn *conn, struct server_drain *drain, void (*fn)(void *arg), void *arg)
{
	if (drain->queued)
		return;
	*drain = (struct server_drain){.next = conn->drains, .fn = fn, .arg = arg, .queued = true};
	conn->drains = drain;
	conn_later(conn);
}

void server_drain_clear(struct server_conn *conn, struct server_drain *drain)
{
	struct server_drain **p = &conn->drains;

	if (!drain->queued)
		return;
	while (*p && *p != drain)
		p = &(*p)->next;
	if (*p)
		*p = drain->next;
	drain->queued = false;
}

void server_pause(struct server_conn *conn, bool pause)
{
	conn->paused += pause ? 1U : -1U;
	conn_later(conn);
}
