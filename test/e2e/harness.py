# SPDX-License-Identifier: Apache-2.0
"""The base of the end-to-end tests: a registry, CNI configuration, servers under test, crictl, and the search for leaks.

Everything lives below one short directory (UNIX socket paths are limited) and in the network namespace that the caller made
(test/lib/in-netns). The tests refuse to run in the machine's own. Environment:
  CRV_BUILD    directory with crivisor and guest/ (default: build/ of this tree)
  CRV_KEEP     where the logs of failed tests go (default: a new directory below /tmp)
  CRV_SLOW     factor on every time limit (default 1): for sanitized builds and busy machines
  CRV_DRIVER   [hypervisor] driver of the servers (default: the server's own choice)
  CRV_CATALOG  which images the registry gets (default: all)
"""

import atexit
import calendar
import contextlib
import http.client
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "images"))

import catalog  # noqa: E402
import oci  # noqa: E402, F401 - for the tests

BUILD = pathlib.Path(os.environ.get("CRV_BUILD", ROOT / "build")).resolve()
CRIVISOR = BUILD / "crivisor"
VSOCK_PROBE = pathlib.Path(__file__).with_name("vsock_probe.c")
KERNEL = pathlib.Path(os.environ.get("CRV_KERNEL", BUILD / "guest" / "vmlinux"))
GUEST_IMAGE = pathlib.Path(os.environ.get("CRV_IMAGE", BUILD / "guest" / "guest.img"))
CACHE_BIN = pathlib.Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "crivisor" / "bin"
SLOW = float(os.environ.get("CRV_SLOW", "1"))
REGISTRY = "127.0.0.1:5000"
BUSYBOX = REGISTRY + "/test/busybox:1"
HTTPD = REGISTRY + "/test/httpd:1"

os.environ["PATH"] = f"{CACHE_BIN}:{os.environ['PATH']}"


def secs(value):
    return value * SLOW


def below(directory):
    """All paths below a directory. Entries may vanish meanwhile (pathlib's rglob fails then)."""
    for path, dirs, files in os.walk(directory):
        for name in dirs + files:
            yield pathlib.Path(path, name)


def eventually(condition, seconds, what):
    """Polls `condition` until it is true and returns its value. Fails with `what`: text, or a function that returns it."""
    deadline = time.monotonic() + secs(seconds)
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {secs(seconds):g} s: {what() if callable(what) else what}")
        # An expensive condition must not take the CPU from what it waits for.
        time.sleep(max(0.05, time.monotonic() - began))


def rows(*names, driver=None):
    """Marks a test with the rows of the matrix that it shows: with the scenario's driver, or with the one named (`clh` or `qemu`)."""
    def mark(function):
        function.rows = [*getattr(function, "rows", []), *((name, driver) for name in names)]
        return function
    return mark


def waits(test):
    """Marks a test, or a class of them, that mostly waits, for a time limit of the product or a guest: test/e2e/run runs it beside others."""
    test.waiting = True
    return test


def is_waiting(test):
    return getattr(getattr(test, test.id().rpartition(".")[2], None), "waiting", False) or getattr(type(test), "waiting", False)


def long_running(test):
    """Marks a test, or a class of them, that takes minutes: it runs in `test/run full` (CRV_LONG=1), and where a pattern names it."""
    test.long_running = True
    return test


def is_long(test):
    return getattr(getattr(test, test.id().rpartition(".")[2], None), "long_running", False) or getattr(type(test), "long_running", False)


# ---- directories -----------------------------------------------------------------------------------------------------

def own_netns():
    """True in the network namespace that in-netns made and named."""
    try:
        held = os.stat("/run/netns/" + os.environ["CRV_NETNS"])
    except (KeyError, OSError):
        return False
    own = os.stat("/proc/self/ns/net")
    return (held.st_dev, held.st_ino) == (own.st_dev, own.st_ino)


WORK = None


def work():
    """The directory of this run: made at the first use, removed at the end."""
    global WORK
    if WORK is None:
        WORK = pathlib.Path(tempfile.mkdtemp(prefix="ce-", dir="/tmp"))
        os.chmod(WORK, 0o755)
        atexit.register(shutil.rmtree, WORK, ignore_errors=True)
    return WORK


KEEP = None


