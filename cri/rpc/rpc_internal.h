/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_internal.h: what rpc.c (server), rpc_call.c (one call) and rpc_listen.c (socket) share. No one else
 * includes it.
 *
 * Locks:     rpc_server.lock and rpc_call.lock; neither is held while the other is taken, nor across a call
 *            into gRPC, a handler or the workers. Fields without a lock's name beside them are set before
 *            other threads can see the object.
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
	RPC_TAG_SEND,	  /* a message of a stream is on its way */
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
	unsigned int in_flight; /* lock; calls that exist, but for the one that waits to come in */
	bool shutdown_done;	/* lock */
};

const struct rpc_method *rpc_server_method(const struct rpc_server *server, const char *path);

/* ---- one call ------------------------------------------------------------------------------------------ */

struct rpc_call {
	uint32_t magic;
	struct rpc_server *server;
	struct rpc_tag tags[RPC_TAG_COUNT];
	grpc_call *grpc;
	grpc_call_details details;
	grpc_metadata_array metadata;
	const struct rpc_method *method;
	char *path;
	int64_t started_ns, deadline_ns;
	pid_t peer_pid;
	grpc_byte_buffer *request; /* written by gRPC until RPC_TAG_RECV */
	int close_cancelled;	   /* written by gRPC until RPC_TAG_CLOSE */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int refs; /* lock; one for each batch under way, one until the status is sent */
	atomic_bool cancelled;
	bool headers_sent;	      /* lock */
	bool sending;		      /* lock; RPC_TAG_SEND is under way */
	bool send_failed;	      /* lock */
	void (*on_cancel)(void *arg); /* lock; called with it held */
	void *on_cancel_arg;
};

/* Asks gRPC for the next call. CQ thread, or before it runs. */
int rpc_call_await(struct rpc_server *server);
/* One event of the completion queue. CQ thread. False: no further call is to be awaited. */
void rpc_call_event(struct rpc_tag *tag, bool success);

#endif
