# SPDX-License-Identifier: Apache-2.0
"""What is hostile: the list of behaviours, and a registry over HTTP on loopback that serves what a test gives it, right or wrong.

A behaviour is a function `name(world)` with a docstring, in evil_guests.py, evil_containers.py, evil_images.py or
evil_registries.py; test_evil.py runs them all against one server, and looks after each one whether anything was harmed.
"""

import http.server
import json
import re
import threading

from harness import oci

KINDS = ("guest", "container", "image", "registry")
BEHAVIOURS = {kind: [] for kind in KINDS}


def hostile(kind):
    """Adds a function to the behaviours of that kind."""
    def add(function):
        if not function.__doc__:
            raise TypeError(f"{function.__name__} does not say what it does")
        BEHAVIOURS[kind].append(function)
        return function
    return add


class EvilRegistry:
    """blobs and manifests by digest, manifests by (name, tag); `hook(handler)` may answer a request itself (returns True)."""

    def __init__(self, port=5001):
        self.blobs, self.tags, self.requests, self.hook = {}, {}, [], None
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def reply(self, status, body=b"", headers=None, length=None):
                self.send_response(status)
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                if length is not None and length != len(body):
                    self.close_connection = True

            def do_GET(self):
                registry.requests.append(self.path)
                if registry.hook and registry.hook(self):
                    return
                if self.path in ("/v2/", "/v2"):
                    return self.reply(200, b"{}")
                match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/?]+)", self.path)
                if not match:
                    return self.reply(404, b"{}")
                name, kind, key = match.groups()
                value = registry.tags.get((name, key)) if kind == "manifests" else None
                if value is None and key in registry.blobs:
                    value = registry.blobs[key]
                if value is None:
                    return self.reply(404, json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not here"}]}).encode(),
                                      {"Content-Type": "application/json"})
                media, body = value
                return self.reply(200, body, {"Content-Type": media, "Docker-Content-Digest": oci.digest(body)})

            do_HEAD = do_GET

        self.host = f"127.0.0.1:{port}"
        class Listener(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                """A client may hang up on a wrong answer."""

        self.server = Listener(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def add(self, name, image, tag="1", blobs=None):
        """Serves an image; `blobs` replaces the bytes behind a digest. Returns the reference."""
        for key, data in {**image.blobs, **(blobs or {})}.items():
            self.blobs[key] = ("application/octet-stream", data)
        for part in [image, *image.parts()]:
            self.blobs[oci.digest(part.manifest)] = (part.media_type, part.manifest)
        self.tags[name, tag] = (image.media_type, image.manifest)
        return f"{self.host}/{name}:{tag}"

    def add_raw(self, name, media_type, body, tag="1"):
        self.tags[name, tag] = (media_type, body)
        return f"{self.host}/{name}:{tag}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
