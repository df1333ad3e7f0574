/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SPDY as a client might send it, in pieces of a size that the first byte names. Each stream that is opened
 * is answered, and each piece of data echoed.
 */
#include "base/util.h"
#include "cri/stream/spdy_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct spdy *spdy;

static void on_opened(void *arg, uint32_t id, const struct spdy_headers *headers, bool fin)
{
	char type[16], port[8];

	(void)arg;
	(void)fin;
	(void)spdy_header(headers, "streamType", type, sizeof(type));
	(void)spdy_header(headers, "port", port, sizeof(port));
	(void)spdy_reply(spdy, id);
}

static void on_data(void *arg, uint32_t id, const void *data, size_t len, bool fin)
{
	(void)arg;
	(void)spdy_data(spdy, id, data, len, fin);
}

static void on_reset(void *arg, uint32_t id)
{
	(void)arg;
	(void)spdy_reset(spdy, id, SPDY_CANCEL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct spdy_callbacks callbacks = {on_opened, on_data, on_reset};
	struct buf out = {.max = 1 << 20};
	size_t step = size ? (size_t)data[0] + 1 : 1;

	spdy = spdy_new(&callbacks, NULL, &out);
	if (!spdy)
		return 0;
	for (size_t at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (spdy_feed(spdy, data + at, n, NULL) < 0)
			break;
	}
	spdy = spdy_free(spdy);
	buf_done(&out);
	return 0;
}
