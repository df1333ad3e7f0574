/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RuntimeService: what pods and containers use. The figures are sampled first, which holds no thread; the
 * answer is made on a worker.
 */
#include "cri/service/stats_internal.h"

#include "api/pb.h"
#include "base/util.h"
#include "cri/service/util_internal.h"

/* ---- calls that wait for a sample ---------------------------------------------------------------------- */

/* What waits for its sample. */
struct waiting {
	const struct service *service;
	const struct service_stats_kind *kind;
	struct rpc_reply *reply;   /* of a unary call */
	struct rpc_stream *stream; /* of a streaming one */
	ProtobufCMessage *request;
};

static void waiting_free(struct waiting *w)
{
	pb_free(w->request);
	free(w);
}

static void fail(struct waiting *w, const struct err *err)
{
	if (w->reply)
		rpc_reply_end(w->reply, NULL, err);
	else
		rpc_stream_end(w->stream, err);
	waiting_free(w);
}

static void answer_job(void *arg)
{
	struct waiting *w = arg;
	ProtobufCMessage *resp;
	struct err err = ERR_INIT;
	int r;

	if (w->stream) {
		service_list_run(w->service, w->kind->list, w->stream, w->kind->filter(w->request));
		waiting_free(w);
		return;
	}
	resp = pb_new(w->kind->response);
	r = resp ? w->kind->answer(w->service, w->request, resp, &err) : err_oom(&err);
	rpc_reply_end(w->reply, r < 0 ? NULL : resp, r < 0 ? &err : NULL);
	pb_free(resp);
	waiting_free(w);
}

static void on_sampled(void *arg, const char *id, const struct err *err)
{
	struct waiting *w = arg;
	struct err full = ERR_INIT;

	(void)id;
	if (err->code < 0) {
		fail(w, err);
	} else if (workers_submit(w->service->workers, LANE_QUICK, answer_job, w) < 0) {
		err_set_status(&full, -EAGAIN, ERR_RESOURCE_EXHAUSTED, "no thread for the answer");
		fail(w, &full);
	}
}

void service_stats_run(const struct service *service, const struct service_stats_kind *kind,
		       struct call *call, const ProtobufCMessage *request, struct rpc_reply *reply,
		       struct rpc_stream *stream)
{
	struct waiting *w = calloc(1, sizeof(*w));
	ProtobufCMessage *copy = PB_CLONE(request);
	struct err err = ERR_INIT;
	const char *pod_id = "", *container_id = "";

	if (!w || !copy) {
		free(w);
		pb_free(copy);
		err_oom(&err);
		if (reply)
			rpc_reply_end(reply, NULL, &err);
		else
			rpc_stream_end(stream, &err);
		return;
	}
	*w = (struct waiting){
		.service = service, .kind = kind, .reply = reply, .stream = stream, .request = copy};
	if (kind->whom)
		kind->whom(copy, &pod_id, &container_id);
	stats_sample(service->pods, pod_id, container_id, call, on_sampled, w);
}

/* ---- ContainerStats ------------------------------------------------------------------------------------ */

struct one_container {
	const struct service *service;
	Runtime__V1__ContainerStats *stats;
};

static int fill_container(void *arg, const struct container_view *view, const struct container_usage *u,
			  struct err *err)
{
	struct one_container *o = arg;

	return service_container_stats_of(o->stats, o->service, view, u) < 0 ? err_oom(err) : 0;
}

static void whom_container(const ProtobufCMessage *request, const char **ret_pod, const char **ret_container)
{
	(void)ret_pod;
	*ret_container = ((const Runtime__V1__ContainerStatsRequest *)(const void *)request)->container_id;
}

static int answer_container(const struct service *service, const ProtobufCMessage *request,
			    ProtobufCMessage *response, struct err *err)
{
	const Runtime__V1__ContainerStatsRequest *req = (const void *)request;
	Runtime__V1__ContainerStatsResponse *resp = (void *)response;
	struct one_container o = {.service = service};

	resp->stats = o.stats = pb_new(&runtime__v1__container_stats__descriptor);
	if (!o.stats)
		return err_oom(err);
	return stats_look_container(service->pods, req->container_id, fill_container, &o, err);
}

static const struct service_stats_kind container_kind = {
	.response = &runtime__v1__container_stats_response__descriptor,
	.whom = whom_container,
	.answer = answer_container,
};

/* An empty id is the beginning of every one: it is refused before anybody is asked. */
static bool refuse_empty(const char *id, const char *field, struct rpc_reply *reply)
{
	struct err err = ERR_INIT;

	if (!str_empty(id))
		return false;
	err_set(&err, -EINVAL, "%s is missing", field);
	rpc_reply_end(reply, NULL, &err);
	return true;
}

SERVICE_ASYNC(container_stats)
{
	const Runtime__V1__ContainerStatsRequest *req = (const void *)request;

	if (!refuse_empty(req->container_id, "container_id", reply))
		service_stats_run(ctx, &container_kind, call, request, reply, NULL);
}

/* ---- ListContainerStats, StreamContainerStats ---------------------------------------------------------- */

