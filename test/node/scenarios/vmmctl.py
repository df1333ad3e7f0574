# SPDX-License-Identifier: Apache-2.0
"""One VM through vmmctl (vmm/ and nothing above it), and a shell in its guest by the debug console."""

import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import tempfile
import time

from harness import BUILD, GUEST_IMAGE, KERNEL, eventually, secs
import ttrpc

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
CLH = DRIVER == "cloud-hypervisor"
AGENT_PORT, CONSOLE_PORT = 1024, 1025


class Lines:
    """Waits for lines that a process prints, with a deadline."""

    def __init__(self, stream):
        self.fd, self.data, self.seen = stream.fileno(), b"", []

    def until(self, pattern, seconds):
        deadline = time.monotonic() + secs(seconds)
        while True:
            while b"\n" in self.data:
                line, self.data = self.data.split(b"\n", 1)
                self.seen.append(line.decode(errors="replace"))
                match = re.search(pattern, self.seen[-1])
                if match:
                    return match
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"no line like {pattern} within {secs(seconds):g} s:\n" + "\n".join(self.seen[-20:]))
            data = os.read(self.fd, 65536)
            if not data:
                raise AssertionError(f"vmmctl ended without a line like {pattern}:\n" + "\n".join(self.seen[-20:]))
            self.data += data


class Vm:
    def __init__(self, verb="boot", work=None, memory_mb=512, params="task.debug", **options):
        self.dir = pathlib.Path(work or tempfile.mkdtemp(prefix="nv-", dir="/tmp"))
        for name in ("r", "s"):
            (self.dir / name).mkdir(exist_ok=True)
        argv = [BUILD / "vmmctl", verb, "--commands", "--driver", DRIVER, "--kernel", KERNEL, "--image", GUEST_IMAGE,
                "--run-dir", self.dir / "r", "--shared", self.dir / "s", "--memory-mb", str(memory_mb), "--params", params]
        for key, value in options.items():
            argv += ["--" + key.replace("_", "-"), str(value)]
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        self.lines = Lines(self.process.stdout)
        self.lines.until(r"^ready", 60)

    def command(self, *words, seconds=30):
        """Returns the answer after `ok` and the verb. An error is an AssertionError: the command, a colon, the answer."""
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.stdin.flush()
        match = self.lines.until(rf"^(ok|error) {words[0]}\b:? ?(.*)", seconds)
        if match.group(1) == "error":
            raise AssertionError(f"{' '.join(map(str, words))}: {match.group(2)}{self.last_words()}")
        return match.group(2)

    def last_words(self):
        """For error messages: the VM's events and the console's end."""
        return f"\nevents: {[line for line in self.lines.seen if line.startswith('event')]}\nthe console's end: {self.console()[-1500:]}"

    def call(self, service, method, *fields):
        """Calls the agent; returns (status, message, fields)."""
        with ttrpc.Client(self.dial(AGENT_PORT)) as client:
            return client.call(service, method, fields)

    def info(self):
        return dict(pair.split("=", 1) for pair in self.command("info").split())

    def event(self, pattern, seconds=10):
        return self.lines.until(r"event: " + pattern, seconds)

    def dial(self, port):
        """Returns a socket that is connected to a port of the guest, which may open a moment after the agent's."""
        found = []

        def connects():
            try:
                found.append(self.dial_once(port))
                return True
            except OSError:
                return False
        eventually(connects, 5, f"nothing in the guest listens on port {port}")
        return found[0]

    def dial_once(self, port):
        if CLH:
            return dial_hybrid(self.dir / "r" / "task.vsock", port)
        self.command("save", self.dir / "dial.json")
        return dial_vsock(json.loads((self.dir / "dial.json").read_text())["cid"], port)

    def sh(self, script, seconds=20):
        """Runs a script on the debug console, in the guest's own namespaces; returns its output. Its status must be 0."""
        try:
            return run_script(self.dial(CONSOLE_PORT), script, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}{self.last_words()}") from None

    def leave(self):
        self.process.stdin.write(b"leave\n")
        self.process.stdin.close()
        self.process.wait(secs(10))

    def end(self):
        """Ends VM and tool; returns the tool's status."""
        if self.process.poll() is None:
            try:
                self.process.stdin.close()
                self.process.wait(secs(20))
            except (OSError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdout.close()
        return self.process.returncode

    def console(self):
        return (self.dir / "r" / "console.log").read_text(errors="replace")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def dial_hybrid(path, port):
    """Returns a socket that is connected to a port of the guest through the VMM's UNIX socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(secs(10))
    try:
        sock.connect(str(path))
        sock.sendall(f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                raise ConnectionResetError
            answer += byte
    except OSError:
        sock.close()
        raise
    return sock


def dial_vsock(cid, port):
    sock = socket.socket(socket.AF_VSOCK)
    sock.settimeout(secs(10))
    try:
        sock.connect((cid, port))
    except OSError:
        sock.close()
        raise
    return sock


def run_script(sock, script, seconds):
    """Runs a script in the shell at the other end of `sock`, and closes the socket."""
    with sock:
        # The marks are split, so that the terminal's echo does not match them.
        sock.sendall(f"stty -echo; echo BEG''IN; ( {script}\n ) 2>&1; echo EN''D-$?\n".encode())
        text, deadline = "", time.monotonic() + secs(seconds)
        while not (match := re.search(r"BEGIN\r?\n(.*?)END-(\d+)", text, re.S)):
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer from the guest's shell to {script!r}: {text!r}")
            data = sock.recv(65536)
            if not data:
                raise AssertionError(f"the guest's shell ended: {text!r}")
            text += data.decode(errors="replace")
    out = re.sub(r"(?m)^.*# ", "", match.group(1).replace("\r", "")).strip()
    if match.group(2) != "0":
        raise AssertionError(f"{script!r} in the guest: {match.group(2)}: {out}")
    return out
