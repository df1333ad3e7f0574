# SPDX-License-Identifier: Apache-2.0
"""Events, figures, metrics and updates, by the real crictl: each figure beside what the guest itself says."""

import json
import os
import pathlib
import subprocess
import time

from harness import BUSYBOX, ROOT, Case, eventually, secs, work

UNKNOWN = "0123456789abcdef" * 4
# In a container /sys/fs/cgroup is the container's own cgroup of the guest.
CGROUP = "/sys/fs/cgroup"


def number(value):
    return int(value["value"]) if value else 0


def keyed(text, key):
    return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == key)


class Listener:
    """`crictl events` as a background process; its JSON objects as they come."""

    def __init__(self, server):
        self.file = server.dir / f"events{time.monotonic_ns()}"
        self.out = self.file.open("wb")
        self.process = subprocess.Popen(server.crictl_args(["events"]), stdout=self.out, stderr=subprocess.STDOUT)

    def events(self):
        decoder, found = json.JSONDecoder(), []
        text = self.file.read_text()
        while text.strip():
            try:
                value, end = decoder.raw_decode(text.lstrip())
            except ValueError:
                break
            found.append(value)
            text = text.lstrip()[end:]
        return [(e["containerId"], e["containerEventType"], e) for e in found]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.out.close()


class Events(Case):
    def test_life_of_a_pod_by_many_listeners(self):
        """All listeners see the same events, in their order, each with the statuses of the pod and its containers."""
        probe = [Listener(self.server) for _ in range(4)]
        # crictl does not say when it listens: until each has seen an event of a pod made for that.
        first = self.server.runp()
        eventually(lambda: all(l.process.poll() is None for l in probe), 5, "crictl events has ended")
        first.stop()
        first.remove()
        eventually(lambda: all(any(id == first.id and kind == "CONTAINER_DELETED_EVENT" for id, kind, _ in l.events())
                               for l in probe), 20, lambda: str([l.file.read_text()[-500:] for l in probe]))
        pod = self.server.runp()
        container = pod.run(["sh", "-c", "exit 3"])
        container.wait()
        container.remove()
        pod.stop()
        pod.remove()
        wanted = [(pod.id, "CREATED"), (pod.id, "STARTED"), (container.id, "CREATED"), (container.id, "STARTED"),
                  (container.id, "STOPPED"), (container.id, "DELETED"), (pod.id, "STOPPED"), (pod.id, "DELETED")]
        wanted = [(id, f"CONTAINER_{kind}_EVENT") for id, kind in wanted]

        def seen(listener):
            return [(id, kind) for id, kind, _ in listener.events() if id in (pod.id, container.id)]
        for listener in probe:
            eventually(lambda: len(seen(listener)) >= len(wanted), 10, lambda: str(seen(listener)))
            self.assertEqual(seen(listener), wanted)
        stopped = next(e for id, kind, e in probe[0].events() if id == container.id and kind == "CONTAINER_STOPPED_EVENT")
        self.assertEqual(stopped["containersStatuses"][0]["exitCode"], 3)
        self.assertEqual(stopped["podSandboxStatus"]["id"], pod.id)
        self.assertEqual(stopped["podSandboxStatus"]["state"], "SANDBOX_READY")
        for listener in probe:
            listener.stop()

    def test_a_server_that_stops_tells_its_listeners(self):
        listener = Listener(self.server)
        pod = self.server.runp()
        eventually(lambda: listener.events(), 20, lambda: listener.file.read_text())
        pod.stop()
        pod.remove()
        began = time.monotonic()
        self.server.stop()
        self.assertLess(time.monotonic() - began, secs(10), "the server waits for its listeners")
        self.server.start()
        eventually(lambda: listener.process.poll() is not None or "stopped" in listener.file.read_text(), 10,
                   lambda: listener.file.read_text())
        listener.stop()


