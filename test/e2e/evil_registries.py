# SPDX-License-Identifier: Apache-2.0
"""Hostile behaviours of a registry. `world` is test_evil.World."""

import json
import socket
import threading
import time

from evil import hostile
from harness import oci, secs

registry = hostile("registry")


def image(text="x"):
    return oci.Image([oci.Layer().add("f", text)], {"Cmd": ["/f"]})


def layer_of(image):
    return oci.digest(image.layers[0].blob)


def served(world, function, part="/manifests/", thing=None):
    """The reference of an image; `function(handler)` answers in the registry's place where the path holds `part`."""
    thing = thing or image()
    reference = world.registry.add("evil/registry", thing)

    def hook(handler):
        if part not in handler.path:
            return False
        function(handler)
        return True
    world.registry.hook = hook
    return reference


def raw(text):
    """Answers with these bytes, and ends the connection."""
    def answer(handler):
        handler.close_connection = True
        handler.connection.sendall(text if isinstance(text, bytes) else text.encode())
        handler.connection.shutdown(socket.SHUT_RDWR)
    return answer


def endless(head, part):
    """Answers with the head, then with the part for ever."""
    def answer(handler):
        handler.close_connection = True
        try:
            handler.connection.sendall(head)
            while True:
                handler.connection.sendall(part)
        except OSError:
            pass
    return answer


# ---- HTTP ------------------------------------------------------------------------------------------------------------

@registry
def a_status_line_of_noise(world):
    """What answers is no HTTP server."""
    world.pull(served(world, raw(b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(range(256)))))


@registry
def headers_without_end(world):
    """One header line after the other, for ever."""
    world.pull(served(world, endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 4096 + b"\r\n")), seconds=40)


@registry
def one_header_of_100_mib(world):
    """A header line that does not end."""
    world.pull(served(world, endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"z" * 65536)), seconds=40)


@registry
def a_manifest_without_end(world):
    """A manifest in chunks, for ever."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + oci.OCI_MANIFEST.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    world.pull(served(world, endless(head, b"10000\r\n" + b" " * 65536 + b"\r\n")), "DataLoss", "4194304")


@registry
def a_blob_without_end(world):
    """A layer in chunks, for ever, where the manifest says some hundred bytes."""
    world.pull(served(world, endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
                      "/blobs/"), "DataLoss", "more than")


@registry
def lengths_that_cannot_be(world):
    """Content-Length is negative, above 2^63, no number, and there twice."""
    for value in ("-1", "99999999999999999999999", "ten", "5\r\nContent-Length: 7"):
        world.pull(served(world, raw(f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello")))


@registry
def a_manifest_that_unpacks_to_64_mib(world):
    """A Content-Encoding of gzip that nobody asked for, on a small body."""
    import gzip
    body = gzip.compress(b" " * (64 << 20))
    world.pull(served(world, lambda h: h.reply(200, body, {"Content-Type": oci.OCI_MANIFEST, "Content-Encoding": "gzip"})))


@registry
def chunks_that_lie(world):
    """A chunk of 2^64-1 bytes."""
    world.pull(served(world, raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello")))


@registry
def a_thousand_informational_answers(world):
    """Status 103 a thousand times, then nothing."""
    world.pull(served(world, raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000)))


# ---- silence ---------------------------------------------------------------------------------------------------------

@registry
def silence(world):
    """A registry that takes a request and never answers: the pull ends when its caller leaves."""
    ended = threading.Event()
    began = time.monotonic()
    world.pull(served(world, lambda h: ended.wait(secs(30))), "DeadlineExceeded", seconds=3)
    world.case.assertLess(time.monotonic() - began, secs(10))
    ended.set()


@registry
def a_byte_a_second(world):
    """A manifest that drips (fault R shows its end in test_pull): meanwhile another image is pulled."""
    ended = threading.Event()

    def drip(handler):
        handler.close_connection = True
        handler.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not ended.wait(0.5):
            try:
                handler.connection.sendall(b" ")
            except OSError:
                return
    world.pull(served(world, drip, "evil/registry/manifests/"), "DeadlineExceeded", seconds=3)
    good = world.registry.add("evil/good", image("good"))
    world.server.crictl("pull", good)
    world.server.crictl("rmi", good)
    ended.set()


@registry
def connections_that_end_at_once(world):
    """Every connection is reset after the request."""
    world.pull(served(world, raw(b"")), "Unavailable")


@registry
def always_busy(world):
    """429 with a Retry-After of ten thousand years."""
    world.pull(served(world, lambda h: h.reply(429, b"{}", {"Retry-After": "315360000000"})), seconds=5)


# ---- redirects and logins --------------------------------------------------------------------------------------------

@registry
def redirects_in_a_circle(world):
    """A blob that is always elsewhere."""
    world.pull(served(world, lambda h: h.reply(307, b"", {"Location": h.path + "x"}), "/blobs/"))


@registry
def a_redirect_to_a_file(world):
    """A blob whose place is file:///etc/shadow, and one that is a gopher's, and one of a UNIX socket."""
    for place in ("file:///etc/shadow", "gopher://127.0.0.1:22/x", "unix:///run/docker.sock", "ftp://127.0.0.1/x", "//", "http://"):
        world.pull(served(world, lambda h, place=place: h.reply(307, b"", {"Location": place}), "/blobs/"))


