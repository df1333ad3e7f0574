/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Port forwarding on SPDY: for each forwarded connection a stream for its data and one for an error.
 *
 * Source: portforward.k8s.io of Kubernetes: headers streamType (data, error), port, requestID.
 */
#include "cri/stream/session_internal.h"

#include <strings.h>

static struct stream_pipe *find_id(struct session *session, uint32_t id)
{
	struct stream_pipe *pipe = session->pipes;

	while (pipe && !(pipe->open[CHANNEL_STDIN] && pipe->id[CHANNEL_STDIN] == id) &&
	       !(pipe->open[CHANNEL_ERROR] && pipe->id[CHANNEL_ERROR] == id))
		pipe = pipe->next;
	return pipe;
}

static struct stream_pipe *find_request(struct session *session, const char *request_id)
{
	struct stream_pipe *pipe = session->pipes;

	while (pipe && (pipe->complete || !str_eq(pipe->request_id, request_id)))
		pipe = pipe->next;
	return pipe;
}

struct opening {
	bool data;
	uint16_t port;
	char request_id[64];
};

/* False: not as the protocol has it. */
static bool read_opening(const struct spdy_headers *headers, uint32_t id, struct opening *ret)
{
	char type[16], port[16];
	uint64_t number;

	if (!spdy_header(headers, "streamType", type, sizeof(type)) ||
	    (strcasecmp(type, "data") != 0 && strcasecmp(type, "error") != 0))
		return false;
	ret->data = strcasecmp(type, "data") == 0;
	if (!spdy_header(headers, "port", port, sizeof(port)) || parse_u64(port, &number) < 0 ||
	    number == 0 || number > UINT16_MAX)
		return false;
	ret->port = (uint16_t)number;
	/* Clients without request ids open the error stream, and next the data stream. */
	if (!spdy_header(headers, "requestID", ret->request_id, sizeof(ret->request_id)))
		snprintf(ret->request_id, sizeof(ret->request_id), "#%u", ret->data ? id - 2 : id);
	return true;
}

void forward_opened(struct session *session, uint32_t id, const struct spdy_headers *headers, bool fin)
{
	struct opening opening;
	struct stream_pipe *pipe = NULL;
	enum channel channel;

	if (!read_opening(headers, id, &opening)) {
		(void)spdy_reset(session->spdy, id, SPDY_PROTOCOL_ERROR);
		return;
	}
	channel = opening.data ? CHANNEL_STDIN : CHANNEL_ERROR;
	pipe = find_request(session, opening.request_id);
	if (!pipe) {
		pipe = session_pipe_new(session);
		if (pipe) {
			pipe->port = opening.port;
			memcpy(pipe->request_id, opening.request_id, sizeof(pipe->request_id));
		}
	}
	if (!pipe || pipe->open[channel] || pipe->port != opening.port) {
		(void)spdy_reset(session->spdy, id, SPDY_REFUSED_STREAM);
		return;
	}
	pipe->open[channel] = true;
	pipe->id[channel] = id;
	if (opening.data) {
		pipe->open[CHANNEL_STDOUT] = true;
		pipe->id[CHANNEL_STDOUT] = id;
	}
	if (spdy_reply(session->spdy, id) < 0) {
		session_fail(session, "out of memory");
		return;
	}
	if (!pipe->open[CHANNEL_STDIN] || !pipe->open[CHANNEL_ERROR])
		return;
	session_accept(pipe);
	if (fin && opening.data && find_id(session, id) == pipe)
		session_input_end(pipe);
}

void forward_data(struct session *session, uint32_t id, const void *data, size_t len, bool fin)
{
	struct stream_pipe *pipe = find_id(session, id);

	if (!pipe || pipe->id[CHANNEL_STDIN] != id || !pipe->open[CHANNEL_STDIN])
		return;
	if (!pipe->complete) {
		session_fail(session, "data before the error stream was opened");
		return;
	}
	if (len > 0 && !pipe->input_over)
		pipe->ops->input(pipe->arg, data, len);
	if (fin && find_id(session, id) == pipe)
		session_input_end(pipe);
}

/* The error stream's reset means nothing: clients write nothing to it. */
void forward_reset(struct session *session, uint32_t id)
{
	struct stream_pipe *pipe = find_id(session, id);

	if (pipe && pipe->open[CHANNEL_STDIN] && pipe->id[CHANNEL_STDIN] == id)
		session_pipe_gone(pipe);
	else if (pipe)
		pipe->open[CHANNEL_ERROR] = false;
}

void forward_finish(struct stream_pipe *pipe, const struct err *why)
{
	if (why)
		session_send(pipe, CHANNEL_ERROR, why->msg, strlen(why->msg));
	session_send_end(pipe, CHANNEL_ERROR);
	session_send_end(pipe, CHANNEL_STDOUT);
	session_pipe_free(pipe);
}