def keep_dir():
    global KEEP
    if KEEP is None:
        KEEP = pathlib.Path(os.environ.get("CRV_KEEP") or tempfile.mkdtemp(prefix="crivisor-failed-", dir="/tmp"))
        KEEP.mkdir(parents=True, exist_ok=True)
    return KEEP


# ---- registry --------------------------------------------------------------------------------------------------------

_registry = None


def registry():
    """Debian's docker-registry on loopback of the test's netns, with the catalog's images; one for the whole run."""
    global _registry
    if _registry is None:
        base = work() / "registry"
        base.mkdir()
        (base / "config.yml").write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {base}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{REGISTRY}'}}\n")
        log = open(base / "log", "wb")
        _registry = subprocess.Popen(["docker-registry", "serve", str(base / "config.yml")], stdout=log, stderr=log,
                                     stdin=subprocess.DEVNULL)
        atexit.register(end_process, _registry)
        wait_port(5000, _registry)
        catalog.push_all(REGISTRY, os.environ.get("CRV_CATALOG", "").split())
    return REGISTRY


def wait_port(port, process=None, host="127.0.0.1", seconds=20):
    def connects():
        if process and process.poll() is not None:
            raise AssertionError(f"{process.args[0]} ended with {process.returncode} before it listened on {port}")
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            return False
    eventually(connects, seconds, f"nothing listens on {host}:{port}")


