/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/ttrpc_internal.h"

#include "base/util.h"

struct ttrpc_conn *ttrpc_server_new(const struct ttrpc_service *services, ttrpc_output_fn *output,
				    void *owner)
{
	return ttrpc_conn_new(services, output, owner);
}

/* ---- what a handler asks of its request ---------------------------------------------------------------- */

struct ttrpc_conn *ttrpc_request_conn(struct ttrpc_request *req)
{
	return req->conn;
}

void ttrpc_request_on_cancel(struct ttrpc_request *req, void (*hook)(void *arg), void *arg)
{
	req->on_cancel = hook;
	req->cancel_arg = arg;
}

void ttrpc_request_on_data(struct ttrpc_request *req, ttrpc_stream_fn *on_data, void *arg)
{
	req->on_data = on_data;
	req->arg = arg;
}

/* ---- answers ------------------------------------------------------------------------------------------- */

void ttrpc_server_put_status(struct ttrpc_conn *conn, uint32_t id, const struct err *err)
{
	uint8_t msg[WIRE_STATUS_MAX];
	size_t len;
	uint8_t *p;

	if (conn->dead)
		return;
	len = ttrpc_wire_put_status(msg, err);
	p = ttrpc_conn_frame(conn, id, FRAME_RESPONSE, 0, len);
	if (!p) {
		conn->broken = -errno;
		return;
	}
	memcpy(p, msg, len);
	ttrpc_conn_commit(conn, len);
}

/* Ends the request's life: out of the table, freed. The connection and id to answer on; NULL: nobody waits.
 */
static struct ttrpc_conn *retire(struct ttrpc_request *req, uint32_t *ret_id)
{
	struct ttrpc_conn *conn = req->conn;

	*ret_id = req->id;
	if (conn)
		ttrpc_conn_drop_call(conn, req);
	else
		free(req);
	return conn;
}

static int put_response(struct ttrpc_conn *conn, uint32_t id, const void *payload, size_t len,
			struct err *err)
{
	size_t size = ttrpc_wire_response_size(len);
	uint8_t *p = NULL;

	if (len > TTRPC_MESSAGE_MAX || size > TTRPC_MESSAGE_MAX)
		return err_set_status(err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED,
				      "answer of %zu bytes exceeds the limit of %u", size, TTRPC_MESSAGE_MAX);
	if (ttrpc_conn_room(conn, size) == 0)
		p = ttrpc_conn_frame(conn, id, FRAME_RESPONSE, 0, size);
	if (!p)
		return err_set_status(err, -ENOBUFS, ERR_RESOURCE_EXHAUSTED, "no room for the answer");
	ttrpc_wire_put_response(p, payload, len);
	ttrpc_conn_commit(conn, size);
	return 0;
}

void ttrpc_respond(struct ttrpc_request *req, const void *payload, size_t len)
{
	struct err err = ERR_INIT;
	uint32_t id;
	struct ttrpc_conn *conn = retire(req, &id);

	if (conn && !conn->dead && put_response(conn, id, payload, len, &err) < 0)
		ttrpc_server_put_status(conn, id, &err);
}

void ttrpc_fail(struct ttrpc_request *req, const struct err *err)
{
	uint32_t id;
	struct ttrpc_conn *conn = retire(req, &id);

	if (conn)
		ttrpc_server_put_status(conn, id, err);
}

void ttrpc_stream_finish(struct ttrpc_request *req)
{
	struct err err = ERR_INIT;
	uint32_t id;
	struct ttrpc_conn *conn = retire(req, &id);

	if (!conn || conn->dead)
		return;
	if (ttrpc_conn_put_data(conn, id, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, NULL, 0) < 0) {
		err_set_status(&err, -ENOBUFS, ERR_RESOURCE_EXHAUSTED, "no room for the end of the stream");
		ttrpc_server_put_status(conn, id, &err);
	}
}

int ttrpc_request_send(struct ttrpc_request *req, const void *payload, size_t len)
{
	if (!req->conn)
		return -ECONNRESET;
	return ttrpc_conn_put_data(req->conn, req->id, 0, payload, len);
}

void ttrpc_server_cancel(struct ttrpc_conn *conn, struct ttrpc_request *req, const struct err *err)
{
	ttrpc_calls_remove(&conn->calls, req);
	req->conn = NULL;
	if (req->on_cancel) {
		req->on_cancel(req->cancel_arg);
		free(req);
	} else if (req->on_data && !req->remote_closed) {
		/* Without a hook the request lives until the handler answers it, into the void. */
		req->remote_closed = true;
		req->on_data(req->arg, err, NULL, 0, true);
	}
}

