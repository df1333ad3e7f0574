# SPDX-License-Identifier: Apache-2.0
"""Static pods under kubelet, from their manifests to their removal. kubelet manages pod cgroups; there is no API server.

The tests run in order on one kubelet and one server. Pods that take long (a back-off, a growing log) are started early.
"""

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import BUSYBOX, Case, CliError, below, eventually, failed, http_get, keep_dir, secs, wait_port
from scenario_main import command_lines

NODE_IP = "192.0.2.10"
READ_ONLY_PORT = 10255
VMM = "cloud-hypervisor" if os.environ.get("CRV_DRIVER", "cloud-hypervisor") == "cloud-hypervisor" else "qemu-system-x86_64"
OVERHEAD_MIB = 160  # of deploy/runtimeclass.yaml; an API server would copy it into the pod
CONFIG = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "cgroupsPerQOS": True, "cgroupDriver": "cgroupfs", "failSwapOn": False,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "readOnlyPort": READ_ONLY_PORT, "resolvConf": "",
    "featureGates": {"PodAndContainerStatsFromCRI": True, "CRIListStreaming": True},
    # The node's small test disk must not cause evictions.
    "imageGCHighThresholdPercent": 100, "evictionHard": {"nodefs.available": "0%"},
    "fileCheckFrequency": "2s", "syncFrequency": "10s",
    "containerLogMaxSize": "8Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
}


class Kubelet:
    """A standalone kubelet with directories of its own."""

    def __init__(self, server):
        self.server = server
        self.dir = server.dir / "k"
        self.manifests = self.dir / "manifests"
        self.manifests.mkdir(parents=True)
        self.log = keep_dir() / "kubelet.log"
        self.config = self.dir / "config.yaml"
        # JSON is YAML.
        self.config.write_text(json.dumps(dict(CONFIG, staticPodPath=str(self.manifests), podLogsDir=str(self.dir / "logs"),
                                               containerRuntimeEndpoint=f"unix://{server.socket}")))
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["kubelet", f"--config={self.config}", f"--root-dir={self.dir}/root", f"--cert-dir={self.dir}/certs",
                 "--hostname-override=node", f"--node-ip={NODE_IP}", "--v=2"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                # Fewer garbage collections than by default: kubelet takes a quarter of the node's time.
                env=dict(os.environ, GOGC="400"))
        wait_port(READ_ONLY_PORT, self.process, seconds=60)
        return self

    def stop(self, sig=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(secs(20))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def add(self, name, containers, **spec):
        """Adds a static pod's manifest, atomically."""
        for container in [*containers, *spec.get("initContainers", [])]:
            container.setdefault("image", BUSYBOX)
            container.setdefault("imagePullPolicy", "IfNotPresent")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
               "spec": {"terminationGracePeriodSeconds": 3, "containers": containers, **spec}}
        new = self.dir / "new.json"
        new.write_text(json.dumps(pod))
        os.rename(new, self.manifests / f"{name}.json")

    def remove(self, name):
        (self.manifests / f"{name}.json").unlink()

    def ask(self, path):
        return http_get("127.0.0.1", READ_ONLY_PORT, path)[1]

    def pod(self, name):
        """The pod as kubelet reports it, or {}."""
        try:
            pods = json.loads(self.ask("/pods")).get("items") or []
        except (OSError, ValueError):
            return {}
        return next((p for p in pods if p["metadata"]["name"] == name + "-node"), {})

    def status(self, name):
        return self.pod(name).get("status", {})

    def container(self, name, container):
        status = self.status(name)
        every = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
        return next((c for c in every if c["name"] == container), {})

    def ready(self, name):
        status = self.status(name)
        if status.get("phase") != "Running":
            return None
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return status if conditions.get("Ready") == "True" else None

    def wait(self, condition, seconds, what):
        """Like eventually, but polls more slowly: each poll is work for the node."""
        deadline = time.monotonic() + secs(seconds)
        while True:
            began = time.monotonic()
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {secs(seconds):g} s: {what}")
            time.sleep(max(1, 2 * (time.monotonic() - began)))

    def wait_ready(self, name, seconds=60):
        try:
            return self.wait(lambda: self.ready(name), seconds, f"{name} is not ready")
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.status(name))}") from None

    def sandboxes(self, name):
        """Ids of the server's pods of this manifest, whatever their state."""
        return self.server.crictl("pods", "-q", "--label", f"io.kubernetes.pod.name={name}-node").split()

    def wait_gone(self, name, seconds=90):
        """Waits until kubelet no longer reports the pod and its VM has ended. kubelet removes the sandbox once a minute: see test_15."""
        def runs():
            return self.server.crictl("pods", "-q", "--state", "ready", "--label", f"io.kubernetes.pod.name={name}-node").split()
        self.wait(lambda: not self.pod(name) and not runs(), seconds, f"{name} is still there")

    def cgroup(self, name):
        """The directory of the pod's cgroup, which kubelet names after the pod's uid."""
        uid = self.pod(name)["metadata"]["annotations"].get("kubernetes.io/config.hash") or self.pod(name)["metadata"]["uid"]
        return next(p for p in below("/sys/fs/cgroup/kubepods") if p.name == f"pod{uid}")

    def log_lines(self, name, container):
        """The lines of a container's log, rotated files first. None if a rotation happened meanwhile."""
        lines = []
        for directory in (self.dir / "logs").glob(f"default_{name}-node_*/{container}"):
            rotated = sorted(p for p in directory.iterdir() if p.name.startswith("0.log.") and p.suffix != ".tmp")
            for path in [*rotated, directory / "0.log"]:
                try:
                    text = (gzip.open(path) if path.suffix == ".gz" else open(path, "rb")).read().decode()
                except FileNotFoundError:
                    return None
                lines += [line.split(" ", 3)[3] for line in text.split("\n")[:-1]]
            if rotated != sorted(p for p in directory.iterdir() if p.name.startswith("0.log.") and p.suffix != ".tmp"):
                return None
        return lines


