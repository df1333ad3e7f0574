# SPDX-License-Identifier: Apache-2.0
"""What a container may and may not do in its VM: users, groups, capabilities, seccomp profiles, devices, cgroups."""

import pathlib
import re

from confinement import assert_confined, assert_limits, capabilities, processes, status_field
from harness import BUSYBOX, REGISTRY, unit_capabilities
from test_containers import SHELL, OnePod

USER = REGISTRY + "/test/user:1"


class Users(OnePod):
    images = (BUSYBOX, USER)

    def test_groups_of_the_image_are_merged(self):
        out = self.pod.output(["id", "-G"], image=USER, **self.context(
            run_as_user={"value": 1000}, run_as_group={"value": 1000}, supplemental_groups=[77]))
        self.assertEqual(sorted(out.split()), ["1000", "2000", "77"])

    def test_groups_of_the_image_are_left_out_if_strict(self):
        out = self.pod.output(["id", "-G"], image=USER, **self.context(
            run_as_user={"value": 1000}, run_as_group={"value": 1000}, supplemental_groups=[77], supplemental_groups_policy=1))
        self.assertEqual(sorted(out.split()), ["1000", "77"])

    def test_exec_runs_as_the_container_does(self):
        container = self.pod.run(["sleep", "1000"], **self.context(
            run_as_user={"value": 1234}, run_as_group={"value": 99}, no_new_privs=True, capabilities={"drop_capabilities": ["ALL"]}))
        out = container.exec("cat", "/proc/self/status")
        self.assertRegex(out, r"Uid:\s+1234\s")
        self.assertRegex(out, r"Gid:\s+99\s")
        self.assertEqual(status_field(out, "NoNewPrivs"), "1")
        self.assertEqual(int(status_field(out, "CapBnd"), 16), 0)

    def test_ambient_capabilities_reach_a_user(self):
        out = self.pod.output(["cat", "/proc/self/status"], **self.context(
            run_as_user={"value": 1234}, capabilities={"add_ambient_capabilities": ["NET_BIND_SERVICE"], "drop_capabilities": ["ALL"]}))
        # A capability that is dropped by name wins over one that is added; ALL is dropped first.
        self.assertEqual(int(status_field(out, "CapEff"), 16), 1 << 10)
        self.assertEqual(int(status_field(out, "CapAmb"), 16), 1 << 10)


class Privileges(OnePod):
    def test_the_server_has_what_the_unit_gives_it_and_no_more(self):
        """fault I: the server's bounding set is the unit's, and a VM boots and a container runs with it, as in all of test/e2e."""
        self.assertEqual(self.pod.output(["echo", "runs"]).strip(), "runs")
        wanted = {name.removeprefix("CAP_") for name in unit_capabilities()}
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        for field in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(capabilities(status, field), wanted, field)
        self.assertEqual(status_field(status, "NoNewPrivs"), "1")
        self.assertLess(len(wanted), 20)

    def test_the_processes_of_pods_are_confined_as_the_table_says(self):
        """fault I: the table of processes in vmm/README.md is what /proc shows of two running pods, whose users differ."""
        other = self.server.runp()
        try:
            assert_confined(self, self.server, [self.pod, other], "qemu")
            for name, pid in processes(self.server, other):
                if name in ("qemu", "vhost-device-vsock"):
                    assert_limits(self, pid)
        finally:
            other.stop()
            other.remove()

    def test_no_device_node_of_a_container_is_one_of_the_host(self):
        """fault I: virtiofsd may make device nodes for containers, and can open none: all that it serves is mounted nodev."""
        self.pod.run(["sleep", "1000"])
        serving = [pid for name, pid in processes(self.server, self.pod) if name == "virtiofsd, serving"]
        self.assertEqual(len(serving), 1)
        mounts = [line.split() for line in pathlib.Path(f"/proc/{serving[0]}/mountinfo").read_text().splitlines()]
        self.assertGreater(len(mounts), 1)
        for mount in mounts:
            self.assertIn("nodev", mount[5].split(","), mount)


