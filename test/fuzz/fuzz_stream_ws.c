/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WebSocket frames in pieces of a size that the first byte names; each piece of a message is echoed, and
 * decoded.
 */
#include "base/util.h"
#include "cri/stream/ws_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ws *ws;
static struct base64 base64;

static void on_data(void *arg, const void *data, size_t len, bool first, bool text)
{
	unsigned char *plain = malloc(len + 1);

	(void)arg;
	if (first)
		base64 = (struct base64){0};
	if (plain)
		(void)base64_decode(&base64, data, len, plain);
	free(plain);
	(void)ws_send(ws, first ? 1 : -1, data, len, text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf out = {.max = 1 << 20};
	size_t step = size ? (size_t)data[0] + 1 : 1;
	bool closed = false;

	ws = ws_new(on_data, NULL, &out);
	if (!ws)
		return 0;
	for (size_t at = 1; at < size && !closed; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (ws_feed(ws, data + at, n, &closed, NULL) < 0)
			break;
	}
	(void)ws_close(ws);
	ws = ws_free(ws);
	buf_done(&out);
	return 0;
}
