# SPDX-License-Identifier: Apache-2.0
"""Root file systems: the writable layer, sharing, removal while in use, users."""

import os
import subprocess
import unittest

from harness import Registry, TestCase, oci, read


class Rootfs(TestCase):
    def setUp(self):
        super().setUp()
        self.registry = Registry()
        self.addCleanup(self.registry.close)
        self.image = oci.Image([oci.Layer().dir("d").add("d/one", "1"), oci.Layer().add("two", "2")])
        self.ref = self.registry.add(self.image)
        self.store("pull", self.ref)

    def test_containers_write_for_themselves(self):
        a, b = self.mount(self.ref, "a"), self.mount(self.ref, "b")
        with open(a + "/d/new", "w") as f:
            f.write("x" * 100000)
        os.unlink(a + "/two")
        os.rename(a + "/d/one", a + "/d/moved")
        self.assertEqual(sorted(os.listdir(b)), ["d", "two"])
        self.assertEqual(os.listdir(b + "/d"), ["one"])
        usage = self.store("usage", "a")
        self.assertGreaterEqual(usage["container_bytes"], 100000)
        self.assertGreaterEqual(usage["container_inodes"], 3)
        self.assertTrue(os.path.isdir(usage["mountpoint"]))
        self.store("mount", self.ref, "a", a)  # again: nothing changes
        self.assertTrue(os.path.exists(a + "/d/new"))
        self.assertEqual(sum(a in line for line in read("/proc/self/mounts").splitlines()), 1)

    def test_unmount_and_remove_are_idempotent(self):
        root = self.mount(self.ref, "a")
        for _ in range(2):
            self.store("umount", root)
            self.store("rmrootfs", "a")
        self.store("umount", self.root + "/missing")
        self.assertEqual(os.listdir(root), [])
        self.assertEqual(os.listdir(self.store.state + "/containers"), [])

    def test_busy_unmount_says_so(self):
        root = self.mount(self.ref, "a")
        with open(root + "/two"):
            self.assertFails("Internal", "busy", "umount", root)

    def test_read_only_without_a_container(self):
        for name, image in (("several", self.image), ("one", oci.Image([oci.Layer().add("x", "1")]))):
            self.store("pull", self.registry.add(image, tag=name))
            target = os.path.join(self.root, name)
            os.mkdir(target)
            for _ in range(2):
                self.store("mount", image.id, "-", target)
            self.addCleanup(subprocess.run, ["umount", "-l", target])
            with self.assertRaises(OSError):
                open(target + "/new", "w")
            self.assertEqual(sum(target in line for line in read("/proc/self/mounts").splitlines()), 1)

    def test_image_removed_while_in_use(self):
        root = self.mount(self.ref, "a")
        self.store("remove", self.ref)
        self.assertEqual(self.store("list"), [])
        self.assertEqual(self.store.blobs, [])
        self.assertEqual(len(self.store.layers), 2)
        self.assertEqual(read(root + "/d/one"), "1")
        # A new mount, as after a reboot, finds the layers too.
        self.store("umount", root)
        self.store("mount", self.image.id, "a", root)
        self.assertEqual(read(root + "/two"), "2")
        self.store("umount", root)
        self.store("rmrootfs", "a")
        self.assertEqual(self.store.layers, [])

    def test_removal_beside_a_running_pull_is_made_up_for(self):
        import threading
        other = oci.Image([oci.Layer().add("other", "1")])
        ref = self.registry.add(other, tag="other")
        asked, gate = threading.Event(), threading.Event()
        self.registry.hook = lambda h: oci.digest(other.layers[0].blob) in h.path and (asked.set(), not gate.wait(30))[1]
        process = self.store.start("pull", ref)
        self.assertTrue(asked.wait(10))
        self.store("remove", self.ref)
        self.assertEqual([i["id"] for i in self.store("list")], [])
        gate.set()
        self.store.finish(process)
        self.store("list")  # opening collects
        self.assertEqual(len(self.store.blobs), 3)
        self.assertEqual(len(self.store.layers), 1)

    def test_what_a_crash_left_is_collected(self):
        import time
        layers, blobs = self.store.state + "/images/layers/", self.store.state + "/images/blobs/sha256/"
        os.makedirs(layers + "tmp.0123/fs/deep/er")
        os.makedirs(layers + "f" * 64 + "/fs")
        for name in ("1" * 64, "2" * 64 + ".part", "copy.1.part", "3" * 64 + ".part"):
            open(blobs + name, "w").close()
            if not name.startswith("3"):
                os.utime(blobs + name, (time.time() - 7200,) * 2)
        self.store("list")
        self.assertEqual(len(self.store.layers), 2)
        self.assertEqual(len(self.store.blobs), 5)
        self.assertIn("3" * 64 + ".part", self.store.blobs)

    def test_deep_trees_are_removed(self):
        root = self.mount(self.ref, "a")
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(root)
        for _ in range(1000):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
            open("f", "w").close()
        os.chdir(here)
        self.store("umount", root)
        self.store("rmrootfs", "a")
        self.assertFalse(os.path.exists(self.store.state + "/containers/a"))

    def test_overlay_below_is_said(self):
        lower, upper, work = (os.path.join(self.root, n) for n in ("l", "u", "w"))
        for path in (lower, upper, work):
            os.mkdir(path)
        state = os.path.join(self.root, "on-overlay")
        os.mkdir(state)
        subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "none", state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", state])
        self.store.state = state
        self.store("pull", self.ref)
        target = os.path.join(self.root, "t")
        os.mkdir(target)
        self.assertFails("FailedPrecondition", "is on overlayfs", "mount", self.ref, "a", target)

    def test_ids_that_are_paths(self):
        for name in ("../x", "a/b", "..", ""):
            self.assertFails("InvalidArgument", "is not a valid container id", "rmrootfs", name)


