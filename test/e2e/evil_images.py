# SPDX-License-Identifier: Apache-2.0
"""Hostile behaviours of an image: its layers, its configuration, and what it holds where the server looks. `world` is test_evil.World."""

import os
import subprocess
import tarfile

import catalog
from evil import hostile
from harness import CliError, oci

image = hostile("image")
UP = "../" * 40


def refused(world, *layers, words=("layer",), code="DataLoss"):
    """A pull of an image of these layers fails, and leaves no layer."""
    world.pull(world.registry.add("evil/image", oci.Image(list(layers))), code, *words)


def run(world, layer, config=None, **fields):
    """A container of busybox and that layer, in the victim's pod: its output, or None where it was refused."""
    reference = world.registry.add("evil/image", oci.Image([catalog.busybox_layer(), layer], config or {}))
    world.server.crictl("pull", reference)
    container = None
    try:
        container = world.victim.pod.create(image=reference, **fields)
        container.start()
        container.wait(30)
        return container.logs()
    except CliError as error:
        world.case.assertIsNotNone(error.code, error.err)
        return None
    finally:
        if container:
            container.remove(force=True)
        world.server.crictl("rmi", reference)


def pulled(world, *layers):
    """An image that may be pulled: what it holds stays inside its root."""
    reference = world.registry.add("evil/image", oci.Image(list(layers)))
    world.server.crictl("pull", reference)
    world.server.crictl("rmi", reference)


def canary(world):
    return str(world.canary)


# ---- paths -----------------------------------------------------------------------------------------------------------

@image
def dots(world):
    """Entries that climb out of the root by dots."""
    for name in (f"{UP}{canary(world)[1:]}/secret", "a/../../secret", "..", "a/.."):
        refused(world, oci.Layer().add(name, "evil"), words=("leaves the root",))


@image
def a_path_through_a_symlink(world):
    """A symbolic link to the canary, absolute and by dots, then a file and a directory through it."""
    for target in (canary(world), UP + canary(world)[1:]):
        pulled(world, oci.Layer().symlink("l", target).add("l/secret", "evil").dir("l/sub", mode=0o777).add("l/new", "evil"))


@image
def a_symlink_from_the_layer_below(world):
    """The link is in one layer, the file that goes through it in the next."""
    pulled(world, oci.Layer().symlink("l", canary(world)), oci.Layer().add("l/secret", "evil"))


@image
def a_directory_that_becomes_a_symlink(world):
    """A directory that was written into is replaced by a link, then written into again."""
    pulled(world, oci.Layer().dir("d").add("d/a", "1").symlink("d", canary(world)).add("d/secret", "evil"))


@image
def a_hard_link_to_the_host(world):
    """Hard links to a file of the host: absolute, by dots, and through a symbolic link."""
    refused(world, oci.Layer().hardlink("mine", canary(world) + "/secret"))
    refused(world, oci.Layer().hardlink("mine", UP + canary(world)[1:] + "/secret"))
    refused(world, oci.Layer().symlink("l", canary(world)).hardlink("mine", "l/secret"))


@image
def whiteouts_that_reach_out(world):
    """Whiteouts of `..`, of nothing, and of the canary through a link."""
    base = oci.Layer().add("x", "1")
    for name in (".wh...", ".wh..", ".wh.", "a/.wh..."):
        refused(world, base, oci.Layer().add(name, ""))
    pulled(world, base, oci.Layer().symlink("l", canary(world)).add("l/.wh.secret", ""))


@image
def an_opaque_whiteout_through_a_link(world):
    """All of the canary is declared hidden."""
    pulled(world, oci.Layer().add("x", "1"), oci.Layer().symlink("l", canary(world)).add("l/.wh..wh..opq", ""))


@image
def links_in_circles(world):
    """Symbolic links that lead to each other, to themselves and on for twenty steps."""
    refused(world, oci.Layer().symlink("a", "b").symlink("b", "a").add("a/x", "1"))
    refused(world, oci.Layer().symlink("a", "a/b").add("a/x", "1"))


@image
def names_too_long_and_deep(world):
    """A name of 256 bytes, a path of 250 directories, and one of 60 KiB."""
    for name in ("n" * 256, "/".join(["d"] * 250), "/".join(["e" * 200] * 300)):
        refused(world, oci.Layer().add(name, "1"))


# ---- entries ---------------------------------------------------------------------------------------------------------

@image
def attributes_of_overlayfs(world):
    """trusted.overlay.redirect would show another directory of the host's file system."""
    refused(world, oci.Layer().dir("d").add("d/x", "1", xattrs={"trusted.overlay.redirect": "/etc"}))
    refused(world, oci.Layer().dir("d", xattrs={"trusted.overlay.opaque": "y"}))


