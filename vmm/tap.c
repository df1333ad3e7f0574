/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap.c: taps, and joining one to the interface that CNI has made.
 *
 * Each gets an ingress qdisc with one u32 filter that matches everything and redirects it to the other's
 * egress (mirred), as Kata's "tcfilter" does: no bridge, and the guest sees every frame. tc(8), tc-u32(8),
 * tc-mirred(8); Documentation/networking/tuntap.rst.
 */
#include "vmm/driver_internal.h"

#include "base/util.h"
#include "vmm/netns_internal.h"
#include "vmm/network.h"
#include "vmm/tap_internal.h"

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/cls/u32.h>
#include <netlink/route/link.h>
#include <netlink/route/qdisc.h>
#include <netlink/socket.h>
#include <sys/ioctl.h>

#define FILTER_PRIO 1
#define TAP_PREFIX  "ctap"

/* ---- the device file ----------------------------------------------------------------------------------- */

struct tap_job {
	const char *name;
	uint32_t mtu;
	uid_t owner;
};

static int open_queue(const char *name, int more_flags, struct err *err)
{
	int fd CLEANUP_CLOSE = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more_flags)};

	if (fd < 0)
		return err_set_errno(err, -errno, "opening /dev/net/tun");
	if (str_empty(name) || strlen(name) >= IFNAMSIZ)
		return err_set(err, -EINVAL, "tap name \"%s\" is empty or longer than %d bytes",
			       name ? name : "", IFNAMSIZ - 1);
	strcpy(ifr.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return err_set_errno(err, -errno, "tap %s", name);
	return move_fd(fd);
}

static int open_job(void *arg, struct err *err)
{
	const struct tap_job *j = arg;

	/* TUNSETIFF would create a missing tap. */
	if (if_nametoindex(j->name) == 0)
		return err_set(err, -ENODEV, "there is no tap %s", j->name);
	return open_queue(j->name, 0, err);
}

int tap_open(const char *netns_path, const char *name, struct err *err)
{
	struct tap_job j = {.name = name};

	return netns_run(netns_path, open_job, &j, err);
}

static int set_flags(const char *name, uint32_t mtu, struct err *err)
{
	int fd CLEANUP_CLOSE = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {0};

	if (fd < 0)
		return err_set_errno(err, -errno, "socket");
	strcpy(ifr.ifr_name, name);
	ifr.ifr_mtu = (int)mtu;
	if (mtu && ioctl(fd, SIOCSIFMTU, &ifr) < 0)
		return err_set_errno(err, -errno, "MTU %u of tap %s", mtu, name);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		return err_set_errno(err, -errno, "flags of tap %s", name);
	ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		return err_set_errno(err, -errno, "raising tap %s", name);
	return 0;
}

/*
 * The host's end must stay silent: no IPv6 link-local address, no router solicitations into the guest. And
 * deaf: what is not redirected ends here, for it comes from where no route leads to (rp_filter), and ARP is
 * not answered.
 */
static void silence(const char *name)
{
	static const struct {
		int family;
		const char *key, *value;
	} set[] = {{6, "disable_ipv6", "1"},
		   {4, "rp_filter", "1"},
		   {4, "forwarding", "0"},
		   {4, "arp_ignore", "8"}};

	for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
		char path[128];

		snprintf(path, sizeof(path), "/proc/sys/net/ipv%d/conf/%s/%s", set[i].family, name,
			 set[i].key);
		write_file(path, set[i].value, 1, 0);
	}
}

static int create_job(void *arg, struct err *err)
{
	const struct tap_job *j = arg;
	int fd CLEANUP_CLOSE = -1;
	int r;

	/* A lookup by name (SIOCGIFINDEX) would make the kernel run modprobe for a missing interface. */
	fd = open_queue(j->name, IFF_TUN_EXCL, err);
	if (fd == -EBUSY)
		return err_set(err, -EEXIST, "an interface %s exists already", j->name);
	if (fd < 0)
		return fd;
	silence(j->name);
	r = set_flags(j->name, j->mtu, err);
	if (r == 0 && ioctl(fd, TUNSETOWNER, j->owner) < 0)
		r = err_set_errno(err, -errno, "owner of tap %s", j->name);
	if (r == 0 && ioctl(fd, TUNSETPERSIST, 1) < 0)
		r = err_set_errno(err, -errno, "keeping tap %s", j->name);
	return r; /* without TUNSETPERSIST it goes away with the fd */
}

int vmm_tap_create(const char *netns_path, const char *name, uint32_t mtu, uid_t owner, struct err *err)
{
	struct tap_job j = {.name = name, .mtu = mtu, .owner = owner};

	return netns_run(netns_path, create_job, &j, err);
}

