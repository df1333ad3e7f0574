/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A namespace's network on its way into a guest: read on the host (vmm/netview), put into the agent's message
 * (cri/sandbox), made by the agent (guest/pod). Two namespaces of the test's own stand for host and guest,
 * and ip(8) prints both. Needs root and ip(8).
 */
#include "api/pb.h"
#include "base/util.h"
#include "cri/sandbox/sandbox_internal.h"
#include "guest/pod/net_internal.h"
#include "vmm/driver_internal.h"
#include "vmm/netns_internal.h"
#include "vmm/netview.h"
#include "vmm/network.h"

#include <poll.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define OUT_MAX 16384

static char dir[] = "/tmp/crvtest-netview-XXXXXX", host[64], guest[64], far[64];

static void in_ns(const char *ns, const char *command, char out[OUT_MAX])
{
	char arg[128];
	char *argv[] = {(char *)(uintptr_t) "nsenter", arg,
			(char *)(uintptr_t) "sh",      (char *)(uintptr_t) "-ec",
			(char *)(uintptr_t)command,    NULL};
	struct vmm_run run = {.argv = argv, .out = out, .out_size = OUT_MAX};

	snprintf(arg, sizeof(arg), "--net=%s", ns);
	if (vmm_run(&run, now_monotonic_ns() + 10 * NS_PER_SEC) != 0)
		fail_msg("failed: %s: %s", command, out);
}

static void in_host(const char *command)
{
	char out[OUT_MAX];

	in_ns(host, command, out);
}

static int setup_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

/* The guest's interfaces have other numbers, and no link-local address that ip would show differently. */
static int setup(void **state)
{
	struct err err = ERR_INIT;
	char out[OUT_MAX], command[512];

	(void)state;
	snprintf(far, sizeof(far), "%s/far", dir);
	snprintf(host, sizeof(host), "%s/host", dir);
	snprintf(guest, sizeof(guest), "%s/guest", dir);
	if (vmm_netns_create(host, &err) < 0 || vmm_netns_create(guest, &err) < 0 ||
	    vmm_netns_create(far, &err) < 0) {
		print_error("%s\n", err.msg);
		return -1;
	}
	snprintf(command, sizeof(command),
		 "ip link add eth0 address 02:00:00:00:00:17 type veth peer name peer0 netns %s; "
		 "ip link add wire1 type veth peer name peer1 netns %s; ip link set eth0 up",
		 far, far);
	in_ns(host, command, out);
	in_ns(far, "ip link set peer0 up; ip link set peer1 up", out);
	in_ns(guest,
	      "ip link add a0 type veth peer name b0; "
	      "ip link add ens7 address 02:00:00:00:00:17 type veth peer name peer0; ip link set peer0 up",
	      out);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vmm_netns_destroy(host, NULL);
	vmm_netns_destroy(guest, NULL);
	vmm_netns_destroy(far, NULL);
	return 0;
}

/* Takes the message over. */
static int apply_job(void *arg, struct err *err)
{
	return network_apply(arg, err);
}

static int update_job(void *arg, struct err *err)
{
	return network_update(arg, err);
}

