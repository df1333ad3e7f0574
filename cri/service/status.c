/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: what the server is, and in which state. */
#include "cri/service/service.h"

#include "api/pb.h"
#include "base/util.h"
#include "base/version.h"
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

static char *status_info(const struct service *service, const struct vmm_choice *choice)
{
	struct json_object *o = json_object_new_object();
	struct json_object *workers = json_object_new_object();
	unsigned int booting, waiting;
	char *text, boots[64];

	json_object_object_add(o, "driver", choice ? json_object_new_string(choice->driver) : NULL);
	json_object_object_add(o, "driverReason", choice ? json_object_new_string(choice->reason) : NULL);
	json_object_object_add(o, "driverPath", choice ? json_object_new_string(choice->path) : NULL);
	json_object_object_add(o, "driverVersion", choice ? json_object_new_string(choice->version) : NULL);
	json_object_object_add(o, "accel", choice ? json_object_new_string(choice->accel) : NULL);
	json_object_object_add(o, "stateDir", json_object_new_string(service->config->server.state_dir));
	json_object_object_add(o, "runDir", json_object_new_string(service->config->server.run_dir));
	for (int i = 0; i < LANES; i++) {
		unsigned int running, queued;
		char buf[64];

		workers_load(service->workers, (enum workers_lane)i, &running, &queued);
		snprintf(buf, sizeof(buf), "%u running, %u queued", running, queued);
		json_object_object_add(workers, workers_lane_name((enum workers_lane)i),
				       json_object_new_string(buf));
	}
	json_object_object_add(o, "workers", workers);
	sandboxes_boots(service->sandboxes, &booting, &waiting);
	snprintf(boots, sizeof(boots), "%u running, %u waiting", booting, waiting);
	json_object_object_add(o, "boots", json_object_new_string(boots));
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

SERVICE_HANDLER(status)
{
	struct service *service = ctx;
	const Runtime__V1__StatusRequest *req = (const void *)request;
	Runtime__V1__StatusResponse *resp = (void *)response;
	struct vmm_choice choice;
	struct err vm_err = ERR_INIT, net_err = ERR_INIT;
	const char *reason = "";
	bool vm_ok = health_ready(service->health, pods_memory_bytes(service->pods), &choice, &reason,
				  &vm_err) == 0;
	bool net_ok = cni_status(service->cni, &net_err) == 0;
	int r;

	resp->status = pb_new(&runtime__v1__runtime_status__descriptor);
	r = resp->status ? add_condition(resp->status, "RuntimeReady", vm_ok, reason, vm_err.msg) : -ENOMEM;
	if (r == 0)
		r = add_condition(resp->status, "NetworkReady", net_ok, "NetworkPluginNotReady", net_err.msg);
	if (r == 0)
		r = add_handlers(resp);
	if (r == 0 && req->verbose) {
		char *info CLEANUP_FREE = status_info(service, vm_ok ? &choice : NULL);

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
	struct service *service = ctx;
	const Runtime__V1__UpdateRuntimeConfigRequest *req = (const void *)request;
	const char *cidr = req->runtime_config && req->runtime_config->network_config
				   ? req->runtime_config->network_config->pod_cidr
				   : NULL;

	return str_empty(cidr) ? 0 : cni_set_pod_cidr(service->cni, cidr, err);
}
