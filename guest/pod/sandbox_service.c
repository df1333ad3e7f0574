/* grpc.SandboxService: the guest as a whole. */
#include "guest/pod/services.h"

#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/log.h"
#include "guest/rpc/events.h"
#include "guest/init/init.h"
#include "guest/pod/net.h"
#include "guest/pod/setup.h"
#include "guest/rpc/request.h"

#include <time.h>

static bool service_known(struct guest *g, const char *name)
{
	for (const struct ttrpc_service *s = services_table(g); s->name; s++) {
		if (str_eq(s->name, name))
			return true;
	}
	return str_empty(name);
}

static void on_first_check(void *arg)
{
	log_info("first Check answered");
	ginit_settle(arg);
}

static void sandbox_check(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__CheckRequest *m RPC_MESSAGE = rpc_unpack(req, &grpc__check_request__descriptor, payload, len);
	static struct eloop_task first;
	struct guest *g = ctx;
	struct err err = ERR_INIT;

	if (!m)
		return;
	if (!service_known(g, m->service)) {
		err_set(&err, -ENOENT, "service \"%.128s\" is not served here", m->service);
		ttrpc_fail(req, &err);
		return;
	}
	rpc_reply_empty(req);
	/* The answer asked for its own turn first: by the time that this runs it is on its way. */
	if (g->first_check_ns == 0)
		eloop_later(g->loop, &first, on_first_check, g);
	g->first_check_ns = g->first_check_ns ? g->first_check_ns : guest_boottime_ns();
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
	ginit_settle(ctx);
	if (m->config && !rpc_type_is(m->config->type_url, "crivisor.agent.v1.Sandbox"))
		r = err_set(&err, -EINVAL, "config has type \"%.128s\": want " GUEST_SANDBOX_TYPE_URL,
			    m->config->type_url);
	if (r == 0 && m->config) {
		sb = rpc_unpack_msg(&crivisor__agent__v1__sandbox__descriptor, m->config->value.data,
				    m->config->value.len, &err);
		r = sb ? gsandbox_setup(ctx, sb, &err) : -EINVAL;
	}
	if (r == 0)
		r = gnet_interfaces(m->interfaces, m->n_interfaces, &err);
	if (r == 0)
		r = gnet_routes(m->routes, m->n_routes, &err);
	reply(req, r, &err);
}

static void sandbox_interfaces(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__UpdateInterfacesRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__update_interfaces_request__descriptor, payload, len);
	struct err err = ERR_INIT;

	ginit_settle(ctx);
	if (m)
		reply(req, gnet_interfaces(m->interfaces, m->n_interfaces, &err), &err);
}

static void sandbox_routes(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__UpdateRoutesRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__update_routes_request__descriptor, payload, len);
	struct err err = ERR_INIT;

	ginit_settle(ctx);
	if (m)
		reply(req, gnet_routes(m->routes, m->n_routes, &err), &err);
}

/*
 * Two steps: with Delta 0 the guest's clock goes back, from which the host reckons the difference; with a
 * Delta the clock is moved by it.
 */
static void sandbox_clock(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Grpc__SyncClockPacket *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__sync_clock_packet__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct timespec ts;
	int64_t to;

	(void)ctx;
	if (!m)
		return;
	if (m->delta == 0) {
		m->clientarrivetime = now_realtime_ns();
		m->serversendtime = now_realtime_ns();
		rpc_reply(req, &m->base);
		return;
	}
	if (__builtin_add_overflow(now_realtime_ns(), m->delta, &to) || to < 0) {
		err_set(&err, -EINVAL, "a delta of %lld ns leads to no time", (long long)m->delta);
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
	struct guest *g = ctx;

	(void)payload;
	(void)len;
	gevents_get(g->events, req);
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
