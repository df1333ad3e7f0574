# SPDX-License-Identifier: Apache-2.0
"""Exec, attach and port forwarding by the real crictl, over SPDY and WebSocket."""

import hashlib
import http.client
import os
import pty
import random
import re
import select
import socket
import subprocess
import tarfile
import tempfile
import termios
import threading
import time

from harness import HTTPD, Background, Case, eventually, long_running, secs
from test_containers import SHELL, OnePod

TRANSPORTS = ("spdy", "websocket")
SLEEP = SHELL + ["trap 'exit 0' TERM; while :; do sleep 1; done"]


BLOCK = random.Random(7).randbytes(1 << 20)


def block(number):
    """A MiB that is like no other."""
    return number.to_bytes(8, "big") + BLOCK[8:]


def digest(mib):
    sha = hashlib.sha256()
    for number in range(mib):
        sha.update(block(number))
    return sha.hexdigest()


class Terminal:
    """crictl at a terminal of its own."""

    def __init__(self, argv, rows=33, columns=97):
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        # Its controlling terminal: it is told of a change of the size by SIGWINCH.
        self.process = subprocess.Popen(argv, preexec_fn=lambda: os.login_tty(slave))
        os.close(slave)
        self.seen = b""

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, pattern, seconds=20):
        deadline = time.monotonic() + secs(seconds)
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            try:
                data = os.read(self.master, 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"{pattern!r} did not come: {self.seen[-500:]!r}")
            self.seen += data
        return self.seen

    def resize(self, rows, columns):
        termios.tcsetwinsize(self.master, (rows, columns))

    def end(self, seconds=20):
        status = self.process.wait(secs(seconds))
        os.close(self.master)
        return status


