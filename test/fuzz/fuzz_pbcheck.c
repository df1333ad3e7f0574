/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as any of the larger messages: what pb_check lets through must unpack, and stay sound when packed
 * and checked again. The first byte chooses the message.
 */
#include "api/agent/agent.pb-c.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/cri/runtime.pb-c.h"
#include "api/pbcheck.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const descriptors[] = {
	&runtime__v1__create_container_request__descriptor,
	&runtime__v1__run_pod_sandbox_request__descriptor,
	&runtime__v1__update_container_resources_request__descriptor,
	&runtime__v1__container_event_response__descriptor,
	&runtime__v1__pull_image_request__descriptor,
	&crivisor__agent__v1__read_log_response__descriptor,
	&crivisor__agent__v1__info_response__descriptor,
	&crivisor__agent__v1__stats_response__descriptor,
	&containerd__task__v2__state_response__descriptor,
	&containerd__task__v2__pids_response__descriptor,
	&grpc__setup_sandbox_request__descriptor,
	&crivisor__agent__v1__sandbox__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCMessageDescriptor *desc;
	ProtobufCMessage *msg = NULL;
	struct err err = ERR_INIT;
	uint8_t *packed;
	size_t len;
	int r;

	if (size == 0)
		return 0;
	desc = descriptors[data[0] % ARRAY_SIZE(descriptors)];
	r = pb_unpack(desc, data + 1, size - 1, &msg, &err);
	if (r < 0) {
		if (r != -EINVAL || !utf8_valid(err.msg, strlen(err.msg)))
			abort();
		return 0;
	}
	len = protobuf_c_message_get_packed_size(msg);
	packed = malloc(len ? len : 1);
	if (packed) {
		if (protobuf_c_message_pack(msg, packed) != len || pb_check(desc, packed, len, &err) < 0)
			abort();
		free(packed);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}
