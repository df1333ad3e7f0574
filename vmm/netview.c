/* SPDX-License-Identifier: Apache-2.0 */
/* Dumps of rtnetlink in the namespace, reduced to what a guest can be given. */
#include "vmm/netview.h"

#include "base/util.h"
#include "vmm/netns_internal.h"
#include "vmm/netview_internal.h"
#include "vmm/network.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#define DUMP_TRIES 8 /* a dump that changes meanwhile is asked for again */

struct reading {
	struct vmm_net *net;
	int r; /* the first error of a callback */
};

void *netview_append(void *array, size_t *n, size_t size, int *r)
{
	void **list = array, *more;

	if (*n == VMM_NET_MAX) {
		*r = -E2BIG;
		return NULL;
	}
	/* Room for a power of two. */
	if ((*n & (*n - 1)) == 0) {
		more = realloc(*list, (*n ? *n * 2 : 1) * size);
		if (!more) {
			*r = -ENOMEM;
			return NULL;
		}
		*list = more;
	}
	more = (char *)*list + *n * size;
	memset(more, 0, size);
	(*n)++;
	return more;
}

static const struct vmm_net_link *link_by_index(const struct vmm_net *net, int index)
{
	for (size_t i = 0; i < net->n_links; i++) {
		if (net->links[i].index == index)
			return &net->links[i];
	}
	return NULL;
}

const struct vmm_net_link *vmm_net_link_by_name(const struct vmm_net *net, const char *name)
{
	for (size_t i = 0; i < net->n_links; i++) {
		if (str_eq(net->links[i].name, name))
			return &net->links[i];
	}
	return NULL;
}

/* ---- links --------------------------------------------------------------------------------------------- */

static void take_link(struct reading *rd, struct nlmsghdr *h)
{
	const struct ifinfomsg *info = nlmsg_data(h);
	struct nlattr *attr[IFLA_MTU + 1];
	struct vmm_net_link link = {0};

	if (h->nlmsg_type != RTM_NEWLINK || nlmsg_parse(h, sizeof(*info), attr, IFLA_MTU, NULL) < 0 ||
	    !attr[IFLA_IFNAME] || (info->ifi_type != ARPHRD_LOOPBACK && info->ifi_type != ARPHRD_ETHER))
		return;
	link.index = info->ifi_index;
	link.flags = info->ifi_flags;
	nla_strlcpy(link.name, attr[IFLA_IFNAME], sizeof(link.name));
	if (vmm_tap_named(link.name))
		return;
	if (attr[IFLA_ADDRESS] && nla_len(attr[IFLA_ADDRESS]) == sizeof(link.mac))
		memcpy(link.mac, nla_data(attr[IFLA_ADDRESS]), sizeof(link.mac));
	link.mtu = attr[IFLA_MTU] && nla_len(attr[IFLA_MTU]) == 4 ? nla_get_u32(attr[IFLA_MTU]) : 0;
	if (rd->net->n_links == VMM_NET_LINKS_MAX)
		rd->r = -E2BIG;
	else
		rd->net->links[rd->net->n_links++] = link;
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

static bool attr_text(const struct nlattr *attr, int family, char text[VMM_NET_TEXT])
{
	int want = family == AF_INET ? 4 : family == AF_INET6 ? 16 : -1;

	return attr && nla_len(attr) == want && inet_ntop(family, nla_data(attr), text, VMM_NET_TEXT);
}

static void take_address(struct reading *rd, struct nlmsghdr *h)
{
	const struct ifaddrmsg *info = nlmsg_data(h);
	struct nlattr *attr[IFA_FLAGS + 1];
	struct vmm_net_address a = {0}, *to;

	if (h->nlmsg_type != RTM_NEWADDR || nlmsg_parse(h, sizeof(*info), attr, IFA_FLAGS, NULL) < 0 ||
	    !link_by_index(rd->net, (int)info->ifa_index) ||
	    (info->ifa_family == AF_INET6 && info->ifa_scope == RT_SCOPE_LINK))
		return;
	a.link = (int)info->ifa_index;
	a.prefix = info->ifa_prefixlen;
	a.flags = attr[IFA_FLAGS] ? nla_get_u32(attr[IFA_FLAGS]) : info->ifa_flags;
	if (!attr_text(attr[IFA_LOCAL], info->ifa_family, a.address))
		(void)attr_text(attr[IFA_ADDRESS], info->ifa_family, a.address);
	else if (attr_text(attr[IFA_ADDRESS], info->ifa_family, a.peer) && str_eq(a.peer, a.address))
		a.peer[0] = 0;
	if (!a.address[0])
		return;
	to = netview_append(&rd->net->addresses, &rd->net->n_addresses, sizeof(a), &rd->r);
	if (to)
		*to = a;
}

/* ---- neighbours ---------------------------------------------------------------------------------------- */

static void take_neighbour(struct reading *rd, struct nlmsghdr *h)
{
	const struct ndmsg *info = nlmsg_data(h);
	struct nlattr *attr[NDA_LLADDR + 1];
	struct vmm_net_neighbour n = {0}, *to;

	if (h->nlmsg_type != RTM_NEWNEIGH || nlmsg_parse(h, sizeof(*info), attr, NDA_LLADDR, NULL) < 0 ||
	    !link_by_index(rd->net, info->ndm_ifindex) ||
	    !attr_text(attr[NDA_DST], info->ndm_family, n.address))
		return;
	n.link = info->ndm_ifindex;
	n.proxy = info->ndm_flags & NTF_PROXY;
	if (!n.proxy && (!(info->ndm_state & NUD_PERMANENT) || !attr[NDA_LLADDR] ||
			 nla_len(attr[NDA_LLADDR]) != sizeof(n.mac)))
		return;
	if (!n.proxy)
		memcpy(n.mac, nla_data(attr[NDA_LLADDR]), sizeof(n.mac));
	to = netview_append(&rd->net->neighbours, &rd->net->n_neighbours, sizeof(n), &rd->r);
	if (to)
		*to = n;
}

/* ---- routes and rules ---------------------------------------------------------------------------------- */

static void append_message(struct reading *rd, struct vmm_net_message **list, size_t *n, struct nl_msg *msg,
			   int link)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct vmm_net_message *to = netview_append(list, n, sizeof(*to), &rd->r);

	if (!to)
		return;
	to->len = (size_t)nlmsg_datalen(h);
	to->bytes = malloc(to->len ? to->len : 1);
	if (!to->bytes) {
		(*n)--;
		rd->r = -ENOMEM;
		return;
	}
	memcpy(to->bytes, nlmsg_data(h), to->len);
	to->link = link;
}

