/* SPDX-License-Identifier: Apache-2.0 */
/* check_net.c: whether a pod's VM can be joined to a network here, and whether there is one. */
#include "cri/health/check.h"

#include "base/util.h"
#include "cri/network/cni.h"
#include "vmm/network.h"

/* ---- taps ---------------------------------------------------------------------------------------------- */

static void cannot_tell(struct check *check, const char *why, const char *fix)
{
	check_add(check, "tap", CHECK_NOTE, fix, "unknown without %s", why);
	check_add(check, "tap-redirect", CHECK_NOTE, fix, "unknown without %s", why);
}

/*
 * Whether the kernel has what taps need shows only when it is asked to make it. That is done in a network
 * namespace that nobody holds, which takes root; without, nothing is claimed.
 */
static void check_taps(struct check *check)
{
	struct err err = ERR_INIT;
	int r;

	if (!check->privileged) {
		if (geteuid() == 0)
			cannot_tell(check, "CAP_SYS_ADMIN and CAP_NET_ADMIN",
				    "run it as root outside of a container");
		else
			cannot_tell(check, "root", "run it as root");
		return;
	}
	r = vmm_netns_try(&err);
	if (r < 0) {
		check_add(check, "netns", CHECK_MISSING,
			  r == -ENOSPC ? "sysctl -w user.max_net_namespaces=1024 or more"
				       : "a kernel with CONFIG_NET_NS; in a container, allow unshare(2)",
			  "%s", err.msg);
		cannot_tell(check, "a network namespace", "fix that first");
		return;
	}
	check_ok(check, "netns", "network namespaces can be made");
	if (vmm_tap_try(&err) == 0)
		check_ok(check, "tap", "/dev/net/tun makes taps");
	else
		check_add(check, "tap", CHECK_MISSING,
			  "modprobe tun, and a line in /etc/modules-load.d; in a container, pass "
			  "/dev/net/tun in and allow it",
			  "%s", err.msg);
	err = ERR_INIT;
	if (vmm_redirect_try(&err) == 0)
		check_ok(check, "tap-redirect",
			 "the kernel redirects frames (sch_ingress, cls_u32, act_mirred)");
	else
		check_add(check, "tap-redirect", CHECK_MISSING,
			  "modprobe -a sch_ingress cls_u32 act_mirred, or a kernel with "
			  "CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
			  "joining a tap to the pod's interface: %s", err.msg);
}

/* ---- CNI ----------------------------------------------------------------------------------------------- */

static void check_plugin(struct check *check, const char *type)
{
	char *id CLEANUP_FREE = xasprintf("cni-plugin-%s", type), *path CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;

	if (!id) {
		check->oom = true;
		return;
	}
	if (cni_program_find(check->config->cni.bin_dirs, type, &path, &err) < 0)
		check_add(check, id, CHECK_MISSING,
			  "apt install containernetworking-plugins, or [cni] bin_dirs = where it is", "%s",
			  err.msg);
	else
		check_ok(check, id, "%s", path);
}

static void check_iptables(struct check *check)
{
	char path[512];

	if (find_program("iptables", path, sizeof(path)) == 0)
		check_ok(check, "iptables", "%s", path);
	else
		check_add(
			check, "iptables", CHECK_MISSING, "apt install iptables",
			"not in PATH, and a plugin of the pod network calls it (ipMasq, portmap, firewall)");
}

static void check_ports(struct check *check, const struct cni_look *look)
{
	static const char fix[] =
		"{\"type\": \"portmap\", \"snat\": true, \"capabilities\": {\"portMappings\": true}} "
		"as the last plugin of the pod network";
	uint64_t local = 0;

	/*
	 * Frames from 127.0.0.1 leave for a pod only where route_localnet allows it. portmap with snat
	 * switches that on for its own interface, and so the sysctl for all matters without it alone.
	 */
	check_read_number(check, "/proc/sys/net/ipv4/conf/all/route_localnet", &local);
	if (!look->ports)
		check_add(check, "host-ports", CHECK_NOTE, fix,
			  "no plugin of the pod network takes portMappings: hostPort has no effect");
	else if (!look->local_ports && !local)
		check_add(check, "host-ports", CHECK_NOTE, fix,
			  "hostPorts may not answer on 127.0.0.1: no portmap with snat, and "
			  "net.ipv4.conf.all.route_localnet is 0");
	else
		check_ok(check, "host-ports", "mapped, on 127.0.0.1 too");
}

/* The server leaves it alone, and so do most plugins; bridge switches it on where it is the pods' gateway. */
static void check_forwarding(struct check *check, const struct cni_look *look)
{
	uint64_t on;

	if (check_read_number(check, "/proc/sys/net/ipv4/ip_forward", &on) < 0)
		return;
	if (on || look->forwards)
		check_ok(check, "ip-forward", "net.ipv4.ip_forward is %s",
			 on ? "1" : "0 until the first pod's bridge");
	else
		check_add(check, "ip-forward", CHECK_NOTE,
			  "sysctl -w net.ipv4.ip_forward=1, and a line in /etc/sysctl.d",
			  "net.ipv4.ip_forward is 0: unless its plugin switches it on, pods reach this host "
			  "only");
}

static void check_cni(struct check *check)
{
	struct cni_look look;
	struct err err = ERR_INIT;

	if (cni_look(check->config->cni.conf_dir, &look, &err) < 0) {
		check_add(
			check, "pod-network", CHECK_MISSING,
			look.file
				? "correct that file, which is the first of [cni] conf_dir by name"
				: "copy deploy/cni/10-crivisor.conflist (of the package: "
				  "/usr/share/doc/crivisor/examples) to [cni] conf_dir, or install a network "
				  "add-on",
			"%s", err.msg);
		cni_look_done(&look);
		return;
	}
	check_ok(check, "pod-network", "\"%s\" of %s", look.network, look.file);
	for (char **program = look.programs; *program; program++)
		check_plugin(check, *program);
	if (look.iptables)
		check_iptables(check);
	check_ports(check, &look);
	check_forwarding(check, &look);
	cni_look_done(&look);
}

void check_net(struct check *check)
{
	check_taps(check);
	check_cni(check);
}
