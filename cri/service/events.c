/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: GetContainerEvents. */
#include "cri/service/service.h"

#include "api/pb.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/pods/containers.h"
#include "cri/service/util_internal.h"

typedef Runtime__V1__ContainerEventResponse Event;
typedef Runtime__V1__ContainerEventType EventType;

#define CREATED RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT
#define STARTED RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT
#define STOPPED RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT
#define DELETED RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT

struct service_events {
	struct pods *pods; /* set before any hook runs */
	struct rpc_watchers *watchers;
};

int service_events_new(struct service_events **ret_events, struct err *err)
{
	struct service_events *events = calloc(1, sizeof(*events));
	int r = events ? rpc_watchers_new(0, &events->watchers, err) : err_oom(err);

	if (r < 0)
		free(events);
	else
		*ret_events = events;
	return r;
}

void service_events_begin(struct service_events *events, struct pods *pods)
{
	events->pods = pods;
}

void service_events_close(struct service_events *events)
{
	struct err err = ERR_INIT;

	if (!events)
		return;
	err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is being stopped");
	rpc_watchers_close(events->watchers, &err);
}

struct service_events *service_events_free(struct service_events *events)
{
	if (!events)
		return NULL;
	rpc_watchers_free(events->watchers, NULL);
	free(events);
	return NULL;
}

SERVICE_STREAM(get_container_events)
{
	const struct service *service = ctx;

	(void)rpc_watchers_add(service->events->watchers, stream, NULL);
}

/* ---- an event's message -------------------------------------------------------------------------------- */

/* The containers of a pod. `one` is not listed yet: it is added. */
struct statuses {
	Event *event;
	const struct container_view *one; /* NULL: none */
};

static int add_status(void *arg, const struct container_view *container, struct err *err)
{
	struct statuses *st = arg;
	Runtime__V1__ContainerStatus *s =
		pb_append(&st->event->containers_statuses, &st->event->n_containers_statuses,
			  &runtime__v1__container_status__descriptor);

	if (st->one && str_eq(container->id, st->one->id))
		st->one = NULL;
	return s && service_container_status_of(s, container) == 0 ? 0 : err_oom(err);
}

static int take_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	Event *event = arg;

	event->pod_sandbox_status = pb_new(&runtime__v1__pod_sandbox_status__descriptor);
	return event->pod_sandbox_status && service_pod_status_of(event->pod_sandbox_status, pod) == 0
		       ? 0
		       : err_oom(err);
}

static int fill(struct service_events *events, Event *event, const char *id, const struct pod_view *pod,
		const struct container_view *container, bool listed, struct err *err)
{
	struct statuses st = {.event = event, .one = listed ? NULL : container};
	const char *pod_id = pod ? pod->id : container->pod_id;
	int r;

	event->created_at = now_realtime_ns();
	if (pb_set_str(&event->container_id, id) < 0)
		return err_oom(err);
	r = pod ? take_pod(event, pod, err) : pods_look(events->pods, pod_id, take_pod, event, err);
	if (r == -ENOENT) /* it is being removed, and this container with it */
		r = 0;
	if (r == 0)
		r = containers_each(events->pods, NULL, pod_id, add_status, &st, err);
	if (r == 0 && st.one)
		r = add_status(&st, st.one, err);
	return r;
}

/* Nobody misses an event without being told: without memory for it all streams end. */
static void lost(struct service_events *events, const char *id, const struct err *why)
{
	struct err err = ERR_INIT;

	err_set_status(&err, -ENOMEM, ERR_RESOURCE_EXHAUSTED, "an event is lost: %.200s", why->msg);
	log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", id), "%s", err.msg);
	rpc_watchers_drop(events->watchers, &err);
}

/* pod or container: whose it is. listed: views show the container. */
static void publish(struct service_events *events, EventType type, const struct pod_view *pod,
		    const struct container_view *container, bool listed)
{
	const char *id = pod ? pod->id : container->id;
	struct err err = ERR_INIT;
	Event *event;
	int r;

	if (rpc_watchers_count(events->watchers) == 0)
		return;
	event = pb_new(&runtime__v1__container_event_response__descriptor);
	r = event ? fill(events, event, id, pod, container, listed, &err) : err_oom(&err);
	if (r == 0) {
		event->container_event_type = type;
		r = rpc_watchers_publish(events->watchers, &event->base, &err);
	}
	if (r < 0)
		lost(events, id, &err);
	pb_free(event);
}

/* ---- the pods' hooks ----------------------------------------------------------------------------------- */

/*
 * A pod's own events are those of the container that other runtimes hold a pod by: made and started at once.
 */
static void on_pod(void *arg, enum pods_event event, const struct pod_view *pod)
{
	struct service_events *events = arg;

	if (event == POD_IS_READY) {
		publish(events, CREATED, pod, NULL, true);
		publish(events, STARTED, pod, NULL, true);
	} else if (event == POD_IS_NOT_READY) {
		publish(events, STOPPED, pod, NULL, true);
	} else {
		publish(events, DELETED, pod, NULL, true);
	}
}

static void on_container(void *arg, enum pods_event event, const struct container_view *container)
{
	struct service_events *events = arg;

	if (event == CONTAINER_IS_CREATED)
		publish(events, CREATED, NULL, container, false);
	else if (event == CONTAINER_IS_STARTED)
		publish(events, STARTED, NULL, container, true);
	else if (event == CONTAINER_HAS_EXITED)
		publish(events, STOPPED, NULL, container, true);
	else
		publish(events, DELETED, NULL, container, true);
}

void service_events_hooks(struct service_events *events, struct pods_hooks *ret_hooks)
{
	*ret_hooks = (struct pods_hooks){.pod = on_pod, .container = on_container, .arg = events};
}
