# SPDX-License-Identifier: Apache-2.0
"""Containers: how they run, how they end, what they see. Most tests share one pod."""

import re
import signal

from harness import BUSYBOX, HTTPD, REGISTRY, Case, assert_no_way_to_the_agent, eventually, http_get, vsock_probe, waits

USER = REGISTRY + "/test/user:1"
SHELL = ["sh", "-c"]


class OnePod(Case):
    """One pod for all tests of the class; each test removes its containers."""

    keep_pods = True
    pod_fields = {}

    @classmethod
    def prepare(cls):
        fields = {"linux": {"security_context": {"namespace_options": {"pid": 1}}}}
        fields.update(cls.pod_fields)
        cls.pod = cls.server.runp(cls.server.pod_config(**fields))

    def tearDown(self):
        super().tearDown()
        for container in self.server.crictl("ps", "-aq").split():
            self.server.crictl("rm", "-f", container)

    def context(self, **fields):
        return {"linux": {"security_context": fields}}


class Ends(OnePod):
    def test_exit_0_is_completed(self):
        status = self.pod.run(["true"]).wait()
        self.assertEqual((int(status["exitCode"]), status["reason"]), (0, "Completed"))
        self.assertTrue(status["createdAt"] <= status["startedAt"] <= status["finishedAt"], status)

    def test_exit_3_is_error(self):
        status = self.pod.run(SHELL + ["exit 3"]).wait()
        self.assertEqual((int(status["exitCode"]), status["reason"]), (3, "Error"))

    def test_stopped_by_sigterm_is_143(self):
        container = self.pod.run(SHELL + ["trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"])
        eventually(container.log_lines, 5, "it did not start")
        container.stop(20)
        status = container.status()
        self.assertEqual((int(status["exitCode"]), status["reason"]), (143, "Error"))

    def test_deaf_to_sigterm_is_killed_with_137(self):
        container = self.pod.run(SHELL + ["trap '' TERM; while :; do sleep 0.1; done"])
        container.stop(1)
        self.assertEqual(int(container.status()["exitCode"]), 137)

    def test_out_of_memory_is_oomkilled_with_137(self):
        container = self.pod.run(SHELL + ["x=0123456789abcdef; while :; do x=$x$x; done"],
                                 linux={"resources": {"memory_limit_in_bytes": 24 << 20}})
        status = container.wait(60)
        self.assertEqual((int(status["exitCode"]), status["reason"]), (137, "OOMKilled"))

    def test_a_missing_command_is_refused_and_named(self):
        # crun looks for it when the container is created.
        with self.refused("Unknown", "/no/such/program"):
            self.pod.create(["/no/such/program"])

    def test_a_container_may_be_created_again_with_the_next_attempt(self):
        first = self.pod.run(["false"], name="again")
        self.assertEqual(int(first.wait()["exitCode"]), 1)
        with self.refused("AlreadyExists", "again"):
            self.pod.create(["true"], name="again")
        second = self.pod.create(["true"], name="again", metadata={"name": "again", "attempt": 1}, log_path="again/1.log")
        second.start()
        self.assertEqual(int(second.wait()["exitCode"]), 0)

    def test_start_twice_is_refused(self):
        container = self.pod.run(["true"])
        container.wait()
        with self.refused("FailedPrecondition"):
            container.start()

    def test_rm_of_a_running_container_needs_force(self):
        container = self.pod.run(["sleep", "1000"])
        container.remove(force=True)
        with self.refused("NotFound"):
            self.server.crictl("inspect", container.id)


