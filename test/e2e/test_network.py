# SPDX-License-Identifier: Apache-2.0
"""Networks whose truth is in the pod's namespace, made by plugins that mimic those of real clusters: a few lines of shell each."""

import json
import subprocess

from harness import Case, CliError, eventually
from test_stats import go_client

ADDRESS, OUTSIDE = "10.97.64.1", "10.97.100.1"

# A veth pair; what is special comes in between. It answers with what is in $answer.
PLUGIN = """#!/bin/sh
set -e
host=mim$(echo $CNI_CONTAINERID | cut -c1-8)
ns() { nsenter --net=$CNI_NETNS "$@"; }
case $CNI_COMMAND in
ADD)
	ip link add $host type veth peer name $CNI_IFNAME netns $CNI_NETNS
	ip link set $host up
	ns ip link set $CNI_IFNAME up
	ip route add %(address)s/32 dev $host
	mac=$(ip -o link show $host | sed 's/.*ether \\([^ ]*\\).*/\\1/')
%(script)s
	echo '%(answer)s'
	;;
DEL)
	ip link del $host 2>/dev/null || true
	;;
esac
"""


def ip(*args):
    subprocess.run(["ip", *args], check=True)


class Mimics(Case):
    cni = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.plugins = cls.server.dir / "plugins"
        cls.plugins.mkdir()
        cls.server.configure(cni={"bin_dirs": [str(cls.plugins), "/usr/lib/cni"], "conf_dir": cls.server.cni_dir})
        cls.server.stop()
        cls.server.start()
        cls.server.pull()
        ip("addr", "add", OUTSIDE + "/32", "dev", "lo")
        ip("addr", "add", "169.254.1.1/32", "dev", "lo")
        ip("addr", "add", "10.97.65.1/32", "dev", "lo")

    @classmethod
    def tearDownClass(cls):
        for address in (OUTSIDE, "169.254.1.1", "10.97.65.1"):
            ip("addr", "del", address + "/32", "dev", "lo")
        super().tearDownClass()

    def container(self, script, answer, capabilities=(), **fields):
        """A container in a pod whose network the script makes."""
        plugin = self.plugins / "mimic"
        plugin.write_text(PLUGIN % {"address": ADDRESS, "script": script, "answer": json.dumps({"cniVersion": "1.0.0", **answer})})
        plugin.chmod(0o755)
        (self.server.cni_dir / "10-mimic.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "mimic", "plugins": [
                {"type": "mimic", "capabilities": {name: True for name in capabilities}}]}))
        pod = self.server.runp(**fields)
        container = pod.create(command=["sleep", "1000"])
        container.start()
        return container

    def default_mss(self, container):
        """Of the default route: its advmss, or None. busybox's ip does not print it."""
        for line in container.exec("cat", "/proc/net/route").splitlines():
            fields = line.split()
            if fields[1] == "00000000":
                return int(fields[8]) - 40 if int(fields[8]) else None

    def reaches(self, container):
        self.assertIn("1 packets received", container.exec("ping", "-c", "1", "-W", "10", OUTSIDE))

    def test_calico(self):
        """fault N1: a /32, the gateway and the default route stand in the namespace alone; the answer has only `ips`."""
        container = self.container(
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0",
            {"ips": [{"address": ADDRESS + "/32"}]})
        routes = container.exec("ip", "route")
        self.assertIn("default via 169.254.1.1 dev eth0", routes)
        self.assertIn("169.254.1.1 dev eth0 scope link", routes)
        self.reaches(container)

    def test_cilium(self):
        """fault N2: a route to the gateway itself is on the link; the addresses stand in the answer alone. fault N5: a route's advmss."""
        container = self.container("", {
            "ips": [{"address": ADDRESS + "/32", "gateway": "10.97.65.1"}],
            "routes": [{"dst": "10.97.65.1/32"}, {"dst": "0.0.0.0/0", "gw": "10.97.65.1", "advmss": 1260}]})
        self.assertIn("default via 10.97.65.1 dev eth0", container.exec("ip", "route"))
        self.assertEqual(self.default_mss(container), 1260)
        self.reaches(container)

    def test_aws(self):
        """fault N3: the gateway answers no ARP; its neighbour entry is permanent. fault N5: a table, a rule and a route's advmss."""
        container = self.container(
            "echo 8 > /proc/sys/net/ipv4/conf/$host/arp_ignore; "
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0 advmss 1360; "
            "ns ip neigh add 169.254.1.1 lladdr $mac dev eth0 nud permanent; "
            "ns ip route add 10.55.0.0/16 via 169.254.1.1 dev eth0 onlink table 77; "
            f"ns ip rule add from {ADDRESS} to 10.55.0.0/16 table 77 priority 500",
            {"ips": [{"address": ADDRESS + "/32"}]})
        self.reaches(container)
        self.assertEqual(self.default_mss(container), 1360)
        self.assertIn("10.55.0.0/16 via 169.254.1.1 dev eth0", container.exec("ip", "route", "show", "table", "77"))
        self.assertRegex(container.exec("ip", "rule"), f"500:\\s+from {ADDRESS} to 10.55.0.0/16 lookup 77")

    def test_ipv6_off(self):
        """fault N4: net.ipv6.conf.all.disable_ipv6=1 in a network of both families gives a pod with IPv4 alone."""
        container = self.container(
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0; "
            "ns ip addr add fd97::5/64 dev eth0 nodad; ns ip -6 route add default via fd97::1 dev eth0",
            {"ips": [{"address": ADDRESS + "/32"}, {"address": "fd97::5/64", "gateway": "fd97::1"}],
             "routes": [{"dst": "::/0"}]},
            linux={"sysctls": {"net.ipv6.conf.all.disable_ipv6": "1"}})
        self.reaches(container)
        self.assertNotIn("inet6", container.exec("ip", "addr"))

    def test_spoofed(self):
        """fault U: a container with another MAC or another address reaches nobody; with its own again it does."""
        container = self.container(
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0; ip route add 10.97.64.2/32 dev $host",
            {"ips": [{"address": ADDRESS + "/32"}]},
            linux={"security_context": {"privileged": True}})
        pod = container.pod
        root = pod.create(command=["sleep", "1000"], linux={"security_context": {"privileged": True}})
        root.start()
        root.exec("ip", "addr", "add", "10.97.64.2/32", "dev", "eth0")
        self.reaches(root)
        with self.assertRaises(CliError):
            root.exec("ping", "-c", "2", "-W", "3", "-I", "10.97.64.2", OUTSIDE)
        own = root.exec("cat", "/sys/class/net/eth0/address").strip()
        root.exec("ip", "link", "set", "eth0", "address", "02:00:00:00:99:99")
        with self.assertRaises(CliError):
            root.exec("ping", "-c", "2", "-W", "3", OUTSIDE)
        root.exec("ip", "link", "set", "eth0", "address", own)

    def in_netns(self, netns, *args):
        subprocess.run(["nsenter", f"--net={netns}", *args], check=True)

    def netns(self, pod):
        return self.server.run_dir / "netns" / pod.sandbox[:20]

    def pings(self, container, *options):
        try:
            return "1 packets received" in container.exec("ping", "-c", "1", "-W", "3", *options, OUTSIDE)
        except CliError:
            return False

    def becomes(self, container, words, *command):
        eventually(lambda: words in container.exec(*command), 15, f"{' '.join(command)} never says: {words}")

    def loses(self, container, words, *command):
        eventually(lambda: words not in container.exec(*command), 15, f"{' '.join(command)} still says: {words}")

    def test_later_changes(self):
        """faults N1, U: what an agent changes in the namespace later reaches the guest, and what may leave it follows; after a restart of
        the server, too."""
        container = self.container(
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0; ip route add 10.97.64.3/32 dev $host",
            {"ips": [{"address": ADDRESS + "/32"}]})
        netns = self.netns(container.pod)
        self.in_netns(netns, "ip", "route", "add", "10.55.0.0/16", "via", "169.254.1.1", "dev", "eth0", "onlink")
        self.becomes(container, "10.55.0.0/16 via 169.254.1.1", "ip", "route")
        self.in_netns(netns, "ip", "addr", "add", "10.97.64.3/32", "dev", "eth0")
        self.becomes(container, "10.97.64.3/32", "ip", "addr", "show", "dev", "eth0")
        self.assertTrue(self.pings(container, "-I", "10.97.64.3"), "a new address does not get out of the VM")
        self.server.stop()
        self.in_netns(netns, "ip", "route", "del", "10.55.0.0/16")
        self.server.start()
        self.loses(container, "10.55.0.0/16", "ip", "route")
        self.in_netns(netns, "ip", "route", "add", "10.56.0.0/16", "via", "169.254.1.1", "dev", "eth0", "onlink")
        self.becomes(container, "10.56.0.0/16 via 169.254.1.1", "ip", "route")
        self.in_netns(netns, "ip", "addr", "del", "10.97.64.3/32", "dev", "eth0")
        self.loses(container, "10.97.64.3/32", "ip", "addr", "show", "dev", "eth0")
        self.reaches(container)

    def test_two_interfaces(self):
        """fault N1: further interfaces of the namespace reach the guest, those that come later too, and leave it with it; after a restart of
        the server, too."""
        container = self.container(
            f"ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0; "
            "ip link add ${host}b type veth peer name net1 netns $CNI_NETNS; ip link set ${host}b up; "
            "ip addr add 10.97.70.1/24 dev ${host}b; ns ip link set net1 mtu 1400 up; ns ip addr add 10.97.70.5/24 dev net1; "
            "ns ip route add 10.57.0.0/16 via 10.97.70.1",
            {"ips": [{"address": ADDRESS + "/32"}]})
        netns = self.netns(container.pod)
        self.reaches(container)
        self.assertIn("mtu 1400", container.exec("ip", "link", "show", "dev", "net1"))
        self.assertIn("10.57.0.0/16 via 10.97.70.1 dev net1", container.exec("ip", "route"))
        self.assertIn("1 packets received", container.exec("ping", "-c", "1", "-W", "10", "-I", "10.97.70.5", "10.97.70.1"))
        self.server.stop()
        self.in_netns(netns, "ip", "link", "add", "net2", "type", "veth", "peer", "name", "far2")
        self.in_netns(netns, "ip", "link", "set", "net2", "up")
        self.in_netns(netns, "ip", "addr", "add", "10.97.71.5/24", "dev", "net2")
        self.server.start()
        self.becomes(container, "10.97.71.5/24", "ip", "addr")
        self.in_netns(netns, "ip", "link", "del", "net1")
        self.loses(container, "net1", "ip", "link")
        self.assertIn("net2", container.exec("ip", "link"))
        self.reaches(container)

    def test_capabilities(self):
        """fault K5: a plugin gets the capabilities that containerd and CRI-O have a source for, and none that they have none for."""
        told = self.server.dir / "told.json"
        container = self.container(
            f"cat > {told}; ns ip addr add {ADDRESS}/32 dev eth0; ns ip route add 169.254.1.1 dev eth0 scope link; "
            "ns ip route add default via 169.254.1.1 dev eth0",
            {"ips": [{"address": ADDRESS + "/32"}]},
            capabilities=("cgroupPath", "io.kubernetes.cri.pod-annotations", "mac", "ips", "infinibandGUID", "aliases", "deviceID"),
            annotations={"a.b/c": "d"}, linux={"cgroup_parent": self.server.cgroup})
        self.assertEqual(json.loads(told.read_text())["runtimeConfig"], {
            "cgroupPath": self.server.cgroup, "io.kubernetes.cri.pod-annotations": {"a.b/c": "d"}})
        self.reaches(container)

    def test_rules_are_refused(self):
        """Packet filter rules in the namespace, which a VM's traffic would pass by: RunPodSandbox refuses and names the key."""
        with self.refused("FailedPrecondition", "1 nftables", "allow_netns_rules"):
            self.container(
                f"ns ip addr add {ADDRESS}/32 dev eth0; ns nft add table inet t; ns nft add chain inet t c; "
                "ns nft add rule inet t c accept", {"ips": [{"address": ADDRESS + "/32"}]})


