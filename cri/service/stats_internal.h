/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_internal.h: calls that are answered from a sample: stats.c and metrics.c.
 *
 * Threads:   a kind's functions run on a worker, after the sample.
 * Errors:    as in cri/pods/stats.h.
 */
#ifndef CRI_SERVICE_STATS_INTERNAL_H
#define CRI_SERVICE_STATS_INTERNAL_H

#include "cri/pods/stats.h"
#include "cri/service/service.h"
#include "cri/service/streams_internal.h"

struct service_stats_kind {
	/* Whom to sample, as stats_sample takes it; NULL: all. */
	void (*whom)(const ProtobufCMessage *request, const char **ret_pod, const char **ret_container);
	/* A unary call's. */
	const ProtobufCMessageDescriptor *response;
	int (*answer)(const struct service *service, const ProtobufCMessage *request,
		      ProtobufCMessage *response, struct err *err);
	/* A streaming call's. */
	const struct service_list_kind *list;
	const ProtobufCMessage *(*filter)(const ProtobufCMessage *request);
};
/* Samples, then answers `reply`, or else `stream`. */
void service_stats_run(const struct service *service, const struct service_stats_kind *kind,
		       struct call *call, const ProtobufCMessage *request, struct rpc_reply *reply,
		       struct rpc_stream *stream);

/* -ENOMEM. */
int service_container_stats_of(Runtime__V1__ContainerStats *s, const struct service *service,
			       const struct container_view *view, const struct container_usage *u);
int service_pod_stats_of(Runtime__V1__PodSandboxStats *s, const struct service *service,
			 const struct pod_view *pod, const struct pod_usage *u, struct err *err);

#endif
