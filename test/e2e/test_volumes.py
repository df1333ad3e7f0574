# SPDX-License-Identifier: Apache-2.0
"""Volumes: one source is one file system for all containers of a pod, whichever way they mount it."""

import os
import pathlib
import socket
import subprocess
import time

from harness import REGISTRY, Case, catalog, eventually, oci, secs

GUESTS = pathlib.Path(__file__).with_name("guests")
SHELL = ["sh", "-c"]
TOOL = "/bin/tool/one_file_system"


def mount(source, path, **fields):
    return {"host_path": str(source), "container_path": path, **fields}


class WithAPod(Case):
    keep_pods = True

    @classmethod
    def prepare(cls):
        cls.bin = cls.server.dir / "bin"
        cls.bin.mkdir()
        for name in ("one_file_system", "cache_policy"):
            subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", cls.bin / name, GUESTS / f"{name}.c"], check=True)
        cls.pod = cls.server.runp()

    def tool(self):
        return mount(self.bin, "/bin/tool", readonly=True)

    def volume(self, name):
        path = self.server.dir / name
        path.mkdir()
        return path

    def tearDown(self):
        super().tearDown()
        for container in self.server.crictl("ps", "-aq").split():
            self.server.crictl("rm", "-f", container)


class Volumes(WithAPod):
    def shared(self):
        """The volumes that the pod's share has now."""
        return [m for m in self.server.mounts() if "/mounts/volumes/" in m]

    def probe(self, hold, probe, sub=""):
        """one_file_system in two containers, in /a and /b and there in `sub`; the output of the one that probes."""
        tool = self.tool()
        holder = self.pod.run([TOOL, "hold", "/a" + sub], mounts=[tool, hold])
        eventually(lambda: holder.logs() == "ready\n", 30, lambda: f"the holder is not ready: {holder.logs()}")
        out = self.pod.output([TOOL, "probe", "/b" + sub], mounts=[tool, probe])
        self.assertEqual(int(holder.wait()["exitCode"]), 0, holder.logs())
        holder.remove()
        return out

    def assert_one(self, out):
        self.assertEqual(out.count(" ok\n"), 8, out)

    def test_two_containers_have_one_file_system(self):
        """Fault V1: socket, FIFO, flock, fcntl locks, a shared mapping and inotify work between two containers."""
        volume = self.volume("two")
        self.assert_one(self.probe(mount(volume, "/a"), mount(volume, "/b")))
        eventually(lambda: not self.shared(), 5, lambda: f"left after the last container: {self.shared()}")

    def test_a_later_container_makes_a_volume_writable(self):
        """Fault V1: a source that was read-only becomes one writable volume; who mounts it read-only still cannot write."""
        volume = self.volume("later")
        (volume / "file").write_text("old\n")
        reader = self.pod.run(SHELL + ["cat /r/file; while ! grep -q new /r/file; do sleep 0.1; done; "
                                       "touch /r/mine 2>&1; cat /r/file"],
                              mounts=[mount(volume, "/r", readonly=True)])
        eventually(lambda: reader.logs() == "old\n", 30, "the reader does not run")
        inode = "stat -c %d:%i /w/file"
        writer = self.pod.output(SHELL + [f"echo new > /w/file; {inode}"], mounts=[mount(volume, "/w")])
        self.assertEqual(int(reader.wait()["exitCode"]), 0, reader.logs())
        self.assertIn("Read-only file system", reader.logs())
        self.assertTrue(reader.logs().endswith("new\n"), reader.logs())
        reader.remove()
        self.assertTrue(writer)
        self.assertEqual(sorted(p.name for p in volume.iterdir()), ["file"])

    def test_read_only_for_the_whole_pod_is_read_only_on_the_host(self):
        """Fault V1: while nobody wants to write, the host itself refuses it."""
        volume = self.volume("ro")
        container = self.pod.create(["true"], mounts=[mount(volume, "/v", readonly=True)])
        for path in self.shared():
            self.assertTrue(os.statvfs(path).f_flag & os.ST_RDONLY, path)
        self.assertEqual(len(self.shared()), 1)
        container.remove()

    def test_two_paths_of_one_container_are_one_file_system(self):
        """Fault V1: the same device and inode numbers, and a hard link from the one to the other's directory."""
        volume = self.volume("paths")
        (volume / "file").write_text("x\n")
        out = self.pod.output(SHELL + ["stat -c %d:%i /a/file /b/file"], mounts=[mount(volume, "/a"), mount(volume, "/b")])
        first, second = out.split()
        self.assertEqual(first, second)

    def test_a_single_file_of_two_containers_is_one_file(self):
        """Fault V1: locks exclude each other in a file that is mounted itself."""
        file = self.volume("single") / "file"
        file.write_text("x\n")
        holder = self.pod.run([TOOL, "lock", "/f"], mounts=[self.tool(), mount(file, "/f")])
        eventually(lambda: holder.logs() == "locked\n", 30, "no lock")
        out = self.pod.output([TOOL, "try", "/g"], mounts=[self.tool(), mount(file, "/g")])
        self.assertEqual(out, "excluded\n")
        holder.remove(force=True)

    def test_mounts_below_a_volume(self):
        """Faults V1 and K8: a file system mounted below a volume is one for two containers, and `readonly` is not for it."""
        volume = self.volume("nested")
        below = volume / "below"
        below.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
        self.addCleanup(subprocess.run, ["umount", below], check=True)
        self.assert_one(self.probe(mount(volume, "/a"), mount(volume, "/b"), "/below"))
        out = self.pod.output(SHELL + ["touch /v/above 2>&1; touch /v/below/file && echo written"],
                              mounts=[mount(volume, "/v", readonly=True)])
        self.assertIn("Read-only file system", out)
        self.assertTrue(out.endswith("written\n"), out)
        out = self.pod.output(SHELL + ["touch /v/below/other 2>&1; ls /v/below"],
                              mounts=[mount(volume, "/v", readonly=True, recursive_read_only=True)])
        self.assertIn("Read-only file system", out)
        self.assertRegex(out, r"(?m)^file$")
        self.assertNotRegex(out, r"(?m)^other$")

    def test_a_volume_outlives_a_restart_of_the_server(self):
        """Fault V1: a later server knows the pod's volumes, shares them with later containers and ends them with the last."""
        volume = self.volume("restart")
        (volume / "file").write_text("x\n")
        holder = self.pod.run([TOOL, "lock", "/a/file"], mounts=[self.tool(), mount(volume, "/a")])
        eventually(lambda: holder.logs() == "locked\n", 30, "no lock")
        self.server.stop()
        self.server.start()
        out = self.pod.output([TOOL, "try", "/b/file"], mounts=[self.tool(), mount(volume, "/b")])
        self.assertEqual(out, "excluded\n")
        self.assertEqual(len(self.shared()), 2)
        holder.remove(force=True)
        self.assertEqual(self.shared(), [])

    def test_a_socket_of_the_host_is_refused(self):
        """Fault V4: it would refuse every connection, so CreateContainer says so."""
        path = self.volume("socket") / "s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            with self.refused("InvalidArgument", "is a socket of the host", str(path)):
                self.pod.create(["true"], mounts=[mount(path, "/s")])

    def test_the_pods_files_are_writable_for_all_its_containers(self):
        """Fault K7: root writes resolv.conf, hosts and hostname, other containers of the pod see it; a read-only root keeps them."""
        files = "/etc/resolv.conf /etc/hosts /etc/hostname"
        self.pod.output(SHELL + [f"for f in {files}; do echo '# mine' >> $f || exit 1; done"])
        self.assertEqual(self.pod.output(SHELL + [f"cat {files} | grep -c '# mine'"]), "3\n")
        out = self.pod.output(SHELL + [f"for f in {files}; do echo x >> $f; done 2>&1; cat {files} | grep -c x$ || true"],
                              linux={"security_context": {"readonly_rootfs": True}})
        self.assertEqual(out.count("Read-only file system"), 3, out)
        host, = pathlib.Path(self.server.run_dir).glob("pods/*/mounts/hosts")
        self.assertNotIn("# mine", host.read_text())

    def test_volumes_of_an_image(self):
        """Fault I1: each container has the image's VOLUMEs fresh, with content, owner and mode, writable below a read-only root.

        A symlink in their place leads nowhere but into the container's root; a mount of the request wins."""
        layer = oci.Layer().dir("data", mode=0o750, uid=7, gid=8).add("data/file", "of the image\n").symlink("link", "/../../etc")
        volumes = {"/data": {}, "/new/deep/": {}, "/link": {}}
        oci.push(oci.Image([catalog.busybox_layer(), layer], {"Volumes": volumes}), REGISTRY, "test/volumes", "1")
        image = REGISTRY + "/test/volumes:1"
        self.server.pull(image)
        script = "stat -c '%u:%g %a' /data; cat /data/file; echo mine >> /data/file; touch /new/deep/x /link/y && ls /new/deep /etc; " \
                 "touch /z 2>&1 || true"
        want = "7:8 750\nof the image\n"
        for _ in range(2):
            out = self.pod.output(SHELL + [script], image=image, linux={"security_context": {"readonly_rootfs": True}})
            self.assertTrue(out.startswith(want), out)
            self.assertIn("Read-only file system", out)
            self.assertRegex(out, r"(?m)^/new/deep:\nx$")
            self.assertRegex(out, r"(?ms)^/etc:\n.*^y$")
        self.assertTrue(self.pod.output(SHELL + [script], image=image).startswith(want))
        volume = self.volume("over")
        (volume / "file").write_text("of the host\n")
        self.assertEqual(self.pod.output(["cat", "/data/file"], image=image, mounts=[mount(volume, "/data")],
                                         linux={"security_context": {"readonly_rootfs": True}}), "of the host\n")

    def test_setuid_programs_work_in_the_root_and_in_volumes(self):
        """Fault W: a set-user-id program gives its owner's uid to another user, in the container's root and in a volume."""
        volume = self.volume("setuid")
        source = self.server.dir / "as_user.c"
        source.write_text('#include <stdio.h>\n#include <string.h>\n#include <unistd.h>\n'
                          'int main(int c, char **v) {\n'
                          ' if (c > 1) return setgid(4711) || setuid(4711) || execv(v[1], v + 1);\n'
                          ' printf("%d\\n", (int)geteuid()); return 0; }\n')
        subprocess.run(["gcc", "-static", "-o", self.bin / "as_user", source], check=True)
        copy = "; ".join(f"cp /t/as_user {p} && chmod 4755 {p}" for p in ("/id", "/v/id"))
        out = self.pod.output(SHELL + [f"{copy}; for p in /t/as_user /id /v/id; do /t/as_user $p; done"],
                              mounts=[mount(volume, "/v"), mount(self.bin, "/t", readonly=True)])
        self.assertEqual(out, "4711\n0\n0\n")

    def test_users_of_the_host_do_not_reach_a_pods_volumes(self):
        """Fault A: a file below a directory of mode 0700, in a volume and in a root, and the console, for uid 65534."""
        volume = self.volume("private") / "inner"
        volume.mkdir()
        volume.parent.chmod(0o700)
        (volume / "secret").write_text("x\n")
        container = self.pod.run(["sleep", "1000"], mounts=[mount(volume, "/v")])
        found = [p for p in self.server.mounts() if pathlib.Path(p, "secret").exists()]
        self.assertGreaterEqual(len(found), 2, found)
        logs = [str(p) for p in pathlib.Path(self.server.run_dir).rglob("*.log")]
        self.assertTrue([p for p in logs if p.endswith("console.log")], logs)
        roots = [p for p in self.server.mounts() if p.endswith("/rootfs")]
        self.assertTrue(roots)
        paths = [f"{p}/secret" for p in found] + [f"{p}/bin/busybox" for p in roots] + logs
        script = "import os,sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\nfor p in sys.argv[1:]:\n" \
                 " try: os.open(p, os.O_RDONLY); print(p)\n except PermissionError: pass\n"
        done = subprocess.run(["python3", "-c", script, *paths], stdout=subprocess.PIPE, text=True, check=True)
        self.assertEqual(done.stdout, "")
        for path in found + roots:
            flags = os.statvfs(path).f_flag
            self.assertTrue(flags & os.ST_NOSUID and flags & 4, f"{path}: {flags:#x}")  # 4: ST_NODEV
        container.remove(force=True)


