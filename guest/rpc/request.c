/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/rpc/request.h"

#include "api/pbcheck.h"
#include "base/log.h"

void *rpc_unpack_msg(const ProtobufCMessageDescriptor *desc, const void *data, size_t len, struct err *err)
{
	ProtobufCMessage *msg = NULL;

	return pb_unpack(desc, data, len, &msg, err) < 0 ? NULL : msg;
}

void *rpc_unpack(struct ttrpc_request *req, const ProtobufCMessageDescriptor *desc, const void *payload,
		 size_t len)
{
	struct err err = ERR_INIT;
	void *msg = rpc_unpack_msg(desc, payload, len, &err);

	if (log_get_level() <= LOG_LEVEL_TRACE)
		log_line(LOG_LEVEL_TRACE, LOG_FIELDS("request", desc->name), "call");
	if (!msg)
		ttrpc_fail(req, &err);
	return msg;
}

void *rpc_pack(const ProtobufCMessage *msg, size_t *ret_len)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	void *data = malloc(len + 1);

	if (data)
		*ret_len = protobuf_c_message_pack(msg, data);
	return data;
}

void rpc_reply(struct ttrpc_request *req, const ProtobufCMessage *msg)
{
	struct err err;
	size_t len = 0;
	void *data = rpc_pack(msg, &len);

	if (data) {
		ttrpc_respond(req, data, len);
		free(data);
		return;
	}
	err_set(&err, -ENOMEM, "out of memory for the answer");
	ttrpc_fail(req, &err);
}

void rpc_reply_empty(struct ttrpc_request *req)
{
	ttrpc_respond(req, NULL, 0);
}

static void slot_gone(void *arg)
{
	struct rpc_slot *slot = arg;

	slot->req = NULL;
	if (slot->on_gone)
		slot->on_gone(slot->arg);
}

void rpc_slot_take(struct rpc_slot *slot, struct ttrpc_request *req, void (*on_gone)(void *arg), void *arg)
{
	*slot = (struct rpc_slot){.req = req, .on_gone = on_gone, .arg = arg};
	ttrpc_request_on_cancel(req, slot_gone, slot);
}

void rpc_slot_reply(struct rpc_slot *slot, const ProtobufCMessage *msg)
{
	if (slot->req)
		rpc_reply(move_ptr(slot->req), msg);
}

void rpc_slot_reply_empty(struct rpc_slot *slot)
{
	if (slot->req)
		rpc_reply_empty(move_ptr(slot->req));
}

void rpc_slot_fail(struct rpc_slot *slot, const struct err *err)
{
	if (slot->req)
		ttrpc_fail(move_ptr(slot->req), err);
}

bool rpc_type_is(const char *type_url, const char *type)
{
	const char *slash = type_url ? strrchr(type_url, '/') : NULL;

	return str_eq(slash ? slash + 1 : type_url, type);
}
