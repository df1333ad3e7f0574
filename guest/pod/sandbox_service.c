/* SPDX-License-Identifier: Apache-2.0 */
/* grpc.SandboxService: the pod as a whole. */
#include "guest/pod/methods_internal.h"

#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/log.h"
#include "guest/core/loop.h"
#include "guest/rpc/events.h"
#include "guest/pod/net_internal.h"
#include "guest/pod/setup_internal.h"
#include "guest/rpc/request.h"
#include "guest/rpc/server.h"

#include <time.h>

static bool service_known(const struct agent *agent, const char *name)
{
	for (const struct ttrpc_service *s = server_services(agent->server); s->name; s++) {
		if (str_eq(s->name, name))
			return true;
	}
	return str_empty(name);
}

static void on_first_check(void *arg)
{
	log_info("first Check answered");
	agent_settle(arg);
}

static void sandbox_check(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__CheckRequest *m RPC_MESSAGE = rpc_unpack(req, &grpc__check_request__descriptor, payload, len);
	static struct loop_task first;
	struct agent *agent = ctx;
	struct err err = ERR_INIT;

	if (!m)
		return;
	if (!service_known(agent, m->service)) {
		err_set(&err, -ENOENT, "service \"%.128s\" is not served", m->service);
		ttrpc_fail(req, &err);
		return;
	}
	rpc_reply_empty(req);
	/* The answer was queued first: it is sent before this runs. */
	if (agent->first_check_ns == 0)
		loop_later(agent->loop, &first, on_first_check, agent);
	agent->first_check_ns = agent->first_check_ns ? agent->first_check_ns : agent_boottime_ns();
}

static void reply(struct ttrpc_request *req, int r, const struct err *err)
{
	if (r < 0)
		ttrpc_fail(req, err);
	else
		rpc_reply_empty(req);
}

static void sandbox_setup(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__SetupSandboxRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__setup_sandbox_request__descriptor, payload, len);
	Crivisor__Agent__V1__Sandbox *sb RPC_MESSAGE = NULL;
	struct err err = ERR_INIT;
	int r = 0;

	if (!m)
		return;
	agent_settle(ctx);
	if (m->config && !rpc_type_is(m->config->type_url, "crivisor.agent.v1.Sandbox"))
		r = err_set(&err, -EINVAL, "config has type \"%.128s\": want " GUEST_SANDBOX_TYPE_URL,
			    m->config->type_url);
	if (r == 0 && m->config) {
		sb = rpc_unpack_msg(&crivisor__agent__v1__sandbox__descriptor, m->config->value.data,
				    m->config->value.len, &err);
		r = sb ? pod_setup(ctx, sb, &err) : -EINVAL;
	}
	if (r == 0 && (m->n_interfaces + m->n_routes > 0 || m->network))
		r = agent_vm_only(ctx, "SetupSandbox with interfaces or routes", &err);
	if (r == 0)
		r = net_interfaces(m->interfaces, m->n_interfaces, &err);
	if (r == 0)
		r = net_routes(m->routes, m->n_routes, &err);
	if (r == 0 && m->network)
		r = network_apply(move_ptr(m->network), &err);
	reply(req, r, &err);
}

static void sandbox_interfaces(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__UpdateInterfacesRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__update_interfaces_request__descriptor, payload, len);
	struct err err = ERR_INIT;

	int r;

	if (!m)
		return;
	agent_settle(ctx);
	r = agent_vm_only(ctx, "UpdateInterfaces", &err);
	reply(req, r < 0 ? r : net_interfaces(m->interfaces, m->n_interfaces, &err), &err);
}

static void sandbox_routes(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__UpdateRoutesRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__update_routes_request__descriptor, payload, len);
	struct err err = ERR_INIT;

	int r;

	if (!m)
		return;
	agent_settle(ctx);
	r = agent_vm_only(ctx, "UpdateRoutes", &err);
	reply(req, r < 0 ? r : net_routes(m->routes, m->n_routes, &err), &err);
}

/*
 * Two steps: with Delta 0 the agent returns its clock, from which the host computes the difference; with a
 * Delta it moves the clock by that.
 */
static void sandbox_clock(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__SyncClockPacket *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__sync_clock_packet__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct timespec ts;
	int64_t to;

	if (!m)
		return;
	if (m->delta == 0) {
		m->clientarrivetime = now_realtime_ns();
		m->serversendtime = now_realtime_ns();
		rpc_reply(req, &m->base);
		return;
	}
	if (agent_vm_only(ctx, "SyncClock with a delta", &err) < 0) {
		ttrpc_fail(req, &err);
		return;
	}
	if (__builtin_add_overflow(now_realtime_ns(), m->delta, &to) || to < 0) {
		err_set(&err, -EINVAL, "the clock cannot be moved by %lld ns", (long long)m->delta);
		ttrpc_fail(req, &err);
		return;
	}
	ts = (struct timespec){.tv_sec = to / NS_PER_SEC, .tv_nsec = to % NS_PER_SEC};
	if (clock_settime(CLOCK_REALTIME, &ts) < 0) {
		err_set_errno(&err, -errno, "set the clock");
		ttrpc_fail(req, &err);
		return;
	}
	rpc_reply(req, &m->base);
}

static void sandbox_events(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct agent *agent = ctx;

	(void)payload;
	(void)len;
	events_get(agent->events, req);
}

const struct ttrpc_method sandbox_methods[] = {
	{.name = "Check", .unary = sandbox_check},
	{.name = "SetupSandbox", .unary = sandbox_setup},
	{.name = "UpdateInterfaces", .unary = sandbox_interfaces},
	{.name = "UpdateRoutes", .unary = sandbox_routes},
	{.name = "ExecVMProcess", .unary = vmexec_run},
	{.name = "SyncClock", .unary = sandbox_clock},
	{.name = "GetEvents", .unary = sandbox_events},
	{.name = NULL},
};
