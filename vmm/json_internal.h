/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_internal.h: short forms of json-c, for the files of this room.
 *
 * Threads:   no state.
 * Ownership: vjson_add_* put new values into o, which owns them; what vjson_get and vjson_str return is
 *            borrowed from o.
 * Errors:    a member that is missing or has another type is NULL, "" or 0: input from outside may be
 *            anything.
 */
#ifndef VMM_JSON_INTERNAL_H
#define VMM_JSON_INTERNAL_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

static inline void vjson_add_str(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

static inline void vjson_add_bool(struct json_object *o, const char *key, bool value)
{
	json_object_object_add(o, key, json_object_new_boolean(value));
}

static inline void vjson_add_u64(struct json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

/* The member of that type, or NULL; o may be NULL or of any type. */
static inline struct json_object *vjson_get(struct json_object *o, const char *key, enum json_type type)
{
	struct json_object *v;

	return o && json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) &&
			       json_object_is_type(v, type)
		       ? v
		       : NULL;
}

static inline const char *vjson_str(struct json_object *o, const char *key)
{
	struct json_object *v = vjson_get(o, key, json_type_string);

	return v ? json_object_get_string(v) : "";
}

static inline uint64_t vjson_u64(struct json_object *o, const char *key)
{
	struct json_object *v = vjson_get(o, key, json_type_int);

	return v ? json_object_get_uint64(v) : 0;
}

#endif
