/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network.h: a pod's network namespace, and the tap in it that carries its VM's frames.
 *
 * Threads:   any. Work inside a namespace is done by a short-lived thread of its own; the caller's namespace
 *            never changes. The calls block for as long as the kernel needs.
 * Ownership: namespaces and taps live until they are destroyed; nothing is kept in memory.
 */
#ifndef VMM_NETWORK_H
#define VMM_NETWORK_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Makes a network namespace held by a bind mount at `path` (the file is created), with lo up. -EEXIST. */
int vmm_netns_create(const char *path, struct err *err);
/* Unmounts and removes it. A missing one is success. */
int vmm_netns_destroy(const char *path, struct err *err);

/*
 * The names of taps: of the boot NIC, and of the NIC for the further interface with that index. Nothing else
 * in the namespace is named so.
 */
#define VMM_TAP_BOOT	 "tap0"
#define VMM_TAP_NAME_MAX 16
void vmm_tap_name(int ifindex, char ret_name[VMM_TAP_NAME_MAX]);
bool vmm_tap_named(const char *name);

/*
 * Makes a persistent tap `name` (one queue, vnet_hdr) in the namespace, up, with `mtu`. Not joined yet.
 * Without CAP_NET_ADMIN only `owner` may open it.
 */
int vmm_tap_create(const char *netns_path, const char *name, uint32_t mtu, uid_t owner, struct err *err);

/* Removes a tap that no VM uses any more. A missing one is success. */
int vmm_tap_destroy(const char *netns_path, const char *name, struct err *err);

struct vmm_if_info {
	uint8_t mac[6];
	uint32_t mtu;
};
/*
 * Joins interface `ifname` (made by CNI) and tap by ingress qdiscs and u32 + mirred redirects both ways.
 * Reports what the guest's NIC must have. Idempotent. `ifname` keeps its addresses: CNI's CHECK and DEL look
 * for them.
 */
int vmm_tap_join(const char *netns_path, const char *tap, const char *ifname, struct vmm_if_info *ret_info,
		 struct err *err);

/*
 * Of a joined tap: from now on only frames leave the VM that carry `ifname`'s MAC and one of these addresses
 * (text, without prefix) as their source; ARP, neighbour advertisements likewise. ARP probes, DHCP, duplicate
 * address detection, MLD and the MAC's own link-local address pass; router advertisements, redirects, VLAN
 * tags and other protocols do not. Called again it replaces the addresses; for about a millisecond nothing
 * passes then.
 */
int vmm_tap_filter(const char *netns_path, const char *tap, const char *ifname, const char *const *addresses,
		   size_t n, struct err *err);

/*
 * For diagnosis: makes a network namespace, and in one a tap, or redirecting filters; all of it is gone at
 * the return, except for a kernel module that the kernel may have loaded for it.
 */
int vmm_netns_try(struct err *err);
int vmm_tap_try(struct err *err);
int vmm_redirect_try(struct err *err);

#endif
