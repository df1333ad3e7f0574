/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/ttrpc_internal.h"

#include "base/util.h"

/*
 * Late answers, and frames of types that are not known, are dropped; a peer that has sent so much more of
 * them than of what was waited for is broken or hostile.
 */
#define STRAY_MAX	  (64u << 20)
#define STRAY_FRAME_BYTES 1024 /* what a frame counts beside its length */

struct ttrpc_conn *ttrpc_client_new(ttrpc_output_fn *output, void *owner)
{
	return ttrpc_conn_new(NULL, output, owner);
}

/* ---- calls going out ----------------------------------------------------------------------------------- */

static int start(struct ttrpc_conn *conn, const struct wire_request *req, uint8_t flags,
		 struct ttrpc_request **ret_call, struct err *err)
{
	size_t len = ttrpc_wire_request_size(req);
	struct ttrpc_request *call = NULL;
	uint32_t id = conn->last_id ? conn->last_id + 2 : 1;
	uint8_t *p;
	int r;

	if (len > TTRPC_MESSAGE_MAX)
		return err_set_status(err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED,
				      "message of %zu bytes exceeds the limit of %u", len, TTRPC_MESSAGE_MAX);
	if (conn->calls.count >= TTRPC_CALLS_MAX)
		return err_set_status(err, -ENOBUFS, ERR_RESOURCE_EXHAUSTED, "%u calls are in flight already",
				      conn->calls.count);
	if (conn->last_id > UINT32_MAX - 2)
		return err_set_status(err, -ENOBUFS, ERR_UNAVAILABLE,
				      "the connection has used up its stream ids");
	r = ttrpc_conn_room(conn, len);
	if (r == -ECONNRESET)
		return err_set(err, r, "the connection is closed");
	if (r < 0)
		return err_set_status(err, r, ERR_RESOURCE_EXHAUSTED,
				      "too much output is waiting for the peer");
	call = ttrpc_conn_add_call(conn, id, req->timeout_ns);
	if (!call)
		return err_oom(err);
	p = ttrpc_conn_frame(conn, id, FRAME_REQUEST, flags, len);
	if (!p) {
		ttrpc_conn_drop_call(conn, call);
		return err_oom(err);
	}
	ttrpc_wire_put_request(p, req);
	conn->last_id = id;
	*ret_call = call;
	ttrpc_conn_commit(conn, len);
	return 0;
}

int ttrpc_call(struct ttrpc_conn *conn, const char *service, const char *method, const void *payload,
	       size_t len, int64_t timeout_ns, ttrpc_reply_fn *reply, void *arg, uint32_t *ret_id,
	       struct err *err)
{
	struct wire_request req = {
		.service = service,
		.service_len = strlen(service),
		.method = method,
		.method_len = strlen(method),
		.payload = len > 0 ? payload : NULL,
		.len = len,
		.timeout_ns = timeout_ns,
	};
	struct ttrpc_request *call = NULL;
	int r = start(conn, &req, 0, &call, err);

	if (r < 0)
		return r;
	call->reply = reply;
	call->arg = arg;
	call->local_closed = true;
	if (ret_id)
		*ret_id = call->id;
	return 0;
}

int ttrpc_stream_open(struct ttrpc_conn *conn, const char *service, const char *method, const void *payload,
		      size_t len, ttrpc_stream_fn *on_data, void *arg, uint32_t *ret_id, struct err *err)
{
	struct wire_request req = {
		.service = service,
		.service_len = strlen(service),
		.method = method,
		.method_len = strlen(method),
		.payload = payload,
		.len = payload ? len : 0,
	};
	struct ttrpc_request *call = NULL;
	int r = start(conn, &req, FLAG_REMOTE_OPEN, &call, err);

	if (r < 0)
		return r;
	call->streaming = true;
	call->on_data = on_data;
	call->arg = arg;
	if (ret_id)
		*ret_id = call->id;
	return 0;
}

