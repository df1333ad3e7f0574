# SPDX-License-Identifier: Apache-2.0
"""Hot plug and unplug, size, pause, snapshot and adoption of one VM, through vmm/vm.h; the guest is asked by its debug console."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from harness import eventually, rows
from vmmctl import CLH, Vm, alive
import second_cpu
import test_network
import ttrpc

MIB = 1 << 20


def sized(path, mib):
    with open(path, "wb") as f:
        f.truncate(mib * MIB)
    return path


class Devices(unittest.TestCase):
    """Attach returns the device's PCI address in the guest; detach returns once the guest has released the device."""

    @classmethod
    def setUpClass(cls):
        cls.netns = f"dev{os.getpid()}"
        subprocess.run(["ip", "netns", "add", cls.netns], check=True)
        cls.addClassCleanup(subprocess.run, ["ip", "netns", "del", cls.netns])
        cls.vm = Vm(memory_max_mb=1024, vcpus_max=2, netns=f"/run/netns/{cls.netns}")
        cls.addClassCleanup(cls.vm.end)

    def plug(self, kind, name, path, *more):
        pci = self.vm.command("attach", kind, name, path, *more)
        self.assertRegex(pci, r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
        eventually(lambda: self.guest_has(pci), 10, f"the guest has no {pci}: {self.vm.sh('ls /sys/bus/pci/devices')}")
        return pci

    def found_by_agent(self, pci):
        """What the agent reports for that address: a device node, an interface or a tag."""
        status, message, answer = self.vm.call("crivisor.agent.v1.Agent", "AttachDevice", (1, pci))
        self.assertEqual((status, message), (ttrpc.OK, ""))
        return answer[1].decode()

    def guest_has(self, pci):
        return pci in self.vm.sh("ls /sys/bus/pci/devices").split()

    def node(self, pci, kind):
        """The name that the guest's driver gave the device, below block/ or net/."""
        def found():
            return self.vm.sh(f"ls /sys/bus/pci/devices/{pci}/virtio*/{kind} 2>/dev/null; true")
        return eventually(found, 10, f"{pci} has no {kind}")

    def unplug(self, name, pci):
        self.vm.command("detach", name)
        self.assertNotIn(pci, self.vm.sh("ls /sys/bus/pci/devices").split())
        with self.assertRaisesRegex(AssertionError, name):
            self.vm.command("detach", name)

    @rows("A4", "A19")
    def test_01_console_shell_of_the_guest(self):
        self.assertEqual(self.vm.sh("cat /proc/1/comm"), "init")
        self.assertRegex(self.vm.sh("cat /proc/mounts"), r"/dev/root / ext4 ro,.*data=ordered,dax=always")
        self.assertRegex(self.vm.sh("cat /proc/mounts"), r"kuasar /run/kuasar/state virtiofs")

    @rows("A13")
    def test_02_disk(self):
        disk = sized(self.vm.dir / "disk.raw", 16)
        pci = self.plug("disk", "d0", disk)
        name = self.node(pci, "block")
        self.assertEqual(self.found_by_agent(pci), f"/dev/{name}")
        self.vm.sh(f"dd if=/dev/urandom of=/dev/{name} bs=1M count=4 2>/dev/null; sync")
        self.assertEqual(self.vm.sh(f"cat /sys/block/{name}/size"), str(16 * MIB // 512))
        want = self.vm.sh(f"dd if=/dev/{name} bs=1M count=4 2>/dev/null | md5sum").split()[0]
        done = subprocess.run(["md5sum"], input=open(disk, "rb").read(4 * MIB), stdout=subprocess.PIPE, check=True)
        self.assertEqual(done.stdout.decode().split()[0], want)
        self.unplug("d0", pci)
        pci = self.plug("disk", "d0", disk)
        self.unplug("d0", pci)

    @rows("A13")
    def test_03_net(self):
        self.vm.command("tap", "hot0", 1400)
        before = set(self.vm.sh("ls /sys/class/net").split())
        pci = self.plug("net", "n0", "hot0")
        name = self.node(pci, "net")
        self.assertNotIn(name, before)
        self.assertEqual(self.found_by_agent(pci), name)
        self.assertRegex(self.vm.sh(f"cat /sys/class/net/{name}/address"), r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
        self.unplug("n0", pci)
        self.assertEqual(set(self.vm.sh("ls /sys/class/net").split()), before)

    @rows("A13")
    def test_04_pmem(self):
        pci = self.plug("pmem", "p0", sized(self.vm.dir / "pmem.raw", 16))
        name = eventually(lambda: self.vm.sh(f"find /sys/bus/pci/devices/{pci}/ -name 'pmem[0-9]*' | head -n 1"), 10, "no pmem")
        self.assertEqual(self.vm.sh(f"cat /sys/block/{os.path.basename(name)}/size"), str(16 * MIB // 512))
        self.assertEqual(self.found_by_agent(pci), f"/dev/{os.path.basename(name)}")
        if CLH:
            self.unplug("p0", pci)
        else:
            with self.assertRaisesRegex(AssertionError, "cannot be unplugged"):
                self.vm.command("detach", "p0")

    @rows("A13")
    def test_05_fs(self):
        shared, sock = self.vm.dir / "more", self.vm.dir / "more.sock"
        shared.mkdir()
        (shared / "hello").write_text("from the host\n")
        daemon = subprocess.Popen(["virtiofsd", f"--socket-path={sock}", f"--shared-dir={shared}", "--sandbox=none"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            eventually(sock.exists, 10, "virtiofsd does not listen")
            pci = self.plug("fs", "f0", sock, "more")
            self.assertEqual(self.found_by_agent(pci), "more")
            self.assertEqual(self.vm.sh("mkdir -p /run/more && mount -t virtiofs more /run/more && cat /run/more/hello"),
                             "from the host")
            self.vm.sh("umount /run/more")
            self.unplug("f0", pci)
        finally:
            daemon.kill()
            daemon.wait()

    @rows("A13")
    def test_06_errors_name_the_cause(self):
        with self.assertRaisesRegex(AssertionError, "No such file|not found|no such file"):
            self.vm.command("attach", "disk", "bad", "/nonexistent/file")
        pci = self.plug("disk", "twice", sized(self.vm.dir / "twice.raw", 2))
        with self.assertRaisesRegex(AssertionError, "twice"):
            self.vm.command("attach", "disk", "twice", self.vm.dir / "twice.raw")
        self.unplug("twice", pci)
        with self.assertRaisesRegex(AssertionError, "nobody"):
            self.vm.command("detach", "nobody")

    def test_07_more_vcpus_and_back(self):
        second_cpu.work(self.addCleanup)
        self.vm.command("resize", 2, 0)
        eventually(lambda: "cpu1" in self.vm.sh("ls /sys/devices/system/cpu"), 10, "no second vCPU in the guest")
        self.vm.sh("[ $(cat /sys/devices/system/cpu/cpu1/online) = 1 ] || echo 1 >/sys/devices/system/cpu/cpu1/online")
        self.assertEqual(self.vm.sh("grep -c ^processor /proc/cpuinfo"), "2")
        self.vm.command("resize", 1, 0, seconds=60)
        eventually(lambda: self.vm.sh("grep -c ^processor /proc/cpuinfo") == "1", 10, "still two vCPUs")
        # The answer of vmmctl, not a missing one.
        with self.assertRaisesRegex(AssertionError, "^resize 64 0: "):
            self.vm.command("resize", 64, 0)

    def test_08_more_memory_and_back(self):
        def total():
            return int(re.search(r"MemTotal:\s+(\d+)", self.vm.sh("cat /proc/meminfo")).group(1)) // 1024
        def online():
            self.vm.sh("for f in /sys/devices/system/memory/memory*/state; do "
                       "grep -qx offline $f && echo online_movable >$f; done; true")
            return True
        before = total()
        self.vm.command("resize", 0, 768, seconds=60)
        eventually(lambda: online() and total() > before + 200, 10, lambda: f"{total()} MiB, {before} before")
        self.vm.command("resize", 0, 512, seconds=60)
        eventually(lambda: total() < before + 50, 10, lambda: f"{total()} MiB, {before} before")
        with self.assertRaisesRegex(AssertionError, "^resize 0 256: "):
            self.vm.command("resize", 0, 256)

    def test_09_pause_and_resume(self):
        self.vm.command("pause")
        self.assertEqual(self.vm.info()["state"].lower(), "paused")
        self.vm.command("resume")
        self.assertEqual(self.vm.info()["state"].lower(), "running")
        self.assertEqual(self.vm.sh("echo awake"), "awake")

    @rows("A15")
    def test_10_adopted_with_its_devices(self):
        """Another process adopts the VM and its devices after the first one has ended."""
        cls = type(self)
        pci = self.plug("disk", "kept", sized(self.vm.dir / "kept.raw", 4))
        state = self.vm.dir / "state.json"
        self.vm.command("save", state)
        pids = {k: int(self.vm.info()[k]) for k in ("vmm", "virtiofsd")}
        self.vm.leave()
        self.assertTrue(all(alive(p) for p in pids.values()), pids)
        cls.vm = Vm("adopt", work=self.vm.dir, state=state, netns=f"/run/netns/{self.netns}")
        cls.addClassCleanup(cls.vm.end)
        info = self.vm.info()
        self.assertEqual({k: int(info[k]) for k in pids}, pids)
        self.assertEqual(self.vm.sh("echo the same"), "the same")
        self.unplug("kept", pci)

    def test_11_stop_leaves_no_process(self):
        pids = [int(self.vm.info()[k]) for k in ("vmm", "virtiofsd", "vsock")]
        self.assertEqual(self.vm.end(), 0, self.vm.lines.seen[-5:])
        self.assertFalse([p for p in pids if p and alive(p)])


@unittest.skipUnless(CLH, "QEMU cannot snapshot a VM with vhost-user devices")
class Snapshot(unittest.TestCase):
    def test_snapshot_and_restore(self):
        first = Vm(memory_mb=256)
        snapshot = pathlib.Path(tempfile.mkdtemp(prefix="snap-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, snapshot)
        try:
            first.sh("echo remembered >/dev/shm/note")
            boot_id = first.sh("cat /proc/sys/kernel/random/boot_id")
            with self.assertRaisesRegex(AssertionError, "^snapshot "):
                first.command("snapshot", snapshot)
            first.command("pause")
            first.command("snapshot", snapshot, seconds=60)
        finally:
            first.end()
        began = time.monotonic()
        second = Vm("restore", memory_mb=256, **{"from": snapshot})
        try:
            self.assertEqual(second.info()["state"].lower(), "paused")
            second.command("resume")
            second.command("connect", 1024)
            print(f"    restored to the agent's answer in {time.monotonic() - began:.1f} s", flush=True)
            self.assertEqual(second.sh("cat /dev/shm/note"), "remembered")
            self.assertEqual(second.sh("cat /proc/sys/kernel/random/boot_id"), boot_id)
        finally:
            second.end()


class Networks(test_network.Mimics):
    """NICs that a pod gets later, by the server: of the tests of networks the one that plugs."""

    test_aws = test_calico = test_capabilities = test_cilium = test_ipv6_off = test_later_changes = None
    test_rules_are_refused = test_spoofed = None
