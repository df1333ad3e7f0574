/* SPDX-License-Identifier: Apache-2.0 */
/* Limits, and a peer that misbehaves. */
#include "ttrpc_fixture.h"

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

/* Frames until the client ends the connection, at most max. */
static size_t frames_until_broken(struct pair *p, const unsigned char *buf, size_t len, size_t max)
{
	for (size_t n = 1; n <= max; n++) {
		if (ttrpc_feed(p->client, buf, len, NULL) < 0)
			return n;
	}
	return 0;
}

/* Fault O: frames of an unknown type, for a call that lives, are strays like all others. */
static void feed_client_ends_a_flood_of_strays(void **state)
{
	static const struct {
		uint8_t type, flags;
	} kinds[] = {{9, 0}, {1, 0}, {3, 4}};
	unsigned char buf[32], good[32];
	struct reply a, c;
	struct pair p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t len = frame(buf, 0, 3, kinds[i].type, kinds[i].flags, "");

		a = c = (struct reply){0};
		pair_open(&p, 0);
		call(&p, "Hold", "", 0, &a, NULL);
		ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &c, NULL, NULL);
		assert_in_range(frames_until_broken(&p, buf, len, 1000000), 1000, 70000);
		pair_close(&p);
	}
	/* One that is waited for among many does not make up for them. */
	a = c = (struct reply){0};
	pair_open(&p, 0);
	call(&p, "Hold", "", 0, &a, NULL);
	ttrpc_stream_open(p.client, "test.Service", "Stream", NULL, 0, on_stream, &c, NULL, NULL);
	size_t len = frame(buf, 0, 1, 9, 0, ""), good_len = frame(good, 1, 3, 3, 0, "x");
	size_t rounds = 0;
	while (rounds < 10000 && frames_until_broken(&p, buf, len, 1000) == 0) {
		assert_int_equal(ttrpc_feed(p.client, good, good_len, NULL), 0);
		rounds++;
	}
	assert_in_range(rounds, 1, 100);
	pair_close(&p);
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
		cmocka_unit_test(limit_of_a_message_holds_on_both_sides),
		cmocka_unit_test(limit_oversized_frame_ends_only_its_call),
		cmocka_unit_test(limit_output_is_bounded),
		cmocka_unit_test(feed_server_refuses_what_is_wrong),
		cmocka_unit_test(feed_client_ends_a_flood_of_strays),
		cmocka_unit_test(feed_client_survives_nonsense),
		cmocka_unit_test(feed_client_refuses_ids_it_never_gave_out),
		cmocka_unit_test(feed_client_bounds_what_nobody_waits_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
