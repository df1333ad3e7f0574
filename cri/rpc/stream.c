/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams. A thread that queues a message puts the stream into the server's list of those that have something
 * to send, and wakes the completion queue's thread by an empty batch, which gRPC completes at once. That
 * thread sends. A stream whose message is under way is not in the list: the event that tells of the message's
 * end sends the next one.
 */
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <assert.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>

/* ---- messages ------------------------------------------------------------------------------------------ */

struct rpc_message {
	atomic_uint refs;
	const ProtobufCMessageDescriptor *type;
	size_t len;
	uint8_t data[];
};

int rpc_message_new(const ProtobufCMessage *msg, struct rpc_message **ret_message, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	struct rpc_message *m;

	if (len > RPC_MESSAGE_MAX)
		return err_set_status(err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED,
				      "the message has %zu bytes, more than the %d that clients take", len,
				      RPC_MESSAGE_MAX);
	m = malloc(sizeof(*m) + len);
	if (!m)
		return err_oom(err);
	atomic_init(&m->refs, 1);
	m->type = msg->descriptor;
	m->len = len;
	protobuf_c_message_pack(msg, m->data);
	*ret_message = m;
	return 0;
}

struct rpc_message *rpc_message_ref(struct rpc_message *message)
{
	atomic_fetch_add(&message->refs, 1);
	return message;
}

struct rpc_message *rpc_message_unref(struct rpc_message *message)
{
	if (message && atomic_fetch_sub(&message->refs, 1) == 1)
		free(message);
	return NULL;
}

static void unref_slice(void *message)
{
	rpc_message_unref(message);
}

/* The bytes are shared, not copied. Takes the reference over. */
static grpc_byte_buffer *buffer_of(struct rpc_message *m)
{
	grpc_slice slice = grpc_slice_new_with_user_data(m->data, m->len, unref_slice, m);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

	grpc_slice_unref(slice);
	return buffer;
}

/* ---- the queue ----------------------------------------------------------------------------------------- */

struct queued {
	struct queued *next;
	struct rpc_message *message;
};

struct rpc_stream {
	struct rpc_call *call;	 /* holds us; the owner's reference to it goes with rpc_stream_end */
	struct rpc_stream *next; /* server->lock: the list of those that have something to send */

	/* call->lock */
	struct queued *head, **tail;
	size_t n, bytes; /* queued */
	size_t n_max;	 /* may be */
	bool begun;	 /* the headers are on their way or sent */
	bool sending;	 /* RPC_TAG_SEND is under way */
	bool listed;	 /* in the server's list, which holds the wire */
	bool ending;	 /* by its owner, once the queue is empty */
	bool dropped;
	bool finish_later;  /* claimed, and to be finished once nothing is under way */
	struct err end_err; /* of both */
	void (*drained)(void *arg);
	void *drained_arg;
};

int rpc_stream_new(struct rpc_call *call)
{
	struct rpc_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->call = call;
	s->tail = &s->head;
	s->n_max = RPC_STREAM_MESSAGES_MAX;
	call->stream = s;
	return 0;
}

/* Lock held. NULL if it is empty. */
static struct rpc_message *pop(struct rpc_stream *s)
{
	struct queued *q = s->head;
	struct rpc_message *m;

	if (!q)
		return NULL;
	m = q->message;
	s->head = q->next;
	if (!s->head)
		s->tail = &s->head;
	s->n--;
	s->bytes -= m->len;
	free(q);
	return m;
}

/* Lock held. */
static void clear(struct rpc_stream *s)
{
	struct rpc_message *m;

	while ((m = pop(s)))
		rpc_message_unref(m);
}

struct call *rpc_stream_call(struct rpc_stream *s)
{
	return s->call->call;
}

void rpc_stream_free(struct rpc_stream *s)
{
	if (!s)
		return;
	clear(s);
	free(s);
}

/* ---- sending: the completion queue's thread ------------------------------------------------------------ */

