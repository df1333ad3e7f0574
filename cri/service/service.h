/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.h: the CRI methods: from protobuf requests to pods, containers and images, and back.
 *
 * Purpose:   one file for each group of RPCs: decode, call the room below, encode.
 * Threads:   handlers run on the workers' lanes, with a struct service as their ctx. Those that end or make
 *            something are asynchronous: they begin the work and return.
 * Ownership: the parts outlive the RPC server, its handlers and its outstanding replies.
 */
#ifndef CRI_SERVICE_SERVICE_H
#define CRI_SERVICE_SERVICE_H

#include "cri/health/readiness.h"
#include "cri/pods/pods.h"
#include "cri/rpc/rpc.h"

struct service {
	const struct config *config;
	struct workers *workers;
	struct image_store *images;
	struct cni *cni;
	struct pods *pods;
	struct sandboxes *sandboxes;
	struct health *health;
	struct service_events *events;
};

/* ---- events.c: what GetContainerEvents tells ----------------------------------------------------------- */

/*
 * Each change of a pod or container becomes one message to all who listen, with the status of the pod and of
 * its containers at that moment or later. Events of one pod come in their order. A listener gets every event
 * from its call on, or its stream ends with the reason: ResourceExhausted where it reads too slowly, or where
 * the server had no memory for an event; Unavailable where the server stops. Then it must list, and listen
 * anew.
 */
struct service_events;
int service_events_new(struct service_events **ret_events, struct err *err);
/* The hooks to make the pods with; then the pods, before anything happens to them. */
void service_events_hooks(struct service_events *events, struct pods_hooks *ret_hooks);
void service_events_begin(struct service_events *events, struct pods *pods);
/* Ends all streams, and those that begin later. Before the RPC server waits for its calls. NULL-safe. */
void service_events_close(struct service_events *events);
/* Once no hook and no handler runs any more. Returns NULL. NULL-safe. */
struct service_events *service_events_free(struct service_events *events);

/* ---- the methods --------------------------------------------------------------------------------------- */

/* All 41 methods, those without handler included (Unimplemented); ends with a NULL path. */
extern const struct rpc_method service_methods[];

/* Handlers, by the file that holds them. Not every one needs all that it is given. */
#define SERVICE_MAYBE __attribute__((unused))
#define SERVICE_HANDLER(name)                                                                                \
	int service_##name(SERVICE_MAYBE void *ctx, SERVICE_MAYBE struct call *call,                         \
			   SERVICE_MAYBE const ProtobufCMessage *request,                                    \
			   SERVICE_MAYBE ProtobufCMessage *response, struct err *err)
#define SERVICE_ASYNC(name)                                                                                  \
	void service_##name(void *ctx, SERVICE_MAYBE struct call *call, const ProtobufCMessage *request,     \
			    struct rpc_reply *reply)
#define SERVICE_STREAM(name)                                                                                 \
	void service_##name(void *ctx, SERVICE_MAYBE struct call *call,                                      \
			    SERVICE_MAYBE const ProtobufCMessage *request, struct rpc_stream *stream)
/* status.c */
SERVICE_HANDLER(version);
SERVICE_HANDLER(status);
SERVICE_HANDLER(runtime_config);
SERVICE_HANDLER(update_runtime_config);
/* pod.c */
SERVICE_ASYNC(run_pod_sandbox);
SERVICE_ASYNC(stop_pod_sandbox);
SERVICE_ASYNC(remove_pod_sandbox);
SERVICE_ASYNC(pod_sandbox_status);
SERVICE_HANDLER(list_pod_sandbox);
/* container.c */
SERVICE_ASYNC(create_container);
SERVICE_ASYNC(start_container);
SERVICE_ASYNC(stop_container);
SERVICE_ASYNC(remove_container);
SERVICE_HANDLER(list_containers);
SERVICE_HANDLER(container_status);
SERVICE_HANDLER(reopen_container_log);
/* events.c */
SERVICE_STREAM(get_container_events);
/* streams.c */
SERVICE_STREAM(stream_pod_sandboxes);
SERVICE_STREAM(stream_containers);
SERVICE_STREAM(stream_images);
/* stats.c */
SERVICE_ASYNC(container_stats);
SERVICE_ASYNC(list_container_stats);
SERVICE_STREAM(stream_container_stats);
SERVICE_ASYNC(pod_sandbox_stats);
SERVICE_ASYNC(list_pod_sandbox_stats);
SERVICE_STREAM(stream_pod_sandbox_stats);
/* update.c */
SERVICE_ASYNC(update_container_resources);
SERVICE_ASYNC(update_pod_sandbox_resources);
/* metrics.c */
SERVICE_HANDLER(list_metric_descriptors);
SERVICE_ASYNC(list_pod_sandbox_metrics);
SERVICE_STREAM(stream_pod_sandbox_metrics);
/* exec.c */
SERVICE_HANDLER(exec_sync);
SERVICE_HANDLER(exec);
SERVICE_HANDLER(attach);
SERVICE_HANDLER(port_forward);
/* image.c */
SERVICE_HANDLER(list_images);
SERVICE_HANDLER(image_status);
SERVICE_HANDLER(pull_image);
SERVICE_HANDLER(remove_image);
SERVICE_HANDLER(image_fs_info);

#endif
