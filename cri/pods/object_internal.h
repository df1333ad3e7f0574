/* SPDX-License-Identifier: Apache-2.0 */
/*
 * object_internal.h: what pods and containers have in common: an id, a name, references, a table to be found
 * in, and how they came to be.
 *
 * Threads:   every function from any thread; the table's lock is held for a look-up or a walk, and is the
 *            innermost: nothing else is locked while it is held.
 * Ownership: reference counted; a table holds one reference to what it holds. An object is the first member
 *            of the struct that it is part of, and the table's `free` frees that struct.
 * Limits:    a look-up by id takes one step; by a prefix, one walk.
 */
#ifndef CRI_PODS_OBJECT_INTERNAL_H
#define CRI_PODS_OBJECT_INTERNAL_H

#include "cri/core/outcome.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <uthash.h>

struct object {
	struct table *table;   /* immutable */
	char id[65];	       /* immutable */
	char *name;	       /* immutable once it is in the table; malloc'ed */
	unsigned int refs;     /* table.lock */
	bool held, shown, oom; /* table.lock: it is in the table; look-ups and walks see it */
	UT_hash_handle by_id, by_name;

	/* How it came to be. */
	struct outcome *made;  /* immutable; NULL: a previous server made it */
	struct call *work;     /* immutable; ends the creation early when it is cancelled; NULL likewise */
	atomic_bool unclaimed; /* nobody has got its id yet */
	/* When it is removed if nobody claims it; INT64_MAX: not before it is made. */
	_Atomic int64_t undo_at_ns;
};

struct table {
	pthread_mutex_t lock;
	const char *what; /* "pod sandbox", for messages */
	void (*free)(struct object *object);
	/* Writes its row. */
	int (*store)(struct object *object, struct err *err);
	struct object *ids, *names;
};

void table_init(struct table *table, const char *what, void (*free_fn)(struct object *object),
		int (*store)(struct object *object, struct err *err));
/* Of an empty table. */
void table_done(struct table *table);
/* With one reference, in no table yet. */
void object_init(struct object *object, struct table *table, const char *id);
/* What the table's `free` calls for the object's own parts. */
void object_done(struct object *object);
void *object_ref(struct object *object);
/* NULL-safe. */
void object_unref(struct object *object);

/*
 * Adds it under its id and `name`, hidden. -EEXIST and a reference to the other in *ret_other where the name
 * is taken.
 */
int table_add(struct table *table, struct object *object, const char *name, struct object **ret_other,
	      struct err *err);
/* From now on it is found. */
void object_show(struct object *object);
/* Takes it out, if it is in. */
void object_remove(struct object *object);
/* By id or by the beginning of one; a reference. -ENOENT naming the id; an ambiguous beginning is -EINVAL. */
int table_find(struct table *table, const char *id, struct object **ret_object, struct err *err);
/*
 * A reference to one that is shown and wanted, or NULL. Needs no memory. `wants` runs under the table's lock.
 */
struct object *table_first(struct table *table, bool (*wants)(const struct object *object, const void *arg),
			   const void *arg);
/* References to all (or all that are shown) as a NULL-terminated vector, newest first: object_list_free. */
int table_list(struct table *table, bool hidden_too, struct object ***ret_list, struct err *err);
void object_list_free(struct object **list);
static inline void object_list_cleanup(struct object ***list)
{
	object_list_free(*list);
}
#define CLEANUP_OBJECTS CLEANUP(object_list_cleanup)

#endif