def end_process(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- configuration ---------------------------------------------------------------------------------------------------

def conflist(root, subnet, only_bridge=False, **replace):
    plugins = [
        {"type": "bridge", "bridge": "crvt0", "isGateway": True, "ipMasq": not only_bridge, "hairpinMode": True,
         "ipam": {"type": "host-local", "dataDir": str(root / "ipam"), "ranges": [[{"subnet": subnet}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ][:1 if only_bridge else None]
    value = {"cniVersion": "1.0.0", "name": "crvtest", "plugins": plugins}
    value.update(replace)
    return json.dumps(value, indent=1)


def toml(sections):
    def literal(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(literal(v) for v in value) + "]"
        if isinstance(value, (int, float)):
            return str(value)
        return json.dumps(str(value))
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {literal(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


class CliError(AssertionError):
    """crictl (or crivisor) failed. code and message are those of the gRPC status, if there was one."""

    def __init__(self, args, status, out, err):
        self.status, self.out, self.err = status, out, err
        # klog and logrus lines come first; crictl's own error is the last line.
        last = err.rstrip().splitlines()[-1] if err.strip() else ""
        match = re.search(r"code = (\w+) desc = (.*?)\"?$", last) or re.search(r"code = (\w+) desc = (.*)", err)
        self.code = match.group(1) if match else None
        self.message = (match.group(2) if match else last).replace('\\"', '"').replace("\\\\", "\\")
        super().__init__(f"{' '.join(map(str, args))}: exit status {status}\n{out}{err}")


# Servers that are not destroyed yet: they are ended when the run is interrupted.
_servers = []


def _end(signum, frame):
    raise KeyboardInterrupt


def _destroy_all():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for server in list(_servers):
        server.destroy()


signal.signal(signal.SIGTERM, _end)


def unit_capabilities():
    """Those that deploy/crivisor.service lets the server have."""
    lines = re.findall(r"^CapabilityBoundingSet=(.*)", (ROOT / "deploy" / "crivisor.service").read_text(), re.M)
    return " ".join(lines).split()


class Server:
    """One crivisor with a configuration, state and run directory of its own."""

    count = 0

    def __init__(self, config=None, cni=True, env=None, name=None, extra_toml="", program=CRIVISOR):
        Server.count += 1
        if not _servers:
            work()  # its removal is registered first, and so comes after the servers' end
            atexit.register(_destroy_all)
        _servers.append(self)
        self.id = f"{os.getpid()}-{Server.count}"
        self.dir = work() / (name or f"s{Server.count}")
        self.dir.mkdir()
        self.run_dir, self.state_dir = self.dir / "r", self.dir / "s"
        self.socket = self.run_dir / "c.sock"
        self.cni_dir, self.certs_dir, self.logs_dir = self.dir / "net.d", self.dir / "certs.d", self.dir / "pods"
        for path in (self.run_dir, self.state_dir, self.cni_dir, self.certs_dir, self.logs_dir):
            path.mkdir()
        self.cgroup = f"/crvt-{self.id}"
        self.subnet = f"10.{80 + Server.count // 200}.{Server.count % 200}.0/24"
        if cni:
            (self.cni_dir / "10-test.conflist").write_text(conflist(self.dir, self.subnet, only_bridge=cni == "bridge"))
        self.sections = {
            "server": {"socket": self.socket, "state_dir": self.state_dir, "run_dir": self.run_dir, "log_level": "debug"},
            "cni": {"bin_dirs": ["/usr/lib/cni"], "conf_dir": self.cni_dir},
            "image": {"registry_config_dir": self.certs_dir},
            "sandbox": {"cgroup_parent": self.cgroup},
            "hypervisor": {"driver": os.environ.get("CRV_DRIVER"), "kernel_path": KERNEL, "image_path": GUEST_IMAGE},
        }
        for section, values in (config or {}).items():
            self.sections.setdefault(section, {}).update(values)
        self.config, self.extra_toml = self.dir / "config.toml", extra_toml
        self.configure()
        self.crictl_config = self.dir / "crictl.yaml"
        self.crictl_config.write_text(
            f"runtime-endpoint: unix://{self.socket}\nimage-endpoint: unix://{self.socket}\ntimeout: {int(secs(60))}\n")
        self.log = self.dir / "server.log"
        self.env = dict(os.environ, **(env or {}))
        self.program = program
        self.process = None
        self.serials = 0

    def configure(self, **sections):
        """Writes the configuration file, with these changes; a server that runs does not read it by itself."""
        for section, values in sections.items():
            self.sections.setdefault(section, {}).update(values)
        self.config.write_text(toml(self.sections) + self.extra_toml)

    def uid_range(self):
        """The users of its VMs, "FIRST-LAST": the configured ones, else the default."""
        own = self.sections.get("sandbox", {}).get("uid_range")
        return own or re.search(r'^uid_range = "(.*)"', (ROOT / "deploy" / "config.toml").read_text(), re.M).group(1)

    # -- process --

    def argv(self):
        """The server has no more privileges than the systemd unit gives it."""
        kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit_capabilities())
        return ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}", self.program, "serve", "--config", self.config]

    def spawn(self):
        """Starts the process and does not wait for it. Returns the socket on which it says READY=1."""
        notify = str(self.dir / "n.sock")
        if os.path.exists(notify):
            os.unlink(notify)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.bind(notify)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(self.env, NOTIFY_SOCKET=notify), start_new_session=True)
        return sock

    def start(self, seconds=30):
        with self.spawn() as ready:
            pidfd = os.pidfd_open(self.process.pid)
            try:
                deadline = time.monotonic() + secs(seconds)
                while True:
                    fds, _, _ = select.select([ready, pidfd], [], [], max(0, deadline - time.monotonic()))
                    if ready in fds and b"READY=1" in ready.recv(4096):
                        break
                    if pidfd in fds:
                        raise AssertionError(f"the server ended with {self.process.wait()} at its start:\n{self.tail()}")
                    if not fds:
                        raise AssertionError(f"the server was not ready within {secs(seconds):g} s:\n{self.tail()}")
            finally:
                os.close(pidfd)
        return self

    def start_if_ended(self):
        """For clean-ups: a test that failed while the server was away leaves it to the next one."""
        if self.process.poll() is not None:
            self.start()

    def stop(self, sig=signal.SIGTERM, seconds=30):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(secs(seconds))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not end within {secs(seconds):g} s of signal {int(sig)}") from None
        return self.process.returncode if self.process else None

    def log_text(self, since=0):
        """The server's log from a byte offset on; see log_end."""
        with open(self.log, "rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def log_end(self):
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self, lines=40):
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def consoles(self):
        return sorted(p for p in below(self.run_dir) if p.name == "console.log")

    def assert_kernels_sound(self):
        """No guest kernel reported a fault of its own. A kernel may do so and run on."""
        for console in self.consoles():
            try:
                lines = console.read_text(errors="replace").splitlines()
            except FileNotFoundError:
                continue  # its pod is being removed
            for line in lines:
                if re.search(r"WARNING: CPU|BUG: |Oops: |Busy inodes", line):
                    raise AssertionError(f"{console.relative_to(self.dir)}: {line}")

    def rss_kb(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text()).group(1))

    # -- crictl --

    def crictl_args(self, args):
        return ["crictl", "-c", str(self.crictl_config)] + [str(a) for a in args]

    def crictl(self, *args, timeout=120, stdin=None):
        """Its standard output; CliError if it fails."""
        argv = self.crictl_args(args)
        try:
            done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=secs(timeout), text=True,
                                  input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, errors="replace")
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(argv)}: no answer within {secs(timeout):g} s") from None
        if done.returncode:
            raise CliError(args, done.returncode, done.stdout, done.stderr)
        self.last_stderr = done.stderr
        return done.stdout

    def crictl_start(self, *args):
        return subprocess.Popen(self.crictl_args(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def json(self, *args, **kw):
        return json.loads(self.crictl(*args, **kw))

    def write(self, name, value):
        self.serials += 1
        path = self.dir / f"{self.serials}-{name}.json"
        path.write_text(json.dumps(value, indent=1))
        return path

    def pull(self, *images):
        registry()
        for image in images or (BUSYBOX,):
            self.crictl("pull", image)

    # -- pods --

    def pod_config(self, name=None, **fields):
        """A PodSandboxConfig; `fields` replace its own."""
        self.serials += 1
        name = name or f"pod{self.serials}"
        uid = f"uid-{self.id}-{self.serials}"
        value = {
            "metadata": {"name": name, "namespace": "default", "uid": uid, "attempt": 0},
            "log_directory": str(self.logs_dir / f"default_{name}_{uid}"),
            "linux": {},
        }
        value.update(fields)
        return value

    def runp(self, config=None, *options, **fields):
        config = config or self.pod_config(**fields)
        pod = Pod(self, config, self.write("pod", config))
        pod.id = self.crictl("runp", "-T", f"{int(secs(90))}s", *options, pod.file, timeout=120).strip()
        return pod

    def sandbox_of(self, pod_id):
        return re.search(r'"cgroup": "[^"]*/crivisor-([0-9a-f]+)"', self.crictl("inspectp", pod_id)).group(1)

    def pod_ids(self):
        return self.crictl("pods", "-q").split()

    def remove_all(self):
        for _ in range(3):
            try:
                self.remove_listed()
                return
            except CliError as error:
                # A removal whose client has left goes on, and what was listed may be gone by now.
                if error.code != "NotFound":
                    raise
        self.remove_listed()

    def remove_listed(self):
        containers = self.crictl("ps", "-aq").split()
        if containers:
            self.crictl("rm", "-f", *containers)
        pods = self.pod_ids()
        if pods:
            self.crictl("stopp", *pods)
            self.crictl("rmp", *pods)

    def remove_if_listed(self, id):
        """Removes the pod or container if the server lists it; crictl refuses to remove an unknown one."""
        if id in self.crictl("ps", "-aq", "--no-trunc").split():
            self.crictl("rm", "-f", id)
        elif id in self.pod_ids():
            self.crictl("rmp", "-f", id)

    # -- what is left --

    def process_texts(self):
        """Processes of this server's pods, found by their command line or their cgroup: pid -> (command line, cgroups)."""
        found, mark = {}, str(self.dir).encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid() or (self.process and int(entry) == self.process.pid):
                continue
            try:
                cmdline = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes()
                cgroup = pathlib.Path(f"/proc/{entry}/cgroup").read_text()
            except OSError:
                continue
            if self.is_ending(entry):
                continue
            name = cmdline.split(b"\0", 1)[0]
            if name.endswith((b"crictl", b"python3", b"kubelet")):
                continue
            if mark in cmdline or self.cgroup in cgroup:
                found[int(entry)] = (cmdline.replace(b"\0", b" ").decode(errors="replace"), cgroup)
        return found

    def is_ending(self, pid):
        """One that has ended, or an init that waits for its namespace's last process to be reaped. By whom, is the host's affair, unless it
        is a child of the server."""
        try:
            state, parent, *_, flags = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:7]
        except OSError:
            return True
        ours = self.process is not None and int(parent) == self.process.pid
        return not ours and (state in "ZX" or bool(int(flags) & 4))  # PF_EXITING

    def processes(self):
        """The same: pid -> the beginning of the command line."""
        return {pid: cmdline[:150] for pid, (cmdline, _) in self.process_texts().items()}

    def mounts(self):
        with open("/proc/self/mountinfo") as f:
            return sorted(line.split()[4] for line in f if line.split()[4].startswith(str(self.dir) + "/"))

    def cgroups(self):
        found = []
        for top in ("/sys/fs/cgroup", *(str(p) for p in pathlib.Path("/sys/fs/cgroup").iterdir() if p.is_dir())):
            base = pathlib.Path(top + self.cgroup)
            if base.is_dir():
                found += [str(p) for p in below(base) if p.is_dir()]
        return sorted(set(found))

    def links(self):
        done = subprocess.run(["ip", "-j", "link"], stdout=subprocess.PIPE, check=True)
        return sorted(link["ifname"] for link in json.loads(done.stdout) if link["ifname"] not in ("lo", "crvt0"))

    def leases(self):
        """Addresses that host-local has given out: path -> who holds it."""
        found = {}
        for path in below(self.dir / "ipam"):
            if re.fullmatch(r"[0-9.]+", path.name):
                try:
                    found[str(path)] = path.read_text()
                except FileNotFoundError:
                    pass  # just given back
        return found

    def files(self):
        found = [str(p) for p in below(self.run_dir)]
        found += [str(p) for p in below(self.state_dir / "containers") if p.parent.parent.name != "s"][:20]
        found += [str(p) for name in ("logs", "cni") for p in below(self.state_dir / name)]
        return sorted(found + list(self.leases()))

    def nat_rules(self):
        done = subprocess.run(["iptables-save", "-t", "nat"], stdout=subprocess.PIPE, check=True, text=True)
        return sorted(re.sub(r"\[\d+:\d+\]", "", line) for line in done.stdout.splitlines()
                      if "CNI-" in line and "HOSTPORT" not in line)

    def rows(self):
        """Of pods and containers: the database's objects as `kind id`, and the journal's open steps as `step kind owner`."""
        path = self.state_dir / "crivisor.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            found = [f"{kind} {id}" for kind, id in db.execute(
                "SELECT kind, id FROM object WHERE kind NOT IN ('image', 'blob', 'layer')")]
            found += [f"step {kind} {owner}" for kind, owner in db.execute("SELECT kind, owner FROM step")]
        return sorted(found)

    def traces(self):
        return {"processes": self.processes(), "mounts": self.mounts(), "cgroups": self.cgroups(), "links": self.links(),
                "files": self.files(), "iptables": self.nat_rules(), "rows": self.rows()}

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def leaks(self, baseline):
        """What exists now and did not at the baseline: text, empty if nothing."""
        now, text = self.traces(), []
        for kind, values in now.items():
            extra = [v for v in values if v not in baseline[kind]]
            if extra:
                text.append(f"{kind}: " + ", ".join(f"{v} ({values[v]})" if isinstance(values, dict) else v for v in extra))
        return "\n".join(text)

    def assert_nothing_left(self, baseline, seconds=3):
        eventually(lambda: not self.leaks(baseline), seconds, lambda: f"something was left behind:\n{self.leaks(baseline)}")

    def sandbox_ids(self, pods):
        """The beginnings of the ids by which these pods' rows name their sandboxes: directory, netns and cgroup may have those."""
        found = set()
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir}/crivisor.db?mode=ro", uri=True, timeout=10)) as db:
            for id, value in db.execute("SELECT id, value FROM object WHERE kind = 'pod'"):
                if id in pods:
                    found.update(i.decode()[:20] for i in re.findall(rb"[0-9a-f]{20,64}", value))
        return sorted(found)

    def strays(self, baseline):
        """What belongs to no pod or container that the server lists: text, empty if nothing. For a look before any clean-up."""
        pods, ids = self.pod_ids(), self.crictl("ps", "-aq", "--no-trunc").split()
        ids = [i[:20] for i in pods + ids] + self.sandbox_ids(pods)

        def owned(text):
            return any(i in text for i in ids)

        def alone(values, words=lambda v: v):
            mine = [v for v in values if owned(words(v))]
            return [v for v in values if v not in mine and not any(str(m).startswith(f"{v}/") for m in mine)]
        texts, leases = self.process_texts(), self.leases()
        found = {
            "processes": alone([p for p in texts if p not in baseline["processes"]], lambda p: " ".join(texts[p])),
            "mounts": alone([m for m in self.mounts() if m not in baseline["mounts"]]),
            "cgroups": alone([c for c in self.cgroups() if c not in baseline["cgroups"]]),
            "files": alone([f for f in self.files() if f not in baseline["files"]], lambda f: f + leases.get(f, "")),
            # The names of chains are hashes; the rules that jump to them hold the id.
            "iptables": alone([r for r in self.nat_rules() if "id: " in r and r not in baseline["iptables"]]),
            "rows": alone([r for r in self.rows() if r not in baseline["rows"]]),
            # The host's end of a veth does not name its pod either: at most one for each pod.
            "links": [name for name in self.links() if name not in baseline["links"]][len(pods):],
        }
        return "\n".join(f"{kind}: " + ", ".join(f"{v} ({texts[v][0][:150]})" if v in texts else v for v in values)
                         for kind, values in found.items() if values)

    def assert_no_strays(self, baseline, seconds=3):
        eventually(lambda: not self.strays(baseline), seconds,
                   lambda: f"these belong to nothing that the server lists:\n{self.strays(baseline)}")

    # -- moments in the middle --

    def wait_step(self, kind, owner=None, known=(), seconds=60):
        """Waits until the journal has an open step of this kind that is not in `known` (rows()); returns its owner.

        Polls every 2 ms, so the caller acts within that step or right after it."""
        deadline = time.monotonic() + secs(seconds)
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir}/crivisor.db?mode=ro", uri=True, timeout=10)) as db:
            while time.monotonic() < deadline:
                for found, in db.execute("SELECT owner FROM step WHERE kind = ?", (kind,)):
                    if (owner is None or found == owner) and f"step {kind} {found}" not in known:
                        return found
                time.sleep(0.002)
        raise AssertionError(f"no step {kind} within {secs(seconds):g} s; open steps: {self.rows()}")

    def wait_step_gone(self, kind, owner, seconds=60):
        """Waits until the journal no longer has that step: it has been undone."""
        deadline = time.monotonic() + secs(seconds)
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir}/crivisor.db?mode=ro", uri=True, timeout=10)) as db:
            while db.execute("SELECT 1 FROM step WHERE kind = ? AND owner = ?", (kind, owner)).fetchone():
                if time.monotonic() > deadline:
                    raise AssertionError(f"step {kind} of {owner} is still open after {secs(seconds):g} s")
                time.sleep(0.002)

    def wait_answered(self, method, since, seconds=10):
        """Waits until the log says that the server has ended a call of this RPC; returns when (Unix time), and the code."""
        line = eventually(lambda: re.search(rf"^time=(\S+) .*\bmethod={method} code=(\w+) ", self.log_text(since), re.M), seconds,
                          f"the server has ended no call of {method}")
        return stamp_seconds(line.group(1)), line.group(2)

    def destroy(self):
        """Ends the server and kills whatever is left of it."""
        if self in _servers:
            _servers.remove(self)
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # Two looks that find nothing: a VM that is being started may not have our directory in its command line yet.
        quiet = 0
        for _ in range(40):
            pids = self.processes()
            quiet = 0 if pids else quiet + 1
            if quiet == 2:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        for mount in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL)
        for cgroup in sorted(self.cgroups(), reverse=True):
            try:
                os.rmdir(cgroup)
            except OSError:
                pass
        for top in ("/sys/fs/cgroup", *(str(p) for p in pathlib.Path("/sys/fs/cgroup").iterdir() if p.is_dir())):
            try:
                os.rmdir(top + self.cgroup)
            except OSError:
                pass
        subprocess.run(["ip", "link", "del", "crvt0"], stderr=subprocess.DEVNULL)


