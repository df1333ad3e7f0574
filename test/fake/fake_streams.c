/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_streams.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/transfer.pb-c.h"
#include "base/util.h"

#define STREAMS_MAX  64
#define INPUT_WINDOW (64 * 1024)
#define OUTPUT_MAX   (128 * 1024) /* of a process, or a port, before it reads no more */

struct stream {
	struct fake_streams *streams;
	struct ttrpc_request *req; /* NULL: free */
	bool port;
	bool begun;	  /* its first message has come */
	char process[80]; /* "": an echo of messages */
	size_t ahead;
};

struct fake_streams {
	struct fake_streams_hooks hooks;
	struct stream all[STREAMS_MAX];
	bool deaf;
	size_t most_ahead;
	unsigned int begun;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void on_cancel(void *arg)
{
	*(struct stream *)arg = (struct stream){0};
}

static void send(struct stream *s, const ProtobufCMessage *msg)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	unsigned char *data = malloc(len ? len : 1);

	must(data);
	protobuf_c_message_pack(msg, data);
	(void)ttrpc_request_send(s->req, data, len);
	free(data);
}

static void send_any(struct stream *s, const char *type, const ProtobufCMessage *inner)
{
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	unsigned char data[64];

	any.type_url = (char *)(uintptr_t)type;
	if (inner) {
		any.value.len = protobuf_c_message_pack(inner, data);
		any.value.data = data;
	}
	send(s, &any.base);
}

static void finish(struct stream *s)
{
	struct ttrpc_request *req = s->req;

	ttrpc_request_on_cancel(req, NULL, NULL);
	*s = (struct stream){0};
	ttrpc_stream_finish(req);
}

static void fail(struct stream *s, int code, const char *words)
{
	struct ttrpc_request *req = s->req;
	struct err err = ERR_INIT;

	ttrpc_request_on_cancel(req, NULL, NULL);
	*s = (struct stream){0};
	err_set(&err, code, "%s", words);
	ttrpc_fail(req, &err);
}

static void came(struct stream *s, size_t len)
{
	s->ahead += len;
	if (s->ahead > s->streams->most_ahead)
		s->streams->most_ahead = s->ahead;
}

/* ---- a process's input --------------------------------------------------------------------------------- */

static void grant_input(struct stream *s, int32_t by)
{
	Containerd__Types__Transfer__WindowUpdate update = CONTAINERD__TYPES__TRANSFER__WINDOW_UPDATE__INIT;

	update.update = by;
	send_any(s, "containerd.types.transfer.WindowUpdate", &update.base);
}

/* True if it is the beginning of a process's input. */
static bool begin_input(struct stream *s, const Google__Protobuf__Any *any)
{
	const struct fake_streams_hooks *hooks = &s->streams->hooks;
	Containerd__Services__Streaming__V1__StreamInit *init;
	const char *end;
	size_t len;

	s->begun = true;
	if (!any || !str_ends(any->type_url, "StreamInit"))
		return false;
	init = containerd__services__streaming__v1__stream_init__unpack(NULL, any->value.len,
									any->value.data);
	must(init);
	end = strrchr(init->id, '/');
	must(end && str_eq(end, "/stdin"));
	len = (size_t)(end - init->id);
	if (len > 0 && init->id[len - 1] == '/') /* "<container>//stdin" */
		len--;
	snprintf(s->process, sizeof(s->process), "%.*s", (int)len, init->id);
	containerd__services__streaming__v1__stream_init__free_unpacked(init, NULL);
	if (!hooks->knows(hooks->arg, s->process)) {
		fail(s, -ENOENT, "no such process");
		return false;
	}
	send_any(s, "google.protobuf.Empty", NULL);
	if (!s->streams->deaf)
		grant_input(s, INPUT_WINDOW);
	else
		s->ahead = INPUT_WINDOW;
	return true;
}

static void take_input(struct stream *s, const Google__Protobuf__Any *any)
{
	const struct fake_streams_hooks *hooks = &s->streams->hooks;
	Containerd__Types__Transfer__Data *data;

	must(str_ends(any->type_url, "transfer.Data"));
	data = containerd__types__transfer__data__unpack(NULL, any->value.len, any->value.data);
	must(data);
	came(s, data->data.len);
	hooks->print(hooks->arg, s->process, data->data.data, data->data.len);
	containerd__types__transfer__data__free_unpacked(data, NULL);
}

