/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CNI with Debian's own plugins (bridge, host-local, portmap, firewall, bandwidth), in network and mount
 * namespaces of its own: the process is the host, a second namespace the pod. Needs root,
 * containernetworking-plugins, iptables and iproute2.
 */
#include "cri/network/cni.h"

#include "base/util.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#define BIN_DIR "/usr/lib/cni"

struct fixture {
	char dir[64], conf[80], cache[80], pod_ns[80], leases[96];
	struct cni *cni;
};

static const struct cni_port ports[] = {{18080, 80, "tcp", NULL}};

static struct cni_pod pod_of(const struct fixture *f)
{
	return (struct cni_pod){.id = "podreal1",
				.ns = "default",
				.name = "web",
				.uid = "u-1",
				.netns = f->pod_ns,
				.ifname = "eth0",
				.ports = ports,
				.n_ports = 1,
				.ingress_bps = 8000000};
}

/* A shell command's exit code; what it prints goes to the test's log. */
static int sh(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

/* The number of lines that a command prints. */
static int lines(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;
	FILE *p;
	int n = 0, c;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	p = popen(cmd, "r");
	assert_non_null(p);
	while ((c = getc(p)) != EOF)
		n += c == '\n';
	pclose(p);
	return n;
}

static void make_pod_ns(const struct fixture *f)
{
	int host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	assert_true(host >= 0);
	assert_int_equal(write_file(f->pod_ns, "", 0, 0600), 0);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	assert_int_equal(mount("/proc/self/ns/net", f->pod_ns, NULL, MS_BIND, NULL), 0);
	assert_int_equal(setns(host, CLONE_NEWNET), 0);
	close_fd(host);
}

/* Runs fn in the pod's network namespace. */
static int in_pod(const struct fixture *f, int (*fn)(struct sockaddr_in *), struct sockaddr_in *addr)
{
	int host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC),
	    pod = open(f->pod_ns, O_RDONLY | O_CLOEXEC), r;

	assert_int_equal(setns(pod, CLONE_NEWNET), 0);
	r = fn(addr);
	assert_int_equal(setns(host, CLONE_NEWNET), 0);
	close_fd(host);
	close_fd(pod);
	return r;
}

/* Listens on addr, whose port is filled in if it was 0. */
static int do_listen(struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*addr);

	assert_int_equal(bind(fd, (struct sockaddr *)addr, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)addr, &len), 0);
	return fd;
}

static int do_connect(struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct timeval limit = {.tv_sec = 10};

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)addr, sizeof(*addr)) < 0)
		fail_msg("connect: %s", strerror(errno));
	return fd;
}

static struct sockaddr_in address(const char *ip, uint16_t port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};

	assert_int_equal(inet_pton(AF_INET, ip, &addr.sin_addr), 1);
	return addr;
}

