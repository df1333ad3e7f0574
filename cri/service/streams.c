/* SPDX-License-Identifier: Apache-2.0 */
/* Lists in batches. */
#include "cri/service/streams_internal.h"

#include "api/pb.h"
#include "base/util.h"
#include "cri/pods/containers.h"
#include "cri/service/util_internal.h"

/* ---- a list -------------------------------------------------------------------------------------------- */

int service_list_note(struct service_list *list, const char *id, struct err *err)
{
	if (list->n == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		void *ids = realloc(list->ids, room * sizeof(*list->ids));

		if (!ids)
			return err_oom(err);
		list->ids = ids;
		list->room = room;
	}
	snprintf(list->ids[list->n++], sizeof(*list->ids), "%s", id);
	return 0;
}

/* Ends the stream, with err if it is not NULL. */
static void end_list(struct service_list *list, const struct err *err)
{
	rpc_stream_end(list->stream, err);
	pb_free(list->filter);
	free(list->ids);
	free(list);
}

/* The last item of the response: what is appended comes last. */
static const ProtobufCMessage *last_item(const ProtobufCMessage *response, size_t n)
{
	const ProtobufCFieldDescriptor *field = &response->descriptor->fields[0];
	ProtobufCMessage *const *items;

	memcpy(&items, (const char *)response + field->offset, sizeof(items));
	return items[n - 1];
}

static size_t count_items(const ProtobufCMessage *response)
{
	size_t n;

	memcpy(&n, (const char *)response + response->descriptor->fields[0].quantifier_offset, sizeof(n));
	return n;
}

/* Fills a response with the next items: their number is 0 at the end of the list. */
static int fill_batch(struct service_list *list, ProtobufCMessage *response, size_t *ret_n, struct err *err)
{
	size_t n = 0, bytes = 0;

	while (list->next < list->n && n < STREAM_ITEMS_MAX && bytes < STREAM_BYTES) {
		int r = list->kind->add(list, list->ids[list->next++], response, err);

		if (r < 0 && r != -ENOENT)
			return r;
		if (count_items(response) > n)
			bytes += protobuf_c_message_get_packed_size(last_item(response, ++n));
	}
	*ret_n = n;
	return 0;
}

/* Sends the next batch. *ret_more: there may be another one. */
static int send_batch(struct service_list *list, bool *ret_more, struct err *err)
{
	ProtobufCMessage *response = pb_new(list->kind->response);
	struct rpc_message *message = NULL;
	size_t n = 0;
	int r = response ? fill_batch(list, response, &n, err) : err_oom(err);

	if (r == 0 && n > 0)
		r = rpc_message_new(response, &message, err);
	if (r == 0 && n > 0)
		r = rpc_stream_send(list->stream, message, err);
	rpc_message_unref(message);
	pb_free(response);
	*ret_more = list->next < list->n;
	return r;
}

static void on_drained(void *arg);

static void batch_job(void *arg)
{
	struct service_list *list = arg;
	struct err err = ERR_INIT;
	bool more = false;

	if (send_batch(list, &more, &err) < 0)
		end_list(list, &err);
	else if (more)
		rpc_stream_when_drained(list->stream, on_drained, list);
	else
		end_list(list, NULL);
}

static void on_drained(void *arg)
{
	struct service_list *list = arg;
	struct err err = ERR_INIT;

	if (workers_submit(list->service->workers, LANE_QUICK, batch_job, list) == 0)
		return;
	err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "no thread for the rest of the list");
	end_list(list, &err);
}

void service_list_run(const struct service *service, const struct service_list_kind *kind,
		      struct rpc_stream *stream, const ProtobufCMessage *filter)
{
	struct service_list *list = calloc(1, sizeof(*list));
	struct err err = ERR_INIT;
	int r = 0;

	if (!list) {
		err_oom(&err);
		rpc_stream_end(stream, &err);
		return;
	}
	*list = (struct service_list){.service = service, .kind = kind, .stream = stream};
	list->filter = PB_CLONE(filter);
	if (filter && !list->filter)
		r = err_oom(&err);
	if (r == 0)
		r = kind->begin(list, &err);
	if (r < 0)
		end_list(list, &err);
	else
		batch_job(list);
}

/* ---- pods ---------------------------------------------------------------------------------------------- */

static int note_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	struct service_list *list = arg;

	if (!service_pod_wanted((const void *)list->filter, pod))
		return 0;
	return service_list_note(list, pod->id, err);
}