class Execs(OnePod):
    def execute(self, container, *command, options=(), transport="spdy", stdin=None, seconds=60):
        argv = self.server.crictl_args(["exec", "-r", transport, *options, container.id, *command])
        return subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=secs(seconds),
                              stdin=subprocess.DEVNULL if stdin is None else None)

    def test_output_and_exit_code(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                done = self.execute(container, *SHELL, "echo out; echo err >&2; exit 3", transport=transport)
                self.assertEqual(done.stdout, b"out\n")
                self.assertIn(b"err\n", done.stderr)
                self.assertIn(b"exit code 3", done.stderr)
                self.assertNotEqual(done.returncode, 0)
                done = self.execute(container, "true", transport=transport)
                self.assertEqual((done.returncode, done.stdout), (0, b""), done.stderr)

    def test_stdin_and_its_end(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                done = self.execute(container, "cat", options=["-i"], transport=transport, stdin=b"one\ntwo")
                self.assertEqual((done.returncode, done.stdout), (0, b"one\ntwo"), done.stderr)
                done = self.execute(container, "sh", options=["-i"], transport=transport, stdin=b"echo hello; exit 7\n")
                self.assertEqual(done.stdout, b"hello\n")
                self.assertIn(b"exit code 7", done.stderr)

    def test_a_terminal_and_its_size(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                t = Terminal(self.server.crictl_args(["exec", "-r", transport, "-it", container.id, "sh"]))
                t.until(rb"# ")
                # The size comes after the start, as with every runtime: the client sends it on a stream of its own.
                t.type("until stty size | grep -q '^33 97$'; do sleep 0.1; done; echo siz''ed\n")
                t.until(rb"\r\nsized")
                t.resize(20, 50)
                t.type("until stty size | grep -q '^20 50$'; do sleep 0.1; done; echo re''sized\n")
                t.until(rb"\r\nresized")
                t.type("sleep 1234\n")
                eventually(lambda: "sleep 1234" in self.server.crictl("exec", "-s", container.id, "ps"), 20, "no sleep")
                t.seen = b""
                t.type("\x03")  # Ctrl-C
                t.until(rb"# ")  # what is typed before the shell is back is lost, as at any terminal
                t.type("echo interrup''ted\n")
                t.until(rb"\r\ninterrupted\r\n[^\n]*# ")
                t.type("\x04")  # Ctrl-D
                self.assertEqual(t.end(), 0, t.seen[-300:])

    def test_a_client_that_vanishes_ends_the_command(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                argv = self.server.crictl_args(["exec", "-r", transport, "-i", container.id, *SHELL, "echo up; exec sleep 4321"])
                process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self.assertEqual(process.stdout.readline(), b"up\n")
                process.kill()
                process.wait()
                process.stdout.close()
                process.stdin.close()
                eventually(lambda: self.server.crictl("exec", "-s", container.id, "ps").count("sleep 4321") == 0, 10,
                           "the command still runs")

    def echo(self, container, mib, transport, seconds):
        """So many MiB through `exec -i cat`: all come back, and the server grows by 4 MiB at most while they do."""
        argv = self.server.crictl_args(["exec", "-r", transport, "-i", container.id, "cat"])
        before, grown, began = self.server.rss_kb(), 0, time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def pour():
            with process.stdin:
                for number in range(mib):
                    process.stdin.write(block(number))
        writer = threading.Thread(target=pour, daemon=True)
        writer.start()
        sha, length = hashlib.sha256(), 0
        timer = threading.Timer(secs(seconds), process.kill)
        timer.start()
        while data := process.stdout.read1(1 << 20):
            sha.update(data)
            length += len(data)
            grown = max(grown, self.server.rss_kb() - before)
        timer.cancel()
        writer.join()
        process.stdout.close()
        self.assertEqual(process.wait(), 0, f"{length} bytes came back")
        self.assertEqual((length, sha.hexdigest()), (mib << 20, digest(mib)))
        self.assertLess(grown, 4096)
        print(f"    exec, {transport}: {2 * mib / (time.monotonic() - began):.0f} MiB/s, both directions together; "
              f"the server grew by {grown} KiB")

    def test_megabytes_both_ways(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                self.echo(container, 16, transport, 120)

    @long_running
    def test_a_gibibyte_both_ways(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                self.echo(container, 1024, transport, 900)

    def tar(self, container, mib):
        """As kubectl cp: a tree of files by tar, into the container and out again."""
        with tempfile.TemporaryDirectory() as top:
            for number in range(mib):
                with open(f"{top}/file-{number}", "wb") as file:
                    file.write(block(number))
            made = subprocess.run(["tar", "-C", top, "-cf", "-", "."], stdout=subprocess.PIPE, check=True).stdout
        for transport in TRANSPORTS:
            with self.subTest(transport):
                done = self.execute(container, *SHELL, "rm -rf /tree && mkdir /tree && tar -C /tree -xf -", options=["-i"],
                                    transport=transport, stdin=made, seconds=300)
                self.assertEqual((done.returncode, done.stdout), (0, b""), done.stderr)
                done = self.execute(container, "tar", "-C", "/tree", "-cf", "-", ".", transport=transport, seconds=300)
                self.assertEqual(done.returncode, 0, done.stderr)
                with tempfile.TemporaryFile() as file:
                    file.write(done.stdout)
                    file.seek(0)
                    tree = tarfile.open(fileobj=file)
                    got = {m.name: m for m in tree.getmembers() if m.isfile()}
                    self.assertEqual(len(got), mib)
                    for number in range(mib):
                        self.assertEqual(tree.extractfile(got[f"./file-{number}"]).read(), block(number))

    def test_a_tree_by_tar(self):
        self.tar(self.pod.run(SLEEP), 4)

    @long_running
    def test_100_mib_by_tar(self):
        self.tar(self.pod.run(SLEEP), 100)

    @long_running
    def test_clients_that_are_cut_at_50_places_leave_nothing(self):
        container = self.pod.run(SLEEP)
        before = self.server.fds()
        for number in range(50):
            argv = self.server.crictl_args(["exec", "-r", TRANSPORTS[number % 2], "-i", container.id, "cat"])
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            os.set_blocking(process.stdin.fileno(), False)
            end = time.monotonic() + number * 0.02
            while time.monotonic() < end:
                try:
                    os.write(process.stdin.fileno(), BLOCK[:4096])
                except BlockingIOError:
                    time.sleep(0.001)
            process.kill()
            process.wait()
            process.stdin.close()
        eventually(lambda: "cat" not in self.server.crictl("exec", "-s", container.id, "ps").split(), 30, "a command still runs")
        eventually(lambda: self.server.fds() <= before, 30, lambda: f"{self.server.fds()} descriptors, {before} before")
        self.assertEqual(self.execute(container, "echo", "alive").stdout, b"alive\n")

    def test_a_client_that_does_not_read_stalls_nobody(self):
        container = self.pod.run(SLEEP)
        before = self.server.rss_kb()
        stuck = [subprocess.Popen(self.server.crictl_args(["exec", "-r", t, container.id, "cat", "/dev/zero"]),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for t in TRANSPORTS]
        time.sleep(2)
        self.assertEqual(self.execute(container, "echo", "alive").stdout, b"alive\n")
        self.assertLess(self.server.rss_kb() - before, 4096)
        for process in stuck:
            process.kill()
            process.wait()
            process.stdout.close()

    def test_what_is_refused(self):
        container = self.pod.run(SLEEP)
        with self.refused("NotFound"):
            self.server.crictl("exec", "0123456789ab", "true")
        done = self.execute(container, "/no/such/program")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"/no/such/program", done.stderr)
        container.stop(0)
        done = self.execute(container, "true")
        self.assertIn(b"not running", done.stderr)


class Attaches(OnePod):
    def attach(self, container, *options, transport="spdy"):
        argv = self.server.crictl_args(["attach", "-r", transport, *options, container.id])
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_output_is_what_the_log_has(self):
        container = self.pod.run(SHELL + ["while ! [ -e /tmp/go ]; do sleep 0.1; done; "
                                          "i=0; while [ $i -lt 3000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; exit 4"])
        clients = [self.attach(container, transport=t) for t in TRANSPORTS]
        time.sleep(1)
        self.server.crictl("exec", "-s", container.id, "touch", "/tmp/go")
        for client in clients:
            out, err = client.communicate(timeout=secs(60))
            self.assertEqual(out.decode(), "".join(f"line {i}\n" for i in range(3000)))
            self.assertEqual(re.findall(rb"err \d+\n", err), [b"err %d\n" % i for i in range(3000)])
            self.assertEqual(client.returncode, 0)
        self.assertEqual(container.wait()["exitCode"], 4)
        self.assertEqual(len(container.log_lines()), 6000)

    def test_stdin_survives_a_detachment(self):
        for transport in TRANSPORTS:
            with self.subTest(transport):
                container = self.pod.run(SHELL + ["while read line; do echo got $line; done; echo end"], stdin=True)
                for word in (b"one", b"two"):
                    client = self.attach(container, "-i", transport=transport)
                    client.stdin.write(word + b"\n")
                    client.stdin.flush()
                    self.assertEqual(client.stdout.readline(), b"got " + word + b"\n")
                    client.kill()
                    client.communicate()
                self.assertEqual(container.status()["state"], "CONTAINER_RUNNING")

    def test_stdin_once_ends_with_its_client(self):
        container = self.pod.run(["cat"], stdin=True, stdin_once=True)
        client = self.attach(container, "-i")
        out, err = client.communicate(b"some words", timeout=secs(30))
        self.assertEqual((out, client.returncode), (b"some words", 0), err)
        self.assertEqual(container.wait()["exitCode"], 0)

    def test_a_terminal(self):
        container = self.pod.run(["sh"], stdin=True, tty=True)
        t = Terminal(self.server.crictl_args(["attach", "-it", container.id]))
        time.sleep(1)
        t.type("until stty size | grep -q '^33 97$'; do sleep 0.1; done; echo siz''ed\n")
        t.until(rb"\r\nsized")
        t.type("exit\n")
        self.assertEqual(t.end(), 0)

    def test_a_client_that_does_not_read_is_ended(self):
        container = self.pod.run(SHELL + ["while :; do echo 0123456789012345678901234567890123456789; done"])
        client = self.attach(container)
        time.sleep(1)
        # Its buffers are full now, and the process waits for it; then it goes on without it.
        eventually(lambda: "read nothing for" in self.server.log_text() or client.poll() is not None or self.grows(container), 40,
                   "the container waits for its client")
        client.kill()
        client.communicate()

    def grows(self, container):
        size = os.path.getsize(container.status()["logPath"])
        time.sleep(3)
        return os.path.getsize(container.status()["logPath"]) > size

    def test_what_is_refused(self):
        container = self.pod.run(SLEEP)
        for options, words in ((["-i"], "without stdin"), (["-t", "-i"], "without")):
            client = self.attach(container, *options)
            _, err = client.communicate(timeout=secs(30))
            self.assertIn(words, err.decode())
            self.assertNotEqual(client.returncode, 0)


class Forwards(OnePod):
    @classmethod
    def prepare(cls):
        cls.server.pull(HTTPD)
        super().prepare()

    def forward(self, *ports, transport="spdy"):
        """crictl port-forward; its local ports in the order of `ports`."""
        argv = self.server.crictl_args(["port-forward", "-r", transport, self.pod.id, *(f":{p}" for p in ports)])
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        local = {}
        while len(local) < len(ports):
            line = process.stdout.readline()
            self.assertTrue(line, "crictl has ended")
            match = re.search(r"127\.0\.0\.1:(\d+) -> (\d+)", line)
            if match:
                local[int(match.group(2))] = int(match.group(1))
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return [local[p] for p in ports]

    def listens(self, container, port):
        """Returns once something in the pod listens on the port."""
        eventually(lambda: f":{port:04X} 0" in self.server.crictl("exec", "-s", container.id, "cat", "/proc/net/tcp", "/proc/net/tcp6"),
                   30, f"nobody listens on {port}")

    def test_httpd(self):
        self.listens(self.pod.run(image=HTTPD), 80)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(80, transport=transport)
                for _ in range(5):
                    client = http.client.HTTPConnection("127.0.0.1", port, timeout=secs(20))
                    client.request("GET", "/index.html")
                    self.assertEqual(client.getresponse().read(), b"hello from crivisor\n")
                    client.close()

    def test_many_connections_at_once(self):
        self.listens(self.pod.run(SHELL + ["exec nc -ll -p 7 -e cat"]), 7)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(7, transport=transport)
                clients = []
                for i in range(20):  # each stands before the next: nc's queue of connections is short
                    client = socket.create_connection(("127.0.0.1", port), timeout=secs(30))
                    clients.append(client)
                    client.sendall(b"begin")
                    self.assertEqual(client.recv(100), b"begin")
                for i, client in enumerate(clients):
                    client.sendall(b"hello %02d" % i)
                for i, client in enumerate(clients):
                    self.assertEqual(client.recv(100), b"hello %02d" % i)
                    client.close()

    def echo(self, port, mib):
        """So many MiB to an echo at the local port: all come back."""
        client = socket.create_connection(("127.0.0.1", port), timeout=secs(120))
        sha, sent, left, before, began = hashlib.sha256(), 0, mib << 20, self.server.rss_kb(), time.monotonic()
        grown, now = 0, block(0)
        client.setblocking(False)
        while left:
            readable, writable, _ = select.select([client], [client] if sent < mib << 20 else [], [], secs(60))
            self.assertTrue(readable or writable, f"nothing moves: {sent} sent, {left} left")
            if writable:
                at = sent % len(now)
                sent += client.send(now[at:at + 65536])
                if sent % len(now) == 0:
                    now = block(sent >> 20)
            if readable:
                piece = client.recv(65536)
                self.assertTrue(piece, "the connection was closed")
                sha.update(piece)
                left -= len(piece)
                grown = max(grown, self.server.rss_kb() - before)
        client.close()
        self.assertEqual(sha.hexdigest(), digest(mib))
        self.assertLess(grown, 4096)
        print(f"    port-forward: {2 * mib / (time.monotonic() - began):.0f} MiB/s, both directions together; "
              f"the server grew by {grown} KiB")

    def test_megabytes_both_ways(self):
        """What stands still where the agent does not read: vhost-device-vsock then delivers nothing."""
        self.listens(self.pod.run(SHELL + ["exec nc -ll -p 8 -e cat"]), 8)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(8, transport=transport)
                for _ in range(2):
                    self.echo(port, 16)

    @long_running
    def test_a_gibibyte_both_ways(self):
        self.listens(self.pod.run(SHELL + ["exec nc -ll -p 8 -e cat"]), 8)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(8, transport=transport)
                self.echo(port, 1024)

    def test_a_port_of_ipv6_alone(self):
        self.listens(self.pod.run(["httpd", "-f", "-p", "[::1]:86", "-h", "/www"]), 86)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(86, transport=transport)
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=secs(20))
                client.request("GET", "/index.html")
                self.assertEqual(client.getresponse().read(), b"hello from crivisor\n")
                client.close()

    def test_a_port_where_nobody_listens(self):
        for transport in TRANSPORTS:
            with self.subTest(transport):
                port, = self.forward(4, transport=transport)
                client = socket.create_connection(("127.0.0.1", port), timeout=secs(20))
                self.assertEqual(client.recv(10), b"")
                client.close()


class Addresses(OnePod):
    """The streaming server at ::1, by TLS."""

    @classmethod
    def setUpClass(cls):
        cls.certs = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.certs.cleanup)
        cls.own, cls.other = (cls.certificate(f"{cls.certs.name}/{name}") for name in ("own", "other"))
        cls.config = {"stream": {"address": "[::1]:0", "tls_cert_file": cls.own[0], "tls_key_file": cls.own[1]}}
        super().setUpClass()

    @classmethod
    def prepare(cls):
        cls.server.pull(HTTPD)
        super().prepare()

    @staticmethod
    def certificate(name):
        """One that is signed by itself, and its key: their files."""
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", name + ".key",
                        "-out", name + ".pem"], check=True, stderr=subprocess.DEVNULL)
        return name + ".pem", name + ".key"

    def tls(self, transport, trusted=None):
        cert, key = self.own
        return ["-r", transport, "--tls-ca", trusted or cert, "--tls-cert", cert, "--tls-key", key, "--tls-sni", "localhost"]

    def test_exec(self):
        container = self.pod.run(SLEEP)
        data = b"".join(block(i) for i in range(4))
        for transport in TRANSPORTS:
            with self.subTest(transport):
                argv = self.server.crictl_args(["exec", *self.tls(transport), "-i", container.id, "cat"])
                done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=secs(60))
                self.assertEqual((done.returncode, done.stdout == data), (0, True), done.stderr)

    def test_port_forward(self):
        container = self.pod.run(image=HTTPD)
        eventually(lambda: ":0050 0" in self.server.crictl("exec", "-s", container.id, "cat", "/proc/net/tcp", "/proc/net/tcp6"), 30,
                   "nobody listens")
        for transport in TRANSPORTS:
            with self.subTest(transport):
                argv = self.server.crictl_args(["port-forward", *self.tls(transport), self.pod.id, ":80"])
                with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
                    try:
                        port = re.search(r"127\.0\.0\.1:(\d+) -> 80", process.stdout.readline()).group(1)
                        client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=secs(20))
                        client.request("GET", "/index.html")
                        self.assertEqual(client.getresponse().read(), b"hello from crivisor\n")
                        client.close()
                    finally:
                        process.kill()

    def test_a_client_that_does_not_trust_the_certificate_is_refused(self):
        container = self.pod.run(SLEEP)
        for transport in TRANSPORTS:
            with self.subTest(transport):
                argv = self.server.crictl_args(["exec", *self.tls(transport, trusted=self.other[0]), container.id, "true"])
                done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=secs(60), stdin=subprocess.DEVNULL)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(b"certificate", done.stderr)


