/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Agent.Dial: a byte stream to a TCP port of the pod: at 127.0.0.1 first, then at ::1.
 *
 * The client's final close becomes a shutdown of the writing side, and the other direction goes on
 * (half-close). When the server in the pod has closed its side and everything has been sent, the stream
 * ends.
 *
 * A client that keeps to the window is always read from; any other is held back above PENDING_HIGH. While the
 * agent does not read, vhost-device-vsock (0.3.0) does not deliver what the agent sends on the connection.
 */
#include "guest/pod/methods_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "guest/rpc/server.h"
#include "guest/rpc/request.h"
#include "guest/core/loop.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define CHUNK		(32u * 1024)
#define DIALS_MAX	1024
#define PENDING_HIGH	(256u * 1024) /* the client is held back above this */
#define WINDOW_STEP	(DIAL_WINDOW / 4)
#define CONNECT_TIME_NS (10 * NS_PER_SEC)

struct dial {
	struct agent *agent;
	struct ttrpc_request *req;
	struct server_conn *conn;
	struct server_drain drain;
	struct loop_timer timer; /* connecting */
	int fd;
	struct loop_source *src;
	unsigned int port; /* 0 before the first message */
	bool v6, connected, client_eof, shut, paused;
	struct buf pending; /* to the port */
	uint32_t written;   /* to the port, and not yet told to the client */
};

static unsigned int dials_len;

static void dial_free(struct dial *d)
{
	server_drain_clear(d->conn, &d->drain);
	if (d->paused)
		server_pause(d->conn, false);
	loop_timer_clear(&d->timer);
	loop_source_free(d->src);
	close_fd(d->fd);
	buf_done(&d->pending);
	dials_len--;
	free(d);
}

static void on_cancel(void *arg)
{
	dial_free(arg);
}

static void dial_fail(struct dial *d, int code, const char *what)
{
	struct ttrpc_request *req = d->req;
	struct err err;

	err_set_errno(&err, code, "%s port %u in the pod", what, d->port);
	dial_free(d);
	ttrpc_fail(req, &err);
}

static void dial_finish(struct dial *d)
{
	struct ttrpc_request *req = d->req;

	dial_free(d);
	ttrpc_stream_finish(req);
}

static void on_drain(void *arg);

static void dial_events(struct dial *d)
{
	uint32_t events = 0;

	if (!d->connected || d->pending.len > 0)
		events |= EPOLLOUT;
	if (!server_may_send(d->conn))
		server_on_drain(d->conn, &d->drain, on_drain, d);
	else if (d->connected)
		events |= EPOLLIN;
	loop_set_events(d->src, events);
}

/* The client may send on as much as the port has taken. */
static int send_window(struct dial *d)
{
	Crivisor__Agent__V1__DialData msg = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;
	void *packed CLEANUP_FREE = NULL;
	size_t len = 0;

	if (d->written < WINDOW_STEP)
		return 0;
	msg.window = d->written;
	d->written = 0;
	packed = rpc_pack(&msg.base, &len);
	return packed ? ttrpc_request_send(d->req, packed, len) : -ENOMEM;
}

/* Writes to the port what it takes. 0 or negative errno. */
static int push(struct dial *d)
{
	bool full;

	while (d->pending.len > 0) {
		ssize_t n = buf_write_fd(&d->pending, d->fd);

		if (n == -EAGAIN || n == -EINTR)
			break;
		if (n < 0)
			return (int)n;
		d->written += (uint32_t)n;
	}
	if (d->pending.len == 0 && d->client_eof && !d->shut) {
		d->shut = true;
		shutdown(d->fd, SHUT_WR);
	}
	full = d->pending.len >= PENDING_HIGH;
	if (full != d->paused) {
		d->paused = full;
		server_pause(d->conn, full);
	}
	return send_window(d);
}

static void on_drain(void *arg)
{
	dial_events(arg);
}

/* Reads once from the port and sends it on. False: the stream is over. */
static bool pull(struct dial *d)
{
	static unsigned char chunk[CHUNK];
	Crivisor__Agent__V1__DialData msg = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;
	void *packed CLEANUP_FREE = NULL;
	size_t len = 0;
	ssize_t n = read(d->fd, chunk, sizeof(chunk));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n < 0) {
		dial_fail(d, -errno, "read from");
		return false;
	}
	if (n == 0) {
		dial_finish(d);
		return false;
	}
	msg.data.data = chunk;
	msg.data.len = (size_t)n;
	packed = rpc_pack(&msg.base, &len);
	if (!packed || ttrpc_request_send(d->req, packed, len) < 0) {
		dial_fail(d, -ENOMEM, "send on from");
		return false;
	}
	return true;
}

static int dial_connect(struct dial *d);

