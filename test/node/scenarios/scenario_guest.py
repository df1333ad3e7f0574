# SPDX-License-Identifier: Apache-2.0
"""The agent as PID 1, seen from the shell of its debug console, and its signals as the host sees them."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import GUEST_IMAGE, KERNEL, eventually, rows
from vmmctl import AGENT_PORT, CONSOLE_PORT, Vm, dial_vsock, run_script
import ttrpc


class Guest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        work = pathlib.Path(tempfile.mkdtemp(prefix="nv-", dir="/tmp"))
        (work / "s").mkdir()
        (work / "s" / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch of.this.pod\n")
        cls.vm = Vm(work=work, memory_mb=256, params="task.debug=true task.log_level=debug")
        cls.addClassCleanup(cls.vm.end)

    @rows("A16")
    def test_01_pid_1_and_nothing_beside_it(self):
        self.assertEqual(self.vm.sh("cat /proc/1/comm; readlink /proc/1/exe").split(), ["init", "/sbin/init"])
        threads = self.vm.sh("for p in /proc/[0-9]*; do [ -n \"$(tr -d '\\0' <$p/cmdline)\" ] && cat $p/comm; done; true").split()
        self.assertLessEqual(set(threads), {"init", "sh", "cat", "busybox", "tr"}, threads)

    @rows("A16", "A23")
    def test_02_orphans_are_reaped(self):
        states = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1; true"
        self.vm.sh("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done")

        def reaped():
            found = self.vm.sh(states).split()
            self.assertIn("S", found, "no process is seen")
            return "Z" not in found
        eventually(reaped, 5, "zombies stay")

    @rows("A4", "A17")
    def test_03_kernel_command_line(self):
        words = self.vm.sh("cat /proc/cmdline").split()
        for word in ("console=hvc0", "root=/dev/pmem0p1", "rootflags=data=ordered,errors=remount-ro,dax", "ro", "rootfstype=ext4",
                     "task.sharefs_type=virtiofs", "panic=-1", "task.debug=true"):
            self.assertIn(word, words)

    @rows("A18")
    def test_04_environment_and_mounts(self):
        mounts = {line.split()[1]: line.split()[2] for line in self.vm.sh("cat /proc/mounts").splitlines()}
        for place, kind in {"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs", "/dev/shm": "tmpfs",
                            "/dev/pts": "devpts", "/sys/fs/cgroup": "cgroup2"}.items():
            self.assertEqual(mounts.get(place), kind, mounts)
        environment = self.vm.sh("tr '\\0' '\\n' </proc/$$/environ; echo; echo $PATH")
        self.assertIn("/usr/sbin", environment)
        self.assertIn("XDG_RUNTIME_DIR=/run/user/0", environment)
        self.assertEqual(self.vm.sh("cat /proc/sys/vm/overcommit_memory"), "1")

    @rows("A19")
    def test_05_share_is_there_and_goes_both_ways(self):
        self.assertRegex(self.vm.sh("cat /proc/mounts"), r"kuasar /run/kuasar/state virtiofs")
        (self.vm.dir / "s" / "from-host").write_text("host")
        self.assertEqual(self.vm.sh("cat /run/kuasar/state/from-host"), "host")
        self.vm.sh("echo guest >/run/kuasar/state/from-guest")
        self.assertEqual((self.vm.dir / "s" / "from-guest").read_text(), "guest\n")

    @rows("A2")
    def test_06_rng_and_console(self):
        self.assertRegex(self.vm.sh("cat /sys/class/misc/hw_random/rng_current /sys/devices/virtual/misc/hw_random/rng_current "
                                    "2>/dev/null; true"), r"virtio_rng")
        self.vm.sh("echo seen by the host >/dev/hvc0")
        eventually(lambda: "seen by the host" in self.vm.console(), 5, "the console's file does not show it")

    @rows("A18")
    def test_06b_order_of_the_start(self):
        """The agent's own log line names the steps and their times."""
        order = re.search(r'msg="(configuration \d+ us, .*)"', self.vm.console()).group(1)
        steps = re.findall(r"([a-z ]+) \d+ us", order)
        wanted = ["configuration", "log", "early init", "share", "debug console", "late init"]
        self.assertEqual([s.strip() for s in steps if s.strip() in wanted], wanted)

    @rows("A21")
    def test_06c_resolv_conf_of_the_share(self):
        self.assertEqual(self.vm.sh("cat /etc/resolv.conf").splitlines(), ["nameserver 192.0.2.53", "search of.this.pod"])
        self.assertRegex(self.vm.sh("cat /proc/mounts"), r"kuasar /etc/resolv.conf virtiofs")

    @rows("A11", "A22")
    def test_06d_services_on_port_1024(self):
        def call(service, method, *fields):
            return self.vm.call(service, method, *fields)[0]
        self.assertEqual(call("grpc.SandboxService", "Check"), ttrpc.OK)
        self.assertEqual(call("containerd.task.v2.Task", "State", (1, "nobody")), ttrpc.NOT_FOUND)
        self.assertEqual(call("containerd.task.v2.Nothing", "State", (1, "nobody")), ttrpc.UNIMPLEMENTED)
        with ttrpc.Client(self.vm.dial(AGENT_PORT)) as client:
            service = "containerd.services.streaming.v1.Streaming"
            client.open(service, "Stream", [], ttrpc.REMOTE_OPEN | ttrpc.NO_DATA)
            start = ttrpc.pack([(1, "containerd.services.streaming.v1.StreamInit"), (2, ttrpc.pack([(1, "nobody//stdout")]))])
            client.send(ttrpc.DATA, 0, start)
            self.assertEqual(client.answer()[0], ttrpc.NOT_FOUND)

    @rows("A23")
    def test_07_sigusr1_toggles_tracing(self):
        before = len(self.vm.console())
        self.vm.sh("kill -USR1 1")
        eventually(lambda: re.search(r"(?i)trac", self.vm.console()[before:]), 5, lambda: self.vm.console()[-500:])
        self.assertEqual(self.vm.sh("echo alive"), "alive")

    @rows("A23")
    def test_08_sigterm_is_an_orderly_end(self):
        self.vm.command("connect", 1024)
        sock = self.vm.dial(1025)
        sock.sendall(b"kill -TERM 1\n")
        self.vm.event("(guest shutdown|vmm exited)", 20)
        sock.close()
        self.assertRegex(self.vm.console(), r"SIGTERM")


