/* SPDX-License-Identifier: Apache-2.0 */
/* What a booted sandbox is told of its pod: files, network, name and sysctls, in one SetupSandbox. */
#include "cri/sandbox/clock_internal.h"
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include "cri/core/outcome.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/pb.h"

#include <linux/rtnetlink.h>

#define CLOCK_TRIES  3
#define SETUP_NS     (20 * NS_PER_SEC)
#define HOSTNAME_MAX 64

typedef Grpc__SetupSandboxRequest Request;

/* ---- the network --------------------------------------------------------------------------------------- */

static int add_address(Grpc__Interface *ifc, const struct cni_ip *ip, struct err *err)
{
	Grpc__IPAddress *a = pb_append(&ifc->ipaddresses, &ifc->n_ipaddresses, &grpc__ipaddress__descriptor);
	char address[64];
	char *slash;

	snprintf(address, sizeof(address), "%s", ip->address);
	slash = strchr(address, '/');
	if (!a)
		return err_oom(err);
	if (!slash)
		return err_set(err, -EBADMSG, "CNI gave the address \"%s\" without a prefix length",
			       ip->address);
	*slash++ = 0;
	a->family = strchr(address, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	if (pb_set_str(&a->address, address) < 0 || pb_set_str(&a->mask, slash) < 0)
		return err_oom(err);
	return 0;
}

static int add_route(Request *req, const struct cni_route *from, const char *ifname, struct err *err)
{
	Grpc__Route *route = pb_append(&req->routes, &req->n_routes, &grpc__route__descriptor);

	if (!route || pb_set_str(&route->dest, from->dst) < 0 || pb_set_str(&route->gateway, from->gw) < 0 ||
	    pb_set_str(&route->device, ifname) < 0)
		return err_oom(err);
	route->family = strchr(from->dst, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	route->mtu = from->mtu;
	route->advmss = from->advmss;
	route->table = from->table;
	route->priority = from->priority;
	route->scope = from->scope;
	/* A gateway beyond the address's prefix (10.1.2.3/32) is on this link all the same. */
	if (*from->gw)
		route->flags = RTNH_F_ONLINK;
	return 0;
}

/* The network as CNI has answered. */
static int fill_answer(const struct sandbox_assignment *a, const struct vmm_if_info *nic, Request *req,
		       struct err *err)
{
	Grpc__Interface *ifc = pb_append(&req->interfaces, &req->n_interfaces, &grpc__interface__descriptor);
	char mac[18];
	int r = 0;

	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", nic->mac[0], nic->mac[1], nic->mac[2],
		 nic->mac[3], nic->mac[4], nic->mac[5]);
	if (!ifc || pb_set_str(&ifc->device, a->ifname) < 0 || pb_set_str(&ifc->name, a->ifname) < 0 ||
	    pb_set_str(&ifc->hwaddr, mac) < 0)
		return err_oom(err);
	ifc->mtu = nic->mtu;
	for (size_t i = 0; i < a->network->n_ips && r == 0; i++)
		r = add_address(ifc, &a->network->ips[i], err);
	for (size_t i = 0; i < a->network->n_routes && r == 0; i++)
		r = add_route(req, &a->network->routes[i], a->ifname, err);
	return r;
}

/*
 * Rules that a plugin has put into the namespace (a service mesh, a firewall) would be passed by in silence.
 */
static int refuse_filters(struct sandbox *s, const struct sandbox_assignment *a, struct err *err)
{
	struct vmm_net_filters f = {0};
	int r = s->driver->filters && !a->allow_netns_rules ? s->driver->filters(s, &f, err) : 0;

	if (r < 0 || f.nftables + f.iptables == 0)
		return r;
	return err_set_status(
		err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
		"the pod's network namespace has %u nftables and %u iptables rules, which the "
		"traffic of a VM passes by; [sandbox] allow_netns_rules = true runs the pod without them",
		f.nftables, f.iptables);
}

/*
 * What the namespace has; what CNI has answered where the namespace says nothing, or the agent takes no more.
 */
static int fill_network(struct sandbox *s, struct agent *agent, struct call *call,
			const struct sandbox_assignment *a, const struct vmm_if_info *nic, Request *req,
			struct err *err)
{
	bool told = false;
	int r;

	if (s->driver->network && agent_has(agent, "network"))
		r = follow_first(s, agent, call, &req->network, &told, err);
	else
		r = sandbox_network_guard(s, s->follow, NULL, err);
	return r < 0 || told ? r : fill_answer(a, nic, req, err);
}

static int begin_network(struct sandbox *s, const struct sandbox_assignment *a, struct err *err)
{
	char *ips[ARRAY_SIZE(a->network->ips)];
	struct sandbox_network network = {
		.ifname = a->ifname, .spoof_check = a->spoof_check, .ips = ips, .n_ips = a->network->n_ips};

	for (size_t i = 0; i < a->network->n_ips; i++)
		ips[i] = (char *)(uintptr_t)a->network->ips[i].address;
	return follow_new(s, &network, err);
}

/* ---- the name and the rest ----------------------------------------------------------------------------- */

typedef Crivisor__Agent__V1__Sandbox__SysctlsEntry Entry;

static int pack_sandbox(const Crivisor__Agent__V1__Sandbox *sandbox, Request *req)
{
	void *data;
	int r;

	req->config = pb_new(&google__protobuf__any__descriptor);
	if (!req->config)
		return -ENOMEM;
	r = pb_pack(&sandbox->base, &data, &req->config->value.len);
	if (r < 0)
		return r;
	req->config->value.data = data;
	return pb_set_str(&req->config->type_url, GUEST_SANDBOX_TYPE_URL);
}

static int fill_sandbox(const struct sandbox_assignment *a, Request *req, struct err *err)
{
	Crivisor__Agent__V1__Sandbox sandbox = CRIVISOR__AGENT__V1__SANDBOX__INIT;
	Entry *entries = calloc(a->n_sysctls + 1, sizeof(*entries));
	Entry **list = calloc(a->n_sysctls + 1, sizeof(Entry *));
	int r = entries && list ? 0 : -ENOMEM;

	/* The message only lends its strings. */
	sandbox.id = (char *)(uintptr_t)a->pod_id;
	sandbox.hostname = (char *)(uintptr_t)a->hostname;
	/* Any container may ask for it later (POD is CRI's default), whatever the pod's own options say. */
	sandbox.shared_pid_namespace = true;
	for (size_t i = 0; i < a->n_sysctls && r == 0; i++) {
		entries[i] = (Entry)CRIVISOR__AGENT__V1__SANDBOX__SYSCTLS_ENTRY__INIT;
		entries[i].key = (char *)(uintptr_t)a->sysctls[i].key;
		entries[i].value = (char *)(uintptr_t)a->sysctls[i].value;
		list[i] = &entries[i];
	}
	sandbox.sysctls = list;
	sandbox.n_sysctls = a->n_sysctls;
	if (r == 0)
		r = pack_sandbox(&sandbox, req);
	free(list);
	free(entries);
	return r < 0 ? err_oom(err) : 0;
}

/* The hostname's file ends in a line break. */
static int write_files(struct sandbox *s, const struct sandbox_assignment *a, struct err *err)
{
	char hostname[HOSTNAME_MAX + 2];
	int r;

	snprintf(hostname, sizeof(hostname), "%s\n", a->hostname);
	r = s->driver->write(s, "hostname", hostname, err);
	if (r == 0)
		r = s->driver->write(s, "resolv.conf", a->resolv_conf, err);
	return r < 0 ? r : s->driver->write(s, "hosts", a->hosts, err);
}

/* Once. */
static int claim(struct sandbox *s, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->assigned)
		r = err_set(err, -EBUSY, "the sandbox belongs to a pod already");
	s->assigned = true;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void clock_is_right(void *arg, bool again)
{
	struct outcome *outcome = arg;
	struct err err = ERR_INIT;

	if (again)
		err_set(&err, -EAGAIN, "the guest's time came too late");
	outcome_set(outcome, &err);
	outcome_unref(outcome);
}

/*
 * The guest has taken the time from its real-time clock, in whole seconds and some time ago: it is set before
 * a container can see it. What cannot be had now the health checks do later.
 */
static int set_clock(struct sandbox *s, struct agent *agent, struct call *call, struct err *err)
{
	int r = -EAGAIN;

	for (int i = 0; i < CLOCK_TRIES && r == -EAGAIN; i++) {
		struct outcome *outcome CLEANUP_OUTCOME = NULL;
		struct err ignored = ERR_INIT;

		if (outcome_new(&outcome, err) < 0)
			return -ENOMEM;
		clock_sync(agent, s->id, clock_is_right, outcome_ref(outcome));
		r = outcome_wait(outcome, call, &ignored);
		if (call_check(call, err) < 0)
			return err ? err->code : -ECANCELED;
	}
	if (r < 0)
		atomic_store(&s->looks, 0);
	return 0;
}

int sandbox_assign(struct sandbox *sandbox, struct call *call, const struct sandbox_assignment *assignment,
		   struct err *err)
{
	Request *req;
	struct vmm_if_info nic;
	struct agent *agent;
	int r = sandbox_agent(sandbox, &agent, err);

	if (r == 0 && strlen(assignment->hostname) > HOSTNAME_MAX)
		r = err_set(err, -EINVAL, "the hostname is longer than %d bytes", HOSTNAME_MAX);
	if (r == 0)
		r = claim(sandbox, err);
	if (r == 0)
		r = set_clock(sandbox, agent, call, err);
	if (r == 0)
		r = write_files(sandbox, assignment, err);
	if (r == 0)
		r = refuse_filters(sandbox, assignment, err);
	if (r == 0)
		r = begin_network(sandbox, assignment, err);
	if (r == 0)
		r = sandbox->driver->join(sandbox, assignment->ifname, &nic, err);
	if (r < 0)
		return r;
	req = pb_new(&grpc__setup_sandbox_request__descriptor);
	if (!req)
		return err_oom(err);
	r = fill_network(sandbox, agent, call, assignment, &nic, req, err);
	if (r == 0)
		r = fill_sandbox(assignment, req, err);
	if (r == 0) {
		r = agent_call_by(agent, call, &AGENT_SETUP_SANDBOX, &req->base, SETUP_NS, NULL, err);
		if (r < 0)
			err_wrap(err, "setting up the pod in its VM");
	}
	pb_free(req);
	if (r == 0)
		follow_begin(sandbox, false);
	call_step(call, "assign");
	return r;
}
