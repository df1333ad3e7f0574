# SPDX-License-Identifier: Apache-2.0
"""Figures: a table, and node-figures.json beside the counts. All are measured in one run in one node; compared figures are taken in turns.
The boots are in scenario_boots.py.

1. The time from kubelet's start to a Running static pod, as kubelet reports it (/pods, polled every 0.1 s), with this server and with
   containerd + crun. Both have the same manifest, written before kubelet starts, the same kubelet configuration and pod network, and
   pulled images. kubelet's state is new each time, except its certificate. One start of kubelet before the first turn makes that
   certificate and fills the page cache. Also measured: when kubelet's port answers, and the container's start by the runtime's clock.
2. Host memory of 1 and then 8 idle pods without containers: the PSS (/proc/PID/smaps_rollup) of the VMM and its helpers, and the growth
   of the server's own PSS, divided by the number of pods. PSS divides a page among the processes that map it: the guest image's page
   cache (DAX) and the programs' text count once, so 8 pods take less each than one. Guest memory is the memory that the guest has
   touched. The kernel's own memory for a VM (page tables, KVM, tap, cgroup) belongs to no process and is not included. The server has
   run pods before, so what it needs once for all pods is not in its growth. Also measured: shim, pause and growth of containerd.
"""

import calendar
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import time
import unittest

from containerd import Containerd
from harness import BUSYBOX, Case, failed, keep_dir, save_logs, secs
from measure import Table, show, small_pages
from scenario_kubelet import NODE_IP, Kubelet
from scenario_main import command_lines

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
KUBELET_ROUNDS, PODS = 2, (1, 8)
SETTLE_S = 5


def pss(pids):
    """PSS of these processes in MB: all of it, anonymous, of files, and shared (guest memory is shared)."""
    total = dict.fromkeys(("all", "own", "file", "shared"), 0)
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        for key, name in zip(total, ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")):
            total[key] += int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M).group(1)) / 1024
    return total


def started_at(status):
    """When a container started, in seconds since the epoch."""
    text, fraction = re.fullmatch(r"(\S{19})(\.\d+)?(?:Z|\+00:00)", status["startedAt"]).groups()
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) + float(fraction or 0)


