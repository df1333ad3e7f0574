/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream_fixture.h: a streaming server on a loop of its own, a user that echoes, and a client's side of SPDY.
 */
#ifndef TEST_UNIT_STREAM_FIXTURE_H
#define TEST_UNIT_STREAM_FIXTURE_H

#include "loop_fixture.h"

#include "base/buf.h"
#include "cri/stream/spdy_internal.h"
#include "cri/stream/stream.h"
#include "cri/stream/ws_internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <zlib.h>
#include <cmocka.h>

#define UPGRADE_SPDY                                                                                         \
	"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
#define UPGRADE_WS(protocol)                                                                                 \
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"                         \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " protocol "\r\n"

struct fixture {
	struct looping l;
	struct stream_server *server;
	atomic_uint accepted, ended, released, sizes;
	atomic_uint width, height, port;
};

/* ---- the user ------------------------------------------------------------------------------------------ */

struct echo {
	struct fixture *x;
	struct stream_pipe *pipe;
};

static inline void echo_input(void *arg, const void *data, size_t len)
{
	struct echo *e = arg;

	stream_pipe_write(e->pipe, STREAM_STDOUT, data, len);
}
/* A command ends with its input: exit code 3. */
static inline void echo_input_end(void *arg)
{
	struct echo *e = arg;

	stream_pipe_finish(e->pipe, 3, NULL);
	atomic_fetch_add(&e->x->ended, 1);
	free(e);
}
static inline void echo_resize(void *arg, uint16_t width, uint16_t height)
{
	struct echo *e = arg;

	atomic_store(&e->x->width, width);
	atomic_store(&e->x->height, height);
	atomic_fetch_add(&e->x->sizes, 1);
}
static inline void echo_writable(void *arg)
{
	(void)arg;
}
static inline void echo_gone(void *arg)
{
	struct echo *e = arg;

	atomic_fetch_add(&e->x->ended, 1);
	free(e);
}
static const struct stream_ops echo_ops = {echo_input, echo_input_end, echo_resize, echo_writable, echo_gone};

static inline void echo_accept(void *arg, struct stream_pipe *pipe, uint16_t port)
{
	struct echo *e = calloc(1, sizeof(*e));

	must(e);
	*e = (struct echo){.x = arg, .pipe = pipe};
	atomic_store(&e->x->port, port);
	stream_pipe_use(pipe, &echo_ops, e);
	atomic_fetch_add(&e->x->accepted, 1);
}

static inline void echo_release(void *arg)
{
	struct fixture *x = arg;

	atomic_fetch_add(&x->released, 1);
}

/* ---- the server ---------------------------------------------------------------------------------------- */

static inline void start_with(struct fixture *x, int64_t token_ns)
{
	struct stream_server_options options = {.address = "127.0.0.1:0", .token_ns = token_ns};

	memset(x, 0, sizeof(*x));
	looping_start(&x->l);
	options.loop = x->l.loop;
	assert_int_equal(stream_server_new(&options, &x->server, NULL), 0);
}

static inline int start(void **state)
{
	struct fixture *x = malloc(sizeof(*x));

	assert_non_null(x);
	start_with(x, 0);
	*state = x;
	return 0;
}

static inline void free_job(void *arg)
{
	struct fixture *x = arg;

	x->server = stream_server_free(x->server);
}

static inline int stop(void **state)
{
	struct fixture *x = *state;

	must(loop_post(x->l.loop, free_job, x) == 0);
	looping_turn(&x->l);
	looping_stop(&x->l);
	free(x);
	return 0;
}

/* An exec with stdin, stdout and stderr, or with a terminal. */
static inline char *offer(struct fixture *x, enum stream_kind kind, bool tty)
{
	const struct stream_request request = {.kind = kind,
					       .in = true,
					       .out = true,
					       .err = !tty,
					       .tty = tty,
					       .accept = echo_accept,
					       .release = echo_release,
					       .arg = x};
	char *url = NULL;

	assert_int_equal(stream_offer(x->server, &request, &url, NULL), 0);
	return url;
}

/* ---- the client ---------------------------------------------------------------------------------------- */

