/* SPDX-License-Identifier: Apache-2.0 */
/* TLS in front of the HTTP server: what a client sends goes on, in the clear, over a socket pair. */
#include "cri/stream/tls_internal.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/util.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define PIECE	     16384
#define HIGH	     65536 /* no more is read from a side while so much waits for the other */
#define HANDSHAKE_NS (30 * NS_PER_SEC)
#define TURNS	     8 /* pieces in one turn of the loop */

struct side {
	int fd;
	struct loop_source *source;
	uint32_t events;
	struct buf out; /* on its way to this side */
	bool over;	/* it sends no more */
	bool shut;	/* it was told that no more comes */
};

struct front {
	struct tls *tls;
	struct front *prev, *next;
	SSL *ssl;
	struct side client, inner;
	struct loop_source *timer;
	bool done, wants_write; /* the handshake; a read that must write first */
};

struct tls {
	SSL_CTX *context;
	struct tls_options options;
	struct loop_source *source;
	struct front *fronts;
	unsigned int fronts_len;
};

/* ---- one connection ------------------------------------------------------------------------------------ */

static void side_done(struct side *side)
{
	side->source = loop_source_free(side->source);
	side->fd = close_fd(side->fd);
	buf_done(&side->out);
}

static void front_free(struct front *front)
{
	struct tls *tls = front->tls;

	if (front->prev)
		front->prev->next = front->next;
	else
		tls->fronts = front->next;
	if (front->next)
		front->next->prev = front->prev;
	tls->fronts_len--;
	front->timer = loop_source_free(front->timer);
	SSL_free(front->ssl);
	side_done(&front->client);
	side_done(&front->inner);
	free(front);
}

/* Whether OpenSSL only waits for its socket. */
static bool waits(struct front *front, int r)
{
	int why = SSL_get_error(front->ssl, r);

	if (why == SSL_ERROR_WANT_WRITE)
		front->wants_write = true;
	return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
}

/* From the client to the HTTP server. False: the connection is over. */
static bool decrypt(struct front *front)
{
	unsigned char data[PIECE];
	ssize_t n = 0;

	for (int i = 0; i < TURNS && !front->client.over && front->inner.out.len < HIGH; i++) {
		int r = SSL_read(front->ssl, data, sizeof(data));

		if (r <= 0 && waits(front, r))
			break;
		if (r <= 0 && SSL_get_error(front->ssl, r) != SSL_ERROR_ZERO_RETURN)
			return false; /* cut, without a word */
		if (r <= 0)
			front->client.over = true;
		else if (buf_put(&front->inner.out, data, (size_t)r) < 0)
			return false;
	}
	while (front->inner.out.len > 0 && n >= 0)
		n = buf_write_fd(&front->inner.out, front->inner.fd);
	if (n < 0 && n != -EAGAIN && n != -EINTR)
		return false;
	if (front->client.over && front->inner.out.len == 0 && !front->inner.shut) {
		front->inner.shut = true;
		shutdown(front->inner.fd, SHUT_WR);
	}
	return true;
}

static bool encrypt(struct front *front)
{
	struct buf *out = &front->client.out;

	for (int i = 0; i < TURNS && !front->inner.over && out->len < HIGH; i++) {
		ssize_t n = buf_read_fd(out, front->inner.fd, PIECE);

		if (n == -EAGAIN || n == -EINTR)
			break;
		if (n < 0)
			return false;
		front->inner.over = n == 0;
	}
	while (out->len > 0) {
		int r = SSL_write(front->ssl, buf_data(out), (int)(out->len < PIECE ? out->len : PIECE));

		if (r <= 0)
			return waits(front, r);
		buf_consume(out, (size_t)r);
	}
	if (front->inner.over && !front->client.shut) {
		front->client.shut = true;
		(void)SSL_shutdown(front->ssl);
		shutdown(front->client.fd, SHUT_WR);
	}
	return true;
}

static void watch(struct side *side, uint32_t events)
{
	if (events != side->events && loop_source_set_events(side->source, events) >= 0)
		side->events = events;
}

/* What each side is waited for. */
static void watch_both(struct front *front)
{
	struct side *client = &front->client, *inner = &front->inner;
	uint32_t events = 0;

	if (!client->over && inner->out.len < HIGH)
		events |= EPOLLIN;
	if (client->out.len > 0 || front->wants_write)
		events |= EPOLLOUT;
	watch(client, events);
	events = 0;
	if (!inner->over && client->out.len < HIGH)
		events |= EPOLLIN;
	if (inner->out.len > 0)
		events |= EPOLLOUT;
	watch(inner, events);
}

