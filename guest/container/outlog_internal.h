/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outlog_internal.h: the output of one process, both streams in the order read, kept until the host has
 * acknowledged it.
 *
 * Purpose:   offsets count bytes of both streams together, from 0 at the start of the process. Data leaves
 *            only by outlog_ack (or outlog_done); when nothing more fits, the owner stops reading the pipes,
 *            which is how backpressure reaches the process.
 * Threads:   none of its own.
 * Ownership: embedded; outlog_done frees. Data pointers live until the next append, ack or done.
 * Limits:    `max` bytes a log, OUTLOG_RUNS_MAX changes between the streams, and `pool->max` bytes for all
 *            logs of a pool: beyond that each log still gets OUTLOG_SHARE_MIN bytes, so that no process can
 *            starve another one.
 */
#ifndef GUEST_CONTAINER_OUTLOG_INTERNAL_H
#define GUEST_CONTAINER_OUTLOG_INTERNAL_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define OUTLOG_RUNS_MAX	 4096
#define OUTLOG_SHARE_MIN 4096

/* Numbered as Stream in agent.proto. */
enum outlog_stream {
	OUTLOG_STDOUT = 1,
	OUTLOG_STDERR = 2,
};

struct outlog_pool {
	size_t used, max;
};

struct outlog_run {
	uint32_t len;
	uint8_t stream;
};

struct outlog {
	struct outlog_pool *pool;
	struct buf data;
	struct outlog_run *runs; /* cover `data` exactly */
	size_t runs_len, runs_room;
	uint64_t start; /* offset of the first byte held */
	size_t max;
};

void outlog_init(struct outlog *log, struct outlog_pool *pool, size_t max);
void outlog_done(struct outlog *log);

/* Bytes that may be appended now. */
size_t outlog_space(const struct outlog *log);
static inline uint64_t outlog_end(const struct outlog *log)
{
	return log->start + log->data.len;
}
/* 0, -ENOMEM, or -ENOBUFS (more than outlog_space); nothing is taken on failure. */
int outlog_append(struct outlog *log, enum outlog_stream stream, const void *data, size_t len);
/* Forgets what lies below offset. Below the start: nothing to do. Beyond the end: -ERANGE. */
int outlog_ack(struct outlog *log, uint64_t offset);

struct outlog_record {
	enum outlog_stream stream;
	const unsigned char *data;
	size_t len;
};
/*
 * The record at *offset (moved up to the start if below it), at most max bytes of it; *offset is moved past
 * it. False at the end.
 */
bool outlog_next(const struct outlog *log, uint64_t *offset, size_t max, struct outlog_record *ret);

#endif
