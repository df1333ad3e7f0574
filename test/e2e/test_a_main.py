# SPDX-License-Identifier: Apache-2.0
"""The main job by crictl, step by step: one pod, from pulling its image to removing it."""

import pathlib
import time

from harness import (BUSYBOX, HTTPD, Case, CliError, assert_no_way_to_the_agent, eventually, http_get, rows, secs, stamp_seconds,
                     vsock_probe)


class MainJob(Case):
    images = ()
    keep_pods = True
    pod = container = web = None

    def need(self, *things):
        if not all(things):
            self.skipTest("an earlier step failed")

    def test_01_version_names_runtime_and_api(self):
        version = self.server.crictl("version")
        self.assertIn("crivisor", version)
        self.assertRegex(version, r"RuntimeApiVersion:\s+v1")

    def test_02_status_is_ready(self):
        info = self.server.json("info")
        conditions = {c["type"]: c for c in info["status"]["conditions"]}
        self.assertTrue(conditions["RuntimeReady"]["status"], conditions)
        self.assertTrue(conditions["NetworkReady"]["status"], conditions)

    def test_03_pull(self):
        self.server.pull(BUSYBOX, HTTPD)

    def test_04_inspecti_shows_id_tags_digests_size(self):
        status = self.server.json("inspecti", BUSYBOX)["status"]
        self.assertRegex(status["id"], r"^sha256:[0-9a-f]{64}$")
        self.assertIn(BUSYBOX, status["repoTags"])
        self.assertTrue(status["repoDigests"][0].startswith(BUSYBOX.rsplit(":", 1)[0] + "@sha256:"), status)
        self.assertGreater(int(status["size"]), 100000)
        self.assertIn(status["id"], self.server.crictl("images", "-q", "--no-trunc"))

    def test_05_runp(self):
        type(self).pod = self.server.runp(self.server.pod_config("main", labels={"app": "demo"}, annotations={"a/b": "c"}))
        self.assertRegex(self.pod.id, r"^[0-9a-f]{20,64}$")

    def test_06_pods_lists_it_as_ready(self):
        self.need(self.pod)
        items = self.server.json("pods", "-o", "json")["items"]
        self.assertEqual([i["id"] for i in items], [self.pod.id])
        self.assertEqual(items[0]["state"], "SANDBOX_READY")
        self.assertEqual(self.server.crictl("pods", "-q", "--label", "app=demo").split(), [self.pod.id])
        self.assertEqual(self.server.crictl("pods", "-q", "--label", "app=other").split(), [])

    def test_07_inspectp_shows_ip_labels_namespaces(self):
        self.need(self.pod)
        status = self.pod.status()
        self.assertTrue(status["network"]["ip"].startswith(self.server.subnet.rsplit(".", 1)[0]), status)
        self.assertEqual(status["labels"], {"app": "demo"})
        self.assertEqual(status["annotations"]["a/b"], "c")
        self.assertIn("options", status["linux"]["namespaces"])

    def test_08_create(self):
        self.need(self.pod)
        type(self).container = self.pod.create(
            ["sh", "-c", "echo out-line; echo err-line >&2; exec sleep 1000"], name="first", labels={"role": "x"})
        self.assertEqual(self.container.status()["state"], "CONTAINER_CREATED")

    def test_09_start(self):
        self.need(self.container)
        self.container.start()
        self.assertTrue(self.container.log_file.exists(), "the log file exists when StartContainer returns")
        status = self.container.status()
        self.assertEqual(status["state"], "CONTAINER_RUNNING")
        created, started = stamp_seconds(status["createdAt"]), stamp_seconds(status["startedAt"])
        self.assertTrue(time.time() - secs(60) < created <= started <= time.time(), status)

    def test_10_ps_lists_it(self):
        self.need(self.container)
        items = self.server.json("ps", "-o", "json")["containers"]
        self.assertEqual([(i["id"], i["metadata"]["name"], i["podSandboxId"]) for i in items],
                         [(self.container.id, "first", self.pod.id)])
        self.assertEqual(self.server.crictl("ps", "-q", "--label", "role=x").split(), [self.container.id])
        self.assertEqual(self.server.crictl("ps", "-q", "--state", "exited").split(), [])

    def test_11_inspect_shows_image_and_log_path(self):
        self.need(self.container)
        status = self.container.status()
        self.assertEqual(status["image"]["image"], BUSYBOX)
        image = self.server.json("inspecti", BUSYBOX)["status"]
        self.assertEqual(status["imageRef"], image["repoDigests"][0])
        self.assertEqual(status["imageId"], image["id"])
        self.assertEqual(status["logPath"], str(self.container.log_file))
        self.assertEqual(status["labels"], {"role": "x"})

    def test_12_logs_show_stdout_and_stderr(self):
        self.need(self.container)
        eventually(lambda: len(self.container.log_lines()) >= 2, 5, lambda: self.container.log_file.read_text())
        out = self.server.crictl("logs", self.container.id)
        self.assertIn("out-line", out)
        self.assertEqual(sorted(self.container.log_lines()), [("stderr", "F", "err-line\n"), ("stdout", "F", "out-line\n")])

    def test_13_exec_gives_stdout_and_stderr(self):
        self.need(self.container)
        out = self.container.exec("sh", "-c", "echo to-out; echo to-err >&2")
        self.assertIn("to-out", out)
        self.assertIn("to-err", out)

    @rows("A23")
    def test_14_exec_gives_the_exit_code(self):
        self.need(self.container)
        with self.assertRaises(CliError) as caught:
            self.container.exec("sh", "-c", "echo why >&2; exit 3")
        self.assertIn("exited with 3", caught.exception.err)
        self.assertIn("why", caught.exception.err)

    def test_15_exec_timeout_is_deadline_exceeded_and_kills(self):
        self.need(self.container)
        began = time.monotonic()
        with self.refused("DeadlineExceeded"):
            self.container.exec("sleep", "4711", timeout=1)
        self.assertLess(time.monotonic() - began, secs(10))
        eventually(lambda: "sleep 4711" not in self.container.exec("ps"), 5, "the process lives on")

    def test_16_exec_of_a_missing_command_names_it(self):
        self.need(self.container)
        with self.refused("Unknown", "no-such-command"):
            self.container.exec("no-such-command")

    def test_17_the_container_runs_on_a_kernel_of_its_own(self):
        self.need(self.container)
        boot_id = "/proc/sys/kernel/random/boot_id"
        self.assertNotEqual(self.container.exec("cat", boot_id).strip(), pathlib.Path(boot_id).read_text().strip())
        release = self.container.exec("uname", "-r").strip()
        self.assertTrue(release.startswith("6.12"), release)

    def test_18_the_agent_cannot_be_reached_from_a_container(self):
        self.need(self.pod)
        probe = [{"container_path": "/probe", "host_path": str(vsock_probe(self.server.dir)), "readonly": True}]
        assert_no_way_to_the_agent(self, self.pod.output(["/probe"], mounts=probe, seconds=60))

    @rows("A7")
    def test_19_http_from_the_host_to_the_pod(self):
        self.need(self.pod)
        type(self).web = self.pod.run(image=HTTPD, name="web")
        ip = self.pod.ip
        eventually(lambda: _try(http_get, ip), 10, "no answer")
        self.assertEqual(http_get(ip), (200, "hello from crivisor\n"))

    @rows("A1", "A7")
    def test_20_a_second_pod_has_a_vm_of_its_own_and_reaches_the_first(self):
        self.need(self.web)
        other = self.server.runp(name="second")
        boot_id = "/proc/sys/kernel/random/boot_id"
        try:
            self.assertNotEqual(other.output(["cat", boot_id]).strip(), self.web.exec("cat", boot_id).strip())
            self.assertEqual(other.output(["wget", "-q", "-O", "-", f"http://{self.pod.ip}/"]), "hello from crivisor\n")
        finally:
            other.stop()
            other.remove()

    def test_21_stop_ends_it_with_its_signal(self):
        self.need(self.container)
        self.container.stop(1)
        status = self.container.status()
        self.assertEqual(status["state"], "CONTAINER_EXITED")
        self.assertEqual(int(status["exitCode"]), 143, "sleep does not catch SIGTERM")
        self.container.stop()

    def test_22_rm(self):
        self.need(self.container)
        self.container.remove()
        self.assertNotIn(self.container.id, self.server.crictl("ps", "-aq"))
        with self.refused("NotFound", self.container.id[:13]):
            self.server.crictl("inspect", self.container.id)

    def test_23_stopp_stops_what_still_runs(self):
        self.need(self.pod)
        self.pod.stop()
        self.assertEqual(self.pod.status()["state"], "SANDBOX_NOTREADY")
        if self.web:
            self.assertEqual(self.web.status()["state"], "CONTAINER_EXITED")
        self.pod.stop()

    def test_24_rmp(self):
        self.need(self.pod)
        self.pod.remove()
        self.assertEqual(self.server.pod_ids(), [])
        self.assertEqual(self.server.crictl("ps", "-aq").split(), [])

    def test_25_nothing_is_left(self):
        self.need(self.pod)
        self.server.assert_nothing_left(self.baseline)

    def test_26_rmi(self):
        self.server.crictl("rmi", HTTPD)
        self.assertNotIn("test/httpd", self.server.crictl("images"))
        with self.assertRaisesRegex(CliError, "no such image"):
            self.server.crictl("inspecti", HTTPD)