class KubeletOnTop(Case):
    cni = "bridge"
    images = (BUSYBOX,)
    keep_pods = True

    @classmethod
    def prepare(cls):
        if not shutil.which("kubelet"):
            raise AssertionError("no kubelet was brought along (test/tools/kubelet/build)")
        subprocess.run(["ip", "addr", "replace", NODE_IP + "/32", "dev", "lo"], check=True)
        cls.kubelet = Kubelet(cls.server)
        cls.addClassCleanup(cls.kubelet.stop)
        cls.shared = cls.kubelet.dir / "shared"
        cls.shared.mkdir()
        cls.began = time.monotonic()
        cls.kubelet.start()
        print(f"    kubelet answers after {time.monotonic() - cls.began:.1f} s", flush=True)

    @classmethod
    def tearDownClass(cls):
        cls.kubelet.stop()
        super().tearDownClass()

    def tearDown(self):
        super().tearDown()
        if failed(self):
            lines = [line for line in self.kubelet.log.read_text(errors="replace").splitlines()
                     if line[:1] in "EW" and "stats" not in line.lower()]
            print("    kubelet:\n" + "\n".join("      " + line[:300] for line in lines[-15:]), flush=True)

    def identity(self, name):
        """The ids and counts that change when anything is restarted."""
        status = self.kubelet.status(name)
        containers = {c["name"]: (c["containerID"], c["restartCount"]) for c in status["containerStatuses"]}
        return self.kubelet.sandboxes(name), status["podIP"], containers

    # ---- one pod, and what a pod can have --------------------------------------------------------------------------

    def test_01_static_pod_is_running(self):
        self.kubelet.add("plain", [{"name": "main", "command": ["sleep", "100000"]}])
        status = self.kubelet.wait_ready("plain")
        print(f"    kubelet start to a pod that is Running: {time.monotonic() - self.began:.1f} s", flush=True)
        self.assertTrue(status["podIP"].startswith(self.server.subnet.rsplit(".", 1)[0]), status["podIP"])
        self.assertEqual(status["containerStatuses"][0]["restartCount"], 0)
        pid, _ = command_lines(self.server)[VMM][0]
        # The VMM is below the pod's cgroup, where kubelet's limits and its clean-up reach it.
        own = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        self.assertIn(str(self.kubelet.cgroup("plain")).removeprefix("/sys/fs/cgroup"), own)

    def test_02_those_that_take_their_time_begin(self):
        # Started here, checked in later tests.
        self.kubelet.add("crash", [{"name": "main", "command": ["sh", "-c", "echo going; exit 3"]}])
        self.kubelet.add("log", [{"name": "main", "command": [
            "sh", "-c", "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i of a log; [ $((i % 20)) != 0 ] || sleep 1; done; "
            "sleep 100000"]}])
        self.kubelet.wait(lambda: self.kubelet.status("crash") and self.kubelet.status("log"), 30, "kubelet has not seen them")

    def test_03_init_sidecar_probes_and_volumes(self):
        (self.shared / "in").write_text("from the host\n")
        probe = {"periodSeconds": 2, "timeoutSeconds": 10, "failureThreshold": 30}
        self.kubelet.add("full", [{
            "name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "host", "mountPath": "/host"}],
            "command": ["sh", "-c", "cat /data/init /data/sidecar /host/in > /host/out; hostname > /host/hostname; "
                        "cat /etc/hosts > /host/hosts; echo $WHO > /host/env; exec httpd -f -p 8080 -h /www"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "startupProbe": {"exec": {"command": ["test", "-s", "/host/out"]}, **probe},
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, **probe},
            "livenessProbe": {"tcpSocket": {"port": 8080}, **probe},
        }], initContainers=[
            {"name": "init", "command": ["sh", "-c", "echo init > /data/init"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            {"name": "sidecar", "restartPolicy": "Always", "command": ["sh", "-c", "echo sidecar > /data/sidecar; sleep 100000"],
             "volumeMounts": [{"name": "data", "mountPath": "/data"}],
             "startupProbe": {"exec": {"command": ["test", "-e", "/data/sidecar"]}, **probe}},
        ], volumes=[{"name": "data", "emptyDir": {}}, {"name": "host", "hostPath": {"path": str(self.shared), "type": "Directory"}}])
        status = self.kubelet.wait_ready("full", 90)
        self.assertEqual((self.shared / "out").read_text(), "init\nsidecar\nfrom the host\n")
        self.assertEqual((self.shared / "hostname").read_text(), "full-node\n")
        self.assertEqual((self.shared / "env").read_text(), status["podIP"] + "\n")
        self.assertIn(status["podIP"] + "\tfull-node", (self.shared / "hosts").read_text())
        init = self.kubelet.container("full", "init")
        self.assertEqual(init["state"]["terminated"]["exitCode"], 0)
        sidecar = self.kubelet.container("full", "sidecar")
        self.assertTrue(sidecar["ready"] and "running" in sidecar["state"], sidecar)
        self.assertEqual([c["restartCount"] for c in status["containerStatuses"]], [0])

    # ---- restarts ---------------------------------------------------------------------------------------------------

    def test_04_exit_3_is_restarted_and_backed_off(self):
        def restarted():
            c = self.kubelet.container("crash", "main")
            return c if c.get("restartCount", 0) >= 2 and c.get("state", {}).get("waiting") else None
        container = self.kubelet.wait(restarted, 60, "no second restart and back-off")
        self.assertEqual(container["state"]["waiting"]["reason"], "CrashLoopBackOff", container)
        self.assertEqual(container["lastState"]["terminated"]["exitCode"], 3, container)
        # One sandbox serves all the attempts, and each attempt is a container of its own.
        self.assertEqual(len(self.kubelet.sandboxes("crash")), 1)
        listed = self.server.json("ps", "-a", "-o", "json", "--pod", self.kubelet.sandboxes("crash")[0])["containers"]
        self.assertEqual(max(c["metadata"].get("attempt", 0) for c in listed), container["restartCount"])
        self.kubelet.remove("crash")

    def test_05_never_and_on_failure(self):
        self.kubelet.add("done", [{"name": "main", "command": ["sh", "-c", "echo bye; exit 0"]}], restartPolicy="OnFailure")
        self.kubelet.add("bad", [{"name": "main", "command": ["sh", "-c", "echo because > /dev/termination-log; exit 7"]}],
                         restartPolicy="Never")
        self.kubelet.wait(lambda: self.kubelet.status("done").get("phase") == "Succeeded", 60, "`done` has not succeeded")
        self.kubelet.wait(lambda: self.kubelet.status("bad").get("phase") == "Failed", 60, "`bad` has not failed")
        ended = self.kubelet.container("bad", "main")["state"]["terminated"]
        self.assertEqual((ended["exitCode"], ended.get("message", "").strip()), (7, "because"))
        self.assertEqual(self.kubelet.container("bad", "main")["restartCount"], 0)
        self.kubelet.remove("done")
        self.kubelet.remove("bad")

    def test_06_liveness_probe_restarts(self):
        probe = {"exec": {"command": ["sh", "-c", "exit 1"]}, "periodSeconds": 2, "timeoutSeconds": 60, "failureThreshold": 1}
        self.kubelet.add("sick", [{"name": "main", "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
                                   "livenessProbe": probe}])
        self.kubelet.wait(lambda: self.kubelet.container("sick", "main").get("restartCount", 0) >= 1, 60, "never restarted")
        self.kubelet.remove("sick")

    # ---- limits -----------------------------------------------------------------------------------------------------

    def test_07_64Mi_pod_lives_within_its_limit_and_the_overhead(self):
        # In the huge pages of this node (see job) it takes more than on a host of a user's: 92 MiB instead of 84.
        self.kubelet.add("small", [{
            "name": "main", "command": ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40; echo filled > /tmp/filled; sleep 100000"],
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/filled"]}, "periodSeconds": 2, "timeoutSeconds": 10},
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"memory": "64Mi", "cpu": "500m"}},
        }], overhead={"memory": f"{OVERHEAD_MIB}Mi", "cpu": "100m"})
        self.kubelet.wait_ready("small", 90)
        cgroup = self.kubelet.cgroup("small")
        self.assertEqual(int((cgroup / "memory.max").read_text()), (64 + OVERHEAD_MIB) << 20)
        events = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
        used, peak = ((int((cgroup / name).read_text()) >> 20) if (cgroup / name).exists() else -1
                      for name in ("memory.current", "memory.peak"))
        print(f"    64Mi pod: {used} MiB in use of {64 + OVERHEAD_MIB}, peak {peak}; events {events}", flush=True)
        self.assertEqual((events["oom"], events["oom_kill"]), ("0", "0"))
        self.assertEqual(self.kubelet.container("small", "main")["restartCount"], 0)

    def test_08_beyond_64Mi_nothing_on_the_host_is_killed(self):
        sandboxes = self.kubelet.sandboxes("small")
        container = self.kubelet.container("small", "main")["containerID"].split("//")[1]
        try:
            self.server.crictl("exec", "-s", container, "dd", "if=/dev/zero", "of=/dev/shm/y", "bs=1M", "count=60")
        except CliError:
            pass  # killed, as it should be
        cgroup = self.kubelet.cgroup("small")
        events = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
        self.assertEqual(events["oom_kill"], "0", "the host killed, not the guest")
        self.assertEqual(self.kubelet.sandboxes("small"), sandboxes)
        self.kubelet.remove("small")

    def test_08b_a_container_without_limit_is_not_held_to_the_others(self):
        self.kubelet.add("mixed", [
            {"name": "limited", "command": ["sleep", "100000"], "resources": {"limits": {"memory": "64Mi"}}},
            {"name": "free", "command": ["sleep", "100000"]}])
        self.kubelet.wait_ready("mixed")
        container = self.kubelet.container("mixed", "free")["containerID"].split("//")[1]
        total = int(self.server.crictl("exec", "-s", container, "grep", "MemTotal", "/proc/meminfo").split()[1]) // 1024
        self.assertGreater(total, 900, "the VM has the size of the one limit")
        self.kubelet.remove("mixed")

    # ---- log rotation -----------------------------------------------------------------------------------------------

    def test_09_log_rotation_loses_nothing(self):
        def rotated():
            return list((self.kubelet.dir / "logs").glob("default_log-node_*/main/0.log.*"))
        self.kubelet.wait(rotated, 90, "no rotated log")
        container = self.kubelet.container("log", "main")["containerID"].split("//")[1]
        current = next((self.kubelet.dir / "logs").glob("default_log-node_*/main/0.log"))
        eventually(lambda: current.stat().st_size > 0, 30, "the new log stays empty")
        self.assertEqual(self.server.json("inspect", container)["status"]["state"], "CONTAINER_RUNNING")
        lines = eventually(lambda: self.kubelet.log_lines("log", "main"), 30, "the log rotates all the time")
        numbers = [int(line.split()[1]) for line in lines]
        self.assertEqual(numbers, list(range(numbers[0], numbers[-1] + 1)), "a line is lost or repeated")
        self.kubelet.remove("log")

    # ---- the end of a pod -------------------------------------------------------------------------------------------

    def test_10_preStop_then_TERM_then_gone(self):
        out = self.shared / "end"
        self.kubelet.add("polite", [{
            "name": "main", "command": ["sh", "-c", "trap 'echo TERM >> /host/end; exit 0' TERM; echo up >> /host/end; sleep 100000 & wait"],
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo preStop >> /host/end; sleep 1"]}},
                          "postStart": {"exec": {"command": ["sh", "-c", "echo postStart > /host/start"]}}},
            "volumeMounts": [{"name": "host", "mountPath": "/host"}],
        }], terminationGracePeriodSeconds=60, volumes=[{"name": "host", "hostPath": {"path": str(self.shared)}}])
        self.kubelet.wait_ready("polite")
        self.assertEqual((self.shared / "start").read_text(), "postStart\n")
        cgroup = self.kubelet.cgroup("polite")
        self.kubelet.remove("polite")
        self.kubelet.wait_gone("polite", 120)
        self.assertEqual(out.read_text().split(), ["up", "preStop", "TERM"])
        self.kubelet.wait(lambda: not cgroup.exists(), 30, f"{cgroup} is left")

    def test_11_manifest_removed_while_booting(self):
        self.kubelet.add("brief", [{"name": "main", "command": ["sleep", "100000"]}])
        before = set(self.server.processes())
        eventually(lambda: set(self.server.processes()) - before, 30, "no VM begins")
        self.kubelet.remove("brief")
        self.kubelet.wait_gone("brief", 120)

    def test_11b_ten_pods_at_once(self):
        names = [f"many-{n}" for n in range(10)]
        began = time.monotonic()
        for name in names:
            self.kubelet.add(name, [{"name": "main", "command": ["sleep", "100000"]}])
        for name in names:
            self.kubelet.wait_ready(name, 180)
        print(f"    ten pods are ready after {time.monotonic() - began:.1f} s", flush=True)
        statuses = [self.kubelet.status(name) for name in names]
        self.assertEqual(len({s["podIP"] for s in statuses}), 10, statuses)
        self.assertEqual([c["restartCount"] for s in statuses for c in s["containerStatuses"]], [0] * 10)
        self.assertEqual([len(self.kubelet.sandboxes(name)) for name in names], [1] * 10, "a sandbox was made twice")
        for name in names:
            self.kubelet.remove(name)
        for name in names:
            self.kubelet.wait_gone(name, 180)

    # ---- restarts of those below and above --------------------------------------------------------------------------

    def test_12_kubelet_restarted(self):
        before = self.identity("plain")
        for sig in (signal.SIGTERM, signal.SIGKILL):
            self.kubelet.stop(sig)
            self.kubelet.start()
            self.kubelet.wait_ready("plain")
            self.assertEqual(self.identity("plain"), before)
            self.kubelet.wait_ready("full")

    def test_13_server_restarted_under_kubelet(self):
        before = self.identity("plain"), self.identity("full")
        for sig in (signal.SIGTERM, signal.SIGKILL):
            self.server.stop(sig)
            time.sleep(secs(0.5))  # long enough for kubelet to miss it
            self.server.start()
            # A pod that comes now needs a kubelet and a server that have found each other again.
            name = f"after-{int(sig)}"
            self.kubelet.add(name, [{"name": "main", "command": ["sleep", "100000"]}])
            self.kubelet.wait_ready(name, 90)
            self.kubelet.remove(name)
            self.assertEqual((self.identity("plain"), self.identity("full")), before)

    def test_14_killed_VMM_is_a_new_sandbox(self):
        sandbox = self.kubelet.sandboxes("plain")[0]
        own = self.server.sandbox_of(sandbox)
        found = [pid for pid, _ in command_lines(self.server)[VMM]
                 if f"crivisor-{own}" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()]
        self.assertEqual(len(found), 1)
        os.kill(found[0], signal.SIGKILL)

        def again():
            now = [s for s in self.kubelet.sandboxes("plain") if s != sandbox]
            return now and self.kubelet.ready("plain")
        self.kubelet.wait(again, 90, "no new sandbox")
        self.assertEqual(self.kubelet.container("plain", "main")["restartCount"], 1)

    def test_15_all_manifests_removed_nothing_left(self):
        for manifest in self.kubelet.manifests.iterdir():
            manifest.unlink()
        self.kubelet.wait(lambda: not self.server.pod_ids(), 120, "pods are left")
        self.server.assert_nothing_left(self.baseline)
        self.kubelet.wait(lambda: not any(p.name.startswith("pod") for p in below("/sys/fs/cgroup/kubepods")), 60, "pod cgroups are left")
