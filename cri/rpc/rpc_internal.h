/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_internal.h: what rpc.c (server), listen.c (socket), call.c (one RPC), handler.c (its handler),
 * message.c (its messages), stream.c and watchers.c share.
 *
 * Locks:     rpc_server.lock and rpc_call.lock; neither is held while the other is taken, nor across a call
 *            into gRPC, a handler, a hook of a struct call or the workers. Fields without a lock's name
 *            beside them are set before other threads can see the object.
 * Life:      an RPC ends in two steps. On the wire it ends with the status that is sent exactly once, by
 *            whoever claims it first: its handler, or the client's leaving. When all batches of it are
 *            through, what gRPC made goes, and gRPC may be shut down. The object lives on while its handler
 *            runs or its reply is outstanding; it touches gRPC no more.
 */
#ifndef CRI_RPC_RPC_INTERNAL_H
#define CRI_RPC_RPC_INTERNAL_H

#include "cri/rpc/rpc.h"

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#define RPC_MESSAGE_MAX	    (16 << 20)
#define RPC_IN_FLIGHT_MAX   4096
#define RPC_CONNECTIONS_MAX 1024

/* ---- the socket ---------------------------------------------------------------------------------------- */

struct rpc_listener;
/* Takes a connected, non-blocking fd. Loop thread. */
typedef void rpc_accept_fn(void *arg, int fd);
/* Takes lock and socket (or listen_fd, which becomes the listener's) and begins to accept on the loop. Loop
 * thread. */
int rpc_listener_new(const char *socket_path, int listen_fd, rpc_accept_fn *fn, void *arg, struct loop *loop,
		     struct rpc_listener **ret_listener, struct err *err);
/* Any thread: pid of the peer at the other end of a connected fd of ours, 0 if unknown. */
pid_t rpc_listener_peer_pid(struct rpc_listener *listener, int fd);
/* No more accepts; the socket's file goes, the lock stays. Loop thread, or any once the loop has ended. */
void rpc_listener_close(struct rpc_listener *listener);
/* Gives the lock back. Any thread. */
struct rpc_listener *rpc_listener_free(struct rpc_listener *listener);

/* ---- the server ---------------------------------------------------------------------------------------- */

enum rpc_tag_type {
	RPC_TAG_NEW,	  /* a call came in */
	RPC_TAG_RECV,	  /* its request came in */
	RPC_TAG_CLOSE,	  /* the client has gone, or the call has ended */
	RPC_TAG_SEND,	  /* a message of a stream, or its headers, have gone */
	RPC_TAG_PUMP,	  /* some streams have something to send */
	RPC_TAG_DONE,	  /* the status is on its way */
	RPC_TAG_SHUTDOWN, /* the server's */
	RPC_TAG_COUNT,
};

struct rpc_tag {
	enum rpc_tag_type type;
	struct rpc_call *call; /* NULL: the server's */
};

struct rpc_server {
	uint32_t magic;
	atomic_uint refs;		   /* the owner's, one for each rpc_call */
	const struct rpc_method **methods; /* sorted by path */
	size_t n_methods;
	void *ctx;
	struct loop *loop;
	struct workers *workers;
	struct rpc_listener *listener;
	grpc_server *grpc;
	grpc_server_credentials *creds;
	grpc_completion_queue *cq;
	pthread_t thread;
	struct rpc_tag shutdown_tag;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int in_flight;	    /* lock; RPCs that have not ended on the wire */
	struct rpc_stream *to_pump; /* lock; those that have something to send */
	bool cancelling;	    /* lock; rpc_server_stop has waited long enough */
	bool closed;		    /* lock; the listener is */
	bool shutdown_done;	    /* lock */
};

const struct rpc_method *rpc_server_method(const struct rpc_server *server, const char *path);
void rpc_server_unref(struct rpc_server *server);
/* An RPC comes to the wire; false: there are too many (it counts all the same). */
bool rpc_server_enter(struct rpc_server *server);
void rpc_server_leave(struct rpc_server *server);

