/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packet filter rules of a namespace. A VM's frames are redirected below IP: such rules never see them.
 *
 * nftables (and iptables over it): nfnetlink, linux/netfilter/nf_tables.h. The older tables of iptables: a
 * socket option, linux/netfilter_ipv4/ip_tables.h; which of them a namespace has is in
 * /proc/net/ip_tables_names.
 */
#include "vmm/netview.h"

#include "base/util.h"
#include "vmm/netns_internal.h"

#include <netinet/in.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>

static int on_rule(struct nl_msg *msg, void *arg)
{
	const struct nlmsghdr *h = nlmsg_hdr(msg);
	unsigned int *n = arg;

	if (h->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE))
		(*n)++;
	return NL_OK;
}

/* A kernel without nftables has no rules of it. */
static int count_nft(unsigned int *n, struct err *err)
{
	struct nfgenmsg all = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0};
	struct nl_sock *sk = nl_socket_alloc();
	int r = sk ? nl_connect(sk, NETLINK_NETFILTER) : -NLE_NOMEM;

	if (r == 0) {
		nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_rule, n);
		r = nl_send_simple(sk, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, NLM_F_DUMP, &all,
				   sizeof(all));
		if (r >= 0) {
			(void)nl_recvmsgs_default(sk);
			r = 0;
		}
	} else if (r != -NLE_NOMEM) {
		r = 0;
	}
	nl_socket_free(sk);
	return r < 0 ? err_set(err, -EIO, "asking for nftables rules: %s", nl_geterror(r)) : 0;
}

/* Beside the rules there is an entry for each built-in chain's policy and one for the table's end. */
static unsigned int rules_of(unsigned int entries, unsigned int hooks)
{
	unsigned int own = (unsigned int)__builtin_popcount(hooks) + 1;

	return entries > own ? entries - own : 0;
}

static unsigned int count_table(int fd, bool v6, const char *table)
{
	struct ipt_getinfo info4 = {0};
	struct ip6t_getinfo info6 = {0};
	socklen_t len = v6 ? sizeof(info6) : sizeof(info4);

	snprintf(info4.name, sizeof(info4.name), "%s", table);
	snprintf(info6.name, sizeof(info6.name), "%s", table);
	if (v6)
		return getsockopt(fd, IPPROTO_IPV6, IP6T_SO_GET_INFO, &info6, &len) < 0
			       ? 0
			       : rules_of(info6.num_entries, info6.valid_hooks);
	return getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info4, &len) < 0
		       ? 0
		       : rules_of(info4.num_entries, info4.valid_hooks);
}

static void count_iptables(bool v6, unsigned int *n)
{
	const char *names =
		v6 ? "/proc/thread-self/net/ip6_tables_names" : "/proc/thread-self/net/ip_tables_names";
	char *text CLEANUP_FREE = NULL, *save = NULL;
	int fd CLEANUP_CLOSE = -1;

	if (read_file(names, 4096, &text, NULL) < 0 || !text[0])
		return;
	fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	for (char *table = strtok_r(text, "\n", &save); fd >= 0 && table; table = strtok_r(NULL, "\n", &save))
		*n += count_table(fd, v6, table);
}

static int count_job(void *arg, struct err *err)
{
	struct vmm_net_filters *filters = arg;

	count_iptables(false, &filters->iptables);
	count_iptables(true, &filters->iptables);
	return count_nft(&filters->nftables, err);
}

int vmm_net_filters(const char *netns_path, struct vmm_net_filters *ret, struct err *err)
{
	struct vmm_net_filters filters = {0};
	int r = netns_run(netns_path, count_job, &filters, err);

	if (r == 0)
		*ret = filters;
	return r;
}
