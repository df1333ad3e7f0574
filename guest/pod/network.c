/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network of the pod's namespace on the host, made here.
 *
 * Routes and rules come as the host's kernel dumps them. In them interfaces are named by the host's numbers,
 * which are replaced by this kernel's.
 */
#include "guest/pod/net_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "guest/pod/setup_internal.h"

#include <linux/fib_rules.h>
#include <string.h>
#include <sys/socket.h>

#define ROUTE_PASSES 3 /* through the link; through those; through those */

struct numbers {
	Grpc__Interface *const *ifaces;
	const int *indexes;
	size_t n;
};

/* ---- the host's numbers -------------------------------------------------------------------------------- */

static int translate(const struct numbers *numbers, unsigned char *at, struct err *err)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	for (size_t i = 0; i < numbers->n; i++) {
		if (numbers->ifaces[i]->index == number) {
			memcpy(at, &numbers->indexes[i], sizeof(number));
			return numbers->indexes[i];
		}
	}
	return err_set(err, -EINVAL, "interface number %u is not among the interfaces", number);
}

static int translate_hops(const struct numbers *numbers, unsigned char *at, size_t len, struct err *err)
{
	struct rtnexthop hop;
	int r = 0;

	for (size_t step; r >= 0 && len >= sizeof(hop); at += step, len -= step) {
		memcpy(&hop, at, sizeof(hop));
		if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > len)
			return err_set(err, -EINVAL, "malformed next hop");
		r = translate(numbers, at + offsetof(struct rtnexthop, rtnh_ifindex), err);
		step = (hop.rtnh_len + 3u) & ~3u;
		step = step < len ? step : len;
	}
	return r < 0 ? r : 0;
}

/* What is looked at in a route on its way. */
struct route_view {
	int family, oif;
	bool indirect;
};

/* Replaces the numbers in a route. */
static int route_translate(const struct numbers *numbers, unsigned char *bytes, size_t len,
			   struct route_view *ret, struct err *err)
{
	struct rtmsg info;
	int r = 0;

	if (len < sizeof(info))
		return err_set(err, -EINVAL, "a route of %zu bytes", len);
	memcpy(&info, bytes, sizeof(info));
	*ret = (struct route_view){.family = info.rtm_family};
	if (info.rtm_family != AF_INET && info.rtm_family != AF_INET6)
		return err_set(err, -EINVAL, "a route of address family %d", info.rtm_family);
	for (size_t at = (size_t)NLMSG_ALIGN(sizeof(info));
	     r >= 0 && len - at >= sizeof(struct rtattr) && at < len;) {
		unsigned char *data = bytes + at + RTA_LENGTH(0);
		struct rtattr rta;

		memcpy(&rta, bytes + at, sizeof(rta));
		if (rta.rta_len < RTA_LENGTH(0) || rta.rta_len > len - at)
			return err_set(err, -EINVAL, "a route with a malformed attribute");
		if ((rta.rta_type == RTA_OIF || rta.rta_type == RTA_IIF) && rta.rta_len == RTA_LENGTH(4)) {
			r = translate(numbers, data, err);
			if (rta.rta_type == RTA_OIF)
				ret->oif = r;
		} else if (rta.rta_type == RTA_MULTIPATH) {
			r = translate_hops(numbers, data, rta.rta_len - RTA_LENGTH(0), err);
		}
		ret->indirect |= rta.rta_type == RTA_GATEWAY || rta.rta_type == RTA_VIA ||
				 rta.rta_type == RTA_MULTIPATH;
		at += RTA_ALIGN(rta.rta_len) < len - at ? RTA_ALIGN(rta.rta_len) : len - at;
	}
	return r < 0 ? r : 0;
}

/* ---- the parts ----------------------------------------------------------------------------------------- */

static int set_sysctls(const Grpc__Network *want, struct err *err)
{
	for (size_t i = 0; i < want->n_sysctls; i++) {
		const char *key = want->sysctls[i]->key, *value = want->sysctls[i]->value;
		char *path CLEANUP_FREE = str_starts(key, "net") ? pod_sysctl_path(key) : NULL;
		int r;

		if (!path)
			return err_set(err, -EINVAL, "sysctl \"%.128s\" is not a valid name", key);
		r = write_file(path, value, strlen(value), 0);
		/* The namespace's kernel may be newer, or have more built in. */
		if (r < 0)
			log_warn("network: sysctl %s cannot be set to \"%.64s\": %s", key, value,
				 strerror(-r));
	}
	return 0;
}

