/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/pod/rtnl_internal.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <sys/socket.h>
#include <sys/time.h>

#define RECV_BUF  32768
#define ADDRS_MAX 256

/* ---- messages ------------------------------------------------------------------------------------------ */

void rtnl_begin(struct rtnl_msg *m, uint16_t type, uint16_t flags, const void *body, size_t len)
{
	memset(m, 0, sizeof(*m));
	m->hdr.nlmsg_len = (uint32_t)NLMSG_LENGTH(len);
	m->hdr.nlmsg_type = type;
	m->hdr.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	memcpy(m->bytes + NLMSG_HDRLEN, body, len);
}

int rtnl_put(struct rtnl_msg *m, uint16_t type, const void *data, size_t len)
{
	size_t at = NLMSG_ALIGN(m->hdr.nlmsg_len);
	struct rtattr rta = {.rta_type = type, .rta_len = (uint16_t)RTA_LENGTH(len)};

	if (at + RTA_SPACE(len) > sizeof(m->bytes))
		return -EMSGSIZE;
	memcpy(m->bytes + at, &rta, sizeof(rta));
	if (len > 0)
		memcpy(m->bytes + at + RTA_LENGTH(0), data, len);
	m->hdr.nlmsg_len = (uint32_t)(at + RTA_LENGTH(len));
	return 0;
}

static unsigned int addr_len(int family)
{
	return family == AF_INET6 ? 16 : 4;
}

/* A dotted mask as prefix length, or -1 if it is not ones followed by zeros. */
static int mask_prefix(const char *mask)
{
	struct in_addr in;
	uint32_t m;
	int n = 0;

	if (inet_pton(AF_INET, mask, &in) != 1)
		return -1;
	m = ntohl(in.s_addr);
	while (n < 32 && m & (1u << (31 - n)))
		n++;
	return n < 32 && (m << n) != 0 ? -1 : n;
}

int rtnl_parse_addr(const char *address, const char *mask, struct rtnl_addr *ret, struct err *err)
{
	uint64_t prefix;
	int dotted;

	*ret = (struct rtnl_addr){.family = strchr(address ? address : "", ':') ? AF_INET6 : AF_INET};
	if (str_empty(address) || inet_pton(ret->family, address, ret->bytes) != 1)
		return err_set(err, -EINVAL, "\"%.64s\" is not an IP address", address ? address : "");
	prefix = addr_len(ret->family) * 8;
	if (!str_empty(mask) && parse_u64(mask, &prefix) < 0) {
		dotted = ret->family == AF_INET ? mask_prefix(mask) : -1;
		prefix = dotted >= 0 ? (uint64_t)dotted : UINT64_MAX;
	}
	if (prefix > addr_len(ret->family) * 8)
		return err_set(err, -EINVAL, "address %s: \"%.64s\" is not a mask", address, mask);
	ret->prefix = (unsigned int)prefix;
	return 0;
}

int rtnl_parse_cidr(const char *cidr, int family, struct rtnl_addr *ret, struct err *err)
{
	char addr[64];
	const char *slash;
	int r;

	if (str_empty(cidr) || str_eq(cidr, "default")) {
		*ret = (struct rtnl_addr){.family = family};
		return 0;
	}
	slash = strchr(cidr, '/');
	if (strlen(cidr) >= sizeof(addr) || (slash && !slash[1]))
		return err_set(err, -EINVAL, "\"%.64s\" is not a network", cidr);
	memcpy(addr, cidr, strlen(cidr) + 1);
	if (slash)
		addr[slash - cidr] = 0;
	r = rtnl_parse_addr(addr, slash ? slash + 1 : NULL, ret, err);
	/* The kernel refuses a destination with bits behind the prefix. */
	for (unsigned int i = 0; r == 0 && i < sizeof(ret->bytes); i++) {
		unsigned int bits = ret->prefix > i * 8 ? ret->prefix - i * 8 : 0;

		ret->bytes[i] = (unsigned char)(ret->bytes[i] & (bits >= 8 ? 0xffu : 0xffu << (8 - bits)));
	}
	return r;
}

int rtnl_parse_mac(const char *text, unsigned char mac[6], struct err *err)
{
	unsigned int b[6];
	int n = 0;

	if (text &&
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &n) == 6 &&
	    n == 17 && text[n] == 0) {
		for (int i = 0; i < 6; i++)
			mac[i] = (unsigned char)b[i];
		return 0;
	}
	return err_set(err, -EINVAL, "\"%.64s\" is not a MAC address", text ? text : "");
}

/* ---- the socket ---------------------------------------------------------------------------------------- */

