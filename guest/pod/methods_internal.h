/* SPDX-License-Identifier: Apache-2.0 */
/*
 * methods_internal.h: the four ttrpc services that the agent serves, each a table of methods.
 *
 * Threads: the loop's. The context of every method is the struct agent.
 * Source:  api/agent/task.proto, sandbox.proto, streaming.proto, agent.proto.
 */
#ifndef GUEST_POD_METHODS_INTERNAL_H
#define GUEST_POD_METHODS_INTERNAL_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

/* In task.c, sandbox.c, stream.c and agent_service.c. */
extern const struct ttrpc_method task_methods[];      /* containerd.task.v2.Task */
extern const struct ttrpc_method sandbox_methods[];   /* grpc.SandboxService */
extern const struct ttrpc_method streaming_methods[]; /* containerd.services.streaming.v1.Streaming */
extern const struct ttrpc_method agent_methods[];     /* crivisor.agent.v1.Agent */

/* The table for server_new, with agent as context. */
const struct ttrpc_service *services_table(struct agent *agent);

/* Handlers that live in files of their own. */
void dial_open(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void device_attach(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void device_online(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void stats_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void readlog_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void readlog_ack(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void vmexec_run(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);

/*
 * Ends containers, unmounts the share, syncs and powers off: at SIGTERM and Task.Shutdown. Does its work in
 * the loop.
 */
void shutdown_begin(struct agent *agent, const char *why);
/* Something ended: powers off if it was the last thing waited for. */
void shutdown_poll(struct agent *agent);

#endif
