# SPDX-License-Identifier: Apache-2.0
"""A server ends or is killed under running pods, and the next one adopts them."""

import os
import signal

from harness import BUSYBOX, Case, eventually, rows
from scenario_main import PROGRAM, command_lines


class Restart(Case):
    cni = "bridge"
    images = (BUSYBOX,)

    def survives(self, sig):
        pod = self.server.runp()
        container = pod.run(["sh", "-c", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done"])
        eventually(lambda: len(container.log_lines()) > 2, 10, "no log lines")
        before = {name: sorted(pid for pid, _ in found) for name, found in command_lines(self.server).items()}
        address = pod.ip
        self.server.stop(sig)
        self.server.start()
        self.assertEqual(pod.status()["state"], "SANDBOX_READY")
        self.assertEqual(pod.ip, address)
        self.assertEqual(container.status()["state"], "CONTAINER_RUNNING")
        self.assertEqual({name: sorted(pid for pid, _ in found) for name, found in command_lines(self.server).items()}, before)
        self.assertEqual(container.exec("echo", "still here").strip(), "still here")
        seen = len(container.log_lines())
        eventually(lambda: len(container.log_lines()) > seen + 2, 10, "no more log lines")
        numbers = [int(text.split()[1]) for _, _, text in container.log_lines()]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "a line is lost or repeated")
        second = pod.run(["sleep", "100"])
        self.assertEqual(second.status()["state"], "CONTAINER_RUNNING")

    @rows("A15", "B6")
    def test_orderly(self):
        self.survives(signal.SIGTERM)

    @rows("A15", "B6")
    def test_killed(self):
        self.survives(signal.SIGKILL)

    @rows("A15", "B7")
    def test_vm_that_died_meanwhile(self):
        """A VM dies while no server runs; the next server reports it at once."""
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        self.server.stop(signal.SIGKILL)
        for found in command_lines(self.server).values():
            for pid, _ in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.server.start()
        eventually(lambda: pod.status()["state"] == "SANDBOX_NOTREADY", 5, "the pod is still ready")
        status = container.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))

    @rows("A12", "B7")
    def test_status_of_an_adopted_one_is_unknown(self):
        """Only the parent of a process learns its status, and the parent was the previous server."""
        pod = self.server.runp()
        container = pod.run(["sleep", "1000"])
        self.server.stop(signal.SIGKILL)
        self.server.start()
        os.kill(command_lines(self.server)[PROGRAM][0][0], signal.SIGKILL)
        eventually(lambda: pod.status()["state"] == "SANDBOX_NOTREADY", 5, "the pod is still ready")
        status = container.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))
        self.assertRegex(self.server.log.read_text(), rf"the VMM ended, status unknown.*not started by this run of the server.*{pod.id}")