static int begin_pods(struct service_list *list, struct err *err)
{
	const Runtime__V1__PodSandboxFilter *f = (const void *)list->filter;

	return pods_each(list->service->pods, f ? f->id : NULL, note_pod, list, err);
}

struct adding {
	struct service_list *list;
	ProtobufCMessage *response;
};

static int add_pod_view(void *arg, const struct pod_view *pod, struct err *err)
{
	struct adding *a = arg;
	Runtime__V1__StreamPodSandboxesResponse *resp = (void *)a->response;

	if (!service_pod_wanted((const void *)a->list->filter, pod))
		return 0;
	return service_add_pod(&resp->pod_sandboxes, &resp->n_pod_sandboxes, pod, err);
}

static int add_pod(struct service_list *list, const char *id, ProtobufCMessage *response, struct err *err)
{
	struct adding a = {.list = list, .response = response};

	return pods_look(list->service->pods, id, add_pod_view, &a, err);
}

static const struct service_list_kind pods_kind = {
	.response = &runtime__v1__stream_pod_sandboxes_response__descriptor,
	.begin = begin_pods,
	.add = add_pod,
};

SERVICE_STREAM(stream_pod_sandboxes)
{
	const Runtime__V1__StreamPodSandboxesRequest *req = (const void *)request;

	service_list_run(ctx, &pods_kind, stream, req->filter ? &req->filter->base : NULL);
}

/* ---- containers ---------------------------------------------------------------------------------------- */

static int note_container(void *arg, const struct container_view *view, struct err *err)
{
	struct service_list *list = arg;

	if (!service_container_wanted((const void *)list->filter, view))
		return 0;
	return service_list_note(list, view->id, err);
}

static int begin_containers(struct service_list *list, struct err *err)
{
	const Runtime__V1__ContainerFilter *f = (const void *)list->filter;

	return containers_each(list->service->pods, f ? f->id : NULL, f ? f->pod_sandbox_id : NULL,
			       note_container, list, err);
}

static int add_container_view(void *arg, const struct container_view *view, struct err *err)
{
	struct adding *a = arg;
	Runtime__V1__StreamContainersResponse *resp = (void *)a->response;

	if (!service_container_wanted((const void *)a->list->filter, view))
		return 0;
	return service_add_container(&resp->containers, &resp->n_containers, view, err);
}

static int add_container(struct service_list *list, const char *id, ProtobufCMessage *response,
			 struct err *err)
{
	struct adding a = {.list = list, .response = response};

	return containers_look(list->service->pods, id, add_container_view, &a, err);
}

static const struct service_list_kind containers_kind = {
	.response = &runtime__v1__stream_containers_response__descriptor,
	.begin = begin_containers,
	.add = add_container,
};

SERVICE_STREAM(stream_containers)
{
	const Runtime__V1__StreamContainersRequest *req = (const void *)request;

	service_list_run(ctx, &containers_kind, stream, req->filter ? &req->filter->base : NULL);
}

/* ---- images -------------------------------------------------------------------------------------------- */

static int begin_images(struct service_list *list, struct err *err)
{
	const Runtime__V1__ImageFilter *f = (const void *)list->filter;
	const char *ref = f && f->image ? f->image->image : NULL;
	struct image **images = NULL;
	int r = image_list(list->service->images, str_empty(ref) ? NULL : ref, &images, err);

	for (size_t i = 0; images && images[i]; i++) {
		if (r == 0)
			r = service_list_note(list, images[i]->id, err);
		image_free(images[i]);
	}
	free(images);
	return r;
}

static int add_image(struct service_list *list, const char *id, ProtobufCMessage *response, struct err *err)
{
	Runtime__V1__StreamImagesResponse *resp = (void *)response;
	struct image *image = NULL;
	Runtime__V1__Image *im;
	int r = image_get(list->service->images, id, &image, err);

	if (r < 0)
		return r;
	im = pb_append(&resp->images, &resp->n_images, &runtime__v1__image__descriptor);
	if (!im || service_image_of(im, image) < 0)
		r = err_oom(err);
	image_free(image);
	return r;
}

static const struct service_list_kind images_kind = {
	.response = &runtime__v1__stream_images_response__descriptor,
	.begin = begin_images,
	.add = add_image,
};

SERVICE_STREAM(stream_images)
{
	const Runtime__V1__StreamImagesRequest *req = (const void *)request;

	service_list_run(ctx, &images_kind, stream, req->filter ? &req->filter->base : NULL);
}
