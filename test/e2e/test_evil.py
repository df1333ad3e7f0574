# SPDX-License-Identifier: Apache-2.0
"""What hostile guests, containers, images and registries do, one after the other against one server, and that it harms nobody.

After each of these behaviours the server answers Version within a second, a container of another pod runs a command, no file of the
host has changed, and the server's memory is bounded."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import time

import evil
import evil_containers  # noqa: F401 - adds its behaviours
import evil_guests  # noqa: F401
import evil_images  # noqa: F401
import evil_registries  # noqa: F401
from evil_agent import EvilAgent, await_socket
from harness import BUSYBOX, Background, Case, CliError, below, eventually, secs, waits

RSS_KB = 64 << 10  # more than at the beginning; what the store of images and the buffers of calls may keep
HOST_FILES = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/dev/null", "/bin/sh")
PRIVILEGED = {"security_context": {"namespace_options": {"pid": 1}, "privileged": True}}


class Victim:
    """A pod whose agent lies on command, with a container that runs."""

    def __init__(self, world, boot=None):
        server, self.spoiled, self.pod, self.container = world.server, False, None, None
        known = set(server.run_dir.glob("**/task.vsock"))
        run = Background(server.runp, linux=PRIVILEGED)
        self.agent = EvilAgent(await_socket(server.run_dir, known, secs(30)))
        if boot:
            boot(self.agent)
        try:
            self.pod = run.result()
        except BaseException:
            self.agent.close()
            raise

    def lie(self, **lies):
        self.agent.told.clear()
        self.agent.lies = lies


class World:
    """What a behaviour may use."""

    def __init__(self, case):
        self.case, self.server = case, case.server
        self.canary, self.registry = case.canary, case.registry
        self.log_began = self.server.log_end()
        self.rss_kb = self.server.rss_kb()
        self.witness = case.witness
        self.host = self.host_files()
        self.held = None

    def begin(self):
        """A behaviour begins: with a victim that is sound, if there is one."""
        self.log_began = self.server.log_end()
        self.look_at_victim()

    # -- the pod that lies --

    @property
    def victim(self):
        if self.held and self.held.spoiled:
            self.end_victim()
        if not self.held:
            self.held = Victim(self)
            self.held.container = self.held.pod.run(["sleep", "1000"])
        return self.held

    def end_victim(self):
        victim, self.held = self.held, None
        victim.agent.honest()
        self.server.remove_if_listed(victim.pod.id)
        victim.agent.close()

    def exec(self, seconds=4):
        """A command in the victim's container, which must succeed."""
        self.case.assertEqual(self.victim.container.exec("echo", "here", timeout=20).strip(), "here")

    def exec_fails(self, code=None, *words, seconds=3):
        """A command in the victim's container that must fail, and within its time. Returns the message."""
        began = time.monotonic()
        message = self.fails(code, self.victim.container.exec, "echo", "here", timeout=seconds, words=words)
        self.case.assertLess(time.monotonic() - began, secs(seconds + 45))
        self.case.assertTrue(self.victim.agent.told, "the lie was not told")
        self.victim.agent.honest()
        self.look_at_victim()
        return message

    def exec_or_fails(self):
        """A command in the victim's container whose outcome is the guest's own affair."""
        try:
            self.victim.container.exec("echo", "here", timeout=3)
        except CliError as error:
            self.case.assertIsNotNone(error.code or re.search("exited with -?[0-9]+", error.err), error.err)
        self.case.assertTrue(self.victim.agent.told, "the lie was not told")
        self.victim.agent.honest()
        self.look_at_victim()

    def exec_hangs(self):
        """A command in the victim's container that does not end: others are served meanwhile. The victim goes with it."""
        victim = self.victim
        victim.spoiled = True
        client = self.server.crictl_start("exec", "-s", "--timeout", "3", victim.container.id, "true")
        try:
            eventually(lambda: victim.agent.told, 20, "the lie was not told")
            time.sleep(1)
            self.check()
        finally:
            client.kill()
            client.communicate()
        began = time.monotonic()
        self.server.remove_if_listed(victim.pod.id)
        self.case.assertLess(time.monotonic() - began, secs(60), "the pod could not be removed")

    def look_at_victim(self):
        """A guest whose frames make no sense may be given up."""
        if self.held and not self.held.spoiled and self.held.pod.status()["state"] != "SANDBOX_READY":
            self.held.spoiled = True

    def fails(self, code, function, *args, words=(), **kw):
        try:
            function(*args, **kw)
        except CliError as error:
            self.case.assertIsNotNone(error.code, error.err)
            if code:
                self.case.assertEqual(error.code, code, error.err)
            for word in words:
                self.case.assertIn(word.lower(), error.message.lower())
            return error.message
        raise AssertionError(f"{args} did not fail")

    def create_within(self, seconds):
        self.server.serials += 1
        value = {"metadata": {"name": f"c{self.server.serials}"}, "image": {"image": BUSYBOX}, "command": ["true"], "linux": {}}
        pod = self.victim.pod
        return self.server.crictl("-t", f"{seconds}s", "create", pod.id, self.server.write("container", value), pod.file)

    def discard(self, container):
        """Removes a container of the victim, or the victim with it."""
        self.victim_honest()
        try:
            container.remove(force=True)
        except CliError:
            self.held.spoiled = True
        self.look_at_victim()

    def victim_honest(self):
        if self.held:
            self.held.agent.honest()

    # -- boots --

    def boot(self, lies):
        def set_lies(agent):
            for method, lie in lies.items():
                (agent.lies if lie.__code__.co_argcount == 3 else agent.twists)[method] = lie
            self.last = agent
        return Victim(self, set_lies)

    def boot_or_fails(self, **lies):
        """A pod whose agent lies while it boots: it comes up, or is refused and leaves nothing."""
        try:
            victim = self.boot(lies)
        except CliError as error:
            self.case.assertIsNotNone(error.code, error.err)
        else:
            victim.agent.honest()
            self.server.remove_if_listed(victim.pod.id)
            victim.agent.close()
        self.case.assertTrue(self.last.told, "the lie was not told")

    def boot_fails(self, code, *words, **lies):
        pods = self.server.pod_ids()
        message = self.fails(code, self.boot, lies, words=words)
        self.case.assertEqual(self.server.pod_ids(), pods)
        return message

    def restart(self):
        self.server.stop()
        self.server.start()
        self.rss_kb = self.server.rss_kb()

    # -- images --

    def pull(self, reference, code=None, *words, seconds=60):
        """A pull that must fail; returns the message. No trace of the image is left."""
        message = self.fails(code, self.server.crictl, "pull", "--pull-timeout", f"{seconds}s", reference, words=words)
        self.case.assertNotIn(reference.rpartition(":")[0] + " ", self.server.crictl("images"))
        return message

    # -- what may not have been harmed --

    def host_files(self):
        found = {}
        for path in (*HOST_FILES, self.canary, *sorted(below(self.canary))):
            st = os.lstat(path)
            text = os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_bytes() if os.path.isfile(path) else b""
            found[str(path)] = (st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ino,
                                hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest())
        return found

    def version_seconds(self):
        began = time.monotonic()
        self.case.assertIn("crivisor", self.server.crictl("version", timeout=10))
        return time.monotonic() - began

    def check(self):
        case, server = self.case, self.server
        case.assertIsNone(server.process.poll(), f"the server has ended:\n{server.tail()}")
        case.assertLess(min(self.version_seconds() for _ in range(3)), secs(1), "Version took too long")
        case.assertEqual(self.witness.exec("echo", "unharmed", timeout=30).strip(), "unharmed")
        case.assertEqual(self.host_files(), self.host, "a file of the host has changed")
        eventually(lambda: server.rss_kb() < self.rss_kb + RSS_KB, 5, lambda: f"RSS {server.rss_kb()} KiB, was {self.rss_kb} KiB")


