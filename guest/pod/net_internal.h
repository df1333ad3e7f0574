/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_internal.h: interfaces and routes as SandboxService asks for them, done by rtnl.c.
 *
 * Threads:   none of its own; synchronous.
 * Limits:    NET_ADDRS_MAX addresses an interface.
 * Semantics: an interface is found by its hwAddr; if no link has it, by `device` (its present name),
 *            then by `name`. It gets hwAddr, name, mtu and exactly the addresses given, and is brought up.
 */
#ifndef GUEST_POD_NET_INTERNAL_H
#define GUEST_POD_NET_INTERNAL_H

#include "api/agent/sandbox.pb-c.h"
#include "base/err.h"

#define NET_ADDRS_MAX 64

int net_interfaces(Grpc__Interface *const *ifaces, size_t n, struct err *err);
int net_routes(Grpc__Route *const *routes, size_t n, struct err *err);

#endif
