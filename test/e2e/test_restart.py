# SPDX-License-Identifier: Apache-2.0
"""The server ends by order or by kill -9 and starts again, at rest or in the middle of work: pods live on, nothing is lost or leaked."""

import json
import os
import random
import re
import signal
import threading
import time

from evil import EvilRegistry
from harness import HTTPD, BUSYBOX, Background, Case, CliError, conflist, eventually, http_get, oci, secs, work


class Restart(Case):
    images = (BUSYBOX, HTTPD)

    def restart(self, sig):
        status = self.server.stop(sig)
        if sig == signal.SIGTERM:
            self.assertEqual(status, 0, self.server.tail())
        self.server.start()

    def lives_on(self, sig):
        pod = self.server.runp(labels={"k": "v"})
        web = pod.run(image=HTTPD)
        shell = pod.run(["sleep", "1000"], name="shell")
        ended = pod.run(["sh", "-c", "exit 3"])
        ended.wait()
        ip, before = pod.ip, self.server.json("pods", "-o", "json")["items"]
        processes = self.server.processes()
        self.restart(sig)
        self.assertEqual(self.server.json("pods", "-o", "json")["items"], before)
        self.assertEqual(self.server.processes(), processes)
        self.assertEqual(http_get(ip)[0], 200)
        self.assertEqual(shell.exec("echo", "still here").strip(), "still here")
        self.assertEqual(web.status()["state"], "CONTAINER_RUNNING")
        self.assertEqual(int(ended.status()["exitCode"]), 3)
        self.assertEqual(pod.output(["echo", "and new ones"]), "and new ones\n")
        shell.stop()
        self.assertEqual(int(shell.status()["exitCode"]), 137)

    def test_pods_live_on_after_sigterm(self):
        self.lives_on(signal.SIGTERM)

    def test_pods_live_on_after_kill_9(self):
        self.lives_on(signal.SIGKILL)

    def test_a_guest_that_hangs_holds_up_its_own_pod_alone(self):
        """Fault B: the start waits for no hung guest; its pod is listed, is condemned, and can be removed; the others live on."""
        hung, well = self.server.runp(), self.server.runp()
        for name in "abc":
            hung.run(["sleep", "1000"], name=name)
        shell = well.run(["sleep", "1000"])
        listed = sorted(self.server.pod_ids())
        vmm = re.compile(rf"(qemu-system|cloud-hypervisor)\S* .*{hung.sandbox}")
        stopped = [pid for pid, line in self.server.processes().items() if vmm.search(line)]
        self.assertEqual(len(stopped), 1)
        self.server.stop(signal.SIGKILL)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            self.server.start(seconds=60)
            took = time.monotonic() - began
            self.assertLess(took, secs(40), "within systemd's time for a start")
            self.assertEqual(sorted(self.server.pod_ids()), listed)
            self.assertEqual(shell.exec("echo", "still here").strip(), "still here")
            self.assertEqual(well.output(["echo", "and new ones"]), "and new ones\n")
            eventually(lambda: hung.status()["state"] == "SANDBOX_NOTREADY", 60, "the pod whose guest hangs is not condemned")
            hung.remove()
        finally:
            for pid in stopped:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        self.assertNotIn(hung.id, self.server.pod_ids())

    def everything(self, pods, containers):
        """Every list and inspection, as JSON; without the time of the answer itself."""
        server = self.server
        inspected = [server.json("inspectp", pod.id) for pod in pods]
        for answer in inspected:
            answer.pop("timestamp", None)
        return {"pods": server.json("pods", "-o", "json"), "containers": server.json("ps", "-a", "-o", "json"),
                "images": server.json("images", "-o", "json"), "inspectp": inspected,
                "inspect": [server.json("inspect", container.id) for container in containers],
                "inspecti": [server.json("inspecti", image) for image in (HTTPD, BUSYBOX)]}

    def test_every_list_and_inspection_is_the_same_after_a_restart(self):
        """Nothing that a client can ask for changes by a restart, whichever state an object is in."""
        pod = self.server.runp(labels={"k": "v"}, annotations={"a/b": "c"})
        stopped = self.server.runp()
        there = [stopped.run(["sleep", "1000"])]
        stopped.stop()
        there.append(pod.run(image=HTTPD))
        there.append(pod.run(["sh", "-c", "exit 3"], labels={"x": "y"}))
        there[-1].wait()
        there.append(pod.create(["sleep", "1000"]))
        for sig in (signal.SIGTERM, signal.SIGKILL):
            before = self.everything([pod, stopped], there)
            self.restart(sig)
            after = self.everything([pod, stopped], there)
            for what, answer in before.items():
                self.assertEqual(after[what], answer, f"{what} after signal {int(sig)}")

    def test_what_no_row_knows_goes_after_a_boot_of_the_host(self):
        """A power cut may take the database's last commits and leave what they recorded on the disk."""
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        lost, state = "f" * 64, self.server.state_dir
        left = [state / "containers" / lost / "upper" / "file", state / "logs" / f"{lost}.pos", state / "cni" / f"{lost}.json",
                self.server.dir / "ipam" / "crvtest" / (self.server.subnet.rsplit(".", 1)[0] + ".77")]
        unfinished = [state / "cni" / f"{lost}.json.tmp.0123456789abcdef", state / "boot_id.tmp.0123456789abcdef"]
        for path in left + unfinished:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{lost}\r\neth0")
        self.restart(signal.SIGTERM)
        self.assertEqual([path for path in left if not path.exists()], [], "removed though the host was not booted")
        self.assertEqual([path for path in unfinished if path.exists()], [], "a killed server was writing them")
        (state / "boot_id").write_text("another\n")
        self.restart(signal.SIGTERM)
        self.assertEqual([path for path in [*left, left[0].parents[1]] if path.exists()], [])
        self.assertEqual(container.exec("echo", "still here").strip(), "still here")
        self.assertTrue((left[3].parent / pod.ip).exists())

    def test_an_exit_while_the_server_was_away_is_learned(self):
        pod = self.server.runp()
        container = pod.run(["sh", "-c", "echo before; sleep 4; echo while away; exit 5"])
        eventually(container.logs, 10, "it did not start")
        self.server.stop()
        self.assertEqual(container.logs(), "before\n", "it has ended too early")
        time.sleep(6)
        self.server.start()
        status = container.wait()
        self.assertEqual(int(status["exitCode"]), 5)
        self.assertEqual(container.logs(), "before\nwhile away\n")

    def test_a_vm_that_died_while_the_server_was_away(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        self.server.stop(signal.SIGKILL)
        for pid in self.server.processes():
            os.kill(pid, signal.SIGKILL)
        self.server.start()
        eventually(lambda: pod.status()["state"] == "SANDBOX_NOTREADY", 5, "still ready")
        status = container.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))

    def test_logs_are_neither_lost_nor_repeated(self):
        pod = self.server.runp()
        container = pod.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; sleep 1000"])
        for sig in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            seen = len(container.log_lines())
            eventually(lambda: len(container.log_lines()) > seen, 10, "the log does not go on")
            self.restart(sig)
        eventually(lambda: container.logs().endswith("19999\n"), 60, "the last line did not come")
        self.assertEqual(container.logs().split("\n")[:-1], [str(i) for i in range(20000)])


