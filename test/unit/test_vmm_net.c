/* SPDX-License-Identifier: Apache-2.0 */
/* Network namespaces and taps, in namespaces of the test's own. Needs root, /dev/net/tun and ip(8). */
#include "base/util.h"
#include "vmm/driver_internal.h"
#include "vmm/netns_internal.h"
#include "vmm/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
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
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), -EINVAL);
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
	if (vmm_tap_create(ns, "tap0", 65521, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), -EEXIST);
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
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), 0);
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

/* ---- what may leave a VM ------------------------------------------------------------------------------- */

#define FRAME_MAX 256
#define MAC	  "\x02\0\0\0\0\x17"
#define OTHER_MAC "\x02\0\0\0\0\x18"
#define TAP_MAC	  "\x02\0\0\0\0\xaa"
#define ALL	  "\xff\xff\xff\xff\xff\xff"

struct frame {
	unsigned char bytes[FRAME_MAX];
	size_t len;
};

static void put(struct frame *f, const void *bytes, size_t len)
{
	assert_true(f->len + len <= sizeof(f->bytes));
	memcpy(f->bytes + f->len, bytes, len);
	f->len += len;
}

static struct frame ether(const char *to, const char *from, uint16_t protocol)
{
	struct frame f = {.len = 10}; /* the virtio header */
	uint16_t be = htons(protocol);

	put(&f, to, 6);
	put(&f, from, 6);
	put(&f, &be, 2);
	return f;
}

static struct frame ipv4(const char *mac, const char *source, unsigned char protocol, uint16_t port)
{
	struct frame f = ether(ALL, mac, 0x0800);
	unsigned char ip[28] = {0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol};

	inet_pton(AF_INET, source, ip + 12);
	inet_pton(AF_INET, protocol == 2 ? "224.0.0.22" : "255.255.255.255", ip + 16);
	ip[21] = 68;
	ip[22] = (unsigned char)(port >> 8);
	ip[23] = (unsigned char)port;
	put(&f, ip, sizeof(ip));
	return f;
}

static struct frame arp(const char *mac, const char *sender_mac, unsigned char op, const char *sender)
{
	struct frame f = ether(ALL, mac, 0x0806);
	unsigned char body[28] = {0, 1, 8, 0, 6, 4, 0, op};

	memcpy(body + 8, sender_mac, 6);
	inet_pton(AF_INET, sender, body + 14);
	put(&f, body, sizeof(body));
	return f;
}

/* An ICMPv6 message, behind a header of 8 bytes unless `before` is 58. */
static struct frame ipv6(const char *mac, const char *source, const char *to, unsigned char before,
			 unsigned char type, const char *target)
{
	struct frame f = ether(ALL, mac, 0x86dd);
	unsigned char ip[40] = {0x60, 0, 0, 0, 0, before == 58 ? 24 : 32, before, 255}, icmp[24] = {type};
	const unsigned char extension[8] = {58, 0, 5, 2, 0, 0, 1, 0};

	inet_pton(AF_INET6, source, ip + 8);
	inet_pton(AF_INET6, to, ip + 24);
	inet_pton(AF_INET6, target, icmp + 8);
	put(&f, ip, sizeof(ip));
	if (before != 58)
		put(&f, extension, sizeof(extension));
	put(&f, icmp, sizeof(icmp));
	return f;
}

static struct frame other(uint16_t protocol)
{
	static const unsigned char body[46] = {0, 5, 0x88, 0xb5, 1};
	struct frame f = ether(ALL, MAC, protocol);

	put(&f, body, sizeof(body));
	return f;
}

static int peer_socket(void *arg, struct err *err)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_ALL),
				 .sll_ifindex = (int)if_nametoindex("peer0")};

	(void)arg;
	(void)err;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

/* Takes what the peer has received until the frame, or for `ms`. */
static bool arrives(int peer, const struct frame *f, int ms)
{
	int64_t until = now_monotonic_ns() + ms * NS_PER_MS;
	size_t tag = f->bytes[22] == 0x81 ? 4 : 0;

	while (now_monotonic_ns() < until) {
		struct pollfd p = {.fd = peer, .events = POLLIN};
		struct sockaddr_ll from = {0};
		socklen_t len = sizeof(from);
		unsigned char got[2048];
		ssize_t n;

		if (poll(&p, 1, 10) != 1)
			continue;
		n = recvfrom(peer, got, sizeof(got), MSG_DONTWAIT, (struct sockaddr *)&from, &len);
		if (from.sll_pkttype == PACKET_OUTGOING || n < (ssize_t)(f->len - 10 - tag))
			continue;
		/* The kernel takes a VLAN tag out of the frame. */
		if (memcmp(got, f->bytes + 10, 12) == 0 &&
		    memcmp(got + 12, f->bytes + 22 + tag, f->len - 22 - tag) == 0)
			return true;
	}
	return false;
}

