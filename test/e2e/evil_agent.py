# SPDX-License-Identifier: Apache-2.0
"""A guest whose agent lies: stands between the server and the agent of a real VM, and alters what passes.

The VM is reached through a daemon's UNIX socket (hybrid vsock: `CONNECT <port>\\n`, `OK <n>\\n`, then ttrpc). `EvilAgent` moves that
socket aside and listens in its place, so everything that the server reads as the guest's words is this program's. The server sees no
difference: to it a guest that has been taken over behaves in the same way.

ttrpc: a header of 10 bytes (length, stream id, type, flags), then the message. See api/ttrpc.
"""

import os
import socket
import struct
import threading
import time

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE, DATA = 1, 2, 3


# ---- protobuf, as far as lies need it --------------------------------------------------------------------------------

def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value)


def data(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def read_varint(buffer, at):
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(buffer):
    """[(number, value)]: a value is an int, or bytes."""
    found, at = [], 0
    while at < len(buffer):
        key, at = read_varint(buffer, at)
        if key & 7 == 2:
            size, at = read_varint(buffer, at)
            found.append((key >> 3, buffer[at:at + size]))
            at += size
        elif key & 7 == 0:
            value, at = read_varint(buffer, at)
            found.append((key >> 3, value))
        else:
            raise ValueError(f"wire type {key & 7}")
    return found


def field(buffer, wanted, default=b""):
    """The last value of a field, as parsers take it."""
    return dict(fields(buffer)).get(wanted, default)


def failure(code, words):
    """The message of a response that is an error."""
    return data(1, number(1, code) + data(2, words))


# ---- the agent -------------------------------------------------------------------------------------------------------

class Link:
    """One connection of the server to the agent."""

    def __init__(self, agent, server, guest):
        self.agent, self.server, self.guest = agent, server, guest
        self.lock, self.methods = threading.Lock(), {}
        self.closed = False

    def raw(self, value):
        with self.lock:
            self.server.sendall(value)

    def frame(self, id, kind, body=b"", flags=0):
        self.raw(HEADER.pack(len(body), id, kind, flags) + body)

    def answer(self, id, payload):
        """A response that is a success."""
        self.frame(id, RESPONSE, data(2, payload))

    def fail(self, id, code, words):
        self.frame(id, RESPONSE, failure(code, words))

    def close(self):
        self.closed = True
        for end in (self.server, self.guest):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    # -- what passes --

    def from_server(self):
        for id, kind, flags, body, raw in frames(self.server):
            if kind == REQUEST:
                parts = dict(fields(body))
                method = parts.get(2, b"").decode()
                self.methods[id] = method
                lie = self.agent.lies.get(method)
                if lie and self.told(method, lie, id, parts.get(3, b"")):
                    continue
            self.guest.sendall(raw)

    def told(self, method, lie, id, request):
        """Lets the lie answer; counts it if it did, also where the server has hung up before its end."""
        taken = True
        try:
            taken = lie(self, id, request)
        finally:
            if taken:
                self.agent.told[method] = self.agent.told.get(method, 0) + 1
        return taken

    def from_guest(self):
        for id, kind, flags, body, raw in frames(self.guest):
            twist = self.agent.twists.get(self.methods.get(id))
            if kind == RESPONSE and twist and not field(body, 1):
                self.agent.told[self.methods[id]] = self.agent.told.get(self.methods[id], 0) + 1
                self.answer(id, twist(field(body, 2)))
            else:
                self.raw(raw)


def receive(sock, size):
    """That many bytes, or fewer at the end."""
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


def frames(sock):
    while True:
        head = receive(sock, HEADER.size)
        if len(head) < HEADER.size:
            return
        size, id, kind, flags = HEADER.unpack(head)
        body = receive(sock, size)
        if len(body) < size:
            return
        yield id, kind, flags, body, head + body


class EvilAgent:
    """lies: method -> function(link, id, request), which answers by itself and returns True, or False to let the request pass.
    twists: method -> function(response), which returns another one. greet: function(socket) that answers a connection in place of
    the daemon. told: method -> how many lies were told."""

    def __init__(self, path, boot_seconds=60):
        self.path, self.real = path, path.with_name(path.name + ".real")
        os.rename(path, self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.links, self.lies, self.twists, self.told, self.greet = [], {}, {}, {}, None
        self.connections, self.boot_seconds = 0, boot_seconds
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.connection, args=(client,), daemon=True).start()

    def connection(self, client):
        try:
            if self.greet:
                self.told["connect"] = self.told.get("connect", 0) + 1
                self.greet(client)
                return
            guest = socket.socket(socket.AF_UNIX)
            guest.connect(str(self.real))
            guest.sendall(self.line(client))
            reply = self.line(guest)
            client.sendall(reply)
            if not reply.startswith(b"OK "):
                return
        except OSError:
            client.close()
            return
        link = Link(self, client, guest)
        self.links.append(link)
        for pump in (link.from_server, link.from_guest):
            threading.Thread(target=self.pump, args=(link, pump), daemon=True).start()

    @staticmethod
    def line(sock):
        found = b""
        while not found.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                raise ConnectionError("the line ends early")
            found += byte
        return found

    @staticmethod
    def pump(link, body):
        try:
            body()
        except (OSError, ValueError, IndexError):
            pass
        link.close()

    def cut(self):
        """Ends all connections; the server dials again."""
        links, self.links = self.links, []
        for link in links:
            link.close()

    def honest(self):
        """From now on everything passes."""
        self.lies, self.twists, self.greet = {}, {}, None

    def close(self):
        self.listener.close()
        self.cut()


def await_socket(run_dir, known, seconds):
    """The path of the vsock socket of a VM that is just being started."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in run_dir.glob("**/task.vsock"):
            if path not in known:
                return path
        time.sleep(0.001)
    raise AssertionError("no VM with a vsock socket was started")