int rtnl_open(struct rtnl *nl, struct err *err)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK};
	struct timeval timeout = {.tv_sec = 2};

	nl->seq = 0;
	nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (nl->fd < 0)
		return err_set_errno(err, -errno, "rtnetlink socket");
	if (bind(nl->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    setsockopt(nl->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0) {
		int r = err_set_errno(err, -errno, "rtnetlink socket");

		rtnl_close(nl);
		return r;
	}
	return 0;
}

void rtnl_close(struct rtnl *nl)
{
	nl->fd = close_fd(nl->fd);
}

typedef void msg_fn(const struct nlmsghdr *h, void *arg);

/* One datagram of answers: 1 when the request is done, 0 to go on, or the kernel's error. */
static int take_answers(struct rtnl *nl, const unsigned char *buf, size_t len, msg_fn *fn, void *arg)
{
	size_t at = 0;

	while (len - at >= sizeof(struct nlmsghdr)) {
		struct nlmsghdr h;

		memcpy(&h, buf + at, sizeof(h));
		if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > len - at)
			return -EBADMSG;
		if (h.nlmsg_seq == nl->seq && h.nlmsg_type == NLMSG_DONE)
			return 1;
		if (h.nlmsg_seq == nl->seq && h.nlmsg_type == NLMSG_ERROR) {
			int code;

			if (h.nlmsg_len < NLMSG_LENGTH(sizeof(code)))
				return -EBADMSG;
			memcpy(&code, buf + at + NLMSG_HDRLEN, sizeof(code));
			return code ? code : 1;
		}
		if (h.nlmsg_seq == nl->seq && fn)
			fn((const struct nlmsghdr *)(const void *)(buf + at), arg);
		at += NLMSG_ALIGN(h.nlmsg_len) < len - at ? NLMSG_ALIGN(h.nlmsg_len) : len - at;
	}
	return 0;
}

static int talk(struct rtnl *nl, struct rtnl_msg *m, msg_fn *fn, void *arg)
{
	unsigned char *buf CLEANUP_FREE = malloc(RECV_BUF);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	m->hdr.nlmsg_seq = ++nl->seq;
	if (!fn)
		m->hdr.nlmsg_flags |= NLM_F_ACK;
	if (send(nl->fd, m->bytes, m->hdr.nlmsg_len, 0) < 0)
		return -errno;
	while (r == 0) {
		ssize_t n = recv(nl->fd, buf, RECV_BUF, 0);

		if (n < 0 && errno == EINTR)
			continue;
		r = n < 0 ? -errno : take_answers(nl, buf, (size_t)n, fn, arg);
	}
	return r < 0 ? r : 0;
}

/* Runs fn over the attributes behind a fixed part of `fixed` bytes. */
typedef void attr_fn(unsigned int type, const void *data, size_t len, void *arg);

static void each_attr(const struct nlmsghdr *h, size_t fixed, attr_fn *fn, void *arg)
{
	const unsigned char *p = (const unsigned char *)h;
	size_t at = NLMSG_SPACE(fixed), end = h->nlmsg_len;

	while (at < end && end - at >= sizeof(struct rtattr)) {
		struct rtattr rta;

		memcpy(&rta, p + at, sizeof(rta));
		if (rta.rta_len < sizeof(rta) || rta.rta_len > end - at)
			return;
		fn(rta.rta_type & (unsigned int)NLA_TYPE_MASK, p + at + RTA_LENGTH(0),
		   rta.rta_len - RTA_LENGTH(0), arg);
		at += RTA_ALIGN(rta.rta_len);
	}
}

/* ---- links --------------------------------------------------------------------------------------------- */

struct links {
	struct rtnl_link *list;
	size_t len, max;
};

static void link_attr(unsigned int type, const void *data, size_t len, void *arg)
{
	struct rtnl_link *l = arg;

	if (type == IFLA_IFNAME && len > 0 && len <= sizeof(l->name)) {
		memcpy(l->name, data, len);
		l->name[sizeof(l->name) - 1] = 0;
	} else if (type == IFLA_ADDRESS && len == sizeof(l->mac)) {
		memcpy(l->mac, data, len);
		l->has_mac = true;
	} else if (type == IFLA_PERM_ADDRESS && len == sizeof(l->perm)) {
		memcpy(l->perm, data, len);
		l->has_perm = true;
	} else if (type == IFLA_MTU && len == sizeof(l->mtu)) {
		memcpy(&l->mtu, data, len);
	}
}

