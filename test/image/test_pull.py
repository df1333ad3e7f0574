# SPDX-License-Identifier: Apache-2.0
"""Pulling: from Debian's docker-registry and from registries that misbehave."""

import json
import os
import re
import signal
import ssl
import stat
import subprocess
import threading
import time
import unittest

import harness
from harness import DockerRegistry, Registry, TestCase, basic, certificate, oci

SOON = 0.4  # 0.1 s for the pull, the rest for the end of a process under sanitizers


def small(text="hello\n", **config):
    return oci.Image([oci.Layer().dir("etc").add("etc/motd", text)], config or {"Cmd": ["/none"]})


class RealRegistry(TestCase):
    """Against docker-registry: its own handling of manifests, ranges and logins."""

    def test_tag_digest_and_platform(self):
        registry = DockerRegistry(self.root)
        self.addCleanup(registry.close)
        two = oci.Image([oci.Layer().dir("a").add("a/one", "1"), oci.Layer("zstd").add("a/two", "2"), oci.Layer(None).add("b", "3")],
                        {"Env": ["A=b"], "Cmd": ["x", "y"], "User": "app", "WorkingDir": "/w", "Labels": {"k": "v"},
                         "Volumes": {"/data": {}}})
        index = oci.Index([oci.Image([oci.Layer().add("arm", "")], architecture="arm64"), two])
        oci.push(index, registry.host, "team/app", "v1")
        oci.push(oci.Image(two.layers[:1], docker=True), registry.host, "team/docker", "v2")
        ref = f"{registry.host}/team/app"

        self.assertEqual(self.store("pull", f"{ref}:v1"), [two.id])
        top = oci.digest(index.manifest)
        image = self.store("get", f"{ref}:v1")
        self.assertEqual(image["id"], two.id)
        self.assertEqual(image["tags"], [f"{ref}:v1"])
        self.assertEqual(image["digests"], [f"{ref}@{top}"])
        self.assertEqual(image["size"], len(two.config_blob) + sum(len(l.blob) for l in two.layers))
        self.assertEqual((image["env"], image["cmd"], image["user"], image["cwd"]), (["A=b"], ["x", "y"], "app", "/w"))
        self.assertEqual((image["labels"], image["volumes"]), (["k", "v"], ["/data"]))

        self.assertEqual(self.store("pull", f"{ref}@{top}"), [two.id])
        for name in (two.id, two.id[7:20], f"{ref}@{top}", f"{ref}:v9@{top}"):
            self.assertEqual(self.store("get", name)["id"], two.id, name)
        self.store("pull", f"{registry.host}/team/docker:v2")
        self.assertEqual(len(self.store("list")), 2)

        root = self.mount(f"{ref}:v1")
        self.assertEqual(sorted(os.listdir(root)), ["a", "b"])
        self.assertEqual(sorted(os.listdir(root + "/a")), ["one", "two"])

    def test_basic_login(self):
        htpasswd = os.path.join(self.root, "htpasswd")
        subprocess.run(["htpasswd", "-Bbc", htpasswd, "user", "secret"], check=True, stderr=subprocess.DEVNULL)
        open_registry = DockerRegistry(self.root)
        image = small()
        oci.push(image, open_registry.host, "app", "v1")
        open_registry.close()
        registry = DockerRegistry(self.root, htpasswd=htpasswd)
        self.addCleanup(registry.close)
        ref = f"{registry.host}/app:v1"
        self.assertFails("Unauthenticated", "asks for credentials", "pull", ref)
        message = self.assertFails("Unauthenticated", "refuses the credentials", "pull", ref,
                                   env={"USER": "user", "PASSWORD": "wr0ng"})
        self.assertNotIn("wr0ng", message + self.store.log)
        self.assertFails("Unauthenticated", "asks for credentials", "pull", ref,
                         env={"USER": "user", "PASSWORD": "secret", "SERVER": "other.example"})
        self.assertEqual(self.store("pull", ref, env={"AUTH": basic("user", "secret")[6:]}), [image.id])
        self.assertEqual(self.store("pull", ref, env={"USER": "user", "PASSWORD": "secret", "SERVER": f"http://{registry.host}/v1/"}),
                         [image.id])
        self.assertNotIn("secret", self.store.log)

    def test_tls_with_configured_authority(self):
        tls = certificate(self.root)
        plain = DockerRegistry(self.root)
        image = small()
        oci.push(image, plain.host, "app", "v1")
        plain.close()
        registry = DockerRegistry(self.root, tls=tls)
        self.addCleanup(registry.close)
        # Without configuration, TLS to a loopback registry is not verified; with configuration it is.
        self.assertEqual(self.store("pull", f"{registry.host}/app:v1"), [image.id])
        self.store.hosts_toml("example.test", f'server = "https://{registry.host}"\n')
        self.assertFails("Unavailable", "RegistryUnavailable: pulling image", "pull", "example.test/app:v1")
        path = self.store.hosts_toml("example.test", f'server = "https://{registry.host}"\nca = "ca.pem"\n')
        os.link(tls[0], path + "/ca.pem")
        self.assertEqual(self.store("pull", "example.test/app:v1"), [image.id])


