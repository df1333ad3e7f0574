# SPDX-License-Identifier: Apache-2.0
"""Calls and their clients: a call ends when its client leaves or its deadline passes, what it began goes on, and the same request
again answers the same object."""

import json
import os
import signal
import threading
import time

import oci
from evil import EvilRegistry
from harness import BUSYBOX, Background, Case, conflist, eventually, secs, stamp_seconds, waits

PROMISED_S, BOUND_S = 0.1, 1.0  # the bound allows for a busy machine's scheduler; the figure is printed


class WithAPod(Case):
    """A pod with a container in each state, whose VMM can be stopped."""

    def setUp(self):
        self.pod = self.server.runp(linux={"security_context": {"namespace_options": {"pid": 1}}})
        self.running = self.pod.run(["sleep", "1000"], name="running")
        self.created = self.pod.create(["sleep", "1000"], name="created")
        self.exited = self.pod.run(["true"], name="exited")
        self.exited.wait()
        self.stopped = None

    def tearDown(self):
        self.thaw()
        super().tearDown()

    def freeze(self):
        self.stopped = next(pid for pid, text in self.server.processes().items()
                            if "qemu-system" in text or "cloud-hypervisor" in text)
        os.kill(self.stopped, signal.SIGSTOP)

    def thaw(self):
        if self.stopped:
            os.kill(self.stopped, signal.SIGCONT)
            self.stopped = None


class Hung(WithAPod):
    """Calls that wait for a guest whose VMM is stopped, or for a registry that does not answer."""

    def create_args(self, name):
        value = {"metadata": {"name": name}, "image": {"image": BUSYBOX}, "linux": {}, "command": ["true"]}
        return "create", self.pod.id, self.server.write("c", value), self.pod.file

    def calls(self):
        """Each call that waits for the guest: its RPC, and crictl's arguments."""
        return [
            ("CreateContainer", self.create_args("late")),
            ("StartContainer", ("start", self.created.id)),
            ("StopContainer", ("stop", "-t", "1", self.running.id)),
            ("RemoveContainer", ("rm", self.exited.id)),
            ("PodSandboxStatus", ("inspectp", self.pod.id)),
            ("StopPodSandbox", ("stopp", self.pod.id)),  # the last: it goes on, and ends the pod
        ]

    def begin(self, method, args):
        """Starts crictl, whose call is under way and hangs when this returns."""
        since = self.server.log_end()
        client = self.server.crictl_start(*args)
        time.sleep(secs(0.7))  # a call that has not begun by then never ends, and fails the test
        self.assertIsNone(client.poll(), f"{method} did not hang")
        self.assertNotIn(f"method={method} ", self.server.log_text(since))
        return client, since

    def ends(self, method, since, moment, what):
        ended, code = self.server.wait_answered(method, since)
        late = ended - moment
        print(f"    {method}: over {late * 1000:.0f} ms after {what} ({code})", flush=True)
        self.assertLess(late, secs(BOUND_S), f"{method}; promised are {PROMISED_S} s")

    def leave(self, method, args):
        client, since = self.begin(method, args)
        left = time.time()
        client.kill()
        client.communicate()
        self.ends(method, since, left, "its client left")

    def pass_deadline(self, method, args):
        # Not stretched: a guest that hangs for half a minute is ended.
        client, since = self.begin(method, ("-t", "2s", *args))
        _, err = client.communicate(timeout=secs(20))
        passed = time.time()
        self.assertIn("DeadlineExceeded", err)
        self.ends(method, since, passed, "its deadline")

    def test_a_client_leaves_a_hung_guest(self):
        for method, args in self.calls():
            with self.subTest(method):
                self.freeze()
                self.leave(method, args)
                self.thaw()

    def test_a_client_leaves_an_exec(self):
        self.leave("ExecSync", ("exec", "-s", "--timeout", "600", self.running.id, "sleep", "1000"))

    def test_a_deadline_passes_at_a_hung_guest(self):
        for method, args in self.calls():
            with self.subTest(method):
                self.freeze()
                self.pass_deadline(method, args)
                self.thaw()

    def test_a_client_leaves_a_pull(self):
        evil, gate = EvilRegistry(), threading.Event()
        self.addCleanup(evil.close)
        self.addCleanup(gate.set)
        reference = evil.add("evil/slow", oci.Image([oci.Layer().add("f", "x")]))
        evil.hook = lambda handler: "/blobs/" in handler.path and not gate.wait(secs(30))
        self.leave("PullImage", ("pull", reference))