static Grpc__Network *read_host(bool want_told)
{
	struct vmm_net *net CLEANUP_VMM_NET = NULL;
	Grpc__Network *network = pb_new(&grpc__network__descriptor);
	struct err err = ERR_INIT;
	bool told;

	if (vmm_net_read(host, &net, &err) < 0 || sandbox_network_fill(net, "eth0", network, &told, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(told, want_told);
	return network;
}

static void carry(void)
{
	struct err err = ERR_INIT;

	if (netns_run(guest, apply_job, read_host(true), &err) < 0)
		fail_msg("%s", err.msg);
}

/* A later change. */
static void carry_on(void)
{
	struct err err = ERR_INIT;

	if (netns_run(guest, update_job, read_host(true), &err) < 0)
		fail_msg("%s", err.msg);
}

static void same(const char *command)
{
	char there[OUT_MAX], here[OUT_MAX];

	in_ns(host, command, there);
	in_ns(guest, command, here);
	if (!str_eq(there, here))
		fail_msg("%s\non the host:\n%sin the guest:\n%s", command, there, here);
	assert_true(strlen(there) > 0);
}

static void guest_has(const char *command, const char *words)
{
	char out[OUT_MAX];

	in_ns(guest, command, out);
	if (!strstr(out, words))
		fail_msg("%s: no \"%s\" in:\n%s", command, words, out);
}

#define ROUTES4	  "ip -4 -d route show table all"
#define ADDRESSES "ip -o addr show dev eth0 scope global | sed 's/^[0-9]*: //; s/noprefixroute //'"

/* Fault N1: eth0 has a /32 and its routes stand in the namespace alone, as Calico leaves them. */
static void network_of_calico_reaches_the_guest(void **state)
{
	(void)state;
	in_host("ip addr add 10.97.0.5/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link; "
		"ip route add default via 169.254.1.1 dev eth0");
	carry();
	same(ROUTES4);
	same(ADDRESSES);
	guest_has(ROUTES4, "default via 169.254.1.1 dev eth0");
}

/* Fault N3: a gateway that answers no ARP, as the AWS VPC CNI leaves it, and an address to answer for. */
static void network_neighbours_reach_the_guest(void **state)
{
	(void)state;
	in_host("ip addr add 10.97.0.5/32 dev eth0; ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev "
		"eth0 nud "
		"permanent; ip neigh add fe80::1 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent; "
		"ip neigh add proxy 10.9.9.9 dev eth0");
	carry();
	same("ip neigh show nud permanent dev eth0 | sort");
	same("ip neigh show proxy dev eth0");
	guest_has("ip neigh show nud permanent", "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT");
}

/* Fault N5: MTU, advmss, source, scope, metric, table and rules of routes; next hops; all types. */
static void network_routes_keep_all_they_have(void **state)
{
	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip addr add fd00::5/64 dev eth0 nodad; "
		"ip route add 10.1.0.0/16 via 10.97.0.1 mtu 1300 advmss 1200 src 10.97.0.5 metric 77; "
		"ip route add 10.2.0.0/16 dev eth0 scope link table 200 proto 99; "
		"ip route add default via 10.97.0.2 table 200; "
		"ip route add 10.3.0.0/16 nexthop via 10.97.0.3 weight 2 nexthop via 10.97.0.4 weight 3; "
		"ip route add 10.4.0.0/16 via 172.16.0.1 dev eth0 onlink; "
		"ip route add blackhole 10.5.0.0/16; ip route add unreachable 10.6.0.0/16 table 300; "
		"ip route add 10.7.0.0/16 via inet6 fd00::9 dev eth0; "
		"ip -6 route add fd01::/64 via fd00::1 mtu 1280 metric 5; "
		"ip -6 route add default via fe80::1 dev eth0 table 300; "
		"ip rule add from 10.97.0.5 table 200 priority 1000; "
		"ip rule add not fwmark 0x10/0xf0 table 200 priority 1001 suppress_prefixlength 0; "
		"ip rule add iif eth0 ipproto tcp dport 80-90 table 300 priority 1002; "
		"ip -6 rule add to fd01::/64 table 300 priority 1003");
	carry();
	same(ROUTES4);
	same("ip -6 -d route show table all | grep -v -e fe80::/ -e 'local fe80' -e ff00:: -e 'anycast fe80' "
	     "-e peer0");
	same("ip -4 rule");
	same("ip -6 rule");
	same(ADDRESSES);
	guest_has(ROUTES4, "mtu 1300 advmss 1200");
}

/* Fault N1: a plugin that removes the kernel's own prefix route (ptp) finds it removed in the guest too. */
static void network_without_prefix_route_stays_without(void **state)
{
	char out[OUT_MAX];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip route del 10.97.0.0/24; "
		"ip route add 10.97.0.1 dev eth0 scope link src 10.97.0.5; "
		"ip route add 10.97.0.0/24 via 10.97.0.1 src 10.97.0.5");
	carry();
	same(ROUTES4);
	in_ns(guest, "ip -4 route show table main", out);
	assert_null(strstr(out, "10.97.0.0/24 dev eth0"));
}