class Logs(OnePod):
    def test_streams_and_tags(self):
        container = self.pod.run(SHELL + ["echo one; echo two >&2; printf three"])
        container.wait()
        lines = container.log_lines()
        self.assertEqual([l for l in lines if l[0] == "stdout"], [("stdout", "F", "one\n"), ("stdout", "P", "three")])
        self.assertEqual([l for l in lines if l[0] == "stderr"], [("stderr", "F", "two\n")])

    def test_long_lines_are_split_at_16384_bytes(self):
        container = self.pod.run(SHELL + ["head -c 40000 /dev/zero | tr '\\0' x; echo"])
        container.wait()
        self.assertEqual([(tag, len(text)) for _, tag, text in container.log_lines()],
                         [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384 + 1)])

    def test_a_flood_is_neither_lost_nor_reordered(self):
        container = self.pod.run(["seq", "1", "100000"])
        container.wait(120)
        self.assertEqual(container.logs(), "".join(f"{i}\n" for i in range(1, 100001)))

    def test_binary_output_survives(self):
        container = self.pod.run(SHELL + ["printf '\\001\\377\\r tab\\t\\n'"])
        container.wait()
        self.assertIn(b" \x01\xff\r tab\t\n", container.log_file.read_bytes())

    def test_reopen_after_rotation(self):
        container = self.pod.run(SHELL + ["i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"])
        eventually(lambda: len(container.log_lines()) > 5, 10, "no lines")
        rotated = container.log_file.with_suffix(".log.1")
        container.log_file.rename(rotated)
        self.reopen(container)
        self.assertTrue(container.log_file.exists(), "the new file exists on return")
        eventually(lambda: len(container.log_lines()) > 5, 10, "no lines after the rotation")
        container.stop()
        old = [line.split(" ", 3)[3] for line in rotated.read_text().splitlines()]
        new = [text.strip() for _, _, text in container.log_lines()]
        self.assertEqual(old + new, [str(i) for i in range(len(old) + len(new))])

    def reopen(self, container):
        # An option of crictl's `logs`, which then prints the log.
        self.server.crictl("logs", "--reopen", container.id)

    def test_reopen_of_an_ended_container_is_refused_and_makes_no_file(self):
        container = self.pod.run(["true"])
        container.wait()
        container.log_file.unlink()
        with self.refused("FailedPrecondition", container.id[:13]):
            self.reopen(container)
        self.assertFalse(container.log_file.exists())


