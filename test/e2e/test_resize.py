# SPDX-License-Identifier: Apache-2.0
"""A pod's VM grows and shrinks with its containers' limits; updates of every kind of limit, as the guest has them."""

import json
import os
import pathlib
import re
import subprocess

from harness import Case, eventually
from test_stats import CGROUP, go_client

MIB = 1 << 20


class Growing:
    """For a Case whose update(container, resources…) returns the refusal's words, or None."""

    def total(self, container):
        return int(re.search(r"MemTotal:\s+(\d+)", container.exec("cat", "/proc/meminfo")).group(1)) >> 10

    def limit(self, container, name="memory.max"):
        return container.exec("cat", f"{CGROUP}/{name}").strip()

    def host_limit(self, pod):
        """The memory limit of the VM's cgroup, in MiB."""
        paths = (pathlib.Path(cgroup, name) for cgroup in self.server.cgroups() if pod.sandbox in cgroup
                 for name in ("memory.limit_in_bytes", "memory.max"))
        return next(int(path.read_text()) for path in paths if path.exists()) // MIB

    def test_vm_grows_and_shrinks_with_a_container(self):
        privileged = {"privileged": True}
        pod = self.server.runp(linux={"resources": {"memory_limit_in_bytes": 64 * MIB}, "security_context": privileged})
        container = pod.run(["sleep", "100000"], linux={"resources": {"memory_limit_in_bytes": 64 * MIB},
                                                        "security_context": privileged})
        total, host = self.total(container), self.host_limit(pod)
        self.assertEqual(container.exec("nproc").strip(), "1")
        more = {"memory_limit_in_bytes": 320 * MIB}
        cpus = {"cpu_quota": 200000, "cpu_period": 100000}
        plugs = not any(b"\0tcg," in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.server.processes())
        if plugs and os.cpu_count() > 1:
            more.update(cpus)
        elif os.cpu_count() > 1:
            self.assertRegex(self.update(container, **more, **cpus), "FailedPrecondition.*need 2 vCPUs.*has 1 and can have 1")
            self.assertEqual(self.limit(container), str(64 * MIB))
        self.assertIsNone(self.update(container, **more))
        self.assertEqual(self.limit(container), str(320 * MIB))
        self.assertGreaterEqual(self.total(container), total + 256)
        self.assertEqual(self.host_limit(pod), host + 256)
        if plugs and os.cpu_count() > 1:
            self.assertEqual(container.exec("nproc").strip(), "2")
            self.assertEqual(self.limit(container, "cpu.max"), "200000 100000")
        # The memory can be used: more than the VM had.
        container.exec("mkdir", "/memory")
        container.exec("mount", "-t", "tmpfs", "-o", "size=250m", "tmpfs", "/memory")
        container.exec("dd", "if=/dev/zero", "of=/memory/x", "bs=1M", "count=200")
        self.assertGreater(int(self.limit(container, "memory.current")), 190 * MIB)
        container.exec("rm", "/memory/x")
        # A VM that was adopted goes on from the size that it has.
        self.server.stop()
        self.server.start()
        self.assertIsNone(self.update(container, memory_limit_in_bytes=64 * MIB, cpu_quota=50000, cpu_period=100000))
        self.assertEqual(self.limit(container), str(64 * MIB))
        eventually(lambda: self.total(container) < total + 16, 30, lambda: f"{self.total(container)} MiB, {total} at first")
        eventually(lambda: container.exec("nproc").strip() == "1", 30, "two CPUs still")
        eventually(lambda: self.host_limit(pod) == host, 10, lambda: f"the host's limit: {self.host_limit(pod)}, {host} at first")


class Resize(Growing, Case):
    def update(self, container, what="update-container", **resources):
        """By the client on the official Go module: its words if the server refuses, else None."""
        done = subprocess.run([go_client(), self.server.socket, what, container.id, json.dumps(resources)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout if done.returncode else None

    def test_a_pod_s_update_grows_its_vm(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"])
        total = self.total(container)
        self.assertIsNone(self.update(pod, "update-pod", memory_limit_in_bytes=(total + 200) * MIB))
        self.assertGreaterEqual(self.total(container), total + 128)

    def test_what_cannot_be_had_is_refused_in_numbers(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"], linux={"resources": {"memory_limit_in_bytes": 64 * MIB}})
        words = self.update(container, memory_limit_in_bytes=1 << 44)
        self.assertRegex(words, rf"FailedPrecondition.*{1 << 44} bytes in all.* has \d+ bytes of memory and can have \d+")
        self.assertEqual(self.limit(container), str(64 * MIB))

    def test_unified_and_huge_pages_in_the_guest(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"], linux={"resources": {"memory_limit_in_bytes": 64 * MIB}})
        self.assertIsNone(self.update(container, unified={"memory.high": str(48 * MIB), "pids.max": "77"}))
        self.assertEqual(self.limit(container, "memory.high"), str(48 * MIB))
        self.assertEqual(self.limit(container, "pids.max"), "77")
        self.assertEqual(self.limit(container), str(64 * MIB))
        self.assertIsNone(self.update(container, hugepage_limits=[{"page_size": "2MB", "limit": 4 * MIB}]))
        self.assertEqual(self.limit(container, "hugetlb.2MB.max"), str(4 * MIB))
        self.assertEqual(self.limit(container, "memory.high"), str(48 * MIB))

    def test_update_that_the_guest_refuses_in_part_changes_nothing(self):
        """The guest's kernel takes the memory limit and refuses another part of the same update: all is as before."""
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"], linux={"resources": {
            "memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50000, "cpu_period": 100000}})
        before = [self.limit(container, name) for name in ("memory.max", "memory.high", "cpu.max", "pids.max")]
        words = self.update(container, memory_limit_in_bytes=96 * MIB, cpu_quota=70000, cpu_period=100000,
                            unified={"memory.high": "no number"})
        self.assertIsNotNone(words)
        self.assertEqual([self.limit(container, name) for name in ("memory.max", "memory.high", "cpu.max", "pids.max")], before)
        self.assertEqual(int(container.status()["resources"]["linux"]["memoryLimitInBytes"]), 64 * MIB)