class Seccomp(OnePod):
    def profile(self, value):
        path = self.server.write("profile", value)
        return {"seccomp": {"profile_type": 2, "localhost_ref": str(path)}}

    def test_localhost_profile_is_in_force(self):
        profile = {"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]}
        out = self.pod.output(SHELL + ["mkdir /tmp/x 2>&1 || true"], **self.context(**self.profile(profile)))
        self.assertIn("quota exceeded", out.lower())

    def test_bad_localhost_profile_is_named(self):
        with self.refused("InvalidArgument", "profile.json", "SCMP_ACT_NONSENSE"):
            self.pod.create(["true"], **self.context(**self.profile({"defaultAction": "SCMP_ACT_NONSENSE"})))

    def test_default_profile_follows_the_capabilities(self):
        command = SHELL + ["mount -t tmpfs none /tmp && echo mounted || echo refused"]
        without = self.pod.output(command, **self.context(seccomp={"profile_type": 0}))
        self.assertIn("refused", without)
        with_admin = self.pod.output(command, **self.context(seccomp={"profile_type": 0},
                                                            capabilities={"add_capabilities": ["SYS_ADMIN"]}))
        self.assertIn("mounted", with_admin)

    def test_exec_is_filtered_as_well(self):
        container = self.pod.run(["sleep", "1000"], **self.context(seccomp={"profile_type": 0}))
        self.assertEqual(status_field(container.exec("cat", "/proc/self/status"), "Seccomp"), "2")


class Devices(OnePod):
    def test_a_device_of_the_guest_is_given(self):
        out = self.pod.output(SHELL + ["exec 3<>/dev/myfuse && echo opened"], devices=[
            {"host_path": "/dev/fuse", "container_path": "/dev/myfuse", "permissions": "rw"}])
        self.assertEqual(out, "opened\n")

    def test_what_was_not_given_cannot_be_opened(self):
        out = self.pod.output(SHELL + ["mknod /tmp/fuse c 10 229 && echo made; (exec 3<>/tmp/fuse) 2>&1 || true"])
        self.assertRegex(out, r"^made\n.*/tmp/fuse.*not permitted")

    def test_a_device_of_the_host_is_refused_and_named(self):
        with self.refused("InvalidArgument", "/dev/sda"):
            self.pod.create(["true"], devices=[{"host_path": "/dev/sda", "container_path": "/dev/sda", "permissions": "r"}])

    def test_the_vms_own_disk_cannot_be_opened(self):
        out = self.pod.output(SHELL + ["mknod /tmp/pmem b 259 1 && echo made; head -c 1 /tmp/pmem 2>&1 || true"])
        self.assertRegex(out, r"^made\n.*/tmp/pmem.*not permitted")

    def test_host_ipc_and_user_namespaces_are_refused_in_words(self):
        with self.refused("InvalidArgument", "IPC"):
            self.pod.create(["true"], **self.context(namespace_options={"ipc": 2, "pid": 1}))
        with self.refused("Unimplemented", "user namespace"):
            self.pod.create(["true"], **self.context(namespace_options={"pid": 1, "userns_options": {"mode": 0}}))

    def test_own_ipc_namespace_has_its_own_shm(self):
        self.pod.output(SHELL + ["echo shared > /dev/shm/of-the-pod"])
        out = self.pod.output(["ls", "/dev/shm"], **self.context(namespace_options={"ipc": 1, "pid": 1}))
        self.assertEqual(out, "")

    def test_resources_of_cgroup_v2_and_hugepages(self):
        out = self.pod.output(SHELL + ["cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/memory.swap.max"], linux={"resources": {
            "memory_limit_in_bytes": 64 << 20, "unified": {"memory.high": str(48 << 20)},
            "hugepage_limits": [{"page_size": "2MB", "limit": 0}, {"page_size": "1GB", "limit": 0}]}})
        self.assertEqual(out, f"{48 << 20}\n0\n")


class PrivilegedDevices(OnePod):
    pod_fields = {"linux": {"security_context": {"namespace_options": {"pid": 1}, "privileged": True}}}

    def privileged(self, script, **fields):
        return self.pod.output(SHELL + [script], **self.context(privileged=True, **fields))

    def test_devices_of_the_guest_are_there(self):
        out = self.privileged("ls /dev/fuse /dev/net/tun /dev/kmsg /dev/loop-control; (exec 3<>/dev/net/tun) && echo opened")
        self.assertIn("/dev/fuse\n", out)
        self.assertTrue(out.endswith("opened\n"), out)

    def test_the_agents_way_out_and_the_vms_disk_stay_shut(self):
        out = self.privileged(
            "vsock=$(sed -n 's/ vsock$//p' /proc/misc); echo vsock $vsock; mknod /tmp/vsock c 10 $vsock && mknod /tmp/pmem b 259 1 && "
            "echo made; for node in /tmp/vsock /tmp/pmem; do (exec 3<$node) 2>&1 || true; done")
        self.assertRegex(out, r"^vsock \d+\nmade\n.*/tmp/vsock.*not permitted\n.*/tmp/pmem.*not permitted")

    def test_the_agents_cgroup_is_out_of_sight(self):
        out = self.privileged("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/mine && echo made; rmdir /sys/fs/cgroup/mine")
        self.assertIn("0::/\n", out)
        self.assertIn("made\n", out)
        self.assertNotIn("crivisor", out)

    def test_it_is_not_filtered(self):
        out = self.privileged("cat /proc/self/status; mount | grep ' /sys '", seccomp={"profile_type": 0})
        self.assertEqual(status_field(out, "Seccomp"), "0")
        self.assertRegex(out, r"sysfs \(rw,")
