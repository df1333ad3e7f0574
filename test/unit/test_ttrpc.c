/* SPDX-License-Identifier: Apache-2.0 */
/* Calls and streams between both ends of a connection. */
#include "ttrpc_fixture.h"

#include "api/ttrpc/ttrpc_internal.h"

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
		assert_int_equal(p.client->calls.count, 2);
		pump(&p);
		assert_int_equal(a.count, 1);
		assert_int_equal(a.err.code, 0);
		assert_int_equal(a.len, 5);
		assert_memory_equal(a.data, "hello", 5);
		assert_int_equal(b.count, 1);
		assert_int_equal(b.len, 0);
		assert_int_equal(p.client->calls.count, 0);
		assert_int_equal(p.server->calls.count, 0);
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
	assert_int_equal(p.server->calls.count, 0);
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
	assert_true(held[0].req->deadline_ns >= now + 10 * NS_PER_SEC);
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
	assert_int_equal(p.client->calls.count, 0);
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
		assert_int_equal(p.client->calls.count, 0);
		assert_int_equal(p.server->calls.count, 0);
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
	assert_int_equal(p.server->calls.count, 0);
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
	assert_int_equal(p.server->calls.count, 0);
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