void vmm_tap_name(int ifindex, char ret_name[VMM_TAP_NAME_MAX])
{
	snprintf(ret_name, VMM_TAP_NAME_MAX, TAP_PREFIX "%d", ifindex);
}

bool vmm_tap_named(const char *name)
{
	size_t len = strlen(TAP_PREFIX);

	return str_eq(name, VMM_TAP_BOOT) || (str_starts(name, TAP_PREFIX) && name[len] &&
					      name[len + strspn(name + len, "0123456789")] == 0);
}

static int destroy_job(void *arg, struct err *err)
{
	const struct tap_job *j = arg;
	struct nl_sock *sk = tap_netlink(err);
	struct rtnl_link *link = rtnl_link_alloc();
	int r = sk && link ? 0 : -NLE_NOMEM;

	if (r == 0) {
		rtnl_link_set_name(link, j->name);
		r = rtnl_link_delete(sk, link);
	}
	rtnl_link_put(link);
	nl_socket_free(sk);
	return r < 0 && r != -NLE_NODEV && r != -NLE_OBJ_NOTFOUND ? tap_nl_err(err, r, j->name) : 0;
}

int vmm_tap_destroy(const char *netns_path, const char *name, struct err *err)
{
	struct tap_job j = {.name = name};
	int r = netns_run(netns_path, destroy_job, &j, err);

	return r < 0 ? err_wrap(err, "removing a tap") : 0;
}

/* ---- joining ------------------------------------------------------------------------------------------- */

struct join_job {
	const char *tap, *ifname;
	struct vmm_if_info info;
};

int tap_nl_err(struct err *err, int nlerr, const char *what)
{
	static const struct {
		int nl, code;
	} map[] = {{NLE_EXIST, -EEXIST}, {NLE_NODEV, -ENODEV},	      {NLE_PERM, -EPERM},
		   {NLE_NOMEM, -ENOMEM}, {NLE_OBJ_NOTFOUND, -ENOENT}, {NLE_OPNOTSUPP, -EOPNOTSUPP},
		   {NLE_INVAL, -EIO}};
	int code = -EIO;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
		if (map[i].nl == -nlerr)
			code = map[i].code;
	}
	return err_set_status(err, code, ERR_INTERNAL, "%s: %s", what, nl_geterror(nlerr));
}