class Sees(OnePod):
    images = (BUSYBOX, USER)
    pod_fields = {
        "hostname": "pod-host",
        "dns_config": {"servers": ["10.1.2.3"], "searches": ["a.example", "b.example"], "options": ["ndots:2"]},
        "linux": {"security_context": {"namespace_options": {"pid": 1}},
                  "sysctls": {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}},
    }

    def test_env_of_image_and_request(self):
        out = self.pod.output(["env"], envs=[{"key": "COLOUR", "value": "blue"}, {"key": "EMPTY", "value": ""}])
        self.assertIn("COLOUR=blue\n", out)
        self.assertIn("EMPTY=\n", out)
        self.assertIn("PATH=/usr/local/sbin", out)
        self.assertIn("HOSTNAME=pod-host\n", out)

    def test_command_and_args_of_the_image(self):
        out = self.pod.output(image=USER)
        self.assertIn("args: one two\n", out)
        self.assertIn("uid: 1000 gid: 1000 groups: 1000", out)
        self.assertIn("pwd: /work\n", out)
        self.assertIn("greeting: hello\n", out)

    def test_args_replace_cmd_and_keep_the_entrypoint(self):
        self.assertIn("args: three\n", self.pod.output(image=USER, args=["three"]))

    def test_command_replaces_entrypoint_and_cmd(self):
        self.assertEqual(self.pod.output(["echo", "alone"], image=USER), "alone\n")

    def test_working_dir_and_env_of_the_request_win(self):
        out = self.pod.output(image=USER, working_dir="/tmp", envs=[{"key": "GREETING", "value": "good day"}])
        self.assertIn("pwd: /tmp\n", out)
        self.assertIn("greeting: good day\n", out)

    def test_run_as_user_group_and_supplemental_groups(self):
        out = self.pod.output(["id"], **self.context(run_as_user={"value": 1234}, run_as_group={"value": 4321},
                                                     supplemental_groups=[55, 66]))
        self.assertRegex(out, r"uid=1234 gid=4321 groups=")
        self.assertRegex(out, r"\b55\b.*\b66\b")

    def test_run_as_username_of_the_image(self):
        out = self.pod.output(["id"], **self.context(run_as_username="app"))
        self.assertIn("uid=1000(app) gid=1000(app)", out)
        self.assertIn("2000(extra)", out)

    def test_run_as_group_without_user_is_refused(self):
        with self.refused("InvalidArgument", "group"):
            self.pod.create(["id"], **self.context(run_as_group={"value": 5}))

    def test_unknown_user_is_refused_and_named(self):
        with self.refused("InvalidArgument", "nobody-here"):
            self.pod.create(["id"], **self.context(run_as_username="nobody-here"))

    def test_hostname_dns_and_hosts(self):
        out = self.pod.output(SHELL + ["hostname; cat /etc/resolv.conf; cat /etc/hostname"])
        self.assertTrue(out.startswith("pod-host\n"), out)
        self.assertIn("nameserver 10.1.2.3\n", out)
        self.assertIn("search a.example b.example\n", out)
        self.assertIn("options ndots:2\n", out)

    def test_sysctls(self):
        out = self.pod.output(SHELL + ["cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"])
        self.assertEqual(out, "80\n1\n")

    def test_bind_mount_is_written_through(self):
        volume = self.server.dir / "volume-rw"
        volume.mkdir(exist_ok=True)
        (volume / "from-host").write_text("hi\n")
        out = self.pod.output(SHELL + ["cat /v/from-host; echo back > /v/from-guest"],
                              mounts=[{"container_path": "/v", "host_path": str(volume)}])
        self.assertEqual(out, "hi\n")
        self.assertEqual((volume / "from-guest").read_text(), "back\n")

    def test_read_only_mount_cannot_be_written(self):
        volume = self.server.dir / "volume-ro"
        volume.mkdir(exist_ok=True)
        out = self.pod.output(SHELL + ["touch /v/x 2>&1 || true; ls /v"],
                              mounts=[{"container_path": "/v", "host_path": str(volume), "readonly": True}])
        self.assertIn("Read-only file system", out)
        self.assertEqual(list(volume.iterdir()), [])

    def test_single_file_mount(self):
        file = self.server.dir / "one-file"
        file.write_text("content\n")
        self.assertEqual(self.pod.output(["cat", "/etc/one"], mounts=[{"container_path": "/etc/one", "host_path": str(file)}]),
                         "content\n")

    def test_missing_host_path_is_refused_and_named(self):
        with self.refused("NotFound", "/no/such/host/path"):
            self.pod.create(["true"], mounts=[{"container_path": "/v", "host_path": "/no/such/host/path"}])

    def test_bidirectional_propagation_is_refused(self):
        with self.refused("InvalidArgument", "bidirectional"):
            self.pod.create(["true"], mounts=[{"container_path": "/v", "host_path": "/tmp", "propagation": 2}])

    def test_read_only_rootfs(self):
        out = self.pod.output(SHELL + ["touch /x 2>&1 || true"], **self.context(readonly_rootfs=True))
        self.assertIn("Read-only file system", out)

    def test_rootfs_is_writable_and_private(self):
        self.pod.output(SHELL + ["echo 1 > /only-here"])
        self.assertNotIn("only-here", self.pod.output(["ls", "/"]))

    def status_field(self, out, field):
        return re.search(rf"^{field}:\s*(\S+)", out, re.M).group(1)

    def test_default_capabilities(self):
        out = self.pod.output(["cat", "/proc/self/status"])
        self.assertEqual(self.status_field(out, "CapEff"), "00000000a80425fb")

    def test_capabilities_added_and_dropped(self):
        out = self.pod.output(["cat", "/proc/self/status"],
                              **self.context(capabilities={"add_capabilities": ["SYS_TIME"], "drop_capabilities": ["ALL"]}))
        self.assertEqual(int(self.status_field(out, "CapEff"), 16), 1 << 25)

    def test_unknown_capability_is_refused_and_named(self):
        with self.refused("InvalidArgument", "NO_SUCH_CAP"):
            self.pod.create(["true"], **self.context(capabilities={"add_capabilities": ["NO_SUCH_CAP"]}))

    def test_no_new_privileges(self):
        out = self.pod.output(["cat", "/proc/self/status"], **self.context(no_new_privs=True))
        self.assertEqual(self.status_field(out, "NoNewPrivs"), "1")

    def test_seccomp_runtime_default_and_unconfined(self):
        default = self.pod.output(["cat", "/proc/self/status"], **self.context(seccomp={"profile_type": 0}))
        self.assertEqual(self.status_field(default, "Seccomp"), "2")
        unconfined = self.pod.output(["cat", "/proc/self/status"], **self.context(seccomp={"profile_type": 1}))
        self.assertEqual(self.status_field(unconfined, "Seccomp"), "0")

    def test_seccomp_runtime_default_refuses_unshare(self):
        out = self.pod.output(SHELL + ["unshare -m true 2>&1 || true"], **self.context(seccomp={"profile_type": 0}))
        self.assertIn("not permitted", out)

    def test_limits_are_set_in_the_guest(self):
        out = self.pod.output(SHELL + ["cd /sys/fs/cgroup; cat memory.max cpu.max"], linux={"resources": {
            "memory_limit_in_bytes": 64 << 20, "cpu_quota": 20000, "cpu_period": 100000}})
        self.assertEqual(out, f"{64 << 20}\n20000 100000\n")

    def test_masked_and_read_only_paths(self):
        out = self.pod.output(SHELL + ["wc -c < /proc/meminfo; touch /proc/sys/kernel/domainname 2>&1 && echo written || echo refused"],
                              **self.context(masked_paths=["/proc/meminfo"], readonly_paths=["/proc/sys"]))
        self.assertEqual(out.splitlines()[0].strip(), "0")
        self.assertEqual(out.splitlines()[-1], "refused")

    def test_stop_signal_of_the_image_is_used(self):
        container = self.pod.run(SHELL + ["trap 'echo usr1; exit 0' USR1; echo up; while :; do sleep 0.1; done"], image=USER)
        eventually(container.log_lines, 5, "it did not start")
        container.stop(20)
        self.assertIn("usr1\n", container.logs())

    def test_dev_shm_is_shared_by_the_pod_and_writable(self):
        self.pod.output(SHELL + ["echo shared > /dev/shm/x"])
        self.assertEqual(self.pod.output(["cat", "/dev/shm/x"]), "shared\n")

    @waits
    def test_the_agent_cannot_be_reached_by_vsock(self):
        reach_for_the_agent(self, {})


