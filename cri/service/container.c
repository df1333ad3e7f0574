/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: containers. */
#include "cri/service/service.h"

#include "base/util.h"
#include "cri/pods/container.h"
#include "api/pb.h"
#include "cri/service/util_internal.h"

#include <json-c/json.h>

SERVICE_HANDLER(create_container)
{
	const Runtime__V1__CreateContainerRequest *req = (const void *)request;
	Runtime__V1__CreateContainerResponse *resp = (void *)response;
	char *id = NULL;
	int r = container_create(ctx, req->pod_sandbox_id, req->config, &id, err);

	if (r == 0)
		resp->container_id = id;
	return r;
}

SERVICE_HANDLER(start_container)
{
	const Runtime__V1__StartContainerRequest *req = (const void *)request;

	return container_start(ctx, req->container_id, err);
}

SERVICE_HANDLER(stop_container)
{
	const Runtime__V1__StopContainerRequest *req = (const void *)request;

	return container_stop(ctx, req->container_id, req->timeout, err);
}

SERVICE_HANDLER(remove_container)
{
	const Runtime__V1__RemoveContainerRequest *req = (const void *)request;

	return container_remove(ctx, req->container_id, err);
}

SERVICE_HANDLER(reopen_container_log)
{
	const Runtime__V1__ReopenContainerLogRequest *req = (const void *)request;

	return container_reopen_log(ctx, req->container_id, err);
}

static bool container_matches(const Runtime__V1__ContainerFilter *f,
			      const Crivisor__State__V1__Container *state,
			      const Runtime__V1__ContainerStatus *s)
{
	if (!f)
		return true;
	if (!str_empty(f->id) && !str_starts(state->id, f->id))
		return false;
	if (!str_empty(f->pod_sandbox_id) && !str_starts(state->pod_id, f->pod_sandbox_id))
		return false;
	if (f->state && f->state->state != s->state)
		return false;
	return service_labels_match(f->label_selector, f->n_label_selector, state->config->labels,
				    state->config->n_labels);
}

/* Takes what the list entry shares with the status out of it. */
static int add_container(Runtime__V1__ListContainersResponse *resp,
			 const Crivisor__State__V1__Container *state, Runtime__V1__ContainerStatus *s)
{
	Runtime__V1__Container *c =
		pb_append(&resp->containers, &resp->n_containers, &runtime__v1__container__descriptor);

	if (!c || pb_set_str(&c->id, state->id) < 0 || pb_set_str(&c->pod_sandbox_id, state->pod_id) < 0 ||
	    pb_set_str(&c->image_ref, state->image_ref) < 0 || pb_set_str(&c->image_id, state->image_id) < 0)
		return -ENOMEM;
	c->state = s->state;
	c->created_at = s->created_at;
	c->metadata = move_ptr(s->metadata);
	c->image = move_ptr(s->image);
	if (service_copy_map(&c->labels, &c->n_labels, state->config->labels, state->config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&c->annotations, &c->n_annotations, state->config->annotations,
				state->config->n_annotations);
}

SERVICE_HANDLER(list_containers)
{
	const Runtime__V1__ListContainersRequest *req = (const void *)request;
	Runtime__V1__ListContainersResponse *resp = (void *)response;
	struct container **list;
	int r = container_list(ctx, NULL, &list, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && list[i]; i++) {
		Crivisor__State__V1__Container *state = container_state(list[i]);
		Runtime__V1__ContainerStatus *s;

		if (!state)
			continue;
		s = pb_new(&runtime__v1__container_status__descriptor);
		if (!s || service_container_status_of(s, state) < 0 ||
		    (container_matches(req->filter, state, s) && add_container(resp, state, s) < 0))
			r = err_oom(err);
		pb_free(s);
		pb_free(state);
	}
	container_list_free(list);
	return r;
}

static char *container_info(const struct container *c)
{
	char *path CLEANUP_FREE = xasprintf("%s/mounts/%s/config.json", c->pod->dir, c->id);
	char *spec CLEANUP_FREE = NULL;
	struct json_object *o = json_object_new_object();
	char *text;

	json_object_object_add(o, "sandboxID", json_object_new_string(c->pod->id));
	if (path && read_file(path, 4 << 20, &spec, NULL) == 0)
		json_object_object_add(o, "runtimeSpec", json_tokener_parse(spec));
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

SERVICE_HANDLER(container_status)
{
	const Runtime__V1__ContainerStatusRequest *req = (const void *)request;
	Runtime__V1__ContainerStatusResponse *resp = (void *)response;
	struct container *c CLEANUP_CONTAINER = NULL;
	Crivisor__State__V1__Container *state;
	int r = container_find(ctx, req->container_id, &c, err);

	if (r < 0)
		return r;
	state = container_state(c);
	if (!state)
		return err_set(err, -ENOENT, "container \"%s\" not found", req->container_id);
	resp->status = pb_new(&runtime__v1__container_status__descriptor);
	r = resp->status ? service_container_status_of(resp->status, state) : -ENOMEM;
	if (r == 0 && req->verbose) {
		char *info CLEANUP_FREE = container_info(c);

		r = info ? pb_map_add(&resp->info, &resp->n_info,
				      &runtime__v1__container_status_response__info_entry__descriptor, "info",
				      info)
			 : -ENOMEM;
	}
	pb_free(state);
	return r < 0 ? err_oom(err) : 0;
}

SERVICE_HANDLER(exec_sync)
{
	const Runtime__V1__ExecSyncRequest *req = (const void *)request;
	Runtime__V1__ExecSyncResponse *resp = (void *)response;
	struct exec_result result = {0};
	char **args CLEANUP_STRV = NULL;
	int r;

	for (size_t i = 0; i < req->n_cmd; i++) {
		if (strv_add(&args, req->cmd[i]) < 0)
			return err_oom(err);
	}
	r = container_exec_sync(ctx, req->container_id, args, req->timeout, call_deadline(call), &result,
				err);
	if (r < 0)
		return r;
	resp->stdout.data = result.out;
	resp->stdout.len = result.out_len;
	resp->stderr.data = result.err_out;
	resp->stderr.len = result.err_len;
	resp->exit_code = result.exit_code;
	return 0;
}
