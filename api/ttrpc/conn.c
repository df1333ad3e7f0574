/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/ttrpc_internal.h"

#include "base/util.h"

#define IN_KEEP 2048 /* an idle connection keeps at most this much memory for input */

struct ttrpc_conn *ttrpc_conn_new(const struct ttrpc_service *services, ttrpc_output_fn *output, void *owner)
{
	struct ttrpc_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->services = services;
	conn->output = output;
	conn->owner = owner;
	conn->in.max = TTRPC_MESSAGE_MAX;
	conn->out.max = TTRPC_OUT_MAX + OUT_SLACK;
	return conn;
}

struct ttrpc_conn *ttrpc_conn_free(struct ttrpc_conn *conn)
{
	struct err why = ERR_INIT;

	if (!conn)
		return NULL;
	err_set(&why, -ECONNRESET, "the connection was closed");
	ttrpc_abort(conn, &why);
	ttrpc_calls_done(&conn->calls);
	buf_done(&conn->in);
	buf_done(&conn->out);
	free(conn);
	return NULL;
}

struct buf *ttrpc_out(struct ttrpc_conn *conn)
{
	return &conn->out;
}

/* ---- calls --------------------------------------------------------------------------------------------- */

struct ttrpc_request *ttrpc_conn_add_call(struct ttrpc_conn *conn, uint32_t id, int64_t timeout_ns)
{
	struct ttrpc_request *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->conn = conn;
	call->id = id;
	call->deadline_ns = INT64_MAX;
	if (timeout_ns && __builtin_add_overflow(now_monotonic_ns(), timeout_ns, &call->deadline_ns))
		call->deadline_ns = INT64_MAX;
	if (ttrpc_calls_add(&conn->calls, call) < 0) {
		free(call);
		return NULL;
	}
	return call;
}

void ttrpc_conn_drop_call(struct ttrpc_conn *conn, struct ttrpc_request *call)
{
	ttrpc_calls_remove(&conn->calls, call);
	free(call);
}

static void end_call(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct err *err)
{
	if (conn->services)
		ttrpc_server_cancel(conn, call, err);
	else
		ttrpc_client_end(conn, call, err);
}

void ttrpc_abort(struct ttrpc_conn *conn, const struct err *why)
{
	struct ttrpc_request *call;

	conn->dead = true;
	buf_done(&conn->out);
	while ((call = ttrpc_calls_any(&conn->calls)))
		end_call(conn, call, why);
}

int64_t ttrpc_next_deadline(const struct ttrpc_conn *conn)
{
	const struct ttrpc_request *call = ttrpc_calls_earliest(&conn->calls);

	return call ? call->deadline_ns : INT64_MAX;
}

void ttrpc_expire(struct ttrpc_conn *conn, int64_t now_ns)
{
	struct ttrpc_request *call;
	struct err err = ERR_INIT;

	err_set(&err, -ETIMEDOUT, "%s", conn->services ? "the deadline has passed" : "no answer in time");
	while ((call = ttrpc_calls_earliest(&conn->calls)) && call->deadline_ns <= now_ns) {
		uint32_t id = call->id;

		end_call(conn, call, &err);
		if (conn->services)
			ttrpc_server_put_status(conn, id, &err);
	}
}

/* ---- output -------------------------------------------------------------------------------------------- */

int ttrpc_conn_room(const struct ttrpc_conn *conn, size_t len)
{
	if (conn->dead)
		return -ECONNRESET;
	if (conn->out.len + FRAME_HEADER + len > TTRPC_OUT_MAX)
		return -ENOBUFS;
	return 0;
}

static void put_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static uint32_t get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

uint8_t *ttrpc_conn_frame(struct ttrpc_conn *conn, uint32_t id, enum frame_type type, uint8_t flags,
			  size_t len)
{
	uint8_t *p = buf_reserve(&conn->out, FRAME_HEADER + len);

	if (!p)
		return NULL;
	put_u32(p, (uint32_t)len);
	put_u32(p + 4, id);
	p[8] = (uint8_t)type;
	p[9] = flags;
	return p + FRAME_HEADER;
}

void ttrpc_conn_commit(struct ttrpc_conn *conn, size_t len)
{
	bool was_empty = conn->out.len == 0;

	buf_commit(&conn->out, FRAME_HEADER + len);
	if (was_empty && conn->output)
		conn->output(conn->owner);
}

