/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ws_internal.h: WebSocket frames, the server's side, by wslay; the handshake's answer; base64.
 *
 * Threads:   one at a time.
 * Ownership: the buffer `out` is the user's.
 * Limits:    messages are handed on in pieces as they come, of any length. Control frames: RFC 6455's 125
 *            bytes.
 * Errors:    -EPROTO: the connection is to be closed; wslay has queued the close frame that says why.
 * Source:    RFC 6455.
 */
#ifndef CRI_STREAM_WS_INTERNAL_H
#define CRI_STREAM_WS_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ws;

/* A piece of a message: `first` begins one. text: its kind. */
typedef void ws_data_fn(void *arg, const void *data, size_t len, bool first, bool text);

struct ws *ws_new(ws_data_fn *on_data, void *arg, struct buf *out);
struct ws *ws_free(struct ws *ws);
/* Takes all of the bytes; *ret_closed: the client has closed, and its close is answered. */
int ws_feed(struct ws *ws, const void *data, size_t len, bool *ret_closed, struct err *err);
/* One message, of `first` (if it is not below 0) and the data. 0, -ENOMEM or -EPIPE. */
int ws_send(struct ws *ws, int first, const void *data, size_t len, bool text);
/* A close frame with status 1000. */
int ws_close(struct ws *ws);

#define WS_ACCEPT_MAX 32
/* Sec-WebSocket-Accept for a Sec-WebSocket-Key. */
void ws_accept(const char *key, char ret_accept[WS_ACCEPT_MAX]);

/* malloc'ed, terminated. NULL: out of memory. */
char *base64_encode(const void *data, size_t len);
/* In pieces: up to three characters wait for the rest. */
struct base64 {
	uint32_t bits;
	unsigned int n;
	bool ended;
};
/* out has room for len bytes. The count, or -EPROTO. */
ssize_t base64_decode(struct base64 *state, const void *data, size_t len, unsigned char *out);

#endif
