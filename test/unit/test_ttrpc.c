/* Both ends of a ttrpc connection wired back to back, and frames by hand where one end must misbehave. */
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

static void echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	ttrpc_respond(req, payload, len);
}

static void fail_call(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err = ERR_INIT;

	(void)ctx;
	err_set_status(&err, -EBUSY, ERR_FAILED_PRECONDITION, "busy\xff with %.*s", (int)len,
		       (const char *)payload);
	ttrpc_fail(req, &err);
}

static void on_cancel(void *arg)
{
	struct held *h = arg;

	h->cancelled++;
	h->req = NULL;
}

/* Answers when the test says so. */
static void hold(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct held *h = &held[held_count++];

	(void)ctx;
	(void)payload;
	(void)len;
	h->req = req;
	ttrpc_request_on_cancel(req, on_cancel, h);
}

static void hold_without_hook(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	held[held_count++].req = req;
}

static void big(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
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
static void on_echo_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
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

static void stream_echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
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

static void on_output(void *owner)
{
	((struct pair *)owner)->wakes++;
}

static void move(struct pair *p, struct ttrpc_conn *from, struct ttrpc_conn *to)
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

static void pump(struct pair *p)
{
	while (ttrpc_out(p->client)->len > 0 || ttrpc_out(p->server)->len > 0) {
		move(p, p->client, p->server);
		move(p, p->server, p->client);
	}
}

static void pair_open(struct pair *p, size_t chunk)
{
	memset(held, 0, sizeof(held));
	held_count = 0;
	*p = (struct pair){.chunk = chunk, .seed = 7};
	p->client = ttrpc_client_new(on_output, p);
	p->server = ttrpc_server_new(services, on_output, p);
	assert_non_null(p->client);
	assert_non_null(p->server);
}

static void pair_close(struct pair *p)
{
	p->client = ttrpc_conn_free(p->client);
	p->server = ttrpc_conn_free(p->server);
}

/* Frames by hand. */
static size_t frame(unsigned char *out, uint32_t len, uint32_t id, uint8_t type, uint8_t flags,
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
static int answered_status(struct ttrpc_conn *server, uint32_t want_id)
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

static void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
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

static void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
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

static int call(struct pair *p, const char *method, const char *text, int64_t timeout_ns, struct reply *r,
		uint32_t *id)
{
	return ttrpc_call(p->client, "test.Service", method, text, strlen(text), timeout_ns, on_reply, r, id,
			  NULL);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void call_unary_answers_with_payload(void **state)
{
	static const size_t chunks[] = {0, 1, 2, 7, 100};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
		struct reply a = {0}, b = {0};
		struct pair p;

		pair_open(&p, chunks[i]);
		assert_int_equal(call(&p, "Echo", "hello", 0, &a, NULL), 0);
		assert_int_equal(a.count, 0);
		assert_int_equal(call(&p, "Echo", "", 0, &b, NULL), 0);
		assert_int_equal(p.wakes, 1);
		assert_int_equal(ttrpc_in_flight(p.client), 2);
		pump(&p);
		assert_int_equal(a.count, 1);
		assert_int_equal(a.err.code, 0);
		assert_int_equal(a.len, 5);
		assert_memory_equal(a.data, "hello", 5);
		assert_int_equal(b.count, 1);
		assert_int_equal(b.len, 0);
		assert_int_equal(ttrpc_in_flight(p.client), 0);
		assert_int_equal(ttrpc_in_flight(p.server), 0);
		pair_close(&p);
	}
}

static void call_failing_carries_status_and_words(void **state)
{
	struct reply a = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 3);
	call(&p, "Fail", "work", 0, &a, NULL);
	pump(&p);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.err.status, ERR_FAILED_PRECONDITION);
	assert_int_equal(a.err.code, -EBUSY);
	assert_string_equal(a.err.msg, "busy? with work");
	pair_close(&p);
}

static void call_unknown_names_are_unimplemented(void **state)
{
	struct reply a = {0}, b = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 0);
	call(&p, "None", "", 0, &a, NULL);
	ttrpc_call(p.client, "no.Service", "Echo", NULL, 0, 0, on_reply, &b, NULL, NULL);
	pump(&p);
	assert_int_equal(a.err.status, ERR_UNIMPLEMENTED);
	assert_string_equal(a.err.msg, "method test.Service/None");
	assert_int_equal(b.err.status, ERR_UNIMPLEMENTED);
	assert_string_equal(b.err.msg, "service no.Service");
	pair_close(&p);
}