/* Fault N1: MTU, MAC, a peer address, addresses on lo. */
static void network_links_and_addresses_reach_the_guest(void **state)
{
	(void)state;
	in_host("ip link set eth0 mtu 1300; ip addr add 10.97.0.5 peer 10.97.0.6/32 dev eth0; "
		"ip addr add 10.98.0.5/24 brd + dev eth0; ip addr add 10.99.0.1/32 dev lo");
	carry();
	same(ROUTES4);
	same(ADDRESSES);
	guest_has("ip addr show dev lo", "10.99.0.1/32");
	guest_has("ip addr show dev lo", "127.0.0.1/8");
	guest_has("ip link show dev eth0", "mtu 1300");
	guest_has("ip link show dev eth0", "02:00:00:00:00:17");
}

/* Fault N4: with IPv6 switched off by a sysctl, the addresses, routes and neighbours of IPv6 are left out. */
static void network_with_ipv6_off_in_the_guest_has_ipv4_alone(void **state)
{
	char out[OUT_MAX];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip addr add fd00::5/64 dev eth0 nodad; "
		"ip -6 route add default via fd00::1; ip -6 rule add to fd01::/64 table 300; "
		"ip -6 neigh add fd00::1 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent");
	in_ns(guest, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", out);
	carry();
	same(ROUTES4);
	in_ns(guest, "ip -6 addr show dev eth0; ip -6 route show table all; ip -6 neigh", out);
	assert_string_equal(out, "");
}

/*
 * Fault N4: what CNI's tuning plugin has set in the namespace is set in the guest, and before the addresses.
 */
