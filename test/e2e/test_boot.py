# SPDX-License-Identifier: Apache-2.0
"""A VM that dies before its kernel has printed anything, as guests without KVM sometimes do on a busy machine."""

import os
import re
import signal
import unittest

import harness
from harness import BUSYBOX, Background, Case, CliError, eventually


class DiesMute(Case):
    images = (BUSYBOX,)
    config = {"sandbox": {"enable_tracing": True}}

    def setUp(self):
        if os.environ.get("CRV_DRIVER") == "cloud-hypervisor":
            raise unittest.SkipTest("with KVM the console speaks before a test can look")

    def text(self):
        return self.server.log.read_text(errors="replace")

    def boot(self, kills):
        """Runs runp in the background and kills each of the first `kills` VMs as soon as it runs, before its console has output."""
        self.seen = len(self.text())
        self.config_file = self.server.write("pod", self.server.pod_config())
        call = Background(self.server.crictl, "runp", "-T", f"{int(harness.secs(90))}s", self.config_file, timeout=120)
        killed = set()
        for number in range(kills):
            def vmm():
                return [pid for pid, text in self.server.processes().items() if "qemu-system" in text and pid not in killed]
            if number == 0:
                eventually(lambda: 'step="start VM"' in self.text()[self.seen:], 30, "the VM's start")
            eventually(vmm, 30, "a VMM")
            if number:
                qmp = next(self.server.run_dir.glob("pods/*")) / "vm" / "qmp.sock"
                eventually(qmp.exists, 10, "the second VMM's monitor")
            pid = vmm()[0]
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return call

    def test_it_is_started_once_more_and_the_log_says_so(self):
        pod = self.boot(1).result().strip()
        self.assertTrue(re.fullmatch("[0-9a-f]{64}", pod), pod)
        self.assertIn("starting it once more", self.text()[self.seen:])
        self.assertEqual(self.server.json("inspectp", pod)["status"]["state"], "SANDBOX_READY")

    def test_the_second_death_is_final_and_leaves_nothing(self):
        with self.assertRaises(CliError) as refused:  # Internal, or Unavailable if the VMM's monitor had not answered yet
            self.boot(2).result()
        for words in ("on the second try", "qemu was killed by signal 9"):
            self.assertIn(words, str(refused.exception))
        self.assertEqual(self.text()[self.seen:].count("starting it once more"), 1)
