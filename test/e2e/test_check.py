# SPDX-License-Identifier: Apache-2.0
"""B11: `crivisor check` beside a running server: its text and its JSON agree, and its findings are true."""

import json
import os
import re
import subprocess

from harness import CRIVISOR, GUEST_IMAGE, KERNEL, Case, conflist, secs, toml

STATUSES = ("ok", "note", "missing")
LINE = re.compile(r"(ok|note|MISSING) +(\S+)  +(\S.*)")


def check(config, *options, env=None):
    done = subprocess.run([CRIVISOR, "check", "--config", config, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=secs(60), env=env)
    return done.returncode, done.stdout, done.stderr


def lines(text):
    """The findings of the text: [id, status, message, fix], and its last line."""
    found, rest = [], text.splitlines()
    for line in rest[:-1]:
        match = LINE.fullmatch(line)
        if match:
            found.append([match.group(2), match.group(1).lower(), match.group(3), None])
        else:
            before, fix = line.split("to fix: ", 1)
            assert not before.strip() and found[-1][3] is None, line
            found[-1][3] = fix
    return found, rest[-1]


def same(finding):
    """The finding without the figures of memory and disk, which change from run to run."""
    return [re.sub(r"\d+", "N", word) if word else word for word in finding]


class Check(Case):
    images = ()

    def findings(self, config, env=None):
        """Runs the check in both formats, which must agree; returns {id: finding}."""
        status, out, err = check(config, "--json", env=env)
        self.assertEqual(err, "")
        report = json.loads(out)
        self.assertEqual(sorted(report), ["checks", "missing", "ready", "version"])
        version = subprocess.run([CRIVISOR, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(f"crivisor {report['version']}\n", version)
        for finding in report["checks"]:
            self.assertEqual(list(finding), ["id", "status", "message", "fix"])
            self.assertIn(finding["status"], STATUSES)
            self.assertTrue(finding["id"] and finding["message"], finding)
            self.assertEqual(finding["fix"] is None, finding["status"] == "ok", finding)
            self.assertNotEqual(finding["fix"], "")
        by_id = {finding["id"]: finding for finding in report["checks"]}
        self.assertEqual(len(by_id), len(report["checks"]), "an id stands twice")
        missing = sum(finding["status"] == "missing" for finding in report["checks"])
        self.assertEqual((report["missing"], report["ready"], status), (missing, missing == 0, 1 if missing else 0))

        text_status, text, err = check(config, env=env)
        self.assertEqual((text_status, err), (status, ""))
        found, last = lines(text)
        self.assertEqual([same(f) for f in found], [same(list(f.values())) for f in report["checks"]])
        self.assertEqual(last, f"{missing} missing: pods cannot run here yet" if missing else "pods can run here")
        return by_id

    def broken(self, **sections):
        """The server's configuration with these changes, in a directory of its own."""
        changed = {name: dict(values) for name, values in self.server.sections.items()}
        for section, values in sections.items():
            changed[section].update(values)
        self.server.serials += 1
        directory = self.server.dir / f"check{self.server.serials}"
        directory.mkdir()
        (directory / "config.toml").write_text(toml(changed))
        return directory / "config.toml"

    def assert_missing(self, found, *ids):
        self.assertEqual({i: f["message"] for i, f in found.items() if f["status"] == "missing" and i not in ids}, {})
        for i in ids:
            self.assertEqual(found[i]["status"], "missing", found[i])

    def test_a_host_that_is_ready_runs_a_pod(self):
        found = self.findings(self.server.config)
        self.assert_missing(found)
        self.assertIn(f"served by process {self.server.process.pid}", found["socket"]["message"])
        self.assertIn("virtiofsd", found["virtiofsd"]["message"])
        for i in ("root", "vmm", "spawn-helper", "guest-kernel", "guest-image", "overlay", "netns", "tap",
                  "tap-redirect", "cgroups", "pod-network", "cni-plugin-bridge", "cni-plugin-host-local", "cni-plugin-portmap",
                  "disk-space"):
            self.assertEqual(found[i]["status"], "ok", found[i])
        driver = self.server.json("info")["config"]["driver"]
        self.assertIn(driver, ("cloud-hypervisor", "qemu"))
        self.assertTrue(found["vmm"]["message"].startswith(driver + " "), found["vmm"])
        pod = self.server.runp()
        self.assertEqual(pod.status()["state"], "SANDBOX_READY")
        pod.stop()
        pod.remove()

    def test_it_leaves_nothing(self):
        before = self.server.traces()
        nowhere = self.server.dir / "nowhere"
        found = self.findings(self.broken(server={"state_dir": nowhere / "s", "run_dir": nowhere / "r",
                                                  "socket": nowhere / "c.sock"}))
        self.assertEqual(found["socket"]["status"], "note")
        self.assertEqual(self.server.traces(), before)
        self.assertFalse(nowhere.exists())

    def test_each_cause_is_missing_by_name(self):
        kernel = self.server.dir / "no-such-kernel"
        found = self.findings(self.broken(hypervisor={"kernel_path": kernel}))
        self.assert_missing(found, "guest-kernel")
        self.assertIn(str(kernel), found["guest-kernel"]["message"])

        found = self.findings(self.broken(hypervisor={"kernel_path": CRIVISOR, "image_path": KERNEL}))
        self.assert_missing(found, "guest-kernel", "guest-image")
        self.assertIn("PVH", found["guest-kernel"]["message"])

        empty = self.server.dir / "empty"
        empty.mkdir()
        found = self.findings(self.broken(cni={"conf_dir": empty}))
        self.assert_missing(found, "pod-network")
        self.assertIn(str(empty), found["pod-network"]["message"])

        (empty / "1.conflist").write_text(conflist(self.server.dir, "10.1.2.0/24", plugins=[{"type": "no-such-plugin"}]))
        self.assert_missing(self.findings(self.broken(cni={"conf_dir": empty})), "cni-plugin-no-such-plugin")

        found = self.findings(self.broken(server={"run_dir": self.server.dir / ("r" * 100)}))
        self.assert_missing(found, "run-dir")

        found = self.findings(self.broken(**{"server": {"socket": GUEST_IMAGE}}))
        self.assert_missing(found, "socket")

    def test_programs_that_are_not_in_path(self):
        empty = self.server.dir / "nothing-to-run"
        empty.mkdir()
        found = self.findings(self.server.config, env=dict(os.environ, PATH=str(empty)))
        self.assertEqual(found["vmm"]["status"], "missing", found["vmm"])
        self.assertEqual(found["iptables"]["status"], "missing", found["iptables"])
        self.assertEqual(found["spawn-helper"]["status"], "ok", found["spawn-helper"])

    def test_without_root_nothing_is_claimed_that_takes_root(self):
        def unprivileged():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        # Opened by its descriptor: the directories above may be readable by root only.
        with open(CRIVISOR, "rb") as program:
            done = subprocess.run([f"/proc/self/fd/{program.fileno()}", "check", "--json", "--config", self.server.config],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, preexec_fn=unprivileged,
                                  pass_fds=(program.fileno(),), timeout=secs(60))
        found = {f["id"]: f for f in json.loads(done.stdout)["checks"]}
        self.assertEqual(done.returncode, 1)
        self.assertEqual(found["root"]["status"], "missing")
        for i in ("tap", "tap-redirect"):
            self.assertEqual((found[i]["status"], found[i]["fix"]), ("note", "run it as root"))

    def test_wrong_configuration_is_the_only_finding(self):
        config = self.broken()
        config.write_text("[server]\nsokcet = '/x'\n")
        found = self.findings(config)
        self.assertEqual(list(found), ["configuration"])
        self.assertIn(f"{config}:2", found["configuration"]["message"])
        self.assertEqual(check(config, "--yaml")[0], 2)
        self.assertEqual(check(config, "operand")[0], 2)
