/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.h: exits and OOM kills, for SandboxService.GetEvents. Events are hints; Task.Wait and Agent.Stats
 * are reliable and can be asked again.
 *
 * Threads:   the loop's.
 * Ownership: one object; events_free is NULL-safe. Waiting calls must have ended.
 * Limits:    EVENTS_MAX events are kept for a host that does not ask; then the oldest is dropped, which is
 *            logged once. EVENTS_WAITERS calls may wait at once.
 */
#ifndef GUEST_RPC_EVENTS_H
#define GUEST_RPC_EVENTS_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

#include <protobuf-c/protobuf-c.h>

#define EVENTS_MAX     256
#define EVENTS_WAITERS 16

struct events *events_new(void);
struct events *events_free(struct events *ev);
/* event is packed at once. Out of memory: the hint is lost. */
void events_push(struct events *ev, const char *topic, const ProtobufCMessage *event);
/* The handler of GetEvents. */
void events_get(struct events *ev, struct ttrpc_request *req);

#endif
