/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exec and attach: a command's channels on SPDY streams or in WebSocket messages.
 *
 * Source:    remotecommand of Kubernetes: v1 to v4 on SPDY, v4 and v5 (and the unnamed first version) on
 *            WebSocket. The error channel carries the end: from v4 on a metav1.Status as JSON, before that an
 *            error's text.
 */
#include "cri/stream/session_internal.h"

#include <json-c/json.h>
#include <strings.h>

#define V5_CLOSE 255

static const char *const names[CHANNELS] = {"stdin", "stdout", "stderr", "error", "resize"};

/* The channels that the client opens. Version 1 and 2 know no resize. */
static bool is_wanted(const struct session *session, enum channel channel)
{
	switch (channel) {
	case CHANNEL_STDIN:
		return session->request.in;
	case CHANNEL_STDOUT:
		return session->request.out;
	case CHANNEL_STDERR:
		return session->request.err && !session->request.tty;
	case CHANNEL_ERROR:
		return true;
	case CHANNEL_RESIZE:
		return session->request.tty && session->version >= 3;
	case CHANNELS:
		break;
	}
	return false;
}

/* ---- from the client ----------------------------------------------------------------------------------- */

static void take_size(struct stream_pipe *pipe, const char *text)
{
	struct json_object *size = json_tokener_parse(text), *width, *height;

	if (json_object_object_get_ex(size, "Width", &width) &&
	    json_object_object_get_ex(size, "Height", &height)) {
		int64_t w = json_object_get_int64(width), h = json_object_get_int64(height);

		if (w > 0 && w <= UINT16_MAX && h > 0 && h <= UINT16_MAX)
			pipe->ops->resize(pipe->arg, (uint16_t)w, (uint16_t)h);
	}
	json_object_put(size);
}

/* Objects one after the other, in pieces. */
static void take_resize(struct stream_pipe *pipe, const char *data, size_t len)
{
	struct session *session = pipe->session;

	for (size_t i = 0; i < len && !session->broken && !session->closing; i++) {
		if (session->resize_len + 1 >= sizeof(session->resize)) {
			session_fail(session, "malformed window size");
			return;
		}
		session->resize[session->resize_len++] = data[i];
		if (data[i] != '}')
			continue;
		session->resize[session->resize_len] = 0;
		session->resize_len = 0;
		take_size(pipe, session->resize);
	}
}

static void take(struct stream_pipe *pipe, enum channel channel, const void *data, size_t len)
{
	if (channel == CHANNEL_STDIN && len > 0 && !pipe->input_over)
		pipe->ops->input(pipe->arg, data, len);
	else if (channel == CHANNEL_RESIZE)
		take_resize(pipe, data, len);
}

/* ---- on SPDY ------------------------------------------------------------------------------------------- */

/* -1: it is none of ours. */
static int channel_of(const struct stream_pipe *pipe, uint32_t id)
{
	for (int i = 0; i < CHANNELS; i++) {
		if (pipe->open[i] && pipe->id[i] == id)
			return i;
	}
	return -1;
}

static void look_whether_complete(struct stream_pipe *pipe)
{
	for (int i = 0; i < CHANNELS; i++) {
		if (is_wanted(pipe->session, (enum channel)i) && !pipe->open[i])
			return;
	}
	session_accept(pipe);
}

static int channel_named(const char *name)
{
	for (int i = 0; i < CHANNELS; i++) {
		if (strcasecmp(names[i], name) == 0)
			return i;
	}
	return -1;
}

void command_opened(struct session *session, uint32_t id, const struct spdy_headers *headers, bool fin)
{
	struct stream_pipe *pipe = session->pipes ? session->pipes : session_pipe_new(session);
	char name[16];
	int channel = spdy_header(headers, "streamType", name, sizeof(name)) ? channel_named(name) : -1;

	if (!pipe) {
		session_fail(session, "out of memory");
		return;
	}
	if (channel < 0 || !is_wanted(session, (enum channel)channel) || pipe->open[channel]) {
		(void)spdy_reset(session->spdy, id, SPDY_REFUSED_STREAM);
		return;
	}
	pipe->open[channel] = true;
	pipe->id[channel] = id;
	if (spdy_reply(session->spdy, id) < 0) {
		session_fail(session, "out of memory");
		return;
	}
	look_whether_complete(pipe);
	if (fin && channel == CHANNEL_STDIN && session->pipes == pipe)
		session_input_end(pipe);
}

void command_data(struct session *session, uint32_t id, const void *data, size_t len, bool fin)
{
	struct stream_pipe *pipe = session->pipes;
	int channel = pipe ? channel_of(pipe, id) : -1;

	if (channel < 0)
		return; /* of a stream that was refused, or has ended */
	if (!pipe->complete) {
		session_fail(session, "data before all streams were opened");
		return;
	}
	take(pipe, (enum channel)channel, data, len);
	if (fin && channel == CHANNEL_STDIN && session->pipes == pipe)
		session_input_end(pipe);
}