static inline int dial(struct fixture *x)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin_port = htons((uint16_t)atoi(strrchr(stream_server_url(x->server), ':') + 1));
	must(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
	must(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	return fd;
}

static inline const char *path_of(const char *url)
{
	return strchr(url + strlen("http://"), '/');
}

static inline void put_text(struct buf *to, const char *text)
{
	must(buf_put(to, text, strlen(text)) == 0);
}

static inline void put_request(struct buf *to, const char *method, const char *path, const char *headers)
{
	char *text CLEANUP_FREE =
		xasprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", method, path, headers);

	must(text);
	put_text(to, text);
}

/* Sends all, or as much as the server takes before it closes. */
static inline void send_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

/* All that comes until the server closes; terminated. */
static inline char *read_to_end(int fd, size_t *ret_len)
{
	struct buf in = {0};
	ssize_t n;

	do {
		n = buf_read_fd(&in, fd, 65536);
	} while (n > 0);
	must(buf_put(&in, "", 1) == 0);
	if (ret_len)
		*ret_len = in.len - 1;
	must(in.head == 0);
	return (char *)in.mem;
}

/* The status line's number of a request that is not upgraded. */
static inline int status_of(struct fixture *x, const char *method, const char *path, const char *headers)
{
	struct buf out = {0};
	char *answer;
	int fd = dial(x), status = 0;

	put_request(&out, method, path, headers);
	send_all(fd, buf_data(&out), out.len);
	shutdown(fd, SHUT_WR);
	buf_done(&out);
	answer = read_to_end(fd, NULL);
	if (sscanf(answer, "HTTP/1.1 %d", &status) != 1)
		status = 0;
	free(answer);
	close(fd);
	return status;
}

/* ---- a client's SPDY ----------------------------------------------------------------------------------- */

struct client {
	struct buf out;
	z_stream deflate;
};

static inline void client_init(struct client *c)
{
	unsigned char dictionary[SPDY_DICTIONARY_LEN];

	memset(c, 0, sizeof(*c));
	must(deflateInit(&c->deflate, 9) == Z_OK);
	spdy_dictionary(dictionary);
	must(deflateSetDictionary(&c->deflate, dictionary, SPDY_DICTIONARY_LEN) == Z_OK);
}

static inline void client_done(struct client *c)
{
	deflateEnd(&c->deflate);
	buf_done(&c->out);
}

static inline void put32(struct buf *to, uint32_t v)
{
	const unsigned char b[] = {(unsigned char)(v >> 24), (unsigned char)(v >> 16),
				   (unsigned char)(v >> 8), (unsigned char)v};

	must(buf_put(to, b, sizeof(b)) == 0);
}

static inline void put_pair(struct buf *to, const char *name, const char *value)
{
	put32(to, (uint32_t)strlen(name));
	put_text(to, name);
	put32(to, (uint32_t)strlen(value));
	put_text(to, value);
}

/* pairs: name, value, …, NULL. */
static inline void client_open_with(struct client *c, uint32_t id, const char *const *pairs, bool fin)
{
	struct buf plain = {0};
	unsigned char packed[8192];
	uint32_t n = 0;
	size_t len;

	while (pairs[2 * n])
		n++;
	put32(&plain, n);
	for (uint32_t i = 0; i < n; i++)
		put_pair(&plain, pairs[2 * i], pairs[2 * i + 1]);
	c->deflate.next_in = buf_data(&plain);
	c->deflate.avail_in = (uInt)plain.len;
	c->deflate.next_out = packed;
	c->deflate.avail_out = sizeof(packed);
	must(deflate(&c->deflate, Z_SYNC_FLUSH) == Z_OK);
	len = sizeof(packed) - c->deflate.avail_out;
	put32(&c->out, 0x80030001);
	put32(&c->out, (uint32_t)(len + 10) | (fin ? 1u << 24 : 0));
	put32(&c->out, id);
	put32(&c->out, 0);
	must(buf_put(&c->out, "\0\0", 2) == 0);
	must(buf_put(&c->out, packed, len) == 0);
	buf_done(&plain);
}

static inline void client_open(struct client *c, uint32_t id, const char *type)
{
	const char *const pairs[] = {"streamtype", type, NULL, NULL};

	client_open_with(c, id, pairs, false);
}

static inline void client_data(struct client *c, uint32_t id, const char *text, bool fin)
{
	put32(&c->out, id);
	put32(&c->out, (uint32_t)strlen(text) | (fin ? 1u << 24 : 0));
	put_text(&c->out, text);
}

/* All that came on a stream, from what followed the answer to the upgrade; terminated. */
static inline char *stream_text(const char *answer, size_t len, uint32_t id)
{
	const char *body = strstr(answer, "\r\n\r\n");
	struct buf text = {0};
	const unsigned char *p, *end = (const unsigned char *)answer + len;

	must(body && str_starts(answer, "HTTP/1.1 101"));
	for (p = (const unsigned char *)body + 4; p + 8 <= end;) {
		uint32_t first = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
		size_t n = (size_t)p[5] << 16 | (size_t)p[6] << 8 | p[7];

		must((size_t)(end - p) >= 8 + n);
		if (first == id && n > 0)
			must(buf_put(&text, p + 8, n) == 0);
		p += 8 + n;
	}
	must(buf_put(&text, "", 1) == 0);
	must(text.head == 0);
	return (char *)text.mem;
}

/* ---- bulk data ----------------------------------------------------------------------------------------- */

/* Sends what waits, and empties the buffer. */
static inline void client_flush(struct client *c, int fd)
{
	send_all(fd, buf_data(&c->out), c->out.len);
	buf_consume(&c->out, c->out.len);
}

/* A block of data, for one stream. */
static inline void client_bytes(struct client *c, uint32_t id, const void *data, size_t len)
{
	put32(&c->out, id);
	put32(&c->out, (uint32_t)len);
	must(buf_put(&c->out, data, len) == 0);
}

/* Deterministic bytes: that of a stream at an offset. */
static inline unsigned char byte_at(size_t offset)
{
	return (unsigned char)(offset * 131 + (offset >> 8) * 31 + (offset >> 16));
}
static inline unsigned char *bytes_at(size_t offset, size_t len)
{
	unsigned char *data = malloc(len);

	must(data);
	for (size_t i = 0; i < len; i++)
		data[i] = byte_at(offset + i);
	return data;
}

/* Bytes of one SPDY stream, taken from a socket as they come: for more than a test wants to hold. */
struct taker {
	int fd;
	uint32_t id;
	bool upgraded; /* the answer to the request has been skipped */
	struct buf in;
	size_t left; /* of the frame that is being read */
	bool ours;
	size_t taken;
	bool wrong;
};

static inline void taker_parse(struct taker *t)
{
	const unsigned char *p = buf_data(&t->in);

	if (!t->upgraded) {
		const unsigned char *end = memmem(p, t->in.len, "\r\n\r\n", 4);

		if (!end)
			return;
		t->upgraded = true;
		buf_consume(&t->in, (size_t)(end + 4 - p));
	}
	for (;;) {
		p = buf_data(&t->in);
		if (t->left == 0) {
			if (t->in.len < 8)
				return;
			t->ours = ((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 |
				   p[3]) == t->id;
			t->left = (size_t)p[5] << 16 | (size_t)p[6] << 8 | p[7];
			buf_consume(&t->in, 8);
		} else {
			size_t n = t->in.len < t->left ? t->in.len : t->left;

			if (n == 0)
				return;
			for (size_t i = 0; i < n && t->ours; i++)
				t->wrong = t->wrong || p[i] != byte_at(t->taken++);
			buf_consume(&t->in, n);
			t->left -= n;
		}
	}
}

/* Takes until `want` bytes of the stream have come, or for `ms` ms at most. */
static inline void taker_take(struct taker *t, size_t want, int ms)
{
	int64_t until = now_monotonic_ns() + ms * NS_PER_MS;

	while (t->taken < want && now_monotonic_ns() < until) {
		struct pollfd p = {.fd = t->fd, .events = POLLIN};

		if (poll(&p, 1, 20) <= 0)
			continue;
		if (buf_read_fd(&t->in, t->fd, 65536) <= 0)
			return;
		taker_parse(t);
	}
}

/*
 * Sends whole pieces of a stream's bytes from `*offset` on, until `end` or nothing has gone for `ms` ms. What
 * was begun stays in c->out.
 */
static inline void client_pour(struct client *c, int fd, uint32_t id, size_t *offset, size_t end, int ms)
{
	int64_t until = now_monotonic_ns() + ms * NS_PER_MS;

	while (now_monotonic_ns() < until && (c->out.len > 0 || *offset < end)) {
		ssize_t n;

		if (c->out.len == 0) {
			size_t len = end - *offset < 8192 ? end - *offset : 8192;
			unsigned char *data CLEANUP_FREE = bytes_at(*offset, len);

			client_bytes(c, id, data, len);
			*offset += len;
		}
		n = send(fd, buf_data(&c->out), c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			buf_consume(&c->out, (size_t)n);
			until = now_monotonic_ns() + ms * NS_PER_MS;
		} else if (errno == EAGAIN) {
			usleep(1000);
		} else {
			return;
		}
	}
}

#endif
