#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for qemu-system-x86_64 that runs no guest: takes the driver's command line and serves QMP on its monitor's fd.

fake.json, beside what fakelib says:
  greeting: "text"                      sent instead of QMP's greeting ("" closes)
  errors: {"device_add": "words"}       answered with an error of these words
  raw: {"stop": "text"}                 answered with this text
  hang: ["stop"]                        never answered
  quiet_removal: true                   device_del without DEVICE_DELETED
  events: [["SHUTDOWN", {…}], …]        sent right after qmp_capabilities
  vcpu_threads: 2                       how many of query-cpus-fast
  exit_after: ["stop", 3, "words"]      exits once that has come
"""
import json
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import fakelib  # noqa: E402

PORTS = 8


class Qemu:
    def __init__(self, script):
        self.script = script
        self.plugged = [None] * PORTS
        self.backends = set()
        self.status = "running"
        self.lock = threading.Lock()
        self.conn = None
        self.vcpus = []
        for _ in range(script.get("vcpu_threads", 2)):
            thread = threading.Thread(target=threading.Event().wait, daemon=True)
            thread.start()
            self.vcpus.append(thread.native_id)

    def send(self, message):
        with self.lock:
            text = (message if isinstance(message, str) else json.dumps(message)).encode()
            # In two pieces: one recv is not one message.
            self.conn.sendall(text[:7])
            self.conn.sendall(text[7:] + b"\r\n")

    def event(self, name, data):
        self.send({"timestamp": {"seconds": 1, "microseconds": 2}, "event": name, "data": data})

    def query_pci(self):
        devices = [{"bus": 0, "slot": 0, "function": 0, "qdev_id": ""}]
        for i, name in enumerate(self.plugged):
            behind = [{"bus": i + 1, "slot": 0, "function": 0, "qdev_id": name}] if name else []
            devices.append({"bus": 0, "slot": 16 + i // 8, "function": i % 8, "qdev_id": f"rp{i}",
                            "pci_bridge": {"bus": {"number": 0, "secondary": i + 1, "subordinate": i + 1},
                                           "devices": behind}})
        return [{"bus": 0, "devices": devices}]

    def device_add(self, a):
        port = int(a["bus"].removeprefix("rp"))
        if self.plugged[port]:
            raise ValueError(f"slot 0 function 0 not available for {a['driver']}")
        for key in ("drive", "memdev", "netdev", "chardev"):
            if key in a and a[key] not in self.backends:
                raise ValueError(f"Property '{a['driver']}.{key}' can't find value '{a[key]}'")
        self.plugged[port] = a["id"]

    def device_del(self, a):
        if a["id"] not in self.plugged:
            raise LookupError(f"Device '{a['id']}' not found")
        if self.script.get("quiet_removal"):
            return
        self.plugged[self.plugged.index(a["id"])] = None
        threading.Timer(0.05, self.event, ("DEVICE_DELETED", {"device": a["id"], "path": "/machine/peripheral/x"})).start()

    def handle(self, name, a):
        if name == "query-pci":
            return self.query_pci()
        if name == "query-cpus-fast":
            return [{"cpu-index": i, "thread-id": tid} for i, tid in enumerate(self.vcpus)]
        if name == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if name in ("stop", "cont"):
            self.status = "paused" if name == "stop" else "running"
        elif name in ("blockdev-add", "object-add", "netdev_add", "chardev-add"):
            self.backends.add(a.get("node-name") or a["id"])
        elif name in ("blockdev-del", "object-del", "netdev_del", "chardev-remove"):
            self.backends.remove(a.get("node-name") or a["id"])
        elif name == "device_add":
            self.device_add(a)
        elif name == "device_del":
            self.device_del(a)
        elif name == "getfd" or name == "qmp_capabilities":
            pass
        else:
            raise ValueError(f"The command {name} has not been found")
        return {}

    def answer(self, request):
        name, ident = request["execute"], request["id"]
        if name in self.script.get("hang", []):
            return
        if name in self.script.get("raw", {}):
            self.send(self.script["raw"][name])
            return
        try:
            if name in self.script.get("errors", {}):
                raise ValueError(self.script["errors"][name])
            self.send({"return": self.handle(name, request.get("arguments", {})), "id": ident})
        except LookupError as e:
            self.send({"id": ident, "error": {"class": "DeviceNotFound", "desc": str(e.args[0])}})
        except ValueError as e:
            self.send({"id": ident, "error": {"class": "GenericError", "desc": str(e)}})
        after = self.script.get("exit_after")
        if after and after[0] == name:
            sys.stderr.write(after[2] + "\n")
            sys.stderr.flush()
            os._exit(after[1])
        if name == "qmp_capabilities":
            for event in self.script.get("events", []):
                self.event(*event)

    def serve(self, conn):
        self.conn = conn
        greeting = self.script.get("greeting")
        if greeting == "":
            conn.close()
            return
        self.send(greeting or {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": ["oob"]}})
        data = b""
        while True:
            part, fds, _, _ = socket.recv_fds(conn, 65536, 4)
            for fd in fds:
                os.close(fd)
            if not part:
                return
            data += part
            while b"\n" in data:
                line, _, data = data.partition(b"\n")
                self.answer(json.loads(line))


def main():
    if sys.argv[1:] == ["--version"]:
        print("QEMU emulator version 7.2.22 (a fake)")
        return
    sockets = {}
    run_dir = None
    for i, arg in enumerate(sys.argv):
        if arg == "-chardev":
            kind, _, rest = sys.argv[i + 1].partition(",")
            o = fakelib.options(rest)
            if kind == "socket":
                sockets[o["id"]] = socket.socket(fileno=int(o["fd"]))
            if kind == "file" and o["id"] == "console0-file":
                run_dir = os.path.dirname(o["path"])
    with open(os.path.join(run_dir, "argv.json"), "w", encoding="utf-8") as f:
        json.dump(sys.argv[1:], f)
    script = fakelib.script(run_dir)
    with open(os.path.join(run_dir, "console.log"), "w", encoding="utf-8") as f:
        f.write(script.get("console", "[    0.9] Run /sbin/init as init process\n"))
    fakelib.maybe_die(script)
    qemu = Qemu(script)
    while True:
        conn, _ = sockets["qmp0-sock"].accept()
        qemu.serve(conn)


main()
