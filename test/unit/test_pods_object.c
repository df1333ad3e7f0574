/* SPDX-License-Identifier: Apache-2.0 */
/* cri/pods: tables of objects, and in what two requests differ. */
#include "api/cri/runtime.pb-c.h"
#include "api/pb.h"
#include "base/util.h"
#include "cri/pods/object_internal.h"
#include "cri/pods/pods_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- tables -------------------------------------------------------------------------------------------- */

static unsigned int freed;
static struct table table;

static void free_object(struct object *object)
{
	object_done(object);
	free(object);
	freed++;
}

static int store_object(struct object *object, struct err *err)
{
	(void)object;
	(void)err;
	return 0;
}

static struct object *new_object(const char *id)
{
	struct object *o = calloc(1, sizeof(*o));

	assert_non_null(o);
	object_init(o, &table, id);
	return o;
}

/* In the table alone. */
static struct object *add(const char *id, const char *name, bool shown)
{
	struct object *o = new_object(id), *other;

	assert_int_equal(table_add(&table, o, name, &other, NULL), 0);
	if (shown)
		object_show(o);
	object_unref(o);
	return o;
}

static int setup(void **state)
{
	(void)state;
	freed = 0;
	table_init(&table, "thing", free_object, store_object);
	return 0;
}

static int teardown(void **state)
{
	struct object **list;

	(void)state;
	assert_int_equal(table_list(&table, true, &list, NULL), 0);
	for (size_t i = 0; list[i]; i++)
		object_remove(list[i]);
	object_list_free(list);
	table_done(&table);
	return 0;
}

static void table_find_by_id_and_by_its_beginning(void **state)
{
	struct object *o = add("abcd", "a", true), *found;
	struct err err = ERR_INIT;

	(void)state;
	add("abef", "b", true);
	assert_int_equal(table_find(&table, "abcd", &found, &err), 0);
	assert_ptr_equal(found, o);
	object_unref(found);
	assert_int_equal(table_find(&table, "abc", &found, &err), 0);
	assert_ptr_equal(found, o);
	object_unref(found);
	assert_int_equal(table_find(&table, "ab", &found, &err), -EINVAL);
	assert_string_equal(err.msg, "thing id prefix \"ab\" is ambiguous");
	assert_int_equal(table_find(&table, "abcde", &found, &err), -ENOENT);
	assert_string_equal(err.msg, "thing \"abcde\" not found");
	assert_int_equal(table_find(&table, "", &found, &err), -ENOENT);
}

static void table_hidden_is_neither_found_nor_listed(void **state)
{
	struct object *o = add("abcd", "a", false), *found, **list;
	struct err err = ERR_INIT;

	(void)state;
	add("abef", "b", true);
	assert_int_equal(table_find(&table, "abcd", &found, &err), -ENOENT);
	assert_int_equal(table_find(&table, "ab", &found, &err), 0); /* the other one */
	assert_string_equal(found->id, "abef");
	object_unref(found);
	assert_int_equal(table_list(&table, false, &list, &err), 0);
	assert_non_null(list[0]);
	assert_null(list[1]);
	object_list_free(list);
	object_show(o);
	assert_int_equal(table_list(&table, false, &list, &err), 0);
	assert_string_equal(list[0]->id, "abef"); /* newest first */
	assert_string_equal(list[1]->id, "abcd");
	assert_null(list[2]);
	object_list_free(list);
}

static void table_add_of_a_taken_name_gives_the_other(void **state)
{
	struct object *o = add("abcd", "a", false), *twin = new_object("eeee"), *other = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(table_add(&table, twin, "a", &other, &err), -EEXIST);
	assert_ptr_equal(other, o);
	assert_int_equal(err.status, ERR_ALREADY_EXISTS);
	object_unref(other);
	object_unref(twin);
	assert_int_equal(freed, 1);
	object_remove(o);
	assert_int_equal(freed, 2);
	add("ffff", "a", false);
}

static void object_removed_lives_as_long_as_its_references(void **state)
{
	struct object *o = add("abcd", "a", true), *found;

	(void)state;
	assert_int_equal(table_find(&table, "abcd", &found, NULL), 0);
	object_remove(o);
	object_remove(o);
	object_show(o); /* of one that was removed: nothing */
	assert_int_equal(freed, 0);
	assert_int_equal(table_find(&table, "abcd", &found, NULL), -ENOENT);
	object_unref(o);
	assert_int_equal(freed, 1);
}