int ttrpc_stream_send(struct ttrpc_conn *conn, uint32_t id, const void *payload, size_t len, bool close)
{
	struct ttrpc_request *call = ttrpc_calls_find(&conn->calls, id);
	int r = 0;

	if (conn->dead)
		return -ECONNRESET;
	if (!call || !call->streaming || call->local_closed)
		return -EPIPE;
	if (payload)
		r = ttrpc_conn_put_data(conn, id, 0, payload, len);
	/* The close is a frame of its own: containerd's server takes no data with it. */
	if (r == 0 && close) {
		r = ttrpc_conn_put_data(conn, id, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, NULL, 0);
		call->local_closed = r == 0;
	}
	return r;
}

void ttrpc_cancel(struct ttrpc_conn *conn, uint32_t id)
{
	struct ttrpc_request *call = ttrpc_calls_find(&conn->calls, id);

	if (!call)
		return;
	/* ttrpc has no message for it; the end of our side is the most that can be said. */
	if (call->streaming && !call->local_closed)
		(void)ttrpc_conn_put_data(conn, id, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, NULL, 0);
	ttrpc_conn_drop_call(conn, call);
}

/* ---- answers coming in --------------------------------------------------------------------------------- */

/* Takes the call out of the table and runs its last callback. */
static void finish(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct err *err,
		   const void *payload, size_t len)
{
	struct ttrpc_request last = *call;

	ttrpc_conn_drop_call(conn, call);
	if (last.streaming)
		last.on_data(last.arg, err, payload, len, true);
	else
		last.reply(last.arg, err, payload, len);
}

void ttrpc_client_end(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct err *err)
{
	finish(conn, call, err, NULL, 0);
}

static void on_response(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct ttrpc_frame *f)
{
	struct err err = ERR_INIT;
	const void *payload;
	size_t len;

	if (ttrpc_wire_read_response(f, &payload, &len, &err) < 0)
		finish(conn, call, &err, NULL, 0);
	else if (call->streaming && len == 0)
		finish(conn, call, NULL, NULL, 0);
	else
		finish(conn, call, NULL, payload, len);
}

static void on_stream_data(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct ttrpc_frame *f)
{
	const void *payload = f->flags & FLAG_NO_DATA ? NULL : f->data;
	size_t len = payload ? f->len : 0;
	struct err err = ERR_INIT;

	if (!call->streaming) {
		err_set_status(&err, -EBADMSG, ERR_INTERNAL,
			       "the peer answered a unary call with stream data");
		finish(conn, call, &err, NULL, 0);
	} else if (f->flags & FLAG_REMOTE_CLOSED) {
		finish(conn, call, NULL, payload, len);
	} else if (payload) {
		call->on_data(call->arg, NULL, payload, len, false);
	}
}

static void on_stray(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	conn->stray_bytes += STRAY_FRAME_BYTES + f->len;
	if (conn->stray_bytes > STRAY_MAX)
		conn->broken = -EBADMSG;
}

/* Pays for as much that is not: all of it, and a peer could send what it likes between two good frames. */
static void on_useful(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	uint64_t worth = STRAY_FRAME_BYTES + f->len;

	conn->stray_bytes -= conn->stray_bytes < worth ? conn->stray_bytes : worth;
}

void ttrpc_client_frame(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	struct ttrpc_request *call = ttrpc_calls_find(&conn->calls, f->id);

	/*
	 * Without a call: it was cancelled or has timed out, or nothing was asked for. Other types are for
	 * later versions of the protocol; data that is empty and no end says nothing.
	 */
	if (!call || (f->type != FRAME_RESPONSE && f->type != FRAME_DATA) ||
	    (f->type == FRAME_DATA && !(f->flags & FLAG_REMOTE_CLOSED) && f->flags & FLAG_NO_DATA)) {
		on_stray(conn, f);
		return;
	}
	on_useful(conn, f);
	if (f->type == FRAME_RESPONSE)
		on_response(conn, call, f);
	else
		on_stream_data(conn, call, f);
}
