/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h: the streaming server: exec, attach and port forwarding over HTTP, from the client's side.
 *
 * Purpose:   an RPC offers a stream and gets a URL with a token. The client that comes with it within a
 *            minute is connected to the one who offered it. This room knows HTTP, SPDY/3.1, WebSocket and the
 *            protocols of Kubernetes on them; it knows no pod.
 * Threads:   stream_server_new, stream_offer: any. Everything about a pipe: the loop's thread, the callbacks
 *            included. HTTP requests are read by one thread of libmicrohttpd; once a connection has been
 *            upgraded its socket is on the loop. There is no thread for a stream.
 * Ownership: a pipe belongs to its connection. It is valid from `accept` until its user has called
 *            stream_pipe_finish, or was told `gone`: one of the two happens, once.
 * Limits:    STREAM_TOKENS_MAX tokens, each for one use within STREAM_TOKEN_NS; STREAM_SESSIONS_MAX
 *            connections; STREAM_BUFFER bytes of output for one connection, beside what one write adds. A
 *            connection without traffic for STREAM_IDLE_NS is closed; one whose streams are not all opened
 *            within STREAM_CREATE_NS, too. Backpressure: stream_pipe_room says how much a client can be sent;
 *            at 0 its user stops and is told by `writable`. stream_pipe_hold stops the reading of the whole
 *            connection: neither transport has flow control that clients obey.
 * Errors:    stream_offer: ResourceExhausted. A client's mistakes are answered by HTTP status, or end its
 *            connection.
 * Source:    k8s.io/cri-streaming and k8s.io/streaming of Kubernetes 1.36; SPDY Protocol, Draft 3.1; RFC
 *            6455.
 */
#ifndef CRI_STREAM_STREAM_H
#define CRI_STREAM_STREAM_H

#include "base/err.h"
#include "base/util.h"
#include "cri/core/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_TOKENS_MAX   1000
#define STREAM_TOKEN_NS	    (60 * NS_PER_SEC)
#define STREAM_SESSIONS_MAX 1024
#define STREAM_BUFFER	    (64u * 1024)
#define STREAM_IDLE_NS	    (4 * 3600 * NS_PER_SEC)
#define STREAM_CREATE_NS    (30 * NS_PER_SEC)

struct stream_server;
struct stream_pipe;

/* ---- the server ---------------------------------------------------------------------------------------- */

struct stream_server_options {
	struct loop *loop;
	const char *address;			  /* "127.0.0.1:0", "[::1]:10010"; port 0: any that is free */
	const char *tls_cert_file, *tls_key_file; /* PEM; both or none (NULL): plain HTTP */
	int64_t token_ns;			  /* 0: STREAM_TOKEN_NS */
};
/* Listens when it returns. The options' loop outlives it. */
int stream_server_new(const struct stream_server_options *options, struct stream_server **ret_server,
		      struct err *err);
/*
 * Ends all connections; pipes are told `gone`. On the loop's thread, or once the loop has ended. Returns
 * NULL. NULL-safe.
 */
struct stream_server *stream_server_free(struct stream_server *server);
/* "http://127.0.0.1:40001". */
const char *stream_server_url(const struct stream_server *server);
/* Tokens that wait for their client, and connections. */
void stream_server_load(struct stream_server *server, unsigned int *ret_tokens, unsigned int *ret_sessions);

/* ---- offering ------------------------------------------------------------------------------------------ */

enum stream_kind {
	STREAM_EXEC,
	STREAM_ATTACH,
	STREAM_FORWARD,
};

/*
 * Loop. A client is there: exec and attach once, with port 0; a forward for each connection to a port. Calls
 * stream_pipe_use before it returns.
 */
typedef void stream_accept_fn(void *arg, struct stream_pipe *pipe, uint16_t port);

struct stream_request {
	enum stream_kind kind;
	bool in, out, err, tty; /* exec, attach: the channels that the client opens */
	stream_accept_fn *accept;
	/*
	 * Any thread: once neither a token nor a connection needs arg any more. Pipes may live on: their user
	 * has its own arg.
	 */
	void (*release)(void *arg);
	void *arg;
};
/*
 * ret_url is malloc'ed: <url>/exec/<token>. Takes over arg, on success alone: release runs once.
 * ResourceExhausted with STREAM_TOKENS_MAX tokens open.
 */
int stream_offer(struct stream_server *server, const struct stream_request *request, char **ret_url,
		 struct err *err);

/* ---- a pipe: one command's channels, or one forwarded connection --------------------------------------- */

enum stream_output {
	STREAM_STDOUT, /* a forward's only one */
	STREAM_STDERR,
};

struct stream_ops {
	/*
	 * From the client. May be larger than what the user can take: it holds the pipe and keeps the rest.
	 */
	void (*input)(void *arg, const void *data, size_t len);
	/* No more input. */
	void (*input_end)(void *arg);
	/* exec, attach with a terminal. */
	void (*resize)(void *arg, uint16_t width, uint16_t height);
	/* There is room again, after stream_pipe_room was 0. */
	void (*writable)(void *arg);
	/*
	 * The client has left, or broke the protocol; the pipe is gone. Never inside a call to the pipe.
	 */
	void (*gone)(void *arg);
};
void stream_pipe_use(struct stream_pipe *pipe, const struct stream_ops *ops, void *arg);
size_t stream_pipe_room(struct stream_pipe *pipe);
/*
 * Takes all of it, also beyond the room. What the client has not asked for, or no longer reads, is dropped.
 */
void stream_pipe_write(struct stream_pipe *pipe, enum stream_output which, const void *data, size_t len);
/* True: no input until false. */
void stream_pipe_hold(struct stream_pipe *pipe, bool on);
/*
 * The end. why NULL or code 0: a command ended with exit_code (attach: 0), a forwarded connection was closed
 * by its server. Else what went wrong, for the client to read. What was written is still sent.
 */
void stream_pipe_finish(struct stream_pipe *pipe, int exit_code, const struct err *why);

#endif