@long_running
class Many(Case):
    """300 streams at once, on ten pods."""

    def test_300_streams(self):
        pods = [call.result(330) for call in [Background(self.server.runp, name=f"many-{n}") for n in range(10)]]
        containers = [pod.run(SHELL + ["nc -ll -p 7 -e cat & " + SLEEP[-1]]) for pod in pods]
        before = self.server.rss_kb()
        commands, forwards, clients = [], [], []
        try:
            for number, (pod, container) in enumerate(zip(pods, containers)):
                commands += [subprocess.Popen(self.server.crictl_args(["exec", "-r", t, "-i", container.id, "cat"]),
                                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) for t in TRANSPORTS]
                forwards.append(subprocess.Popen(self.server.crictl_args(["port-forward", "-r", TRANSPORTS[number % 2], pod.id, ":7"]),
                                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
                port = int(re.search(r"127\.0\.0\.1:(\d+) -> 7", forwards[-1].stdout.readline()).group(1))
                for _ in range(28):
                    clients.append(socket.create_connection(("127.0.0.1", port), timeout=secs(60)))
                    clients[-1].sendall(b"begin")
                    self.assertEqual(clients[-1].recv(100), b"begin")
            self.assertEqual(len(commands) + len(clients), 300)
            for turn in range(3):
                for number, client in enumerate(clients):
                    client.sendall(b"%d of %d" % (turn, number))
                for number, command in enumerate(commands):
                    command.stdin.write(b"%d of %d\n" % (turn, number))
                    command.stdin.flush()
                for number, client in enumerate(clients):
                    self.assertEqual(client.recv(100), b"%d of %d" % (turn, number))
                for number, command in enumerate(commands):
                    self.assertEqual(command.stdout.readline(), b"%d of %d\n" % (turn, number))
            print(f"    300 streams: the server grew by {self.server.rss_kb() - before} KiB")
        finally:
            for client in clients:
                client.close()
            for process in commands + forwards:
                process.kill()
                process.wait()
                for file in (process.stdin, process.stdout):
                    if file:
                        file.close()
