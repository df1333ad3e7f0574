/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbwire.h: the protobuf wire format, one field at a time, without any schema.
 *
 * Purpose:   what the ttrpc frames and pb_check read and write themselves.
 * Threads:   no shared state.
 * Ownership: a field points into the bytes it was read from.
 * Limits:    field numbers 1 … 2^29-1; varints of at most 10 bytes; groups are refused (proto3 has none, and
 *            protobuf-c does not know them).
 * Source:    protobuf.dev, "Encoding".
 */
#ifndef API_PBWIRE_H
#define API_PBWIRE_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum pbw_type {
	PBW_VARINT = 0,
	PBW_I64 = 1,
	PBW_LEN = 2,
	PBW_I32 = 5,
};

struct pbw_field {
	uint32_t number;
	enum pbw_type type;
	uint64_t value;	     /* of VARINT, I64 and I32 */
	const uint8_t *data; /* of LEN */
	size_t len;
};

/* Reads one varint: 0 or -EBADMSG (truncated, or more than 64 bits). */
static inline int pbw_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value)
{
	const uint8_t *p = *at;
	uint64_t v = 0;

	for (unsigned int shift = 0; shift < 64; shift += 7) {
		if (p == end)
			return -EBADMSG;
		if (shift == 63 && *p > 1)
			return -EBADMSG;
		v |= (uint64_t)(*p & 0x7f) << shift;
		if (!(*p++ & 0x80)) {
			*at = p;
			*ret_value = v;
			return 0;
		}
	}
	return -EBADMSG;
}

static inline int pbw_fixed(const uint8_t **at, const uint8_t *end, size_t n, uint64_t *ret_value)
{
	uint64_t v = 0;

	if ((size_t)(end - *at) < n)
		return -EBADMSG;
	for (size_t i = n; i-- > 0;)
		v = v << 8 | (*at)[i];
	*at += n;
	*ret_value = v;
	return 0;
}

/* The next field: 1, 0 at the end, or -EBADMSG. */
static inline int pbw_next(const uint8_t **at, const uint8_t *end, struct pbw_field *f)
{
	const uint8_t *start = *at;
	uint64_t v;

	if (*at == end)
		return 0;
	/* A tag and a length have 32 bits, in at most 5 bytes even if they are padded. */
	if (pbw_varint(at, end, &v) < 0 || v > UINT32_MAX || v >> 3 == 0 || *at - start > 5)
		return -EBADMSG;
	*f = (struct pbw_field){.number = (uint32_t)(v >> 3), .type = (enum pbw_type)(v & 7)};
	switch (v & 7) {
	case PBW_VARINT:
		return pbw_varint(at, end, &f->value) < 0 ? -EBADMSG : 1;
	case PBW_I64:
		return pbw_fixed(at, end, 8, &f->value) < 0 ? -EBADMSG : 1;
	case PBW_I32:
		return pbw_fixed(at, end, 4, &f->value) < 0 ? -EBADMSG : 1;
	case PBW_LEN:
		start = *at;
		if (pbw_varint(at, end, &v) < 0 || v > (uint64_t)(end - *at) || *at - start > 5)
			return -EBADMSG;
		f->data = *at;
		f->len = (size_t)v;
		*at += v;
		return 1;
	default:
		return -EBADMSG;
	}
}

static inline size_t pbw_varint_size(uint64_t v)
{
	size_t n = 1;

	while (v >>= 7)
		n++;
	return n;
}

static inline uint8_t *pbw_put_varint(uint8_t *p, uint64_t v)
{
	while (v >= 0x80) {
		*p++ = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	*p++ = (uint8_t)v;
	return p;
}

/* A LEN field with a number below 16. */
static inline size_t pbw_len_size(size_t len)
{
	return 1 + pbw_varint_size(len) + len;
}

static inline uint8_t *pbw_put_len(uint8_t *p, uint32_t number, const void *data, size_t len)
{
	*p++ = (uint8_t)(number << 3 | PBW_LEN);
	p = pbw_put_varint(p, len);
	if (len > 0)
		memcpy(p, data, len);
	return p + len;
}

#endif