/* The wire is held. `message` may be NULL: only the headers. */
static void send_batch(struct rpc_stream *s, struct rpc_message *message, bool headers)
{
	grpc_byte_buffer *buffer = message ? buffer_of(message) : NULL;
	grpc_op ops[2];
	size_t n = 0;

	memset(ops, 0, sizeof(ops));
	if (headers)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (buffer) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = buffer;
	}
	rpc_call_start(s->call, ops, n, RPC_TAG_SEND);
	if (buffer)
		grpc_byte_buffer_destroy(buffer);
}

/* Tells the producer, if it waits and nothing is on its way to the client any more. */
static void tell_drained(struct rpc_stream *s)
{
	void (*fn)(void *arg) = NULL;
	void *arg = NULL;

	pthread_mutex_lock(&s->call->lock);
	if (!s->sending && (!s->head || s->call->claimed)) {
		fn = move_ptr(s->drained);
		arg = s->drained_arg;
	}
	pthread_mutex_unlock(&s->call->lock);
	if (fn)
		fn(arg);
}

/* What is to be done next. The wire is held. */
static void pump(struct rpc_stream *s)
{
	struct rpc_call *call = s->call;
	struct rpc_message *message = NULL;
	bool headers = false, send = false, finish = false;

	pthread_mutex_lock(&call->lock);
	if (!s->sending && !call->claimed) {
		headers = !s->begun;
		message = pop(s);
		send = headers || message;
		finish = !send && s->ending;
		s->begun = true;
		s->sending = send;
		call->claimed = finish;
	}
	pthread_mutex_unlock(&call->lock);
	if (send)
		send_batch(s, message, headers);
	else if (finish)
		rpc_call_finish(call, s->end_err.status, s->end_err.msg, NULL);
	else
		tell_drained(s);
}

void rpc_stream_sent(struct rpc_call *call, bool success)
{
	struct rpc_stream *s = call->stream;
	bool finish;

	pthread_mutex_lock(&call->lock);
	s->sending = false;
	finish = s->finish_later;
	if (!success || call->claimed)
		clear(s);
	pthread_mutex_unlock(&call->lock);
	if (finish) {
		rpc_call_finish(call, s->end_err.status, s->end_err.msg, NULL);
		tell_drained(s);
	} else {
		pump(s);
	}
}

bool rpc_stream_finish_later(struct rpc_call *call, enum err_status status, const char *message)
{
	struct rpc_stream *s = call->stream;
	bool later;

	if (!s)
		return false;
	pthread_mutex_lock(&call->lock);
	later = s->sending;
	if (later) {
		s->finish_later = true;
		s->end_err.status = status;
		snprintf(s->end_err.msg, sizeof(s->end_err.msg), "%s", message);
	}
	pthread_mutex_unlock(&call->lock);
	return later;
}

bool rpc_stream_begun(struct rpc_call *call)
{
	bool begun;

	if (!call->stream)
		return false;
	pthread_mutex_lock(&call->lock);
	begun = call->stream->begun;
	pthread_mutex_unlock(&call->lock);
	return begun;
}

bool rpc_stream_dropped(struct rpc_call *call)
{
	bool dropped;

	if (!call->stream)
		return false;
	pthread_mutex_lock(&call->lock);
	dropped = call->stream->dropped;
	pthread_mutex_unlock(&call->lock);
	return dropped;
}

void rpc_stream_pump_all(struct rpc_server *server)
{
	struct rpc_stream *list, *next;

	pthread_mutex_lock(&server->lock);
	list = server->to_pump;
	server->to_pump = NULL;
	pthread_mutex_unlock(&server->lock);
	for (struct rpc_stream *s = list; s; s = next) {
		next = s->next;
		pthread_mutex_lock(&s->call->lock);
		s->listed = false;
		pthread_mutex_unlock(&s->call->lock);
		pump(s);
		rpc_call_wire_unref(s->call); /* the list's */
	}
}

/* ---- queueing: any thread ------------------------------------------------------------------------------ */

/* Lock held, the RPC not claimed. True: the caller must call list_add. */
static bool want_listed(struct rpc_stream *s)
{
	if (s->listed || s->sending)
		return false;
	s->listed = true;
	s->call->wire++;
	return true;
}

