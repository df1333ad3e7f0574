/* SPDX-License-Identifier: Apache-2.0 */
/* One RPC on the wire: its batches, its status, its end. */
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <assert.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <inttypes.h>

#define CALL_MAGIC 0xca11ca11U
#define PATH_MAX_  256 /* longer than any method's */
/* gRPC's timers count milliseconds; its cancellation this close to the deadline is the deadline's. */
#define DEADLINE_SLACK_NS (5 * NS_PER_MS)

/* ---- life ---------------------------------------------------------------------------------------------- */

void rpc_call_ref(struct rpc_call *call)
{
	atomic_fetch_add(&call->refs, 1);
}

void rpc_call_unref(struct rpc_call *call)
{
	if (atomic_fetch_sub(&call->refs, 1) > 1)
		return;
	pthread_mutex_destroy(&call->lock);
	call_unref(call->call);
	rpc_stream_free(call->stream);
	rpc_server_unref(call->server);
	free(call->path);
	call->magic = 0;
	free(call);
}

/* All batches are through: what gRPC made goes. Drops the wire's reference. */
static void wire_end(struct rpc_call *call)
{
	struct rpc_server *server = call->server;
	bool came_in = call->grpc != NULL;

	if (call->request)
		grpc_byte_buffer_destroy(move_ptr(call->request));
	grpc_call_details_destroy(&call->details);
	grpc_metadata_array_destroy(&call->metadata);
	if (came_in) {
		grpc_call_unref(move_ptr(call->grpc));
		rpc_server_leave(server);
	}
	rpc_call_unref(call);
}

void rpc_call_wire_ref(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	call->wire++;
	pthread_mutex_unlock(&call->lock);
}

void rpc_call_wire_unref(struct rpc_call *call)
{
	unsigned int left;

	pthread_mutex_lock(&call->lock);
	left = --call->wire;
	pthread_mutex_unlock(&call->lock);
	if (left == 0)
		wire_end(call);
}

void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n, enum rpc_tag_type type)
{
	grpc_call_error e;

	rpc_call_wire_ref(call);
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
	atomic_fetch_add(&server->refs, 1);
	call->wire = 1;
	atomic_init(&call->refs, 1);
	call->reply.call = call;
	for (int i = 0; i < RPC_TAG_COUNT; i++)
		call->tags[i] = (struct rpc_tag){.type = (enum rpc_tag_type)i, .call = call};
	pthread_mutex_init(&call->lock, NULL);
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	e = grpc_server_request_call(server->grpc, &call->grpc, &call->details, &call->metadata, server->cq,
				     server->cq, &call->tags[RPC_TAG_NEW]);
	if (e == GRPC_CALL_OK)
		return 0;
	wire_end(call);
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

const char *rpc_call_name(const struct rpc_call *call)
{
	const char *slash = call->path ? strrchr(call->path, '/') : NULL;

	return slash ? slash + 1 : call->path;
}

static void log_end(const struct rpc_call *call, enum err_status status, const char *message)
{
	char ms[24], peer[24] = "";

	if (level_of(status) < log_get_level())
		return;
	snprintf(ms, sizeof(ms), "%" PRId64, (int64_t)((now_monotonic_ns() - call->started_ns) / NS_PER_MS));
	if (call->peer_pid > 0)
		snprintf(peer, sizeof(peer), "%ld", (long)call->peer_pid);
	log_line(level_of(status),
		 LOG_FIELDS("method", rpc_call_name(call), "code", err_status_name(status), "ms", ms,
			    "client_pid", *peer ? peer : NULL),
		 "%s", *message ? message : "call answered");
}

bool rpc_call_claim(struct rpc_call *call)
{
	bool first;

	pthread_mutex_lock(&call->lock);
	first = !call->claimed;
	call->claimed = true;
	pthread_mutex_unlock(&call->lock);
	return first;
}

void rpc_call_finish(struct rpc_call *call, enum err_status status, const char *message,
		     grpc_byte_buffer *answer)
{
	grpc_op ops[3];
	grpc_slice details;
	size_t n = 0;

	if (rpc_stream_finish_later(call, status, message))
		return;
	log_end(call, status, message);
	rpc_call_wire_ref(call); /* gRPC must be up while this function tidies */
	memset(ops, 0, sizeof(ops));
	if (!rpc_stream_begun(call))
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (answer) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = answer;
	}
	details = rpc_message_details(message);
	ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[n].data.send_status_from_server.status = (grpc_status_code)status;
	ops[n++].data.send_status_from_server.status_details = &details;
	rpc_call_start(call, ops, n, RPC_TAG_DONE);
	grpc_slice_unref(details);
	/* The batch has taken the contents. */
	if (answer)
		grpc_byte_buffer_destroy(answer);
	rpc_call_wire_unref(call);
}

