/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network of the pod's namespace on the host, made here, and followed as it changes.
 *
 * What was told last is kept: a later call is compared with it, so that what containers have made themselves
 * is neither taken for the host's nor taken away.
 */
#include "guest/pod/net_internal.h"

#include "api/pb.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/pod/network_internal.h"
#include "guest/pod/setup_internal.h"

#include <linux/fib_rules.h>
#include <string.h>
#include <sys/socket.h>

#define ROUTE_PASSES 3 /* through the link; through those; through those */

/* What was told last. */
static struct {
	Grpc__Network *network;
	int indexes[RTNL_LINKS_MAX];
	bool failed; /* not all of it was done */
} told;

struct update {
	struct rtnl nl;
	const Grpc__Network *before, *want;
	struct numbers was, is;
	int indexes[RTNL_LINKS_MAX];
	bool again; /* what is in both is done again */
	int r;	    /* the first error */
	struct err *err;
};

static void note(struct update *u, int r, const struct err *why)
{
	if (r < 0 && u->r == 0) {
		u->r = r;
		err_copy(u->err, why);
	}
}

static const Grpc__Interface *same_interface(const Grpc__Network *in, uint32_t index, size_t *ret_at)
{
	for (size_t i = 0; i < in->n_interfaces; i++) {
		if (in->interfaces[i]->index == index) {
			*ret_at = i;
			return in->interfaces[i];
		}
	}
	return NULL;
}