class Scripted(TestCase):
    def setUp(self):
        super().setUp()
        self.registry = self.make()

    def make(self, **kw):
        registry = Registry(**kw)
        self.addCleanup(registry.close)
        return registry


class Names(Scripted):
    def test_moved_tag_leaves_the_old_image_its_digest(self):
        old, new = small("old"), small("new")
        ref = self.registry.add(old)
        self.store("pull", ref)
        self.registry.add(new)
        self.store("pull", ref)
        self.assertEqual(self.store("get", old.id)["tags"], [])
        self.assertEqual(len(self.store("get", old.id)["digests"]), 1)
        self.assertEqual(self.store("get", ref)["id"], new.id)

    def test_remove_takes_all_names_and_files(self):
        one, other = small("one"), small("other")
        a, b = self.registry.add(one, tag="a"), self.registry.add(one, tag="b")
        keep = self.registry.add(other, tag="keep")
        self.store("pull", a, b, keep)
        self.assertEqual(len(self.store("get", one.id)["tags"]), 2)
        self.store("remove", a)
        self.assertFails("NotFound", "not found", "get", b)
        self.assertEqual([i["id"] for i in self.store("list")], [other.id])
        self.assertEqual(len(self.store.blobs), 3)
        self.assertEqual(len(self.store.layers), 1)
        self.store("remove", a)
        self.store("remove", other.id[7:20])
        self.assertEqual((self.store.blobs, self.store.layers), ([], []))

    def test_no_such_image(self):
        message = self.assertFails("NotFound", "manifest unknown", "pull", f"{self.registry.host}/none:v1")
        self.assertIn(f"{self.registry.host}/none:v1", message)
        self.assertEqual(self.store.blobs, [])

    def test_bad_references(self):
        for ref, part in (("UPPER", "lower case"), ("a b", "0x20"), ("", "empty"), ("x:", "tag"), ("x@sha256:12", "digest"),
                          ("-x/y", "[a-z0-9]"), ("x//y", "[a-z0-9]"), ("a" * 64, "is an id")):
            self.assertFails("InvalidArgument", part, "pull", ref)

    def test_registry_down(self):
        self.registry.close()
        message = self.assertFails("Unavailable", self.registry.host, "pull", f"{self.registry.host}/app:v1")
        self.assertTrue(message.startswith("RegistryUnavailable"), message)


