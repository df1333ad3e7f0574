# SPDX-License-Identifier: Apache-2.0
"""Kill -9 of the server at random moments, calls that cross each other, and names with characters that are not allowed."""

import json
import os
import random
import signal
import sqlite3
import threading
import time

from harness import BUSYBOX, Background, Case, CliError, conflist, eventually, secs


def refusal(function, *args):
    """Returns the error of a call, or None if it succeeded. For calls whose effect is checked in another way."""
    try:
        function(*args)
        return None
    except CliError as error:
        return error


class Moments(Case):
    images = (BUSYBOX,)

    def kill_and_start(self):
        self.server.stop(signal.SIGKILL)
        self.server.start()

    def cycle(self, stop, done):
        """Creates and removes one pod after another. Any call may fail, as the server is killed meanwhile; `done` holds complete lives."""
        while not stop.is_set():
            try:
                pod = self.server.runp()
                container = pod.run(["sleep", "1000"])
                container.remove(True)
                pod.stop()
                pod.remove()
                done.append(pod.id)
            except CliError:
                pass

    def test_kill_9_at_random_moments(self):
        seed = int(os.environ.get("CRV_SEED", time.time()))
        print(f"    CRV_SEED={seed}", flush=True)
        dice, stop = random.Random(seed), threading.Event()
        done = []
        workers = [Background(self.cycle, stop, done) for _ in range(2)]
        until = time.monotonic() + secs(75)
        rounds = 0
        try:
            while rounds < 15 or (rounds < 20 and time.monotonic() < until):
                time.sleep(dice.uniform(0.0, 4.0))
                self.kill_and_start()
                rounds += 1
        finally:
            stop.set()
        for worker in workers:
            worker.result()
        print(f"    {rounds} kills, {len(done)} whole lives of pods between them", flush=True)
        # Before any clean-up: everything that exists belongs to an object that is listed, in one of the three states.
        self.server.assert_no_strays(self.baseline, 10)
        for container in self.server.json("ps", "-a", "-o", "json")["containers"]:
            self.assertIn(container["state"], ("CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED"))
        self.server.remove_all()
        self.server.assert_nothing_left(self.baseline, 10)

    def test_sigterm_undoes_what_is_being_created(self):
        for step in ("share", "cni", "cgroup"):
            with self.subTest(step=step):
                attempt = Background(refusal, self.server.runp)
                self.server.wait_step(step)
                self.assertEqual(self.server.stop(), 0)
                error = attempt.result()
                self.assertIsNotNone(error, "the pod was ready before the server heard of its end")
                # The server undoes it before it ends; the next one has nothing to undo.
                self.server.assert_nothing_left(self.baseline)
                self.server.start()
                self.assertEqual(self.server.pod_ids(), [])

    def test_sigterm_while_pods_die(self):
        pods = [self.server.runp(), self.server.runp()]
        for pid in self.server.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        began = time.monotonic()
        self.assertEqual(self.server.stop(), 0)
        self.assertLess(time.monotonic() - began, secs(10))
        self.server.start()
        for pod in pods:
            eventually(lambda: pod.status()["state"] == "SANDBOX_NOTREADY", 5, "still ready")

    def test_removed_while_its_vm_dies(self):
        """One thread records the death, another one the removal: what is removed does not come back."""
        config = self.server.pod_config("dying")
        for _ in range(4):
            pod = self.server.runp(config)
            pod.run(["sleep", "1000"])
            for pid in self.server.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # the server was quicker: one process of the VM has died
            self.server.crictl("rmp", "-f", pod.id)
            self.server.assert_nothing_left(self.baseline)

    def test_stop_crosses_create(self):
        """Whatever a create has mounted when its pod is stopped is unmounted."""
        volume = self.server.dir / "volume"
        volume.mkdir()
        (volume / "precious").write_text("data")
        mounts = [{"host_path": str(volume), "container_path": f"/v{i}"} for i in range(60)]
        crossed = 0
        for step in ("upper", "cdir") * 2:
            with self.subTest(step=step):
                pod = self.server.runp()
                known = self.server.rows()
                create = Background(refusal, lambda: pod.create(["sleep", "1000"], mounts=mounts))
                self.server.wait_step(step, known=known)
                self.server.crictl("stopp", pod.id)
                crossed += create.result() is not None
                self.server.assert_no_strays(self.baseline)
                self.server.crictl("rmp", pod.id)
                self.server.assert_nothing_left(self.baseline)
        self.assertGreater(crossed, 0, "each create was quicker than the stop")
        self.assertEqual((volume / "precious").read_text(), "data")

    def test_remove_crosses_start(self):
        pod = self.server.runp()
        for _ in range(6):
            container = pod.create(["sleep", "1000"])
            start = Background(refusal, container.start)
            container.remove(True)
            start.result()
            self.assertNotIn(container.id, self.server.crictl("ps", "-aq"))
        # None of their processes is left in the guest. The listing does show processes: it shows one that runs.
        pod.run(["sleep", "1001"])
        listing = pod.output(["ps", "-o", "pid,args"])
        self.assertIn("sleep 1001", listing)
        self.assertNotIn("sleep 1000", listing)

    def test_remove_beside_containers_that_read(self):
        """Other containers' reads are always in flight. A removal waits for them only a moment."""
        volume = self.server.dir / "read"
        volume.mkdir()
        (volume / "file").write_bytes(bytes(16 << 20))
        pod = self.server.runp()
        loop = "while :; do dd if=/v/file of=/dev/null bs=64k iflag=direct 2>/dev/null; echo round; done"
        readers = [pod.run(["sh", "-c", loop], mounts=[{"host_path": str(volume), "container_path": "/v"}]) for _ in range(4)]
        for reader in readers:
            eventually(lambda: "round" in reader.logs(), 20, "it does not read")
        container = pod.run(["true"])
        container.wait()
        began = time.monotonic()
        container.remove()
        self.assertLess(time.monotonic() - began, secs(3))
        for reader in readers:
            reader.remove(True)

    def test_characters_that_are_not_allowed(self):
        def config(**fields):
            return self.server.pod_config(**fields)
        bad = {
            "dns_config.servers": config(dns_config={"servers": ["10.0.0.1\nnameserver 6.6.6.6"]}),
            "dns_config.searches": config(dns_config={"servers": ["10.0.0.1"], "searches": ["a b"]}),
            "dns_config.options": config(dns_config={"servers": ["10.0.0.1"], "options": ["ndots:5\nnameserver 6.6.6.6"]}),
            "hostname": config(hostname="a\nb"),
            "cgroup_parent": config(linux={"cgroup_parent": "/" + "x" * 600}),
            "log_directory": config(log_directory="/tmp/a\nb"),
        }
        for word, value in bad.items():
            with self.subTest(word), self.refused("InvalidArgument", word):
                self.server.runp(value)
        with self.subTest("cgroup_parent"), self.refused("InvalidArgument", "cgroup_parent"):
            self.server.runp(config(linux={"cgroup_parent": "/a/../../b"}))
        self.server.assert_nothing_left(self.baseline)

    def test_a_path_that_leaves_the_log_directory(self):
        pod = self.server.runp()
        for path in ("../x.log", "a/../../x.log", "a/..", "..", "a\nb"):
            with self.subTest(path), self.refused("InvalidArgument", "log_path"):
                pod.create(["true"], log_path=path)


