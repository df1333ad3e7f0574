"""The agent as PID 1, seen from the shell of its debug console (A16 to A24), and its signals as the host sees them."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from harness import GUEST_IMAGE, KERNEL, eventually
from vmmctl import Vm, dial_vsock, run_script


class Guest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.vm = Vm(memory_mb=256, params="task.debug=true task.log_level=debug")
        cls.addClassCleanup(cls.vm.end)

    def test_01_A16_pid_1_and_nothing_beside_it(self):
        self.assertEqual(self.vm.sh("cat /proc/1/comm; readlink /proc/1/exe").split(), ["init", "/sbin/init"])
        threads = self.vm.sh("for p in /proc/[0-9]*; do [ -n \"$(tr -d '\\0' <$p/cmdline)\" ] && cat $p/comm; done; true").split()
        self.assertLessEqual(set(threads), {"init", "sh", "cat", "busybox", "tr"}, threads)

    def test_02_A16_orphans_are_reaped(self):
        self.vm.sh("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done")
        eventually(lambda: "Z" not in self.vm.sh("cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1; true"), 5,
                   "zombies stay")

    def test_03_A4_A17_kernel_command_line(self):
        words = self.vm.sh("cat /proc/cmdline").split()
        for word in ("console=hvc0", "root=/dev/pmem0p1", "rootflags=data=ordered,errors=remount-ro,dax", "ro", "rootfstype=ext4",
                     "task.sharefs_type=virtiofs", "panic=-1", "task.debug=true"):
            self.assertIn(word, words)

    def test_04_A18_environment_and_mounts(self):
        mounts = {line.split()[1]: line.split()[2] for line in self.vm.sh("cat /proc/mounts").splitlines()}
        for place, kind in {"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs", "/dev/shm": "tmpfs",
                            "/dev/pts": "devpts", "/sys/fs/cgroup": "cgroup2"}.items():
            self.assertEqual(mounts.get(place), kind, mounts)
        environment = self.vm.sh("tr '\\0' '\\n' </proc/$$/environ; echo; echo $PATH")
        self.assertIn("/usr/sbin", environment)
        self.assertEqual(self.vm.sh("cat /proc/sys/vm/overcommit_memory"), "1")

    def test_05_A19_share_is_there_and_goes_both_ways(self):
        self.assertRegex(self.vm.sh("cat /proc/mounts"), r"kuasar /run/kuasar/state virtiofs")
        (self.vm.dir / "s" / "from-host").write_text("host")
        self.assertEqual(self.vm.sh("cat /run/kuasar/state/from-host"), "host")
        self.vm.sh("echo guest >/run/kuasar/state/from-guest")
        self.assertEqual((self.vm.dir / "s" / "from-guest").read_text(), "guest\n")

    def test_06_A2_rng_and_console(self):
        self.assertRegex(self.vm.sh("cat /sys/class/misc/hw_random/rng_current /sys/devices/virtual/misc/hw_random/rng_current "
                                    "2>/dev/null; true"), r"virtio_rng")
        self.vm.sh("echo seen by the host >/dev/hvc0")
        eventually(lambda: "seen by the host" in self.vm.console(), 5, "the console's file does not show it")

    def test_07_A23_sigusr1_toggles_tracing(self):
        before = len(self.vm.console())
        self.vm.sh("kill -USR1 1")
        eventually(lambda: re.search(r"(?i)trac", self.vm.console()[before:]), 5, lambda: self.vm.console()[-500:])
        self.assertEqual(self.vm.sh("echo alive"), "alive")

    def test_08_A23_sigterm_is_an_orderly_end(self):
        self.vm.command("connect", 1024)
        sock = self.vm.dial(1025)
        sock.sendall(b"kill -TERM 1\n")
        self.vm.event("(guest shutdown|vmm exited)", 20)
        sock.close()
        self.assertRegex(self.vm.console(), r"SIGTERM")


class NoDebug(unittest.TestCase):
    def test_A20_no_console_without_task_debug(self):
        vm = Vm(memory_mb=256, params="quiet")
        try:
            vm.command("connect", 1024)
            eventually(lambda: "ready in" in vm.console(), 10, "the agent is not ready")
            with self.assertRaises(OSError):
                vm.dial_once(1025)
        finally:
            vm.end()


class Ends(unittest.TestCase):
    """A12, A24: how a VM ended is told with its true status and the guest's words."""

    def test_vmm_killed_by_a_signal_is_128_plus_n(self):
        vm = Vm(memory_mb=256)
        try:
            os.kill(int(vm.info()["vmm"]), 9)
            self.assertEqual(vm.event(r"vmm exited, status (-?\d+)").group(1), "137")
        finally:
            vm.end()

    def test_panic_is_told(self):
        vm = Vm(memory_mb=256)
        try:
            sock = vm.dial(1025)
            sock.sendall(b"echo c >/proc/sysrq-trigger\n")
            match = vm.event(r"guest panic, status \S+ guest: (.*)", 10)
            self.assertIn("Kernel panic", match.group(1))
        finally:
            vm.end()

    def test_A24_init_that_fails_is_told_with_its_words(self):
        try:
            vm = Vm(memory_mb=256, params="task.sharefs_type=nonsense")
        except AssertionError as error:
            text = str(error)
        else:
            # The agent's port is open before its configuration is read: the start may succeed, and the end is an event then.
            try:
                vm.event(r"(guest panic|guest shutdown|reset|vmm exited)")
                text = vm.console()
            finally:
                vm.end()
        self.assertRegex(text, r"crivisor-agent: fatal: .*sharefs_type")


class NineP(unittest.TestCase):
    """A19: the share by 9p. Neither driver of ours offers it, so QEMU is started by hand; the guest is the same."""

    CID = 4000000009

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
