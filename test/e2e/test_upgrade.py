# SPDX-License-Identifier: Apache-2.0
"""An upgrade under running pods: the server and the guest image of RELEASE make the pods, and the server of this tree adopts them.

The VMs run on with the agent of the release. The release's binaries are built once (test/lib/build-release) and kept in the
cache; the guest kernel is today's on both sides.
"""

import os
import pathlib
import signal
import subprocess
import time
import unittest

from harness import (BUSYBOX, CRIVISOR, GUEST_IMAGE, HTTPD, ROOT, Background, CliError, Server, eventually, failed, http_get,
                     save_logs, secs)

RELEASE = "27dd078"


def release():
    """The directory with the release's binaries. A clone without that commit is a failure, and the message says so."""
    done = subprocess.run([ROOT / "test" / "lib" / "build-release", RELEASE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise AssertionError(f"no binaries of {RELEASE}: {done.stderr.strip()}")
    return pathlib.Path(done.stdout.strip())


class Upgrades(unittest.TestCase):
    """Each test has a server of its own, because a release refuses a database that a newer server has written."""

    @classmethod
    def setUpClass(cls):
        cls.release = release()

    def setUp(self):
        self.server = Server({"hypervisor": {"image_path": self.release / "guest.img"}}, program=self.release / "crivisor")
        self.addCleanup(self.server.destroy)
        self.addCleanup(self.keep)
        self.server.start()
        self.assertEqual(self.running_program(), self.release / "crivisor")
        self.baseline = self.server.traces()
        self.server.pull(BUSYBOX, HTTPD)

    def keep(self):
        if failed(self):
            save_logs(self.server, self.id())

    def running_program(self):
        return pathlib.Path(os.readlink(f"/proc/{self.server.process.pid}/exe"))

    def upgrade(self, sig=signal.SIGTERM):
        status = self.server.stop(sig)
        if sig == signal.SIGTERM:
            self.assertEqual(status, 0, self.server.tail())
        self.server.program = CRIVISOR
        self.server.configure(hypervisor={"image_path": GUEST_IMAGE})
        self.server.start()
        self.assertEqual(self.running_program(), CRIVISOR)

    def pods(self):
        """What a client knows of each pod."""
        return {item["id"]: [item[key] for key in ("metadata", "state", "createdAt", "labels", "annotations")]
                for item in self.server.json("pods", "-o", "json")["items"]}

    def containers(self):
        return {item["id"]: [item[key] for key in ("podSandboxId", "metadata", "image", "imageRef", "state", "createdAt", "labels",
                                                   "annotations")]
                for item in self.server.json("ps", "-a", "-o", "json")["containers"]}

    def all_numbers(self, container):
        """The container's log holds each number once and in order; returns how many."""
        lines = container.logs().split("\n")[:-1]
        self.assertEqual(lines, [str(i) for i in range(len(lines))], "a line was lost or repeated")
        return len(lines)

    def remove_everything(self):
        self.server.assert_no_strays(self.baseline)
        self.server.assert_kernels_sound()
        self.server.remove_all()
        self.server.assert_nothing_left(self.baseline, 5)

    def takes_over(self, sig):
        pod = self.server.runp(labels={"app": "old"}, annotations={"a/b": "c"})
        stopped = self.server.runp()
        stopped.stop()
        web = pod.run(image=HTTPD)
        counter = pod.run(["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"])
        go = self.server.dir / "go"
        go.mkdir()
        ends = pod.run(["sh", "-c", "echo before; until [ -e /go/on ]; do sleep 0.1; done; echo after; exit 5"],
                       mounts=[{"host_path": str(go), "container_path": "/go"}])
        exited = pod.run(["sh", "-c", "echo done; exit 3"])
        exited.wait()
        created = pod.create(["sh", "-c", "echo started late; sleep 1000"])
        eventually(lambda: len(counter.log_lines()) > 20, 10, "no lines")
        ip, pods, containers, processes = pod.ip, self.pods(), self.containers(), self.server.processes()
        statuses = {c.id: c.status() for c in (web, counter, exited, created)}

        self.upgrade(sig)
        # The same objects, the same processes.
        self.assertEqual(self.pods(), pods)
        self.assertEqual(self.containers(), containers)
        self.assertEqual(self.server.processes(), processes)
        self.assertEqual(pod.ip, ip)
        for container in (web, counter, exited, created):
            now, before = container.status(), statuses[container.id]
            for key in ("state", "createdAt", "startedAt", "finishedAt", "exitCode", "reason", "logPath", "image", "imageRef"):
                self.assertEqual(now[key], before[key], key)
        # They work: network, logs, exec, the start of a container that the release had created, an exit.
        self.assertEqual(http_get(ip), (200, "hello from crivisor\n"))
        seen = self.all_numbers(counter)
        eventually(lambda: len(counter.log_lines()) > seen + 20, 10, "the log does not go on")
        self.all_numbers(counter)
        self.assertEqual(counter.exec("sh", "-c", "echo out; echo err >&2").split(), ["out", "err"])
        with self.assertRaises(CliError) as caught:
            counter.exec("sh", "-c", "exit 7")
        self.assertIn("exited with 7", caught.exception.err)
        created.start()
        eventually(lambda: created.logs() == "started late\n", 10, lambda: created.logs())
        self.assertEqual(exited.logs(), "done\n")
        (go / "on").touch()
        self.assertEqual(int(ends.wait()["exitCode"]), 5)
        self.assertEqual(ends.logs(), "before\nafter\n")
        # New containers work in the old pod, under the old agent.
        volume = self.server.dir / "volume"
        volume.mkdir()
        fresh = pod.run(["sh", "-c", "echo from the guest > /v/file; exec sleep 1000"],
                        mounts=[{"host_path": str(volume), "container_path": "/v"}])
        self.assertEqual(fresh.exec("cat", "/v/file").strip(), "from the guest")
        self.assertEqual((volume / "file").read_text(), "from the guest\n")
        fresh.stop()
        self.assertEqual(int(fresh.status()["exitCode"]), 137)
        fresh.remove()
        rotated = counter.log_file.with_suffix(".log.1")
        counter.log_file.rename(rotated)
        self.server.crictl("logs", "--reopen", counter.id)
        eventually(lambda: counter.log_file.exists() and len(counter.log_lines()) > 5, 10, "no lines after the rotation")
        counter.stop()
        numbers = [line.split(" ", 3)[3] for path in (rotated, counter.log_file) for line in path.read_text().splitlines()]
        self.assertEqual(numbers, [str(i) for i in range(len(numbers))], "a line was lost or repeated")
        # A new pod runs beside the old one, and a restart of the new server adopts both.
        new = self.server.runp()
        self.assertEqual(new.output(["echo", "new"]), "new\n")
        before = self.pods()
        self.server.stop(signal.SIGKILL)
        self.server.start()
        self.assertEqual(self.pods(), before)
        self.assertEqual(web.exec("echo", "still here").strip(), "still here")
        self.remove_everything()

    def test_orderly(self):
        self.takes_over(signal.SIGTERM)

    def test_after_kill_9(self):
        self.takes_over(signal.SIGKILL)

    def test_lines_and_exits_of_the_time_without_a_server(self):
        pod = self.server.runp()
        script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; echo $i; exit 6"
        flood = pod.run(["sh", "-c", f"while ! [ -e /dev/shm/go ]; do sleep 0.05; done; {script}"])
        starter = pod.run(["sh", "-c", "echo up; sleep 2; touch /dev/shm/go; sleep 1000"])
        eventually(lambda: starter.logs() == "up\n", 10, "it did not start")
        self.server.stop(signal.SIGKILL)
        self.assertEqual(flood.logs(), "", "it began before the server was away")
        # The container writes everything and exits before the next server starts. Nothing outside the guest can see that.
        time.sleep(secs(4))
        self.upgrade(signal.SIGKILL)
        self.assertEqual(int(flood.wait()["exitCode"]), 6)
        eventually(lambda: flood.logs().endswith("3000\n"), 10, "the last line did not come")
        self.assertEqual(self.all_numbers(flood), 3001)
        self.remove_everything()

    def test_a_vm_of_the_release_dies(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        self.upgrade(signal.SIGKILL)
        vmm = next(pid for pid, text in self.server.processes().items() if "qemu-system" in text or "cloud-hypervisor" in text)
        os.kill(vmm, signal.SIGKILL)
        eventually(lambda: pod.status()["state"] == "SANDBOX_NOTREADY", 5, "still ready")
        status = container.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))
        self.remove_everything()

    def test_a_pod_half_created_is_undone(self):
        """The release was killed while one of its journal's steps was open."""
        for step in ("rundir", "share", "netns", "cni", "cgroup"):
            with self.subTest(step=step):
                self.back_to_the_release()
                attempt = Background(self.server.runp)
                self.server.wait_step(step)
                self.upgrade(signal.SIGKILL)
                with self.assertRaises(CliError):
                    attempt.result()
                self.assertEqual(self.server.pod_ids(), [])
                self.server.assert_nothing_left(self.baseline, 10)

    def back_to_the_release(self):
        """Starts the release again, with an empty state directory."""
        if self.server.program == CRIVISOR:
            self.server.destroy()
            self.setUp()

    def test_a_container_half_created_is_undone(self):
        for step in ("upper", "cdir"):
            with self.subTest(step=step):
                self.back_to_the_release()
                pod = self.server.runp()
                held = pod.run(["sleep", "1000"])
                known = self.server.rows()
                attempt = Background(pod.create, ["sleep", "4711"], name="half")
                self.server.wait_step(step, known=known)
                self.upgrade(signal.SIGKILL)
                with self.assertRaises(CliError):
                    attempt.result()
                self.assertEqual(self.server.crictl("ps", "-aq", "--no-trunc").split(), [held.id])
                self.server.assert_no_strays(self.baseline)
                self.assertEqual(pod.run(["sleep", "4711"], name="half").status()["state"], "CONTAINER_RUNNING")
                self.assertEqual(held.exec("echo", "still here").strip(), "still here")
                self.remove_everything()

    def test_a_pod_half_removed_goes_or_can_be_removed(self):
        for step in ("cgroup", "cni", "share"):
            with self.subTest(step=step):
                self.back_to_the_release()
                pod = self.server.runp()
                pod.run(["sleep", "1000"])
                attempt = Background(self.server.crictl, "rmp", "-f", pod.id)
                self.server.wait_step_gone(step, pod.id)
                self.upgrade(signal.SIGKILL)
                with self.assertRaises(CliError):
                    attempt.result()
                self.server.assert_no_strays(self.baseline)
                self.server.remove_if_listed(pod.id)
                self.assertEqual(self.server.pod_ids(), [])
                self.server.assert_nothing_left(self.baseline, 5)