static void call_from_a_callback_works(void **state)
{
	struct reply a = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 1);
	a.again = &p;
	call(&p, "Echo", "1", 0, &a, NULL);
	pump(&p);
	assert_int_equal(a.count, 2);
	assert_memory_equal(a.data, "2", 1);
	pair_close(&p);
}

static void call_many_at_once_each_get_their_own_answer(void **state)
{
	static struct reply replies[TTRPC_CALLS_MAX];
	struct reply extra = {0};
	struct err err = ERR_INIT;
	struct pair p;

	(void)state;
	memset(replies, 0, sizeof(replies));
	pair_open(&p, 4099);
	for (size_t i = 0; i < TTRPC_CALLS_MAX; i++)
		assert_int_equal(
			call(&p, "Hold", "x", (int64_t)(i % 7) * NS_PER_SEC * 1000, &replies[i], NULL), 0);
	assert_int_equal(
		ttrpc_call(p.client, "test.Service", "Echo", NULL, 0, 0, on_reply, &extra, NULL, &err),
		-ENOBUFS);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	pump(&p);
	assert_int_equal(held_count, TTRPC_CALLS_MAX);
	/* In an order that has nothing to do with that of the calls: 1021 is prime to 4096. */
	for (size_t i = 0, at = 0; i < TTRPC_CALLS_MAX; i++, at = (at + 1021) % TTRPC_CALLS_MAX) {
		char text[16];
		int n = snprintf(text, sizeof(text), "%zu", at);

		ttrpc_respond(held[at].req, text, (size_t)n);
		if (i % 100 == 0)
			pump(&p);
	}
	pump(&p);
	for (size_t i = 0; i < TTRPC_CALLS_MAX; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%zu", i);
		assert_int_equal(replies[i].count, 1);
		assert_int_equal(replies[i].len, strlen(text));
		assert_memory_equal(replies[i].data, text, strlen(text));
	}
	assert_int_equal(ttrpc_in_flight(p.server), 0);
	assert_true(ttrpc_next_deadline(p.client) == INT64_MAX);
	pair_close(&p);
}

static void expire_client_times_out_in_order_of_deadline(void **state)
{
	struct reply a = {0}, b = {0}, c = {0};
	int64_t now = now_monotonic_ns();
	struct pair p;

	(void)state;
	pair_open(&p, 0);
	assert_true(ttrpc_next_deadline(p.client) == INT64_MAX);
	call(&p, "Hold", "", 30 * NS_PER_SEC, &a, NULL);
	call(&p, "Hold", "", 10 * NS_PER_SEC, &b, NULL);
	call(&p, "Hold", "", 0, &c, NULL);
	assert_true(ttrpc_next_deadline(p.client) >= now + 10 * NS_PER_SEC);
	ttrpc_expire(p.client, now + 9 * NS_PER_SEC);
	assert_int_equal(b.count, 0);
	ttrpc_expire(p.client, now + 11 * NS_PER_SEC);
	assert_int_equal(b.count, 1);
	assert_int_equal(b.err.code, -ETIMEDOUT);
	assert_int_equal(b.err.status, ERR_DEADLINE_EXCEEDED);
	assert_int_equal(a.count, 0);
	pump(&p);
	/* The late answer is dropped. */
	ttrpc_respond(held[1].req, "late", 4);
	pump(&p);
	assert_int_equal(b.count, 1);
	ttrpc_respond(held[0].req, "in time", 7);
	pump(&p);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.err.code, 0);
	pair_close(&p);
	assert_int_equal(c.count, 1);
	assert_int_equal(c.err.code, -ECONNRESET);
}

