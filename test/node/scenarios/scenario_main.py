"""The main job in a node, by crictl, and what the host shows of it while it runs."""

import os
import pathlib
import unittest

from harness import GUEST_IMAGE, KERNEL, HTTPD, http_get, eventually
import test_a_main

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
CLH = DRIVER == "cloud-hypervisor"


def command_lines(server):
    """Command line and pid of each process of the server's pods, by the program's name."""
    found = {}
    for pid in server.processes():
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        found.setdefault(os.path.basename(argv[0]), []).append((pid, argv))
    return found


class MainJob(test_a_main.MainJob):
    """Every step of the main job (test/e2e/test_a_main.py), and between them a look from outside."""

    def vmm(self):
        program = "cloud-hypervisor" if CLH else "qemu-system-x86_64"
        return command_lines(self.server)[program][0]

    def test_05a_the_server_says_which_driver_and_why(self):
        log = self.server.log.read_text()
        self.assertRegex(log, rf"{DRIVER}.*KVM")

    @unittest.skipUnless(CLH, "the described command line is Cloud Hypervisor's")
    def test_05b_A2_A3_A4_command_line(self):
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

    def test_05c_A6_A8_A9_processes_in_cgroup_and_netns(self):
        self.need(self.pod)
        found = command_lines(self.server)
        own = os.readlink("/proc/self/ns/net")
        for program in (("cloud-hypervisor" if CLH else "qemu-system-x86_64"), "virtiofsd"):
            for pid, argv in found[program]:
                self.assertIn(self.server.cgroup, pathlib.Path(f"/proc/{pid}/cgroup").read_text(), argv)
                self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/net"), own, argv)
        self.assertIn("--shared-dir", " ".join(found["virtiofsd"][0][1]), "the Rust virtiofsd")

    def test_05d_A2_A4_root_is_dax_on_pmem(self):
        self.need(self.pod)
        console = self.server.consoles()[0].read_text(errors="replace")
        self.assertRegex(console, r"pmem0|DAX|dax", console[-2000:])

    def test_19b_http_on_a_port_of_the_host(self):
        pod = self.server.runp(self.server.pod_config("ports", port_mappings=[{"container_port": 80, "host_port": 18080}]))
        try:
            pod.run(image=HTTPD)
            ip = self.server.subnet.rsplit(".", 1)[0] + ".1"
            eventually(lambda: _got(ip, 18080), 10, "no answer on the host's port")
        finally:
            pod.stop()
            pod.remove()


def _got(host, port):
    try:
        return http_get(host, port)[0] == 200
    except OSError:
        return False