def stamp_seconds(stamp):
    """Unix time of an RFC 3339 time, with any number of decimals."""
    whole, fraction, zone = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", stamp).groups()
    seconds = calendar.timegm(time.strptime(whole.replace(" ", "T"), "%Y-%m-%dT%H:%M:%S")) + float(fraction or 0)
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        seconds -= (hours * 3600 + minutes * 60) * (1 if zone[0] == "+" else -1)
    return seconds


class Pod:
    def __init__(self, server, config, file):
        self.server, self.config, self.file, self.id = server, config, file, None

    def status(self):
        return self.server.json("inspectp", self.id)["status"]

    @property
    def sandbox(self):
        """The id of its sandbox, by which its directory, cgroup, network namespace and VM are named."""
        return self.server.sandbox_of(self.id)

    @property
    def ip(self):
        return self.status()["network"]["ip"]

    def create(self, command=None, image=BUSYBOX, name=None, **fields):
        self.server.serials += 1
        name = name or f"c{self.server.serials}"
        value = {"metadata": {"name": name, "attempt": 0}, "image": {"image": image}, "log_path": f"{name}/0.log", "linux": {}}
        if command is not None:
            value["command"] = command
        value.update(fields)
        # As kubelet does: a container has the pod's namespace options unless it has its own.
        options = self.config["linux"].get("security_context", {}).get("namespace_options")
        if options:
            value["linux"] = dict(value["linux"])
            value["linux"]["security_context"] = {"namespace_options": options, **value["linux"].get("security_context", {})}
        container = Container(self, value)
        container.id = self.server.crictl("create", self.id, self.server.write("container", value), self.file).strip()
        return container

    def run(self, command=None, **kw):
        """Creates and starts a container."""
        container = self.create(command, **kw)
        container.start()
        return container

    def output(self, command=None, seconds=30, **kw):
        """What a container prints that must end by itself with exit code 0."""
        container = self.run(command, **kw)
        status = container.wait(seconds)
        text = container.logs()
        if int(status["exitCode"]) != 0:
            raise AssertionError(f"{command}: exit code {status['exitCode']}: {text}")
        container.remove()
        return text

    def stop(self):
        self.server.crictl("stopp", self.id)

    def remove(self):
        self.server.crictl("rmp", self.id)


