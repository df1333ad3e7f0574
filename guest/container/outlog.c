/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/outlog_internal.h"

#include "base/util.h"

#define RUNS_MIN 8

void outlog_init(struct outlog *log, struct outlog_pool *pool, size_t max)
{
	*log = (struct outlog){.pool = pool, .max = max};
}

static void drop_all(struct outlog *log)
{
	log->pool->used -= log->data.len;
	buf_done(&log->data);
	free(log->runs);
	log->runs = NULL;
	log->runs_len = log->runs_room = 0;
}

void outlog_done(struct outlog *log)
{
	if (log->pool)
		drop_all(log);
	log->pool = NULL;
}

size_t outlog_space(const struct outlog *log)
{
	size_t room = log->max - log->data.len, pool, share;

	if (log->runs_len >= OUTLOG_RUNS_MAX)
		return 0;
	pool = log->pool->used < log->pool->max ? log->pool->max - log->pool->used : 0;
	share = log->data.len < OUTLOG_SHARE_MIN ? OUTLOG_SHARE_MIN - log->data.len : 0;
	pool = pool > share ? pool : share;
	return room < pool ? room : pool;
}

static int add_run(struct outlog *log, enum outlog_stream stream, size_t len)
{
	struct outlog_run *last = log->runs_len ? &log->runs[log->runs_len - 1] : NULL;

	if (last && last->stream == stream) {
		last->len += (uint32_t)len;
		return 0;
	}
	if (log->runs_len == log->runs_room) {
		size_t room = log->runs_room ? log->runs_room * 2 : RUNS_MIN;
		struct outlog_run *grown = reallocarray(log->runs, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		log->runs = grown;
		log->runs_room = room;
	}
	log->runs[log->runs_len++] = (struct outlog_run){.len = (uint32_t)len, .stream = (uint8_t)stream};
	return 0;
}

int outlog_append(struct outlog *log, enum outlog_stream stream, const void *data, size_t len)
{
	void *room;
	int r;

	if (len == 0)
		return 0;
	if (len > outlog_space(log))
		return -ENOBUFS;
	room = buf_reserve(&log->data, len);
	if (!room)
		return -errno;
	r = add_run(log, stream, len);
	if (r < 0)
		return r;
	memcpy(room, data, len);
	buf_commit(&log->data, len);
	log->pool->used += len;
	return 0;
}

int outlog_ack(struct outlog *log, uint64_t offset)
{
	size_t drop, gone = 0, i = 0;

	if (offset > outlog_end(log))
		return -ERANGE;
	if (offset <= log->start)
		return 0;
	drop = (size_t)(offset - log->start);
	log->start = offset;
	if (drop == log->data.len) {
		drop_all(log);
		return 0;
	}
	buf_consume(&log->data, drop);
	log->pool->used -= drop;
	while (gone + log->runs[i].len <= drop)
		gone += log->runs[i++].len;
	log->runs[i].len -= (uint32_t)(drop - gone);
	log->runs_len -= i;
	memmove(log->runs, log->runs + i, log->runs_len * sizeof(*log->runs));
	return 0;
}

bool outlog_next(const struct outlog *log, uint64_t *offset, size_t max, struct outlog_record *ret)
{
	size_t at, base = 0, i = 0;

	if (*offset < log->start)
		*offset = log->start;
	if (*offset >= outlog_end(log) || max == 0)
		return false;
	at = (size_t)(*offset - log->start);
	while (base + log->runs[i].len <= at)
		base += log->runs[i++].len;
	ret->stream = (enum outlog_stream)log->runs[i].stream;
	ret->data = buf_data(&log->data) + at;
	ret->len = base + log->runs[i].len - at;
	if (ret->len > max)
		ret->len = max;
	*offset += ret->len;
	return true;
}