/* ---- differences --------------------------------------------------------------------------------------- */

static Runtime__V1__PodSandboxConfig *config(void)
{
	Runtime__V1__PodSandboxConfig *c = pb_new(&runtime__v1__pod_sandbox_config__descriptor);

	c->metadata = pb_new(&runtime__v1__pod_sandbox_metadata__descriptor);
	pb_set_str(&c->metadata->name, "pod");
	pb_map_add(&c->labels, &c->n_labels, &runtime__v1__pod_sandbox_config__labels_entry__descriptor, "a",
		   "1");
	pb_map_add(&c->labels, &c->n_labels, &runtime__v1__pod_sandbox_config__labels_entry__descriptor, "b",
		   "2");
	c->dns_config = pb_new(&runtime__v1__dnsconfig__descriptor);
	pb_set_strv(&c->dns_config->servers, &c->dns_config->n_servers,
		    (char *const[]){(char *)(uintptr_t) "10.0.0.1", (char *)(uintptr_t) "10.0.0.2"}, 2);
	c->linux = pb_new(&runtime__v1__linux_pod_sandbox_config__descriptor);
	c->linux->resources = pb_new(&runtime__v1__linux_container_resources__descriptor);
	return c;
}

static void differs_in(Runtime__V1__PodSandboxConfig *b, const char *path)
{
	Runtime__V1__PodSandboxConfig *a = config();
	char got[128], back[128];

	message_difference(&a->base, &b->base, "config", got, sizeof(got));
	message_difference(&b->base, &a->base, "config", back, sizeof(back));
	assert_string_equal(got, path);
	assert_string_equal(back, path);
	pb_free(a);
	pb_free(b);
}

static void message_difference_of_equal_ones_is_empty(void **state)
{
	(void)state;
	differs_in(config(), "");
}

static void message_difference_ignores_the_order_of_maps(void **state)
{
	Runtime__V1__PodSandboxConfig *b = config();
	void *first = b->labels[0];

	(void)state;
	b->labels[0] = b->labels[1];
	b->labels[1] = first;
	differs_in(b, "");
}

static void message_difference_names_the_first_field(void **state)
{
	Runtime__V1__PodSandboxConfig *b = config();

	(void)state;
	pb_set_str(&b->metadata->name, "other");
	differs_in(b, "config.metadata.name");
	b = config();
	b->metadata->attempt = 1;
	differs_in(b, "config.metadata.attempt");
	b = config();
	pb_set_str(&b->labels[1]->value, "secret");
	differs_in(b, "config.labels[\"b\"]");
	b = config();
	pb_map_add(&b->labels, &b->n_labels, &runtime__v1__pod_sandbox_config__labels_entry__descriptor, "c",
		   "3");
	differs_in(b, "config.labels[\"c\"]");
	b = config();
	pb_set_str(&b->dns_config->servers[1], "10.0.0.3");
	differs_in(b, "config.dns_config.servers[1]");
	b = config();
	free(b->dns_config->servers[1]);
	b->dns_config->n_servers = 1;
	differs_in(b, "config.dns_config.servers");
	b = config();
	b->linux->resources->memory_limit_in_bytes = INT64_C(1) << 40;
	differs_in(b, "config.linux.resources.memory_limit_in_bytes");
	b = config();
	pb_free(b->linux);
	b->linux = NULL;
	differs_in(b, "config.linux");
}

static void message_difference_in_a_small_buffer_is_cut(void **state)
{
	Runtime__V1__PodSandboxConfig *a = config(), *b = config();
	char path[12];

	(void)state;
	pb_set_str(&b->metadata->name, "other");
	message_difference(&a->base, &b->base, "config", path, sizeof(path));
	assert_string_equal(path, "config.meta");
	pb_free(a);
	pb_free(b);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(table_find_by_id_and_by_its_beginning),
		CASE(table_hidden_is_neither_found_nor_listed),
		CASE(table_add_of_a_taken_name_gives_the_other),
		CASE(object_removed_lives_as_long_as_its_references),
		cmocka_unit_test(message_difference_of_equal_ones_is_empty),
		cmocka_unit_test(message_difference_ignores_the_order_of_maps),
		cmocka_unit_test(message_difference_names_the_first_field),
		cmocka_unit_test(message_difference_in_a_small_buffer_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
