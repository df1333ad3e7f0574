# SPDX-License-Identifier: Apache-2.0
"""Mistakes of users and of hosts: each is refused with its code and a message that names the cause, and leaves nothing."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import (BUSYBOX, CRIVISOR, GUEST_IMAGE, KERNEL, ROOT, Background, Case, CliError, Server, conflist, eventually,
                     failed, save_logs, secs, toml, waits, work)

GUESTS = pathlib.Path(__file__).with_name("guests")
UNKNOWN = "0123456789abcdef" * 4


class Requests(Case):
    def test_unknown_runtime_handler(self):
        with self.refused("InvalidArgument", "no-such-handler"):
            self.server.runp(None, "--runtime", "no-such-handler")

    def test_host_network_is_refused_in_words(self):
        with self.refused("InvalidArgument", "host network"):
            self.server.runp(linux={"security_context": {"namespace_options": {"network": 2}}})

    def test_unknown_ids_are_not_found(self):
        for command in (["inspect"], ["inspectp"], ["start"], ["exec", "-s"]):
            args = [*command, UNKNOWN] + (["true"] if command[0] == "exec" else [])
            with self.subTest(command=command), self.refused("NotFound", UNKNOWN[:13]):
                self.server.crictl(*args)
        config = self.server.pod_config()
        container = {"metadata": {"name": "c"}, "image": {"image": BUSYBOX}, "linux": {}}
        with self.refused("NotFound", UNKNOWN[:13]):
            self.server.crictl("create", UNKNOWN, self.server.write("c", container), self.server.write("p", config))

    def test_stop_of_unknown_ids_succeeds(self):
        self.server.crictl("stop", UNKNOWN)
        self.server.crictl("stopp", UNKNOWN)

    def test_ids_that_are_no_ids(self):
        for value in ("../../etc", "x" * 5000, "a b", "%s%n"):
            with self.subTest(value=value[:20]), self.refused("NotFound", value[:20]):
                self.server.crictl("inspectp", value)

    def test_not_yet_written_rpcs_say_so(self):
        pod = self.server.runp()
        container = pod.run(["sleep", "100000"])
        with self.refused("Unimplemented"):
            self.server.crictl("checkpoint", f"--export={self.server.dir}/checkpoint", container.id)

    def test_create_in_a_stopped_pod(self):
        pod = self.server.runp()
        pod.stop()
        with self.refused("FailedPrecondition", pod.id[:13]):
            pod.create(["true"])

    def test_log_directory_that_cannot_be(self):
        path = self.server.dir / "a-file"
        path.write_text("")
        pod = self.server.runp(log_directory=str(path / "x"))
        container = pod.create(["true"])
        with self.refused("Internal", path):
            container.start()


class Start(Case):
    images = ()

    def serve(self, text):
        path = self.server.dir / "other.toml"
        path.write_text(text)
        return subprocess.run([CRIVISOR, "serve", "--config", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=secs(30))

    def test_unknown_config_key_names_file_line_and_key(self):
        done = self.serve("[server]\nlog_level = \"info\"\n\n[hypervisor]\nfoo = 1\n")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("other.toml:5", done.stdout)
        self.assertIn("foo", done.stdout)

    def test_wrong_type_and_bad_syntax(self):
        for text, words in (("[hypervisor]\nvcpus = \"two\"\n", ("other.toml:2", "vcpus")), ("[server\n", ("other.toml:1",)),
                            ("[hypervisor]\ndriver = \"vmware\"\n", ("driver", "vmware"))):
            with self.subTest(text=text):
                done = self.serve(text)
                self.assertEqual(done.returncode, 1, done.stdout)
                for word in words:
                    self.assertIn(word, done.stdout)

    def test_socket_served_by_another_instance(self):
        values = {k: dict(v) for k, v in self.server.sections.items()}
        values["server"]["state_dir"] = self.server.dir / "s2"
        values["server"]["run_dir"] = self.server.dir / "r2"
        done = self.serve(toml(values))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(str(self.server.process.pid), done.stdout)
        self.assertIn(str(self.server.socket), done.stdout)
        self.assertIn("crivisor", self.server.crictl("version"), "the first one serves on")

    def test_state_dir_of_another_instance(self):
        values = {k: dict(v) for k, v in self.server.sections.items()}
        values["server"]["socket"] = self.server.dir / "other.sock"
        done = self.serve(toml(values))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(str(self.server.state_dir), done.stdout)
        self.assertIn("crivisor", self.server.crictl("version"), "the first one serves on")

    def test_missing_config_file(self):
        done = subprocess.run([CRIVISOR, "serve", "--config", "/no/such.toml"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=secs(30))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("/no/such.toml", done.stdout)

    def test_default_config_is_accepted(self):
        text = subprocess.run([CRIVISOR, "config", "default"], check=True, stdout=subprocess.PIPE, text=True).stdout
        path = self.server.dir / "default.toml"
        path.write_text(text)
        subprocess.run([CRIVISOR, "config", "check", "--config", path], check=True, stdout=subprocess.PIPE)

    def test_stale_socket_is_replaced(self):
        server = Server()
        self.addCleanup(server.destroy)
        server.start()
        server.stop(signal.SIGKILL)
        server.start()
        self.assertIn("crivisor", server.crictl("version"))
        self.assertEqual(server.stop(), 0)


class Network(Case):
    cni = False

    def tearDown(self):
        super().tearDown()
        for path in self.server.cni_dir.iterdir():
            path.unlink()

    def configure(self, text):
        (self.server.cni_dir / "10-test.conflist").write_text(text)

    def network_ready(self):
        conditions = self.server.json("info")["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "NetworkReady")

    def plugin(self, script):
        """A conflist whose one plugin is a shell script; run in place of Debian's."""
        path = self.server.dir / "plugins" / "bad"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        self.configure('{"cniVersion": "1.0.0", "name": "badnet", "plugins": [{"type": "bad"}]}')

    @classmethod
    def setUpClass(cls):
        cls.config = {"cni": {"bin_dirs": [str(work() / "network-plugins"), "/usr/lib/cni"]}}
        super().setUpClass()
        (work() / "network-plugins").symlink_to(cls.server.dir / "plugins")

    def test_no_configuration(self):
        condition = self.network_ready()
        self.assertFalse(condition["status"])
        self.assertIn(str(self.server.cni_dir), condition["message"])
        with self.refused("FailedPrecondition", self.server.cni_dir):
            self.server.runp()

    def test_bad_json(self):
        self.configure('{"cniVersion": "1.0.0", "name": ')
        self.assertFalse(self.network_ready()["status"])
        with self.refused("FailedPrecondition", "10-test.conflist"):
            self.server.runp()

    def test_missing_plugin(self):
        self.configure('{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such-plugin"}]}')
        self.assertFalse(self.network_ready()["status"])
        with self.refused("FailedPrecondition", "no-such-plugin"):
            self.server.runp()

    def test_plugin_that_fails(self):
        self.plugin('cat >/dev/null; [ "$CNI_COMMAND" = ADD ] || exit 0; '
                    'echo \'{"cniVersion": "1.0.0", "code": 101, "msg": "the cable is cut", "details": "by mice"}\'; exit 1\n')
        with self.refused("Internal", "bad", "badnet", "the cable is cut"):
            self.server.runp()
        self.assertEqual(self.server.pod_ids(), [])

    def test_plugin_that_answers_nonsense(self):
        self.plugin("cat >/dev/null; echo this is no JSON\n")
        with self.refused("Internal", "bad", "badnet"):
            self.server.runp()

    def test_plugin_whose_del_fails_or_is_nonsense(self):
        """An answer to DEL counts for nothing. One that fails is told to who removes, and is tried again; the VM is gone all the same."""
        answer = '{"cniVersion": "1.0.0", "ips": [{"address": "10.94.7.5/24"}]}'
        add = ("ns() { nsenter --net=$CNI_NETNS ip link \"$@\"; }\n[ $CNI_COMMAND != ADD ] || { ns add $CNI_IFNAME type veth peer name "
               f"other && ns set $CNI_IFNAME up && ns set other up && echo '{answer}'; exit; }}\n")
        mark = self.server.dir / "mended"
        self.plugin(f"cat >/dev/null\n{add}echo this is no JSON\n")
        pod = self.server.runp()
        pod.stop()
        pod.remove()
        self.plugin(f"cat >/dev/null\n{add}[ -e {mark} ] || {{ echo '{{\"cniVersion\": \"1.0.0\", \"code\": 102, "
                    f"\"msg\": \"the mice are back\"}}'; exit 1; }}\n")
        pod = self.server.runp()
        sandbox = pod.sandbox
        with self.refused("Internal", "bad", "the mice are back"):
            pod.stop()
        self.assertEqual([line for line, _ in self.server.process_texts().values() if sandbox in line], [])
        mark.write_text("")
        pod.stop()
        pod.remove()
        self.assertEqual(self.server.pod_ids(), [])
        self.assertEqual(self.server.rows(), [])

    @waits
    def test_plugin_that_hangs(self):
        self.plugin('[ "$CNI_COMMAND" = ADD ] || exit 0; sleep 4714\n')
        began = time.monotonic()
        with self.refused("DeadlineExceeded"):
            # crictl doubles the limit for RunPodSandbox.
            self.server.crictl("runp", "-T", f"{int(secs(4))}s", self.server.write("p", self.server.pod_config("hang")))
        self.assertLess(time.monotonic() - began, secs(12))
        # The server ends the plugin and its children at the plugin's own limit, and undoes the pod.
        eventually(lambda: not any("4714" in text for text in _sleeps()), 90, "the plugin lives on")
        eventually(lambda: not self.server.rows(), 10, lambda: self.server.rows())
        self.assertEqual(self.server.pod_ids(), [])

    def test_fixed_configuration_needs_no_restart(self):
        self.configure("{")
        with self.refused("FailedPrecondition", "10-test.conflist"):
            self.server.runp()
        self.configure(conflist(self.server.dir, self.server.subnet))
        self.assertTrue(self.network_ready()["status"])
        self.server.runp()


