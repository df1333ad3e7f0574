/*
 * gevents.h: what happened in the guest, for SandboxService.GetEvents: exits and OOM kills. Hints only: the
 * truth is in Task.Wait and Agent.Stats, which can be asked again.
 *
 * Threads:   the loop's.
 * Ownership: one object; gevents_free is NULL-safe. Waiting calls must have ended.
 * Limits:    GEVENTS_MAX events are kept for a host that does not ask; then the oldest goes, and the log says
 *            so once. GEVENTS_WAITERS calls may wait at once.
 */
#ifndef GUEST_GEVENTS_H
#define GUEST_GEVENTS_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

#include <protobuf-c/protobuf-c.h>

#define GEVENTS_MAX	256
#define GEVENTS_WAITERS 16

struct gevents *gevents_new(void);
struct gevents *gevents_free(struct gevents *ev);
/* event is packed at once. Out of memory: the hint is lost. */
void gevents_push(struct gevents *ev, const char *topic, const ProtobufCMessage *event);
/* The handler of GetEvents. */
void gevents_get(struct gevents *ev, struct ttrpc_request *req);

#endif