/* ---- requests coming in -------------------------------------------------------------------------------- */

static void refuse(struct ttrpc_conn *conn, uint32_t id, int code, enum err_status status, const char *why)
{
	struct err err = ERR_INIT;

	err_set_status(&err, code, status, "%s", why);
	ttrpc_server_put_status(conn, id, &err);
}

static bool named(const char *name, const char *s, size_t len)
{
	return strlen(name) == len && memcmp(name, s, len) == 0;
}

static const struct ttrpc_method *find_method(const struct ttrpc_conn *conn, const struct wire_request *req,
					      const struct ttrpc_service **ret_service, struct err *err)
{
	const struct ttrpc_service *service = conn->services;
	int service_len = (int)(req->service_len < 200 ? req->service_len : 200);
	int method_len = (int)(req->method_len < 200 ? req->method_len : 200);

	while (service->name && !named(service->name, req->service, req->service_len))
		service++;
	if (!service->name) {
		err_set(err, -EOPNOTSUPP, "service %.*s", service_len, req->service);
		return NULL;
	}
	for (const struct ttrpc_method *m = service->methods; m->name; m++) {
		if (named(m->name, req->method, req->method_len) && (m->unary || m->streaming)) {
			*ret_service = service;
			return m;
		}
	}
	err_set(err, -EOPNOTSUPP, "method %.*s/%.*s", service_len, req->service, method_len, req->method);
	return NULL;
}

/* The client has closed its side of a stream. */
static void on_client_closed(struct ttrpc_conn *conn, uint32_t id)
{
	struct ttrpc_request *req = ttrpc_calls_find(&conn->calls, id);

	if (!req || !req->streaming || req->remote_closed)
		return;
	req->remote_closed = true;
	if (req->on_data)
		req->on_data(req->arg, NULL, NULL, 0, true);
}

static void on_request(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	const struct ttrpc_service *service = NULL;
	const struct ttrpc_method *method;
	struct ttrpc_request *req;
	struct wire_request wire;
	struct err err = ERR_INIT;

	if (f->id <= conn->last_id) {
		refuse(conn, f->id, -EINVAL, ERR_INVALID_ARGUMENT,
		       "a stream id cannot be used again and must grow");
		return;
	}
	conn->last_id = f->id;
	if (ttrpc_wire_read_request(f, &wire) < 0) {
		refuse(conn, f->id, -EINVAL, ERR_INVALID_ARGUMENT, "the request cannot be read");
		return;
	}
	method = find_method(conn, &wire, &service, &err);
	if (!method) {
		ttrpc_server_put_status(conn, f->id, &err);
		return;
	}
	req = conn->calls.count < TTRPC_CALLS_MAX ? ttrpc_conn_add_call(conn, f->id, wire.timeout_ns) : NULL;
	if (!req) {
		refuse(conn, f->id, -ENOMEM, ERR_RESOURCE_EXHAUSTED, "too many calls in flight");
		return;
	}
	if (!method->streaming) {
		req->remote_closed = true;
		method->unary(req, service->ctx, wire.payload ? wire.payload : "", wire.len);
		return;
	}
	req->streaming = true;
	method->streaming(req, service->ctx, wire.payload, wire.len);
	/* The handler may have ended it; its id tells. */
	if (!(f->flags & FLAG_REMOTE_OPEN))
		on_client_closed(conn, f->id);
}

static void on_client_data(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	struct ttrpc_request *req = ttrpc_calls_find(&conn->calls, f->id);
	struct err err = ERR_INIT;

	if (!req) {
		refuse(conn, f->id, -EINVAL, ERR_INVALID_ARGUMENT, "the stream is no longer active");
		return;
	}
	if (!req->streaming || req->remote_closed) {
		err_set(&err, -EINVAL, "no data is expected on this stream");
		ttrpc_server_cancel(conn, req, &err);
		ttrpc_server_put_status(conn, f->id, &err);
		return;
	}
	if (!(f->flags & FLAG_NO_DATA) && req->on_data)
		req->on_data(req->arg, NULL, f->data, f->len, false);
	if (f->flags & FLAG_REMOTE_CLOSED)
		on_client_closed(conn, f->id);
}

void ttrpc_server_frame(struct ttrpc_conn *conn, const struct ttrpc_frame *f)
{
	if (f->id % 2 == 0)
		refuse(conn, f->id, -EINVAL, ERR_INVALID_ARGUMENT, "a client's stream ids are odd");
	else if (f->type == FRAME_REQUEST)
		on_request(conn, f);
	else if (f->type == FRAME_DATA)
		on_client_data(conn, f);
	/* Other types are for later versions of the protocol. */
}