class Figures(Case):
    cni = "bridge"
    config = {"server": {"log_level": "info"}}
    keep_pods = True
    containerd = None

    @classmethod
    def prepare(cls):
        small_pages(cls.addClassCleanup)
        cls.table, cls.figures = Table(), {"driver": DRIVER, "kernel": os.uname().release}

    @classmethod
    def tearDownClass(cls):
        cls.table.print("    ")
        target = keep_dir().parent / "node-figures.json"
        every = json.loads(target.read_text()) if target.exists() else {}
        target.write_text(json.dumps({**every, DRIVER: cls.figures}, indent=1) + "\n")
        if cls.containerd:
            cls.containerd.destroy()  # its bridge would count as left behind
        super().tearDownClass()

    def tearDown(self):
        super().tearDown()
        if failed(self) and self.containerd:
            save_logs(self.containerd, self.id() + "-containerd")

    def other(self):
        """containerd; started at the first use."""
        if not self.containerd:
            Figures.containerd = Containerd()
            self.addClassCleanup(self.containerd.destroy)
            self.containerd.start()
            self.containerd.pull(BUSYBOX)
            self.containerd.runp()  # so that it too has run a pod before it is measured
            self.containerd.remove_all()
        return self.containerd

    # ---- kubelet ----------------------------------------------------------------------------------------------------

    def turn(self, kubelet):
        """Seconds from kubelet's start: its port answers, the container starts, the pod is Running."""
        for name in ("root", "logs"):
            if (kubelet.dir / name).exists():
                shutil.rmtree(kubelet.dir / name)
        kubelet.add("pod", [{"name": "main", "command": ["sleep", "100000"]}])
        began, clock = time.monotonic(), time.time()
        kubelet.start()
        answers = time.monotonic() - began
        while kubelet.status("pod").get("phase") != "Running":
            self.assertLess(time.monotonic() - began, secs(60), kubelet.status("pod"))
            time.sleep(0.1)
        running = time.monotonic() - began
        container = kubelet.server.crictl("ps", "-q").split()[0]
        started = started_at(kubelet.server.json("inspect", container)["status"]) - clock
        kubelet.stop()
        kubelet.remove("pod")
        kubelet.server.remove_all()
        return {"answers_s": answers, "started_s": started, "running_s": running}

    @unittest.skipUnless(shutil.which("kubelet"), "no kubelet was brought along (test/tools/kubelet/build)")
    def test_01_kubelet_start_to_a_running_pod(self):
        subprocess.run(["ip", "addr", "replace", NODE_IP + "/32", "dev", "lo"], check=True)
        self.addCleanup(subprocess.run, ["ip", "addr", "del", NODE_IP + "/32", "dev", "lo"])
        kubelets = {"crivisor": Kubelet(self.server), "containerd": Kubelet(self.other())}
        turns = {name: [] for name in kubelets}
        certs = kubelets["crivisor"].dir / "certs"
        for kubelet in kubelets.values():
            self.addCleanup(kubelet.stop)
        kubelets["crivisor"].start().stop()
        shutil.copytree(certs, kubelets["containerd"].dir / "certs")
        for number in range(KUBELET_ROUNDS):
            # In alternating order, so that a change in the machine's load favours neither.
            for name in sorted(kubelets, reverse=number % 2 == 0):
                turns[name].append(self.turn(kubelets[name]))
        self.figures["kubelet"] = turns
        for key, text in (("answers_s", "its port answers"), ("started_s", "the container starts"), ("running_s", "the pod is Running")):
            values = {name: [turn[key] for turn in taken] for name, taken in turns.items()}
            for name, label in (("crivisor", f"crivisor, {DRIVER}"), ("containerd", "containerd, crun")):
                self.table.row(f"kubelet's start until {text}: {label}", show(values[name]))
        ratio = statistics.median(values["crivisor"]) / statistics.median(values["containerd"])
        self.figures["kubelet_running_ratio"] = ratio
        self.table.row("  crivisor / containerd, until Running", f"{ratio:.2f}")

    # ---- memory -----------------------------------------------------------------------------------------------------

    def memory(self, server, own_name):
        """MB for each pod, by number of idle pods and by program. `own_name`: the name of the server itself."""
        found, before, pods = {}, pss([server.process.pid])["all"], 0
        for count in PODS:
            for _ in range(count - pods):
                server.runp(linux={"cgroup_parent": server.cgroup})
            pods = count
            time.sleep(SETTLE_S)
            parts = {name: {key: value / count for key, value in pss([pid for pid, _ in processes]).items()}
                     for name, processes in command_lines(server).items() if name}  # KVM's threads are there too, without one
            parts[own_name] = {"all": (pss([server.process.pid])["all"] - before) / count}
            found[count] = {"total": sum(part["all"] for part in parts.values()), "parts": parts}
        server.remove_all()
        return found

    def report(self, found, what):
        for count, value in found.items():
            self.table.row(f"memory of an idle pod, {count} pod{'s' * (count > 1)}: {what}", f"{value['total']:.1f} MB")
            for name, part in value["parts"].items():
                split = f" (own {part['own']:.1f}, files {part['file']:.1f}, shared {part['shared']:.1f})" if "own" in part else " (growth)"
                self.table.row(f"  {name}", f"{part['all']:.2f} MB{split}")

    def test_02_memory_of_idle_pods(self):
        ours = self.memory(self.server, "crivisor")
        self.assertEqual(len(ours[PODS[0]]["parts"]), 3 + ("vhost-device-vsock" in ours[PODS[0]]["parts"]), ours)
        theirs = self.memory(self.other(), "containerd")
        self.figures["memory_mb_per_pod"] = {"crivisor": ours, "containerd": theirs}
        self.report(ours, f"crivisor, {DRIVER}")
        self.report(theirs, "containerd, crun")