class Joining(Scripted):
    def test_the_same_image_at_once_is_fetched_once(self):
        image = small("x" * 100000)
        ref = self.registry.add(image)
        gate = threading.Event()
        threading.Timer(0.5, gate.set).start()
        self.registry.hook = lambda h: "/blobs/" in h.path and not gate.wait(5)
        self.assertEqual(self.store("pull", *[ref] * 8), [image.id] * 8)
        self.assertEqual(len(self.registry.requests), 3)

    def test_a_shared_layer_is_fetched_once(self):
        layer = oci.Layer().add("shared", "x" * 100000)
        images = [oci.Image([layer, oci.Layer().add("own", str(i))]) for i in range(4)]
        refs = [self.registry.add(image, tag=f"t{i}") for i, image in enumerate(images)]
        gate = threading.Event()
        threading.Timer(0.3, gate.set).start()
        self.registry.hook = lambda h: oci.digest(layer.blob) in h.path and not gate.wait(5)
        self.store("pull", *refs)
        asked = [p for p in self.registry.blob_requests() if oci.digest(layer.blob) in p]
        self.assertEqual(len(asked), 1)
        self.assertEqual(len(self.store.layers), 5)

    def blocked(self, image):
        """The image in a registry that never answers for its layer: the reference, and an event once it is asked."""
        ref = self.registry.add(image)
        asked, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        self.registry.hook = lambda h: oci.digest(image.layers[0].blob) in h.path and (asked.set(), not gate.wait(30))[1]
        return ref, asked, gate

    def assertCancelled(self, process, within=SOON):
        began = time.monotonic()
        with self.assertRaises(harness.Failure) as caught:
            self.store.finish(process, timeout=10)
        self.assertLess(time.monotonic() - began, within)
        self.assertEqual(caught.exception.status, "Cancelled")
        self.assertIn("interrupted", caught.exception.message)

    def test_cancelled_in_a_request(self):
        ref, asked, _ = self.blocked(small())
        process = self.store.start("pull", ref)
        self.assertTrue(asked.wait(10))
        process.terminate()
        self.assertCancelled(process)

    def test_cancelled_while_it_waits_to_try_again(self):
        image = small()
        ref = self.registry.add(image)
        asked = threading.Event()

        def hook(h):
            if oci.digest(image.layers[0].blob) not in h.path:
                return False
            h.send_response(503)
            h.send_header("Retry-After", "20")
            h.send_header("Content-Length", "0")
            h.end_headers()
            asked.set()
            return True

        self.registry.hook = hook
        process = self.store.start("pull", ref)
        self.assertTrue(asked.wait(10))
        time.sleep(0.2)
        process.terminate()
        self.assertCancelled(process)

    def test_cancelled_while_another_pull_fetches_its_blob(self):
        layer = oci.Layer(None).add("shared", b"x" * 5000)
        one, other = oci.Image([layer]), oci.Image([layer], {"Env": ["A=1"]})
        ref, asked, _ = self.blocked(one)
        refs = [self.registry.add(other, "other"), ref]
        process = self.store.start("pull", *refs)
        self.assertTrue(asked.wait(10))
        time.sleep(0.2)
        process.terminate()
        self.assertCancelled(process)

    def test_cancelled_while_it_unpacks(self):
        layer = oci.Layer(None)
        for i in range(30000):
            layer.add(f"d{i % 100}/f{i}", b"x")
        process = self.store.start("pull", self.registry.add(oci.Image([layer])))
        deadline = time.monotonic() + 20
        while not any(len(os.listdir(f"{self.store.state}/images/layers/{d}/fs")) > 0 for d in self.store.layers
                      if os.path.isdir(f"{self.store.state}/images/layers/{d}/fs")):
            self.assertLess(time.monotonic(), deadline)
        process.terminate()
        # What was unpacked goes before imagectl ends.
        self.assertCancelled(process, within=2)
        self.assertEqual(self.store.layers, [])

    def test_first_caller_leaves_and_the_second_gets_the_image(self):
        ref, asked, gate = self.blocked(small())
        process = self.store.start("pull", ref, ref)
        self.assertTrue(asked.wait(10))
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        self.assertIsNone(process.poll())
        self.registry.hook = None
        gate.set()
        # A caller whose thread does the work gets its result, although its call has ended.
        try:
            self.store.finish(process, timeout=10)
        except harness.Failure as e:
            self.assertEqual(e.status, "Cancelled")
        self.assertEqual(len(self.store("list")), 1)
        asked_for = [p for p in self.registry.blob_requests() if oci.digest(small().layers[0].blob) in p]
        self.assertEqual(len(asked_for), 1)