class Container:
    def __init__(self, pod, config):
        self.pod, self.server, self.config, self.id = pod, pod.server, config, None

    def start(self):
        self.server.crictl("start", self.id)
        return self

    def status(self):
        return self.server.json("inspect", self.id)["status"]

    def wait(self, seconds=30):
        """The status once it has exited."""
        last = {}

        def exited():
            last.update(self.status())
            return last["state"] == "CONTAINER_EXITED"
        eventually(exited, seconds, lambda: f"container {self.config['metadata']['name']} still {last.get('state')}")
        return last

    @property
    def log_file(self):
        return pathlib.Path(self.pod.config["log_directory"]) / self.config["log_path"]

    def logs(self):
        return "".join(data for _, _, data in self.log_lines())

    def log_lines(self):
        """(stream, tag, text) of each line of the log file; text has its line end unless the tag is P (partial)."""
        found = []
        for line in self.log_file.read_bytes().decode(errors="replace").split("\n")[:-1]:
            stamp, stream, tag, text = line.split(" ", 3)
            if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:\d\d)", stamp):
                raise AssertionError(f"{self.log_file}: not a time: {stamp!r}")
            found.append((stream, tag, text + ("\n" if tag == "F" else "")))
        return found

    def exec(self, *command, timeout=None):
        options = ["--timeout", str(timeout)] if timeout else []
        return self.server.crictl("exec", "-s", *options, self.id, *command)

    def stop(self, seconds=0):
        self.server.crictl("stop", "-t", str(seconds), self.id)

    def remove(self, force=False):
        self.server.crictl("rm", *(["-f"] if force else []), self.id)


