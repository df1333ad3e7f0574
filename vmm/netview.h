/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netview.h: the network of a namespace, as the kernel has it.
 *
 * Purpose:   CNI plugins tell in their answer a part of what they did; the namespace has all of it. This
 *            reads what a guest needs to have the same network: interfaces with their addresses, permanent
 *            neighbours, routes of all tables, rules, and the sysctls below net/ that differ from a fresh
 *            namespace's. Left out: taps of VMs and interfaces that are not Ethernet, and what belongs to
 *            them; the table `local`, IPv6 link-local addresses and their prefix routes, multicast routes and
 *            the three default rules: the guest's kernel makes its own. Routes from router advertisements.
 * Threads:   any; blocks for as long as the kernel needs.
 * Ownership: vmm_net_read allocates; vmm_net_free frees all.
 * Limits:    VMM_NET_LINKS_MAX interfaces, VMM_NET_MAX entries of each other kind: -E2BIG.
 * Source:    rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h, linux/neighbour.h.
 */
#ifndef VMM_NETVIEW_H
#define VMM_NETVIEW_H

#include "base/err.h"

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_NET_LINKS_MAX 32
#define VMM_NET_MAX	  4096
#define VMM_NET_TEXT	  46 /* INET6_ADDRSTRLEN */

struct vmm_net_address {
	int link; /* the interface's index */
	char address[VMM_NET_TEXT];
	char peer[VMM_NET_TEXT]; /* "": none */
	unsigned int prefix;
	uint32_t flags; /* IFA_F_… */
};
struct vmm_net_link {
	int index;
	char name[IF_NAMESIZE];
	uint8_t mac[6];
	uint32_t mtu;
	unsigned int flags; /* IFF_…; one that is down is here too */
};
struct vmm_net_neighbour {
	int link;
	char address[VMM_NET_TEXT];
	uint8_t mac[6];
	bool proxy;
};
/* What RTM_NEWROUTE or RTM_NEWRULE take as their payload. */
struct vmm_net_message {
	uint8_t *bytes;
	size_t len;
	int link; /* of a route: the interface it goes through, that of its first hop; 0: none */
};
struct vmm_net_sysctl {
	char *key;   /* "net/ipv4/tcp_ecn" */
	char *value; /* without the line break */
};
struct vmm_net {
	struct vmm_net_link links[VMM_NET_LINKS_MAX];
	struct vmm_net_address *addresses;
	struct vmm_net_neighbour *neighbours;
	struct vmm_net_message *routes, *rules;
	struct vmm_net_sysctl *sysctls;
	size_t n_links, n_addresses, n_neighbours, n_routes, n_rules, n_sysctls;
};

int vmm_net_read(const char *netns_path, struct vmm_net **ret_net, struct err *err);
/* Returns NULL. NULL-safe. */
struct vmm_net *vmm_net_free(struct vmm_net *net);
static inline void vmm_net_cleanup(struct vmm_net **net)
{
	vmm_net_free(*net);
}
#define CLEANUP_VMM_NET __attribute__((cleanup(vmm_net_cleanup)))

/* How many rules of packet filters the namespace has. A VM's frames pass them by. */
struct vmm_net_filters {
	unsigned int nftables, iptables; /* iptables: of its older tables; over nftables they count there */
};
int vmm_net_filters(const char *netns_path, struct vmm_net_filters *ret, struct err *err);

/*
 * Opens a socket (CLOEXEC, non-blocking) that becomes readable when links, addresses, neighbours, routes or
 * rules of the namespace have changed; the caller closes it. It keeps the namespace alive.
 */
int vmm_net_watch(const char *netns_path, struct err *err);
/*
 * Takes what has come, never blocks; true: something may have changed (also where the kernel has dropped
 * messages).
 */
bool vmm_net_watch_take(int fd);

const struct vmm_net_link *vmm_net_link_by_name(const struct vmm_net *net, const char *name);

#endif