class Keys(unittest.TestCase):
    """The other keys of the kernel command line, and SIGINT, which ends the guest."""

    @rows("A17", "A21", "A23")
    def test_shell_tracing_and_log_level(self):
        vm = Vm(memory_mb=256, params="task.debug task.debug_shell=/bin/ash task.enable_tracing=true task.log_level=warn")
        try:
            self.assertEqual(vm.sh("tr '\\0' ' ' </proc/$$/cmdline"), "/bin/ash -i")
            # The share holds no resolv.conf, so none is bound.
            self.assertNotIn("/etc/resolv.conf", vm.sh("cat /proc/mounts"))
            # Tracing was on. The first signal turns it off, which this log level does not show; the second turns it on again.
            vm.sh("kill -USR1 1; sleep 1")
            self.assertNotIn("tracing is", vm.console())
            vm.sh("kill -USR1 1")
            eventually(lambda: "tracing is on" in vm.console(), 5, lambda: vm.console()[-500:])
            sock = vm.dial(CONSOLE_PORT)
            sock.sendall(b"kill -INT 1\n")
            vm.event("(guest shutdown|vmm exited)", 20)
            sock.close()
            self.assertRegex(vm.console(), r"shutting down within \d+ ms: SIGINT")
        finally:
            vm.end()


class NoDebug(unittest.TestCase):
    @rows("A17", "A20")
    def test_no_console_without_task_debug(self):
        for params in ("quiet", "quiet task.debug=false"):
            with self.subTest(params=params):
                vm = Vm(memory_mb=256, params=params)
                try:
                    vm.command("connect", AGENT_PORT)
                    eventually(lambda: "ready in" in vm.console(), 10, "the agent is not ready")
                    with self.assertRaises(OSError):
                        vm.dial_once(CONSOLE_PORT)
                finally:
                    vm.end()