int tap_ingress(struct nl_sock *sk, int ifindex, struct err *err)
{
	struct rtnl_qdisc *q = rtnl_qdisc_alloc();
	int r;

	if (!q)
		return err_oom(err);
	rtnl_tc_set_ifindex(TC_CAST(q), ifindex);
	rtnl_tc_set_parent(TC_CAST(q), TC_H_INGRESS);
	rtnl_tc_set_handle(TC_CAST(q), TAP_INGRESS);
	r = rtnl_tc_set_kind(TC_CAST(q), "ingress");
	/* An old qdisc is dropped first, with its filters: joining again gives the same result. */
	if (r == 0)
		rtnl_qdisc_delete(sk, q);
	if (r == 0)
		r = rtnl_qdisc_add(sk, q, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_qdisc_put(q);
	return r < 0 ? tap_nl_err(err, r, "ingress qdisc") : 0;
}

static int fill_mirred(struct rtnl_act *act, int to)
{
	int r = rtnl_tc_set_kind(TC_CAST(act), "mirred");

	if (r == 0)
		r = rtnl_mirred_set_action(act, TCA_EGRESS_REDIR);
	if (r == 0)
		r = rtnl_mirred_set_policy(act, TC_ACT_STOLEN);
	if (r == 0)
		r = rtnl_mirred_set_ifindex(act, (uint32_t)to);
	return r;
}

struct rtnl_act *tap_redirect_action(int to)
{
	struct rtnl_act *act = rtnl_act_alloc();

	if (act && fill_mirred(act, to) == 0)
		return act;
	if (act)
		rtnl_act_put(act);
	return NULL;
}

static int redirect(struct nl_sock *sk, int from, int to, struct err *err)
{
	struct rtnl_cls *cls = rtnl_cls_alloc();
	struct rtnl_act *act = tap_redirect_action(to);
	int r = cls && act ? 0 : -NLE_NOMEM;

	if (r == 0) {
		rtnl_tc_set_ifindex(TC_CAST(cls), from);
		rtnl_tc_set_parent(TC_CAST(cls), TAP_INGRESS);
		rtnl_cls_set_prio(cls, FILTER_PRIO);
		rtnl_cls_set_protocol(cls, ETH_P_ALL);
		r = rtnl_tc_set_kind(TC_CAST(cls), "u32");
	}
	if (r == 0)
		r = rtnl_u32_add_key_uint32(cls, 0, 0, 0, 0); /* nothing to compare: everything matches */
	if (r == 0)
		r = rtnl_u32_add_action(cls, act);
	if (r == 0)
		r = rtnl_u32_set_cls_terminal(cls);
	if (r == 0)
		r = rtnl_cls_add(sk, cls, NLM_F_CREATE | NLM_F_EXCL);
	if (act)
		rtnl_act_put(act);
	if (cls)
		rtnl_cls_put(cls);
	return r < 0 ? tap_nl_err(err, r, "redirecting filter") : 0;
}

int tap_read_link(struct nl_sock *sk, const char *name, int *ret_index, struct vmm_if_info *ret,
		  struct err *err)
{
	struct rtnl_link *link = NULL;
	struct nl_addr *mac;
	int r = rtnl_link_get_kernel(sk, 0, name, &link);
	char what[64];

	if (r < 0) {
		snprintf(what, sizeof(what), "interface %s", name);
		return tap_nl_err(err, r, what);
	}
	*ret_index = rtnl_link_get_ifindex(link);
	mac = rtnl_link_get_addr(link);
	if (ret && mac && nl_addr_get_len(mac) == sizeof(ret->mac))
		memcpy(ret->mac, nl_addr_get_binary_addr(mac), sizeof(ret->mac));
	if (ret)
		ret->mtu = rtnl_link_get_mtu(link);
	rtnl_link_put(link);
	return 0;
}

static int join_links(struct nl_sock *sk, struct join_job *j, struct err *err)
{
	int tap = 0, nic = 0;
	int r = tap_read_link(sk, j->ifname, &nic, &j->info, err);

	if (r == 0)
		r = tap_read_link(sk, j->tap, &tap, NULL, err);
	if (r < 0)
		return r;
	/*
	 * Its addresses stay: CNI's CHECK and DEL look for them. The redirect takes every frame before the
	 * host sees it.
	 */
	r = set_flags(j->ifname, 0, err);
	if (r == 0)
		r = tap_ingress(sk, nic, err);
	if (r == 0)
		r = tap_ingress(sk, tap, err);
	if (r == 0)
		r = redirect(sk, nic, tap, err);
	if (r == 0)
		r = redirect(sk, tap, nic, err);
	return r < 0 ? err_wrap(err, "joining %s and %s", j->ifname, j->tap) : 0;
}

struct nl_sock *tap_netlink(struct err *err)
{
	struct nl_sock *sk = nl_socket_alloc();
	int r = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

	if (r == 0)
		return sk;
	tap_nl_err(err, r, "netlink");
	nl_socket_free(sk);
	return NULL;
}

static int join_job(void *arg, struct err *err)
{
	struct nl_sock *sk = tap_netlink(err);
	int r = sk ? join_links(sk, arg, err) : -EIO;

	nl_socket_free(sk);
	return r;
}

int vmm_tap_join(const char *netns_path, const char *tap, const char *ifname, struct vmm_if_info *ret_info,
		 struct err *err)
{
	struct join_job j = {.tap = tap, .ifname = ifname};
	int r;

	if (strlen(ifname) >= IFNAMSIZ || strlen(tap) >= IFNAMSIZ)
		return err_set(err, -EINVAL, "interface name %s or %s is too long", ifname, tap);
	r = netns_run(netns_path, join_job, &j, err);
	if (r == 0)
		*ret_info = j.info;
	return r;
}

/* ---- trying: in a namespace that vanishes -------------------------------------------------------------- */

static int try_tap_job(void *arg, struct err *err)
{
	int fd = open_queue("crivisor0", 0, err);

	(void)arg;
	close_fd(fd); /* this removes the tap, too */
	return fd < 0 ? fd : 0;
}

int vmm_tap_try(struct err *err)
{
	return netns_run_new(try_tap_job, NULL, err);
}

/* The loopback interface, which every namespace has, serves as both ends. */
static int try_redirect_job(void *arg, struct err *err)
{
	static const char *const addresses[] = {"192.0.2.1", "2001:db8::1"};
	struct nl_sock *sk = tap_netlink(err);
	int lo = (int)if_nametoindex("lo"), r = sk ? tap_ingress(sk, lo, err) : -EIO;

	(void)arg;
	if (r == 0)
		r = redirect(sk, lo, lo, err);
	nl_socket_free(sk);
	return r == 0 ? vmm_tap_filter(NULL, "lo", "lo", addresses, ARRAY_SIZE(addresses), err) : r;
}

int vmm_redirect_try(struct err *err)
{
	return netns_run_new(try_redirect_job, NULL, err);
}