def http_get(host, port=80, path="/", seconds=10):
    connection = http.client.HTTPConnection(host, port, timeout=secs(seconds))
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    finally:
        connection.close()


# ---- test cases ------------------------------------------------------------------------------------------------------

class Case(unittest.TestCase):
    """A class of tests that share one server. After each test its pods are removed, and nothing may be left of them.
    A class with `keep_pods` keeps them for its next tests; they are removed once, at the end."""

    config = None
    cni = True  # or False, or "bridge": no host ports and no masquerading, each of which runs more processes
    images = (BUSYBOX,)
    keep_pods = False
    server_env = None

    @classmethod
    def setUpClass(cls):
        cls.server = Server(cls.config, cni=cls.cni, env=cls.server_env)
        cls.addClassCleanup(cls.server.destroy)
        try:
            cls.server.start()
            cls.baseline = cls.server.traces()
            if cls.images:
                cls.server.pull(*cls.images)
            cls.prepare()
        except BaseException:
            save_logs(cls.server, cls.__name__)
            raise

    @classmethod
    def prepare(cls):
        """For a class's own set-up."""

    @classmethod
    def tearDownClass(cls):
        if cls.keep_pods:
            try:
                cls.server.assert_kernels_sound()
                cls.server.remove_all()
                cls.server.assert_nothing_left(cls.baseline)
            except BaseException:
                save_logs(cls.server, cls.__name__)
                raise

    def tearDown(self):
        if failed(self):
            # The test has failed: keep its logs, and try to give the next one a clean start.
            save_logs(self.server, self.id())
            if not self.keep_pods:
                try:
                    self.server.remove_all()
                except AssertionError as error:
                    print(f"    clean-up failed too: {error}", flush=True)
            return
        if not self.keep_pods:
            try:
                self.server.assert_kernels_sound()
                self.server.remove_all()
                self.server.assert_nothing_left(self.baseline)
            except BaseException:
                save_logs(self.server, self.id())
                raise

    def refused(self, code, *words):
        """A context in which a command must fail with exactly this gRPC code and a message that holds each of `words`."""
        return Refused(self, code, words)


