# SPDX-License-Identifier: Apache-2.0
"""What a container's writable layer may take: by project quota where the file system has it, else by a look (fault S)."""

import errno
import os
import shutil
import subprocess
import unittest

from harness import Registry, TestCase, oci

MIB = 1 << 20
LIMIT = {"LAYER_BYTES": str(4 * MIB), "LAYER_FILES": "50"}


class Layers:
    """The store lies on `self.root`. `mount` makes a container's root there, with LIMIT."""

    def setUp(self):
        super().setUp()
        registry = Registry()
        self.addCleanup(registry.close)
        self.ref = registry.add(oci.Image([oci.Layer().dir("d").add("d/one", "1"), oci.Layer().add("big", "x" * (2 * MIB))]))
        self.store("pull", self.ref)

    def limited(self, container):
        target = os.path.join(self.root, container)
        os.makedirs(target, exist_ok=True)
        self.store("mount", self.ref, container, target, env=LIMIT)
        self.addCleanup(subprocess.run, ["umount", "-l", target], stderr=subprocess.DEVNULL)
        return target

    def exceeds(self, container, **limit):
        process = self.store.start("exceeds", container, env={**LIMIT, **limit})
        out, _ = process.communicate(timeout=60)
        return out.strip() if process.returncode == 0 else ""

    def fill(self, path, mib):
        with open(path, "wb") as f:
            for _ in range(mib):
                f.write(b"x" * MIB)
                f.flush()
                os.fsync(f.fileno())


class Looked(Layers, TestCase):
    """On a file system without project quotas: ext4 of its own."""

    def new_root(self):
        root = super().new_root()
        disk = root + ".img"
        self.addCleanup(os.unlink, disk)
        with open(disk, "wb") as f:
            f.truncate(64 * MIB)
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
        subprocess.run(["mount", "-o", "loop", disk, root], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", root])
        return root

    def test_size(self):
        """Fault S: a layer that takes more than its limit is named, with both figures; before that it is not."""
        root = self.limited("a")
        self.fill(root + "/d/file", 3)
        self.assertEqual(self.exceeds("a"), "")
        self.fill(root + "/d/file", 6)
        self.assertRegex(self.exceeds("a"), r"takes 6 MiB, more than the 4 MiB of \[sandbox\] layer_in_mb")
        self.assertEqual(self.exceeds("b"), "")

    def test_files(self):
        """Fault S: so is one with more files."""
        root = self.limited("a")
        for i in range(60):
            open(f"{root}/d/f{i}", "w").close()
        self.assertRegex(self.exceeds("a"), r"has 6\d files, more than the 50 of \[sandbox\] layer_files")

    def test_depth(self):
        """Fault S: what lies too deep to be counted cannot hide."""
        root = self.limited("a")
        at = os.open(root, os.O_RDONLY)
        for _ in range(220):
            os.mkdir("d2", dir_fd=at)
            below = os.open("d2", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        self.assertIn("more than 200 deep", self.exceeds("a", LAYER_FILES="1000"))


class Quota(Layers):
    """A file system of its own, of which `self.options` says how it is made. Skipped where this kernel cannot mount it so."""

    def setUp(self):
        disk = f"/tmp/crv-quota-{os.getpid()}.img"
        self.addCleanup(lambda: os.path.exists(disk) and os.unlink(disk))
        with open(disk, "wb") as f:
            f.truncate(512 * MIB)
        if not shutil.which(self.make[0]):
            self.skipTest(f"{self.make[0]} is not here")
        subprocess.run([*self.make, disk], check=True, stdout=subprocess.DEVNULL)
        self.disk = disk
        super().setUp()

    def new_root(self):
        root = super().new_root()
        done = subprocess.run(["mount", "-o", "loop,prjquota", self.disk, root], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            self.skipTest(f"this kernel cannot mount {self.make[0]}'s file system with project quotas: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", root])
        return root

    def test_writers_get_an_error(self):
        """Fault S: beyond the limit a write fails, in one container alone; what it removes it may write again."""
        a, b = self.limited("a"), self.limited("b")
        with self.assertRaises(OSError) as caught:
            self.fill(a + "/d/file", 8)
        self.assertIn(caught.exception.errno, (errno.ENOSPC, errno.EDQUOT))
        self.fill(b + "/d/file", 3)
        usage = self.store("usage", "a", env=LIMIT)
        self.assertLessEqual(usage["container_bytes"], 4 * MIB)
        self.assertGreaterEqual(usage["container_bytes"], 3 * MIB)
        self.assertEqual(self.exceeds("a"), "")
        os.unlink(a + "/d/file")
        self.fill(a + "/d/file", 3)

    def test_files(self):
        """Fault S: nor may it make more files."""
        root = self.limited("a")
        with self.assertRaises(OSError) as caught:
            for i in range(100):
                open(f"{root}/d/f{i}", "w").close()
        self.assertIn(caught.exception.errno, (errno.ENOSPC, errno.EDQUOT))
        self.assertGreater(len(os.listdir(root + "/d")), 30)

    def test_a_copy_up_counts(self):
        """Fault S: a file of the image that is written to is the container's then."""
        root = self.limited("a")
        self.fill(root + "/d/file", 3)
        with self.assertRaises(OSError) as caught, open(root + "/big", "r+b") as f:
            f.write(b"y")
            os.fsync(f.fileno())
        self.assertIn(caught.exception.errno, (errno.ENOSPC, errno.EDQUOT))

    def test_the_limit_holds_after_another_mount_and_ends_with_the_layer(self):
        """Fault S: the project is found again at the next mount; a removed layer leaves no limit behind."""
        root = self.limited("a")
        self.fill(root + "/d/file", 3)
        self.store("umount", root)
        self.limited("a")
        with self.assertRaises(OSError):
            self.fill(root + "/d/other", 3)
        self.store("umount", root)
        self.store("rmrootfs", "a")
        again = self.limited("a")
        self.fill(again + "/d/file", 3)
        self.assertLessEqual(self.store("usage", "a", env=LIMIT)["container_bytes"], 4 * MIB)

    def test_no_limit(self):
        """Fault S: 0 is no limit."""
        target = os.path.join(self.root, "free")
        os.makedirs(target)
        self.store("mount", self.ref, "free", target)
        self.addCleanup(subprocess.run, ["umount", "-l", target], stderr=subprocess.DEVNULL)
        self.fill(target + "/d/file", 8)


class QuotaOnExt4(Quota, TestCase):
    make = ["mkfs.ext4", "-q", "-O", "quota,project"]


class QuotaOnXfs(Quota, TestCase):
    make = ["mkfs.xfs", "-q"]


if __name__ == "__main__":
    unittest.main()
