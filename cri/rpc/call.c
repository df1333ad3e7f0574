/* SPDX-License-Identifier: Apache-2.0 */
#include "api/pbcheck.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <assert.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <inttypes.h>

#define CALL_MAGIC 0xca11ca11U
#define PATH_MAX_  256 /* longer than any method's */

/* ---- life ---------------------------------------------------------------------------------------------- */

static void call_free(struct rpc_call *call)
{
	struct rpc_server *server = call->server;
	bool counted = call->grpc != NULL;

	if (call->grpc)
		grpc_call_unref(call->grpc);
	if (call->request)
		grpc_byte_buffer_destroy(call->request);
	grpc_call_details_destroy(&call->details);
	grpc_metadata_array_destroy(&call->metadata);
	pthread_mutex_destroy(&call->lock);
	pthread_cond_destroy(&call->changed);
	free(call->path);
	call->magic = 0;
	free(call);
	if (!counted)
		return;
	pthread_mutex_lock(&server->lock);
	server->in_flight--;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
}

static void call_unref(struct rpc_call *call)
{
	unsigned int left;

	pthread_mutex_lock(&call->lock);
	left = --call->refs;
	pthread_mutex_unlock(&call->lock);
	if (left == 0)
		call_free(call);
}

/* Starts a batch, which holds a reference until its event. */
static void start(struct rpc_call *call, const grpc_op *ops, size_t n, enum rpc_tag_type type)
{
	grpc_call_error e;

	pthread_mutex_lock(&call->lock);
	call->refs++;
	pthread_mutex_unlock(&call->lock);
	e = grpc_call_start_batch(call->grpc, ops, n, &call->tags[type], NULL);
	/* Any error is a wrong use of gRPC by this file. */
	assert(e == GRPC_CALL_OK);
	if (e != GRPC_CALL_OK)
		log_error("grpc_call_start_batch: %s", grpc_call_error_to_string(e));
}

int rpc_call_await(struct rpc_server *server)
{
	struct rpc_call *call = calloc(1, sizeof(*call));
	grpc_call_error e;

	if (!call)
		return -ENOMEM;
	call->magic = CALL_MAGIC;
	call->server = server;
	call->refs = 1;
	call->deadline_ns = INT64_MAX;
	for (int i = 0; i < RPC_TAG_COUNT; i++)
		call->tags[i] = (struct rpc_tag){.type = (enum rpc_tag_type)i, .call = call};
	pthread_mutex_init(&call->lock, NULL);
	pthread_cond_init(&call->changed, NULL);
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	e = grpc_server_request_call(server->grpc, &call->grpc, &call->details, &call->metadata, server->cq,
				     server->cq, &call->tags[RPC_TAG_NEW]);
	if (e == GRPC_CALL_OK)
		return 0;
	call_free(call);
	return -ESHUTDOWN;
}

/* ---- ending -------------------------------------------------------------------------------------------- */

static enum log_level level_of(enum err_status status)
{
	switch (status) {
	case ERR_OK:
		return LOG_LEVEL_DEBUG;
	case ERR_UNKNOWN:
	case ERR_INTERNAL:
	case ERR_DATA_LOSS:
	case ERR_UNAVAILABLE:
	case ERR_RESOURCE_EXHAUSTED:
		return LOG_LEVEL_WARN;
	default:
		return LOG_LEVEL_INFO;
	}
}

static void log_end(const struct rpc_call *call, enum err_status status, const char *message)
{
	const char *slash = strrchr(call->path ? call->path : "", '/');
	char ms[24];

	if (level_of(status) < log_get_level())
		return;
	snprintf(ms, sizeof(ms), "%" PRId64, (int64_t)((now_monotonic_ns() - call->started_ns) / NS_PER_MS));
	log_line(level_of(status),
		 LOG_FIELDS("method", slash ? slash + 1 : call->path, "code", err_status_name(status), "ms",
			    ms),
		 "%s", *message ? message : "call answered");
}