/* Whoever finds the list empty wakes the completion queue's thread. */
static void list_add(struct rpc_stream *s)
{
	struct rpc_call *call = s->call;
	struct rpc_server *server = call->server;
	bool first;

	rpc_call_wire_ref(call); /* the list's may be gone as soon as the stream is in it */
	pthread_mutex_lock(&server->lock);
	first = !server->to_pump;
	s->next = server->to_pump;
	server->to_pump = s;
	pthread_mutex_unlock(&server->lock);
	if (first)
		rpc_call_start(call, NULL, 0, RPC_TAG_PUMP);
	rpc_call_wire_unref(call);
}

void rpc_stream_begin(struct rpc_call *call)
{
	bool add;

	pthread_mutex_lock(&call->lock);
	add = !call->claimed && want_listed(call->stream);
	pthread_mutex_unlock(&call->lock);
	if (add)
		list_add(call->stream);
}

void rpc_stream_limit(struct rpc_stream *stream, size_t messages)
{
	pthread_mutex_lock(&stream->call->lock);
	if (messages > 0 && messages < stream->n_max)
		stream->n_max = messages;
	pthread_mutex_unlock(&stream->call->lock);
}

/*
 * Lock held, the RPC not claimed. Negative, with words: the stream is to be dropped; it is claimed then, and
 * the caller must call drop.
 */
static int claim_drop(struct rpc_stream *s, const struct rpc_message *message, const struct queued *q,
		      struct err *err)
{
	bool full = s->n >= s->n_max || (s->n > 0 && s->bytes + message->len > RPC_STREAM_BYTES_MAX);

	if (!full && q)
		return 0;
	s->dropped = s->call->claimed = true;
	s->call->wire++;
	return full ? err_set_status(err, -ENOBUFS, ERR_RESOURCE_EXHAUSTED,
				     "the client reads too slowly: %zu messages waiting", s->n)
		    : err_oom(err);
}

/* The status overtakes what the client has not read. */
static void drop(struct rpc_stream *s, const struct err *why)
{
	grpc_call_cancel_with_status(s->call->grpc, (grpc_status_code)why->status, why->msg, NULL);
	rpc_call_finish(s->call, why->status, why->msg, NULL);
	rpc_call_wire_unref(s->call);
}

/* Lock held. */
static void push(struct rpc_stream *s, struct queued *q, struct rpc_message *message)
{
	*q = (struct queued){.message = rpc_message_ref(message)};
	*s->tail = q;
	s->tail = &q->next;
	s->n++;
	s->bytes += message->len;
}

int rpc_stream_send(struct rpc_stream *s, struct rpc_message *message, struct err *err)
{
	struct rpc_call *call = s->call;
	struct queued *q = malloc(sizeof(*q));
	struct err why = ERR_INIT;
	bool ended, add = false;
	int r = 0;

	assert(message->type == call->method->response);
	pthread_mutex_lock(&call->lock);
	ended = call->claimed;
	if (!ended)
		r = claim_drop(s, message, q, &why);
	if (!ended && r == 0) {
		push(s, move_ptr(q), message);
		add = want_listed(s);
	}
	pthread_mutex_unlock(&call->lock);
	free(q);
	if (add)
		list_add(s);
	if (r < 0)
		drop(s, &why);
	if (ended)
		return err_set_status(err, -ECANCELED, ERR_CANCELLED, "the stream has ended");
	return r < 0 ? err_copy(err, &why) : 0;
}

void rpc_stream_when_drained(struct rpc_stream *s, void (*fn)(void *arg), void *arg)
{
	rpc_call_ref(s->call); /* fn may give the stream up */
	pthread_mutex_lock(&s->call->lock);
	s->drained = fn;
	s->drained_arg = arg;
	pthread_mutex_unlock(&s->call->lock);
	tell_drained(s);
	rpc_call_unref(s->call);
}

void rpc_stream_end(struct rpc_stream *s, const struct err *err)
{
	struct rpc_call *call = s->call;
	bool add = false;

	pthread_mutex_lock(&call->lock);
	if (!call->claimed) {
		s->ending = true;
		if (err && err->code < 0)
			err_copy(&s->end_err, err);
		add = want_listed(s);
	}
	pthread_mutex_unlock(&call->lock);
	if (add)
		list_add(s);
	rpc_call_unref(call);
}
