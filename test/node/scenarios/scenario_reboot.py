# SPDX-License-Identifier: Apache-2.0
"""The node boots again while pods run: first by `systemctl reboot`, then by a reset without warning.

The set-up is a user's: the Debian package, kubelet as a systemd service, static pods, the package's example network.
Each boot is a test case of its own (BOOTS, see ../job). NOTES, on the node's disk, carries facts from one boot to the next.
"""

import json
import os
import pathlib
import re
import shutil
import sqlite3
import types

from harness import below, eventually
from scenario_kubelet import CONFIG, NODE_IP, READ_ONLY_PORT, Kubelet
from scenario_package import (DEBS, IMAGE, RUN, STATE, UNIT, InOrder, crictl, import_image, network_from_the_example, prepare_host,
                              run, unpack)

HERE = pathlib.Path("/var/lib/node-test")
NOTES = HERE / "notes.json"
TOOK = pathlib.Path("/var/lib/node-job/took")  # from the order to reboot until the machine was reset, in seconds
LEASES = pathlib.Path("/var/lib/cni/networks/crivisor")
LOGS = pathlib.Path("/var/log/pods")
PROGRAMS = ("cloud-hyperviso", "virtiofsd", "qemu-system-x86", "vhost-device-vs")  # as comm cuts them
KUBELET_UNIT = f"""[Unit]
Description=kubelet, without an API server
After={UNIT}
Wants={UNIT}

[Service]
# This node has no network of its own.
ExecStartPre=/sbin/ip addr replace {NODE_IP}/32 dev lo
ExecStart=/usr/local/bin/kubelet --config=/etc/kubernetes/kubelet.json --hostname-override=node --node-ip={NODE_IP} --v=2
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def in_root(*argv, **kw):
    """Runs a command in the node's own network, where its services are."""
    return run("nsenter", "--net=/proc/1/ns/net", *argv, **kw)


class Service(Kubelet):
    """kubelet as a service."""

    def __init__(self):
        self.server = types.SimpleNamespace(crictl=crictl)
        self.dir = pathlib.Path("/etc/kubernetes")
        self.manifests = self.dir / "manifests"

    def install(self):
        self.manifests.mkdir(parents=True)
        shutil.copy(shutil.which("kubelet"), "/usr/local/bin/kubelet")
        (self.dir / "kubelet.json").write_text(json.dumps(dict(
            CONFIG, staticPodPath=str(self.manifests), containerRuntimeEndpoint=f"unix://{RUN}/crivisor.sock",
            containerLogMaxSize="10Mi")))
        pathlib.Path("/etc/systemd/system/kubelet.service").write_text(KUBELET_UNIT)
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--now", "kubelet.service")

    def ask(self, path):
        get = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=20).read().decode())"
        done = in_root("python3", "-c", get, f"http://127.0.0.1:{READ_ONLY_PORT}{path}", ok=False)
        return done.stdout

    def ready_sandboxes(self, name):
        return crictl("pods", "-q", "--state", "ready", "--label", f"io.kubernetes.pod.name={name}-node").split()


def names_in(directory):
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def rows(kind):
    """Ids of the server's rows of this kind; for "step", the owners of the journal's open steps."""
    with sqlite3.connect(f"file:{STATE}/crivisor.db?mode=ro", uri=True) as db:
        query = "SELECT owner FROM step" if kind == "step" else "SELECT id FROM object WHERE kind = ?"
        return {row[0] for row in db.execute(query, () if kind == "step" else (kind,))}


def leases():
    """Ids of the pods that hold an address of host-local."""
    return {(LEASES / name).read_text().split()[0] for name in names_in(LEASES) if re.fullmatch(r"[0-9.]+", name)}


def in_iptables():
    """Ids of the pods that iptables rules name in a comment."""
    return set(re.findall(r'id: \\?"([0-9a-f]{20,})', in_root("iptables-save")))


