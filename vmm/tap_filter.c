/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap_filter.c: which frames may leave a VM.
 *
 * Instead of one filter that redirects everything, the tap's ingress asks who sends: MAC and IP source (in
 * ARP the sender's fields too) must be the pod's. For IPv6 a table behind that asks what is sent. Only what
 * passes is redirected. The rest ends at the tap, whose own IP is shut (tap.c), for the kernel may lack an
 * action that drops. Filters of an nftables netdev hook would come too late: a redirect takes the frame
 * before them. tc-u32(8), tc-mirred(8).
 *
 * Passing without an address of the pod's: ARP probes (RFC 5227), DHCP's first steps (RFC 2131), IGMP from
 * 0.0.0.0 (RFC 4541), duplicate address detection and MLD from :: (RFC 4862, RFC 3590). The link-local
 * address of the pod is the one that its MAC gives (RFC 4291, appendix A).
 */
#include "vmm/tap_internal.h"

#include "base/util.h"
#include "vmm/netns_internal.h"
#include "vmm/network.h"

#include <arpa/inet.h>
#include <assert.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <netlink/route/cls/u32.h>
#include <netlink/route/link.h>

#define KEYS_MAX  16
#define PRIO_IP	  1
#define PRIO_ARP  2
#define PRIO_IPV6 3
/* The table of u32 behind the first. */
#define TABLE_WHAT 1

enum verdict { VERDICT_STOP, VERDICT_LOOK_ON, VERDICT_PASS };

struct key {
	uint32_t value, mask; /* host order */
	int off;	      /* from the network header */
};
struct filter {
	uint16_t protocol, prio;
	uint32_t table; /* 0: the first */
	enum verdict verdict;
	struct key keys[KEYS_MAX];
	size_t n;
};
struct table {
	struct nl_sock *sk;
	int tap, nic;
	int nodes; /* in TABLE_WHAT: they are asked in the order of their numbers */
	const uint8_t *mac;
	struct err *err;
	int r; /* the first error */
};

/* ---- one filter ---------------------------------------------------------------------------------------- */

static struct filter begin(uint16_t protocol, uint16_t prio, enum verdict verdict)
{
	return (struct filter){.protocol = protocol, .prio = prio, .verdict = verdict};
}

/* One of the table that asks what is sent. */
static struct filter begin_what(enum verdict verdict)
{
	return (struct filter){
		.protocol = ETH_P_IPV6, .prio = PRIO_IPV6, .table = TABLE_WHAT, .verdict = verdict};
}

