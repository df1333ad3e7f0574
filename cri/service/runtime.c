/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: what the server is, and pods. */
#include "cri/service/service.h"

#include "base/util.h"
#include "base/version.h"
#include "cri/pods/container.h"
#include "api/pb.h"
#include "cri/pods/pod.h"
#include "cri/health/readiness.h"
#include "cri/service/util_internal.h"

#include <json-c/json.h>

#define CRI_VERSION "0.1.0" /* the kubelet demands this one */

SERVICE_HANDLER(version)
{
	Runtime__V1__VersionResponse *resp = (void *)response;

	if (pb_set_str(&resp->version, CRI_VERSION) < 0 || pb_set_str(&resp->runtime_name, "crivisor") < 0 ||
	    pb_set_str(&resp->runtime_version, crv_version) < 0 ||
	    pb_set_str(&resp->runtime_api_version, "v1") < 0)
		return err_oom(err);
	return 0;
}

static int add_condition(Runtime__V1__RuntimeStatus *status, const char *type, bool ok, const char *reason,
			 const char *message)
{
	Runtime__V1__RuntimeCondition *c = pb_append(&status->conditions, &status->n_conditions,
						     &runtime__v1__runtime_condition__descriptor);

	if (!c || pb_set_str(&c->type, type) < 0 || pb_set_str(&c->reason, ok ? "" : reason) < 0 ||
	    pb_set_text(&c->message, ok ? "" : message) < 0)
		return -ENOMEM;
	c->status = ok;
	return 0;
}

static int add_handlers(Runtime__V1__StatusResponse *resp)
{
	static const char *const names[] = {"", "crivisor"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		Runtime__V1__RuntimeHandler *h = pb_append(&resp->runtime_handlers, &resp->n_runtime_handlers,
							   &runtime__v1__runtime_handler__descriptor);

		if (!h || pb_set_str(&h->name, names[i]) < 0)
			return -ENOMEM;
		h->features = pb_new(&runtime__v1__runtime_handler_features__descriptor);
		if (!h->features)
			return -ENOMEM;
		h->features->recursive_read_only_mounts = true;
	}
	resp->features = pb_new(&runtime__v1__runtime_features__descriptor);
	if (!resp->features)
		return -ENOMEM;
	resp->features->supplemental_groups_policy = true;
	return 0;
}

