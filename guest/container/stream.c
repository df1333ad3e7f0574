/* SPDX-License-Identifier: Apache-2.0 */
/*
 * containerd.services.streaming.v1.Streaming: standard I/O as byte streams.
 *
 * The first message is Any(StreamInit) with id "<container>/<exec or empty>/stdin|stdout|stderr"; it is
 * answered by Any(google.protobuf.Empty) once the stream is ready, as containerd's client expects. Then
 * Any(transfer.Data) flows. A stdin stream also gets Any(transfer.WindowUpdate): a sender that keeps to it is
 * never held back; any other is held back, with everything else on its connection. stdin ends with
 * the client's final close; a connection that breaks leaves it open.
 *
 * Output comes from the process's log. A process that is read by ReadLog keeps its data until Ack, and
 * streams only listen in from the present on, skipping what they are too slow for. Where nobody calls ReadLog
 * and the creator named streams for the output, the streams are its only way out: they begin at the start,
 * and what all of them have sent is freed.
 */
#include "guest/container/ctr_internal.h"

#include "api/agent/streaming.pb-c.h"
#include "api/agent/transfer.pb-c.h"
#include "google/protobuf/any.pb-c.h"
#include "guest/rpc/server.h"
#include "guest/rpc/request.h"

#define CHUNK	    (32u * 1024)
#define STREAMS_MAX 4096
#define WINDOW	    (64 * 1024)

struct stream {
	struct stream *next, **prevp; /* all */
	struct agent *agent;
	struct ttrpc_request *req;
	struct server_conn *conn;
	struct server_drain drain;
	struct stdio *stdio; /* NULL before StreamInit */
	struct stdio_listener listener;
	bool input, paused;
	enum outlog_stream stream;
	uint64_t offset; /* output: of the next byte */
	int64_t window;	 /* input: what the client may still send */
};

static struct stream *streams;
static unsigned int streams_len;

static void stream_free(struct stream *s)
{
	*s->prevp = s->next;
	if (s->next)
		s->next->prevp = s->prevp;
	streams_len--;
	server_drain_clear(s->conn, &s->drain);
	if (s->paused)
		server_pause(s->conn, false);
	if (s->stdio)
		stdio_unlisten(s->stdio, &s->listener);
	free(s);
}

static void on_cancel(void *arg)
{
	stream_free(arg);
}

static void stream_fail(struct stream *s, const struct err *err)
{
	struct ttrpc_request *req = s->req;

	stream_free(s);
	ttrpc_fail(req, err);
}

static void stream_finish(struct stream *s)
{
	struct ttrpc_request *req = s->req;

	stream_free(s);
	ttrpc_stream_finish(req);
}

/* Sends Any(type, msg). */
static int send_any(struct stream *s, const ProtobufCMessage *msg, const char *type)
{
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	void *inner CLEANUP_FREE = NULL;
	void *outer CLEANUP_FREE = NULL;
	size_t len = 0;

	if (msg) {
		inner = rpc_pack(msg, &any.value.len);
		if (!inner)
			return -ENOMEM;
	}
	any.type_url = (char *)type;
	any.value.data = inner;
	outer = rpc_pack(&any.base, &len);
	return outer ? ttrpc_request_send(s->req, outer, len) : -ENOMEM;
}

/* ---- output --------------------------------------------------------------------------------------- */

/* Frees what every stream of this process has sent, if streams are the only way out. */
static void release(struct stdio *stdio)
{
	uint64_t low = UINT64_MAX;

	if (stdio->log_read || (!stdio->named[0] && !stdio->named[1]))
		return;
	for (int i = 0; i < 2; i++) {
		if (stdio->named[i] && !stdio->streamed[i] && stdio->out[i].fd >= 0)
			return;
	}
	for (const struct stream *s = streams; s; s = s->next) {
		if (s->stdio == stdio && !s->input && s->offset < low)
			low = s->offset;
	}
	if (low != UINT64_MAX)
		(void)stdio_ack(stdio, low, NULL);
}

static void on_drain(void *arg);

