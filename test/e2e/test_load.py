# SPDX-License-Identifier: Apache-2.0
"""Many at once."""

import time

from harness import BUSYBOX, Background, Case, secs


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

    def test_a_hundred_hung_execs_delay_neither_a_stop_nor_another_pod(self):
        pod = self.server.runp()
        victim = pod.run(["sleep", "1000"], name="victim")
        other = pod.run(["sleep", "1000"], name="other")
        hung = [self.server.crictl_start("exec", "-s", "--timeout", "600", victim.id, "sleep", "1000") for _ in range(100)]
        try:
            deadline = time.monotonic() + secs(60)
            while self.count_sleeps(other) < 100 and time.monotonic() < deadline:
                time.sleep(0.5)
            began = time.monotonic()
            self.assertEqual(other.exec("echo", "quick").strip(), "quick")
            self.assertLess(time.monotonic() - began, secs(5), "an exec in the same pod")
            began = time.monotonic()
            second = self.server.runp(name="beside")
            self.assertEqual(second.output(["echo", "fine"]), "fine\n")
            self.assertLess(time.monotonic() - began, secs(25), "another pod")
            began = time.monotonic()
            victim.stop(0)
            self.assertLess(time.monotonic() - began, secs(5), "the stop")
            self.assertEqual(victim.status()["state"], "CONTAINER_EXITED")
            ended = [process.wait(secs(15)) for process in hung]
            self.assertTrue(all(ended), "an exec of a stopped container cannot succeed")
        finally:
            for process in hung:
                if process.poll() is None:
                    process.kill()
                process.communicate()

    def count_sleeps(self, container):
        # The pod's PID namespace is shared, so its processes are seen from any of its containers.
        return container.exec("ps").count("sleep 1000") - 2
