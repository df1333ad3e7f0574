# SPDX-License-Identifier: Apache-2.0
"""Many pods and many calls at once."""

import time

from harness import BUSYBOX, Background, Case, eventually, secs


class Load(Case):
    images = (BUSYBOX,)

    def test_ten_pods_at_once(self):
        limit = f"{int(secs(300))}s"
        starts = []
        for number in range(10):
            config = self.server.pod_config(f"many-{number}")
            file = self.server.write("pod", config)
            starts.append(Background(self.server.crictl, "runp", "-T", limit, file, timeout=320))
        ids = [start.result(330).strip() for start in starts]
        self.assertEqual(len(set(ids)), 10)
        items = self.server.json("pods", "-o", "json")["items"]
        self.assertEqual({i["state"] for i in items}, {"SANDBOX_READY"})
        ips = {self.server.json("inspectp", pod)["status"]["network"]["ip"] for pod in ids}
        self.assertEqual(len(ips), 10)
        for call in [Background(self.server.crictl, "rmp", "-f", pod) for pod in ids]:
            call.result()

    def test_no_descriptor_is_left(self):
        def life():
            pod = self.server.runp()
            container = pod.run(["sleep", "1000"])
            container.exec("true")
            container.remove(True)
            pod.stop()
            pod.remove()
        life()  # the first pod opens what all of them share
        before = self.server.fds()
        for _ in range(3):
            life()
        eventually(lambda: self.server.fds() <= before, 5, lambda: f"{self.server.fds()} descriptors, {before} before three pods")

    def test_a_hundred_hung_execs_delay_neither_a_stop_nor_another_pod(self):
        pod = self.server.runp()
        victim = pod.run(["sleep", "1000"], name="victim")
        other = pod.run(["sleep", "1000"], name="other")
        hung = [self.server.crictl_start("exec", "-s", "--timeout", "600", victim.id, "sleep", "1000") for _ in range(100)]
        try:
            eventually(lambda: self.hanging(other) == 100, 60, lambda: f"{self.hanging(other)} execs hang, not 100")
            self.assertEqual([process.poll() for process in hung], [None] * 100)
            began = time.monotonic()
            self.assertEqual(other.exec("echo", "quick").strip(), "quick")
            self.assertLess(time.monotonic() - began, secs(5), "an exec in the same pod")
            began = time.monotonic()
            second = self.server.runp(name="beside")
            self.assertEqual(second.output(["echo", "fine"]), "fine\n")
            self.assertLess(time.monotonic() - began, secs(25), "another pod")
            self.assertEqual([process.poll() for process in hung], [None] * 100)
            began = time.monotonic()
            victim.stop(0)
            self.assertLess(time.monotonic() - began, secs(5), "the stop")
            self.assertEqual(victim.status()["state"], "CONTAINER_EXITED")
            # None of them ended before the stop, and none succeeds after it.
            self.assertNotIn(0, [process.wait(secs(15)) for process in hung])
        finally:
            for process in hung:
                if process.poll() is None:
                    process.kill()
                process.communicate()

    def hanging(self, container):
        # The pod's containers share one PID namespace, so each of them sees all processes. Two are the containers' own.
        return container.exec("ps").count("sleep 1000") - 2
