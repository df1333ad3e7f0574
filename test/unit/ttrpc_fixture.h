/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ttrpc_fixture.h: both ends of a ttrpc connection wired back to back, and frames by hand where one end must
 * misbehave, for test_ttrpc*.c.
 */
#ifndef TEST_UNIT_TTRPC_FIXTURE_H
#define TEST_UNIT_TTRPC_FIXTURE_H

#include "api/ttrpc/ttrpc.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- a service with one method for each thing to test -------------------------------------------------- */

struct held {
	struct ttrpc_request *req;
	int cancelled;
	int data, eof, failed;
};

#define HELD_MAX TTRPC_CALLS_MAX
static struct held held[HELD_MAX];
static size_t held_count;

static inline void echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	ttrpc_respond(req, payload, len);
}

static inline void fail_call(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err = ERR_INIT;

	(void)ctx;
	err_set_status(&err, -EBUSY, ERR_FAILED_PRECONDITION, "busy\xff with %.*s", (int)len,
		       (const char *)payload);
	ttrpc_fail(req, &err);
}

static inline void on_cancel(void *arg)
{
	struct held *h = arg;

	h->cancelled++;
	h->req = NULL;
}

/* Answers when the test says so. */
static inline void hold(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct held *h = &held[held_count++];

	(void)ctx;
	(void)payload;
	(void)len;
	h->req = req;
	ttrpc_request_on_cancel(req, on_cancel, h);
}

static inline void hold_without_hook(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	held[held_count++].req = req;
}

static inline void big(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	char *data = calloc(1, TTRPC_MESSAGE_MAX + 1);

	(void)ctx;
	(void)payload;
	(void)len;
	assert_non_null(data);
	ttrpc_respond(req, data, TTRPC_MESSAGE_MAX + 1);
	free(data);
}

/* Sends back what comes; "bye" ends the stream, "fail" fails it. */
static inline void on_echo_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct held *h = arg;

	if (err) {
		h->failed++;
		return;
	}
	if (eof) {
		h->eof++;
		ttrpc_stream_finish(h->req);
		return;
	}
	h->data++;
	if (len == 3 && memcmp(payload, "bye", 3) == 0) {
		ttrpc_stream_finish(h->req);
	} else if (len == 4 && memcmp(payload, "fail", 4) == 0) {
		struct err why = ERR_INIT;

		err_set(&why, -ENOENT, "no such thing");
		ttrpc_fail(h->req, &why);
	} else {
		assert_int_equal(ttrpc_request_send(h->req, payload, len), 0);
	}
}

static inline void stream_echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct held *h = &held[held_count++];

	(void)ctx;
	h->req = req;
	ttrpc_request_on_cancel(req, on_cancel, h);
	ttrpc_request_on_data(req, on_echo_data, h);
	if (payload)
		assert_int_equal(ttrpc_request_send(req, payload, len), 0);
}

static const struct ttrpc_method methods[] = {
	{.name = "Echo", .unary = echo},
	{.name = "Fail", .unary = fail_call},
	{.name = "Hold", .unary = hold},
	{.name = "HoldWithoutHook", .unary = hold_without_hook},
	{.name = "Big", .unary = big},
	{.name = "Stream", .streaming = stream_echo},
	{0},
};
static const struct ttrpc_service services[] = {{.name = "test.Service", .methods = methods}, {0}};

/* ---- the pair ------------------------------------------------------------------------------------------ */

struct pair {
	struct ttrpc_conn *client, *server;
	size_t chunk; /* 0: all at once; else at most so many bytes a feed, at random */
	int wakes;
	unsigned int seed;
};

static inline void on_output(void *owner)
{
	((struct pair *)owner)->wakes++;
}

