/* SPDX-License-Identifier: Apache-2.0 */
/* The room: what its sandboxes share, and the undo of what they have left. */
#include "cri/sandbox/clock_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include <assert.h>

int sandboxes_new(const struct sandboxes_options *options, struct sandboxes **ret_room, struct err *err)
{
	struct sandboxes *room = calloc(1, sizeof(*room));
	int r;

	if (!room)
		return err_oom(err);
	room->options = *options;
	room->driver = options->driver ? options->driver : &sandbox_vm_driver;
	gate_init(&room->gate, options->boots > 0 ? options->boots : 1);
	r = uids_init(&room->uids, options->uid_first, options->uid_count, options->store, err);
	if (r < 0) {
		free(room);
		return r;
	}
	pthread_mutex_init(&room->lock, NULL);
	*ret_room = room;
	return 0;
}

struct sandboxes *sandboxes_free(struct sandboxes *room)
{
	if (!room)
		return NULL;
	assert(!room->list);
	clock_unwatch(room->clock);
	uids_done(&room->uids);
	pthread_mutex_destroy(&room->lock);
	free(room);
	return NULL;
}

void sandboxes_boots(struct sandboxes *room, unsigned int *ret_running, unsigned int *ret_waiting)
{
	gate_load(&room->gate, ret_running, ret_waiting);
}

/* ---- the clock ----------------------------------------------------------------------------------------- */

/* The ready ones, as references. */
static struct sandbox **ready_ones(struct sandboxes *room, size_t *ret_n)
{
	struct sandbox **list;
	size_t n = 0;

	pthread_mutex_lock(&room->lock);
	for (struct sandbox *s = room->list; s; s = s->next)
		n++;
	list = calloc(n + 1, sizeof(struct sandbox *));
	n = 0;
	for (struct sandbox *s = room->list; s && list; s = s->next) {
		int refs = atomic_load(&s->refs);

		/* One whose last reference is gone is on its way out of the list. */
		while (refs > 0 && !atomic_compare_exchange_weak(&s->refs, &refs, refs + 1))
			;
		if (refs > 0)
			list[n++] = s;
	}
	pthread_mutex_unlock(&room->lock);
	*ret_n = n;
	return list;
}

/* Loop. */
static void on_clock_set(void *arg)
{
	struct sandboxes *room = arg;
	size_t n;
	struct sandbox **list = ready_ones(room, &n);

	for (size_t i = 0; list && i < n; i++) {
		struct agent *agent;

		if (sandbox_agent(list[i], &agent, NULL) == 0)
			clock_sync(agent, list[i]->id, NULL, NULL);
		sandbox_unref(list[i]);
	}
	free(list);
}

int sandboxes_watch_clock(struct sandboxes *room, struct err *err)
{
	return clock_watch(room->options.loop, on_clock_set, room, &room->clock, err);
}

/* ---- undo ---------------------------------------------------------------------------------------------- */

static int undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err)
{
	int r = sandboxes_undo_step(ctx, kind, arg, err);

	return r == -ENOENT ? err_set(err, -EINVAL, "the journal holds an unknown step \"%s\" of sandbox %s",
				      kind, owner)
			    : r;
}

int sandboxes_undo(struct sandboxes *room, const char *id, struct err *err)
{
	return journal_undo_owner(room->options.store, id, undo, room, err);
}

int sandboxes_undo_step(struct sandboxes *room, const char *kind, const char *arg, struct err *err)
{
	return room->driver->undo(room, kind, arg, true, err);
}
