/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between gRPC's buffers and protobuf-c. */
#include "api/pbcheck.h"
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>

int rpc_message_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type,
		       ProtobufCMessage **ret_msg, struct err *err)
{
	grpc_byte_buffer_reader reader;
	grpc_slice slice;
	int r;

	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return err_set(err, -EINVAL, "request cannot be read");
	slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	r = pb_unpack(type, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice), ret_msg, err);
	grpc_slice_unref(slice);
	return r < 0 ? err_wrap(err, "request") : 0;
}

int rpc_message_pack(const ProtobufCMessage *msg, grpc_byte_buffer **ret_buffer, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	grpc_slice slice;

	if (len > RPC_MESSAGE_MAX)
		return err_set_status(err, -EMSGSIZE, ERR_RESOURCE_EXHAUSTED,
				      "the answer has %zu bytes, more than the %d that clients take", len,
				      RPC_MESSAGE_MAX);
	slice = grpc_slice_malloc(len);
	protobuf_c_message_pack(msg, GRPC_SLICE_START_PTR(slice));
	*ret_buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return 0;
}

grpc_slice rpc_message_details(const char *message)
{
	char *copy CLEANUP_FREE = strndup(message, ERR_MSG_MAX);

	for (char *p = copy; copy && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	if (copy && !utf8_valid(copy, strlen(copy)))
		for (char *p = copy; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
	return grpc_slice_from_copied_string(copy ? copy : "");
}
