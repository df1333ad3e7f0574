#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for virtiofsd (`--shared-dir=D --fd=N …`) and for vhost-device-vsock (`--guest-cid=3 --socket=S --uds-path=U`).

Each takes one connection and exits when it ends; as virtiofsd with `fs_exit: [code, "words"]` in the shared directory's
fake.json it dies at once. The vsock one serves hybrid vsock as fakelib does, scripted from the run directory.
"""
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import fakelib  # noqa: E402


def hold(listener):
    conn, _ = listener.accept()
    while conn.recv(4096):
        pass


def main():
    if sys.argv[1:] == ["--help"]:
        print("--shared-dir --fd --socket-path")
        return
    args = dict(a.removeprefix("--").partition("=")[::2] for a in sys.argv[1:])
    if "shared-dir" in args:
        s = fakelib.script(args["shared-dir"])
        if "fs_exit" in s:
            sys.stderr.write(s["fs_exit"][1] + "\n")
            sys.exit(s["fs_exit"][0])
        hold(socket.socket(fileno=int(args["fd"])))
        return
    fakelib.serve_vsock(args["uds-path"], fakelib.script(os.path.dirname(args["uds-path"])))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(args["socket"])
    listener.listen(1)
    hold(listener)


main()
