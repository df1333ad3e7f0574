# SPDX-License-Identifier: Apache-2.0
"""How the processes of a pod are confined, as /proc shows it, in the words of the table in vmm/README.md."""

import os
import pathlib
import re

from harness import ROOT

# In the order of their numbers (linux/capability.h); later ones are no server's.
CAPABILITIES = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP""".split()
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
HOST_PATHS = ("proc", "boot", "srv", "dev/tty", "etc/passwd", "etc/shadow")
INIT = "init of each of these"


def status_field(out, field):
    return re.search(rf"^{field}:\s*(\S+)", out, re.M).group(1)


def capabilities(status, field):
    value = int(status_field(status, field), 16)
    return {CAPABILITIES[i] if i < len(CAPABILITIES) else str(i) for i in range(64) if value >> i & 1}


def table():
    """The rows of the README: process -> its other columns, capabilities as a set of words."""
    text = (ROOT / "vmm" / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("| process | uid |")[1].splitlines()[2:]
            if line.startswith("|")]
    return {row[0]: [set(cell.split(", ")) if i == 2 else cell for i, cell in enumerate(row[1:])] for row in rows}


def is_kernel_thread(pid):
    """KVM puts a worker of the kernel into the cgroup of each VM."""
    return bool(int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[6]) & 0x00200000)  # PF_KTHREAD


def processes(server, pod):
    """[(name in the table, pid)] of the pod's cgroup."""
    found, programs = [], {}
    for pid, (command, cgroup) in server.process_texts().items():
        if pod.sandbox in cgroup and not is_kernel_thread(pid):
            programs[pid] = "init" if command.startswith("crivisor-spawn: init") else os.path.basename(command.split(" ")[0])
    for pid, program in programs.items():
        parent = int(status_field(pathlib.Path(f"/proc/{pid}/status").read_text(), "PPid"))
        if program == "init":
            name = INIT
        elif program == "virtiofsd" and programs.get(parent) == "virtiofsd":
            name = "virtiofsd, serving"
        else:
            name = "qemu" if program.startswith("qemu-system") else program
        found.append((name, pid))
    return found


def seccomp_words(pid):
    modes = [status_field((task / "status").read_text(), "Seccomp") == "2" for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    without = len(modes) - sum(modes)
    return "yes" if without == 0 else "no" if without == len(modes) else "all threads but one" if without == 1 else "some threads"


def root_words(server, pid):
    root = pathlib.Path(f"/proc/{pid}/root")
    seen = [path for path in HOST_PATHS if os.path.lexists(root / path)]
    if not os.path.lexists(f"{root}{server.run_dir}"):
        return "the share" if not seen else f"unknown: {seen}"
    pods = list(pathlib.Path(f"{root}{server.run_dir}/pods").iterdir())
    inside = sorted(path.name for path in pods[0].iterdir()) if len(pods) == 1 else pods
    return "own" if not seen and inside == ["vm"] else f"unknown: {seen} {inside}"


def row(server, pid):
    """The process's columns."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    ids = {word for field in ("Uid", "Gid") for word in re.search(rf"^{field}:\s*(.*)", status, re.M).group(1).split()}
    uid = ids.pop() if len(ids) == 1 else f"several: {ids}"
    first, last = (int(word) for word in server.uid_range().split("-"))
    if uid.isdigit() and first <= int(uid) <= last:
        groups = re.search(r"^Groups:[ \t]*(.*)$", status, re.M).group(1).split()
        uid = "own" if not groups else f"own, with groups {groups}"
    has = capabilities(status, "CapPrm")
    for field in ("CapInh", "CapAmb"):
        has |= capabilities(status, field)
    bound = capabilities(status, "CapBnd")
    own = [kind for kind in NAMESPACES if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/{server.process.pid}/ns/{kind}")]
    return [uid, "yes" if status_field(status, "NoNewPrivs") == "1" else "no", {word.lower() for word in has} or {"none"},
            ", ".join(sorted(word.lower() for word in bound)) or "none", seccomp_words(pid), ", ".join(own), root_words(server, pid)]


def assert_confined(case, server, pods, vmm):
    """Each process of these pods is as the table says, which has a row for each; no two pods share a user."""
    wanted, users = table(), []
    for pod in pods:
        found = processes(server, pod)
        names = {name for name, _ in found}
        case.assertLessEqual({vmm, INIT, "virtiofsd", "virtiofsd, serving"}, names)
        for name, pid in found:
            case.assertIn(name, wanted, found)
            case.assertEqual([name, *row(server, pid)], [name, *wanted[name]])
        users.append({status_field(pathlib.Path(f"/proc/{pid}/status").read_text(), "Uid")
                      for name, pid in found if name in (vmm, INIT, "vhost-device-vsock")})
    case.assertEqual([len(each) for each in users], [1] * len(pods), users)
    case.assertEqual(len(set.union(*users)), len(pods), users)


def assert_limits(case, pid):
    """Bounds of what a user that runs one VM needs (proc(5), limits)."""
    text = pathlib.Path(f"/proc/{pid}/limits").read_text()
    for name, most in (("core file size", "0"), ("processes", "4096"), ("pending signals", "4096"), ("msgqueue size", "0")):
        case.assertRegex(text, rf"Max {name}\s+{most}\s+{most}\s", name)
