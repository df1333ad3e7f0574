# SPDX-License-Identifier: Apache-2.0
"""Layers: whiteouts, links and attributes, and hostile archives."""

import gzip
import io
import os
import stat
import subprocess
import tarfile
import time
import unittest

from harness import Registry, TestCase, oci, read


class Layers(TestCase):
    def setUp(self):
        super().setUp()
        self.registry = Registry()
        self.addCleanup(self.registry.close)

    def pull(self, *layers, **kw):
        image = oci.Image(list(layers))
        self.store("pull", self.registry.add(image), **kw)
        return image

    def rootfs(self, *layers):
        return self.mount(self.pull(*layers).id)

    def refused(self, part, *layers):
        marker = os.path.join(self.root, "marker")
        with open(marker, "w") as f:
            f.write("untouched")
        message = self.assertFails("DataLoss", part, "pull", self.registry.add(oci.Image(list(layers))))
        self.assertIn("layer sha256:", message)
        self.assertFalse([n for n in self.store.layers if n.startswith("tmp.")])
        self.assertEqual(read(marker), "untouched")
        self.assertEqual(self.store("list"), [])


class Faithful(Layers):
    def test_attributes(self):
        layer = (oci.Layer().dir("d", mode=0o1777, uid=3, gid=4).add("d/suid", "x", mode=0o4711, uid=1000, gid=1001)
                 .add("cap", "x", xattrs={"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00" + "\x00" * 12,
                                          "user.colour": "blue", "security.selinux": "ignored", "trusted.else": "x"})
                 .symlink("link", "../../no/where").hardlink("hard", "d/suid")
                 .add("null", kind=tarfile.CHRTYPE, dev=(1, 3), mode=0o666).add("disk", kind=tarfile.BLKTYPE, dev=(8, 0))
                 .add("fifo", kind=tarfile.FIFOTYPE).add("./dot/implied/file", "x").add("/absolute", "x")
                 .add("name-\u00e9-\u4e2d-e\u0301", "x").add("d/" + "n" * 255, "x"))
        root = self.rootfs(layer)
        st = os.stat(root + "/d")
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime), (0o1777, 3, 4, 1700000000))
        st = os.stat(root + "/d/suid")
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime), (0o4711, 1000, 1001, 1700000000))
        self.assertTrue(os.path.samefile(root + "/hard", root + "/d/suid"))
        self.assertEqual(os.readlink(root + "/link"), "../../no/where")
        self.assertEqual(os.getxattr(root + "/cap", "user.colour"), b"blue")
        self.assertEqual(len(os.getxattr(root + "/cap", "security.capability")), 20)
        self.assertNotIn("trusted.else", os.listxattr(root + "/cap"))
        self.assertEqual(os.stat(root + "/null").st_rdev, os.makedev(1, 3))
        self.assertTrue(stat.S_ISBLK(os.stat(root + "/disk").st_mode))
        self.assertTrue(stat.S_ISFIFO(os.stat(root + "/fifo").st_mode))
        for name in ("dot/implied/file", "absolute", "name-\u00e9-\u4e2d-e\u0301", "d/" + "n" * 255):
            self.assertTrue(os.path.exists(f"{root}/{name}"), name)

    def test_whiteouts(self):
        one = (oci.Layer().dir("d").add("d/gone", "1").add("d/kept", "1").dir("o").add("o/old", "1").dir("again")
               .add("again/old", "1").add("file-to-dir", "1").dir("dir-to-file").add("dir-to-file/x", "1").add("top", "1")
               .dir("both").add("both/old", "1"))
        two = (oci.Layer().add("d/.wh.gone", "").dir("o").add("o/new", "1").add("o/.wh..wh..opq", "").add(".wh.again", "")
               .dir("again").add("again/new", "1").dir("file-to-dir").add("file-to-dir/in", "1").add("dir-to-file", "1")
               .add(".wh.top", "").dir("both").add("both/new", "1").add(".wh.both", "").add(".wh.never-was", "")
               .add(".wh..wh.aufs", "").add(".wh..wh.plnk/1.2", "x"))
        root = self.rootfs(one, two)
        self.assertEqual(sorted(os.listdir(root)), ["again", "both", "d", "dir-to-file", "file-to-dir", "o"])
        self.assertEqual(os.listdir(root + "/d"), ["kept"])
        self.assertEqual(os.listdir(root + "/o"), ["new"])
        self.assertEqual(os.listdir(root + "/again"), ["new"])
        self.assertEqual(os.listdir(root + "/both"), ["new"])
        self.assertEqual(os.listdir(root + "/file-to-dir"), ["in"])
        self.assertTrue(os.path.isfile(root + "/dir-to-file"))

    def test_implied_directories_look_like_those_beneath(self):
        root = self.rootfs(oci.Layer().dir("tmp", mode=0o1777, uid=5, gid=6), oci.Layer().add("tmp/x", "1"))
        st = os.stat(root + "/tmp")
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime), (0o1777, 5, 6, 1700000000))

    def test_hard_link_to_a_file_beneath(self):
        root = self.rootfs(oci.Layer().dir("d").add("d/a", "content", mode=0o640, uid=7), oci.Layer().hardlink("b", "d/a"))
        self.assertEqual(read(root + "/b"), "content")
        self.assertTrue(os.path.samefile(root + "/b", root + "/d/a"))
        self.assertEqual((os.stat(root + "/b").st_uid, stat.S_IMODE(os.stat(root + "/b").st_mode)), (7, 0o640))

    def test_later_entries_replace_earlier_ones(self):
        layer = (oci.Layer().add("a", "1").add("a", "two").dir("d").add("d/x", "1").symlink("d", "/elsewhere").add("l", "1")
                 .symlink("l2", "l").add("l2", "a file now"))
        root = self.rootfs(layer)
        self.assertEqual(read(root + "/a"), "two")
        self.assertEqual(os.readlink(root + "/d"), "/elsewhere")
        self.assertEqual((read(root + "/l"), read(root + "/l2")), ("1", "a file now"))

    def test_compressions_and_empty_layers(self):
        several = oci.Layer()
        several.add("x", os.urandom(5000))
        several._blob = gzip.compress(several.tar[:3000]) + gzip.compress(several.tar[3000:])
        padded = oci.Layer(None).add("p", "1")
        padded._tar_bytes = padded.tar + b"\0" * 50000
        root = self.rootfs(oci.Layer(None).add("plain", "1"), oci.Layer("zstd").add("zstd", "1"), several, oci.Layer(), padded)
        self.assertEqual(sorted(os.listdir(root)), ["p", "plain", "x", "zstd"])

    def test_sparse_file(self):
        path = os.path.join(self.root, "sparse")
        with open(path, "wb") as f:
            f.seek(5 << 20)
            f.write(b"data")
            f.truncate(20 << 20)
        layer = oci.Layer()
        layer._tar_bytes = subprocess.run(["tar", "-C", self.root, "--sparse", "-cf", "-", "sparse"], check=True,
                                          stdout=subprocess.PIPE).stdout
        root = self.rootfs(layer)
        self.assertEqual(subprocess.run(["cmp", path, root + "/sparse"]).returncode, 0)
        self.assertLess(os.stat(root + "/sparse").st_blocks * 512, 1 << 20)

    def test_a_hard_link_to_a_sparse_file_beneath_copies_holes_as_holes(self):
        """Fault F: 1 TiB in one layer, a hard link to it in the next: only the data is copied, at once."""
        path = os.path.join(self.root, "huge")
        with open(path, "wb") as f:
            for at in (5 << 20, 700 << 30):
                f.seek(at)
                f.write(b"data")
            f.truncate(1 << 40)
        layer = oci.Layer()
        layer._tar_bytes = subprocess.run(["tar", "-C", self.root, "--sparse", "-cf", "-", "huge"], check=True,
                                          stdout=subprocess.PIPE).stdout
        began = time.monotonic()
        root = self.rootfs(layer, oci.Layer().hardlink("link", "huge"))
        self.assertLess(time.monotonic() - began, 30)
        st = os.stat(root + "/link")
        self.assertEqual((st.st_size, os.path.samefile(root + "/link", root + "/huge")), (1 << 40, True))
        self.assertLess(st.st_blocks * 512, 1 << 20)
        with open(root + "/link", "rb") as f:
            for at in (5 << 20, 700 << 30):
                f.seek(at - 4)
                self.assertEqual(f.read(12), b"\0\0\0\0data\0\0\0\0")

    def test_many_layers(self):
        root = self.rootfs(*[oci.Layer().add(f"f{i}", str(i)) for i in range(120)])
        self.assertEqual(len(os.listdir(root)), 120)

    def test_an_image_without_layers(self):
        self.assertEqual(os.listdir(self.rootfs()), [])

    def test_deep_paths(self):
        root = self.rootfs(oci.Layer().add("/".join(["d"] * 150) + "/f", "1"))
        self.assertTrue(os.path.exists(root + "/d" * 150 + "/f"))