static void on_input(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;
	const struct fake_streams_hooks *hooks = &s->streams->hooks;
	Google__Protobuf__Any *any = NULL;

	if (err)
		return; /* the cancel hook follows */
	if (len > 0)
		any = google__protobuf__any__unpack(NULL, len, payload);
	if (!s->begun && begin_input(s, any)) {
		;
	} else if (!s->req) {
		eof = false; /* it was refused */
	} else if (s->process[0] && any) {
		take_input(s, any);
	} else if (!s->process[0] && !eof) {
		(void)ttrpc_request_send(s->req, payload, len);
	}
	if (any)
		google__protobuf__any__free_unpacked(any, NULL);
	if (!eof)
		return;
	if (s->process[0])
		hooks->input_over(hooks->arg, s->process);
	finish(s);
}

/* ---- a port -------------------------------------------------------------------------------------------- */

static void say(struct stream *s, void *data, size_t len)
{
	Crivisor__Agent__V1__DialData msg = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;

	msg.data.data = data;
	msg.data.len = len;
	send(s, &msg.base);
}

/* False: the stream is over. */
static bool take_dial(struct stream *s, const Crivisor__Agent__V1__DialData *data)
{
	bool first = !s->begun;

	s->begun = true;
	came(s, data->data.len);
	if (first && data->port == FAKE_PORT_CLOSED) {
		fail(s, -ECONNREFUSED, "connect to port 4 in the pod: Connection refused");
		return false;
	}
	if (first && data->port == FAKE_PORT_ENDS) {
		say(s, (void *)(uintptr_t) "bye", 3);
		finish(s);
		return false;
	}
	must(!first || data->port > 0);
	if (data->data.len > 0 && !s->streams->deaf)
		say(s, data->data.data, data->data.len);
	return true;
}

static void on_dial(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;
	Crivisor__Agent__V1__DialData *data;
	bool lives = true;

	if (err)
		return; /* the cancel hook follows */
	if (len > 0) {
		data = crivisor__agent__v1__dial_data__unpack(NULL, len, payload);
		must(data);
		lives = take_dial(s, data);
		crivisor__agent__v1__dial_data__free_unpacked(data, NULL);
	}
	if (eof && lives)
		finish(s);
}

/* ---- all ----------------------------------------------------------------------------------------------- */

static struct stream *add(struct fake_streams *streams, struct ttrpc_request *req, bool port)
{
	for (size_t i = 0; i < STREAMS_MAX; i++) {
		struct stream *s = &streams->all[i];

		if (s->req)
			continue;
		*s = (struct stream){.streams = streams, .req = req, .port = port};
		ttrpc_request_on_cancel(req, on_cancel, s);
		streams->begun++;
		return s;
	}
	abort();
}

void fake_streams_open_input(struct fake_streams *streams, struct ttrpc_request *req)
{
	ttrpc_request_on_data(req, on_input, add(streams, req, false));
}

void fake_streams_open_port(struct fake_streams *streams, struct ttrpc_request *req)
{
	ttrpc_request_on_data(req, on_dial, add(streams, req, true));
}

static void look(struct fake_streams *streams, struct stream *s)
{
	const struct fake_streams_hooks *hooks = &streams->hooks;
	Crivisor__Agent__V1__DialData msg = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;

	if (s->ahead == 0 || (!s->port && !s->process[0]))
		return;
	if (!s->port && hooks->unread(hooks->arg, s->process) < OUTPUT_MAX) {
		grant_input(s, (int32_t)s->ahead);
		s->ahead = 0;
	} else if (s->port && ttrpc_out(ttrpc_request_conn(s->req))->len < OUTPUT_MAX) {
		msg.window = (uint32_t)s->ahead;
		s->ahead = 0;
		send(s, &msg.base);
	}
}

void fake_streams_look(struct fake_streams *streams)
{
	for (size_t i = 0; i < STREAMS_MAX && !streams->deaf; i++) {
		if (streams->all[i].req)
			look(streams, &streams->all[i]);
	}
}

void fake_streams_stop_reading(struct fake_streams *streams, bool on)
{
	streams->deaf = on;
}

unsigned int fake_streams_open(const struct fake_streams *streams)
{
	unsigned int n = 0;

	for (size_t i = 0; i < STREAMS_MAX; i++)
		n += streams->all[i].req != NULL;
	return n;
}

unsigned int fake_streams_begun(const struct fake_streams *streams)
{
	return streams->begun;
}

size_t fake_streams_ahead(const struct fake_streams *streams)
{
	return streams->most_ahead;
}

struct fake_streams *fake_streams_new(const struct fake_streams_hooks *hooks)
{
	struct fake_streams *streams = calloc(1, sizeof(*streams));

	must(streams);
	streams->hooks = *hooks;
	return streams;
}

struct fake_streams *fake_streams_free(struct fake_streams *streams)
{
	free(streams);
	return NULL;
}
