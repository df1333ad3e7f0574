/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtnetlink: messages byte by byte, addresses, and the kernel itself in a network namespace of the test's
 * own.
 */
#include "guest/pod/rtnl_internal.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <sched.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void rtnl_put_aligns_and_counts(void **state)
{
	static const unsigned char want[] = {
		52, 0, 0, 0, 16,   0,	1,   0,	  0, 0, 0, 0,
		0,  0, 0, 0, /* nlmsghdr: 52 bytes, RTM_NEWLINK, NLM_F_REQUEST */
		0,  0, 0, 0, 3,	   0,	0,   0,	  0, 0, 0, 0,
		0,  0, 0, 0,				      /* ifinfomsg: index 3 */
		9,  0, 3, 0, 'e',  't', 'h', '0', 0, 0, 0, 0, /* IFLA_IFNAME, padded */
		8,  0, 4, 0, 0xdc, 5,	0,   0,		      /* IFLA_MTU 1500 */
	};
	struct ifinfomsg info = {.ifi_index = 3};
	struct rtnl_msg m;
	uint32_t mtu = 1500;

	(void)state;
	rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
	assert_int_equal(rtnl_put(&m, IFLA_IFNAME, "eth0", 5), 0);
	assert_int_equal(rtnl_put(&m, IFLA_MTU, &mtu, sizeof(mtu)), 0);
	assert_int_equal(m.hdr.nlmsg_len, sizeof(want));
	assert_memory_equal(m.bytes, want, sizeof(want));
}

static void rtnl_put_beyond_the_message_changes_nothing(void **state)
{
	char big[RTNL_MESSAGE_MAX];
	struct ifinfomsg info = {.ifi_index = 1};
	struct rtnl_msg m;
	uint32_t len;

	(void)state;
	memset(big, 1, sizeof(big));
	rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
	len = m.hdr.nlmsg_len;
	assert_int_equal(rtnl_put(&m, 1, big, sizeof(big)), -EMSGSIZE);
	assert_int_equal(m.hdr.nlmsg_len, len);
	assert_int_equal(rtnl_put(&m, 1, big, sizeof(big) - len - 4), 0);
	assert_int_equal(rtnl_put(&m, 1, NULL, 0), -EMSGSIZE);
}

static void check_addr(const char *addr, const char *mask, int prefix)
{
	struct rtnl_addr a;

	if (prefix < 0) {
		assert_int_equal(rtnl_parse_addr(addr, mask, &a, NULL), -EINVAL);
		return;
	}
	assert_int_equal(rtnl_parse_addr(addr, mask, &a, NULL), 0);
	assert_int_equal(a.prefix, prefix);
}

static void rtnl_parse_addr_takes_prefixes_and_dotted_masks(void **state)
{
	(void)state;
	check_addr("10.0.0.1", "24", 24);
	check_addr("10.0.0.1", "255.255.255.0", 24);
	check_addr("10.0.0.1", "0.0.0.0", 0);
	check_addr("10.0.0.1", "255.255.255.255", 32);
	check_addr("10.0.0.1", "", 32);
	check_addr("10.0.0.1", NULL, 32);
	check_addr("fd00::1", "64", 64);
	check_addr("fd00::1", NULL, 128);
	check_addr("10.0.0.1", "33", -1);
	check_addr("10.0.0.1", "255.0.255.0", -1);
	check_addr("10.0.0.1", "x", -1);
	check_addr("fd00::1", "129", -1);
	check_addr("fd00::1", "255.255.255.0", -1);
	check_addr("10.0.0", "8", -1);
	check_addr("", "8", -1);
	check_addr(NULL, NULL, -1);
}

