/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: pod sandboxes. */
#include "cri/service/service.h"

#include "api/pb.h"
#include "base/util.h"
#include "cri/pods/containers.h"
#include "cri/service/util_internal.h"

#include <json-c/json.h>

/* ---- run, stop, remove --------------------------------------------------------------------------------- */

static void on_running(void *arg, const char *id, const struct err *err)
{
	Runtime__V1__RunPodSandboxResponse resp = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;

	resp.pod_sandbox_id = (char *)(uintptr_t)id;
	rpc_reply_end(arg, &resp.base, err);
}

SERVICE_ASYNC(run_pod_sandbox)
{
	const struct service *service = ctx;
	const Runtime__V1__RunPodSandboxRequest *req = (const void *)request;

	pods_run(service->pods, req->config, req->runtime_handler, call, on_running, reply);
}

SERVICE_ASYNC(stop_pod_sandbox)
{
	const struct service *service = ctx;
	const Runtime__V1__StopPodSandboxRequest *req = (const void *)request;

	pods_stop(service->pods, req->pod_sandbox_id, call, service_done, reply);
}

SERVICE_ASYNC(remove_pod_sandbox)
{
	const struct service *service = ctx;
	const Runtime__V1__RemovePodSandboxRequest *req = (const void *)request;

	pods_remove(service->pods, req->pod_sandbox_id, call, service_done, reply);
}

/* ---- status -------------------------------------------------------------------------------------------- */

