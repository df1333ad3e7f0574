# SPDX-License-Identifier: Apache-2.0
"""The images that the tests and the demo run, made from Debian's busybox-static.

As a program: `catalog.py push HOST [NAME…]` pushes them to http://HOST; `catalog.py layout DIR [NAME…]` writes an OCI layout.
"""

import functools
import pathlib
import random
import re
import subprocess
import sys

import oci

BUSYBOX = "/bin/busybox"


@functools.cache
def busybox_layer(compression="gzip"):
    layer = oci.Layer(compression)
    for path in ("bin", "etc", "root", "proc", "sys", "dev", "var", "www", "usr", "usr/bin"):
        layer.dir(path)
    layer.dir("tmp", mode=0o1777)
    with open(BUSYBOX, "rb") as f:
        layer.add("bin/busybox", f.read(), mode=0o755)
    for applet in subprocess.run([BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split():
        if applet != "busybox":
            layer.symlink("bin/" + applet, "busybox")
    layer.add("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n")
    layer.add("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    layer.add("www/index.html", "hello from crivisor\n")
    return layer


ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def busybox():
    return oci.Image([busybox_layer()], {"Env": ENV, "Cmd": ["sh"]})


def httpd():
    return oci.Image([busybox_layer()], {"Env": ENV, "Entrypoint": ["httpd", "-f", "-p", "80", "-h", "/www"],
                                         "ExposedPorts": {"80/tcp": {}}})


def user():
    script = 'echo "args: $*"; echo "uid: $(id -u) gid: $(id -g) groups: $(id -G)"; echo "pwd: $(pwd)"; echo "greeting: $GREETING"'
    layer = oci.Layer().dir("work", uid=1000, gid=1000)
    return oci.Image([busybox_layer(), layer], {
        "Env": ENV + ["GREETING=hello"], "User": "app", "WorkingDir": "/work", "StopSignal": "SIGUSR1",
        "Entrypoint": ["sh", "-c", script, "entry"], "Cmd": ["one", "two"], "Labels": {"made-by": "test/images"}})


def multi():
    other = oci.Image([oci.Layer().add("this-is-arm64", "x")], {"Cmd": ["/none"]}, architecture="arm64")
    return oci.Index([other, oci.Image([busybox_layer()], {"Env": ENV, "Cmd": ["echo", "amd64 was chosen"]})])


def zstd():
    return oci.Image([busybox_layer("zstd")], {"Env": ENV, "Cmd": ["echo", "unpacked from zstd"]})


def docker():
    return oci.Image([busybox_layer()], {"Env": ENV, "Cmd": ["echo", "docker schema 2"]}, docker=True)


def layers():
    """Files of a lower layer are replaced, whited out, made opaque and linked; the command prints how that looks in the container."""
    one = (oci.Layer().dir("data").add("data/gone", "1").add("data/kept", "kept").dir("data/opaque")
           .add("data/opaque/old", "1").add("data/replaced", "file").add("data/linked", "linked"))
    two = (oci.Layer().dir("data").add("data/.wh.gone", "").dir("data/opaque").add("data/opaque/.wh..wh..opq", "")
           .add("data/opaque/new", "1").dir("data/replaced").add("data/replaced/in-dir", "1")
           .add("data/a", "same inode").hardlink("data/b", "data/a").symlink("data/sym", "/etc/passwd")
           .add("data/suid", "s", mode=0o4755).add("data/owned", "o", uid=1000, gid=2000, mode=0o600)
           .add("data/xattr", "x", xattrs={"user.colour": "blue"}))
    script = ('cd /data; ls -1 . opaque replaced; [ a -ef b ] && echo same; readlink sym; '
              'stat -c "%a %u %g" suid owned; cat kept; echo')
    return oci.Image([busybox_layer(), one, two], {"Env": ENV, "Cmd": ["sh", "-c", script]})


def large():
    data = random.Random(1).randbytes(30 << 20)
    parts = [oci.Layer().add(f"big/{i}", data[i * (10 << 20):(i + 1) * (10 << 20)]) for i in range(3)]
    return oci.Image([busybox_layer()] + parts, {"Env": ENV, "Cmd": ["sh"]})


def unknown_user():
    return oci.Image([busybox_layer()], {"Env": ENV, "Cmd": ["id"], "User": "nobody-here"})


def only_arm64():
    return oci.Index([oci.Image([oci.Layer().add("x", "x")], architecture="arm64")])


def filters():
    """This machine's iptables (both generations), nft and ipset, with their libraries and modules."""
    programs = ["/usr/sbin/xtables-legacy-multi", "/usr/sbin/xtables-nft-multi", "/usr/sbin/nft", "/usr/sbin/ipset"]
    modules = sorted(map(str, pathlib.Path("/usr/lib/x86_64-linux-gnu/xtables").glob("*.so")))
    said = subprocess.run(["ldd", *programs, *modules], check=True, stdout=subprocess.PIPE, text=True).stdout
    libraries = sorted(set(re.findall(r"(/\S+\.so\S*) \(0x", said)))
    layer = oci.Layer().dir("run").dir("opt").dir("usr/sbin").dir("usr/lib").dir("usr/lib/x86_64-linux-gnu")
    layer.dir("usr/lib/x86_64-linux-gnu/xtables")
    # Not where busybox, which is static, would look for libraries of glibc and fail with what it finds.
    for path in programs + libraries:
        layer.add("opt/" + path.rsplit("/", 1)[1], pathlib.Path(path).read_bytes(), mode=0o755)
    for path in programs:
        name = path.rsplit("/", 1)[1]
        layer.add(f"usr/sbin/{name}", f'#!/bin/sh\nexec /opt/ld-linux-x86-64.so.2 --library-path /opt /opt/{name} "$@"\n', mode=0o755)
    for path in modules:
        layer.add(path[1:], pathlib.Path(path).read_bytes(), mode=0o755)
    return oci.Image([busybox_layer(), layer], {"Env": ENV, "Cmd": ["sh"]})


CATALOG = {
    "test/busybox:1": busybox,
    "test/httpd:1": httpd,
    "test/user:1": user,
    "test/multi:1": multi,
    "test/zstd:1": zstd,
    "test/docker:1": docker,
    "test/layers:1": layers,
    "test/large:1": large,
    "test/unknown-user:1": unknown_user,
    "test/only-arm64:1": only_arm64,
    "test/filters:1": filters,
}


def push_all(host, names=None):
    for reference in names or CATALOG:
        name, tag = reference.rsplit(":", 1)
        oci.push(CATALOG[reference](), host, name, tag)


def main(argv):
    if len(argv) < 2 or argv[0] not in ("push", "layout"):
        print(__doc__, file=sys.stderr)
        return 2
    names = argv[2:] or list(CATALOG)
    if argv[0] == "push":
        push_all(argv[1], names)
    else:
        oci.write_layout({name: CATALOG[name]() for name in names}, argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