@image
def a_whiteout_device(world):
    """A character device 0:0, which overlayfs takes for a deletion."""
    refused(world, oci.Layer().add("x", kind=tarfile.CHRTYPE))


@image
def devices_of_the_host(world):
    """The host's disk and memory as device nodes: they can be made, and not opened."""
    layer = (oci.Layer().add("disk", kind=tarfile.BLKTYPE, dev=(8, 0), mode=0o666).add("mem", kind=tarfile.CHRTYPE, dev=(1, 1), mode=0o666)
             .add("pmem", kind=tarfile.BLKTYPE, dev=(259, 0), mode=0o666))
    out = run(world, layer, command=["sh", "-c", "for d in /disk /mem /pmem; do head -c 1 $d >/dev/null 2>&1 && echo opened; done; true"])
    world.case.assertEqual(out, "")


@image
def owners_out_of_range(world):
    """An owner of 2^33."""
    refused(world, oci.Layer().add("f", "1", uid=1 << 33), words=("owner",))


@image
def an_attribute_of_a_mib(world):
    """An extended attribute larger than any file system keeps."""
    reference = world.registry.add("evil/image", oci.Image([oci.Layer().add("f", "1", xattrs={"user.big": "x" * (1 << 20)})]))
    try:
        world.server.crictl("pull", reference)
        world.server.crictl("rmi", reference)
    except CliError as error:
        world.case.assertIsNotNone(error.code)


@image
def thousands_of_entries_of_one_name(world):
    """The same file and directory, in turns, 2,000 times."""
    layer = oci.Layer()
    for _ in range(1000):
        layer.add("x", "1").dir("x")
    pulled(world, layer)


# ---- sizes -----------------------------------------------------------------------------------------------------------

