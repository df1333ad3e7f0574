/* SPDX-License-Identifier: Apache-2.0 */
/* One look at the network of the namespace, and what follows from it. */
#include "cri/sandbox/follow_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/pb.h"
#include "base/log.h"

#define PLUG_NS	  (20 * NS_PER_SEC)
#define UPDATE_NS (10 * NS_PER_SEC)
#define NICS_MAX  32

int follow_new(struct sandbox *sandbox, const struct sandbox_network *network, struct err *err)
{
	struct follow *f = calloc(1, sizeof(*f));
	int r = f ? 0 : err_oom(err);

	if (r < 0)
		return r;
	f->fd = -1;
	f->err = ERR_INIT;
	f->spoof_check = network->spoof_check;
	f->n_ips = network->n_ips;
	if ((size_t)snprintf(f->ifname, sizeof(f->ifname), "%s", network->ifname) >= sizeof(f->ifname))
		r = err_set(err, -EINVAL, "interface name %s is too long", network->ifname);
	f->ips = calloc(network->n_ips + 1, sizeof(char *));
	for (size_t i = 0; f->ips && r == 0 && i < network->n_ips; i++) {
		f->ips[i] = strndup(network->ips[i], strcspn(network->ips[i], "/"));
		if (!f->ips[i])
			r = err_oom(err);
	}
	if (r == 0 && !f->ips)
		r = err_oom(err);
	/* Before the first look: no change is missed. */
	if (r == 0 && sandbox->driver->follow) {
		f->fd = sandbox->driver->follow(sandbox, err);
		r = f->fd < 0 ? f->fd : 0;
	}
	if (r < 0) {
		follow_free(f);
		return r;
	}
	pthread_mutex_lock(&sandbox->lock);
	sandbox->follow = f;
	pthread_mutex_unlock(&sandbox->lock);
	return 0;
}

struct follow *follow_free(struct follow *follow)
{
	if (!follow)
		return NULL;
	close_fd(follow->fd);
	strv_free(follow->ips);
	free(follow->guarded);
	free(follow->told);
	free(follow);
	return NULL;
}

/* ---- NICs ---------------------------------------------------------------------------------------------- */

static bool wants_nic(const struct vmm_net_link *link, const struct follow *f)
{
	return sandbox_network_is_further(link, f->ifname) && link->flags & IFF_UP;
}

static int make_taps(struct sandbox *s, struct follow *f, const struct vmm_net *net, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < net->n_links; i++) {
		bool made = false;

		if (!wants_nic(&net->links[i], f))
			continue;
		r = s->driver->tap(s, &net->links[i], &made, err);
		/* Joining has set it up without its filter. */
		if (made) {
			free(f->guarded);
			f->guarded = NULL;
		}
	}
	return r;
}

/* Until the guest has it. */
static int plug(struct sandbox *s, struct agent *agent, struct call *call, const struct vmm_net_link *link,
		struct err *err)
{
	Crivisor__Agent__V1__AttachDeviceRequest req = CRIVISOR__AGENT__V1__ATTACH_DEVICE_REQUEST__INIT;
	char pci[VM_PCI_ADDRESS_MAX] = "";
	int r = s->driver->plug(s, link, pci, call_until(call, PLUG_NS), err);

	req.pci_address = pci;
	if (r == 0 && pci[0])
		r = agent_call_by(agent, call, &AGENT_ATTACH_DEVICE, &req.base, PLUG_NS, NULL, err);
	return r;
}

static int plug_all(struct sandbox *s, struct follow *f, struct agent *agent, struct call *call,
		    const struct vmm_net *net, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < net->n_links; i++) {
		if (!wants_nic(&net->links[i], f))
			continue;
		r = plug(s, agent, call, &net->links[i], err);
		if (r < 0)
			err_wrap(err, "interface %s of the pod's network namespace", net->links[i].name);
	}
	return r;
}

/* Those whose interface has gone; one that is only down keeps its own. */
static int unplug_gone(struct sandbox *s, const struct vmm_net *net, struct err *err)
{
	int have[NICS_MAX], r = 0;
	size_t n = s->driver->nics ? s->driver->nics(s, have, NICS_MAX) : 0;

	for (size_t i = 0; r == 0 && i < n && i < NICS_MAX; i++) {
		bool there = false;

		for (size_t k = 0; k < net->n_links; k++)
			there |= net->links[k].index == have[i];
		if (!there)
			r = s->driver->unplug(s, have[i], now_monotonic_ns() + PLUG_NS, err);
	}
	return r;
}

/* ---- a look -------------------------------------------------------------------------------------------- */