class SlowPlugin(Case):
    """CNI plugins outlive a server that is killed. What one of them sets up late must be removed with the rest."""

    images = ()

    @classmethod
    def prepare(cls):
        server = cls.server
        bin_dir = server.dir / "cnibin"
        bin_dir.mkdir()
        slow = bin_dir / "slow-portmap"
        slow.write_text("#!/bin/sh\n[ $CNI_COMMAND != ADD ] || sleep 3\nexec /usr/lib/cni/portmap\n")
        slow.chmod(0o755)
        network = json.loads(conflist(server.dir, server.subnet))
        network["plugins"][1]["type"] = "slow-portmap"
        (server.cni_dir / "10-test.conflist").write_text(json.dumps(network))
        server.config.write_text(server.config.read_text().replace('["/usr/lib/cni"]', f'["{bin_dir}", "/usr/lib/cni"]'))
        server.stop()
        server.start()

    def test_killed_in_the_middle_of_add(self):
        ports = [{"container_port": 80, "host_port": 18080, "protocol": 0}]
        attempt = Background(lambda: self.server.runp(port_mappings=ports))
        eventually(lambda: any("slow-portmap" in what for what in self.server.processes().values()), 10, "ADD does not run")
        self.server.stop(signal.SIGKILL)
        self.server.start()
        with self.assertRaises(CliError):
            attempt.result()
        time.sleep(4)  # longer than the plugin takes
        self.assertEqual(self.server.pod_ids(), [])
        self.server.assert_nothing_left(self.baseline)


class BetweenTwoSteps(Case):
    """The database as a killed server leaves it: a step was taken in the guest, and its row was not written yet."""

    images = (BUSYBOX,)
    CREATING, RUNNING = 1, 3

    def restart_with_state(self, container, state):
        self.server.stop(signal.SIGKILL)
        with sqlite3.connect(self.server.state_dir / "crivisor.db") as db:
            # Where a field comes twice, protobuf takes the last one. The state is field 18 of a container's row.
            db.execute("UPDATE object SET value = CAST(value || ? AS BLOB) WHERE kind = 'container' AND id = ?",
                       (bytes([18 << 3 & 0xff | 0x80, 18 >> 4, state]), container.id))
        self.server.start()

    def sleepers(self, pod):
        return pod.output(["sh", "-c", "ps -o pid,args | grep -c '[s]leep 1234' || true"]).strip()

    def test_stored_as_running_but_never_started(self):
        pod = self.server.runp()
        container = pod.create(["sh", "-c", "echo started; exit 4"])
        self.restart_with_state(container, self.RUNNING)
        self.assertEqual(container.status()["state"], "CONTAINER_CREATED")
        container.start()
        self.assertEqual(int(container.wait()["exitCode"]), 4)
        self.assertEqual(container.logs(), "started\n")

    def test_half_created_is_ended_in_its_guest(self):
        pod = self.server.runp()
        mounts = self.server.mounts()
        container = pod.run(["sleep", "1234"])
        self.restart_with_state(container, self.CREATING)
        self.assertEqual(self.server.crictl("ps", "-aq"), "")
        self.assertEqual(self.server.mounts(), mounts)
        self.assertEqual(self.sleepers(pod), "0")
        again = container.config["metadata"]["name"]
        pod.run(["sleep", "1234"], name=again)
        self.assertEqual(self.sleepers(pod), "1")
