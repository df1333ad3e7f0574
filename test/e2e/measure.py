# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmark (test/bench) and the node's figures (test/node): a table with bounds that are enforced, and RunPodSandbox
beside a boot of the same VM without a server, in turns in one run, so that a busy machine slows both."""

import difflib
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import threading
import time

import harness
from harness import BUILD, GUEST_IMAGE, KERNEL, secs

# How far a figure may be above its bound, as a share of the bound. Resident memory depends on when the allocator returns pages. The
# agent's share of a boot grows with the machine's slowness, since a guest's emulated user space suffers more from it than its kernel:
# some 7 % on a machine at rest, 10.5 % and 11.5 % on days when a bare boot took 2.4 to 2.5 s, against a bound of 10 %.
NOISE = {"ratio": 0.10, "memory": 0.05, "share": 0.30}

# The server's defaults, which vmmctl does not know: the size of a VM, what it may grow to (all of the host's), and the MTU of the tap
# that it boots with.
MEMORY_MB, MTU = 1024, 65521
MEMORY_MAX_MB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
OWN = r"guest-cid=\d+|mac=[0-9a-f:]{17}|^crivisor-(vmmctl|[0-9a-f]{64})$"  # of each VM, on QEMU's and its vsock daemon's command line


def small_pages(add_cleanup):
    """Gives guests memory in pages of 4 KiB until the clean-up, as on a user's host. The node saves time by huge pages (test/node/job)."""
    huge = pathlib.Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    before = re.search(r"\[(\w+)\]", huge.read_text()).group(1)
    huge.write_text("never")
    add_cleanup(huge.write_text, before)


def timed(function, *args, **kw):
    began = time.monotonic()
    value = function(*args, **kw)
    return time.monotonic() - began, value


def show(values):
    return f"{statistics.median(values):.3f} s (of {len(values)}: {min(values):.3f} to {max(values):.3f})"


class Table:
    def __init__(self):
        self.rows, self.met, self.missed = [], 0, 0

    def row(self, name, value):
        """A figure without a bound."""
        self.rows.append((name, value, "", ""))

    def bound(self, name, text, value, bound, unit, kind):
        """A figure that may be above its bound by the noise of its kind. None, which was not measured, is a miss."""
        limit = bound * (1 + NOISE[kind])
        good = value is not None and value <= limit
        self.met, self.missed = self.met + good, self.missed + (not good)
        verdict = "met" if good and value <= bound else "met within the noise" if good else "MISSED"
        self.rows.append((name, text, f"<= {bound:g} {unit}".rstrip(), verdict))

    def print(self, indent=""):
        width = [max((len(row[i]) for row in self.rows), default=0) for i in range(4)]
        for row in self.rows:
            print(indent + "  ".join(text.ljust(width[i]) for i, text in enumerate(row)).rstrip(), flush=True)


def programs(directory):
    """Command lines that hold `directory`, by program, without the parts that differ from one VM to the next."""
    found, mark = {}, str(directory)
    for entry in pathlib.Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        name = os.path.basename(argv[0]) if argv else ""
        if name != "vmmctl" and any(mark in a for a in argv):
            found[name] = [re.sub(OWN, "own", a.replace(mark, "DIR")) for a in argv]
    return found


