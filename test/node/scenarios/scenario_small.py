# SPDX-License-Identifier: Apache-2.0
"""A node of 1 GiB, which test/node/run boots for this scenario alone. The default size of a pod's VM does not fit: the server says so,
kubelet runs on, and a smaller size in the configuration and a reload fix it."""

import signal
import subprocess

from harness import BUSYBOX, Case, CliError, eventually, toml
from scenario_kubelet import NODE_IP, Kubelet

NODE_MIB = 1024


class Small(Case):
    images = (BUSYBOX,)
    keep_pods = True

    @classmethod
    def prepare(cls):
        subprocess.run(["ip", "addr", "replace", NODE_IP + "/32", "dev", "lo"], check=True)
        cls.kubelet = Kubelet(cls.server)
        cls.addClassCleanup(cls.kubelet.stop)
        cls.kubelet.start()

    @classmethod
    def tearDownClass(cls):
        cls.kubelet.stop()
        super().tearDownClass()

    def condition(self):
        conditions = self.server.json("info")["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "RuntimeReady")

    def total_mib(self):
        with open("/proc/meminfo") as f:
            return int(f.readline().split()[1]) // 1024

    def test_1_told_with_both_sizes(self):
        self.assertLess(self.total_mib(), NODE_MIB, "this node is too large for what is to be shown")
        condition = self.condition()
        print(f"    {condition['reason']}: {condition['message']}", flush=True)
        self.assertFalse(condition["status"])
        for word in ("1024 MiB", f"{self.total_mib()} MiB", "memory_in_mb"):
            self.assertIn(word, condition["message"])
        with self.assertRaises(CliError) as caught:
            self.server.runp()
        self.assertEqual(caught.exception.code, "ResourceExhausted")

    def test_2_kubelet_lives_with_it(self):
        self.kubelet.add("waits", [{"name": "main", "command": ["sleep", "100000"]}])
        self.kubelet.wait(lambda: "memory_in_mb" in self.kubelet.log.read_text(), 40, "kubelet does not tell the cause")
        self.assertIsNone(self.kubelet.process.poll())

    def test_3_fixed_by_a_reload(self):
        before = self.server.process.pid, self.kubelet.process.pid
        self.server.sections["hypervisor"]["memory_in_mb"] = 192
        self.server.config.write_text(toml(self.server.sections))
        self.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.condition()["status"], 10, lambda: self.condition()["message"])
        self.kubelet.wait_ready("waits")
        self.kubelet.add("second", [{"name": "main", "command": ["sleep", "100000"]}])
        self.kubelet.wait_ready("second")
        self.kubelet.wait_ready("waits")
        self.assertEqual((self.server.process.pid, self.kubelet.process.pid), before)
        self.assertIsNone(self.server.process.poll())
        self.assertNotIn("Out of memory", subprocess.run(["dmesg"], stdout=subprocess.PIPE, text=True).stdout)

    def test_4_nothing_is_left(self):
        for manifest in self.kubelet.manifests.iterdir():
            manifest.unlink()
        self.kubelet.wait(lambda: not self.server.pod_ids(), 120, "pods are left")
        self.server.assert_nothing_left(self.baseline, 10)
