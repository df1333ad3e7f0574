/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/stream/spdy_internal.h"

#include "base/util.h"

#include <strings.h>
#include <zlib.h>

#define FRAME_HEADER 8
#define VERSION	     3
#define FLAG_FIN     1

enum type {
	SYN_STREAM = 1,
	SYN_REPLY = 2,
	RST_STREAM = 3,
	SETTINGS = 4,
	PING = 6,
	GOAWAY = 7,
	HEADERS = 8,
	WINDOW_UPDATE = 9,
};

struct spdy {
	const struct spdy_callbacks *callbacks;
	void *arg;
	struct buf *out;
	z_stream inflate, deflate;
	uint32_t last_id; /* of the client's streams */
	/* The frame that is being read. */
	unsigned char head[FRAME_HEADER];
	size_t head_len;
	uint32_t left; /* of its content */
	struct buf control;
};

static uint32_t get32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(unsigned char *p, uint32_t v)
{
	p[0] = (unsigned char)(v >> 24);
	p[1] = (unsigned char)(v >> 16);
	p[2] = (unsigned char)(v >> 8);
	p[3] = (unsigned char)v;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

struct spdy *spdy_new(const struct spdy_callbacks *callbacks, void *arg, struct buf *out)
{
	struct spdy *spdy = calloc(1, sizeof(*spdy));
	unsigned char dictionary[SPDY_DICTIONARY_LEN];

	if (!spdy)
		return NULL;
	spdy->callbacks = callbacks;
	spdy->arg = arg;
	spdy->out = out;
	spdy->control.max = SPDY_CONTROL_MAX;
	if (inflateInit(&spdy->inflate) != Z_OK)
		goto no_inflate;
	/* Our headers are empty: the smallest window and tables do. */
	if (deflateInit2(&spdy->deflate, 1, Z_DEFLATED, 9, 1, Z_DEFAULT_STRATEGY) != Z_OK)
		goto no_deflate;
	spdy_dictionary(dictionary);
	if (deflateSetDictionary(&spdy->deflate, dictionary, SPDY_DICTIONARY_LEN) != Z_OK)
		return spdy_free(spdy);
	return spdy;
no_deflate:
	inflateEnd(&spdy->inflate);
no_inflate:
	free(spdy);
	return NULL;
}

struct spdy *spdy_free(struct spdy *spdy)
{
	if (!spdy)
		return NULL;
	inflateEnd(&spdy->inflate);
	deflateEnd(&spdy->deflate);
	buf_done(&spdy->control);
	free(spdy);
	return NULL;
}

/* ---- headers ------------------------------------------------------------------------------------------- */

bool spdy_header(const struct spdy_headers *headers, const char *name, char *out, size_t size)
{
	size_t name_len = strlen(name);

	for (size_t i = 0; i < headers->len; i++) {
		const struct spdy_header *h = &headers->list[i];
		size_t len = h->value_len;
		const void *end;

		if (h->name_len != name_len || strncasecmp(h->name, name, name_len) != 0)
			continue;
		end = len > 0 ? memchr(h->value, 0, len) : NULL; /* several values are joined by NULs */
		if (end)
			len = (size_t)((const char *)end - h->value);
		if (len >= size)
			return false;
		if (len > 0)
			memcpy(out, h->value, len);
		out[len] = 0;
		return true;
	}
	return false;
}

/* Every block continues the same zlib stream. */
static int inflate_block(struct spdy *spdy, const unsigned char *data, size_t len, unsigned char *out,
			 size_t *ret_len, struct err *err)
{
	unsigned char dictionary[SPDY_DICTIONARY_LEN];
	z_stream *z = &spdy->inflate;
	int r = Z_OK;

	z->next_in = (unsigned char *)(uintptr_t)data;
	z->avail_in = (uInt)len;
	z->next_out = out;
	z->avail_out = SPDY_HEADERS_MAX;
	while (z->avail_in > 0 && z->avail_out > 0 && r == Z_OK) {
		r = inflate(z, Z_SYNC_FLUSH);
		if (r == Z_NEED_DICT) {
			spdy_dictionary(dictionary);
			r = inflateSetDictionary(z, dictionary, SPDY_DICTIONARY_LEN);
		}
	}
	if (z->avail_in > 0 && z->avail_out == 0)
		return err_set(err, -EPROTO, "SPDY: more than %u bytes of headers", SPDY_HEADERS_MAX);
	if (z->avail_in > 0 || (r != Z_OK && r != Z_BUF_ERROR))
		return err_set(err, -EPROTO, "SPDY: malformed header block");
	*ret_len = SPDY_HEADERS_MAX - z->avail_out;
	return 0;
}

/* A length and that many bytes from the front of *p. */
static bool take_text(const unsigned char **p, size_t *left, const char **ret_text, size_t *ret_len)
{
	uint32_t len;

	if (*left < 4)
		return false;
	len = get32(*p);
	if (len > *left - 4)
		return false;
	*ret_text = (const char *)*p + 4;
	*ret_len = len;
	*p += 4 + (size_t)len;
	*left -= 4 + (size_t)len;
	return true;
}

static int read_headers(const unsigned char *p, size_t left, struct spdy_headers *ret, struct err *err)
{
	uint32_t count = left >= 4 ? get32(p) : UINT32_MAX;

	if (count > SPDY_HEADERS_COUNT)
		return err_set(err, -EPROTO, "SPDY: malformed headers, or more than %d", SPDY_HEADERS_COUNT);
	p += 4;
	left -= 4;
	for (ret->len = 0; ret->len < count; ret->len++) {
		struct spdy_header *h = &ret->list[ret->len];

		if (!take_text(&p, &left, &h->name, &h->name_len) ||
		    !take_text(&p, &left, &h->value, &h->value_len))
			return err_set(err, -EPROTO, "SPDY: malformed headers");
	}
	return 0;
}

/* ---- control frames ------------------------------------------------------------------------------------ */

static int on_syn_stream(struct spdy *spdy, const unsigned char *data, size_t len, bool fin, struct err *err)
{
	unsigned char *plain CLEANUP_FREE = malloc(SPDY_HEADERS_MAX);
	struct spdy_headers headers;
	size_t plain_len;
	uint32_t id;
	int r;

	if (!plain)
		return err_oom(err);
	if (len < 10)
		return err_set(err, -EPROTO, "SPDY: a SYN_STREAM of %zu bytes", len);
	id = get32(data) & 0x7fffffff;
	if (id % 2 == 0 || id <= spdy->last_id)
		return err_set(err, -EPROTO, "SPDY: stream id %u after %u", id, spdy->last_id);
	spdy->last_id = id;
	r = inflate_block(spdy, data + 10, len - 10, plain, &plain_len, err);
	if (r == 0)
		r = read_headers(plain, plain_len, &headers, err);
	if (r == 0)
		spdy->callbacks->opened(spdy->arg, id, &headers, fin);
	return r;
}

/* Headers that follow later: they must be inflated, to keep the state of zlib, and mean nothing. */
static int on_headers(struct spdy *spdy, const unsigned char *data, size_t len, struct err *err)
{
	unsigned char *plain CLEANUP_FREE = malloc(SPDY_HEADERS_MAX);
	size_t plain_len;

	if (!plain)
		return err_oom(err);
	if (len < 4)
		return err_set(err, -EPROTO, "SPDY: a HEADERS frame of %zu bytes", len);
	return inflate_block(spdy, data + 4, len - 4, plain, &plain_len, err);
}

static int put_control(struct spdy *spdy, enum type type, const void *data, size_t len)
{
	unsigned char head[FRAME_HEADER];
	int r;

	put32(head, 0x80000000u | VERSION << 16 | (uint32_t)type);
	put32(head + 4, (uint32_t)len);
	r = buf_put(spdy->out, head, sizeof(head));
	return r < 0 ? r : buf_put(spdy->out, data, len);
}

static int on_control(struct spdy *spdy, struct err *err)
{
	const unsigned char *data = buf_data(&spdy->control);
	size_t len = spdy->control.len;
	bool fin = spdy->head[4] & FLAG_FIN;

	if ((get32(spdy->head) >> 16 & 0x7fff) != VERSION)
		return err_set(err, -EPROTO, "SPDY: not version 3");
	switch (get32(spdy->head) & 0xffff) {
	case SYN_STREAM:
		return on_syn_stream(spdy, data, len, fin, err);
	case SYN_REPLY: /* we open no streams */
	case HEADERS:
		return on_headers(spdy, data, len, err);
	case RST_STREAM:
		if (len < 8)
			return err_set(err, -EPROTO, "SPDY: a RST_STREAM of %zu bytes", len);
		spdy->callbacks->reset(spdy->arg, get32(data) & 0x7fffffff);
		return 0;
	case PING:
		if (len != 4)
			return err_set(err, -EPROTO, "SPDY: a PING of %zu bytes", len);
		/* Even ids would be answers to ours. */
		if (get32(data) % 2 == 1 && put_control(spdy, PING, data, 4) < 0)
			return err_oom(err);
		return 0;
	default: /* SETTINGS, GOAWAY, WINDOW_UPDATE, and what there is not */
		return 0;
	}
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static int begin_frame(struct spdy *spdy, struct err *err)
{
	spdy->left = get32(spdy->head + 4) & 0xffffff;
	if (!(spdy->head[0] & 0x80))
		return 0;
	if (spdy->left > SPDY_CONTROL_MAX)
		return err_set(err, -EPROTO, "SPDY: a control frame of %u bytes: limit is %u", spdy->left,
			       SPDY_CONTROL_MAX);
	return 0;
}

static int take_content(struct spdy *spdy, const unsigned char *data, size_t len, struct err *err)
{
	bool last = len == spdy->left;
	int r = 0;

	spdy->left -= (uint32_t)len;
	if (last)
		spdy->head_len = 0;
	if (!(spdy->head[0] & 0x80)) {
		bool fin = last && spdy->head[4] & FLAG_FIN;

		if (len > 0 || fin)
			spdy->callbacks->data(spdy->arg, get32(spdy->head), data, len, fin);
		return 0;
	}
	if (len > 0 && buf_put(&spdy->control, data, len) < 0)
		return err_oom(err);
	if (last) {
		r = on_control(spdy, err);
		buf_consume(&spdy->control, spdy->control.len);
	}
	return r;
}

int spdy_feed(struct spdy *spdy, const void *data, size_t len, struct err *err)
{
	const unsigned char *p = data;
	int r = 0;

	while (len > 0 && r == 0) {
		size_t n;

		if (spdy->head_len < FRAME_HEADER) {
			n = FRAME_HEADER - spdy->head_len;
			n = n < len ? n : len;
			memcpy(spdy->head + spdy->head_len, p, n);
			spdy->head_len += n;
			p += n;
			len -= n;
			if (spdy->head_len < FRAME_HEADER)
				return 0;
			r = begin_frame(spdy, err);
			if (r < 0 || (spdy->left > 0 && len == 0))
				return r;
		}
		n = spdy->left < len ? spdy->left : len;
		r = take_content(spdy, p, n, err);
		p += n;
		len -= n;
	}
	return r;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

int spdy_reply(struct spdy *spdy, uint32_t id)
{
	static const unsigned char none[4] = {0}; /* pairs of name and value */
	unsigned char data[4 + 256];
	z_stream *z = &spdy->deflate;

	put32(data, id);
	z->next_in = (unsigned char *)(uintptr_t)none;
	z->avail_in = sizeof(none);
	z->next_out = data + 4;
	z->avail_out = sizeof(data) - 4;
	if (deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0 || z->avail_out == 0)
		return -ENOMEM;
	return put_control(spdy, SYN_REPLY, data, sizeof(data) - z->avail_out);
}

int spdy_data(struct spdy *spdy, uint32_t id, const void *data, size_t len, bool fin)
{
	unsigned char head[FRAME_HEADER];
	int r;

	put32(head, id);
	put32(head + 4, (uint32_t)len | (fin ? (uint32_t)FLAG_FIN << 24 : 0));
	r = buf_put(spdy->out, head, sizeof(head));
	return r < 0 || len == 0 ? r : buf_put(spdy->out, data, len);
}

int spdy_reset(struct spdy *spdy, uint32_t id, enum spdy_status status)
{
	unsigned char data[8];

	put32(data, id);
	put32(data + 4, (uint32_t)status);
	return put_control(spdy, RST_STREAM, data, sizeof(data));
}

int spdy_goaway(struct spdy *spdy)
{
	unsigned char data[8];

	put32(data, spdy->last_id);
	put32(data + 4, 0);
	return put_control(spdy, GOAWAY, data, sizeof(data));
}
