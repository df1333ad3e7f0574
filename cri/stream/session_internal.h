/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_internal.h: one upgraded connection: its socket on the loop, its transport, and its pipes.
 *
 * Layers:    socket → [WebSocket] → [SPDY] → channels (command.c) or pairs of streams (forward.c) → pipes.
 * Threads:   session_start: any. All else: the loop's.
 * Ownership: the server's list owns sessions, a session its pipes. A session that has failed or come to its
 *            end is freed by the loop, never inside a call of a user.
 * Limits:    reading stops while a pipe is held, or SESSION_OUT_MAX bytes wait to be written.
 */
#ifndef CRI_STREAM_SESSION_INTERNAL_H
#define CRI_STREAM_SESSION_INTERNAL_H

#include "base/buf.h"
#include "cri/stream/spdy_internal.h"
#include "cri/stream/stream.h"
#include "cri/stream/tls_internal.h"
#include "cri/stream/token_internal.h"
#include "cri/stream/ws_internal.h"

#include <stdatomic.h>

#define SESSION_OUT_MAX	  (4 * STREAM_BUFFER)
#define SESSION_PIPES_MAX 256
#define SESSION_LINGER_NS (5 * NS_PER_SEC)

enum transport {
	TRANSPORT_SPDY,
	TRANSPORT_WS,	   /* channels in messages */
	TRANSPORT_WS_SPDY, /* SPDY's bytes in messages */
};

/* Of exec's and attach's protocol. */
enum channel {
	CHANNEL_STDIN,
	CHANNEL_STDOUT,
	CHANNEL_STDERR,
	CHANNEL_ERROR,
	CHANNEL_RESIZE,
	CHANNELS,
};

struct stream_pipe {
	struct session *session;
	struct stream_pipe *prev, *next;
	const struct stream_ops *ops; /* NULL until it is used */
	void *arg;
	bool complete; /* the client's streams are all there, and `accept` has run */
	bool held, starved, input_over;
	bool open[CHANNELS];   /* the client has opened it; a forward: stdin and stdout are its data stream */
	uint32_t id[CHANNELS]; /* SPDY's stream */
	/* forward */
	uint16_t port;
	char request_id[64];
	int64_t until_ns; /* for what is missing */
};

struct session {
	struct session *prev, *next; /* the server's */
	struct stream_server *server;
	struct stream_request request; /* owns its arg */
	enum transport transport;
	int version; /* of exec's protocol: 1 to 5 */
	bool text;   /* base64 */

	int fd;
	void (*close)(void *arg); /* closes fd */
	void *close_arg;
	struct loop_source *io, *timer;
	uint32_t events;
	struct buf out;	  /* to the socket */
	struct buf plain; /* SPDY's output on its way into messages */
	struct buf early; /* what came with the HTTP request */
	struct spdy *spdy;
	struct ws *ws;
	/* Of the message that is being read. */
	int channel; /* -1: its first byte is yet to come */
	struct base64 base64;
	char resize[256];
	size_t resize_len;

	struct stream_pipe *pipes;
	unsigned int pipes_len, held;
	int64_t active_ns; /* when something was read or written */
	int64_t create_until_ns;
	bool starved;	  /* a pipe waits for room */
	bool broken;	  /* to be freed, which tells its pipes */
	bool closing;	  /* once everything is written */
	bool half_closed; /* and now its end is awaited */
	bool busy;	  /* in a callback of the loop: it is freed at its end */
	int64_t linger_until_ns;
};

struct session_options {
	struct stream_request request;
	enum transport transport;
	int version;
	bool text;
	int fd; /* non-blocking */
	void (*close)(void *arg);
	void *close_arg;
	const void *early;
	size_t early_len;
};
/*
 * Takes over the options' fd and request. On failure both are closed and released. Counted in the server's
 * sessions by the caller before.
 */
void session_start(struct stream_server *server, const struct session_options *options);
/* Closes those on the way to the loop. */
void session_discard_incoming(struct stream_server *server);
/* Loop: tells its pipes and frees it. */
void session_free(struct session *session);
/*
 * The connection is of no more use: it will be freed, and its pipes told then. Never inside this call, which
 * may stand in one of their user's.
 */
void session_fail(struct session *session, const char *why);
/* Closes once everything is written. */
void session_end(struct session *session);
/* Sends what waits, and sets what the socket is watched for. */
void session_flush(struct session *session);

/* To the client: one channel's data. */
void session_send(struct stream_pipe *pipe, enum channel channel, const void *data, size_t len);
/* The channel's end, where the transport knows one. */
void session_send_end(struct stream_pipe *pipe, enum channel channel);
struct stream_pipe *session_pipe_new(struct session *session);
/* Without telling. */
void session_pipe_free(struct stream_pipe *pipe);
void session_pipe_gone(struct stream_pipe *pipe);
void session_accept(struct stream_pipe *pipe);
void session_input_end(struct stream_pipe *pipe);

/* command.c */
void command_begin(struct session *session);
void command_opened(struct session *session, uint32_t id, const struct spdy_headers *headers, bool fin);
void command_data(struct session *session, uint32_t id, const void *data, size_t len, bool fin);
void command_reset(struct session *session, uint32_t id);
void command_message(struct session *session, const void *data, size_t len, bool first);
void command_finish(struct stream_pipe *pipe, int exit_code, const struct err *why);

/* forward.c */
void forward_opened(struct session *session, uint32_t id, const struct spdy_headers *headers, bool fin);
void forward_data(struct session *session, uint32_t id, const void *data, size_t len, bool fin);
void forward_reset(struct session *session, uint32_t id);
void forward_finish(struct stream_pipe *pipe, const struct err *why);

/* server.c */
struct stream_server {
	struct loop *loop;
	struct MHD_Daemon *daemon;
	char url[128];
	struct tls *tls; /* loop; NULL: plain HTTP */
	bool secure;
	struct tokens tokens;
	struct session *sessions; /* loop */
	atomic_uint sessions_len; /* those on the way to the loop included */
	atomic_int refs;	  /* the owner's, and one for each post under way */
	pthread_mutex_t lock;
	bool closing;		  /* lock: no session begins any more */
	struct session *incoming; /* lock: on the way to the loop */
};
void stream_server_unref(struct stream_server *server);

#endif
