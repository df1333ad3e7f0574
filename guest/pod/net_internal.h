/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_internal.h: interfaces and routes as SandboxService asks for them, done by rtnl.c.
 *
 * Threads:   none of its own; synchronous.
 * Limits:    NET_ADDRS_MAX addresses an interface. Semantics: an interface is found by its hwAddr; if no link
 *            has it, by `device` (its present name), then by `name`. It gets hwAddr, name, mtu and exactly
 *            the addresses given, and is brought up. Of an interface with IPv6 off the IPv6 addresses are
 *            left out.
 */
#ifndef GUEST_POD_NET_INTERNAL_H
#define GUEST_POD_NET_INTERNAL_H

#include "api/agent/sandbox.pb-c.h"
#include "base/err.h"
#include "guest/pod/rtnl_internal.h"

#include <stdbool.h>

#define NET_ADDRS_MAX 64

/* In two steps: what is set between them needs the interfaces' names and comes before their addresses. */
int net_links(struct rtnl *nl, Grpc__Interface *const *ifaces, size_t n, int *ret_indexes, struct err *err);
int net_addresses(struct rtnl *nl, Grpc__Interface *const *ifaces, size_t n, const int *indexes,
		  struct err *err);
/* Both. */
int net_interfaces(Grpc__Interface *const *ifaces, size_t n, struct err *err);
int net_routes(Grpc__Route *const *routes, size_t n, struct err *err);

/*
 * Makes the guest's network what `want` says, in this order: interfaces, sysctls, addresses, neighbours,
 * routes, rules. Addresses, neighbours, routes and rules of IPv6 are left out where IPv6 is off (by a sysctl,
 * or by the kernel). A sysctl that this kernel does not have is logged and left out.
 */
bool net_ipv6_off(const char *ifname); /* "all": of all */
int network_apply(const Grpc__Network *want, struct err *err);

#endif