static inline void move(struct pair *p, struct ttrpc_conn *from, struct ttrpc_conn *to)
{
	struct buf *out = ttrpc_out(from);
	struct err err = ERR_INIT;

	while (out->len > 0) {
		size_t n = out->len;
		unsigned char *copy;

		if (p->chunk && n > p->chunk)
			n = p->chunk;
		if (p->chunk > 1)
			n = 1 + (size_t)rand_r(&p->seed) % n;
		/* A copy of exactly n bytes, so that a read beyond them is seen. */
		copy = malloc(n);
		assert_non_null(copy);
		memcpy(copy, buf_data(out), n);
		buf_consume(out, n);
		assert_int_equal(ttrpc_feed(to, copy, n, &err), 0);
		free(copy);
	}
}

static inline void pump(struct pair *p)
{
	while (ttrpc_out(p->client)->len > 0 || ttrpc_out(p->server)->len > 0) {
		move(p, p->client, p->server);
		move(p, p->server, p->client);
	}
}

static inline void pair_open(struct pair *p, size_t chunk)
{
	memset(held, 0, sizeof(held));
	held_count = 0;
	*p = (struct pair){.chunk = chunk, .seed = 7};
	p->client = ttrpc_client_new(on_output, p);
	p->server = ttrpc_server_new(services, on_output, p);
	assert_non_null(p->client);
	assert_non_null(p->server);
}

static inline void pair_close(struct pair *p)
{
	p->client = ttrpc_conn_free(p->client);
	p->server = ttrpc_conn_free(p->server);
}

/* Frames by hand. */
static inline size_t frame(unsigned char *out, uint32_t len, uint32_t id, uint8_t type, uint8_t flags,
			   const void *data)
{
	const unsigned char head[10] = {(unsigned char)(len >> 24),
					(unsigned char)(len >> 16),
					(unsigned char)(len >> 8),
					(unsigned char)len,
					(unsigned char)(id >> 24),
					(unsigned char)(id >> 16),
					(unsigned char)(id >> 8),
					(unsigned char)id,
					type,
					flags};

	memcpy(out, head, 10);
	if (data)
		memcpy(out + 10, data, len);
	return 10 + (data ? len : 0);
}

/* The status code in the only frame that waits in a server's output, which is consumed. */
static inline int answered_status(struct ttrpc_conn *server, uint32_t want_id)
{
	struct buf *out = ttrpc_out(server);
	const unsigned char *p = buf_data(out);
	size_t len;

	assert_true(out->len >= 14);
	len = (size_t)p[2] << 8 | p[3];
	assert_int_equal(out->len, 10 + len);
	assert_int_equal(p[7], want_id);
	assert_int_equal(p[8], 2);
	assert_int_equal(p[10], 0x0a);
	for (size_t i = 11; i < 14; i++) {
		if (p[i] == 0x08) {
			int code = p[i + 1];

			buf_consume(out, out->len);
			return code;
		}
	}
	fail_msg("no status");
	return -1;
}

/* ---- replies ------------------------------------------------------------------------------------------- */

struct reply {
	int count;
	struct err err;
	char data[64];
	size_t len;
	struct pair *again; /* starts another call from inside the callback */
	int data_count, eof_count;
};

static inline void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct reply *r = arg;

	r->count++;
	r->len = len;
	if (err)
		r->err = *err;
	else
		assert_non_null(payload);
	if (payload)
		memcpy(r->data, payload, len < sizeof(r->data) ? len : sizeof(r->data));
	if (r->again) {
		struct pair *p = r->again;

		r->again = NULL;
		assert_int_equal(
			ttrpc_call(p->client, "test.Service", "Echo", "2", 1, 0, on_reply, r, NULL, NULL), 0);
	}
}

static inline void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct reply *r = arg;

	assert_int_equal(r->eof_count, 0);
	if (err) {
		r->err = *err;
		r->eof_count++;
		return;
	}
	if (payload) {
		r->data_count++;
		r->len = len;
		memcpy(r->data, payload, len < sizeof(r->data) ? len : sizeof(r->data));
	}
	if (eof)
		r->eof_count++;
}

static inline int call(struct pair *p, const char *method, const char *text, int64_t timeout_ns,
		       struct reply *r, uint32_t *id)
{
	return ttrpc_call(p->client, "test.Service", method, text, strlen(text), timeout_ns, on_reply, r, id,
			  NULL);
}

#endif