/*
 * Fault U: with the filter a frame leaves the VM only with the pod's MAC and addresses; ARP and neighbour
 * advertisements are held to them too; ARP probes, duplicate address detection, the link-local address, MLD,
 * IGMP and DHCP pass.
 */
static void tap_filter_passes_only_the_pods_own_addresses(void **state)
{
	static const char *const addresses[] = {"10.9.8.7", "fd00::7"};
	static const char *const ll = "fe80::ff:fe00:17", *const everyone = "ff02::1";
	const struct {
		const char *what;
		bool passes;
		struct frame frame;
	} cases[] = {
		{"IPv4 from its address", true, ipv4(MAC, "10.9.8.7", 17, 53)},
		{"IPv4 from another", false, ipv4(MAC, "10.9.8.8", 17, 53)},
		{"IPv4 from another MAC", false, ipv4(OTHER_MAC, "10.9.8.7", 17, 53)},
		{"IPv4 from 0.0.0.0", false, ipv4(MAC, "0.0.0.0", 17, 53)},
		{"IPv4 from loopback", false, ipv4(MAC, "127.0.0.1", 17, 53)},
		{"DHCP", true, ipv4(MAC, "0.0.0.0", 17, 67)},
		{"DHCP from another MAC", false, ipv4(OTHER_MAC, "0.0.0.0", 17, 67)},
		{"IGMP", true, ipv4(MAC, "0.0.0.0", 2, 0)},
		{"ARP request", true, arp(MAC, MAC, 1, "10.9.8.7")},
		{"ARP reply", true, arp(MAC, MAC, 2, "10.9.8.7")},
		{"ARP probe", true, arp(MAC, MAC, 1, "0.0.0.0")},
		{"ARP reply for 0.0.0.0", false, arp(MAC, MAC, 2, "0.0.0.0")},
		{"ARP request of the gateway", false, arp(MAC, MAC, 1, "10.9.8.1")},
		{"ARP reply of the gateway", false, arp(MAC, MAC, 2, "10.9.8.1")},
		{"ARP reply with another MAC inside", false, arp(MAC, OTHER_MAC, 2, "10.9.8.7")},
		{"ARP from another MAC", false, arp(OTHER_MAC, MAC, 2, "10.9.8.7")},
		{"solicitation", true, ipv6(MAC, "fd00::7", everyone, 58, 135, "fd00::1")},
		{"solicitation from link-local", true, ipv6(MAC, ll, everyone, 58, 135, "fd00::1")},
		{"solicitation from another", false, ipv6(MAC, "fd00::8", everyone, 58, 135, "fd00::1")},
		{"solicitation from another link-local", false,
		 ipv6(MAC, "fe80::1", everyone, 58, 135, "fd00::1")},
		{"solicitation from another MAC", false, ipv6(OTHER_MAC, ll, everyone, 58, 135, "fd00::1")},
		{"duplicate address detection", true, ipv6(MAC, "::", "ff02::1:ff00:7", 58, 135, "fd00::7")},
		{"from :: to one", false, ipv6(MAC, "::", "fd00::1", 58, 135, "fd00::7")},
		{"MLD", true, ipv6(MAC, "::", "ff02::16", 0, 143, "::")},
		{"MLD from link-local", true, ipv6(MAC, ll, "ff02::16", 0, 143, "::")},
		{"advertisement", true, ipv6(MAC, "fd00::7", everyone, 58, 136, "fd00::7")},
		{"advertisement of link-local", true, ipv6(MAC, ll, everyone, 58, 136, ll)},
		{"advertisement of another", false, ipv6(MAC, "fd00::7", everyone, 58, 136, "fd00::1")},
		{"the same behind hop-by-hop", false, ipv6(MAC, "fd00::7", everyone, 0, 136, "fd00::1")},
		{"the same behind destination options", false,
		 ipv6(MAC, "fd00::7", everyone, 60, 136, "fd00::1")},
		{"router advertisement", false, ipv6(MAC, ll, everyone, 58, 134, "::")},
		{"redirect", false, ipv6(MAC, ll, everyone, 58, 137, "fd00::1")},
		{"echo request", true, ipv6(MAC, "fd00::7", "fd00::1", 58, 128, "::")},
		{"another protocol", false, other(0x88b5)},
		{"a VLAN tag", false, other(0x8100)},
	};
	const struct frame last = ipv4(MAC, "10.9.8.7", 17, 9999);
	struct vmm_if_info info;
	struct err err = ERR_INIT;
	int fd, peer;

	(void)state;
	assert_int_equal(vmm_netns_create(ns, &err), 0);
	in_ns("ip link add eth0 address 02:00:00:00:00:17 type veth peer name peer0; ip link set peer0 up; "
	      "ip link "
	      "set eth0 up");
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), 0);
	fd = tap_open(ns, "tap0", &err);
	peer = netns_run(ns, peer_socket, NULL, &err);
	assert_true(fd >= 0 && peer >= 0);
	if (vmm_tap_join(ns, "tap0", "eth0", &info, &err) < 0)
		fail_msg("%s", err.msg);
	/* Without the filter all of them pass: the frames are sound. */
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(write(fd, cases[i].frame.bytes, cases[i].frame.len), cases[i].frame.len);
		if (!arrives(peer, &cases[i].frame, 2000))
			fail_msg("%s: does not pass without the filter", cases[i].what);
	}
	/* Twice: it replaces itself. */
	if (vmm_tap_filter(ns, "tap0", "eth0", addresses, 1, &err) < 0 ||
	    vmm_tap_filter(ns, "tap0", "eth0", addresses, 2, &err) < 0)
		fail_msg("%s", err.msg);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(write(fd, cases[i].frame.bytes, cases[i].frame.len), cases[i].frame.len);
		if (arrives(peer, &cases[i].frame, cases[i].passes ? 2000 : 30) != cases[i].passes)
			fail_msg("%s: %s", cases[i].what, cases[i].passes ? "is dropped" : "passes");
	}
	assert_int_equal(write(fd, last.bytes, last.len), last.len);
	assert_true(arrives(peer, &last, 2000));
	close_fd(peer);
	close_fd(fd);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
}