def programs_of_pods():
    """VMMs and their helpers: pid → cgroup."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pathlib.Path(f"/proc/{entry}/comm").read_text().strip() in PROGRAMS:
                found[int(entry)] = pathlib.Path(f"/proc/{entry}/cgroup").read_text().strip()
        except OSError:
            pass
    return found


def traces(sandboxes, foreign):
    """What is wrong with what is there, given that these sandboxes and no others are: empty, if nothing. CNI knows of foreign ones."""
    short = {name[:20] for name in sandboxes}
    cgroups = {path.name.removeprefix("crivisor-") for path in below("/sys/fs/cgroup") if path.name.startswith("crivisor-") and path.is_dir()}
    mounts = [line.split()[4] for line in pathlib.Path("/proc/1/mountinfo").read_text().splitlines()]
    links = json.loads(in_root("ip", "-j", "link"))
    have = {
        "netns": (names_in(RUN / "netns"), short), "run directories": (names_in(RUN / "pods"), short),
        "mounts": ({m.split("/")[4] for m in mounts if m.startswith(f"{RUN}/pods/")}, short),
        "mounted netns": ({m.split("/")[4] for m in mounts if m.startswith(f"{RUN}/netns/")}, short),
        "cgroups": (cgroups, sandboxes), "leases": (leases() - foreign, sandboxes),
        "records of CNI": ({name.removesuffix(".json") for name in names_in(STATE / "cni") if name.endswith(".json")}, sandboxes),
        "journal": (rows("step") & rows("pod"), sandboxes),
        "veth": (sum(link["ifname"].startswith("veth") for link in links), len(sandboxes)),
        "pods in iptables": (in_iptables() - foreign, sandboxes),
        "cgroups of VMMs": ({c.rsplit("crivisor-", 1)[-1].split("/")[0] for c in programs_of_pods().values()}, sandboxes),
    }
    return {what: f"{found} instead of {wanted}" for what, (found, wanted) in have.items() if found != wanted}


class Boot(InOrder):
    units = (UNIT, "kubelet.service")

    @classmethod
    def setUpClass(cls):
        cls.kubelet = Service()
        cls.notes = json.loads(NOTES.read_text()) if NOTES.exists() else {"boots": []}

    def remember(self, *names):
        """Notes the pods' sandboxes and containers for the next boots."""
        pods = {}
        for name in names:
            sandbox, = self.kubelet.ready_sandboxes(name)
            pods[name] = {"sandbox": sandbox, "containers": crictl("ps", "-q", "--pod", sandbox).split()}
        self.notes["boots"].append({"id": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(), "pods": pods})
        NOTES.write_text(json.dumps(self.notes))

    def log_of(self, attempt):
        """The numbers that the container `writer` has logged in this attempt of it."""
        path, = LOGS.glob(f"default_pair-node_*/writer/{attempt}.log")
        return [int(line.split()[-1]) for line in path.read_text().split("\n")[:-1]]

    def assert_log_grows(self, attempt):
        seen = len(self.log_of(attempt))
        eventually(lambda: len(self.log_of(attempt)) > seen + 1, 20, "the log does not grow")
        numbers = self.log_of(attempt)
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "a line is lost or repeated")

    def assert_traces(self, *names):
        def wrong():
            return traces({sandbox for name in names for sandbox in self.kubelet.ready_sandboxes(name)}, set(self.notes["foreign"]))
        eventually(lambda: not wrong(), 20, wrong)


class Installed(Boot):
    """A user's node with two pods."""

    @classmethod
    def setUpClass(cls):
        if not DEBS or not shutil.which("kubelet"):
            raise AssertionError("no package beside the build, or no kubelet (test/tools/kubelet/build)")
        super().setUpClass()

    def test_01_package_network_image_and_kubelet(self):
        HERE.mkdir()
        # A package that was purged with pods running leaves these behind, and says so.
        self.notes["foreign"] = sorted(leases() | in_iptables())
        prepare_host()
        examples = unpack(DEBS[-1], HERE)
        run("dpkg", "-i", DEBS[-1], seconds=120)
        network_from_the_example(examples)
        import_image(HERE)
        self.kubelet.install()

    def test_02_pods_run(self):
        data = [{"name": "data", "mountPath": "/data"}]
        self.kubelet.add("pair", [
            {"name": "writer", "image": IMAGE, "volumeMounts": data, "command": [
                "sh", "-c", "echo begun >> /data/begun; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.3; done"]},
            {"name": "reader", "image": IMAGE, "volumeMounts": data, "command": [
                "sh", "-c", "while ! cat /data/begun; do sleep 1; done; exec sleep 100000"]},
        ], volumes=[{"name": "data", "emptyDir": {}}])
        status = self.kubelet.wait_ready("pair", 90)
        self.assertEqual({c["restartCount"] for c in status["containerStatuses"]}, {0})
        self.assert_log_grows(0)
        self.assert_traces("pair")
        self.remember("pair")


class Again:
    """What must hold in a node that has been booted again, `attempt` times by now."""

    def test_01_services_are_up_by_themselves(self):
        self.assertNotIn(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(), [b["id"] for b in self.notes["boots"]])
        for unit in self.units:
            eventually(lambda u=unit: run("systemctl", "is-active", u, ok=False).stdout.strip() == "active", 30, unit)
        self.assertEqual(run("systemctl", "show", "-P", "NRestarts", UNIT).strip(), "0")

    def test_02_pods_run_again_in_new_sandboxes(self):
        for name, old in self.notes["boots"][-1]["pods"].items():
            status = self.kubelet.wait_ready(name, 90)
            new, = self.kubelet.ready_sandboxes(name)
            self.assertNotEqual(new, old["sandbox"])
            self.assertEqual({c["restartCount"] for c in status["containerStatuses"]}, {self.attempt}, status)
            self.assertTrue(status["podIP"].startswith("10.204."), status["podIP"])

    def test_03_what_ran_before_has_ended_and_says_why(self):
        for name, old in self.notes["boots"][-1]["pods"].items():
            self.assertEqual(json.loads(crictl("inspectp", old["sandbox"]))["status"]["state"], "SANDBOX_NOTREADY")
            for container in old["containers"]:
                status = json.loads(crictl("inspect", container))["status"]
                self.assertEqual((status["state"], status["exitCode"], status["reason"]), ("CONTAINER_EXITED", 137, "Error"), status)
                self.assertIn("restarted", status["message"])
                self.assertGreater(status["finishedAt"], status["startedAt"])
            for container in self.kubelet.status(name)["containerStatuses"]:
                self.assertEqual(container["lastState"]["terminated"]["exitCode"], 137, container)

    def test_04_nothing_else_of_it_is_left(self):
        self.assert_traces(*self.pods)

    def test_05_database_and_images_are_whole(self):
        with sqlite3.connect(f"file:{STATE}/crivisor.db?mode=ro", uri=True) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertIn(IMAGE, [tag for image in json.loads(crictl("images", "-o", "json"))["images"] for tag in image["repoTags"]])

    def test_06_logs_and_volumes_of_before_are_there(self):
        before = self.log_of(self.attempt - 1)
        self.assertEqual(before, list(range(1, len(before) + 1)), "a line is lost or repeated")
        self.assertGreater(len(before), 2)
        self.assert_log_grows(self.attempt)
        container, = crictl("ps", "-q", "--name", "^reader$").split()
        self.assertEqual(crictl("exec", "-s", container, "cat", "/data/begun").split(), ["begun"] * (self.attempt + 1))

    def test_07_check_is_content(self):
        self.assertIn("pods can run here", run("/usr/bin/crivisor", "check"))


