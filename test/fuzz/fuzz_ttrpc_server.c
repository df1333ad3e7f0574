/* SPDX-License-Identifier: Apache-2.0 */
/* What any client can send to the agent's ttrpc server: handlers that answer at once, later, never, and
 * streams. */
#include "api/ttrpc/ttrpc.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HELD_MAX 64
static struct ttrpc_request *held[HELD_MAX];
static size_t held_count;

static void echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	ttrpc_respond(req, payload, len);
}

static void forget(void *arg)
{
	struct ttrpc_request **slot = arg;

	*slot = NULL;
}

static void hold(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err = ERR_INIT;

	(void)ctx;
	if (held_count == HELD_MAX) {
		err_set(&err, -ENOSPC, "%.*s", (int)(len < 100 ? len : 100), (const char *)payload);
		ttrpc_fail(req, &err);
		return;
	}
	held[held_count] = req;
	ttrpc_request_on_cancel(req, forget, &held[held_count]);
	held_count++;
}

static void answer_held(void)
{
	for (size_t i = 0; i < held_count; i++) {
		if (held[i])
			ttrpc_respond(held[i], "late", 4);
	}
	held_count = 0;
}

static void release(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	ttrpc_respond(req, payload, len);
	(void)ctx;
	answer_held();
}

static void on_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct ttrpc_request *req = arg;

	if (err)
		ttrpc_fail(req, err);
	else if (eof || len == 3)
		ttrpc_stream_finish(req);
	else
		ttrpc_request_send(req, payload, len);
}

/* Without a cancel hook: on_data gets the error and must still answer. */
static void stream(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	if (len == 1) {
		ttrpc_respond(req, payload, len);
		return;
	}
	ttrpc_request_on_data(req, on_data, req);
}

static const struct ttrpc_method methods[] = {
	{.name = "e", .unary = echo},
	{.name = "h", .unary = hold},
	{.name = "r", .unary = release},
	{.name = "s", .streaming = stream},
	{0},
};
static const struct ttrpc_service services[] = {{.name = "x", .methods = methods}, {0}};

static struct ttrpc_conn *close_server(struct ttrpc_conn *conn)
{
	struct err err = ERR_INIT;

	/* A stream whose client had closed its side already, and that was not answered, has nobody to tell:
	 * on_data has run. */
	err_set(&err, -ECONNRESET, "gone");
	ttrpc_abort(conn, &err);
	return ttrpc_conn_free(conn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step = size > 0 ? (size_t)data[0] % 17 + 1 : 1;
	struct ttrpc_conn *conn = ttrpc_server_new(services, NULL, NULL);
	struct err err = ERR_INIT;

	held_count = 0;
	if (!conn)
		return 0;
	for (size_t at = 1; at < size;) {
		size_t n = size - at < step ? size - at : step;

		if (ttrpc_feed(conn, data + at, n, &err) < 0)
			break;
		at += n;
		if (at % 8 == 0)
			ttrpc_expire(conn, now_monotonic_ns());
		if (ttrpc_out(conn)->len > 100000)
			buf_consume(ttrpc_out(conn), SIZE_MAX);
	}
	close_server(conn);
	return 0;
}