/* To the namespace's own address, in a frame that its stack would take. */
static struct frame echo(const char *mac, const char *source, unsigned char protocol)
{
	struct frame f = ether(TAP_MAC, mac, 0x0800);
	unsigned char ip[36] = {0x45, 0, 0, 36, 0, 0, 0, 0, 64, protocol};
	uint32_t sum = 0;

	inet_pton(AF_INET, source, ip + 12);
	inet_pton(AF_INET, "10.9.8.7", ip + 16);
	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	ip[10] = (unsigned char)(sum >> 8);
	ip[11] = (unsigned char)sum;
	if (protocol == 1) { /* an echo request, of zeros */
		ip[20] = 8;
		ip[22] = 0xf7;
		ip[23] = 0xff;
	} else { /* UDP to a port where nobody listens, without a checksum */
		ip[21] = 99;
		ip[23] = 9;
		ip[25] = 16;
	}
	put(&f, ip, sizeof(ip));
	return f;
}

static struct frame who_has(const char *mac, const char *sender)
{
	struct frame f = arp(mac, mac, 1, sender);

	inet_pton(AF_INET, "10.9.8.7", f.bytes + f.len - 4);
	return f;
}

/*
 * A frame of the namespace's own comes out at the tap or at eth0's far end. IPv6 is at work on eth0 anyway.
 */
static bool is_answered(int tap, int peer, int ms)
{
	int64_t until = now_monotonic_ns() + ms * NS_PER_MS;

	while (now_monotonic_ns() < until) {
		struct pollfd p[] = {{.fd = tap, .events = POLLIN}, {.fd = peer, .events = POLLIN}};
		struct sockaddr_ll from = {0};
		socklen_t len = sizeof(from);
		unsigned char got[2048];

		if (poll(p, 2, 10) < 1)
			continue;
		if (read(tap, got, sizeof(got)) >= 24 && memcmp(got + 16, TAP_MAC, 6) == 0)
			return true;
		if (recvfrom(peer, got, sizeof(got), MSG_DONTWAIT, (struct sockaddr *)&from, &len) >= 14 &&
		    from.sll_pkttype != PACKET_OUTGOING && got[12] == 0x08)
			return true;
	}
	return false;
}

/*
 * Fault U: what is not redirected is dropped. The namespace's own stack, which has the pod's addresses,
 * answers none of it.
 */
