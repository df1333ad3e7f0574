/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc.h: the gRPC server on the CRI socket, on gRPC's C core.
 *
 * Purpose:   owns the listener (lock file, bind, accept, peer credentials), decodes and checks requests,
 *            runs handlers on the workers' lanes, encodes answers. gRPC gets connected fds only:
 *            grpc_server_add_http2_port would take a running server's socket away.
 * Threads:   one completion-queue thread that never blocks: it hands requests to the workers, whose threads
 *            check and unpack them and run the handlers, and sends the messages of streams. Connections are
 *            accepted on the loop's thread.
 * Limits:    16 MiB a message either way; at most 4096 calls in flight and as many of a kind as the lane
 *            takes, ResourceExhausted beyond; 1024 connections. Compressed messages are refused.
 * Life:      each RPC has a struct call with the client's deadline. When the client leaves, the deadline
 *            passes or the server stops, the RPC is answered at once, and then the call is cancelled
 *            (call_cancel, call_expire). The handler decides what of its work goes on. An answer that it
 *            gives later is dropped, and its error is logged at level debug.
 * Errors:    a handler's err becomes the RPC's gRPC status and message, and is logged here, once. A method
 *            without handler answers Unimplemented.
 * Source:    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md; grpc/grpc.h of gRPC core 1.51.
 */
#ifndef CRI_RPC_RPC_H
#define CRI_RPC_RPC_H

#include "base/err.h"
#include "cri/core/call.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"
#include "cri/rpc/stream.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * A unary handler: does its work on the lane's thread and fills `resp` (initialised by the caller to the
 * response type's defaults). What it puts there is malloc'ed: protobuf_c_message_free_unpacked frees it with
 * the default allocator. `call` lives until it returns (call_ref for longer).
 */
typedef int rpc_unary_fn(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
			 struct err *err);

/*
 * A unary handler whose answer comes later: it begins the work and returns, so that waiting holds no thread
 * (outcome_watch). `req` lives until the handler returns, `call` and `reply` until rpc_reply_end.
 */
struct rpc_reply;
typedef void rpc_async_fn(void *ctx, struct call *call, const ProtobufCMessage *req, struct rpc_reply *reply);
/*
 * Answers: with the message `resp`, which stays the caller's (NULL: the response type's defaults), or with
 * `err` if its code is negative (NULL: success). Exactly once for each call of the handler, from any thread,
 * also before the handler has returned; never blocks. Once the call has ended otherwise the answer is
 * dropped.
 */
void rpc_reply_end(struct rpc_reply *reply, const ProtobufCMessage *resp, const struct err *err);

/*
 * A server-streaming handler: gives the stream to whoever will send (stream.h) and returns. `req` lives until
 * it returns, `call` until rpc_stream_end. The client gets the headers once it has returned, or with the
 * first message.
 */
typedef void rpc_stream_fn(void *ctx, struct call *call, const ProtobufCMessage *req,
			   struct rpc_stream *stream);

struct rpc_method {
	const char *path; /* "/runtime.v1.RuntimeService/Version" */
	const ProtobufCMessageDescriptor *request, *response;
	enum workers_lane lane;
	rpc_unary_fn *unary; /* one of the three, or none: Unimplemented */
	rpc_async_fn *async;
	rpc_stream_fn *stream;
};

/* Sets gRPC's environment variables. Once, first thing in main, before threads start. */
void rpc_global_init(void);

struct rpc_server;
/*
 * Takes the lock (<socket_path>.lock), makes the directory, binds the socket (mode 0660), serves. -EADDRINUSE
 * with the holder's pid if another instance or program serves it; a stale socket is replaced. methods ends
 * with a NULL path and, like ctx, outlives the server. listen_fd >= 0: a listening socket given by the
 * service manager, used instead and owned from then on. Loop thread.
 */
int rpc_server_start(const char *socket_path, int listen_fd, const struct rpc_method *methods, void *ctx,
		     struct loop *loop, struct workers *workers, struct rpc_server **ret_server,
		     struct err *err);
/*
 * No new connections or calls; waits for RPCs in flight until the deadline, then cancels them; removes the
 * socket. Handlers may need the loop to end, so call it from another thread while the loop runs; on the
 * loop's thread it is safe, but handlers that wait for the loop then end only by their own deadlines.
 * Handlers of RPCs that have ended may still run when it returns, and replies may still be outstanding: ctx
 * must outlive them (workers_stop waits for the handlers). Returns NULL.
 */
struct rpc_server *rpc_server_stop(struct rpc_server *server, int64_t deadline_ns);

#endif