typedef Runtime__V1__ContainerStatsFilter ContainerFilter;

static bool container_wanted(const ContainerFilter *f, const struct container_view *view)
{
	return !f || service_labels_match(f->label_selector, f->n_label_selector, view->config->labels,
					  view->config->n_labels);
}

/* The unary request and the streaming one have one shape: the filter. */
static const ProtobufCMessage *container_filter(const ProtobufCMessage *request)
{
	const ContainerFilter *f =
		((const Runtime__V1__ListContainerStatsRequest *)(const void *)request)->filter;

	return f ? &f->base : NULL;
}

static const ProtobufCMessage *stream_container_filter(const ProtobufCMessage *request)
{
	const ContainerFilter *f =
		((const Runtime__V1__StreamContainerStatsRequest *)(const void *)request)->filter;

	return f ? &f->base : NULL;
}

static void whom_filter(const ContainerFilter *f, const char **ret_pod, const char **ret_container)
{
	*ret_pod = f ? f->pod_sandbox_id : "";
	*ret_container = f ? f->id : "";
}

static void whom_containers(const ProtobufCMessage *request, const char **ret_pod, const char **ret_container)
{
	whom_filter((const void *)container_filter(request), ret_pod, ret_container);
}

static void whom_stream_containers(const ProtobufCMessage *request, const char **ret_pod,
				   const char **ret_container)
{
	whom_filter((const void *)stream_container_filter(request), ret_pod, ret_container);
}

struct adding {
	const struct service *service;
	const void *filter;
	void *vector;
	size_t *n;
};

static int add_container(void *arg, const struct container_view *view, const struct container_usage *u,
			 struct err *err)
{
	struct adding *a = arg;
	Runtime__V1__ContainerStats *s;

	if (!container_wanted(a->filter, view))
		return 0;
	s = pb_append(a->vector, a->n, &runtime__v1__container_stats__descriptor);
	return s && service_container_stats_of(s, a->service, view, u) == 0 ? 0 : err_oom(err);
}

static int answer_containers(const struct service *service, const ProtobufCMessage *request,
			     ProtobufCMessage *response, struct err *err)
{
	const ContainerFilter *f = (const void *)container_filter(request);
	Runtime__V1__ListContainerStatsResponse *resp = (void *)response;
	struct adding a = {.service = service, .filter = f, .vector = &resp->stats, .n = &resp->n_stats};

	return stats_each_container(service->pods, f ? f->id : NULL, f ? f->pod_sandbox_id : NULL,
				    add_container, &a, err);
}

static const struct service_stats_kind containers_kind = {
	.response = &runtime__v1__list_container_stats_response__descriptor,
	.whom = whom_containers,
	.answer = answer_containers,
};

SERVICE_ASYNC(list_container_stats)
{
	service_stats_run(ctx, &containers_kind, call, request, reply, NULL);
}

static int note_container(void *arg, const struct container_view *view, const struct container_usage *u,
			  struct err *err)
{
	struct service_list *list = arg;

	(void)u;
	return container_wanted((const void *)list->filter, view) ? service_list_note(list, view->id, err)
								  : 0;
}

static int begin_containers(struct service_list *list, struct err *err)
{
	const ContainerFilter *f = (const void *)list->filter;

	return stats_each_container(list->service->pods, f ? f->id : NULL, f ? f->pod_sandbox_id : NULL,
				    note_container, list, err);
}

/* One that does not run any more, or whose guest is gone, is left out like one that is removed. */
static int left_out(int r)
{
	return r == -EINVAL || r == -EAGAIN ? -ENOENT : r;
}

static int next_container(struct service_list *list, const char *id, ProtobufCMessage *response,
			  struct err *err)
{
	Runtime__V1__StreamContainerStatsResponse *resp = (void *)response;
	struct adding a = {.service = list->service,
			   .filter = list->filter,
			   .vector = &resp->container_stats,
			   .n = &resp->n_container_stats};

	return left_out(stats_look_container(list->service->pods, id, add_container, &a, err));
}

static const struct service_list_kind container_list = {
	.response = &runtime__v1__stream_container_stats_response__descriptor,
	.begin = begin_containers,
	.add = next_container,
};
static const struct service_stats_kind stream_containers_kind = {
	.whom = whom_stream_containers,
	.list = &container_list,
	.filter = stream_container_filter,
};

SERVICE_STREAM(stream_container_stats)
{
	service_stats_run(ctx, &stream_containers_kind, call, request, NULL, stream);
}

/* ---- PodSandboxStats ----------------------------------------------------------------------------------- */

struct one_pod {
	const struct service *service;
	Runtime__V1__PodSandboxStats *stats;
};

static int fill_pod(void *arg, const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	struct one_pod *o = arg;

	return service_pod_stats_of(o->stats, o->service, pod, u, err);
}

static void whom_pod(const ProtobufCMessage *request, const char **ret_pod, const char **ret_container)
{
	(void)ret_container;
	*ret_pod = ((const Runtime__V1__PodSandboxStatsRequest *)(const void *)request)->pod_sandbox_id;
}

