# SPDX-License-Identifier: Apache-2.0
"""The base of the image store's tests: a network and mount namespace, registries, and the store behind imagectl."""

import atexit
import base64
import ctypes
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "images"))

import oci  # noqa: E402

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
_isolated = False


def isolate():
    """A network with a loopback only, and own mounts, for this thread and for every process that it starts."""
    global _isolated
    if _isolated:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare (run as root)")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _isolated = True


def imagectl():
    path = os.path.join(os.environ.get("CRV_BUILD", ""), "imagectl")
    if not os.access(path, os.X_OK):
        raise AssertionError(f"CRV_BUILD names no directory with imagectl: {path}")
    return path


class Failure(Exception):
    def __init__(self, answer):
        super().__init__(f"{answer['error']}: {answer['message']}")
        self.status, self.message = answer["error"], answer["message"]


class Store:
    """A state directory and the hosts.toml files beside it."""

    def __init__(self, root):
        self.root = root
        self.state, self.hosts = os.path.join(root, "state"), os.path.join(root, "hosts")
        os.makedirs(self.hosts, exist_ok=True)
        self.log = ""

    def start(self, *args, env=None):
        return subprocess.Popen([imagectl(), self.state, self.hosts, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env={**os.environ, **{f"IMAGECTL_{k}": v for k, v in (env or {}).items()}})

    def finish(self, process, timeout=60):
        out, self.log = process.communicate(timeout=timeout)
        if process.returncode == 1 and out.startswith("{"):
            raise Failure(json.loads(out.splitlines()[0]))
        if process.returncode != 0:
            raise AssertionError(f"imagectl ended with {process.returncode}:\n{out}{self.log}")
        return json.loads(out)

    def __call__(self, *args, env=None):
        return self.finish(self.start(*args, env=env))

    def hosts_toml(self, host, text):
        path = os.path.join(self.hosts, host)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "hosts.toml"), "w") as f:
            f.write(text)
        return path

    def files(self, what):
        try:
            return sorted(os.listdir(os.path.join(self.state, "images", what)))
        except FileNotFoundError:
            return []

    @property
    def blobs(self):
        return self.files("blobs/sha256")

    @property
    def layers(self):
        return self.files("layers")


def read(path):
    with open(path) as f:
        return f.read()


class TestCase(unittest.TestCase):
    def setUp(self):
        isolate()
        self.root = self.new_root()
        self.store = Store(self.root)

    def new_root(self):
        """The directory that holds the store and the containers' roots."""
        root = tempfile.mkdtemp(prefix="crv-image-")
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        return root

    def assertFails(self, status, part, *args, **kw):
        if not part:
            raise TypeError("a failure has words to look for")
        with self.assertRaises(Failure) as caught:
            self.store(*args, **kw)
        self.assertEqual(caught.exception.status, status, caught.exception.message)
        self.assertIn(part, caught.exception.message)
        return caught.exception.message

    def mount(self, image, container="c1"):
        target = os.path.join(self.root, "rootfs-" + container)
        os.makedirs(target, exist_ok=True)
        self.store("mount", image, container, target)
        self.addCleanup(subprocess.run, ["umount", "-l", target], stderr=subprocess.DEVNULL)
        return target


# ---- a scripted registry ---------------------------------------------------------------------------------------------


class Registry:
    """Serves manifests and blobs from memory; `hook(handler)` sees each request first and returns True if it has answered."""

    def __init__(self, tls=None):
        self.manifests, self.blobs, self.requests, self.hook = {}, {}, [], None
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                registry.requests.append((self.path, dict(self.headers)))
                if not (registry.hook and registry.hook(self)):
                    registry.serve(self)

            def do_POST(self):
                self.form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self.do_GET()

            def reply(self, status, body=b"", **headers):
                body = body if isinstance(body, bytes) else body.encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def cut(self):
                """Ends the connection in the middle of the answer."""
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *args):
                pass

            def handle(self):
                try:
                    super().handle()
                except (ConnectionError, ssl.SSLError, OSError):
                    pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, image, name="app", tag="latest"):
        self.blobs.update(image.blobs)
        for part in [*image.parts(), image]:
            self.manifests[f"{name}/{oci.digest(part.manifest)}"] = part
        self.manifests[f"{name}/{tag}"] = image
        return f"{self.host}/{name}:{tag}"

    def serve(self, h):
        path = h.path.split("?")[0]
        if "/manifests/" in path:
            key = path[len("/v2/"):].replace("/manifests/", "/")
            if key in self.manifests:
                found = self.manifests[key]
                return h.reply(200, found.manifest, Content_Type=found.media_type)
        elif "/blobs/" in path:
            data = self.blobs.get(path.rsplit("/", 1)[1])
            if data is not None:
                return self.serve_blob(h, data)
        return h.reply(404, '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
                       Content_Type="application/json")

    def serve_blob(self, h, data):
        ranged = h.headers.get("Range")
        if ranged:
            start = int(ranged.split("=")[1].split("-")[0])
            if start >= len(data):
                return h.reply(416)
            return h.reply(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        return h.reply(200, data)

    def blob_requests(self):
        return [path for path, _ in self.requests if "/blobs/" in path]


# ---- Debian's docker-registry ---------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class DockerRegistry:
    """A real docker-registry, with its storage in a directory of its own."""

    def __init__(self, root, tls=None, htpasswd=None):
        if not shutil.which("docker-registry"):
            raise AssertionError("docker-registry is missing: run deploy/setup")
        self.host = f"127.0.0.1:{free_port()}"
        config = os.path.join(root, "registry.yml")
        extra = ""
        if tls:
            extra += f"  tls:\n    certificate: {tls[0]}\n    key: {tls[1]}\n"
        if htpasswd:
            extra += f"auth:\n  htpasswd:\n    realm: here\n    path: {htpasswd}\n"
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n"
                    f"    rootdirectory: {root}/registry\nhttp:\n  addr: {self.host}\n{extra}")
        self.log = open(os.path.join(root, "registry.log"), "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=self.log, stderr=self.log)
        atexit.register(self.close)
        self.await_port()

    def await_port(self):
        host, port = self.host.split(":")
        for _ in range(200):
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise AssertionError(f"docker-registry ended: see {self.log.name}")
                threading.Event().wait(0.05)
        raise AssertionError("docker-registry does not answer")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        self.log.close()


def certificate(root):
    """A self-signed certificate for 127.0.0.1: (certificate, key)."""
    cert, key = os.path.join(root, "cert.pem"), os.path.join(root, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cert, key


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
