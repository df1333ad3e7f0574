/* SPDX-License-Identifier: Apache-2.0 */
/* pb_check and pb_unpack, on CRI messages made by protobuf-c and on bytes made by hand. */
#include "api/cri/runtime.pb-c.h"
#include "api/pbcheck.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define RUN (&runtime__v1__run_pod_sandbox_request__descriptor)

static int check_bytes(const ProtobufCMessageDescriptor *desc, const char *bytes, size_t len, struct err *err)
{
	/* A copy of exactly len bytes, so that a read beyond them is seen. */
	char *copy = malloc(len ? len : 1);
	int r;

	assert_non_null(copy);
	memcpy(copy, bytes, len);
	*err = ERR_INIT;
	r = pb_check(desc, copy, len, err);
	free(copy);
	return r;
}

#define CHECK(desc, bytes, err) check_bytes(desc, bytes, sizeof(bytes) - 1, err)

static void assert_refused(const ProtobufCMessageDescriptor *desc, const char *bytes, size_t len,
			   const char *want)
{
	struct err err;

	assert_int_equal(check_bytes(desc, bytes, len, &err), -EINVAL);
	assert_int_equal(err.status, ERR_INVALID_ARGUMENT);
	assert_string_equal(err.msg, want);
	assert_int_equal(pb_check(desc, bytes, len, NULL), -EINVAL);
}

#define REFUSED(desc, bytes, want) assert_refused(desc, bytes, sizeof(bytes) - 1, want)

/* Packs a RunPodSandboxRequest around a security profile type. */
static size_t pack_profile(int type, unsigned char *out)
{
	Runtime__V1__SecurityProfile seccomp = RUNTIME__V1__SECURITY_PROFILE__INIT;
	Runtime__V1__LinuxSandboxSecurityContext context = RUNTIME__V1__LINUX_SANDBOX_SECURITY_CONTEXT__INIT;
	Runtime__V1__LinuxPodSandboxConfig pod = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__RunPodSandboxRequest req = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;

	seccomp.profile_type = (Runtime__V1__SecurityProfile__ProfileType)type;
	context.seccomp = &seccomp;
	pod.security_context = &context;
	config.linux = &pod;
	req.config = &config;
	return protobuf_c_message_pack(&req.base, out);
}

static void check_sound_message_passes(void **state)
{
	unsigned char out[128];
	struct err err;
	size_t len = pack_profile(2, out);

	(void)state;
	assert_int_equal(check_bytes(RUN, (char *)out, len, &err), 0);
	assert_int_equal(CHECK(RUN, "", &err), 0);
	/* Unknown fields of every type. */
	assert_int_equal(CHECK(RUN,
			       "\xf8\x07\x01\xfa\x07\x03"
			       "abc\xf9\x07"
			       "12345678\xfd\x07"
			       "1234",
			       &err),
			 0);
}

static void check_enum_names_the_field(void **state)
{
	unsigned char out[128];
	size_t len = pack_profile(7, out);

	(void)state;
	assert_refused(RUN, (char *)out, len,
		       "config.linux.security_context.seccomp.profile_type: 7 is not a value of ProfileType");
	len = pack_profile(-1, out);
	assert_refused(
		RUN, (char *)out, len,
		"config.linux.security_context.seccomp.profile_type: -1 is not a value of ProfileType");
}

static void check_strings(void **state)
{
	struct err err;

	(void)state;
	REFUSED(RUN, "\x12\x02\xc0\x80", "runtime_handler: not valid UTF-8, or with a NUL byte");
	REFUSED(RUN,
		"\x12\x03"
		"a\0b",
		"runtime_handler: not valid UTF-8, or with a NUL byte");
	REFUSED(RUN, "\x12\x01\xff", "runtime_handler: not valid UTF-8, or with a NUL byte");
	assert_int_equal(CHECK(RUN, "\x12\x02\xc3\xa9", &err), 0);
	/* labels[1].value */
	REFUSED(RUN, "\x0a\x0e\x32\x02\x0a\x00\x32\x08\x0a\x03key\x12\x01\xff",
		"config.labels[1].value: not valid UTF-8, or with a NUL byte");
	/* Bytes may hold anything. */
	assert_int_equal(CHECK(&runtime__v1__exec_sync_response__descriptor, "\x0a\x02\x00\xff", &err), 0);
}

