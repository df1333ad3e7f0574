/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/stream/ws_internal.h"

#include "base/util.h"

#include <openssl/evp.h>
#include <wslay/wslay.h>

#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

struct ws {
	wslay_event_context_ptr ctx;
	ws_data_fn *on_data;
	void *arg;
	struct buf *out;
	/* What ws_feed was given and wslay has not read yet. */
	const unsigned char *in;
	size_t in_len;
	bool begun, text, control; /* of the message, and the frame, that is being read */
	bool no_memory;
};

/* ---- wslay's callbacks --------------------------------------------------------------------------------- */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *arg)
{
	struct ws *ws = arg;
	size_t n = ws->in_len < len ? ws->in_len : len;

	(void)flags;
	if (n == 0) {
		wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	memcpy(buf, ws->in, n);
	ws->in += n;
	ws->in_len -= n;
	return (ssize_t)n;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags, void *arg)
{
	struct ws *ws = arg;

	(void)flags;
	if (buf_put(ws->out, data, len) == 0)
		return (ssize_t)len;
	ws->no_memory = true;
	wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static void on_start(wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_start_arg *frame,
		     void *arg)
{
	struct ws *ws = arg;

	(void)ctx;
	ws->control = wslay_is_ctrl_frame(frame->opcode);
	if (ws->control || frame->opcode == WSLAY_CONTINUATION_FRAME)
		return;
	ws->begun = true;
	ws->text = frame->opcode == WSLAY_TEXT_FRAME;
}

static void on_chunk(wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_chunk_arg *chunk,
		     void *arg)
{
	struct ws *ws = arg;
	bool first = ws->begun;

	(void)ctx;
	if (ws->control || chunk->data_length == 0)
		return;
	ws->begun = false;
	ws->on_data(ws->arg, chunk->data, chunk->data_length, first, ws->text);
}

/* ---- life and use -------------------------------------------------------------------------------------- */

struct ws *ws_new(ws_data_fn *on_data, void *arg, struct buf *out)
{
	static const struct wslay_event_callbacks callbacks = {
		.recv_callback = on_recv,
		.send_callback = on_send,
		.on_frame_recv_start_callback = on_start,
		.on_frame_recv_chunk_callback = on_chunk,
	};
	struct ws *ws = calloc(1, sizeof(*ws));

	if (!ws)
		return NULL;
	*ws = (struct ws){.on_data = on_data, .arg = arg, .out = out};
	if (wslay_event_context_server_init(&ws->ctx, &callbacks, ws) != 0) {
		free(ws);
		return NULL;
	}
	wslay_event_config_set_no_buffering(ws->ctx, 1);
	wslay_event_config_set_max_recv_msg_length(ws->ctx, UINT64_MAX >> 1);
	return ws;
}

struct ws *ws_free(struct ws *ws)
{
	if (!ws)
		return NULL;
	wslay_event_context_free(ws->ctx);
	free(ws);
	return NULL;
}

/* Everything that is queued goes to the buffer at once. */
static int flush(struct ws *ws)
{
	return wslay_event_send(ws->ctx) == 0 && !ws->no_memory ? 0 : -ENOMEM;
}

int ws_feed(struct ws *ws, const void *data, size_t len, bool *ret_closed, struct err *err)
{
	int r;

	ws->in = data;
	ws->in_len = len;
	r = wslay_event_recv(ws->ctx);
	if (flush(ws) < 0)
		return err_oom(err);
	if (r != 0)
		return err_set(err, -EPROTO, "WebSocket: malformed frame");
	*ret_closed = wslay_event_get_close_received(ws->ctx);
	/* wslay stops reading at a close frame and at a frame that breaks the rules. */
	if (!*ret_closed && !wslay_event_get_read_enabled(ws->ctx))
		return err_set(err, -EPROTO, "WebSocket: malformed frame");
	return 0;
}

int ws_send(struct ws *ws, int first, const void *data, size_t len, bool text)
{
	unsigned char *message CLEANUP_FREE = malloc(len + 1);
	size_t n = 0;
	struct wslay_event_msg msg = {.opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME};
	int r;

	if (!message)
		return -ENOMEM;
	if (first >= 0)
		message[n++] = (unsigned char)first;
	if (len > 0)
		memcpy(message + n, data, len);
	msg.msg = message;
	msg.msg_length = n + len;
	r = wslay_event_queue_msg(ws->ctx, &msg);
	if (r == WSLAY_ERR_NO_MORE_MSG)
		return -EPIPE;
	return r == 0 ? flush(ws) : -ENOMEM;
}

int ws_close(struct ws *ws)
{
	int r = wslay_event_queue_close(ws->ctx, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);

	return r == 0 ? flush(ws) : -EPIPE;
}

void ws_accept(const char *key, char ret_accept[WS_ACCEPT_MAX])
{
	unsigned char digest[EVP_MAX_MD_SIZE], encoded[4 * EVP_MAX_MD_SIZE];
	char text[128];
	unsigned int len = 0;

	ret_accept[0] = 0;
	snprintf(text, sizeof(text), "%s%s", key, GUID);
	if (EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL) != 1)
		return;
	EVP_EncodeBlock(encoded, digest, (int)len);
	snprintf(ret_accept, WS_ACCEPT_MAX, "%s", (const char *)encoded);
}

/* ---- base64 -------------------------------------------------------------------------------------------- */

char *base64_encode(const void *data, size_t len)
{
	unsigned char *out = malloc(4 * ((len + 2) / 3) + 1);

	if (out)
		EVP_EncodeBlock(out, data, (int)len);
	return (char *)out;
}

static int value_of(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ssize_t base64_decode(struct base64 *state, const void *data, size_t len, unsigned char *out)
{
	const unsigned char *p = data;
	ssize_t n = 0;

	for (size_t i = 0; i < len; i++) {
		int v = value_of(p[i]);

		if (p[i] == '=') {
			state->ended = true;
			continue;
		}
		if (v < 0 || state->ended)
			return -EPROTO;
		state->bits = state->bits << 6 | (uint32_t)v;
		state->n++;
		if (state->n % 4 == 1)
			continue;
		out[n++] = (unsigned char)(state->bits >> (6 - 2 * ((state->n - 1) % 4)));
	}
	return n;
}
