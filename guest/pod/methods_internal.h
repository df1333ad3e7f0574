/* SPDX-License-Identifier: Apache-2.0 */
/*
 * methods_internal.h: the methods of the Agent and SandboxService services that this room serves.
 *
 * Threads: the loop's. The context of every method is the struct agent.
 * Source:  api/agent/sandbox.proto, agent.proto.
 */
#ifndef GUEST_POD_METHODS_INTERNAL_H
#define GUEST_POD_METHODS_INTERNAL_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

extern const struct ttrpc_method sandbox_methods[]; /* grpc.SandboxService */
extern const struct ttrpc_method agent_methods[];   /* crivisor.agent.v1.Agent */

/* Handlers that live in files of their own. */
void dial_open(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void shutdown_request(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void stats_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void vmexec_run(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);

#endif
