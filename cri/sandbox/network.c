/* SPDX-License-Identifier: Apache-2.0 */
/* The network of a namespace as the agent is told of it. */
#include "cri/sandbox/sandbox_internal.h"

#include "api/pb.h"

#include <linux/if_addr.h>
#include <net/if.h>

#define GUARD_MAX 256 /* addresses; packets from further ones are dropped */

static void mac_text(const uint8_t mac[6], char text[18])
{
	snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

/* lo is there without being told of, unless it has more than its two own addresses. */
static bool is_told(const struct vmm_net_link *link, const char *ifname)
{
	return str_eq(link->name, ifname) || link->flags & IFF_LOOPBACK;
}

static int add_addresses(const struct vmm_net *net, const struct vmm_net_link *link, Grpc__Interface *to)
{
	for (size_t i = 0; i < net->n_addresses; i++) {
		const struct vmm_net_address *from = &net->addresses[i];
		Grpc__IPAddress *a;
		char prefix[16];

		if (from->link != link->index)
			continue;
		a = pb_append(&to->ipaddresses, &to->n_ipaddresses, &grpc__ipaddress__descriptor);
		snprintf(prefix, sizeof(prefix), "%u", from->prefix);
		if (!a || pb_set_str(&a->address, from->address) < 0 || pb_set_str(&a->mask, prefix) < 0 ||
		    pb_set_str(&a->peer, from->peer) < 0)
			return -ENOMEM;
		a->family = strchr(from->address, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
		/* Prefix routes come with the routes, where the plugin has left them. */
		a->flags = (from->flags & IFA_F_MCAUTOJOIN) | IFA_F_NOPREFIXROUTE;
	}
	return 0;
}

static int add_interface(const struct vmm_net *net, const struct vmm_net_link *link, Grpc__Network *to)
{
	Grpc__Interface *ifc = pb_append(&to->interfaces, &to->n_interfaces, &grpc__interface__descriptor);
	char mac[18];

	mac_text(link->mac, mac);
	if (!ifc || pb_set_str(&ifc->device, link->name) < 0 || pb_set_str(&ifc->name, link->name) < 0)
		return -ENOMEM;
	ifc->index = (uint32_t)link->index;
	if (!(link->flags & IFF_LOOPBACK)) {
		ifc->mtu = link->mtu;
		if (pb_set_str(&ifc->hwaddr, mac) < 0)
			return -ENOMEM;
	}
	return add_addresses(net, link, ifc);
}

static int add_neighbours(const struct vmm_net *net, const char *ifname, Grpc__Network *to)
{
	const struct vmm_net_link *link = vmm_net_link_by_name(net, ifname);

	for (size_t i = 0; i < net->n_neighbours; i++) {
		const struct vmm_net_neighbour *from = &net->neighbours[i];
		Grpc__Neighbour *n;
		char mac[18];

		if (from->link != link->index)
			continue;
		n = pb_append(&to->neighbours, &to->n_neighbours, &grpc__neighbour__descriptor);
		mac_text(from->mac, mac);
		if (!n || pb_set_str(&n->device, link->name) < 0 ||
		    pb_set_str(&n->address, from->address) < 0 ||
		    (!from->proxy && pb_set_str(&n->hwaddr, mac) < 0))
			return -ENOMEM;
		n->proxy = from->proxy;
	}
	return 0;
}

static int add_messages(const struct vmm_net_message *from, size_t n, ProtobufCBinaryData **ret,
			size_t *ret_n)
{
	if (n == 0)
		return 0;
	*ret = calloc(n, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		(*ret)[i].data = malloc(from[i].len ? from[i].len : 1);
		if (!(*ret)[i].data)
			return -ENOMEM;
		memcpy((*ret)[i].data, from[i].bytes, from[i].len);
		(*ret)[i].len = from[i].len;
		*ret_n = i + 1;
	}
	return 0;
}

static int add_sysctls(const struct vmm_net *net, Grpc__Network *to)
{
	for (size_t i = 0; i < net->n_sysctls; i++) {
		Grpc__NetSysctl *s = pb_append(&to->sysctls, &to->n_sysctls, &grpc__net_sysctl__descriptor);

		if (!s || pb_set_str(&s->key, net->sysctls[i].key) < 0 ||
		    pb_set_str(&s->value, net->sysctls[i].value) < 0)
			return -ENOMEM;
	}
	return 0;
}

static bool has_address(const struct vmm_net *net, const char *ifname)
{
	const struct vmm_net_link *link = vmm_net_link_by_name(net, ifname);

	for (size_t i = 0; link && i < net->n_addresses; i++) {
		if (net->addresses[i].link == link->index)
			return true;
	}
	return false;
}

int sandbox_network_fill(const struct vmm_net *net, const char *ifname, Grpc__Network *to, bool *ret_told,
			 struct err *err)
{
	int r = add_sysctls(net, to);

	*ret_told = has_address(net, ifname);
	for (size_t i = 0; *ret_told && r == 0 && i < net->n_links; i++) {
		if (is_told(&net->links[i], ifname))
			r = add_interface(net, &net->links[i], to);
	}
	if (*ret_told && r == 0)
		r = add_neighbours(net, ifname, to);
	if (*ret_told && r == 0)
		r = add_messages(net->routes, net->n_routes, &to->routes, &to->n_routes);
	if (*ret_told && r == 0)
		r = add_messages(net->rules, net->n_rules, &to->rules, &to->n_rules);
	return r < 0 ? err_oom(err) : 0;
}

/* ---- what may leave the guest -------------------------------------------------------------------------- */

static size_t addresses_of(const Grpc__Network *network, const char *ifname, const char **list, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; network && i < network->n_interfaces; i++) {
		const Grpc__Interface *ifc = network->interfaces[i];

		/* What lo has is the pod's own too, but for the loopback addresses. */
		if (!str_eq(ifc->name, ifname) && !str_eq(ifc->name, "lo"))
			continue;
		for (size_t k = 0; k < ifc->n_ipaddresses && n < max; k++) {
			const char *address = ifc->ipaddresses[k]->address;

			if (!str_starts(address, "127.") && !str_eq(address, "::1"))
				list[n++] = address;
		}
	}
	return n;
}

int sandbox_network_guard(struct sandbox *s, const char *ifname, const Grpc__Network *network,
			  const struct cni_result *answer, struct err *err)
{
	const char *list[GUARD_MAX];
	char texts[ARRAY_SIZE(answer->ips)][64];
	size_t n = addresses_of(network, ifname, list, ARRAY_SIZE(list));

	if (!s->driver->guard)
		return 0;
	for (size_t i = 0; n == 0 && i < answer->n_ips; i++)
		snprintf(texts[i], sizeof(texts[i]), "%.*s", (int)strcspn(answer->ips[i].address, "/"),
			 answer->ips[i].address);
	if (n == 0) {
		for (n = 0; n < answer->n_ips; n++)
			list[n] = texts[n];
	}
	return s->driver->guard(s, ifname, list, n, err);
}