class RunInOneCall(Case):
    def test_crictl_run(self):
        pod = self.server.pod_config("one")
        container = {"metadata": {"name": "c"}, "image": {"image": BUSYBOX}, "log_path": "c.log", "linux": {},
                     "command": ["sh", "-c", "echo ran; sleep 1000"]}
        out = self.server.crictl("run", "-T", f"{int(secs(90))}s", self.server.write("c", container), self.server.write("p", pod))
        container_id = out.split()[-1]
        self.assertEqual(self.server.json("inspect", container_id)["status"]["state"], "CONTAINER_RUNNING")
        eventually(lambda: "ran" in self.server.crictl("logs", container_id), 5, "no log line")

    def test_default_time_limits_of_crictl_suffice(self):
        """crictl gives RunPodSandbox 4 s and everything else 2 s unless told otherwise."""
        path = self.server.dir / "plain.yaml"
        path.write_text(f"runtime-endpoint: unix://{self.server.socket}\nimage-endpoint: unix://{self.server.socket}\n")
        kept, self.server.crictl_config = self.server.crictl_config, path
        try:
            config = self.server.pod_config("plain")
            pod = self.server.crictl("runp", self.server.write("pod", config)).strip()
            self.assertRegex(pod, r"^[0-9a-f]+$")
            self.server.crictl("stopp", pod)
            self.server.crictl("rmp", pod)
        finally:
            self.server.crictl_config = kept


def _try(function, *args):
    try:
        return function(*args)
    except (OSError, CliError):
        return None
