/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.h: what every handler of the agent does first and last: unpack the request, and answer.
 *
 * Threads:   the loop's.
 * Ownership: an unpacked message is the handler's, freed by protobuf_c_message_free_unpacked (RPC_MESSAGE
 *            does it). A slot is embedded in whatever answers later; it drops the
 *            request by itself when the caller has gone.
 * Limits:    those of ttrpc.h for a message; every request is checked field by field before it is unpacked
 *            (pbcheck.h).
 */
#ifndef GUEST_RPC_REQUEST_H
#define GUEST_RPC_REQUEST_H

#include "api/ttrpc/ttrpc.h"
#include "base/err.h"
#include "base/util.h"

#include <protobuf-c/protobuf-c.h>

/* NULL: malformed; the request has been answered with the error. */
void *rpc_unpack(struct ttrpc_request *req, const ProtobufCMessageDescriptor *desc, const void *payload,
		 size_t len);
/* Checks and unpacks without a request, for what comes in streams or inside an Any. */
void *rpc_unpack_msg(const ProtobufCMessageDescriptor *desc, const void *data, size_t len, struct err *err);

static inline void rpc_message_cleanup(void *p)
{
	ProtobufCMessage *m;

	memcpy(&m, p, sizeof(m));
	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
}
#define RPC_MESSAGE CLEANUP(rpc_message_cleanup)

void rpc_reply(struct ttrpc_request *req, const ProtobufCMessage *msg);
void rpc_reply_empty(struct ttrpc_request *req);
/* Packs msg into memory of the caller's to free; NULL on ENOMEM. */
void *rpc_pack(const ProtobufCMessage *msg, size_t *ret_len);

struct rpc_slot {
	struct ttrpc_request *req; /* NULL: nobody waits */
	void (*on_gone)(void *arg);
	void *arg;
};
/* on_gone (may be NULL) runs when the caller went away; it may free the slot. */
void rpc_slot_take(struct rpc_slot *slot, struct ttrpc_request *req, void (*on_gone)(void *arg), void *arg);
void rpc_slot_reply(struct rpc_slot *slot, const ProtobufCMessage *msg);
void rpc_slot_reply_empty(struct rpc_slot *slot);
void rpc_slot_fail(struct rpc_slot *slot, const struct err *err);

/* True if an Any's type_url names `type`; its prefix does not matter. */
bool rpc_type_is(const char *type_url, const char *type);

#endif