/* A client that wants no more of a channel. Without its error stream there is nothing left to tell it. */
void command_reset(struct session *session, uint32_t id)
{
	struct stream_pipe *pipe = session->pipes;
	int channel = pipe ? channel_of(pipe, id) : -1;

	if (channel < 0)
		return;
	pipe->open[channel] = false;
	if (channel == CHANNEL_ERROR || !pipe->complete)
		session_fail(session, "the client has reset its streams");
	else if (channel == CHANNEL_STDIN)
		session_input_end(pipe);
}

/* ---- in messages --------------------------------------------------------------------------------------- */

void command_begin(struct session *session)
{
	struct stream_pipe *pipe = session_pipe_new(session);

	if (!pipe) {
		session_fail(session, "out of memory");
		return;
	}
	for (int i = 0; i < CHANNELS; i++)
		pipe->open[i] = i == CHANNEL_RESIZE || is_wanted(session, (enum channel)i);
	/* Clients take the first message for the sign that the connection stands. */
	session_send(pipe,
		     session->request.out   ? CHANNEL_STDOUT
		     : session->request.err ? CHANNEL_STDERR
					    : CHANNEL_ERROR,
		     "", 0);
	session_accept(pipe);
}

static void take_base64(struct session *session, const void *data, size_t len)
{
	unsigned char *plain CLEANUP_FREE = malloc(len + 1);
	ssize_t n = plain ? base64_decode(&session->base64, data, len, plain) : -ENOMEM;

	if (n < 0)
		session_fail(session, n == -ENOMEM ? "out of memory" : "malformed base64");
	else if (session->pipes && n > 0)
		take(session->pipes, (enum channel)session->channel, plain, (size_t)n);
}

/* The first byte of a message names its channel. False: it is none that a client writes to. */
static bool take_channel(struct session *session, unsigned char first)
{
	int channel = session->text ? first - '0' : first;

	session->channel = channel;
	session->base64 = (struct base64){0};
	if (channel == V5_CLOSE && session->version >= 5 && !session->text)
		return true;
	return channel >= 0 && channel < CHANNELS;
}

void command_message(struct session *session, const void *data, size_t len, bool first)
{
	const unsigned char *p = data;

	if (first) {
		if (!take_channel(session, p[0])) {
			session_fail(session, "a message for an unknown channel");
			return;
		}
		p++;
		len--;
	}
	if (len == 0 || !session->pipes)
		return;
	if (session->channel == V5_CLOSE) {
		if (p[0] == CHANNEL_STDIN)
			session_input_end(session->pipes);
	} else if (session->text) {
		take_base64(session, p, len);
	} else {
		take(session->pipes, (enum channel)session->channel, p, len);
	}
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static void add(struct json_object *to, const char *key, struct json_object *value)
{
	json_object_object_add(to, key, value);
}

static struct json_object *exit_details(const char *code)
{
	struct json_object *details = json_object_new_object(), *causes = json_object_new_array(),
			   *cause = json_object_new_object();

	add(cause, "reason", json_object_new_string("ExitCode"));
	add(cause, "message", json_object_new_string(code));
	json_object_array_add(causes, cause);
	add(details, "causes", causes);
	return details;
}

/* A metav1.Status. */
static struct json_object *status_of(int exit_code, const struct err *why)
{
	struct json_object *status = json_object_new_object();
	char code[16], text[64];

	add(status, "metadata", json_object_new_object());
	add(status, "status", json_object_new_string(why || exit_code != 0 ? "Failure" : "Success"));
	if (why) {
		add(status, "reason", json_object_new_string("InternalError"));
		add(status, "message", json_object_new_string(why->msg));
		add(status, "code", json_object_new_int(500));
	} else if (exit_code != 0) {
		snprintf(code, sizeof(code), "%d", exit_code);
		snprintf(text, sizeof(text), "command terminated with non-zero exit code: exit status %d",
			 exit_code);
		add(status, "reason", json_object_new_string("NonZeroExitCode"));
		add(status, "message", json_object_new_string(text));
		add(status, "details", exit_details(code));
	}
	return status;
}

static void send_status(struct stream_pipe *pipe, int exit_code, const struct err *why)
{
	struct json_object *status = status_of(exit_code, why);
	const char *text = json_object_to_json_string_ext(status, JSON_C_TO_STRING_PLAIN);

	if (pipe->session->version >= 4)
		session_send(pipe, CHANNEL_ERROR, text, strlen(text));
	else if (why)
		session_send(pipe, CHANNEL_ERROR, why->msg, strlen(why->msg));
	else if (exit_code != 0)
		session_send(pipe, CHANNEL_ERROR,
			     json_object_get_string(json_object_object_get(status, "message")),
			     (size_t)json_object_get_string_len(json_object_object_get(status, "message")));
	json_object_put(status);
}

void command_finish(struct stream_pipe *pipe, int exit_code, const struct err *why)
{
	struct session *session = pipe->session;

	send_status(pipe, exit_code, why);
	session_send_end(pipe, CHANNEL_STDOUT);
	session_send_end(pipe, CHANNEL_STDERR);
	session_send_end(pipe, CHANNEL_ERROR);
	session_pipe_free(pipe);
	session_end(session);
}
