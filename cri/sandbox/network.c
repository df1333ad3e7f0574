/* SPDX-License-Identifier: Apache-2.0 */
/* The network of a namespace as the agent is told of it. */
#include "cri/sandbox/follow_internal.h"
#include "cri/sandbox/sandbox_internal.h"

#include "api/pb.h"

#include <linux/if_addr.h>
#include <net/if.h>

#define GUARD_MAX 256 /* addresses; packets from further ones are dropped */

static void mac_text(const uint8_t mac[6], char text[18])
{
	snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static bool has_address(const struct vmm_net *net, const struct vmm_net_link *link)
{
	for (size_t i = 0; i < net->n_addresses; i++) {
		if (net->addresses[i].link == link->index)
			return true;
	}
	return false;
}

/*
 * The pod's own interface where the namespace has its addresses; each further one that is up; and lo, which
 * may have more than its two own addresses.
 */
static bool is_told(const struct vmm_net *net, const struct vmm_net_link *link, const char *ifname)
{
	if (link->flags & IFF_LOOPBACK)
		return true;
	return link->flags & IFF_UP && (!str_eq(link->name, ifname) || has_address(net, link));
}

static bool is_told_index(const struct vmm_net *net, int index, const char *ifname)
{
	for (size_t i = 0; i < net->n_links; i++) {
		if (net->links[i].index == index)
			return is_told(net, &net->links[i], ifname);
	}
	return false;
}

bool sandbox_network_is_further(const struct vmm_net_link *link, const char *ifname)
{
	return !(link->flags & IFF_LOOPBACK) && !str_eq(link->name, ifname);
}

void sandbox_network_nic_mac(int index, uint8_t ret_mac[6])
{
	const uint8_t mac[6] = {
		0x02,	       0x63, (uint8_t)(index >> 24), (uint8_t)(index >> 16), (uint8_t)(index >> 8),
		(uint8_t)index};

	memcpy(ret_mac, mac, sizeof(mac));
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

static int add_interface(const struct vmm_net *net, const struct vmm_net_link *link, const char *ifname,
			 Grpc__Network *to)
{
	Grpc__Interface *ifc = pb_append(&to->interfaces, &to->n_interfaces, &grpc__interface__descriptor);
	uint8_t own[6];
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
	if (sandbox_network_is_further(link, ifname)) {
		sandbox_network_nic_mac(link->index, own);
		mac_text(own, mac);
		if (pb_set_str(&ifc->permhwaddr, mac) < 0)
			return -ENOMEM;
	}
	return add_addresses(net, link, ifc);
}

static int add_neighbours(const struct vmm_net *net, const struct vmm_net_link *link, Grpc__Network *to)
{
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

static int add_bytes(const struct vmm_net_message *from, ProtobufCBinaryData **list, size_t *n)
{
	ProtobufCBinaryData *more = reallocarray(*list, *n + 1, sizeof(*more));
	uint8_t *bytes = malloc(from->len ? from->len : 1);

	if (more)
		*list = more;
	if (!more || !bytes) {
		free(bytes);
		return -ENOMEM;
	}
	memcpy(bytes, from->bytes, from->len);
	more[(*n)++] = (ProtobufCBinaryData){.data = bytes, .len = from->len};
	return 0;
}

static int add_routes_and_rules(const struct vmm_net *net, const char *ifname, Grpc__Network *to)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < net->n_routes; i++) {
		if (net->routes[i].link == 0 || is_told_index(net, net->routes[i].link, ifname))
			r = add_bytes(&net->routes[i], &to->routes, &to->n_routes);
	}
	for (size_t i = 0; r == 0 && i < net->n_rules; i++)
		r = add_bytes(&net->rules[i], &to->rules, &to->n_rules);
	return r;
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

int sandbox_network_fill(const struct vmm_net *net, const char *ifname, Grpc__Network *to, bool *ret_told,
			 struct err *err)
{
	bool any = false;
	int r = add_sysctls(net, to);

	*ret_told = false;
	for (size_t i = 0; i < net->n_links; i++) {
		const struct vmm_net_link *link = &net->links[i];
		bool told = !(link->flags & IFF_LOOPBACK) && is_told(net, link, ifname);

		any |= told;
		*ret_told |= told && str_eq(link->name, ifname);
	}
	for (size_t i = 0; any && r == 0 && i < net->n_links; i++) {
		if (!is_told(net, &net->links[i], ifname))
			continue;
		r = add_interface(net, &net->links[i], ifname, to);
		if (r == 0)
			r = add_neighbours(net, &net->links[i], to);
	}
	if (any && r == 0)
		r = add_routes_and_rules(net, ifname, to);
	return r < 0 ? err_oom(err) : 0;
}

/* ---- what may leave the guest -------------------------------------------------------------------------- */

/* What lo has is the pod's own too, but for the loopback addresses. */
static size_t own_addresses(const struct vmm_net *net, const char *ifname, char *const *ips, size_t n_ips,
			    const char **list, size_t max)
{
	size_t n = 0;
	bool told = false;

	for (size_t i = 0; net && i < net->n_addresses && n < max; i++) {
		const struct vmm_net_address *a = &net->addresses[i];
		const struct vmm_net_link *own = vmm_net_link_by_name(net, ifname);

		if (!is_told_index(net, a->link, ifname) || str_starts(a->address, "127.") ||
		    str_eq(a->address, "::1"))
			continue;
		told |= own && own->index == a->link;
		list[n++] = a->address;
	}
	for (size_t i = 0; !told && i < n_ips && n < max; i++)
		list[n++] = ips[i];
	return n;
}

/* What the filters are made from; NULL: no memory. */
static char *guard_text(const struct vmm_net *net, const char *ifname, const char *const *list, size_t n)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	for (size_t i = 0; f && net && i < net->n_links; i++) {
		char mac[18];

		if (!is_told(net, &net->links[i], ifname))
			continue;
		mac_text(net->links[i].mac, mac);
		fprintf(f, "%d %s %s\n", net->links[i].index, net->links[i].name, mac);
	}
	for (size_t i = 0; f && i < n; i++)
		fprintf(f, "%s\n", list[i]);
	if (f && fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

int sandbox_network_guard(struct sandbox *s, struct follow *f, const struct vmm_net *net, struct err *err)
{
	const char *list[GUARD_MAX];
	size_t n = own_addresses(net, f->ifname, f->ips, f->n_ips, list, ARRAY_SIZE(list));
	char *text CLEANUP_FREE = NULL;
	int r;

	if (!s->driver->guard || !f->spoof_check)
		return 0;
	text = guard_text(net, f->ifname, list, n);
	if (!text)
		return err_oom(err);
	if (f->guarded && str_eq(text, f->guarded))
		return 0;
	r = s->driver->guard(s, VMM_TAP_BOOT, f->ifname, list, n, err);
	for (size_t i = 0; r == 0 && net && i < net->n_links; i++) {
		const struct vmm_net_link *link = &net->links[i];
		char tap[VMM_TAP_NAME_MAX];

		if (!sandbox_network_is_further(link, f->ifname) || !is_told(net, link, f->ifname))
			continue;
		vmm_tap_name(link->index, tap);
		r = s->driver->guard(s, tap, link->name, list, n, err);
	}
	free(f->guarded);
	f->guarded = r == 0 ? move_ptr(text) : NULL;
	return r;
}
