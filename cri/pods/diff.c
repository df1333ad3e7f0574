/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In what two messages differ. Maps have no order on the wire, so their entries are compared by key. Paths
 * hold names of fields, indices and keys of maps, and never a value: a value may be a secret.
 */
#include "cri/pods/pods_internal.h"

#include <string.h>

struct path {
	char *text;
	size_t size, len;
};

typedef Runtime__V1__PodSandboxConfig__LabelsEntry MapEntry; /* all entries of string maps have its shape */

static bool differs(const ProtobufCMessage *a, const ProtobufCMessage *b, struct path *path);

static void __attribute__((format(printf, 2, 3))) path_add(struct path *path, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(path->text + path->len, path->size - path->len, fmt, ap);
	va_end(ap);
	path->len += n < 0 ? 0 : (size_t)n < path->size - path->len ? (size_t)n : path->size - path->len - 1;
}

static const void *member(const ProtobufCMessage *msg, unsigned int offset)
{
	return (const char *)msg + offset;
}

static size_t value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default: /* enum, bool and the 32-bit numbers: all int in memory */
		return 4;
	}
}

/* One value of a field. Leaves the path where the difference is. */
static bool value_differs(const ProtobufCFieldDescriptor *field, const void *a, const void *b,
			  struct path *path)
{
	const ProtobufCBinaryData *x = a, *y = b;
	const void *p, *q;

	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		memcpy(&p, a, sizeof(p));
		memcpy(&q, b, sizeof(q));
		return !str_eq(p, q);
	case PROTOBUF_C_TYPE_MESSAGE:
		memcpy(&p, a, sizeof(p));
		memcpy(&q, b, sizeof(q));
		return !p || !q ? p != q : differs(p, q, path);
	case PROTOBUF_C_TYPE_BYTES:
		return x->len != y->len || (x->len > 0 && memcmp(x->data, y->data, x->len) != 0);
	default:
		return memcmp(a, b, value_size(field->type)) != 0;
	}
}

static bool is_map(const ProtobufCFieldDescriptor *field)
{
	const ProtobufCMessageDescriptor *d = field->descriptor;

	return field->type == PROTOBUF_C_TYPE_MESSAGE && str_ends(d->name, "Entry") && d->n_fields == 2 &&
	       str_eq(d->fields[0].name, "key") && d->fields[0].type == PROTOBUF_C_TYPE_STRING &&
	       str_eq(d->fields[1].name, "value") && d->fields[1].type == PROTOBUF_C_TYPE_STRING;
}

/* Of duplicates the last counts, as protobuf has it. */
static const MapEntry *entry_of(MapEntry *const *map, size_t n, const char *key)
{
	while (n > 0) {
		if (str_eq(map[--n]->key, key))
			return map[n];
	}
	return NULL;
}

static bool map_differs(MapEntry *const *a, size_t n_a, MapEntry *const *b, size_t n_b, struct path *path)
{
	for (size_t i = 0; i < n_a; i++) {
		const MapEntry *have = entry_of(a, n_a, a[i]->key);
		const MapEntry *other = entry_of(b, n_b, a[i]->key);

		if (!other || !str_eq(have->value, other->value)) {
			path_add(path, "[\"%.64s\"]", a[i]->key);
			return true;
		}
	}
	for (size_t i = 0; i < n_b; i++) {
		if (!entry_of(a, n_a, b[i]->key)) {
			path_add(path, "[\"%.64s\"]", b[i]->key);
			return true;
		}
	}
	return false;
}

static bool repeated_differs(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *a,
			     const ProtobufCMessage *b, struct path *path)
{
	size_t n_a, n_b, width = value_size(field->type), before = path->len;
	const char *p, *q;

	memcpy(&n_a, member(a, field->quantifier_offset), sizeof(n_a));
	memcpy(&n_b, member(b, field->quantifier_offset), sizeof(n_b));
	memcpy(&p, member(a, field->offset), sizeof(p));
	memcpy(&q, member(b, field->offset), sizeof(q));
	if (is_map(field))
		return map_differs((MapEntry *const *)(const void *)p, n_a,
				   (MapEntry *const *)(const void *)q, n_b, path);
	for (size_t i = 0; i < n_a && i < n_b; i++) {
		path_add(path, "[%zu]", i);
		if (value_differs(field, p + i * width, q + i * width, path))
			return true;
		path->len = before;
		path->text[before] = 0;
	}
	return n_a != n_b;
}

static bool field_differs(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *a,
			  const ProtobufCMessage *b, struct path *path)
{
	uint32_t case_a, case_b;

	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		return repeated_differs(field, a, b, path);
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		memcpy(&case_a, member(a, field->quantifier_offset), sizeof(case_a));
		memcpy(&case_b, member(b, field->quantifier_offset), sizeof(case_b));
		if (case_a != field->id && case_b != field->id)
			return false;
		if (case_a != case_b)
			return true;
	}
	return value_differs(field, member(a, field->offset), member(b, field->offset), path);
}

static bool differs(const ProtobufCMessage *a, const ProtobufCMessage *b, struct path *path)
{
	const ProtobufCMessageDescriptor *d = a->descriptor;
	size_t before = path->len;

	for (unsigned int i = 0; i < d->n_fields; i++) {
		path_add(path, ".%s", d->fields[i].name);
		if (field_differs(&d->fields[i], a, b, path))
			return true;
		path->len = before;
		path->text[before] = 0;
	}
	return false;
}

void message_difference(const ProtobufCMessage *a, const ProtobufCMessage *b, const char *root,
			char *ret_path, size_t size)
{
	struct path path = {.text = ret_path, .size = size};

	ret_path[0] = 0;
	path_add(&path, "%s", root);
	if (!differs(a, b, &path))
		ret_path[0] = 0;
}