class NothingKept(WithAPod):
    """The policy for volumes that are shared with writers on the host."""

    config = {"hypervisor.virtiofsd": {"cache": "never"}}

    def test_what_the_host_removes_renames_or_replaces_is_not_written_to(self):
        """Fault V2: a write right after it goes to the file that has the name then, and a read comes from that one."""
        volume = self.volume("void")
        file, away = volume / "file", volume / "away"
        container = self.pod.run(["sleep", "1000"], mounts=[mount(volume, "/v")])
        for how in ("remove", "rename", "replace"):
            file.write_text("old\n")
            self.assertEqual(container.exec(*SHELL, "cat /v/file; echo first >> /v/file").strip(), "old")
            if how == "remove":
                file.unlink()
            elif how == "rename":
                file.rename(away)
            else:
                away.write_text("new\n")
                away.rename(file)
            seen = container.exec(*SHELL, "cat /v/file 2>/dev/null; echo second >> /v/file").strip()
            self.assertEqual(seen, "new" if how == "replace" else "", how)
            self.assertEqual(file.read_text().split(), [seen, "second"] if seen else ["second"], how)

    def test_no_write_is_lost_for_long(self):
        """Fault V2: of a program that writes all the time, the first byte is in the new file within 200 ms of the host's rename."""
        volume = self.volume("busy")
        file, new = volume / "file", volume / "new"
        container = self.pod.run(["/bin/tool/cache_policy", "write", "/v/file"], mounts=[self.tool(), mount(volume, "/v")])
        eventually(lambda: file.exists() and file.stat().st_size > 3, 30, "nothing is written")
        for _ in range(5):
            new.touch()
            began = time.monotonic()
            new.rename(file)
            eventually(lambda: file.stat().st_size, 0.2, "the writes went to the file that was replaced")
            self.assertLess(time.monotonic() - began, secs(0.5))
            time.sleep(0.3)
        container.remove(force=True)

    def test_a_shared_mapping_reaches_the_host(self):
        """Fault V2: with this policy, too, shared mappings work, and msync(2) writes them to the host's file."""
        volume = self.volume("mapped")
        out = self.pod.output(["/bin/tool/cache_policy", "map", "/v/file"], mounts=[self.tool(), mount(volume, "/v")])
        self.assertEqual(out, "shared\n")
        self.assertEqual((volume / "file").read_bytes()[7:8], b"m")