def bare_boot(number):
    """Boots the same VM without a server until the agent's port answers. Returns the tool's own figure in seconds, and programs() at that
    moment."""
    base, netns = harness.work() / f"bare{number}", f"crv-bare-{os.getpid()}-{number}"
    for name in ("vm", "shared"):
        (base / name).mkdir(parents=True)
    driver = os.environ.get("CRV_DRIVER")
    in_netns = ["nsenter", f"--net=/run/netns/{netns}", "ip"]
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        subprocess.run([*in_netns, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"], check=True)
        subprocess.run([*in_netns, "link", "set", "tap0", "up", "mtu", str(MTU)], check=True)
        argv = [BUILD / "vmmctl", "boot", "--commands", *(["--driver", driver] if driver else []), "--kernel", KERNEL,
                "--image", GUEST_IMAGE, "--run-dir", base / "vm", "--shared", base / "shared", "--memory-mb", str(MEMORY_MB),
                "--memory-max-mb", str(MEMORY_MAX_MB), "--netns", f"/run/netns/{netns}", "--tap", "tap0", "--mtu", str(MTU)]
        # vmmctl stops the VM at the end of its input.
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            watchdog = threading.Timer(secs(120), process.kill)
            watchdog.start()
            text, running = "", {}
            for line in process.stdout:
                text += line
                if line.startswith("ready"):
                    running = programs(base)
                    process.stdin.close()
            process.wait()
            watchdog.cancel()
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)
    match = re.search(r"([\d.]+) ms  port \d+ answers", text)
    if process.returncode or not match:
        console = base / "vm" / "console.log"
        words = console.read_text(errors="replace")[-1500:] if console.exists() else "none"
        raise AssertionError(f"vmmctl boot: {process.returncode}\n{text}its guest's console:\n{words}")
    shutil.rmtree(base)
    return float(match.group(1)) / 1000, running


def agent_share(console):
    """From the kernel's `Run /sbin/init` to the agent's first answer, by the guest's own clock; None if it does not say."""
    begin = re.search(r"\[\s*(\d+\.\d+)\] Run /sbin/init", console)
    end = re.search(r"\[\s*(\d+\.\d+)\] .*first Check answered", console)
    if not begin or not end:
        return None
    return float(end.group(1)) - float(begin.group(1)), float(end.group(1))


class Boots:
    """RunPodSandbox and bare boots in turns, in alternating order. The server times RunPodSandbox and the tool times the bare boot, so the
    start of a client process is in neither. (`overhead`: what `crictl version` takes as a process.) The ratio is the median of the turns'
    own ratios: where the machine's speed changes from minute to minute, the two boots of one turn compare best."""

    BOUND = 1.25

    def __init__(self, server, rounds):
        self.overhead = statistics.median(timed(server.crictl, "version")[0] for _ in range(5))
        self.bare, self.pod, self.whole, self.shares = [], [], [], []
        for number in range(rounds):
            found = {}
            for what in ("bare", "pod") if number % 2 == 0 else ("pod", "bare"):
                found[what] = self.boot_bare(number) if what == "bare" else self.run_pod(server)
            bare_programs, pod_programs = found["bare"], found["pod"]
            if bare_programs != pod_programs:
                words = [sorted(f"{name}: {a}" for name, argv in found.items() for a in argv) for found in (bare_programs, pod_programs)]
                raise AssertionError("not the same VM:\n" + "\n".join(difflib.unified_diff(*words, "bare", "pod", n=0, lineterm="")))
        self.ratios = [pod / bare for pod, bare in zip(self.pod, self.bare)]
        self.ratio = statistics.median(self.ratios)

    def boot_bare(self, number):
        seconds, running = bare_boot(number)
        self.bare.append(seconds)
        return running

    def run_pod(self, server):
        took, pod = timed(server.runp)
        self.whole.append(took)
        seconds = int(re.search(rf'msg="pod is ready after (\d+) ms" pod={pod.id}', server.log.read_text()).group(1)) / 1000
        if seconds > took:
            raise AssertionError(f"the server says {seconds} s, the client {took} s")
        self.pod.append(seconds)
        console = server.consoles()[0]
        share = agent_share(console.read_text(errors="replace"))
        if share:
            self.shares.append(share)
        running = programs(console.parent.parent)
        pod.stop()
        pod.remove()
        return running

    def report(self, table, figures):
        figures.update(run_pod_sandbox_s=self.pod, bare_boot_s=self.bare, run_pod_sandbox_ratio=self.ratio, crictl_runp_s=self.whole)
        table.row("bare boot: VMM spawned to agent's first answer", show(self.bare))
        table.row("RunPodSandbox, cold, from the call to its answer", show(self.pod))
        table.row("  crictl runp as a process", show(self.whole))
        turns = ", ".join(f"{ratio:.2f}" for ratio in self.ratios)
        table.bound("RunPodSandbox / bare boot", f"{self.ratio:.2f} (median of {turns})", self.ratio, self.BOUND, "", "ratio")