static void expire_server_runs_the_hook_and_answers(void **state)
{
	struct reply a = {0}, b = {0};
	int64_t now = now_monotonic_ns();
	struct pair p;

	(void)state;
	pair_open(&p, 1);
	call(&p, "Hold", "", 10 * NS_PER_SEC, &a, NULL);
	call(&p, "HoldWithoutHook", "", 10 * NS_PER_SEC, &b, NULL);
	pump(&p);
	assert_true(ttrpc_request_deadline(held[0].req) >= now + 10 * NS_PER_SEC);
	assert_true(ttrpc_next_deadline(p.server) < now + 60 * NS_PER_SEC);
	ttrpc_expire(p.server, now + 60 * NS_PER_SEC);
	assert_int_equal(held[0].cancelled, 1);
	pump(&p);
	assert_int_equal(a.err.status, ERR_DEADLINE_EXCEEDED);
	assert_int_equal(b.err.status, ERR_DEADLINE_EXCEEDED);
	assert_null(ttrpc_request_conn(held[1].req));
	ttrpc_respond(held[1].req, "void", 4);
	pump(&p);
	assert_int_equal(b.count, 1);
	pair_close(&p);
}

static void cancel_drops_the_answer(void **state)
{
	struct reply a = {0};
	struct pair p;
	uint32_t id = 0;

	(void)state;
	pair_open(&p, 0);
	call(&p, "Hold", "", NS_PER_SEC, &a, &id);
	assert_int_equal(id, 1);
	pump(&p);
	ttrpc_cancel(p.client, id);
	ttrpc_cancel(p.client, id);
	ttrpc_cancel(p.client, 77);
	assert_int_equal(ttrpc_in_flight(p.client), 0);
	ttrpc_respond(held[0].req, "late", 4);
	pump(&p);
	assert_int_equal(a.count, 0);
	pair_close(&p);
	assert_int_equal(a.count, 0);
}

static void abort_ends_everything_once(void **state)
{
	struct reply a = {0}, b = {0};
	struct err why = ERR_INIT;
	struct pair p;

	(void)state;
	pair_open(&p, 0);
	call(&p, "Hold", "", NS_PER_SEC, &a, NULL);
	assert_int_equal(
		ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &b, NULL, NULL), 0);
	pump(&p);
	err_set(&why, -EPIPE, "the VM has died");
	ttrpc_abort(p.client, &why);
	ttrpc_abort(p.client, &why);
	assert_int_equal(a.count, 1);
	assert_string_equal(a.err.msg, "the VM has died");
	assert_int_equal(b.eof_count, 1);
	assert_int_equal(b.err.code, -EPIPE);
	assert_int_equal(call(&p, "Echo", "", 0, &a, NULL), -ECONNRESET);
	assert_int_equal(ttrpc_feed(p.client, "x", 1, &why), -ECONNRESET);
	ttrpc_abort(p.server, &why);
	assert_int_equal(held[0].cancelled, 1);
	assert_int_equal(held[1].cancelled, 1);
	pair_close(&p);
	assert_int_equal(a.count, 1);
}

static void stream_echoes_until_closed(void **state)
{
	static const size_t chunks[] = {0, 1, 5};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
		struct reply r = {0};
		struct pair p;
		uint32_t id;

		pair_open(&p, chunks[i]);
		assert_int_equal(ttrpc_stream_open(p.client, "test.Service", "Stream", "first", 5, on_stream,
						   &r, &id, NULL),
				 0);
		pump(&p);
		assert_int_equal(r.data_count, 1);
		for (int n = 0; n < 10; n++)
			assert_int_equal(ttrpc_stream_send(p.client, id, "data", 4, false), 0);
		assert_int_equal(ttrpc_stream_send(p.client, id, "", 0, false), 0);
		pump(&p);
		assert_int_equal(r.data_count, 12);
		assert_int_equal(r.len, 0);
		assert_int_equal(ttrpc_stream_send(p.client, id, "last", 4, true), 0);
		assert_int_equal(ttrpc_stream_send(p.client, id, "more", 4, false), -EPIPE);
		pump(&p);
		assert_int_equal(r.data_count, 13);
		assert_int_equal(r.eof_count, 1);
		assert_int_equal(r.err.code, 0);
		assert_int_equal(held[0].eof, 1);
		assert_int_equal(ttrpc_in_flight(p.client), 0);
		assert_int_equal(ttrpc_in_flight(p.server), 0);
		assert_int_equal(ttrpc_stream_send(p.client, id, "more", 4, false), -EPIPE);
		pair_close(&p);
	}
}