class Plugins(Case):
    """The plugins of the CNI project, as Debian has them."""

    cni = False
    BRIDGES = ("crvb1", "crvb2", "crvb3", "crvb4")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What macvlan and ipvlan sit on, and its other end; a device to give away; bridges, which the plugin leaves behind.
        ip("link", "add", "crvpar", "type", "veth", "peer", "name", "crvout")
        ip("link", "add", "crvgive", "type", "veth", "peer", "name", "crvkeep")
        for name in ("crvpar", "crvout", "crvkeep"):
            ip("link", "set", name, "up")
        for address in ("10.98.1.1/24", "10.98.2.1/24"):
            ip("addr", "add", address, "dev", "crvout")
        ip("addr", "add", "10.98.3.1/24", "dev", "crvkeep")
        for name in cls.BRIDGES:
            ip("link", "add", name, "type", "bridge")
        cls.pod_cidr("10.98.39.0/24")  # kept in a file, from now on
        cls.baseline = cls.server.traces()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for name in ("crvpar", "crvgive", *cls.BRIDGES):
            ip("link", "del", name)

    @classmethod
    def pod_cidr(cls, cidr):
        return subprocess.run([go_client(), cls.server.socket, "pod-cidr", cidr], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)

    def container(self, plugin, *subnets, chained=(), fields=None):
        """A container in a pod with addresses of these subnets, whose first is the gateway."""
        ranges = [[{"subnet": subnet, "gateway": subnet.split("/")[0] + "1" if ":" in subnet else subnet.replace(".0/24", ".1")}]
                  for subnet in subnets]
        routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
        ipam = {"type": "host-local", "dataDir": str(self.server.dir / "ipam"), "ranges": ranges, "routes": routes}
        (self.server.cni_dir / "10-plugins.conflist").write_text(json.dumps(
            {"cniVersion": "1.0.0", "name": "plugins", "plugins": [{**plugin, "ipam": ipam}, *chained]}))
        container = self.server.runp(**(fields or {})).create(command=["sleep", "1000"])
        container.start()
        return container

    def pings(self, container, address, *options):
        self.assertIn("1 packets received", container.exec("ping", "-c", "1", "-W", "10", *options, address))

    def mtu(self, container):
        return int(container.exec("cat", "/sys/class/net/eth0/mtu"))

    def test_pod_cidr_of_the_node(self):
        """UpdateRuntimeConfig reaches CNI: pods made after it have addresses of the node's pod CIDR, also of the next server."""
        def address():
            return self.server.runp().ip
        self.assertEqual(self.pod_cidr("10.98.40.0/24").returncode, 0)
        ipam = {"type": "host-local", "dataDir": str(self.server.dir / "ipam"), "routes": [{"dst": "0.0.0.0/0"}]}
        (self.server.cni_dir / "10-plugins.conflist").write_text(json.dumps(
            {"cniVersion": "1.0.0", "name": "plugins", "plugins": [
                {"type": "ptp", "capabilities": {"ipRanges": True}, "ipam": ipam}]}))
        self.assertTrue(address().startswith("10.98.40."))
        self.server.stop()
        self.server.start()
        self.assertTrue(address().startswith("10.98.40."))
        self.assertEqual(self.pod_cidr("10.98.41.0/24").returncode, 0)
        self.assertTrue(address().startswith("10.98.41."))
        self.assertRegex(self.pod_cidr("10.98.42.0/33").stdout, "InvalidArgument.*10.98.42.0/33")
        self.assertTrue(address().startswith("10.98.41."))

    def test_bridge_with_a_small_mtu(self):
        container = self.container({"type": "bridge", "bridge": "crvb1", "isGateway": True, "mtu": 1300}, "10.98.10.0/24")
        self.assertEqual(self.mtu(container), 1300)
        self.pings(container, "10.98.10.1", "-s", "1272")

    def test_bridge_with_a_large_mtu(self):
        container = self.container({"type": "bridge", "bridge": "crvb2", "isGateway": True, "mtu": 9000}, "10.98.11.0/24")
        self.assertEqual(self.mtu(container), 9000)
        self.pings(container, "10.98.11.1", "-s", "8972")

    def test_bridge_with_ipv6_alone(self):
        container = self.container({"type": "bridge", "bridge": "crvb3", "isGateway": True}, "fd98:3::/64")
        self.assertTrue(container.pod.ip.startswith("fd98:3::"), container.pod.ip)
        self.assertNotIn("inet 10.", container.exec("ip", "addr"))
        self.pings(container, "fd98:3::1")

    def test_ptp_with_both_families(self):
        container = self.container({"type": "ptp"}, "10.98.12.0/24", "fd98:4::/64")
        self.pings(container, "10.98.12.1")
        self.pings(container, "fd98:4::1")

    def test_macvlan(self):
        self.pings(self.container({"type": "macvlan", "master": "crvpar", "mode": "bridge"}, "10.98.1.0/24"), "10.98.1.1")

    def test_ipvlan(self):
        made = subprocess.run(["ip", "link", "add", "link", "crvpar", "name", "crvtry", "type", "ipvlan"], stderr=subprocess.PIPE, text=True)
        if made.returncode:
            self.skipTest(f"this kernel makes no ipvlan: {made.stderr.strip()}")
        ip("link", "del", "crvtry")
        self.pings(self.container({"type": "ipvlan", "master": "crvpar", "mode": "l2"}, "10.98.2.0/24"), "10.98.2.1")

    def test_host_device(self):
        self.pings(self.container({"type": "host-device", "device": "crvgive"}, "10.98.3.0/24"), "10.98.3.1")

    def test_chain(self):
        """tuning's sysctl and MTU are the guest's; bandwidth, portmap and firewall do their part on the host."""
        container = self.container(
            {"type": "bridge", "bridge": "crvb4", "isGateway": True}, "10.98.13.0/24",
            chained=[{"type": "tuning", "sysctl": {"net.ipv4.tcp_keepalive_time": "777"}, "mtu": 1380},
                     {"type": "bandwidth", "capabilities": {"bandwidth": True}},
                     {"type": "portmap", "capabilities": {"portMappings": True}},
                     {"type": "firewall", "backend": "iptables"}],
            fields={"annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
                    "port_mappings": [{"host_port": 18080, "container_port": 80}]})
        self.assertEqual(container.exec("cat", "/proc/sys/net/ipv4/tcp_keepalive_time").strip(), "777")
        self.assertEqual(self.mtu(container), 1380)
        self.pings(container, "10.98.13.1")
        qdiscs = subprocess.run(["tc", "qdisc"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.assertIn("tbf", qdiscs)
        self.assertTrue(any("18080" in rule for rule in subprocess.run(
            ["iptables-save", "-t", "nat"], stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()))
        self.assertIn(container.pod.ip, subprocess.run(
            ["iptables-save", "-t", "filter"], stdout=subprocess.PIPE, check=True, text=True).stdout)
