/* SPDX-License-Identifier: Apache-2.0 */
#include "api/pbcheck.h"

#include "api/pbwire.h"
#include "base/util.h"

#define PATH_MAX_BYTES 256

/* Where the walk is: one for each message around the current field, for the words of an error. */
struct place {
	const struct place *outer;
	const ProtobufCFieldDescriptor *field; /* in this message; NULL: not known yet */
	const uint8_t *start, *end, *at;       /* the message's bytes, and where the field begins */
};

struct walk {
	size_t fields;
	struct err *err;
};

/* ---- the words ----------------------------------------------------------------------------------------- */

/* How many times the field has come before in its message. */
static size_t index_of(const struct place *place)
{
	const uint8_t *p = place->start;
	struct pbw_field f;
	size_t n = 0;

	while (p < place->at && pbw_next(&p, place->end, &f) > 0) {
		if (f.number == place->field->id)
			n++;
	}
	return n;
}

static void put_path(const struct place *place, char *out, size_t room)
{
	size_t len;

	if (place->outer)
		put_path(place->outer, out, room);
	else
		out[0] = 0;
	if (!place->field)
		return;
	len = strlen(out);
	if (place->field->label == PROTOBUF_C_LABEL_REPEATED)
		snprintf(out + len, room - len, "%s%s[%zu]", len ? "." : "", place->field->name,
			 index_of(place));
	else
		snprintf(out + len, room - len, "%s%s", len ? "." : "", place->field->name);
}

static int bad(const struct walk *walk, const struct place *place, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static int bad(const struct walk *walk, const struct place *place, const char *fmt, ...)
{
	char path[PATH_MAX_BYTES];
	char what[128];
	va_list ap;

	if (!walk->err)
		return -EINVAL;
	put_path(place, path, sizeof(path));
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(walk->err, -EINVAL, "%s%s%s", path, *path ? ": " : "", what);
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

static int check_message(struct walk *walk, const struct place *outer, unsigned int depth,
			 const ProtobufCMessageDescriptor *desc, const uint8_t *data, size_t len);

static enum pbw_type wire_type_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return PBW_I32;
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return PBW_I64;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return PBW_LEN;
	default:
		return PBW_VARINT;
	}
}

static int count(struct walk *walk, const struct place *place)
{
	if (++walk->fields > PB_FIELDS_MAX)
		return bad(walk, place, "the message has more than %d fields and elements", PB_FIELDS_MAX);
	return 0;
}

static int check_enum(struct walk *walk, const struct place *place, uint64_t value)
{
	const ProtobufCEnumDescriptor *desc = place->field->descriptor;
	/* As every implementation does it: the low 32 bits count. */
	int32_t v = (int32_t)(uint32_t)value;

	if (!protobuf_c_enum_descriptor_get_value(desc, v))
		return bad(walk, place, "%d is not a value of %s", v, desc->short_name);
	return 0;
}