static void stream_server_ends_or_fails_it(void **state)
{
	struct reply a = {0}, b = {0};
	struct pair p;
	uint32_t ida, idb;

	(void)state;
	pair_open(&p, 1);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &a, &ida, NULL);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &b, &idb, NULL);
	ttrpc_stream_send(p.client, ida, "bye", 3, false);
	ttrpc_stream_send(p.client, idb, "fail", 4, false);
	/* Still under way when the server has ended both: answered on streams that we have forgotten. */
	ttrpc_stream_send(p.client, ida, "late", 4, true);
	ttrpc_stream_send(p.client, idb, "late", 4, true);
	pump(&p);
	assert_int_equal(a.eof_count, 1);
	assert_int_equal(a.err.code, 0);
	assert_int_equal(b.eof_count, 1);
	assert_int_equal(b.err.code, -ENOENT);
	assert_string_equal(b.err.msg, "no such thing");
	assert_int_equal(ttrpc_in_flight(p.server), 0);
	pair_close(&p);
}

static void stream_cancel_tells_the_server(void **state)
{
	struct reply a = {0};
	struct pair p;
	uint32_t id;

	(void)state;
	pair_open(&p, 0);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &a, &id, NULL);
	pump(&p);
	ttrpc_cancel(p.client, id);
	pump(&p);
	assert_int_equal(held[0].eof, 1);
	assert_int_equal(a.eof_count, 0);
	assert_int_equal(ttrpc_in_flight(p.server), 0);
	pair_close(&p);
}

static void limit_of_a_message_holds_on_both_sides(void **state)
{
	char *data = calloc(1, TTRPC_MESSAGE_MAX + 1);
	struct reply a = {0}, b = {0}, c = {0};
	struct err err = ERR_INIT;
	struct pair p;
	uint32_t id;

	(void)state;
	assert_non_null(data);
	pair_open(&p, 100001);
	assert_int_equal(ttrpc_call(p.client, "test.Service", "Echo", data, TTRPC_MESSAGE_MAX, 0, on_reply,
				    &a, NULL, &err),
			 -EMSGSIZE);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	assert_int_equal(ttrpc_call(p.client, "test.Service", "Echo", data, TTRPC_MESSAGE_MAX - 64, 0,
				    on_reply, &a, NULL, &err),
			 0);
	call(&p, "Big", "", 0, &b, NULL);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &c, &id, NULL);
	assert_int_equal(ttrpc_stream_send(p.client, id, data, TTRPC_MESSAGE_MAX + 1, false), -EMSGSIZE);
	assert_int_equal(ttrpc_stream_send(p.client, id, data, TTRPC_MESSAGE_MAX, false), 0);
	pump(&p);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.len, TTRPC_MESSAGE_MAX - 64);
	assert_int_equal(b.count, 1);
	assert_int_equal(b.err.status, ERR_RESOURCE_EXHAUSTED);
	assert_int_equal(c.len, TTRPC_MESSAGE_MAX);
	pair_close(&p);
	free(data);
}

static void limit_oversized_frame_ends_only_its_call(void **state)
{
	unsigned char head[10], zeros[65536] = {0};
	struct reply a = {0}, b = {0};
	struct err err = ERR_INIT;
	struct pair p;

	(void)state;
	pair_open(&p, 0);
	/* To a server. */
	frame(head, TTRPC_MESSAGE_MAX + 65536, 1, 1, 0, NULL);
	assert_int_equal(ttrpc_feed(p.server, head, 10, &err), 0);
	for (size_t i = 0; i < 65; i++) {
		assert_int_equal(ttrpc_out(p.server)->len, 0);
		assert_int_equal(ttrpc_feed(p.server, zeros, sizeof(zeros), &err), 0);
	}
	assert_int_equal(answered_status(p.server, 1), ERR_RESOURCE_EXHAUSTED);
	/* To a client, with another call on the same connection. */
	call(&p, "Hold", "", 0, &a, NULL);
	call(&p, "Hold", "", 0, &b, NULL);
	pump(&p);
	frame(head, TTRPC_MESSAGE_MAX + 65536, 1, 2, 0, NULL);
	ttrpc_feed(p.client, head, 10, &err);
	for (size_t i = 0; i < 65; i++)
		ttrpc_feed(p.client, zeros, sizeof(zeros), &err);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.err.status, ERR_RESOURCE_EXHAUSTED);
	ttrpc_respond(held[1].req, "fine", 4);
	pump(&p);
	assert_int_equal(b.count, 1);
	assert_int_equal(b.err.code, 0);
	pair_close(&p);
}

