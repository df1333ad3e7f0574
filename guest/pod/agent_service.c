/* SPDX-License-Identifier: Apache-2.0 */
/* crivisor.agent.v1.Agent, and the table of all services. */
#include "guest/pod/pod.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "base/procfs.h"
#include "base/version.h"
#include "guest/container/container.h"
#include "guest/device/device.h"
#include "guest/pod/methods_internal.h"
#include "guest/pod/net_internal.h"
#include "guest/pod/stats_internal.h"
#include "guest/rpc/request.h"

#include <sys/utsname.h>

static bool feature_here(const struct agent *agent, const char *feature)
{
	if (str_eq(feature, "cgroup2"))
		return agent->cgroup2;
	if (str_eq(feature, "attach-device") || str_eq(feature, "online-resources") ||
	    str_eq(feature, "network-update") || str_eq(feature, GUEST_FILES_FEATURE))
		return agent->in_vm;
	return true;
}

static void agent_info(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	static const char *const features[] = {
		"readlog",	"dial",		  "stats",     "attach-device",	    "online-resources",
		"shared-pidns", "instance-id",	  "shutdown",  "cgroup2",	    "exec-held",
		"network",	"network-update", "stats-all", GUEST_FILES_FEATURE, DIAL_WINDOW_FEATURE,
	};
	char *list[ARRAY_SIZE(features)];
	size_t n = 0;
	Crivisor__Agent__V1__InfoRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__info_request__descriptor, payload, len);
	Crivisor__Agent__V1__InfoResponse resp = CRIVISOR__AGENT__V1__INFO_RESPONSE__INIT;
	const struct agent *agent = ctx;
	char boot_id[PROCFS_BOOT_ID_SIZE];
	struct utsname uts;

	if (!m)
		return;
	if (procfs_boot_id(boot_id) == 0)
		resp.boot_id = boot_id;
	if (uname(&uts) == 0)
		resp.kernel = uts.release;
	resp.version = (char *)(uintptr_t)crv_version;
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (feature_here(agent, features[i]))
			list[n++] = (char *)(uintptr_t)features[i];
	}
	resp.features = list;
	resp.n_features = n;
	resp.instance_id = (char *)(uintptr_t)agent_instance_id();
	resp.rss = stats_own_rss();
	resp.uptime_ns = (uint64_t)agent_boottime_ns();
	resp.init_ns = (uint64_t)agent->init_ns;
	resp.first_check_ns = (uint64_t)agent->first_check_ns;
	rpc_reply(req, &resp.base);
}

static void agent_network(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__UpdateNetworkRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__update_network_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	int r;

	if (!m)
		return;
	agent_settle(ctx);
	r = agent_vm_only(ctx, "UpdateNetwork", &err);
	if (r == 0 && !m->network)
		r = err_set(&err, -EINVAL, "UpdateNetwork without a network");
	if (r == 0)
		r = network_update(move_ptr(m->network), &err);
	if (r < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

const struct ttrpc_method agent_methods[] = {
	{.name = "Info", .unary = agent_info},
	{.name = "ReadLog", .unary = readlog_get},
	{.name = "Ack", .unary = readlog_ack},
	{.name = "Dial", .streaming = dial_open},
	{.name = "Stats", .unary = stats_get},
	{.name = "AttachDevice", .unary = device_attach},
	{.name = "OnlineResources", .unary = device_online},
	{.name = "UpdateNetwork", .unary = agent_network},
	{.name = "Shutdown", .unary = shutdown_request},
	{.name = NULL},
};

const struct ttrpc_service *pod_services(struct agent *agent)
{
	static struct ttrpc_service table[] = {
		{.name = "containerd.task.v2.Task", .methods = task_methods},
		{.name = "grpc.SandboxService", .methods = sandbox_methods},
		{.name = "containerd.services.streaming.v1.Streaming", .methods = streaming_methods},
		{.name = "crivisor.agent.v1.Agent", .methods = agent_methods},
		{.name = NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		table[i].ctx = agent;
	return table;
}