class Refused:
    def __init__(self, case, code, words):
        if not isinstance(code, str):
            raise TypeError(f"one outcome has one code, not {code!r}")
        self.case, self.code, self.words = case, code, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            self.case.fail(f"was not refused (expected {self.code})")
        if not isinstance(error, CliError):
            return False
        self.case.assertEqual(error.code, self.code, error.err)
        for word in self.words:
            self.case.assertIn(str(word).lower(), error.message.lower())
        self.message = error.message
        return True


def failed(case):
    """True if this test or a subtest of it has failed so far; works in tearDown and in clean-ups."""
    result = case._outcome.result
    return any(bad is case or getattr(bad, "test_case", None) is case for bad, _ in result.failures + result.errors)


def save_logs(server, name):
    """Keeps the server's and the VMs' logs, and prints the end of them."""
    target = keep_dir() / re.sub(r"[^A-Za-z0-9_.]+", "_", name)
    target.mkdir(parents=True, exist_ok=True)
    print(f"    logs kept in {target}", flush=True)
    for path in [server.log, server.config, *(p for p in below(server.run_dir) if p.suffix == ".log")]:
        if path.exists():
            copy = target / str(path.relative_to(server.dir)).replace("/", "_")
            shutil.copyfile(path, copy)
    print("    server log:\n" + "\n".join("      " + line for line in server.tail(25).splitlines()), flush=True)
    for console in server.consoles()[:3]:
        text = console.read_text(errors="replace").splitlines()[-12:]
        print(f"    {console.relative_to(server.dir)}:\n" + "\n".join("      " + line for line in text), flush=True)