def _sleeps():
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text.startswith("sleep "):
                yield text


class Machine(Case):
    """VMMs and guests that are missing, die or misbehave. Each test has a server of its own with that one fault."""

    images = ()

    def serve(self, **hypervisor):
        server = self.made(Server({"hypervisor": hypervisor}))
        server.start()
        server.baseline = server.traces()
        return server

    def made(self, server):
        """Registers the server's end: after the test its pods are removed, and nothing may be left of them."""
        self.addCleanup(server.destroy)
        self.addCleanup(self.end, server)
        return server

    def end(self, server):
        try:
            if not failed(self):
                server.remove_all()
                server.assert_nothing_left(server.baseline)
        except AssertionError:
            save_logs(server, self.id())
            raise
        if failed(self):
            save_logs(server, self.id())

    def tearDown(self):
        """Nothing: the class's own server takes no part in these tests."""

    def no_pod(self, server, code, *words, seconds=60):
        began = time.monotonic()
        with self.refused(code, *words):
            server.runp()
        self.assertLess(time.monotonic() - began, secs(seconds))
        self.assertEqual(server.pod_ids(), [])
        server.assert_nothing_left(server.baseline)
        self.assertIsNone(server.process.poll(), "the server must live on")

    def not_ready(self, server, word):
        conditions = {c["type"]: c for c in server.json("info")["status"]["conditions"]}
        self.assertFalse(conditions["RuntimeReady"]["status"], conditions)
        self.assertIn(word, conditions["RuntimeReady"]["message"])

    def test_no_kernel_file(self):
        server = self.serve(kernel_path="/no/such/vmlinux")
        self.not_ready(server, "/no/such/vmlinux")
        self.no_pod(server, "FailedPrecondition", "/no/such/vmlinux")

    def test_no_image_file(self):
        server = self.serve(image_path="/no/such/guest.img")
        self.not_ready(server, "/no/such/guest.img")
        self.no_pod(server, "FailedPrecondition", "/no/such/guest.img")

    def test_no_vmm_binary(self):
        server = self.serve(driver="qemu", path="/no/such/qemu")
        self.no_pod(server, "FailedPrecondition", "/no/such/qemu")

    def test_vmm_that_dies_at_boot(self):
        fake = work() / f"dying-vmm-{os.getpid()}"
        fake.write_text('#!/bin/sh\n[ "$1" = --version ] && exec qemu-system-x86_64 --version\n'
                        'echo "the VMM has a headache" >&2; exit 7\n')
        fake.chmod(0o755)
        self.no_pod(self.serve(driver="qemu", path=fake), "Internal", "headache")

    def test_kernel_that_is_no_kernel(self):
        path = work() / f"no-kernel-{os.getpid()}"
        path.write_bytes(b"no kernel at all")
        server = self.serve(kernel_path=path)
        self.not_ready(server, str(path))
        self.no_pod(server, "FailedPrecondition", path, "ELF")
        shutil.copyfile(KERNEL, path)
        server.runp()

    def test_image_that_is_damaged(self):
        """A byte that differs from what the SHA256SUMS beside it says."""
        place = work() / f"guest-{os.getpid()}"
        place.mkdir()
        path = place / "guest.img"
        data = bytearray(GUEST_IMAGE.read_bytes())
        (place / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  guest.img\n")
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        server = self.serve(image_path=path)
        self.not_ready(server, str(path))
        self.no_pod(server, "FailedPrecondition", path, "damaged")

    def test_more_memory_than_the_host_has(self):
        server = self.serve(memory_in_mb=1 << 23)
        self.not_ready(server, "memory_in_mb")
        self.no_pod(server, "ResourceExhausted", "8388608 MiB")
        # A pod that has a limit of its own is no larger than that.
        server.runp(linux={"resources": {"memory_limit_in_bytes": 128 << 20}})

    def test_huge_pages_that_nobody_reserved(self):
        """Without this check the VMM dies of a bus error, which does not tell the user what to do."""
        server = self.serve(hugepages=True, memory_in_mb=1 << 14)
        self.not_ready(server, "huge pages")
        self.no_pod(server, "ResourceExhausted", "huge pages", "vm.nr_hugepages")

    def test_full_disk(self):
        server = self.made(Server())
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "disk", server.state_dir], check=True)
        server.start()
        server.baseline = server.traces()
        pod = server.runp()
        with open(server.state_dir / "ballast", "wb", buffering=0) as f, contextlib.suppress(OSError):
            while f.write(b"\0" * (1 << 20)):
                pass
        self.not_ready(server, str(server.state_dir))
        with self.refused("ResourceExhausted", server.state_dir, "full"):
            server.runp()
        pod.stop()
        pod.remove()
        (server.state_dir / "ballast").unlink()
        server.runp()

    def test_guest_kernel_that_panics(self):
        server = self.serve(kernel_params="init=/nonexistent")
        self.no_pod(server, "Internal", "panic", seconds=25)

    @waits
    def test_guest_that_never_answers(self):
        self.silent(self.serve(image_path=self.guest("init_silent")))

    def silent(self, server):
        began = time.monotonic()
        with self.refused("DeadlineExceeded"):
            # crictl doubles the limit for RunPodSandbox.
            server.crictl("runp", "-T", f"{int(secs(4))}s", server.write("p", server.pod_config()))
        self.assertLess(time.monotonic() - began, secs(12))
        # The client has left at its deadline. The boot goes on until its own limit; then the pod is undone. It is never listed.
        self.assertEqual(server.pod_ids(), [])
        server.assert_nothing_left(server.baseline, 90)

    def test_agent_that_answers_nonsense(self):
        self.no_pod(self.serve(image_path=self.guest("init_nonsense")), "Internal", "agent", seconds=60)

    def guest(self, name):
        """A guest image with that program as its PID 1."""
        program, image = work() / name, work() / f"{name}.img"
        if not image.exists():
            subprocess.run(["gcc", "-static", "-O1", "-o", program, GUESTS / f"{name}.c"], check=True)
            subprocess.run([ROOT / "deploy" / "guest" / "build-image", "--agent", program, "--output", image], check=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return image


class Death(Case):
    """VMs that die under running containers: exit 137 with the cause, NOTREADY within 3 s, and removable."""

    def setUp(self):
        self.pod = self.server.runp(linux={"security_context": {"namespace_options": {"pid": 1}, "privileged": True}})
        self.container = self.pod.run(["sleep", "1000"], linux={"security_context": {"privileged": True}})

    def dead(self, cause, within=3):
        eventually(lambda: self.pod.status()["state"] == "SANDBOX_NOTREADY", within, "still ready")
        status = self.container.status()
        self.assertEqual((status["state"], int(status["exitCode"])), ("CONTAINER_EXITED", 137))
        self.assertEqual(status["reason"], "Error", status)
        self.assertRegex(status["message"], cause)
        with self.refused("FailedPrecondition", self.container.id[:13]):
            self.container.exec("true")

    def vmm(self):
        return next(pid for pid, text in self.server.processes().items() if "qemu-system" in text or "cloud-hypervisor" in text)

    def test_vmm_is_killed(self):
        os.kill(self.vmm(), signal.SIGKILL)
        self.dead("VMM|qemu|cloud-hypervisor")

    def virtiofsd(self, what):
        found = [pid for pid, text in self.server.processes().items() if "virtiofsd" in text.split(" ", 1)[0]]
        self.assertTrue(found, "no virtiofsd")
        for pid in found:
            os.kill(pid, what)

    def test_virtiofsd_is_killed(self):
        self.virtiofsd(signal.SIGKILL)
        self.dead("virtiofsd")

    @waits
    def test_virtiofsd_hangs_while_containers_go(self):
        """A read stays in flight. Unmounting its file system meanwhile would make the guest panic."""
        volume = self.server.dir / "volume"
        volume.mkdir()
        subprocess.run(["gcc", "-static", "-O1", "-o", volume / "reads_at_term", GUESTS / "reads_at_term.c"], check=True)
        readers = []
        for name in ("one", "two"):
            (volume / name).write_bytes(bytes(8 << 20))
            readers.append(self.pod.run(["/v/reads_at_term", f"/v/{name}"],
                                        mounts=[{"container_path": "/v", "host_path": str(volume)}]))
        for reader in readers:
            eventually(lambda: "ready" in reader.logs(), 10, "the program does not run")
        self.virtiofsd(signal.SIGSTOP)
        try:
            for reader in readers:
                reader.stop(1)
                self.assertEqual(int(reader.status()["exitCode"]), 137)
            with self.refused("Unavailable", "virtiofsd has not answered for 10 s"):
                readers[0].remove()
            removal = Background(readers[1].remove)
            time.sleep(1)
            self.assertTrue(removal.thread.is_alive(), "the container was removed under its read")
        finally:
            self.virtiofsd(signal.SIGCONT)
        removal.result()
        readers[0].remove()
        self.assertEqual(self.container.exec("echo", "fine").strip(), "fine")

    def sysrq(self, key, cause):
        command = Background(self.container.exec, "sh", "-c", f"mount -t proc p /tmp; echo {key} > /tmp/sysrq-trigger", timeout=20)
        self.dead(cause, 5)
        with self.assertRaises(CliError):
            command.result()

    def test_guest_resets_itself(self):
        self.sysrq("b", "reset")

    def test_guest_panics(self):
        self.sysrq("c", "panic")

    @waits
    def test_a_stopped_vmm_does_not_hang_the_removal(self):
        """The whole guest hangs: stop and rm kill it after the grace period."""
        os.kill(self.vmm(), signal.SIGSTOP)
        began = time.monotonic()
        self.server.crictl("stopp", self.pod.id)
        self.server.crictl("rmp", self.pod.id)
        self.assertLess(time.monotonic() - began, secs(60))