/* A repeated field of numbers in one piece. */
static int check_packed(struct walk *walk, const struct place *place, const struct pbw_field *f)
{
	const uint8_t *p = f->data, *end = f->data + f->len;
	enum pbw_type type = wire_type_of(place->field->type);
	uint64_t value;
	int r;

	while (p < end) {
		r = count(walk, place);
		if (r < 0)
			return r;
		if (type == PBW_VARINT)
			r = pbw_varint(&p, end, &value);
		else
			r = pbw_fixed(&p, end, type == PBW_I64 ? 8 : 4, &value);
		if (r < 0)
			return bad(walk, place, "the list cannot be read");
		if (place->field->type == PROTOBUF_C_TYPE_ENUM) {
			r = check_enum(walk, place, value);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int check_field(struct walk *walk, const struct place *place, unsigned int depth,
		       const struct pbw_field *f)
{
	const ProtobufCFieldDescriptor *field = place->field;
	enum pbw_type want = wire_type_of(field->type);

	if (f->type == PBW_LEN && want != PBW_LEN && field->label == PROTOBUF_C_LABEL_REPEATED)
		return check_packed(walk, place, f);
	if (f->type != want)
		return bad(walk, place, "sent with wire type %d instead of %d", f->type, want);
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		if (!utf8_valid(f->data, f->len))
			return bad(walk, place, "not valid UTF-8, or with a NUL byte");
		return 0;
	case PROTOBUF_C_TYPE_ENUM:
		return check_enum(walk, place, f->value);
	case PROTOBUF_C_TYPE_MESSAGE:
		if (depth >= PB_DEPTH_MAX)
			return bad(walk, place, "more than %d messages inside each other", PB_DEPTH_MAX);
		return check_message(walk, place, depth + 1, field->descriptor, f->data, f->len);
	default:
		return 0;
	}
}

static int check_message(struct walk *walk, const struct place *outer, unsigned int depth,
			 const ProtobufCMessageDescriptor *desc, const uint8_t *data, size_t len)
{
	struct place place = {.outer = outer, .start = data, .end = data + len};
	const uint8_t *p = data;
	struct pbw_field f;
	int r;

	for (;;) {
		place.at = p;
		place.field = NULL;
		r = pbw_next(&p, place.end, &f);
		if (r == 0)
			return 0;
		if (r < 0)
			return bad(walk, &place, "%s cannot be read at byte %zu", desc->short_name,
				   (size_t)(place.at - data));
		place.field = protobuf_c_message_descriptor_get_field(desc, f.number);
		r = count(walk, &place);
		if (r == 0 && place.field)
			r = check_field(walk, &place, depth, &f);
		if (r < 0)
			return r;
	}
}

int pb_check(const ProtobufCMessageDescriptor *desc, const void *data, size_t len, struct err *err)
{
	struct walk walk = {.err = err};

	return check_message(&walk, NULL, 1, desc, len > 0 ? data : (const uint8_t *)"", len);
}

/* ---- maps ---------------------------------------------------------------------------------------------- */

static const char *string_at(const ProtobufCMessage *msg, size_t field)
{
	const char *s;

	memcpy(&s, (const char *)msg + msg->descriptor->fields[field].offset, sizeof(s));
	return s ? s : "";
}

/* protobuf-c does not say which messages are map entries; their name and their two fields do. */
static bool is_string_map(const ProtobufCFieldDescriptor *field)
{
	const ProtobufCMessageDescriptor *entry = field->descriptor;

	return field->label == PROTOBUF_C_LABEL_REPEATED && field->type == PROTOBUF_C_TYPE_MESSAGE &&
	       entry->n_fields == 2 && str_ends(entry->short_name, "Entry") &&
	       str_eq(entry->fields[0].name, "key") && str_eq(entry->fields[1].name, "value") &&
	       entry->fields[0].type == PROTOBUF_C_TYPE_STRING;
}

struct ranked {
	ProtobufCMessage *entry;
	size_t at;
};

static int by_key_then_place(const void *a, const void *b)
{
	const struct ranked *ra = a, *rb = b;
	int r = strcmp(string_at(ra->entry, 0), string_at(rb->entry, 0));

	return r ? r : (ra->at > rb->at) - (ra->at < rb->at);
}

/* Frees all but the last entry of each key, keeping the order of the rest. */
static int drop_duplicates(ProtobufCMessage **entries, size_t *n)
{
	struct ranked *ranked CLEANUP_FREE = NULL;
	size_t kept = 0;

	if (*n < 2)
		return 0;
	ranked = calloc(*n, sizeof(*ranked));
	if (!ranked)
		return -ENOMEM;
	for (size_t i = 0; i < *n; i++)
		ranked[i] = (struct ranked){.entry = entries[i], .at = i};
	qsort(ranked, *n, sizeof(*ranked), by_key_then_place);
	for (size_t i = 0; i + 1 < *n; i++) {
		if (str_eq(string_at(ranked[i].entry, 0), string_at(ranked[i + 1].entry, 0)))
			entries[ranked[i].at] = NULL;
	}
	for (size_t i = 0; i < *n; i++) {
		if (!entries[ranked[i].at])
			protobuf_c_message_free_unpacked(ranked[i].entry, NULL);
	}
	for (size_t i = 0; i < *n; i++) {
		if (entries[i])
			entries[kept++] = entries[i];
	}
	*n = kept;
	return 0;
}

static int settle_maps(ProtobufCMessage *msg)
{
	int r = 0;

	for (unsigned int i = 0; i < msg->descriptor->n_fields && r == 0; i++) {
		const ProtobufCFieldDescriptor *field = &msg->descriptor->fields[i];
		char *at = (char *)msg + field->offset;
		ProtobufCMessage **sub, *one;
		size_t n = 1;

		if (field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			memcpy(&sub, at, sizeof(sub));
			memcpy(&n, (char *)msg + field->quantifier_offset, sizeof(n));
		} else {
			memcpy(&one, at, sizeof(one));
			if (!one)
				continue;
			sub = &one;
		}
		if (is_string_map(field)) {
			r = drop_duplicates(sub, &n);
			memcpy((char *)msg + field->quantifier_offset, &n, sizeof(n));
		}
		for (size_t k = 0; k < n && r == 0; k++)
			r = settle_maps(sub[k]);
	}
	return r;
}

int pb_unpack(const ProtobufCMessageDescriptor *desc, const void *data, size_t len,
	      ProtobufCMessage **ret_msg, struct err *err)
{
	ProtobufCMessage *msg;
	int r = pb_check(desc, data, len, err);

	if (r < 0)
		return r;
	msg = protobuf_c_message_unpack(desc, NULL, len, data);
	if (!msg)
		return err_set(err, -ENOMEM, "%s cannot be unpacked", desc->short_name);
	r = settle_maps(msg);
	if (r < 0) {
		protobuf_c_message_free_unpacked(msg, NULL);
		return err_oom(err);
	}
	*ret_msg = msg;
	return 0;
}