class Figures(Case):
    @classmethod
    def prepare(cls):
        cls.keep_pods = True

    def pod_and_container(self):
        cls = type(self)
        if not hasattr(cls, "shared"):
            pod = self.server.runp()
            # Some CPU, 8 MiB of anonymous memory, 1 MiB in the writable layer, some bytes by the network.
            container = pod.run(["sh", "-c", "dd if=/dev/zero of=/file bs=65536 count=16 2>/dev/null; "
                                             "x=$(head -c 4000000 /dev/zero | tr '\\0' x); "
                                             "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100000"],
                                linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
            cls.shared = pod, container
        return cls.shared

    def stats(self, container):
        return self.server.json("stats", "-o", "json", "--id", container.id)["stats"][0]

    def test_stats_are_what_the_guest_s_cgroup_says(self):
        _, container = self.pod_and_container()
        eventually(lambda: number(self.stats(container)["memory"]["rssBytes"]) > 3 << 20, 60,
                   lambda: str(self.stats(container)))

        def quiet():
            before = container.exec("cat", f"{CGROUP}/cpu.stat")
            stats = self.stats(container)
            after = container.exec("cat", f"{CGROUP}/cpu.stat")
            usage = number(stats["cpu"]["usageCoreNanoSeconds"]) // 1000
            return keyed(before, "usage_usec") <= usage <= keyed(after, "usage_usec")
        eventually(quiet, 20, "CPU is not what cpu.stat says")
        stats = self.stats(container)
        current = int(container.exec("cat", f"{CGROUP}/memory.current"))
        memory = container.exec("cat", f"{CGROUP}/memory.stat")
        near = 4 << 20  # what the exec itself takes
        self.assertAlmostEqual(number(stats["memory"]["usageBytes"]), current, delta=near)
        self.assertAlmostEqual(number(stats["memory"]["rssBytes"]), keyed(memory, "anon"), delta=near)
        self.assertAlmostEqual(number(stats["memory"]["availableBytes"]) + number(stats["memory"]["workingSetBytes"]),
                               64 << 20, delta=4096)
        self.assertGreater(number(stats["memory"]["pageFaults"]), 0)
        self.assertGreater(int(stats["cpu"]["timestamp"]), 0)
        self.assertIn("psi", stats["cpu"])
        # Measured once in ten seconds, and the first time perhaps before the container has written.
        eventually(lambda: number(self.stats(container)["writableLayer"]["usedBytes"]) >= 1 << 20, 20,
                   lambda: str(self.stats(container)["writableLayer"]))
        layer = self.stats(container)["writableLayer"]
        self.assertGreaterEqual(number(layer["inodesUsed"]), 1)
        self.assertTrue(os.path.isdir(layer["fsId"]["mountpoint"]))
        self.assertIn(layer["fsId"]["mountpoint"],
                      [fs["fsId"]["mountpoint"] for fs in self.server.json("imagefsinfo")["status"]["imageFilesystems"]])

    def test_nano_cores_come_with_the_second_sample(self):
        _, container = self.pod_and_container()
        self.stats(container)
        time.sleep(1.2)
        self.assertIn("usageNanoCores", self.stats(container)["cpu"])

    def test_statsp_shows_the_vm_s_overhead(self):
        pod, container = self.pod_and_container()
        stats = self.server.json("statsp", "-o", "json", "--id", pod.id)["stats"][0]["linux"]
        own = next(c for c in stats["containers"] if c["attributes"]["id"] == container.id)
        self.assertGreater(number(stats["memory"]["workingSetBytes"]), number(own["memory"]["workingSetBytes"]))
        self.assertGreater(number(stats["cpu"]["usageCoreNanoSeconds"]), number(own["cpu"]["usageCoreNanoSeconds"]))
        self.assertGreaterEqual(number(stats["process"]["processCount"]), 1)
        name, device = stats["network"]["defaultInterface"]["name"], container.exec("cat", "/proc/net/dev")
        self.assertEqual(name, "eth0")
        counters = next(line.split(":")[1].split() for line in device.splitlines() if line.strip().startswith("eth0:"))
        self.assertLessEqual(number(stats["network"]["defaultInterface"]["rxBytes"]), int(counters[0]))
        self.assertLessEqual(number(stats["network"]["defaultInterface"]["txBytes"]), int(counters[8]))

    def test_metricsp(self):
        pod, container = self.pod_and_container()
        names = {d["name"] for d in self.server.json("metricdescs")["descriptors"]}
        found = next(p for p in self.server.json("metricsp")["podMetrics"] if p["podSandboxId"] == pod.id)
        self.assertIn("container_network_receive_bytes_total", {m["name"] for m in found["metrics"]})
        own = next(c for c in found["containerMetrics"] if c["containerId"] == container.id)["metrics"]
        for name in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_threads",
                     "container_pressure_cpu_waiting_seconds_total", "container_start_time_seconds"):
            self.assertIn(name, {m["name"] for m in own})
        self.assertLessEqual({m["name"] for m in found["metrics"] + own}, names)
        limit = next(m for m in own if m["name"] == "container_spec_memory_limit_bytes")
        self.assertEqual(number(limit["value"]), 64 << 20)