static void network_sysctls_of_the_namespace_reach_the_guest(void **state)
{
	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify; "
		"echo 777 > /proc/sys/net/ipv4/tcp_keepalive_time; echo 1 > /proc/sys/net/ipv4/ip_forward; "
		"echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
	carry();
	guest_has("cat /proc/sys/net/ipv4/conf/eth0/arp_notify", "1");
	guest_has("cat /proc/sys/net/ipv4/tcp_keepalive_time", "777");
	guest_has("cat /proc/sys/net/ipv4/ip_forward", "1");
	guest_has("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
}

static void network_of_a_fresh_namespace_has_no_sysctls(void **state)
{
	Grpc__Network *network;

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0");
	network = read_host(true);
	for (size_t i = 0; i < network->n_sysctls; i++)
		print_message("%s = %s\n", network->sysctls[i]->key, network->sysctls[i]->value);
	assert_int_equal(network->n_sysctls, 0);
	pb_free(network);
}

/* An interface without an address: its plugin leaves them to the runtime, which has them from the answer. */
static void network_without_address_is_not_told(void **state)
{
	(void)state;
	pb_free(read_host(false));
}

/*
 * What a second one has (as Multus makes it) reaches the guest's NIC that was plugged for it, which is known
 * by the MAC it was plugged with: its own may be another's too, as with ipvlan. Taps are no interfaces of the
 * pod's.
 */
static void network_further_interface_reaches_the_guest(void **state)
{
	char command[512], out[OUT_MAX];
	const struct vmm_net_link *link;
	struct vmm_net *net = NULL;
	struct err err = ERR_INIT;
	uint8_t mac[6];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip link set wire1 name net1 address "
		"02:00:00:00:00:17; "
		"ip link set net1 up mtu 1400; ip addr add 10.98.0.5/24 brd + dev net1; "
		"ip link add ctap77 type veth peer name net2; ip link set ctap77 up; "
		"ip route add 10.1.0.0/16 via 10.98.0.1; "
		"ip neigh add 10.98.0.1 lladdr ee:ee:ee:ee:ee:ee dev net1 nud permanent");
	assert_int_equal(vmm_net_read(host, &net, &err), 0);
	assert_null(vmm_net_link_by_name(net, "ctap77"));
	link = vmm_net_link_by_name(net, "net1");
	assert_non_null(link);
	sandbox_network_nic_mac(link->index, mac);
	snprintf(command, sizeof(command),
		 "ip link add nic1 address %02x:%02x:%02x:%02x:%02x:%02x type veth peer name peer1; "
		 "ip link set peer1 up",
		 mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	in_ns(guest, command, out);
	vmm_net_free(net);
	carry();
	same("ip -4 route show table main | sed 's/ linkdown//'");
	guest_has("ip link show dev net1", "mtu 1400");
	guest_has("ip link show dev net1", "02:00:00:00:00:17");
	guest_has("ip link show dev eth0", "02:00:00:00:00:17");
	guest_has("ip addr show dev net1", "10.98.0.5/24");
	guest_has("ip neigh show dev net1", "10.98.0.1 lladdr ee:ee:ee:ee:ee:ee");
	in_ns(guest, "ip link", out);
	assert_null(strstr(out, "net2"));
	/* It goes down on the host, and comes back. */
	in_host("ip link set net1 down");
	carry_on();
	in_ns(guest, "ip -4 route show; ip link show dev net1", out);
	assert_null(strstr(out, "10.1.0.0"));
	assert_null(strstr(out, ",UP"));
	/* A veth forgets what it was made with. */
	snprintf(command, sizeof(command), "ip link set net1 address %02x:%02x:%02x:%02x:%02x:%02x", mac[0],
		 mac[1], mac[2], mac[3], mac[4], mac[5]);
	in_ns(guest, command, out);
	in_host("ip link set net1 up; ip route add 10.2.0.0/16 via 10.98.0.1");
	carry_on();
	same("ip -4 route show table main | sed 's/ linkdown//'");
}

/* What changes later is changed in the guest: routes, rules, neighbours, addresses, MTU. */
static void network_changes_reach_the_guest(void **state)
{
	char out[OUT_MAX];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip addr add fd00::5/64 dev eth0 nodad; "
		"ip route add default via 10.97.0.1 mtu 1400; ip route add 10.1.0.0/16 via 10.97.0.2; "
		"ip -6 route add fd01::/64 via fd00::1 mtu 1300; ip rule add from 10.97.0.5 table 200 "
		"priority 1000; "
		"ip neigh add 10.97.0.1 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent; "
		"ip neigh add 10.97.0.2 lladdr ee:ee:ee:ee:ee:02 dev eth0 nud permanent");
	carry();
	in_host("ip route add 10.3.0.0/16 via 10.97.0.3; ip route del 10.1.0.0/16; "
		"ip route replace default via 10.97.0.1 mtu 1300; ip -6 route replace fd01::/64 via fd00::1 "
		"mtu 1280; "
		"ip rule del from 10.97.0.5 table 200 priority 1000; ip rule add fwmark 7 table 300 priority "
		"1001; "
		"ip neigh del 10.97.0.2 dev eth0; ip neigh replace 10.97.0.1 lladdr ee:ee:ee:ee:ee:99 dev "
		"eth0 nud permanent; "
		"ip addr add 10.98.0.5/24 brd + dev eth0; ip addr del fd00::5/64 dev eth0; "
		"ip addr add fd00::6/64 dev eth0 nodad; ip link set eth0 mtu 1350");
	carry_on();
	same(ROUTES4);
	same(ADDRESSES);
	same("ip -4 rule");
	same("ip neigh show nud permanent dev eth0 | sort");
	same("ip -6 route show table main | grep -v -e fe80::/ -e peer0");
	guest_has("ip link show dev eth0", "mtu 1350");
	in_ns(guest, "ip -4 route show", out);
	assert_null(strstr(out, "10.1.0.0/16"));
	assert_null(strstr(out, "mtu 1400"));
	/* The address of the subnet in which another is secondary. */
	in_host("echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries; ip addr add 10.97.0.7/24 brd + "
		"dev eth0");
	carry_on();
	in_host("ip addr del 10.97.0.5/24 dev eth0; ip route replace default via 10.97.0.1 mtu 1300");
	carry_on();
	same(ADDRESSES);
	same("ip -4 route show table main");
}

/*
 * What a container has made itself is not the host's to take away, nor is what it has removed to bring back.
 */