/* Sends what there is, as far as the connection takes it. False: the stream is gone. */
static bool out_pump(struct stream *s)
{
	struct outlog_record rec;
	uint64_t offset = s->offset;

	while (server_may_send(s->conn) && outlog_next(&s->stdio->log, &offset, CHUNK, &rec)) {
		Containerd__Types__Transfer__Data data = CONTAINERD__TYPES__TRANSFER__DATA__INIT;

		if (rec.stream == s->stream) {
			data.data.data = (unsigned char *)rec.data;
			data.data.len = rec.len;
			if (send_any(s, &data.base, "containerd.types.transfer.Data") < 0)
				break;
		}
		s->offset = offset;
	}
	if (s->offset < outlog_end(&s->stdio->log)) {
		server_on_drain(s->conn, &s->drain, on_drain, s);
		return true;
	}
	if (!stdio_ended(s->stdio, s->stream))
		return true;
	stream_finish(s);
	return false;
}

static void on_drain(void *arg)
{
	struct stream *s = arg;
	struct stdio *stdio = s->stdio;

	(void)out_pump(s);
	release(stdio);
}

static void on_output(void *arg)
{
	struct stream *s = arg;
	struct stdio *stdio = s->stdio;
	bool alive = out_pump(s);

	if (!stdio->dead)
		release(stdio);
	else if (alive)
		stream_finish(s); /* deleted: what could not be sent by now is gone */
}

/* ---- input ---------------------------------------------------------------------------------------- */

/*
 * Grants what the process has taken, and reads on from the client once there is room. False: the stream is
 * gone.
 */
static bool in_pump(struct stream *s)
{
	Containerd__Types__Transfer__WindowUpdate update = CONTAINERD__TYPES__TRANSFER__WINDOW_UPDATE__INIT;
	bool full = s->stdio->in_buf.len >= STDIO_IN_HIGH;
	int64_t grant;

	if (s->stdio->dead || s->stdio->in_gone) {
		stream_finish(s);
		return false;
	}
	if (full != s->paused) {
		s->paused = full;
		server_pause(s->conn, full);
	}
	grant = WINDOW - s->window - (int64_t)s->stdio->in_buf.len;
	if (grant >= WINDOW / 2) {
		update.update = (int32_t)(grant < INT32_MAX ? grant : INT32_MAX);
		if (send_any(s, &update.base, "containerd.types.transfer.WindowUpdate") == 0)
			s->window += update.update;
	}
	return true;
}

static void on_input_change(void *arg)
{
	(void)in_pump(arg);
}

static void on_input(struct stream *s, const void *payload, size_t len, bool eof)
{
	Google__Protobuf__Any *any RPC_MESSAGE = NULL;
	Containerd__Types__Transfer__Data *data RPC_MESSAGE = NULL;
	struct err err = ERR_INIT;
	int r = 0;

	if (payload && len > 0) {
		any = rpc_unpack_msg(&google__protobuf__any__descriptor, payload, len, &err);
		if (any && rpc_type_is(any->type_url, "containerd.types.transfer.Data"))
			data = rpc_unpack_msg(&containerd__types__transfer__data__descriptor, any->value.data,
					      any->value.len, &err);
		else if (any)
			err_set(&err, -EINVAL, "message of type \"%.128s\" in a stdin stream", any->type_url);
		if (!data) {
			stream_fail(s, &err);
			return;
		}
		s->window -= (int64_t)data->data.len;
		r = stdio_write(s->stdio, data->data.data, data->data.len);
	}
	if (r == -EPIPE) {
		stream_finish(s); /* the process reads no more; that is no error of the client */
		return;
	}
	if (r < 0) {
		err_set_errno(&err, r, "stdin of the process");
		stream_fail(s, &err);
		return;
	}
	if (eof) {
		stdio_close_in(s->stdio);
		stream_finish(s);
		return;
	}
	(void)in_pump(s);
}

/* ---- beginning ------------------------------------------------------------------------------------ */

/* "<container>/<exec>/<stream>" into its parts, in a copy of id. */
static int split_id(char *id, char **ret_ctr, char **ret_exec, char **ret_name, struct err *err)
{
	char *exec = strchr(id, '/');
	char *name = exec ? strchr(exec + 1, '/') : NULL;

	if (!name || strchr(name + 1, '/'))
		return err_set(
			err, -EINVAL,
			"stream id \"%.300s\": want <container>/<exec or nothing>/stdin, stdout or stderr",
			id);
	*exec++ = 0;
	*name++ = 0;
	*ret_ctr = id;
	*ret_exec = exec;
	*ret_name = name;
	return 0;
}

