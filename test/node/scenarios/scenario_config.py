# SPDX-License-Identifier: Apache-2.0
"""The configuration's keys reach VMM, virtiofsd and guest before their first instruction; a failed start leaves nothing."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from harness import BUSYBOX, CRIVISOR, GUEST_IMAGE, KERNEL, Case, CliError, eventually, rows
from scenario_main import CLH, PROGRAM, command_lines, dial
from vmmctl import CONSOLE_PORT, run_script
import second_cpu

HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
MEMORY_MB = 384


def reserve(pages):
    HUGE_PAGES.write_text(str(pages))
    got = int(HUGE_PAGES.read_text())
    if got != pages:
        raise AssertionError(f"{got} huge pages could be reserved, not {pages}")


def free_pages():
    return int(re.search(r"HugePages_Free:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1))


def diary(directory, program):
    """A script that records its cgroup and netns and then becomes `program`: the record is older than its first instruction."""
    script = directory / f"{program}-with-diary"
    script.write_text(f"#!/bin/sh\n{{ echo \"run: $*\"; cat /proc/self/cgroup; readlink /proc/self/ns/net; }} >>{script}.txt\n"
                      f"exec {shutil.which(program)} \"$@\"\n")
    script.chmod(0o755)
    return script


def last_entry(script, mark):
    """(cgroup, netns) of the run whose arguments hold `mark`."""
    entry = next(e for e in pathlib.Path(f"{script}.txt").read_text().split("run: ") if mark in e.split("\n", 1)[0])
    lines = entry.splitlines()
    return lines[1], lines[-1]


class Configured(Case):
    """Every key has a value other than its default."""

    images = (BUSYBOX,)
    keep_pods = True
    pod = None

    @classmethod
    def setUpClass(cls):
        reserve(MEMORY_MB // 2 + 8)
        cls.addClassCleanup(reserve, 0)
        place = pathlib.Path(tempfile.mkdtemp(prefix="cfg-", dir="/tmp"))
        cls.addClassCleanup(shutil.rmtree, place)
        cls.vmm, cls.fs = diary(place, PROGRAM), diary(place, "virtiofsd")
        cls.kernel, cls.image = place / "other-kernel", place / "other-image"
        second_cpu.work(cls.addClassCleanup)  # no pod gets more CPUs than the host has
        shutil.copyfile(KERNEL, cls.kernel)
        shutil.copyfile(GUEST_IMAGE, cls.image)
        cls.config = {
            "hypervisor": {"path": cls.vmm, "vcpus": 2, "memory_in_mb": MEMORY_MB, "kernel_path": cls.kernel, "image_path": cls.image,
                           "kernel_params": "of.the.config=1", "hugepages": True, "entropy_source": "/dev/random"},
            "hypervisor.virtiofsd": {"path": cls.fs, "log_level": "debug", "cache": "never", "thread_pool_size": 2},
            "hypervisor.task": {"debug": True},
        }
        super().setUpClass()

    def in_guest(self, script):
        return run_script(dial(self.server, self.pod, CONSOLE_PORT), script, 20)

    def test_01_pod(self):
        cls = type(self)
        cls.pages = free_pages()
        cls.pod = self.server.runp(dns_config={"servers": ["192.0.2.53"], "searches": ["of.this.pod"]})
        self.assertEqual(self.pod.output(["echo", "it runs"]), "it runs\n")

    def need(self):
        if not self.pod:
            self.skipTest("no pod")

    @rows("A5")
    def test_02_command_line_of_the_vmm(self):
        self.need()
        argv = command_lines(self.server)[PROGRAM][0][1]
        text = " ".join(argv)
        words = (["boot=2", f"size={MEMORY_MB << 20},shared=on,hugepages=on", f"file={self.image},id=rootfs,", "src=/dev/random"]
                 if CLH else ["cpus=2,", f"size={MEMORY_MB << 10}k,", "hugetlb=on", f"mem-path={self.image},", "filename=/dev/random"])
        for word in [*words, str(self.kernel), "of.the.config=1", "task.debug=true"]:
            self.assertIn(word, text)

    @rows("A5")
    def test_03_command_line_of_virtiofsd(self):
        self.need()
        argv = command_lines(self.server)["virtiofsd"][0][1]
        for word in ("--log-level=debug", "--cache=never", "--thread-pool-size=2"):
            self.assertIn(word, argv)

    @rows("A5")
    def test_04_the_guest_has_it(self):
        self.need()
        self.assertEqual(self.in_guest("grep -c ^processor /proc/cpuinfo"), "2")
        total = int(re.search(r"MemTotal:\s+(\d+)", self.in_guest("cat /proc/meminfo")).group(1)) // 1024
        self.assertTrue(MEMORY_MB * 3 // 4 < total <= MEMORY_MB, total)
        self.assertIn("of.the.config=1", self.in_guest("cat /proc/cmdline").split())
        # The guest's memory takes huge pages, so the host has fewer free ones.
        self.assertLess(free_pages(), self.pages)

    @rows("A5")
    def test_05_what_the_defaults_are(self):
        text = subprocess.run([CRIVISOR, "config", "default"], stdout=subprocess.PIPE, check=True, text=True).stdout
        for line in ("vcpus = 1", "memory_in_mb = 1024", "hugepages = false", 'entropy_source = "/dev/urandom"', 'log_level = "info"',
                     'cache = "auto"', "thread_pool_size = 4"):
            self.assertIn(line, text.splitlines())

    @rows("A5", "A6", "A8", "A9")
    def test_06_in_cgroup_and_netns_from_the_first_instruction(self):
        self.need()
        pid, argv = command_lines(self.server)[PROGRAM][0]
        vmm = last_entry(self.vmm, "of.the.config=1")
        fs = last_entry(self.fs, "--thread-pool-size=2")
        for cgroup, netns in (vmm, fs):
            self.assertIn(f"{self.server.cgroup}/crivisor-{self.pod.sandbox}", cgroup)
            self.assertEqual(netns, os.readlink(f"/proc/{pid}/ns/net"))

    @rows("A20", "A21")
    def test_07_debug_console_and_dns_of_a_pod(self):
        self.need()
        self.assertEqual(self.in_guest("cat /etc/resolv.conf").splitlines(), ["search of.this.pod", "nameserver 192.0.2.53"])
        self.assertRegex(self.in_guest("cat /proc/mounts"), r"kuasar /etc/resolv.conf virtiofs")


class NoEntropy(Case):
    """A fault that only the VMM finds: the refusal holds its words, and nothing is left."""

    images = ()
    config = {"hypervisor": {"entropy_source": "/nonexistent/random"}}

    @rows("A10", "A14")
    def test_refused_in_the_vmms_words_and_nothing_left(self):
        with self.assertRaises(CliError) as caught:
            self.server.runp()
        self.server.assert_nothing_left(self.baseline)
        print(f"    {caught.exception.message[:300]}", flush=True)
        self.assertRegex(caught.exception.message, r"(?i)(rng|/nonexistent/random).*No such file")
        self.assertEqual(self.server.pod_ids(), [])


class NoNetwork(Case):
    """A CNI plugin that fails while the VM boots."""

    images = ()
    cni = False

    @classmethod
    def prepare(cls):
        (cls.server.cni_dir / "10-bad.conflist").write_text(
            '{"cniVersion": "1.0.0", "name": "bad", "plugins": [{"type": "bridge", "bridge": "crvt0", "ipam": {"type": "host-local"}}]}')

    @rows("A14")
    def test_refused_in_the_plugins_words_and_nothing_left(self):
        def ready():
            conditions = {c["type"]: c for c in self.server.json("info")["status"]["conditions"]}
            return conditions["NetworkReady"]["status"]
        eventually(ready, 10, "the network is not ready")
        with self.assertRaises(CliError) as caught:
            self.server.runp()
        self.server.assert_nothing_left(self.baseline)
        print(f"    {caught.exception.message[:300]}", flush=True)
        self.assertRegex(caught.exception.message, r"(?i)cni|ipam|bridge|range")