static void key(struct filter *f, int off, uint32_t value, uint32_t mask)
{
	assert(f->n < KEYS_MAX && off % 4 == 0);
	f->keys[f->n++] = (struct key){.value = value & mask, .mask = mask, .off = off};
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void key_bytes(struct filter *f, int off, const uint8_t *bytes, size_t words)
{
	for (size_t i = 0; i < words; i++)
		key(f, off + (int)i * 4, be32(bytes + i * 4), 0xffffffff);
}

/* The Ethernet header ends where the network header begins: the source is at -8. */
static void key_mac(struct filter *f, const uint8_t *mac)
{
	key(f, -8, be32(mac), 0xffffffff);
	key(f, -4, (uint32_t)mac[4] << 24 | (uint32_t)mac[5] << 16, 0xffff0000);
}

static void place(const struct table *t, struct rtnl_cls *cls, uint16_t protocol, uint16_t prio)
{
	rtnl_tc_set_ifindex(TC_CAST(cls), t->tap);
	rtnl_tc_set_parent(TC_CAST(cls), TAP_INGRESS);
	rtnl_cls_set_prio(cls, prio);
	rtnl_cls_set_protocol(cls, protocol);
}

static int set_up(struct table *t, const struct filter *f, struct rtnl_cls *cls, struct rtnl_act *act)
{
	int r;

	place(t, cls, f->protocol, f->prio);
	r = rtnl_tc_set_kind(TC_CAST(cls), "u32");
	if (r == 0 && f->table) {
		r = rtnl_u32_set_hashtable(cls, f->table << 20);
		rtnl_u32_set_handle(cls, (int)f->table, 0, ++t->nodes);
	}
	for (size_t i = 0; r == 0 && i < f->n; i++)
		r = rtnl_u32_add_key(cls, htonl(f->keys[i].value), htonl(f->keys[i].mask), f->keys[i].off, 0);
	if (r == 0 && f->n == 0)
		r = rtnl_u32_add_key(cls, 0, 0, 0, 0);
	if (r < 0)
		return r;
	if (f->verdict == VERDICT_LOOK_ON)
		return rtnl_u32_set_link(cls, TABLE_WHAT << 20);
	if (f->verdict == VERDICT_PASS)
		r = rtnl_u32_add_action(cls, act);
	return r == 0 ? rtnl_u32_set_cls_terminal(cls) : r;
}

static void add(struct table *t, const struct filter *f)
{
	struct rtnl_cls *cls;
	struct rtnl_act *act;
	int r;

	if (t->r < 0)
		return;
	cls = rtnl_cls_alloc();
	act = tap_redirect_action(t->nic);
	r = cls && act ? set_up(t, f, cls, act) : -NLE_NOMEM;
	if (r == 0)
		r = rtnl_cls_add(t->sk, cls, NLM_F_CREATE | NLM_F_EXCL);
	if (act)
		rtnl_act_put(act);
	if (cls)
		rtnl_cls_put(cls);
	if (r < 0)
		t->r = tap_nl_err(t->err, r, "filter against forged addresses");
}

static void add_table(struct table *t)
{
	struct rtnl_cls *cls = rtnl_cls_alloc();
	int r = cls ? rtnl_tc_set_kind(TC_CAST(cls), "u32") : -NLE_NOMEM;

	if (r == 0) {
		place(t, cls, ETH_P_IPV6, PRIO_IPV6);
		rtnl_u32_set_handle(cls, TABLE_WHAT, 0, 0);
		r = rtnl_u32_set_divisor(cls, 1);
	}
	if (r == 0)
		r = rtnl_cls_add(t->sk, cls, NLM_F_CREATE | NLM_F_EXCL);
	if (cls)
		rtnl_cls_put(cls);
	if (r < 0)
		t->r = tap_nl_err(t->err, r, "table against forged addresses");
}

/* ---- who ----------------------------------------------------------------------------------------------- */

static void allow_ipv4(struct table *t, const uint8_t address[4])
{
	struct filter ip = begin(ETH_P_IP, PRIO_IP, VERDICT_PASS);
	struct filter arp = begin(ETH_P_ARP, PRIO_ARP, VERDICT_PASS);

	key_mac(&ip, t->mac);
	key_bytes(&ip, 12, address, 1);
	add(t, &ip);
	/* Ethernet and IPv4; the sender's MAC at 8, its address at 14. */
	key_mac(&arp, t->mac);
	key(&arp, 0, 0x00010800, 0xffffffff);
	key(&arp, 8, be32(t->mac), 0xffffffff);
	key(&arp, 12,
	    (uint32_t)t->mac[4] << 24 | (uint32_t)t->mac[5] << 16 | (uint32_t)address[0] << 8 | address[1],
	    0xffffffff);
	key(&arp, 16, (uint32_t)address[2] << 24 | (uint32_t)address[3] << 16, 0xffff0000);
	add(t, &arp);
}

/* From 0.0.0.0: ARP probes, DHCP's client, IGMP. */
static void allow_ipv4_without_address(struct table *t)
{
	struct filter arp = begin(ETH_P_ARP, PRIO_ARP, VERDICT_PASS);
	struct filter dhcp = begin(ETH_P_IP, PRIO_IP, VERDICT_PASS);
	struct filter igmp = begin(ETH_P_IP, PRIO_IP, VERDICT_PASS);

	key_mac(&arp, t->mac);
	key(&arp, 0, 0x00010800, 0xffffffff);
	key(&arp, 4, 0x06040001, 0xffffffff); /* a request alone */
	key(&arp, 8, be32(t->mac), 0xffffffff);
	key(&arp, 12, (uint32_t)t->mac[4] << 24 | (uint32_t)t->mac[5] << 16, 0xffffffff);
	key(&arp, 16, 0, 0xffff0000);
	add(t, &arp);
	key_mac(&dhcp, t->mac);
	key(&dhcp, 0, 0x45000000, 0xff000000); /* no options: UDP begins at 20 */
	key(&dhcp, 8, 17U << 16, 0x00ff0000);
	key(&dhcp, 12, 0, 0xffffffff);
	key(&dhcp, 20, 68U << 16 | 67, 0xffffffff);
	add(t, &dhcp);
	key_mac(&igmp, t->mac);
	key(&igmp, 8, 2U << 16, 0x00ff0000);
	key(&igmp, 12, 0, 0xffffffff);
	key(&igmp, 16, 0xe0000000, 0xf0000000);
	add(t, &igmp);
}

static void allow_ipv6(struct table *t, const uint8_t address[16])
{
	struct filter ip = begin(ETH_P_IPV6, PRIO_IPV6, VERDICT_LOOK_ON);

	key_mac(&ip, t->mac);
	key_bytes(&ip, 8, address, 4);
	add(t, &ip);
}

/* From ::, to a multicast address. */
static void allow_ipv6_without_address(struct table *t)
{
	static const uint8_t none[16];
	struct filter ip = begin(ETH_P_IPV6, PRIO_IPV6, VERDICT_LOOK_ON);

	key_mac(&ip, t->mac);
	key_bytes(&ip, 8, none, 4);
	key(&ip, 24, 0xff000000, 0xff000000);
	add(t, &ip);
}

/* ---- what ---------------------------------------------------------------------------------------------- */

/* A neighbour advertisement is about an address of the pod's. */
static void allow_advertisement(struct table *t, const uint8_t address[16])
{
	struct filter na = begin_what(VERDICT_PASS);

	key(&na, 4, 58U << 8, 0x0000ff00);
	key(&na, 40, 136U << 24, 0xff000000);
	key_bytes(&na, 48, address, 4);
	add(t, &na);
}

/* Multicast listener messages stand behind a hop-by-hop header of 8 bytes. */
static void allow_mld(struct table *t)
{
	static const uint8_t types[] = {131, 132, 143};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct filter f = begin_what(VERDICT_PASS);

		key(&f, 4, 0, 0x0000ff00);
		key(&f, 40, 58U << 24, 0xffff0000);
		key(&f, 48, (uint32_t)types[i] << 24, 0xff000000);
		add(t, &f);
	}
}

