/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/pod/net_internal.h"

#include "base/util.h"
#include "guest/pod/pod.h"
#include "guest/pod/rtnl_internal.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* By ioctl: the boot waits for it, and rtnetlink takes three times as long. */
int pod_loopback(struct err *err)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING};
	int fd CLEANUP_CLOSE = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		return err_set_errno(err, -errno, "bring up lo");
	return 0;
}

/* The pod's addresses come from the host alone and must work at once. A kernel may lack IPv6. */
static void quiet_ipv6(const char *ifname)
{
	static const char *const keys[] = {"accept_ra", "accept_dad", "autoconf"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		char *path CLEANUP_FREE = xasprintf("/proc/sys/net/ipv6/conf/%s/%s", ifname, keys[i]);

		if (path)
			(void)write_file(path, "0", 1, 0);
	}
}

static const struct rtnl_link *find_link(const struct rtnl_link *links, int n, const Grpc__Interface *want,
					 const unsigned char *mac, const unsigned char *perm)
{
	/* Where the kernel tells no permanent address, the present one. */
	for (int i = 0; perm && i < n; i++) {
		const unsigned char *its = links[i].has_perm  ? links[i].perm
					   : links[i].has_mac ? links[i].mac
							      : NULL;

		if (its && memcmp(its, perm, 6) == 0)
			return &links[i];
	}
	if (perm)
		return NULL;
	for (int i = 0; mac && i < n; i++) {
		if (links[i].has_mac && memcmp(links[i].mac, mac, 6) == 0 && !(links[i].flags & IFF_LOOPBACK))
			return &links[i];
	}
	for (int i = 0; !str_empty(want->device) && i < n; i++) {
		if (str_eq(links[i].name, want->device))
			return &links[i];
	}
	for (int i = 0; !str_empty(want->name) && i < n; i++) {
		if (str_eq(links[i].name, want->name))
			return &links[i];
	}
	return NULL;
}

static const struct rtnl_link *link_by_index(const struct rtnl_link *links, int n, int index)
{
	for (int i = 0; i < n; i++) {
		if (links[i].index == index)
			return &links[i];
	}
	return NULL;
}

static bool name_valid(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len < IF_NAMESIZE && !strpbrk(name, "/ \t\n:") && !str_eq(name, ".") &&
	       !str_eq(name, "..");
}

int net_link_set(struct rtnl *nl, const Grpc__Interface *want, int index, struct err *err)
{
	struct rtnl_link links[RTNL_LINKS_MAX];
	struct rtnl_change change = {.mac = NULL};
	const struct rtnl_link *link;
	unsigned char mac[6], perm[6];
	int n, r;

	if (!str_empty(want->name) && !name_valid(want->name))
		return err_set(err, -EINVAL, "interface name \"%.64s\" is not valid", want->name);
	if (want->mtu > 65536)
		return err_set(err, -EINVAL, "MTU %llu is too large", (unsigned long long)want->mtu);
	if (!str_empty(want->hwaddr)) {
		r = rtnl_parse_mac(want->hwaddr, mac, err);
		if (r < 0)
			return r;
		change.mac = mac;
	}
	if (!str_empty(want->permhwaddr)) {
		r = rtnl_parse_mac(want->permhwaddr, perm, err);
		if (r < 0)
			return r;
	}
	n = rtnl_links(nl, links, ARRAY_SIZE(links), err);
	if (n < 0)
		return n;
	link = index > 0 ? link_by_index(links, n, index)
			 : find_link(links, n, want, change.mac, str_empty(want->permhwaddr) ? NULL : perm);
	if (!link)
		return err_set(err, -ENOENT, "no network interface with MAC \"%s\" or name \"%s\"",
			       want->hwaddr, str_empty(want->device) ? want->name : want->device);
	change.name = str_empty(want->name) ? NULL : want->name;
	change.mtu = (uint32_t)want->mtu;
	quiet_ipv6(link->name);
	r = rtnl_link_set(nl, link, &change, err);
	return r < 0 ? r : link->index;
}

int net_address_parse(const Grpc__IPAddress *want, struct rtnl_addr *ret, struct err *err)
{
	struct rtnl_addr peer;
	int r = rtnl_parse_addr(want->address, want->mask, ret, err);

	ret->flags = want->flags;
	if (r == 0 && !str_empty(want->peer)) {
		r = rtnl_parse_addr(want->peer, NULL, &peer, err);
		if (r == 0 && peer.family != ret->family)
			r = err_set(err, -EINVAL, "peer \"%.64s\" of another family", want->peer);
		ret->has_peer = true;
		memcpy(ret->peer, peer.bytes, sizeof(ret->peer));
	}
	return r;
}

