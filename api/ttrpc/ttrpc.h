/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ttrpc.h: one ttrpc connection, client or server side, without any I/O of its own.
 *
 * Purpose:   framing, calls, streams, timeouts and limits of ttrpc. The owner moves bytes: it feeds what it
 *            read (ttrpc_feed), writes out what ttrpc_out holds, and calls ttrpc_expire when
 *            ttrpc_next_deadline passes. So the same code runs under sd-event on the host, under epoll in the
 *            guest, and in a fuzzer.
 * Source:    containerd/ttrpc PROTOCOL.md: 10-byte header (length u32 BE, stream id u32 BE, type u8, flags
 *            u8), message types 1 request, 2 response, 3 data; flags 1 remote closed, 2 remote open, 4 no
 *            data; client stream ids are odd and grow; Request{service=1, method=2, payload=3,
 *            timeout_nano=4, metadata=5}, Response{status=1 (google.rpc.Status), payload=2}.
 * Threads:   a connection belongs to one thread; every function and callback runs there.
 * Ownership: payloads passed to callbacks live until the callback returns. Callbacks may start, answer and
 *            cancel calls, but must not free the connection; ttrpc_conn_free ends every call with -ECONNRESET
 *            first.
 * Limits:    a message is at most TTRPC_MESSAGE_MAX; a connection has at most TTRPC_CALLS_MAX calls in flight
 *            and holds at most TTRPC_OUT_MAX bytes of output (-ENOBUFS beyond). A server should stop reading
 *            its transport while much output waits: a client that does not read its answers otherwise ends in
 *            -ENOBUFS from ttrpc_feed. A server that sends 64 MiB that nobody asked for, and nothing else
 *            between, ends in -EBADMSG.
 * Errors:    an error from ttrpc_feed is fatal for the connection; an error of one call reaches that call
 *            alone, with the peer's status and message. What is wrong with one message (beyond the limit,
 *            unreadable, a stream id that is even, used again or unknown) is answered on that stream, as
 *            containerd's ttrpc does; message types of later versions are ignored. To a client, a stream id
 *            that it never gave out is -EBADMSG: the peer does not speak ttrpc.
 */
#ifndef API_TTRPC_TTRPC_H
#define API_TTRPC_TTRPC_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define TTRPC_MESSAGE_MAX (4u << 20) /* payload of one frame, as in ttrpc's own messageLengthMax */
#define TTRPC_CALLS_MAX	  4096
#define TTRPC_OUT_MAX	  (32u << 20)

struct ttrpc_conn;

/*
 * Called (on the owner's thread) whenever output was added to an empty ttrpc_out: time to watch for
 * writability.
 */
typedef void ttrpc_output_fn(void *owner);

/* ---- either side --------------------------------------------------------------------------------------- */

/*
 * Bytes came in. Runs callbacks. 0 or negative errno; after an error close the transport and free the
 * connection.
 */
int ttrpc_feed(struct ttrpc_conn *conn, const void *data, size_t len, struct err *err);
/* What waits to be written; the owner consumes from it. */
struct buf *ttrpc_out(struct ttrpc_conn *conn);
/* The transport is gone: every call and stream in flight ends with `why`. */
void ttrpc_abort(struct ttrpc_conn *conn, const struct err *why);
/* Aborts, frees, returns NULL. NULL-safe. */
struct ttrpc_conn *ttrpc_conn_free(struct ttrpc_conn *conn);
/* CLOCK_MONOTONIC ns at which ttrpc_expire has work, INT64_MAX if never. */
int64_t ttrpc_next_deadline(const struct ttrpc_conn *conn);
/*
 * Ends what is past its deadline (client: -ETIMEDOUT; server: the request's cancel hook runs and
 * DeadlineExceeded goes out).
 */
void ttrpc_expire(struct ttrpc_conn *conn, int64_t now_ns);

/* ---- client -------------------------------------------------------------------------------------------- */

struct ttrpc_conn *ttrpc_client_new(ttrpc_output_fn *output, void *owner);

/*
 * Exactly one call per ttrpc_call: err is NULL on success, else code, status and words; payload is NULL on
 * error.
 */