/* The host's side; the NICs are in the guest when it returns. */
static int set_host(struct sandbox *s, struct follow *f, struct agent *agent, struct call *call,
		    const struct vmm_net *net, struct err *err)
{
	bool nics = s->driver->tap && agent_has(agent, "network-update");
	int r = nics ? make_taps(s, f, net, err) : 0;

	if (r == 0)
		r = sandbox_network_guard(s, f, net, err);
	return r == 0 && nics ? plug_all(s, f, agent, call, net, err) : r;
}

static int keep_told(struct follow *f, const Grpc__Network *network, bool own, struct err *err)
{
	void *data;
	size_t len;

	if (pb_pack(&network->base, &data, &len) < 0)
		return err_oom(err);
	free(f->told);
	f->told = data;
	f->told_len = len;
	f->own_told = own;
	return 0;
}

int follow_first(struct sandbox *sandbox, struct agent *agent, struct call *call, Grpc__Network **ret_network,
		 bool *ret_told, struct err *err)
{
	struct vmm_net *net CLEANUP_VMM_NET = NULL;
	Grpc__Network *network = pb_new(&grpc__network__descriptor);
	const struct vmm_net_link *own;
	int r = network ? sandbox->driver->network(sandbox, &net, err) : err_oom(err);

	if (r == 0) {
		own = vmm_net_link_by_name(net, sandbox->follow->ifname);
		sandbox->follow->index = own ? own->index : 0;
		r = set_host(sandbox, sandbox->follow, agent, call, net, err);
	}
	if (r == 0)
		r = sandbox_network_fill(net, sandbox->follow->ifname, network, ret_told, err);
	if (r == 0)
		r = keep_told(sandbox->follow, network, *ret_told, err);
	if (r < 0) {
		pb_free(network);
		return r;
	}
	*ret_network = network;
	return 0;
}

/* False: there is nothing to follow at the moment. It comes up again, or the pod is removed. */
static bool is_whole(const struct follow *f, const struct vmm_net *net)
{
	const struct vmm_net_link *own = vmm_net_link_by_name(net, f->ifname);

	return own && own->flags & IFF_UP;
}

static int join_again(struct sandbox *s, struct follow *f, const struct vmm_net *net, struct err *err)
{
	int index = vmm_net_link_by_name(net, f->ifname)->index, r = 0;
	struct vmm_if_info ignored;

	if (f->index > 0 && f->index != index) {
		free(f->guarded);
		f->guarded = NULL;
		r = s->driver->join(s, f->ifname, &ignored, err);
	}
	if (r == 0)
		f->index = index;
	return r;
}

static int tell(struct sandbox *s, struct follow *f, struct agent *agent, const struct vmm_net *net,
		struct err *err)
{
	Crivisor__Agent__V1__UpdateNetworkRequest req = CRIVISOR__AGENT__V1__UPDATE_NETWORK_REQUEST__INIT;
	void *data = NULL;
	size_t len = 0;
	bool own = false;
	int r;

	req.network = pb_new(&grpc__network__descriptor);
	r = req.network ? sandbox_network_fill(net, f->ifname, req.network, &own, err) : err_oom(err);
	if (r == 0 && pb_pack(&req.network->base, &data, &len) < 0)
		r = err_oom(err);
	/* Between two addresses the interface has none: that is not the end of it. */
	if (r == 0 && (!f->own_told || own) &&
	    !(f->told && len == f->told_len && memcmp(data, f->told, len) == 0)) {
		free(f->told);
		f->told = NULL; /* not known, should the call fail */
		r = agent_call_by(agent, NULL, &AGENT_UPDATE_NETWORK, &req.base, UPDATE_NS, NULL, err);
		if (r == 0)
			r = keep_told(f, req.network, own, err);
		if (r == 0)
			log_line(LOG_LEVEL_DEBUG, LOG_FIELDS("sandbox", s->id),
				 "the guest has the network of its namespace as it is now");
	}
	free(data);
	pb_free(req.network);
	return r;
}

int follow_look(struct sandbox *sandbox, struct err *err)
{
	struct vmm_net *net CLEANUP_VMM_NET = NULL;
	struct follow *f = sandbox->follow;
	struct agent *agent = NULL;
	int r = sandbox_agent(sandbox, &agent, err);

	if (r == 0)
		r = sandbox->driver->network(sandbox, &net, err);
	if (r < 0 || !is_whole(f, net))
		return r;
	r = join_again(sandbox, f, net, err);
	if (r == 0)
		r = set_host(sandbox, f, agent, NULL, net, err);
	if (r < 0)
		return r;
	if (!agent_has(agent, "network-update")) {
		if (!f->refused)
			log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", sandbox->id),
				 "the guest's agent is of an earlier version: changes of its network do not "
				 "reach it");
		f->refused = true;
		return 0;
	}
	r = tell(sandbox, f, agent, net, err);
	return r == 0 ? unplug_gone(sandbox, net, err) : r;
}
