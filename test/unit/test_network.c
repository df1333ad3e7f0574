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

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define OUT_MAX 16384

static char dir[] = "/tmp/crvtest-netview-XXXXXX", host[64], guest[64];

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
	char out[OUT_MAX];

	(void)state;
	snprintf(host, sizeof(host), "%s/host", dir);
	snprintf(guest, sizeof(guest), "%s/guest", dir);
	if (vmm_netns_create(host, &err) < 0 || vmm_netns_create(guest, &err) < 0) {
		print_error("%s\n", err.msg);
		return -1;
	}
	in_ns(host,
	      "ip link add eth0 address 02:00:00:00:00:17 type veth peer name peer0; ip link set peer0 up; "
	      "ip link set eth0 up",
	      out);
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
	return 0;
}

struct apply {
	const Grpc__Network *network;
};

static int apply_job(void *arg, struct err *err)
{
	return network_apply(((struct apply *)arg)->network, err);
}

static Grpc__Network *read_host(bool want_told)
{
	static const char *const names[] = {"eth0", NULL};
	struct vmm_net *net CLEANUP_VMM_NET = NULL;
	Grpc__Network *network = pb_new(&grpc__network__descriptor);
	struct err err = ERR_INIT;
	bool told;

	if (vmm_net_read(host, names, "tap0", &net, &err) < 0 ||
	    sandbox_network_fill(net, "eth0", network, &told, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(told, want_told);
	return network;
}

static void carry(void)
{
	struct apply a = {.network = read_host(true)};
	struct err err = ERR_INIT;

	if (netns_run(guest, apply_job, &a, &err) < 0)
		fail_msg("%s", err.msg);
	pb_free((void *)(uintptr_t)a.network);
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

/* A second interface (as Multus makes) is seen; one that is down, and the tap, are not. */
static void network_further_interface_is_told(void **state)
{
	static const char *const names[] = {"eth0", NULL};
	struct vmm_net *net = NULL;
	struct err err = ERR_INIT;

	(void)state;
	in_host("ip link set peer0 down; ip link add net1 type veth peer name tap0; ip link set tap0 up");
	assert_int_equal(vmm_net_read(host, names, "tap0", &net, &err), 0);
	assert_string_equal(net->other, "");
	net = vmm_net_free(net);
	in_host("ip link set net1 up");
	assert_int_equal(vmm_net_read(host, names, "tap0", &net, &err), 0);
	assert_string_equal(net->other, "net1");
	vmm_net_free(net);
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
		struct apply a = {.network = network};
		struct err err = ERR_INIT;

		network->routes = calloc(1, sizeof(*network->routes));
		network->n_routes = 1;
		network->routes[0].data = malloc(wrong[i].len);
		memcpy(network->routes[0].data, wrong[i].bytes, wrong[i].len);
		network->routes[0].len = wrong[i].len;
		assert_int_equal(netns_run(guest, apply_job, &a, &err), -EINVAL);
		pb_free(network);
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
		cmocka_unit_test_setup_teardown(network_further_interface_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(network_filters_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(network_legacy_filters_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(network_apply_refuses_malformed_routes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, setup_dir, teardown_dir);
}