/* Next hops: their flags reduced as a route's own. False: one goes through an interface that is left out. */
static bool clean_next_hops(const struct vmm_net *net, struct nlattr *attr)
{
	struct rtnexthop *hop = nla_data(attr);
	int left = nla_len(attr);

	for (; left >= (int)sizeof(*hop) && hop->rtnh_len >= sizeof(*hop) && hop->rtnh_len <= left;
	     left -= (int)RTNH_ALIGN(hop->rtnh_len), hop = RTNH_NEXT(hop)) {
		hop->rtnh_flags &= RTNH_F_ONLINK | RTNH_F_PERVASIVE;
		if (!link_by_index(net, hop->rtnh_ifindex))
			return false;
	}
	return true;
}

static int link_of(struct nlattr *const *attr)
{
	const struct rtnexthop *hop = attr[RTA_MULTIPATH] ? nla_data(attr[RTA_MULTIPATH]) : NULL;

	if (hop && nla_len(attr[RTA_MULTIPATH]) >= (int)sizeof(*hop))
		return hop->rtnh_ifindex;
	return attr[RTA_OIF] ? (int)nla_get_u32(attr[RTA_OIF]) : 0;
}

/* Is it a route that a guest's kernel does not make by itself? */
static bool route_counts(const struct rtmsg *info, struct nlattr *const *attr)
{
	uint32_t table = attr[RTA_TABLE] ? nla_get_u32(attr[RTA_TABLE]) : info->rtm_table;

	if (table == RT_TABLE_LOCAL || info->rtm_flags & RTM_F_CLONED || info->rtm_protocol == RTPROT_RA)
		return false;
	switch (info->rtm_type) {
	case RTN_UNICAST:
	case RTN_LOCAL:
	case RTN_BLACKHOLE:
	case RTN_UNREACHABLE:
	case RTN_PROHIBIT:
	case RTN_THROW:
		break;
	default:
		return false;
	}
	if (info->rtm_family == AF_INET6 && info->rtm_protocol == RTPROT_KERNEL) {
		const uint8_t *dst =
			attr[RTA_DST] && nla_len(attr[RTA_DST]) == 16 ? nla_data(attr[RTA_DST]) : NULL;

		/* fe80::/64, and the ones of lo. */
		return dst && !(dst[0] == 0xfe && (dst[1] & 0xc0) == 0x80) && info->rtm_type == RTN_UNICAST;
	}
	return true;
}

