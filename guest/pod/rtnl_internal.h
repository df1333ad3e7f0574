/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtnl_internal.h: a small rtnetlink of our own: links, addresses and routes.
 *
 * Purpose:   what the pod's network needs and no more. The agent is static: Debian's libmnl has no static
 *            library, and libnl-3's adds 400 KB, a third of the agent, because it brings the resolver of the
 *            C library.
 * Threads:   none of its own. Calls are synchronous: the kernel answers a netlink request before send
 *            returns.
 * Ownership: an rtnl is one socket; rtnl_close.
 * Limits:    RTNL_MESSAGE_MAX bytes a request; RTNL_LINKS_MAX links; an answer that does not come within 2 s
 *            is -EAGAIN.
 * Errors:    the kernel's errno, with what was attempted.
 * Source:    rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
 */
#ifndef GUEST_POD_RTNL_INTERNAL_H
#define GUEST_POD_RTNL_INTERNAL_H

#include "base/err.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#define RTNL_MESSAGE_MAX 4096
#define RTNL_LINKS_MAX	 256

/* ---- messages (pure; for tests too) -------------------------------------------------------------------- */

struct rtnl_msg {
	union {
		struct nlmsghdr hdr;
		unsigned char bytes[RTNL_MESSAGE_MAX];
	};
};

/* Begins a message of this type whose fixed part (ifinfomsg, ifaddrmsg, rtmsg) is body. */
void rtnl_begin(struct rtnl_msg *m, uint16_t type, uint16_t flags, const void *body, size_t len);
/* Appends an attribute: 0, or -EMSGSIZE and the message is unchanged. */
int rtnl_put(struct rtnl_msg *m, uint16_t type, const void *data, size_t len);

struct rtnl_addr {
	int family; /* AF_INET or AF_INET6 */
	unsigned char bytes[16];
	unsigned int prefix;
	/* Of addresses alone. */
	bool has_peer;
	unsigned char peer[16];
	uint32_t flags; /* IFA_F_… beside IFA_F_NODAD */
};
/* "10.0.0.1", "fd00::1"; mask as prefix length or dotted quad, empty: a single host. */
int rtnl_parse_addr(const char *address, const char *mask, struct rtnl_addr *ret, struct err *err);
/* "10.0.0.0/8", "fd00::/64"; empty or "default": the default route of `family`. */
int rtnl_parse_cidr(const char *cidr, int family, struct rtnl_addr *ret, struct err *err);
int rtnl_parse_mac(const char *text, unsigned char mac[6], struct err *err);

/* ---- the socket ---------------------------------------------------------------------------------------- */

struct rtnl {
	int fd;
	uint32_t seq;
};

struct rtnl_link {
	int index;
	unsigned int flags;
	char name[IF_NAMESIZE];
	unsigned char mac[6], perm[6]; /* perm: the one it came with */
	bool has_mac, has_perm;
	uint32_t mtu;
};

int rtnl_open(struct rtnl *nl, struct err *err);
void rtnl_close(struct rtnl *nl);
/* All links; the count or a negative errno. */
int rtnl_links(struct rtnl *nl, struct rtnl_link *links, size_t max, struct err *err);

struct rtnl_change {
	const unsigned char *mac; /* NULL: keep */
	const char *name;	  /* NULL: keep */
	uint32_t mtu;		  /* 0: keep */
};
/* Takes the link down if name or MAC must change, changes it, brings it up. */
int rtnl_link_set(struct rtnl *nl, const struct rtnl_link *link, const struct rtnl_change *change,
		  struct err *err);
int rtnl_link_down(struct rtnl *nl, int index, struct err *err);
/* Adds or replaces. */
int rtnl_addr_add(struct rtnl *nl, int index, const struct rtnl_addr *addr, struct err *err);
/* One that is not there is success. */
int rtnl_addr_remove(struct rtnl *nl, int index, const struct rtnl_addr *addr, struct err *err);
/* Makes `addrs` the link's addresses (its IPv6 link-local one stays). They are usable at once: no DAD. */
int rtnl_addrs_set(struct rtnl *nl, int index, const struct rtnl_addr *addrs, size_t n, struct err *err);

struct rtnl_route {
	struct rtnl_addr dest;		  /* prefix 0: default */
	struct rtnl_addr gateway, source; /* family 0: none */
	int oif;			  /* 0: none */
	unsigned int scope, flags;
	uint32_t mtu, advmss, table, priority; /* 0: none; table 0: main */
};
/* A permanent entry of the neighbour table, or (mac NULL) an address to answer for. Adds or replaces. */
int rtnl_neigh_set(struct rtnl *nl, int index, const struct rtnl_addr *addr, const unsigned char *mac,
		   struct err *err);
/* Removes one (proxy: an address to answer for). One that is not there is success. */
int rtnl_neigh_remove(struct rtnl *nl, int index, const struct rtnl_addr *addr, bool proxy, struct err *err);
/*
 * Sends a request whose payload (fixed part and attributes) is given; its length is at most RTNL_MESSAGE_MAX
 * less a header's. The kernel's answer, -EMSGSIZE.
 */
int rtnl_raw(struct rtnl *nl, uint16_t type, uint16_t flags, const void *payload, size_t len);
/* Adds or replaces. */
int rtnl_route_set(struct rtnl *nl, const struct rtnl_route *route, struct err *err);

#endif
