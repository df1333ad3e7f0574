/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/ttrpc_internal.h"

#include "base/util.h"

#define ROOM_MIN 8u

/* ---- the heap of deadlines ----------------------------------------------------------------------------- */

static void heap_set(struct ttrpc_calls *calls, uint32_t at, struct ttrpc_request *call)
{
	calls->heap[at] = call;
	call->heap_at = at + 1;
}

static void heap_up(struct ttrpc_calls *calls, uint32_t at, struct ttrpc_request *call)
{
	while (at > 0) {
		uint32_t parent = (at - 1) / 2;

		if (calls->heap[parent]->deadline_ns <= call->deadline_ns)
			break;
		heap_set(calls, at, calls->heap[parent]);
		at = parent;
	}
	heap_set(calls, at, call);
}

static void heap_down(struct ttrpc_calls *calls, uint32_t at, struct ttrpc_request *call)
{
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= calls->heap_len)
			break;
		if (child + 1 < calls->heap_len &&
		    calls->heap[child + 1]->deadline_ns < calls->heap[child]->deadline_ns)
			child++;
		if (calls->heap[child]->deadline_ns >= call->deadline_ns)
			break;
		heap_set(calls, at, calls->heap[child]);
		at = child;
	}
	heap_set(calls, at, call);
}

static int heap_grow(struct ttrpc_calls *calls)
{
	uint32_t room = calls->heap_room ? calls->heap_room * 2 : ROOM_MIN;
	struct ttrpc_request **grown;

	if (calls->heap_len < calls->heap_room)
		return 0;
	grown = reallocarray(calls->heap, room, sizeof(struct ttrpc_request *));
	if (!grown)
		return -ENOMEM;
	calls->heap = grown;
	calls->heap_room = room;
	return 0;
}

static void heap_remove(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	uint32_t at = call->heap_at - 1;
	struct ttrpc_request *last = calls->heap[--calls->heap_len];

	call->heap_at = 0;
	if (last == call)
		return;
	if (at > 0 && calls->heap[(at - 1) / 2]->deadline_ns > last->deadline_ns)
		heap_up(calls, at, last);
	else
		heap_down(calls, at, last);
}

/* ---- both ---------------------------------------------------------------------------------------------- */

/* uthash leaves the element out of the table when memory is short; its handle then points to no table. */
static int table_add(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	call->hh.tbl = NULL;
	HASH_ADD(hh, calls->table, id, sizeof(call->id), call);
	return call->hh.tbl ? 0 : -ENOMEM;
}

int ttrpc_calls_add(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	if (call->deadline_ns != INT64_MAX && heap_grow(calls) < 0)
		return -ENOMEM;
	if (table_add(calls, call) < 0)
		return -ENOMEM;
	if (call->deadline_ns != INT64_MAX)
		heap_up(calls, calls->heap_len++, call);
	calls->count++;
	return 0;
}

struct ttrpc_request *ttrpc_calls_find(const struct ttrpc_calls *calls, uint32_t id)
{
	struct ttrpc_request *call = NULL;

	HASH_FIND(hh, calls->table, &id, sizeof(id), call);
	return call;
}

void ttrpc_calls_remove(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	if (call->heap_at)
		heap_remove(calls, call);
	HASH_DELETE(hh, calls->table, call);
	/* A heap that grew in a crowd is not kept. */
	if (--calls->count == 0) {
		free(calls->heap);
		calls->heap = NULL;
		calls->heap_room = 0;
	}
}

struct ttrpc_request *ttrpc_calls_any(const struct ttrpc_calls *calls)
{
	return calls->table;
}

struct ttrpc_request *ttrpc_calls_earliest(const struct ttrpc_calls *calls)
{
	return calls->heap_len ? calls->heap[0] : NULL;
}

void ttrpc_calls_done(struct ttrpc_calls *calls)
{
	HASH_CLEAR(hh, calls->table);
	free(calls->heap);
	*calls = (struct ttrpc_calls){0};
}
