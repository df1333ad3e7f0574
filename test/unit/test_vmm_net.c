/* SPDX-License-Identifier: Apache-2.0 */
/* Network namespaces and taps, in namespaces of the test's own. Needs root, /dev/net/tun and ip(8). */
#include "base/util.h"
#include "vmm/driver_internal.h"
#include "vmm/network.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

static char dir[] = "/tmp/crvtest-net-XXXXXX", ns[64];

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(ns, sizeof(ns), "%s/ns", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vmm_netns_destroy(ns, NULL);
	return rmdir(dir);
}

/* Runs a shell command inside the namespace; its output. */
static char *in_ns(const char *command)
{
	static char out[8192];
	char arg[128];
	char *argv[] = {(char *)(uintptr_t) "nsenter", arg,
			(char *)(uintptr_t) "sh",      (char *)(uintptr_t) "-c",
			(char *)(uintptr_t)command,    NULL};
	struct vmm_run run = {.argv = argv, .out = out, .out_size = sizeof(out)};

	snprintf(arg, sizeof(arg), "--net=%s", ns);
	if (vmm_run(&run, now_monotonic_ns() + 10 * NS_PER_SEC) != 0)
		fail_msg("failed: %s", command);
	return out;
}

static void netns_create_is_whole_and_destroy_repeats(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (vmm_netns_create(ns, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(vmm_netns_create(ns, &err), -EEXIST);
	assert_non_null(strstr(in_ns("ip -o link show lo"), "UP"));
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
	assert_int_equal(access(ns, F_OK), -1);
	/* After a crash between file and mount there is a plain file; it is removed as well. */
	assert_int_equal(write_file(ns, "", 0, 0600), 0);
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, &err), -EINVAL);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
	assert_int_equal(access(ns, F_OK), -1);
}

static void tap_join_redirects_both_ways_and_repeats(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 0x17};
	struct vmm_if_info info = {0};
	struct err err = ERR_INIT;
	int fd;

	(void)state;
	assert_int_equal(vmm_netns_create(ns, &err), 0);
	in_ns("ip link add eth0 address 02:00:00:00:00:17 mtu 1400 type veth peer name peer0 && ip link set "
	      "peer0 up && "
	      "ip link set eth0 up && ip addr add 10.9.8.7/24 dev eth0 && ip addr add fd00::7/64 dev eth0");
	if (vmm_tap_create(ns, "tap0", 65521, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, &err), -EEXIST);
	fd = tap_open(ns, "tap0", &err);
	if (fd < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(tap_open(ns, "tap9", &err), -ENODEV);
	for (int i = 0; i < 2; i++) {
		if (vmm_tap_join(ns, "tap0", "eth0", &info, &err) < 0)
			fail_msg("%s", err.msg);
		assert_memory_equal(info.mac, mac, 6);
		assert_int_equal(info.mtu, 1400);
		assert_non_null(
			strstr(in_ns("tc filter show dev eth0 ingress"), "Egress Redirect to device tap0"));
		assert_non_null(
			strstr(in_ns("tc filter show dev tap0 ingress"), "Egress Redirect to device eth0"));
		/* CNI's CHECK and DEL look for them. */
		assert_non_null(strstr(in_ns("ip -4 addr show eth0"), "10.9.8.7"));
		assert_non_null(strstr(in_ns("ip -6 addr show eth0"), "fd00"));
	}
	assert_int_equal(vmm_tap_join(ns, "tap0", "eth7", &info, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "eth7"));
	close_fd(fd);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
}

static void tap_join_carries_frames(void **state)
{
	/*
	 * Ethernet broadcast with an unused type: out of the peer, into eth0's ingress, out of the tap's
	 * queue.
	 */
	unsigned char frame[10 + 60] = {0}, got[2048];
	struct vmm_if_info info;
	struct err err = ERR_INIT;
	ssize_t n = -1;
	int fd;

	(void)state;
	assert_int_equal(vmm_netns_create(ns, &err), 0);
	in_ns("ip link add eth0 type veth peer name peer0 && ip link set peer0 up && ip link set eth0 up");
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, &err), 0);
	fd = tap_open(ns, "tap0", &err);
	assert_true(fd >= 0);
	if (vmm_tap_join(ns, "tap0", "eth0", &info, &err) < 0)
		fail_msg("%s", err.msg);
	memset(frame + 10, 0xff, 6);
	frame[10 + 6] = 2;
	frame[10 + 12] = 0x88;
	frame[10 + 13] = 0xb5; /* IEEE 802 local experimental */
	/* From the guest: written to the tap, counted at the peer. */
	assert_int_equal(write(fd, frame, sizeof(frame)), sizeof(frame));
	assert_true(strtoul(in_ns("cat /proc/net/dev | sed -n 's/.*peer0: *[0-9]* *\\([0-9]*\\).*/\\1/p'"),
			    NULL, 10) > 0);
	/* From the wire: raise the peer (it sends IPv6 solicitations) and read the frame from the tap. */
	in_ns("ip addr add 10.9.8.1/24 dev peer0; ip neigh flush all; ping -c 1 -W 1 10.9.8.7 >/dev/null "
	      "2>&1; true");
	for (int i = 0; i < 50 && n <= 0; i++) {
		n = read(fd, got, sizeof(got));
		if (n < 0)
			usleep(20000);
	}
	assert_true(n > 14);
	close_fd(fd);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(netns_create_is_whole_and_destroy_repeats),
		cmocka_unit_test(tap_join_redirects_both_ways_and_repeats),
		cmocka_unit_test(tap_join_carries_frames),
	};

	return cmocka_run_group_tests_name("vmm_net", tests, setup, teardown);
}