/* The pod reaches the host, and the host the pod by its port mapping. */
static void assert_connected(const struct fixture *f)
{
	struct sockaddr_in host = address("10.199.7.1", 0), pod = address("0.0.0.0", 80);
	struct sockaddr_in mapped = address("10.199.7.1", 18080);
	int server, client;

	server = do_listen(&host);
	client = in_pod(f, do_connect, &host);
	close_fd(client);
	close_fd(server);
	server = in_pod(f, do_listen, &pod);
	client = do_connect(&mapped);
	close_fd(client);
	close_fd(server);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *bins[] = {(char *)(uintptr_t)BIN_DIR, NULL};
	char *conf CLEANUP_FREE = NULL, *path CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;

	snprintf(f->dir, sizeof(f->dir), "/tmp/test-cni-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->conf, sizeof(f->conf), "%s/conf", f->dir);
	snprintf(f->cache, sizeof(f->cache), "%s/cache", f->dir);
	snprintf(f->pod_ns, sizeof(f->pod_ns), "%s/pod", f->dir);
	snprintf(f->leases, sizeof(f->leases), "%s/leases", f->dir);
	assert_int_equal(mkdir(f->conf, 0700), 0);
	conf = xasprintf(
		"{\"cniVersion\":\"1.0.0\",\"name\":\"testnet\",\"plugins\":["
		"{\"type\":\"bridge\",\"bridge\":\"tbr0\",\"isGateway\":true,\"ipMasq\":true,\"hairpinMode\":"
		"true,"
		"\"ipam\":{\"type\":\"host-local\",\"dataDir\":\"%s\","
		"\"ranges\":[[{\"subnet\":\"10.199.7.0/24\"}]],\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}},"
		"{\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}},"
		"{\"type\":\"firewall\"},"
		"{\"type\":\"bandwidth\",\"capabilities\":{\"bandwidth\":true}}]}",
		f->leases);
	path = xasprintf("%s/10-test.conflist", f->conf);
	assert_int_equal(write_file(path, conf, strlen(conf), 0600), 0);
	assert_int_equal(unshare(CLONE_NEWNET), 0); /* a new host for each test */
	assert_int_equal(sh("ip link set lo up"), 0);
	make_pod_ns(f);
	assert_int_equal(cni_new(bins, f->conf, f->cache, &f->cni, &err), 0);
	if (cni_status(f->cni, &err) < 0)
		fail_msg("%s", err.msg);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cni_free(f->cni);
	umount2(f->pod_ns, MNT_DETACH);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

/* Rules for one address or one pod; chains and rules for the whole network are the plugins' to keep. */
static void assert_nothing_left(const struct fixture *f)
{
	assert_int_equal(lines("ip -o link show type veth"), 0);
	assert_int_equal(lines("ip -o link show type ifb"), 0);
	assert_int_equal(
		lines("iptables-save | grep -e 10.199.7.[1-9] -e 18080 -e podreal1 | grep -v 10.199.7.0/24"),
		0);
	assert_int_equal(lines("ls %s/testnet | grep ^10", f->leases), 0);
	assert_int_equal(lines("ls %s", f->cache), 0);
}

static void add_connects_and_del_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct cni_pod pod = pod_of(f);
	struct cni_result result;
	struct err err = ERR_INIT;

	for (int round = 0; round < 2; round++) {
		if (cni_add(f->cni, &pod, NULL, 0, &result, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(result.n_ips, 1);
		assert_true(str_starts(result.ips[0].address, "10.199.7."));
		assert_string_equal(result.ips[0].gateway, "10.199.7.1");
		assert_string_equal(result.routes[0].dst, "0.0.0.0/0");
		assert_string_equal(result.routes[0].gw, "10.199.7.1");
		assert_int_equal(strlen(result.mac), 17);
		assert_int_equal(lines("nsenter --net=%s ip -o -4 addr show eth0 | grep %s", f->pod_ns,
				       result.ips[0].address),
				 1);
		assert_true(lines("iptables-save -t nat | grep 18080") > 0);
		assert_connected(f);
		cni_result_done(&result);
		if (cni_del(f->cni, &pod, 0, &err) < 0)
			fail_msg("%s", err.msg);
		assert_nothing_left(f);
		assert_int_equal(lines("nsenter --net=%s ip -o link show eth0 2>/dev/null", f->pod_ns), 0);
	}
}

/* Without ports: portmap 1.1.1 wants IPv6 rules in CHECK that it never made for an IPv4 pod. */
static void check_sees_what_is_missing(void **state)
{
	struct fixture *f = *state;
	struct cni_pod pod = pod_of(f);
	struct cni_result result;
	struct err err = ERR_INIT;

	pod.n_ports = 0;
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	if (cni_check(f->cni, pod.id, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(sh("nsenter --net=%s ip route del default", f->pod_ns), 0);
	assert_true(cni_check(f->cni, pod.id, 0, &err) < 0);
	assert_non_null(strstr(err.msg, "network \"testnet\": plugin \"bridge\": CHECK failed: "));
	assert_int_equal(cni_del(f->cni, &pod, 0, &err), 0);
	assert_nothing_left(f);
}

/* The masquerading rule stays, for bridge looks for it by the address of an interface that is no more. */
static void del_with_the_netns_gone_frees_the_rest(void **state)
{
	struct fixture *f = *state;
	struct cni_pod pod = pod_of(f);
	struct cni_result result;
	struct err err = ERR_INIT;

	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_int_equal(umount2(f->pod_ns, MNT_DETACH), 0);
	assert_int_equal(unlink(f->pod_ns), 0);
	if (cni_del(f->cni, &pod, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(lines("ls %s/testnet | grep ^10", f->leases), 0);
	assert_int_equal(lines("iptables-save | grep 18080"), 0);
	assert_int_equal(lines("ls %s", f->cache), 0);
}

/*
 * Fault K4: with a plain file where the namespace was, DEL succeeds at the first try and frees the address.
 */
static void del_with_a_plain_file_for_the_netns_frees_the_rest(void **state)
{
	struct fixture *f = *state;
	struct cni_pod pod = pod_of(f);
	struct cni_result result;
	struct err err = ERR_INIT;

	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_int_equal(umount2(f->pod_ns, MNT_DETACH), 0);
	assert_int_equal(access(f->pod_ns, F_OK), 0);
	if (cni_del(f->cni, &pod, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(lines("ls %s/testnet | grep ^10", f->leases), 0);
	assert_int_equal(lines("ls %s", f->cache), 0);
}

static void add_addresses_run_out_is_told_and_undone(void **state)
{
	struct fixture *f = *state;
	struct cni_pod pod = pod_of(f);
	char *path CLEANUP_FREE = xasprintf("%s/10-test.conflist", f->conf);
	char *conf CLEANUP_FREE =
		xasprintf("{\"cniVersion\":\"1.0.0\",\"name\":\"testnet\",\"plugins\":[{\"type\":\"bridge\","
			  "\"bridge\":\"tbr0\","
			  "\"ipam\":{\"type\":\"host-local\",\"dataDir\":\"%s\",\"ranges\":[[{\"subnet\":"
			  "\"10.199.8.0/24\","
			  "\"rangeStart\":\"10.199.8.9\",\"rangeEnd\":\"10.199.8.9\"}]]}}]}",
			  f->leases);
	struct cni_result result;
	struct err err = ERR_INIT;

	assert_int_equal(write_file(path, conf, strlen(conf), 0600), 0);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	pod.id = "podreal2";
	pod.ifname = "eth1";
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), -EIO);
	assert_non_null(strstr(err.msg, "network \"testnet\": plugin \"bridge\": ADD failed: "));
	assert_non_null(strstr(err.msg, "no IP addresses available"));
	assert_int_equal(lines("nsenter --net=%s ip -o link show eth1 2>/dev/null", f->pod_ns), 0);
	pod.id = "podreal1";
	pod.ifname = "eth0";
	assert_int_equal(cni_del(f->cni, &pod, 0, &err), 0);
	assert_nothing_left(f);
}

static int enter_own_namespaces(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("this test needs root\n");
		return -1;
	}
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	assert_int_equal(mount("tmpfs", "/run", "tmpfs", 0, NULL), 0); /* iptables' lock */
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(add_connects_and_del_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(check_sees_what_is_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(del_with_the_netns_gone_frees_the_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(del_with_a_plain_file_for_the_netns_frees_the_rest, setup,
						teardown),
		cmocka_unit_test_setup_teardown(add_addresses_run_out_is_told_and_undone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, enter_own_namespaces, NULL);
}