static void limit_output_is_bounded(void **state)
{
	char *data = calloc(1, TTRPC_MESSAGE_MAX);
	struct err err = ERR_INIT;
	struct reply r = {0};
	unsigned char buf[64];
	struct pair p;
	uint32_t id;
	int n = 0, code = 0;
	size_t len;

	(void)state;
	assert_non_null(data);
	pair_open(&p, 0);
	while (n < 100 && ttrpc_call(p.client, "test.Service", "Echo", data, TTRPC_MESSAGE_MAX / 2, 0,
				     on_reply, &r, NULL, &err) == 0)
		n++;
	assert_in_range(n, 14, 16);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	pump(&p);
	assert_int_equal(r.count, n);
	/* A server whose client does not read. */
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &r, &id, NULL);
	pump(&p);
	for (n = 0; n < 100 && (code = ttrpc_request_send(held[0].req, data, TTRPC_MESSAGE_MAX)) == 0; n++)
		;
	assert_int_equal(code, -ENOBUFS);
	assert_int_equal(n, 7);
	for (n = 0; n < 100000; n++) {
		len = frame(buf, 0, 2, 1, 0, NULL);
		if (ttrpc_feed(p.server, buf, len, &err) < 0)
			break;
	}
	assert_int_equal(err.code, -ENOBUFS);
	assert_true(ttrpc_out(p.server)->len <= TTRPC_OUT_MAX + 65536);
	pair_close(&p);
	free(data);
}

static void feed_server_refuses_what_is_wrong(void **state)
{
	static const unsigned char request[] = "\x0a\x0ctest.Service\x12\x04Hold";
	static const unsigned char stream[] = "\x0a\x0ctest.Service\x12\x06Stream";
	static const unsigned char garbage[] = "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
	const uint32_t n = sizeof(request) - 1, ns = sizeof(stream) - 1;
	struct err err = ERR_INIT;
	unsigned char buf[128];
	struct pair p;

	(void)state;
	pair_open(&p, 0);
#define FEED(...) assert_int_equal(ttrpc_feed(p.server, buf, frame(buf, __VA_ARGS__), &err), 0)
	FEED(n, 2, 1, 0, request);
	assert_int_equal(answered_status(p.server, 2), ERR_INVALID_ARGUMENT);
	FEED(n, 9, 1, 0, request);
	assert_int_equal(ttrpc_out(p.server)->len, 0);
	FEED(n, 9, 1, 0, request);
	assert_int_equal(answered_status(p.server, 9), ERR_INVALID_ARGUMENT);
	FEED(n, 7, 1, 0, request);
	assert_int_equal(answered_status(p.server, 7), ERR_INVALID_ARGUMENT);
	FEED(sizeof(garbage) - 1, 11, 1, 0, garbage);
	assert_int_equal(answered_status(p.server, 11), ERR_INVALID_ARGUMENT);
	FEED(0, 13, 1, 0, NULL);
	assert_int_equal(answered_status(p.server, 13), ERR_UNIMPLEMENTED);
	FEED(3, 15, 3, 0, "abc");
	assert_int_equal(answered_status(p.server, 15), ERR_INVALID_ARGUMENT);
	/* Types of later versions are ignored. */
	FEED(3, 17, 0, 0, "abc");
	FEED(3, 17, 2, 0, "abc");
	FEED(3, 17, 99, 0, "abc");
	assert_int_equal(ttrpc_out(p.server)->len, 0);
	/* Data on a unary call, and data after the end of the client's side. */
	assert_int_equal(held[0].cancelled, 0);
	FEED(3, 9, 3, 0, "abc");
	assert_int_equal(held[0].cancelled, 1);
	assert_int_equal(answered_status(p.server, 9), ERR_INVALID_ARGUMENT);
	FEED(ns, 19, 1, 1, stream);
	assert_int_equal(held[1].eof, 1);
	buf_consume(ttrpc_out(p.server), SIZE_MAX);
	FEED(n, 21, 1, 0, request);
	FEED(ns, 23, 1, 2, stream);
	FEED(0, 23, 3, 4, NULL);
	assert_int_equal(held[3].data, 0);
	FEED(0, 23, 3, 0, NULL);
	assert_int_equal(held[3].data, 1);
#undef FEED
	pair_close(&p);
	assert_int_equal(held[2].cancelled, 1);
}