static void on_connected(struct dial *d)
{
	int code = 0;
	socklen_t len = sizeof(code);

	if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		code = errno;
	if (code == ECONNREFUSED && !d->v6) {
		d->v6 = true;
		code = -dial_connect(d);
		if (code == 0)
			return;
	}
	if (code) {
		dial_fail(d, -code, "connect to");
		return;
	}
	loop_timer_clear(&d->timer);
	d->connected = true;
	if (push(d) < 0)
		d->pending.len = 0;
	dial_events(d);
}

static void on_socket(void *arg, int fd, uint32_t events)
{
	struct dial *d = arg;
	int r = 0;

	(void)fd;
	if (!d->connected) {
		on_connected(d);
		return;
	}
	if (events & EPOLLOUT)
		r = push(d);
	if (r < 0) {
		dial_fail(d, r, "write to");
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !pull(d))
		return;
	dial_events(d);
}

/* Begins to connect; 0, or a negative errno. */
static int dial_connect(struct dial *d)
{
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6,
				  .sin6_port = htons((uint16_t)d->port),
				  .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in a4 = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)d->port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int r;

	d->src = loop_source_free(d->src);
	close_fd(d->fd);
	d->fd = socket(d->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->fd < 0)
		return d->v6 && errno == EAFNOSUPPORT ? -ECONNREFUSED : -errno;
	r = d->v6 ? connect(d->fd, (struct sockaddr *)&a6, sizeof(a6))
		  : connect(d->fd, (struct sockaddr *)&a4, sizeof(a4));
	/* Over loopback a refusal is known at once. */
	if (r < 0 && errno == ECONNREFUSED && !d->v6) {
		d->v6 = true;
		return dial_connect(d);
	}
	if (r < 0 && errno != EINPROGRESS)
		return d->v6 && (errno == EADDRNOTAVAIL || errno == ENETUNREACH) ? -ECONNREFUSED : -errno;
	d->src = loop_add(d->agent->loop, d->fd, EPOLLOUT, on_socket, d);
	return d->src ? 0 : -ENOMEM;
}

static void on_late(void *arg)
{
	dial_fail(arg, -ETIMEDOUT, "connect to");
}

/* A message of the client's. */
static void take(struct dial *d, const void *payload, size_t len)
{
	Crivisor__Agent__V1__DialData *m RPC_MESSAGE = NULL;
	struct ttrpc_request *req = d->req;
	struct err err = ERR_INIT;
	int r;

	m = rpc_unpack_msg(&crivisor__agent__v1__dial_data__descriptor, payload, len, &err);
	if (m && d->port == 0 && (m->port == 0 || m->port > UINT16_MAX))
		err_set(&err, -EINVAL, "port %u is not valid", m->port);
	if (!m || err.code) {
		dial_free(d);
		ttrpc_fail(req, &err);
		return;
	}
	if (d->port == 0) {
		d->port = m->port;
		r = dial_connect(d);
		if (r < 0) {
			dial_fail(d, r, "connect to");
			return;
		}
		loop_timer_set(d->agent->loop, &d->timer, now_monotonic_ns() + CONNECT_TIME_NS, on_late, d);
	}
	r = d->shut ? -EPIPE : buf_put(&d->pending, m->data.data, m->data.len);
	if (r == 0 && d->connected)
		r = push(d);
	if (r < 0)
		dial_fail(d, r, "write to");
	else
		dial_events(d);
}

static void on_data(void *arg, const struct err *why, const void *payload, size_t len, bool eof)
{
	struct dial *d = arg;
	struct ttrpc_request *req = d->req;
	unsigned int before = dials_len;
	struct err err;

	if (why)
		return; /* the cancel hook follows */
	if (payload && len > 0)
		take(d, payload, len);
	if (!eof || dials_len < before)
		return; /* take may have ended the stream */
	if (d->port == 0) {
		err_set(&err, -EINVAL, "the stream was closed before it named a port");
		dial_free(d);
		ttrpc_fail(req, &err);
		return;
	}
	d->client_eof = true;
	if (d->connected && push(d) < 0)
		d->pending.len = 0;
	dial_events(d);
}

void dial_open(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	struct dial *d = dials_len < DIALS_MAX ? calloc(1, sizeof(*d)) : NULL;
	struct err err;

	if (!d) {
		err_set_status(&err, -ENOMEM, ERR_RESOURCE_EXHAUSTED, "too many connections to ports");
		ttrpc_fail(req, &err);
		return;
	}
	*d = (struct dial){.agent = service_ctx,
			   .req = req,
			   .conn = server_conn(req),
			   .fd = -1,
			   .pending.max = TTRPC_MESSAGE_MAX * 2};
	dials_len++;
	ttrpc_request_on_cancel(req, on_cancel, d);
	ttrpc_request_on_data(req, on_data, d);
	if (payload && len > 0)
		take(d, payload, len);
}
