/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams_internal.h: lists that go to the client in batches (StreamPodSandboxes and its like).
 *
 * Purpose:   which objects there are is noted at the beginning; each is looked up when its batch is made, and
 *            left out if it is gone by then. A batch is made when the one before has gone to the client: a
 *            slow client costs the server its list of ids and one batch.
 * Threads:   a batch is made on a worker of LANE_QUICK; nothing is held while the client reads.
 * Limits:    a batch has at most STREAM_ITEMS_MAX items, and ends with the one that makes it larger than
 *            STREAM_BYTES. A message that exceeds what clients take ends the stream with ResourceExhausted.
 */
#ifndef CRI_SERVICE_STREAMS_INTERNAL_H
#define CRI_SERVICE_STREAMS_INTERNAL_H

#include "cri/service/service.h"

#define STREAM_ITEMS_MAX 1000
#define STREAM_BYTES	 (1u << 20)
#define STREAM_ID_MAX	 80 /* of a pod, a container, or an image ("sha256:…") */

struct service_list;
struct service_list_kind {
	const ProtobufCMessageDescriptor *response; /* its first field is the repeated one */
	/* Notes what there is, by service_list_note. */
	int (*begin)(struct service_list *list, struct err *err);
	/*
	 * Appends the item to the response. -ENOENT: it is gone. 0 without appending: it is not wanted any
	 * more.
	 */
	int (*add)(struct service_list *list, const char *id, ProtobufCMessage *response, struct err *err);
};

struct service_list {
	const struct service *service;
	const struct service_list_kind *kind;
	struct rpc_stream *stream;
	ProtobufCMessage *filter; /* a copy, or NULL */
	char (*ids)[STREAM_ID_MAX];
	size_t n, room, next;
};
int service_list_note(struct service_list *list, const char *id, struct err *err);
/* Answers a streaming call; takes the stream over. filter NULL: none. */
void service_list_run(const struct service *service, const struct service_list_kind *kind,
		      struct rpc_stream *stream, const ProtobufCMessage *filter);

#endif