class Evil(Case):
    """Nobody is harmed by any of these; their number is at least 50."""

    keep_pods = True
    cni = "bridge"

    @classmethod
    def prepare(cls):
        cls.canary = cls.server.dir / "canary"
        (cls.canary / "sub").mkdir(parents=True)
        (cls.canary / "secret").write_text("of the host")
        (cls.canary / "sub" / "file").write_text("too")
        (cls.canary / "link").symlink_to("secret")
        os.chmod(cls.canary / "secret", 0o600)
        cls.registry = evil.EvilRegistry()
        cls.addClassCleanup(cls.registry.close)
        cls.witness = cls.server.runp().run(["sleep", "100000"])
        cls.counts = {}

    def run_all(self, kind):
        """Every behaviour of the kind, or those whose name has the pattern CRV_EVIL. Each is printed, and their number."""
        world, seen = World(self), 0
        wanted = os.environ.get("CRV_EVIL", "")
        for behaviour in evil.BEHAVIOURS[kind]:
            if not re.search(wanted, behaviour.__name__):
                continue
            began = time.monotonic()
            with self.subTest(kind=kind, behaviour=behaviour.__name__):
                try:
                    world.begin()
                    behaviour(world)
                    world.check()
                    seen += 1
                finally:
                    self.registry.hook = None
                    world.victim_honest()
            print(f"    {kind}: {behaviour.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        if world.held:
            world.end_victim()
        self.assertEqual(seen, len([b for b in evil.BEHAVIOURS[kind] if re.search(wanted, b.__name__)]))
        print(f"    hostile behaviours that harmed nobody, of kind {kind}: {seen}", flush=True)

    @waits
    def test_guests(self):
        self.run_all("guest")

    @waits
    def test_containers(self):
        self.run_all("container")

    def test_images(self):
        self.run_all("image")

    def test_registries(self):
        self.run_all("registry")

    def test_there_are_enough(self):
        counts = {kind: len(found) for kind, found in evil.BEHAVIOURS.items()}
        names = [b.__name__ for found in evil.BEHAVIOURS.values() for b in found]
        self.assertEqual(len(set(names)), len(names))
        self.assertGreaterEqual(sum(counts.values()), 50)
        print(f"    hostile behaviours: {json.dumps(counts)}, {sum(counts.values())} in all", flush=True)
