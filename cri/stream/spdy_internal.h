/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spdy_internal.h: SPDY/3.1 framing, the server's side.
 *
 * Purpose:   bytes in, callbacks out; frames out into a buffer. It keeps no table of streams: whether an id
 *            is open is its user's affair, but new ids are odd and grow.
 * Threads:   one at a time.
 * Ownership: what a callback is given lives until it returns. The buffer `out` is the user's.
 * Limits:    a control frame of SPDY_CONTROL_MAX bytes, SPDY_HEADERS_MAX bytes of headers once inflated. Data
 *            is handed on as it comes, whatever the length of its frame. About 50 KiB of memory, nearly all
 *            of it zlib's.
 * Errors:    -EPROTO: the connection is to be closed.
 * Source:    SPDY Protocol, Draft 3.1. Flow control is left out, as Kubernetes' own peers do: WINDOW_UPDATE
 *            and SETTINGS are read and ignored.
 */
#ifndef CRI_STREAM_SPDY_INTERNAL_H
#define CRI_STREAM_SPDY_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPDY_DICTIONARY_LEN 1423
#define SPDY_CONTROL_MAX    (16u * 1024)
#define SPDY_HEADERS_MAX    (16u * 1024)
#define SPDY_HEADERS_COUNT  64

/* What both ends prime zlib with: section 2.6.10.1. */
void spdy_dictionary(unsigned char ret_bytes[SPDY_DICTIONARY_LEN]);

struct spdy;

struct spdy_header {
	const char *name, *value; /* not terminated */
	size_t name_len, value_len;
};
struct spdy_headers {
	struct spdy_header list[SPDY_HEADERS_COUNT];
	size_t len;
};
/* A header's first value, whatever the case of its name, into out: false if it is absent or too long. */
bool spdy_header(const struct spdy_headers *headers, const char *name, char *out, size_t size);

struct spdy_callbacks {
	void (*opened)(void *arg, uint32_t id, const struct spdy_headers *headers, bool fin);
	void (*data)(void *arg, uint32_t id, const void *data, size_t len, bool fin);
	void (*reset)(void *arg, uint32_t id);
};

/* NULL: out of memory. */
struct spdy *spdy_new(const struct spdy_callbacks *callbacks, void *arg, struct buf *out);
struct spdy *spdy_free(struct spdy *spdy);
/* Takes all of the bytes. */
int spdy_feed(struct spdy *spdy, const void *data, size_t len, struct err *err);

/* 0 or -ENOMEM. */
int spdy_reply(struct spdy *spdy, uint32_t id);
int spdy_data(struct spdy *spdy, uint32_t id, const void *data, size_t len, bool fin);
enum spdy_status {
	SPDY_PROTOCOL_ERROR = 1,
	SPDY_REFUSED_STREAM = 3,
	SPDY_CANCEL = 5,
};
int spdy_reset(struct spdy *spdy, uint32_t id, enum spdy_status status);
int spdy_goaway(struct spdy *spdy);

#endif
