/* SPDX-License-Identifier: Apache-2.0 */
/* What a booted VM is told of its pod: network, name and sysctls, in one SetupSandbox. */
#include "cri/pods/pod_run_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "api/pb.h"
#include "vmm/network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int add_address(Grpc__Interface *ifc, const struct cni_ip *ip, struct err *err)
{
	Grpc__IPAddress *a = pb_append(&ifc->ipaddresses, &ifc->n_ipaddresses, &grpc__ipaddress__descriptor);
	char address[64];
	char *slash;

	snprintf(address, sizeof(address), "%s", ip->address);
	slash = strchr(address, '/');
	if (!a || !slash)
		return err_set(err, a ? -EBADMSG : -ENOMEM,
			       "CNI gave the address \"%s\" without a prefix length", ip->address);
	*slash++ = 0;
	a->family = strchr(address, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	if (pb_set_str(&a->address, address) < 0 || pb_set_str(&a->mask, slash) < 0)
		return err_oom(err);
	return 0;
}

static int add_route(Grpc__SetupSandboxRequest *req, const char *dst, const char *gw, struct err *err)
{
	Grpc__Route *route = pb_append(&req->routes, &req->n_routes, &grpc__route__descriptor);

	if (!route || pb_set_str(&route->dest, dst) < 0 || pb_set_str(&route->gateway, gw) < 0 ||
	    pb_set_str(&route->device, IFNAME) < 0)
		return err_oom(err);
	route->family = strchr(dst, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	return 0;
}

static int fill_network(struct pod_run *run, Grpc__SetupSandboxRequest *req, const struct vmm_if_info *nic,
			struct err *err)
{
	Grpc__Interface *ifc = pb_append(&req->interfaces, &req->n_interfaces, &grpc__interface__descriptor);
	char mac[18];
	int r = 0;

	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", nic->mac[0], nic->mac[1], nic->mac[2],
		 nic->mac[3], nic->mac[4], nic->mac[5]);
	if (!ifc || pb_set_str(&ifc->device, IFNAME) < 0 || pb_set_str(&ifc->name, IFNAME) < 0 ||
	    pb_set_str(&ifc->hwaddr, mac) < 0)
		return err_oom(err);
	ifc->mtu = nic->mtu;
	for (size_t i = 0; i < run->cni.n_ips && r == 0; i++)
		r = add_address(ifc, &run->cni.ips[i], err);
	for (size_t i = 0; i < run->cni.n_routes && r == 0; i++) {
		const struct cni_route *route = &run->cni.routes[i];
		const char *gw = route->gw;

		/* A route without gateway goes by the address's own, as the spec has it. */
		for (size_t k = 0; k < run->cni.n_ips && !*gw; k++) {
			if (!strchr(run->cni.ips[k].address, ':') == !strchr(route->dst, ':'))
				gw = run->cni.ips[k].gateway;
		}
		r = add_route(req, route->dst, gw, err);
	}
	return r;
}

static int fill_sandbox(struct pod_run *run, Grpc__SetupSandboxRequest *req, struct err *err)
{
	Crivisor__Agent__V1__Sandbox sandbox = CRIVISOR__AGENT__V1__SANDBOX__INIT;
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	char hostname[65];
	int r = 0;

	snprintf(hostname, sizeof(hostname), "%s", pod_run_hostname(run));
	sandbox.id = run->pod->id;
	sandbox.hostname = hostname;
	/* The entries of both maps have the same shape; the request only lends them. */
	if (lx && lx->n_sysctls > 0) {
		sandbox.n_sysctls = lx->n_sysctls;
		sandbox.sysctls = calloc(lx->n_sysctls, sizeof(*sandbox.sysctls));
		if (!sandbox.sysctls)
			return err_oom(err);
		for (size_t i = 0; i < lx->n_sysctls && r == 0; i++) {
			Crivisor__Agent__V1__Sandbox__SysctlsEntry *e =
				pb_new(&crivisor__agent__v1__sandbox__sysctls_entry__descriptor);

			sandbox.sysctls[i] = e;
			if (!e) {
				sandbox.n_sysctls = i;
				r = -ENOMEM;
				break;
			}
			e->key = lx->sysctls[i]->key;
			e->value = lx->sysctls[i]->value;
		}
	}
	/* Any container may ask for it later (POD is CRI's default), whatever the pod's own options say. */
	sandbox.shared_pid_namespace = true;
	req->config = pb_new(&google__protobuf__any__descriptor);
	if (r == 0 && req->config) {
		void *data;

		r = pb_pack(&sandbox.base, &data, &req->config->value.len);
		if (r == 0) {
			req->config->value.data = data;
			r = pb_set_str(&req->config->type_url, GUEST_SANDBOX_TYPE_URL);
		}
	}
	for (size_t i = 0; i < sandbox.n_sysctls; i++)
		free(sandbox.sysctls[i]);
	free(sandbox.sysctls);
	return r < 0 || !req->config ? err_oom(err) : 0;
}

/* Gives a booted VM that knows nothing of the pod its network and name. */
int pod_run_assign(struct pod_run *run, struct err *err)
{
	Grpc__SetupSandboxRequest *req;
	ProtobufCMessage *resp = NULL;
	struct vmm_if_info nic;
	int r = pod_run_cni_wait(run, err);

	if (r == 0)
		r = vmm_tap_join(run->netns, TAP, IFNAME, &nic, err);
	if (r < 0)
		return r;
	req = pb_new(&grpc__setup_sandbox_request__descriptor);
	if (!req)
		return err_oom(err);
	r = fill_network(run, req, &nic, err);
	if (r == 0)
		r = fill_sandbox(run, req, err);
	if (r == 0) {
		r = agent_call(run->pod->agent, &AGENT_SETUP_SANDBOX, &req->base, SETUP_NS, &resp, err);
		if (r < 0)
			err_wrap(err, "setting up the pod in its VM");
	}
	pb_free(resp);
	pb_free(req);
	return r;
}
