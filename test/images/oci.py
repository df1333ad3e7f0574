# SPDX-License-Identifier: Apache-2.0
"""Makes OCI and Docker images in memory: deterministic, from bytes and from files of this host's Debian packages.

Layer: one tar, compressed; Image: a manifest with its blobs; Index: manifests of several platforms. Each can be pushed to a
registry or written as an OCI layout. Nothing here checks what it is given, so that hostile images can be made with it too.
"""

import gzip
import hashlib
import http.client
import io
import json
import os
import subprocess
import tarfile
import urllib.parse

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dump(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Layer:
    """One layer. Paths are written as given, whatever they contain."""

    def __init__(self, compression="gzip"):
        self.compression = compression
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._tar_bytes = None

    def add(self, path, data=None, mode=0o644, uid=0, gid=0, kind=tarfile.REGTYPE, link="", xattrs=None, dev=(0, 0)):
        info = tarfile.TarInfo()
        info.name = path
        info.mode, info.uid, info.gid, info.mtime = mode, uid, gid, 1700000000
        info.type, info.linkname = kind, link
        info.devmajor, info.devminor = dev
        if xattrs:
            info.pax_headers = {"SCHILY.xattr." + key: value for key, value in xattrs.items()}
        if kind == tarfile.REGTYPE:
            data = data if isinstance(data, bytes) else (data or "").encode()
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        else:
            self._tar.addfile(info)
        return self

    def dir(self, path, mode=0o755, **kw):
        return self.add(path, kind=tarfile.DIRTYPE, mode=mode, **kw)

    def symlink(self, path, target):
        return self.add(path, kind=tarfile.SYMTYPE, link=target, mode=0o777)

    def hardlink(self, path, target):
        return self.add(path, kind=tarfile.LNKTYPE, link=target)

    @property
    def tar(self):
        if self._tar_bytes is None:
            self._tar.close()
            self._tar_bytes = self._buffer.getvalue()
        return self._tar_bytes

    @property
    def blob(self):
        if not hasattr(self, "_blob"):
            if self.compression == "gzip":
                self._blob = gzip.compress(self.tar, 1, mtime=0)
            elif self.compression == "zstd":
                self._blob = subprocess.run(["zstd", "-q", "-1", "-c"], input=self.tar, check=True,
                                            stdout=subprocess.PIPE).stdout
            else:
                self._blob = self.tar
        return self._blob

    @property
    def media_type(self):
        return OCI_LAYER + {"gzip": "+gzip", "zstd": "+zstd"}.get(self.compression, "")


class Image:
    def __init__(self, layers, config=None, architecture="amd64", docker=False):
        self.layers = layers
        self.blobs = {}
        image_config = {
            "architecture": architecture,
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer.tar) for layer in layers]},
            "history": [{"created_by": "test/images"} for _ in layers],
        }
        self.config_blob = dump(image_config)
        self.media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        self.value = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self._blob(DOCKER_CONFIG if docker else OCI_CONFIG, self.config_blob),
            "layers": [self._blob(DOCKER_LAYER if docker else layer.media_type, layer.blob) for layer in layers],
        }
        self.architecture = architecture

    def _blob(self, media_type, data):
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    @property
    def manifest(self):
        return dump(self.value)

    @property
    def id(self):
        return self.value["config"]["digest"]

    def parts(self):
        """The manifests that a registry must have besides this one."""
        return []


class Index:
    def __init__(self, images, docker=False):
        self.images = images
        self.media_type = DOCKER_INDEX if docker else OCI_INDEX
        self.blobs = {}
        for image in images:
            self.blobs.update(image.blobs)
        self.value = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [{"mediaType": image.media_type, "digest": digest(image.manifest), "size": len(image.manifest),
                           "platform": {"architecture": image.architecture, "os": "linux"}} for image in images],
        }

    manifest = Image.manifest

    def parts(self):
        return self.images


def push(image, host, name, tag):
    """Pushes to http://host. Skips blobs that the registry has."""
    connection = http.client.HTTPConnection(host, timeout=30)

    def call(method, path, body=None, headers=None, want=(200, 201, 202)):
        connection.request(method, path, body=body, headers=headers or {})
        reply = connection.getresponse()
        text = reply.read()
        if reply.status not in want:
            raise RuntimeError(f"{method} {path}: {reply.status} {text[:200]!r}")
        return reply

    for key, data in image.blobs.items():
        if call("HEAD", f"/v2/{name}/blobs/{key}", want=(200, 404)).status == 200:
            continue
        location = call("POST", f"/v2/{name}/blobs/uploads/").getheader("Location")
        url = urllib.parse.urlsplit(location)
        call("PUT", f"{url.path}?{url.query + '&' if url.query else ''}digest={key}", data,
             {"Content-Type": "application/octet-stream"})
    for part in image.parts():
        call("PUT", f"/v2/{name}/manifests/{digest(part.manifest)}", part.manifest, {"Content-Type": part.media_type})
    call("PUT", f"/v2/{name}/manifests/{tag}", image.manifest, {"Content-Type": image.media_type})
    connection.close()


def write_layout(images, directory):
    """images: {reference: Image or Index}. Writes an OCI layout that any tool for such layouts can read."""
    blobs = os.path.join(directory, "blobs", "sha256")
    os.makedirs(blobs, exist_ok=True)

    def blob(data):
        with open(os.path.join(blobs, digest(data)[7:]), "wb") as f:
            f.write(data)

    manifests = []
    for reference, image in images.items():
        for data in image.blobs.values():
            blob(data)
        for part in image.parts():
            blob(part.manifest)
        blob(image.manifest)
        manifests.append({"mediaType": image.media_type, "digest": digest(image.manifest), "size": len(image.manifest),
                          "annotations": {"org.opencontainers.image.ref.name": reference}})
    with open(os.path.join(directory, "index.json"), "wb") as f:
        f.write(dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
    with open(os.path.join(directory, "oci-layout"), "wb") as f:
        f.write(dump({"imageLayoutVersion": "1.0.0"}))
