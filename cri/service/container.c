/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: containers. */
#include "cri/pods/containers.h"
#include "cri/service/service.h"

#include "api/pb.h"
#include "base/util.h"
#include "cri/service/util_internal.h"

#include <json-c/json.h>

/* ---- create, start, stop, remove ----------------------------------------------------------------------- */

static void on_created(void *arg, const char *id, const struct err *err)
{
	Runtime__V1__CreateContainerResponse resp = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;

	resp.container_id = (char *)(uintptr_t)id;
	rpc_reply_end(arg, &resp.base, err);
}

SERVICE_ASYNC(create_container)
{
	const struct service *service = ctx;
	const Runtime__V1__CreateContainerRequest *req = (const void *)request;

	containers_create(service->pods, req->pod_sandbox_id, req->config, call, on_created, reply);
}

SERVICE_ASYNC(start_container)
{
	const struct service *service = ctx;
	const Runtime__V1__StartContainerRequest *req = (const void *)request;

	containers_start(service->pods, req->container_id, call, service_done, reply);
}

SERVICE_ASYNC(stop_container)
{
	const struct service *service = ctx;
	const Runtime__V1__StopContainerRequest *req = (const void *)request;

	containers_stop(service->pods, req->container_id, req->timeout, call, service_done, reply);
}

SERVICE_ASYNC(remove_container)
{
	const struct service *service = ctx;
	const Runtime__V1__RemoveContainerRequest *req = (const void *)request;

	containers_remove(service->pods, req->container_id, call, service_done, reply);
}

SERVICE_HANDLER(reopen_container_log)
{
	const struct service *service = ctx;
	const Runtime__V1__ReopenContainerLogRequest *req = (const void *)request;

	return containers_reopen_log(service->pods, req->container_id, call, err);
}

/* ---- list ---------------------------------------------------------------------------------------------- */

bool service_container_wanted(const Runtime__V1__ContainerFilter *f, const struct container_view *view)
{
	return !f || ((!f->state || f->state->state == service_container_state(view)) &&
		      service_labels_match(f->label_selector, f->n_label_selector, view->config->labels,
					   view->config->n_labels));
}

int service_add_container(void *vector, size_t *n, const struct container_view *view, struct err *err)
{
	const Runtime__V1__ContainerConfig *config = view->config;
	Runtime__V1__Container *c = pb_append(vector, n, &runtime__v1__container__descriptor);

	if (!c)
		return err_oom(err);
	c->state = service_container_state(view);
	c->created_at = view->created_at_ns;
	c->metadata = PB_CLONE(config->metadata);
	c->image = PB_CLONE(config->image);
	if (!c->metadata || !c->image || pb_set_str(&c->id, view->id) < 0 ||
	    pb_set_str(&c->pod_sandbox_id, view->pod_id) < 0 ||
	    pb_set_str(&c->image_ref, view->image_id) < 0 || /* by which kubelets collect garbage */
	    pb_set_str(&c->image_id, view->image_id) < 0 ||
	    service_copy_map(&c->labels, &c->n_labels, config->labels, config->n_labels) < 0 ||
	    service_copy_map(&c->annotations, &c->n_annotations, config->annotations, config->n_annotations) <
		    0)
		return err_oom(err);
	return 0;
}

struct list {
	const Runtime__V1__ContainerFilter *filter; /* may be NULL */
	Runtime__V1__ListContainersResponse *resp;
};

static int add_container(void *arg, const struct container_view *view, struct err *err)
{
	struct list *list = arg;

	if (!service_container_wanted(list->filter, view))
		return 0;
	return service_add_container(&list->resp->containers, &list->resp->n_containers, view, err);
}

SERVICE_HANDLER(list_containers)
{
	const struct service *service = ctx;
	const Runtime__V1__ListContainersRequest *req = (const void *)request;
	struct list list = {.filter = req->filter, .resp = (void *)response};

	return containers_each(service->pods, req->filter ? req->filter->id : NULL,
			       req->filter ? req->filter->pod_sandbox_id : NULL, add_container, &list, err);
}

/* ---- status -------------------------------------------------------------------------------------------- */

struct status {
	Runtime__V1__ContainerStatusResponse *resp;
	char pod_id[65];
};

static int take_container(void *arg, const struct container_view *view, struct err *err)
{
	struct status *st = arg;

	snprintf(st->pod_id, sizeof(st->pod_id), "%s", view->pod_id);
	st->resp->status = pb_new(&runtime__v1__container_status__descriptor);
	if (!st->resp->status || service_container_status_of(st->resp->status, view) < 0)
		return err_oom(err);
	return 0;
}

static char *info_json(const char *pod_id, const char *spec)
{
	struct json_object *o = json_object_new_object();
	char *text;

	json_object_object_add(o, "sandboxID", json_object_new_string(pod_id));
	if (spec)
		json_object_object_add(o, "runtimeSpec", json_tokener_parse(spec));
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

SERVICE_HANDLER(container_status)
{
	const struct service *service = ctx;
	const Runtime__V1__ContainerStatusRequest *req = (const void *)request;
	struct status st = {.resp = (void *)response};
	char *spec CLEANUP_FREE = NULL;
	char *info CLEANUP_FREE = NULL;
	int r = containers_look(service->pods, req->container_id, take_container, &st, err);

	if (r < 0 || !req->verbose)
		return r;
	/* The spec lies in the pod's directory, which goes when the pod is stopped. */
	(void)containers_spec(service->pods, st.resp->status->id, &spec, NULL);
	info = info_json(st.pod_id, spec);
	if (!info ||
	    pb_map_add(&st.resp->info, &st.resp->n_info,
		       &runtime__v1__container_status_response__info_entry__descriptor, "info", info) < 0)
		return err_oom(err);
	return 0;
}
