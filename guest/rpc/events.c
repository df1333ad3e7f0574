/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/rpc/events.h"

#include "api/agent/envelope.pb-c.h"
#include "base/log.h"
#include "guest/rpc/request.h"

struct event {
	char *topic;
	const char *type; /* the message's full name: static in its descriptor */
	void *data;
	size_t len;
	int64_t at_ns;
};

struct events {
	struct event ring[EVENTS_MAX];
	size_t first, len;
	struct rpc_slot waiters[EVENTS_WAITERS];
	size_t next_waiter;
	bool lossy;
};

struct events *events_new(void)
{
	return calloc(1, sizeof(struct events));
}

static void drop_first(struct events *ev)
{
	struct event *e = &ev->ring[ev->first];

	free(e->topic);
	free(e->data);
	ev->first = (ev->first + 1) % EVENTS_MAX;
	ev->len--;
}

struct events *events_free(struct events *ev)
{
	while (ev && ev->len > 0)
		drop_first(ev);
	free(ev);
	return NULL;
}

/* Hands the first event to the slot. */
static void hand_over(struct events *ev, struct rpc_slot *slot)
{
	const struct event *e = &ev->ring[ev->first];
	Containerd__Services__Events__Ttrpc__V1__Envelope msg =
		CONTAINERD__SERVICES__EVENTS__TTRPC__V1__ENVELOPE__INIT;
	Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

	at.seconds = e->at_ns / NS_PER_SEC;
	at.nanos = (int32_t)(e->at_ns % NS_PER_SEC);
	any.type_url = (char *)e->type;
	any.value.data = e->data;
	any.value.len = e->len;
	msg.timestamp = &at;
	msg.namespace_ = (char *)"k8s.io";
	msg.topic = e->topic;
	msg.event = &any;
	rpc_slot_reply(slot, &msg.base);
	drop_first(ev);
}

void events_push(struct events *ev, const char *topic, const ProtobufCMessage *event)
{
	struct event e = {
		.topic = strdup(topic), .type = event->descriptor->name, .at_ns = now_realtime_ns()};

	e.data = rpc_pack(event, &e.len);
	if (!e.topic || !e.data) {
		free(e.topic);
		free(e.data);
		return;
	}
	if (ev->len == EVENTS_MAX) {
		if (!ev->lossy)
			log_warn("events are not fetched: the oldest are dropped");
		ev->lossy = true;
		drop_first(ev);
	}
	ev->ring[(ev->first + ev->len++) % EVENTS_MAX] = e;
	for (size_t i = 0; i < EVENTS_WAITERS; i++) {
		struct rpc_slot *slot = &ev->waiters[(ev->next_waiter + i) % EVENTS_WAITERS];

		if (slot->req) {
			hand_over(ev, slot);
			return;
		}
	}
}

void events_get(struct events *ev, struct ttrpc_request *req)
{
	struct err err;

	for (size_t i = 0; i < EVENTS_WAITERS; i++) {
		struct rpc_slot *slot = &ev->waiters[i];

		if (slot->req)
			continue;
		rpc_slot_take(slot, req, NULL, NULL);
		ev->lossy = false;
		if (ev->len > 0)
			hand_over(ev, slot);
		return;
	}
	err_set_status(&err, -EBUSY, ERR_RESOURCE_EXHAUSTED, "%d calls wait for events already",
		       EVENTS_WAITERS);
	ttrpc_fail(req, &err);
}
