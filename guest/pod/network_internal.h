/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network_internal.h: routes of the host's kernel, translated into this one's.
 *
 * Threads:   none of its own; synchronous.
 */
#ifndef GUEST_POD_NETWORK_INTERNAL_H
#define GUEST_POD_NETWORK_INTERNAL_H

#include "api/agent/sandbox.pb-c.h"
#include "base/err.h"
#include "guest/pod/rtnl_internal.h"

#include <stdbool.h>

/* The host's numbers of interfaces (`index` of each) and this kernel's; 0: it is not there. */
struct numbers {
	Grpc__Interface *const *ifaces;
	const int *indexes;
	size_t n;
};

/* What is looked at in a route on its way. */
struct route_view {
	int family, oif;
	bool indirect; /* it leads through a gateway */
};
/* Replaces the numbers in a route (struct rtmsg and attributes). -EINVAL, with words: it is malformed. */
int route_translate(const struct numbers *numbers, unsigned char *bytes, size_t len, struct route_view *ret,
		    struct err *err);

#endif
