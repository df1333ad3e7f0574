#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for cloud-hypervisor v53 that runs no guest.

It takes the same command line (an option or key that v53's --help does not name is an error), connects to virtiofsd, writes
the event monitor's file, serves hybrid vsock and the REST API, and checks each request against clh_api.json: endpoint,
method, names and types of all members. What is wrong is answered with 400 and the reason, in the shape of a real error.

fake.json, beside what fakelib says:
  replies: {"vm.add-disk": [500, ["outer", "inner"]]}   instead of the real answer; a string is sent as it is
  hang: ["vm.pause"]                                    never answered
  quiet_removal: true                                   remove-device without the event
  events: [["guest", "panic", {}], …]                   written right after boot
  exit_after: ["vm.pause", 3, "words"]                  exits once that has come
Requests are written to requests.jsonl in the run directory.
"""
import json
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import fakelib  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
with open(os.path.join(HERE, "clh_api.json"), encoding="utf-8") as table_file:
    API = json.load(table_file)

# Keys of each option, from v53's --help; None: a plain value; (): a flag.
OPTIONS = {
    "--api-socket": "path fd",
    "--cpus": "boot max topology kvm_hyperv max_phys_bits affinity features nested core_scheduling",
    "--memory": "size mergeable shared hugepages hugepage_size hotplug_method hotplug_size hotplugged_size prefault reserve thp",
    "--kernel": None,
    "--cmdline": None,
    "--pmem": "file size iommu discard_writes id pci_segment pci_device_id",
    "--rng": "src iommu pci_segment pci_device_id",
    "--vsock": "cid socket iommu id pci_segment pci_device_id",
    "--console": "off null pty tty file iommu id pci_segment pci_device_id",
    "--serial": "off null pty tty file socket",
    "--fs": "tag socket num_queues queue_size id pci_segment pci_device_id",
    "--net": "tap ip mask mac fd iommu num_queues queue_size id vhost_user socket vhost_mode pci_segment pci_device_id mtu",
    "--event-monitor": "path fd",
    "--seccomp": None,
    "--restore": "source_url prefault memory_restore_mode net_fds resume",
    "--log-file": None,
    "--pvpanic": (),
    "-v": (),
}


def parse_args(argv):
    out, i = {}, 0
    while i < len(argv):
        name = argv[i]
        if name not in OPTIONS:
            sys.exit(f"error: unexpected argument '{name}' found")
        keys = OPTIONS[name]
        if keys == ():
            out[name] = True
            i += 1
            continue
        value = argv[i + 1]
        if keys is None:
            out[name] = value
        else:
            out[name] = fakelib.options(value)
            for key in out[name]:
                if key not in keys.split():
                    sys.exit(f"error: {name}: unknown option '{key}'")
        i += 2
    return out


class Refused(Exception):
    pass


def check(value, shape, where):
    if "ref" in shape:
        shape = API["schemas"][shape["ref"]]
    kind = shape["type"]
    python = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "number": (int, float)}[kind]
    if not isinstance(value, python) or (kind == "integer" and isinstance(value, bool)):
        raise Refused(f"{where} is no {kind}")
    if "enum" in shape and value not in shape["enum"]:
        raise Refused(f"{where}: {value} is none of {shape['enum']}")
    if "minimum" in shape and value < shape["minimum"]:
        raise Refused(f"{where} is less than {shape['minimum']}")
    if kind == "array":
        for i, v in enumerate(value):
            check(v, shape["items"], f"{where}[{i}]")
    if kind == "object" and "properties" in shape:
        for key in shape.get("required", []):
            if key not in value:
                raise Refused(f"{where}.{key} is missing")
        for key, v in value.items():
            if key not in shape["properties"]:
                raise Refused(f"{where}.{key} is not in the API")
            check(v, shape["properties"][key], f"{where}.{key}")


class Vm:
    def __init__(self, args, run_dir, events_path):
        self.args, self.run_dir = args, run_dir
        self.script = fakelib.script(run_dir)
        self.events = open(events_path, "w", encoding="utf-8")
        self.state = "Running"
        self.devices = {}
        self.next_slot = 6
        self.memory = int(args["--memory"]["size"]) if "--memory" in args else 0
        self.plugged = 0
        self.cpus = int(args["--cpus"]["boot"]) if "--cpus" in args else 1
        for i in range(self.cpus):
            thread = threading.Thread(target=threading.Event().wait, daemon=True)
            thread.start()
            with open(f"/proc/self/task/{thread.native_id}/comm", "w", encoding="utf-8") as comm:
                comm.write(f"vcpu{i}")
        self.log = open(os.path.join(run_dir, "requests.jsonl"), "a", encoding="utf-8")

    def event(self, source, event, properties=None):
        text = json.dumps({"timestamp": {"secs": 1, "nanos": 2}, "source": source, "event": event,
                           "properties": properties}, indent=2)
        # In two pieces: a reader sees half an event now and then.
        self.events.write(text[:20])
        self.events.flush()
        time.sleep(0.002)
        self.events.write(text[20:] + "\n\n")
        self.events.flush()

    def info(self):
        config = {"payload": {"kernel": self.args.get("--kernel", "")}, "pmem": [{"file": "x", "id": "rootfs"}]}
        tree = {name: {"id": name, "resources": [], "children": [], "pci_bdf": bdf} for name, bdf in self.devices.items()}
        tree["_fs0"] = {"id": "_fs0", "resources": [], "children": [], "pci_bdf": "0000:00:05.0"}
        return {"config": config, "state": self.state, "memory_actual_size": self.memory + self.plugged,
                "device_tree": tree}

    def add(self, body):
        name = body["id"]
        if name in self.devices:
            raise Refused(f"device {name} already in use")
        bdf = f"0000:00:{self.next_slot:02x}.0"
        self.next_slot += 1
        self.devices[name] = bdf
        self.event("virtio-device", "activated", {"id": name})
        return 200, {"id": name, "bdf": bdf}

    def remove(self, body):
        if body["id"] not in self.devices:
            return 404, ["Error from API", "The device could not be removed", f"Unknown device id {body['id']}"]
        bdf = self.devices.pop(body["id"])
        if not self.script.get("quiet_removal"):
            threading.Timer(0.05, self.event, ("vm", "device-removed", {"id": body["id"], "bdf": bdf})).start()
        return 204, None

    def resize(self, body):
        if "desired_vcpus" in body:
            self.cpus = body["desired_vcpus"]
        if "desired_ram" in body:
            threading.Timer(0.05, lambda: setattr(self, "plugged", body["desired_ram"] - self.memory)).start()
        return 204, None

    def pause(self, wanted, to):
        if self.state != wanted:
            return 500, ["Error from API", "The VM state is wrong", f"Invalid transition from {self.state} to {to}"]
        self.state = to
        return 204, None

    def snapshot(self, body):
        path = body["destination_url"].removeprefix("file://")
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
            json.dump({"vsock": {"cid": 3, "socket": "/old/task.vsock"}, "console": {"mode": "File", "file": "/old"},
                       "fs": [{"tag": "kuasar", "socket": "/old"}]}, f)
        for name in ("state.json", "memory-ranges"):
            with open(os.path.join(path, name), "w", encoding="utf-8"):
                pass
        return 204, None

    def handle(self, endpoint, body):
        if endpoint == "vmm.ping":
            return 200, {"build_version": "v53.0", "version": "53.0.0", "pid": os.getpid(), "features": ["kvm"]}
        if endpoint == "vm.info":
            return 200, self.info()
        if endpoint.startswith("vm.add-"):
            return self.add(body)
        simple = {
            "vm.remove-device": lambda: self.remove(body),
            "vm.resize": lambda: self.resize(body),
            "vm.pause": lambda: self.pause("Running", "Paused"),
            "vm.resume": lambda: self.pause("Paused", "Running"),
            "vm.snapshot": lambda: self.snapshot(body),
        }
        if endpoint not in simple:
            raise Refused(f"the fake does not play {endpoint}")
        return simple[endpoint]()


def read_request(conn):
    data = b""
    while b"\r\n\r\n" not in data:
        part = conn.recv(65536)
        if not part:
            return None
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    length = 0
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if key.lower() == "content-length":
            length = int(value)
        if key.lower() == "expect":
            raise Refused("Expect: is not for this server")
    while len(rest) < length:
        rest += conn.recv(65536)
    return method, target, rest[:length]


def answer(vm, method, target, text):
    endpoint = target.removeprefix("/api/v1/")
    entry = API["paths"].get(endpoint)
    if not target.startswith("/api/v1/") or not entry:
        return endpoint, 404, ["Not Found"]
    if method != entry["method"]:
        return endpoint, 400, [f"{endpoint} is {entry['method']}, not {method}"]
    body = None
    try:
        if "body" in entry:
            body = json.loads(text)
            check(body, entry["body"], endpoint)
        elif text:
            raise Refused(f"{endpoint} takes no body")
        vm.log.write(json.dumps([endpoint, body]) + "\n")
        vm.log.flush()
        if endpoint in vm.script.get("hang", []):
            time.sleep(600)
        if endpoint in vm.script.get("replies", {}):
            return endpoint, *vm.script["replies"][endpoint]
        return endpoint, *vm.handle(endpoint, body)
    except (Refused, json.JSONDecodeError) as e:
        return endpoint, 400, ["Error from API", str(e)]


def serve(vm, conn):
    try:
        while True:
            request = read_request(conn)
            if not request:
                return
            endpoint, status, body = answer(vm, *request)
            text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
            conn.sendall(f"HTTP/1.1 {status} X\r\nServer: Cloud Hypervisor API\r\nContent-Length: {len(text)}\r\n"
                         f"Content-Type: application/json\r\n\r\n{text}".encode())
            after = vm.script.get("exit_after")
            if after and after[0] == endpoint:
                sys.stderr.write(after[2] + "\n")
                sys.stderr.flush()
                os._exit(after[1])
    except OSError:
        pass
    finally:
        conn.close()


def main():
    if sys.argv[1:] == ["--version"]:
        print("cloud-hypervisor v53.0 (a fake)")
        return
    args = parse_args(sys.argv[1:])
    events_path = args["--event-monitor"]["path"]
    run_dir = os.path.dirname(events_path)
    with open(os.path.join(run_dir, "argv.json"), "w", encoding="utf-8") as f:
        json.dump(sys.argv[1:], f)
    vm = Vm(args, run_dir, events_path)
    fakelib.maybe_die(vm.script)
    listener = socket.socket(fileno=int(args["--api-socket"]["fd"]))
    if "--restore" in args:
        source = args["--restore"]["source_url"].removeprefix("file://")
        with open(os.path.join(source, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        for name in ("state.json", "memory-ranges"):
            os.stat(os.path.join(source, name))
        fs, vsock, vm.state = config["fs"][0]["socket"], config["vsock"]["socket"], "Paused"
        if "net_fds" in args["--restore"]:
            os.fstat(int(args["--restore"]["net_fds"].strip("[]").removeprefix("net0@[")))
    else:
        fs, vsock = args["--fs"]["socket"], args["--vsock"]["socket"]
        for key in ("--kernel",):
            os.stat(args[key])
        os.stat(args["--pmem"]["file"])
        if "--net" in args:
            os.fstat(int(args["--net"]["fd"]))
    backend = socket.socket(socket.AF_UNIX)
    backend.connect(fs)
    vm.event("vm", "restored" if "--restore" in args else "booted")
    fakelib.serve_vsock(vsock, vm.script)
    for event in vm.script.get("events", []):
        vm.event(*event)
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(vm, conn), daemon=True).start()


main()