/* ---- messages ------------------------------------------------------------------------------------------ */

int rpc_message_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type,
		       ProtobufCMessage **ret_msg, struct err *err);
int rpc_message_pack(const ProtobufCMessage *msg, grpc_byte_buffer **ret_buffer, struct err *err);
/* One line of valid UTF-8, or the client could not read it. */
grpc_slice rpc_message_details(const char *message);

/* ---- one RPC ------------------------------------------------------------------------------------------- */

struct rpc_reply {
	struct rpc_call *call;
};

struct rpc_call {
	uint32_t magic;
	struct rpc_server *server; /* a reference */
	struct call *call;	   /* NULL until the RPC has come in */
	struct rpc_tag tags[RPC_TAG_COUNT];
	struct rpc_reply reply;
	struct rpc_stream *stream; /* of a streaming method */
	grpc_call *grpc;
	grpc_call_details details;
	grpc_metadata_array metadata;
	const struct rpc_method *method;
	char *path;
	int64_t started_ns;
	pid_t peer_pid;
	int close_cancelled; /* written by gRPC until RPC_TAG_CLOSE */

	atomic_uint refs; /* the wire's, the handler's while it runs, the reply's or stream's until its end */
	pthread_mutex_t lock;
	unsigned int wire;	   /* lock; one for each batch under way, one until the status is sent */
	bool claimed;		   /* lock; somebody ends it or has ended it */
	grpc_byte_buffer *request; /* lock; written by gRPC until RPC_TAG_RECV; then the handler takes it */
};

void rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);
void rpc_call_wire_ref(struct rpc_call *call);
void rpc_call_wire_unref(struct rpc_call *call);
/* Starts a batch, which holds the wire until its event. The wire is held. */
void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n, enum rpc_tag_type type);
/* "Version"; NULL if there was no memory for it. For the log. */
const char *rpc_call_name(const struct rpc_call *call);
/* True for the first caller, who must then call rpc_call_finish. */
bool rpc_call_claim(struct rpc_call *call);
/* Sends the status, before it the answer if there is one (taken). By whoever has claimed the call. */
void rpc_call_finish(struct rpc_call *call, enum err_status status, const char *message,
		     grpc_byte_buffer *answer);
/* Claims the call and answers with an error, unless somebody else has claimed it. */
void rpc_call_refuse(struct rpc_call *call, enum err_status status, const char *message);
/* Asks gRPC for the next call. CQ thread, or before it runs. */
int rpc_call_await(struct rpc_server *server);
/* One event of the completion queue. CQ thread. */
void rpc_call_event(struct rpc_tag *tag, bool success);

/* ---- stream.c ------------------------------------------------------------------------------------------ */

/* Sets call->stream, before the call is known to others. -ENOMEM. */
int rpc_stream_new(struct rpc_call *call);
/* With the call. NULL-safe. */
void rpc_stream_free(struct rpc_stream *stream);
struct call *rpc_stream_call(struct rpc_stream *stream);
/* Sends the headers. */
void rpc_stream_begin(struct rpc_call *call);
/* The call is claimed. True: something is under way, and the call is finished when that has gone. */
bool rpc_stream_finish_later(struct rpc_call *call, enum err_status status, const char *message);
/* False also for a call without stream. */
bool rpc_stream_begun(struct rpc_call *call);
bool rpc_stream_dropped(struct rpc_call *call);
/* RPC_TAG_SEND and RPC_TAG_PUMP. CQ thread. */
void rpc_stream_sent(struct rpc_call *call, bool success);
void rpc_stream_pump_all(struct rpc_server *server);

/* ---- handler.c ----------------------------------------------------------------------------------------- */

/*
 * A job of the workers: unpacks the request, runs the handler. Takes over a reference to the call.
 */
void rpc_handler_job(void *arg);

#endif