def go_client():
    """crilist, a client on the official Go module: crictl has no command for the streamed lists and for a pod's update."""
    path = work() / "crilist"
    if not path.exists():
        subprocess.run(["go", "build", "-o", path, "./crilist"], cwd=ROOT / "test" / "interop", check=True)
    return path


class Streams(Case):
    def test_streamed_lists_are_the_lists(self):
        pod = self.server.runp()
        running, created = pod.run(["sleep", "100000"]), pod.create(["true"])
        out = subprocess.run([go_client(), self.server.socket], check=True, stdout=subprocess.PIPE, text=True).stdout
        lists = json.loads(out)
        self.assertEqual(lists["pods"], [pod.id])
        self.assertEqual(lists["containers"], [created.id, running.id])
        self.assertEqual(sorted(lists["images"]),
                         sorted(i["id"] for i in self.server.json("images", "-o", "json")["images"]))
        self.assertEqual(lists["containerStats"], [running.id])
        self.assertEqual(lists["podStats"], [pod.id])
        self.assertEqual(lists["podMetrics"], [pod.id])


class Updates(Case):
    def test_a_pod_s_cpu_limit_is_its_cgroup_s(self):
        pod = self.server.runp()
        subprocess.run([go_client(), self.server.socket, "update-pod", pod.id, '{"cpu_quota": 70000, "cpu_period": 100000}'], check=True)
        values = [path.read_text().split()[0] for cgroup in self.server.cgroups() if pod.sandbox in str(cgroup)
                  for path in (pathlib.Path(cgroup, "cpu.cfs_quota_us"), pathlib.Path(cgroup, "cpu.max")) if path.exists()]
        self.assertIn("70000", values)

    def test_limits_change_in_the_guest(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"], linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
        self.assertEqual(container.exec("cat", f"{CGROUP}/memory.max").strip(), str(64 << 20))
        self.server.crictl("update", "--memory", str(96 << 20), "--cpu-quota", "50000", "--cpu-period", "100000",
                           container.id)
        self.assertEqual(container.exec("cat", f"{CGROUP}/memory.max").strip(), str(96 << 20))
        self.assertEqual(container.exec("cat", f"{CGROUP}/cpu.max").split(), ["50000", "100000"])
        self.server.crictl("update", "--memory", str(48 << 20), container.id)
        self.assertEqual(container.exec("cat", f"{CGROUP}/memory.max").strip(), str(48 << 20))
        self.assertEqual(container.exec("cat", f"{CGROUP}/cpu.max").split(), ["50000", "100000"])
        resources = container.status()["resources"]["linux"]
        self.assertEqual(int(resources["memoryLimitInBytes"]), 48 << 20)
        self.assertEqual(int(resources["cpuQuota"]), 50000)
        with self.refused("FailedPrecondition", "bytes of memory"):
            self.server.crictl("update", "--memory", str(1 << 40), container.id)
        self.assertEqual(container.exec("cat", f"{CGROUP}/memory.max").strip(), str(48 << 20))
        with self.refused("InvalidArgument", "cpuset_cpus"):
            self.server.crictl("update", "--cpuset-cpus", "4000", "--memory", str(32 << 20), container.id)
        self.assertEqual(container.exec("cat", f"{CGROUP}/memory.max").strip(), str(48 << 20))

    def test_missing_and_ended_ones(self):
        with self.refused("NotFound", UNKNOWN[:13]):
            self.server.crictl("update", "--memory", "67108864", UNKNOWN)
        pod = self.server.runp()
        container = pod.run(["true"], image=BUSYBOX)
        container.wait()
        with self.refused("FailedPrecondition", container.id[:13]):
            self.server.crictl("update", "--memory", "67108864", container.id)
