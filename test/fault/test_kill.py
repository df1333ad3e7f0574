# SPDX-License-Identifier: Apache-2.0
"""The server is killed at each change of its state, on both sides of it, in the middle of each kind of call.

After the next start, before anything is cleaned up, there is the same object or nothing; then the call works when it is made again, and
in the end nothing is left. How many kills there were is printed for each call."""

import pathlib
import signal
import subprocess
import unittest

from harness import BUSYBOX, CliError, Server, below, eventually, registry, save_logs, secs, work

HELLO = ["sh", "-c", "echo hello; exec sleep 1000"]
KILLS_MAX = 60  # more than any call has; a call that never ends without a kill is a fault


class Kill(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        registry()
        cls.server = Server(cni="bridge")
        cls.addClassCleanup(cls.server.destroy)
        cls.server.start(60)
        cls.baseline = cls.server.traces()
        cls.server.pull(BUSYBOX)

    def tearDown(self):
        self.server.env.pop("CRV_FAULT", None)

    # -- the sweep --

    def restart(self, fault=None):
        self.server.stop(signal.SIGTERM)
        if fault:
            self.server.env["CRV_FAULT"] = fault
        else:
            self.server.env.pop("CRV_FAULT", None)
        self.server.start(60)

    def killed(self, act):
        """Runs act() beside a server that may be killed in it. True if it was; what act raises then does not matter."""
        error = None
        try:
            act()
        except CliError as e:
            error = e
        try:
            self.server.process.wait(secs(1) if error else 0)
        except subprocess.TimeoutExpired:  # it runs on
            if error:
                raise error from None
            return False
        self.assertEqual(self.server.process.returncode, -signal.SIGKILL, self.server.tail())
        return True

    def sweep(self, name, prepare, act, look):
        """look(subject, whole) sees what is there after the restart; `whole` says that the call had ended well."""
        for side in ("before", "after"):
            kills = 0
            for n in range(1, KILLS_MAX):
                with self.subTest(call=name, side=side, n=n):
                    subject = prepare()
                    self.server.stop(signal.SIGTERM)
                    self.server.env["CRV_FAULT"] = f"store.{side}:{n}"
                    try:
                        self.server.start(60)
                    except AssertionError:
                        self.assertEqual(self.server.process.returncode, -signal.SIGKILL, self.server.tail())
                        killed = True
                    else:
                        killed = self.killed(lambda: act(subject))
                    kills += killed
                    try:
                        if killed:
                            self.server.env.pop("CRV_FAULT")
                            self.server.start(60)
                        else:
                            self.restart()
                        look(subject, not killed)
                        self.server.remove_all()
                        self.server.assert_nothing_left(self.baseline, 10)
                    except BaseException:
                        save_logs(self.server, f"{self.id()}-{side}-{n}")
                        raise
                    if not killed:
                        break
            else:
                self.fail(f"{name}: killed {KILLS_MAX} times and never done")
            print(f"    {name}: {kills} kills {side} a change of the state", flush=True)
            self.assertGreater(kills, 0)

    def phase(self, kind, id_):
        """The state of a pod or container as it is listed; None: it is not."""
        listed = self.server.json("pods" if kind == "pod" else "ps", *([] if kind == "pod" else ["-a"]), "-o", "json")
        for item in listed["items" if kind == "pod" else "containers"] or []:
            if item["id"] == id_:
                return item["state"]
        return None

    # -- pods --

    def new_pod(self):
        return self.server.runp()

    def test_run_pod_sandbox(self):
        def prepare():
            return self.server.pod_config()

        def act(config):
            self.server.runp(config)

        def look(config, whole):
            ids = self.server.pod_ids()
            if ids:
                self.assertEqual(len(ids), 1)
                self.assertEqual(self.phase("pod", ids[0]), "SANDBOX_READY")
            else:
                self.assertFalse(whole)
                self.server.assert_nothing_left(self.baseline, 10)
            # As kubelet does: the same again, which answers the same pod, or a new one.
            pod = self.server.runp(config)
            if ids:
                self.assertEqual(pod.id, ids[0])
            self.assertEqual(pod.output(["echo", "works"]), "works\n")
        self.sweep("RunPodSandbox", prepare, act, look)

    def test_stop_pod_sandbox(self):
        def prepare():
            pod = self.new_pod()
            pod.run(HELLO)
            return pod

        def look(pod, whole):
            state = self.phase("pod", pod.id)
            self.assertIn(state, ("SANDBOX_NOTREADY",) if whole else ("SANDBOX_READY", "SANDBOX_NOTREADY"))
            pod.stop()
            self.assertEqual(self.phase("pod", pod.id), "SANDBOX_NOTREADY")
            eventually(lambda: not self.server.processes(), 10, lambda: f"still there: {self.server.processes()}")
            self.assertEqual(self.server.mounts(), self.baseline["mounts"])
        self.sweep("StopPodSandbox", prepare, lambda pod: pod.stop(), look)

    def test_remove_pod_sandbox(self):
        def prepare():
            pod = self.new_pod()
            pod.run(HELLO)
            pod.stop()
            return pod

        def look(pod, whole):
            state = self.phase("pod", pod.id)
            self.assertIn(state, (None,) if whole else (None, "SANDBOX_NOTREADY"))
            if state is None:
                self.server.assert_nothing_left(self.baseline, 10)
            self.server.remove_if_listed(pod.id)
            self.server.assert_nothing_left(self.baseline, 10)
        self.sweep("RemovePodSandbox", prepare, lambda pod: pod.remove(), look)

    # -- containers --

    def test_create_container(self):
        def prepare():
            pod = self.new_pod()
            return {"pod": pod, "traces": self.server.traces(), "name": f"kill{self.server.serials}"}

        def act(s):
            s["pod"].create(HELLO, name=s["name"])

        def look(s, whole):
            listed = self.server.json("ps", "-a", "-o", "json")["containers"] or []
            if listed:
                self.assertEqual([c["state"] for c in listed], ["CONTAINER_CREATED"])
                self.server.crictl("start", listed[0]["id"])
                return
            self.assertFalse(whole)
            self.assertEqual(self.server.leaks(s["traces"]), "")
            container = s["pod"].run(HELLO, name=s["name"])
            eventually(lambda: container.logs() == "hello\n", 10, "no log")
        self.sweep("CreateContainer", prepare, act, look)

    def test_start_container(self):
        def prepare():
            return self.new_pod().create(HELLO)

        def look(container, whole):
            state = self.phase("container", container.id)
            self.assertIn(state, ("CONTAINER_RUNNING",) if whole else ("CONTAINER_CREATED", "CONTAINER_RUNNING"))
            if state == "CONTAINER_CREATED":
                container.start()
            eventually(lambda: container.logs() == "hello\n", 10, lambda: f"the log says {container.logs()!r}")
        self.sweep("StartContainer", prepare, lambda c: c.start(), look)

    def test_stop_container(self):
        def prepare():
            container = self.new_pod().run(HELLO)
            eventually(lambda: container.logs() == "hello\n", 10, "no log")
            return container

        def look(container, whole):
            state = self.phase("container", container.id)
            self.assertIn(state, ("CONTAINER_EXITED",) if whole else ("CONTAINER_RUNNING", "CONTAINER_EXITED"))
            container.stop()
            self.assertEqual(container.wait()["exitCode"], 137)
            self.assertEqual(container.logs(), "hello\n")
        self.sweep("StopContainer", prepare, lambda c: c.stop(), look)

    def test_remove_container(self):
        def prepare():
            pod = self.new_pod()
            traces = self.server.traces()
            container = pod.run(HELLO)
            container.stop()
            return container, traces

        def look(subject, whole):
            container, traces = subject
            state = self.phase("container", container.id)
            self.assertIn(state, (None,) if whole else (None, "CONTAINER_EXITED"))
            if state is not None:
                container.remove()
            self.assertEqual(self.server.leaks(traces), "")
        self.sweep("RemoveContainer", prepare, lambda s: s[0].remove(), look)

    # -- images --

    def image_files(self):
        return sorted(str(p.relative_to(self.server.state_dir)) for p in below(self.server.state_dir / "images") if p.is_file())

    def images_sweep(self, name, reference, act):
        before = self.image_files()

        def look(_, whole):
            images = self.server.json("images", "-o", "json")["images"]
            listed = any(reference in image["repoTags"] for image in images)
            if whole:
                self.assertTrue(listed)
            if listed:
                pod = self.server.runp()
                self.assertEqual(pod.output(["echo", "works"], image=reference), "works\n")
            act(None)
            self.server.crictl("rmi", reference)
            eventually(lambda: self.image_files() == before, 10,
                       lambda: f"files of the image are left: {sorted(set(self.image_files()) - set(before))}")
        self.sweep(name, lambda: None, act, look)

    def test_pull_image(self):
        reference = BUSYBOX.replace("busybox", "httpd")
        self.images_sweep("PullImage", reference, lambda _: self.server.crictl("pull", reference))

    def test_import(self):
        reference = BUSYBOX.replace("busybox", "httpd")
        archive = pathlib.Path(work()) / "import.tar"
        self.server.crictl("pull", reference)
        self.crivisor("image", "export", reference, archive)
        self.server.crictl("rmi", reference)
        self.images_sweep("image import", reference, lambda _: self.crivisor("image", "import", archive))

    def crivisor(self, *args):
        """A subcommand of the server's own program, with the fault point of the server's environment."""
        done = subprocess.run([self.server.program, *args[:2], "--config", self.server.config, *args[2:]], env=self.server.env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=secs(120))
        if done.returncode == -signal.SIGKILL:
            # The process that was to be killed is this one; the server goes the same way.
            self.server.process.kill()
            self.server.process.wait()
        if done.returncode:
            raise CliError(args, done.returncode, done.stdout, done.stderr)


if __name__ == "__main__":
    unittest.main()
