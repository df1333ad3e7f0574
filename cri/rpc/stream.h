/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h: server-streaming RPCs, and sets of them to publish to.
 *
 * Purpose:   a stream holds no thread. Whoever has news queues a message and goes on; a message that many
 *            streams get is packed once and shared.
 * Threads:   every function from any thread; none blocks. The completion queue's thread sends, one message of
 *            a stream at a time: gRPC tells that queue alone when a message has gone, so no other thread
 *            learns earlier that the next may follow, and the loop's thread is not kept from its timers by a
 *            thousand writes.
 * Ownership: a stream is its handler's until rpc_stream_end, or rpc_watchers_add, which takes it over.
 * Limits:    a stream's queue has at most RPC_STREAM_MESSAGES_MAX messages (fewer if so set) and
 *            RPC_STREAM_BYTES_MAX bytes. A client that lets it fill up is dropped with ResourceExhausted "the
 *            client reads too slowly: N messages waiting": the others are not held back, and memory is
 *            bounded.
 * Errors:    -ECANCELED once the RPC has ended (its client has left, its deadline has passed, the server
 *            stops); -ENOBUFS for the message that a full queue did not take; -ENOMEM.
 */
#ifndef CRI_RPC_STREAM_H
#define CRI_RPC_STREAM_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#define RPC_STREAM_MESSAGES_MAX 1024
#define RPC_STREAM_BYTES_MAX	(16u << 20)

/* ---- messages ------------------------------------------------------------------------------------------ */

/* A packed message, immutable and reference counted. */
struct rpc_message;
int rpc_message_new(const ProtobufCMessage *msg, struct rpc_message **ret_message, struct err *err);
struct rpc_message *rpc_message_ref(struct rpc_message *message);
/* Returns NULL. NULL-safe. */
struct rpc_message *rpc_message_unref(struct rpc_message *message);

/* ---- one stream ---------------------------------------------------------------------------------------- */

struct rpc_stream;
/* Lowers the number of messages that may wait; before the first one is sent. */
void rpc_stream_limit(struct rpc_stream *stream, size_t messages);
/* Queues a message (a reference of its own). A full queue ends the RPC. */
int rpc_stream_send(struct rpc_stream *stream, struct rpc_message *message, struct err *err);
/*
 * For a producer that makes a message only when the one before has gone: fn(arg) runs once, when nothing
 * waits in the queue any more or the RPC has ended; perhaps before this returns. On the completion queue's
 * thread or this one: it hands the work to another. One at a time; before rpc_stream_end.
 */
void rpc_stream_when_drained(struct rpc_stream *stream, void (*fn)(void *arg), void *arg);
/*
 * Ends the RPC after what is queued, with `err` if its code is negative (NULL: success), and gives the stream
 * up. Exactly once, also if the RPC has ended already.
 */
void rpc_stream_end(struct rpc_stream *stream, const struct err *err);

/* ---- many of them -------------------------------------------------------------------------------------- */

struct rpc_watchers;
/* `messages`: how many may wait for each watcher; 0: RPC_STREAM_MESSAGES_MAX. */
int rpc_watchers_new(size_t messages, struct rpc_watchers **ret_watchers, struct err *err);
/*
 * Takes the stream over, in success and failure: it gets what is published from now on and is ended when its
 * client leaves or is dropped, or by rpc_watchers_drop or rpc_watchers_close. In a closed set it is ended at
 * once, with that error.
 */
int rpc_watchers_add(struct rpc_watchers *watchers, struct rpc_stream *stream, struct err *err);
/* To all watchers, in the same order. Fails only where the message cannot be packed: then nobody gets it. */
int rpc_watchers_publish(struct rpc_watchers *watchers, const ProtobufCMessage *msg, struct err *err);
size_t rpc_watchers_count(struct rpc_watchers *watchers);
/* Ends the streams that are in the set with `err` (NULL: success). */
void rpc_watchers_drop(struct rpc_watchers *watchers, const struct err *err);
/* As rpc_watchers_drop, and all that are added from now on. The first error counts. */
void rpc_watchers_close(struct rpc_watchers *watchers, const struct err *err);
/* As rpc_watchers_close; then no function of the set runs or will run. NULL-safe, returns NULL. */
struct rpc_watchers *rpc_watchers_free(struct rpc_watchers *watchers, const struct err *err);

#endif