static void take_route(struct reading *rd, struct nlmsghdr *h)
{
	static const unsigned int kept[] = {RTA_DST,	   RTA_SRC,	   RTA_IIF,	RTA_OIF,
					    RTA_GATEWAY,   RTA_PRIORITY,   RTA_PREFSRC, RTA_METRICS,
					    RTA_MULTIPATH, RTA_FLOW,	   RTA_TABLE,	RTA_VIA,
					    RTA_PREF,	   RTA_ENCAP_TYPE, RTA_ENCAP};
	struct rtmsg info;
	struct nlattr *attr[RTA_MAX + 1];
	struct nl_msg *msg;
	int r = 0;

	if (h->nlmsg_type != RTM_NEWROUTE || nlmsg_parse(h, sizeof(info), attr, RTA_MAX, NULL) < 0)
		return;
	memcpy(&info, nlmsg_data(h), sizeof(info));
	if ((info.rtm_family != AF_INET && info.rtm_family != AF_INET6) || !route_counts(&info, attr))
		return;
	if (attr[RTA_OIF] && !link_by_index(rd->net, (int)nla_get_u32(attr[RTA_OIF])) &&
	    info.rtm_type == RTN_UNICAST)
		return;
	if (attr[RTA_MULTIPATH] && !clean_next_hops(rd->net, attr[RTA_MULTIPATH]))
		return;
	info.rtm_flags &= RTNH_F_ONLINK | RTNH_F_PERVASIVE;
	msg = nlmsg_alloc_simple(RTM_NEWROUTE, 0);
	if (!msg || nlmsg_append(msg, &info, sizeof(info), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		rd->r = -ENOMEM;
		return;
	}
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(kept); i++) {
		const struct nlattr *a = attr[kept[i]];

		if (a)
			r = nla_put(msg, (int)a->nla_type, nla_len(a), nla_data(a));
	}
	if (r < 0)
		rd->r = -E2BIG;
	else
		append_message(rd, &rd->net->routes, &rd->net->n_routes, msg, link_of(attr));
	nlmsg_free(msg);
}

/* local, main and default stand in every namespace. */
static bool is_default_rule(const struct fib_rule_hdr *info, struct nlattr *const *attr)
{
	uint32_t priority = attr[FRA_PRIORITY] ? nla_get_u32(attr[FRA_PRIORITY]) : 0;
	uint32_t table = attr[FRA_TABLE] ? nla_get_u32(attr[FRA_TABLE]) : info->table;

	if (info->action != FR_ACT_TO_TBL || info->dst_len || info->src_len || info->tos ||
	    attr[FRA_FWMARK] || attr[FRA_IIFNAME] || attr[FRA_OIFNAME] || info->flags & FIB_RULE_INVERT)
		return false;
	return (priority == 0 && table == RT_TABLE_LOCAL) || (priority == 32766 && table == RT_TABLE_MAIN) ||
	       (priority == 32767 && table == RT_TABLE_DEFAULT);
}

static void take_rule(struct reading *rd, struct nlmsghdr *h)
{
	struct fib_rule_hdr info;
	struct nlattr *attr[FRA_OIFNAME + 1];
	struct nl_msg *msg;

	if (h->nlmsg_type != RTM_NEWRULE || nlmsg_parse(h, sizeof(info), attr, FRA_OIFNAME, NULL) < 0)
		return;
	memcpy(&info, nlmsg_data(h), sizeof(info));
	if ((info.family != AF_INET && info.family != AF_INET6) || is_default_rule(&info, attr))
		return;
	msg = nlmsg_alloc_simple(RTM_NEWRULE, 0);
	if (!msg || nlmsg_append(msg, nlmsg_data(h), (size_t)nlmsg_datalen(h), NLMSG_ALIGNTO) < 0)
		rd->r = -ENOMEM;
	else
		append_message(rd, &rd->net->rules, &rd->net->n_rules, msg, 0);
	nlmsg_free(msg);
}

/* ---- the dumps ----------------------------------------------------------------------------------------- */

typedef void take_fn(struct reading *rd, struct nlmsghdr *h);

struct dump {
	struct reading *rd;
	take_fn *take;
};

static int on_message(struct nl_msg *msg, void *arg)
{
	const struct dump *dump = arg;

	if (dump->rd->r == 0)
		dump->take(dump->rd, nlmsg_hdr(msg));
	return NL_OK;
}