class Reads(WithAPod):
    """Reads that wait for a hung VMM hold up no others."""

    def test_verbose_statuses_of_a_hung_vmm_leave_reads_alone(self):
        """Fault K: more of them than there are threads for reads (16) wait, and Version and ListPodSandbox answer within a second."""
        self.freeze()
        since = self.server.log_end()
        clients = [self.server.crictl_start("inspectp", self.pod.id) for _ in range(24)]
        time.sleep(secs(2))
        self.assertEqual([c.poll() for c in clients], [None] * len(clients), "they do not wait for the VMM")
        for args in (["version"], ["pods", "-q"]):
            began = time.time()
            self.server.crictl(*args)
            took = time.time() - began
            print(f"    crictl {args[0]}: {took * 1000:.0f} ms", flush=True)
            self.assertLess(took, secs(BOUND_S))
        self.assertNotIn("method=PodSandboxStatus ", self.server.log_text(since))
        self.thaw()
        for client in clients:
            out, err = client.communicate(timeout=secs(30))
            self.assertEqual(client.returncode, 0, err)
            self.assertEqual(json.loads(out)["status"]["id"], self.pod.id)


class GoesOn(WithAPod):
    """What a call began goes on after its client has left."""

    def test_a_stop_keeps_its_timer(self):
        deaf = self.pod.run(["sh", "-c", "trap 'echo term' TERM; echo up; while :; do sleep 0.1; done"])
        eventually(deaf.logs, 10, "it did not start")
        began = time.time()
        client = self.server.crictl_start("stop", "-t", "4", deaf.id)
        eventually(lambda: "term" in deaf.logs(), 4, "no SIGTERM came")
        client.kill()
        client.communicate()
        self.assertEqual(deaf.status()["state"], "CONTAINER_RUNNING")
        status = deaf.wait(10)
        self.assertEqual(int(status["exitCode"]), 137)
        took = stamp_seconds(status["finishedAt"]) - began
        self.assertTrue(4 <= took < 4 + secs(2), f"killed after {took:.1f} s, not 4")

    def test_of_stops_that_overtake_each_other_the_shortest_grace_wins(self):
        """Whichever comes first, and both callers are answered when it has ended."""
        for graces in (("60", "2"), ("2", "60")):
            with self.subTest(graces):
                deaf = self.pod.run(["sh", "-c", "trap 'echo term' TERM; echo up; while :; do sleep 0.1; done"])
                eventually(deaf.logs, 10, "it did not start")
                began = time.time()
                clients = []
                for grace in graces:
                    clients.append(self.server.crictl_start("stop", "-t", grace, deaf.id))
                    eventually(lambda: "term" in deaf.logs(), 4, "no SIGTERM came")
                for client in clients:
                    _, err = client.communicate(timeout=secs(20))
                    self.assertEqual(client.returncode, 0, err)
                status = deaf.status()
                self.assertEqual(int(status["exitCode"]), 137)
                took = stamp_seconds(status["finishedAt"]) - began
                self.assertTrue(2 <= took < 2 + secs(4), f"killed after {took:.1f} s, not 2")

    def test_a_creation_completes_and_the_same_request_answers_it(self):
        def create(**fields):
            return self.pod.create(["sleep", "1000"], name="twice", **fields).id

        def listed():
            return self.server.crictl("ps", "-aq", "--no-trunc", "--name", "^twice$").split()
        self.freeze()
        with self.refused("DeadlineExceeded"):
            value = {"metadata": {"name": "twice", "attempt": 0}, "image": {"image": BUSYBOX}, "log_path": "twice/0.log",
                     "command": ["sleep", "1000"], "linux": {"security_context": {"namespace_options": {"pid": 1}}}}
            self.server.crictl("-t", f"{int(secs(2))}s", "create", self.pod.id, self.server.write("c", value), self.pod.file)
        again = [Background(create) for _ in range(3)]
        time.sleep(secs(0.5))
        self.thaw()
        ids = {call.result() for call in again}
        self.assertEqual(len(ids), 1, ids)
        self.assertEqual(listed(), list(ids))
        self.assertEqual(create(), *ids)
        for fields, word in (({"labels": {"a": "b"}}, "labels"), ({"envs": [{"key": "A", "value": "b"}]}, "envs"),
                             ({"working_dir": "/tmp"}, "working_dir")):
            with self.subTest(word), self.refused("AlreadyExists", "twice", word):
                create(**fields)
        other = create(metadata={"name": "twice", "attempt": 1})
        self.assertEqual(sorted(listed()), sorted({other, *ids}))
        self.server.crictl("start", *ids)
        self.assertEqual(create(), *ids, "of one that runs, too")
        self.server.crictl("rm", "-f", *ids)
        self.assertNotIn(create(), ids, "its name is free once it is removed")