static int attach_in(struct stream *s, struct err *err)
{
	if (!stdio_has_in(s->stdio))
		return err_set_status(err, -EPIPE, ERR_FAILED_PRECONDITION,
				      "the process has no stdin, or it is closed");
	s->input = true;
	stdio_listen(s->stdio, &s->listener, on_input_change, s);
	return 0;
}

static void attach_out(struct stream *s)
{
	s->offset = s->stdio->log_read ? outlog_end(&s->stdio->log) : s->stdio->log.start;
	s->stdio->streamed[s->stream == OUTLOG_STDERR] = true;
	stdio_listen(s->stdio, &s->listener, on_output, s);
}

static int begin(struct stream *s, const void *payload, size_t len, struct err *err)
{
	Google__Protobuf__Any *any RPC_MESSAGE =
		rpc_unpack_msg(&google__protobuf__any__descriptor, payload, len, err);
	Containerd__Services__Streaming__V1__StreamInit *init RPC_MESSAGE = NULL;
	char *ctr = NULL, *exec = NULL, *name = NULL;
	const struct proc *p;
	int r;

	if (!any)
		return -EINVAL;
	if (!rpc_type_is(any->type_url, "containerd.services.streaming.v1.StreamInit"))
		return err_set(err, -EINVAL, "the first message has type \"%.128s\": want StreamInit",
			       any->type_url);
	init = rpc_unpack_msg(&containerd__services__streaming__v1__stream_init__descriptor, any->value.data,
			      any->value.len, err);
	if (!init)
		return -EINVAL;
	r = split_id(init->id, &ctr, &exec, &name, err);
	if (r < 0)
		return r;
	p = ctr_proc(s->agent, ctr, exec, err);
	if (!p)
		return -ENOENT;
	s->stdio = p->stdio;
	if (str_eq(name, "stdin"))
		return attach_in(s, err);
	if (!str_eq(name, "stdout") && !str_eq(name, "stderr"))
		return err_set(err, -EINVAL, "stream \"%.64s\": want stdin, stdout or stderr", name);
	s->stream = str_eq(name, "stderr") ? OUTLOG_STDERR : OUTLOG_STDOUT;
	attach_out(s);
	return 0;
}

/* The first message: sets the stream up and acknowledges it. */
static void on_init(struct stream *s, const void *payload, size_t len)
{
	struct err err = ERR_INIT;
	struct stdio *stdio;
	int r = begin(s, payload, len, &err);

	if (r == 0 && send_any(s, NULL, "google.protobuf.Empty") < 0)
		r = err_set(&err, -ENOBUFS, "the connection takes no more");
	if (r < 0) {
		stream_fail(s, &err);
		return;
	}
	stdio = s->stdio;
	if (s->input) {
		(void)in_pump(s);
		return;
	}
	(void)out_pump(s);
	release(stdio);
}

static void on_data(void *arg, const struct err *why, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;
	struct err err = ERR_INIT;

	if (why)
		return; /* the cancel hook follows */
	if (!s->stdio) {
		if (payload && len > 0) {
			on_init(s, payload, len);
			return;
		}
		err_set(&err, -EINVAL, "the stream was closed before StreamInit");
		stream_fail(s, &err);
		return;
	}
	if (s->input)
		on_input(s, payload, len, eof);
	/* A client of an output stream sends nothing; closing its side changes nothing. */
}

static void stream_open(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct stream *s = streams_len < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;
	struct err err = ERR_INIT;

	if (!s) {
		err_set_status(&err, -ENOMEM, ERR_RESOURCE_EXHAUSTED, "no room for another stream");
		ttrpc_fail(req, &err);
		return;
	}
	*s = (struct stream){
		.agent = ctx, .req = req, .conn = server_conn(req), .next = streams, .prevp = &streams};
	if (s->next)
		s->next->prevp = &s->next;
	streams = s;
	streams_len++;
	ttrpc_request_on_cancel(req, on_cancel, s);
	ttrpc_request_on_data(req, on_data, s);
	if (payload && len > 0)
		on_init(s, payload, len);
}

const struct ttrpc_method streaming_methods[] = {
	{.name = "Stream", .streaming = stream_open},
	{.name = NULL},
};