static void go_on(struct front *front)
{
	int r;

	ERR_clear_error();
	front->wants_write = false;
	if (!front->done) {
		r = SSL_accept(front->ssl);
		if (r <= 0) {
			if (waits(front, r))
				watch_both(front);
			else
				front_free(front);
			return;
		}
		front->done = true;
		loop_timer_set(front->timer, INT64_MAX);
	}
	if (!decrypt(front) || !encrypt(front) || (front->client.shut && front->inner.shut) ||
	    (front->client.shut && front->client.out.len == 0 && front->client.over)) {
		front_free(front);
		return;
	}
	watch_both(front);
}

static void on_event(void *arg, int fd, uint32_t revents)
{
	struct front *front = arg;

	/* A side that is gone while nothing is read from it: epoll would tell it again and again. */
	if (revents & (EPOLLHUP | EPOLLERR) &&
	    (fd == front->client.fd ? front->client.over || !(front->client.events & EPOLLIN)
				    : front->inner.over || !(front->inner.events & EPOLLIN))) {
		front_free(front);
		return;
	}
	go_on(front);
}

static void on_late(void *arg)
{
	front_free(arg);
}

static int side_watch(struct front *front, struct side *side, struct err *err)
{
	side->events = EPOLLIN;
	return loop_add_fd(front->tls->options.loop, side->fd, side->events, on_event, front, &side->source,
			   err);
}

/* ---- listening ----------------------------------------------------------------------------------------- */

/* Takes over fd. */
static int front_new(struct tls *tls, int fd, const struct sockaddr_storage *from, socklen_t from_len,
		     struct err *err)
{
	struct front *front = calloc(1, sizeof(*front));
	int pair[2], r = 0;

	if (!front) {
		close_fd(fd);
		return err_oom(err);
	}
	*front = (struct front){.tls = tls, .client.fd = fd, .inner.fd = -1, .next = tls->fronts};
	if (front->next)
		front->next->prev = front;
	tls->fronts = front;
	tls->fronts_len++;
	front->ssl = SSL_new(tls->context);
	if (!front->ssl || SSL_set_fd(front->ssl, fd) != 1)
		r = err_oom(err);
	if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		r = err_set_errno(err, -errno, "a socket pair");
	if (r == 0) {
		front->inner.fd = pair[0];
		r = side_watch(front, &front->client, err);
		if (r == 0)
			r = side_watch(front, &front->inner, err);
		if (r == 0)
			r = loop_add_timer(tls->options.loop, now_monotonic_ns() + HANDSHAKE_NS, on_late,
					   front, &front->timer, err);
		if (r == 0)
			tls->options.connected(tls->options.arg, pair[1], (const void *)from, from_len);
		else
			close_fd(pair[1]);
	}
	if (r < 0)
		front_free(front);
	return r;
}

static void on_accept(void *arg, int fd, uint32_t revents)
{
	struct tls *tls = arg;
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	struct err err = ERR_INIT;
	int conn = accept4(fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)revents;
	if (conn < 0)
		return;
	if (tls->fronts_len >= TLS_CONNECTIONS_MAX)
		close_fd(conn);
	else if (front_new(tls, conn, &from, len, &err) < 0)
		log_warn("a connection to the streaming server is refused: %s", err.msg);
}

/* Loop. */
static void begin(void *arg)
{
	struct tls *tls = arg;
	struct err err = ERR_INIT;

	if (loop_add_fd(tls->options.loop, tls->options.listen_fd, EPOLLIN, on_accept, tls, &tls->source,
			&err) < 0)
		log_error("the streaming server cannot listen: %s", err.msg);
}

int tls_new(const struct tls_options *options, struct tls **ret_tls, struct err *err)
{
	struct tls *tls = calloc(1, sizeof(*tls));
	int r = 0;

	if (!tls)
		return err_oom(err);
	tls->options = *options;
	tls->context = SSL_CTX_new(TLS_server_method());
	ERR_clear_error();
	if (!tls->context)
		r = err_oom(err);
	else if (SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION) != 1 ||
		 SSL_CTX_use_certificate_chain_file(tls->context, options->cert_file) != 1 ||
		 SSL_CTX_use_PrivateKey_file(tls->context, options->key_file, SSL_FILETYPE_PEM) != 1 ||
		 SSL_CTX_check_private_key(tls->context) != 1)
		r = err_set(err, -EINVAL,
			    "TLS of the streaming server: %s and %s are not a certificate and its key in PEM",
			    options->cert_file, options->key_file);
	if (r == 0) {
		SSL_CTX_set_mode(tls->context,
				 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
		r = loop_post(options->loop, begin, tls) < 0 ? err_oom(err) : 0;
	}
	ERR_clear_error();
	if (r < 0) {
		tls->options.listen_fd = -1; /* stays the caller's */
		tls_free(tls);
		return r;
	}
	*ret_tls = tls;
	return 0;
}

struct tls *tls_free(struct tls *tls)
{
	if (!tls)
		return NULL;
	while (tls->fronts)
		front_free(tls->fronts);
	tls->source = loop_source_free(tls->source);
	close_fd(tls->options.listen_fd);
	SSL_CTX_free(tls->context);
	free(tls);
	return NULL;
}