static Runtime__V1__PodSandboxState cri_state(const struct pod_view *pod)
{
	return pod->ready ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
			  : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

static int fill_namespaces(Runtime__V1__PodSandboxStatus *s, const Runtime__V1__LinuxPodSandboxConfig *lx)
{
	s->linux = pb_new(&runtime__v1__linux_pod_sandbox_status__descriptor);
	if (s->linux)
		s->linux->namespaces = pb_new(&runtime__v1__namespace__descriptor);
	if (!s->linux || !s->linux->namespaces)
		return -ENOMEM;
	s->linux->namespaces->options = lx && lx->security_context && lx->security_context->namespace_options
						? PB_CLONE(lx->security_context->namespace_options)
						: pb_new(&runtime__v1__namespace_option__descriptor);
	return s->linux->namespaces->options ? 0 : -ENOMEM;
}

/* Addresses are those of a ready pod. */
static int fill_network(Runtime__V1__PodSandboxStatus *s, const struct pod_view *pod)
{
	s->network = pb_new(&runtime__v1__pod_sandbox_network_status__descriptor);
	if (!s->network)
		return -ENOMEM;
	if (!pod->ready || pod->n_ips == 0)
		return 0;
	for (size_t i = 1; i < pod->n_ips; i++) {
		Runtime__V1__PodIP *ip = pb_append(&s->network->additional_ips, &s->network->n_additional_ips,
						   &runtime__v1__pod_ip__descriptor);

		if (!ip || pb_set_str(&ip->ip, pod->ips[i]) < 0)
			return -ENOMEM;
	}
	return pb_set_str(&s->network->ip, pod->ips[0]);
}

int service_pod_status_of(Runtime__V1__PodSandboxStatus *s, const struct pod_view *pod)
{
	s->state = cri_state(pod);
	s->created_at = pod->created_at_ns;
	s->metadata = PB_CLONE(pod->config->metadata);
	if (!s->metadata || pb_set_str(&s->id, pod->id) < 0 ||
	    pb_set_str(&s->runtime_handler, pod->runtime_handler) < 0 || fill_network(s, pod) < 0 ||
	    fill_namespaces(s, pod->config->linux) < 0 ||
	    service_copy_map(&s->labels, &s->n_labels, pod->config->labels, pod->config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&s->annotations, &s->n_annotations, pod->config->annotations,
				pod->config->n_annotations);
}

/* What a status is gathered for. */
struct status {
	const struct service *service;
	bool verbose;
	char *id;
	struct rpc_reply *reply;
	Runtime__V1__PodSandboxStatusResponse *resp;
	char reason[SANDBOX_WHY_MAX];
	bool ready;
};

static int add_container(void *arg, const struct container_view *container, struct err *err)
{
	Runtime__V1__PodSandboxStatusResponse *resp = arg;
	Runtime__V1__ContainerStatus *s = pb_append(&resp->containers_statuses, &resp->n_containers_statuses,
						    &runtime__v1__container_status__descriptor);

	return s && service_container_status_of(s, container) == 0 ? 0 : err_oom(err);
}

static int take_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	struct status *st = arg;

	st->ready = pod->ready;
	snprintf(st->reason, sizeof(st->reason), "%s", pod->reason);
	st->resp->timestamp = now_realtime_ns();
	st->resp->status = pb_new(&runtime__v1__pod_sandbox_status__descriptor);
	if (!st->resp->status || service_pod_status_of(st->resp->status, pod) < 0)
		return err_oom(err);
	return containers_each(st->service->pods, NULL, pod->id, add_container, st->resp, err);
}

static void put(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

static char *info_json(const struct status *st, const struct sandbox_info *info)
{
	const struct vm_info *vm = &info->machine;
	struct json_object *o = json_object_new_object();
	char *text;

	put(o, "netns", info->netns);
	put(o, "cgroup", info->cgroup);
	put(o, "dir", info->dir);
	put(o, "bootId", info->boot_id);
	put(o, "agentVersion", info->agent_version);
	put(o, "reason", st->reason);
	if (st->ready && vm->driver) {
		put(o, "driver", vm->driver);
		put(o, "accel", vm->accel);
		put(o, "vmState", vm->state);
		put(o, "console", vm->console_path);
		json_object_object_add(o, "pid", json_object_new_int(vm->vmm_pid));
		json_object_object_add(o, "virtiofsdPid", json_object_new_int(vm->virtiofsd_pid));
		json_object_object_add(o, "vcpus", json_object_new_int64(vm->vcpus));
		json_object_object_add(o, "memoryBytes", json_object_new_int64((int64_t)vm->memory_bytes));
	}
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

static int add_info(struct status *st, struct err *err)
{
	struct sandbox_info *info CLEANUP_FREE = calloc(1, sizeof(*info));
	char *text CLEANUP_FREE = NULL;

	if (!info)
		return err_oom(err);
	/* A VMM that does not answer, or has just died: the paths are known all the same. */
	if (pods_info(st->service->pods, st->resp->status->id, info, NULL) < 0)
		info->machine.driver = NULL;
	text = info_json(st, info);
	if (!text ||
	    pb_map_add(&st->resp->info, &st->resp->n_info,
		       &runtime__v1__pod_sandbox_status_response__info_entry__descriptor, "info", text) < 0)
		return err_oom(err);
	return 0;
}

/* With the answer if err is NULL. */
static void end_status(struct status *st, const struct err *err)
{
	rpc_reply_end(st->reply, err ? NULL : &st->resp->base, err);
	pb_free(st->resp);
	free(st->id);
	free(st);
}

static void answer_status(struct status *st)
{
	struct err err = ERR_INIT;
	int r = pods_look(st->service->pods, st->id, take_pod, st, &err);

	if (r == 0 && st->verbose)
		r = add_info(st, &err);
	end_status(st, r < 0 ? &err : NULL);
}

static void status_job(void *arg)
{
	answer_status(arg);
}

static void refuse_status(struct status *st)
{
	struct err err = ERR_INIT;

	err_set_status(&err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
		       "too many calls wait for guests; without \"verbose\" the status waits for none");
	end_status(st, &err);
}

/* The VMM is asked for the verbose one, which may take its time: not on a thread that all reads share. */
SERVICE_ASYNC(pod_sandbox_status)
{
	const Runtime__V1__PodSandboxStatusRequest *req = (const void *)request;
	const struct service *service = ctx;
	struct status *st = calloc(1, sizeof(*st));
	Runtime__V1__PodSandboxStatusResponse *resp =
		pb_new(&runtime__v1__pod_sandbox_status_response__descriptor);
	char *id = strdup(req->pod_sandbox_id);
	struct err err = ERR_INIT;

	if (!st || !id || !resp) {
		free(st);
		free(id);
		pb_free(resp);
		err_oom(&err);
		rpc_reply_end(reply, NULL, &err);
		return;
	}
	*st = (struct status){
		.service = service, .verbose = req->verbose, .id = id, .reply = reply, .resp = resp};
	if (!st->verbose)
		answer_status(st);
	else if (workers_submit(service->workers, LANE_EXEC, status_job, st) < 0)
		refuse_status(st);
}

/* ---- list ---------------------------------------------------------------------------------------------- */

bool service_pod_wanted(const Runtime__V1__PodSandboxFilter *f, const struct pod_view *pod)
{
	return !f || ((!f->state || f->state->state == cri_state(pod)) &&
		      service_labels_match(f->label_selector, f->n_label_selector, pod->config->labels,
					   pod->config->n_labels));
}

int service_add_pod(void *vector, size_t *n, const struct pod_view *pod, struct err *err)
{
	const Runtime__V1__PodSandboxConfig *config = pod->config;
	Runtime__V1__PodSandbox *p = pb_append(vector, n, &runtime__v1__pod_sandbox__descriptor);

	if (!p)
		return err_oom(err);
	p->metadata = PB_CLONE(config->metadata);
	p->state = cri_state(pod);
	p->created_at = pod->created_at_ns;
	if (!p->metadata || pb_set_str(&p->id, pod->id) < 0 ||
	    pb_set_str(&p->runtime_handler, pod->runtime_handler) < 0 ||
	    service_copy_map(&p->labels, &p->n_labels, config->labels, config->n_labels) < 0 ||
	    service_copy_map(&p->annotations, &p->n_annotations, config->annotations, config->n_annotations) <
		    0)
		return err_oom(err);
	return 0;
}

struct list {
	const Runtime__V1__PodSandboxFilter *filter; /* may be NULL */
	Runtime__V1__ListPodSandboxResponse *resp;
};

static int add_pod(void *arg, const struct pod_view *pod, struct err *err)
{
	struct list *list = arg;

	if (!service_pod_wanted(list->filter, pod))
		return 0;
	return service_add_pod(&list->resp->items, &list->resp->n_items, pod, err);
}

SERVICE_HANDLER(list_pod_sandbox)
{
	const struct service *service = ctx;
	const Runtime__V1__ListPodSandboxRequest *req = (const void *)request;
	struct list list = {.filter = req->filter, .resp = (void *)response};

	return pods_each(service->pods, req->filter ? req->filter->id : NULL, add_pod, &list, err);
}