static int answer_pod(const struct service *service, const ProtobufCMessage *request,
		      ProtobufCMessage *response, struct err *err)
{
	const Runtime__V1__PodSandboxStatsRequest *req = (const void *)request;
	Runtime__V1__PodSandboxStatsResponse *resp = (void *)response;
	struct one_pod o = {.service = service};

	resp->stats = o.stats = pb_new(&runtime__v1__pod_sandbox_stats__descriptor);
	if (!o.stats)
		return err_oom(err);
	return stats_look_pod(service->pods, req->pod_sandbox_id, fill_pod, &o, err);
}

static const struct service_stats_kind pod_kind = {
	.response = &runtime__v1__pod_sandbox_stats_response__descriptor,
	.whom = whom_pod,
	.answer = answer_pod,
};

SERVICE_ASYNC(pod_sandbox_stats)
{
	const Runtime__V1__PodSandboxStatsRequest *req = (const void *)request;

	if (!refuse_empty(req->pod_sandbox_id, "pod_sandbox_id", reply))
		service_stats_run(ctx, &pod_kind, call, request, reply, NULL);
}

/* ---- ListPodSandboxStats, StreamPodSandboxStats -------------------------------------------------------- */

typedef Runtime__V1__PodSandboxStatsFilter PodFilter;

static bool pod_wanted(const PodFilter *f, const struct pod_view *pod)
{
	return !f || service_labels_match(f->label_selector, f->n_label_selector, pod->config->labels,
					  pod->config->n_labels);
}

static const ProtobufCMessage *pod_filter(const ProtobufCMessage *request)
{
	const PodFilter *f = ((const Runtime__V1__ListPodSandboxStatsRequest *)(const void *)request)->filter;

	return f ? &f->base : NULL;
}

static const ProtobufCMessage *stream_pod_filter(const ProtobufCMessage *request)
{
	const PodFilter *f =
		((const Runtime__V1__StreamPodSandboxStatsRequest *)(const void *)request)->filter;

	return f ? &f->base : NULL;
}

static void whom_pods(const ProtobufCMessage *request, const char **ret_pod, const char **ret_container)
{
	const PodFilter *f = (const void *)pod_filter(request);

	(void)ret_container;
	*ret_pod = f ? f->id : "";
}

static void whom_stream_pods(const ProtobufCMessage *request, const char **ret_pod,
			     const char **ret_container)
{
	const PodFilter *f = (const void *)stream_pod_filter(request);

	(void)ret_container;
	*ret_pod = f ? f->id : "";
}

static int add_pod(void *arg, const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	struct adding *a = arg;
	Runtime__V1__PodSandboxStats *s;

	if (!pod_wanted(a->filter, pod))
		return 0;
	s = pb_append(a->vector, a->n, &runtime__v1__pod_sandbox_stats__descriptor);
	return s ? service_pod_stats_of(s, a->service, pod, u, err) : err_oom(err);
}

static int answer_pods(const struct service *service, const ProtobufCMessage *request,
		       ProtobufCMessage *response, struct err *err)
{
	const PodFilter *f = (const void *)pod_filter(request);
	Runtime__V1__ListPodSandboxStatsResponse *resp = (void *)response;
	struct adding a = {.service = service, .filter = f, .vector = &resp->stats, .n = &resp->n_stats};

	return stats_each_pod(service->pods, f ? f->id : NULL, add_pod, &a, err);
}

static const struct service_stats_kind pods_kind = {
	.response = &runtime__v1__list_pod_sandbox_stats_response__descriptor,
	.whom = whom_pods,
	.answer = answer_pods,
};

SERVICE_ASYNC(list_pod_sandbox_stats)
{
	service_stats_run(ctx, &pods_kind, call, request, reply, NULL);
}

static int note_pod(void *arg, const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	struct service_list *list = arg;

	(void)u;
	return pod_wanted((const void *)list->filter, pod) ? service_list_note(list, pod->id, err) : 0;
}

static int begin_pods(struct service_list *list, struct err *err)
{
	const PodFilter *f = (const void *)list->filter;

	return stats_each_pod(list->service->pods, f ? f->id : NULL, note_pod, list, err);
}

static int next_pod(struct service_list *list, const char *id, ProtobufCMessage *response, struct err *err)
{
	Runtime__V1__StreamPodSandboxStatsResponse *resp = (void *)response;
	struct adding a = {.service = list->service,
			   .filter = list->filter,
			   .vector = &resp->pod_sandbox_stats,
			   .n = &resp->n_pod_sandbox_stats};

	return left_out(stats_look_pod(list->service->pods, id, add_pod, &a, err));
}

static const struct service_list_kind pod_list = {
	.response = &runtime__v1__stream_pod_sandbox_stats_response__descriptor,
	.begin = begin_pods,
	.add = next_pod,
};
static const struct service_stats_kind stream_pods_kind = {
	.whom = whom_stream_pods,
	.list = &pod_list,
	.filter = stream_pod_filter,
};

SERVICE_STREAM(stream_pod_sandbox_stats)
{
	service_stats_run(ctx, &stream_pods_kind, call, request, NULL, stream);
}
