# SPDX-License-Identifier: Apache-2.0
"""The server goes and comes back, by order or by kill -9, in the middle of things: pods live on and nothing is lost or leaked."""

import os
import signal
import time

from harness import HTTPD, BUSYBOX, Background, Case, CliError, eventually, http_get, secs


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

    def test_what_no_row_knows_goes_after_a_boot_of_the_host(self):
        """A power cut takes the database's last commits, and leaves what they were about."""
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        lost, state = "f" * 64, self.server.state_dir
        left = [state / "containers" / lost / "upper" / "file", state / "logs" / f"{lost}.pos", state / "cni" / f"{lost}.json",
                self.server.dir / "ipam" / "crvtest" / (self.server.subnet.rsplit(".", 1)[0] + ".77")]
        for path in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{lost}\r\neth0")
        self.restart(signal.SIGTERM)
        self.assertEqual([path for path in left if not path.exists()], [], "removed within a boot")
        (state / "boot_id").write_text("another\n")
        self.restart(signal.SIGTERM)
        self.assertEqual([path for path in [*left, left[0].parents[1]] if path.exists()], [])
        self.assertEqual(container.exec("echo", "still here").strip(), "still here")
        self.assertTrue((left[3].parent / pod.ip).exists())

    def test_an_exit_while_the_server_was_away_is_learned(self):
        pod = self.server.runp()
        container = pod.run(["sh", "-c", "echo before; sleep 4; echo while away; exit 5"])
        self.server.stop()
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
            time.sleep(0.7)
            self.restart(sig)
        eventually(lambda: container.logs().endswith("19999\n"), 60, "the last line did not come")
        self.assertEqual(container.logs().split("\n")[:-1], [str(i) for i in range(20000)])

    def test_killed_in_the_middle_of_runp(self):
        """Whatever the moment, the pod either is there or has left nothing."""
        for wait in (0.0, 0.05, 0.15, 0.4, 1.0):
            with self.subTest(wait=wait):
                config = self.server.pod_config(f"mid-{int(wait * 1000)}")
                attempt = Background(self.server.crictl, "runp", "-T", f"{int(secs(60))}s", self.server.write("p", config))
                time.sleep(0.1 + wait)
                self.restart(signal.SIGKILL)
                try:
                    attempt.result()
                except CliError:
                    pass
                self.server.remove_all()
                self.server.assert_nothing_left(self.baseline, 10)

    def test_killed_in_the_middle_of_rmp(self):
        for wait in (0.0, 0.05, 0.2):
            with self.subTest(wait=wait):
                pod = self.server.runp()
                pod.run(["sleep", "1000"])
                attempt = Background(self.server.crictl, "rmp", "-f", pod.id)
                time.sleep(0.05 + wait)
                self.restart(signal.SIGKILL)
                try:
                    attempt.result()
                except CliError:
                    pass
                self.server.remove_all()
                self.server.assert_nothing_left(self.baseline, 10)

    def test_killed_in_the_middle_of_a_pull(self):
        reference = HTTPD.replace("httpd", "large")
        attempt = Background(self.server.crictl, "pull", reference)
        time.sleep(0.25)
        self.restart(signal.SIGKILL)
        try:
            attempt.result()
        except CliError:
            pass
        self.server.pull(reference)
        self.server.crictl("rmi", reference)