def reach_for_the_agent(case, fields):
    """No container, whatever it may do, can drive the agent."""
    mounts = [{"container_path": "/probe", "host_path": str(vsock_probe(case.server.dir)), "readonly": True}]
    assert_no_way_to_the_agent(case, case.pod.output(["/probe"], mounts=mounts, seconds=60, **fields))


class Privileged(OnePod):
    pod_fields = {"linux": {"security_context": {"namespace_options": {"pid": 1}, "privileged": True}}}

    def test_privileged_has_all_capabilities_inside_the_vm(self):
        out = self.pod.output(SHELL + ["grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted"],
                              **self.context(privileged=True))
        self.assertRegex(out, r"CapEff:\s+0*1ffffffffff")
        self.assertIn("mounted", out)

    @waits
    def test_the_agent_cannot_be_reached_by_vsock(self):
        reach_for_the_agent(self, self.context(privileged=True))

    def test_privileged_container_in_an_unprivileged_pod_is_refused(self):
        pod = self.server.runp()
        try:
            with self.refused("InvalidArgument", "privileged"):
                pod.create(["true"], **self.context(privileged=True))
        finally:
            pod.stop()
            pod.remove()


class TwoContainers(OnePod):
    images = (BUSYBOX, HTTPD)

    def test_two_containers_share_localhost_and_a_volume(self):
        volume = self.server.dir / "shared-volume"
        volume.mkdir()
        mounts = [{"container_path": "/www", "host_path": str(volume)}]
        self.pod.output(SHELL + ["echo from the other container > /www/index.html"], mounts=mounts)
        self.pod.run(image=HTTPD, mounts=mounts)
        out = self.pod.output(SHELL + ["for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://127.0.0.1/ && break; sleep 0.2; done"])
        self.assertEqual(out, "from the other container\n")

    def test_each_has_its_own_pid_namespace(self):
        self.pod.run(["sleep", "4712"])
        listing = self.pod.output(["ps"])
        self.assertRegex(listing, r"(?m)^\s*1 .*\bps$")
        self.assertNotIn("4712", listing)


class SharedPidNamespace(OnePod):
    pod_fields = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}

    def test_containers_see_each_other(self):
        self.pod.run(["sleep", "4713"])
        out = self.pod.output(["ps"])
        self.assertIn("sleep 4713", out)

    def test_killed_by_a_signal_is_128_plus_n(self):
        # The first process of a PID namespace is immune to signals that it sends to itself.
        container = self.pod.run(SHELL + ["kill -SEGV $$; sleep 1000"])
        status = container.wait()
        self.assertEqual((int(status["exitCode"]), status["reason"]), (128 + signal.SIGSEGV, "Error"))


class PortMapping(OnePod):
    images = (HTTPD,)
    pod_fields = {"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": 18080}]}

    def test_host_port_reaches_the_container(self):
        self.pod.run(image=HTTPD)
        ip = self.pod.ip
        eventually(lambda: _answers(ip, 80), 10, "no answer at the pod's IP")
        gateway = self.server.subnet.rsplit(".", 1)[0] + ".1"
        self.assertEqual(http_get(gateway, 18080), (200, "hello from crivisor\n"))
        self.assertEqual(http_get("127.0.0.1", 18080), (200, "hello from crivisor\n"))


def _answers(host, port):
    try:
        return http_get(host, port, seconds=2)[0] == 200
    except OSError:
        return False
