/* SPDX-License-Identifier: Apache-2.0 */
/* From an RPC's request to its handler, and from the handler's answer back. */
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <assert.h>
#include <grpc/byte_buffer.h>

/* The RPC had ended before its handler did. */
static void log_dropped(const struct rpc_call *call, const struct err *err)
{
	if (err && err->code < 0)
		log_line(LOG_LEVEL_DEBUG, LOG_FIELDS("method", rpc_call_name(call)), "answer dropped: %s",
			 err->msg);
}

static void answer_error(struct rpc_call *call, const struct err *err)
{
	if (err->code == 0 || err->status == ERR_OK)
		rpc_call_finish(call, ERR_INTERNAL, "failed without saying why", NULL);
	else
		rpc_call_finish(call, err->status, err->msg, NULL);
}

/* Packs only once the call is claimed: until rpc_call_finish has returned gRPC is not shut down. */
static void answer_message(struct rpc_call *call, const ProtobufCMessage *resp)
{
	grpc_byte_buffer *answer = NULL;
	struct err err = ERR_INIT;

	if (rpc_message_pack(resp, &answer, &err) < 0)
		answer_error(call, &err);
	else
		rpc_call_finish(call, ERR_OK, "", answer);
}

static void run_unary(struct rpc_call *call, const ProtobufCMessage *req)
{
	const ProtobufCMessageDescriptor *d = call->method->response;
	ProtobufCMessage *resp = malloc(d->sizeof_message);
	struct err err = ERR_INIT;
	int r;

	if (!resp) {
		rpc_call_refuse(call, ERR_RESOURCE_EXHAUSTED, "no memory for the answer");
		return;
	}
	protobuf_c_message_init(d, resp);
	r = call->method->unary(call->server->ctx, call->call, req, resp, &err);
	if (!rpc_call_claim(call))
		log_dropped(call, &err);
	else if (r < 0)
		answer_error(call, &err);
	else
		answer_message(call, resp);
	protobuf_c_message_free_unpacked(resp, NULL);
}

void rpc_reply_end(struct rpc_reply *reply, const ProtobufCMessage *resp, const struct err *err)
{
	struct rpc_call *call = reply->call;

	assert(!resp || resp->descriptor == call->method->response);
	if (!rpc_call_claim(call)) {
		log_dropped(call, err);
	} else if (err && err->code < 0) {
		answer_error(call, err);
	} else if (resp) {
		answer_message(call, resp);
	} else { /* protobuf: the defaults have no bytes */
		grpc_slice none = grpc_empty_slice();

		rpc_call_finish(call, ERR_OK, "", grpc_raw_byte_buffer_create(&none, 1));
	}
	rpc_call_unref(call);
}

/* NULL: the RPC has ended, its handler does not run. Else gRPC stays up until rpc_call_wire_unref. */
static grpc_byte_buffer *take_request(struct rpc_call *call)
{
	grpc_byte_buffer *request = NULL;

	pthread_mutex_lock(&call->lock);
	if (!call->claimed) {
		request = move_ptr(call->request);
		call->wire++;
	}
	pthread_mutex_unlock(&call->lock);
	return request;
}

void rpc_handler_job(void *arg)
{
	struct rpc_call *call = arg;
	grpc_byte_buffer *request = take_request(call);
	ProtobufCMessage *req = NULL;
	struct err err = ERR_INIT;
	int r;

	if (!request) {
		rpc_call_unref(call);
		return;
	}
	r = rpc_message_unpack(request, call->method->request, &req, &err);
	/* Its memory is given back before the handler, which may take long, runs. */
	grpc_byte_buffer_destroy(request);
	rpc_call_wire_unref(call);
	if (r < 0) {
		rpc_call_refuse(call, err.status, err.msg);
	} else if (call->method->unary) {
		run_unary(call, req);
	} else if (call->method->async) {
		rpc_call_ref(call); /* the reply's */
		call->method->async(call->server->ctx, call->call, req, &call->reply);
	} else {
		rpc_call_ref(call); /* the stream's */
		call->method->stream(call->server->ctx, call->call, req, call->stream);
		/* A client that has the headers misses nothing that is published from then on. */
		rpc_stream_begin(call);
	}
	if (req)
		protobuf_c_message_free_unpacked(req, NULL);
	rpc_call_unref(call);
}
