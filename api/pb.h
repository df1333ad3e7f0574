/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pb.h: small helpers for protobuf-c messages that are kept and filled by hand.
 *
 * Ownership: everything they put into a message is malloc'ed, so that protobuf_c_message_free_unpacked with
 *            the default allocator frees it.
 * Errors:    -ENOMEM.
 */
#ifndef API_PB_H
#define API_PB_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

/* A deep copy (NULL of NULL, or on -ENOMEM). */
ProtobufCMessage *pb_clone(const ProtobufCMessage *msg);
#define PB_CLONE(p) ((void *)pb_clone((const ProtobufCMessage *)(const void *)(p)))
/* Frees; NULL-safe. */
void pb_free(void *msg);
/* Sets a string field: frees the old value unless it is the shared empty string. NULL sets "". */
int pb_set_str(char **field, const char *value);
/*
 * As pb_set_str, for words of a guest, a VMM or a plugin: what is not UTF-8 becomes '?'. A client refuses a
 * whole message for one bad byte in a string.
 */
int pb_set_text(char **field, const char *value);
/* Replaces a repeated string field by copies. */
int pb_set_strv(char ***field, size_t *n_field, char *const *values, size_t n);
/* malloc'ed and initialised message of a descriptor. */
void *pb_new(const ProtobufCMessageDescriptor *descriptor);
/* Packs into malloc'ed memory. */
int pb_pack(const ProtobufCMessage *msg, void **ret_data, size_t *ret_len);
/* Appends a new message to a repeated message field: the pointer to it, or NULL. */
void *pb_append(void *field_vector, size_t *n_field, const ProtobufCMessageDescriptor *descriptor);
/* Appends key and value to a map<string, string> field whose entries have the given descriptor. */
int pb_map_add(void *field_vector, size_t *n_field, const ProtobufCMessageDescriptor *entry, const char *key,
	       const char *value);

#endif