class Broken(Scripted):
    """Damaged and wrong blobs and manifests."""

    def pull_fails(self, status, part, image, name="app"):
        message = self.assertFails(status, part, "pull", self.registry.add(image, name))
        self.assertEqual(self.store("list"), [])
        self.assertEqual(self.store.layers, [])
        return message

    def test_resumes_where_the_connection_was_cut(self):
        data = os.urandom(300000)
        image = oci.Image([oci.Layer(None).add("big", data)])
        blob = image.layers[0].blob
        ref = self.registry.add(image)
        cuts = []

        def hook(h):
            if oci.digest(blob) not in h.path or len(cuts) >= 3:
                return False
            start = int((h.headers.get("Range") or "bytes=0-")[6:-1])
            cuts.append(start)
            h.send_response(206 if start else 200)
            h.send_header("Content-Length", str(len(blob) - start))
            if start:
                h.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
            h.end_headers()
            h.wfile.write(blob[start:start + 80000])
            h.cut()
            return True

        self.registry.hook = hook
        self.assertEqual(self.store("pull", ref), [image.id])
        self.assertEqual(cuts, sorted(set(cuts)))
        self.assertGreater(cuts[1], 0)

    def test_begins_anew_where_ranges_are_ignored(self):
        image = oci.Image([oci.Layer(None).add("big", os.urandom(200000))])
        blob = image.layers[0].blob
        ref = self.registry.add(image)
        state = {"n": 0}

        def hook(h):
            if oci.digest(blob) not in h.path:
                return False
            state["n"] += 1
            h.send_response(200)
            h.send_header("Content-Length", str(len(blob)))
            h.end_headers()
            h.wfile.write(blob if state["n"] > 1 else blob[:90000])
            h.cut()
            return True

        self.registry.hook = hook
        self.assertEqual(self.store("pull", ref), [image.id])
        self.assertEqual(state["n"], 2)

    def test_what_drips_is_not_waited_for(self):
        """Fault R: a registry that sends a byte now and then holds a pull, and its threads, for no longer than a silent one."""
        image = oci.Image([oci.Layer().add("big", os.urandom(300000))], {"Cmd": ["/none"]})
        ref = self.registry.add(image)
        ended, asked = threading.Event(), []

        def hook(h):
            if oci.digest(image.layers[0].blob) not in h.path:
                return False
            asked.append(h.path)
            h.send_response(200)
            h.send_header("Content-Length", str(len(image.layers[0].blob)))
            h.end_headers()
            for byte in image.layers[0].blob:
                h.wfile.write(bytes([byte]))
                h.wfile.flush()
                if ended.wait(0.1):
                    break
            return True

        self.registry.hook = hook
        self.addCleanup(ended.set)
        began = time.monotonic()
        self.assertFails("Unavailable", "RegistryUnavailable", "pull", ref, env={"STALL_S": "1"})
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(len(asked), 3, self.store.log)
        ended.set()
        self.registry.hook = None
        self.assertEqual(self.store("pull", ref), [image.id])

    def test_parts_survive_a_failed_pull(self):
        image = oci.Image([oci.Layer(None).add("big", os.urandom(200000))])
        blob = image.layers[0].blob
        ref = self.registry.add(image)

        def hook(h):
            if oci.digest(blob) not in h.path:
                return False
            if h.headers.get("Range"):
                h.reply(403)
                return True
            h.send_response(200)
            h.send_header("Content-Length", str(len(blob)))
            h.end_headers()
            h.wfile.write(blob[:90000])
            h.cut()
            return True

        self.registry.hook = hook
        self.assertFails("PermissionDenied", "access denied", "pull", ref)
        self.assertIn(oci.digest(blob)[7:] + ".part", self.store.blobs)
        self.registry.hook = None
        self.registry.requests.clear()
        self.store("pull", ref)
        ranges = [h["Range"] for p, h in self.registry.requests if "Range" in h]
        self.assertEqual(len(ranges), 1)
        self.assertNotEqual(ranges[0], "bytes=0-")

    def test_digest_mismatch(self):
        image = small()
        digest = oci.digest(image.layers[0].blob)
        ref = self.registry.add(image)
        good = self.registry.blobs[digest]
        self.registry.blobs[digest] = good[:-1] + bytes([good[-1] ^ 1])
        message = self.assertFails("DataLoss", "digest mismatch", "pull", ref)
        self.assertIn(digest, message)
        self.assertFalse([b for b in self.store.blobs if digest[7:] in b])

    def test_manifest_digest_mismatch(self):
        image = small()
        ref = self.registry.add(image)
        wrong = "sha256:" + "0" * 64
        self.registry.manifests[f"app/{wrong}"] = image
        self.assertFails("DataLoss", "digest mismatch", "pull", f"{self.registry.host}/app@{wrong}")

    def test_truncated_blob(self):
        image = small()
        digest = oci.digest(image.layers[0].blob)
        ref = self.registry.add(image)
        self.registry.hook = lambda h: digest in h.path and (h.reply(200, image.layers[0].blob[:50]) or True)
        self.assertFails("DataLoss", "truncated", "pull", ref)

    def test_more_bytes_than_told(self):
        image = small()
        digest = oci.digest(image.layers[0].blob)
        ref = self.registry.add(image)
        self.registry.hook = lambda h: digest in h.path and (h.reply(200, image.layers[0].blob + b"x" * 100000) or True)
        self.assertFails("DataLoss", "more than the", "pull", ref)

    def test_manifests_that_make_no_sense(self):
        def with_value(change):
            image = small()
            change(image.value)
            return image

        def both(v):
            v["manifests"] = []

        for change, status, part in (
            (both, "DataLoss", "both an index and a manifest"),
            (lambda v: v.update(schemaVersion=1), "Unimplemented", "schema 1"),
            (lambda v: v.update(schemaVersion=3), "DataLoss", "schemaVersion"),
            (lambda v: v["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"), "Unimplemented", "helm"),
            (lambda v: v["layers"][0].update(mediaType="application/x-thing"), "Unimplemented", "application/x-thing"),
            (lambda v: v["layers"][0].update(digest="md5:1"), "DataLoss", "sha256"),
            (lambda v: v["layers"][0].update(size=-1), "DataLoss", "size"),
            (lambda v: v["config"].update(size=1 << 30), "DataLoss", "limit"),
            (lambda v: v["layers"].clear(), "DataLoss", "layers"),
        ):
            self.pull_fails(status, part, with_value(change))

    def test_manifest_too_large_or_no_json(self):
        image = small()
        ref = self.registry.add(image)
        self.registry.hook = lambda h: "/manifests/" in h.path and (h.reply(200, b" " * (5 << 20)) or True)
        self.assertFails("DataLoss", "more than 4194304 bytes", "pull", ref)
        self.registry.hook = lambda h: "/manifests/" in h.path and (h.reply(200, b'{"schemaVersion": 2,') or True)
        self.assertFails("DataLoss", "image manifest", "pull", ref)
        self.registry.hook = lambda h: "/manifests/" in h.path and (h.reply(200, b"<html>") or True)
        self.assertFails("DataLoss", "image manifest", "pull", ref)

    def test_no_such_platform(self):
        index = oci.Index([oci.Image([], architecture="arm64")])
        self.pull_fails("NotFound", "linux/arm64", index)

    def test_diff_id_mismatch(self):
        image = small()
        other = oci.Image([oci.Layer().add("x", "y")])
        image.value["config"] = image._blob(oci.OCI_CONFIG, other.config_blob)
        self.pull_fails("DataLoss", "the image's config says", image)

    def test_server_errors_are_tried_again(self):
        image = small()
        ref = self.registry.add(image)
        state = {"n": 0}

        def hook(h):
            state["n"] += 1
            if state["n"] in (1, 3):
                h.reply(503)
                return True
            return False

        self.registry.hook = hook
        self.assertEqual(self.store("pull", ref), [image.id])
        self.registry.hook = lambda h: h.reply(500) or True
        self.assertFails("Unavailable", "HTTP 500", "pull", ref)


