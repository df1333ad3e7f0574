/* SPDX-License-Identifier: Apache-2.0 */
/* The socket: reading, writing, time, the end. */
#include "cri/stream/session_internal.h"

#include "base/log.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define READ_BYTES 16384
#define READ_TURNS 8 /* reads in one turn of the loop */

static void update(struct session *session);

/* ---- the end ------------------------------------------------------------------------------------------- */

void session_fail(struct session *session, const char *why)
{
	if (session->broken)
		return;
	session->broken = true;
	log_debug("%s: %s", stream_kind_name(session->request.kind), why);
	if (!session->busy)
		loop_timer_set(session->timer, 0);
}

void session_free(struct session *session)
{
	session->broken = session->busy = true;
	while (session->pipes)
		session_pipe_gone(session->pipes);
	if (session->prev)
		session->prev->next = session->next;
	else
		session->server->sessions = session->next;
	if (session->next)
		session->next->prev = session->prev;
	session->io = loop_source_free(session->io);
	session->timer = loop_source_free(session->timer);
	session->close(session->close_arg);
	spdy_free(session->spdy);
	ws_free(session->ws);
	buf_done(&session->out);
	buf_done(&session->plain);
	buf_done(&session->early);
	if (session->request.release)
		session->request.release(session->request.arg);
	atomic_fetch_sub(&session->server->sessions_len, 1);
	free(session);
}