@registry
def a_login_without_end(world):
    """401 for every request, with a realm of its own each time, and tokens that are never taken."""
    count = [0]

    def hook(handler):
        count[0] += 1
        if "/token" in handler.path:
            handler.reply(200, json.dumps({"token": f"t{count[0]}"}).encode())
        else:
            realm = f"http://{world.registry.host}/token{count[0]}"
            handler.reply(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
        return True
    world.registry.add("evil/registry", image())
    world.registry.hook = hook
    world.pull(f"{world.registry.host}/evil/registry:1", "Unauthenticated")
    world.case.assertLess(count[0], 30)


@registry
def a_token_of_100_mib(world):
    """The token server's answer does not end."""
    def hook(handler):
        if "/token" in handler.path:
            endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"t" * 65536 + b"\r\n")(handler)
        else:
            handler.reply(401, b"{}", {"WWW-Authenticate": f'Bearer realm="http://{world.registry.host}/token"'})
        return True
    world.registry.hook = hook
    world.pull(f"{world.registry.host}/evil/registry:1")


@registry
def a_challenge_that_is_noise(world):
    """WWW-Authenticate with open quotes, a realm that is a file, and 60 KiB of parameters."""
    for challenge in ('Bearer realm="', 'Bearer realm="file:///etc/shadow"', "Bearer " + 'a="b",' * 10000, "Negotiate", ",,,=,="):
        world.pull(served(world, lambda h, challenge=challenge: h.reply(401, b"{}", {"WWW-Authenticate": challenge})))


@registry
def a_redirect_that_asks_for_the_password(world):
    """The host that a blob is redirected to answers 401, with a realm of its own (fault E): it gets no credentials."""
    from evil import EvilRegistry
    thief = EvilRegistry(5002)
    seen = []
    try:
        def steal(handler):
            seen.append(handler.headers.get("Authorization"))
            handler.reply(401, b"{}", {"WWW-Authenticate": 'Basic realm="give"'})
            return True
        thief.hook = steal
        reference = served(world, lambda h: h.reply(307, b"", {"Location": f"http://{thief.host}/blob"}), "/blobs/")
        world.fails(None, world.server.crictl, "pull", "--creds", "ann:secret", reference)
        world.case.assertTrue(seen)
        world.case.assertEqual(set(seen), {None})
    finally:
        thief.close()


# ---- contents --------------------------------------------------------------------------------------------------------

def with_manifest(world, change, thing=None):
    thing = thing or image()
    change(thing.value)
    return world.registry.add("evil/registry", thing)


@registry
def other_bytes_than_the_digest(world):
    """A layer with one bit changed."""
    thing = image()
    blob = thing.layers[0].blob
    world.pull(world.registry.add("evil/registry", thing, blobs={layer_of(thing): blob[:-1] + bytes([blob[-1] ^ 1])}), "DataLoss", "digest")
    world.registry.blobs.pop(layer_of(thing))