def bomb(mib):
    layer = oci.Layer("zstd")
    info = tarfile.TarInfo("zeros")
    info.size = mib << 20
    packer = subprocess.Popen(["zstd", "-q", "-1", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    packer.stdin.write(info.tobuf())
    packer.stdin.flush()
    subprocess.run(["head", "-c", str(mib << 20), "/dev/zero"], stdout=packer.stdin, check=True)
    layer._blob, layer._tar_bytes = packer.communicate()[0], b"not looked at"
    return layer


@image
def a_decompression_bomb(world):
    """1.1 GiB of zeros in some tens of KiB."""
    refused(world, bomb(1100), words=("decompression bomb",))


@image
def a_file_of_8_eib(world):
    """A header that announces 2^63-1 bytes, and one that announces a negative size, in base 256."""
    for size in (b"\x80\0\0\0\x7f" + b"\xff" * 7, b"\xff" * 12):
        layer = oci.Layer().add("f", "x" * 512)
        tar = bytearray(layer.tar)
        at = tar.index(b"f\0")
        at -= at % 512
        tar[at + 124:at + 136] = size
        tar[at + 148:at + 156] = b" " * 8
        tar[at + 148:at + 156] = b"%06o\0 " % sum(tar[at:at + 512])
        layer._tar_bytes = bytes(tar)
        refused(world, layer)


@image
def a_sparse_tib_and_a_link_to_it(world):
    """A sparse file of 1 TiB in one layer, a hard link to it in the next (fault F): only its data is copied."""
    path = world.server.dir / "huge"
    with open(path, "wb") as f:
        f.write(b"data")
        f.truncate(1 << 40)
    layer = oci.Layer()
    layer._tar_bytes = subprocess.run(["tar", "-C", path.parent, "--sparse", "-cf", "-", "huge"], check=True, stdout=subprocess.PIPE).stdout
    os.unlink(path)
    pulled(world, layer, oci.Layer().hardlink("link", "huge"))


@image
def archives_that_end_early(world):
    """Archive and compression are cut short, or are noise."""
    good = oci.Layer().add("file", os.urandom(20000))
    for tar in (good.tar[:10000], b"\x42" * 5000, good.tar[:256] + b"\xff" * 300 + good.tar[556:]):
        layer = oci.Layer()
        layer._tar_bytes = tar
        refused(world, layer)
    layer = oci.Layer().add("file", os.urandom(20000))
    layer._blob = layer.blob[:10000]
    refused(world, layer)


@image
def a_layer_that_its_config_does_not_name(world):
    """The diff_id is that of another layer."""
    thing, other = oci.Image([oci.Layer().add("x", "1")]), oci.Image([oci.Layer().add("x", "2")])
    thing.value["config"] = thing._blob(oci.OCI_CONFIG, other.config_blob)
    world.pull(world.registry.add("evil/image", thing), "DataLoss", "config says")


# ---- configuration ---------------------------------------------------------------------------------------------------

def with_config(world, text):
    thing = oci.Image([oci.Layer().add("x", "1")])
    thing.value["config"] = thing._blob(oci.OCI_CONFIG, text)
    return world.registry.add("evil/image", thing)


@image
def a_config_that_is_deep(world):
    """A configuration of half a million brackets, of nothing, and of another type."""
    for text in (b"[" * 500000, b'{"config":' + b'{"Labels":' * 200000, b"", b"[]", b"null"):
        world.pull(with_config(world, text))


@image
def a_working_directory_outside(world):
    """WorkingDir and Entrypoint climb out of the root, and are links to the canary."""
    layer = oci.Layer().symlink("out", canary(world))
    for place in (UP + "etc", "/out", "/out/../" + UP, "relative"):
        out = run(world, layer, {"WorkingDir": place, "Cmd": ["cat", "secret", canary(world) + "/secret"]})
        world.case.assertNotIn("of the host", out or "")


@image
def volumes_that_lead_out(world):
    """VOLUME at a link to the canary: its files are not copied into the container (class CVE-2022-23648)."""
    layer = oci.Layer().symlink("out", canary(world)).symlink("up", UP + canary(world)[1:])
    for place in ("/out", "/up", "/out/sub", "/../../.." + canary(world), UP + canary(world)[1:]):
        out = run(world, layer, {"Volumes": {place: {}}, "Cmd": ["sh", "-c", f"cat /out/* /up/* {canary(world)}/* {place}/*"]})
        world.case.assertNotIn("of the host", out or "")


@image
def a_user_file_that_is_a_pipe(world):
    """/etc/passwd and /etc/group are FIFOs: whoever opens them waits for ever."""
    layer = oci.Layer().add("etc/passwd", kind=tarfile.FIFOTYPE).add("etc/group", kind=tarfile.FIFOTYPE)
    run(world, layer, {"User": "somebody", "Cmd": ["true"]})
    run(world, layer, {"Cmd": ["true"]})


@image
def a_user_file_of_the_host(world):
    """/etc/passwd is a link to the host's, to the canary, to a device and to a directory."""
    for target in ("/etc/passwd", UP + "etc/shadow", "/dev/zero", "/proc/self/mem", "/", canary(world) + "/secret"):
        layer = oci.Layer().symlink("etc/passwd", target).symlink("etc/group", target)
        run(world, layer, {"User": "somebody:else", "Cmd": ["true"]})


@image
def a_user_file_of_a_gib(world):
    """/etc/passwd of one line of 1 GiB, sparse."""
    path = world.server.dir / "etc" / "passwd"
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as f:
        f.write(b"root:x:0:0:")
        f.truncate(1 << 30)
    layer = oci.Layer()
    layer._tar_bytes = subprocess.run(["tar", "-C", world.server.dir, "--sparse", "-cf", "-", "etc/passwd"], check=True,
                                      stdout=subprocess.PIPE).stdout
    os.unlink(path)
    run(world, layer, {"User": "somebody", "Cmd": ["true"]})


@image
def users_that_make_no_sense(world):
    """User is a path, a number above 2^32, negative, 100 KiB of text, and has colons."""
    for user in ("../../etc", "4294967296", "-1", "x" * 100000, "0:0:0", ":", "root\0"):
        run(world, oci.Layer().add("x", "1"), {"User": user, "Cmd": ["true"]})


@image
def a_command_of_a_mib(world):
    """An environment of 2 MiB and a command of 1 MiB."""
    run(world, oci.Layer().add("x", "1"), {"Env": [f"V{n}={'v' * 1000}" for n in range(2000)], "Cmd": ["echo", "x" * (1 << 20)]})


@image
def files_of_the_pod_that_are_links(world):
    """/etc/resolv.conf, /etc/hosts, /etc/hostname and /dev are links to the canary: the pod's own are bound inside the root."""
    layer = oci.Layer().dir("etc").symlink("etc/resolv.conf", canary(world) + "/secret").symlink("etc/hosts", UP + "etc/hosts")
    layer.symlink("etc/hostname", canary(world) + "/secret").symlink("dev", canary(world)).symlink("proc", "/sys")
    run(world, layer, {"Cmd": ["sh", "-c", "echo evil > /etc/resolv.conf; echo evil > /etc/hosts; echo evil > /etc/hostname"]})
