/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buf.h: a growable byte queue with a cap, for sockets and codecs.
 *
 * Ownership: embedded by value; buf_done frees. Zero-initialised is empty and unlimited.
 * Threads:   none of its own.
 * Limits:    `max` bytes held at once (0: no cap); -ENOBUFS beyond it, and the content is unchanged.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <sys/types.h>

struct buf {
	unsigned char *mem;
	size_t head; /* first byte held */
	size_t len;  /* bytes held */
	size_t room; /* bytes allocated */
	size_t max;
};

static inline unsigned char *buf_data(const struct buf *b)
{
	return b->mem ? b->mem + b->head : NULL;
}
void buf_done(struct buf *b);
/* Appends; 0, -ENOMEM or -ENOBUFS. */
int buf_put(struct buf *b, const void *data, size_t len);
/*
 * Makes room for len more bytes and returns where they go (NULL on -ENOMEM/-ENOBUFS); buf_commit tells how
 * many came.
 */
void *buf_reserve(struct buf *b, size_t len);
void buf_commit(struct buf *b, size_t len);
/* Drops len bytes (at most b->len) from the front; gives memory back once a large buffer is empty. */
void buf_consume(struct buf *b, size_t len);
/* One read(2) of at most len bytes: count, 0 at EOF, negative errno (-EAGAIN included). */
ssize_t buf_read_fd(struct buf *b, int fd, size_t len);
/* One write(2)/send(MSG_NOSIGNAL) of what is held, consuming it: count or negative errno. */
ssize_t buf_write_fd(struct buf *b, int fd);

#endif
