# SPDX-License-Identifier: Apache-2.0
"""Import and export: OCI layouts, archives, and the format of `docker save`."""

import io
import json
import os
import subprocess
import tarfile
import unittest

from harness import Registry, Store, TestCase, oci, read


class Archives(TestCase):
    def setUp(self):
        super().setUp()
        self.image = oci.Image([oci.Layer().dir("d").add("d/one", "1"), oci.Layer("zstd").add("two", "2")], {"Cmd": ["x"]})
        self.other = Store(os.path.join(self.root, "other"))

    def layout(self, images=None):
        path = os.path.join(self.root, "layout")
        oci.write_layout(images or {"registry.test/app:v1": self.image}, path)
        return path

    def docker_save(self, tags, layers, config):
        path = os.path.join(self.root, "saved.tar")
        with tarfile.open(path, "w") as tar:
            def add(name, data):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            names = []
            for i, data in enumerate(layers):
                add(f"l{i}/layer.tar", data)
                link = tarfile.TarInfo(f"link{i}.tar")
                link.type, link.linkname = tarfile.SYMTYPE, f"l{i}/layer.tar"
                tar.addfile(link)
                names.append(f"link{i}.tar")
            add("config.json", config)
            add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).encode())
        return path

    def importFails(self, status, part, *args):
        self.assertFails(status, part, "import", *args)
        self.assertEqual(self.store("list"), [])
        self.assertFalse([n for n in self.store.files("") if n.startswith("import.")])

    def test_layout_in_and_out(self):
        self.assertEqual(self.store("import", self.layout()), [self.image.id])
        image = self.store("get", "registry.test/app:v1")
        self.assertEqual(image["digests"], [f"registry.test/app@{oci.digest(self.image.manifest)}"])
        self.assertEqual(sorted(os.listdir(self.mount(self.image.id))), ["d", "two"])
        out = os.path.join(self.root, "out/")
        self.store("export", "registry.test/app:v1", out)
        self.assertEqual(self.other("import", out), [self.image.id])
        self.assertEqual(self.other("get", self.image.id)["tags"], ["registry.test/app:v1"])
        self.assertFails("AlreadyExists", "already holds", "export", self.image.id, out)

    def test_skopeo_reads_what_is_exported(self):
        self.store("import", self.layout())
        out = os.path.join(self.root, "out/")
        self.store("export", "registry.test/app:v1", out)
        found = subprocess.run(["skopeo", "inspect", "--raw", f"oci:{out}:v1"], check=True, stdout=subprocess.PIPE).stdout
        self.assertEqual(found, self.image.manifest)

    def test_archives_in_and_out(self):
        self.store("import", self.layout())
        for suffix in (".tar", ".tar.gz", ".tar.zst"):
            out = os.path.join(self.root, "out" + suffix)
            self.store("export", self.image.id, out)
            self.assertEqual(self.other("import", out, "renamed.test/a:b"), [self.image.id])
            self.assertIn("renamed.test/a:b", self.other("get", self.image.id)["tags"])
            self.other("remove", self.image.id)
            self.assertEqual(self.other.blobs, [])
        self.assertFalse([n for n in os.listdir(self.root) if ".tmp." in n])

    def test_docker_save(self):
        layers = [layer.tar for layer in self.image.layers]
        path = self.docker_save(["app:v1", "registry.test/x:y"], layers, self.image.config_blob)
        self.assertEqual(self.store("import", path), [self.image.id])
        self.assertEqual(self.store("get", "app:v1")["tags"], ["docker.io/library/app:v1", "registry.test/x:y"])
        self.assertEqual(sorted(os.listdir(self.mount(self.image.id))), ["d", "two"])
        out = os.path.join(self.root, "out.tar")
        self.store("export", "app:v1", out)
        self.assertEqual(self.other("import", out), [self.image.id])
        self.assertEqual(self.other("get", self.image.id)["tags"], ["docker.io/library/app:v1"])

    def test_platforms_and_names(self):
        arm = oci.Image([oci.Layer().add("arm", "")], architecture="arm64")
        self.assertEqual(self.store("import", self.layout({"v7": oci.Index([arm, self.image])}), "registry.test/app"), [self.image.id])
        self.assertEqual(self.store("get", self.image.id)["tags"], ["registry.test/app:v7"])

    def test_a_bare_tag_without_a_name_stays_unnamed(self):
        self.store("import", self.layout({"v7": self.image}))
        self.assertEqual(self.store("get", self.image.id)["tags"], [])

    def test_several_images(self):
        two = oci.Image([oci.Layer().add("2", "")])
        path = self.layout({"a.test/a:1": self.image, "a.test/b:1": two})
        self.importFails("InvalidArgument", "cannot all be named", path, "one.test/name")
        self.assertEqual(sorted(self.store("import", path)), sorted([self.image.id, two.id]))

    def test_damage(self):
        path = self.layout()
        blob = os.path.join(path, "blobs/sha256", oci.digest(self.image.layers[0].blob)[7:])
        with open(blob, "r+b") as f:
            f.write(b"x")
        self.importFails("DataLoss", oci.digest(self.image.layers[0].blob), path)
        os.unlink(blob)
        self.importFails("NotFound", "blobs/sha256", path)
        os.symlink("/etc/passwd", blob)
        self.importFails("NotFound", "blobs/sha256", path)
        with open(path + "/index.json", "w") as f:
            f.write("{")
        self.importFails("DataLoss", "index.json", path)
        os.unlink(path + "/index.json")
        self.importFails("DataLoss", "neither an OCI layout", path)

    def test_files_that_are_none(self):
        self.importFails("NotFound", "missing", os.path.join(self.root, "missing"))
        text = os.path.join(self.root, "text")
        with open(text, "w") as f:
            f.write("just some text, longer than nothing\n" * 100)
        self.importFails("DataLoss", "is not a tar archive", text)
        self.importFails("InvalidArgument", "lower case", self.layout(), "BAD")
        path = self.docker_save(["a:b"], [b"no tar"], self.image.config_blob)
        self.importFails("DataLoss", "layers", path)

    def test_import_beside_a_pull_keeps_both(self):
        registry = Registry()
        self.addCleanup(registry.close)
        other = oci.Image([oci.Layer().add("other", "")])
        pulling = self.store.start("pull", registry.add(other))
        self.store("import", self.layout())
        self.store.finish(pulling)
        self.assertEqual(len(self.store("list")), 2)


if __name__ == "__main__":
    unittest.main()