class Rebooted(Again, Boot):
    """After `systemctl reboot`."""

    attempt = 1
    pods = ("pair",)

    def test_00_pods_do_not_hold_the_node_s_end_up(self):
        """systemd waits up to 90 s for a process that ignores SIGTERM."""
        took = float(TOOK.read_text())
        print(f"    from the order to the end of the node: {took:.1f} s", flush=True)
        self.assertLess(took, 45)

    def test_20_left_with_a_pod_half_made(self):
        self.remember("pair")
        # A power cut may take the database's last commits and leave what they recorded. Here that is done by hand.
        self.kubelet.add("lost", [{"name": "main", "image": IMAGE, "command": ["sleep", "100000"]}])
        self.kubelet.wait_ready("lost", 90)
        sandbox, = self.kubelet.ready_sandboxes("lost")
        ids = [sandbox, *crictl("ps", "-q", "--pod", sandbox).split()]
        self.assertEqual(len(ids), 2)
        with sqlite3.connect(f"{STATE}/crivisor.db") as db:
            db.executemany("DELETE FROM object WHERE id = ?", [[i] for i in ids])
            db.executemany("DELETE FROM step WHERE owner = ?", [[i] for i in ids])
        before = set(programs_of_pods())
        self.kubelet.add("late", [{"name": "main", "image": IMAGE, "command": ["sleep", "100000"]}])
        eventually(lambda: set(programs_of_pods()) - before, 30, "no VM begins")


class PowerCut(Again, Boot):
    """After a reset without any warning, while a pod was being created."""

    attempt = 2
    pods = ("pair", "late", "lost")

    def test_03a_those_that_were_cut_off_run(self):
        self.kubelet.wait_ready("late", 90)
        self.kubelet.wait_ready("lost", 90)
        said = run("journalctl", "-b", "-u", UNIT, "--no-pager")
        self.assertIn("its row was lost: giving its addresses back", said)
        self.assertIn("its row was lost: removing its files", said)

    def test_20_kubelet_collects_what_is_two_boots_old(self):
        """It keeps each container's last predecessor, and with that its sandbox."""
        first = self.notes["boots"][0]["pods"].values()
        gone = {pod["sandbox"] for pod in first} | {c for pod in first for c in pod["containers"]}

        def left():
            return gone & set(crictl("pods", "-q").split() + crictl("ps", "-aq").split())
        self.kubelet.wait(lambda: not left(), 90, "the first sandboxes are still there")
        self.assert_rows_and_files()

    def assert_rows_and_files(self):
        """Rows and files exist for the objects that the server lists, and for nothing else."""
        pods, containers = set(crictl("pods", "-q").split()), set(crictl("ps", "-aq").split())
        self.assertEqual(rows("pod"), pods)
        self.assertEqual(rows("container"), containers)
        self.assertEqual(rows("rootfs"), containers)
        self.assertLessEqual(rows("step"), pods | containers)
        self.assertEqual(names_in(STATE / "containers"), containers)
        self.assertLessEqual({name.removesuffix(".pos") for name in names_in(STATE / "logs")}, containers)

    def test_21_manifests_removed_nothing_left(self):
        for name in self.pods:
            self.kubelet.remove(name)
        self.kubelet.wait(lambda: not crictl("pods", "-q").split(), 120, "pods are left")
        self.assert_traces()
        self.assert_rows_and_files()
        self.assertEqual(programs_of_pods(), {})
        kubepods = pathlib.Path("/sys/fs/cgroup/kubepods")
        self.kubelet.wait(lambda: not any(p.name.startswith("pod") for p in below(kubepods)), 60, "pod cgroups are left")


BOOTS = ((Installed, "reboot"), (Rebooted, "reset"), (PowerCut, None))