static void network_changes_leave_containers_own_alone(void **state)
{
	char out[OUT_MAX];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0; ip route add default via 10.97.0.1; "
		"ip route add 10.1.0.0/16 via 10.97.0.2");
	carry();
	in_ns(guest,
	      "ip addr add 10.50.0.1/32 dev eth0; ip route add 10.51.0.0/16 via 10.97.0.9; "
	      "ip rule add from 10.50.0.1 table 9 priority 9; ip neigh add 10.97.0.9 lladdr "
	      "02:02:02:02:02:02 dev eth0; "
	      "ip route del default; ip link set eth0 down; ip link set eth0 name inet address "
	      "02:00:00:00:00:55; "
	      "ip link set inet up; ip route add 10.97.0.0/24 dev inet; ip route add 10.51.0.0/16 via "
	      "10.97.0.9; ip route add 10.1.0.0/16 via "
	      "10.97.0.2",
	      out);
	in_host("ip route del 10.1.0.0/16; ip route add 10.3.0.0/16 via 10.97.0.3");
	carry_on();
	in_ns(guest, "ip -4 addr; ip -4 route show; ip rule", out);
	assert_non_null(strstr(out, "10.50.0.1/32"));
	assert_non_null(strstr(out, "10.51.0.0/16"));
	assert_non_null(strstr(out, "lookup 9"));
	assert_non_null(strstr(out, "10.3.0.0/16"));
	assert_null(strstr(out, "10.1.0.0/16"));
	assert_null(strstr(out, "default via"));
}

/* What cannot be done does not keep the rest from being done, and is tried again. */
static void network_change_that_fails_is_tried_again(void **state)
{
	struct err err = ERR_INIT;
	char out[OUT_MAX];

	(void)state;
	in_host("ip addr add 10.97.0.5/24 brd + dev eth0");
	carry();
	in_host("ip route add 10.1.0.0/16 via 10.97.0.2; ip route add 10.2.0.0/16 via 10.97.0.2");
	in_ns(guest, "ip addr flush dev eth0; ip route add 10.97.0.0/24 via 127.0.0.1 dev lo", out);
	assert_true(netns_run(guest, update_job, read_host(true), &err) < 0);
	in_ns(guest, "ip route flush table main; ip addr add 10.97.0.5/24 dev eth0", out);
	carry_on();
	guest_has("ip route", "10.1.0.0/16");
	guest_has("ip route", "10.2.0.0/16");
}

/* A change is told within moments; what is not the namespace's own is not. */
static void network_watch_tells_of_changes(void **state)
{
	static const char *const changes[] = {
		"ip addr add 10.97.0.5/24 dev eth0",
		"ip route add 10.1.0.0/16 via 10.97.0.2",
		"ip -6 route add fd01::/64 dev eth0",
		"ip rule add from 10.97.0.5 table 200",
		"ip neigh add 10.97.0.1 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent",
		"ip link set eth0 mtu 1400",
		"ip route del 10.1.0.0/16",
	};
	struct err err = ERR_INIT;
	int fd;

	(void)state;
	fd = vmm_net_watch(host, &err);
	assert_true(fd >= 0);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		while (vmm_net_watch_take(fd))
			(void)poll(NULL, 0, 20);
		in_host(changes[i]);
		if (poll(&p, 1, 2000) != 1 || !vmm_net_watch_take(fd))
			fail_msg("nothing is told of: %s", changes[i]);
	}
	close(fd);
}

/* More changes than the socket holds: the kernel drops messages, and says so. */
static void network_watch_that_overflows_tells_of_changes(void **state)
{
	struct err err = ERR_INIT;
	int fd, small = 0;
	char first[16];

	(void)state;
	fd = vmm_net_watch(host, &err);
	assert_true(fd >= 0);
	while (vmm_net_watch_take(fd))
		(void)poll(NULL, 0, 20);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	in_host("for i in $(seq 40); do ip addr add 10.97.1.$i/32 dev eth0; done");
	/* The overflow is the first thing that it says. */
	assert_int_equal(recv(fd, first, sizeof(first), MSG_PEEK), -1);
	assert_int_equal(errno, ENOBUFS);
	in_host("for i in $(seq 40); do ip addr del 10.97.1.$i/32 dev eth0; done");
	assert_true(vmm_net_watch_take(fd));
	assert_false(vmm_net_watch_take(fd));
	close(fd);
}

static struct vmm_net_filters filters(void)
{
	struct vmm_net_filters f = {77, 77};
	struct err err = ERR_INIT;