static void check_what_cannot_be_read(void **state)
{
	(void)state;
	REFUSED(RUN, "\x12", "RunPodSandboxRequest cannot be read at byte 0");
	REFUSED(RUN,
		"\x12\x02"
		"a",
		"RunPodSandboxRequest cannot be read at byte 0");
	REFUSED(RUN,
		"\x12\x01"
		"a\x12\xff",
		"RunPodSandboxRequest cannot be read at byte 3");
	REFUSED(RUN, "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"RunPodSandboxRequest cannot be read at byte 0");
	REFUSED(RUN, "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
		"RunPodSandboxRequest cannot be read at byte 0");
	REFUSED(RUN, "\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
		"RunPodSandboxRequest cannot be read at byte 0");
	REFUSED(RUN, "\x02\x00", "RunPodSandboxRequest cannot be read at byte 0"); /* field 0 */
	REFUSED(RUN, "\xff\xff\xff\xff\x7f\x00",
		"RunPodSandboxRequest cannot be read at byte 0");		   /* beyond 2^29 */
	REFUSED(RUN, "\x0b\x0c", "RunPodSandboxRequest cannot be read at byte 0"); /* a group */
	REFUSED(RUN, "\x0a\x02\x0a\x05", "config: PodSandboxConfig cannot be read at byte 0");
	REFUSED(RUN, "\x10\x01", "runtime_handler: sent with wire type 0 instead of 2");
	REFUSED(&runtime__v1__port_mapping__descriptor,
		"\x15"
		"1234",
		"container_port: sent with wire type 5 instead of 0");
}

static void check_packed_lists(void **state)
{
	const ProtobufCMessageDescriptor *desc = &runtime__v1__port_forward_request__descriptor;
	struct err err;

	(void)state;
	assert_int_equal(CHECK(desc, "\x12\x03\x50\xbb\x03", &err), 0);
	assert_int_equal(CHECK(desc, "\x10\x50\x10\x51", &err), 0);
	REFUSED(desc, "\x10\x50\x12\x02\x50\xbb", "port[1]: the list cannot be read");
}

static void check_amount_is_bounded(void **state)
{
	size_t len = 2 * (PB_FIELDS_MAX + 1);
	char *bytes = malloc(len);
	struct err err;

	(void)state;
	assert_non_null(bytes);
	/* Unknown fields, elements of a packed list, elements of a list of messages. */
	for (size_t i = 0; i < len; i += 2)
		memcpy(bytes + i, "\x78\x00", 2);
	assert_int_equal(check_bytes(RUN, bytes, len - 2, &err), 0);
	assert_int_equal(check_bytes(RUN, bytes, len, &err), -EINVAL);
	assert_string_equal(err.msg, "the message has more than 100000 fields and elements");
	for (size_t i = 0; i < len; i += 2)
		memcpy(bytes + i, "\x2a\x00", 2);
	assert_int_equal(check_bytes(&runtime__v1__pod_sandbox_config__descriptor, bytes, len, &err),
			 -EINVAL);
	assert_string_equal(err.msg,
			    "port_mappings[100000]: the message has more than 100000 fields and elements");
	memset(bytes, 0, len);
	memcpy(bytes, "\x12\xa1\x8d\x06", 4);
	assert_int_equal(check_bytes(&runtime__v1__port_forward_request__descriptor, bytes, 4 + 100001, &err),
			 -EINVAL);
	free(bytes);
}

/* No message of ours nests in itself, so a descriptor that does is made here. */
static void check_depth_is_bounded(void **state)
{
	static ProtobufCMessageDescriptor desc;
	static const ProtobufCFieldDescriptor field = {.name = "in",
						       .id = 1,
						       .type = PROTOBUF_C_TYPE_MESSAGE,
						       .label = PROTOBUF_C_LABEL_OPTIONAL,
						       .descriptor = &desc};
	static const ProtobufCIntRange ranges[] = {{1, 0}, {0, 1}};
	unsigned char bytes[256];
	struct err err;
	size_t at = sizeof(bytes);

	(void)state;
	desc = (ProtobufCMessageDescriptor){.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
					    .short_name = "Deep",
					    .n_fields = 1,
					    .fields = &field,
					    .n_field_ranges = 1,
					    .field_ranges = ranges};
	for (int depth = 1; depth < PB_DEPTH_MAX; depth++) {
		size_t inner = sizeof(bytes) - at;

		bytes[--at] = (unsigned char)inner;
		bytes[--at] = 0x0a;
	}
	assert_int_equal(check_bytes(&desc, (char *)bytes + at, sizeof(bytes) - at, &err), 0);
	bytes[at - 1] = (unsigned char)(sizeof(bytes) - at);
	bytes[at - 2] = 0x0a;
	assert_int_equal(check_bytes(&desc, (char *)bytes + at - 2, sizeof(bytes) - at + 2, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "in.in: more than 32 messages inside each other"));
}

static void unpack_last_map_entry_wins(void **state)
{
	/* labels: a=1, b=2, a=3, "" (no fields at all) */
	static const char bytes[] = "\x32\x06\x0a\x01"
				    "a\x12\x01"
				    "1\x32\x06\x0a\x01"
				    "b\x12\x01"
				    "2"
				    "\x32\x06\x0a\x01"
				    "a\x12\x01"
				    "3\x32\x00";
	ProtobufCMessage *msg = NULL;
	Runtime__V1__PodSandboxConfig *config;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		pb_unpack(&runtime__v1__pod_sandbox_config__descriptor, bytes, sizeof(bytes) - 1, &msg, &err),
		0);
	config = (Runtime__V1__PodSandboxConfig *)msg;
	assert_int_equal(config->n_labels, 3);
	assert_string_equal(config->labels[0]->key, "b");
	assert_string_equal(config->labels[1]->key, "a");
	assert_string_equal(config->labels[1]->value, "3");
	protobuf_c_message_free_unpacked(msg, NULL);
	assert_int_equal(pb_unpack(&runtime__v1__pod_sandbox_config__descriptor, "\x0a", 1, &msg, &err),
			 -EINVAL);
	assert_int_equal(pb_unpack(&runtime__v1__pod_sandbox_config__descriptor, NULL, 0, &msg, &err), 0);
	protobuf_c_message_free_unpacked(msg, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(check_sound_message_passes),
		cmocka_unit_test(check_enum_names_the_field),
		cmocka_unit_test(check_strings),
		cmocka_unit_test(check_what_cannot_be_read),
		cmocka_unit_test(check_packed_lists),
		cmocka_unit_test(check_amount_is_bounded),
		cmocka_unit_test(check_depth_is_bounded),
		cmocka_unit_test(unpack_last_map_entry_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
