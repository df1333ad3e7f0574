/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include "base/util.h"

#include <sys/socket.h>

#define BUF_MIN	 512
#define BUF_KEEP 16384 /* an empty buffer keeps at most this much memory */

void buf_done(struct buf *b)
{
	free(b->mem);
	b->mem = NULL;
	b->head = b->len = b->room = 0;
}

void *buf_reserve(struct buf *b, size_t len)
{
	size_t need, room;
	unsigned char *grown;

	if (__builtin_add_overflow(b->len, len, &need) || (b->max && need > b->max)) {
		errno = ENOBUFS;
		return NULL;
	}
	if (b->room - b->head >= need && b->mem)
		return b->mem + b->head + b->len;
	if (b->head > 0) {
		memmove(b->mem, b->mem + b->head, b->len);
		b->head = 0;
		if (b->room >= need)
			return b->mem + b->len;
	}
	room = b->room ? b->room : BUF_MIN;
	while (room < need) {
		if (__builtin_mul_overflow(room, (size_t)2, &room))
			room = need;
	}
	grown = realloc(b->mem, room);
	if (!grown) {
		errno = ENOMEM;
		return NULL;
	}
	b->mem = grown;
	b->room = room;
	return b->mem + b->len;
}

void buf_commit(struct buf *b, size_t len)
{
	b->len += len;
}

int buf_put(struct buf *b, const void *data, size_t len)
{
	void *p;

	if (len == 0)
		return 0;
	p = buf_reserve(b, len);
	if (!p)
		return -errno;
	memcpy(p, data, len);
	b->len += len;
	return 0;
}

void buf_consume(struct buf *b, size_t len)
{
	if (len > b->len)
		len = b->len;
	b->head += len;
	b->len -= len;
	if (b->len == 0) {
		b->head = 0;
		if (b->room > BUF_KEEP)
			buf_done(b);
	}
}

ssize_t buf_read_fd(struct buf *b, int fd, size_t len)
{
	void *p = buf_reserve(b, len);
	ssize_t n;

	if (!p)
		return -errno;
	n = read(fd, p, len);
	if (n < 0)
		return -errno;
	b->len += (size_t)n;
	return n;
}

ssize_t buf_write_fd(struct buf *b, int fd)
{
	ssize_t n = send(fd, buf_data(b), b->len, MSG_NOSIGNAL);

	if (n < 0 && errno == ENOTSOCK)
		n = write(fd, buf_data(b), b->len);
	if (n < 0)
		return -errno;
	buf_consume(b, (size_t)n);
	return n;
}