/* Ids that were given out once may come again, late; others may not. */
static void feed_client_refuses_ids_it_never_gave_out(void **state)
{
	static const uint32_t ids[] = {0, 2, 3, 77, UINT32_MAX};
	struct err err = ERR_INIT;
	unsigned char buf[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		struct reply a = {0};
		struct pair p;

		pair_open(&p, 0);
		call(&p, "Hold", "", 0, &a, NULL);
		assert_int_equal(ttrpc_feed(p.client, buf, frame(buf, 3, ids[i], 2, 0, "abc"), &err),
				 -EBADMSG);
		assert_int_equal(a.count, 0);
		pair_close(&p);
		assert_int_equal(a.err.code, -ECONNRESET);
	}
}

static void feed_client_survives_nonsense(void **state)
{
	struct reply a = {0}, b = {0}, c = {0};
	struct err err = ERR_INIT;
	unsigned char buf[128];
	struct pair p;

	(void)state;
	pair_open(&p, 0);
	call(&p, "Hold", "", 0, &a, NULL);
	call(&p, "Hold", "", 0, &b, NULL);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &c, NULL, NULL);
#define FEED(...) assert_int_equal(ttrpc_feed(p.client, buf, frame(buf, __VA_ARGS__), &err), 0)
	FEED(3, 1, 1, 0, "abc");
	FEED(3, 1, 9, 0, "abc");
	assert_int_equal(a.count, 0);
	FEED(2, 1, 2, 0, "\x0a\x05");
	assert_int_equal(a.count, 1);
	assert_int_equal(a.err.code, -EBADMSG);
	FEED(3, 1, 2, 0, "abc");
	assert_int_equal(a.count, 1);
	FEED(1, 3, 3, 0, "x");
	assert_int_equal(b.count, 1);
	assert_int_equal(b.err.code, -EBADMSG);
	/* A last message with the end; a status that does not exist. */
	FEED(4, 5, 3, 1, "last");
	assert_int_equal(c.data_count, 1);
	assert_int_equal(c.eof_count, 1);
	call(&p, "Hold", "", 0, &a, NULL);
	FEED(5, 7, 2, 0, "\x0a\x03\x08\xff\x01");
	assert_int_equal(a.count, 2);
	assert_int_equal(a.err.status, ERR_UNKNOWN);
	assert_string_equal(a.err.msg, "Unknown");
#undef FEED
	pair_close(&p);
}

static void feed_client_bounds_what_nobody_waits_for(void **state)
{
	struct err err = ERR_INIT;
	struct reply a = {0};
	unsigned char buf[16];
	struct pair p;
	uint32_t id;
	size_t n = 0;

	(void)state;
	pair_open(&p, 0);
	call(&p, "Hold", "", 0, &a, &id);
	ttrpc_cancel(p.client, id);
	while (n < 1000000 && ttrpc_feed(p.client, buf, frame(buf, 0, id, 2, 0, NULL), &err) == 0)
		n++;
	assert_in_range(n, 10000, 100000);
	assert_int_equal(err.code, -EBADMSG);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(call_unary_answers_with_payload),
		cmocka_unit_test(call_failing_carries_status_and_words),
		cmocka_unit_test(call_unknown_names_are_unimplemented),
		cmocka_unit_test(call_from_a_callback_works),
		cmocka_unit_test(call_many_at_once_each_get_their_own_answer),
		cmocka_unit_test(expire_client_times_out_in_order_of_deadline),
		cmocka_unit_test(expire_server_runs_the_hook_and_answers),
		cmocka_unit_test(cancel_drops_the_answer),
		cmocka_unit_test(abort_ends_everything_once),
		cmocka_unit_test(stream_echoes_until_closed),
		cmocka_unit_test(stream_server_ends_or_fails_it),
		cmocka_unit_test(stream_cancel_tells_the_server),
		cmocka_unit_test(limit_of_a_message_holds_on_both_sides),
		cmocka_unit_test(limit_oversized_frame_ends_only_its_call),
		cmocka_unit_test(limit_output_is_bounded),
		cmocka_unit_test(feed_server_refuses_what_is_wrong),
		cmocka_unit_test(feed_client_survives_nonsense),
		cmocka_unit_test(feed_client_refuses_ids_it_never_gave_out),
		cmocka_unit_test(feed_client_bounds_what_nobody_waits_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
