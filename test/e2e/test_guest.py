# SPDX-License-Identifier: Apache-2.0
"""Guest and host: the end of a pod loses no written data, and a broken connection to the agent does not end a pod."""

import array
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import unittest

from harness import Case, below, eventually, secs, waits

GUESTS = pathlib.Path(__file__).with_name("guests")
FILE_BYTES = 16 << 20  # of leaves_dirty.c


class OrderlyEnd(Case):
    """Files that a container wrote right before the end of its pod are complete on the host, without any fsync."""

    def assert_complete(self, path):
        """Each 8-byte word holds its own offset."""
        words = array.array("Q", path.read_bytes())
        self.assertEqual(len(words) * 8, FILE_BYTES, path)
        wrong = [8 * i for i, word in enumerate(words) if word != 8 * i]
        self.assertEqual(wrong[:3], [], f"{path}: {len(wrong)} of {len(words)} words are not what was written")

    def writer(self, pod, volume):
        volume.mkdir()
        subprocess.run(["gcc", "-static", "-O1", "-o", volume / "leaves_dirty", GUESTS / "leaves_dirty.c"], check=True)
        container = pod.run(["/v/leaves_dirty", "/v/in-the-volume", "/in-the-root"],
                            mounts=[{"host_path": str(volume), "container_path": "/v"}])
        eventually(lambda: container.logs() == "written\n", 60, "it does not write")
        return container

    def in_root(self, container):
        found = [p for p in below(self.server.state_dir / "containers" / container.id) if p.name == "in-the-root"]
        self.assertEqual(len(found), 1, found)
        return found[0]

    def test_a_volume_and_the_root_after_stopp(self):
        pod, volume = self.server.runp(), self.server.dir / "volume"
        container = self.writer(pod, volume)
        pod.stop()
        # StopPodSandbox kills at once: a client that wants a grace period stops the containers first.
        self.assertEqual(int(container.status()["exitCode"]), 137)
        self.assert_complete(volume / "in-the-volume")
        self.assert_complete(self.in_root(container))

    def test_a_volume_after_a_removal_by_force(self):
        pod, volume = self.server.runp(), self.server.dir / "volume-2"
        self.writer(pod, volume)
        self.server.crictl("rmp", "-f", pod.id)
        self.assert_complete(volume / "in-the-volume")

    def test_a_process_that_outlives_its_stop_in_the_guest(self):
        """The process ignores SIGTERM and writes until it is killed."""
        pod, volume = self.server.runp(), self.server.dir / "volume-3"
        volume.mkdir()
        container = pod.run(["sh", "-c", "trap '' TERM; i=0; while :; do echo $i; echo $i > /v/now; i=$((i+1)); done"],
                            mounts=[{"host_path": str(volume), "container_path": "/v"}])
        eventually(lambda: (volume / "now").exists(), 10, "it does not write")
        pod.stop()
        self.assertEqual(int(container.status()["exitCode"]), 137)
        written, logged = (volume / "now").read_text(), container.logs().split("\n")[-2]
        # It may be killed between the two writes of a round.
        self.assertIn(int(logged) - int(written or logged), (0, 1))


class Proxy:
    """Listens at the path of a vsock daemon's socket, forwards each connection to the daemon, and can break all of them."""

    def __init__(self, path):
        self.path, self.real = path, path.with_name(path.name + ".real")
        os.rename(path, self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.lock, self.open, self.refusing, self.accepted, self.refused = threading.Lock(), set(), False, 0, 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing:
                self.refused += 1
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.real))
            self.accepted += 1
            with self.lock:
                self.open.update((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def break_all(self):
        """Closes every connection, and each new one at once, until restore()."""
        self.refusing = True
        with self.lock:
            for end in self.open:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.open.clear()

    def restore(self):
        self.refusing = False

    def close(self):
        self.listener.close()
        self.break_all()
        if self.real.exists():
            os.rename(self.real, self.path)


class AgentConnection(Case):
    def setUp(self):
        if os.environ.get("CRV_DRIVER") != "cloud-hypervisor" and os.path.exists("/dev/vhost-vsock"):
            raise unittest.SkipTest("the guest is reached by AF_VSOCK here, where nothing can stand between")
        self.pod = self.server.runp()
        self.counter = self.pod.run(["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"])
        self.go = self.server.dir / self.pod.id[:8]
        self.go.mkdir()
        self.ends = self.pod.run(["sh", "-c", "until [ -e /go/on ]; do sleep 0.1; done; echo bye; exit 5"],
                                 mounts=[{"host_path": str(self.go), "container_path": "/go"}])
        # The next server connects through the proxy.
        self.server.stop(signal.SIGKILL)
        found = [path for path in below(self.server.run_dir) if path.name == "task.vsock"]
        self.addCleanup(self.server.start_if_ended)
        self.assertEqual(len(found), 1, "the one pod has one socket")
        self.proxy = Proxy(found[0])
        self.addCleanup(self.proxy.close)
        self.server.start()
        self.assertGreater(self.proxy.accepted, 0, "the server did not come through the proxy")

    def tearDown(self):
        self.proxy.close()
        super().tearDown()

    def assert_alive(self):
        self.assertEqual(self.pod.status()["state"], "SANDBOX_READY")
        self.assertEqual(self.counter.status()["state"], "CONTAINER_RUNNING")
        self.assertEqual(self.counter.exec("echo", "here").strip(), "here")
        seen = len(self.counter.log_lines())
        eventually(lambda: len(self.counter.log_lines()) > seen + 5, 20, "its log does not go on")
        numbers = self.counter.logs().split("\n")[:-1]
        self.assertEqual(numbers, [str(i) for i in range(len(numbers))], "a line was lost or repeated")

    @waits
    def test_breaks_for_a_moment(self):
        for _ in range(3):
            self.proxy.break_all()
            self.proxy.restore()
            self.assert_alive()
        (self.go / "on").touch()
        self.assertEqual(int(self.ends.wait()["exitCode"]), 5)
        self.assertEqual(self.ends.logs(), "bye\n")

    @waits
    def test_is_away_for_some_seconds(self):
        self.proxy.break_all()
        (self.go / "on").touch()
        time.sleep(secs(4))
        self.assertEqual(self.pod.status()["state"], "SANDBOX_READY", "the pod was condemned")
        self.assertGreater(self.proxy.refused, 0, "the server has not tried to connect again")
        self.proxy.restore()
        self.assertEqual(int(self.ends.wait()["exitCode"]), 5, "the exit of the time in between was not learned")
        self.assertEqual(self.ends.logs(), "bye\n")
        self.assert_alive()

    @waits
    def test_a_guest_that_is_never_reached_again_is_dead(self):
        """An agent that stays silent past its deadline does end the pod, and its VM with it."""
        self.proxy.break_all()
        eventually(lambda: self.pod.status()["state"] == "SANDBOX_NOTREADY", 90, "still ready")
        status = self.counter.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))
        eventually(lambda: not self.server.processes(), 20, "the VM runs on")