	if (vmm_net_filters(host, &f, &err) < 0)
		fail_msg("%s", err.msg);
	return f;
}

/*
 * Rules of a service mesh or a firewall in the namespace are seen; tables and chains without rules are none.
 */
static void network_filters_are_counted(void **state)
{
	(void)state;
	assert_int_equal(filters().nftables, 0);
	assert_int_equal(filters().iptables, 0);
	in_host("nft add table inet t; nft add chain inet t c '{ type filter hook output priority 0; }'");
	assert_int_equal(filters().nftables, 0);
	in_host("nft add rule inet t c accept; nft add rule inet t c drop");
	assert_int_equal(filters().nftables, 2);
	assert_int_equal(filters().iptables, 0);
	in_host("nft flush ruleset");
	assert_int_equal(filters().nftables, 0);
}

static void network_legacy_filters_are_counted(void **state)
{
	char out[OUT_MAX];

	(void)state;
	in_ns(host,
	      "iptables-legacy -L >/dev/null 2>&1 && ip6tables-legacy -L >/dev/null 2>&1 && echo yes || echo "
	      "no",
	      out);
	if (!str_starts(out, "yes")) {
		print_message("this kernel has no legacy iptables\n");
		skip();
	}
	assert_int_equal(filters().iptables, 0);
	in_host("iptables-legacy -A OUTPUT -j ACCEPT; iptables-legacy -t nat -A OUTPUT -j ACCEPT; "
		"ip6tables-legacy -A INPUT -j ACCEPT");
	assert_int_equal(filters().iptables, 3);
}

/* Messages of a host that makes mistakes are refused and break nothing. */
static void network_apply_refuses_malformed_routes(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} wrong[] = {
		{"\x02", 1},
		{"\x02\0\0\0\xfe\0\0\x01\0\0\0\0\x08\0\x04\0\x63\0\0\0", 20}, /* RTA_OIF 99 */
		{"\x02\0\0\0\xfe\0\0\x01\0\0\0\0\x02\0\x04\0", 16},	      /* an attribute of 2 bytes */
		{"\x02\0\0\0\xfe\0\0\x01\0\0\0\0\x40\0\x04\0", 16},	      /* longer than the message */
		{"\x02\0\0\0\xfe\0\0\x01\0\0\0\0\x0c\0\x09\0\x40\0\0\0\x01\0\0\0", 24}, /* a next hop */
		{"\x11\0\0\0\xfe\0\0\x01\0\0\0\0", 12},					/* AF_PACKET */
	};

	(void)state;
	in_host("ip addr add 10.97.0.5/32 dev eth0");
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		Grpc__Network *network = read_host(true);
		struct err err = ERR_INIT;

		network->routes = calloc(1, sizeof(*network->routes));
		network->n_routes = 1;
		network->routes[0].data = malloc(wrong[i].len);
		memcpy(network->routes[0].data, wrong[i].bytes, wrong[i].len);
		network->routes[0].len = wrong[i].len;
		assert_int_equal(netns_run(guest, apply_job, network, &err), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(network_of_calico_reaches_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(network_neighbours_reach_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(network_routes_keep_all_they_have, setup, teardown),
		cmocka_unit_test_setup_teardown(network_without_prefix_route_stays_without, setup, teardown),
		cmocka_unit_test_setup_teardown(network_links_and_addresses_reach_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(network_with_ipv6_off_in_the_guest_has_ipv4_alone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(network_sysctls_of_the_namespace_reach_the_guest, setup,
						teardown),
		cmocka_unit_test_setup_teardown(network_of_a_fresh_namespace_has_no_sysctls, setup, teardown),
		cmocka_unit_test_setup_teardown(network_without_address_is_not_told, setup, teardown),
		cmocka_unit_test_setup_teardown(network_further_interface_reaches_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(network_changes_reach_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(network_changes_leave_containers_own_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(network_change_that_fails_is_tried_again, setup, teardown),
		cmocka_unit_test_setup_teardown(network_watch_tells_of_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(network_watch_that_overflows_tells_of_changes, setup,
						teardown),
		cmocka_unit_test_setup_teardown(network_filters_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(network_legacy_filters_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(network_apply_refuses_malformed_routes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, setup_dir, teardown_dir);
}