int ttrpc_conn_put_data(struct ttrpc_conn *conn, uint32_t id, uint8_t flags, const void *payload, size_t len)
{
	uint8_t *p;
	int r;

	if (len > TTRPC_MESSAGE_MAX)
		return -EMSGSIZE;
	r = ttrpc_conn_room(conn, len);
	if (r < 0)
		return r;
	p = ttrpc_conn_frame(conn, id, FRAME_DATA, flags, len);
	if (!p)
		return -errno;
	if (len > 0)
		memcpy(p, payload, len);
	ttrpc_conn_commit(conn, len);
	return 0;
}

/* ---- input --------------------------------------------------------------------------------------------- */

static void deliver(struct ttrpc_conn *conn, const uint8_t *data)
{
	struct ttrpc_frame f = {
		.len = get_u32(conn->header),
		.id = get_u32(conn->header + 4),
		.type = conn->header[8],
		.flags = conn->header[9],
		.data = data,
	};

	conn->header_len = 0;
	if (conn->services)
		ttrpc_server_frame(conn, &f);
	else
		ttrpc_client_frame(conn, &f);
}

/* A frame beyond the limit has gone by: its call ends, the connection lives (as containerd's ttrpc does it).
 */
static void deliver_oversized(struct ttrpc_conn *conn)
{
	uint32_t id = get_u32(conn->header + 4);
	struct err err = ERR_INIT;

	err_set_status(&err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED, "message of %u bytes exceeds the limit of %u",
		       get_u32(conn->header), TTRPC_MESSAGE_MAX);
	conn->header_len = 0;
	if (conn->services) {
		ttrpc_server_put_status(conn, id, &err);
	} else {
		struct ttrpc_request *call = ttrpc_calls_find(&conn->calls, id);

		if (call)
			ttrpc_client_end(conn, call, &err);
	}
}

/* Takes what it can of a frame's message: the number of bytes taken. */
static int feed_message(struct ttrpc_conn *conn, const uint8_t *data, size_t len, size_t *ret_taken)
{
	size_t need = get_u32(conn->header) - conn->in.len;
	int r;

	if (conn->in.len == 0 && len >= need) {
		*ret_taken = need;
		deliver(conn, data);
		return 0;
	}
	if (len > need)
		len = need;
	r = buf_put(&conn->in, data, len);
	if (r < 0)
		return r;
	*ret_taken = len;
	if (len == need) {
		deliver(conn, buf_data(&conn->in));
		buf_consume(&conn->in, conn->in.len);
		if (conn->in.room > IN_KEEP)
			buf_done(&conn->in);
	}
	return 0;
}

static size_t feed_skip(struct ttrpc_conn *conn, size_t len)
{
	if (len > conn->skip)
		len = conn->skip;
	conn->skip -= (uint32_t)len;
	if (conn->skip == 0)
		deliver_oversized(conn);
	return len;
}

static size_t feed_header(struct ttrpc_conn *conn, const uint8_t *data, size_t len)
{
	size_t n = FRAME_HEADER - (size_t)conn->header_len;
	uint32_t message;

	if (n > len)
		n = len;
	memcpy(conn->header + conn->header_len, data, n);
	conn->header_len = (uint8_t)(conn->header_len + n);
	if (conn->header_len < FRAME_HEADER)
		return n;
	message = get_u32(conn->header);
	/*
	 * A server speaks in streams that the client has opened, with odd numbers: anything else is no ttrpc.
	 */
	if (!conn->services &&
	    (get_u32(conn->header + 4) % 2 == 0 || get_u32(conn->header + 4) > conn->last_id))
		conn->broken = -EBADMSG;
	else if (message == 0)
		deliver(conn, (const uint8_t *)"");
	else if (message > TTRPC_MESSAGE_MAX)
		conn->skip = message;
	return n;
}

int ttrpc_feed(struct ttrpc_conn *conn, const void *data, size_t len, struct err *err)
{
	const uint8_t *p = data;
	size_t taken = 0;
	int r;

	for (; len > 0; p += taken, len -= taken) {
		if (conn->dead)
			return err_set(err, -ECONNRESET, "the connection is closed");
		if (conn->skip > 0) {
			taken = feed_skip(conn, len);
		} else if (conn->header_len < FRAME_HEADER) {
			taken = feed_header(conn, p, len);
		} else {
			r = feed_message(conn, p, len, &taken);
			if (r < 0)
				return err_set_errno(err, r, "taking in a ttrpc message");
		}
		if (conn->broken)
			return err_set(err, conn->broken, "%s",
				       conn->services ? "the peer does not read its answers"
						      : "the peer sends what nobody asked for");
	}
	return 0;
}
