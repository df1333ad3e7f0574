# SPDX-License-Identifier: Apache-2.0
"""Hostile behaviours of a container whose guest is sound. `world` is test_evil.World; they run in the pod of its victim."""

import subprocess
import time

from evil import hostile
from harness import CliError, below, eventually, secs

container = hostile("container")
SHELL = ["sh", "-c"]


def run(world, script, seconds=60, **fields):
    """The output of a script that ends by itself."""
    made = world.victim.pod.run(SHELL + [script], **fields)
    made.wait(seconds)
    text = made.logs()
    made.remove(force=True)
    return text


def volume(world, name):
    path = world.server.dir / name
    path.mkdir()
    return path, [{"host_path": str(path), "container_path": "/v"}]


PRIVILEGED = {"linux": {"security_context": {"privileged": True}}}


@container
def a_flood_of_the_log(world):
    """Output without a line end for two seconds."""
    made = world.victim.pod.run(SHELL + ["yes | tr -d '\\n'"])
    time.sleep(2)
    made.remove(force=True)
    made.log_file.unlink(missing_ok=True)


@container
def a_volume_that_becomes_a_link(world):
    """Below its volume a container swaps directories for links to the canary, again and again, while it is removed (fault N)."""
    path, mounts = volume(world, "swapped")
    made = world.victim.pod.run(SHELL + [
        f"mkdir /v/a /v/a/b; while :; do mv /v/a /v/c; ln -s {world.canary} /v/a; rm /v/a; mv /v/c /v/a; done"], mounts=mounts)
    eventually(lambda: (path / "a").is_symlink() or (path / "c").exists() or (path / "a").exists(), 20, "it does not run")
    made.remove(force=True)
    subprocess.run(["rm", "-rf", path], check=True)


@container
def links_to_the_host_in_a_volume(world):
    """A container writes through links to the canary, absolute and by dots: they lead to its own files."""
    path, mounts = volume(world, "linked")
    out = run(world, f"cd /v; ln -s {world.canary}/secret a; ln -s {'../' * 30}{str(world.canary)[1:]}/secret b; cat a b; "
                     "echo evil > a; echo evil > b; true", mounts=mounts)
    world.case.assertNotIn("of the host", out)
    subprocess.run(["rm", "-rf", path], check=True)


@container
def a_setuid_program_for_the_host(world):
    """A setuid program of root in a volume: no user of the host reaches it there (fault A)."""
    path, mounts = volume(world, "setuid")
    run(world, "cp /bin/busybox /v/sh; chmod 4755 /v/sh; mknod /v/disk b 8 0; mknod /v/pipe p; true", mounts=mounts)
    for found in below(world.server.run_dir):
        if found.name == "sh" and found.parent.name == "v":
            world.case.fail(f"{found} is in the run directory")
    subprocess.run(["rm", "-rf", path], check=True)


@container
def a_file_of_4_tib(world):
    """Sparse files as large as the file system allows, in its root and in a volume: they are removed."""
    path, mounts = volume(world, "sparse")
    run(world, "for d in /v /; do dd if=/dev/zero of=$d/huge bs=1 count=1 seek=4398046511103; done; true", mounts=mounts)
    subprocess.run(["rm", "-rf", path], check=True)


@container
def a_tree_that_is_deep(world):
    """A thousand directories, one in the other, with names of 200 bytes: longer than any path."""
    run(world, "n=$(head -c 200 /dev/zero | tr '\\0' n); i=0; while [ $i -lt 1000 ]; do mkdir $n && cd $n || break; i=$((i+1)); done; true",
        seconds=120)


@container
def names_of_odd_bytes(world):
    """Files whose names hold line ends, escapes, a leading dash and half characters."""
    run(world, "cd /tmp; for n in 'a\nb' \"$(printf '\\033[2J')\" -rf \"$(printf '\\377\\376')\" ' ' '*'; do : > \"./$n\"; done; true")


@container
def a_tree_that_grows_while_it_goes(world):
    """Its root is written to without a pause while it is removed (fault H)."""
    made = world.victim.pod.run(SHELL + ["mkdir /x; i=0; while :; do : > /x/$i; i=$((i+1)); done"])
    time.sleep(1)
    began = time.monotonic()
    made.remove(force=True)
    world.case.assertLess(time.monotonic() - began, secs(30))


@container
def a_fork_bomb(world):
    """Processes until the guest has no more: its own pod suffers."""
    made = world.victim.pod.run(SHELL + ["f() { while :; do sleep 1000 & done; }; f"])
    time.sleep(2)
    world.check()
    try:
        made.remove(force=True)
    except CliError:
        pass
    world.victim.spoiled = True


@container
def all_of_the_memory(world):
    """It takes more memory than the guest has."""
    made = world.victim.pod.run(SHELL + ["x=x; while :; do x=$x$x; done"])
    time.sleep(5)
    world.check()
    world.discard(made)


@container
def a_way_to_the_agent(world):
    """A privileged container looks for the vsock device, which it may not open."""
    out = run(world, "mknod /tmp/vsock c 10 $(sed -n 's/ vsock$//p' /proc/misc); (exec 3<>/tmp/vsock) 2>/dev/null && echo opened; true",
              **PRIVILEGED)
    world.case.assertEqual(out, "")


@container
def a_guest_that_panics(world):
    """A privileged container makes the guest's kernel panic: its pod is dead, and no other."""
    victim = world.victim
    victim.spoiled = True
    made = victim.pod.create(SHELL + ["mount -t proc p /tmp; echo c > /tmp/sysrq-trigger"], **PRIVILEGED)
    try:
        made.start()
    except CliError:
        pass  # the guest may be gone before it can answer
    eventually(lambda: victim.pod.status()["state"] == "SANDBOX_NOTREADY", 30, "still ready")


@container
def requests_that_name_the_host(world):
    """Mounts of a device, and of paths that climb, are refused or stay below what was named."""
    for source in ("/dev/null", "/proc/1/root/etc/shadow", "relative", ""):
        try:
            made = world.victim.pod.create(["true"], mounts=[{"host_path": source, "container_path": "/v"}])
            made.remove(force=True)
        except CliError as error:
            world.case.assertIsNotNone(error.code, error.err)


