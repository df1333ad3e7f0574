# SPDX-License-Identifier: Apache-2.0
"""Bad set-ups. For each one, a message names the cause, the node is NotReady and kubelet runs on; once the cause is fixed, pods start
again without a restart of anything. A pod that ran before keeps running.

One server, one kubelet. The server's state lies on a file system of its own, which a test can fill; kernel and image are copies, which a
test can damage.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import BUSYBOX, GUEST_IMAGE, KERNEL, Case, CliError, eventually, failed, toml
from scenario_kubelet import NODE_IP, Kubelet
from scenario_main import CLH

DISK_MIB = 256
KVM = pathlib.Path("/dev/kvm")


class Setups(Case):
    cni = "bridge"
    images = ()
    keep_pods = True

    @classmethod
    def prepare(cls):
        server = cls.server
        server.stop()
        cls.guest = server.dir / "guest"
        cls.guest.mkdir()
        for path in (KERNEL, GUEST_IMAGE, KERNEL.parent / "SHA256SUMS"):
            shutil.copyfile(path, cls.guest / path.name)
        server.sections["hypervisor"].update(kernel_path=cls.guest / KERNEL.name, image_path=cls.guest / GUEST_IMAGE.name,
                                             memory_in_mb=256)
        server.config.write_text(toml(server.sections))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "disk", server.state_dir], check=True)
        server.start()
        cls.baseline = server.traces()
        server.pull(BUSYBOX)
        subprocess.run(["ip", "addr", "replace", NODE_IP + "/32", "dev", "lo"], check=True)
        cls.kubelet = Kubelet(server)
        cls.addClassCleanup(cls.kubelet.stop)
        cls.kubelet.start()
        cls.kubelet.add("steady", [{"name": "main", "command": ["sh", "-c", "while true; do date +%s; sleep 1; done"]}])
        cls.kubelet.wait_ready("steady")
        cls.steady = cls.identity()
        cls.pid = server.process.pid, cls.kubelet.process.pid

    @classmethod
    def tearDownClass(cls):
        cls.kubelet.stop()
        super().tearDownClass()

    @classmethod
    def identity(cls):
        status = cls.kubelet.status("steady")
        return (cls.kubelet.sandboxes("steady"), [(c["containerID"], c["restartCount"]) for c in status["containerStatuses"]])

    def setUp(self):
        self.name = self.id().rsplit("_", 1)[1].lower()
        self.seen = self.kubelet.log.stat().st_size

    def tearDown(self):
        super().tearDown()
        if failed(self):
            print("    kubelet:\n" + "\n".join("      " + line[:300] for line in self.news().splitlines()[-12:]), flush=True)

    def news(self):
        """kubelet's log since the test began."""
        with open(self.kubelet.log, errors="replace") as log:
            log.seek(self.seen)
            return log.read()

    def condition(self, kind):
        conditions = self.server.json("info")["status"]["conditions"]
        return next(c for c in conditions if c["type"] == kind)

    def is_broken(self, *words, kind="RuntimeReady"):
        """The server's status and its refusal of a pod name the cause, kubelet logs it, and both run on."""
        condition = eventually(lambda: (lambda c: None if c["status"] else c)(self.condition(kind)), 10, "still ready")
        for word in words:
            self.assertIn(str(word), condition["message"])
        print(f"    {condition['reason']}: {condition['message']}", flush=True)
        with self.assertRaises(CliError) as caught:
            self.server.runp()
        for word in words:
            self.assertIn(str(word), caught.exception.message)
        self.kubelet.add(self.name, [{"name": "main", "command": ["sleep", "100000"]}])
        self.kubelet.wait(lambda: all(str(word) in self.news() for word in words), 40, "kubelet does not tell the cause")
        self.all_live_on()

    def all_live_on(self):
        self.assertIsNone(self.server.process.poll())
        self.assertIsNone(self.kubelet.process.poll())
        self.assertEqual(self.pid, (self.server.process.pid, self.kubelet.process.pid))
        self.assertEqual(self.identity(), self.steady)
        container = self.steady[1][0][0].split("//")[1]
        self.assertEqual(self.server.crictl("exec", "-s", container, "echo", "here").strip(), "here")

    def is_fixed(self, kind="RuntimeReady"):
        """The server is ready again without a restart, and the waiting pod runs."""
        began = time.monotonic()
        eventually(lambda: self.condition(kind)["status"], 10, lambda: self.condition(kind)["message"])
        self.kubelet.wait_ready(self.name, 60)
        print(f"    a pod that had waited is ready {time.monotonic() - began:.1f} s after the fix", flush=True)
        self.all_live_on()
        self.kubelet.remove(self.name)

    # ---- the set-ups ------------------------------------------------------------------------------------------------

    def test_01_no_KVM(self):
        gone = KVM.with_name("kvm-gone")
        os.rename(KVM, gone)
        try:
            if CLH:
                self.is_broken("/dev/kvm", "cloud-hypervisor needs KVM")
            else:  # QEMU does without, only slower
                eventually(lambda: self.server.json("info")["config"]["accel"] == "tcg", 10, "still KVM")
        finally:
            os.rename(gone, KVM)
        if CLH:
            self.is_fixed()
        else:
            eventually(lambda: self.server.json("info")["config"]["accel"] == "kvm", 10, "still TCG")

    def test_02_no_network_CNI(self):
        conf = next(self.server.cni_dir.iterdir())
        text = conf.read_text()
        conf.unlink()
        try:
            self.is_broken(self.server.cni_dir, kind="NetworkReady")
        finally:
            conf.write_text(text)
        self.is_fixed("NetworkReady")

    def test_03_missing_KERNEL(self):
        kernel = self.guest / KERNEL.name
        aside = kernel.with_name("aside")
        os.rename(kernel, aside)
        try:
            self.is_broken(kernel, "No such file")
        finally:
            os.rename(aside, kernel)
        self.is_fixed()

    def test_04_wrong_kernel_ELF(self):
        kernel = self.guest / KERNEL.name
        aside = kernel.with_name("aside")
        os.rename(kernel, aside)
        try:
            shutil.copyfile("/bin/sh", kernel)
            self.is_broken(kernel, "PVH")
        finally:
            os.rename(aside, kernel)
        self.is_fixed()

    def test_05_corrupt_image_BYTE(self):
        # Replace the file, do not write into it: the steady pod's guest has it mapped.
        image = self.guest / GUEST_IMAGE.name
        aside = image.with_name("aside")
        os.rename(image, aside)
        try:
            data = bytearray(aside.read_bytes())
            data[len(data) // 2] ^= 0xff
            image.write_bytes(data)
            self.is_broken(image, "damaged", "SHA256SUMS")
        finally:
            os.rename(aside, image)
        self.is_fixed()

    def test_06_full_DISK(self):
        """With no byte free, running pods can still be stopped and removed."""
        self.kubelet.add("victim", [{"name": "main", "command": ["sleep", "100000"]}])
        self.kubelet.wait_ready("victim")
        victim = self.kubelet.sandboxes("victim")[0]
        ballast = self.server.state_dir / "ballast"
        with open(ballast, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"\0" * (1 << 20))
            except OSError:
                pass
        try:
            self.is_broken(self.server.state_dir, "full")
            self.server.crictl("stopp", victim)
            self.server.crictl("rmp", "-f", victim)
            self.assertNotIn(victim, self.server.pod_ids())
            self.assertEqual([p for p in self.server.processes().values() if victim in p], [])
        finally:
            ballast.unlink()
        self.is_fixed()
        self.kubelet.wait_ready("victim", 60)
        self.kubelet.remove("victim")

    def test_07_clock_JUMP(self):
        """The host's clock is set a day ahead and back: everything stays ready, and the guests' clocks follow."""
        container = self.steady[1][0][0].split("//")[1]

        def apart():
            return abs(int(self.server.crictl("exec", "-s", container, "date", "+%s")) - time.time())
        self.assertLess(apart(), 30)
        day, ahead = 24 * 3600, 0
        try:
            for by, name in ((day, "later"), (-day, "earlier")):
                time.clock_settime(time.CLOCK_REALTIME, time.time() + by)
                ahead += by
                eventually(lambda: apart() < 30, 10, lambda: f"the guest is {apart():.0f} s off")
                self.assertRegex(self.server.log.read_text(), rf"clock was set, by \{'+' if by > 0 else '-'}86\d\d\d\.")
                self.assertTrue(self.condition("RuntimeReady")["status"])
                self.kubelet.add(name, [{"name": "main", "command": ["sleep", "100000"]}])
                self.kubelet.wait_ready(name)
                self.all_live_on()
                self.kubelet.remove(name)
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.time() - ahead)
        # kubelet does not collect sandboxes whose creation lies in the future.
        self.kubelet.wait_gone("later")
        for sandbox in self.kubelet.sandboxes("later"):
            self.server.crictl("rmp", sandbox)

    def test_08_more_memory_than_the_HOST_has(self):
        """The configured size does not fit the host; a reload of a smaller one fixes it."""
        self.server.sections["hypervisor"]["memory_in_mb"] = 1 << 20
        self.reload()
        self.is_broken("1048576 MiB", "memory_in_mb")
        self.server.sections["hypervisor"]["memory_in_mb"] = 256
        self.reload()
        self.is_fixed()

    def reload(self):
        self.server.config.write_text(toml(self.server.sections))
        self.server.process.send_signal(signal.SIGHUP)

    def test_09_nothing_is_left(self):
        for manifest in self.kubelet.manifests.iterdir():
            manifest.unlink()
        self.kubelet.wait(lambda: not self.server.crictl("pods", "-q", "--state", "ready"), 120, "pods run on")
        # kubelet removes sandboxes once a minute; scenario_kubelet.py waits for that.
        self.kubelet.stop()
        self.server.remove_all()
        self.server.assert_nothing_left(self.baseline, 10)
