/* SPDX-License-Identifier: Apache-2.0 */
#define HASH_NONFATAL_OOM	 1
#define uthash_nonfatal_oom(elt) ((void)((elt)->oom = true))
#include "cri/pods/object_internal.h"

#include <assert.h>

void table_init(struct table *table, const char *what, void (*free_fn)(struct object *object),
		int (*store)(struct object *object, struct err *err))
{
	*table = (struct table){.what = what, .free = free_fn, .store = store};
	pthread_mutex_init(&table->lock, NULL);
}

void table_done(struct table *table)
{
	assert(!table->ids && !table->names);
	pthread_mutex_destroy(&table->lock);
}

void object_init(struct object *object, struct table *table, const char *id)
{
	object->table = table;
	object->refs = 1;
	snprintf(object->id, sizeof(object->id), "%s", id);
	atomic_init(&object->unclaimed, false);
	atomic_init(&object->undo_at_ns, INT64_MAX);
}

void object_done(struct object *object)
{
	outcome_unref(object->made);
	call_unref(object->work);
	free(object->name);
}

void *object_ref(struct object *object)
{
	pthread_mutex_lock(&object->table->lock);
	object->refs++;
	pthread_mutex_unlock(&object->table->lock);
	return object;
}

void object_unref(struct object *object)
{
	struct table *table;
	bool last;

	if (!object)
		return;
	table = object->table;
	pthread_mutex_lock(&table->lock);
	assert(object->refs > 0);
	last = --object->refs == 0;
	pthread_mutex_unlock(&table->lock);
	if (last)
		table->free(object);
}

/* Lock held. The name's entry first: it may be taken. */
static int add(struct table *table, struct object *object, struct object **ret_other)
{
	struct object *other = NULL;

	HASH_FIND(by_name, table->names, object->name, strlen(object->name), other);
	if (other) {
		other->refs++;
		*ret_other = other;
		return -EEXIST;
	}
	object->oom = false;
	HASH_ADD_KEYPTR(by_name, table->names, object->name, strlen(object->name), object);
	if (object->oom)
		return -ENOMEM;
	HASH_ADD_KEYPTR(by_id, table->ids, object->id, strlen(object->id), object);
	if (object->oom) {
		HASH_DELETE(by_name, table->names, object);
		return -ENOMEM;
	}
	object->held = true;
	object->refs++;
	return 0;
}

int table_add(struct table *table, struct object *object, const char *name, struct object **ret_other,
	      struct err *err)
{
	int r;

	object->name = strdup(name);
	if (!object->name)
		return err_oom(err);
	pthread_mutex_lock(&table->lock);
	r = add(table, object, ret_other);
	pthread_mutex_unlock(&table->lock);
	if (r == -EEXIST)
		return err_set(err, r, "the name \"%s\" is taken by %s \"%s\"", name, table->what,
			       (*ret_other)->id);
	return r < 0 ? err_oom(err) : 0;
}

void object_show(struct object *object)
{
	pthread_mutex_lock(&object->table->lock);
	object->shown = object->held;
	pthread_mutex_unlock(&object->table->lock);
}

void object_remove(struct object *object)
{
	struct table *table = object->table;
	bool held;

	pthread_mutex_lock(&table->lock);
	held = object->held;
	if (held) {
		HASH_DELETE(by_id, table->ids, object);
		HASH_DELETE(by_name, table->names, object);
	}
	object->held = object->shown = false;
	pthread_mutex_unlock(&table->lock);
	if (held)
		object_unref(object);
}

/* Lock held. */
static struct object *find_prefix(struct table *table, const char *id, bool *ret_ambiguous)
{
	struct object *found = NULL;
	size_t len = strlen(id);

	for (struct object *o = table->ids; o && len > 0; o = o->by_id.next) {
		if (!o->shown || strncmp(o->id, id, len) != 0)
			continue;
		if (found) {
			*ret_ambiguous = true;
			return NULL;
		}
		found = o;
	}
	return found;
}

int table_find(struct table *table, const char *id, struct object **ret_object, struct err *err)
{
	struct object *found = NULL;
	bool ambiguous = false;

	pthread_mutex_lock(&table->lock);
	HASH_FIND(by_id, table->ids, id, strlen(id), found);
	if (!found || !found->shown)
		found = find_prefix(table, id, &ambiguous);
	if (found)
		found->refs++;
	pthread_mutex_unlock(&table->lock);
	if (ambiguous)
		return err_set(err, -EINVAL, "%s id prefix \"%s\" is ambiguous", table->what, id);
	if (!found)
		return err_set(err, -ENOENT, "%s \"%s\" not found", table->what, id);
	*ret_object = found;
	return 0;
}

struct object *table_first(struct table *table, bool (*wants)(const struct object *object, const void *arg),
			   const void *arg)
{
	struct object *found = NULL;

	pthread_mutex_lock(&table->lock);
	for (struct object *o = table->ids; o && !found; o = o->by_id.next) {
		if (o->shown && wants(o, arg))
			found = o;
	}
	if (found)
		found->refs++;
	pthread_mutex_unlock(&table->lock);
	return found;
}

int table_list(struct table *table, bool hidden_too, struct object ***ret_list, struct err *err)
{
	struct object **list;
	size_t n = 0;

	pthread_mutex_lock(&table->lock);
	list = calloc(HASH_CNT(by_id, table->ids) + 1, sizeof(struct object *));
	for (struct object *o = table->ids; o && list; o = o->by_id.next) {
		if (!o->shown && !hidden_too)
			continue;
		o->refs++;
		list[n++] = o;
	}
	pthread_mutex_unlock(&table->lock);
	if (!list)
		return err_oom(err);
	for (size_t i = 0; i < n / 2; i++) { /* the table's order is that of creation */
		struct object *o = list[i];

		list[i] = list[n - 1 - i];
		list[n - 1 - i] = o;
	}
	*ret_list = list;
	return 0;
}

void object_list_free(struct object **list)
{
	for (size_t i = 0; list && list[i]; i++)
		object_unref(list[i]);
	free(list);
}