/* This kernel's number of an interface that the host has named; 0: none. */
static int number_of(const struct numbers *numbers, const char *name)
{
	for (size_t i = 0; i < numbers->n; i++) {
		if (str_eq(numbers->ifaces[i]->name, name))
			return numbers->indexes[i];
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

/* ---- interfaces ---------------------------------------------------------------------------------------- */

static void update_link(struct update *u, size_t i)
{
	const Grpc__Interface *want = u->want->interfaces[i];
	struct err err = ERR_INIT;
	size_t at = 0;
	const Grpc__Interface *before = same_interface(u->before, want->index, &at);
	int index = before ? u->was.indexes[at] : 0, r = index;

	if (index == 0 || u->again || !str_eq(before->name, want->name) || before->mtu != want->mtu ||
	    !str_eq(before->hwaddr, want->hwaddr))
		r = net_link_set(&u->nl, want, index, &err);
	if (r == -ENOENT && index > 0) /* it was plugged anew */
		r = net_link_set(&u->nl, want, 0, &err);
	if (r < 0)
		err_wrap(&err, "interface \"%.64s\"", want->name);
	note(u, r, &err);
	u->indexes[i] = r > 0 ? r : 0;
}

/*
 * A container may have renamed it, or it was unplugged: only its number counts, and its absence is no error.
 */
static void end_gone_links(struct update *u)
{
	size_t at;

	for (size_t i = 0; i < u->before->n_interfaces; i++) {
		if (u->was.indexes[i] > 0 && !same_interface(u->want, u->before->interfaces[i]->index, &at))
			(void)rtnl_link_down(&u->nl, u->was.indexes[i], NULL);
	}
}

static void set_sysctls(struct update *u)
{
	for (size_t i = 0; i < u->want->n_sysctls; i++) {
		const char *key = u->want->sysctls[i]->key, *value = u->want->sysctls[i]->value;
		char *path CLEANUP_FREE = str_starts(key, "net") ? pod_sysctl_path(key) : NULL;
		struct err err = ERR_INIT;
		bool known = false;
		int r;

		for (size_t k = 0; k < u->before->n_sysctls && !u->again; k++)
			known |= str_eq(u->before->sysctls[k]->key, key) &&
				 str_eq(u->before->sysctls[k]->value, value);
		if (known)
			continue;
		if (!path) {
			note(u, err_set(&err, -EINVAL, "sysctl \"%.128s\" is not a valid name", key), &err);
			continue;
		}
		r = write_file(path, value, strlen(value), 0);
		/* The namespace's kernel may be newer, or have more built in. */
		if (r < 0)
			log_warn("network: sysctl %s cannot be set to \"%.64s\": %s", key, value,
				 strerror(-r));
	}
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

static bool has_address(const Grpc__Interface *ifc, const Grpc__IPAddress *a)
{
	for (size_t i = 0; i < ifc->n_ipaddresses; i++) {
		const Grpc__IPAddress *b = ifc->ipaddresses[i];

		if (str_eq(a->address, b->address) && str_eq(a->mask, b->mask) && str_eq(a->peer, b->peer))
			return true;
	}
	return false;
}

static void change_address(struct update *u, int index, const Grpc__IPAddress *a, bool add)
{
	struct rtnl_addr addr;
	struct err err = ERR_INIT;
	int r = net_address_parse(a, &addr, &err);

	if (r == 0 && !is_off(addr.family, index))
		r = add ? rtnl_addr_add(&u->nl, index, &addr, &err)
			: rtnl_addr_remove(&u->nl, index, &addr, &err);
	note(u, r, &err);
}

/* New ones first: connections and routes find an address at any time. */
static void update_addresses(struct update *u, size_t i)
{
	const Grpc__Interface *want = u->want->interfaces[i];
	struct err err = ERR_INIT;
	size_t at;
	const Grpc__Interface *before = same_interface(u->before, want->index, &at);
	int index = u->indexes[i];
	bool removed = false;

	if (index == 0)
		return;
	if (!before) {
		note(u, net_addresses_set(&u->nl, want, index, &err), &err);
		return;
	}
	for (size_t k = 0; k < want->n_ipaddresses; k++) {
		if (u->again || !has_address(before, want->ipaddresses[k]))
			change_address(u, index, want->ipaddresses[k], true);
	}
	for (size_t k = 0; k < before->n_ipaddresses; k++) {
		if (has_address(want, before->ipaddresses[k]))
			continue;
		change_address(u, index, before->ipaddresses[k], false);
		removed = true;
	}
	/*
	 * With a primary address the kernel removes the secondary ones of its subnet, and routes from them.
	 */
	for (size_t k = 0; removed && k < want->n_ipaddresses; k++)
		change_address(u, index, want->ipaddresses[k], true);
	u->again |= removed;
}

/* ---- neighbours ---------------------------------------------------------------------------------------- */

/* Of the same address; with `whole` of the same MAC too. */
static bool has_neighbour(const Grpc__Network *in, const Grpc__Neighbour *a, bool whole)
{
	for (size_t i = 0; i < in->n_neighbours; i++) {
		const Grpc__Neighbour *b = in->neighbours[i];

		if (str_eq(a->device, b->device) && str_eq(a->address, b->address) && a->proxy == b->proxy &&
		    (!whole || str_eq(a->hwaddr, b->hwaddr)))
			return true;
	}
	return false;
}

static void change_neighbour(struct update *u, const Grpc__Neighbour *n, int index, bool add)
{
	struct rtnl_addr addr;
	struct err err = ERR_INIT;
	unsigned char mac[6];
	int r = rtnl_parse_addr(n->address, NULL, &addr, &err);

	if (r == 0 && index == 0)
		r = err_set(&err, -ENODEV, "neighbour %s: no network interface \"%.64s\"", n->address,
			    n->device);
	if (r == 0 && add && !n->proxy)
		r = rtnl_parse_mac(n->hwaddr, mac, &err);
	if (r == 0 && !is_off(addr.family, index))
		r = add ? rtnl_neigh_set(&u->nl, index, &addr, n->proxy ? NULL : mac, &err)
			: rtnl_neigh_remove(&u->nl, index, &addr, n->proxy, &err);
	note(u, r, &err);
}

static void update_neighbours(struct update *u)
{
	for (size_t i = 0; i < u->want->n_neighbours; i++) {
		const Grpc__Neighbour *n = u->want->neighbours[i];

		if (u->again || !has_neighbour(u->before, n, true))
			change_neighbour(u, n, number_of(&u->is, n->device), true);
	}
	for (size_t i = 0; i < u->before->n_neighbours; i++) {
		const Grpc__Neighbour *n = u->before->neighbours[i];
		int index = number_of(&u->is, n->device);

		if (index > 0 && !has_neighbour(u->want, n, false))
			change_neighbour(u, n, index, false);
	}
}

/* ---- routes and rules ---------------------------------------------------------------------------------- */

static bool has_bytes(const ProtobufCBinaryData *list, size_t n, const ProtobufCBinaryData *a)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].len == a->len && memcmp(list[i].data, a->data, a->len) == 0)
			return true;
	}
	return false;
}

static int add_route(struct update *u, const ProtobufCBinaryData *route, int pass, bool *ret_again,
		     struct err *err)
{
	unsigned char bytes[RTNL_MESSAGE_MAX];
	struct route_view view = {0};
	int r;

	if (route->len > sizeof(bytes))
		return err_set(err, -E2BIG, "a route of %zu bytes", route->len);
	memcpy(bytes, route->data, route->len);
	r = route_translate(&u->is, bytes, route->len, &view, err);
	if (r < 0 || is_off(view.family, view.oif))
		return r;
	if (view.indirect && pass == 0) {
		*ret_again = true;
		return 0;
	}
	r = rtnl_raw(&u->nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, bytes, route->len);
	if ((r == -ENETUNREACH || r == -EHOSTUNREACH) && pass + 1 < ROUTE_PASSES) {
		*ret_again = true;
		return 0;
	}
	return r < 0 && r != -EEXIST ? err_set_errno(err, r, "adding a route of the pod's namespace") : 0;
}