void session_end(struct session *session)
{
	if (session->broken || session->closing)
		return;
	if (session->ws)
		(void)ws_close(session->ws);
	session->closing = true;
	session->linger_until_ns = now_monotonic_ns() + STREAM_CREATE_NS;
	session_flush(session);
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* SPDY's bytes become messages. */
static int wrap(struct session *session)
{
	struct buf *plain = &session->plain;
	int r = 0;

	if (session->transport != TRANSPORT_WS_SPDY || plain->len == 0)
		return 0;
	r = ws_send(session->ws, -1, buf_data(plain), plain->len, false);
	buf_consume(plain, plain->len);
	return r;
}

/* Those who wait for room, one after the other: each may end itself or others. */
static void tell_writable(struct session *session)
{
	struct stream_pipe *pipe = session->pipes;

	if (!session->starved || session->out.len >= STREAM_BUFFER)
		return;
	session->starved = false;
	while (pipe && !session->broken && session->out.len < STREAM_BUFFER) {
		if (pipe->starved && pipe->ops) {
			pipe->starved = false;
			pipe->ops->writable(pipe->arg);
			pipe = session->pipes;
		} else {
			pipe = pipe->next;
		}
	}
	if (pipe)
		session->starved = true; /* the rest is told later */
}

static void write_out(struct session *session)
{
	struct buf *out = &session->out;
	ssize_t n = 0;

	while (out->len > 0 && n >= 0) {
		n = buf_write_fd(out, session->fd);
		if (n > 0)
			session->active_ns = now_monotonic_ns();
	}
	if (n < 0 && n != -EAGAIN && n != -EINTR) {
		session_fail(session, "the client has left");
		return;
	}
	if (out->len == 0 && session->closing && !session->half_closed) {
		session->half_closed = true;
		session->linger_until_ns = now_monotonic_ns() + SESSION_LINGER_NS;
		shutdown(session->fd, SHUT_WR);
	}
}

void session_flush(struct session *session)
{
	if (session->broken || !session->io)
		return;
	if (wrap(session) < 0)
		session_fail(session, "out of memory");
	if (!session->broken)
		write_out(session);
	update(session);
}

static void sent(struct session *session, int r)
{
	if (r == -ENOMEM)
		session_fail(session, "out of memory");
	else
		session_flush(session);
}

void session_send(struct stream_pipe *pipe, enum channel channel, const void *data, size_t len)
{
	struct session *session = pipe->session;
	char *encoded CLEANUP_FREE = NULL;

	if (session->broken || session->closing || !pipe->open[channel])
		return;
	if (session->transport != TRANSPORT_WS) {
		sent(session, spdy_data(session->spdy, pipe->id[channel], data, len, false));
	} else if (session->text) {
		encoded = base64_encode(data, len);
		sent(session,
		     encoded ? ws_send(session->ws, '0' + (int)channel, encoded, strlen(encoded), true)
			     : -ENOMEM);
	} else {
		sent(session, ws_send(session->ws, (int)channel, data, len, false));
	}
}

void session_send_end(struct stream_pipe *pipe, enum channel channel)
{
	struct session *session = pipe->session;

	if (session->broken || session->closing || !pipe->open[channel] || session->transport == TRANSPORT_WS)
		return;
	sent(session, spdy_data(session->spdy, pipe->id[channel], NULL, 0, true));
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static void on_opened(void *arg, uint32_t id, const struct spdy_headers *headers, bool fin)
{
	struct session *session = arg;

	if (session->broken || session->closing)
		return;
	if (session->request.kind == STREAM_FORWARD)
		forward_opened(session, id, headers, fin);
	else
		command_opened(session, id, headers, fin);
}

static void on_data(void *arg, uint32_t id, const void *data, size_t len, bool fin)
{
	struct session *session = arg;

	if (session->broken || session->closing)
		return;
	if (session->request.kind == STREAM_FORWARD)
		forward_data(session, id, data, len, fin);
	else
		command_data(session, id, data, len, fin);
}

static void on_reset(void *arg, uint32_t id)
{
	struct session *session = arg;

	if (session->broken || session->closing)
		return;
	if (session->request.kind == STREAM_FORWARD)
		forward_reset(session, id);
	else
		command_reset(session, id);
}

static void on_message(void *arg, const void *data, size_t len, bool first, bool text)
{
	struct session *session = arg;
	struct err err = ERR_INIT;

	(void)text;
	if (session->broken || session->closing)
		return;
	if (session->transport == TRANSPORT_WS)
		command_message(session, data, len, first);
	else if (spdy_feed(session->spdy, data, len, &err) < 0)
		session_fail(session, err.msg);
}

static void take(struct session *session, const void *data, size_t len)
{
	struct err err = ERR_INIT;
	bool closed = false;
	int r;

	session->active_ns = now_monotonic_ns();
	if (session->half_closed || session->broken)
		return;
	if (!session->ws) {
		r = spdy_feed(session->spdy, data, len, &err);
	} else {
		r = ws_feed(session->ws, data, len, &closed, &err);
		if (r < 0)
			write_out(session); /* the close frame that says why */
	}
	if (r < 0)
		session_fail(session, err.msg);
	else if (closed && !session->closing) {
		write_out(session);
		session_fail(session, "the client has closed");
	}
}

/* Why reading stops, or true. */
static bool may_read(const struct session *session)
{
	return session->half_closed || (session->held == 0 && session->out.len < SESSION_OUT_MAX);
}

static void read_in(struct session *session)
{
	unsigned char data[READ_BYTES];

	for (int i = 0; i < READ_TURNS && !session->broken && may_read(session); i++) {
		ssize_t n = read(session->fd, data, sizeof(data));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			session_fail(session, "the client has left");
			return;
		}
		take(session, data, (size_t)n);
		if ((size_t)n < sizeof(data))
			return;
	}
}

/* ---- the loop's callbacks ------------------------------------------------------------------------------ */

static void update(struct session *session)
{
	uint32_t events = EPOLLRDHUP;

	if (session->broken || !session->io)
		return;
	if (may_read(session))
		events |= EPOLLIN;
	if (session->out.len > 0 || session->starved)
		events |= EPOLLOUT;
	if (events != session->events && loop_source_set_events(session->io, events) >= 0)
		session->events = events;
	if (session->closing)
		loop_timer_set(session->timer, session->linger_until_ns);
}

/* Of everything that the loop calls. */
static void leave(struct session *session)
{
	session->busy = false;
	if (session->broken)
		session_free(session);
	else
		session_flush(session);
}

static void on_io(void *arg, int fd, uint32_t revents)
{
	struct session *session = arg;

	(void)fd;
	session->busy = true;
	if (revents & EPOLLOUT) {
		session_flush(session);
		tell_writable(session);
	}
	if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP) && !session->broken) {
		if (may_read(session))
			read_in(session);
		else if (revents & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
			session_fail(session, "the client has left");
	}
	leave(session);
}

/* When the session's pipes, or the client's silence, must be looked at next. */
static int64_t next_look(struct session *session)
{
	int64_t next = session->active_ns + STREAM_IDLE_NS;

	if (session->closing)
		return session->linger_until_ns;
	if (session->request.kind != STREAM_FORWARD && !session->pipes)
		return session->create_until_ns;
	for (struct stream_pipe *pipe = session->pipes; pipe; pipe = pipe->next) {
		if (!pipe->complete && pipe->until_ns < next)
			next = pipe->until_ns;
	}
	return next;
}

