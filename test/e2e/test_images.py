# SPDX-License-Identifier: Apache-2.0
"""Images: what can be pulled and how it is shown; then what a registry or a layer can do wrong."""

import base64
import os
import pathlib
import subprocess
import tarfile
import threading
import time

import catalog
import oci
from evil import EvilRegistry
from harness import BUSYBOX, CRIVISOR, REGISTRY, Background, Case, Server, below, eventually, failed, registry, save_logs, secs


class Pull(Case):
    keep_pods = True

    @classmethod
    def prepare(cls):
        cls.pod = cls.server.runp()
        cls.scripted = EvilRegistry()
        cls.addClassCleanup(cls.scripted.close)

    def image_id(self, reference):
        return self.server.json("inspecti", reference)["status"]["id"]

    def run_image(self, name):
        reference = f"{REGISTRY}/test/{name}:1"
        self.server.pull(reference)
        return self.pod.output(image=reference)

    def test_platform_is_chosen_from_an_index(self):
        self.assertEqual(self.run_image("multi"), "amd64 was chosen\n")

    def test_zstd_layers(self):
        self.assertEqual(self.run_image("zstd"), "unpacked from zstd\n")

    def test_docker_schema_2(self):
        self.assertEqual(self.run_image("docker"), "docker schema 2\n")

    def test_whiteouts_links_modes_owners(self):
        out = self.run_image("layers").split("\n")
        listing = out[:out.index("opaque:")]
        self.assertNotIn("gone", listing)
        self.assertIn("kept", listing)
        self.assertEqual(out[out.index("opaque:") + 1], "new")
        self.assertEqual(out[out.index("replaced:") + 1], "in-dir")
        tail = out[out.index("replaced:") + 2:]
        self.assertEqual(tail[:5], ["same", "/etc/passwd", "4755 0 0", "600 1000 2000", "kept"])

    def test_id_is_the_config_digest_and_pull_answers_it(self):
        reference = f"{REGISTRY}/test/user:1"
        out = self.server.crictl("pull", reference)
        self.assertIn(catalog.user().id, out)
        self.assertEqual(self.image_id(reference), catalog.user().id)

    def test_pull_by_digest(self):
        digest = oci.digest(catalog.zstd().manifest)
        reference = f"{REGISTRY}/test/zstd@{digest}"
        self.server.pull(reference)
        self.assertIn(reference, self.server.json("inspecti", reference)["status"]["repoDigests"])

    def test_pull_by_the_digest_of_an_index_and_of_its_platform(self):
        """Each of the three names leads to the same image; by the index's digest its platform is chosen as by the tag."""
        index = catalog.multi()
        own = next(image for image in index.parts() if image.id == self.image_id_of_tag(f"{REGISTRY}/test/multi:1"))
        for digest in (oci.digest(index.manifest), oci.digest(own.manifest)):
            with self.subTest(digest):
                reference = f"{REGISTRY}/test/multi@{digest}"
                self.server.pull(reference)
                status = self.server.json("inspecti", reference)["status"]
                self.assertEqual(status["id"], own.id)
                self.assertIn(reference, status["repoDigests"])
                self.assertEqual(self.pod.output(image=reference), "amd64 was chosen\n")

    def image_id_of_tag(self, reference):
        self.server.pull(reference)
        return self.image_id(reference)

    def test_a_moved_tag_leaves_the_old_image_untagged(self):
        for text in ("one", "two"):
            oci.push(oci.Image([oci.Layer().add("f", text)]), REGISTRY, "test/moving", "1")
            self.server.pull(f"{REGISTRY}/test/moving:1")
        new = oci.Image([oci.Layer().add("f", "two")]).id
        old = oci.Image([oci.Layer().add("f", "one")]).id
        self.assertEqual(self.image_id(f"{REGISTRY}/test/moving:1"), new)
        self.assertEqual(self.server.json("inspecti", old)["status"]["repoTags"], [])
        self.server.crictl("rmi", old)
        self.server.crictl("rmi", new)

    def test_image_of_a_running_container_can_be_removed_safely(self):
        reference = f"{REGISTRY}/test/multi:1"
        self.server.pull(reference)
        container = self.pod.run(["sh", "-c", "sleep 1000"], image=reference)
        self.server.crictl("rmi", reference)
        self.assertIn("bin", container.exec("ls", "/"))
        container.remove(force=True)

    def test_pulls_of_one_image_at_once_join(self):
        """Each blob is fetched once: the first pull is held until all four have come."""
        image = catalog.large()
        reference = self.scripted.add("test/large", image)
        gate = threading.Event()
        self.scripted.hook = lambda handler: "/blobs/" in handler.path and not gate.wait(secs(30))
        self.scripted.requests.clear()
        pulls = [Background(self.server.crictl, "pull", reference) for _ in range(4)]
        eventually(lambda: self.scripted.requests, 10, "no pull has begun")
        time.sleep(1)  # nothing tells a test that a call waits for another one
        gate.set()
        for pull in pulls:
            self.assertIn(image.id, pull.result())
        self.scripted.hook = None
        fetched = sorted(path.rsplit("/", 1)[1] for path in self.scripted.requests if "/blobs/" in path)
        # Busybox's own layer is in the store already.
        self.assertEqual(fetched, sorted(set(image.blobs) - {oci.digest(catalog.busybox_layer().blob)}))
        self.assertGreater(int(self.server.json("inspecti", reference)["status"]["size"]), 30 << 20)
        self.server.crictl("rmi", reference)

    def test_image_fs_info_names_a_mount_point_that_exists(self):
        info = self.server.json("imagefsinfo")["status"]["imageFilesystems"][0]
        self.assertTrue(os.path.isdir(info["fsId"]["mountpoint"]))
        self.assertGreater(int(info["usedBytes"]["value"]), 0)

    def test_import_and_export(self):
        layout = self.server.dir / "layout"
        oci.write_layout({"imported.example/thing:1": catalog.zstd()}, layout)

        def run(*args):
            done = subprocess.run([CRIVISOR, "image", *args, "--config", self.server.config], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
            self.assertEqual(done.returncode, 0, done.stdout)
            return done.stdout

        run("import", layout)
        self.assertIn("imported.example/thing", run("list"))
        self.assertIn("imported.example/thing", self.server.crictl("images"))
        archive = self.server.dir / "out.tar"
        run("export", "imported.example/thing:1", archive)
        with tarfile.open(archive) as tar:
            names = [os.path.normpath(n) for n in tar.getnames()]
        self.assertIn("oci-layout", names)
        self.assertIn("blobs/sha256/" + catalog.zstd().id[7:], names)
        # The archive is whole: what was exported can be imported again.
        self.server.crictl("rmi", "imported.example/thing:1")
        self.assertNotIn("imported.example/thing", self.server.crictl("images"))
        run("import", archive)
        self.assertEqual(self.image_id("imported.example/thing:1"), catalog.zstd().id)


class WrongImages(Case):
    """Each of these is refused or kept inside the image's root. The store is afterwards as it was before."""

    images = (BUSYBOX,)

    @classmethod
    def prepare(cls):
        cls.evil = EvilRegistry()
        cls.addClassCleanup(cls.evil.close)
        cls.before = cls.content()

    @classmethod
    def content(cls):
        base = cls.server.state_dir / "images"
        return sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file() and "blobs" not in p.parts
                      and not p.name.startswith("lock"))

    def tearDown(self):
        self.evil.hook = None
        super().tearDown()
        if not failed(self):
            self.assertEqual(self.content(), self.before, "layers or temporary files were left")
            self.assertEqual(self.server.json("images", "-o", "json")["images"][0]["repoTags"], [BUSYBOX])

    def pull(self, reference, *options):
        return self.server.crictl("pull", *options, reference, timeout=60)

    def serve(self, layer, name="thing"):
        return self.evil.add("evil/" + name, oci.Image([catalog.busybox_layer(), layer]))

    def outside(self, name):
        path = pathlib.Path("/tmp") / f"{self.server.id}-{name}"
        self.addCleanup(lambda: path.unlink(missing_ok=True))
        return path

    def test_no_such_image(self):
        with self.refused("NotFound", "test/none", REGISTRY):
            self.pull(f"{REGISTRY}/test/none:1")

    def test_no_such_tag(self):
        with self.refused("NotFound", "test/busybox:77"):
            self.pull(f"{REGISTRY}/test/busybox:77")

    def test_bad_reference(self):
        for reference in ("example.com/UPPER", "a//b", "x:bad:tag", f"{REGISTRY}/x@sha256:123", "-"):
            with self.subTest(reference=reference), self.refused("InvalidArgument", reference):
                self.server.crictl("pull", "--", reference)

    def test_registry_down(self):
        with self.refused("Unavailable", "RegistryUnavailable", "127.0.0.1:5999"):
            self.pull("127.0.0.1:5999/test/x:1")

    def test_registry_that_asks_for_a_login(self):
        wanted = "Basic " + base64.b64encode(b"ann:secret").decode()

        def hook(handler):
            if handler.headers.get("Authorization") == wanted:
                return False
            handler.reply(401, b"{}", {"WWW-Authenticate": 'Basic realm="x"'})
            return True
        reference = self.evil.add("evil/private", oci.Image([oci.Layer().add("f", "x")]))
        self.evil.hook = hook
        with self.refused("Unauthenticated", "evil/private", "asks for credentials"):
            self.pull(reference)
        with self.refused("Unauthenticated", "evil/private", "refuses the credentials") as caught:
            self.pull(reference, "--creds", "ann:wrong-word")
        self.assertNotIn("wrong-word", caught.message)
        self.pull(reference, "--creds", "ann:secret")
        self.server.crictl("rmi", reference)
        self.assertNotIn("wrong-word", self.server.log.read_text())
        self.assertNotIn("ann:secret", self.server.log.read_text())

    def test_layer_digest_mismatch(self):
        image = oci.Image([oci.Layer().add("f", "right")])
        key = image.value["layers"][0]["digest"]
        data = bytearray(image.blobs[key])
        data[-9] ^= 1
        with self.refused("DataLoss", key[:20]):
            self.pull(self.evil.add("evil/mismatch", image, blobs={key: bytes(data)}))

    def test_config_digest_mismatch(self):
        image = oci.Image([oci.Layer().add("f", "config")], {"Cmd": ["a"]})
        key = image.id
        with self.refused("DataLoss", key[:20]):
            self.pull(self.evil.add("evil/config", image, blobs={key: image.blobs[key].replace(b'"a"', b'"b"')}))

    def test_manifest_digest_mismatch(self):
        image = oci.Image([oci.Layer().add("f", "manifest")])
        self.evil.add("evil/manifest", image)
        wrong = oci.digest(b"something else")
        self.evil.blobs[wrong] = (image.media_type, image.manifest)
        with self.refused("DataLoss", wrong[:20]):
            self.pull(f"{self.evil.host}/evil/manifest@{wrong}")

    def test_diff_id_mismatch(self):
        image = oci.Image([oci.Layer().add("f", "x")])
        layer = oci.Layer().add("g", "another")
        image.value["layers"][0] = image._blob(layer.media_type, layer.blob)
        with self.refused("DataLoss"):
            self.pull(self.evil.add("evil/diffid", image))

    def test_truncated_download(self):
        image = oci.Image([oci.Layer().add("f", os.urandom(200000))])
        key = image.value["layers"][0]["digest"]

        def hook(handler):
            if handler.path.endswith(key):
                # Announces the whole length and sends half of it, every time.
                handler.reply(200, image.blobs[key][:100000], length=len(image.blobs[key]))
                return True
            return False
        reference = self.evil.add("evil/truncated", image)
        self.evil.hook = hook
        with self.refused("Unavailable", "RegistryUnavailable", "evil/truncated"):
            self.pull(reference)

    def test_truncated_layer(self):
        image = oci.Image([oci.Layer().add("f", os.urandom(200000))])
        layer = image.value["layers"][0]
        data = image.blobs[layer["digest"]][:100000]
        image.value["layers"][0] = image._blob(layer["mediaType"], data)
        with self.refused("DataLoss", "truncated"):
            self.pull(self.evil.add("evil/cut", image))

    def test_more_bytes_than_told(self):
        image = oci.Image([oci.Layer().add("f", os.urandom(50000))])
        image.value["layers"][0]["size"] -= 1000
        with self.refused("DataLoss"):
            self.pull(self.evil.add("evil/more", image))

    def test_layer_that_is_no_archive(self):
        image = oci.Image([oci.Layer().add("f", "x")])
        image.value["layers"][0] = image._blob(oci.OCI_LAYER + "+gzip", os.urandom(5000))
        with self.refused("DataLoss", "archive"):
            self.pull(self.evil.add("evil/garbage", image))

    def test_path_escape(self):
        target = self.outside("dotdot")
        with self.refused("DataLoss", target.name, "leaves the root"):
            self.pull(self.serve(oci.Layer().add("../" * 20 + str(target)[1:], "evil"), "dotdot"))
        self.assertFalse(target.exists())

    def test_symlink_swap(self):
        target = self.outside("swap")
        layer = oci.Layer().symlink("door", "/tmp").add(f"door/{target.name}", "evil")
        self.kept_inside(self.serve(layer, "swap"), target, f"tmp/{target.name}")

    def test_symlink_from_a_lower_layer(self):
        target = self.outside("lower")
        image = oci.Image([catalog.busybox_layer(), oci.Layer().symlink("door", "/tmp"),
                           oci.Layer().add(f"door/{target.name}", "evil")])
        # A layer is unpacked by itself: its `door` is a directory, which hides the symlink of the lower layer.
        self.kept_inside(self.evil.add("evil/lower", image), target, f"door/{target.name}")

    def test_hardlink_escape(self):
        target = self.outside("hard")
        target.write_text("secret")
        for name in ("../" * 20 + str(target)[1:], str(target)):
            with self.subTest(name=name), self.refused("DataLoss", "hard link"):
                self.pull(self.serve(oci.Layer().hardlink("stolen", name).add("pad", name), "hard"))
        self.assertEqual(os.stat(target).st_nlink, 1)

    def test_hardlink_through_a_symlink(self):
        target = self.outside("hardsym")
        target.write_text("secret")
        with self.refused("DataLoss", "hard link", f"door/{target.name}"):
            self.pull(self.serve(oci.Layer().symlink("door", "/tmp").hardlink("stolen", f"door/{target.name}"), "hardsym"))
        self.assertEqual(os.stat(target).st_nlink, 1)

    def test_whiteout_escape(self):
        target = self.outside("wh")
        target.write_text("keep")
        reference = self.serve(oci.Layer().symlink("door", "/tmp").add(f"door/.wh.{target.name}", ""), "whiteout")
        self.pull(reference)
        self.assertEqual(target.read_text(), "keep")
        self.server.crictl("rmi", reference)
        with self.refused("DataLoss", "hides nothing"):
            self.pull(self.serve(oci.Layer().symlink("door", "/tmp").add("door/.wh..", ""), "whiteout-of-a-parent"))
        self.assertEqual(target.read_text(), "keep")

    def test_bomb(self):
        """A layer of a few hundred kB that unpacks to 200 GB of zeros."""
        header = tarfile.TarInfo("bomb")
        header.size = 200 << 30
        layer = oci.Layer()
        zeros = subprocess.run(["zstd", "-q", "-c", "-19", "--long=27"], input=header.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20),
                               stdout=subprocess.PIPE, check=True).stdout
        image = oci.Image([catalog.busybox_layer(), layer])
        frame = subprocess.run(["zstd", "-q", "-c", "-19"], input=bytes(64 << 20), stdout=subprocess.PIPE, check=True).stdout
        image.value["layers"][1] = image._blob(oci.OCI_LAYER + "+zstd", zeros + frame * 3200)
        began = time.monotonic()
        with self.refused("DataLoss", "decompression bomb"):
            self.pull(self.evil.add("evil/bomb", image))
        self.assertLess(time.monotonic() - began, secs(50))

    def test_manifest_that_is_no_json(self):
        with self.refused("DataLoss", "image manifest"):
            self.pull(self.evil.add_raw("evil/json", oci.OCI_MANIFEST, b"{nonsense"))

    def test_manifest_that_is_too_large(self):
        with self.refused("DataLoss", "more than 4194304 bytes"):
            self.pull(self.evil.add_raw("evil/huge", oci.OCI_MANIFEST, b" " * (9 << 20)))

    def test_schema_1_is_refused_in_words(self):
        with self.refused("Unimplemented", "schema 1"):
            self.pull(self.evil.add_raw("evil/v1", "application/vnd.docker.distribution.manifest.v1+prettyjws",
                                        b'{"schemaVersion": 1, "name": "x", "fsLayers": []}'))

    def test_no_image_for_this_platform(self):
        with self.refused("NotFound", "amd64"):
            self.pull(f"{REGISTRY}/test/only-arm64:1")

    def test_container_of_an_image_that_is_not_there(self):
        pod = self.server.runp()
        with self.refused("NotFound", "test/none"):
            pod.create(["true"], image=f"{REGISTRY}/test/none:1")

    def kept_inside(self, reference, target, place):
        """The pull succeeds, and the file lies below a layer's own root, at `place`; outside there is none."""
        self.pull(reference)
        names = [str(p).split("/fs/", 1)[1] for p in below(self.server.state_dir / "images" / "layers")
                 if p.name == target.name]
        self.server.crictl("rmi", reference)
        self.assertEqual(names, [place])
        self.assertFalse(target.exists())


class DiskFull(Case):
    images = ()

    def test_pull_onto_a_full_disk(self):
        registry()
        server = Server()
        self.addCleanup(server.destroy)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", server.state_dir], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", server.state_dir])
        try:
            server.start()
            with self.refused("ResourceExhausted"):
                server.crictl("pull", f"{REGISTRY}/test/large:1")
            # The failed pull may keep its part for later, as long as a small image still fits.
            server.crictl("pull", BUSYBOX)
            self.assertEqual(len(server.json("images", "-o", "json")["images"]), 1)
            self.assertIsNone(server.process.poll(), "the server must live on")
        except BaseException:
            save_logs(server, self.id())
            raise
