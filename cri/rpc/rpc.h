/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc.h: the gRPC server on the CRI socket, on gRPC's C core.
 *
 * Purpose:   owns the listener (lock file, bind, accept, peer credentials; grpc only gets connected fds,
 *            since grpc_server_add_http2_port would steal a running server's socket), decodes and checks
 *            requests, runs handlers on the workers' lanes, encodes answers.
 * Threads:   one completion-queue thread that only enqueues; requests are checked and unpacked, and handlers
 *            run, on worker threads. Connections are accepted on the loop's thread.
 * Limits:    16 MiB a message either way; at most 4096 calls in flight and as many of a kind as the lane
 *            takes, ResourceExhausted beyond; 1024 connections. Compressed messages are refused.
 * Errors:    a handler's err becomes the call's gRPC status and message, and is logged here, once. A method
 *            without handler answers Unimplemented.
 * Source:    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md; grpc/grpc.h of gRPC core 1.51.
 */
#ifndef CRI_RPC_RPC_H
#define CRI_RPC_RPC_H

#include "base/err.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"

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
/* 0 if unknown. */
pid_t rpc_call_peer_pid(const struct rpc_call *call);
/*
 * fn(arg) is called once, when the client goes or its deadline passes before the call has ended; at once if
 * that has happened. On any thread and with a lock held: it must be quick and call nothing of this header.
 * NULL takes it back: it is not running any more when that returns.
 */
void rpc_call_on_cancel(struct rpc_call *call, void (*fn)(void *arg), void *arg);

/*
 * A unary handler: fills `resp` (initialised by the caller to the response type's defaults). Whatever it puts
 * there must be malloc'ed, for it is freed by protobuf_c_message_free_unpacked-like rules with the default
 * allocator.
 */
typedef int rpc_unary_fn(void *ctx, struct rpc_call *call, const ProtobufCMessage *req,
			 ProtobufCMessage *resp, struct err *err);
/* A server-streaming handler: sends any number of messages by rpc_send, then returns. */
typedef int rpc_stream_fn(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, struct err *err);
/* Blocks while the client is slow; -ECANCELED once it has gone or its deadline has passed. One at a time. */
int rpc_send(struct rpc_call *call, const ProtobufCMessage *msg, struct err *err);

struct rpc_method {
	const char *path; /* "/runtime.v1.RuntimeService/Version" */
	const ProtobufCMessageDescriptor *request, *response;
	enum workers_lane lane;
	rpc_unary_fn *unary; /* one of the two, or neither: Unimplemented */
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
 * No new connections or calls; waits for calls in flight until the deadline, then cancels them; removes the
 * socket. Handlers may need the loop to end, so call it from another thread while the loop runs; on the
 * loop's thread it is safe, but handlers that wait for the loop then end only by their own deadlines.
 * Handlers that do not end within 3 s of being cancelled, and the server, are left to exit(), which must
 * follow. Returns NULL.
 */
struct rpc_server *rpc_server_stop(struct rpc_server *server, int64_t deadline_ns);

#endif
