/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/internal.h"

#include "base/util.h"

#define ROOM_MIN  8u
#define ROOM_KEEP 64u /* an empty table keeps at most this many slots */

static uint32_t slot_of(const struct ttrpc_calls *calls, uint32_t id)
{
	return (id * UINT32_C(2654435769)) >> (32 - __builtin_ctz(calls->room));
}

static void put(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	uint32_t i = slot_of(calls, call->id);

	while (calls->slots[i])
		i = (i + 1) & (calls->room - 1);
	calls->slots[i] = call;
}

/* Keeps the table at most half full. */
static int grow(struct ttrpc_calls *calls)
{
	struct ttrpc_calls bigger = *calls;

	if (calls->room && calls->count < calls->room / 2)
		return 0;
	bigger.room = calls->room ? calls->room * 2 : ROOM_MIN;
	bigger.slots = calloc(bigger.room, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < calls->room; i++) {
		if (calls->slots[i])
			put(&bigger, calls->slots[i]);
	}
	free(calls->slots);
	calls->slots = bigger.slots;
	calls->room = bigger.room;
	return 0;
}

/* ---- the heap of deadlines ------------------------------------------------------------------------ */

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

/* ---- both ----------------------------------------------------------------------------------------- */

int ttrpc_calls_add(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	if (grow(calls) < 0)
		return -ENOMEM;
	if (call->deadline_ns != INT64_MAX) {
		if (heap_grow(calls) < 0)
			return -ENOMEM;
		heap_up(calls, calls->heap_len++, call);
	}
	put(calls, call);
	calls->count++;
	return 0;
}

static uint32_t find_slot(const struct ttrpc_calls *calls, uint32_t id)
{
	uint32_t i = slot_of(calls, id);

	while (calls->slots[i] && calls->slots[i]->id != id)
		i = (i + 1) & (calls->room - 1);
	return i;
}

struct ttrpc_request *ttrpc_calls_find(const struct ttrpc_calls *calls, uint32_t id)
{
	return calls->count ? calls->slots[find_slot(calls, id)] : NULL;
}

void ttrpc_calls_remove(struct ttrpc_calls *calls, struct ttrpc_request *call)
{
	uint32_t mask = calls->room - 1, hole = find_slot(calls, call->id);

	if (call->heap_at)
		heap_remove(calls, call);
	/* Moves back what a lookup would no longer reach across the hole. */
	for (uint32_t i = (hole + 1) & mask; calls->slots[i]; i = (i + 1) & mask) {
		uint32_t home = slot_of(calls, calls->slots[i]->id);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			calls->slots[hole] = calls->slots[i];
			hole = i;
		}
	}
	calls->slots[hole] = NULL;
	if (--calls->count == 0 && calls->room > ROOM_KEEP)
		ttrpc_calls_done(calls);
}

struct ttrpc_request *ttrpc_calls_any(const struct ttrpc_calls *calls)
{
	for (uint32_t i = 0; calls->count && i < calls->room; i++) {
		if (calls->slots[i])
			return calls->slots[i];
	}
	return NULL;
}

struct ttrpc_request *ttrpc_calls_earliest(const struct ttrpc_calls *calls)
{
	return calls->heap_len ? calls->heap[0] : NULL;
}

void ttrpc_calls_done(struct ttrpc_calls *calls)
{
	free(calls->slots);
	free(calls->heap);
	*calls = (struct ttrpc_calls){0};
}
