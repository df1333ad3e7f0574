/*
 * rpc.h: the gRPC server on the CRI socket, on gRPC's C core.
 *
 * Purpose:   owns the listener (lock file, bind, accept, peer credentials; grpc only gets connected fds, since
 *            grpc_server_add_http2_port would steal a running server's socket), decodes and checks requests, runs handlers on
 *            the pool's lanes, encodes answers.
 * Threads:   two completion-queue threads that only decode and enqueue; handlers run on pool threads.
 * Limits:    16 MiB a message; at most 4096 calls in flight, ResourceExhausted beyond.
 * Errors:    a handler's err becomes the call's gRPC status and message. A method without handler answers Unimplemented.
 */
#ifndef CRI_RPC_H
#define CRI_RPC_H

#include "base/err.h"
#include "cri/loop.h"
#include "cri/pool.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What a handler knows of its call. */
struct rpc_call;
/* CLOCK_MONOTONIC ns of the client's deadline, INT64_MAX if none. */
int64_t rpc_call_deadline(const struct rpc_call *call);
/* True once the client has gone or its deadline has passed. */
bool rpc_call_cancelled(const struct rpc_call *call);
pid_t rpc_call_peer_pid(const struct rpc_call *call);

/*
 * A unary handler: fills `resp` (initialised by the caller to the response type's defaults). Whatever it puts there must be
 * malloc'ed, for it is freed by protobuf_c_message_free_unpacked-like rules with the default allocator.
 */
typedef int rpc_unary_fn(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
			 struct err *err);
/* A server-streaming handler: sends any number of messages by rpc_send, then returns. */
typedef int rpc_stream_fn(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, struct err *err);
/* Blocks while the client is slow; -ECANCELED once it has gone. */
int rpc_send(struct rpc_call *call, const ProtobufCMessage *msg, struct err *err);

struct rpc_method {
	const char *path; /* "/runtime.v1.RuntimeService/Version" */
	const ProtobufCMessageDescriptor *request, *response;
	enum pool_lane lane;
	rpc_unary_fn *unary; /* one of the two, or neither: Unimplemented */
	rpc_stream_fn *stream;
};

struct rpc_server;
/*
 * Takes the lock, binds the socket (mode 0660), serves. -EADDRINUSE with the holder's pid if another instance serves it; a stale socket is
 * replaced. methods ends with a NULL path and, like ctx, outlives the server. Socket activation: fd given by listen_fd >= 0.
 */
int rpc_server_start(const char *socket_path, int listen_fd, const struct rpc_method *methods, void *ctx,
		     struct loop *loop, struct pool *pool, struct rpc_server **ret_server, struct err *err);
/* No new connections or calls; waits for calls in flight until the deadline, then cancels them; removes the socket. */
struct rpc_server *rpc_server_stop(struct rpc_server *server, int64_t deadline_ns);

#endif
