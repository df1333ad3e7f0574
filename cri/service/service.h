/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.h: the CRI methods: from protobuf requests to pods, containers and images, and back.
 *
 * Threads: handlers run on the workers' lanes, with the server as their ctx.
 */
#ifndef CRI_SERVICE_SERVICE_H
#define CRI_SERVICE_SERVICE_H

#include "cri/rpc/rpc.h"

/* All 41 methods, those without handler included (Unimplemented); ends with a NULL path. */
extern const struct rpc_method service_methods[];

/* Handlers, by the file that holds them. Not every one needs all that it is given. */
#define SERVICE_MAYBE __attribute__((unused))
#define SERVICE_HANDLER(name)                                                                                \
	int service_##name(SERVICE_MAYBE void *ctx, SERVICE_MAYBE struct call *call,                         \
			   SERVICE_MAYBE const ProtobufCMessage *request,                                    \
			   SERVICE_MAYBE ProtobufCMessage *response, struct err *err)
SERVICE_HANDLER(version);
SERVICE_HANDLER(status);
SERVICE_HANDLER(runtime_config);
SERVICE_HANDLER(update_runtime_config);
SERVICE_HANDLER(run_pod_sandbox);
SERVICE_HANDLER(stop_pod_sandbox);
SERVICE_HANDLER(remove_pod_sandbox);
SERVICE_HANDLER(pod_sandbox_status);
SERVICE_HANDLER(list_pod_sandbox);
SERVICE_HANDLER(create_container);
SERVICE_HANDLER(start_container);
SERVICE_HANDLER(stop_container);
SERVICE_HANDLER(remove_container);
SERVICE_HANDLER(list_containers);
SERVICE_HANDLER(container_status);
SERVICE_HANDLER(reopen_container_log);
SERVICE_HANDLER(exec_sync);
SERVICE_HANDLER(list_images);
SERVICE_HANDLER(image_status);
SERVICE_HANDLER(pull_image);
SERVICE_HANDLER(remove_image);
SERVICE_HANDLER(image_fs_info);

#endif