static bool is_off(int family, int oif)
{
	char name[IF_NAMESIZE];

	if (family != AF_INET6)
		return false;
	return net_ipv6_off("all") ||
	       (oif > 0 && if_indextoname((unsigned int)oif, name) && net_ipv6_off(name));
}

static int set_neighbours(struct rtnl *nl, const Grpc__Network *want, struct err *err)
{
	for (size_t i = 0; i < want->n_neighbours; i++) {
		const Grpc__Neighbour *n = want->neighbours[i];
		unsigned int index = if_nametoindex(n->device);
		struct rtnl_addr addr;
		unsigned char mac[6];
		int r = rtnl_parse_addr(n->address, NULL, &addr, err);

		if (r == 0 && index == 0)
			r = err_set(err, -ENODEV, "neighbour %s: no network interface \"%.64s\"", n->address,
				    n->device);
		if (r == 0 && !n->proxy)
			r = rtnl_parse_mac(n->hwaddr, mac, err);
		if (r == 0 && !is_off(addr.family, (int)index))
			r = rtnl_neigh_set(nl, (int)index, &addr, n->proxy ? NULL : mac, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int set_route(struct rtnl *nl, const ProtobufCBinaryData *route, const struct numbers *numbers,
		     int pass, bool *ret_again, struct err *err)
{
	unsigned char bytes[RTNL_MESSAGE_MAX];
	struct route_view view = {0};
	int r;

	if (route->len > sizeof(bytes))
		return err_set(err, -E2BIG, "a route of %zu bytes", route->len);
	memcpy(bytes, route->data, route->len);
	r = route_translate(numbers, bytes, route->len, &view, err);
	if (r < 0 || is_off(view.family, view.oif))
		return r;
	if (view.indirect && pass == 0) {
		*ret_again = true;
		return 0;
	}
	r = rtnl_raw(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, bytes, route->len);
	if ((r == -ENETUNREACH || r == -EHOSTUNREACH) && pass + 1 < ROUTE_PASSES) {
		*ret_again = true;
		return 0;
	}
	return r < 0 && r != -EEXIST ? err_set_errno(err, r, "adding a route of the pod's namespace") : 0;
}

static int set_routes(struct rtnl *nl, const Grpc__Network *want, const struct numbers *numbers,
		      struct err *err)
{
	bool again = true;
	int r = 0;

	for (int pass = 0; r == 0 && again && pass < ROUTE_PASSES; pass++) {
		again = false;
		for (size_t i = 0; r == 0 && i < want->n_routes; i++) {
			r = set_route(nl, &want->routes[i], numbers, pass, &again, err);
			if (r < 0)
				err_wrap(err, "route %zu", i);
		}
	}
	return r;
}

static int set_rules(struct rtnl *nl, const Grpc__Network *want, struct err *err)
{
	for (size_t i = 0; i < want->n_rules; i++) {
		const ProtobufCBinaryData *rule = &want->rules[i];
		struct fib_rule_hdr info;
		int r;

		if (rule->len < sizeof(info))
			return err_set(err, -EINVAL, "a rule of %zu bytes", rule->len);
		memcpy(&info, rule->data, sizeof(info));
		if (is_off(info.family, 0))
			continue;
		r = rtnl_raw(nl, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule->data, rule->len);
		if (r < 0 && r != -EEXIST)
			return err_set_errno(err, r, "adding rule %zu of the pod's namespace", i);
	}
	return 0;
}

int network_apply(const Grpc__Network *want, struct err *err)
{
	int indexes[RTNL_LINKS_MAX];
	struct numbers numbers = {want->interfaces, indexes, want->n_interfaces};
	struct rtnl nl = {.fd = -1};
	int r = rtnl_open(&nl, err);

	if (r == 0 && want->n_interfaces > ARRAY_SIZE(indexes))
		r = err_set(err, -E2BIG, "%zu interfaces: want at most %d", want->n_interfaces,
			    RTNL_LINKS_MAX);
	if (r == 0)
		r = net_links(&nl, want->interfaces, want->n_interfaces, indexes, err);
	if (r == 0)
		r = set_sysctls(want, err);
	if (r == 0)
		r = net_addresses(&nl, want->interfaces, want->n_interfaces, indexes, err);
	if (r == 0)
		r = set_neighbours(&nl, want, err);
	if (r == 0)
		r = set_routes(&nl, want, &numbers, err);
	if (r == 0)
		r = set_rules(&nl, want, err);
	rtnl_close(&nl);
	return r;
}