class Ends(unittest.TestCase):
    """The end of a VM is reported with its true status and the guest's words."""

    @rows("A12")
    def test_virtiofsd_killed_by_a_signal_is_128_plus_n(self):
        vm = Vm(memory_mb=256)
        try:
            os.kill(int(vm.info()["virtiofsd"]), 9)
            self.assertEqual(vm.event(r"helper exited, status (-?\d+), virtiofsd").group(1), "137")
        finally:
            vm.end()

    @rows("A12")
    def test_vmm_killed_by_a_signal_is_128_plus_n(self):
        vm = Vm(memory_mb=256)
        try:
            os.kill(int(vm.info()["vmm"]), 9)
            self.assertEqual(vm.event(r"vmm exited, status (-?\d+)").group(1), "137")
        finally:
            vm.end()

    @rows("A24")
    def test_panic_is_told(self):
        vm = Vm(memory_mb=256)
        try:
            sock = vm.dial(1025)
            sock.sendall(b"echo c >/proc/sysrq-trigger\n")
            match = vm.event(r"guest panic, status \S+ guest: (.*)", 10)
            self.assertIn("Kernel panic", match.group(1))
        finally:
            vm.end()

    @rows("A24")
    def test_init_that_fails_is_told_with_its_words(self):
        try:
            vm = Vm(memory_mb=256, params="task.sharefs_type=nonsense")
        except AssertionError as error:
            text = str(error)
        else:
            # The agent opens its port before it reads its configuration. So the start may succeed, and the end comes as an event.
            try:
                vm.event(r"(guest panic|guest shutdown|reset|vmm exited)")
                text = "\n".join(vm.lines.seen) + vm.console()
            finally:
                vm.end()
        self.assertRegex(text, r"crivisor-agent: fatal: .*sharefs_type", text[-1500:])


class NineP(unittest.TestCase):
    """The share by 9p. Neither driver of ours offers it, so QEMU is started by hand; the guest is the same."""

    CID = 4000000009

    @rows("A19", driver="qemu")
    def test_share_by_9p(self):
        with tempfile.TemporaryDirectory(prefix="np-", dir="/tmp") as work:
            share = pathlib.Path(work, "share")
            share.mkdir()
            (share / "from-host").write_text("host")
            size = os.stat(GUEST_IMAGE).st_size
            qemu = subprocess.Popen([
                "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", "kvm", "-cpu",
                "host", "-m", "256,slots=1,maxmem=512M", "-kernel", KERNEL, "-append",
                "console=hvc0 root=/dev/pmem0p1 rootflags=data=ordered,errors=remount-ro,dax ro rootfstype=ext4 "
                "task.sharefs_type=9p task.debug panic=-1",
                "-object", f"memory-backend-file,id=root,mem-path={GUEST_IMAGE},size={size},share=on,readonly=on",
                "-device", "virtio-pmem-pci,memdev=root", "-device", f"vhost-vsock-pci,guest-cid={self.CID}",
                "-chardev", f"file,id=c,path={work}/console", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=c",
                "-fsdev", f"local,id=f,path={share},security_model=none", "-device", "virtio-9p-pci,fsdev=f,mount_tag=kuasar",
            ], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, stdout=open(pathlib.Path(work, "log"), "wb"))
            try:
                shell = []

                def answers():
                    try:
                        shell.append(dial_vsock(self.CID, 1025))
                        return True
                    except OSError:
                        return False
                eventually(answers, 20, lambda: pathlib.Path(work, "log").read_text()
                           + pathlib.Path(work, "console").read_text(errors="replace")[-2000:])
                mounts = run_script(shell[0], "cat /proc/mounts; cat /run/kuasar/state/from-host; "
                                              "echo; echo guest >/run/kuasar/state/from-guest", 20)
                self.assertRegex(mounts, r"kuasar /run/kuasar/state 9p .*trans=virtio")
                self.assertRegex(mounts, r"(?m)^host$")
                self.assertEqual((share / "from-guest").read_text(), "guest\n")
            finally:
                qemu.kill()
                qemu.wait()
