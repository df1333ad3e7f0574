# SPDX-License-Identifier: Apache-2.0
"""The life of containers and their commands, where only a guest can show it."""

import os
import pathlib
import time

from harness import BUSYBOX, Case, eventually, secs


def threads_on(pid, cpu):
    """The threads of a process that may run on one CPU alone."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            if os.sched_getaffinity(int(task.name)) == {cpu}:
                found.append(task.name)
        except ProcessLookupError:
            pass
    return found


class Life(Case):
    """One pod of two vCPUs for all tests of the class."""

    keep_pods = True

    @classmethod
    def prepare(cls):
        cls.pod = cls.server.runp(cls.server.pod_config(linux={
            "resources": {"cpu_quota": 200000, "cpu_period": 100000},
            "security_context": {"namespace_options": {"pid": 1}}}))

    def tearDown(self):
        super().tearDown()
        for container in self.server.crictl("ps", "-aq").split():
            self.server.crictl("rm", "-f", container)

    def sleeper(self, **fields):
        return self.pod.run(["sleep", "100000"], **fields)

    def processes(self, container):
        return container.exec("ps")

    def test_host_cpus_become_vcpus(self):
        """fault K1: a set of host CPUs pins vCPU threads, and the guest's cpuset counts the guest's own CPUs."""
        if os.cpu_count() < 2:
            self.skipTest("one CPU")
        last = max(os.sched_getaffinity(0))
        container = self.sleeper(linux={"resources": {"cpuset_cpus": str(last), "cpuset_mems": "0"}})
        self.assertEqual(container.exec("nproc").strip(), "1")
        self.assertIn("Cpus_allowed_list:\t0\n", container.exec("cat", "/proc/self/status"))
        other = self.sleeper()
        self.assertEqual(other.exec("nproc").strip(), "2")
        vmm = self.server.json("inspectp", self.pod.id)["info"]["pid"]
        self.assertEqual(len(threads_on(vmm, last)), 1)
        with self.refused("InvalidArgument", "cpuset_cpus"):
            self.sleeper(linux={"resources": {"cpuset_cpus": "900-901"}})

    def test_exec_over_its_time_leaves_no_process(self):
        """fault E1: a command that is killed takes its children with it, those of other sessions as well."""
        container = self.sleeper()
        with self.refused("DeadlineExceeded"):
            container.exec("sh", "-c", "setsid sleep 4201 & sleep 4202 & exec sleep 4203", timeout=1)
        eventually(lambda: "sleep 420" not in self.processes(container), 10, lambda: self.processes(container))
        self.assertEqual(container.status()["state"], "CONTAINER_RUNNING")

    def test_exec_whose_output_is_held_is_deadline_exceeded(self):
        """fault K3: what a child in the background writes later is waited for; held too long, its holders are killed."""
        container = self.sleeper()
        self.assertEqual(container.exec("sh", "-c", "(sleep 4; echo late) & echo early").rstrip("\n"), "early\nlate")
        with self.refused("DeadlineExceeded", "output is still held by other processes"):
            container.exec("sh", "-c", "sleep 4301 & echo early", timeout=3)
        eventually(lambda: "sleep 4301" not in self.processes(container), 10, lambda: self.processes(container))
        # What holds no output lives on.
        container.exec("sh", "-c", "setsid sleep 4302 >/dev/null 2>&1 </dev/null &")
        self.assertIn("sleep 4302", self.processes(container))

    def test_exec_with_much_output_is_cut_to_one_message(self):
        """fault E2: 20 MiB on two streams come as one answer of less than 16 MiB."""
        container = self.sleeper()
        script = "head -c 10485760 /dev/zero | tr '\\0' a; head -c 10485760 /dev/zero | tr '\\0' b >&2; echo end"
        out = container.exec("sh", "-c", script)
        self.assertGreater(len(out), 10 << 20)
        self.assertLess(len(out), (16 << 20) + 1)

    def test_exec_ends_with_its_container(self):
        """An endless command ends when its container does, and its caller is answered."""
        container = self.sleeper()
        process = self.server.crictl_start("exec", "-s", container.id, "sleep", "4401")
        try:
            eventually(lambda: "sleep 4401" in self.processes(container), 10, "no exec")
            container.stop()
            began = time.monotonic()
            process.communicate(timeout=secs(20))
            self.assertLess(time.monotonic() - began, secs(10))
            self.assertNotEqual(process.returncode, 0)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def test_the_clock_is_right_from_the_start(self):
        """fault S1: the first container's first look at the clock agrees with the host's."""
        pod = self.server.runp()
        try:
            before = time.time()
            text = pod.output(["sh", "-c", "date +%s"])
            after = time.time()
            self.assertGreaterEqual(int(text), int(before - 0.2))
            self.assertLessEqual(int(text), int(after) + 1)
        finally:
            pod.stop()
            pod.remove()

    def test_limits_do_not_depend_on_the_memory(self):
        """fault S2: nproc and sigpending are what a host would give, whatever the VM's memory."""
        text = self.pod.output(["cat", "/proc/self/limits"])
        limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
        self.assertEqual(limits["Max processes"], ["unlimited", "unlimited"])
        self.assertEqual(limits["Max pending signals"], ["65536", "65536"])
        self.assertEqual(limits["Max open files"], ["1024", "524288"])

    def test_home_of_a_uid_without_an_entry(self):
        """fault I2: HOME is "/" for a uid that /etc/passwd does not name, in an exec, too."""
        container = self.sleeper(linux={"security_context": {"run_as_user": {"value": 4711}}})
        self.assertEqual(container.exec("sh", "-c", "echo $HOME").rstrip("\n"), "/")
        self.assertEqual(self.pod.output(["sh", "-c", "echo $HOME"],
                                         linux={"security_context": {"run_as_user": {"value": 4711}}}), "/\n")

    def test_oom_score_adj_reaches_execs(self):
        """fault K9: a container's oom_score_adj is that of its commands as well."""
        container = self.sleeper(linux={"resources": {"oom_score_adj": 678}})
        self.assertEqual(container.exec("cat", "/proc/self/oom_score_adj").rstrip("\n"), "678")
        self.assertEqual(container.exec("cat", "/proc/1/oom_score_adj").rstrip("\n"), "678")

    def test_image_by_id_shows_tag_and_digest(self):
        """fault K2: a container made by image id shows the image's tag and its manifest's digest."""
        image = self.server.json("inspecti", BUSYBOX)["status"]
        container = self.sleeper(image=image["id"])
        status = container.status()
        self.assertEqual(status["image"]["image"], BUSYBOX)
        self.assertEqual(status["imageRef"], image["repoDigests"][0])
        self.assertEqual(status["imageId"], image["id"])
        listed = [c for c in self.server.json("ps", "-a", "-o", "json")["containers"] if c["id"] == container.id]
        self.assertEqual(listed[0]["imageId"], image["id"])