static char *status_info(struct server *server, const struct vmm_choice *choice)
{
	static const char *const lanes[LANES] = {"quick", "slow", "stop", "exec", "image", "net", "log"};
	struct json_object *o = json_object_new_object();
	struct json_object *workers = json_object_new_object();
	char *text;

	json_object_object_add(o, "driver", choice ? json_object_new_string(choice->driver) : NULL);
	json_object_object_add(o, "driverReason", choice ? json_object_new_string(choice->reason) : NULL);
	json_object_object_add(o, "driverPath", choice ? json_object_new_string(choice->path) : NULL);
	json_object_object_add(o, "driverVersion", choice ? json_object_new_string(choice->version) : NULL);
	json_object_object_add(o, "accel", choice ? json_object_new_string(choice->accel) : NULL);
	json_object_object_add(o, "stateDir", json_object_new_string(server->config->server.state_dir));
	json_object_object_add(o, "runDir", json_object_new_string(server->config->server.run_dir));
	for (int i = 0; i < LANES; i++) {
		unsigned int running, queued;
		char buf[64];

		workers_load(server->workers, (enum workers_lane)i, &running, &queued);
		snprintf(buf, sizeof(buf), "%u running, %u queued", running, queued);
		json_object_object_add(workers, lanes[i], json_object_new_string(buf));
	}
	json_object_object_add(o, "pool", workers);
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

SERVICE_HANDLER(status)
{
	struct server *server = ctx;
	const Runtime__V1__StatusRequest *req = (const void *)request;
	Runtime__V1__StatusResponse *resp = (void *)response;
	struct vmm_choice choice;
	struct err vm_err = ERR_INIT, net_err = ERR_INIT;
	const char *reason = "";
	bool vm_ok =
		health_ready(server->health, atomic_load(&server->pod_memory_bytes), &choice, &reason, &vm_err) == 0;
	bool net_ok = cni_status(server->cni, &net_err) == 0;
	int r;

	resp->status = pb_new(&runtime__v1__runtime_status__descriptor);
	r = resp->status ? add_condition(resp->status, "RuntimeReady", vm_ok, reason, vm_err.msg) : -ENOMEM;
	if (r == 0)
		r = add_condition(resp->status, "NetworkReady", net_ok, "NetworkPluginNotReady", net_err.msg);
	if (r == 0)
		r = add_handlers(resp);
	if (r == 0 && req->verbose) {
		char *info CLEANUP_FREE = status_info(server, vm_ok ? &choice : NULL);

		r = info ? pb_map_add(&resp->info, &resp->n_info,
				      &runtime__v1__status_response__info_entry__descriptor, "config", info)
			 : -ENOMEM;
	}
	return r < 0 ? err_oom(err) : 0;
}

SERVICE_HANDLER(runtime_config)
{
	Runtime__V1__RuntimeConfigResponse *resp = (void *)response;

	resp->linux = pb_new(&runtime__v1__linux_runtime_configuration__descriptor);
	if (!resp->linux)
		return err_oom(err);
	resp->linux->cgroup_driver = RUNTIME__V1__CGROUP_DRIVER__CGROUPFS;
	return 0;
}

SERVICE_HANDLER(update_runtime_config)
{
	struct server *server = ctx;
	const Runtime__V1__UpdateRuntimeConfigRequest *req = (const void *)request;
	const char *cidr = req->runtime_config && req->runtime_config->network_config
				   ? req->runtime_config->network_config->pod_cidr
				   : NULL;

	return str_empty(cidr) ? 0 : cni_set_pod_cidr(server->cni, cidr, err);
}

SERVICE_HANDLER(run_pod_sandbox)
{
	const Runtime__V1__RunPodSandboxRequest *req = (const void *)request;
	Runtime__V1__RunPodSandboxResponse *resp = (void *)response;
	char *id = NULL;
	int r = pod_run(ctx, req->config, req->runtime_handler, call, &id, err);

	if (r == 0)
		resp->pod_sandbox_id = id;
	return r;
}

SERVICE_HANDLER(stop_pod_sandbox)
{
	const Runtime__V1__StopPodSandboxRequest *req = (const void *)request;

	return pod_stop(ctx, req->pod_sandbox_id, err);
}

SERVICE_HANDLER(remove_pod_sandbox)
{
	const Runtime__V1__RemovePodSandboxRequest *req = (const void *)request;

	return pod_remove(ctx, req->pod_sandbox_id, err);
}

static Runtime__V1__PodSandboxState pod_cri_state(const Crivisor__State__V1__Pod *state)
{
	return state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_READY
		       ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
		       : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

static int fill_pod_status(Runtime__V1__PodSandboxStatus *s, const Crivisor__State__V1__Pod *state)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = state->config->linux;

	s->state = pod_cri_state(state);
	s->created_at = state->created_at;
	s->metadata = PB_CLONE(state->config->metadata);
	s->network = pb_new(&runtime__v1__pod_sandbox_network_status__descriptor);
	s->linux = pb_new(&runtime__v1__linux_pod_sandbox_status__descriptor);
	if (!s->metadata || !s->network || !s->linux || pb_set_str(&s->id, state->id) < 0 ||
	    pb_set_str(&s->runtime_handler, state->runtime_handler) < 0)
		return -ENOMEM;
	s->linux->namespaces = pb_new(&runtime__v1__namespace__descriptor);
	if (!s->linux->namespaces)
		return -ENOMEM;
	if (lx && lx->security_context && lx->security_context->namespace_options)
		s->linux->namespaces->options = PB_CLONE(lx->security_context->namespace_options);
	else
		s->linux->namespaces->options = pb_new(&runtime__v1__namespace_option__descriptor);
	if (!s->linux->namespaces->options)
		return -ENOMEM;
	if (s->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY && state->n_ips > 0) {
		if (pb_set_str(&s->network->ip, state->ips[0]) < 0)
			return -ENOMEM;
		for (size_t i = 1; i < state->n_ips; i++) {
			Runtime__V1__PodIP *ip =
				pb_append(&s->network->additional_ips, &s->network->n_additional_ips,
					  &runtime__v1__pod_ip__descriptor);

			if (!ip || pb_set_str(&ip->ip, state->ips[i]) < 0)
				return -ENOMEM;
		}
	}
	if (service_copy_map(&s->labels, &s->n_labels, state->config->labels, state->config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&s->annotations, &s->n_annotations, state->config->annotations,
				state->config->n_annotations);
}

static int add_container_statuses(struct server *server, const struct pod *pod,
				  Runtime__V1__PodSandboxStatusResponse *resp, struct err *err)
{
	struct container **list;
	int r = container_list(server, pod, &list, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && list[i]; i++) {
		Crivisor__State__V1__Container *state = container_state(list[i]);
		Runtime__V1__ContainerStatus *s;

		if (!state)
			continue;
		s = pb_append(&resp->containers_statuses, &resp->n_containers_statuses,
			      &runtime__v1__container_status__descriptor);
		r = s ? service_container_status_of(s, state) : -ENOMEM;
		pb_free(state);
		if (r < 0)
			err_oom(err);
	}
	container_list_free(list);
	return r;
}

static char *pod_info(struct pod *pod, const Crivisor__State__V1__Pod *state)
{
	struct json_object *o = json_object_new_object();
	struct vm_info info;
	char *text;

	json_object_object_add(o, "netns", json_object_new_string(state->netns));
	json_object_object_add(o, "cgroup", json_object_new_string(state->cgroup));
	json_object_object_add(o, "dir", json_object_new_string(state->dir));
	json_object_object_add(o, "bootId", json_object_new_string(state->boot_id));
	json_object_object_add(o, "reason", json_object_new_string(state->reason));
	/* The handle stays valid with our reference to the pod; of a dead VM there is nothing to tell. */
	if (state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_READY && vm_info(pod->vm, &info, NULL) == 0) {
		json_object_object_add(o, "driver", json_object_new_string(info.driver));
		json_object_object_add(o, "accel", json_object_new_string(info.accel));
		json_object_object_add(o, "vmState", json_object_new_string(info.state));
		json_object_object_add(o, "pid", json_object_new_int(info.vmm_pid));
		json_object_object_add(o, "virtiofsdPid", json_object_new_int(info.virtiofsd_pid));
		json_object_object_add(o, "vcpus", json_object_new_int64(info.vcpus));
		json_object_object_add(o, "memoryBytes", json_object_new_int64((int64_t)info.memory_bytes));
		json_object_object_add(o, "console", json_object_new_string(info.console_path));
	}
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

SERVICE_HANDLER(pod_sandbox_status)
{
	const Runtime__V1__PodSandboxStatusRequest *req = (const void *)request;
	Runtime__V1__PodSandboxStatusResponse *resp = (void *)response;
	struct pod *pod CLEANUP_POD = NULL;
	Crivisor__State__V1__Pod *state;
	int r = pod_find(ctx, req->pod_sandbox_id, &pod, err);

	if (r < 0)
		return r;
	state = pod_state(pod);
	if (!state)
		return err_set(err, -ENOENT, "pod sandbox \"%s\" not found", req->pod_sandbox_id);
	resp->timestamp = now_realtime_ns();
	resp->status = pb_new(&runtime__v1__pod_sandbox_status__descriptor);
	r = resp->status ? fill_pod_status(resp->status, state) : -ENOMEM;
	if (r < 0)
		err_oom(err);
	else
		r = add_container_statuses(ctx, pod, resp, err);
	if (r == 0 && req->verbose) {
		char *info CLEANUP_FREE = pod_info(pod, state);

		if (!info || pb_map_add(&resp->info, &resp->n_info,
					&runtime__v1__pod_sandbox_status_response__info_entry__descriptor,
					"info", info) < 0)
			r = err_oom(err);
	}
	pb_free(state);
	return r;
}

static bool pod_matches(const Runtime__V1__PodSandboxFilter *f, const Crivisor__State__V1__Pod *state)
{
	if (!f)
		return true;
	if (!str_empty(f->id) && !str_starts(state->id, f->id))
		return false;
	if (f->state && f->state->state != pod_cri_state(state))
		return false;
	return service_labels_match(f->label_selector, f->n_label_selector, state->config->labels,
				    state->config->n_labels);
}

static int add_pod(Runtime__V1__ListPodSandboxResponse *resp, const Crivisor__State__V1__Pod *state)
{
	Runtime__V1__PodSandbox *p =
		pb_append(&resp->items, &resp->n_items, &runtime__v1__pod_sandbox__descriptor);

	if (!p)
		return -ENOMEM;
	p->metadata = PB_CLONE(state->config->metadata);
	p->state = pod_cri_state(state);
	p->created_at = state->created_at;
	if (!p->metadata || pb_set_str(&p->id, state->id) < 0 ||
	    pb_set_str(&p->runtime_handler, state->runtime_handler) < 0 ||
	    service_copy_map(&p->labels, &p->n_labels, state->config->labels, state->config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&p->annotations, &p->n_annotations, state->config->annotations,
				state->config->n_annotations);
}

SERVICE_HANDLER(list_pod_sandbox)
{
	const Runtime__V1__ListPodSandboxRequest *req = (const void *)request;
	Runtime__V1__ListPodSandboxResponse *resp = (void *)response;
	struct pod **list;
	int r = pod_list(ctx, &list, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && list[i]; i++) {
		Crivisor__State__V1__Pod *state = pod_state(list[i]);

		if (state && pod_matches(req->filter, state) && add_pod(resp, state) < 0)
			r = err_oom(err);
		pb_free(state);
	}
	pod_list_free(list);
	return r;
}