/* A message becomes one line of valid UTF-8, or the client could not read it. */
static grpc_slice details_of(const char *message)
{
	char *copy CLEANUP_FREE = strndup(message, ERR_MSG_MAX);

	for (char *p = copy; copy && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	if (copy && !utf8_valid(copy, strlen(copy)))
		for (char *p = copy; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
	return grpc_slice_from_copied_string(copy ? copy : "");
}

/* Sends the status, before it the answer if there is one. Exactly once per call; drops the first reference at
 * its event. */
static void finish(struct rpc_call *call, enum err_status status, const char *message,
		   grpc_byte_buffer *answer)
{
	grpc_op ops[3];
	grpc_slice details = details_of(message);
	size_t n = 0;
	bool headers_sent;

	log_end(call, status, message);
	memset(ops, 0, sizeof(ops));
	pthread_mutex_lock(&call->lock);
	call->refs++; /* this function's: gRPC must be up while it tidies */
	headers_sent = call->headers_sent;
	call->headers_sent = true;
	call->on_cancel = NULL;
	pthread_mutex_unlock(&call->lock);
	if (!headers_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (answer) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = answer;
	}
	ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[n].data.send_status_from_server.status = (grpc_status_code)status;
	ops[n++].data.send_status_from_server.status_details = &details;
	start(call, ops, n, RPC_TAG_DONE);
	grpc_slice_unref(details);
	/* The batch has taken the contents. */
	if (answer)
		grpc_byte_buffer_destroy(answer);
	call_unref(call);
}

static void finish_err(struct rpc_call *call, const struct err *err)
{
	if (err->code == 0 || err->status == ERR_OK)
		finish(call, ERR_INTERNAL, "failed without saying why", NULL);
	else
		finish(call, err->status, err->msg, NULL);
}

/* ---- messages ------------------------------------------------------------------------------------------ */

static int unpack_request(struct rpc_call *call, ProtobufCMessage **ret_msg, struct err *err)
{
	grpc_byte_buffer_reader reader;
	grpc_slice slice;
	int r;

	if (!grpc_byte_buffer_reader_init(&reader, call->request))
		return err_set(err, -EINVAL, "request cannot be read");
	slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	/* Its memory is given back before the handler, which may take long, runs. */
	grpc_byte_buffer_destroy(move_ptr(call->request));
	r = pb_unpack(call->method->request, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice), ret_msg,
		      err);
	grpc_slice_unref(slice);
	return r < 0 ? err_wrap(err, "request") : 0;
}

static int pack(const ProtobufCMessage *msg, grpc_byte_buffer **ret_buffer, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	grpc_slice slice;

	if (len > RPC_MESSAGE_MAX)
		return err_set_status(err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED,
				      "the answer has %zu bytes, more than the %d that clients take", len,
				      RPC_MESSAGE_MAX);
	slice = grpc_slice_malloc(len);
	protobuf_c_message_pack(msg, GRPC_SLICE_START_PTR(slice));
	*ret_buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return 0;
}

static void run_unary(struct rpc_call *call, const ProtobufCMessage *req)
{
	const ProtobufCMessageDescriptor *d = call->method->response;
	ProtobufCMessage *resp = malloc(d->sizeof_message);
	grpc_byte_buffer *answer = NULL;
	struct err err = ERR_INIT;
	int r;

	if (!resp) {
		finish(call, ERR_RESOURCE_EXHAUSTED, "no memory for the answer", NULL);
		return;
	}
	protobuf_c_message_init(d, resp);
	r = call->method->unary(call->server->ctx, call, req, resp, &err);
	if (r >= 0)
		r = pack(resp, &answer, &err);
	protobuf_c_message_free_unpacked(resp, NULL);
	if (r < 0)
		finish_err(call, &err);
	else
		finish(call, ERR_OK, "", answer);
}

static void run_stream(struct rpc_call *call, const ProtobufCMessage *req)
{
	struct err err = ERR_INIT;

	if (call->method->stream(call->server->ctx, call, req, &err) < 0)
		finish_err(call, &err);
	else
		finish(call, ERR_OK, "", NULL);
}

/* A job of the workers. */
static void run_call(void *arg)
{
	struct rpc_call *call = arg;
	struct err err = ERR_INIT;
	ProtobufCMessage *req;

	assert(call->magic == CALL_MAGIC);
	if (rpc_call_cancelled(call)) {
		finish(call, ERR_CANCELLED, "the client has gone before its call began", NULL);
		return;
	}
	if (unpack_request(call, &req, &err) < 0) {
		finish_err(call, &err);
		return;
	}
	/* The request belongs to this frame, not to the call: once the status is sent the call may be gone.
	 */
	if (call->method->unary)
		run_unary(call, req);
	else
		run_stream(call, req);
	protobuf_c_message_free_unpacked(req, NULL);
}

/* Cancelled: gRPC ends the batch with a failure, so this never waits longer than the client lives. */
int rpc_send(struct rpc_call *call, const ProtobufCMessage *msg, struct err *err)
{
	grpc_byte_buffer *buffer = NULL;
	grpc_op ops[2];
	size_t n = 0;
	bool failed;
	int r = pack(msg, &buffer, err);

	if (r < 0)
		return r;
	memset(ops, 0, sizeof(ops));
	pthread_mutex_lock(&call->lock);
	assert(!call->sending);
	if (!call->headers_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	call->headers_sent = true;
	call->sending = true;
	pthread_mutex_unlock(&call->lock);
	ops[n].op = GRPC_OP_SEND_MESSAGE;
	ops[n++].data.send_message.send_message = buffer;
	start(call, ops, n, RPC_TAG_SEND);
	pthread_mutex_lock(&call->lock);
	while (call->sending)
		pthread_cond_wait(&call->changed, &call->lock);
	failed = call->send_failed;
	pthread_mutex_unlock(&call->lock);
	grpc_byte_buffer_destroy(buffer);
	return failed ? err_set(err, -ECANCELED, "the client has gone") : 0;
}

/* ---- what handlers ask --------------------------------------------------------------------------------- */

int64_t rpc_call_deadline(const struct rpc_call *call)
{
	return call->deadline_ns;
}

bool rpc_call_cancelled(const struct rpc_call *call)
{
	return atomic_load(&call->cancelled) ||
	       (call->deadline_ns != INT64_MAX && now_monotonic_ns() >= call->deadline_ns);
}

pid_t rpc_call_peer_pid(const struct rpc_call *call)
{
	return call->peer_pid;
}

void rpc_call_on_cancel(struct rpc_call *call, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&call->lock);
	call->on_cancel = fn;
	call->on_cancel_arg = arg;
	if (fn && atomic_load(&call->cancelled))
		fn(arg);
	pthread_mutex_unlock(&call->lock);
}

/* ---- events -------------------------------------------------------------------------------------------- */

static int64_t deadline_of(gpr_timespec deadline)
{
	gpr_timespec left;

	if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
		return INT64_MAX;
	left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
	if (left.tv_sec >= INT32_MAX)
		return INT64_MAX;
	return now_monotonic_ns() + left.tv_sec * NS_PER_SEC + left.tv_nsec;
}

static char *path_of(const grpc_slice *method)
{
	size_t len = GRPC_SLICE_LENGTH(*method);

	return strndup((const char *)GRPC_SLICE_START_PTR(*method), len < PATH_MAX_ ? len : PATH_MAX_);
}

/* gRPC names such a peer "fd:<number>". */
static pid_t peer_pid_of(struct rpc_call *call)
{
	char *peer = grpc_call_get_peer(call->grpc);
	uint64_t fd;
	pid_t pid = 0;

	if (peer && str_starts(peer, "fd:") && parse_u64(peer + 3, &fd) == 0 && fd <= INT32_MAX)
		pid = rpc_listener_peer_pid(call->server->listener, (int)fd);
	gpr_free(peer);
	return pid;
}

static bool has_room(struct rpc_server *server)
{
	bool room;

	pthread_mutex_lock(&server->lock);
	room = ++server->in_flight <= RPC_IN_FLIGHT_MAX;
	pthread_mutex_unlock(&server->lock);
	return room;
}

static void on_new(struct rpc_call *call)
{
	bool room = has_room(call->server);
	grpc_op op = {0};

	call->started_ns = now_monotonic_ns();
	call->deadline_ns = deadline_of(call->details.deadline);
	call->path = path_of(&call->details.method);
	call->method = call->path ? rpc_server_method(call->server, call->path) : NULL;
	op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	op.data.recv_close_on_server.cancelled = &call->close_cancelled;
	start(call, &op, 1, RPC_TAG_CLOSE);
	if (!room) {
		finish(call, ERR_RESOURCE_EXHAUSTED, "too many calls in flight", NULL);
		return;
	}
	if (!call->method || (!call->method->unary && !call->method->stream)) {
		char message[PATH_MAX_ + 32];

		snprintf(message, sizeof(message), "method %s is not implemented",
			 call->path ? call->path : "");
		finish(call, ERR_UNIMPLEMENTED, message, NULL);
		return;
	}
	call->peer_pid = peer_pid_of(call);
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &call->request;
	start(call, &op, 1, RPC_TAG_RECV);
}

static void on_request(struct rpc_call *call)
{
	int r;

	if (!call->request) {
		/* The client has gone, sent no message, or one that is too large: then gRPC has answered. */
		finish(call, rpc_call_cancelled(call) ? ERR_CANCELLED : ERR_INVALID_ARGUMENT,
		       "no request came", NULL);
		return;
	}
	r = workers_submit(call->server->workers, call->method->lane, run_call, call);
	if (r == -ESHUTDOWN)
		finish(call, ERR_UNAVAILABLE, "the server is stopping", NULL);
	else if (r < 0)
		finish(call, ERR_RESOURCE_EXHAUSTED, "too many calls of this kind are in progress", NULL);
}

static void on_close(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	atomic_store(&call->cancelled, call->close_cancelled != 0);
	if (call->close_cancelled && call->on_cancel)
		call->on_cancel(call->on_cancel_arg);
	call->on_cancel = NULL;
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
}

static void on_sent(struct rpc_call *call, bool success)
{
	pthread_mutex_lock(&call->lock);
	call->sending = false;
	call->send_failed = call->send_failed || !success;
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
}

void rpc_call_event(struct rpc_tag *tag, bool success)
{
	struct rpc_call *call = tag->call;

	assert(call->magic == CALL_MAGIC);
	switch (tag->type) {
	case RPC_TAG_NEW:
		if (success)
			on_new(call);
		else
			call_free(call); /* the server is shutting down */
		return;
	case RPC_TAG_RECV:
		on_request(call);
		break;
	case RPC_TAG_CLOSE:
		on_close(call);
		break;
	case RPC_TAG_SEND:
		on_sent(call, success);
		break;
	case RPC_TAG_DONE:
		call_unref(call); /* the first one */
		break;
	case RPC_TAG_SHUTDOWN:
	case RPC_TAG_COUNT:
		break;
	}
	call_unref(call); /* the batch's */
}
