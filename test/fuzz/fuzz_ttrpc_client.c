/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile guest can send to the host's ttrpc client, with calls and streams of every kind in flight.
 */
#include "api/ttrpc/ttrpc.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ttrpc_conn *conn;
static int replies, ends;

static void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	volatile const uint8_t *p = payload;

	replies++;
	if (err && payload)
		abort();
	if (len > 0) /* the bytes must be there */
		(void)(p[0] + p[len - 1]);
	/* Every third answer starts another call or cancels one. */
	if (arg && replies % 3 == 0)
		ttrpc_call(conn, "s", "again", "x", 1, NS_PER_SEC, on_reply, NULL, NULL, NULL);
	else if (arg && replies % 3 == 1)
		ttrpc_cancel(conn, 3);
}

static void on_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	(void)arg;
	if (err || eof)
		ends++;
	else
		ttrpc_stream_send(conn, 5, payload, len, len == 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t step = size > 0 ? (size_t)data[0] % 17 + 1 : 1;
	struct err err = ERR_INIT;

	replies = ends = 0;
	conn = ttrpc_client_new(NULL, NULL);
	if (!conn)
		return 0;
	ttrpc_call(conn, "s", "m", "x", 1, NS_PER_SEC, on_reply, conn, NULL, NULL);
	ttrpc_call(conn, "s", "m", NULL, 0, 0, on_reply, conn, NULL, NULL);
	ttrpc_stream_open(conn, "s", "m", NULL, 0, on_data, NULL, NULL, NULL);
	ttrpc_call(conn, "s", "m", "x", 1, 1, on_reply, conn, NULL, NULL);
	for (size_t at = 1; at < size;) {
		size_t n = size - at < step ? size - at : step;

		if (ttrpc_feed(conn, data + at, n, &err) < 0)
			break;
		at += n;
		if (at % 64 == 0)
			ttrpc_expire(conn, now_monotonic_ns());
	}
	conn = ttrpc_conn_free(conn);
	/* Everything that was not cancelled has ended, once. */
	if (ends > 1)
		abort();
	return 0;
}