@waits
class SlowNetwork(Case):
    """Pods whose network takes 5 s, longer than the client's deadline."""

    server_env = {"CRV_UNCLAIMED_S": "8"}
    ADD_S = 5

    @classmethod
    def prepare(cls):
        server = cls.server
        bin_dir = server.dir / "cnibin"
        bin_dir.mkdir()
        slow = bin_dir / "slow-portmap"
        slow.write_text(f"#!/bin/sh\n[ $CNI_COMMAND != ADD ] || sleep {cls.ADD_S}\nexec /usr/lib/cni/portmap\n")
        slow.chmod(0o755)
        network = json.loads(conflist(server.dir, server.subnet))
        network["plugins"][1]["type"] = "slow-portmap"
        (server.cni_dir / "10-test.conflist").write_text(json.dumps(network))
        server.configure(cni={"bin_dirs": [bin_dir, "/usr/lib/cni"]})
        server.stop()
        server.start()

    def too_late(self, config):
        """RunPodSandbox with a deadline that passes while the network is made."""
        since = self.server.log_end()
        with self.refused("DeadlineExceeded"):
            self.server.crictl("runp", "-T", "1s", self.server.write("p", config))  # crictl doubles it
        passed = time.time()
        ended, code = self.server.wait_answered("RunPodSandbox", since)
        print(f"    RunPodSandbox: over {(ended - passed) * 1000:.0f} ms after its deadline ({code})", flush=True)
        self.assertLess(ended - passed, secs(BOUND_S))
        self.assertEqual(self.server.pod_ids(), [], "listed before it is ready")
        self.assertNotEqual(self.server.rows(), [], "its making was given up")

    def test_the_same_request_answers_the_pod_that_is_being_made(self):
        config = self.server.pod_config("twin", labels={"app": "a"})
        self.too_late(config)
        again = [Background(self.server.runp, config) for _ in range(2)]
        ids = {call.result().id for call in again}
        self.assertEqual(len(ids), 1, ids)
        items = self.server.json("pods", "-o", "json")["items"]
        self.assertEqual([(i["id"], i["state"]) for i in items], [(*ids, "SANDBOX_READY")])
        pod = self.server.runp(config)
        self.assertEqual({pod.id}, ids)
        for fields, word in (({"labels": {"app": "b"}}, "labels"), ({"hostname": "other"}, "hostname"),
                             ({"annotations": {"a": "b"}}, "annotations")):
            with self.subTest(word), self.refused("AlreadyExists", "twin", word):
                self.server.runp(dict(config, **fields))
        # One that was claimed stays.
        time.sleep(secs(10))
        self.assertEqual(pod.output(["echo", "there"]), "there\n")
        other = self.server.runp(dict(config, metadata=dict(config["metadata"], attempt=1)))
        self.assertNotEqual(other.id, pod.id)
        pod.stop()
        pod.remove()
        self.assertNotEqual(self.server.runp(config).id, pod.id, "its name is free once it is removed")

    def test_a_pod_that_nobody_claims_is_undone(self):
        since = self.server.log_end()
        self.too_late(self.server.pod_config("orphan"))
        eventually(lambda: "pod is ready" in self.server.log_text(since), 20, "the pod is not completed")
        eventually(lambda: not self.server.leaks(self.baseline), 30, lambda: f"it is not undone: {self.server.leaks(self.baseline)}")
        self.assertEqual(self.server.pod_ids(), [])

    def test_a_client_that_leaves(self):
        config = self.server.pod_config("left")
        since, known = self.server.log_end(), self.server.rows()
        client = self.server.crictl_start("runp", "-T", f"{int(secs(60))}s", self.server.write("p", config))
        self.server.wait_step("cni", known=known)
        left = time.time()
        client.kill()
        client.communicate()
        ended, code = self.server.wait_answered("RunPodSandbox", since)
        print(f"    RunPodSandbox: over {(ended - left) * 1000:.0f} ms after its client left ({code})", flush=True)
        self.assertLess(ended - left, secs(BOUND_S))
        self.assertEqual(self.server.runp(config).status()["state"], "SANDBOX_READY")
