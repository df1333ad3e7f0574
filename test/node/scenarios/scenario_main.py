# SPDX-License-Identifier: Apache-2.0
"""The main job in a node by crictl, and checks on the host while it runs."""

import json
import os
import pathlib
import subprocess
import unittest

from confinement import assert_confined, assert_limits
from harness import GUEST_IMAGE, KERNEL, HTTPD, http_get, eventually, rows
from vmmctl import AGENT_PORT, dial_hybrid, dial_vsock
import test_a_main
import ttrpc

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
CLH = DRIVER == "cloud-hypervisor"
PROGRAM = "cloud-hypervisor" if CLH else "qemu-system-x86_64"


def command_lines(server):
    """Command line and pid of each process of the server's pods, by the program's name."""
    found = {}
    for pid in server.processes():
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        found.setdefault(os.path.basename(argv[0]), []).append((pid, argv))
    return found


class MainJob(test_a_main.MainJob):
    """Every step of the main job (test/e2e/test_a_main.py), with checks on the host between them."""

    def vmm(self):
        return command_lines(self.server)[PROGRAM][0]

    @rows("A1")
    def test_05a_the_server_says_which_driver_and_why(self):
        log = self.server.log.read_text()
        self.assertRegex(log, rf"{DRIVER}.*KVM")

    @unittest.skipUnless(CLH, "the described command line is Cloud Hypervisor's")
    @rows("A2", "A3", "A4")
    def test_05b_command_line(self):
        self.need(self.pod)
        _, argv = self.vmm()
        options = [a for a in argv if a.startswith("--")]
        value = {o: argv[argv.index(o) + 1] for o in options if argv.index(o) + 1 < len(argv)}
        order = ["--api-socket", "--cpus", "--memory", "--kernel", "--cmdline", "--pmem", "--rng", "--vsock", "--console", "--fs"]
        places = [argv.index(o) for o in order]
        self.assertEqual(places, sorted(places), argv)
        self.assertRegex(value["--cpus"], r"^boot=1(,|$)")
        self.assertRegex(value["--memory"], r"^size=\d+,shared=on")
        self.assertEqual(value["--kernel"], str(KERNEL))
        self.assertEqual(value["--pmem"], f"file={GUEST_IMAGE},id=rootfs,discard_writes=on")
        self.assertRegex(value["--rng"], r"^src=/dev/urandom")
        self.assertRegex(value["--vsock"], r"^cid=3,socket=/.*/task\.vsock")
        self.assertRegex(value["--console"], r"^file=/.*/console\.log")
        self.assertRegex(value["--fs"], r"^tag=kuasar,socket=/.*/virtiofs\.sock")
        for word in ("console=hvc0", "root=/dev/pmem0p1", "rootflags=data=ordered,errors=remount-ro,dax", "ro", "rootfstype=ext4",
                     "task.sharefs_type=virtiofs", "panic=-1"):
            self.assertIn(word, value["--cmdline"].split())

    @unittest.skipIf(CLH, "Cloud Hypervisor's is 05b")
    @rows("A2")
    def test_05b_devices_in_order(self):
        self.need(self.pod)
        text = " ".join(self.vmm()[1])
        devices = ["virtio-pmem-pci,id=rootfs", "virtio-rng-pci", "vsock-pci", "virtconsole", "vhost-user-fs-pci"]
        places = [text.index(d) for d in devices]
        self.assertEqual(places, sorted(places), text)
        self.assertIn(f"mem-path={GUEST_IMAGE},", text)
        self.assertIn("rng-random,id=rng0-src,filename=/dev/urandom", text)
        self.assertRegex(text, r"file,id=console0-file,path=/\S+/console\.log")
        self.assertIn("tag=kuasar", text)

    @rows("A6", "A8", "A9")
    def test_05c_processes_in_cgroup_and_netns(self):
        self.need(self.pod)
        found = command_lines(self.server)
        own = os.readlink("/proc/self/ns/net")
        for program in (PROGRAM, "virtiofsd"):
            for pid, argv in found[program]:
                self.assertIn(f"{self.server.cgroup}/crivisor-{self.pod.sandbox}", pathlib.Path(f"/proc/{pid}/cgroup").read_text(), argv)
                # virtiofsd has moved on to an empty netns of its own; scenario_config shows that it started in the pod's.
                self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/net"), own, argv)
        shared = [a for a in found["virtiofsd"][0][1] if a.startswith("--shared-dir=")]
        self.assertTrue(shared and os.path.isdir(shared[0].split("=", 1)[1]), "the Rust virtiofsd and its directory")

    def test_05c2_processes_are_confined(self):
        """fault I: the table of processes in vmm/README.md is what /proc shows of the pod, with either VMM."""
        self.need(self.pod)
        assert_confined(self, self.server, [self.pod], "cloud-hypervisor" if CLH else "qemu")
        assert_limits(self, self.vmm()[0])

    @rows("A2", "A4")
    def test_05d_root_is_mounted_from_pmem(self):
        self.need(self.pod)
        console = self.server.consoles()[0].read_text(errors="replace")
        self.assertRegex(console, r"EXT4-fs \(pmem0p1\): mounted filesystem \S+ ro with ordered data mode", console[-2000:])

    @rows("A7")
    def test_05e_network_of_the_pods_netns(self):
        """The pod's netns holds the VM's tap and the interface from CNI, which has the pod's address."""
        self.need(self.pod)
        pid, argv = self.vmm()
        links = json.loads(in_netns_of(pid, "ip", "-j", "-d", "addr"))
        kinds = {link.get("linkinfo", {}).get("info_kind"): link for link in links}
        self.assertIn("tun", kinds, links)
        self.assertIn(self.pod.ip, [a["local"] for a in kinds["veth"]["addr_info"]])
        # The command line names the tap by its descriptor, so it was open before the VMM ran.
        self.assertRegex(" ".join(argv), r"--net id=net0,fd=\d+" if CLH else r"-netdev tap,id=net0-tap,fd=\d+")

    @rows("A11")
    def test_05f_the_agent_answers_on_port_1024(self):
        self.need(self.pod)
        with ttrpc.Client(dial(self.server, self.pod, AGENT_PORT)) as client:
            status, message, _ = client.call("grpc.SandboxService", "Check")
        self.assertEqual((status, message), (ttrpc.OK, ""))

    @rows("A7")
    def test_17b_the_guest_has_the_mac_and_address_of_cni(self):
        self.need(self.container)
        links = json.loads(in_netns_of(self.vmm()[0], "ip", "-j", "-d", "link"))
        mac = next(link["address"] for link in links if link.get("linkinfo", {}).get("info_kind") == "veth")
        shown = self.container.exec("ip", "addr", "show", "eth0")
        self.assertIn(f"inet {self.pod.ip}/", shown)
        self.assertIn(mac, shown)

    @rows("A1", "A6")
    def test_19b_limits_and_a_port_of_the_host(self):
        resources = {"memory_limit_in_bytes": 128 << 20, "cpu_quota": 150000, "cpu_period": 100000}
        pod = self.server.runp(self.server.pod_config("ports", port_mappings=[{"container_port": 80, "host_port": 18080}],
                                                      linux={"resources": resources}))
        try:
            self.assertEqual(len(command_lines(self.server)[PROGRAM]), 2, "a VMM for each pod")
            cgroup = pathlib.Path(f"/sys/fs/cgroup{self.server.cgroup}/crivisor-{pod.sandbox}")
            self.assertEqual((cgroup / "cpu.max").read_text().split(), ["150000", "100000"])
            # The limit covers the pod's own limit, the guest and the VMM, and it is bounded.
            self.assertLess(128 << 20, int((cgroup / "memory.max").read_text()))
            self.assertLess(int((cgroup / "memory.max").read_text()), 768 << 20)
            pod.run(image=HTTPD)
            ip = self.server.subnet.rsplit(".", 1)[0] + ".1"
            eventually(lambda: _got(ip, 18080), 10, "no answer on the host's port")
        finally:
            pod.stop()
            pod.remove()


def in_netns_of(pid, *argv):
    return subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv], stdout=subprocess.PIPE, check=True, text=True).stdout


def dial(server, pod, port):
    """Returns a socket that is connected to a port of a pod's guest, in the VMM's way."""
    if CLH:
        return dial_hybrid(server.run_dir / "pods" / pod.sandbox[:20] / "vm" / "task.vsock", port)
    argv = next(argv for _, argv in command_lines(server)[PROGRAM] if f"crivisor-{pod.sandbox}" in argv)
    return dial_vsock(int(next(a for a in argv if "guest-cid=" in a).split("guest-cid=")[1].split(",")[0]), port)


def _got(host, port):
    try:
        return http_get(host, port)[0] == 200
    except OSError:
        return False