/*
 * Of IPv6: router advertisements and redirects, advertisements of what is not the pod's, and headers
 * (hop-by-hop, routing, destination options) behind which these could hide. Behind a fragment header
 * receivers refuse them (RFC 6980).
 */
static void stop_the_rest_of_nd(struct table *t)
{
	static const uint8_t types[] = {134, 136, 137}, headers[] = {0, 43, 60};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct filter f = begin_what(VERDICT_STOP);

		key(&f, 4, 58U << 8, 0x0000ff00);
		key(&f, 40, (uint32_t)types[i] << 24, 0xff000000);
		add(t, &f);
	}
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		struct filter f = begin_what(VERDICT_STOP);

		key(&f, 4, (uint32_t)headers[i] << 8, 0x0000ff00);
		add(t, &f);
	}
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

struct filter_job {
	const char *tap, *ifname;
	const char *const *addresses;
	size_t n;
};

static void link_local(const uint8_t mac[6], uint8_t ret[16])
{
	memset(ret, 0, 16);
	ret[0] = 0xfe;
	ret[1] = 0x80;
	memcpy(ret + 8, mac, 3);
	ret[8] ^= 2;
	ret[11] = 0xff;
	ret[12] = 0xfe;
	memcpy(ret + 13, mac + 3, 3);
}

/* Calls the functions for each address of their family. ipv4 may be NULL. */
static void each(struct table *t, const struct filter_job *j, void (*ipv4)(struct table *, const uint8_t *),
		 void (*ipv6)(struct table *, const uint8_t *))
{
	uint8_t address[16];

	link_local(t->mac, address);
	ipv6(t, address);
	for (size_t i = 0; t->r == 0 && i < j->n; i++) {
		if (inet_pton(AF_INET, j->addresses[i], address) == 1) {
			if (ipv4)
				ipv4(t, address);
		} else if (inet_pton(AF_INET6, j->addresses[i], address) == 1) {
			ipv6(t, address);
		} else {
			t->r = err_set(t->err, -EINVAL, "\"%.64s\" is not an IP address", j->addresses[i]);
		}
	}
}

static void fill(struct table *t, const struct filter_job *j)
{
	struct filter pass = begin_what(VERDICT_PASS);

	add_table(t);
	each(t, j, NULL, allow_advertisement);
	allow_mld(t);
	stop_the_rest_of_nd(t);
	add(t, &pass);
	/* The table is complete: now it may be reached. */
	each(t, j, allow_ipv4, allow_ipv6);
	allow_ipv4_without_address(t);
	allow_ipv6_without_address(t);
}

static int filter_job(void *arg, struct err *err)
{
	const struct filter_job *j = arg;
	struct vmm_if_info nic = {0};
	struct table t = {.err = err};

	t.sk = tap_netlink(err);
	if (!t.sk)
		return -EIO;
	t.r = tap_read_link(t.sk, j->ifname, &t.nic, &nic, err);
	if (t.r == 0)
		t.r = tap_read_link(t.sk, j->tap, &t.tap, NULL, err);
	if (t.r == 0)
		t.r = tap_ingress(t.sk, t.tap, err);
	t.mac = nic.mac;
	if (t.r == 0)
		fill(&t, j);
	nl_socket_free(t.sk);
	return t.r;
}

int vmm_tap_filter(const char *netns_path, const char *tap, const char *ifname, const char *const *addresses,
		   size_t n, struct err *err)
{
	struct filter_job j = {.tap = tap, .ifname = ifname, .addresses = addresses, .n = n};

	if (strlen(ifname) >= IFNAMSIZ || strlen(tap) >= IFNAMSIZ)
		return err_set(err, -EINVAL, "interface name %s or %s is too long", ifname, tap);
	return netns_run(netns_path, filter_job, &j, err);
}
