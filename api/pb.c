/* SPDX-License-Identifier: Apache-2.0 */
#include "api/pb.h"

#include "base/text.h"
#include "base/util.h"

ProtobufCMessage *pb_clone(const ProtobufCMessage *msg)
{
	void *data CLEANUP_FREE = NULL;
	size_t len;

	if (!msg || pb_pack(msg, &data, &len) < 0)
		return NULL;
	return protobuf_c_message_unpack(msg->descriptor, NULL, len, data);
}

void pb_free(void *msg)
{
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}

int pb_set_str(char **field, const char *value)
{
	char *copy = strdup(value ? value : "");

	if (!copy)
		return -ENOMEM;
	if (*field && *field != (const char *)protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}

int pb_set_text(char **field, const char *value)
{
	int r = pb_set_str(field, value);

	if (r == 0)
		text_fix_utf8(*field);
	return r;
}

int pb_set_strv(char ***field, size_t *n_field, char *const *values, size_t n)
{
	char **copy = calloc(n ? n : 1, sizeof(char *));

	if (!copy)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		copy[i] = strdup(values[i]);
		if (!copy[i]) {
			while (i > 0)
				free(copy[--i]);
			free(copy);
			return -ENOMEM;
		}
	}
	for (size_t i = 0; i < *n_field; i++)
		free((*field)[i]);
	free(*field);
	*field = copy;
	*n_field = n;
	return 0;
}

void *pb_new(const ProtobufCMessageDescriptor *descriptor)
{
	ProtobufCMessage *msg = malloc(descriptor->sizeof_message);

	if (msg)
		protobuf_c_message_init(descriptor, msg);
	return msg;
}

int pb_pack(const ProtobufCMessage *msg, void **ret_data, size_t *ret_len)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	void *data = malloc(len ? len : 1);

	if (!data)
		return -ENOMEM;
	*ret_len = protobuf_c_message_pack(msg, data);
	*ret_data = data;
	return 0;
}

void *pb_append(void *field_vector, size_t *n_field, const ProtobufCMessageDescriptor *descriptor)
{
	void ***vector = field_vector;
	void *msg = pb_new(descriptor);
	void **grown;

	if (!msg)
		return NULL;
	grown = reallocarray(*vector, *n_field + 1, sizeof(void *));
	if (!grown) {
		free(msg);
		return NULL;
	}
	grown[(*n_field)++] = msg;
	*vector = grown;
	return msg;
}

int pb_map_add(void *field_vector, size_t *n_field, const ProtobufCMessageDescriptor *entry, const char *key,
	       const char *value)
{
	/* The shape of every map<string, string> entry that protobuf-c generates. */
	struct map_entry {
		ProtobufCMessage base;
		char *key, *value;
	} *e = pb_append(field_vector, n_field, entry);

	if (!e)
		return -ENOMEM;
	if (pb_set_str(&e->key, key) < 0 || pb_set_str(&e->value, value) < 0)
		return -ENOMEM;
	return 0;
}
