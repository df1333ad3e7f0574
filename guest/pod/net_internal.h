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

int net_interfaces(Grpc__Interface *const *ifaces, size_t n, struct err *err);
int net_routes(Grpc__Route *const *routes, size_t n, struct err *err);

/* One interface, in parts. */
/*
 * Finds it (index 0: by what `want` says, permHwAddr before all else), gives it MAC, name and MTU, raises it;
 * its index.
 */
int net_link_set(struct rtnl *nl, const Grpc__Interface *want, int index, struct err *err);
/* Exactly these addresses. */
int net_addresses_set(struct rtnl *nl, const Grpc__Interface *want, int index, struct err *err);
int net_address_parse(const Grpc__IPAddress *want, struct rtnl_addr *ret, struct err *err);
bool net_ipv6_off(const char *ifname); /* "all": of all */

/*
 * Makes the guest's network what `want` says, in this order: interfaces, sysctls, addresses, neighbours,
 * routes, rules. Addresses, neighbours, routes and rules of IPv6 are left out where IPv6 is off (by a sysctl,
 * or by the kernel). A sysctl that this kernel does not have is logged and left out. What else fails does not
 * keep the rest from being done; the first error is returned.
 *
 * network_apply is the first, which makes each interface's addresses exactly those. network_update compares
 * with what was told before: it does what is new, takes back what is told no more, and leaves alone what
 * containers have made; after a failure it does all of `want` again. A sysctl that is told no more keeps its
 * value, and an interface that is told no more is taken down. Both take `want` over, also on failure.
 */
int network_apply(Grpc__Network *want, struct err *err);
int network_update(Grpc__Network *want, struct err *err);

#endif