class Login(Scripted):
    """Bearer tokens, and where credentials must not go."""

    def guard(self, registry, token="t0ken", scheme=None):
        seen = []

        def hook(h):
            if h.path.startswith("/token"):
                seen.append((h.path, h.headers.get("Authorization"), getattr(h, "form", None)))
                h.reply(200, json.dumps({"token": token}), Content_Type="application/json")
                return True
            if h.headers.get("Authorization") == f"Bearer {token}":
                return False
            h.reply(401, WWW_Authenticate=scheme or
                    f'Bearer realm="http://{registry.host}/token",service="the, service",scope="repository:app:pull"')
            return True

        registry.hook = hook
        return seen

    def test_token(self):
        image = small()
        ref = self.registry.add(image)
        seen = self.guard(self.registry)
        self.assertEqual(self.store("pull", ref, env={"USER": "u", "PASSWORD": "p&w"}), [image.id])
        self.assertEqual(len(seen), 1)
        self.assertEqual(seen[0], ("/token?service=the%2C%20service&scope=repository%3Aapp%3Apull", basic("u", "p&w"), None))
        for word in ("t0ken", "p&w", "p%26w"):
            self.assertNotIn(word, self.store.log)

    def test_anonymous_token(self):
        image = small()
        ref = self.registry.add(image)
        seen = self.guard(self.registry)
        self.assertEqual(self.store("pull", ref), [image.id])
        self.assertEqual(seen[0][1], None)

    def test_identity_token(self):
        image = small()
        ref = self.registry.add(image)
        seen = self.guard(self.registry)
        self.assertEqual(self.store("pull", ref, env={"IDENTITY_TOKEN": "id/token"}), [image.id])
        self.assertEqual(seen[0][0], "/token")
        self.assertIn("grant_type=refresh_token", seen[0][2])
        self.assertIn("refresh_token=id%2Ftoken", seen[0][2])

    def test_registry_token(self):
        image = small()
        ref = self.registry.add(image)
        seen = self.guard(self.registry)
        self.assertEqual(self.store("pull", ref, env={"REGISTRY_TOKEN": "t0ken"}), [image.id])
        self.assertEqual(seen, [])

    def test_token_server_refuses(self):
        ref = self.registry.add(small())

        def hook(h):
            h.reply(401, WWW_Authenticate=f'Bearer realm="http://{self.registry.host}/token",service="s"')
            return True

        self.registry.hook = hook
        self.assertFails("Unauthenticated", "the token server refuses the credentials", "pull", ref,
                         env={"USER": "u", "PASSWORD": "p"})

    def test_redirect_takes_no_credentials_along(self):
        image = small()
        ref = self.registry.add(image)
        elsewhere = self.make()
        elsewhere.add(image)
        self.guard(self.registry)
        guarded = self.registry.hook

        def hook(h):
            if guarded(h):
                return True
            if "/blobs/" not in h.path:
                return False
            h.reply(307, Location=f"http://{elsewhere.host}{h.path}")
            return True

        self.registry.hook = hook
        self.assertEqual(self.store("pull", ref, env={"USER": "u", "PASSWORD": "p"}), [image.id])
        self.assertEqual(len(elsewhere.requests), 2)
        for _, headers in elsewhere.requests:
            self.assertNotIn("Authorization", headers)

    def test_a_challenge_counts_only_from_who_was_asked(self):
        """Fault E: where a registry sends a request may not ask for its credentials, nor name who gets them."""
        image = small()
        elsewhere, thief = self.make(), self.make()
        elsewhere.hook = lambda h: h.reply(401, WWW_Authenticate=f'Bearer realm="http://{thief.host}/token",service="s"') or True
        thief.hook = lambda h: h.reply(200, json.dumps({"token": "poison"}), Content_Type="application/json") or True
        ref = self.registry.add(image)
        self.guard(self.registry)
        guarded = self.registry.hook

        for what in ("/blobs/", "/manifests/"):
            for secret in ({"USER": "u", "PASSWORD": "p"}, {"IDENTITY_TOKEN": "id"}, {"REGISTRY_TOKEN": "t0ken"}):
                def hook(h, what=what):
                    return guarded(h) or what in h.path and (h.reply(307, Location=f"http://{elsewhere.host}{h.path}") or True)

                self.registry.hook = hook
                with self.subTest(what=what, secret=list(secret)):
                    self.assertFails("Unauthenticated", "authorization failed", "pull", ref, env=secret)
        self.assertGreater(len(elsewhere.requests), 5)
        for path, headers in elsewhere.requests:
            self.assertNotIn("Authorization", headers, path)
        self.assertEqual(thief.requests, [])
        for path, headers in self.registry.requests:
            self.assertNotIn("poison", headers.get("Authorization", ""), path)

    def test_a_blob_leaves_tls_only_where_that_is_configured(self):
        """Fault E: a redirect of a blob to plain HTTP is refused, unless that host is configured with http://."""
        image = small()
        plain = self.make()
        plain.add(image)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(self.root))
        registry = self.make(tls=context)
        ref = registry.add(image)
        registry.hook = lambda h: "/blobs/" in h.path and (h.reply(307, Location=f"http://{plain.host}{h.path}") or True)
        self.assertFails("Unavailable", "redirected from HTTPS to HTTP", "pull", ref)
        self.assertEqual(plain.requests, [])
        # Not by a host of another port, nor by a name that leads out of the directory.
        self.store.hosts_toml("127.0.0.1_1_", 'server = "http://127.0.0.1:1"\n')
        self.assertFails("Unavailable", "redirected from HTTPS to HTTP", "pull", ref)
        self.store.hosts_toml(plain.host.replace(":", "_") + "_", f'server = "http://{plain.host}"\n')
        self.assertEqual(self.store("pull", ref), [image.id])

    def test_redirect_loop(self):
        ref = self.registry.add(small())
        self.registry.hook = lambda h: h.reply(302, Location=h.path) or True
        self.assertFails("Unavailable", "redirects", "pull", ref)

    def test_mirror_gets_no_credentials(self):
        image = small()
        self.registry.add(image)
        self.store.hosts_toml("example.test", f'[host."http://{self.registry.host}"]\n')
        self.registry.hook = lambda h: h.reply(401, WWW_Authenticate='Basic realm="x"') or True
        self.store.hosts_toml("example.test", f'server = "http://127.0.0.1:1"\n[host."http://{self.registry.host}"]\n')
        self.assertFails("Unavailable", "127.0.0.1:1", "pull", "example.test/app:latest", env={"USER": "u", "PASSWORD": "p"})
        self.assertNotEqual(self.registry.requests, [], "the mirror was not asked")
        for _, headers in self.registry.requests:
            self.assertNotIn("Authorization", headers)