class NetworkAfterRestart(Case):
    """What CNI's CHECK and the collection of lost attachments say of the pods after a restart."""
    cni = False

    PLUGIN = """#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$0.log"
[ "$CNI_COMMAND" != CHECK ] || [ ! -e "$0.fail" ] || { echo '{"code": 100, "msg": "the rule is gone"}'; exit 1; }
[ "$CNI_COMMAND" != ADD ] || python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["prevResult"], sys.stdout)'
"""

    @classmethod
    def setUpClass(cls):
        cls.config = {"cni": {"bin_dirs": [str(work() / "check-plugins"), "/usr/lib/cni"]}}
        super().setUpClass()
        cls.plugin = cls.server.dir / "plugins" / "told"
        cls.plugin.parent.mkdir()
        cls.plugin.write_text(cls.PLUGIN)
        cls.plugin.chmod(0o755)
        (work() / "check-plugins").symlink_to(cls.plugin.parent)
        value = json.loads(conflist(cls.server.dir, cls.server.subnet, only_bridge=True))
        value["plugins"].append({"type": "told"})
        (cls.server.cni_dir / "10-test.conflist").write_text(json.dumps(value))

    def told(self, command):
        return [line.split()[1] for line in (self.plugin.parent / "told.log").read_text().splitlines() if line.split()[0] == command]

    def test_check_of_living_pods_and_del_of_lost_ones(self):
        pod = self.server.runp()
        records, lost = self.server.state_dir / "cni", "e" * 64
        record = json.loads((records / f"{pod.id}.json").read_text())
        (records / f"{lost}.json").write_text(json.dumps(record | {"id": lost, "netns": "/nonexistent"}))
        self.server.stop()
        since = self.server.log_end()
        self.server.start()
        self.assertEqual(self.told("CHECK"), [pod.id])
        self.assertEqual(self.told("DEL"), [lost])
        self.assertFalse((records / f"{lost}.json").exists())
        self.assertTrue((records / f"{pod.id}.json").exists())
        self.assertNotIn("the pod's network", self.server.log_text(since))
        (self.plugin.parent / "told.fail").touch()
        self.server.stop()
        since = self.server.log_end()
        self.server.start()
        self.assertEqual(self.told("CHECK"), [pod.id, pod.id])
        self.assertIn("the rule is gone", self.server.log_text(since))
        self.assertEqual(self.told("DEL"), [lost])
        self.assertEqual(pod.output(["echo", "alive"]), "alive\n")