static void on_link(const struct nlmsghdr *h, void *arg)
{
	struct links *links = arg;
	struct ifinfomsg info;
	struct rtnl_link *l;

	if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < NLMSG_LENGTH(sizeof(info)) ||
	    links->len == links->max)
		return;
	memcpy(&info, NLMSG_DATA(h), sizeof(info));
	l = &links->list[links->len++];
	*l = (struct rtnl_link){.index = info.ifi_index, .flags = info.ifi_flags};
	each_attr(h, sizeof(info), link_attr, l);
}

int rtnl_links(struct rtnl *nl, struct rtnl_link *list, size_t max, struct err *err)
{
	struct links links = {.list = list, .max = max};
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
	struct rtnl_msg m;
	int r;

	rtnl_begin(&m, RTM_GETLINK, NLM_F_DUMP, &info, sizeof(info));
	r = talk(nl, &m, on_link, &links);
	return r < 0 ? err_set_errno(err, r, "list network interfaces") : (int)links.len;
}

static int link_flags(struct rtnl *nl, int index, bool up)
{
	struct ifinfomsg info = {.ifi_index = index, .ifi_change = IFF_UP, .ifi_flags = up ? IFF_UP : 0};
	struct rtnl_msg m;

	rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
	return talk(nl, &m, NULL, NULL);
}

int rtnl_link_set(struct rtnl *nl, const struct rtnl_link *link, const struct rtnl_change *change,
		  struct err *err)
{
	struct ifinfomsg info = {.ifi_index = link->index};
	bool rename = change->name && !str_eq(change->name, link->name);
	bool remac = change->mac && memcmp(change->mac, link->mac, 6) != 0;
	struct rtnl_msg m;
	int r = 0;

	rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
	if (rename)
		r = rtnl_put(&m, IFLA_IFNAME, change->name, strlen(change->name) + 1);
	if (r == 0 && remac)
		r = rtnl_put(&m, IFLA_ADDRESS, change->mac, 6);
	if (r == 0 && change->mtu && change->mtu != link->mtu)
		r = rtnl_put(&m, IFLA_MTU, &change->mtu, sizeof(change->mtu));
	if (r == 0 && (rename || remac) && link->flags & IFF_UP)
		r = link_flags(nl, link->index, false);
	if (r == 0)
		r = talk(nl, &m, NULL, NULL);
	if (r == 0)
		r = link_flags(nl, link->index, true);
	return r < 0 ? err_set_errno(err, r, "set up interface %s", link->name) : 0;
}

