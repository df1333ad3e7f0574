# SPDX-License-Identifier: Apache-2.0
"""The Debian package as a user has it: installed, upgraded under a running pod, removed, purged; and the unit's watchdog."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from harness import BUILD, eventually, failed, rows, secs
import catalog

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
DEBS = sorted(BUILD.glob("crivisor_*.deb"))
NEXT = sorted((BUILD / "next").glob("crivisor_*.deb"))
UNIT = "crivisor.service"
IMAGE = "example.test/busybox:1"
STATE, RUN = pathlib.Path("/var/lib/crivisor"), pathlib.Path("/run/crivisor")
CNI = pathlib.Path("/etc/cni/net.d/10-crivisor.conflist")
DROPIN = pathlib.Path("/etc/systemd/system/crivisor.service.d/test.conf")


def run(*argv, seconds=60, ok=True):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors="replace", timeout=secs(seconds),
                          env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
    if ok and done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if ok else done


def crictl(*argv, **kw):
    endpoint = f"unix://{RUN}/crivisor.sock"
    return run("crictl", "-t", f"{int(secs(60))}s", "-r", endpoint, "-i", endpoint, *argv, **kw)


def show(name):
    return run("systemctl", "show", "-P", name, UNIT).strip()


def state():
    return show("ActiveState"), show("SubState")


def prepare_host():
    """The administrator's part beside installing the package."""
    # A service has another PATH than this test.
    for tool in ("cloud-hypervisor", "virtiofsd", "vhost-device-vsock"):
        found = shutil.which(tool)
        if found and not os.path.exists(f"/usr/local/bin/{tool}"):
            shutil.copy(found, f"/usr/local/bin/{tool}")
    dropin = pathlib.Path("/etc/crivisor/config.d/50-driver.toml")
    dropin.parent.mkdir(parents=True, exist_ok=True)
    dropin.write_text(f'[hypervisor]\ndriver = "{DRIVER}"\n')


def unpack(deb, work):
    """Unpacks the whole package (dpkg leaves out documentation in this node); returns the directory of the examples."""
    run("dpkg-deb", "-x", deb, work / "deb")
    return work / "deb/usr/share/doc/crivisor/examples"


def network_from_the_example(examples):
    CNI.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(examples / CNI.name, CNI)


def import_image(work):
    layout = work / "layout"
    run("python3", catalog.__file__, "layout", layout, "test/busybox:1")
    run("/usr/bin/crivisor", "image", "import", layout, IMAGE)