def vsock_probe(directory):
    """A static program that tries to reach the agent from inside a container; see vsock_probe.c."""
    program = directory / "vsock-probe"
    if not program.exists():
        built = os.environ.get("CRV_VSOCK_PROBE")  # where no compiler is: test/node/run brings it along
        if built:
            shutil.copy(built, program)
        else:
            subprocess.run(["gcc", "-static", "-O1", "-o", program, VSOCK_PROBE], check=True)
    return program


def assert_no_way_to_the_agent(case, out):
    """From what vsock_probe printed: it tried every address, and no attempt came through."""
    lines = out.splitlines()
    case.assertEqual((lines[0].split(":")[0], lines[-1]), ("socket", "done"), out)
    tried = dict(line.removeprefix("cid ").split(": ") for line in lines[1:-1])
    case.assertEqual(sorted(tried, key=int), ["0", "1", "2", "3", "4", str(2**32 - 1)], out)
    case.assertNotIn("connected", tried.values(), out)


class Background:
    """Runs a function in a thread; result() returns its result or raises its exception."""

    def __init__(self, function, *args, **kw):
        self.value = self.error = None

        def body():
            try:
                self.value = function(*args, **kw)
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                self.error = error
        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def result(self, seconds=120):
        self.thread.join(secs(seconds))
        if self.thread.is_alive():
            raise AssertionError(f"still running after {secs(seconds):g} s")
        if self.error:
            raise self.error
        return self.value