bool net_ipv6_off(const char *ifname)
{
	char *path CLEANUP_FREE = xasprintf("/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifname);
	char *value CLEANUP_FREE = NULL;

	return !path || read_file(path, 16, &value, NULL) < 0 || value[0] != '0';
}

int net_addresses_set(struct rtnl *nl, const Grpc__Interface *want, int index, struct err *err)
{
	struct rtnl_addr addrs[NET_ADDRS_MAX];
	char name[IF_NAMESIZE];
	size_t n = 0;
	bool off;

	if (want->n_ipaddresses > NET_ADDRS_MAX)
		return err_set(err, -E2BIG, "%zu addresses: want at most %d", want->n_ipaddresses,
			       NET_ADDRS_MAX);
	if (!if_indextoname((unsigned int)index, name))
		return err_set_errno(err, -errno, "interface %d", index);
	off = net_ipv6_off(name);
	for (size_t i = 0; i < want->n_ipaddresses; i++) {
		int r = net_address_parse(want->ipaddresses[i], &addrs[n], err);

		if (r < 0)
			return r;
		if (addrs[n].family != AF_INET6 || !off)
			n++;
	}
	return rtnl_addrs_set(nl, index, addrs, n, err);
}

static int net_links(struct rtnl *nl, Grpc__Interface *const *ifaces, size_t n, int *ret_indexes,
		     struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		ret_indexes[i] = net_link_set(nl, ifaces[i], 0, err);
		if (ret_indexes[i] < 0) {
			err_wrap(err, "interface \"%.64s\"",
				 str_empty(ifaces[i]->name) ? ifaces[i]->device : ifaces[i]->name);
			return ret_indexes[i];
		}
	}
	return 0;
}

static int net_addresses(struct rtnl *nl, Grpc__Interface *const *ifaces, size_t n, const int *indexes,
			 struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = net_addresses_set(nl, ifaces[i], indexes[i], err);

		if (r < 0)
			return err_wrap(err, "interface \"%.64s\"",
					str_empty(ifaces[i]->name) ? ifaces[i]->device : ifaces[i]->name),
			       r;
	}
	return 0;
}

int net_interfaces(Grpc__Interface *const *ifaces, size_t n, struct err *err)
{
	struct rtnl nl = {.fd = -1};
	int indexes[RTNL_LINKS_MAX];
	int r = n > 0 ? rtnl_open(&nl, err) : 0;

	if (r == 0 && n > ARRAY_SIZE(indexes))
		r = err_set(err, -E2BIG, "%zu interfaces: want at most %d", n, RTNL_LINKS_MAX);
	if (r == 0)
		r = net_links(&nl, ifaces, n, indexes, err);
	if (r == 0)
		r = net_addresses(&nl, ifaces, n, indexes, err);
	rtnl_close(&nl);
	return r;
}

static int set_route(struct rtnl *nl, const Grpc__Route *want, struct err *err)
{
	struct rtnl_route route = {.scope = want->scope,
				   .flags = want->flags & (RTNH_F_ONLINK),
				   .mtu = want->mtu,
				   .advmss = want->advmss,
				   .table = want->table,
				   .priority = want->priority};
	int family = want->family == GRPC__IPFAMILY__v6 ? AF_INET6 : AF_INET;
	int r = 0;

	if (!str_empty(want->gateway)) {
		r = rtnl_parse_addr(want->gateway, NULL, &route.gateway, err);
		family = route.gateway.family;
	}
	if (r == 0)
		r = rtnl_parse_cidr(want->dest, family, &route.dest, err);
	if (r == 0 && !str_empty(want->source))
		r = rtnl_parse_addr(want->source, NULL, &route.source, err);
	if (r < 0)
		return r;
	if ((route.gateway.family && route.gateway.family != route.dest.family) ||
	    (route.source.family && route.source.family != route.dest.family))
		return err_set(err, -EINVAL, "addresses of different families");
	if (want->scope > 255)
		return err_set(err, -EINVAL, "scope %u is not valid", want->scope);
	/* Without a gateway the destination is on the link itself. */
	if (!route.gateway.family && route.scope == RT_SCOPE_UNIVERSE && route.dest.family == AF_INET)
		route.scope = RT_SCOPE_LINK;
	if (!str_empty(want->device)) {
		route.oif = (int)if_nametoindex(want->device);
		if (route.oif == 0)
			return err_set(err, -ENODEV, "no network interface \"%.64s\"", want->device);
	}
	if (route.dest.family == AF_INET6 && net_ipv6_off(str_empty(want->device) ? "all" : want->device))
		return 0;
	return rtnl_route_set(nl, &route, err);
}

int net_routes(Grpc__Route *const *routes, size_t n, struct err *err)
{
	struct rtnl nl = {.fd = -1};
	int r = n > 0 ? rtnl_open(&nl, err) : 0;

	/*
	 * Routes without a gateway first, in any order given: the others are reached through them.
	 */
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; r == 0 && i < n; i++) {
			if (str_empty(routes[i]->gateway) != (pass == 0))
				continue;
			r = set_route(&nl, routes[i], err);
			if (r < 0)
				err_wrap(err, "route to \"%.64s\"",
					 str_empty(routes[i]->dest) ? "default" : routes[i]->dest);
		}
	}
	rtnl_close(&nl);
	return r;
}