typedef void ttrpc_reply_fn(void *arg, const struct err *err, const void *payload, size_t len);

/*
 * Starts a unary call. timeout_ns 0: none (also sent to the server as timeout_nano). *ret_id (may be NULL)
 * names it for ttrpc_cancel. The callback never runs before ttrpc_call returns.
 */
int ttrpc_call(struct ttrpc_conn *conn, const char *service, const char *method, const void *payload,
	       size_t len, int64_t timeout_ns, ttrpc_reply_fn *reply, void *arg, uint32_t *ret_id,
	       struct err *err);
/*
 * Forgets a call or stream: its callback will not run; a late answer is dropped. An unknown id is ignored.
 * The protocol has no message that would tell the server; a stream's server is told that our side has ended.
 */
void ttrpc_cancel(struct ttrpc_conn *conn, uint32_t id);

/*
 * A message of a stream (payload set), or its end: eof true with err NULL (the peer finished; payload may
 * hold a last message) or err set. After eof or err no more callbacks.
 */
typedef void ttrpc_stream_fn(void *arg, const struct err *err, const void *payload, size_t len, bool eof);

/* Opens a bidirectional stream. payload NULL: no data in the request frame. */
int ttrpc_stream_open(struct ttrpc_conn *conn, const char *service, const char *method, const void *payload,
		      size_t len, ttrpc_stream_fn *on_data, void *arg, uint32_t *ret_id, struct err *err);

/* ---- server -------------------------------------------------------------------------------------------- */

/* One call on the server side; it lives until answered, or until its cancel hook has run. */
struct ttrpc_request;

/* A unary handler answers now or later, exactly once, by ttrpc_respond or ttrpc_fail. */
typedef void ttrpc_unary_fn(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
/*
 * A stream handler: called once at open (payload may be NULL), then on_data as set by ttrpc_request_on_data.
 */
typedef ttrpc_unary_fn ttrpc_open_fn;

struct ttrpc_method {
	const char *name;
	ttrpc_unary_fn *unary; /* one of the two */
	ttrpc_open_fn *streaming;
};
struct ttrpc_service {
	const char *name;
	const struct ttrpc_method *methods; /* ends with a NULL name */
	void *ctx;
};

/* services ends with a NULL name and outlives the connection. */
struct ttrpc_conn *ttrpc_server_new(const struct ttrpc_service *services, ttrpc_output_fn *output,
				    void *owner);

struct ttrpc_conn *ttrpc_request_conn(struct ttrpc_request *req);
/*
 * Hook that runs when nobody waits for the answer any more (connection gone, deadline passed): the handler
 * drops its reference to req there and must not answer. Without a hook, req stays valid and must still be
 * answered (into the void; ttrpc_request_conn is NULL by then); a stream's on_data then gets the error.
 */
void ttrpc_request_on_cancel(struct ttrpc_request *req, void (*hook)(void *arg), void *arg);
/*
 * Messages from the client on a streaming request; eof when the client closed its side. To be set by the
 * stream handler before it returns: what comes while none is set is dropped.
 */
void ttrpc_request_on_data(struct ttrpc_request *req, ttrpc_stream_fn *on_data, void *arg);
/*
 * Answer and end a unary request (or a stream whose server sends only one message); req is invalid
 * afterwards.
 */
void ttrpc_respond(struct ttrpc_request *req, const void *payload, size_t len);
/* Answer with an error and end a request of either kind. */
void ttrpc_fail(struct ttrpc_request *req, const struct err *err);
/* Ends a streaming request without error: the final data frame, empty, with the close flag. */
void ttrpc_stream_finish(struct ttrpc_request *req);

/* ---- streams, either side ------------------------------------------------------------------------------ */

/*
 * Sends one message on a client stream (by id); `close` also ends our side. payload NULL: no data, only the
 * close. 0, -EPIPE (no such stream, or our side has ended), -EMSGSIZE, -ENOBUFS or -ECONNRESET.
 */
int ttrpc_stream_send(struct ttrpc_conn *conn, uint32_t id, const void *payload, size_t len, bool close);
/* The same on a server stream. */
int ttrpc_request_send(struct ttrpc_request *req, const void *payload, size_t len);

#endif