class Mirrors(Scripted):
    def test_hosts_in_the_files_order_and_fall_through(self):
        image = small()
        self.registry.add(image, name="team/app")
        dead, empty = f"127.0.0.1:{harness.free_port()}", self.make()
        self.store.hosts_toml("example.test", f'server = "http://{self.registry.host}"\n'
                              f'[host."http://zzz-{dead}"]\n[host."http://{dead}"]\n[host."http://{empty.host}"]\n'
                              'capabilities = ["pull", "resolve"]\n[host."http://127.0.0.1:1"]\ncapabilities = ["push"]\n')
        self.assertEqual(self.store("pull", "example.test/team/app"), [image.id])
        self.assertEqual(empty.requests[0][0], "/v2/team/app/manifests/latest?ns=example.test")
        self.assertEqual(self.store("get", "example.test/team/app")["tags"], ["example.test/team/app:latest"])

    def test_header_and_override_path(self):
        image = small()
        self.registry.add(image)
        self.store.hosts_toml("_default", f'[host."http://{self.registry.host}/cache/v2/deep"]\noverride_path = true\n'
                              f'[host."http://{self.registry.host}/cache/v2/deep".header]\nX-Key = "one"\nX-Many = ["a", "b"]\n')
        self.registry.hook = lambda h: setattr(h, "path", h.path.replace("/cache/v2/deep/library/", "/v2/"))
        self.assertEqual(self.store("pull", "app"), [image.id])
        path, headers = self.registry.requests[0]
        self.assertEqual(path, "/cache/v2/deep/library/app/manifests/latest?ns=docker.io")
        self.assertEqual((headers["X-Key"], headers["X-Many"]), ("one", "a"))
        self.assertEqual(self.store("get", "docker.io/library/app:latest")["id"], image.id)

    def test_a_mirror_that_only_resolves_not(self):
        image = small()
        ref = self.registry.add(image)
        mirror = self.make()
        mirror.add(image)
        self.store.hosts_toml(self.registry.host, f'server = "http://{self.registry.host}"\n'
                              f'[host."http://{mirror.host}"]\ncapabilities = ["pull"]\n')
        self.assertEqual(self.store("pull", ref), [image.id])
        self.assertFalse([p for p, _ in mirror.requests if "/manifests/" in p])
        self.assertEqual(len(mirror.blob_requests()), 2)
        self.assertEqual(self.registry.blob_requests(), [])

    def test_mirror_with_a_bad_copy(self):
        image = small()
        ref = self.registry.add(image)
        mirror = self.make()
        mirror.add(image)
        digest = oci.digest(image.layers[0].blob)
        mirror.blobs[digest] = b"x" * len(image.layers[0].blob)
        self.store.hosts_toml(self.registry.host, f'server = "http://{self.registry.host}"\n[host."http://{mirror.host}"]\n')
        self.assertEqual(self.store("pull", ref), [image.id])

    def test_faults_name_file_and_line(self):
        path = self.store.hosts_toml("example.test", '\n[host."ftp://x"]\ncapabilities = 3\n')
        self.assertFails("FailedPrecondition", f"{path}/hosts.toml:3: capabilities is not a list", "pull", "example.test/app")
        self.store.hosts_toml("example.test", 'server = "http://x\n')
        self.assertFails("FailedPrecondition", f"{path}/hosts.toml:1: ", "pull", "example.test/app")

    def test_alias_directory_for_ports(self):
        image = small()
        self.registry.add(image)
        self.store.hosts_toml("example.test_5000_", f'server = "http://{self.registry.host}"\n')
        self.assertEqual(self.store("pull", "example.test:5000/app"), [image.id])


if __name__ == "__main__":
    unittest.main()