class KilledInTheMiddle(Case):
    """The server is killed while one step of the journal is open. After its next start, and before any clean-up, either the object
    exists and is listed, or nothing of it exists."""

    images = (BUSYBOX,)
    ATTEMPTS = 20

    def killed_at(self, what, wait, again):
        """Begins `what()` and kills the server when `wait()` returns; repeats that if the call was quicker, after `again()`, which makes
        the call possible once more. After the next start nothing may exist that the server does not list."""
        for _ in range(self.ATTEMPTS):
            attempt = Background(what)
            wait()
            self.server.stop(signal.SIGKILL)
            self.server.start()
            self.server.assert_no_strays(self.baseline, 10)
            try:
                attempt.result()
            except CliError:
                return
            again()
        self.fail(f"in {self.ATTEMPTS} attempts the call was always quicker than the kill")

    def test_runp(self):
        for step in ("rundir", "share", "netns", "cni", "cgroup"):
            with self.subTest(step=step):
                self.killed_at(self.server.runp, lambda: self.server.wait_step(step), self.server.remove_all)
                self.assertEqual(self.server.pod_ids(), [])
                self.server.assert_nothing_left(self.baseline)

    def test_create(self):
        pod = self.server.runp()
        for step in ("upper", "cdir"):
            with self.subTest(step=step):
                known = self.server.rows()
                self.killed_at(lambda: pod.create(["sleep", "4715"]), lambda: self.server.wait_step(step, known=known),
                               lambda: self.server.crictl("rm", "-f", *self.server.crictl("ps", "-aq").split()))
                self.assertEqual(self.server.crictl("ps", "-aq").split(), [])
        container = pod.run(["sleep", "1000"])
        self.assertNotIn("sleep 4715", container.exec("ps"), "its process runs in the guest")

    def test_rm(self):
        pod = self.server.runp()
        # After "upper" only the row is left, for less than a poll takes: test/fault kills there.
        for step in ("cdir",):
            with self.subTest(step=step):
                made = []

                def make():
                    made.append(pod.run(["sleep", "1000"]))
                make()
                self.killed_at(lambda: made[-1].remove(True), lambda: self.server.wait_step_gone(step, made[-1].id), make)
                self.server.remove_if_listed(made[-1].id)
                self.assertEqual(self.server.crictl("ps", "-aq").split(), [])
                self.assertEqual([r for r in self.server.rows() if made[-1].id in r], [])

    def test_rmp(self):
        for step in ("cgroup", "cni", "netns", "share", "rundir"):
            with self.subTest(step=step):
                made = []

                def make():
                    made.append(self.server.runp())
                    made[-1].run(["sleep", "1000"])
                make()
                self.killed_at(lambda: self.server.crictl("rmp", "-f", made[-1].id),
                               lambda: self.server.wait_step_gone(step, made[-1].id), make)
                self.server.remove_if_listed(made[-1].id)
                self.assertEqual(self.server.pod_ids(), [])
                self.server.assert_nothing_left(self.baseline)

    def test_pull(self):
        """The registry has sent half of a layer when the server is killed. The next pull asks for the other half."""
        evil = EvilRegistry()
        self.addCleanup(evil.close)
        image = oci.Image([oci.Layer(None).add("big", random.Random(2).randbytes(1 << 20))])
        key, ranges, gate = image.value["layers"][0]["digest"], [], threading.Event()
        self.addCleanup(gate.set)
        reference = evil.add("evil/half", image)

        def hook(handler):
            if not handler.path.endswith(key):
                return False
            ranges.append(handler.headers.get("Range"))
            if len(ranges) > 1:
                start = int(ranges[-1].removeprefix("bytes=").rstrip("-"))
                handler.reply(206, image.blobs[key][start:],
                              {"Content-Range": f"bytes {start}-{len(image.blobs[key]) - 1}/{len(image.blobs[key])}"})
                return True
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(image.blobs[key])))
            handler.end_headers()
            handler.wfile.write(image.blobs[key][:1 << 19])
            handler.wfile.flush()
            gate.wait(secs(60))
            handler.close_connection = True
            return True
        evil.hook = hook
        part = self.server.state_dir / "images" / "blobs" / "sha256" / (key.removeprefix("sha256:") + ".part")
        attempt = Background(self.server.crictl, "pull", reference)
        eventually(lambda: part.exists() and part.stat().st_size >= 1 << 18, 10, "no part of the layer is there")
        self.server.stop(signal.SIGKILL)
        self.server.start()
        with self.assertRaises(CliError):
            attempt.result()
        self.assertNotIn("evil/half", self.server.crictl("images"))
        self.assertTrue(part.exists(), "the part was thrown away")
        layers = self.server.state_dir / "images" / "layers"
        self.assertEqual([p.name for p in layers.iterdir() if p.name.startswith("tmp.")], [])
        self.server.pull(reference)
        self.assertRegex(ranges[1], r"^bytes=[1-9]\d*-$", "the download began anew")
        self.server.crictl("rmi", reference)
        self.assertEqual([p.name for p in part.parent.iterdir() if key.removeprefix("sha256:") in p.name], [])
