# SPDX-License-Identifier: Apache-2.0
"""What the fake VMMs and helpers share: fds by number, a script beside them, a hybrid vsock server.

A fake is scripted by `fake.json` in the VM's run directory:
  exit: [code, "words"]       die at once with these words on stderr
  vsock_refuse: N             hang up the first N connections to port 1024
  vsock_answer: "text"        answer CONNECT with this instead of OK
  vsock_forward: "path"       what is connected to is a UNIX socket of the test, instead of an echo
and more that each fake explains itself.
"""
import json
import os
import socket
import sys
import threading


def script(run_dir):
    try:
        with open(os.path.join(run_dir, "fake.json"), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


def maybe_die(s):
    if "exit" in s:
        sys.stderr.write(s["exit"][1] + "\n")
        sys.stderr.flush()
        os._exit(s["exit"][0])


def _read_line(conn):
    line = b""
    while not line.endswith(b"\n") and len(line) < 64:
        c = conn.recv(1)
        if not c:
            return b""
        line += c
    return line


def _serve_vsock(listener, s):
    left = s.get("vsock_refuse", 0)
    while True:
        conn, _ = listener.accept()
        line = _read_line(conn)
        if not line.startswith(b"CONNECT ") or left > 0:
            left -= 1
            conn.close()
            continue
        if "vsock_forward" in s:
            conn.sendall(b"OK 1073741824\n")
            _forward(conn, s["vsock_forward"])
            continue
        conn.sendall(s.get("vsock_answer", "OK 1073741824\n").encode() + b"first bytes of the stream")
        threading.Thread(target=_echo, args=(conn,), daemon=True).start()


def _pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _forward(conn, path):
    there = socket.socket(socket.AF_UNIX)
    there.connect(path)
    threading.Thread(target=_pump, args=(conn, there), daemon=True).start()
    threading.Thread(target=_pump, args=(there, conn), daemon=True).start()


def _echo(conn):
    while True:
        data = conn.recv(4096)
        if not data:
            conn.close()
            return
        conn.sendall(data)


def serve_vsock(path, s):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    threading.Thread(target=_serve_vsock, args=(listener, s), daemon=True).start()


def options(text):
    """`a=b,c=d` as a dict; commas inside [] do not count."""
    out, depth, word = {}, 0, ""
    for c in text + ",":
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            key, eq, value = word.partition("=")
            if key in out:
                sys.exit(f"option {key} is given twice in {text}")
            out[key] = value if eq else None
            word = ""
        else:
            word += c
    return out