class ManyFiles(Case):
    """A bound on the files that one pod's virtiofsd holds."""

    config = {"hypervisor.virtiofsd": {"max_files": 1000}}

    def test_a_pod_that_holds_too_many_files_gets_an_error(self):
        """Each file that the guest knows of is one of virtiofsd's: beyond the bound the pod gets an error, and others get none."""
        volume = self.server.dir / "many"
        volume.mkdir()
        pod, other = self.server.runp(), self.server.runp()
        container = pod.run(SHELL + ["i=0; while [ $i -lt 2000 ]; do : > /v/$i || break; i=$((i+1)); done; echo $i; sleep 1000"],
                            mounts=[mount(volume, "/v")])
        eventually(lambda: container.log_lines(), 120, "it goes on")
        text = container.logs()
        self.assertRegex(text.lower(), "too many open files|no file descriptors available")
        made = len(list(volume.iterdir()))
        self.assertTrue(100 < made < 1000, made)  # one that is just closed may hold two
        self.assertEqual(pod.status()["state"], "SANDBOX_READY")
        self.assertEqual(other.output(SHELL + ["echo x > /file && cat /file"]), "x\n")
        container.remove(force=True)
        self.assertEqual(pod.output(SHELL + ["echo again > /file && cat /file"]), "again\n")