void rpc_call_refuse(struct rpc_call *call, enum err_status status, const char *message)
{
	if (rpc_call_claim(call))
		rpc_call_finish(call, status, message, NULL);
}

/* ---- a call comes in ----------------------------------------------------------------------------------- */

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

static void refuse_unknown(struct rpc_call *call)
{
	char message[PATH_MAX_ + 32];

	snprintf(message, sizeof(message), "method %s is not implemented", call->path ? call->path : "");
	rpc_call_refuse(call, ERR_UNIMPLEMENTED, message);
}

static void await_request(struct rpc_call *call)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

	op.data.recv_message.recv_message = &call->request;
	rpc_call_start(call, &op, 1, RPC_TAG_RECV);
}

static bool has_handler(const struct rpc_method *method)
{
	return method->unary || method->async || method->stream;
}

static void on_new(struct rpc_call *call)
{
	bool room = rpc_server_enter(call->server);
	grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

	call->started_ns = now_monotonic_ns();
	call->path = path_of(&call->details.method);
	call->method = call->path ? rpc_server_method(call->server, call->path) : NULL;
	call->peer_pid = peer_pid_of(call);
	if (call_new(deadline_of(call->details.deadline), &call->call, NULL) < 0 ||
	    (call->method && call->method->stream && rpc_stream_new(call) < 0))
		room = false;
	op.data.recv_close_on_server.cancelled = &call->close_cancelled;
	rpc_call_start(call, &op, 1, RPC_TAG_CLOSE);
	if (!room)
		rpc_call_refuse(call, ERR_RESOURCE_EXHAUSTED, "too many calls in flight");
	else if (!call->method || !has_handler(call->method))
		refuse_unknown(call);
	else
		await_request(call);
}

/* No request: the client has left, sent no message, or one that is too large: then gRPC has answered. */
static void on_request(struct rpc_call *call)
{
	int r;

	if (!call->request) {
		rpc_call_refuse(call, ERR_INVALID_ARGUMENT, "no request came");
		return;
	}
	rpc_call_ref(call); /* the handler's */
	r = workers_submit(call->server->workers, call->method->lane, rpc_handler_job, call);
	if (r == 0)
		return;
	if (r == -ESHUTDOWN)
		rpc_call_refuse(call, ERR_UNAVAILABLE, "the server is stopping");
	else
		rpc_call_refuse(call, ERR_RESOURCE_EXHAUSTED, "too many calls of this kind are in progress");
	rpc_call_unref(call);
}

/* ---- a call ends from outside -------------------------------------------------------------------------- */

static bool server_cancels(struct rpc_server *server)
{
	bool cancels;

	pthread_mutex_lock(&server->lock);
	cancels = server->cancelling;
	pthread_mutex_unlock(&server->lock);
	return cancels;
}

/* gRPC says so when the client resets the call or its connection ends, at the deadline, and at a stop. */
static void on_close(struct rpc_call *call)
{
	const char *why = "the client has left";

	if (!call->close_cancelled || !call->call)
		return;
	if (call_deadline(call->call) != INT64_MAX &&
	    call_deadline(call->call) - DEADLINE_SLACK_NS <= now_monotonic_ns()) {
		rpc_call_refuse(call, ERR_DEADLINE_EXCEEDED, "the call's deadline has passed");
		call_expire(call->call);
		return;
	}
	if (rpc_stream_dropped(call))
		why = "the client reads too slowly";
	else if (server_cancels(call->server))
		why = "the server is stopping";
	rpc_call_refuse(call, ERR_CANCELLED, why);
	call_cancel(call->call, why);
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
			wire_end(call); /* the server is shutting down */
		return;
	case RPC_TAG_RECV:
		on_request(call);
		break;
	case RPC_TAG_CLOSE:
		on_close(call);
		break;
	case RPC_TAG_SEND:
		rpc_stream_sent(call, success);
		break;
	case RPC_TAG_PUMP:
		rpc_stream_pump_all(call->server);
		break;
	case RPC_TAG_DONE:
		rpc_call_wire_unref(call); /* the first one */
		break;
	case RPC_TAG_SHUTDOWN:
	case RPC_TAG_COUNT:
		break;
	}
	rpc_call_wire_unref(call); /* the batch's */
}