def processes_of_pods():
    """Processes in a cgroup below /crivisor: pid → program."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if "/crivisor/" in pathlib.Path(f"/proc/{entry}/cgroup").read_text():
                found[int(entry)] = pathlib.Path(f"/proc/{entry}/comm").read_text().strip()
        except OSError:
            pass
    return found


class InOrder(unittest.TestCase):
    """Steps in the order of their names. After a failed step the others are skipped."""

    broken = None
    units = (UNIT,)

    def setUp(self):
        if self.broken:
            self.skipTest(f"{self.broken} failed")

    def tearDown(self):
        if failed(self):
            type(self).broken = self._testMethodName
            for unit in self.units:
                print(run("journalctl", "-u", unit, "-n", "40", "--no-pager", ok=False).stdout, flush=True)


class Package(InOrder):
    """One life of a package. The node is thrown away afterwards."""

    @classmethod
    def setUpClass(cls):
        if not DEBS or not NEXT:
            raise AssertionError("no package beside the build, or none of the next version: build the target deb-next")
        cls.deb = DEBS[-1]
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="pkg-", dir="/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        cls.examples = unpack(cls.deb, cls.work)
        prepare_host()

    def check(self):
        """The findings of `crivisor check`, by id."""
        done = run("/usr/bin/crivisor", "check", "--json", ok=False)
        report = json.loads(done.stdout)
        self.assertEqual(done.returncode, 0 if report["ready"] else 1)
        return {finding["id"]: finding for finding in report["checks"]}

    def dpkg(self, *argv):
        return run("dpkg", *argv, seconds=120)

    def answers(self):
        """The container answers, its log grows, and no process of the pod was restarted."""
        cls = type(self)
        self.assertEqual(crictl("exec", "-s", cls.container, "echo", "still here").strip(), "still here")
        self.assertEqual(json.loads(crictl("inspectp", cls.pod))["status"]["state"], "SANDBOX_READY")
        self.assertEqual(processes_of_pods(), cls.processes)
        self.assertEqual(self.limits(), cls.limit)
        seen = len(self.logged())
        eventually(lambda: len(self.logged()) > seen + 1, 20, "the log no longer grows")
        numbers = self.logged()
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "a line is lost or repeated")

    def logged(self):
        return [int(line.split()[-1]) for line in self.log.read_text().split("\n")[:-1]]

    def limits(self):
        return {str(p): p.read_text().strip() for p in sorted(pathlib.Path("/sys/fs/cgroup/crivisor").rglob("*.max"))
                if p.name in ("memory.max", "cpu.max")}

    def test_01_install_starts_it(self):
        self.dpkg("-i", self.deb)
        self.assertEqual(state(), ("active", "running"))
        self.assertEqual(run("systemctl", "is-enabled", UNIT).strip(), "enabled")
        self.assertEqual(show("Type"), "notify")
        self.assertIn("RuntimeName", crictl("version"))
        self.assertEqual((RUN / "crivisor.sock").stat().st_mode & 0o777, 0o660)
        changed = [line for line in run("dpkg", "--verify", "crivisor", ok=False).stdout.splitlines() if not line.startswith("missing")]
        self.assertEqual(changed, [])

    def test_02_network_from_the_example_needs_no_restart(self):
        before = show("MainPID")
        network_from_the_example(self.examples)

        def ready():
            conditions = json.loads(crictl("info"))["status"]["conditions"]
            return all(c["status"] for c in conditions if c["type"] in ("RuntimeReady", "NetworkReady"))
        eventually(ready, 20, lambda: crictl("info"))
        self.assertEqual(show("MainPID"), before)

    def test_03_check_has_nothing_to_fix(self):
        self.assertIn("libexec/crivisor/crivisor-spawn", run("/usr/bin/crivisor", "check", ok=False).stdout)
        self.assertIn("pods can run here", run("/usr/bin/crivisor", "check"))
        found = self.check()
        self.assertEqual((found["virtualization"]["status"], found["tap-redirect"]["status"]), ("ok", "ok"))
        self.assertTrue(found["vmm"]["message"].startswith(DRIVER + " "), found["vmm"])
        self.assertIn("(kvm)", found["vmm"]["message"])
        self.assertTrue(found["cgroups"]["message"].startswith("v2"), found["cgroups"])
        self.assertIn(f"served by process {show('MainPID')}", found["socket"]["message"])

    def test_03b_check_says_why_there_is_no_kvm(self):
        os.rename("/dev/kvm", "/dev/kvm.away")
        try:
            found = self.check()
        finally:
            os.rename("/dev/kvm.away", "/dev/kvm")
        wanted = "missing" if DRIVER == "cloud-hypervisor" else "note"
        self.assertEqual(found["virtualization"]["status"], wanted, found["virtualization"])
        self.assertIn("svm in the CPU flags", found["virtualization"]["message"])
        self.assertIn("mknod /dev/kvm", found["virtualization"]["fix"])
        self.assertEqual(found["vmm"]["status"], "missing" if wanted == "missing" else "ok", found["vmm"])

    def test_04_pod(self):
        cls = type(self)
        import_image(self.work)
        logs = self.work / "logs"
        pod = {"metadata": {"name": "p", "namespace": "default", "uid": "u", "attempt": 0}, "log_directory": str(logs),
               "linux": {"resources": {"memory_limit_in_bytes": 134217728}}}
        container = {"metadata": {"name": "c", "attempt": 0}, "image": {"image": IMAGE}, "log_path": "c.log", "linux": {},
                     "command": ["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.3; done"]}
        (self.work / "pod.json").write_text(json.dumps(pod))
        (self.work / "container.json").write_text(json.dumps(container))
        (self.work / "second.json").write_text(json.dumps(dict(
            container, metadata={"name": "second", "attempt": 0}, command=["sleep", "1000"], log_path="second.log")))
        cls.pod = crictl("runp", "-T", f"{int(secs(60))}s", self.work / "pod.json").strip()
        cls.container = crictl("create", cls.pod, self.work / "container.json", self.work / "pod.json").strip()
        crictl("start", cls.container)
        cls.log = logs / "c.log"
        cls.processes = processes_of_pods()
        cls.limit = self.limits()
        self.assertTrue(any("memory.max" in name for name in cls.limit), cls.limit)
        self.assertGreaterEqual(len(cls.processes), 2, cls.processes)
        eventually(lambda: cls.log.exists() and cls.log.read_text(), 20, "no log")
        self.answers()

    @rows("A15", "B6")
    def test_05_restart_of_the_service(self):
        before = show("MainPID")
        run("systemctl", "restart", UNIT)
        self.assertNotEqual(show("MainPID"), before)
        self.answers()

    def test_06_reload_keeps_the_process(self):
        before = show("MainPID")
        run("systemctl", "reload", UNIT)
        self.assertEqual((show("MainPID"), state()[0]), (before, "active"))
        self.answers()

    def test_07_watchdog(self):
        """systemd replaces a server that hangs, and the pods run on. It leaves a server alone that does not hang."""
        DROPIN.parent.mkdir(parents=True)
        # A stopped process does not die of systemd's SIGABRT, only of the SIGKILL that follows.
        DROPIN.write_text(f"[Service]\nWatchdogSec={int(secs(2))}\nTimeoutAbortSec=1\n")
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", UNIT)
        pid, restarts = int(show("MainPID")), int(show("NRestarts"))
        pinged = show("WatchdogTimestampMonotonic")
        eventually(lambda: show("WatchdogTimestampMonotonic") != pinged, 5, "no sign of life reaches systemd")
        self.assertEqual(int(show("MainPID")), pid)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: int(show("NRestarts")) > restarts and state() == ("active", "running"), 20,
                   lambda: f"not started again: {state()}")
        self.assertNotEqual(int(show("MainPID")), pid)
        self.assertIn("Watchdog timeout", run("journalctl", "-u", UNIT, "--no-pager"))
        self.answers()
        DROPIN.unlink()
        run("systemctl", "daemon-reload")

    def to(self, deb):
        """Installs this package over the other one under a running pod."""
        version = run("dpkg-deb", "-f", deb, "Version").strip()
        before, files = show("MainPID"), self.vmm_files()
        self.assertTrue(files)
        self.dpkg("-i", deb)
        self.assertEqual(state(), ("active", "running"))
        self.assertNotEqual(show("MainPID"), before)
        self.assertEqual(run("dpkg-query", "-W", "-f", "${Version}", "crivisor"), version)
        self.assertIn(f"RuntimeVersion:  {version}\n", crictl("version"))
        self.answers()
        # The VM keeps the kernel and image that it was booted with, though other files have their names now.
        self.assertEqual(self.vmm_files(), files)

    def vmm_files(self):
        """Device and inode of each guest image that the VMM has mapped."""
        vmm, = (pid for pid, name in self.processes.items() if name in ("cloud-hyperviso", "qemu-system-x86"))
        return {tuple(line.split()[3:5]) for line in pathlib.Path(f"/proc/{vmm}/maps").read_text().splitlines()
                if "/usr/share/crivisor/guest.img" in line}

    def test_08a_upgrade_to_another_version_under_a_running_pod(self):
        before = crictl("version")
        self.to(NEXT[-1])
        self.assertNotEqual(crictl("version"), before)
        # The new version can create containers in the old pod.
        fresh = crictl("create", self.pod, self.work / "second.json", self.work / "pod.json").strip()
        crictl("start", fresh)
        self.assertEqual(crictl("exec", "-s", fresh, "echo", "new").strip(), "new")
        crictl("rm", "-f", fresh)

    def test_08b_downgrade_is_one_too(self):
        """dpkg warns and goes on: the older server adopts the pod, with what the newer one has written."""
        self.to(self.deb)

    def test_09_the_same_version_again_keeps_what_the_administrator_changed(self):
        config = pathlib.Path("/etc/crivisor/config.toml")
        config.write_text(config.read_text() + "# mine\n")
        run("systemctl", "disable", UNIT)
        before = self.vmm_files()
        self.dpkg("-i", self.deb)
        self.assertEqual(self.vmm_files(), before)
        self.assertTrue(config.read_text().endswith("# mine\n"))
        self.assertEqual(run("systemctl", "is-enabled", UNIT, ok=False).stdout.strip(), "disabled")
        run("systemctl", "enable", "--now", UNIT)
        self.answers()

    def test_10_remove_leaves_the_pod(self):
        said = self.dpkg("-r", "crivisor")
        self.assertIn("pods still run", said)
        self.assertFalse(pathlib.Path("/usr/bin/crivisor").exists())
        self.assertNotEqual(run("systemctl", "is-active", UNIT, ok=False).returncode, 0)
        self.assertEqual(processes_of_pods(), self.processes)
        self.assertTrue((STATE / "logs").is_dir())
        self.assertTrue(pathlib.Path("/etc/crivisor/config.toml").exists())

    def test_11_installed_again_it_has_the_pod_again(self):
        self.dpkg("-i", self.deb)
        self.assertEqual(state(), ("active", "running"))
        self.answers()

    def test_12_purge_leaves_nothing(self):
        held = self.work / "volume"
        held.mkdir()
        (held / "precious").write_text("kept")
        # Foreign data mounted below the tree: purging must not delete it.
        (RUN / "volume").mkdir()
        run("mount", "--bind", held, RUN / "volume")
        self.dpkg("-P", "crivisor")
        self.assertEqual((held / "precious").read_text(), "kept")
        self.assertEqual(processes_of_pods(), {})
        for path in (STATE, RUN, pathlib.Path("/etc/crivisor"), pathlib.Path("/sys/fs/cgroup/crivisor"),
                     pathlib.Path("/usr/share/crivisor"), pathlib.Path("/usr/libexec/crivisor")):
            self.assertFalse(path.exists(), f"{path} is left")
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        self.assertIsNone(re.search(r" (/run|/var/lib)/crivisor\b", mounts), mounts)
        self.assertIn("0 loaded units", run("systemctl", "list-units", "--all", UNIT))
        self.assertEqual(run("dpkg-query", "-W", "-f", "${Status}", "crivisor", ok=False).returncode, 1)