static void on_timer(void *arg)
{
	struct session *session = arg;
	int64_t next;

	session->busy = true;
	if (!session->broken) {
		next = next_look(session);
		if (next <= now_monotonic_ns())
			session_fail(session, session->closing ? "it has ended" : "its time is over");
		else
			loop_timer_set(session->timer, next);
	}
	leave(session);
}

static int set_up(struct session *session, struct err *err)
{
	static const struct spdy_callbacks callbacks = {on_opened, on_data, on_reset};
	struct loop *loop = session->server->loop;
	int r;

	if (session->transport != TRANSPORT_WS) {
		session->spdy =
			spdy_new(&callbacks, session,
				 session->transport == TRANSPORT_SPDY ? &session->out : &session->plain);
		if (!session->spdy)
			return err_oom(err);
	}
	if (session->transport != TRANSPORT_SPDY) {
		session->ws = ws_new(on_message, session, &session->out);
		if (!session->ws)
			return err_oom(err);
	}
	r = loop_add_timer(loop, session->create_until_ns, on_timer, session, &session->timer, err);
	if (r == 0) {
		session->events = EPOLLIN | EPOLLRDHUP;
		r = loop_add_fd(loop, session->fd, session->events, on_io, session, &session->io, err);
	}
	return r;
}

static void begin(struct stream_server *server, struct session *session)
{
	struct err err = ERR_INIT;

	session->next = server->sessions;
	if (session->next)
		session->next->prev = session;
	server->sessions = session;
	session->busy = true;
	if (set_up(session, &err) < 0)
		session_fail(session, err.msg);
	else if (session->transport == TRANSPORT_WS)
		command_begin(session);
	if (session->early.len > 0)
		take(session, buf_data(&session->early), session->early.len);
	buf_done(&session->early);
	leave(session);
}

static struct session *take_incoming(struct stream_server *server)
{
	struct session *session;

	pthread_mutex_lock(&server->lock);
	session = server->incoming;
	if (session)
		server->incoming = session->next;
	pthread_mutex_unlock(&server->lock);
	return session;
}

/* Loop. Carries a reference. */
static void begin_job(void *arg)
{
	struct stream_server *server = arg;
	struct session *session;

	while ((session = take_incoming(server)))
		begin(server, session);
	stream_server_unref(server);
}

/* One that is in no list. */
static void discard(struct stream_server *server, struct session *session)
{
	session->close(session->close_arg);
	if (session->request.release)
		session->request.release(session->request.arg);
	buf_done(&session->early);
	free(session);
	atomic_fetch_sub(&server->sessions_len, 1);
}

void session_discard_incoming(struct stream_server *server)
{
	struct session *session;

	while ((session = take_incoming(server)))
		discard(server, session);
}

/* Hands it to the loop. False: the server is being closed, or out of memory. */
static bool hand_over(struct stream_server *server, struct session *session)
{
	bool done;

	pthread_mutex_lock(&server->lock);
	atomic_fetch_add(&server->refs, 1);
	done = !server->closing && loop_post(server->loop, begin_job, server) == 0;
	if (done) {
		session->next = server->incoming;
		server->incoming = session;
	} else {
		atomic_fetch_sub(&server->refs, 1); /* never the last: the owner has one */
	}
	pthread_mutex_unlock(&server->lock);
	return done;
}

void session_start(struct stream_server *server, const struct session_options *options)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session) {
		options->close(options->close_arg);
		if (options->request.release)
			options->request.release(options->request.arg);
		atomic_fetch_sub(&server->sessions_len, 1);
		return;
	}
	*session = (struct session){
		.server = server,
		.request = options->request,
		.transport = options->transport,
		.version = options->version,
		.text = options->text,
		.fd = options->fd,
		.close = options->close,
		.close_arg = options->close_arg,
		.channel = -1,
		.active_ns = now_monotonic_ns(),
		.create_until_ns = now_monotonic_ns() + STREAM_CREATE_NS,
	};
	if (buf_put(&session->early, options->early, options->early_len) < 0 || !hand_over(server, session))
		discard(server, session);
}