class Users(TestCase):
    def user(self, name):
        u = self.store("user", self.rootfs, name)
        return u["uid"], u["gid"], u["groups"]

    def setUp(self):
        super().setUp()
        self.rootfs = os.path.join(self.root, "fs")
        os.makedirs(self.rootfs + "/etc")
        self.write("passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\n:::\napp:x:1000:1001::/:/bin/sh\n77:x:5:6:::\n")
        self.write("group", "root:x:0:\nwheel:x:10:root,app\nextra:x:2000:app,other\nteam:x:1001:\napp2:x:2001:xapp\n")

    def write(self, name, text):
        with open(f"{self.rootfs}/etc/{name}", "w") as f:
            f.write(text)

    def test_names_and_numbers(self):
        self.assertEqual(self.user("app"), (1000, 1001, [10, 2000]))
        self.assertEqual(self.user("1000"), (1000, 1001, [10, 2000]))
        self.assertEqual(self.user("app:extra"), (1000, 2000, [10, 2000]))
        self.assertEqual(self.user("app:42"), (1000, 42, [10, 2000]))
        self.assertEqual(self.user("4242"), (4242, 0, []))
        self.assertEqual(self.user("4242:4243"), (4242, 4243, []))
        self.assertEqual(self.user("77"), (5, 6, []))
        self.assertEqual(self.user("root"), (0, 0, [10]))

    def test_unknown(self):
        self.assertFails("InvalidArgument", "unable to find user nobody: no matching entries in passwd file", "user", self.rootfs, "nobody")
        self.assertFails("InvalidArgument", "unable to find group none: no matching entries in group file", "user", self.rootfs, "app:none")
        self.assertFails("InvalidArgument", "unable to find user 4294967295", "user", self.rootfs, "4294967295")

    def test_no_files(self):
        for name in ("passwd", "group"):
            os.unlink(f"{self.rootfs}/etc/{name}")
        self.assertEqual(self.user("5:6"), (5, 6, []))
        self.assertFails("InvalidArgument", "unable to find user app", "user", self.rootfs, "app")

    def test_links_stay_inside(self):
        with open(self.root + "/passwd", "w") as f:
            f.write("outside:x:1:1:::\n")
        os.unlink(self.rootfs + "/etc/passwd")
        os.symlink("../" * 30 + self.root[1:] + "/passwd", self.rootfs + "/etc/passwd")
        self.assertFails("InvalidArgument", "unable to find user outside", "user", self.rootfs, "outside")
        os.unlink(self.rootfs + "/etc/passwd")
        os.mkfifo(self.rootfs + "/etc/passwd")
        self.assertFails("InvalidArgument", "is not a regular file", "user", self.rootfs, "app")


if __name__ == "__main__":
    unittest.main()