@registry
def another_manifest_than_the_digest(world):
    """A manifest under a digest that is not its own."""
    wrong = "sha256:" + "0" * 64
    thing = image()
    world.registry.add("evil/registry", thing)
    world.registry.blobs[wrong] = (thing.media_type, thing.manifest)
    world.pull(f"{world.registry.host}/evil/registry@{wrong}", "DataLoss", "digest")


@registry
def digests_that_are_paths(world):
    """Digests with dots and slashes, of another length, of another algorithm: none becomes a file's name."""
    for bad in ("sha256:../../../../../../etc/passwd", "sha256:" + "/" * 64, "sha256:" + "0" * 63, "sha256:" + "g" * 64, "md5:" + "0" * 32,
                "sha256:" + "0" * 64 + "\0", ""):
        world.pull(with_manifest(world, lambda v, bad=bad: v["layers"][0].update(digest=bad)), "DataLoss")
        world.pull(with_manifest(world, lambda v, bad=bad: v["config"].update(digest=bad)), "DataLoss")


@registry
def sizes_that_cannot_be(world):
    """A layer of -1, 2^63, 1e300 bytes, of text, and of 8 EiB."""
    for size in (-1, 1 << 63, 1e300, "12", (1 << 63) - 1):
        world.pull(with_manifest(world, lambda v, size=size: v["layers"][0].update(size=size)))


@registry
def a_hundred_thousand_layers(world):
    """A manifest that names one layer a hundred thousand times."""
    world.pull(with_manifest(world, lambda v: v.update(layers=v["layers"] * 20000)))


@registry
def an_index_of_itself(world):
    """An index whose one entry is an index, and so on: no manifest is ever reached."""
    inner = oci.dump({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []})
    for _ in range(20):
        outer = oci.dump({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [
            {"mediaType": oci.OCI_INDEX, "digest": oci.digest(inner), "size": len(inner),
             "platform": {"architecture": "amd64", "os": "linux"}}]})
        world.registry.blobs[oci.digest(inner)] = (oci.OCI_INDEX, inner)
        inner = outer
    world.pull(world.registry.add_raw("evil/registry", oci.OCI_INDEX, inner))


@registry
def json_that_is_deep(world):
    """A manifest of a million opening brackets, and one with a million keys."""
    for body in (b"[" * 1000000, b'{"a":' * 500000, b"{" + b",".join(b'"%d":0' % n for n in range(200000)) + b"}"):
        world.pull(world.registry.add_raw("evil/registry", oci.OCI_MANIFEST, body), "DataLoss")


@registry
def types_that_do_not_fit(world):
    """A manifest whose parts are of other JSON types than the specification's."""
    for change in ({"layers": {}}, {"layers": [[]]}, {"layers": [None]}, {"config": []}, {"config": None}, {"schemaVersion": []},
                   {"layers": "sha256"}, {"mediaType": oci.OCI_INDEX}):
        world.pull(with_manifest(world, lambda v, change=change: v.update(change)))


@registry
def a_part_of_a_range(world):
    """After a cut the rest of a layer is asked for, and another part comes: the digest does not fit."""
    thing = oci.Image([oci.Layer(None).add("big", bytes(range(256)) * 800)])
    blob = thing.layers[0].blob
    asked = []

    def answer(handler):
        asked.append(handler.headers.get("Range"))
        handler.close_connection = True
        if asked[-1] is None:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(blob)}\r\n\r\n"
            handler.connection.sendall(head.encode() + blob[:100000])
        else:
            begin = int(asked[-1][6:-1])
            head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {begin}-{len(blob) - 1}/{len(blob)}\r\nContent-Length: {len(blob) - begin}\r\n\r\n"
            handler.connection.sendall(head.encode() + bytes(len(blob) - begin))
        handler.connection.shutdown(socket.SHUT_RDWR)
    world.pull(served(world, answer, layer_of(thing), thing), "DataLoss", "digest")
    world.case.assertGreater(len(asked), 1)