int rtnl_link_down(struct rtnl *nl, int index, struct err *err)
{
	int r = link_flags(nl, index, false);

	return r < 0 ? err_set_errno(err, r, "take interface %d down", index) : 0;
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

struct addrs {
	struct rtnl_addr list[ADDRS_MAX];
	size_t len;
	int index;
};

struct addr_attrs {
	unsigned char local[16], address[16];
	size_t local_len, address_len;
};

static void addr_attr(unsigned int type, const void *data, size_t len, void *arg)
{
	struct addr_attrs *a = arg;

	if (len > 16)
		return;
	if (type == IFA_LOCAL) {
		memcpy(a->local, data, len);
		a->local_len = len;
	} else if (type == IFA_ADDRESS) {
		memcpy(a->address, data, len);
		a->address_len = len;
	}
}

static void on_addr(const struct nlmsghdr *h, void *arg)
{
	struct addrs *addrs = arg;
	struct addr_attrs a = {.local_len = 0};
	struct ifaddrmsg info;
	struct rtnl_addr *to;

	if (h->nlmsg_type != RTM_NEWADDR || h->nlmsg_len < NLMSG_LENGTH(sizeof(info)) ||
	    addrs->len == ADDRS_MAX)
		return;
	memcpy(&info, NLMSG_DATA(h), sizeof(info));
	if ((int)info.ifa_index != addrs->index ||
	    (info.ifa_family == AF_INET6 && info.ifa_scope == RT_SCOPE_LINK))
		return;
	each_attr(h, sizeof(info), addr_attr, &a);
	to = &addrs->list[addrs->len++];
	*to = (struct rtnl_addr){.family = info.ifa_family, .prefix = info.ifa_prefixlen};
	memcpy(to->bytes, a.local_len ? a.local : a.address, sizeof(to->bytes));
	if (a.local_len && a.address_len == a.local_len && memcmp(a.local, a.address, a.local_len) != 0) {
		to->has_peer = true;
		memcpy(to->peer, a.address, sizeof(to->peer));
	}
}

static int addr_change(struct rtnl *nl, int index, const struct rtnl_addr *a, bool add)
{
	struct ifaddrmsg info = {.ifa_family = (unsigned char)a->family,
				 .ifa_prefixlen = (unsigned char)a->prefix,
				 .ifa_index = (unsigned int)index,
				 .ifa_flags = a->family == AF_INET6 ? IFA_F_NODAD : 0};
	uint32_t flags = a->flags | (a->family == AF_INET6 ? IFA_F_NODAD : 0);
	struct rtnl_msg m;
	int r;

	rtnl_begin(&m, add ? RTM_NEWADDR : RTM_DELADDR, add ? NLM_F_CREATE | NLM_F_REPLACE : 0, &info,
		   sizeof(info));
	r = rtnl_put(&m, IFA_LOCAL, a->bytes, addr_len(a->family));
	if (r == 0)
		r = rtnl_put(&m, IFA_ADDRESS, a->has_peer ? a->peer : a->bytes, addr_len(a->family));
	if (r == 0 && add && a->flags)
		r = rtnl_put(&m, IFA_FLAGS, &flags, sizeof(flags));
	if (r == 0 && add && a->family == AF_INET && a->prefix < 31 && !a->has_peer) {
		unsigned char bcast[4];

		for (unsigned int i = 0; i < 4; i++) {
			unsigned int bits = a->prefix > i * 8 ? a->prefix - i * 8 : 0;

			bcast[i] = (unsigned char)(a->bytes[i] | (bits >= 8 ? 0 : 0xffu >> bits));
		}
		r = rtnl_put(&m, IFA_BROADCAST, bcast, sizeof(bcast));
	}
	return r < 0 ? r : talk(nl, &m, NULL, NULL);
}

static bool addr_same(const struct rtnl_addr *a, const struct rtnl_addr *b)
{
	return a->family == b->family && a->prefix == b->prefix &&
	       memcmp(a->bytes, b->bytes, addr_len(a->family)) == 0 && a->has_peer == b->has_peer &&
	       (!a->has_peer || memcmp(a->peer, b->peer, addr_len(a->family)) == 0);
}

static bool addr_in(const struct rtnl_addr *a, const struct rtnl_addr *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (addr_same(a, &list[i]))
			return true;
	}
	return false;
}

static const char *addr_text(const struct rtnl_addr *a, char *buf, size_t len)
{
	return inet_ntop(a->family, a->bytes, buf, (socklen_t)len) ? buf : "?";
}

int rtnl_addr_add(struct rtnl *nl, int index, const struct rtnl_addr *addr, struct err *err)
{
	int r = addr_change(nl, index, addr, true);
	char text[INET6_ADDRSTRLEN];

	return r < 0 ? err_set_errno(err, r, "add address %s/%u", addr_text(addr, text, sizeof(text)),
				     addr->prefix)
		     : 0;
}

int rtnl_addr_remove(struct rtnl *nl, int index, const struct rtnl_addr *addr, struct err *err)
{
	int r = addr_change(nl, index, addr, false);
	char text[INET6_ADDRSTRLEN];

	return r < 0 && r != -EADDRNOTAVAIL
		       ? err_set_errno(err, r, "remove address %s", addr_text(addr, text, sizeof(text)))
		       : 0;
}