static void tap_filter_leaves_nothing_to_the_namespaces_own_stack(void **state)
{
	static const char *const addresses[] = {"10.9.8.7", "fd00::7"};
	const struct {
		const char *what;
		struct frame frame;
	} cases[] = {
		{"echo from another address of the subnet", echo(MAC, "10.9.8.8", 1)},
		{"echo with another MAC", echo(OTHER_MAC, "10.9.8.7", 1)},
		{"echo from elsewhere", echo(MAC, "10.77.0.1", 1)},
		{"echo from loopback", echo(MAC, "127.0.0.1", 1)},
		{"UDP from another address of the subnet", echo(MAC, "10.9.8.8", 17)},
		{"UDP from elsewhere", echo(MAC, "10.77.0.1", 17)},
		{"ARP from another address of the subnet", who_has(MAC, "10.9.8.8")},
		{"ARP from elsewhere", who_has(MAC, "10.77.0.1")},
		{"ARP with another MAC", who_has(OTHER_MAC, "10.9.8.7")},
		{"neighbour solicitation", ipv6(MAC, "fd00::8", "ff02::1:ff00:7", 58, 135, "fd00::7")},
	};
	struct vmm_if_info info;
	struct err err = ERR_INIT;
	int fd, peer;

	(void)state;
	assert_int_equal(vmm_netns_create(ns, &err), 0);
	in_ns("ip link add eth0 address 02:00:00:00:00:17 type veth peer name peer0; ip link set peer0 up; "
	      "ip link set eth0 up; ip addr add 10.9.8.7/24 dev eth0; ip addr add fd00::7/64 dev eth0 nodad");
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), 0);
	in_ns("ip link set tap0 address 02:00:00:00:00:aa");
	fd = tap_open(ns, "tap0", &err);
	peer = netns_run(ns, peer_socket, NULL, &err);
	assert_true(fd >= 0 && peer >= 0);
	if (vmm_tap_join(ns, "tap0", "eth0", &info, &err) < 0 ||
	    vmm_tap_filter(ns, "tap0", "eth0", addresses, 2, &err) < 0)
		fail_msg("%s", err.msg);
	(void)is_answered(fd, peer, 100); /* what was under way */
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(write(fd, cases[i].frame.bytes, cases[i].frame.len), cases[i].frame.len);
		if (is_answered(fd, peer, 100))
			fail_msg("%s: is answered", cases[i].what);
	}
	/* The frames are sound: a tap that is not shut answers. */
	in_ns("for i in all tap0; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; "
	      "echo 0 >/proc/sys/net/ipv4/conf/$i/arp_ignore; done; ip route add 10.77.0.0/16 dev tap0");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (!strstr(cases[i].what, "elsewhere"))
			continue;
		assert_int_equal(write(fd, cases[i].frame.bytes, cases[i].frame.len), cases[i].frame.len);
		if (!is_answered(fd, peer, 2000))
			fail_msg("%s: is not answered by a tap that is not shut", cases[i].what);
	}
	close_fd(peer);
	close_fd(fd);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
}

static void tap_filter_refuses_what_is_no_address(void **state)
{
	static const char *const addresses[] = {"10.9.8.7/24"};
	struct vmm_if_info info;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(vmm_netns_create(ns, &err), 0);
	in_ns("ip link add eth0 type veth peer name peer0");
	assert_int_equal(vmm_tap_create(ns, "tap0", 1500, 0, &err), 0);
	assert_int_equal(vmm_tap_join(ns, "tap0", "eth0", &info, &err), 0);
	assert_int_equal(vmm_tap_filter(ns, "tap0", "eth0", addresses, 1, &err), -EINVAL);
	assert_int_equal(vmm_tap_filter(ns, "tap0", "eth7", addresses, 0, &err), -ENODEV);
	assert_int_equal(vmm_netns_destroy(ns, &err), 0);
}

static void tap_and_redirect_can_be_tried(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (vmm_tap_try(&err) < 0 || vmm_redirect_try(&err) < 0)
		fail_msg("%s", err.msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(netns_create_is_whole_and_destroy_repeats),
		cmocka_unit_test(tap_join_redirects_both_ways_and_repeats),
		cmocka_unit_test(tap_join_carries_frames),
		cmocka_unit_test(tap_filter_passes_only_the_pods_own_addresses),
		cmocka_unit_test(tap_filter_leaves_nothing_to_the_namespaces_own_stack),
		cmocka_unit_test(tap_filter_refuses_what_is_no_address),
		cmocka_unit_test(tap_and_redirect_can_be_tried),
	};

	return cmocka_run_group_tests_name("vmm_net", tests, setup, teardown);
}