static void add_routes(struct update *u)
{
	bool again = true;

	for (int pass = 0; again && pass < ROUTE_PASSES; pass++) {
		again = false;
		for (size_t i = 0; i < u->want->n_routes; i++) {
			const ProtobufCBinaryData *route = &u->want->routes[i];
			struct err err = ERR_INIT;
			int r = 0;

			if (u->again || !has_bytes(u->before->routes, u->before->n_routes, route))
				r = add_route(u, route, pass, &again, &err);
			if (r < 0)
				err_wrap(&err, "route %zu", i);
			note(u, r, &err);
		}
	}
}

static void remove_routes(struct update *u, int family)
{
	for (size_t i = 0; i < u->before->n_routes; i++) {
		const ProtobufCBinaryData *route = &u->before->routes[i];
		unsigned char bytes[RTNL_MESSAGE_MAX];
		struct route_view view = {0};

		if (has_bytes(u->want->routes, u->want->n_routes, route) || route->len > sizeof(bytes))
			continue;
		memcpy(bytes, route->data, route->len);
		/* One through an interface that has gone went with it. */
		if (route_translate(&u->was, bytes, route->len, &view, NULL) == 0 && view.family == family)
			(void)rtnl_raw(&u->nl, RTM_DELROUTE, 0, bytes, route->len);
	}
}

static void update_rules(struct update *u)
{
	for (size_t i = 0; i < u->want->n_rules; i++) {
		const ProtobufCBinaryData *rule = &u->want->rules[i];
		struct err err = ERR_INIT;
		struct fib_rule_hdr info;
		int r = 0;

		if (!u->again && has_bytes(u->before->rules, u->before->n_rules, rule))
			continue;
		if (rule->len < sizeof(info)) {
			note(u, err_set(&err, -EINVAL, "a rule of %zu bytes", rule->len), &err);
			continue;
		}
		memcpy(&info, rule->data, sizeof(info));
		if (!is_off(info.family, 0))
			r = rtnl_raw(&u->nl, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule->data, rule->len);
		if (r < 0 && r != -EEXIST)
			note(u, err_set_errno(&err, r, "adding rule %zu of the pod's namespace", i), &err);
	}
	for (size_t i = 0; i < u->before->n_rules; i++) {
		const ProtobufCBinaryData *rule = &u->before->rules[i];

		if (!has_bytes(u->want->rules, u->want->n_rules, rule))
			(void)rtnl_raw(&u->nl, RTM_DELRULE, 0, rule->data, rule->len);
	}
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static void update_all(struct update *u)
{
	for (size_t i = 0; i < u->want->n_interfaces; i++)
		update_link(u, i);
	set_sysctls(u);
	for (size_t i = 0; i < u->want->n_interfaces; i++)
		update_addresses(u, i);
	update_neighbours(u);
	/*
	 * A changed route of IPv4 stands beside its old form for a moment, so that there is always one; IPv6
	 * would take the two for one route with two hops.
	 */
	remove_routes(u, AF_INET6);
	add_routes(u);
	remove_routes(u, AF_INET);
	update_rules(u);
	end_gone_links(u);
}

int network_update(Grpc__Network *want, struct err *err)
{
	Grpc__Network none = GRPC__NETWORK__INIT;
	struct err scratch = ERR_INIT;
	struct update u = {.before = told.network ? told.network : &none,
			   .want = want,
			   .again = told.failed,
			   .err = &scratch};
	int r = 0;

	u.was = (struct numbers){u.before->interfaces, told.indexes, u.before->n_interfaces};
	u.is = (struct numbers){want->interfaces, u.indexes, want->n_interfaces};
	if (want->n_interfaces > ARRAY_SIZE(u.indexes))
		r = err_set(err, -E2BIG, "%zu interfaces: want at most %d", want->n_interfaces,
			    RTNL_LINKS_MAX);
	if (r == 0)
		r = rtnl_open(&u.nl, err);
	if (r < 0) {
		pb_free(want);
		return r;
	}
	update_all(&u);
	rtnl_close(&u.nl);
	pb_free(told.network);
	told.network = want;
	memcpy(told.indexes, u.indexes, sizeof(told.indexes));
	told.failed = u.r < 0;
	return u.r < 0 ? err_copy(err, &scratch) : 0;
}

int network_apply(Grpc__Network *want, struct err *err)
{
	pb_free(told.network);
	told.network = NULL;
	told.failed = false;
	return network_update(want, err);
}