int rtnl_addrs_set(struct rtnl *nl, int index, const struct rtnl_addr *addrs, size_t n, struct err *err)
{
	struct ifaddrmsg info = {.ifa_family = AF_UNSPEC, .ifa_index = (unsigned int)index};
	struct addrs *have CLEANUP_FREE = calloc(1, sizeof(*have));
	struct rtnl_msg m;
	int r;

	if (!have)
		return err_oom(err);
	have->index = index;
	rtnl_begin(&m, RTM_GETADDR, NLM_F_DUMP, &info, sizeof(info));
	r = talk(nl, &m, on_addr, have);
	if (r < 0)
		return err_set_errno(err, r, "list addresses");
	for (size_t i = 0; i < have->len; i++) {
		if (addr_in(&have->list[i], addrs, n))
			continue;
		r = rtnl_addr_remove(nl, index, &have->list[i], err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; r >= 0 && i < n; i++)
		r = rtnl_addr_add(nl, index, &addrs[i], err);
	return r < 0 ? r : 0;
}

/* ---- neighbours ---------------------------------------------------------------------------------------- */

int rtnl_neigh_set(struct rtnl *nl, int index, const struct rtnl_addr *addr, const unsigned char *mac,
		   struct err *err)
{
	struct ndmsg info = {.ndm_family = (unsigned char)addr->family,
			     .ndm_ifindex = index,
			     .ndm_state = NUD_PERMANENT,
			     .ndm_flags = mac ? 0 : NTF_PROXY};
	char text[INET6_ADDRSTRLEN];
	struct rtnl_msg m;
	int r;

	rtnl_begin(&m, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	r = rtnl_put(&m, NDA_DST, addr->bytes, addr_len(addr->family));
	if (r == 0 && mac)
		r = rtnl_put(&m, NDA_LLADDR, mac, 6);
	if (r == 0)
		r = talk(nl, &m, NULL, NULL);
	return r < 0 ? err_set_errno(err, r, "add neighbour %s", addr_text(addr, text, sizeof(text))) : 0;
}

int rtnl_neigh_remove(struct rtnl *nl, int index, const struct rtnl_addr *addr, bool proxy, struct err *err)
{
	struct ndmsg info = {.ndm_family = (unsigned char)addr->family,
			     .ndm_ifindex = index,
			     .ndm_flags = proxy ? NTF_PROXY : 0};
	char text[INET6_ADDRSTRLEN];
	struct rtnl_msg m;
	int r;

	rtnl_begin(&m, RTM_DELNEIGH, 0, &info, sizeof(info));
	r = rtnl_put(&m, NDA_DST, addr->bytes, addr_len(addr->family));
	if (r == 0)
		r = talk(nl, &m, NULL, NULL);
	return r < 0 && r != -ENOENT && r != -ESRCH
		       ? err_set_errno(err, r, "remove neighbour %s", addr_text(addr, text, sizeof(text)))
		       : 0;
}

int rtnl_raw(struct rtnl *nl, uint16_t type, uint16_t flags, const void *payload, size_t len)
{
	struct rtnl_msg m;

	if (len > sizeof(m.bytes) - NLMSG_HDRLEN)
		return -EMSGSIZE;
	rtnl_begin(&m, type, flags, payload, len);
	return talk(nl, &m, NULL, NULL);
}

/* ---- routes -------------------------------------------------------------------------------------------- */

static int put_metrics(struct rtnl_msg *m, const struct rtnl_route *route)
{
	struct {
		struct rtattr rta;
		uint32_t value;
	} metrics[2];
	size_t n = 0;

	if (route->mtu) {
		metrics[n].rta = (struct rtattr){.rta_len = sizeof(metrics[0]), .rta_type = RTAX_MTU};
		metrics[n++].value = route->mtu;
	}
	if (route->advmss) {
		metrics[n].rta = (struct rtattr){.rta_len = sizeof(metrics[0]), .rta_type = RTAX_ADVMSS};
		metrics[n++].value = route->advmss;
	}
	return n > 0 ? rtnl_put(m, RTA_METRICS, metrics, n * sizeof(metrics[0])) : 0;
}

int rtnl_route_set(struct rtnl *nl, const struct rtnl_route *route, struct err *err)
{
	struct rtmsg info = {.rtm_family = (unsigned char)route->dest.family,
			     .rtm_dst_len = (unsigned char)route->dest.prefix,
			     .rtm_table = route->table ? RT_TABLE_UNSPEC : RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_STATIC,
			     .rtm_scope = (unsigned char)route->scope,
			     .rtm_type = RTN_UNICAST,
			     .rtm_flags = route->flags};
	size_t len = addr_len(route->dest.family);
	char text[INET6_ADDRSTRLEN];
	struct rtnl_msg m;
	uint32_t oif = (uint32_t)route->oif;
	int r = 0;

	rtnl_begin(&m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	if (route->dest.prefix > 0)
		r = rtnl_put(&m, RTA_DST, route->dest.bytes, len);
	if (r == 0 && route->gateway.family)
		r = rtnl_put(&m, RTA_GATEWAY, route->gateway.bytes, len);
	if (r == 0 && route->source.family)
		r = rtnl_put(&m, RTA_PREFSRC, route->source.bytes, len);
	if (r == 0 && oif)
		r = rtnl_put(&m, RTA_OIF, &oif, sizeof(oif));
	if (r == 0 && route->table)
		r = rtnl_put(&m, RTA_TABLE, &route->table, sizeof(route->table));
	if (r == 0 && route->priority)
		r = rtnl_put(&m, RTA_PRIORITY, &route->priority, sizeof(route->priority));
	if (r == 0)
		r = put_metrics(&m, route);
	if (r == 0)
		r = talk(nl, &m, NULL, NULL);
	return r < 0 ? err_set_errno(err, r, "add route to %s/%u",
				     addr_text(&route->dest, text, sizeof(text)), route->dest.prefix)
		     : 0;
}