static void rtnl_parse_cidr_clears_host_bits(void **state)
{
	struct rtnl_addr a;
	char text[64];

	(void)state;
	assert_int_equal(rtnl_parse_cidr("10.1.2.3/20", AF_INET, &a, NULL), 0);
	assert_string_equal(inet_ntop(AF_INET, a.bytes, text, sizeof(text)), "10.1.0.0");
	assert_int_equal(rtnl_parse_cidr("fd00::ffff/64", AF_INET, &a, NULL), 0);
	assert_int_equal(a.family, AF_INET6);
	assert_string_equal(inet_ntop(AF_INET6, a.bytes, text, sizeof(text)), "fd00::");
	assert_int_equal(rtnl_parse_cidr("", AF_INET6, &a, NULL), 0);
	assert_int_equal(a.family, AF_INET6);
	assert_int_equal(a.prefix, 0);
	assert_int_equal(rtnl_parse_cidr("10.0.0.0/", AF_INET, &a, NULL), -EINVAL);
	assert_int_equal(rtnl_parse_cidr("x/8", AF_INET, &a, NULL), -EINVAL);
}

static void rtnl_parse_mac_is_strict(void **state)
{
	unsigned char mac[6];

	(void)state;
	assert_int_equal(rtnl_parse_mac("02:00:00:aA:0b:ff", mac, NULL), 0);
	assert_memory_equal(mac, "\x02\x00\x00\xaa\x0b\xff", 6);
	assert_int_equal(rtnl_parse_mac("02:00:00:aa:0b", mac, NULL), -EINVAL);
	assert_int_equal(rtnl_parse_mac("02:00:00:aa:0b:ff:00", mac, NULL), -EINVAL);
	assert_int_equal(rtnl_parse_mac("2:0:0:a:b:f", mac, NULL), -EINVAL);
	assert_int_equal(rtnl_parse_mac("", mac, NULL), -EINVAL);
}

/* In a child with a namespace of its own: lo gets a new address set, twice, and a route. */
static int against_the_kernel(void)
{
	struct rtnl_link links[16];
	struct rtnl_change change = {.mtu = 1400};
	struct rtnl_addr addrs[3];
	struct rtnl_route route = {.scope = RT_SCOPE_LINK};
	struct rtnl nl;
	int n;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && unshare(CLONE_NEWNET) < 0)
		return 77;
	if (rtnl_open(&nl, NULL) < 0)
		return 1;
	n = rtnl_links(&nl, links, ARRAY_SIZE(links), NULL);
	while (n > 0 && !str_eq(links[n - 1].name, "lo"))
		n--;
	if (n < 1)
		return 2;
	if (rtnl_link_set(&nl, &links[n - 1], &change, NULL) < 0)
		return 3;
	rtnl_parse_addr("127.0.0.1", "8", &addrs[0], NULL);
	rtnl_parse_addr("10.9.8.7", "24", &addrs[1], NULL);
	rtnl_parse_addr("fd00::7", "64", &addrs[2], NULL);
	if (rtnl_addrs_set(&nl, links[n - 1].index, addrs, 3, NULL) < 0 ||
	    rtnl_addrs_set(&nl, links[n - 1].index, addrs, 3, NULL) < 0)
		return 4;
	rtnl_parse_cidr("10.20.0.0/16", AF_INET, &route.dest, NULL);
	route.oif = links[n - 1].index;
	if (rtnl_route_set(&nl, &route, NULL) < 0 || rtnl_route_set(&nl, &route, NULL) < 0)
		return 5;
	if (rtnl_addrs_set(&nl, links[n - 1].index, addrs, 1, NULL) < 0)
		return 6;
	route.oif = 12345;
	if (rtnl_route_set(&nl, &route, NULL) >= 0)
		return 7;
	if (rtnl_links(&nl, links, ARRAY_SIZE(links), NULL) < 1 || links[n - 1].mtu != 1400)
		return 8;
	rtnl_close(&nl);
	return 0;
}

static void rtnl_against_the_kernel_sets_and_sets_again(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(against_the_kernel());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("no network namespace to be had here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rtnl_put_aligns_and_counts),
		cmocka_unit_test(rtnl_put_beyond_the_message_changes_nothing),
		cmocka_unit_test(rtnl_parse_addr_takes_prefixes_and_dotted_masks),
		cmocka_unit_test(rtnl_parse_cidr_clears_host_bits),
		cmocka_unit_test(rtnl_parse_mac_is_strict),
		cmocka_unit_test(rtnl_against_the_kernel_sets_and_sets_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