static int ask(struct nl_sock *sk, struct dump *dump, int type, const void *body, size_t len)
{
	int r;

	nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_message, dump);
	r = nl_send_simple(sk, type, NLM_F_DUMP, (void *)(uintptr_t)body, len);
	return r < 0 ? r : nl_recvmsgs_default(sk);
}

static void forget(struct vmm_net *net)
{
	for (size_t i = 0; i < net->n_routes; i++)
		free(net->routes[i].bytes);
	for (size_t i = 0; i < net->n_rules; i++)
		free(net->rules[i].bytes);
	for (size_t i = 0; i < net->n_sysctls; i++) {
		free(net->sysctls[i].key);
		free(net->sysctls[i].value);
	}
	free(net->addresses);
	free(net->neighbours);
	free(net->routes);
	free(net->rules);
	free(net->sysctls);
	*net = (struct vmm_net){0};
}

/* All dumps, once: 0, or libnl's error. */
static int read_once(struct nl_sock *sk, struct reading *rd)
{
	const struct ifinfomsg link = {.ifi_family = AF_UNSPEC};
	const struct ifaddrmsg addr = {.ifa_family = AF_UNSPEC};
	const struct ndmsg proxy = {.ndm_family = AF_UNSPEC, .ndm_flags = NTF_PROXY};
	const struct ndmsg neighbour = {.ndm_family = AF_UNSPEC};
	const struct rtmsg route4 = {.rtm_family = AF_INET}, route6 = {.rtm_family = AF_INET6};
	const struct fib_rule_hdr rule4 = {.family = AF_INET}, rule6 = {.family = AF_INET6};
	const struct {
		take_fn *take;
		int type;
		const void *body;
		size_t len;
	} steps[] = {
		{take_link, RTM_GETLINK, &link, sizeof(link)},
		{take_address, RTM_GETADDR, &addr, sizeof(addr)},
		{take_neighbour, RTM_GETNEIGH, &neighbour, sizeof(neighbour)},
		{take_neighbour, RTM_GETNEIGH, &proxy, sizeof(proxy)},
		{take_route, RTM_GETROUTE, &route4, sizeof(route4)},
		{take_route, RTM_GETROUTE, &route6, sizeof(route6)},
		{take_rule, RTM_GETRULE, &rule4, sizeof(rule4)},
		{take_rule, RTM_GETRULE, &rule6, sizeof(rule6)},
	};
	int r = 0;

	for (size_t i = 0; r == 0 && rd->r == 0 && i < ARRAY_SIZE(steps); i++) {
		struct dump dump = {.rd = rd, .take = steps[i].take};

		r = ask(sk, &dump, steps[i].type, steps[i].body, steps[i].len);
		r = r > 0 ? 0 : r;
		/* A kernel without IPv6 has no such dumps. */
		if (r == -NLE_OPNOTSUPP || r == -NLE_AF_NOSUPPORT)
			r = 0;
	}
	return r;
}

static int read_job(void *arg, struct err *err)
{
	struct reading *rd = arg;
	struct nl_sock *sk = nl_socket_alloc();
	int r = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

	if (r == 0)
		r = -NLE_DUMP_INTR;
	for (int i = 0; r == -NLE_DUMP_INTR && i < DUMP_TRIES; i++) {
		forget(rd->net);
		r = read_once(sk, rd);
	}
	nl_socket_free(sk);
	if (rd->r == -E2BIG)
		return err_set(err, -E2BIG, "more than %d interfaces or %d entries of a kind",
			       VMM_NET_LINKS_MAX, VMM_NET_MAX);
	if (rd->r < 0 || r == -NLE_NOMEM)
		return err_oom(err);
	return r < 0 ? err_set_status(err, -EIO, ERR_INTERNAL, "rtnetlink: %s", nl_geterror(r)) : 0;
}

int vmm_net_read(const char *netns_path, struct vmm_net **ret_net, struct err *err)
{
	struct vmm_net *net CLEANUP_VMM_NET = calloc(1, sizeof(*net));
	struct reading rd = {.net = net};
	int r = net ? netns_run(netns_path, read_job, &rd, err) : err_oom(err);

	if (r == 0)
		r = netview_sysctls(netns_path, net, err);
	if (r < 0)
		return err_wrap(err, "reading the pod's network"), r;
	*ret_net = move_ptr(net);
	return 0;
}

struct vmm_net *vmm_net_free(struct vmm_net *net)
{
	if (net)
		forget(net);
	free(net);
	return NULL;
}
