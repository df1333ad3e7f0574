/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pbcheck.h: protobuf messages from outside, checked before protobuf-c unpacks them.
 *
 * Purpose:   protobuf-c 1.4 takes strings that are not UTF-8 or hold NULs, enum values that do not exist and
 *            any depth of nesting, and its unpacking can need a hundred times the memory of the bytes.
 *            pb_check walks the bytes first.
 * Threads:   no shared state.
 * Ownership: pb_unpack's message is freed by protobuf_c_message_free_unpacked(msg, NULL).
 * Limits:    PB_DEPTH_MAX messages inside each other, PB_FIELDS_MAX fields, elements and unknown fields in
 *            all.
 * Errors:    -EINVAL, InvalidArgument, naming the field: "config.mounts[2].propagation: 7 is not a value of
 *            MountPropagation". -ENOMEM.
 * Source:    protobuf.dev, "Encoding" and "Proto3 Language Guide" (maps: the last of several entries wins).
 */
#ifndef API_PBCHECK_H
#define API_PBCHECK_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#define PB_DEPTH_MAX  32
#define PB_FIELDS_MAX 100000

/* Checks that the bytes are a valid message of this type. Unknown fields are allowed. */
int pb_check(const ProtobufCMessageDescriptor *desc, const void *data, size_t len, struct err *err);

/* pb_check, then unpacks, then leaves one entry, the last, for each key of every map with string keys. */
int pb_unpack(const ProtobufCMessageDescriptor *desc, const void *data, size_t len,
	      ProtobufCMessage **ret_msg, struct err *err);

#endif
