/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap_internal.h: what tap.c and tap_filter.c share: netlink and traffic control.
 *
 * Threads:   inside netns_run.
 */
#ifndef VMM_TAP_INTERNAL_H
#define VMM_TAP_INTERNAL_H

#include "base/err.h"
#include "vmm/network.h"

#include <netlink/route/action.h>
#include <netlink/socket.h>

#define TAP_INGRESS 0xffff0000u /* the handle "ffff:" of an ingress qdisc */

/* A connected rtnetlink socket; nl_socket_free. */
struct nl_sock *tap_netlink(struct err *err);
int tap_nl_err(struct err *err, int nlerr, const char *what);
/* Index, MAC and MTU (ret may be NULL) of an interface. */
int tap_read_link(struct nl_sock *sk, const char *name, int *ret_index, struct vmm_if_info *ret,
		  struct err *err);
/* A new ingress qdisc; an old one goes with its filters. */
int tap_ingress(struct nl_sock *sk, int ifindex, struct err *err);
/* An action that sends a frame out of the interface `to`; NULL: no memory. rtnl_act_put. */
struct rtnl_act *tap_redirect_action(int to);

#endif