class Hostile(Layers):
    def outside(self):
        """Two paths by which a layer could reach this test's directory: absolute, and by dots."""
        return self.root, "../" * 40 + self.root[1:]

    def test_dots(self):
        for name in ("../evil", "a/../../evil", "..", "a/.."):
            self.refused("leaves the root", oci.Layer().add(name, "x"))
        self.refused("leaves the root", oci.Layer().hardlink("a", "../../etc/passwd"))

    def test_symlink_to_outside_is_inside(self):
        """The target of such a link is created below the image's root, as containerd does."""
        with open(os.path.join(self.root, "marker"), "w") as f:
            f.write("untouched")
        for i, target in enumerate(self.outside()):
            with self.subTest(target):
                root = self.mount(self.pull(oci.Layer().symlink("link", target).add("link/marker", "evil")).id, f"c{i}")
                self.assertEqual(read(root + self.root + "/marker"), "evil")
                self.assertEqual(read(self.root + "/marker"), "untouched")

    def test_links_in_circles(self):
        self.refused("leads to no directory", oci.Layer().symlink("a", "b").symlink("b", "a").add("a/x", "1"))
        chain = oci.Layer()
        for i in range(20):
            chain.symlink(f"l{i}", f"l{i + 1}/x")
        self.refused("leads to no directory", chain.add("l0/x", "1"))
        self.refused("leads to no directory", oci.Layer().symlink("a", "a/b").add("a/x", "1"))

    def test_symlink_to_outside_with_the_same_path_inside(self):
        layer = oci.Layer().dir(self.root[1:]).symlink("link", "../" * 40 + self.root[1:]).add("link/marker", "inside")
        with open(os.path.join(self.root, "marker"), "w") as f:
            f.write("untouched")
        root = self.rootfs(layer)
        self.assertEqual(read(os.path.join(self.root, "marker")), "untouched")
        self.assertEqual(read(root + self.root + "/marker"), "inside")

    def test_symlink_swapped_in_for_a_directory(self):
        with open(os.path.join(self.root, "marker"), "w") as f:
            f.write("untouched")
        root = self.rootfs(oci.Layer().dir("d").add("d/a", "1").symlink("d", self.root).add("d/marker", "evil"))
        self.assertEqual(read(self.root + "/marker"), "untouched")
        self.assertEqual(read(root + self.root + "/marker"), "evil")

    def test_hard_link_through_a_symlink(self):
        self.refused("hard link leads to", oci.Layer().symlink("link", self.root).hardlink("mine", "link/marker"))
        self.refused("which is not a file", oci.Layer().hardlink("mine", self.root + "/marker"))
        # A hard link to a symlink links the symlink itself, not its target.
        root = self.rootfs(oci.Layer().symlink("link", self.root + "/marker").hardlink("mine", "link").add("mine", "evil"))
        self.assertEqual(read(self.root + "/marker"), "untouched")
        self.assertTrue(os.path.isfile(root + "/mine"))

    def test_whiteouts_that_reach_out(self):
        base = oci.Layer().add("x", "1")
        for name in (".wh...", ".wh..", ".wh.", "a/.wh..."):
            self.refused("hides nothing", base, oci.Layer().add(name, ""))
        self.refused("lies in a whiteout", base, oci.Layer().add(".wh.x/y", "1"))
        with open(self.root + "/marker", "w") as f:
            f.write("untouched")
        self.pull(base, oci.Layer().symlink("l", self.root).add("l/.wh.marker", "").add("l/.wh..wh..opq", ""))
        self.assertEqual(read(self.root + "/marker"), "untouched")

    def test_forged_overlay_attributes_and_devices(self):
        self.refused("trusted.overlay.redirect", oci.Layer().dir("d").add("d/x", "1", xattrs={"trusted.overlay.redirect": "/etc"}))
        self.refused("0:0", oci.Layer().add("x", kind=tarfile.CHRTYPE))

    def test_hard_link_to_what_it_replaces(self):
        self.refused("what it replaces", oci.Layer().dir("d").add("d/x", "1").hardlink("d", "d/x"))
        root = self.rootfs(oci.Layer().add("x", "1").hardlink("./x", "./x").hardlink("y", "x").hardlink("x", "y"))
        self.assertEqual(read(root + "/x"), "1")

    def test_path_through_a_file(self):
        self.refused("is not a directory", oci.Layer().add("f", "1").add("f/x", "1"))

    def test_names_too_long_or_deep(self):
        self.refused("too long or too deep", oci.Layer().add("n" * 256, "1"))
        self.refused("too long or too deep", oci.Layer().add("/".join(["d"] * 250), "1"))

    def test_owner_out_of_range(self):
        self.refused("has the owner", oci.Layer().add("f", "1", uid=1 << 33))

    def test_bomb(self):
        class Bomb(oci.Layer):
            tar = b"not looked at"

            def __init__(self):
                super().__init__("zstd")
                info = tarfile.TarInfo("zeros")
                info.size = 2 << 30
                zstd = subprocess.Popen(["zstd", "-q", "-1", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                zstd.stdin.write(info.tobuf())
                zstd.stdin.flush()
                subprocess.run(["head", "-c", str(1100 << 20), "/dev/zero"], stdout=zstd.stdin, check=True)
                self._blob = zstd.communicate()[0]

        self.refused("decompression bomb", Bomb())

    def test_damaged_archives(self):
        good = oci.Layer().add("file", os.urandom(20000))
        for change, part in ((lambda tar: tar[:10000], "damaged"), (lambda tar: b"\x42" * 5000, "is not a tar archive"),
                             (lambda tar: tar[:256] + b"\xff" * 300 + tar[556:], "is not a tar archive")):
            bad = oci.Layer()
            bad._tar_bytes = change(good.tar)
            self.refused(part, bad)
        cut = oci.Layer()
        cut.add("file", os.urandom(20000))
        cut._blob = cut.blob[:10000]
        self.refused("truncated gzip input", cut)
        other = oci.Layer()
        other._blob = subprocess.run(["xz", "-c"], input=good.tar, stdout=subprocess.PIPE, check=True).stdout
        self.refused("archive", other)

    def test_disk_full(self):
        small = os.path.join(self.root, "state")
        os.makedirs(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", small])
        big = oci.Image([oci.Layer().add("zeros", bytes(30 << 20))])
        self.assertFails("ResourceExhausted", "o space left", "pull", self.registry.add(big))
        self.assertEqual(self.store.layers, [])
        self.assertFails("ResourceExhausted", "needs", "pull",
                         self.registry.add(oci.Image([oci.Layer(None).add("noise", os.urandom(12 << 20))])))
        self.assertFalse([b for b in self.store.blobs if b.endswith(".part")])
        self.store("pull", self.registry.add(oci.Image([oci.Layer().add("fits", "1")])))


if __name__ == "__main__":
    unittest.main()
